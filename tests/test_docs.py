"""The docs are true: links, paths, commands, params and figures of every page exist, and every page can be reached.

Pages are README, CONTRIBUTING, CHANGELOG and docs/. A fenced `sh` block in which a program runs that no test knows
needs a comment directly above it: `<!-- needs a key -->` or `<!-- needs a card -->`.
"""

from __future__ import annotations

import ast
import functools
import itertools
import json
import logging
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests import test_impact
from tests.conftest import ROOT, load_yaml, pipeline

PAGES = sorted([*ROOT.glob("docs/*.md"), *(ROOT / f"{name}.md" for name in ("README", "CONTRIBUTING", "CHANGELOG"))])
PIPELINE = pipeline()
PARAMS = load_yaml(ROOT / "params.yaml")
MARKS = ("<!-- needs a key -->", "<!-- needs a card -->")
# Programs of a block that change nothing of the project beyond what the line itself says.
HARMLESS = ("cp", "export", "git", ".")
WIDTH = 160  # characters of a line outside tables and code
README_LINES = 130
SUFFIXES = (".md", ".py", ".yaml", ".json", ".jsonl", ".tsv", ".toml", ".txt", ".html", ".sqlite", ".lock", ".jinja")
# Files that a person or a run makes and git does not hold; commands name theirs in a docstring.
MADE = (".env", ".work/", "data/human/")


@dataclass(frozen=True)
class Line:
    """One line of a page. `fence` is the language of the code block around it, None outside of one."""

    page: Path
    number: int
    text: str
    fence: str | None = None
    mark: str = ""  # the line directly above the block

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.number}: {self.text}"


@functools.lru_cache
def lines(page: Path) -> list[Line]:
    """The lines of a page without the fences themselves."""
    found: list[Line] = []
    fence, mark, last = None, "", ""
    for number, text in enumerate(page.read_text("utf-8").splitlines(), 1):
        if text.startswith("```"):
            fence, mark = (text[3:].strip(), last) if fence is None else (None, "")
        else:
            found.append(Line(page, number, text, fence, mark))
        last = text
    assert fence is None, f"{page}: a code block is not closed"
    return found


def prose(page: Path) -> list[Line]:
    return [line for line in lines(page) if line.fence is None]


def blocks(language: str) -> list[Line]:
    return [line for page in PAGES for line in lines(page) if line.fence == language]


def spans() -> list[tuple[Line, str]]:
    """The texts in backticks, each with its line."""
    return [(line, text) for page in PAGES for line in prose(page) for text in re.findall(r"`([^`]+)`", line.text)]


def anchors(page: Path) -> set[str]:
    """The anchors of the headings of a page, as GitHub forms them."""
    headings = [line.text.lstrip("#").strip().lower() for line in prose(page) if re.match(r"#+ ", line.text)]
    return {re.sub(r"[^\w\- ]", "", heading).replace(" ", "-") for heading in headings}


def links(page: Path) -> list[tuple[Line, str]]:
    """The relative links of a page, each with its line."""
    found = [(line, target) for line in prose(page) for target in re.findall(r"\]\(([^)\s]+)\)", line.text)]
    return [(line, target) for line, target in found if not target.startswith(("https://", "http://"))]


def destination(page: Path, target: str) -> Path:
    path = target.partition("#")[0]
    return (page.parent / path).resolve() if path else page


def test_links_and_anchors_resolve() -> None:
    checked, broken = 0, []
    for page in PAGES:
        for line, target in links(page):
            checked += 1
            file, anchor = destination(page, target), target.partition("#")[2]
            if not file.exists() or (anchor and anchor not in anchors(file)):
                broken.append(f"{line}: {target}")
    assert checked >= 20
    assert broken == []


def test_every_page_is_reached_from_the_readme() -> None:
    reached, waiting = set(), [ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        if page.suffix == ".md" and page not in reached:
            reached.add(page)
            waiting += [destination(page, target) for _, target in links(page)]
    assert len(PAGES) >= 12
    assert [page.name for page in PAGES if page not in reached] == []


def test_lines_and_readme_are_short() -> None:
    texts = [line for page in PAGES for line in prose(page) if not line.text.startswith("|")]
    assert len(texts) >= 300
    assert [str(line)[:100] for line in texts if len(line.text) > WIDTH] == []
    assert len((ROOT / "README.md").read_text("utf-8").splitlines()) <= README_LINES


def test_backticks_are_closed_on_their_line() -> None:
    """A span that goes on in the next line is read by no test of this file."""
    texts = [line for page in PAGES for line in prose(page)]
    assert len(texts) >= 400
    assert [str(line) for line in texts if line.text.count("`") % 2] == []


@functools.lru_cache
def known_paths() -> list[str]:
    """What dvc.yaml reads and writes, and the files that commands name in the reads and writes of their docstrings."""
    paths = {path for stage in PIPELINE.values() for path in (*stage.deps, *stage.writes)}
    for script in sorted((ROOT / "commands").glob("*.py")):
        doc = ast.get_docstring(ast.parse(script.read_text("utf-8"))) or ""
        paths |= set(re.findall(r"[\w.]+/[\w./<>]+", doc))
    folders = {str(parent) for path in paths for parent in Path(path).parents} - {"."}
    return sorted({path.rstrip("./") for path in paths} | folders)


def as_regex(path: str) -> str:
    """A path with placeholders `<recipe>` and wildcards as a regular expression."""
    return re.sub(r"<[^>]*>|\\\*", "[^/]+", re.escape(path.rstrip("/")).replace(r"\<", "<").replace(r"\>", ">"))


def looks_like_a_path(text: str) -> bool:
    top = {path.name for path in ROOT.iterdir()} | {".work", ".env"}
    if re.search(r"[\s(){}=$:]", text) or text.startswith("-"):
        return False
    first = text.split("/")[0]
    return ("/" in text and first in top) or ("/" not in text and text.endswith(SUFFIXES) and text != "__init__.py")


def exists(path: str) -> bool:
    """Whether a path is a file or folder of the checkout, an output, or a placeholder that fits one of them."""
    glob = re.sub(r"<[^>]*>", "*", path.rstrip("/"))
    if any(ROOT.glob(glob)):
        return True
    pattern = as_regex(path)
    if any(re.fullmatch(pattern, known) for known in known_paths()):
        return True
    return path.startswith(MADE)


def test_paths_in_backticks_exist() -> None:
    paths = [(line, text) for line, text in spans() if looks_like_a_path(text)]
    assert len(paths) >= 150
    assert [f"{line}: {path}" for line, path in paths if not exists(path)] == []


def test_a_path_that_is_not_there_is_found() -> None:
    wrong = ("anneal/no_such.py", "docs/none.md", "data/none.jsonl", "prompts/<recipe>/none", "models/none/*")
    for path in wrong:
        assert looks_like_a_path(path)
        assert not exists(path)


def has_key(path: str, values: Any = PARAMS) -> bool:
    """Whether params.yaml holds a key, also one below a mapping that names rewards or presets."""
    for key in path.split("."):
        if not isinstance(values, dict) or key not in values:
            return False
        values = values[key]
    return True


def test_params_in_backticks_exist() -> None:
    """`train.lr`, also with a value behind it: `train.quantize: nf4`."""
    checked, absent = 0, []
    for line, text in spans():
        match = re.fullmatch(r"(\w+(?:\.\w+)+)(?::.*)?", text)
        # `reports` and `rules` are no stages; a file such as `train.json` has a suffix.
        if match and match[1].split(".")[0] in PARAMS and not match[1].endswith(SUFFIXES):
            checked += 1
            # Word lists of the rules folder may be named as params, which is how the stages see them.
            if not has_key(match[1]) and not match[1].startswith("rules."):
                absent.append(f"{line}: {match[1]}")
    assert checked >= 30
    assert absent == []


def commands(text: str) -> list[list[str]]:
    """The commands of a shell line as words, without comments and variables set before them."""
    found: list[list[str]] = [[]]
    for word in shlex.split(text, comments=True):
        if word == "&&":
            found.append([])
        elif found[-1] or not re.fullmatch(r"[A-Z_]+=.*", word):
            found[-1].append(word)
    return [words for words in found if words]


@functools.lru_cache
def makefile() -> tuple[frozenset[str], frozenset[str]]:
    """The targets and the variables of the Makefile."""
    text = (ROOT / "Makefile").read_text("utf-8")
    targets = frozenset(re.findall(r"^([a-z-]+):", text, re.M))
    return targets, frozenset(re.findall(r"\$\$?[({]?([A-Z_]+)\b", text))


def make_error(words: list[str]) -> str:
    targets, variables = makefile()
    for word in words:
        name, is_variable, _ = word.partition("=")
        if is_variable and name not in variables:
            return f"the Makefile reads no {name}"
        if not is_variable and name not in targets:
            return f"no target {name}"
    return "" if words else "no target"


@functools.lru_cache
def dvc_parser() -> Any:
    from dvc.cli.parser import get_main_parser

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["dvc"])  # it reads the flags of this process while it is built
        return get_main_parser()


def dvc_error(words: list[str]) -> str:
    """Checked by DVC's own parser; stages and the keys of -S are those of the project."""
    from dvc.cli import DvcParserError

    # DVC logs a refused command line, and its handler may hold the captured stderr of an earlier test, now closed.
    logging.disable(logging.CRITICAL)
    try:
        arguments = dvc_parser().parse_args(words)
    except (DvcParserError, SystemExit):
        return "DVC refuses this command line"
    finally:
        logging.disable(logging.NOTSET)
    keys = [setting.partition("=")[0] for setting in getattr(arguments, "set_param", None) or []]
    absent = [f"params.yaml has no {key}" for key in keys if not has_key(key)]
    if arguments.cmd in ("repro", "status", "commit"):
        stages = {*PIPELINE, *(name.split("@")[0] for name in PIPELINE)}
        targets = [target for target in arguments.targets or [] if not target.startswith("<")]
        absent += [f"dvc.yaml has no stage {target}" for target in targets if target not in stages]
    return "; ".join(absent)


def python_error(words: list[str]) -> str:
    if len(words) < 2 or words[0] != "-m":
        return "expected python -m <module>"
    # A placeholder stands for a module of its folder.
    pattern = re.sub(r"<[^>]*>", "*", words[1]).replace(".", "/") + ".py"
    return "" if any(ROOT.glob(pattern)) else f"no module {words[1]}"


CHECKERS = {"make": make_error, "dvc": dvc_error, "python": python_error}


def error(words: list[str]) -> str:
    """Why a command cannot run; empty where it can. KeyError for a program that nothing here knows."""
    return CHECKERS[words[0]](words[1:])


def test_commands_in_blocks_are_checked() -> None:
    checked, wrong = 0, []
    for line in blocks("sh"):
        for words in commands(line.text):
            if words[0] in CHECKERS:
                checked += 1
                wrong += [f"{line}: {reason}"] if (reason := error(words)) else []
            elif words[0] not in HARMLESS and line.mark not in MARKS:
                wrong.append(f"{line}: {words[0]} is checked by nothing; mark the block, see {__name__}")
    assert checked >= 10
    assert wrong == []


def test_blocks_name_a_language_that_is_checked() -> None:
    languages = [line.fence for page in PAGES for line in lines(page) if line.fence is not None]
    assert len(languages) >= 60
    assert set(languages) == {"sh", "mermaid"}


def quoted_commands() -> list[tuple[Line, list[str]]]:
    """The commands in backticks."""
    found = []
    for line, text in spans():
        if re.match(r"(?:[A-Z_]+=\S* )*(?:make|dvc|python) \S", text):
            found += [(line, words) for words in commands(text)]
    return found


def test_commands_in_backticks_are_checked() -> None:
    found = quoted_commands()
    assert len(found) >= 30
    assert [f"{line}: {reason}" for line, words in found if (reason := error(words))] == []


@pytest.mark.parametrize(
    "command",
    [
        "make none",
        "make repro NONE=1",
        "dvc none",
        "dvc repro --none",
        "dvc repro none",
        "dvc exp run -S train.none=1",
        "python -m commands.none",
        "python none.py",
    ],
)
def test_a_command_that_cannot_run_is_found(command: str) -> None:
    assert error(shlex.split(command)) != ""


def test_modules_that_the_docs_run_answer_help() -> None:
    words = [words for line in blocks("sh") for words in commands(line.text)] + [
        words for _, words in quoted_commands()
    ]
    modules = sorted({w[2] for w in words if w[:2] == ["python", "-m"] and "<" not in w[2]})
    assert len(modules) >= 2
    for module in modules:
        done = subprocess.run([sys.executable, "-m", module, "--help"], cwd=ROOT, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, ""), module
        assert done.stdout, module


def test_variables_of_the_environment_are_read_somewhere() -> None:
    """Every ANNEAL_ variable of the code is in the docs, and the docs name no other."""
    code = "\n".join(
        path.read_text("utf-8") for top in ("anneal", "stages", "commands") for path in (ROOT / top).rglob("*.py")
    )
    pages = "\n".join(page.read_text("utf-8") for page in PAGES)
    found = set(re.findall(r"ANNEAL_[A-Z_]+", code))
    assert len(found) >= 4
    assert set(re.findall(r"ANNEAL_[A-Z_]+", pages)) == found
    ends = set(re.findall(r"\{name\}(_[A-Z_]+)\"", (ROOT / "anneal/llm/endpoint.py").read_text("utf-8")))
    assert len(ends) >= 7
    assert [end for end in sorted(ends) if f"`{end}`" not in pages] == []


def share(value: float, low: float, high: float) -> str:
    return f"{value:.1%} [{100 * low:.1f}, {100 * high:.1f}]"


def test_the_readme_shows_the_metrics_in_git() -> None:
    overall = json.loads((ROOT / "reports/metrics/compare.json").read_text("utf-8"))["overall"]
    text = (ROOT / "README.md").read_text("utf-8").splitlines()
    for name in ("golden", "tuned", "base"):
        system, ends = overall[name], overall[name]["intervals"]
        score = f"{system['score']:.2f} [{', '.join(f'{end:.2f}' for end in ends['score'])}]"
        shares = [share(system[key], *ends[key]) for key in ("strict", "all_facts")]
        row = " | ".join(["", name, str(system["n"]), score, *shares, ""]).strip()
        assert row in text, f"README.md lacks {row}"


def edges(page: Path) -> list[tuple[str, str]]:
    """The arrows of the picture of a page, by the names of stages; a node may have a label, `rt[rollout@tuned]`."""
    found, names = [], dict[str, str]()
    text = [line.text.strip() for line in lines(page) if line.fence == "mermaid" and "--" in line.text]
    for line in text:
        nodes = [node.strip() for node in re.split(r"--(?: [^>]*? --)?>", line)]
        for node in nodes:
            if match := re.fullmatch(r"(\w+)\[(.+)\]", node):
                names[match[1]] = match[2] if "@" in match[2] else match[1]
        ids = [re.sub(r"\[.*", "", node) for node in nodes]
        found += itertools.pairwise(ids)
    return [(names.get(a, a), names.get(b, b)) for a, b in found]


def items(name: str) -> list[str]:
    """The stages of a name: of `judge` all that are `judge@...`."""
    return [stage for stage in PIPELINE if name in (stage, stage.split("@")[0])]


@pytest.mark.parametrize("name", ["README.md", "docs/pipeline.md"])
def test_a_picture_shows_the_map(name: str) -> None:
    """Every arrow is a file that one stage writes and the next reads, and every stage is there."""
    arrows = [(a, b) for a, b in edges(ROOT / name) if a != "items"]
    assert len(arrows) >= 20
    reads = {
        (a, b)
        for a, b in arrows
        if any(set(PIPELINE[x].writes) & set(PIPELINE[y].deps) for x in items(a) for y in items(b))
    }
    assert [arrow for arrow in arrows if arrow not in reads] == []
    shown = {stage for arrow in arrows for node in arrow for stage in items(node)}
    assert shown == set(PIPELINE)


FOLLOWS = " and all that follows"


def test_what_reruns_is_what_the_map_says() -> None:
    """Each row of the table of docs/pipeline.md beside the row of tests/test_impact.py."""
    text = (ROOT / "docs/pipeline.md").read_text("utf-8").partition("\n## What reruns when\n")[2]
    rows = re.findall(r"^\| `([^`]+)` \| (.+) \|$", text, re.M)
    assert len(rows) >= 20
    for edited, cell in rows:
        named = {stage for name in re.findall(r"`([^`]+)`", cell) for stage in items(name)}
        expected = test_impact.row(edited.replace("<recipe>", "$"))
        assert (test_impact.follow(named) if cell.endswith(FOLLOWS) else named) == expected, edited

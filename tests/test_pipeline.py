"""The picture cannot rot: dvc.yaml, the code, the params, the recipes and the docs say the same thing."""

from __future__ import annotations

import ast
import functools
import importlib
import inspect
import io
import itertools
import os
import re
import resource
import subprocess
import sys
import tokenize
import typing
from pathlib import Path
from typing import Any

import pytest

from anneal import fingerprint
from anneal import params as params_module
from commands import deps, recipe
from tests.conftest import RECIPES, ROOT, Stage, load_yaml, modules, pipeline, recipe_text, recipe_values

PIPELINE = pipeline()
SCRIPTS = sorted({stage.script for stage in PIPELINE.values()})
STAGE_FILES, COMMANDS = modules("stages"), modules("commands")
PACKAGES = sorted(str(path.parent.relative_to(ROOT)) for path in (ROOT / "anneal").rglob("__init__.py"))
LIB_FILES = sorted(path for package in PACKAGES for path in modules(package))
CODE = [*STAGE_FILES, *COMMANDS, *LIB_FILES]
# Those that come with the project; whoever keeps a recipe of their own need not write it into the README.
SHIPPED = [path for path in RECIPES if (ROOT / "models/shipped" / path.stem).is_dir()]
DEFAULT = ROOT / f"recipes/{recipe.DEFAULT}.yaml"
# The complete params files: the active one, and each recipe as `make recipe` composes it.
PARAM_FILES = ["params.yaml", *(path.name for path in RECIPES)]
HEAVY = {"torch", "transformers", "peft", "trl", "sklearn", "openai", "datasets", "pandas", "scipy", "sacrebleu"}
HEAVY |= {"accelerate", "bitsandbytes", "choix", "dvc", "krippendorff"}
# General handling of Chinese text, and of what a model says when it refuses in Chinese.
CHINESE_ALLOWED = {"anneal/similarity.py", "anneal/llm/response.py"}


@functools.lru_cache
def tree(path: str) -> ast.Module:
    return ast.parse((ROOT / path).read_text("utf-8"), path)


def imports(path: str) -> set[str]:
    """The files of the project that a file imports, also inside functions."""
    return {str(file.relative_to(ROOT)) for file in fingerprint.imports(ROOT / path)}


def closure(path: str) -> set[str]:
    return {str(file.relative_to(ROOT)) for file in fingerprint.code(ROOT / path)}


def load_main(script: str) -> typing.Callable[..., None]:
    module = importlib.import_module(script.removesuffix(".py").replace("/", "."))
    main: typing.Callable[..., None] = module.main
    return main


def of(script: str) -> list[Stage]:
    return [stage for stage in PIPELINE.values() if stage.script == script]


def test_every_stage_of_the_map_exists_and_every_script_is_on_it() -> None:
    assert len(SCRIPTS) >= 20
    assert SCRIPTS == STAGE_FILES


@pytest.mark.parametrize("script", SCRIPTS)
def test_code_deps_are_the_import_closure(script: str) -> None:
    for stage in of(script):
        assert stage.code == closure(script), f"{stage.name}: `make deps` writes them"


def test_code_deps_are_as_make_deps_writes_them() -> None:
    text = (ROOT / "dvc.yaml").read_text("utf-8")
    assert text.count(deps.MARK) == len(SCRIPTS)
    assert deps.with_code_deps(text) == text, "run `make deps`"
    for stage in PIPELINE.values():
        assert stage.listed[0] == stage.script, stage.name
        assert list(stage.deps[-len(stage.listed) :]) == stage.listed, stage.name
        assert list(stage.params) == sorted(stage.params), stage.name


def test_a_change_of_a_page_or_a_command_reruns_no_stage() -> None:
    """What DVC runs never reads the code of the report, of people's votes, of history or of a command."""
    outside = ("anneal/report/", "anneal/human/", "anneal/history/", "commands/", "anneal/html.py")
    checked = 0
    for script in SCRIPTS:
        for path in closure(script):
            checked += 1
            assert not path.startswith(outside), f"{script} reaches {path}"
    assert checked > 200


@pytest.mark.parametrize("script", SCRIPTS)
def test_declared_params_are_the_signature(script: str) -> None:
    main = load_main(script)
    hints = typing.get_type_hints(main)
    words, keys = [], set()
    for name, parameter in inspect.signature(main).parameters.items():
        assert parameter.default is inspect.Parameter.empty, f"{name}: values live in files"
        if parameter.kind is inspect.Parameter.POSITIONAL_ONLY:
            words.append(typing.get_args(hints[name]))
        else:
            keys.add(name)
    stages = of(script)
    for stage in stages:
        assert set(stage.params) == keys, stage.name
    wanted = set(itertools.product(*words))
    assert {stage.words for stage in stages} == wanted


def _named(section: str) -> list[list[re.Pattern[str]]]:
    """The paths that a docstring or a table names, each with its parent folders: `data/{train,test}.jsonl`,
    `data/answers/<system>.jsonl` and `prompts/<recipe>/format/user.md` are understood."""
    found = []
    for token in re.findall(r"(?:\{[^}]*\}|[^\s,()`;{}])+", section):
        if "/" not in token:
            continue
        regex = re.sub(r"\\\$?\\\{(?:key|item[^}]*)\\\}|<[^>]*>", "[^/]+", re.escape(token.rstrip(".:/")))
        regex = re.sub(r"\\\{([^}]*)\\\}", lambda m: "(?:" + m[1].replace(",", "|") + ")", regex)
        parts = re.split(r"/(?![^\[]*\])", regex.replace(r"\*", "[^/]*"))
        found.append([re.compile("/".join(parts[:n])) for n in range(len(parts), 1, -1)])
    return found


def _differences(named: str, real: set[str]) -> list[str]:
    """What a text does not name, and what it names that is not there; a file inside a folder stands for the folder."""

    def hits(patterns: list[re.Pattern[str]], path: str) -> bool:
        return any(p.fullmatch(path) for p in (patterns if not Path(path).suffix else patterns[:1]))

    tokens = _named(named)
    unnamed = [path for path in sorted(real) if not any(hits(token, path) for token in tokens)]
    unreal = [token[0].pattern for token in tokens if not any(hits(token, path) for path in real)]
    return [f"not named: {path}" for path in unnamed] + [f"not in dvc.yaml: {path}" for path in unreal]


def _docstring(script: str) -> dict[str, str]:
    """The reads, writes and params parts of a stage's docstring; a part goes on over indented lines."""
    doc = ast.get_docstring(tree(script)) or ""
    parts: dict[str, str] = {}
    for match in re.finditer(r"^(reads|writes|params)\b(.*(?:\n[ \t]+.*)*)", doc, re.M):
        parts[match[1]] = match[2]
    return parts


def _keys_that_name_files() -> dict[str, str]:
    """`rules.folder` -> its path: a dep that is a value of params may be called by its key."""
    values = load_yaml(ROOT / "params.yaml")
    keys = re.findall(r'"\$\{(\w+)\.(\w+)\}"', (ROOT / "dvc.yaml").read_text("utf-8"))
    return {f"{section}.{key}": values[section][key] for section, key in keys if section != "item"}


@pytest.mark.parametrize("script", SCRIPTS)
def test_docstring_is_what_dvc_does(script: str) -> None:
    parts, stages = _docstring(script), of(script)
    for key, path in _keys_that_name_files().items():
        parts = {name: part.replace(key, path) for name, part in parts.items()}
    assert (ast.get_docstring(tree(script)) or "").startswith(f"{Path(script).stem}: ")
    assert set(parts) == {"reads", "writes", "params"}
    assert _differences(parts["reads"], set().union(*(stage.data for stage in stages))) == []
    assert _differences(parts["writes"], set().union(*(stage.writes for stage in stages))) == []
    assert set(re.findall(r"\w+", parts["params"])) == set(stages[0].params)


def test_a_function_is_short_or_says_why() -> None:
    """A module is one subject and has no limit; a function of more than 50 lines needs a reason in its docstring."""
    checked, long = 0, []
    for path in CODE:
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                checked += 1
                lines = (node.end_lineno or 0) - node.lineno + 1
                if lines > 50 and "one function because" not in (ast.get_docstring(node) or "").lower():
                    long.append(f"{path}:{node.lineno} {node.name}: {lines} lines")
    assert checked >= 1000
    assert long == []


def test_a_folder_can_be_taken_in_at_a_glance() -> None:
    sizes = {package: len(modules(package)) for package in (*PACKAGES, "stages", "commands")}
    assert len(sizes) >= 16
    assert {package: n for package, n in sizes.items() if n > 21} == {}


def test_packages_export_nothing() -> None:
    """Python runs every `__init__.py` on the way to a module: what stands there would be an undeclared code dep."""
    inits = [path for top in ("anneal", "stages", "commands") for path in (ROOT / top).rglob("__init__.py")]
    assert len(inits) >= 16
    assert [str(path.relative_to(ROOT)) for path in inits if path.read_bytes()] == []


def test_no_code_names_a_recipe_or_speaks_its_language() -> None:
    recipes = "|".join(path.stem for path in SHIPPED)
    assert recipes
    named, checked = [], 0
    for path in CODE:
        source = (ROOT / path).read_text("utf-8")
        for token in tokenize.generate_tokens(io.StringIO(source).readline):
            if token.type not in (tokenize.NAME, tokenize.STRING):
                continue
            checked += 1
            # A docstring may use the English word "author"; a name or a value may not.
            if path == "anneal/records.py" and token.string == '"author"':
                continue  # the key of whoever wrote a text
            prose = token.type == tokenize.STRING and token.string.startswith(('"""', 'r"""'))
            if not prose and re.search(rf"(?<![A-Za-z])(?:{recipes})(?![A-Za-z])", token.string):
                named.append(f"{path}:{token.start[0]}: {token.string}")
            if path not in CHINESE_ALLOWED and re.search(r"[\u3400-\u9fff]", token.string):
                named.append(f"{path}:{token.start[0]}: {token.string}")
    assert checked > 10_000
    assert not named, "\n".join(named)


# Which packages a package may import, beside the modules that lie directly under anneal/.
EDGES = {
    "llm": "",
    "stats": "",
    "dataset": "",
    "tiny": "",
    "checks": "",
    "sources": "llm",
    "decoding": "llm stats",
    "models": "dataset decoding",
    "offline": "llm sources",
    "preference": "checks stats",
    "judging": "llm offline checks stats",
    "training": "dataset models decoding preference checks stats",
    "evaluation": "checks stats preference",
    "history": "stats",
    "report": "history stats dataset",
    "human": "stats judging",
}
# The modules directly under anneal/, from the bottom up: each imports at most the ones before it.
GROUND = "errors privacy systems similarity html records files params prompts fingerprint stage".split()  # noqa: SIM905


def test_imports_only_point_down() -> None:
    assert {f"anneal/{name}" for name in EDGES} | {"anneal"} == set(PACKAGES)
    assert {Path(path).stem for path in modules("anneal")} == set(GROUND)
    graph = {path: imports(path) - {path} for path in CODE}
    checked, wrong = 0, []
    for path, targets in graph.items():
        folder = str(Path(path).parent)
        for target in sorted(targets):
            checked += 1
            package = str(Path(target).parent)
            if package in ("stages", "commands"):
                allowed = False  # nobody imports a script
            elif package == "anneal":
                place, stem = GROUND.index(Path(target).stem), Path(path).stem
                allowed = folder != "anneal" or place < GROUND.index(stem)
            elif folder in ("stages", "commands"):
                allowed = True
            elif folder == "anneal":
                allowed = False
            else:
                name = Path(folder).name
                allowed = package == folder or Path(package).name in EDGES[name].split()
            if not allowed:
                wrong.append(f"{path} imports {target}")
    assert checked > 600
    assert wrong == []


def test_no_module_is_unused_or_in_a_cycle() -> None:
    graph = {path: imports(path) - {path} for path in CODE}
    used = set().union(*graph.values())
    assert len(used) > 100
    assert sorted(set(LIB_FILES) - used) == [], "a module of the library that nobody imports"
    for path in LIB_FILES:
        assert path not in set().union(*(closure(target) for target in graph[path])), f"{path} is in an import cycle"


def test_pages_are_for_pages() -> None:
    """`html` belongs to what people look at: report, human and the commands."""
    users = [path for path in CODE if "anneal/html.py" in imports(path)]
    assert len(users) > 10
    assert [path for path in users if not path.startswith(("anneal/report/", "anneal/human/", "commands/"))] == []


def test_heavy_libraries_are_imported_where_they_are_used() -> None:
    """A wrong value must be refused in a fraction of a second, not after ten seconds of imports."""
    modules = [path.removesuffix(".py").replace("/", ".") for path in CODE]
    code = f"import importlib, sys\nfor m in {modules!r}: importlib.import_module(m)\nprint(*sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert loaded >= set(modules)
    assert loaded & HEAVY == set()


@pytest.mark.parametrize("script", [*SCRIPTS, *COMMANDS])
def test_help_is_the_docstring_and_quick(script: str, tmp_path: Path) -> None:
    module = script.removesuffix(".py").replace("/", ".")
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    # In a folder without params: help needs no checkout in order.
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", module, "--help"], cwd=tmp_path, env=env, capture_output=True, text=True
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert (done.returncode, done.stderr) == (0, "")
    assert (ast.get_docstring(tree(script)) or "?").splitlines()[0] in done.stdout
    # CPU seconds: the wall time of a busy machine says nothing about the stage.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 2


def params_text(name: str) -> str:
    return (ROOT / name).read_text("utf-8") if name == "params.yaml" else recipe_text(Path(name).stem)


def params_values(name: str) -> dict[str, Any]:
    values: dict[str, Any] = load_yaml(ROOT / name) if name == "params.yaml" else recipe_values(Path(name).stem)
    return values


@pytest.mark.parametrize("name", PARAM_FILES)
def test_every_recipe_fits_every_stage(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    values = params_values(name)
    for script in SCRIPTS:
        params_module.pick(load_main(script), values=values)
    declared = set().union(*(stage.params for stage in PIPELINE.values()))
    # `privacy` binds every stage and changes no result: params.run reads it, no stage declares it.
    assert set(values) == declared | {"privacy"}, "a section that no stage watches, or one that is missing"


@pytest.mark.parametrize("name", PARAM_FILES)
def test_every_recipe_has_its_folders(name: str) -> None:
    stages = pipeline(ROOT, params_values(name))
    made = set().union(*(stage.writes for stage in stages.values()))
    sources = set().union(*(stage.data for stage in stages.values())) - made
    assert len(sources) >= 8
    assert [source for source in sorted(sources) if not (ROOT / source).exists()] == []


def _keys(value: Any, types: set[str]) -> Any:
    """The shape of a params file: which keys, not which values; what is keyed by names of the recipe is data."""
    if not isinstance(value, dict):
        return None
    if value and set(value) <= types:
        return "by type"
    return {
        key: "by name" if key in ("presets", "tasks", "types") else _keys(inner, types) for key, inner in value.items()
    }


def test_recipes_hold_the_same_keys_in_the_same_order() -> None:
    shapes = {}
    for name in PARAM_FILES:
        values = params_values(name)
        shapes[name] = list(values), _keys(values, set(values["types"]))
    assert len(shapes) >= 2
    first, *others = shapes.values()
    assert all(other == first for other in others), shapes


@pytest.mark.parametrize("name", PARAM_FILES)
def test_recipes_are_written_as_dvc_would_write_them(name: str, tmp_path: Path) -> None:
    """`dvc exp run -S train.lr=2e-4` changes one line, because DVC's own writer has nothing else to change."""
    from dvc.utils.hydra import apply_overrides

    text, copy = params_text(name), tmp_path / "params.yaml"
    assert "${" not in text, "-S would resolve it"
    copy.write_text(text, "utf-8")
    apply_overrides(copy, [f"seed={params_values(name)['seed']}"])
    assert copy.read_text("utf-8") == text
    apply_overrides(copy, ["train.lr=0.000123"])
    lines = list(zip(text.splitlines(), copy.read_text("utf-8").splitlines(), strict=True))
    assert [new for old, new in lines if old != new] == ["  lr: 0.000123"]


def _explained(values: Any, lines: list[str], parents: str = "") -> list[str]:
    """The keys whose comment is not one line of the form: what it does; unit or choices; what more of it means."""
    wrong = []
    for key, value in values.items():
        path, number = f"{parents}{key}", values.lc.key(key)[0]
        above = [line.strip() for line in lines[max(number - 2, 0) : number]]
        one = above[-1].startswith("# ") and not above[0].startswith("#") if len(above) == 2 else False
        section = isinstance(value, dict) and path not in recipe.NAMED
        # A number says what more of it means; a choice or a name has nothing that could be more.
        parts = 1 if section else 3 if isinstance(value, int | float) and not isinstance(value, bool) else 2
        if not one or not above[-1].endswith((".", "?")) or above[-1].count(";") < parts - 1:
            wrong.append(f"{number + 1}: {path}")
        if section:
            wrong += _explained(value, lines, f"{path}.")
    return wrong


def test_every_key_is_explained_in_one_line_of_one_form() -> None:
    text = DEFAULT.read_text("utf-8")
    lines = text.splitlines()
    assert len(list(recipe._leaves(load_yaml(DEFAULT)))) > 200
    assert _explained(recipe._load(text, "default.yaml"), lines) == []
    assert [n for n, line in enumerate(lines, 1) if len(line) > 120] == []


def test_sections_stand_in_the_order_of_the_graph() -> None:
    first = ["recipe", "types", "seed", "privacy", "processes", "threads", "model", "teacher"]
    order = list(load_yaml(DEFAULT))
    assert order[: len(first)] == first
    graph = list(dict.fromkeys(stage.name.split("@")[0] for stage in PIPELINE.values()))
    own = [section for section in order if section in graph]
    assert own == [name for name in graph if name in order]
    assert len(own) >= 17


def test_a_recipe_holds_what_differs() -> None:
    """A value that is the default's is not repeated in a recipe that comes with the project."""
    default, checked = load_yaml(DEFAULT), 0
    for path in SHIPPED:
        own = load_yaml(path)
        for leaf in recipe._leaves_given(default, own):
            checked += 1
            assert recipe._value(own, leaf) != recipe._value(default, leaf), f"{path.name}: {leaf} is the default"
    assert checked > 150


def test_docs_table_is_the_map() -> None:
    rows = re.findall(r"^\| `(\w+)` \|(.*)\|(.*)\|(.*)\|$", (ROOT / "docs/pipeline.md").read_text("utf-8"), re.M)
    names = {stage.name.split("@")[0]: Path(stage.script).stem for stage in PIPELINE.values()}
    table = {name: cells for name, *cells in rows if name in names}
    assert list(table) == list(names), "one row per stage, in the order of dvc.yaml"
    raw = load_yaml(ROOT / "dvc.yaml")["stages"]
    for name, (desc, _, writes) in table.items():
        outs = set().union(*(stage.outs for stage in PIPELINE.values() if stage.name.split("@")[0] == name))
        missing = [line for line in _differences(writes, outs) if line.startswith("not named")]
        assert missing == [], name
        wanted = re.escape(raw[name].get("do", raw[name])["desc"]).replace(re.escape("${key}"), ".+")
        assert re.fullmatch(wanted, desc.strip()), name


def test_readme_names_every_recipe() -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    assert len(SHIPPED) >= 5
    assert [path.stem for path in SHIPPED if f"`{path.stem}`" not in readme] == []


def test_make_help_names_every_target() -> None:
    """Targets that are not in the list of `make help` might as well not exist."""
    makefile = (ROOT / "Makefile").read_text("utf-8")
    phony = set(" ".join(re.findall(r"^\.PHONY:(.*)$", makefile, re.M)).split())
    done = subprocess.run(["make", "-s"], cwd=ROOT, capture_output=True, text=True, check=True)
    shown = re.sub(r"\x1b\[[0-9;]*m", "", done.stdout)
    assert len(phony) >= 5
    assert [name for name in sorted(phony) if not re.search(rf"^\s*(?:make )?{name}\b", shown, re.M)] == []


def test_git_tracks_nothing_that_dvc_keeps() -> None:
    """DVC refuses to run a stage whose output git tracks: the first `dvc repro` of a clone would end there."""
    outs = sorted(set().union(*(stage.outs for stage in PIPELINE.values())))
    assert len(outs) >= 20
    tracked = subprocess.run(["git", "ls-files", "--", *outs], cwd=ROOT, capture_output=True, text=True, check=True)
    assert tracked.stdout == ""

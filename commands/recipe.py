"""recipe: composes params.yaml from recipes/default.yaml and the recipe's own values; `make recipe NAME=tang` runs it.

The default holds every key with its comment, a recipe only what differs. Mappings merge key by key; lists, values and
the mappings whose keys are names of the recipe (NAMED) replace. A recipe that holds every key stands as it is. The
text is the one that `dvc exp run -S` writes back, so that an experiment changes one line. Edits of params.yaml that
are in no commit and in no recipe are kept: the command stops and says how to save them (FORCE=1 drops them).

reads   recipes/default.yaml, recipes/NAME.yaml
writes  params.yaml
"""

from __future__ import annotations

import argparse
import difflib
import io
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from anneal import files
from anneal.errors import UserError
from anneal.params import PARAMS

RECIPES = Path("recipes")
DEFAULT = "default"
HEADER = """\
# The active recipe: recipes/default.yaml with the values of recipes/NAME.yaml; `make recipe NAME=...` composes it,
# `dvc exp run -S key=value` edits it. The line over a key: what it does; unit or choices; what more of it means.
"""
# Mappings that are data: their keys are names which the recipe gives, so a recipe's mapping replaces the default's.
NAMED = ("types", "format.tasks", "answer.presets")
# What the files of rules.folder hold (anneal.checks.facts.FILES). A complete params file may hold it as well.
MATERIAL = ("rules.banned", "rules.encouraged", "rules.exaggerated", "rules.forbid", "rules.types")
# Keys without a default: what they name is the recipe's own.
STATED = (
    "recipe",
    "types",
    "base.corpus",
    "generate.items",
    "rules.folder",
    "rules.facts.slot",
    "judge.null_text",
)


def _yaml() -> Any:
    from ruamel.yaml import YAML

    yaml = YAML()  # the round-trip loader and writer, with the settings of dvc.utils.serialize
    yaml.default_flow_style = False
    return yaml


def _load(text: str, file: str) -> Any:
    """Keys and values with their line numbers (`.lc`). Raises UserError with file and place."""
    from ruamel.yaml.error import MarkedYAMLError

    try:
        values = _yaml().load(text)
    except MarkedYAMLError as err:
        place = f"{file}:{err.problem_mark.line + 1}:{err.problem_mark.column + 1}" if err.problem_mark else file
        raise UserError(f"{place}: not YAML: {err.problem}") from None
    if not isinstance(values, dict):
        raise UserError(f"{file}: expected keys and values")
    return values


def _path(parents: str, key: str) -> str:
    return f"{parents}.{key}" if parents else key


def _merges(path: str, default: Any) -> bool:
    """Whether a recipe's mapping of this key is laid over the default's key by key."""
    return isinstance(default, dict) and path not in NAMED


def _leaves(default: Mapping[str, Any], parents: str = "") -> Iterator[str]:
    """The dotted paths of all keys that hold a value."""
    for key, value in default.items():
        path = _path(parents, key)
        if _merges(path, value):
            yield from _leaves(value, path)
        else:
            yield path


def _refuse_unknown(
    default: Mapping[str, Any], recipe: Mapping[str, Any], file: str, every: list[str], parents: str = ""
) -> None:
    for key, value in recipe.items():
        path = _path(parents, str(key))
        if path in MATERIAL:
            raise UserError(f"{file}: {path}: stands in a YAML file of rules.folder, not in a recipe")
        if key not in default:
            siblings = difflib.get_close_matches(str(key), list(default), 1)
            near = [_path(parents, sibling) for sibling in siblings] or difflib.get_close_matches(path, every, 1)
            hint = f"did you mean {near[0]}?" if near else f"recipes/{DEFAULT}.yaml holds every key"
            raise UserError(f"{file}: {path}: unknown key; {hint}")
        if _merges(path, default[key]):
            if not isinstance(value, dict):
                raise UserError(f"{file}: {path}: expected keys and values, got {value!r}")
            _refuse_unknown(default[key], value, file, every, path)


def _value(values: Any, path: str) -> Any:
    for key in path.split("."):
        values = values.get(key) if isinstance(values, dict) else None
    return values


def _plain(value: Any) -> Any:
    """Without the comments that the loader ties to it: to a list, those of the next key."""
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, list) else value


def _comments(values: Any, key: str, lines: list[str]) -> list[str]:
    """The comment lines directly over a key; a blank line parts them from what stands before."""
    last: int = values.lc.key(key)[0]
    first = last
    while first and lines[first - 1].lstrip().startswith("#"):
        first -= 1
    return [line.strip() for line in lines[first:last]]


def _ends_in_list(value: Any) -> bool:
    if isinstance(value, dict) and value:
        return _ends_in_list(list(value.values())[-1])
    return isinstance(value, list) and bool(value)


def _entries(default: Any, recipe: Any, texts: list[list[str]], parents: str = "") -> tuple[list[str], bool]:
    """The lines of a section, and whether they end in a list.

    Each key has the comments of the default, then those of the recipe, and the value of the one that rules. A comment
    stands over its key, or behind it where a list ends above: the YAML library ties a comment to the value above it,
    and DVC's writer replaces every list together with the comment tied to it.
    """
    written: list[str] = []
    after_list = False
    for key, usual in default.items():
        path = _path(parents, key)
        comments = _comments(default, key, texts[0])
        if key in recipe:
            comments += [line for line in _comments(recipe, key, texts[1]) if line not in comments]
        if _merges(path, usual):
            inner, ends_in_list = _entries(usual, recipe.get(key, {}), texts, path)
            lines = [f"{key}:", *(f"  {line}" for line in inner)]
        else:
            value = _plain(recipe.get(key, usual))
            stream = io.StringIO()
            _yaml().dump({key: value}, stream)
            lines, ends_in_list = stream.getvalue().splitlines(), _ends_in_list(value)
        if after_list and comments:
            words = " ".join(line.lstrip("# ") for line in comments)
            written += [f"{lines[0]}  # {words}", *lines[1:]]
        else:
            written += [*comments, *lines]
        after_list = ends_in_list
    return written, after_list


def compose(default_text: str, recipe_text: str, file: str = "recipes/NAME.yaml") -> str:
    """The text of a complete params file: the default with the values and comments of a recipe.

    A recipe that holds every key of the default is complete and is returned as it is. Raises UserError for a key that
    the default does not know, a value where keys are expected, and a key of STATED that the recipe does not give.
    """
    default, recipe = _load(default_text, str(RECIPES / f"{DEFAULT}.yaml")), _load(recipe_text, file)
    every = list(_leaves(default))
    if set(every) <= set(_leaves_given(default, recipe)):
        return recipe_text  # the stages refuse a key that they do not know
    _refuse_unknown(default, recipe, file, every)
    for path in STATED:
        if _value(recipe, path) in (None, {}, ""):
            raise UserError(f"{file}: {path}: missing; it has no default, every recipe states its own")
    lines, _ = _entries(default, recipe, [default_text.splitlines(), recipe_text.splitlines()])
    stream = io.StringIO()
    _yaml().dump(_load(HEADER + "\n".join(lines) + "\n", file), stream)  # folds and quotes as DVC's writer does
    return stream.getvalue()


def _leaves_given(default: Mapping[str, Any], recipe: Mapping[str, Any], parents: str = "") -> Iterator[str]:
    """Those of the default's leaves that a recipe holds."""
    for key in default:
        path = _path(parents, key)
        if key in recipe and _merges(path, default[key]) and isinstance(recipe[key], dict):
            yield from _leaves_given(default[key], recipe[key], path)
        elif key in recipe and not _merges(path, default[key]):
            yield path


def composed(path: str | Path) -> str:
    """The complete params of a recipe file, from the default beside it."""
    path = Path(path)
    default = path.with_name(f"{DEFAULT}.yaml")
    try:
        return compose(default.read_text("utf-8"), path.read_text("utf-8"), str(path))
    except FileNotFoundError as err:
        raise UserError(f"{err.filename}: no such file") from None


def names() -> list[str]:
    return sorted(path.stem for path in RECIPES.glob("*.yaml") if path.stem != DEFAULT)


def _edited() -> bool:
    """Whether params.yaml holds edits that are in no commit and are no recipe as it stands."""
    if not PARAMS.exists() or subprocess.run(["git", "diff", "--quiet", "HEAD", "--", str(PARAMS)]).returncode == 0:
        return False
    text = PARAMS.read_text("utf-8")
    for name in names():
        try:
            if composed(RECIPES / f"{name}.yaml") == text:
                return False
        except UserError:  # another recipe may be half written
            continue
    return True


def activate(name: str, force: bool) -> None:
    """Write params.yaml. Raises UserError for an unknown recipe, and for edits that would be lost."""
    if name not in names():
        raise UserError(f"make recipe NAME=...; there are: {' '.join(names())}")
    text = composed(RECIPES / f"{name}.yaml")
    if not force and _edited():
        raise UserError(
            f"{PARAMS} holds edits that are in no commit and in no recipe. Keep them: cp {PARAMS} recipes/mine.yaml\n"
            f"(then make recipe NAME=mine brings them back), or commit them. Drop them: make recipe NAME={name} FORCE=1"
        )
    files.write_text(PARAMS, text)
    print(f"{PARAMS} is now recipes/{name}.yaml over recipes/{DEFAULT}.yaml; next: dvc repro")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", nargs="?", default="", help="a file of recipes/, without .yaml")
    parser.add_argument("--force", action="store_true", help="drop local edits of params.yaml")
    arguments = parser.parse_args()
    try:
        activate(arguments.name, arguments.force)
    except UserError as err:
        print(f"recipe: {err}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Reads params.yaml and hands each stage the validated params that it declares.

The signature of a stage's `main` is its declaration: positional-only parameters come from the command line, every
other parameter is a key of params.yaml. A stage never sees a key that it does not declare: DVC watches the declared
keys alone, and an undeclared one would give stale results.
"""

from __future__ import annotations

import difflib
import inspect
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from anneal.errors import UserError

PARAMS = Path("params.yaml")
# Types of single values: Fraction excludes both bounds, Share includes them.
Fraction = Annotated[float, Field(gt=0, lt=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]


class Section(BaseModel):
    """A section of params.yaml: frozen, typed, without unknown keys or implicit conversions."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Privacy(Section):
    """`local_only`: no stage may connect to another machine, see anneal/privacy.py."""

    local_only: bool


def load(path: Path = PARAMS) -> dict[str, Any]:
    """Read a params file as YAML 1.2, as DVC does; PyYAML would read the `1e-05` that `-S` writes as a string."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError

    try:
        values = YAML(typ="safe", pure=True).load(path.read_text("utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; run from the top of the checkout, or `make recipe NAME=...`") from None
    except MarkedYAMLError as err:
        place = f"{path}:{err.problem_mark.line + 1}:{err.problem_mark.column + 1}" if err.problem_mark else str(path)
        raise UserError(f"{place}: not YAML: {err.problem}") from None
    if not isinstance(values, dict):
        raise UserError(f"{path}: expected keys and values")
    return values


def explain(path: Path, key: str, section: Any, err: ValidationError) -> str:
    """One line for the first error of a section: file, key, bound, value."""
    # A misspelt key gives two errors, unknown and missing; the unknown one shows what was written.
    first = min(err.errors(), key=lambda error: error["type"] != "extra_forbidden")
    place = ".".join([key, *(str(part) for part in first["loc"])])
    if first["type"] == "extra_forbidden":
        known = list(section.model_fields) if isinstance(section, type) and issubclass(section, BaseModel) else []
        matches = difflib.get_close_matches(str(first["loc"][-1]), known, 1)
        hint = f"did you mean {matches[0]}?" if matches else f"known: {', '.join(known)}"
        return f"{path}: {place}: unknown key; {hint}"
    if first["type"] == "missing":
        return f"{path}: {place}: missing; every key of a section is written down"
    return f"{path}: {place}: {first['msg']}, got {first['input']!r}"


def pick(main: Callable[..., None], path: Path = PARAMS, values: dict[str, Any] | None = None) -> dict[str, Any]:
    """The params that `main` declares, validated by its type hints.

    `values` are those of the file if it has been read already. UserError for a missing or invalid value.
    """
    hints = typing.get_type_hints(main, include_extras=True)
    if values is None:
        values = load(path)
    picked = {}
    for name, parameter in inspect.signature(main).parameters.items():
        if parameter.kind is inspect.Parameter.POSITIONAL_ONLY:
            continue
        if name not in values:
            raise UserError(f"{path}: {name}: missing; recipes/default.yaml holds every key")
        try:
            picked[name] = TypeAdapter(hints[name]).validate_python(values[name])
        except ValidationError as err:
            raise UserError(explain(path, name, hints[name], err)) from None
    return picked

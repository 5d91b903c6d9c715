"""What every test shares: a quiet, offline, single-threaded process, a toy folder, and dvc.yaml as data."""

from __future__ import annotations

import copy
import functools
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Set before any test imports numpy or torch: both read the number of threads once, on import.
os.environ.update(
    OMP_NUM_THREADS="1",
    OPENBLAS_NUM_THREADS="1",
    MKL_NUM_THREADS="1",
    TOKENIZERS_PARALLELISM="false",
    HF_HUB_OFFLINE="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    HF_HUB_DISABLE_PROGRESS_BARS="1",
    DO_NOT_TRACK="1",
    DVC_NO_ANALYTICS="1",
    WANDB_DISABLED="true",
    TRL_EXPERIMENTAL_SILENCE="1",
)

# Imported before any test: the handlers of DVC's log keep the stdout and stderr of the moment, and those that a test
# captures are closed after it.
import dvc  # noqa: F401
import pytest
from ruamel.yaml import YAML

from commands import recipe

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Stage:
    """One stage of dvc.yaml, an item of a foreach being one of its own (`judge@base`), every `${...}` filled."""

    name: str
    script: str
    words: tuple[str, ...]
    desc: str
    deps: tuple[str, ...]
    params: tuple[str, ...]
    outs: tuple[str, ...]
    metrics: tuple[str, ...]
    plots: tuple[str, ...]

    @property
    def listed(self) -> list[str]:
        """The code deps as dvc.yaml lists them: files, and packages of which all files are meant."""
        return [dep for dep in self.deps if dep.startswith(("stages/", "anneal/"))]

    @property
    def code(self) -> set[str]:
        """The files of the code deps, relative to the checkout."""
        paths = [path for dep in self.listed for path in ([dep] if dep.endswith(".py") else modules(dep))]
        assert len(paths) == len(set(paths)), f"{self.name}: a file is named twice"
        return set(paths)

    @property
    def data(self) -> set[str]:
        return set(self.deps) - set(self.listed)

    @property
    def writes(self) -> set[str]:
        return {*self.outs, *self.metrics, *self.plots}


def modules(folder: str) -> list[str]:
    """The modules that lie directly in a package, without its empty `__init__.py`."""
    return sorted(str(p.relative_to(ROOT)) for p in (ROOT / folder).glob("*.py") if p.name != "__init__.py")


@functools.lru_cache(maxsize=64)
def _parse(text: str) -> Any:
    return YAML(typ="safe", pure=True).load(text)


def load_yaml(path: Path) -> Any:
    """Read as DVC reads; the same text is parsed once, as pure Python takes a tenth of a second for it."""
    return copy.deepcopy(_parse(path.read_text("utf-8")))


RECIPES = sorted(path for path in (ROOT / "recipes").glob("*.yaml") if path.stem != recipe.DEFAULT)


@functools.lru_cache
def recipe_text(name: str) -> str:
    """The complete params file of a recipe, as `make recipe NAME=...` writes it."""
    return recipe.composed(ROOT / f"recipes/{name}.yaml")


def recipe_values(name: str) -> Any:
    """The complete params of a recipe."""
    return copy.deepcopy(_parse(recipe_text(name)))


def _fill(value: Any, scope: dict[str, Any]) -> Any:
    if isinstance(value, dict):
        return {_fill(key, scope): _fill(inner, scope) for key, inner in value.items()}
    if isinstance(value, list):
        return [_fill(inner, scope) for inner in value]
    if not isinstance(value, str):
        return value

    def look_up(match: re.Match[str]) -> str:
        found: Any = scope
        for key in match[1].split("."):
            found = found[key]
        return str(found)

    return re.sub(r"\$\{([\w.]+)\}", look_up, value)


def pipeline(root: Path = ROOT, values: dict[str, Any] | None = None) -> dict[str, Stage]:
    """The stages of dvc.yaml in order, filled from params.yaml (or from other params)."""
    values = values or load_yaml(root / "params.yaml")
    found: dict[str, Stage] = {}
    for name, body in load_yaml(root / "dvc.yaml")["stages"].items():
        items = body.get("foreach", {None: {}})
        for key, item in items.items():
            raw = _fill(body.get("do", body), {**values, "key": key, "item": item})
            module, *words = raw["cmd"].removeprefix("python -m ").split()
            lists = {
                k: [next(iter(e)) if isinstance(e, dict) else e for e in raw.get(k, [])] for k in raw if k != "cmd"
            }
            paths = {k: tuple(lists.get(k, ())) for k in ("deps", "params", "outs", "metrics", "plots")}
            full = name if key is None else f"{name}@{key}"
            script = module.replace(".", "/") + ".py"
            found[full] = Stage(full, script, tuple(words), raw.get("desc", ""), **paths)
    return found


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder as the working directory, the way a stage sees the top of a checkout."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    monkeypatch.delenv("DVC_STAGE", raising=False)
    return tmp_path


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files with slow tests first: of two processes the one that meets the longest file last makes both wait."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)

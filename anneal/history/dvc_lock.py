"""dvc.lock as data: what every stage read, watched and wrote in the run that made the present files.

Its names are final: the items of a foreach are stages of their own, and no `${...}` is left.
"""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anneal.errors import UserError

LOCK = Path("dvc.lock")


@dataclass(frozen=True)
class Entry:
    """One stage; deps and outs are path -> md5, that of a folder ends in `.dir`."""

    name: str
    cmd: str
    deps: dict[str, str]
    params: dict[str, Any]
    outs: dict[str, str]

    @property
    def stage(self) -> str:
        """`judge` of `judge@tuned`."""
        return self.name.partition("@")[0]

    def reads(self, path: str) -> bool:
        """Whether a file or folder is one of its deps, lies in one or holds one."""
        return any(f"{dep}/".startswith(f"{path}/") or f"{path}/".startswith(f"{dep}/") for dep in self.deps)


@functools.lru_cache(maxsize=8)  # a second of pure Python each, and more than one place of a page asks
def parse(lock: str, name: str = str(LOCK)) -> dict[str, Entry]:
    """The stages of a lock in its order. UserError for what is no lock."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        stages = (YAML(typ="safe", pure=True).load(lock) or {}).get("stages", {})
        return {
            key: Entry(
                key,
                body["cmd"],
                {dep["path"]: dep.get("md5", "") for dep in body.get("deps", [])},
                body.get("params", {}).get("params.yaml", {}),
                {out["path"]: out.get("md5", "") for out in body.get("outs", [])},
            )
            for key, body in stages.items()
        }
    except (YAMLError, AttributeError, KeyError, TypeError) as err:
        first = (str(err) or type(err).__name__).splitlines()[0]
        raise UserError(f"{name}: not a lock of DVC: {first}; `git checkout {name}` or `dvc repro`") from None


def text() -> str:
    """The lock of the working tree. UserError where nothing has run."""
    try:
        return LOCK.read_text("utf-8")
    except FileNotFoundError:
        raise UserError(f"{LOCK}: no such file; `dvc repro` makes it") from None


def md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def stale(entry: Entry, values: dict[str, Any]) -> list[str]:
    """What the stage would read otherwise now than it did: keys of params.yaml, whose `values` are given, and files."""
    keys = [f"params.yaml: {key}" for key, value in sorted(entry.params.items()) if values.get(key) != value]
    return keys + [path for path, found in entry.deps.items() if Path(path).is_file() and found != md5(Path(path))]

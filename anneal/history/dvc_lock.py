"""dvc.lock as data: the command, deps, params and outputs of every stage in the run that wrote the present files.

The items of a `foreach` are stages of their own here (`judge@tuned`), and every `${...}` is resolved.
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
    """One stage; deps and outs map path to md5, and the md5 of a folder ends in `.dir`."""

    name: str
    cmd: str
    deps: dict[str, str]
    params: dict[str, Any]  # of params.yaml, by top-level key
    outs: dict[str, str]

    @property
    def stage(self) -> str:
        """The name without the item of a foreach: `judge` for `judge@tuned`."""
        return self.name.partition("@")[0]

    def reads(self, path: str) -> bool:
        """Whether `path` is a dep of the stage, lies in one, or contains one."""
        return any(f"{dep}/".startswith(f"{path}/") or f"{path}/".startswith(f"{dep}/") for dep in self.deps)


# The pure Python parser takes a second for each text, and several sections of the report ask for the same one.
@functools.lru_cache(maxsize=8)
def parse(lock: str, name: str = str(LOCK)) -> dict[str, Entry]:
    """The stages of a lock file by name, in file order. UserError for a text that is not a lock file of DVC.

    `name` stands for the file in the message.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        document = YAML(typ="safe", pure=True).load(lock) or {}
        return {stage: _entry(stage, body) for stage, body in document.get("stages", {}).items()}
    except (YAMLError, AttributeError, KeyError, TypeError) as err:
        cause = (str(err) or type(err).__name__).splitlines()[0]
        raise UserError(
            f"{name}: not a lock file of DVC: {cause}; restore it with `git checkout {name}` or run `dvc repro`"
        ) from None


def _entry(name: str, body: dict[str, Any]) -> Entry:
    """One stage of the parsed lock file. A stage whose output is not cached has no md5 there: "" stands for it."""
    return Entry(
        name=name,
        cmd=body["cmd"],
        deps={dep["path"]: dep.get("md5", "") for dep in body.get("deps", [])},
        params=body.get("params", {}).get("params.yaml", {}),
        outs={out["path"]: out.get("md5", "") for out in body.get("outs", [])},
    )


def text() -> str:
    """The text of the working tree's dvc.lock. UserError where there is none."""
    try:
        return LOCK.read_text("utf-8")
    except FileNotFoundError:
        raise UserError(f"{LOCK}: no such file; `dvc repro` makes it") from None


def md5(path: Path) -> str:
    """The MD5 of a file's bytes in hexadecimal, as DVC computes it."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def stale(entry: Entry, values: dict[str, Any]) -> list[str]:
    """Inputs of a stage that differ from those of its last run: `params.yaml: <key>`, then paths of files.

    `values` holds the present params.yaml. Folders and absent files are not compared.
    """
    changed_params = [f"params.yaml: {key}" for key, value in sorted(entry.params.items()) if values.get(key) != value]
    changed_files = []
    for path, stored_md5 in entry.deps.items():
        if Path(path).is_file() and stored_md5 != md5(Path(path)):
            changed_files.append(path)
    return changed_params + changed_files

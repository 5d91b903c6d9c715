"""Names of unfinished work: a hash of everything that the work depends on.

Half-made answers, rollouts and checkpoints lie in a folder of that name. An edit of anything they depend on gives
another name, so that nothing is resumed that would end in other bytes; an edit of anything else keeps them.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import json
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("anneal", "stages", "commands")
_LIBRARIES = ("accelerate", "bitsandbytes", "peft", "tokenizers", "torch", "transformers", "trl")


def digest(paths: Iterable[Path]) -> str:
    """Names and bytes of files, of folders all that is in them."""
    total = hashlib.sha256()
    for path in paths:
        for file in sorted(file for file in (path, *path.rglob("*")) if file.is_file()):
            with file.open("rb") as handle:
                total.update(file.name.encode() + hashlib.file_digest(handle, "sha256").digest())
    return total.hexdigest()[:16]


def of(paths: Iterable[Path], values: Any) -> str:
    """Names a run by all that decides its bytes: files, values and library versions. Checkpoints belong to one name."""
    total = hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode())
    total.update(json.dumps({name: version(name) for name in _LIBRARIES}).encode())
    for path in paths:
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file():
                total.update(f"{file}\0{hashlib.sha256(file.read_bytes()).hexdigest()}\n".encode())
    return total.hexdigest()[:16]


@functools.cache
def imports(path: Path) -> frozenset[Path]:
    """The files of this project that a file imports, also inside functions. Imports are absolute and name files."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"), str(path))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    files = (ROOT / (name.replace(".", "/") + ".py") for name in names if name.split(".")[0] in PACKAGES)
    return frozenset(file for file in files if file.is_file())


def code(file: str | Path) -> list[Path]:
    """The code that a module runs: its own file and all files of the project that it imports, directly or not.

    Sorted. These are the code deps of a stage in dvc.yaml, and what its unfinished work depends on.
    """
    closure, waiting = set[Path](), [Path(file).resolve()]
    while waiting:
        path = waiting.pop()
        if path not in closure:
            closure.add(path)
            waiting += imports(path)
    return sorted(closure)

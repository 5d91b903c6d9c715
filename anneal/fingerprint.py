"""Names unfinished work by a hash of everything that the work depends on.

Partial answers, rollouts and checkpoints lie in a folder of that name. An edit of anything that they depend on changes
the name, so that no run resumes work that would end in other bytes; an edit of anything else keeps the name.
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
# Libraries whose version changes the bytes of a trained model or of an answer.
_LIBRARIES = ("accelerate", "bitsandbytes", "peft", "tokenizers", "torch", "transformers", "trl")


def digest(paths: Iterable[Path]) -> str:
    """Hash of names and bytes of files; a folder counts as all files in it. The path of a folder does not count.

    It is part of the cache key of paid answers from a model server: another value would pay for them again.
    """
    total = hashlib.sha256()
    for path in paths:
        for file in sorted(file for file in (path, *path.rglob("*")) if file.is_file()):
            with file.open("rb") as handle:
                total.update(file.name.encode() + hashlib.file_digest(handle, "sha256").digest())
    return total.hexdigest()[:16]


def of(paths: Iterable[Path], values: Any) -> str:
    """Hash of everything that decides the bytes of a run: paths and bytes of files, values and library versions."""
    total = hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode())
    total.update(json.dumps({name: version(name) for name in _LIBRARIES}).encode())
    for path in paths:
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file():
                total.update(f"{file}\0{hashlib.sha256(file.read_bytes()).hexdigest()}\n".encode())
    return total.hexdigest()[:16]


@functools.cache
def imports(path: Path) -> frozenset[Path]:
    """The files of this project that a file imports, also inside functions.

    Imports must be absolute and name files, as the packages have empty `__init__.py`. Cached for the process.
    """
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"), str(path))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            # `from anneal import files` imports a file by the alias, `from anneal.files import read` by the module.
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    files = (ROOT / (name.replace(".", "/") + ".py") for name in names if name.split(".")[0] in PACKAGES)
    return frozenset(file for file in files if file.is_file())


def code(file: str | Path) -> list[Path]:
    """The import closure of a file: itself and all files of the project that it imports, directly or not.

    Sorted. These are the code deps of a stage in dvc.yaml, and what its unfinished work depends on.
    """
    closure, waiting = set[Path](), [Path(file).resolve()]
    while waiting:
        path = waiting.pop()
        if path not in closure:
            closure.add(path)
            waiting += imports(path)
    return sorted(closure)

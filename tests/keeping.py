"""A cache of DVC as it lies on the disk, for tests of what is read from it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

Rows = list[dict[str, Any]]


def text(rows: Rows) -> str:
    return "".join(json.dumps(row, ensure_ascii=False, sort_keys=True) + "\n" for row in rows)


def keep(rows: Rows, cache: str = ".dvc/cache") -> str:
    """Put rows into the cache; gives the md5 that a lock names them by."""
    raw = text(rows).encode()
    name = hashlib.md5(raw, usedforsecurity=False).hexdigest()
    path = Path(cache, "files", "md5", name[:2], name[2:])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(raw)
    return name


def write(path: str, rows: Rows) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(text(rows), "utf-8")


def judgement(name: str, score: float | None, judge: str = "j1", kind: str = "ad", facts: int = 3) -> dict[str, Any]:
    """One row of data/judgements; None is a text without a score."""
    row = {"id": name, "item": name[:2], "type": kind, "judge_id": judge, "score": score}
    dims = {"facts": {"score": facts, "quote": "", "reason": ""}} if score is not None else {}
    return {**row, "outcome": "ok" if score is not None else "timeout", "dims": dims, "violations": []}

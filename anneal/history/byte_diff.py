"""Two versions of a file: the first thing in which they differ, by name and with both values."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from anneal.history.revision import changes


def shown(value: Any) -> str:
    """A value in a line."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."


def values(here: Any, again: Any) -> str:
    """`key: old here, new again` of the first key that differs; "" for equal values."""
    found = changes(here, again)
    return "{}: {} here, {} again".format(found[0][0], *map(shown, found[0][1:])) if found else ""


def files(path: Path) -> dict[str, bytes]:
    """A file, or all files of a folder, by the rest of their path."""
    found = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    return {str(p.relative_to(path)): p.read_bytes() for p in found}


def difference(path: str, here: bytes, again: bytes) -> str:
    """The file, the line of one with lines, the id of its row, the key, and both values; "" for the same bytes."""
    old, new = (text.decode("utf-8", "replace").splitlines() for text in (here, again))
    if path.endswith(".json"):
        old, new = ["\n".join(old)], ["\n".join(new)]
    for number, (a, b) in enumerate(zip(old, new, strict=False), 1):
        if a != b:
            place = path if path.endswith(".json") else f"{path}:{number}"
            try:
                before, after = json.loads(a), json.loads(b)
            except ValueError:
                return f"{place}: {shown(a)} here, {shown(b)} again"
            name = f"{before['id']}: " if isinstance(before, dict) and "id" in before else ""
            return f"{place}: {name}{values(before, after) or 'the same values, written in another way'}"
    if len(old) != len(new):
        return f"{path}: {len(old)} lines here, {len(new)} again"
    return "" if here == again else f"{path}: other bytes"

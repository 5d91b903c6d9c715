"""First difference between the stored and the recomputed bytes of a file, by line, row id and key, with both values."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from anneal.history.revision import changes

MAX_VALUE = 60  # characters of a value in a message: both values and the key fit on one line


def _quote(value: Any) -> str:
    """A value as JSON, cut to MAX_VALUE characters."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= MAX_VALUE else f"{text[: MAX_VALUE - 3]}..."


def first_change(stored: Any, recomputed: Any) -> str:
    """`key: old stored, new recomputed` for the first key that differs; "" for equal values."""
    differences = changes(stored, recomputed)
    if not differences:
        return ""
    key, old, new = differences[0]
    return f"{key}: {_quote(old)} stored, {_quote(new)} recomputed"


def contents(path: Path) -> dict[str, bytes]:
    """The bytes of a file, or of all files under a folder, by the path relative to `path`."""
    paths = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    return {str(file.relative_to(path)): file.read_bytes() for file in paths}


def difference(path: str, stored: bytes, recomputed: bytes) -> str:
    """Names the file, the line, the row id, the key and both values of the first difference; "" for equal bytes."""
    old_lines = stored.decode("utf-8", "replace").splitlines()
    new_lines = recomputed.decode("utf-8", "replace").splitlines()
    is_json = path.endswith(".json")
    if is_json:  # one indented value: a single line of it cannot be parsed
        old_lines = ["\n".join(old_lines)]
        new_lines = ["\n".join(new_lines)]
    for number, (old, new) in enumerate(zip(old_lines, new_lines, strict=False), 1):
        if old != new:
            return f"{path if is_json else f'{path}:{number}'}: {_line_difference(old, new)}"
    if len(old_lines) != len(new_lines):
        return f"{path}: {len(old_lines)} lines stored, {len(new_lines)} recomputed"
    # The same lines with other bytes: line breaks, or bytes that are not UTF-8.
    return "" if stored == recomputed else f"{path}: same lines, different bytes"


def _line_difference(old: str, new: str) -> str:
    """The first key that differs between two lines of JSON, after the row id; both lines where one is not JSON."""
    try:
        before = json.loads(old)
        after = json.loads(new)
    except ValueError:
        return f"{_quote(old)} stored, {_quote(new)} recomputed"
    row_id = f"{before['id']}: " if isinstance(before, dict) and "id" in before else ""
    return f"{row_id}{first_change(before, after) or 'equal values, formatted differently'}"

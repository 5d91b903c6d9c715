"""Records without personal data: what `pii` finds in a text, looked for in all that a record says."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from anneal.sources.pii import Mode, apply

Record = dict[str, Any]


def _leaves(value: Any) -> list[str]:
    """Every string and number inside a value, in order; a phone may be written as a number."""
    if isinstance(value, dict | list):
        return [leaf for inner in (value.values() if isinstance(value, dict) else value) for leaf in _leaves(inner)]
    return [str(value)] if isinstance(value, str | int | float) and not isinstance(value, bool) else []


def _filled(value: Any, leaves: Iterator[str]) -> Any:
    """The value with its strings and numbers taken from `leaves`; what has not changed keeps its type."""
    if isinstance(value, dict):
        return {key: _filled(inner, leaves) for key, inner in value.items()}
    if isinstance(value, list):
        return [_filled(inner, leaves) for inner in value]
    if not _leaves(value):
        return value
    return value if (told := next(leaves)) == str(value) else told


def records(rows: Sequence[Record], mode: Mode) -> tuple[list[Record], dict[str, Any]]:
    """Records after the treatment of all that their texts and their facts hold; one hit drops all of a record."""
    parts = [{key: row[key] for key in ("text", "rejected", "facts") if key in row} for row in rows]
    leaves = [_leaves(part) for part in parts]
    treated, counts = apply([leaf for each in leaves for leaf in each], mode)
    left, kept = iter(treated), list[Record]()
    for row, part, each in zip(rows, parts, leaves, strict=True):
        told = [found for _ in each if (found := next(left)) is not None]
        if len(told) == len(each):
            kept.append({**row, **_filled(part, iter(told))})
    return kept, counts

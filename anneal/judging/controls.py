"""Texts whose place is known: good ones in the wrong place, and such as no judge may take for good.

They cost no model. A check or a judge that scores them as it scores golden texts sees less than it claims.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from anneal.records import Record, golden

KEPT = 0.6  # of the characters of a truncated text


def _elsewhere(test: Sequence[Record], name: str, same: str, differs: str, seed: int) -> dict[str, str]:
    """The golden text of another record, with one property the same and another one different; id to text."""
    found = {}
    for record in test:
        fits = [r for r in test if r[same] == record[same] and r[differs] != record[differs]]
        if fits:
            found[record["id"]] = golden(random.Random(f"{seed}/{name}/{record['id']}").choice(fits))
    return found


def swapped(test: Sequence[Record], seed: int) -> dict[str, str]:
    """Of the same item and another type."""
    return _elsewhere(test, "swapped", "item", "type", seed)


def other(test: Sequence[Record], seed: int) -> dict[str, str]:
    """Of another item and the same type."""
    return _elsewhere(test, "other", "type", "item", seed)


def truncated(test: Sequence[Record]) -> dict[str, str]:
    return {r["id"]: golden(r)[: max(1, int(KEPT * len(golden(r))))] for r in test}


def judged(test: Sequence[Record], null: str, seed: int) -> dict[str, dict[str, str]]:
    """The controls of a judge by name: id to text. `again` is the golden text once more: it must tie with itself."""
    return {
        "null": {r["id"]: null for r in test},
        "other": other(test, seed),
        "truncated": truncated(test),
        "again": {r["id"]: golden(r) for r in test},
    }

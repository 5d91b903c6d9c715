"""Control texts with a known correct ranking: references of another item or type, truncated references, null answers.

They need no model. A check or a judge that scores them as high as the references sees less than it claims.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from anneal.records import Record, golden

KEPT = 0.6  # of the characters of a truncated text: the close is missing, the rest is as good as before


def _elsewhere(test: Sequence[Record], name: str, fits: Callable[[Record, Record], bool], seed: int) -> dict[str, str]:
    """id -> the reference of another record that fits it; a record without such a one is left out."""
    texts = {}
    for record in test:
        candidates = [other for other in test if fits(record, other)]
        if candidates:
            # The RNG is seeded per record, so that another record changes no draw.
            rng = random.Random(f"{seed}/{name}/{record['id']}")
            texts[record["id"]] = golden(rng.choice(candidates))
    return texts


def swapped(test: Sequence[Record], seed: int) -> dict[str, str]:
    """id -> a reference of the same item and another type."""
    return _elsewhere(test, "swapped", lambda a, b: a["item"] == b["item"] and a["type"] != b["type"], seed)


def other(test: Sequence[Record], seed: int) -> dict[str, str]:
    """id -> a reference of another item and the same type."""
    return _elsewhere(test, "other", lambda a, b: a["item"] != b["item"] and a["type"] == b["type"], seed)


def truncated(test: Sequence[Record]) -> dict[str, str]:
    """id -> the beginning of the reference, KEPT of its characters and at least one."""
    return {r["id"]: golden(r)[: max(1, int(KEPT * len(golden(r))))] for r in test}


def judged(test: Sequence[Record], null: str, seed: int) -> dict[str, dict[str, str]]:
    """The controls of a judge: name -> id -> text. `again` is the reference once more: it must tie with itself."""
    return {
        "null": {r["id"]: null for r in test},
        "other": other(test, seed),
        "truncated": truncated(test),
        "again": {r["id"]: golden(r) for r in test},
    }

"""What one side of a split knows of another: a certificate by exact comparison of all texts, no sketch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from anneal import similarity
from anneal.records import Record


class Row(NamedTuple):
    """A text that must not be seen on both sides."""

    id: str
    item: str
    text: str


Join = tuple[Row, Row, float]  # two texts and their Jaccard


def rows(records: Sequence[Record], pairs: Sequence[Record]) -> list[Row]:
    """The completions, and the chosen answers of preference pairs where they say something else."""
    told = [(r, r["completion"]) for r in records] + [(p, p["chosen"]) for p in pairs]
    found: dict[tuple[str, str], Row] = {}
    for record, turns in told:
        row = Row(record["id"], record["item"], "\n".join(turn["content"] for turn in turns))
        found.setdefault((row.item, row.text), row)
    return list(found.values())


def certify(sides: dict[str, list[Row]], threshold: float) -> tuple[Record, list[Join]]:
    """What one side knows of another, exactly: the certificate, and the near-duplicates that cross."""
    items = Counter(item for part in sides.values() for item in {row.item for row in part})
    crossing: list[Join] = []
    found: Record = {"shared_items": sum(n > 1 for n in items.values()), "near_duplicate": threshold}
    for part, other in (("test", "train"), ("test", "validation"), ("validation", "train")):
        near = similarity.nearest([row.text for row in sides[part]], [row.text for row in sides[other]])
        told = list(zip(sides[part], near, strict=True))
        crossing += [(row, sides[other][n.similar], n.jaccard) for row, n in told if n.jaccard >= threshold]
        alike, held = max(told, key=lambda pair: pair[1].jaccard), max(told, key=lambda pair: pair[1].containment)
        found[f"{part}_in_{other}"] = {
            "jaccard": alike[1].jaccard,
            "alike": [alike[0].id, sides[other][alike[1].similar].id],
            "containment": held[1].containment,
            "contained": [held[0].id, sides[other][held[1].holder].id],
            "half_contained": sum(n.containment >= 0.5 for n in near) / len(near),
        }
    return {**found, "crossing_pairs": len(crossing)}, crossing

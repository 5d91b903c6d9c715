"""Leakage between the sides of a split: shared items and near-duplicate texts, by exact comparison of all texts.

No sketch (MinHash) stands in for the comparison: the certificate must not miss a pair by chance.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from anneal import similarity
from anneal.records import Metrics, Pair, Record


class Row(NamedTuple):
    """A text that must not be seen on both sides."""

    id: str
    item: str
    text: str


HALF = 0.5  # containment from which a text counts as `half_contained`

Join = tuple[Row, Row, float]  # two texts and their Jaccard


def rows(records: Sequence[Record], pairs: Sequence[Pair]) -> list[Row]:
    """The completions, and the chosen answers of preference pairs where they say something else."""
    candidates = [(record["id"], record["item"], record["completion"]) for record in records]
    candidates += [(pair["id"], pair["item"], pair["chosen"]) for pair in pairs]
    distinct: dict[tuple[str, str], Row] = {}
    for name, item, turns in candidates:
        row = Row(name, item, "\n".join(turn["content"] for turn in turns))
        distinct.setdefault((row.item, row.text), row)
    return list(distinct.values())


def certify(sides: dict[str, list[Row]], threshold: float) -> tuple[Metrics, list[Join]]:
    """The certificate, and the pairs across two sides whose Jaccard is at least `threshold`.

    For each two sides: the most alike pair, the most contained text, and the share of half-contained texts.
    """
    n_sides = Counter[str]()
    for side in sides.values():
        n_sides.update({row.item for row in side})
    crossing: list[Join] = []
    certificate: Metrics = {"shared_items": sum(n > 1 for n in n_sides.values()), "near_duplicate": threshold}
    for part, other in (("test", "train"), ("test", "validation"), ("validation", "train")):
        nearest = similarity.nearest([row.text for row in sides[part]], [row.text for row in sides[other]])
        matches = list(zip(sides[part], nearest, strict=True))
        crossing += [(row, sides[other][n.similar], n.jaccard) for row, n in matches if n.jaccard >= threshold]
        alike, alike_match = max(matches, key=lambda match: match[1].jaccard)
        contained, contained_match = max(matches, key=lambda match: match[1].containment)
        certificate[f"{part}_in_{other}"] = {
            "jaccard": alike_match.jaccard,
            "alike": [alike.id, sides[other][alike_match.similar].id],
            "containment": contained_match.containment,
            "contained": [contained.id, sides[other][contained_match.holder].id],
            "half_contained": sum(n.containment >= HALF for n in nearest) / len(nearest),
        }
    return {**certificate, "crossing_pairs": len(crossing)}, crossing

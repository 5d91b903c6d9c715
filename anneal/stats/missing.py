"""What failed judgements can hide: bounds at worst and best, and whether one system loses more than others.

A failure is no bad text and no absent one. Left out of the mean it changes the mean, and where one system fails
more often, it changes who wins; so that it is counted, bounded and tested before any mean is believed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

from anneal.records import Metrics
from anneal.stats import intervals

SURE = 0.05


def bounds(values: Sequence[float | None], worst: float, best: float) -> list[float] | None:
    """The mean with every None taken at `worst`, and at `best`; None without values. All in the unit of `values`."""
    if not values:
        return None
    known = sum(v for v in values if v is not None)
    gone = sum(v is None for v in values)
    return [(known + gone * end) / len(values) for end in (worst, best)]


def difference_bounds(
    left: Mapping[str, float | None], right: Mapping[str, float | None], worst: float, best: float
) -> list[float] | None:
    """left - right with the failures of one side at worst and of the other at best, and the reverse.

    Over the ids that both hold, scored or not. A sign that both ends share does not hang on the failures.
    """
    ids = sorted(left.keys() & right.keys())
    ours, theirs = (bounds([side[i] for i in ids], worst, best) for side in (left, right))
    return [ours[0] - theirs[1], ours[1] - theirs[0]] if ours and theirs else None


def differential(counts: Mapping[str, tuple[int, int]]) -> Metrics:
    """Whether systems fail at different rates: Fisher's exact test of every two, Holm-corrected.

    `counts` holds system -> (failed, n). {tests: [{pair, p, p_holm}], pair, p, differs, reason}: `pair` and `p`
    (Holm's) are of the smallest. Fisher takes texts for independent: where failures come in clusters it warns too
    often, never too late.
    """
    from scipy.stats import fisher_exact

    names = [name for name in counts if counts[name][1]]
    raw: dict[tuple[str, str], float | None] = {}
    for a, b in combinations(names, 2):
        cells = [[counts[s][0], counts[s][1] - counts[s][0]] for s in (a, b)]
        raw[a, b] = float(fisher_exact(cells).pvalue)
    made: Metrics = {"tests": [], "pair": None, "p": None, "differs": False, "reason": ""}
    if not raw:
        return {**made, "reason": "empty: fewer than two systems were judged"}
    if not any(counts[name][0] for name in names):
        return {**made, "reason": "no variance: nothing failed"}
    adjusted = intervals.holm({f"{a}\n{b}": p for (a, b), p in raw.items()})
    made["tests"] = [{"pair": [a, b], "p": p, "p_holm": adjusted[f"{a}\n{b}"]} for (a, b), p in raw.items()]
    least = min(made["tests"], key=lambda test: test["p_holm"])
    return {**made, "pair": least["pair"], "p": least["p_holm"], "differs": least["p_holm"] < SURE}


def sentence(counts: Mapping[str, tuple[int, int]], numbers: Mapping[str, Any]) -> str:
    """The warning where one system loses more verdicts than another; "" where none does."""
    if not numbers["differs"]:
        return ""
    a, b = sorted(numbers["pair"], key=lambda name: -counts[name][0] / counts[name][1])
    parts = [f"{counts[s][0]} of {counts[s][1]} verdicts on {s}" for s in (a, b)]
    said = f"differential missingness: {parts[0]} failed and {parts[1]} (Fisher p = {numbers['p']:.2g})"
    return f"{said}; their means are of other texts"

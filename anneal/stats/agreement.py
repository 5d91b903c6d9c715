"""How far two judgements of the same texts agree, beyond chance: Cohen's kappa, Krippendorff's alpha, an interval.

Raw agreement always stands beside them: where one answer is nearly always given, kappa is low however often raters
agree. A figure that the data cannot give (nothing varies) is None, never 1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from anneal.stats import intervals

DRAWS = 1000
FEWEST = 19  # clusters; over fewer, percentiles of draws are far narrower than they claim


def kappa(a: Sequence[Any], b: Sequence[Any], labels: Sequence[Any], quadratic: bool = False) -> float | None:
    """Cohen's kappa of two raters over the same units; with quadratic weights, `labels` are in order, evenly spaced."""
    place = {name: i for i, name in enumerate(labels)}
    table = np.zeros((len(labels), len(labels)))
    for x, y in zip(a, b, strict=True):
        table[place[x], place[y]] += 1
    if not table.sum():
        return None
    grid = np.arange(len(labels))
    cost = (grid[:, None] - grid) ** 2 if quadratic else 1 - np.eye(len(labels))
    chance = float((cost * np.outer(table.sum(1), table.sum(0)) / table.sum()).sum())
    return None if chance == 0 else 1 - float((cost * table).sum()) / chance


def alpha(units: Sequence[Sequence[Any]], labels: Sequence[Any], ordinal: bool = False) -> float | None:
    """Krippendorff's alpha; a unit holds the values it was given, by however many raters. Nominal, or `labels` ranked.

    Hayes and Krippendorff 2007: coincidences within units against those expected from all values that can be paired.
    """
    place = {name: i for i, name in enumerate(labels)}
    seen = np.zeros((len(labels), len(labels)))
    for unit in units:
        if len(unit) < 2:
            continue
        counts = np.bincount([place[value] for value in unit], minlength=len(labels)).astype(float)
        seen += (np.outer(counts, counts) - np.diag(counts)) / (len(unit) - 1)
    totals = seen.sum(0)
    if ordinal:
        # Ranks apart: the values between two labels, the two themselves by half.
        upto = np.cumsum(totals) - totals / 2
        cost = (upto[:, None] - upto) ** 2
    else:
        cost = 1 - np.eye(len(labels))
    expected = float((cost * (np.outer(totals, totals) - np.diag(totals))).sum())
    return None if expected == 0 else 1 - (float(totals.sum()) - 1) * float((cost * seen).sum()) / expected


def interval(figure: Callable[[list[int]], float | None], clusters: Sequence[str], seed: int) -> list[float | None]:
    """95% interval of a figure of row numbers: percentiles over draws of whole clusters; None for few of them."""
    names = sorted(set(clusters))
    if len(names) < FEWEST:
        return [None, None]
    rows = {name: [i for i, other in enumerate(clusters) if other == name] for name in names}
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(DRAWS):
        drawn = rng.integers(len(names), size=len(names))
        value = figure([i for k in drawn for i in rows[names[k]]])
        found += [] if value is None else [value]
    # A draw in which nothing varies has no kappa; where that is common, neither has the sample an interval.
    if len(found) < DRAWS / 2:
        return [None, None]
    return [float(value) for value in np.percentile(found, [2.5, 97.5])]


def compared(
    a: Sequence[Any],
    b: Sequence[Any],
    labels: Sequence[Any],
    clusters: Sequence[str],
    seed: int,
    quadratic: bool = False,
) -> dict[str, Any]:
    """Two raters in one row: n, the share of equal answers, kappa and its interval over clusters."""

    def figure(rows: list[int]) -> float | None:
        return kappa([a[i] for i in rows], [b[i] for i in rows], labels, quadratic)

    n = len(a)
    low, high = interval(figure, clusters, seed)
    same = sum(x == y for x, y in zip(a, b, strict=True)) / n if n else None
    if same == 1 and low is not None:
        # No draw can show a disagreement that did not happen; as many clusters may hide this share of them.
        hidden = 1 - intervals.wilson(1.0, len(set(clusters)))[0]
        low = 1 - hidden / (1 - sum((list(a).count(x) / n) ** 2 for x in labels))
    return {"n": n, "agreement": same, "kappa": figure(list(range(n))), "low": low, "high": high}

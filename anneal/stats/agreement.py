"""Agreement of ratings of the same texts beyond chance: Cohen's kappa, Krippendorff's alpha, rank correlation.

Raw agreement is always reported beside kappa: where one label is nearly always given, kappa is low however often the
raters agree. A figure that the data cannot give (nothing varies) is None, never 1.

Kappa is scikit-learn's and alpha is that of the package krippendorff. The draws of the interval compute kappa from the
confusion matrix here: with 500 rows `cohen_kappa_score` takes 1 ms, so that a thousand draws would take 1 s, not 0.03.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from anneal.records import Metrics
from anneal.stats import intervals

DRAWS = 1000
FEWEST = 19  # clusters; over fewer, percentiles of draws are far narrower than they claim
PERCENTILES = (2.5, 97.5)  # the ends of a 95% interval


def kappa(a: Sequence[Any], b: Sequence[Any], labels: Sequence[Any], quadratic: bool = False) -> float | None:
    """Cohen's kappa of two raters over the same units; with quadratic weights, `labels` are in order, evenly spaced."""
    from sklearn.metrics import cohen_kappa_score

    index = {label: i for i, label in enumerate(labels)}
    left, right = [index[value] for value in a], [index[value] for value in b]
    if len({*left, *right}) < 2:
        return None
    weights = "quadratic" if quadratic else None
    return float(cohen_kappa_score(left, right, labels=range(len(labels)), weights=weights))


def alpha(units: Sequence[Sequence[Any]], labels: Sequence[Any], ordinal: bool = False) -> float | None:
    """Krippendorff's alpha for nominal data, or `ordinal` with `labels` in order.

    A unit holds its values, one for each rater who rated it; a unit of one value pairs with none and is left out.
    """
    import krippendorff

    index = {label: i for i, label in enumerate(labels)}
    pairable = [[index[value] for value in unit] for unit in units if len(unit) > 1]
    if len({value for unit in pairable for value in unit}) < 2:
        return None
    counts = np.array([np.bincount(unit, minlength=len(labels)) for unit in pairable])  # [units, labels]
    return float(krippendorff.alpha(value_counts=counts, level_of_measurement="ordinal" if ordinal else "nominal"))


def interval(
    totals: np.ndarray, figure: Callable[[np.ndarray], float | None], seed: int
) -> tuple[float, float] | tuple[None, None]:
    """95% interval of a figure of sums: percentiles over draws of whole clusters; None for few of them.

    `totals` [clusters, ...] holds the sums of each cluster, in the order of the cluster names; `figure` takes the
    sums over one draw, of the shape of one cluster's.
    """
    if len(totals) < FEWEST:
        return None, None
    rng = np.random.default_rng(seed)
    values = []
    for _ in range(DRAWS):
        value = figure(totals[rng.integers(len(totals), size=len(totals))].sum(axis=0))
        if value is not None:
            values.append(value)
    # A draw in which nothing varies has no figure; where that is common, the sample has no interval.
    if len(values) < DRAWS / 2:
        return None, None
    low, high = np.percentile(values, PERCENTILES)
    return float(low), float(high)


def compared(
    a: Sequence[Any],
    b: Sequence[Any],
    labels: Sequence[Any],
    clusters: Sequence[str],
    seed: int,
    quadratic: bool = False,
) -> Metrics:
    """Two raters in one row: {n, agreement, kappa, low, high}; agreement is the share of equal labels.

    The interval of kappa is over clusters. Without any disagreement its lower end is what Wilson's bound on the share
    of equal labels leaves.
    """
    distance = np.subtract.outer(np.arange(len(labels)), np.arange(len(labels)))
    cost = distance**2 if quadratic else 1 - np.eye(len(labels))

    def figure(table: np.ndarray) -> float | None:
        chance = float((cost * np.outer(table.sum(1), table.sum(0)) / table.sum()).sum())
        return None if chance == 0 else 1 - float((cost * table).sum()) / chance

    n = len(a)
    low, high = interval(_confusion(a, b, labels, clusters), figure, seed)
    same = sum(x == y for x, y in zip(a, b, strict=True)) / n if n else None
    if same == 1 and low is not None:
        # No draw can show a disagreement that did not happen; as many clusters may hide this share of them.
        hidden = 1 - intervals.wilson(1.0, len(set(clusters)))[0]
        low = 1 - hidden / (1 - sum((list(a).count(x) / n) ** 2 for x in labels))
    return {"n": n, "agreement": same, "kappa": kappa(a, b, labels, quadratic), "low": low, "high": high}


def _confusion(a: Sequence[Any], b: Sequence[Any], labels: Sequence[Any], clusters: Sequence[str]) -> np.ndarray:
    """How often the raters gave each two labels [clusters, labels, labels], clusters in order of their names."""
    index = {label: i for i, label in enumerate(labels)}
    names = {name: i for i, name in enumerate(sorted(set(clusters)))}
    tables = np.zeros((len(names), len(labels), len(labels)))
    for x, y, cluster in zip(a, b, clusters, strict=True):
        tables[names[cluster], index[x], index[y]] += 1
    return tables


def within(
    values: Sequence[float],
    others: Sequence[float],
    groups: Sequence[str],
    clusters: Sequence[str],
    seed: int,
    unit: str,
    constant: str,
    empty: str,
) -> Metrics:
    """Spearman's rank correlation within groups, pooled over them: {n, clusters, rho, low, high, reason}.

    Ranks are taken within each group and their deviations from the group's mean rank are pooled, so that a group whose
    values are all larger shows nothing. The interval draws whole clusters. The reasons for no figure are the caller's
    words: `unit` names a cluster in the plural, `constant` is for values or others that vary in no group, `empty` for
    no values.
    """
    u, v = _rank_deviations(values, groups), _rank_deviations(others, groups)
    names, index = np.unique(np.asarray(clusters, dtype=str), return_inverse=True)
    row: Metrics = {"n": len(values), "clusters": len(names), "rho": None, "low": None, "high": None}
    if not (u.any() and v.any()):
        return {**row, "reason": constant if len(values) else empty}

    def figure(sums: np.ndarray) -> float | None:
        product, left, right = sums
        return float(product) / float(np.sqrt(left * right)) if left and right else None

    # Ranks are multiples of 1/2: these sums are exact in any order.
    totals = np.zeros((len(names), 3))
    np.add.at(totals, index, np.column_stack([u * v, u**2, v**2]))
    low, high = interval(totals, figure, seed)
    reason = f"{len(names)} {unit}: an interval needs {FEWEST}" if low is None else ""
    return {**row, "rho": figure(totals.sum(axis=0)), "low": low, "high": high, "reason": reason}


def _rank_deviations(values: Sequence[float], groups: Sequence[str]) -> np.ndarray:
    """Rank of each value within its group less the group's mean rank; equal values share their mean rank."""
    from scipy.stats import rankdata

    rows: dict[str, list[int]] = {}
    for n, group in enumerate(groups):
        rows.setdefault(group, []).append(n)
    column, deviations = np.asarray(values, dtype=float), np.zeros(len(values))
    for members in rows.values():
        deviations[members] = rankdata(column[members]) - (len(members) + 1) / 2
    return deviations

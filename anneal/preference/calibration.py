"""How far a reward model is right: the share of pairs in order, whether its certainty is earned, whether it counts
characters instead of reading."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from anneal.records import Metrics
from anneal.stats import agreement, intervals

if TYPE_CHECKING:
    from rich.table import Table

ALL = "all"
BINS = 5  # of certainty from 0.5 to 1


def _told(estimate: intervals.Estimate) -> Metrics:
    row = estimate.row()
    return {**row, "reason": intervals.why(row)}


def right(margin: float) -> float:
    """1 where chosen scores above rejected, half for a tie."""
    return 0.5 + 0.5 * ((margin > 0) - (margin < 0))


def by_kind(margins: Sequence[float], kinds: Sequence[str], items: Sequence[str]) -> dict[str, Metrics]:
    """{accuracy, margin}, each with the figures of all pairs and of each kind; intervals are clustered by item."""
    found: dict[str, Metrics] = {"accuracy": {}, "margin": {}}
    for kind in (ALL, *sorted(set(kinds))):
        own = [n for n, other in enumerate(kinds) if kind in (ALL, other)]
        clusters = [items[n] for n in own]
        found["accuracy"][kind] = _told(intervals.share([right(margins[n]) for n in own], clusters))
        found["margin"][kind] = _told(intervals.mean([margins[n] for n in own], clusters))
    return found


def calibration(margins: Sequence[float]) -> Metrics:
    """Whether pairs called with certainty p are in order p of the time: {n, bins, ece, brier}.

    The certainty is that of the side with the higher score, sigmoid(|chosen - rejected|): that chosen is the better
    one is true of every pair, and says nothing about probabilities. Brier is the mean (1 - P(chosen))^2, .25 for a
    model that always says one half.
    """
    value = np.asarray(margins, dtype=float)
    if not len(value):
        return {"n": 0, "bins": [], "ece": None, "brier": None}
    sure = 1 / (1 + np.exp(-np.abs(value)))
    hit = np.array([right(margin) for margin in margins])
    edges = np.linspace(0.5, 1, BINS + 1)
    place = np.minimum(((sure - 0.5) * 2 * BINS).astype(int), BINS - 1)
    bins, error = [], 0.0
    for n in range(BINS):
        own = place == n
        row = {"from": float(edges[n]), "to": float(edges[n + 1]), "n": int(own.sum()), "p": None, "right": None}
        if own.any():
            row |= {"p": float(sure[own].mean()), "right": float(hit[own].mean())}
            error += own.mean() * abs(float(sure[own].mean() - hit[own].mean()))
        bins.append(row)
    chosen = np.where(value >= 0, sure, 1 - sure)
    return {"n": len(value), "bins": bins, "ece": float(error), "brier": float(np.mean((1 - chosen) ** 2))}


def _ranks(values: Sequence[float], groups: np.ndarray) -> np.ndarray:
    """Ranks within each group, less the group's mean rank; equal values share a rank."""
    from scipy.stats import rankdata

    column, found = np.asarray(values, dtype=float), np.zeros(len(values))
    for group in np.unique(groups):
        own = groups == group
        found[own] = rankdata(column[own]) - (own.sum() + 1) / 2
    return found


def within(
    values: Sequence[float], others: Sequence[float], groups: Sequence[str], clusters: Sequence[str], seed: int
) -> Metrics:
    """Spearman's rank correlation within groups, pooled over them: {n, clusters, rho, low, high, reason}.

    Ranks are taken within each group, so that a type that asks for long texts shows nothing. The interval draws whole
    clusters.
    """
    names = np.asarray(groups, dtype=str)
    u, v = _ranks(values, names), _ranks(others, names)
    made: Metrics = {"n": len(values), "clusters": len(set(clusters)), "rho": None, "low": None, "high": None}
    if not (u.any() and v.any()):
        what = "no variance: within a type all are equal" if len(values) else "empty: there is nothing to measure"
        return {**made, "reason": what}

    def figure(rows: list[int]) -> float | None:
        size = float(np.sqrt((u[rows] ** 2).sum() * (v[rows] ** 2).sum()))
        return float(u[rows] @ v[rows]) / size if size else None

    low, high = agreement.interval(figure, clusters, seed)
    reason = f"{made['clusters']} clusters: an interval needs {agreement.FEWEST}" if low is None else ""
    return {**made, "rho": figure(list(range(len(u)))), "low": low, "high": high, "reason": reason}


def summary(rows: Sequence[Metrics], seed: int) -> Metrics:
    """All figures of held-out pairs {item, type, kind, chosen, rejected, characters: (of chosen, of rejected)}."""
    items, kinds = [row["item"] for row in rows], [row["kind"] for row in rows]
    margins = [row["chosen"] - row["rejected"] for row in rows]
    scores = [row[side] for side in ("chosen", "rejected") for row in rows]
    lengths = [row["characters"][side] for side in (0, 1) for row in rows]
    found = within(scores, lengths, [row["type"] for row in rows] * 2, items * 2, seed)
    figures = {**by_kind(margins, kinds, items), "calibration": calibration(margins), "length": found}
    return {"n": len(rows), **figures}


def table(numbers: Metrics) -> Table:
    """A row for each strategy: how many pairs are in order, and by how much."""
    from rich.table import Table

    def show(row: Metrics, form: str) -> str:
        if row["mean"] is None:
            return "-"
        span = "" if row["low"] is None else f" [{row['low']:{form}}, {row['high']:{form}}]"
        return f"{row['mean']:{form}}{span}"

    sure, follows = numbers["calibration"], numbers["length"]
    told = {"ECE": sure["ece"], "Brier": sure["brier"], "rank correlation with length": follows["rho"]}
    caption = ", ".join(f"{name} {'-' if value is None else format(value, '.3f')}" for name, value in told.items())
    made = Table(title="reward model on held-out pairs; [95% interval, clustered by item]", caption=caption)
    made.add_column("strategy", no_wrap=True)
    for heading in ("n", "accuracy", "margin"):
        made.add_column(heading, justify="right", no_wrap=True)
    for kind in sorted(numbers["accuracy"], key=lambda name: (name == ALL, name)):
        if kind == ALL:
            made.add_section()
        accuracy, margin = numbers["accuracy"][kind], numbers["margin"][kind]
        made.add_row(kind, str(accuracy["n"]), show(accuracy, ".3f"), show(margin, "+.2f"))
    return made


def show(numbers: Metrics) -> None:
    """The table, and in red what a high accuracy must be read with."""
    from rich.console import Console
    from rich.text import Text

    console = Console(width=None if Console().is_terminal else 120)
    console.print(table(numbers))
    for line in [*numbers["refusals"], *numbers["warnings"]]:
        console.print(Text(line, style="red"), soft_wrap=True)

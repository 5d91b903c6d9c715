"""Evaluation of a reward model on held-out pairs: pairwise accuracy, calibration, correlation with text length."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from anneal.records import Metrics
from anneal.stats import agreement, intervals

if TYPE_CHECKING:
    from rich.table import Table

ALL = "all"
# Of certainty from 0.5 to 1: a held-out set of some hundred pairs leaves some tens to each.
BINS = 5


def _reasoned(estimate: intervals.Estimate) -> Metrics:
    row = estimate.row()
    return {**row, "reason": intervals.why(row)}


def right(margin: float) -> float:
    """1 where chosen scores above rejected, half for a tie, else 0."""
    return 0.5 + 0.5 * ((margin > 0) - (margin < 0))


def by_kind(margins: Sequence[float], kinds: Sequence[str], items: Sequence[str]) -> dict[str, Metrics]:
    """{accuracy, margin}, each with the estimate over all pairs and over each kind; intervals are clustered by item.

    A margin is the score of chosen less that of rejected, in logits.
    """
    estimates: dict[str, Metrics] = {"accuracy": {}, "margin": {}}
    for kind in (ALL, *sorted(set(kinds))):
        rows = [n for n, other in enumerate(kinds) if kind in (ALL, other)]
        clusters = [items[n] for n in rows]
        estimates["accuracy"][kind] = _reasoned(intervals.share([right(margins[n]) for n in rows], clusters))
        estimates["margin"][kind] = _reasoned(intervals.mean([margins[n] for n in rows], clusters))
    return estimates


def calibration(margins: Sequence[float]) -> Metrics:
    """Whether pairs of predicted certainty p are in the right order p of the time: {n, bins, ece, brier}.

    The certainty is that of the side with the higher score, sigmoid(|chosen - rejected|): that chosen is the better
    one is true of every pair, and says nothing about probabilities. `ece` is the expected calibration error over
    BINS bins of equal width. Brier is the mean (1 - P(chosen))^2, .25 for a model that always says one half.
    """
    margin = np.asarray(margins, dtype=float)
    if not len(margin):
        return {"n": 0, "bins": [], "ece": None, "brier": None}
    certainty = 1 / (1 + np.exp(-np.abs(margin)))
    correct = np.array([right(value) for value in margins])
    edges = np.linspace(0.5, 1, BINS + 1)
    # The last bin includes its upper end, a certainty of 1.
    bin_of = np.minimum(((certainty - 0.5) * 2 * BINS).astype(int), BINS - 1)
    bins, error = [], 0.0
    for n in range(BINS):
        members = bin_of == n
        row = {"from": float(edges[n]), "to": float(edges[n + 1]), "n": int(members.sum()), "p": None, "right": None}
        if members.any():
            mean_certainty, accuracy = float(certainty[members].mean()), float(correct[members].mean())
            row |= {"p": mean_certainty, "right": accuracy}
            error += members.mean() * abs(mean_certainty - accuracy)
        bins.append(row)
    p_chosen = np.where(margin >= 0, certainty, 1 - certainty)
    return {"n": len(margin), "bins": bins, "ece": float(error), "brier": float(np.mean((1 - p_chosen) ** 2))}


def length_correlation(
    scores: Sequence[float], lengths: Sequence[float], types: Sequence[str], items: Sequence[str], seed: int
) -> Metrics:
    """Rank correlation of score and length within the content types: {n, clusters, rho, low, high, reason}."""
    return agreement.within(
        scores,
        lengths,
        types,
        items,
        seed,
        unit="clusters",
        constant="no variance: within a type all are equal",
        empty="empty: there is nothing to measure",
    )


def summary(rows: Sequence[Metrics], seed: int) -> Metrics:
    """All metrics of held-out pairs {item, type, kind, chosen, rejected, characters: (of chosen, of rejected)}."""
    items, kinds = [row["item"] for row in rows], [row["kind"] for row in rows]
    margins = [row["chosen"] - row["rejected"] for row in rows]
    scores = [row[side] for side in ("chosen", "rejected") for row in rows]
    lengths = [row["characters"][side] for side in (0, 1) for row in rows]
    length = length_correlation(scores, lengths, [row["type"] for row in rows] * 2, items * 2, seed)
    return {
        "n": len(rows),
        **by_kind(margins, kinds, items),
        "calibration": calibration(margins),
        "length": length,
    }


def table(metrics: Metrics) -> Table:
    """A row for each strategy: the share of pairs in the right order, and the mean margin."""
    from rich.table import Table

    def show(row: Metrics, form: str) -> str:
        if row["mean"] is None:
            return "-"
        span = "" if row["low"] is None else f" [{row['low']:{form}}, {row['high']:{form}}]"
        return f"{row['mean']:{form}}{span}"

    certainty = metrics["calibration"]
    values = {
        "ECE": certainty["ece"],
        "Brier": certainty["brier"],
        "rank correlation with length": metrics["length"]["rho"],
    }
    caption = ", ".join(f"{name} {'-' if value is None else format(value, '.3f')}" for name, value in values.items())
    table = Table(title="reward model on held-out pairs; [95% interval, clustered by item]", caption=caption)
    table.add_column("strategy", no_wrap=True)
    for heading in ("n", "accuracy", "margin"):
        table.add_column(heading, justify="right", no_wrap=True)
    for kind in sorted(metrics["accuracy"], key=lambda name: (name == ALL, name)):
        if kind == ALL:
            table.add_section()
        accuracy, margin = metrics["accuracy"][kind], metrics["margin"][kind]
        table.add_row(kind, str(accuracy["n"]), show(accuracy, ".3f"), show(margin, "+.2f"))
    return table


def show(metrics: Metrics) -> None:
    """Prints the table, then in red the refusals and warnings that qualify a high accuracy."""
    from rich.console import Console
    from rich.text import Text

    # Without a terminal rich assumes 80 columns, which cuts the table.
    console = Console(width=None if Console().is_terminal else 120)
    console.print(table(metrics))
    for line in [*metrics["refusals"], *metrics["warnings"]]:
        console.print(Text(line, style="red"), soft_wrap=True)

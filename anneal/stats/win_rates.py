"""Which of two texts a judge prefers, shown in both orders; what the order alone decides; who is stronger.

A verdict row is {id, item, first, second, verdict, outcome, sample, judge_id}: `first` and `second` name the systems
in the order shown, the verdict is one of POINTS about them. One order alone measures position and system together,
so that a pair counts only where both orders have a verdict of the same judge.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from anneal.records import Metrics
from anneal.stats import intervals

Row = Mapping[str, Any]

# Points of the text shown first. "Much better" earns no more: a row that counts thrice is two rows that nobody saw.
POINTS = {"A>>B": 1.0, "A>B": 1.0, "tie": 0.5, "B>A": 0.0, "B>>A": 0.0}
CONSISTENT = 0.8  # share of swapped pairs that keep their winner, below which no win rate is a headline


@dataclass(frozen=True)
class Pair:
    """One text in both orders: what the system earned (0, 0.5, 1) when shown first, and when shown second."""

    id: str
    cluster: str
    first: float
    second: float

    @property
    def points(self) -> float:
        return (self.first + self.second) / 2


def points(row: Row, system: str) -> float:
    """What `system` earned in this row: 1 for a win, 0.5 for a tie, 0 for a loss."""
    return POINTS[row["verdict"]] if row["first"] == system else 1 - POINTS[row["verdict"]]


def swapped(rows: Sequence[Row], system: str, other: str, sample: int = 0) -> tuple[list[Pair], int]:
    """The pairs of two systems in id order, and how many lack an order, a verdict, or one judge for both."""
    found: dict[str, dict[bool, Row]] = {}
    for row in rows:
        if {row["first"], row["second"]} == {system, other} and row["sample"] == sample:
            orders = found.setdefault(str(row["id"]), {})
            if (side := row["first"] == system) in orders:
                raise ValueError(f"{row['id']}: two verdicts for one order and sample")
            orders[side] = row
    made = []
    for name, orders in sorted(found.items()):
        whole = len(orders) == 2 and all(row["outcome"] == "ok" for row in orders.values())
        if whole and orders[True].get("judge_id") == orders[False].get("judge_id"):
            ours, theirs = points(orders[True], system), points(orders[False], system)
            made.append(Pair(name, str(orders[True]["item"]), ours, theirs))
    return made, len(found) - len(made)


def orders(pairs: Sequence[Pair]) -> Metrics:
    """What swapping does.

    {n, consistency, low, high, flips_first, flips_second, half, bias, p, first_share, ties, reason}.
    consistency: share of pairs with the same result (win, tie, loss) in both orders. A flip keeps the position and
    changes the winner: both times the first text (flips_first) or the second; `half` are a win and a tie. bias =
    (FF - SS) / (FF + SS) with its exact two-sided binomial p. first_share: of the decided verdicts, those for what
    was shown first.
    """
    from scipy.stats import binomtest

    kept = intervals.rate([p.first == p.second for p in pairs], [p.cluster for p in pairs])
    ff, ss = (sum((p.first, p.second) == ends for p in pairs) for ends in ((1, 0), (0, 1)))
    firsts = [x for p in pairs for x in (p.first, 1 - p.second) if x != 0.5]
    ties = sum(p.first == p.second == 0.5 for p in pairs)
    reason = "" if ff + ss else "no flips: the order changed no winner" if pairs else "empty: no pair has both orders"
    return {
        "n": len(pairs),
        "consistency": kept.mean,
        "low": kept.low,
        "high": kept.high,
        "flips_first": ff,
        "flips_second": ss,
        "half": sum(p.first != p.second for p in pairs) - ff - ss,
        "bias": (ff - ss) / (ff + ss) if ff + ss else None,
        "p": float(binomtest(ff, ff + ss).pvalue) if ff + ss else None,
        "first_share": sum(firsts) / len(firsts) if firsts else None,
        "ties": ties,
        "reason": reason,
    }


def win_rate(pairs: Sequence[Pair]) -> Metrics:
    """Mean points of the system in 0..1, ties half, over both orders: Estimate, counts, the reason for no interval.

    170 wins of 170 keep a Wilson bound; all ties have no interval, since nothing in them tells 0.5 from chance.
    """
    found = intervals.share([p.points for p in pairs], [p.cluster for p in pairs]).row()
    won, lost = (sum(p.points > 0.5 for p in pairs), sum(p.points < 0.5 for p in pairs))
    ties = bool(pairs) and all(p.first == p.second == 0.5 for p in pairs)
    if ties:
        found |= {"low": None, "high": None}
    reason = "all ties: every verdict is a tie" if ties else intervals.why(found)
    return {**found, "won": won, "tied": len(pairs) - won - lost, "lost": lost, "reason": reason}


def floor(value: float) -> str:
    """A share in whole per cent, rounded down: 79.9% is not 80%."""
    return f"{int(value * 100 + 1e-9)}%"


def withheld(order: Row, win: Row) -> str:
    """Why the win rate is no headline, in words; "" where it may be one."""
    if not order["n"]:
        return "withheld: no pair has a verdict in both orders"
    if order["consistency"] < CONSISTENT:
        kept, least = floor(order["consistency"]), floor(CONSISTENT)
        return f"withheld: the judge keeps its verdict in {kept} of swapped pairs, below {least}"
    return f"withheld: {win['reason']}" if win["low"] is None else ""


def sentence(order: Row, win: Row) -> str:
    """The win rate with its interval and n, or why it is withheld; and a side that the judge prefers."""
    size = "wins {mean:.0%} [{low:.0%}, {high:.0%}] of {n} pairs" + (
        ", {tied} ties counted half" if win["tied"] else ""
    )
    said = withheld(order, win) or size.format(**win)
    if order["p"] is not None and order["p"] < 0.05:
        side = "first" if order["bias"] > 0 else "second"
        counts = f"{order['flips_first']} to {order['flips_second']}"
        said += f"; it prefers what it is shown {side} (flips {counts}, p = {order['p']:.2g})"
    return said


def repeats(rows: Sequence[Row], system: str, other: str) -> Metrics:
    """Verdicts asked again in the same order: {n, stability, consistency, beyond, reason}; `n` counts text and order.

    stability: share of sample pairs of one order with the same result, mean over text and order. consistency: the same
    for samples of opposite orders. beyond = stability - consistency: flips that the judge's own chance does not make.
    """
    groups: dict[tuple[str, bool], dict[int, float]] = {}
    for row in rows:
        if {row["first"], row["second"]} == {system, other} and row["outcome"] == "ok":
            groups.setdefault((str(row["id"]), row["first"] == system), {})[row["sample"]] = points(row, system)
    again = {key: [*g.values()] for key, g in sorted(groups.items()) if len(g) > 1}
    both = sorted({name for name, _ in again if (name, True) in again and (name, False) in again})
    # Both shares are over the same texts, or their difference would compare texts and not orders.
    chosen = [again[i, side] for i in both for side in (True, False)] if both else [*again.values()]
    made: Metrics = {"n": len(chosen), "stability": None, "consistency": None, "beyond": None}
    if not chosen:
        return {**made, "reason": "empty: no pair was asked twice in one order"}
    stability = _mean([_mean([a == b for a, b in combinations(values, 2)]) for values in chosen])
    if not both:
        return {**made, "stability": stability, "reason": "one order: no text was asked twice in both"}
    kept = _mean([_mean([a == b for a in again[i, True] for b in again[i, False]]) for i in both])
    return {**made, "stability": stability, "consistency": kept, "beyond": stability - kept, "reason": ""}


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def matrix(rows: Sequence[Row], systems: Sequence[str]) -> dict[str, dict[str, Metrics]]:
    """system -> other -> its win rate against that one: what is shown for three systems instead of strengths."""
    return {a: {b: win_rate(swapped(rows, a, b)[0]) for b in systems if b != a} for a in systems}

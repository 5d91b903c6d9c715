"""Pairwise summary: the metrics of every pair of systems that a judge compared, and of the control pairs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from anneal.records import Metrics, Verdict
from anneal.stats import length_control, missing, win_rates
from anneal.systems import SYSTEMS

CONTROLS = ("golden:again", "golden:truncated")
BLIND = "a judge of rules scores each text alone and cannot see the order: the consistency is 1 by construction"


def summary(rows: Sequence[Verdict], pair: str, kind: str) -> Metrics:
    """The metrics of one pair of systems, "tuned:base", from its rows; `kind` is that of the judge's scores.

    `bounds` is the win rate with every lost pair counted as a loss, and as a win.
    """
    left, _, right = pair.partition(":")
    part = [row for row in rows if row["pair"] == pair]
    pairs, lost = win_rates.swapped(part, left, right)
    order, win = win_rates.orders(pairs), win_rates.win_rate(pairs)
    if pairs and kind == "rule score":
        order["reason"] = BLIND
    types = {row["id"]: row["type"] for row in part}
    # Characters of the left system's text less that of the right one's.
    gaps = {r["id"]: (r["lengths"][0] - r["lengths"][1]) * (1 if r["first"] == left else -1) for r in part}
    by_type: dict[str, Metrics] = {}
    for name in sorted(set(types.values())):
        by_type[name] = win_rates.win_rate([p for p in pairs if types[p.id] == name])
    controlled, withheld = length_control.controlled(pairs, gaps), win_rates.withheld(order, win)
    outcomes = Counter(row["outcome"] for row in part)
    bounds = missing.bounds([*(p.points for p in pairs), *[None] * lost], 0, 1)
    return {
        "n": len(types),
        "orders": order,
        "win": win,
        "withheld": withheld,
        "sentence": win_rates.sentence(order, win),
        "by_type": by_type,
        "longer": length_control.longer_wins(pairs, gaps),
        "controlled": controlled,
        # A judge that follows the order says nothing about length either.
        "length_sentence": withheld or length_control.sentence(controlled),
        "repeats": win_rates.repeats(part, left, right),
        "failed": {"n": len(part) - outcomes["ok"], "outcomes": dict(outcomes), "pairs_lost": lost, "bounds": bounds},
    }


def control(rows: Sequence[Verdict], pair: str) -> Metrics:
    """A pair of known outcome: a reference beside itself must tie, and beside its own beginning it must win."""
    left, _, right = pair.partition(":")
    pairs, _ = win_rates.swapped([row for row in rows if row["pair"] == pair], left, right)
    order, win = win_rates.orders(pairs), win_rates.win_rate(pairs)
    sentence = "won {won}, tied {tied}, lost {lost} of {n} pairs".format(**win)
    if pairs:
        sentence += f"; the verdict stays in {win_rates.floor(order['consistency'])} of swapped pairs"
    return {"n": len(pairs), "orders": order, "win": win, "sentence": sentence}


def failed(rows: Sequence[Verdict], pairs: Sequence[str]) -> Metrics:
    """Whether one pair of systems loses more verdicts than another."""
    counts: dict[str, tuple[int, int]] = {}
    for pair in pairs:
        outcomes = [row["outcome"] for row in rows if row["pair"] == pair]
        counts[pair] = sum(outcome != "ok" for outcome in outcomes), len(outcomes)
    tests = missing.differential(counts)
    return {"failed": counts, **tests, "sentence": missing.sentence(counts, tests)}


def whole(rows: Sequence[Verdict], kind: str) -> Metrics:
    """All metrics of the rows of data/preferences.jsonl: every pair, the controls, the win matrix, the failures."""
    pairs = [pair for pair in dict.fromkeys(row["pair"] for row in rows) if pair not in CONTROLS]
    systems = [system for system in SYSTEMS if any(system in pair.split(":") for pair in pairs)]
    return {
        "pairs": {pair: summary(rows, pair, kind) for pair in pairs},
        "controls": {pair: control(rows, pair) for pair in CONTROLS},
        "matrix": win_rates.matrix(rows, systems),
        "missing": failed(rows, pairs),
    }

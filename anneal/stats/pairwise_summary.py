"""What the verdicts on two systems come to: the win rate, what speaks against it, and the pairs of known outcome."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from anneal.records import Metrics, Record
from anneal.stats import length_control, missing, win_rates
from anneal.systems import SYSTEMS

CONTROLS = ("golden:again", "golden:truncated")
BLIND = "a judge of rules scores each text alone and cannot see the order: the consistency is 1 by construction"


def summary(rows: Sequence[Record], pair: str, kind: str) -> Metrics:
    """The numbers of one pair of systems, "tuned:base", from its rows; `kind` is what the judge's scores are."""
    left, _, right = pair.partition(":")
    mine = [row for row in rows if row["pair"] == pair]
    found, lost = win_rates.swapped(mine, left, right)
    order, win = win_rates.orders(found), win_rates.win_rate(found)
    if found and kind == "rule score":
        order["reason"] = BLIND
    types = {row["id"]: row["type"] for row in mine}
    gaps = {r["id"]: (r["lengths"][0] - r["lengths"][1]) * (1 if r["first"] == left else -1) for r in mine}
    of = {each: [p for p in found if types[p.id] == each] for each in sorted(set(types.values()))}
    level, withheld = length_control.controlled(found, gaps), win_rates.withheld(order, win)
    outcomes = Counter(row["outcome"] for row in mine)
    ends = missing.bounds([*(p.points for p in found), *[None] * lost], 0, 1)
    return {
        "n": len(types),
        "orders": order,
        "win": win,
        "withheld": withheld,
        "sentence": win_rates.sentence(order, win),
        "by_type": {each: win_rates.win_rate(part) for each, part in of.items()},
        "longer": length_control.longer_wins(found, gaps),
        "controlled": level,
        # A judge that follows the order says nothing of length either.
        "length_sentence": withheld or length_control.sentence(level),
        "repeats": win_rates.repeats(mine, left, right),
        # `bounds`: the win rate with every lost pair taken for lost, and for won.
        "failed": {"n": len(mine) - outcomes["ok"], "outcomes": dict(outcomes), "pairs_lost": lost, "bounds": ends},
    }


def control(rows: Sequence[Record], pair: str) -> Metrics:
    """A pair whose outcome is known: a text beside itself must tie, and beside its own beginning win."""
    left, _, right = pair.partition(":")
    found, _ = win_rates.swapped([row for row in rows if row["pair"] == pair], left, right)
    order, win = win_rates.orders(found), win_rates.win_rate(found)
    said = "won {won}, tied {tied}, lost {lost} of {n} pairs".format(**win)
    if found:
        said += f"; the verdict stays in {win_rates.floor(order['consistency'])} of swapped pairs"
    return {"n": len(found), "orders": order, "win": win, "sentence": said}


def failed(rows: Sequence[Record], pairs: Sequence[str]) -> Metrics:
    """Whether one pair of systems loses more verdicts than another."""
    outcomes = {pair: [row["outcome"] for row in rows if row["pair"] == pair] for pair in pairs}
    counts = {pair: (sum(outcome != "ok" for outcome in each), len(each)) for pair, each in outcomes.items()}
    gone = missing.differential(counts)
    return {"failed": counts, **gone, "sentence": missing.sentence(counts, gone)}


def whole(rows: Sequence[Record], kind: str) -> Metrics:
    """All that the rows of data/preferences.jsonl say: every pair, the controls, who beats whom, what failed."""
    pairs = [pair for pair in dict.fromkeys(row["pair"] for row in rows) if pair not in CONTROLS]
    met = [system for system in SYSTEMS if any(system in pair.split(":") for pair in pairs)]
    return {
        "pairs": {pair: summary(rows, pair, kind) for pair in pairs},
        "controls": {pair: control(rows, pair) for pair in CONTROLS},
        "matrix": win_rates.matrix(rows, met),
        "missing": failed(rows, pairs),
    }

"""One judge against another on the very same texts: what a new rubric or model did to the scores by itself.

Rows are judgements, old and new, of three systems. Only texts that both judges scored are compared; the shift of each
system says whether the scale moved, and that of the gaps between systems whether the new judge favours one of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations, pairwise

from anneal.records import Metrics, Record
from anneal.stats import agreement, intervals

Rows = Mapping[str, Sequence[Record]]  # system -> judgements

SCALE = (1, 2, 3, 4, 5)
TOP = 5
SURE = 0.05


def pairs(old: Sequence[Record], new: Sequence[Record]) -> list[tuple[Record, Record]]:
    """The two judgements of each text that another judge scored, in id order; what failed in one is no change."""
    after = {row["id"]: row for row in new}
    both = ((row, after[row["id"]]) for row in sorted(old, key=lambda row: str(row["id"])) if row["id"] in after)
    return [(a, b) for a, b in both if a["judge_id"] != b["judge_id"] and a["outcome"] == b["outcome"] == "ok"]


def shift(values: Sequence[float], items: Sequence[str], seed: int) -> Metrics:
    """A paired change: mean, its interval over items, p of sign flips; where all texts moved alike no interval."""
    # Rounded: 4.6 - 3.6 is not 3.15 - 2.15 to a computer, and a difference of 1e-16 is as sure as it is nothing.
    exact = [round(value, 9) for value in values]
    found = intervals.mean(exact, items).row()
    return {**found, "p": intervals.sign_flip(exact, items, seed), "reason": intervals.why(found)}


def dimensions(found: Sequence[tuple[Record, Record]], seed: int) -> dict[str, Metrics]:
    """By dimension that both rubrics hold: its shift, kappa of old and new, and the share of top scores of both."""
    made = {}
    for name in sorted({d for a, b in found for d in a["dims"].keys() & b["dims"].keys()}):
        part = [(a, b) for a, b in found if name in a["dims"] and name in b["dims"]]
        old, new = ([pair[i]["dims"][name]["score"] for pair in part] for i in (0, 1))
        items = [a["item"] for a, _ in part]
        both = agreement.compared(old, new, SCALE, items, seed, quadratic=True)
        top = [sum(x == TOP for x in marks) / len(part) for marks in (old, new)]
        made[name] = {
            "shift": shift([b - a for a, b in zip(old, new, strict=True)], items, seed),
            "agreement": both,
            "top": {"before": top[0], "after": top[1]},
        }
    return made


def gap(found: Mapping[str, list[tuple[Record, Record]]], left: str, right: str, seed: int) -> Metrics:
    """How far left - right moved over the texts that both systems have; winners: the share of texts whose better
    system is another one now."""
    ours, theirs = ({a["id"]: (a, b) for a, b in found[name]} for name in (left, right))
    ids = sorted(ours.keys() & theirs.keys())
    old, new = ([ours[i][k]["score"] - theirs[i][k]["score"] for i in ids] for k in (0, 1))
    flips = sum((x > 0) - (x < 0) != (y > 0) - (y < 0) for x, y in zip(old, new, strict=True))
    moved = shift([y - x for x, y in zip(old, new, strict=True)], [ours[i][0]["item"] for i in ids], seed)
    return {**moved, "winners": flips / len(ids) if ids else None}


def order(means: Mapping[str, float]) -> str:
    """Best first, equal ones together: `golden > tuned = base`."""
    ranked = sorted(means, key=lambda name: -means[name])
    words = ranked[:1]
    for before, name in pairwise(ranked):
        words += ["=" if abs(means[before] - means[name]) <= intervals.TINY else ">", name]
    return " ".join(words)


def drift(old: Rows, new: Rows, seed: int) -> Metrics:
    """{n, systems, dims, gaps, order, sentence} of two judges; `n` is 0 for one and the same."""
    found = {name: pairs(old[name], new[name]) for name in old if name in new}
    found = {name: part for name, part in found.items() if part}
    every = [pair for part in found.values() for pair in part]
    systems = {
        name: shift([b["score"] - a["score"] for a, b in part], [a["item"] for a, _ in part], seed)
        for name, part in found.items()
    }
    means = [{n: sum(p[k]["score"] for p in part) / len(part) for n, part in found.items()} for k in (0, 1)]
    made: Metrics = {
        "n": len(every),
        "systems": systems,
        "dims": dimensions(every, seed),
        "gaps": {f"{a}:{b}": gap(found, a, b, seed) for a, b in combinations(found, 2)},
        "order": {"before": order(means[0]), "after": order(means[1])},
    }
    # One family: of six intervals one in four times some leaves out 0 by chance.
    tests = {**systems, **made["gaps"]}
    for name, p in intervals.holm({name: each["p"] for name, each in tests.items()}).items():
        tests[name]["p_holm"] = p
    return {**made, "sentence": sentence(made)}


def sure(numbers: Metrics) -> bool:
    return numbers["p_holm"] is not None and bool(numbers["p_holm"] < SURE)


def size(numbers: Metrics) -> str:
    if numbers["mean"] is None:
        return "not known"
    if numbers["low"] is None:
        return f"{numbers['mean']:+.2f} throughout" if abs(numbers["mean"]) > intervals.TINY else "unchanged"
    return "{mean:+.2f} [{low:+.2f}, {high:+.2f}]".format(**numbers)


def sentence(numbers: Metrics) -> str:
    """What the new judge did, in a line: each system's shift, the gaps that moved, and whose order changed."""
    if not numbers["n"]:
        return "the same judge, or no text that both scored: no drift to measure"
    shifts = ", ".join(f"{name} {size(each)}" for name, each in numbers["systems"].items())
    moved = {name: each for name, each in numbers["gaps"].items() if sure(each)}
    gaps = ", ".join(f"{name.replace(':', ' - ')} moved by {size(each)}" for name, each in moved.items())
    if gaps:
        gaps = f"the new judge sees the systems otherwise: {gaps}"
    elif any(map(sure, numbers["systems"].values())):
        gaps = "the scale moved, no gap between systems did"
    else:
        gaps = "no shift is distinguishable from none"
    before, after = numbers["order"]["before"], numbers["order"]["after"]
    ranks = f"order {after}, as before" if before == after else f"order was {before}, is {after}"
    return f"the judge changed: {shifts}; {gaps}; {ranks}"

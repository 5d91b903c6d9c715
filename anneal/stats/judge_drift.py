"""Judge drift: how a new rubric or judge model moves the scores of the very same texts.

Rows are judgements, old and new, of each system. Only texts that both judges scored are compared. The shift of each
system says whether the scale moved; the shift of the gaps between systems, whether the new judge favours one of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations, pairwise

from anneal.records import Judgement, Metrics
from anneal.stats import agreement, intervals

Rows = Mapping[str, Sequence[Judgement]]  # system -> judgements
Change = tuple[Judgement, Judgement]  # the old and the new judgement of one text

SCALE = (1, 2, 3, 4, 5)  # the levels of every dimension
TOP = 5
SURE = 0.05  # Holm-adjusted p below which a shift is called sure


def pairs(old: Sequence[Judgement], new: Sequence[Judgement]) -> list[Change]:
    """The two judgements of each text whose judge changed, in id order; a text that failed in either is left out."""
    after = {row["id"]: row for row in new}
    changes = []
    for row in sorted(old, key=lambda row: str(row["id"])):
        other = after.get(row["id"])
        if other and row["judge_id"] != other["judge_id"] and row["outcome"] == other["outcome"] == "ok":
            changes.append((row, other))
    return changes


def _score(row: Judgement) -> float:
    """The score of a row whose outcome is ok."""
    assert row["score"] is not None
    return row["score"]


def shift(values: Sequence[float], items: Sequence[str], seed: int) -> Metrics:
    """A paired change: mean, its interval over items, p of sign flips; no interval where all texts moved alike."""
    # Rounded: in floating point 4.6 - 3.6 is not 3.15 - 2.15, and a difference of 1e-16 would be significant.
    exact = [round(value, 9) for value in values]
    estimate = intervals.mean(exact, items).row()
    return {**estimate, "p": intervals.sign_flip(exact, items, seed), "reason": intervals.why(estimate)}


def dimensions(changes: Sequence[Change], seed: int) -> dict[str, Metrics]:
    """dimension of both rubrics -> its shift, kappa of old and new, and the share of top scores of both."""
    metrics: dict[str, Metrics] = {}
    names = {name for old, new in changes for name in old["dims"].keys() & new["dims"].keys()}
    for name in sorted(names):
        part = [change for change in changes if name in change[0]["dims"] and name in change[1]["dims"]]
        before, after = ([change[k]["dims"][name]["score"] for change in part] for k in (0, 1))
        items = [old["item"] for old, _ in part]
        top = [sum(score == TOP for score in scores) / len(part) for scores in (before, after)]
        metrics[name] = {
            "shift": shift([b - a for a, b in zip(before, after, strict=True)], items, seed),
            "agreement": agreement.compared(before, after, SCALE, items, seed, quadratic=True),
            "top": {"before": top[0], "after": top[1]},
        }
    return metrics


def gap(changes: Mapping[str, list[Change]], left: str, right: str, seed: int) -> Metrics:
    """The shift of left - right over the texts that both systems have.

    winners: the share of texts whose better system is another one under the new judge.
    """
    ours, theirs = ({change[0]["id"]: change for change in changes[name]} for name in (left, right))
    ids = sorted(ours.keys() & theirs.keys())
    before, after = ([_score(ours[i][k]) - _score(theirs[i][k]) for i in ids] for k in (0, 1))
    flips = sum((x > 0) - (x < 0) != (y > 0) - (y < 0) for x, y in zip(before, after, strict=True))
    moved = shift([y - x for x, y in zip(before, after, strict=True)], [ours[i][0]["item"] for i in ids], seed)
    return {**moved, "winners": flips / len(ids) if ids else None}


def order(means: Mapping[str, float]) -> str:
    """The systems in words, best first: `golden > tuned = base`."""
    ranked = sorted(means, key=lambda name: -means[name])
    words = ranked[:1]
    for before, name in pairwise(ranked):
        words += ["=" if abs(means[before] - means[name]) <= intervals.TINY else ">", name]
    return " ".join(words)


def drift(old: Rows, new: Rows, seed: int) -> Metrics:
    """{n, systems, dims, gaps, order, sentence} of two judges; `n` counts texts, 0 for the same judge."""
    changes: dict[str, list[Change]] = {}
    for name in old:
        part = pairs(old[name], new[name]) if name in new else []
        if part:
            changes[name] = part
    every = [change for part in changes.values() for change in part]
    systems: dict[str, Metrics] = {}
    for name, part in changes.items():
        systems[name] = shift([_score(b) - _score(a) for a, b in part], [a["item"] for a, _ in part], seed)
    means = [{n: sum(_score(change[k]) for change in part) / len(part) for n, part in changes.items()} for k in (0, 1)]
    metrics: Metrics = {
        "n": len(every),
        "systems": systems,
        "dims": dimensions(every, seed),
        "gaps": {f"{a}:{b}": gap(changes, a, b, seed) for a, b in combinations(changes, 2)},
        "order": {"before": order(means[0]), "after": order(means[1])},
    }
    # One Holm family: of six 95% intervals one in four times some excludes 0 by chance.
    tests = {**systems, **metrics["gaps"]}
    for name, p in intervals.holm({name: test["p"] for name, test in tests.items()}).items():
        tests[name]["p_holm"] = p
    return {**metrics, "sentence": sentence(metrics)}


def sure(change: Metrics) -> bool:
    """Whether a shift differs from 0 in its family of tests."""
    return change["p_holm"] is not None and bool(change["p_holm"] < SURE)


def size(change: Metrics) -> str:
    """A shift in words, with its interval."""
    if change["mean"] is None:
        return "not known"
    if change["low"] is None:
        return f"{change['mean']:+.2f} throughout" if abs(change["mean"]) > intervals.TINY else "unchanged"
    return "{mean:+.2f} [{low:+.2f}, {high:+.2f}]".format(**change)


def sentence(metrics: Metrics) -> str:
    """The drift in a line: the shift of each system, the gaps that moved, and the order of the systems."""
    if not metrics["n"]:
        return "the same judge, or no text that both scored: no drift to measure"
    shifts = ", ".join(f"{name} {size(change)}" for name, change in metrics["systems"].items())
    moved = {name: change for name, change in metrics["gaps"].items() if sure(change)}
    gaps = ", ".join(f"{name.replace(':', ' - ')} moved by {size(change)}" for name, change in moved.items())
    if gaps:
        gaps = f"the new judge sees the systems otherwise: {gaps}"
    elif any(map(sure, metrics["systems"].values())):
        gaps = "the scale moved, no gap between systems did"
    else:
        gaps = "no shift is distinguishable from none"
    before, after = metrics["order"]["before"], metrics["order"]["after"]
    ranks = f"order {after}, as before" if before == after else f"order was {before}, is {after}"
    return f"the judge changed: {shifts}; {gaps}; {ranks}"

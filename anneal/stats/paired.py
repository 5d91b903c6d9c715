"""One experiment against another on the same texts under the same judge: how much, how sure, and the words for it.

A score means something only beside scores of the same judge, so that texts judged by another one are left out and
counted. An undecided difference is printed with what this many clusters could have found, never as "no effect".
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from anneal.records import Metrics
from anneal.stats import intervals
from anneal.stats.intervals import Estimate

Row = Mapping[str, Any]
State = Literal["none", "open", "equivalent", "noise", "higher", "lower"]

SURE = 0.05


@dataclass(frozen=True)
class Matched:
    """The values that can be compared, by id; the cluster of each id; how many ids cannot be, by cause."""

    left: dict[str, float]
    right: dict[str, float]
    clusters: dict[str, str]
    left_out: dict[str, int]


def scored(row: Row) -> float | None:
    return row["score"] if row["outcome"] == "ok" else None


def matched(left: Sequence[Row], right: Sequence[Row], value: Callable[[Row], float | None] = scored) -> Matched:
    """Rows {id, item, outcome, score, judge_id} of two experiments, side by side where id, item and judge are equal."""
    ours, theirs = {str(r["id"]): r for r in left}, {str(r["id"]): r for r in right}
    if len(ours) < len(left) or len(theirs) < len(right):
        raise ValueError("an id stands twice on one side: one row for each text")
    both = sorted(ours.keys() & theirs.keys())
    out = {"absent": len(ours.keys() ^ theirs.keys()), "other_item": 0, "other_judge": 0, "unscored": 0}
    found = Matched({}, {}, {}, out)
    for name in both:
        a, b = ours[name], theirs[name]
        x, y = value(a), value(b)
        if a["item"] != b["item"] or a.get("sheet") != b.get("sheet"):
            out["other_item"] += 1
        elif a.get("judge_id") != b.get("judge_id"):
            out["other_judge"] += 1
        elif x is None or y is None:
            out["unscored"] += 1
        else:
            found.left[name], found.right[name], found.clusters[name] = float(x), float(y), str(a["item"])
    return found


def equivalence(estimate: Estimate, margin: float) -> float | None:
    """p-value of two one-sided t tests (TOST, Schuirmann 1987) that the mean lies in -margin..margin, with t(C-1).

    Below 0.05 exactly where the 90% interval lies inside the margin, which is in the unit of the mean.
    """
    from scipy.stats import t

    if not estimate.se or estimate.mean is None:
        return None
    return float(t.sf((margin - abs(estimate.mean)) / estimate.se, estimate.clusters - 1))


def difference(pair: Matched, seed: int, margin: float) -> Metrics:
    """left - right: Estimate, sign-flip p, minimum detectable effect, TOST p at `margin`, or the reason for none."""
    ids = sorted(pair.left)
    gaps, names = [pair.left[i] - pair.right[i] for i in ids], [pair.clusters[i] for i in ids]
    estimate = intervals.mean(gaps, names)
    ties = bool(gaps) and max(map(abs, gaps)) <= intervals.TINY
    return {
        **estimate.row(),
        "p": intervals.sign_flip(gaps, names, seed),
        "detectable": intervals.detectable(estimate),
        "margin": margin,
        "p_equivalent": equivalence(estimate, margin),
        "reason": "all ties: no score differs" if ties else intervals.why(estimate.row()),
        "left_out": pair.left_out,
    }


def dimension(name: str) -> Callable[[Row], float | None]:
    """What reads one dimension of a judged row; None where the judge gave no score or the rubric has no such one."""
    return lambda row: row["dims"][name]["score"] if row["outcome"] == "ok" and name in row["dims"] else None


def differences(left: Sequence[Row], right: Sequence[Row], seed: int, margin: float) -> dict[str, dict[str, Metrics]]:
    """type -> dimension -> difference, all in one Holm family: nine types of five dimensions are 45 chances to err."""
    made: dict[str, dict[str, Metrics]] = {}
    for kind in sorted({row["type"] for row in left} & {row["type"] for row in right}):
        ours, theirs = ([row for row in rows if row["type"] == kind] for rows in (left, right))
        names = sorted({name for row in (*ours, *theirs) for name in row["dims"]})
        made[kind] = {n: difference(matched(ours, theirs, dimension(n)), seed, margin) for n in names}
    raw = {f"{kind}\n{name}": part["p"] for kind, parts in made.items() for name, part in parts.items()}
    for key, p in intervals.holm(raw).items():
        kind, _, name = key.partition("\n")
        made[kind][name]["p_holm"] = p
    return made


def mcnemar(left: Mapping[str, bool], right: Mapping[str, bool]) -> Metrics:
    """Exact McNemar test of two pass rates on the ids that both hold: binomial over the ids where one side passes.

    It takes texts for independent. Texts of one item are not, so that `difference` on 0 and 1 decides between
    experiments, and this one stands beside it for whoever expects it.
    """
    from scipy.stats import binomtest

    ids = left.keys() & right.keys()
    cells = {(a, b): sum((bool(left[i]), bool(right[i])) == (a, b) for i in ids) for a in (1, 0) for b in (1, 0)}
    gained, lost = cells[1, 0], cells[0, 1]
    split = gained + lost
    reason = "" if split else "all ties: no text passes on one side only" if ids else "empty: there is nothing to test"
    return {
        "n": len(ids),
        "both": cells[1, 1],
        "only_left": gained,
        "only_right": lost,
        "neither": cells[0, 0],
        "p": float(binomtest(gained, split).pvalue) if split else None,
        "reason": reason,
    }


def band(runs: Sequence[Mapping[str, float]]) -> Metrics:
    """A/A: how far apart two runs of the same thing lie that differ in their seed alone, in the unit of the scores.

    `runs` holds id -> score of each seed. Two new runs differ by no more than `band` 95 times in 100: the spread of
    the N means times sqrt(2) * t(N-1), the prediction interval of a normal difference. `largest` is the largest seen.
    """
    from scipy.stats import t

    ids = sorted(set.intersection(*(set(run) for run in runs))) if runs else []
    means = [math.fsum(run[i] for i in ids) / len(ids) for run in runs] if ids else []
    made: Metrics = {"seeds": len(runs), "n": len(ids), "means": means, "largest": None, "band": None, "reason": ""}
    if len(means) < 2:
        return {**made, "reason": "one seed: it shows no noise" if means else "empty: no text is in every run"}
    made["largest"] = max(means) - min(means)
    if made["largest"] <= intervals.TINY * max(map(abs, means)):
        return {**made, "reason": "no variance: all seeds give the same mean"}
    half = t.ppf((1 + intervals.LEVEL) / 2, len(means) - 1) * math.sqrt(2) * np.std(means, ddof=1)
    return {**made, "band": float(half)}


def state(numbers: Row, noise: float | None = None) -> State:
    """What may be said: `noise` inside the A/A band; higher or lower where the interval and Holm's p both agree."""
    mean, low, high = (numbers[key] for key in ("mean", "low", "high"))
    if low is None or high is None:
        return "none"
    p = numbers.get("p_holm", numbers["p"])
    near = numbers.get("p_equivalent_holm", numbers.get("p_equivalent"))
    if not low <= 0 <= high and p is not None and p < SURE:
        return "noise" if noise is not None and abs(mean) <= noise else "higher" if mean > 0 else "lower"
    return "equivalent" if near is not None and near < SURE else "open"


def sentence(numbers: Row, noise: float | None = None) -> str:
    """One line for people: the size with its interval and n, then what it means."""
    found = state(numbers, noise)
    if found == "none":
        size = "" if numbers["mean"] is None else f"{numbers['mean']:+.2f}; "
        return f"{size}not decided: {numbers['reason'] or intervals.why(numbers)}"
    size = "{mean:+.2f} [{low:+.2f}, {high:+.2f}], n = {n} in {clusters} clusters".format(**numbers)
    margin, near = f"equivalent within ±{numbers.get('margin') or 0:.2f}", numbers.get("p_equivalent")
    # Sure and small are no contradiction: many texts find a difference that nobody would mind.
    small = f", yet {margin}" if near is not None and near < SURE else ""
    found_p = numbers.get("p_holm", numbers["p"])
    after = "" if numbers["low"] <= 0 <= numbers["high"] else f" by sign flips (p = {found_p:.2g})"
    words = {
        "higher": f"higher{small}",
        "lower": f"lower{small}",
        "equivalent": margin,
        "noise": f"inside the noise of other seeds, ±{noise or 0:.2f}",
        "open": f"not distinguishable{after}; a true difference of {numbers['detectable']:.2f} would show 4 times in 5",
    }
    return f"{size}: {words[found]}"

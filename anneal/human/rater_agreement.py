"""What people said, once the key is open: win rate, side bias, how far they agree with themselves, each other, a judge.

Names of raters stay in their own files: the metrics, which are committed, call them r1, r2, ... in the order of names.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any

from anneal.human.vote_records import Vote
from anneal.stats import intervals
from anneal.stats.agreement import alpha, compared, kappa

CALLS = ("first", "tie", "second")
SCORES = (1, 2, 3, 4, 5)
FAST = 1000  # milliseconds in which nobody reads two texts
LABELS, FLOOR = 50, 0.4  # texts, and lower end of kappa, from which a judge counts as calibrated
Row = dict[str, Any]
Judged = Mapping[tuple[str, str], Mapping[str, Any]]  # (system, record) -> judgement, of the very texts of the sheet


def rows(key: Mapping[str, Any], votes: Iterable[Vote]) -> list[Row]:
    """Votes joined with the key; `value` is 1 where the first system of the pair won, .5 at a tie, or the score."""
    entries = {entry["id"]: entry for entry in key["entries"]}
    found = sorted((v for v in votes if v.id in entries and v.choice != "skip"), key=lambda v: (v.rater, v.id))
    names = {rater: f"r{i}" for i, rater in enumerate(sorted({v.rater for v in found}), 1)}
    made = []
    for vote in found:
        row = {**entries[vote.id], "rater": names[vote.rater], "choice": vote.choice, "ms": vote.ms}
        row["reasons"] = sorted(vote.reasons)
        if key["kind"] == "pairs":
            pair = next((p for p in key["pairs"] if set(row["sides"]) <= set(p)), key["pairs"][0])
            won = {"left": row["sides"][0], "right": row["sides"][1]}.get(vote.choice)
            row |= {"pair": ":".join(pair), "value": 0.5 if won is None else float(won == pair[0])}
        else:
            row["value"] = int(vote.choice)
        made.append(row)
    return made


def call(value: float) -> str:
    return "first" if value > 0.5 else "second" if value < 0.5 else "tie"


def share(values: Sequence[float], clusters: Sequence[str]) -> Row:
    """A mean of values between 0 and 1, with a Wilson interval on the effective number of votes.

    As `stats.rate`, with ties as halves. Where every value is the same no effect of the clusters can be seen, and a
    cluster counts once: ten raters of one text are no ten texts.
    """
    n, count = len(values), len(set(clusters))
    if not n:
        return {"n": 0, "clusters": 0, "mean": None, "low": None, "high": None}
    mean, se = fmean(values), intervals.standard_error(values, clusters)
    effective = min(mean * (1 - mean) / se**2, float(n)) if se else float(count)
    low, high = intervals.wilson(mean, effective, _t(count)) if count > 1 else (None, None)
    return {"n": n, "clusters": count, "mean": mean, "low": low, "high": high}


def _t(clusters: int) -> float:
    from scipy.stats import t

    return float(t.ppf((1 + intervals.LEVEL) / 2, clusters - 1))


def coin(hits: int, n: int) -> float | None:
    """Exact two-sided p-value of `hits` among `n` throws of a fair coin."""
    from scipy.stats import binomtest

    return float(binomtest(hits, n).pvalue) if n else None


def sign(found: Sequence[Row]) -> Row:
    """Sign test over items: those whose votes lean to the first system against those that lean to the second."""
    sums: Counter[str] = Counter()
    for row in found:
        sums[row["item"]] += row["value"] - 0.5
    wins, losses = (sum(s * total > 0 for total in sums.values()) for s in (1, -1))
    return {"wins": wins, "losses": losses, "even": len(sums) - wins - losses, "p": coin(wins, wins + losses)}


def sides(found: Sequence[Row]) -> Row:
    """Left against right among the votes for a side; sides are balanced, so that an unbiased rater gives halves."""
    counts = Counter(row["choice"] for row in found)
    left, n = counts["left"], counts["left"] + counts["right"]
    low, high = intervals.wilson(left / n, n) if n else (None, None)
    return {"n": n, "left": left, "share": left / n if n else None, "low": low, "high": high, "p": coin(left, n)}


def within(found: Sequence[Row], labels: Sequence[Any], quadratic: bool, seed: int) -> Row:
    """The same rater on the same texts twice."""
    first = {(row["rater"], row["id"]): row for row in found}
    twice = [(first[r["rater"], r["of"]], r) for r in found if r["of"] and (r["rater"], r["of"]) in first]
    a, b = (
        [call(r["value"]) if labels is CALLS else r["value"] for r in column]
        for column in ([pair[0] for pair in twice], [pair[1] for pair in twice])
    )
    # Sides are swapped in between: the same side twice is a habit, no opinion.
    stuck = sum(x["choice"] == y["choice"] and x["choice"] in ("left", "right") for x, y in twice)
    return {**compared(a, b, labels, [r["item"] for _, r in twice], seed, quadratic), "same_side": stuck}


def between(found: Sequence[Row], labels: Sequence[Any], quadratic: bool) -> Row:
    """Raters on the same texts: kappa of each two, alpha of all, and the ceiling for any judge.

    The ceiling is the mean agreement of a rater with another one on a text that both saw.
    """
    given: dict[str, dict[str, Any]] = {}
    for row in found:
        given.setdefault(row["id"], {})[row["rater"]] = call(row["value"]) if labels is CALLS else row["value"]
    raters = sorted({row["rater"] for row in found})
    pairs, agreed, asked = {}, 0, 0
    for i, one in enumerate(raters):
        for other in raters[i + 1 :]:
            both = [(values[one], values[other]) for values in given.values() if one in values and other in values]
            if both:
                a, b = zip(*both, strict=True)
                same = sum(x == y for x, y in both)
                agreed, asked = agreed + same, asked + len(both)
                pairs[f"{one}:{other}"] = {
                    "n": len(both),
                    "agreement": same / len(both),
                    "kappa": kappa(a, b, labels, quadratic),
                }
    return {
        "raters": len(raters),
        "pairs": pairs,
        "ceiling": agreed / asked if asked else None,
        "alpha": alpha([list(values.values()) for values in given.values()], labels, quadratic),
    }


def calibrated(found: Row) -> str:
    """Empty where the judge may be used; otherwise why its numbers are uncalibrated."""
    if found["n"] < LABELS:
        return f"{found['n']} texts with both a vote and a score; {LABELS} are needed"
    if found["low"] is None or found["low"] < FLOOR:
        return f"the interval of kappa reaches below {FLOOR}"
    return ""


def leaning(scores: Sequence[float], tie: float) -> float:
    """What two scores say of a pair, as the value of a vote; scores within `tie` are one."""
    gap = round(scores[0] - scores[1], 6)
    return 0.5 if abs(gap) <= tie else float(gap > 0)


def judge(found: Sequence[Row], judged: Judged, tie: float, seed: int) -> tuple[Row, list[Row]]:
    """The judge's call on every pair against that of most raters, and the pairs on which they differ."""
    by: dict[tuple[str, str], list[Row]] = {}
    for row in found:
        by.setdefault((row["pair"], row["record"]), []).append(row)
    people, machine, items, apart = [], [], [], []
    for (pair, record), given in sorted(by.items()):
        found_scores = (judged.get((system, record), {}).get("score") for system in pair.split(":"))
        scores = [score for score in found_scores if score is not None]
        if len(scores) < 2:
            continue
        value, said = fmean(row["value"] for row in given), leaning(scores, tie)
        people.append(call(value))
        machine.append(call(said))
        items.append(given[0]["item"])
        if people[-1] != machine[-1]:
            reasons = sorted({reason for row in given for reason in row["reasons"]})
            apart.append(
                {
                    "record": record,
                    "type": given[0]["type"],
                    "pair": pair,
                    "people": value,
                    "votes": len(given),
                    "judge": said,
                    "scores": scores,
                    "reasons": reasons,
                }
            )
    row = compared(people, machine, CALLS, items, seed)
    row |= {"unscored": len(by) - len(people), "uncalibrated": calibrated(row)}
    # The flat contradictions first, then what one side alone calls a tie.
    return row, sorted(apart, key=lambda r: (-abs(r["people"] - r["judge"]), r["record"], r["pair"]))

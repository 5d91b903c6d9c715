"""How far one judgement can be trusted: the same texts under the same judge again, and the controls beside golden."""

from __future__ import annotations

import math
from collections.abc import Sequence

from anneal.records import Metrics, Record
from anneal.stats import agreement, intervals

SCALE = (1, 2, 3, 4, 5)


def summary(rows: Sequence[Record]) -> Metrics:
    """{n, times, same, sd, alpha, reason} of the rows that have `repeats`; failures are no repeats.

    same: share of texts whose scores are all equal. sd: of one judgement about its text, pooled over texts. alpha:
    Krippendorff's for ordinal data over all dimensions, None where nothing varies.
    """
    made: Metrics = {"n": 0, "times": 0, "same": None, "sd": None, "alpha": None, "reason": ""}
    sets = [[row, *row["repeats"]] for row in rows if row.get("repeats")]
    sets = [[each for each in given if each["outcome"] == "ok"] for given in sets]
    sets = [given for given in sets if len(given) > 1]
    if not sets:
        return {**made, "reason": "no text was judged twice (judge.repeats)"}
    scores = [[row["score"] for row in given] for given in sets]
    spread = [sum((x - sum(s) / len(s)) ** 2 for x in s) for s in scores]
    made |= {"n": len(sets), "times": max(map(len, sets))}
    made["same"] = sum(len(set(s)) == 1 for s in scores) / len(scores)
    made["sd"] = math.sqrt(sum(spread) / sum(len(s) - 1 for s in scores))
    units = [[row["dims"][dim]["score"] for row in given] for given in sets for dim in sorted(given[0]["dims"])]
    # One value throughout is no agreement: nothing was there to agree on.
    if len({value for unit in units for value in unit}) < 2:
        return {**made, "reason": "no variance: every score is the same"}
    return {**made, "alpha": agreement.alpha(units, SCALE, True)}


def controls(rows: Sequence[Record], golden: Sequence[Record]) -> dict[str, Metrics]:
    """By control its mean with interval, golden's on the same records, and how often it scores at least as well."""
    marks = {row["id"]: row["score"] for row in golden if row["outcome"] == "ok"}
    made: dict[str, Metrics] = {}
    for name in dict.fromkeys(row["control"] for row in rows):
        both = [r for r in rows if r["control"] == name and r["outcome"] == "ok" and r["id"] in marks]
        items = [row["item"] for row in both]
        estimate = intervals.mean([row["score"] for row in both], items)
        level = intervals.rate([row["score"] >= marks[row["id"]] for row in both], items)
        beside = sum(marks[row["id"]] for row in both) / len(both) if both else None
        made[name] = {
            **estimate.row(),
            "golden": beside,
            "at_golden": level.mean,
            "at_golden_interval": [level.low, level.high],
            "reason": intervals.why(estimate.row()),
        }
    return made

"""Stability of a judge: repeated judgements of the same texts, and its scores of the control texts.

The same texts under the same judge show how far one judgement can be trusted; a control that scores as high as the
reference of its record shows what the judge does not see.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from anneal.records import Judgement, Metrics
from anneal.stats import agreement, intervals

SCALE = (1, 2, 3, 4, 5)  # the levels of every dimension


def summary(rows: Sequence[Judgement]) -> Metrics:
    """{n, times, same, sd, alpha, reason} of the rows that have `repeats`; failures are no repeats.

    same: share of texts whose scores are all equal. sd: of one judgement about its text's mean, pooled over texts, in
    points. alpha: Krippendorff's for ordinal data over all dimensions, None where nothing varies.
    """
    result: Metrics = {"n": 0, "times": 0, "same": None, "sd": None, "alpha": None, "reason": ""}
    texts: list[list[Mapping[str, Any]]] = []  # the judgements of each text
    for row in rows:
        if not row.get("repeats"):
            continue
        scored = [judgement for judgement in [row, *row["repeats"]] if judgement["outcome"] == "ok"]
        if len(scored) > 1:
            texts.append(scored)
    if not texts:
        return {**result, "reason": "no text was judged twice (judge.repeats)"}
    scores = [[judgement["score"] for judgement in judgements] for judgements in texts]
    squares = [sum((x - sum(s) / len(s)) ** 2 for x in s) for s in scores]
    result |= {"n": len(texts), "times": max(map(len, texts))}
    result["same"] = sum(len(set(s)) == 1 for s in scores) / len(scores)
    result["sd"] = math.sqrt(sum(squares) / sum(len(s) - 1 for s in scores))
    units = []
    for judgements in texts:
        for dim in sorted(judgements[0]["dims"]):
            units.append([judgement["dims"][dim]["score"] for judgement in judgements])
    # A single value throughout is no agreement: there was nothing to agree on.
    if len({value for unit in units for value in unit}) < 2:
        return {**result, "reason": "no variance: every score is the same"}
    return {**result, "alpha": agreement.alpha(units, SCALE, ordinal=True)}


def controls(rows: Sequence[Judgement], golden: Sequence[Judgement]) -> dict[str, Metrics]:
    """control -> its mean with interval, the references' mean on the same records, and how often it scores as high."""
    reference: dict[str, Any] = {row["id"]: row["score"] for row in golden if row["outcome"] == "ok"}
    metrics: dict[str, Metrics] = {}
    for name in dict.fromkeys(row["control"] for row in rows):
        part: list[Mapping[str, Any]] = []
        for row in rows:
            if row["control"] == name and row["outcome"] == "ok" and row["id"] in reference:
                part.append(row)
        items = [row["item"] for row in part]
        estimate = intervals.mean([row["score"] for row in part], items)
        as_high = intervals.rate([row["score"] >= reference[row["id"]] for row in part], items)
        metrics[name] = {
            **estimate.row(),
            "golden": sum(reference[row["id"]] for row in part) / len(part) if part else None,
            "at_golden": as_high.mean,
            "at_golden_interval": [as_high.low, as_high.high],
            "reason": intervals.why(estimate.row()),
        }
    return metrics

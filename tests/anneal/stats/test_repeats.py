"""repeats: how steady a judge is, and what it makes of texts whose place is known."""

from __future__ import annotations

import math
from typing import Any

import krippendorff
import numpy as np
import pytest

from anneal.stats import repeats

Row = dict[str, Any]


def judged(score: float, *again: float | None, name: str = "a") -> Row:
    def one(value: float | None) -> Row:
        if value is None:
            return {"outcome": "parse_error", "score": None, "dims": {}}
        return {"outcome": "ok", "score": value, "dims": {"d": {"score": int(value)}}}

    return {"id": name, "item": name, **one(score), "repeats": [one(value) for value in again]}


def test_spread_and_agreement() -> None:
    rows = [judged(3, 3, 3), judged(2, 4, 3), judged(5, 5, 4), judged(1)]
    found = repeats.summary(rows)
    assert (found["n"], found["times"], found["same"]) == (3, 3, pytest.approx(1 / 3))
    assert found["sd"] == pytest.approx(math.sqrt((0 + 2 + 2 / 3) / 6))
    table = np.array([[3, 2, 5], [3, 4, 5], [3, 3, 4]], dtype=float)
    assert found["alpha"] == pytest.approx(krippendorff.alpha(reliability_data=table, level_of_measurement="ordinal"))


def test_a_failure_is_no_further_judgement() -> None:
    found = repeats.summary([judged(3, None, 4), judged(2, None, None)])
    assert (found["n"], found["times"]) == (1, 2)
    assert found["sd"] == pytest.approx(math.sqrt(0.5))


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ([], "no text was judged twice (judge.repeats)"),
        ([judged(3)], "no text was judged twice (judge.repeats)"),
        ([judged(3, 3), judged(3, 3)], "no variance: every score is the same"),
    ],
)
def test_no_figure_without_a_reason(rows: list[Row], reason: str) -> None:
    found = repeats.summary(rows)
    assert (found["alpha"], found["reason"]) == (None, reason)


def test_controls_meet_the_golden_scores_of_their_own_records() -> None:
    golden = [{"id": str(i), "item": str(i), "outcome": "ok", "score": 4.0 + i / 10} for i in range(5)]
    golden.append({"id": "lost", "item": "lost", "outcome": "timeout", "score": None})
    rows = [{**row, "control": "again", "outcome": "ok"} for row in golden]
    rows += [{**row, "control": "null", "outcome": "ok", "score": 1.0} for row in golden]
    rows += [{**row, "control": "other", "outcome": "refusal", "score": None} for row in golden]
    found = repeats.controls(rows, golden)
    assert (found["again"]["n"], found["again"]["mean"], found["again"]["at_golden"]) == (5, 4.2, 1.0)
    assert found["again"]["golden"] == found["null"]["golden"] == pytest.approx(4.2)
    assert (found["null"]["at_golden"], found["other"]["n"], found["other"]["mean"]) == (0.0, 0, None)
    assert found["other"]["reason"] == "empty: there is nothing to measure"

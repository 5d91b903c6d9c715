"""Budget: totals that add up, steps as the trainer counts them, and each warning with its border."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anneal.dataset import token_budget
from anneal.dataset.token_budget import Row, Shape

FINE = Shape(instructions=5, repeated=0, over=0, maskable=1000)
MANY = [Row(4, 30, 40, 60)] * 1000  # 60k learnt tokens


def test_quantiles_are_nearest_rank() -> None:
    assert token_budget.spread([5, 1, 3]) == {"p50": 3, "p90": 5, "p95": 5, "p99": 5, "max": 5}
    assert token_budget.spread([]) == {"p50": 0, "p90": 0, "p95": 0, "p99": 0, "max": 0}
    assert token_budget.spread(list(range(1, 101))) == {"p50": 50, "p90": 90, "p95": 95, "p99": 99, "max": 100}


def test_fields_add_up_to_the_total() -> None:
    assert token_budget.fields([Row(4, 30, 40, 60), Row(0, 20, 25, 5)]) == {
        "system": 4,
        "user": 50,
        "template": 11,
        "completion": 65,
        "total": 130,
    }
    assert set(token_budget.fields([]).values()) == {0}


def test_good_data_has_no_warning_and_each_fault_its_own() -> None:
    assert token_budget.warnings(MANY, FINE) == []
    cases = {
        "one wording": (MANY, FINE._replace(instructions=1)),
        "few tokens: 49980": (MANY[:833], FINE),
        "too long: 5.1%": (MANY, FINE._replace(over=51)),
        "short answers: 11": ([*MANY, *[Row(4, 30, 40, 7)] * 11], FINE),
        "repeated prompts: 11": (MANY, FINE._replace(repeated=11)),
    }
    for told, (rows, shape) in cases.items():
        found = token_budget.warnings(rows, shape)
        assert len(found) == 1, told
        assert found[0].startswith(told)
    fine = FINE._replace(over=50, repeated=10)
    assert token_budget.warnings([*MANY, *[Row(4, 30, 40, 7)] * 10, Row(4, 30, 40, 8)], fine) == [], (
        "borders are allowed"
    )
    assert [line[:3] for line in token_budget.warnings(MANY[:1], FINE._replace(instructions=1))] == ["few"]


@settings(max_examples=80, deadline=None)
@given(st.integers(1, 400), st.integers(1, 5), st.integers(1, 20), st.integers(1, 6))
def test_steps_are_those_of_the_batches(rows: int, epochs: int, batch: int, accumulation: int) -> None:
    batches = [min(batch, rows - start) for start in range(0, rows, batch)]
    each = len([batches[start : start + accumulation] for start in range(0, len(batches), accumulation)])
    found = token_budget.plan(rows * 10, rows, epochs, batch, accumulation)
    assert (found.steps_per_epoch, found.steps, found.tokens) == (each, each * epochs, rows * 10 * epochs)
    assert found.steps == math.ceil(math.ceil(rows / batch) / accumulation) * epochs


def test_a_schedule_is_held_against_its_data() -> None:
    assert token_budget.plan(60_000, 1000, 4, 16, 1, parameters=400_000).warnings == []
    cases = {
        "few steps: 63": (60_000, 1000, 1, 16, 1, None),
        "many epochs: 11 over 1000 rows": (60_000, 1000, 11, 16, 1, None),
        "many epochs: 5 over 10000 rows": (60_000, 10_000, 5, 16, 1, None),
        "many epochs: 21 over 999 rows": (60_000, 999, 21, 8, 1, None),
        "wide batch: 128 of 1000 rows": (60_000, 1000, 10, 64, 2, None),
        "few tokens for the adapter: 0.060": (60_000, 1000, 4, 16, 1, 4_000_000),
    }
    for told, words in cases.items():
        found = [line for line in token_budget.plan(*words).warnings if not ("few steps" in line and "wide" in told)]
        assert len(found) == 1, told
        assert found[0].startswith(told)


def test_the_estimate_takes_the_last_measured_speed(tmp_path: Path) -> None:
    times = tmp_path / "stages.jsonl"
    assert token_budget.speed(times) == (token_budget.SPEED, False)
    assert token_budget.estimate(12_000, times) == (
        "12000 tokens, about 2 s an epoch at 6000 tokens/s (assumed, no training was measured here)"
    )
    rows = [{"stage": "train", "tokens_per_second": 100}, {"stage": "train", "tokens_per_second": 50.0}, {"stage": "x"}]
    times.write_text("\n".join(json.dumps(row) for row in rows) + '\n{"tokens_per_second": "\n[1]\n\n')
    assert token_budget.speed(times) == (50.0, True)
    assert token_budget.estimate(12_000, times) == (
        "12000 tokens, about 4.0 min an epoch at 50 tokens/s (as the last training here)"
    )


@pytest.mark.parametrize("value", [0, -3, "fast", None])
def test_a_speed_that_is_none_is_passed_over(tmp_path: Path, value: object) -> None:
    times = tmp_path / "stages.jsonl"
    times.write_text(json.dumps({"tokens_per_second": value}) + "\n")
    assert token_budget.speed(times) == (token_budget.SPEED, False)

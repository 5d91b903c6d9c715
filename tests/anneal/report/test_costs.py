"""Tokens by stage and per kept record."""

from __future__ import annotations

import pytest

from anneal.report import costs
from tests.finished import metrics
from tests.markup import plain, rows, state

OLD = state()


def test_tokens_by_stage_and_for_each_kept_record() -> None:
    page = costs.section(state(**metrics()), OLD)
    assert rows(page) == [
        ["stage", "tokens in", "tokens out", "share", "failed", "tokens per kept record"],
        ["clean", "250", "50", "23.1%", "2", "10.00"],
        ["judge@golden", "900", "100", "76.9%", "0", "33.33"],
        ["all stages", "1,150", "150", "100.0%", "", "43.33"],
    ]
    assert "30 records were kept by the filter." in plain(page)
    assert "No tokens are counted for generate, judge@tuned, prefer, card." in plain(page)


def test_failures_of_a_judge_are_in_its_outcomes() -> None:
    found = {"judge/base": {"tokens": {"in": 1, "out": 1}, "outcomes": {"ok": 9, "http": 3, "timeout": 4}}}
    assert rows(costs.section(state(**found), OLD))[1] == ["judge@base", "1", "1", "100.0%", "7", "–"]


def test_no_section_without_requests() -> None:
    assert costs.section(state(filter={"kept": 3}, generate={"n": 3, "tokens": {}}), OLD) == ""
    free = costs.section(state(generate={"tokens": {"in": 0, "out": 0}}), OLD)
    assert rows(free)[-1] == ["all stages", "0", "0", "–", "", "–"]


def test_money_needs_prices_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    now = state(**metrics())
    for name in ("TEACHER_PRICE_IN", "TEACHER_PRICE_OUT", "JUDGE_PRICE_IN", "JUDGE_PRICE_OUT"):
        monkeypatch.delenv(name, raising=False)
    assert costs.money(now) == ""
    monkeypatch.setenv("TEACHER_PRICE_IN", "4000")
    monkeypatch.setenv("JUDGE_PRICE_OUT", "5000")
    said = "cost at the prices in the environment: 1.50 (judge 0.50, teacher 1.00), 0.0500 per kept record"
    assert costs.money(now) == said
    monkeypatch.setenv("TEACHER_PRICE_IN", "four")
    assert costs.money(now) == ""


def test_an_absent_model_has_no_row() -> None:
    bill = {"tokens": {"in": 5, "out": 5}}
    asked = {"judge/tuned": {"n": 4, **bill}, "judge/samples": {"n": 2, **bill}, "judge/aligned": {"n": 0, **bill}}
    page = costs.section(state(**asked), OLD)
    assert [row[0] for row in rows(page)[1:]] == ["judge@tuned", "judge@samples", "all stages"]
    assert "No tokens" not in plain(page)
    asked["judge/aligned"] = {"n": 4, **bill}
    assert "judge@aligned" in plain(costs.section(state(**asked), OLD))

"""The gate: its reasons, their lines, and its limits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from anneal.errors import UserError
from anneal.history.revision import Snapshot
from anneal.report import gate
from tests.finished import PARAMS, metrics, sound


@pytest.fixture(autouse=True)
def _nothing_has_run(toy: Path) -> None:
    """A folder without dvc.lock, so that edits of the checkout raise no alert here."""


def before(score: float, note: str = "", judge: str = "j1") -> Snapshot:
    """A revision whose tuned score is another; its texts are not kept."""
    found = metrics()
    found["compare"]["overall"]["tuned"]["score"] = score
    found["compare"]["judge_ids"] = {"ad": judge}
    return Snapshot("main", note, found, PARAMS)


def test_the_gate_is_open_without_limits() -> None:
    assert gate.reasons(sound(card=None), before(5.0), None, None) == []


@pytest.mark.parametrize(("least", "closed"), [(4.0, False), (4.01, True), (1.0, False), (5.0, True)])
def test_min_score_applies_to_the_mean(least: float, closed: bool) -> None:
    found = gate.reasons(sound(compare__overall__tuned__bounds=[4.0, 4.0]), before(4.0), least, None)
    assert found == ([f"tuned scores 4.00 [3.90, 4.10], below MIN_SCORE {least:g}"] if closed else [])


def test_failed_judgements_count_at_worst() -> None:
    (found,) = gate.reasons(sound(), before(4.0), 3.5, None)
    assert found == "tuned scores 4.00 [3.90, 4.10], 3.00 with failed judgements at worst, below MIN_SCORE 3.5"
    uneven = {"differs": True, "sentence": "differential missingness: 9 of 20"}
    assert gate.reasons(sound(compare__missing=uneven), before(4.0), 1.0, None) == [
        "the score is not valid: differential missingness: 9 of 20"
    ]


@pytest.mark.parametrize(
    ("score", "most", "closed"), [(4.05, 0.1, False), (4.5, 0.1, True), (4.5, 0.6, False), (3, 0, False)]
)
def test_max_regression_applies_to_the_loss_against_the_revision(score: float, most: float, closed: bool) -> None:
    found = gate.reasons(sound(), before(score), None, most)
    assert found == (
        [f"tuned lost 0.50 against main (no interval), more than MAX_REGRESSION {most:g}"] if closed else []
    )


@pytest.mark.parametrize(
    ("old", "why"),
    [
        (before(4.0, judge="j2"), "tuned here minus tuned at main: another judge"),
        (before(4.0, note="first run: this repository holds no commit"), "first run: this repository holds no commit"),
        (Snapshot("main", "", {"compare": {}}), "tuned here minus tuned at main: nothing to compare with"),
    ],
)
def test_the_gate_is_closed_without_a_comparison(old: Snapshot, why: str) -> None:
    assert gate.reasons(sound(), old, None, 4.0) == [f"MAX_REGRESSION has nothing to compare with: {why}"]


@pytest.mark.parametrize(
    ("edits", "why"),
    [
        ({"card": None}, "the score is not valid: no judge card for this judge"),
        ({"judge/base__outcomes": {"ok": 5, "http": 5}}, "the score is not valid: base: 50.0% of judgements"),
        ({"compare": None}, "no comparison yet"),
        ({"compare__overall__tuned__score": None}, "tuned has no score; MIN_SCORE is 1"),
    ],
)
def test_an_invalid_score_closes_the_gate(edits: dict[str, Any], why: str) -> None:
    now = sound()
    for place, value in edits.items():
        name, *way = place.split("__")
        target: Any = now.metrics
        for key in (name, *way)[:-1]:
            target = target.setdefault(key, {})
        target[(name, *way)[-1]] = value
    reasons = gate.reasons(now, before(4.0), 1.0, None)
    assert len(reasons) == 1
    assert reasons[0].startswith(why)


@pytest.mark.parametrize("raw", ["x", "nan", "inf", "0.5", "5.1", "-1", "4,2"])
def test_a_bad_limit_is_refused_in_one_line(raw: str) -> None:
    with pytest.raises(UserError, match=r"^MIN_SCORE=.*: a number from 1 to 5; correct it or leave it out$"):
        gate.limit("MIN_SCORE", raw, 1, 5)


def test_a_limit_may_be_left_out() -> None:
    assert gate.limit("MIN_SCORE", None, 1, 5) is None
    assert gate.limit("MIN_SCORE", " ", 1, 5) is None
    assert gate.limit("MIN_SCORE", "4.2", 1, 5) == 4.2


def test_the_gate_reads_the_shipped_model() -> None:
    now = sound(aligned=True, compare__overall__aligned__bounds=[4.5, 4.5], compare__overall__tuned__score=1.0)
    assert gate.reasons(now, before(4.0), 4.5, 0.1) == []
    assert gate.reasons(now, before(4.0), 4.6, None) == ["aligned scores 4.50 [4.40, 4.60], below MIN_SCORE 4.6"]
    assert gate.reasons(now, before(4.75), None, 0.2) == [
        "aligned lost 0.25 against main (no interval), more than MAX_REGRESSION 0.2"
    ]
    assert gate.reasons(sound(aligned=True, compare__overall__aligned__score=None), before(4.0), 1.0, None) == [
        "aligned has no score; MIN_SCORE is 1"
    ]

"""Planted drift of a judge is named; the same judge, and failures, are none."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from anneal.records import Record
from anneal.stats import judge_drift

SYSTEMS = ("golden", "tuned", "base")


def judged(score: Any, judge: str, n: int = 60) -> dict[str, list[Record]]:
    """Texts of 20 items under a judge: `score(system, k)` is a whole number for the only dimension."""
    return {
        system: [
            {
                "id": f"t{k:02}",
                "item": f"p{k // 3}",
                "type": "ad",
                "judge_id": judge,
                "outcome": "ok",
                "score": float(score(system, k)),
                "dims": {"voice": {"score": int(score(system, k))}},
            }
            for k in range(n)
        ]
        for system in SYSTEMS
    }


def marks(seed: int, means: dict[str, float]) -> Any:
    rng = np.random.default_rng(seed)
    drawn = {s: np.clip(np.round(rng.normal(m, 0.7, 60)), 1, 4).astype(int) for s, m in means.items()}
    return lambda system, k: drawn[system][k]


FAIR = marks(1, {"golden": 3.2, "tuned": 2.8, "base": 2.0})


def test_a_judge_that_gives_one_more_to_all_moves_the_scale_and_no_gap() -> None:
    found = judge_drift.drift(judged(FAIR, "old"), judged(lambda s, k: FAIR(s, k) + 1, "new"), seed=1)
    assert {name: round(each["mean"], 6) for name, each in found["systems"].items()} == dict.fromkeys(SYSTEMS, 1.0)
    assert found["sentence"] == (
        "the judge changed: golden +1.00 throughout, tuned +1.00 throughout, base +1.00 throughout; the scale moved, "
        "no gap between systems did; order golden > tuned > base, as before"
    )
    dim = found["dims"]["voice"]
    assert found["n"] == dim["shift"]["n"] == 180
    assert dim["agreement"]["kappa"] < 0.7, "a moved scale is no agreement"
    assert dim["agreement"]["agreement"] == 0
    assert dim["top"]["before"] == 0 < dim["top"]["after"]
    assert {each["winners"] for each in found["gaps"].values()} == {0.0}


def test_a_judge_that_only_lifts_golden_is_named() -> None:
    lifted = marks(2, {"golden": 0.6, "tuned": 0, "base": 0})
    low = marks(3, {"golden": 2.3, "tuned": 2.8, "base": 1.8})
    new = judged(lambda s, k: min(5, low(s, k) + (lifted(s, k) if s == "golden" else 0)), "new")
    found = judge_drift.drift(judged(low, "old"), new, seed=1)
    assert found["systems"]["golden"]["low"] > 0.5
    assert found["systems"]["tuned"]["mean"] == found["systems"]["base"]["mean"] == 0
    said = found["sentence"]
    assert "tuned unchanged, base unchanged;" in said
    assert "the new judge sees the systems otherwise: golden - tuned moved by +1." in said
    assert "golden - base moved by +1." in said
    assert "tuned - base moved" not in said
    assert said.endswith("order was tuned > golden > base, is golden > tuned > base")
    assert found["gaps"]["golden:tuned"]["winners"] > 0.2
    assert found["gaps"]["tuned:base"]["winners"] == 0


def test_noise_of_a_new_judge_is_no_drift() -> None:
    rng = np.random.default_rng(5)
    before = {(s, k): max(FAIR(s, k), 2) for s in SYSTEMS for k in range(60)}
    after = {key: int(score + rng.integers(-1, 2)) for key, score in before.items()}
    found = judge_drift.drift(judged(lambda *k: before[k], "old"), judged(lambda *k: after[k], "new"), seed=1)
    assert "no shift is distinguishable from none; order golden > tuned > base, as before" in found["sentence"]
    assert 0.3 < found["dims"]["voice"]["agreement"]["kappa"] < 0.9
    assert found["dims"]["voice"]["agreement"]["low"] > 0.2


def test_the_same_judge_has_no_drift_and_failures_are_left_out() -> None:
    same = judge_drift.drift(judged(FAIR, "old"), judged(FAIR, "old"), seed=1)
    assert (same["n"], same["dims"], same["gaps"]) == (0, {}, {})
    assert same["sentence"] == "the same judge, or no text that both scored: no drift to measure"
    new = judged(FAIR, "new")
    for row in new["base"][:50]:
        row |= {"outcome": "timeout", "score": None, "dims": {}}
    new["golden"] = new["golden"][:30]
    found = judge_drift.drift(judged(FAIR, "old"), new, seed=1)
    assert {name: each["n"] for name, each in found["systems"].items()} == {"golden": 30, "tuned": 60, "base": 10}
    assert found["gaps"]["golden:base"]["n"] == 0
    assert found["gaps"]["golden:base"]["winners"] is None


@pytest.mark.parametrize(
    ("means", "said"),
    [
        ({"golden": 3.0, "tuned": 3.0, "base": 2.0}, "golden = tuned > base"),
        ({"golden": 1.0, "tuned": 2.0, "base": 3.0}, "base > tuned > golden"),
        ({}, ""),
    ],
)
def test_order_says_who_is_ahead(means: dict[str, float], said: str) -> None:
    assert judge_drift.order(means) == said

"""How far a reward model is right: pairs in order, certainty that is earned, and length told from quality."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest

from anneal.preference import calibration


def test_a_tie_is_half_right() -> None:
    assert [calibration.right(margin) for margin in (2.0, -0.1, 0.0)] == [1.0, 0.0, 0.5]
    kinds, items = ["a", "a", "b", "b"], ["p", "q", "r", "r"]
    found = calibration.by_kind([1.0, -3.0, 0.0, 2.0], kinds, items)
    assert list(found["accuracy"]) == ["all", "a", "b"]
    assert {kind: row["mean"] for kind, row in found["accuracy"].items()} == {"all": 0.625, "a": 0.5, "b": 0.75}
    assert {kind: row["mean"] for kind, row in found["margin"].items()} == {"all": 0.0, "a": -1.0, "b": 1.0}
    assert [found["accuracy"][kind]["clusters"] for kind in ("all", "a", "b")] == [3, 2, 1]
    assert found["accuracy"]["b"]["reason"] == "one cluster: it shows no spread"
    assert (found["accuracy"]["a"]["n"], found["accuracy"]["a"]["reason"]) == (2, "")


def test_no_pairs_have_no_figures() -> None:
    found = calibration.summary([], 1)
    assert (found["n"], found["accuracy"]["all"]["mean"]) == (0, None)
    assert found["calibration"] == {"n": 0, "bins": [], "ece": None, "brier": None}
    assert (found["length"]["rho"], found["length"]["reason"]) == (None, "empty: there is nothing to measure")
    assert calibration.table(found).row_count == 1


def drawn(scale: float, count: int = 20000) -> list[float]:
    """Margins of pairs whose order is right as often as sigmoid(|margin|) says, then multiplied."""
    rng, found = random.Random(5), []
    for _ in range(count):
        margin = abs(rng.gauss(0, 1.5))
        found.append(scale * (margin if rng.random() < 1 / (1 + math.exp(-margin)) else -margin))
    return found


def test_certainty_is_calibrated_where_it_is_earned() -> None:
    earned, proud = calibration.calibration(drawn(1.0)), calibration.calibration(drawn(5.0))
    assert earned["ece"] < 0.015
    assert proud["ece"] > 0.15
    assert proud["brier"] > earned["brier"] + 0.03
    checked = 0
    for row in earned["bins"]:
        assert row["from"] <= row["p"] <= row["to"]
        assert row["right"] == pytest.approx(row["p"], abs=0.03)
        checked += row["n"]
    assert (len(earned["bins"]), checked) == (5, 20000)


def test_calibration_by_hand() -> None:
    sure = math.log(0.95 / 0.05)  # called with certainty .95
    found = calibration.calibration([sure, sure, sure, -sure, 0.0])
    low, *middle, high = found["bins"]
    assert (low["n"], low["p"], low["right"]) == (1, 0.5, 0.5)
    assert all((row["n"], row["p"], row["right"]) == (0, None, None) for row in middle)
    assert (high["n"], high["right"]) == (4, 0.75)
    assert high["p"] == pytest.approx(0.95)
    assert found["ece"] == pytest.approx(0.8 * 0.2)
    assert found["brier"] == pytest.approx((3 * 0.05**2 + 0.95**2 + 0.25) / 5)
    assert calibration.calibration([1000.0, -1000.0])["brier"] == 0.5


def test_length_is_told_within_a_type() -> None:
    """Long types score high and, in each type, the longer text scores low: over all texts the sign is the other one."""
    from scipy.stats import spearmanr

    rng, rows = random.Random(1), []
    for item in range(30):
        for kind, base in (("long", 400), ("short", 20)):
            length = base + rng.randrange(100)
            rows.append((base / 10 - length / 50 + rng.gauss(0, 0.3), length, kind, f"p{item}"))
    values, lengths, kinds, items = (list(column) for column in zip(*rows, strict=True))
    found = calibration.length_correlation(values, lengths, kinds, items, 7)
    each = [
        float(
            spearmanr(
                [v for v, k in zip(values, kinds, strict=True) if k == kind],
                [n for n, k in zip(lengths, kinds, strict=True) if k == kind],
            ).statistic
        )
        for kind in ("long", "short")
    ]
    assert found["rho"] == pytest.approx(sum(each) / 2, abs=0.01)
    assert found["low"] < found["rho"] < found["high"] < 0 < float(spearmanr(values, lengths).statistic)
    assert (found["n"], found["clusters"], found["reason"]) == (60, 30, "")
    assert found == calibration.length_correlation(values, lengths, kinds, items, 7)


@pytest.mark.parametrize(
    ("values", "lengths", "reason"),
    [
        ([1.0, 1.0, 2.0, 2.0], [5, 6, 7, 8], "no variance: within a type all are equal"),
        ([1.0, 2.0, 3.0, 4.0], [5, 5, 8, 8], "no variance: within a type all are equal"),
        ([1.0, 2.0, 3.0, 4.0], [5, 6, 7, 8], "2 clusters: an interval needs 19"),
    ],
)
def test_what_cannot_be_known_is_not_guessed(values: list[float], lengths: list[int], reason: str) -> None:
    found = calibration.length_correlation(values, lengths, ["a", "a", "b", "b"], ["p", "q", "p", "q"], 1)
    assert (found["low"], found["high"], found["reason"]) == (None, None, reason)
    assert (found["rho"] is None) == reason.startswith("no variance")


def test_the_summary_takes_both_sides_of_a_pair(capsys: pytest.CaptureFixture[str]) -> None:
    def row(number: int) -> dict[str, Any]:
        return {
            "item": f"p{number}",
            "type": "t",
            "kind": "weak" if number % 2 else "fake",
            "chosen": float(number),
            "rejected": float(-number),
            "characters": (100 + number, 50 - number),
        }

    found = calibration.summary([row(number) for number in range(20)], 3)
    assert (found["n"], found["length"]["n"], found["length"]["clusters"]) == (20, 40, 20)
    assert found["length"]["rho"] > 0.99
    assert found["accuracy"]["all"]["mean"] == pytest.approx(19.5 / 20)
    calibration.show({**found, "refusals": ["train: 1 left out"], "warnings": ["weak: shortcut: \N{BULLET} [x]"]})
    told = capsys.readouterr().out
    assert told.index("fake") < told.index("weak") < told.index("all ")
    assert "0.975 [" in told
    assert "train: 1 left out\nweak: shortcut: \N{BULLET} [x]\n" in told

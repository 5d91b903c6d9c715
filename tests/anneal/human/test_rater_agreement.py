"""Win rates, side bias and agreement, from votes joined with the key of a ballot."""

from __future__ import annotations

from typing import Any

import pytest
from scipy.stats import binomtest

from anneal.human import rater_agreement
from anneal.human.vote_records import Vote
from anneal.stats import intervals

SHEET = "ab" * 32


def entry(
    number: int, left: str = "tuned", right: str = "base", role: str = "vote", of: int | None = None, **more: Any
) -> dict[str, Any]:
    row = {"id": f"{number:012x}", "record": f"r{number}", "item": f"p{number // 2}", "type": "ad", "dim": None}
    back = {} if of is None else {"of": f"{of:012x}", "record": f"r{of}", "item": f"p{of // 2}"}
    return {**row, "sides": [left, right], "digests": ["", ""], "role": role, "of": None} | back | more


def vote(number: int, choice: Any, rater: str = "Anna", ms: int = 5000, **more: Any) -> Vote:
    return Vote(
        **{"sheet": SHEET, "rater": rater, "id": f"{number:012x}", "choice": choice, "reasons": [], "ms": ms} | more
    )


def key(*entries: dict[str, Any]) -> dict[str, Any]:
    return {"kind": "pairs", "pairs": [["tuned", "base"]], "entries": list(entries), "question": "", "left_out": 0}


def joined(entries: list[dict[str, Any]], votes: list[Vote]) -> list[dict[str, Any]]:
    return rater_agreement.join_votes(key(*entries), votes)


def test_the_value_of_a_vote_is_of_the_system_and_not_of_the_side() -> None:
    entries = [entry(0), entry(1, "base", "tuned"), entry(2), entry(3), entry(4)]
    votes = [
        vote(0, "left"),
        vote(1, "left"),
        vote(2, "right", "Zoe"),
        vote(3, "tie"),
        vote(4, "skip"),
        vote(9, "left"),
    ]
    rows = joined(entries, votes)
    assert [(r["record"], r["value"]) for r in rows] == [("r0", 1.0), ("r1", 0.0), ("r3", 0.5), ("r2", 0.0)]
    assert [r["rater"] for r in rows] == ["r1", "r1", "r1", "r2"], "the committed metrics hold no names"


def test_a_win_rate_without_ties_equals_the_rate_of_intervals() -> None:
    flags = [True, True, False, True, False, True, True, True, False, True, True, True]
    items = [f"p{i // 3}" for i in range(12)]
    row = rater_agreement.win_rate([float(flag) for flag in flags], items)
    rate = intervals.rate(flags, items)
    assert (row["n"], row["clusters"]) == (12, 4)
    assert [row[k] for k in ("mean", "low", "high")] == pytest.approx([rate.mean, rate.low, rate.high])


def test_where_all_votes_agree_the_interval_depends_on_items_and_not_on_raters() -> None:
    items = [f"p{i}" for i in range(10)]
    one = rater_agreement.win_rate([1.0] * 10, items)
    many = rater_agreement.win_rate([1.0] * 50, items * 5)
    assert one["mean"] == many["mean"] == one["high"] == 1.0
    assert one["low"] == many["low"] < 0.7
    ties = rater_agreement.win_rate([0.5] * 10, items)
    assert ties["low"] < 0.3 < 0.7 < ties["high"], "ten ties do not prove that the two are equal"
    assert rater_agreement.win_rate([1.0, 0.0], ["p", "p"])["low"] is None
    assert rater_agreement.win_rate([], []) == {"n": 0, "clusters": 0, "mean": None, "low": None, "high": None}


def test_the_sign_test_counts_items() -> None:
    entries = [entry(i) for i in range(12)]
    # Items of two records: p0..p3 won, p4 lost, p5 even.
    choices = ["left"] * 8 + ["right"] * 2 + ["left", "right"]
    row = rater_agreement.sign_test(joined(entries, [vote(i, c) for i, c in enumerate(choices)]))
    assert row == {"wins": 4, "losses": 1, "even": 1, "p": pytest.approx(binomtest(4, 5).pvalue)}
    assert rater_agreement.sign_test([])["p"] is None


def test_a_rater_who_always_chooses_left_has_a_side_bias() -> None:
    entries = [entry(i, *(("tuned", "base") if i % 2 else ("base", "tuned"))) for i in range(20)]
    rows = joined(entries, [vote(i, "left") for i in range(20)])
    side = rater_agreement.side_bias(rows)
    assert (side["n"], side["left"], side["share"]) == (20, 20, 1.0)
    assert side["p"] < 1e-5
    assert rater_agreement.win_rate([r["value"] for r in rows], [r["item"] for r in rows])["mean"] == 0.5, (
        "and moves no win rate"
    )


def test_repeats_measure_intra_rater_agreement_and_side_habit() -> None:
    entries = [entry(i) for i in range(4)] + [entry(10 + i, "base", "tuned", "repeat", of=i) for i in range(4)]
    # The same system twice, twice; then the same side with another system; then a tie twice.
    votes = [
        vote(i, c)
        for i, c in zip(
            (0, 1, 2, 3, 10, 11, 12, 13), ("left", "right", "left", "tie", "right", "left", "left", "tie"), strict=True
        )
    ]
    row = rater_agreement.intra_rater(joined(entries, votes), rater_agreement.PREFERENCES, False, 1)
    assert (row["n"], row["agreement"], row["same_side"]) == (4, 0.75, 1)
    # A repeat without an answer to its original is not compared.
    assert rater_agreement.intra_rater(joined(entries, votes[4:]), rater_agreement.PREFERENCES, False, 1)["n"] == 0


def test_raters_are_compared_on_entries_that_both_answered() -> None:
    entries = [entry(i) for i in range(6)]
    votes = [vote(i, c, "A") for i, c in enumerate(["left", "left", "right", "right", "tie"])]
    votes += [vote(i, c, "B") for i, c in enumerate(["left", "left", "right", "left", "tie", "right"])]
    row = rater_agreement.inter_rater(joined(entries, votes), rater_agreement.PREFERENCES, False)
    assert row["raters"] == 2
    assert row["pairs"]["r1:r2"]["n"] == 5
    assert row["ceiling"] == row["pairs"]["r1:r2"]["agreement"] == 0.8
    assert 0.5 < row["alpha"] < 1
    alone = rater_agreement.inter_rater(joined(entries, votes[:5]), rater_agreement.PREFERENCES, False)
    assert (alone["pairs"], alone["ceiling"], alone["alpha"]) == ({}, None, None)


def judged(*gaps: float | None) -> dict[tuple[str, str], dict[str, Any]]:
    """Scores by system and record, with these gaps between the two systems; None leaves a record unscored."""
    judgements: dict[tuple[str, str], dict[str, Any]] = {}
    for i, gap in enumerate(gaps):
        if gap is not None:
            judgements |= {("tuned", f"r{i}"): {"score": 3.0 + gap}, ("base", f"r{i}"): {"score": 3.0}}
    return judgements


def test_the_judge_is_compared_with_the_majority_of_raters() -> None:
    entries = [entry(i) for i in range(5)]
    votes = [vote(i, c, who) for who in "ABC" for i, c in enumerate(["left", "left", "right", "tie", "left"])]
    votes += [vote(0, "right", "D", reasons=["facts"])]
    row, disagreements = rater_agreement.judge_agreement(
        joined(entries, votes), judged(1.0, -1.0, -0.5, 0.05, None), 0.05, 1
    )
    assert (row["n"], row["agreement"], row["unscored"]) == (4, 0.75, 1)
    assert "50 are needed" in row["uncalibrated"]
    assert [(r["record"], r["people"], r["judge"], r["votes"]) for r in disagreements] == [("r1", 1.0, 0.0, 3)]
    # In binary, 1.1 - 1.05 is a little more than 0.05; it is a tie nevertheless.
    assert rater_agreement.vote_from_scores([1.1, 1.05], 0.05) == 0.5


def test_opposite_preferences_come_before_ties() -> None:
    entries = [entry(i) for i in range(3)]
    rows = joined(entries, [vote(0, "left"), vote(1, "left"), vote(2, "tie")])
    _, disagreements = rater_agreement.judge_agreement(rows, judged(0.0, -1.0, 1.0), 0.05, 1)
    assert [r["record"] for r in disagreements] == ["r1", "r0", "r2"]


def test_a_calibrated_judge_needs_enough_texts_and_enough_agreement() -> None:
    assert rater_agreement.uncalibrated_reason({"n": 50, "low": 0.4}) == ""
    assert "50 are needed" in rater_agreement.uncalibrated_reason({"n": 49, "low": 0.9})
    assert "below 0.4" in rater_agreement.uncalibrated_reason({"n": 60, "low": 0.39})
    assert "below 0.4" in rater_agreement.uncalibrated_reason({"n": 60, "low": None})

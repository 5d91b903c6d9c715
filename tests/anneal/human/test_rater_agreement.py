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


def found(entries: list[dict[str, Any]], votes: list[Vote]) -> list[dict[str, Any]]:
    return rater_agreement.rows(key(*entries), votes)


def test_a_vote_is_for_a_system_and_no_side() -> None:
    entries = [entry(0), entry(1, "base", "tuned"), entry(2), entry(3), entry(4)]
    votes = [
        vote(0, "left"),
        vote(1, "left"),
        vote(2, "right", "Zoe"),
        vote(3, "tie"),
        vote(4, "skip"),
        vote(9, "left"),
    ]
    rows = found(entries, votes)
    assert [(r["record"], r["value"]) for r in rows] == [("r0", 1.0), ("r1", 0.0), ("r3", 0.5), ("r2", 0.0)]
    assert [r["rater"] for r in rows] == ["r1", "r1", "r1", "r2"], "no names in what is committed"


def test_a_share_without_ties_is_the_rate_of_stats() -> None:
    flags = [True, True, False, True, False, True, True, True, False, True, True, True]
    items = [f"p{i // 3}" for i in range(12)]
    mine, theirs = rater_agreement.share([float(f) for f in flags], items), intervals.rate(flags, items)
    assert (mine["n"], mine["clusters"]) == (12, 4)
    assert [mine[k] for k in ("mean", "low", "high")] == pytest.approx([theirs.mean, theirs.low, theirs.high])


def test_where_all_agree_the_items_count_and_not_the_raters() -> None:
    items = [f"p{i}" for i in range(10)]
    one, many = rater_agreement.share([1.0] * 10, items), rater_agreement.share([1.0] * 50, items * 5)
    assert one["mean"] == many["mean"] == one["high"] == 1.0
    assert one["low"] == many["low"] < 0.7
    ties = rater_agreement.share([0.5] * 10, items)
    assert ties["low"] < 0.3 < 0.7 < ties["high"], "ten ties do not prove that the two are equal"
    assert rater_agreement.share([1.0, 0.0], ["p", "p"])["low"] is None
    assert rater_agreement.share([], []) == {"n": 0, "clusters": 0, "mean": None, "low": None, "high": None}


def test_the_sign_test_counts_items() -> None:
    entries = [entry(i) for i in range(12)]
    # Items of two records: p0..p3 won, p4 lost, p5 even.
    choices = ["left"] * 8 + ["right"] * 2 + ["left", "right"]
    row = rater_agreement.sign(found(entries, [vote(i, c) for i, c in enumerate(choices)]))
    assert row == {"wins": 4, "losses": 1, "even": 1, "p": pytest.approx(binomtest(4, 5).pvalue)}
    assert rater_agreement.sign([])["p"] is None


def test_a_rater_who_always_takes_the_left_side_shows() -> None:
    entries = [entry(i, *(("tuned", "base") if i % 2 else ("base", "tuned"))) for i in range(20)]
    rows = found(entries, [vote(i, "left") for i in range(20)])
    side = rater_agreement.sides(rows)
    assert (side["n"], side["left"], side["share"]) == (20, 20, 1.0)
    assert side["p"] < 1e-5
    assert rater_agreement.share([r["value"] for r in rows], [r["item"] for r in rows])["mean"] == 0.5, (
        "and moves no win rate"
    )


def test_repeats_measure_the_opinion_and_the_habit() -> None:
    entries = [entry(i) for i in range(4)] + [entry(10 + i, "base", "tuned", "repeat", of=i) for i in range(4)]
    # Kept, kept, switched to the same side, tie twice.
    votes = [
        vote(i, c)
        for i, c in zip(
            (0, 1, 2, 3, 10, 11, 12, 13), ("left", "right", "left", "tie", "right", "left", "left", "tie"), strict=True
        )
    ]
    row = rater_agreement.within(found(entries, votes), rater_agreement.CALLS, False, 1)
    assert (row["n"], row["agreement"], row["same_side"]) == (4, 0.75, 1)
    # A repeat whose original nobody answered says nothing.
    assert rater_agreement.within(found(entries, votes[4:]), rater_agreement.CALLS, False, 1)["n"] == 0


def test_raters_are_compared_where_both_voted() -> None:
    entries = [entry(i) for i in range(6)]
    votes = [vote(i, c, "A") for i, c in enumerate(["left", "left", "right", "right", "tie"])]
    votes += [vote(i, c, "B") for i, c in enumerate(["left", "left", "right", "left", "tie", "right"])]
    row = rater_agreement.between(found(entries, votes), rater_agreement.CALLS, False)
    assert row["raters"] == 2
    assert row["pairs"]["r1:r2"]["n"] == 5
    assert row["ceiling"] == row["pairs"]["r1:r2"]["agreement"] == 0.8
    assert 0.5 < row["alpha"] < 1
    alone = rater_agreement.between(found(entries, votes[:5]), rater_agreement.CALLS, False)
    assert (alone["pairs"], alone["ceiling"], alone["alpha"]) == ({}, None, None)


def judged(*gaps: float | None) -> dict[tuple[str, str], dict[str, Any]]:
    made: dict[tuple[str, str], dict[str, Any]] = {}
    for i, gap in enumerate(gaps):
        if gap is not None:
            made |= {("tuned", f"r{i}"): {"score": 3.0 + gap}, ("base", f"r{i}"): {"score": 3.0}}
    return made


def test_the_judge_is_set_beside_most_raters() -> None:
    entries = [entry(i) for i in range(5)]
    votes = [vote(i, c, who) for who in "ABC" for i, c in enumerate(["left", "left", "right", "tie", "left"])]
    votes += [vote(0, "right", "D", reasons=["facts"])]
    row, apart = rater_agreement.judge(found(entries, votes), judged(1.0, -1.0, -0.5, 0.05, None), 0.05, 1)
    assert (row["n"], row["agreement"], row["unscored"]) == (4, 0.75, 1)
    assert "50 are needed" in row["uncalibrated"]
    assert [(r["record"], r["people"], r["judge"], r["votes"]) for r in apart] == [("r1", 1.0, 0.0, 3)]
    # 1.1 - 1.05 is a little more than .05 to a computer, and still a tie.
    assert rater_agreement.leaning([1.1, 1.05], 0.05) == 0.5


def test_flat_contradictions_come_before_ties() -> None:
    entries = [entry(i) for i in range(3)]
    rows = found(entries, [vote(0, "left"), vote(1, "left"), vote(2, "tie")])
    _, apart = rater_agreement.judge(rows, judged(0.0, -1.0, 1.0), 0.05, 1)
    assert [r["record"] for r in apart] == ["r1", "r0", "r2"]


def test_a_judge_is_calibrated_by_enough_labels_and_enough_agreement() -> None:
    assert rater_agreement.calibrated({"n": 50, "low": 0.4}) == ""
    assert "50 are needed" in rater_agreement.calibrated({"n": 49, "low": 0.9})
    assert "below 0.4" in rater_agreement.calibrated({"n": 60, "low": 0.39})
    assert "below 0.4" in rater_agreement.calibrated({"n": 60, "low": None})

"""Failures are counted, bounded and tested, and never a number."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anneal.stats import missing


def test_bounds_hold_what_the_failures_may_be_worth() -> None:
    assert missing.bounds([4.0, None, 2.0, None], 1, 5) == [2.0, 4.0]
    assert missing.bounds([4.0, 2.0], 1, 5) == [3.0, 3.0]
    assert missing.bounds([None], 1, 5) == [1.0, 5.0]
    assert missing.bounds([], 1, 5) is None


def test_bounds_of_a_difference_take_the_sides_apart() -> None:
    left: dict[str, float | None] = {"a": 4.0, "b": None, "c": 3.0}
    right: dict[str, float | None] = {"a": 3.0, "b": 2.0, "d": None}
    assert missing.difference_bounds(left, right, 1, 5) == [2.5 - 2.5, 4.5 - 2.5]
    assert missing.difference_bounds(left, {"z": 1.0}, 1, 5) is None


scores = st.dictionaries(st.sampled_from("abcdefgh"), st.one_of(st.none(), st.floats(1, 5)), min_size=1)


@given(scores, scores, st.floats(1, 5))
def test_whatever_the_failures_are_worth_the_bounds_hold_it(
    left: dict[str, float | None], right: dict[str, float | None], worth: float
) -> None:
    ids = left.keys() & right.keys()
    found = missing.difference_bounds(left, right, 1, 5)
    assert (found is None) == (not ids)
    if found:
        sides = [sum(worth if (v := side[i]) is None else v for i in ids) / len(ids) for side in (left, right)]
        assert found[0] - 1e-9 <= sides[0] - sides[1] <= found[1] + 1e-9


def test_garbage_for_one_system_alone_is_seen() -> None:
    from scipy.stats import fisher_exact

    counts = {"golden": (0, 170), "tuned": (17, 170), "base": (1, 170)}
    found = missing.differential(counts)
    assert found["differs"]
    assert found["pair"] == ["golden", "tuned"]
    raw = fisher_exact([[0, 170], [17, 153]]).pvalue
    assert found["p"] == pytest.approx(3 * raw)
    assert [test["pair"] for test in found["tests"]] == [["golden", "tuned"], ["golden", "base"], ["tuned", "base"]]
    said = missing.sentence(counts, found)
    assert said.startswith("differential missingness: 17 of 170 verdicts on tuned failed and 0 of 170 verdicts on gold")
    assert f"(Fisher p = {3 * raw:.2g})" in said


def test_failures_of_all_alike_are_no_difference() -> None:
    counts = {"golden": (8, 170), "tuned": (9, 170), "base": (7, 170)}
    found = missing.differential(counts)
    assert not found["differs"]
    assert missing.sentence(counts, found) == ""
    assert missing.differential({"tuned": (0, 10), "base": (0, 10)})["reason"] == "no variance: nothing failed"
    assert missing.differential({"tuned": (3, 10), "base": (0, 0)})["reason"].startswith("empty")
    # One of three tests at .04 is what chance gives.
    close = missing.differential({"golden": (5, 170), "tuned": (7, 170), "base": (15, 170)})
    assert min(test["p"] for test in close["tests"]) < 0.05
    assert not close["differs"]
    assert missing.differential({})["p"] is None

"""Experiment against experiment: what may be paired, what may be said, and the tests against scipy and statsmodels."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anneal.stats import intervals, paired
from anneal.stats.paired import Matched

Row = dict[str, Any]


def row(name: str, score: float | None, judge: str = "j1", **more: Any) -> Row:
    item = name.split("/")[0]
    dims = {} if score is None else {"tone": {"score": score}, "facts": {"score": score / 2}}
    outcome = "timeout" if score is None else "ok"
    return {
        "id": name,
        "item": item,
        "type": "ad",
        "outcome": outcome,
        "score": score,
        "judge_id": judge,
        "dims": dims,
        **more,
    }


def pair(gaps: list[float], clusters: list[str]) -> Matched:
    ids = [f"{k:03}" for k in range(len(gaps))]
    return Matched(
        dict(zip(ids, gaps, strict=True)), dict.fromkeys(ids, 0.0), dict(zip(ids, clusters, strict=True)), {}
    )


def test_only_the_same_text_under_the_same_judge_is_paired() -> None:
    left = [row("a/1", 4), row("a/2", 3), row("b/1", 2), row("b/2", None), row("c/1", 5), row("d/1", 1)]
    right = [row("a/1", 3), row("a/2", 3, judge="j2"), row("b/1", 2), row("b/2", 4), row("e/1", 5)]
    right.append(row("d/1", 1, item="other"))
    found = paired.matched(left, right)
    assert found.left == {"a/1": 4.0, "b/1": 2.0}
    assert found.right == {"a/1": 3.0, "b/1": 2.0}
    assert found.clusters == {"a/1": "a", "b/1": "b"}
    assert found.left_out == {"absent": 2, "other_item": 1, "other_judge": 1, "unscored": 1}
    with pytest.raises(ValueError, match="twice"):
        paired.matched([left[0], left[0]], right)


@pytest.mark.parametrize(("shift", "margin"), [(0.0, 0.5), (0.3, 0.5), (-0.4, 0.2), (1.0, 0.1)])
def test_equivalence_is_the_two_one_sided_tests_of_statsmodels(shift: float, margin: float) -> None:
    from statsmodels.stats.weightstats import DescrStatsW

    values = np.random.default_rng(4).normal(shift, 0.6, size=17)
    ours = paired.equivalence(intervals.mean(values.tolist(), [str(k) for k in range(17)]), margin)
    assert ours == pytest.approx(DescrStatsW(values).ttost_mean(-margin, margin)[0])


def test_equivalence_errs_no_more_than_it_says() -> None:
    """At the very margin: at most 5 in 100 wrong claims, although rows of one cluster resemble each other."""
    rng, wrong = np.random.default_rng(7), 0
    clusters = [f"p{k // 9:02}" for k in range(171)]
    for _ in range(400):
        values = np.repeat(rng.normal(size=19), 9) * math.sqrt(0.3) + rng.normal(size=171) * math.sqrt(0.7) + 0.8
        p = paired.equivalence(intervals.mean(values.tolist(), clusters), 0.8)
        assert p is not None
        wrong += p < 0.05
    assert 0 < wrong / 400 <= 0.08


@pytest.mark.parametrize(("gained", "lost"), [(9, 2), (1, 7), (4, 4), (12, 0)])
def test_mcnemar_is_that_of_statsmodels(gained: int, lost: int) -> None:
    from statsmodels.stats.contingency_tables import mcnemar

    cells = [(True, False)] * gained + [(False, True)] * lost + [(True, True)] * 20 + [(False, False)] * 3
    left, right = ({str(k): cell[side] for k, cell in enumerate(cells)} for side in (0, 1))
    found = paired.mcnemar(left, right | {"elsewhere": True})
    assert (found["n"], found["both"], found["neither"]) == (gained + lost + 23, 20, 3)
    assert (found["only_left"], found["only_right"]) == (gained, lost)
    assert found["p"] == pytest.approx(mcnemar([[20, gained], [lost, 3]], exact=True).pvalue)


def test_mcnemar_has_nothing_to_say_of_ties() -> None:
    assert paired.mcnemar({"a": True}, {"a": True})["reason"].startswith("all ties")
    assert paired.mcnemar({}, {"a": True})["reason"].startswith("empty")
    assert paired.mcnemar({}, {})["p"] is None


def test_types_and_dimensions_share_one_correction() -> None:
    rng = np.random.default_rng(1)
    left = [row(f"p{k}/{kind}", float(rng.integers(1, 6)), type=kind) for k in range(12) for kind in ("ad", "post")]
    right = [row(r["id"], float(rng.integers(1, 6)), type=r["type"]) for r in left]
    found = paired.differences(left, right, seed=1, margin=0.1)
    parts = {(kind, name): part for kind, dims in found.items() for name, part in dims.items()}
    assert sorted(parts) == [("ad", "facts"), ("ad", "tone"), ("post", "facts"), ("post", "tone")]
    from statsmodels.stats.multitest import multipletests

    theirs = multipletests([part["p"] for part in parts.values()], method="holm")[1]
    assert [part["p_holm"] for part in parts.values()] == pytest.approx(list(theirs))
    assert all(part["n"] == 12 for part in parts.values())


def test_band_holds_two_runs_of_the_same() -> None:
    """Three seeds give a band that the difference of two new runs keeps to 95 times in 100."""
    rng, kept = np.random.default_rng(3), 0
    for _ in range(600):
        means = rng.normal(4, 0.1, size=5)
        found = paired.band([{"a": m - 1, "b": m + 1} for m in means[:3]])
        kept += abs(means[3] - means[4]) <= found["band"]
    assert kept / 600 == pytest.approx(0.95, abs=0.025)
    assert (found["seeds"], found["n"]) == (3, 2)
    # By hand: variance 7/300 * (3/2 - 1/2) of 4.0, 4.1 and 4.3; t of 2 degrees is 4.302653.
    by_hand = 4.302653 * math.sqrt(2 * 7 / 300)
    assert paired.band([{"a": m} for m in (4.0, 4.1, 4.3)])["band"] == pytest.approx(by_hand, rel=1e-6)
    assert found["largest"] == pytest.approx(np.ptp(means[:3]))


def test_band_that_cannot_be_known() -> None:
    assert paired.band([])["reason"].startswith("empty")
    assert paired.band([{"a": 1.0}, {"b": 1.0}])["reason"].startswith("empty")
    assert paired.band([{"a": 1.0}])["reason"].startswith("one seed")
    still = paired.band([{"a": 1.0, "b": 2.0}] * 3)
    assert (still["band"], still["largest"]) == (None, 0.0)
    assert still["reason"].startswith("no variance")


NAMES = [f"p{k // 3:02}" for k in range(60)]
NOISE = np.random.default_rng(5).normal(size=60)


@pytest.mark.parametrize(
    ("gaps", "noise", "state", "words"),
    [
        (NOISE + 2, None, "higher", r"^\+1\.\d\d \[.*\], n = 60 in 20 clusters: higher$"),
        (NOISE - 2, None, "lower", "lower$"),
        (NOISE + 2, 3.0, "noise", "inside the noise of other seeds, ±3.00"),
        (NOISE - 2, 1.0, "lower", "lower$"),
        (NOISE * 0.1, None, "equivalent", "equivalent within ±0.10"),
        (NOISE * 0.01 + 0.03, None, "higher", "higher, yet equivalent within ±0.10"),
        (NOISE, None, "open", r"not distinguishable; a true difference of 0\.\d\d would show 4 times in 5"),
        (NOISE * 0, None, "none", r"^\+0\.00; not decided: all ties: no score differs$"),
        (NOISE * 0 + 0.5, None, "none", r"^\+0\.50; not decided: no variance: all clusters say the same$"),
    ],
)
def test_what_is_said_of_a_difference(gaps: np.ndarray, noise: float | None, state: str, words: str) -> None:
    numbers = paired.difference(pair(gaps.tolist(), NAMES), seed=1, margin=0.1)
    assert paired.state(numbers, noise) == state
    assert re.search(words, paired.sentence(numbers, noise))
    if state in ("none", "open"):
        # A corrected p-value that is no longer small takes the claim back.
        return
    corrected = {**numbers, "p_holm": 0.3}
    assert paired.state(corrected) in ("open", "equivalent")


def test_too_little_data_is_said_so() -> None:
    nothing = paired.difference(pair([], []), seed=1, margin=0.1)
    assert paired.sentence(nothing) == "not decided: empty: there is nothing to measure"
    single = paired.difference(pair([1.0, 2.0], ["p", "p"]), seed=1, margin=0.1)
    assert paired.sentence(single) == "+1.50; not decided: one cluster: it shows no spread"
    assert [single[key] for key in ("p", "detectable", "p_equivalent")] == [None] * 3
    # Three clusters that agree: the interval excludes 0, but no flip of three signs is rare enough.
    three = paired.difference(pair([1.0, 1.1, 0.9], ["a", "b", "c"]), seed=1, margin=0.1)
    assert three["low"] > 0
    assert three["p"] == 0.25
    assert "not distinguishable by sign flips (p = 0.25)" in paired.sentence(three)


values = st.lists(st.floats(-5, 5, allow_nan=False).map(lambda x: round(x, 2)), min_size=0, max_size=24)


@settings(max_examples=60, deadline=None)
@given(values, st.integers(1, 6))
def test_turned_round_it_says_the_opposite(gaps: list[float], size: int) -> None:
    names = [str(k // size) for k in range(len(gaps))]
    one = paired.difference(pair(gaps, names), seed=1, margin=0.1)
    other = paired.difference(pair([-g for g in gaps], names), seed=1, margin=0.1)
    for key in ("se", "p", "detectable", "p_equivalent"):
        assert one[key] == pytest.approx(other[key])
    assert one["reason"] == other["reason"]
    assert bool(one["reason"]) == (one["low"] is None)
    if one["low"] is not None:
        assert (one["low"], one["high"]) == pytest.approx((-other["high"], -other["low"]))
    turned = {"higher": "lower", "lower": "higher"}
    assert paired.state(other) == turned.get(paired.state(one), paired.state(one))


def test_scores_under_another_sheet_are_no_pair() -> None:
    row = {"id": "a", "item": "a", "outcome": "ok", "score": 3.0, "judge_id": "j"}
    found = paired.matched([row | {"sheet": "1"}], [row | {"sheet": "2"}])
    assert (found.left, found.left_out["other_item"]) == ({}, 1)
    assert paired.matched([row | {"sheet": "1"}], [row | {"sheet": "1"}]).left == {"a": 3.0}

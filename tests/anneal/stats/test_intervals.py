"""The intervals against statsmodels and scipy, by simulation, and against the ways in which rows lie."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anneal.stats import intervals


def drawn(seed: int, clusters: int = 19, size: int = 9, icc: float = 0.3) -> tuple[list[float], list[str]]:
    """Values with true mean 0 and variance 1, of which the share `icc` is common to a cluster."""
    rng = np.random.default_rng(seed)
    common = np.repeat(rng.normal(size=clusters), size) * math.sqrt(icc)
    values = common + rng.normal(size=clusters * size) * math.sqrt(1 - icc)
    return values.tolist(), [f"p{i // size:02}" for i in range(clusters * size)]


def holds(estimate: intervals.Estimate, truth: float) -> bool:
    assert estimate.low is not None
    assert estimate.high is not None
    return estimate.low <= truth <= estimate.high


@pytest.mark.parametrize("seed", range(5))
def test_mean_is_the_clustered_regression_of_statsmodels(seed: int) -> None:
    import statsmodels.api as sm

    values, clusters = drawn(seed, clusters=7 + seed, size=6)
    values, clusters = values[seed:], clusters[seed:]  # unequal clusters
    ours = intervals.mean(values, clusters)
    codes = np.unique(clusters, return_inverse=True)[1]
    theirs = sm.OLS(values, np.ones(len(values))).fit(cov_type="cluster", cov_kwds={"groups": codes}, use_t=True)
    assert ours.mean == pytest.approx(theirs.params[0])
    assert ours.se == pytest.approx(theirs.bse[0])
    assert (ours.low, ours.high) == pytest.approx(tuple(theirs.conf_int()[0]))
    assert (ours.n, ours.clusters) == (len(values), 7 + seed)


@pytest.mark.parametrize(("hits", "n"), [(0, 19), (3, 19), (160, 171), (171, 171)])
def test_wilson_is_that_of_statsmodels(hits: int, n: int) -> None:
    from statsmodels.stats.proportion import proportion_confint

    assert intervals.wilson(hits / n, n) == pytest.approx(proportion_confint(hits, n, method="wilson"), abs=1e-12)


def test_interval_covers_the_truth_where_rows_would_not() -> None:
    covered = naive = 0
    for seed in range(400):
        values, clusters = drawn(seed)
        covered += holds(intervals.mean(values, clusters), 0.0)
        naive += holds(intervals.mean(values, [str(i) for i in range(len(values))]), 0.0)
    assert covered / 400 >= 0.93
    assert naive / 400 <= 0.80, "the simulation has lost its clusters, so that it proves nothing"


def test_rate_covers_the_truth_in_clusters() -> None:
    covered = 0
    for seed in range(400):
        values, clusters = drawn(seed)
        covered += holds(intervals.rate([v < 0.8416 for v in values], clusters), 0.8)
    assert covered / 400 >= 0.93


def test_repeating_every_row_changes_no_standard_error() -> None:
    values, clusters = drawn(1)
    flags = [v > 0 for v in values]
    once, thrice = intervals.mean(values, clusters), intervals.mean(values * 3, clusters * 3)
    assert thrice.se == pytest.approx(once.se)
    assert (thrice.low, thrice.high) == pytest.approx((once.low, once.high))
    once, thrice = intervals.rate(flags, clusters), intervals.rate(flags * 3, clusters * 3)
    assert (thrice.low, thrice.high) == pytest.approx((once.low, once.high))


def test_rate_never_claims_more_than_independent_rows() -> None:
    names = [f"p{i // 9:02}" for i in range(171)]
    perfect = intervals.rate([True] * 171, names)
    assert (perfect.mean, perfect.high) == (1.0, 1.0)
    assert perfect.low == pytest.approx(intervals.wilson(1.0, 171, 2.10092)[0], abs=1e-5)
    # Every product fails once: the cluster error is 0, which is no reason to claim an exact share.
    spread = intervals.rate([i % 9 != 0 for i in range(171)], names)
    assert (spread.low, spread.high) == pytest.approx(intervals.wilson(8 / 9, 171, 2.10092), abs=1e-5)
    # One row more fails: still fewer than by chance, and a design effect below 1 is no more certainty either.
    nearly = intervals.rate([i % 9 != 0 and i != 1 for i in range(171)], names)
    assert nearly.se
    assert (nearly.low, nearly.high) == pytest.approx(intervals.wilson(151 / 171, 171, 2.10092), abs=1e-5)
    # Whole products fail: 19 observations, whatever the number of rows.
    whole = intervals.rate([i >= 27 for i in range(171)], names)
    assert (whole.low, whole.high) == pytest.approx(intervals.wilson(16 / 19, 18, 2.10092), abs=1e-5)
    assert intervals.rate([True, False], ["p", "p"]).low is None


def test_what_cannot_be_known_is_none() -> None:
    assert intervals.mean([], []).row() == {
        "n": 0,
        "clusters": 0,
        "mean": None,
        "se": None,
        "low": None,
        "high": None,
    }
    single = intervals.mean([1.0, 2.0], ["p", "p"])
    assert (single.mean, single.se, single.low) == (1.5, None, None)
    assert intervals.detectable(single) is None
    assert intervals.sign_flip([1.0, 2.0], ["p", "p"], 1) is None
    assert intervals.rate([], []).mean is None
    # Equal values say nothing of their error, also where adding them up leaves a last bit.
    equal = intervals.mean([0.1] * 7, ["a", "a", "a", "b", "b", "c", "c"])
    assert (equal.se, equal.low, equal.high) == (0.0, None, None)
    assert intervals.detectable(equal) is None
    reasons = [
        intervals.why(found.row())
        for found in (intervals.mean([], []), single, equal, intervals.mean([1, 2], ["a", "b"]))
    ]
    assert reasons == [
        "empty: there is nothing to measure",
        "one cluster: it shows no spread",
        "no variance: all clusters say the same",
        "",
    ]
    with pytest.raises(ValueError, match="2 values for 1"):
        intervals.mean([1.0, 2.0], ["p"])


def test_paired_uses_what_both_hold() -> None:
    clusters = {f"p{i}/{k}": f"p{i}" for i in range(10) for k in range(3)}
    right = {key: float(len(key) + int(key[1])) for key in clusters}
    left = {key: value + 0.5 + 0.1 * (int(key[-1]) - 1) for key, value in right.items() if key != "p9/2"}
    result = intervals.paired(left, right, clusters, seed=1)
    assert result["n"] == 29
    assert result["clusters"] == 10
    assert result["mean"] == pytest.approx(0.4965517)
    assert result["low"] > 0.48
    assert result["p"] < 0.01
    assert 0 < result["detectable"] < 0.05
    assert result == intervals.paired(dict(reversed(left.items())), right, clusters, seed=1)


def test_sign_flip_is_that_of_scipy() -> None:
    from scipy.stats import permutation_test

    values, clusters = drawn(3, clusters=10, size=3)
    shifted = [v + 0.3 for v in values]
    sums = np.asarray(shifted).reshape(10, 3).sum(axis=1)
    exact = permutation_test((sums,), np.sum, permutation_type="samples", n_resamples=np.inf)
    assert intervals.sign_flip(shifted, clusters, 1) == pytest.approx(exact.pvalue, abs=1e-12)
    # Where all flips are too many, a sample of them says nearly the same, and the seed says which.
    some = [intervals.sign_flip(shifted, clusters, seed, draws=999) for seed in (1, 1, 2)]
    assert some[0] == some[1] != some[2]
    assert some == pytest.approx([exact.pvalue] * 3, abs=0.04)
    assert intervals.sign_flip([0.0] * 30, clusters, 1) == 1.0
    # Five clusters that agree: the two of 32 flips that reach the sum, whatever the seed and the unit.
    assert {intervals.sign_flip([x * unit for x in (1, 2, 3, 4, 5)], list("abcde"), seed=3) for unit in (1, 1e-10)} == {
        1 / 16
    }


def test_sign_flip_errs_no_more_than_it_says() -> None:
    found = []
    for seed in range(300):
        values, clusters = drawn(seed)
        found.append(intervals.sign_flip(values, clusters, 1, draws=499))
    assert 0.02 <= sum(p is not None and p < 0.05 for p in found) / 300 <= 0.08


def test_a_share_of_halves_is_no_wider_than_one_of_wins() -> None:
    rng = np.random.default_rng(2)
    names = [f"p{k // 5:02}" for k in range(100)]
    halves = rng.choice([0.0, 0.5, 1.0], size=100)
    found = intervals.share(halves.tolist(), names)
    assert found.mean == pytest.approx(halves.mean())
    assert found.low is not None
    assert found.low < halves.mean()
    assert intervals.share([float(v > 0) for v in halves], names) == intervals.rate(
        [bool(v > 0) for v in halves], names
    )
    assert intervals.share([0.5] * 100, names).low == pytest.approx(intervals.wilson(0.5, 100, 2.09302)[0], abs=1e-5)
    with pytest.raises(ValueError, match=r"0\.\.1"):
        intervals.share([0.5, 1.5], ["a", "b"])


def test_detectable_effect_has_the_power_it_promises() -> None:
    effect = intervals.detectable(intervals.mean(*drawn(0)))
    found = 0
    typical = float(np.median([intervals.detectable(intervals.mean(*drawn(seed))) for seed in range(50)]))
    for seed in range(300):
        values, clusters = drawn(seed)
        low = intervals.mean([v + typical for v in values], clusters).low
        assert low is not None
        found += low > 0
    assert effect is not None
    assert found / 300 == pytest.approx(0.8, abs=0.08)


def test_holm_is_that_of_statsmodels() -> None:
    from statsmodels.stats.multitest import multipletests

    raw: dict[str, float | None] = {"a": 0.01, "b": 0.04, "c": None, "d": 0.03, "e": 0.2}
    ours = intervals.holm(raw)
    theirs = multipletests([0.01, 0.04, 0.03, 0.2], method="holm")[1]
    assert ours.pop("c") is None
    assert list(ours.values()) == pytest.approx(list(theirs))


rows = st.lists(st.tuples(st.floats(-10, 10).map(lambda x: round(x, 3)), st.sampled_from("abcdef")), max_size=25)


@settings(max_examples=80, deadline=None)
@given(rows, st.floats(-5, 5), st.floats(0.1, 5))
def test_another_unit_is_another_unit_and_nothing_else(
    pairs: list[tuple[float, str]], shift: float, scale: float
) -> None:
    values, clusters = [x for x, _ in pairs], [c for _, c in pairs]
    once, other = intervals.mean(values, clusters), intervals.mean([scale * x + shift for x in values], clusters)
    assert (once.low is None) == bool(intervals.why(once.row()))
    assert (once.n, once.clusters) == (len(pairs), len(set(clusters)))
    if once.low is not None and once.se and once.se > 1e-6:
        assert other.se == pytest.approx(scale * once.se)
        assert other.low == pytest.approx(scale * once.low + shift, abs=1e-9)
    thrice = intervals.mean(values * 3, clusters * 3)
    assert thrice.se == (None if once.se is None else pytest.approx(once.se, abs=1e-12))


@given(st.dictionaries(st.text(max_size=3), st.one_of(st.none(), st.floats(0, 1)), max_size=8))
def test_holm_only_raises_and_keeps_the_order(raw: dict[str, float | None]) -> None:
    found = intervals.holm(raw)
    assert found.keys() == raw.keys()
    known = sorted((p, found[name] or 0.0) for name, p in raw.items() if p is not None)
    assert sum(p is None for p in found.values()) == len(raw) - len(known)
    assert all(p <= q <= 1 for p, q in known)
    assert [q for _, q in known] == sorted(q for _, q in known)

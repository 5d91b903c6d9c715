"""Length control against statsmodels, and where it must refuse to answer."""

from __future__ import annotations

import numpy as np
import pytest

from anneal.stats import length_control, win_rates
from anneal.stats.win_rates import Pair


def judged(seed: int, theta: float, phi: float, centre: float = 0, n: int = 190) -> tuple[list[Pair], dict[str, int]]:
    """Pairs whose length gap lies about `centre` characters, won by chance after the model itself; ten to a cluster."""
    rng = np.random.default_rng(seed)
    gaps = rng.normal(centre, 100, size=n).round().astype(int)
    odds = theta + phi * np.tanh(gaps / gaps.std())
    won = (rng.random((2, n)) < 1 / (1 + np.exp(-odds))).astype(float)
    pairs = [Pair(f"t{k:03}", f"p{k // 10:02}", won[0, k], won[1, k]) for k in range(n)]
    return pairs, {p.id: int(g) for p, g in zip(pairs, gaps, strict=True)}


def longest(centre: float, n: int = 100, seed: int = 1) -> tuple[list[Pair], dict[str, int]]:
    rng = np.random.default_rng(seed)
    gaps = {f"t{k:03}": int(g) for k, g in enumerate(rng.normal(centre, 100, size=n))}
    return [Pair(name, name[:3], float(g > 0), float(g > 0)) for name, g in gaps.items()], gaps


@pytest.mark.parametrize("seed", range(3))
def test_the_fit_and_its_error_are_those_of_statsmodels(seed: int) -> None:
    import statsmodels.api as sm

    pairs, gaps = judged(seed, 0.4, 0.8)
    found = length_control.controlled(pairs, gaps)
    gap = np.array([gaps[p.id] for p in pairs], dtype=float)
    x = np.column_stack([np.ones(len(gap)), np.tanh(gap / gap.std())])
    codes = np.unique([p.cluster for p in pairs], return_inverse=True)[1]
    model = sm.GLM([p.points for p in pairs], x, family=sm.families.Binomial())
    theirs = model.fit(cov_type="cluster", cov_kwds={"groups": codes})
    assert (found["theta"], found["phi"]) == pytest.approx(tuple(theirs.params), abs=1e-6)
    # Theirs grows with (n - 1) / (n - 2), with which repeating every row would change it.
    logit = np.log(found["high"] / (1 - found["high"]))
    se = theirs.bse[0] / np.sqrt((len(gap) - 1) / (len(gap) - 2))
    assert logit - found["theta"] == pytest.approx(2.10092 * se, rel=1e-4)
    assert (found["state"], found["reason"], found["separated"]) == ("reported", "", False)


def test_the_interval_covers_the_truth() -> None:
    covered = 0
    for seed in range(200):
        found = length_control.controlled(*judged(seed, 0.5, 1.0))
        covered += found["low"] <= 1 / (1 + np.exp(-0.5)) <= found["high"]
    assert covered / 200 >= 0.92


def test_length_alone_is_taken_out() -> None:
    """Equal texts but for their length: the raw win rate follows the longer one, the controlled one does not."""
    raw = controlled = 0.0
    for seed in range(20):
        pairs, gaps = judged(seed, 0.0, 2.0, centre=60)
        raw += float(win_rates.win_rate(pairs)["mean"]) / 20
        controlled += length_control.controlled(pairs, gaps)["rate"] / 20
    assert raw > 0.62
    assert controlled == pytest.approx(0.5, abs=0.02)


def test_a_judge_that_takes_the_longest() -> None:
    pairs, gaps = longest(centre=0)
    wins = length_control.longer_wins(pairs, gaps)
    assert (wins["mean"], wins["high"]) == (1.0, 1.0)
    assert wins["n"] == sum(abs(g) > 30 for g in gaps.values()) < 100
    found = length_control.controlled(pairs, gaps)
    assert found["separated"]
    assert found["phi"] > 3
    assert all(
        length_control.controlled(*longest(0, seed=seed))["rate"] == pytest.approx(0.5, abs=0.15) for seed in range(20)
    )
    assert (found["low"], found["reason"]) == (None, "length alone decides every verdict")
    assert length_control.sentence(found).endswith("% (length alone decides every verdict)")


@pytest.mark.parametrize(
    ("centre", "state", "words"),
    [
        (20, "reported", "at equal length it wins "),
        (90, "extrapolated", "extrapolated, few pairs have the other one longer: at equal length it wins "),
        (-90, "extrapolated", "extrapolated, few pairs have"),
        (600, "not identifiable", "not identifiable: it is the longer text in 100% of pairs and the shorter in 0%, at"),
        (
            -600,
            "not identifiable",
            "not identifiable: it is the longer text in 0% of pairs and the shorter in 100%, at",
        ),
    ],
)
def test_what_may_be_said_depends_on_the_overlap(centre: int, state: str, words: str) -> None:
    found = length_control.controlled(*judged(3, 0.3, 1.0, centre=centre))
    assert found["state"] == state
    assert length_control.sentence(found).startswith(words)
    assert (found["rate"] is None) == (state == "not identifiable")
    share = min(found["longer"], found["shorter"])
    assert {"reported": share >= 0.3, "extrapolated": 0.1 <= share < 0.3, "not identifiable": share < 0.1}[state]


@pytest.mark.parametrize(
    ("shorter", "state"),
    [(30, "reported"), (29, "extrapolated"), (10, "extrapolated"), (9, "not identifiable"), (0, "not identifiable")],
)
def test_the_overlap_is_the_smaller_share(shorter: int, state: str) -> None:
    pairs = [Pair(str(k), str(k // 5), float(k % 3 > 0), float(k % 2)) for k in range(100)]
    for sign in (1, -1):
        gaps = {str(k): sign * (-50 - k if k < shorter else 50 + k) for k in range(100)}
        assert length_control.controlled(pairs, gaps)["state"] == state


def test_a_judge_that_takes_the_shortest_is_as_blind() -> None:
    pairs, gaps = longest(centre=0)
    found = length_control.controlled(pairs, {name: -gap for name, gap in gaps.items()})
    assert found["separated"]
    assert found["phi"] < -3
    assert length_control.longer_wins(pairs, {name: -gap for name, gap in gaps.items()})["mean"] == 0.0


def test_near_pairs_stand_in_where_length_and_system_are_one() -> None:
    pairs, gaps = longest(centre=600)
    pairs = [*pairs, Pair("near", "q", 1.0, 0.5)]
    found = length_control.controlled(pairs, gaps | {"near": 30})
    assert (found["near"]["n"], found["near"]["mean"]) == (1, 0.75)
    assert length_control.sentence(found).endswith(
        "at least 10% of each are needed; it wins 75% of the 1 pairs of near equal length"
    )


def test_what_has_no_spread_has_no_rate() -> None:
    pairs, gaps = judged(1, 0, 0)
    same = [Pair(p.id, p.cluster, 1.0, 1.0) for p in pairs]
    ties = [Pair(p.id, p.cluster, 0.5, 0.5) for p in pairs]
    cases = {
        "empty": ([], {}),
        "no variance: all pairs are of equal length": (pairs, dict.fromkeys(gaps, 0)),
        "no variance: every pair has one result": (same, gaps),
        "all ties": (ties, gaps),
        "no variance: every pair has one": ([Pair(p.id, p.cluster, 1.0, 0.0) for p in pairs], gaps),
    }
    for reason, (some, lengths) in cases.items():
        found = length_control.controlled(some, lengths)
        assert (found["state"], found["rate"], found["low"]) == ("none", None, None)
        assert found["reason"].startswith(reason)
        assert length_control.sentence(found) == found["reason"]
    assert length_control.longer_wins([], {})["reason"].startswith("empty")
    assert (
        length_control.longer_wins(pairs, dict.fromkeys(gaps, 30))["reason"]
        == "no pair is more than 30 characters apart"
    )
    single = length_control.controlled([Pair(p.id, "p", p.first, p.second) for p in pairs], gaps)
    assert single["rate"] is not None
    assert (single["low"], single["reason"]) == (None, "one cluster: it shows no spread")


def test_repeating_every_pair_changes_nothing() -> None:
    pairs, gaps = judged(2, 0.4, 0.8)
    once, thrice = length_control.controlled(pairs, gaps), length_control.controlled(pairs * 3, gaps)
    for key in ("rate", "low", "high", "phi"):
        assert thrice[key] == pytest.approx(once[key])

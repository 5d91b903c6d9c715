"""Agreement figures against statsmodels and the textbook formulas, which are written out here."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
import pytest
from statsmodels.stats.inter_rater import cohens_kappa

from anneal.stats import agreement

CALLS = ("first", "tie", "second")
SCALE = (1, 2, 3, 4, 5)


def confusion(a: Sequence[int], b: Sequence[int]) -> np.ndarray:
    table = np.zeros((5, 5))
    for x, y in zip(a, b, strict=True):
        table[x - 1, y - 1] += 1
    return table


@pytest.mark.parametrize("seed", range(30))
def test_kappa_is_that_of_statsmodels(seed: int) -> None:
    rng = random.Random(seed)
    values = rng.sample(SCALE, rng.randint(2, 5))  # some labels are never used
    a = [rng.choice(values) for _ in range(60)]
    b = [x if rng.random() < 0.5 else rng.choice(values) for x in a]
    table = confusion(a, b)
    assert agreement.kappa(a, b, SCALE) == pytest.approx(cohens_kappa(table).kappa, abs=1e-12)
    quadratic = cohens_kappa(table, wt="quadratic").kappa
    assert agreement.kappa(a, b, SCALE, True) == pytest.approx(quadratic, abs=1e-12)


def alpha_by_hand(units: Sequence[Sequence[int]], ordinal: bool) -> float:
    """1 - observed / expected disagreement over all pairs of values (Krippendorff 2004, chapter 11)."""
    pairable = [unit for unit in units if len(unit) > 1]
    values = [value for unit in pairable for value in unit]

    def distance(x: int, y: int) -> float:
        if not ordinal:
            return float(x != y)
        low, high = min(x, y), max(x, y)
        between = sum(low <= value <= high for value in values)
        return (between - (values.count(low) + values.count(high)) / 2) ** 2

    observed = sum(sum(distance(x, y) for x in unit for y in unit) / (len(unit) - 1) for unit in pairable)
    expected = sum(distance(x, y) for x in values for y in values) / (len(values) - 1)
    return 1 - observed / expected


@pytest.mark.parametrize("ordinal", [False, True])
@pytest.mark.parametrize("seed", range(10))
def test_alpha_is_the_definition_also_with_gaps(seed: int, ordinal: bool) -> None:
    rng = random.Random(seed)
    units = [[rng.choice([1, 2, 2, 3, 5]) for _ in range(rng.randint(1, 4))] for _ in range(40)]
    units = [[unit[0]] * len(unit) if rng.random() < 0.4 else unit for unit in units]
    expected = alpha_by_hand(units, ordinal)
    assert agreement.alpha(units, SCALE, ordinal) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("quadratic", [False, True])
def test_an_interval_is_the_percentiles_of_kappa_over_draws_of_clusters(quadratic: bool) -> None:
    rng = random.Random(8)
    a = [rng.choice(SCALE) for _ in range(200)]
    b = [x if rng.random() < 0.6 else rng.choice(SCALE) for x in a]
    clusters = [f"i{k // 8:02}" for k in range(200)]
    row = agreement.compared(a, b, SCALE, clusters, 4, quadratic)
    draws = np.random.default_rng(4)
    kappas = []
    for _ in range(agreement.DRAWS):
        rows = [8 * cluster + k for cluster in draws.integers(25, size=25) for k in range(8)]
        table = confusion([a[i] for i in rows], [b[i] for i in rows])
        weights = np.subtract.outer(np.arange(5), np.arange(5)) ** 2 if quadratic else 1 - np.eye(5)
        chance = np.outer(table.sum(1), table.sum(0)) / table.sum()
        kappas.append(1 - (weights * table).sum() / (weights * chance).sum())
    assert [row["low"], row["high"]] == pytest.approx(np.percentile(kappas, [2.5, 97.5]), abs=1e-12)


def test_a_label_that_is_not_on_the_list_is_an_error() -> None:
    with pytest.raises(KeyError):
        agreement.kappa(["tie", "third"], ["tie", "tie"], CALLS)
    with pytest.raises(KeyError):
        agreement.alpha([["tie", "third"]], CALLS)


def test_where_nothing_varies_there_is_no_figure() -> None:
    assert agreement.kappa(["tie"] * 9, ["tie"] * 9, CALLS) is None
    assert agreement.alpha([["tie", "tie"]] * 9, CALLS) is None
    assert agreement.alpha([["tie"], ["first"]], CALLS) is None
    assert agreement.kappa([], [], CALLS) is None
    assert agreement.kappa(["tie", "first"], ["tie", "tie"], CALLS) == 0, "a constant rater agrees by chance only"
    row = agreement.compared([], [], CALLS, [], 1)
    assert row == {"n": 0, "agreement": None, "kappa": None, "low": None, "high": None}


def test_an_interval_holds_the_figure_and_widens_with_clusters() -> None:
    rng = random.Random(3)
    a = [rng.choice(CALLS) for _ in range(80)]
    b = [x if rng.random() < 0.7 else rng.choice(CALLS) for x in a]
    alone = agreement.compared(a, b, CALLS, [f"i{k}" for k in range(80)], 1)
    assert alone["low"] < alone["kappa"] < alone["high"]
    tripled = agreement.compared(a * 3, b * 3, CALLS, [f"i{k}" for k in range(80)] * 3, 1)
    assert tripled["high"] - tripled["low"] == pytest.approx(alone["high"] - alone["low"], abs=0.05)
    assert agreement.compared(a, b, CALLS, ["one"] * 80, 1)["low"] is None
    assert alone == agreement.compared(a, b, CALLS, [f"i{k}" for k in range(80)], 1)


def test_a_rater_who_throws_a_coin_has_kappa_near_nothing() -> None:
    rng = random.Random(5)
    a, b = ([rng.choice(CALLS) for _ in range(300)] for _ in range(2))
    row = agreement.compared(a, b, CALLS, [f"i{k}" for k in range(300)], 1)
    assert row["low"] < 0 < row["high"]


def test_agreement_without_exception_is_not_certain() -> None:
    a = ["first", "second"] * 20
    one = agreement.compared(a, a, CALLS, [f"i{k}" for k in range(40)], 1)
    few = agreement.compared(a, a, CALLS, [f"i{k % 20}" for k in range(40)], 1)
    assert (one["kappa"], one["high"]) == (1, 1)
    # 40 of 40: at least 91% agree; chance alone would make it half.
    assert one["low"] == pytest.approx(1 - (1 - 40 / (40 + 1.96**2)) / 0.5, abs=1e-3)
    assert few["low"] < one["low"] < 1
    assert agreement.compared(a, a, CALLS, [f"i{k % 18}" for k in range(40)], 1)["low"] is None

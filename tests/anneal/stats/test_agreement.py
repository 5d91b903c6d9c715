from __future__ import annotations

import random

import krippendorff
import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from anneal.stats import agreement

CALLS = ("first", "tie", "second")


@pytest.mark.parametrize("seed", range(6))
def test_kappa_is_that_of_scikit_learn(seed: int) -> None:
    rng = random.Random(seed)
    a = [rng.randint(1, 5) for _ in range(60)]
    b = [x if rng.random() < 0.5 else rng.randint(1, 5) for x in a]
    labels = (1, 2, 3, 4, 5)
    assert agreement.kappa(a, b, labels) == pytest.approx(cohen_kappa_score(a, b, labels=labels))
    quadratic = cohen_kappa_score(a, b, labels=labels, weights="quadratic")
    assert agreement.kappa(a, b, labels, True) == pytest.approx(quadratic)


@pytest.mark.parametrize("ordinal", [False, True])
@pytest.mark.parametrize("seed", range(6))
def test_alpha_is_that_of_krippendorff_with_gaps(seed: int, ordinal: bool) -> None:
    rng = random.Random(seed)
    table = np.array([[rng.choice([1, 2, 2, 3, 5]) for _ in range(40)] for _ in range(4)], dtype=float)
    table[0] = np.where([rng.random() < 0.6 for _ in range(40)], table[1], table[0])
    table[rng.randrange(4), ::3] = np.nan
    table[:3, 5] = np.nan  # one value alone pairs with none
    units = [[int(v) for v in column if v == v] for column in table.T]
    level = "ordinal" if ordinal else "nominal"
    theirs = krippendorff.alpha(table, level_of_measurement=level, value_domain=[1, 2, 3, 4, 5])
    assert agreement.alpha(units, (1, 2, 3, 4, 5), ordinal) == pytest.approx(theirs)


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

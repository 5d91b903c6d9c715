"""Bradley-Terry against scipy, scikit-learn and statsmodels, and where no finite strength exists."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from anneal.stats import bradley_terry
from anneal.stats.bradley_terry import Game

SYSTEMS = ("golden", "tuned", "base", "null")
TRUE = (1.2, 0.4, -0.3, -1.3)


def games(seed: int, texts: int = 60, ties: float = 0.1) -> list[Game]:
    """Every two of four systems on texts of 20 items, by their strengths, some drawn."""
    rng, made = np.random.default_rng(seed), []
    for k in range(texts):
        for (a, left), (b, right) in combinations(zip(SYSTEMS, TRUE, strict=True), 2):
            won = float(rng.random() < 1 / (1 + np.exp(right - left)))
            made.append((f"p{k // 3:02}", a, b, 0.5 if rng.random() < ties else won))
    return made


@pytest.mark.parametrize("seed", range(3))
def test_strengths_are_those_of_a_logistic_regression(seed: int) -> None:
    from sklearn.linear_model import LogisticRegression

    tables, names = bradley_terry.wins(games(seed), SYSTEMS)
    total = tables.sum(axis=0)
    assert (len(names), total.sum()) == (20, 60 * 6)
    ours = bradley_terry.fit(total)
    assert ours is not None
    rows = [(np.eye(4)[i] - np.eye(4)[j], total[i, j]) for i in range(4) for j in range(4) if i != j]
    x, w = np.array([row for row, _ in rows]), np.array([weight for _, weight in rows])
    model = LogisticRegression(C=1e8, fit_intercept=False, tol=1e-10)
    model.fit(np.vstack([x, -x]), np.repeat([1, 0], len(x)), np.concatenate([w, w]))
    assert ours == pytest.approx(model.coef_[0] - model.coef_[0].mean(), abs=1e-3)


@pytest.mark.parametrize("seed", range(40))
def test_strengths_are_the_maximum_of_the_likelihood(seed: int) -> None:
    """On sparse and dense tables of 4 to 8 systems with halves from ties: the optimum that scipy finds."""
    from scipy.optimize import minimize

    rng = np.random.default_rng(seed)
    count = int(rng.integers(4, 9))
    strength = rng.normal(size=count) * rng.choice([0.3, 1.0, 2.5])
    table = np.zeros((count, count))
    for i, j in combinations(range(count), 2):
        played = int(rng.choice([0, 3, 20, 200]))
        won = rng.binomial(played, 1 / (1 + np.exp(strength[j] - strength[i])))
        points = max(0.0, won - rng.binomial(played, 0.2) / 2)
        table[i, j] += points
        table[j, i] += played - points
    found = bradley_terry.fit(table)
    assert (found is None) == (not bradley_terry.connected(table))
    if found is None:
        return

    def loss(beta: np.ndarray) -> float:
        return float((table * np.logaddexp(0, beta[None, :] - beta[:, None])).sum() + beta.sum() ** 2)

    def gradient(beta: np.ndarray) -> np.ndarray:
        p = 1 / (1 + np.exp(beta[None, :] - beta[:, None]))
        return -(table - (table + table.T) * p).sum(axis=1) + 2 * beta.sum()

    best = minimize(loss, np.zeros(count), jac=gradient, method="BFGS", options={"gtol": 1e-9, "maxiter": 5000})
    assert found == pytest.approx(best.x - best.x.mean(), abs=5e-7)


def test_errors_are_those_of_a_clustered_logit() -> None:
    import statsmodels.api as sm

    played = games(7, ties=0)
    tables, names = bradley_terry.wins(played, SYSTEMS)
    beta = bradley_terry.fit(tables.sum(axis=0))
    assert beta is not None
    place = {name: k for k, name in enumerate(SYSTEMS)}
    # Strengths of mean 0 are three free numbers; the columns span their space.
    free = np.linalg.svd(np.eye(4) - 0.25)[0][:, :3]
    x = np.array([np.eye(4)[place[a]] - np.eye(4)[place[b]] for _, a, b, _ in played]) @ free
    groups = [names.index(cluster) for cluster, *_ in played]
    logit = sm.Logit([points for *_, points in played], x)
    found = logit.fit(disp=0, cov_type="cluster", cov_kwds={"groups": groups, "use_correction": False})
    assert free @ found.params == pytest.approx(beta, abs=1e-6)
    theirs = np.sqrt(np.diag(free @ found.cov_params() @ free.T) * 20 / 19)
    assert bradley_terry.errors(tables, beta) == pytest.approx(theirs, rel=1e-6)


def test_intervals_hold_the_truth() -> None:
    found = bradley_terry.strengths(games(5), SYSTEMS)
    assert (found["n"], found["clusters"], found["reason"]) == (360, 20, "")
    for true, name in zip(TRUE, SYSTEMS, strict=True):
        part = found["systems"][name]
        assert part["low"] < part["strength"] < part["high"]
        # A tenth of ties draws the strengths together.
        assert part["low"] - 0.1 < true * 0.87 < part["high"] + 0.1


def test_three_times_the_same_text_tells_no_more() -> None:
    once, thrice = (bradley_terry.strengths(games(5) * n, SYSTEMS) for n in (1, 3))
    assert thrice["n"] == 3 * once["n"]
    for name in SYSTEMS:
        assert thrice["systems"][name] == pytest.approx(once["systems"][name])


def test_who_never_loses_has_no_finite_strength() -> None:
    played = [(c, a, b, 1.0 if a == "golden" else points) for c, a, b, points in games(1)]
    found = bradley_terry.strengths(played, SYSTEMS)
    assert (found["systems"], found["reason"]) == ({}, "separated: golden never loses; see the win matrix")
    beaten = bradley_terry.matrix(played)["golden"]["tuned"]
    assert (beaten["mean"], beaten["high"], beaten["n"]) == (1.0, pytest.approx(1.0), 60)
    assert beaten["low"] == pytest.approx(0.94, abs=0.01)
    groups = np.array([[0, 5, 9, 9], [5, 0, 9, 9], [0, 0, 0, 5], [0, 0, 5, 0]], dtype=float)
    assert not bradley_terry.connected(groups)
    assert bradley_terry.fit(groups) is None


def test_a_loss_in_one_cluster_leaves_the_strength_without_an_interval() -> None:
    played = [(c, a, b, float(k > 0) if a == "golden" else points) for k, (c, a, b, points) in enumerate(games(1))]
    found = bradley_terry.strengths(played, SYSTEMS)
    assert found["reason"] == "no interval: without one of the clusters a system never wins or never loses"
    assert found["systems"]["golden"]["strength"] > 2
    assert {part["low"] for part in found["systems"].values()} == {None}


def test_what_is_too_little() -> None:
    three = [game for game in games(1) if "null" not in game]
    assert bradley_terry.strengths(three, SYSTEMS[:3])["reason"] == "3 systems: their win matrix says it all"
    assert bradley_terry.strengths([], SYSTEMS)["reason"] == "empty: no game was played"
    absent = bradley_terry.strengths(games(1), (*SYSTEMS, "other"))
    assert absent["reason"] == "separated: other plays no game; see the win matrix"
    single = bradley_terry.strengths([("p", *game[1:]) for game in games(1)], SYSTEMS)
    assert single["reason"] == "one cluster: it shows no spread"
    ties = bradley_terry.strengths([(*game[:3], 0.5) for game in games(1)], SYSTEMS)
    assert [part["strength"] for part in ties["systems"].values()] == pytest.approx([0.0] * 4)


def test_scores_are_games_on_the_texts_that_both_hold() -> None:
    scores = {"a": {"1": 4.8, "2": 3.0, "3": 1.0}, "b": {"1": 4.75, "2": 3.5}, "c": {"3": 0.5}}
    items = {"1": "p", "2": "q", "3": "q"}
    found = sorted(bradley_terry.scored(scores, items, tie=0.05))
    assert found == [("p", "a", "b", 0.5), ("q", "a", "b", 0.0), ("q", "a", "c", 1.0)]
    table = bradley_terry.matrix(found)
    assert (table["a"]["b"]["mean"], table["b"]["a"]["mean"], table["b"]["a"]["n"]) == (0.25, 0.75, 2)
    assert "c" not in table["b"]

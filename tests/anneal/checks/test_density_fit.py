"""Fitting: the choice by BIC, scores by models that have not seen the record, thresholds that keep their promise."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from anneal.checks import density, density_fit
from anneal.errors import UserError
from tests.anneal.checks.test_density import layouts, section

NUMBERS = [f"x{number}" for number in range(6)]


def rows(count: int, seed: int) -> list[dict[str, Any]]:
    """Records of six correlated numbers in two clusters."""
    rng = np.random.default_rng(seed)
    turn = np.random.default_rng(7).normal(size=(6, 6)) * 0.4 + np.eye(6)
    points = rng.normal(size=(count, 6)) @ turn + rng.integers(0, 2, (count, 1)) * 3
    return [
        {"id": f"{seed}/{number}", "type": "x", "text": json.dumps(dict(zip(NUMBERS, point, strict=True)))}
        for number, point in enumerate(points.tolist())
    ]


def test_bic_finds_the_clusters_and_rows_limit_the_candidates() -> None:
    fit = density_fit.fit(layouts(600), section(components=6), 0)
    assert fit.candidates[0]["components"] == len(fit.model.weights) == 4, "two sizes of two types"
    tried = {(row["components"], row["shape"]): row for row in fit.candidates}
    assert len(tried) == 12
    assert tried[3, "full"]["parameters"] == 2 + 3 * (2 + 3)
    few = density_fit.fit(layouts(100), section(components=4), 0)
    allowed = {(1, "diag"), (1, "full"), (2, "diag")}
    assert {(row["components"], row["shape"]) for row in few.candidates} == allowed, "10 rows for each parameter"
    tiny = density_fit.fit(layouts(12), section(), 0)
    assert [(row["components"], row["shape"]) for row in tiny.candidates] == [(1, "diag")]
    assert fit.candidates == sorted(fit.candidates, key=lambda row: row["bic"])


def test_no_record_is_scored_by_a_model_that_saw_it() -> None:
    """An outlier in six dimensions gets a likely place in the model that was fitted on it, and none in the others."""
    records = rows(120, 0)
    records[17]["text"] = json.dumps(dict.fromkeys(NUMBERS, 40.0) | {"x0": -40.0})
    fit = density_fit.fit(records, section(features=NUMBERS), 0)
    seen = density.log_prob(fit.model, records)
    assert int(fit.scores.argmin()) == 17
    assert seen[17] - fit.scores[17] > 5


def test_a_percentile_keeps_its_promise_on_new_records() -> None:
    """In sample, the fifth percentile of 60 rows drops far more than 5 % of new ones."""
    shares: dict[str, list[float]] = {"ours": [], "in sample": []}
    fresh = rows(1000, 99)
    for seed in range(4):
        records = rows(60, seed)
        fit = density_fit.fit(records, section(features=NUMBERS, rows_per_parameter=1, components=2), 0)
        scores, own = density.log_prob(fit.model, fresh), density.log_prob(fit.model, records)
        shares["ours"].append(float((scores >= fit.model.threshold).mean()))
        shares["in sample"].append(float((scores >= np.percentile(own, 5)).mean()))
    assert np.mean(shares["in sample"]) < 0.90
    assert 0.92 < np.mean(shares["ours"]) < 0.99


def test_exactly_the_percentile_goes_and_zero_keeps_all() -> None:
    records = layouts(200)
    for percentile, dropped in ((0, 0), (2, 4), (10, 20)):
        fit = density_fit.fit(records, section(percentile=percentile), 0)
        assert int((fit.scores < fit.model.threshold).sum()) == dropped


def test_constant_features_are_left_out() -> None:
    records = layouts(100)
    with_depth = density_fit.fit(records, section(features=["width", "depth", "height"], relative=["depth"]), 0)
    assert with_depth.model.units.features == ["width", "height"]
    assert with_depth.model.units.centres == {}
    assert np.array_equal(with_depth.scores, density_fit.fit(records, section(), 0).scores)
    # Constant within each type is constant too, once it is taken relative to the type.
    sized = [{**r, "text": json.dumps({**json.loads(r["text"]), "depth": 1 + (r["type"] == "a")})} for r in records]
    kept = density_fit.fit(sized, section(features=["width", "depth"]), 0).model.units.features
    assert kept == ["width", "depth"]
    relative = density_fit.fit(sized, section(features=["width", "depth"], relative=["depth"]), 0).model.units.features
    assert relative == ["width"]


def test_a_record_without_a_number_is_scored_but_not_fitted() -> None:
    records = layouts(100)
    broken = [{"id": f"broken/{n}", "type": "c", "text": "{"} for n in range(3)]
    fit, plain = density_fit.fit(records + broken, section(), 0), density_fit.fit(records, section(), 0)
    assert fit.scores[100:].tolist() == [-np.inf] * 3
    assert fit.scores[:100].tolist() == plain.scores.tolist()
    assert fit.model.threshold == plain.model.threshold
    assert fit.model.fit_on != plain.model.fit_on


def test_a_new_record_moves_no_other_to_another_fold() -> None:
    records = layouts(400)
    folds = [density_fit._fold(record, 5) for record in records]
    assert [density_fit._fold(record, 5) for record in reversed(records)] == folds[::-1]
    assert min(folds.count(fold) for fold in range(5)) > 50


def test_the_order_of_records_and_processes_does_not_matter() -> None:
    records = layouts(150)
    shuffled = random.Random(1).sample(records, len(records))
    assert density_fit.fit(records, section(), 0).model.fit_on == density_fit.fit(shuffled, section(), 0).model.fit_on
    code = (
        "from tests.anneal.checks.test_density import layouts, section; from anneal.checks import density_fit\n"
        "print(density_fit.fit(layouts(150), section(relative=['width', 'height'], categorical=['colour']), 0)"
        ".model.model_dump_json())"
    )
    outputs = set()
    for seed, threads in (("1", "1"), ("2", "2")):
        env = {**os.environ, "PYTHONHASHSEED": seed, "OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads}
        done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        outputs.add(done.stdout)
    assert len(outputs) == 1


def test_refusals() -> None:
    with pytest.raises(UserError, match=r"no text has 'lenght'; known: length, .*a JSON path"):
        density_fit.fit(layouts(50), section(features=["width", "lenght"]), 0)
    with pytest.raises(UserError, match="none varies over 50 records"):
        density_fit.fit(layouts(50), section(features=["depth"]), 0)
    with pytest.raises(UserError, match="9 records for 5 folds"):
        density_fit.fit(layouts(9), section(), 0)


def test_a_text_is_judged_by_the_fold_without_its_record() -> None:
    """The whole fit knows the right text of a record, and an answer is a variation of it: both meet one yardstick."""
    records = rows(120, 3)
    fit = density_fit.fit(
        records, section(features=NUMBERS, log=[], relative=[], categorical=[], rows_per_parameter=1), 0
    )
    assert fit.inside(records) == (fit.scores >= fit.model.threshold).tolist()
    easier = density.log_prob(fit.model, records) >= fit.model.threshold
    assert easier.sum() > sum(fit.inside(records)), "its own fit finds more of them likely"
    # A record that was not in the fit has a fold too.
    assert len(fit.inside(rows(5, 4))) == 5

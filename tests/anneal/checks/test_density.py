"""Scoring with NumPy alone against scikit-learn, and the model as a file."""

from __future__ import annotations

import json
import math
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from anneal.checks import density, density_fit
from anneal.checks.density import Density, Model
from anneal.errors import UserError

VALUES: dict[str, Any] = {
    "percentile": 5,
    "folds": 5,
    "components": 3,
    "rows_per_parameter": 10,
    "reg_covar": 1e-3,
    "features": ["width", "height"],
    "log": [],
    "relative": [],
    "categorical": [],
}


def section(**changes: Any) -> Density:
    return Density.model_validate({**VALUES, **changes})


def layouts(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Records whose text is JSON: two clusters of sizes, a colour that depends on the type."""
    rng = random.Random(seed)
    found = []
    for number in range(count):
        kind = "ab"[number % 2]
        centre = (40, 200) if rng.random() < 0.4 else (120, 90)
        layout = {
            "width": centre[0] + rng.gauss(0, 9) + 30 * (kind == "b"),
            "height": centre[1] + rng.gauss(0, 25),
            "colour": rng.choice(["red", "red", "red", "blue"]),
            "depth": 7,
        }
        found.append({"id": f"{seed}/{number}", "type": kind, "text": json.dumps(layout)})
    return found


@pytest.mark.parametrize("shape", ["full", "diag"])
@pytest.mark.parametrize("components", [1, 3])
def test_scores_are_those_of_sklearn(shape: density.Shape, components: int) -> None:
    records, fresh = layouts(300), layouts(50, seed=1)
    fit = density_fit.fit(records, section(), 0)
    points = fit.model.units.points(records)
    theirs = density_fit._mixture(points, components, shape, 1e-3, 0)
    full = [np.diag(c) if shape == "diag" else c for c in theirs.covariances_]
    ours = fit.model.model_copy(
        update={
            "weights": theirs.weights_.tolist(),
            "means": theirs.means_.tolist(),
            "covariances": [c.tolist() for c in full],
        }
    )
    expected = theirs.score_samples(ours.units.points(fresh))
    assert np.ptp(expected) > 2
    assert np.abs(density.log_prob(ours, fresh) - expected).max() < 1e-9


def test_the_file_scores_as_the_fit_and_needs_no_sklearn(tmp_path: Path) -> None:
    records = layouts(200)
    fit = density_fit.fit(records, section(categorical=["colour"], log=["width"], relative=["height"]), 0)
    path = tmp_path / "density.json"
    path.write_text(fit.model.model_dump_json(indent=1), "utf-8")
    assert density.load(path) == fit.model
    assert json.loads(path.read_text("utf-8"))["units"]["features"] == ["width", "height"]
    code = (
        "import sys, json; from anneal.checks import density\n"
        f"scores = density.log_prob(density.load({str(path)!r}), json.load(sys.stdin))\n"
        "assert not {'sklearn', 'scipy', 'pickle5', 'joblib'} & set(sys.modules)\n"
        "print(json.dumps(scores.tolist()))"
    )
    done = subprocess.run([sys.executable, "-c", code], input=json.dumps(records), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == density.log_prob(fit.model, records).tolist()


def test_a_categorical_field_adds_its_smoothed_log_probability() -> None:
    records = layouts(99)
    reds = sum('"red"' in r["text"] for r in records)
    plain, fit = density_fit.fit(records, section(), 0), density_fit.fit(records, section(categorical=["colour"]), 0)
    added = density.log_prob(fit.model, records) - density.log_prob(plain.model, records)
    # Two values seen and one place for those never seen: (count + 1) / (99 + 3).
    assert set(np.round(added, 9)) == {round(math.log((n + 1) / 102), 9) for n in (reds, 99 - reds)}
    green = [{**records[0], "text": records[0]["text"].replace("red", "green").replace("blue", "green")}]
    difference = density.log_prob(fit.model, green) - density.log_prob(plain.model, green)
    assert difference == pytest.approx(math.log(1 / 102))


def test_relative_to_the_type_and_to_all_for_an_unknown_type() -> None:
    records = layouts(200)
    model = density_fit.fit(records, section(relative=["width"]), 0).model
    wide = {"id": "n", "text": json.dumps({"width": 180.0, "height": 90.0})}
    scores = {kind: density.log_prob(model, [{**wide, "type": kind}])[0] for kind in ("a", "b", "new")}
    # 180 is 60 over the wide cluster of type a and 30 over that of type b.
    assert scores["a"] < scores["new"] < scores["b"]
    assert set(model.units.centres["width"]) == {"", "a", "b"}


def test_a_record_without_a_number_has_no_probability() -> None:
    records = layouts(100)
    model = density_fit.fit(records, section(), 0).model
    broken = [{"id": "x", "type": "a", "text": words} for words in ("{", '{"width": 3}', '{"width": 3, "height": "4"}')]
    assert density.log_prob(model, broken).tolist() == [-math.inf] * 3


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        density.load(tmp_path / "none.json")
    model = json.loads(density_fit.fit(layouts(50), section(), 0).model.model_dump_json())
    (tmp_path / "other.json").write_text(json.dumps({**model, "weights": "many"}))
    with pytest.raises(UserError, match=r"other\.json: no density model"):
        density.load(tmp_path / "other.json")
    with pytest.raises(ValidationError, match="lenght of log or relative"):
        section(log=["lenght"])
    with pytest.raises(ValidationError, match="components"):
        section(components=0)
    assert isinstance(Model.model_validate_json(json.dumps(model)), Model)


def test_the_component_a_record_comes_from() -> None:
    records = layouts(300)
    model = density_fit.fit(records, section(relative=["width"]), 0).model
    narrow, wide = (
        {"id": "n", "type": "a", "text": json.dumps(size)}
        for size in ({"width": 40.0, "height": 200.0}, {"width": 120.0, "height": 90.0})
    )
    assert len(model.weights) == 2
    first, second, absent = density.components(model, [narrow, wide, {"id": "x", "type": "a", "text": "{"}])
    assert {first, second} == {0, 1}
    assert absent is None
    shares = [density.components(model, records).count(place) / 300 for place in (first, second)]
    assert shares == pytest.approx([0.4, 0.6], abs=0.08)

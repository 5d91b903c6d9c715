"""The section about the filter, from metrics that checks/impact computes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from anneal.checks import impact
from anneal.checks.density import Density
from anneal.report import filtering
from tests.markup import plain, rows, state

DENSITY = Density(
    percentile=10,
    folds=2,
    components=2,
    rows_per_parameter=1,
    reg_covar=0.05,
    features=["length", "distinct"],
    log=["length"],
    relative=[],
    categorical=["colour"],
)


def record(n: int) -> dict[str, Any]:
    """One in five is blue and short; the lower the number, the less likely it is."""
    colour = "blue" if n % 5 == 0 else "red"
    words = f'{{"colour":"{colour}","words":"{"w" * n if colour == "red" else ""}"}}'
    return {"id": f"r{n:02}", "type": "k", "text": words, "log_prob": float(n), "value": float(n), "rule": "density"}


@pytest.fixture
def found() -> dict[str, Any]:
    """Of forty records the four blue ones with the lowest numbers go."""
    every = [record(n) for n in range(40)]
    dropped = [row for row in every if row["text"].startswith('{"colour":"blue') and row["value"] <= 15]
    kept = [row for row in every if row not in dropped]
    units = SimpleNamespace(features=DENSITY.features)
    model: Any = SimpleNamespace(units=units, tables={"colour": {}}, percentile=10.0, threshold=4.5)
    fit: Any = SimpleNamespace(scores=np.arange(40.0), model=model, candidates=[{"components": 2, "bic": 9.0}])
    return {
        "n": 40,
        "kept": len(kept),
        "types": impact.by_type(every, kept),
        "features": impact.by_feature(every, kept, DENSITY),
        "density": impact.likelihood(fit, every, kept, dropped),
    }


def test_features_are_shown_in_their_own_units(found: dict[str, Any]) -> None:
    now = state({"filter": {"density": {"log": ["length"]}}}, filter=found)
    told = rows(filtering.features(now))
    assert told[0] == ["feature", "p5", "p50", "p95", "KS"]
    lengths = dict(zip(told[0], told[1], strict=True))
    texts = [record(n)["text"] for n in range(40)]
    assert lengths["feature"] == "length"
    before, after = lengths["p95"].split(" → ")
    assert float(before) == pytest.approx(np.percentile([len(t) for t in texts], 95), rel=0.01)
    assert float(after) >= float(before)
    assert filtering.features(state(filter={"features": {"rare": {}}})) == ""


def test_names_with_their_shares_and_flags(found: dict[str, Any]) -> None:
    page = filtering.names(state(filter=found))
    assert "colour: 2 names, total variation" in plain(page)
    assert "1 lose more than twice the average share" in plain(page)
    told = rows(page)
    assert told[1] == ["blue", "8", "4", "20.0%", "11.1%", "50.0%", "high loss"]
    assert told[2] == ["red", "32", "32", "80.0%", "88.9%", "100.0%", ""]
    many = {f"n{n:03}": {"n": 1, "kept": 1} for n in range(filtering.SHOWN + 5)}
    page = filtering.names(state(filter={"density": {"names": {"path": {"total_variation": 0.0, "names": many}}}}))
    assert len(rows(page)) == filtering.SHOWN + 1
    assert "and 5 more" in page


def test_the_curve_is_in_the_order_of_its_percentiles(found: dict[str, Any]) -> None:
    density = {**found["density"], "curve": dict(sorted(found["density"]["curve"].items()))}
    told = rows(filtering.curve(state({"types": {"k": "A kind"}}, filter={"density": density})))
    assert [row[0] for row in told[1:]] == [f"{p}" for p in sorted(impact.CURVE)]
    assert [row[-1] for row in told[1:]] == ["", "", "", "chosen", ""]
    assert told[4][2:5] == ["36", "90.0%", "A kind 90.0%"]
    # A percentile that the curve does not hold has a row of its own.
    told = rows(filtering.curve(state(filter={"kept": 37, "density": {**density, "percentile": 7.5}})))
    assert [row[0] for row in told[1:]] == ["1", "2", "5", "7.5", "10", "25"]
    assert told[4][1:4] == ["4.50", "37", "92.5%"]
    assert told[4][-1] == "chosen"


def test_texts_near_the_threshold_are_shown_and_shortened(found: dict[str, Any]) -> None:
    found["density"]["lowest_kept"][0]["text"] = "<b>" + "x" * 1000
    page = filtering.edge(state(filter=found))
    told = rows(page)
    assert [row[0] for row in told[1:11]] == [row["id"] for row in found["density"]["lowest_kept"]]
    assert told[1][2] == "<b>" + "x" * (filtering.LETTERS - 3) + " …"
    assert [row[0] for row in told[12:]] == ["r15", "r10", "r05", "r00"]
    assert "<b>" not in page


def test_the_whole_section_and_none_without_the_stage(found: dict[str, Any]) -> None:
    page = filtering.impact(state(filter=found), state())
    assert "all of filter.json except the names" in page
    assert "density.names" not in page
    assert "density.threshold" in page
    assert filtering.impact(state(), state()) == ""

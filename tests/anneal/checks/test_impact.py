"""What a filter did, in numbers: against SciPy, against counts by hand, and with a stratum that loses too much."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest

from anneal.checks import density_fit, impact
from stages import filter as stage
from tests.anneal.checks.test_density import layouts, section


def boxes(widths: list[float], colours: str = "") -> list[dict[str, Any]]:
    names = {"r": "red", "b": "blue"}
    return [
        {"id": f"n{n:02d}", "type": "x", "text": json.dumps({"width": w, "colour": names.get(c, 0), "height": n})}
        for n, (w, c) in enumerate(zip(widths, colours or "r" * len(widths), strict=True))
    ]


def test_a_feature_before_and_after() -> None:
    from scipy.stats import ks_2samp

    records = boxes([float(n * n % 37) for n in range(60)])
    kept = [r for r in records if json.loads(r["text"])["width"] < 30]
    found = impact.by_feature(records, kept, section(features=["width", "height"], log=["height"]))
    before, after = ([json.loads(r["text"])["width"] for r in rows] for rows in (records, kept))
    assert found["width"]["ks"] == pytest.approx(ks_2samp(before, after).statistic)
    assert found["width"]["ks"] > 0.1
    assert (found["width"]["mean"], found["width"]["mean_kept"]) == (np.mean(before), np.mean(after))
    assert (found["width"]["sd"], found["width"]["sd_kept"]) == (np.std(before), np.std(after))
    assert [found["width"][f"p{q}_kept"] for q in (5, 50, 95)] == np.percentile(after, [5, 50, 95]).tolist()
    assert found["height"]["p50"] == pytest.approx((math.log1p(29) + math.log1p(30)) / 2), "in the density's units"
    assert impact.by_feature(records, records, section())["width"]["ks"] == 0


def test_a_text_without_the_number_counts_in_no_mean() -> None:
    records = boxes([1.0, 2.0, 3.0])
    found = impact.by_feature([*records, {"id": "x", "type": "x", "text": "{"}], records, section())
    assert (found["width"]["mean"], found["width"]["mean_kept"], found["width"]["ks"]) == (2, 2, 0)


def test_names_before_and_after() -> None:
    records = boxes([1.0] * 10, "rrrrrrrbbb")
    kept = [r for r in records if r["id"] not in ("n00", "n08", "n09")]
    found = impact.by_name(records, kept, ["colour", "depth"])
    red, blue = found["colour"]["names"]["red"], found["colour"]["names"]["blue"]
    assert (red["n"], red["kept"], red["retention"], red["flagged"]) == (7, 6, 6 / 7, False)
    assert (blue["n"], blue["kept"], blue["share"], blue["share_kept"]) == (3, 1, 0.3, 1 / 7)
    assert blue["flagged"], "two of three where three of ten is the average"
    assert found["colour"]["total_variation"] == pytest.approx(0.3 - 1 / 7)
    assert found["depth"] == {
        "total_variation": 0,
        "names": {
            "None": {"n": 10, "kept": 7, "share": 1, "share_kept": 1, "retention": pytest.approx(0.7), "flagged": False}
        },
    }


def test_the_records_at_the_cut_are_shown_with_their_texts() -> None:
    records = [{**r, "item": r["id"], "facts": {}} for r in layouts(200)]
    kept, dropped, fit = stage.likely(records, section(percentile=10, categorical=["colour"]), 0)
    found = impact.likelihood(fit, records, kept, dropped)
    texts = {r["id"]: r["text"] for r in records}
    assert len(found["lowest_kept"]) == len(found["highest_dropped"]) == 10
    for row in found["lowest_kept"] + found["highest_dropped"]:
        assert row["text"] == texts[row["id"]]
    low, high = ([row["log_prob"] for row in found[key]] for key in ("lowest_kept", "highest_dropped"))
    assert low == sorted(low) == sorted(r["log_prob"] for r in kept)[:10]
    assert high == sorted(high, reverse=True)
    assert high[0] < found["threshold"] <= low[0]
    assert list(found["names"]) == ["colour"]
    assert sum(row["n"] for row in found["names"]["colour"]["names"].values()) == 200
    # Both ways of keeping count of what another percentile would keep.
    for percentile in impact.CURVE:
        cut = float(np.percentile(fit.scores, percentile))
        assert found["curve"][f"p{percentile}"]["kept"] == int((fit.scores >= cut).sum())
    assert isinstance(fit, density_fit.Fit)


def test_a_type_that_loses_twice_the_average_is_flagged() -> None:
    records = [{"id": str(n), "type": "ab"[n < 20], "text": "x" * n} for n in range(100)]
    kept = [r for r in records if int(r["id"]) >= 10]
    found = impact.by_type(records, kept)
    assert (found["b"]["n"], found["b"]["kept"], found["b"]["flagged"]) == (20, 10, True)
    assert (found["a"]["retention"], found["a"]["flagged"]) == (1, False)

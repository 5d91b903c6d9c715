"""detection: the figures of the card against hand-made rows and against statsmodels."""

from __future__ import annotations

import math
import random
import re
from typing import Any

import numpy as np
import pytest

from anneal.judging import detection


def row(name: str, score: float | None, gate: bool = False, **more: Any) -> dict[str, Any]:
    broken = [{"rule": "g", "quote": "x"}] if gate else []
    outcome = "ok" if score is not None else "timeout"
    return {
        "id": name,
        "item": name[0],
        "type": "t",
        "score": score,
        "outcome": outcome,
        "violations": broken,
        "dims": {},
        "tokens": [3, 1],
        **more,
    }


GOLDEN = {name: row(name, 4.0) for name in ("a1", "a2", "b1", "b2")}


def test_a_text_is_found_below_its_own_sound_one_and_flagged_below_usable() -> None:
    rows = [row("a1", 3.9), row("a2", 4.0), row("b1", 4.1, gate=True), row("b2", None)]
    found = detection.detected(rows, GOLDEN)
    assert (found["n"], found["outcomes"]) == (4, {"ok": 3, "timeout": 1})
    assert [found[key]["n"] for key in ("lower", "higher", "flagged")] == [3, 3, 3]
    assert [found[key]["mean"] for key in ("lower", "higher", "flagged")] == pytest.approx([1 / 3] * 3)
    assert [detection.flagged(row("a1", score)) for score in (2.99, 3.0)] == [True, False]
    # The sound text has no score: nothing to hold the planted one against.
    assert detection.detected(rows[:1], {})["lower"]["mean"] is None


def test_a_tie_with_the_rejected_text_counts_half() -> None:
    found = detection.over_rejected([row("a1", 1.0), row("a2", 4.0), row("b1", 5.0)], GOLDEN)
    assert (found["n"], found["mean"]) == (3, 0.5)
    assert found["low"] < 0.5 < found["high"]
    assert detection.over_rejected([], GOLDEN)["reason"] == "empty: there is nothing to measure"


def lengths(n: int = 240, items: int = 12) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Texts of three types whose scores rise .3 for each doubling; types differ in both, the wrong way round."""
    rng = random.Random(7)
    rows, texts = [], {}
    for k in range(n):
        kind, item = k % 3, rng.randrange(items)
        size = int(40 * 2**kind * 2 ** rng.uniform(0, 1.5))
        score = 4 - kind + 0.3 * math.log2(size / 2**kind) + 0.1 * (item % 4) + rng.gauss(0, 0.2)
        rows.append(row(str(k), score) | {"type": "uvw"[kind], "item": f"i{item}"})
        texts[str(k)] = "x" * size
    return rows, texts


def test_the_slope_of_length_is_that_of_a_clustered_regression() -> None:
    import statsmodels.api as sm
    from scipy.stats import spearmanr

    rows, texts = lengths()
    found = detection.length(rows, texts)
    kinds = np.array([[float(r["type"] == kind) for kind in "uvw"] for r in rows])
    x = np.column_stack([[math.log2(len(texts[r["id"]])) for r in rows], kinds])
    y = np.array([r["score"] for r in rows])
    fit = sm.OLS(y, x).fit(
        cov_type="cluster",
        cov_kwds={"groups": np.unique([r["item"] for r in rows], return_inverse=True)[1]},
        use_t=True,
    )
    assert found["slope"] == pytest.approx(fit.params[0], abs=1e-9)
    assert [found["low"], found["high"]] == pytest.approx(list(fit.conf_int()[0]), abs=1e-9)
    assert found["low"] < 0.3 < found["high"]
    within = [z - kinds @ np.linalg.lstsq(kinds, z, rcond=None)[0] for z in (x[:, 0], y)]
    assert found["rho"] == pytest.approx(spearmanr(*within).statistic, abs=1e-9)
    # Over all types together the long texts score worse: a slope over them would say that length costs.
    assert np.polyfit(x[:, 0], y, 1)[0] < 0


def test_no_slope_where_nothing_varies() -> None:
    rows, texts = lengths(60)
    assert detection.length([r | {"score": 3.0} for r in rows], texts)["reason"] == (
        "no variance: scores of a type are all the same"
    )
    assert detection.length(rows, dict.fromkeys(texts, "x"))["reason"].startswith("no variance: lengths")
    assert detection.length(rows[:4], texts)["reason"].startswith("too few: 4 texts of")
    assert detection.length([], {})["reason"] == "too few: 0 texts of 0 items"


def test_blind_lines_have_their_figures() -> None:
    def part(n: int, lower: float | None, higher: float) -> dict[str, Any]:
        return {"lower": {"n": n, "mean": lower}, "higher": {"n": n, "mean": higher}}

    defects = {
        "fake_unknown": part(20, 0.15, 0.2),
        "looped": part(20, 0.5, 0.0),
        "padded": part(20, 0.9, 0.05),
        "null": part(0, None, 0.0),
    }
    assert detection.blind(defects) == [
        "fake_unknown: 3 of 20 found",
        "padded: 1 of 20 score above their own sound text",
    ]


def test_the_table_marks_held_out_words_and_says_what_is_left_out() -> None:
    rows = [
        row(name, score) | {"defect": name_}
        for name_ in ("looped", "fake_unknown")
        for name, score in (("a1", 1.0), ("b1", 4.0))
    ]
    records = [{"id": name, "completion": [{"role": "assistant", "content": "x" * 9}]} for name in GOLDEN]
    numbers = detection.summary(rows, list(GOLDEN.values()), records) | {"left_out": {"weak": "why"}}
    assert numbers["tokens"] == {"in": 12, "out": 4}
    table = detection.table(numbers).split("\n")
    assert table[2].startswith("| looped | 2 | 0.50 (0.")
    assert table[3].startswith("| fake_unknown (words held out) | 2 | 0.50 (")
    assert "Sound texts that are not flagged: 1.00 (0." in table[5]
    assert (
        table[6] == "Points per doubling of the length of a sound text: no variance: scores of a type are all the same."
    )
    assert table[7] == "Judged again: no text was judged twice (judge.repeats)."
    assert table[-1] == "Left out: weak (why)."
    rows, texts = lengths()
    numbers |= {"length": detection.length(rows, texts), "over_rejected": detection.over_rejected(rows[:1], {})}
    assert re.search(r"sound text: 0\.\d\d \(0\.\d\d to 0\.\d\d\), Spearman's rho 0\.\d\d\.", detection.table(numbers))

"""The summary: the parts of a pull-request comment and its length."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from anneal.history.revision import Snapshot
from anneal.report import summary
from tests.finished import PARAMS, metrics, sound


@pytest.fixture(autouse=True)
def _nothing_has_run(toy: Path) -> None:
    """A folder without dvc.lock, so that edits of the checkout raise no alert here."""


SAME = Snapshot("main", "", metrics(), PARAMS)


def test_headline_then_alerts_then_tables() -> None:
    said = summary.summary(sound(format__over_length={"rows": 3}), SAME)
    places = [
        said.index(words)
        for words in (
            "**tuned is better",
            "**tuned is preferred",
            "Compared with main",
            "- **Attention**: 3 records",
            "| golden | 4 | 4.50 (4 scored) | 100.0% |",
            "| An ad | 4.50 | 4.00 | 1.50 | +2.50 [+2.20,",
            "Params: unchanged.",
            "Metrics:",
        )
    ]
    assert places == sorted(places)
    assert "\n\n\n" not in said


def test_a_crowded_run_still_fits_a_comment() -> None:
    now, old = sound(), copy.deepcopy(SAME)
    blocks: dict[str, Any] = now.metrics["compare"]["by_type"]
    blocks |= {f"kind {i}": blocks["ad"] for i in range(40)}
    now.metrics["compare"]["controls"] = {f"control {i}": {"mean": 0.5} for i in range(40)}
    old.params.update({f"key{i}": i for i in range(40)})
    for i in range(40):
        now.metrics["train"][f"a{i}"], old.metrics["train"][f"a{i}"] = i, i + 1
    said = summary.summary(now, old)
    lines = said.splitlines()
    assert 50 < len(lines) <= summary.LINES
    for words in ("and 30 more lines", "and 32 more types", "and 35 more params", "train.a0"):
        assert words in said, words


def test_half_a_run_has_a_summary() -> None:
    said = summary.summary(Snapshot("here"), Snapshot("main", "first run: nothing to compare with"))
    assert said.startswith("**No comparison yet")
    assert said.endswith("first run: nothing to compare with\n")


def test_nothing_in_a_text_opens_markup() -> None:
    now = sound()
    now.metrics["compare"]["by_type"] = {"a|b\n<script>": now.metrics["compare"]["by_type"]["ad"]}
    said = summary.summary(now, SAME)
    assert "| a\\|b &lt;script> |" in said


def test_the_aligned_model_has_its_line_row_and_columns() -> None:
    said = summary.summary(sound(aligned=True), SAME)
    for words in (
        "**aligned is better than tuned by 0.50",
        "| aligned | 4 | 4.50 (4 scored) | 100.0% |",
        "| type | golden | aligned | tuned | base | tuned − base | aligned − tuned | aligned − tuned at BASE |",
        "| An ad | 4.50 | 4.50 | 4.00 | 1.50 | +2.50 [+2.20, +2.80] | +0.50 [+0.25, +0.75] |",
    ):
        assert words in said, words
    assert "aligned" not in summary.summary(sound(), SAME)
    crowd = sound(aligned=True)
    blocks: dict[str, Any] = crowd.metrics["compare"]["by_type"]
    blocks |= {f"kind {i}": blocks["ad"] for i in range(40)}
    crowd.metrics["compare"]["controls"] = {f"control {i}": {"mean": 0.5} for i in range(40)}
    old = copy.deepcopy(SAME)
    old.params.update({f"key{i}": i for i in range(40)})
    assert 50 < len(summary.summary(crowd, old).splitlines()) <= summary.LINES

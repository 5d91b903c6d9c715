"""Curves of preference learning, and its first and last metrics."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from anneal.report import preference_learning
from anneal.training import dpo, grpo, loop, preference_eval, preference_pairs
from tests.finished import learnt
from tests.markup import plain, rows, state

PARAMS = {"rewards": {"weights": {"banned": 1.0, "stop": 0.0}}}


def write(history: list[dict[str, Any]], columns: dict[str, str]) -> None:
    Path("reports/plots").mkdir(parents=True)
    Path("reports/plots/align.tsv").write_text(loop.table(history, columns))


def drawn(page: str) -> list[str]:
    return re.findall(r'<polyline points="[^"]*" class="line ([^"]*)"', page)


def test_dpo_has_curves_and_held_out_pairs(toy: Path) -> None:
    logged = {"loss": 0.7, "rewards/accuracies": 0.5, "rewards/margins": 0.1, "logps/chosen": -30.0}
    logged |= {"logps/rejected": -40.0, "eval_loss": 0.6, "eval_rewards/accuracies": 0.75}
    write([{"step": step, **logged} for step in (10, 20)], dpo.COLUMNS)
    page = preference_learning.learning(state(PARAMS, align=learnt()["align"]))
    lines = ["accuracy", "validation_accuracy", "margin", "logp_chosen", "logp_rejected", "loss", "validation_loss"]
    assert drawn(page) == lines
    assert page.count("<svg") == 4
    table = rows(page)
    assert table[0][:3] == ["strategy", "n", "likelier before"]
    assert [row[0] for row in table[1:4]] == ["fake", "weak", "all pairs"]
    assert table[3][2:] == ["75.0% [50.0, 90.0%]"] * 5
    assert "before → after: chosen -1.25 → -1.00, rejected -1.50 → -3.00." in plain(page)
    assert table[5][:2] == ["10", "0.70"], "the chart has its table"


def test_held_out_metrics_have_the_form_that_dpo_writes() -> None:
    row = {"id": "a", "item": "a", "kind": "weak", "chosen": [1, 2], "rejected": [3]}
    pairs = preference_pairs.Pairs([row, {**row, "item": "b", "kind": "fake"}], {})
    before, after = ([{"chosen": chosen, "rejected": -2.0}] * 2 for chosen in (-3.0, -1.0))
    found = {"method": "dpo", **preference_eval.preference(pairs, before, after)}
    table = rows(preference_learning.learning(state(PARAMS, align=found)))
    assert [row[0] for row in table[1:4]] == ["fake", "weak", "all pairs"]
    assert [cell.split()[0] for cell in table[3][1:]] == ["2", "0.0%", "100.0%", "100.0%", "100.0%", "100.0%"]


def test_grpo_has_curves_of_the_reward_and_each_function(toy: Path) -> None:
    logged = {"loss": 0.1, "reward": 0.5, "frac_reward_zero_std": 0.25, "kl": 0.01, "each/banned": 0.9}
    history = [{"step": step, **logged} for step in (1, 2)]
    write(history, grpo.columns(history))
    history[1]["reward"] = 0.75
    found = {"method": "grpo", "prompts": 8, "samples": 4, "steps": 2, **grpo.first_and_last(history)}
    page = preference_learning.learning(state(PARAMS, align=found))
    assert drawn(page) == ["reward", "zero_spread", "kl", "loss", "banned"]
    assert rows(page)[0] == ["", "first", "last"]
    assert ["reward", "0.50", "0.75"] in rows(page)
    assert "2 steps with 8 prompts per step and 4 samples per prompt" in plain(page)


def test_a_warning_stands_above_the_curves(toy: Path) -> None:
    page = preference_learning.learning(state(align={"method": "dpo", "warnings": ["chosen texts <fall>"]}))
    assert '<ul class="alerts"><li class="bad">chosen texts &lt;fall&gt;</li></ul>' in page


@pytest.mark.parametrize("found", [None, {}, {"method": "none"}])
def test_no_section_without_a_training(toy: Path, found: Any) -> None:
    write([], dpo.COLUMNS)
    assert preference_learning.learning(state(align=found)) == ""

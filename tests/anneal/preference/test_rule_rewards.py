"""Each reward by what it gives to texts made for it, and no weight on what is not there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from anneal.checks import density, facts, text_checks
from anneal.errors import UserError
from anneal.params import pick
from anneal.preference import rule_rewards
from anneal.report.preference_learning import rewards

RULES: dict[str, Any] = {
    "folder": "rules",
    "name": "name",
    "facts": {"slot": "parts", "at_least": 2},
    "foreign": ["parts", "numbers"],
    "also": ["uses"],
    "banned": ["miracle", "magic"],
    "exaggerated": ["at once|instantly", "forever"],
    "encouraged": [],
    "forbid": ["#"],
    "types": {
        "note": {"require": ["^Note:", "because", "end$"], "forbid": ["buy"], "length": [20, 40]},
        "ad_short": {"require": [], "forbid": [], "length": [0, 1000]},
    },
}
FACTS = {"name": "Soft Soap", "parts": [{"name": "lime"}, {"name": "salt"}, {"name": "oak"}], "uses": ["washing"]}
CALL: dict[str, Any] = {"types": ["ad_*"], "pattern": "click here"}


def context(**changes: Any) -> text_checks.Context:
    known = {"parts": ["lime", "salt", "oak", "lead"], "uses": ["washing", "shaving"]}
    likely = changes.pop("density", None)
    return text_checks.Context(facts.Rules.model_validate(RULES | changes), known, density=likely)


def section(*names: str, **weights: float) -> rule_rewards.Rewards:
    return rule_rewards.Rewards.model_validate({"weights": dict.fromkeys(names, 1.0) | weights, "call_to_action": CALL})


def record(kind: str = "note", **changes: Any) -> dict[str, Any]:
    return {"id": "a", "type": kind, "facts": FACTS | changes}


def given(name: str, text: str, kind: str = "note", stopped: bool = True, **changes: Any) -> float:
    (row,) = rule_rewards.score([record(kind, **changes)], [text], [stopped], section(name), context())
    assert list(row) == [name]
    return row[name]


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("banned", "a fine soap", 1),
        ("banned", "a miracle", 1 / 2),
        ("banned", "miracle magic, Magic", 1 / 3),
        ("exaggerated", "in a week", 1),
        ("exaggerated", "instantly, at once", 1 / 2),
        ("exaggerated", "at once, and forever", 1 / 3),
        ("unsupported", "lime for washing", 1),
        ("unsupported", "lead", 1 / 2),
        ("unsupported", "lead for shaving, 5%", 1 / 4),
        ("type", "Note: clean because of the end", 1),
        ("type", "Note: clean", 1 / 3),
        ("type", "Note: because, so buy # at the end", 1 / 3),
        ("type", "", 0),
        ("facts", "lime and salt and oak", 1),
        ("facts", "lime and salt", 1),
        ("facts", "oak", 1 / 2),
        ("facts", "lead", 0),
        ("name", "Soft Soap is soft", 1),
        ("name", "Soft soap", 0),
        ("length", "x" * 20, 1),
        ("length", "x" * 40, 1),
        ("length", "x" * 5, 1 / 4),
        ("length", "x" * 50, 3 / 4),
        ("length", "x" * 80, 0),
        ("length", "x" * 500, 0),
        ("length", "", 0),
        ("call_to_action", "nothing to do", 1),
        ("json", '{"a": [1]}', 1),
        ("json", 'Sure: {"a": 1}', 0),
        ("json", '{"a": NaN}', 0),
        ("json", "7", 0),
        ("stop", "", 1),
    ],
)
def test_rewards(name: str, text: str, expected: float) -> None:
    assert given(name, text) == pytest.approx(expected)


def test_what_hangs_on_the_record_or_the_end() -> None:
    assert given("call_to_action", "nothing to do", "ad_short") == 0
    assert given("call_to_action", "so click here!", "ad_short") == 1
    assert given("facts", "nothing", parts=[]) == 1, "a record without facts can name none"
    assert given("facts", "oak", parts=[{"name": "oak"}]) == 1, "it holds only one"
    assert given("stop", "x", stopped=False) == 0
    assert given("type", "anything", "ad_short") == 1


def test_a_text_is_in_the_distribution_from_the_threshold_on() -> None:
    mixture = {
        "units": {"features": ["length"], "log": [], "centres": {}, "mean": [10], "scale": [1]},
        "shape": "diag",
        "weights": [1.0],
        "means": [[0.0]],
        "covariances": [[[1.0]]],
        "tables": {},
        "threshold": -3.0,
        "percentile": 0.0,
        "fit_on": "",
    }
    likely = context(density=density.Model.model_validate(mixture))
    # -0.92 - d^2 / 2 is above -3 up to two characters away.
    texts = ["x" * n for n in (8, 10, 12, 13)]
    found = rule_rewards.score([record()] * 4, texts, [True] * 4, section("in_distribution"), likely)
    assert [row["in_distribution"] for row in found] == [1, 1, 1, 0]


def test_the_score_of_the_reward_model_is_squashed() -> None:
    scores = [-1e9, -1.0, 0.0, 1.0, 1e9]
    found = rule_rewards.score([record()] * 5, [""] * 5, [True] * 5, section("model"), context(), scores)
    assert [row["model"] for row in found] == pytest.approx([0, 0.268941, 0.5, 0.731059, 1], abs=1e-6)


def test_a_better_text_never_gets_less() -> None:
    good = "Note: Soft Soap because lime, salt, the end"
    worse = ["miracle " + good, good + " # buy", good[6:], good.replace("lime", "lead"), good + " instantly"]
    every = section(*(name for name in rule_rewards.NAMES if name not in ("json", "in_distribution", "model")))
    length = RULES["types"]["note"] | {"length": [20, 60]}
    rows = rule_rewards.score(
        [record()] * 6, [good, *worse], [True] * 6, every, context(types=RULES["types"] | {"note": length})
    )
    best, *others = [rule_rewards.total(row, every) for row in rows]
    assert best == 1
    assert len(others) == 5
    assert all(0 < other < 1 for other in others)


def test_the_total_is_the_weighted_mean_of_what_is_on() -> None:
    weighted = section(stop=3.0, name=1.0, banned=0.0)
    (row,) = rule_rewards.score([record()], ["none"], [True], weighted, context())
    assert row == {"name": 0.0, "stop": 1.0}
    assert rule_rewards.total(row, weighted) == 0.75


def test_every_name_is_a_function_with_a_line_about_it() -> None:
    assert set(rule_rewards.NAMES) == {
        "banned",
        "exaggerated",
        "unsupported",
        "type",
        "facts",
        "name",
        "length",
        "call_to_action",
        "json",
        "in_distribution",
        "stop",
        "model",
    }
    assert all(function.__doc__ for function in rule_rewards.REWARDS.values())


@pytest.mark.parametrize(
    ("name", "changes", "call", "needs"),
    [
        ("banned", {"banned": []}, CALL, "rules.banned"),
        ("exaggerated", {"exaggerated": []}, CALL, "rules.exaggerated"),
        ("unsupported", {"foreign": [], "also": []}, CALL, "rules.foreign or rules.also"),
        ("type", {"types": {}, "forbid": []}, CALL, "rules.types or rules.forbid"),
        ("facts", {"facts": {"slot": "parts", "at_least": 0}}, CALL, "rules.facts.at_least above 0"),
        ("name", {"name": ""}, CALL, "rules.name"),
        ("call_to_action", {}, CALL | {"pattern": None}, r"rewards.call_to_action.pattern, and .types that fit"),
        ("call_to_action", {}, CALL | {"types": []}, r"rewards.call_to_action.pattern, and .types that fit"),
        ("in_distribution", {}, CALL, "models/density"),
        ("model", {}, CALL, "models/reward"),
    ],
)
def test_a_weight_on_what_is_not_there_is_refused(
    name: str, changes: dict[str, Any], call: dict[str, Any], needs: str
) -> None:
    wanted = rule_rewards.Rewards.model_validate({"weights": {name: 0.5}, "call_to_action": call})
    with pytest.raises(UserError, match=rf"params.yaml: rewards.weights.{name}: 0.5 needs .*{needs}"):
        rule_rewards.score([], [], [], wanted, context(**changes))


def test_no_weight_at_all_and_a_type_without_a_contract_are_refused() -> None:
    with pytest.raises(UserError, match=r"params.yaml: rewards.weights: all are 0"):
        rule_rewards.score([], [], [], section(stop=0.0), context())
    with pytest.raises(UserError, match=r"rules.types: no contract for 'song'"):
        given("length", "la", "song")


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ("{stop: 1.0, fun: 1.0}", r"params.yaml: rewards.weights: .*unknown reward 'fun'; known: banned, "),
        ("{stop: -1.0}", r"params.yaml: rewards.weights.stop: .*greater than or equal to 0, got -1.0"),
        ("{stop: .inf}", r"params.yaml: rewards.weights.stop: .*finite number, got inf"),
    ],
)
def test_bad_weights_are_refused_with_their_place(toy: Path, weights: str, message: str) -> None:
    def stage(rewards: rewards.Rewards) -> None: ...

    stage.__annotations__["rewards"] = rule_rewards.Rewards
    call = json.dumps(CALL)
    Path("params.yaml").write_text(f"rewards:\n  weights: {weights}\n  call_to_action: {call}\n")
    with pytest.raises(UserError, match=message):
        pick(stage)

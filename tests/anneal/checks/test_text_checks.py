"""checks: one definition for filter, evaluate and accept; each passes what is right and names what is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from anneal.checks import density, density_fit, facts, text_checks
from anneal.errors import UserError
from tests import goldens

LAYOUT = {"elements": [{"text": "sale", "x": 0.1, "y": 0.1, "w": 0.5, "h": 0.2}]}
SCHEMA = {"type": "object", "required": ["elements"], "additionalProperties": False, "properties": {"elements": {}}}
RHYMES = {"ang": "光霜乡", "en": "人门春"}
POEM = {
    "id": "a",
    "type": "t",
    "facts": {"input": "床前看月光，疑是地上霜。"},
    "completion": [{"role": "assistant", "content": "举头望明月，低头思故乡。"}],
}


@pytest.fixture
def rules(tmp_path: Path) -> facts.Rules:
    (tmp_path / "vocabulary.json").write_text("{}")
    (tmp_path / "schema.json").write_text(json.dumps(SCHEMA))
    (tmp_path / "rhymes.json").write_text(json.dumps(RHYMES))
    contract = {"require": [], "forbid": [], "length": [1, 500]}
    values: dict[str, Any] = {
        "folder": str(tmp_path),
        "name": "",
        "facts": {"slot": "", "at_least": 0},
        "foreign": [],
        "also": [],
        "banned": ["bad"],
        "exaggerated": ["^wow"],
        "encouraged": [],
        "forbid": [],
        "types": {"t": contract},
    }
    return facts.Rules.model_validate(values)


def passed(name: str, record: dict[str, Any], words: str, context: text_checks.Context) -> bool:
    return not text_checks.run([name], record, words, context)[name]


@pytest.mark.parametrize(
    ("name", "record", "right", "wrong"),
    [
        ("json", {"facts": {}}, json.dumps(LAYOUT), json.dumps(LAYOUT)[:-1]),
        ("schema", {"facts": {}}, json.dumps(LAYOUT), json.dumps(LAYOUT | {"more": 1})),
        (
            "semantic",
            {"facts": {"copy": "a sale today"}},
            json.dumps(LAYOUT),
            json.dumps(LAYOUT).replace("sale", "gift"),
        ),
        ("lines", POEM, "举头望明月，低头思故乡。", "举头望明月。"),
        ("syllables", POEM, "举头望明月，低头思故乡。", "举头望月，低头思故乡。"),
        ("rhyme", POEM, "举头望明月，低头思故乡。", "举头望明月，低头思故人。"),
        ("banned", {"facts": {}}, "good", "all bad"),
        ("length", {"facts": {}}, "good", "x" * 501),
    ],
)
def test_right_and_wrong(name: str, record: dict[str, Any], right: str, wrong: str, rules: facts.Rules) -> None:
    record, context = {"id": "a", "type": "t", **record}, text_checks.context(rules)
    assert passed(name, record, right, context)
    assert not passed(name, record, wrong, context)


def test_every_check_of_the_facts_has_its_name(rules: facts.Rules) -> None:
    found = facts.check("words", "t", {}, rules, {})
    assert set(found) == set(text_checks.FACTS)
    assert set(text_checks.NAMES) == {*text_checks.FACTS, *text_checks.EACH, *text_checks.TOGETHER}


def test_together_is_each_by_itself(rules: facts.Rules) -> None:
    train = ("one long sentence that everybody knows", "another one that nobody does")
    context = text_checks.context(rules, train=train)
    records = [{"id": str(n), "type": "t", "facts": {}} for n in range(3)]
    texts = [train[0], "something else altogether", "bad"]
    names = ["copied", "banned", "json"]
    together = text_checks.run_all(names, records, texts, context)
    assert together == [text_checks.run(names, r, words, context) for r, words in zip(records, texts, strict=True)]
    assert [bool(row["copied"]) for row in together] == [True, False, False]
    assert [list(row) for row in together] == [names] * 3
    assert text_checks.run_all(names, [], [], context) == []


def test_in_distribution_goes_by_the_threshold(rules: facts.Rules) -> None:
    section = density.Density.model_validate(goldens.VALUES["filter"]["density"] | {"percentile": 5})
    rows = [{"id": r["id"], "type": r["type"], "text": goldens.text(r)} for r in goldens.records(0, 12)]
    fit = density_fit.fit(rows, section, 1)
    context = text_checks.context(rules, fit.model)
    inside = sum(passed("in_distribution", row, row["text"], context) for row in rows)
    assert 0.9 * len(rows) <= inside <= len(rows)
    assert not passed("in_distribution", rows[0], rows[0]["text"] * 9, context)


def test_what_is_missing_is_named(rules: facts.Rules, tmp_path: Path) -> None:
    (tmp_path / "rhymes.json").unlink()
    with pytest.raises(UserError, match=r"check 'rhyme' needs .*rhymes\.json"):
        text_checks.run(["rhyme"], POEM, "x", text_checks.context(rules))
    with pytest.raises(UserError, match="check 'in_distribution' needs models/density"):
        text_checks.run(["in_distribution"], POEM, "x", text_checks.context(rules))
    with pytest.raises(UserError, match=r"params\.yaml: here: unknown check 'ryhme'; known: type"):
        text_checks.refuse(["ryhme"], "here")
    (tmp_path / "schema.json").write_text("{")
    with pytest.raises(UserError, match=r"schema\.json:1:2: not JSON"):
        text_checks.context(rules)

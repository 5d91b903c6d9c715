"""kinds: the figures of layouts, verse, style, decoding and the contract, on texts whose figures are known."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from anneal.checks import density, density_fit, facts, text_checks
from anneal.evaluation import metrics
from anneal.evaluation.metrics import MetricInputs

RHYMES = {"ang": "光霜乡", "en": "人门春"}
COUPLET, REST, APART = "床前看月光，疑是地上霜。", "举头望明月，低头思故乡。", "举头望明月，低头思故人。"


@pytest.fixture
def rules(tmp_path: Path) -> facts.Rules:
    (tmp_path / "vocabulary.json").write_text("{}")
    (tmp_path / "rhymes.json").write_text(json.dumps(RHYMES))
    (tmp_path / "style.json").write_text(json.dumps({"function_words": ["的", "了"]}))
    values: dict[str, Any] = {
        "folder": str(tmp_path),
        "name": "",
        "facts": {"slot": "", "at_least": 0},
        "foreign": [],
        "also": [],
        "banned": [],
        "encouraged": [],
        "exaggerated": [],
        "forbid": [],
        "types": {},
    }
    return facts.Rules.model_validate(values)


def row(name: str, text: str, **passed: bool) -> dict[str, Any]:
    return {"id": name, "item": name, "type": "t", "text": text, "checks": passed, "strict": all(passed.values())}


def bench(rules: facts.Rules, texts: dict[str, list[dict[str, Any]]], **more: Any) -> MetricInputs:
    records = more.pop("records", {r["id"]: {"id": r["id"], "item": r["id"], "facts": {}} for r in texts["golden"]})
    context = text_checks.context(rules, more.pop("model", None))
    values: dict[str, Any] = {"answers": {}, "train": [], "train_records": [], "presets": {}} | more
    return MetricInputs(checks=texts, seed=1, budget=200, draws=3, near=0.9, records=records, context=context, **values)


def test_mended_json_is_no_strict_json(rules: facts.Rules) -> None:
    texts = ['{"a": 1}', '{"a": 1', "```json\n{}\n```", "nothing"]
    rows = [row(str(n), text) for n, text in enumerate(texts)]
    found = metrics.layouts("tuned", bench(rules, {"golden": rows, "tuned": rows}))
    assert found["strict"]["mean"] == 0.25
    assert found["mended"]["mean"] == 0.75
    assert "components" not in found, "no density, no components"


def test_components_are_hit_by_texts_that_lie_inside(rules: facts.Rules) -> None:
    rng = random.Random(3)
    section = density.Density.model_validate(
        {
            "features": ["x"],
            "log": [],
            "relative": [],
            "categorical": [],
            "percentile": 1,
            "folds": 5,
            "components": 3,
            "rows_per_parameter": 5,
            "reg_covar": 0.001,
        }
    )

    def text(place: float) -> str:
        return json.dumps({"x": round(place + rng.gauss(0, 0.1), 3)})

    train = [{"id": str(n), "type": "t", "text": text(n % 2 * 10)} for n in range(200)]
    model = density_fit.fit(train, section, 1).model
    assert len(model.weights) == 2
    low = [row(str(n), text(0), in_distribution=True) for n in range(5)]
    far = [row("far", json.dumps({"x": 10.0}), in_distribution=False)]
    half = metrics.layouts("tuned", bench(rules, {"golden": low, "tuned": low + far}, model=model))
    assert half["components"] == 0.5, "nearest to the second one, but outside"
    both = [*low, row("in", json.dumps({"x": 10.0}), in_distribution=True)]
    assert metrics.layouts("tuned", bench(rules, {"golden": low, "tuned": both}, model=model))["components"] == 1


def test_rhyme_is_a_share_of_lines_and_unknown_ends_are_counted(rules: facts.Rules) -> None:
    rows = [row("a", REST), row("b", APART), row("c", "举头望明月，低头思故鼶。")]
    records = {name: {"id": name, "facts": {"input": COUPLET}} for name in "abc"}
    found = metrics.verses("tuned", bench(rules, {"golden": rows, "tuned": rows}, records=records))
    assert (found["rhyme"]["n"], found["rhyme"]["mean"], found["unknown"]) == (2, 0.5, 1)


def test_presets_are_paired_by_item(rules: facts.Rules) -> None:
    golden = [row(name, f"golden words of {name}") for name in "abcd"]
    plain = [{**r, "preset": "greedy", "seed": None, "finish": "stop", "n_new": 5} for r in golden]
    loose = [
        {**row(r["id"], r["text"][:9], good=False), "preset": "sample", "seed": seed, "finish": "length", "n_new": 9}
        for r in golden
        for seed in (1, 2)
    ]
    found = metrics.decoding("tuned", bench(rules, {"golden": golden}, presets={"tuned": plain + loose}))
    assert list(found) == ["greedy", "sample"]
    assert (found["greedy"]["strict"]["mean"], found["sample"]["strict"]["mean"]) == (1, 0)
    assert found["sample"]["less_first"]["stopped"]["mean"] == -1
    assert found["sample"]["runs"] == 2
    assert metrics.decoding("base", bench(rules, {"golden": golden}, presets={})) == {}


def test_the_contract_is_what_its_answers_pass() -> None:
    found = metrics.contract([row("a", "x", json=True, schema=True), row("b", "y", json=True, schema=False)])
    assert {name: value["mean"] for name, value in found.items()} == {"json": 1, "schema": 0.5}
    assert metrics.contract([]) == {}


def test_style_speaks_of_the_author_and_of_the_other(rules: facts.Rules) -> None:
    rng = random.Random(1)

    def essay(words: str) -> str:
        return "。".join("".join(rng.choices(words, k=8)) for _ in range(30)) + "。"

    voices = {"one": "山水云月风的", "two": "铁路车站票了"}
    learnt = [
        {"item": f"{name}{n}", "facts": {"author": name}, "completion": [{"content": essay(words)}]}
        for name, words in voices.items()
        for n in range(4)
    ]
    rows = [row(f"t{n}", essay(voices["one"])) for n in range(4)]
    records = {r["id"]: {"id": r["id"], "item": r["id"], "facts": {"author": "one"}} for r in rows}
    texts = dict.fromkeys(("golden", "base", "tuned"), rows)
    found = metrics.styles("tuned", bench(rules, texts, records=records, train_records=learnt))["authors"]["one"]
    assert found["one"]["characters"] < 0.1 < 0.5 < found["two"]["characters"]

"""evaluate: golden passes, golden in the wrong place does not, and no figure depends on the order of the answers."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from anneal import files
from anneal.checks import text_checks
from anneal.errors import UserError
from stages import evaluate
from tests import goldens

SETTINGS = evaluate.Evaluate(
    metrics=["rules", "stops", "likelihood", "overlap", "variety", "copies", "length"],
    budget=2000,
    draws=5,
    near=0.9,
    checks=["type", "name", "facts", "foreign", "banned", "length", "all_facts"],
    strict=["type", "name", "facts", "foreign"],
)
FILTER = text_checks.Filter.model_validate(goldens.VALUES["filter"])
TEST, TRAIN = goldens.records(0, 6), goldens.records(6, 10)
BASE = {row["id"]: f"全新{row['facts']['name']}来了！值得拥有。" for row in TEST}
CUT = frozenset(row["id"] for row in TEST[:18])


@pytest.fixture
def folder(toy: Path) -> Path:
    """A checkout after `answer`: one sentence for everything from the base, other golden words from the tuned model."""
    files.write("data/test.jsonl", TEST)
    files.write("data/train.jsonl", TRAIN)
    files.write("data/answers/base.jsonl", goldens.answers(TEST, BASE, 2.0))
    tuned = {r["id"]: goldens.text(again) for r, again in zip(TEST, goldens.records(0, 6, seed=1), strict=True)}
    files.write("data/answers/tuned.jsonl", goldens.answers(TEST, tuned, 0.5, CUT))
    files.write("data/validation.jsonl", TRAIN[:9])
    files.write("data/accepted.jsonl", files.read("data/answers/tuned.jsonl"))
    for name in ("samples", "presets/base", "presets/tuned", "answers/aligned", "presets/aligned"):
        files.write(f"data/{name}.jsonl", [])
    return toy


def run(settings: evaluate.Evaluate = SETTINGS) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    evaluate.main(evaluate=settings, filter=FILTER, rules=goldens.RULES, seed=42)
    numbers = json.loads(Path("reports/metrics/evaluate.json").read_text("utf-8"))
    return files.read("data/checks.jsonl", "id", "system", "checks"), numbers


def test_controls_and_systems(folder: Path) -> None:
    rows, numbers = run()
    assert (numbers["n"], numbers["clusters"], len(rows)) == (54, 6, 3 * 54)
    assert [row["system"] for row in rows[::54]] == ["golden", "tuned", "base"]
    # The check must know right from wrong before it may speak about a model.
    assert numbers["rules"]["golden"]["strict"]["mean"] >= 0.95
    assert numbers["rules"]["golden"]["all_facts"]["mean"] >= 0.95
    for control in ("swapped", "other"):
        assert numbers["controls"][control]["n"] == 54
        assert numbers["controls"][control]["mean"] <= 0.05
    assert numbers["rules"]["base"]["strict"]["mean"] == 0
    assert numbers["rules"]["base"]["name"]["mean"] == 1, "the column that the base is good at"
    by_type = numbers["rules"]["tuned"]["by_type"]
    assert set(by_type) == set(goldens.TYPES)
    assert {part["n"] for part in by_type.values()} == {6}


def test_an_answer_that_does_not_stop_is_never_right(folder: Path) -> None:
    rows, numbers = run()
    tuned = {row["id"]: row for row in rows if row["system"] == "tuned"}
    assert len(tuned) == 54
    for name, row in tuned.items():
        assert row["stopped"] == (name not in CUT)
        assert not (name in CUT and (row["strict"] or row["checks"]["all_facts"]))
        assert row["strict"] == row["checks"]["strict"]
    stopped = numbers["stops"]["tuned"]["stopped"]
    assert (stopped["n"], stopped["mean"]) == (54, pytest.approx(36 / 54, abs=1e-6))
    assert stopped["low"] < 0.5 < stopped["high"], "whole products were cut: six observations, not 54"
    assert numbers["stops"]["golden"]["stopped"]["mean"] == 1
    free = [row["strict"] for name, row in tuned.items() if name not in CUT]
    assert sum(free) / 36 >= 0.95


def test_found_names_what_is_wrong(folder: Path) -> None:
    wrong = dict(BASE)
    outsider = next(w for w in goldens.KNOWN["ingredients"] if w not in json.dumps(TEST[1], ensure_ascii=False))
    wrong[TEST[1]["id"]] = goldens.text(TEST[1]).replace("。", f"，另含{outsider}。", 1)
    wrong[TEST[2]["id"]] = goldens.text(TEST[2]).replace("。", "，堪称神器。", 1)
    files.write("data/answers/base.jsonl", goldens.answers(TEST, wrong, 2.0))
    rows = {row["id"]: row for row in run()[0] if row["system"] == "base"}
    assert f"foreign:ingredients:{outsider}" in rows[TEST[1]["id"]]["found"]
    failed = {rule for rule, passed in rows[TEST[1]["id"]]["checks"].items() if not passed}
    assert failed == {"foreign", "strict", "all_facts"}
    assert "banned:神器" in rows[TEST[2]["id"]]["found"]
    assert rows[TEST[2]["id"]]["strict"], "a banned word is no false fact"
    assert not rows[TEST[2]["id"]]["checks"]["all_facts"]


def test_order_of_answers_changes_no_byte(folder: Path) -> None:
    run()
    paths = [Path("data/checks.jsonl"), Path("reports/metrics/evaluate.json")]
    before = [path.read_bytes() for path in paths]
    for name in ("base", "tuned"):
        rows = files.read(f"data/answers/{name}.jsonl")
        random.Random(1).shuffle(rows)
        files.write(f"data/answers/{name}.jsonl", rows)
    run()
    assert [path.read_bytes() for path in paths] == before


def test_likelihood_compares_what_both_models_were_asked(folder: Path) -> None:
    found = run()[1]["likelihood"]
    assert found["base"]["perplexity"] == pytest.approx(7.389056, abs=1e-5)  # e^2
    assert found["tuned"]["n_target"] == found["base"]["n_target"]
    assert found["tuned"]["less_base"]["mean"] < 0
    assert found["tuned"]["less_base"]["high"] < 0
    assert "golden" not in found


def test_figures_know_a_parrot_and_a_broken_record(folder: Path) -> None:
    train = goldens.text(TRAIN[0])
    parrot = {row["id"]: train if i < 27 else train[:-4] + "如是而已" for i, row in enumerate(TEST)}
    files.write("data/answers/base.jsonl", goldens.answers(TEST, parrot, 2.0))
    looped = {row["id"]: goldens.text(row) * 5 for row in TEST}
    files.write("data/answers/tuned.jsonl", goldens.answers(TEST, looped, 2.0))
    numbers = run()[1]
    assert numbers["copies"]["base"]["exact"]["mean"] == 0.5
    assert numbers["copies"]["base"]["near"]["mean"] == 1
    assert numbers["copies"]["golden"]["near"]["mean"] < 0.5
    assert numbers["variety"]["base"]["distinct_3"] < 0.3 * numbers["variety"]["golden"]["distinct_3"]
    assert len({part["characters"] for part in numbers["variety"].values()}) == 1
    assert numbers["stops"]["tuned"]["looped"]["mean"] == 1
    assert numbers["stops"]["golden"]["looped"]["mean"] <= 0.05
    assert numbers["length"]["tuned"]["all"]["ratio"] == 5
    assert numbers["length"]["golden"]["paid_ad_cta"]["n"] == 6


def test_overlap_is_highest_with_itself(folder: Path) -> None:
    itself = {row["id"]: goldens.text(row) for row in TEST}
    files.write("data/answers/tuned.jsonl", goldens.answers(TEST, itself, 2.0))
    found = run()[1]["overlap"]
    assert (found["tuned"]["bleu"], found["tuned"]["chrf"]) == (pytest.approx(100), pytest.approx(100))
    assert found["tuned"]["rouge_l"]["mean"] == 1
    assert 0 < found["base"]["rouge_l"]["mean"] < 0.4


def test_only_the_chosen_figures(folder: Path) -> None:
    numbers = run(SETTINGS.model_copy(update={"metrics": ["stops"]}))[1]
    assert set(numbers) == {"n", "clusters", "controls", "accepted", "stops"}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"metrics": ["stop"]}, "evaluate.metrics: unknown 'stop'"),
        ({"checks": ["typ"]}, "evaluate.checks: unknown check 'typ'"),
        ({"strict": ["copied"]}, "evaluate.strict: 'copied' is not one of evaluate.checks"),
    ],
)
def test_a_name_that_is_none_is_refused(folder: Path, change: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        run(SETTINGS.model_copy(update=change))


def test_samples_of_the_training_are_checked_by_step(folder: Path) -> None:
    rows = []
    for step, words in ((5, "无"), (10, None)):
        for r in TRAIN[:4]:
            text = words or goldens.text(r)
            rows.append({"step": step, "id": r["id"], "text": text, "finish": "stop"})
    files.write("data/samples.jsonl", rows)
    run()
    head, *lines = Path("reports/plots/samples.tsv").read_text().splitlines()
    table = [dict(zip(head.split("\t"), line.split("\t"), strict=True)) for line in lines]
    assert [(row["step"], row["n"], row["strict"]) for row in table] == [("5", "4", "0.0000"), ("10", "4", "1.0000")]


def test_a_record_alone_has_no_control(folder: Path) -> None:
    files.write("data/test.jsonl", TEST[:1])
    for name in ("answers/base", "answers/tuned", "accepted"):
        files.write(f"data/{name}.jsonl", goldens.answers(TEST[:1], BASE, 2.0))
    numbers = run()[1]
    assert numbers["controls"]["swapped"] == {
        "n": 0,
        "clusters": 0,
        "mean": None,
        "se": None,
        "low": None,
        "high": None,
    }
    assert numbers["rules"]["golden"]["strict"]["low"] is None


def test_answers_of_other_records_are_refused(folder: Path) -> None:
    rows = files.read("data/answers/tuned.jsonl")
    files.write("data/answers/tuned.jsonl", rows[:-1])
    with pytest.raises(UserError, match=r"data/answers/tuned\.jsonl: other ids than data/test\.jsonl: \['p006/"):
        run()


def test_the_aligned_model_has_its_column_where_there_is_one(folder: Path) -> None:
    _, before = run()
    assert "aligned" not in before["rules"]
    files.write("data/answers/aligned.jsonl", files.read("data/answers/base.jsonl"))
    rows, numbers = run()
    assert [row["system"] for row in rows[::54]] == ["golden", "aligned", "tuned", "base"]
    for metric in ("rules", "stops", "variety", "length"):
        assert numbers[metric]["aligned"] == numbers[metric]["base"]
        assert numbers[metric]["tuned"] == before[metric]["tuned"]

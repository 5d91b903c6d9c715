"""What goes and why: planted faults, planted duplicates, odd texts; and what a filter must refuse."""

from __future__ import annotations

import json
import random
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from anneal import files, params, similarity
from anneal.checks import density, facts
from anneal.errors import UserError
from stages import filter as stage

SENTENCES = {
    "ad": [
        "Meet {name} today.",
        "Its {one} and {two} do the work.",
        "Calm care for a dry winter.",
        "Click to read more.",
    ],
    "note": [
        "I tried {name} for a month.",
        "The label says {one} and {two}.",
        "Nothing stung at all.",
        "I keep using it.",
    ],
}
ENDINGS = ["", " Slow and steady.", " A small habit helps.", " Patience pays, night after night."]
WORLD = {"ingredients": ["oat", "mint", "clay", "honey", "rice", "neem"], "categories": ["cream"], "name_parts": []}
DENSITY: dict[str, Any] = {
    "percentile": 5,
    "folds": 4,
    "components": 2,
    "rows_per_parameter": 10,
    "reg_covar": 0.05,
    "features": ["length", "punctuation"],
    "log": ["length"],
    "relative": ["length", "punctuation"],
    "categorical": [],
}
RULES = ["banned", "type", "length", "name", "foreign", "facts", "exact", "near"]


def record(number: int, kind: str, words: str | None = None) -> dict[str, Any]:
    rng = random.Random(f"{number}/{kind}")
    one, two = rng.sample(WORLD["ingredients"], 2)
    name = f"Cream {number:03d}{chr(97 + number % 26) * 5}"
    body = " ".join(SENTENCES[kind]).format(name=name, one=one, two=two)
    filler = "".join(rng.choices("bcdfghjklmnpqrstvwxz", k=40))  # so that two sound texts share no more than half
    sheet = {"name": name, "ingredients": [{"name": one}, {"name": two}]}
    return {
        "id": f"p{number:03d}/{kind}/0",
        "item": f"p{number:03d}",
        "type": kind,
        "facts": sheet,
        "text": (words or body + rng.choice(ENDINGS) + f" Batch {filler}.").format(name=name, one=one, two=two),
    }


def records(items: int = 30) -> list[dict[str, Any]]:
    return [record(number, kind) for number in range(items) for kind in ("ad", "note")]


@pytest.fixture
def rules(toy: Path) -> facts.Rules:
    (toy / "vocabulary.json").write_text(json.dumps(WORLD))
    contract = {"forbid": [], "length": [60, 400]}
    values: dict[str, Any] = {
        "folder": ".",
        "name": "name",
        "facts": {"slot": "ingredients", "at_least": 2},
        "foreign": ["ingredients"],
        "also": [],
        "banned": ["miracle"],
        "encouraged": [],
        "exaggerated": [],
        "forbid": ["#"],
        "types": {"ad": {"require": ["Click"], **contract}, "note": {"require": ["I "], **contract}},
    }
    return facts.Rules.model_validate(values)


def section(**changes: Any) -> stage.Filter:
    inner = {key: changes.pop(key) for key in list(changes) if key in DENSITY}
    values = {"rules": RULES, "near_duplicate": 0.7, **changes, "density": {**DENSITY, **inner}}
    return stage.Filter.model_validate(values)


def test_sound_records_pass_and_every_fault_goes_by_its_own_rule(rules: facts.Rules) -> None:
    sound = records()
    own = WORLD["ingredients"]
    one, two = (part["name"] for part in sound[0]["facts"]["ingredients"])
    stranger = next(word for word in own if word not in (one, two))
    faults = {
        "banned": sound[0]["text"] + " A miracle.",
        "type": sound[0]["text"].replace("Click", "Go on"),
        "length": sound[0]["text"] + " and on" * 60,
        "name": sound[0]["text"].replace("Cream 000", "The cream"),
        "foreign": sound[0]["text"].replace(two, stranger),
        "facts": sound[0]["text"].replace(two, "salt"),
        "near": sound[2]["text"].replace("Calm care", "Kind care"),
        "exact": sound[2]["text"] + "\n",
    }
    every = list(sound)
    for rule, words in faults.items():
        origin = sound[2] if rule in ("near", "exact") else sound[0]
        every.append({**origin, "id": f"x/{rule}", "item": f"x{rule}", "text": words})
    kept, dropped = stage.sound(every, section(), rules)
    assert [r["id"] for r in kept] == [r["id"] for r in sound]
    assert {r["id"]: r["rule"] for r in dropped} == {f"x/{rule}": rule for rule in faults}
    reasons = {r["rule"]: r for r in dropped}
    assert reasons["banned"]["found"] == ["miracle"]
    assert reasons["foreign"]["found"] == [f"ingredients:{stranger}"]
    length = len(faults["length"])
    assert (reasons["length"]["value"], reasons["length"]["threshold"]) == (length, 400)
    assert reasons["length"]["margin"] == length - 400
    assert reasons["near"]["with"] == reasons["exact"]["with"] == sound[2]["id"]
    shared = similarity.jaccard(faults["near"], sound[2]["text"])
    assert reasons["near"]["value"] == pytest.approx(shared, abs=1e-6)
    assert reasons["near"]["margin"] == pytest.approx(shared - 0.7, abs=1e-6)
    assert all(r["margin"] >= 0 for r in dropped)


def test_the_first_rule_of_the_list_names_the_reason(rules: facts.Rules) -> None:
    bad = {**records()[0], "id": "bad", "text": "miracle"}
    for first in ("banned", "length", "name", "type"):
        order = [first, *(rule for rule in RULES if rule != first)]
        _, dropped = stage.sound([*records(), bad], section(rules=order), rules)
        assert [(r["id"], r["rule"]) for r in dropped] == [("bad", first)]
    kept, dropped = stage.sound([*records(), bad], section(rules=["exact"]), rules)
    assert (len(kept), dropped) == (61, [])


def test_the_first_of_near_duplicates_stays_and_a_chain_does_not_swallow_its_end(rules: facts.Rules) -> None:
    steps = [records()[0]["text"]]
    for number in range(4):  # each step changes as much again: neighbours are near, and two steps apart is too far
        place, other = 12 + 26 * number, "".join(chr(0x4E00 + 50 * number + step) for step in range(15))
        steps.append(steps[-1][:place] + other + steps[-1][place + 15 :])
    assert all(similarity.jaccard(a, b) >= 0.7 for a, b in pairwise(steps))
    assert all(similarity.jaccard(a, b) < 0.7 for a, b in zip(steps, steps[2:], strict=False))
    chain = [{**records()[0], "id": f"c{n}", "text": words} for n, words in enumerate(steps)]
    kept, dropped = stage.sound([*chain, *records()[1:]], section(rules=["near"]), rules)
    assert {r["id"]: r["with"] for r in dropped} == {"c1": "c0", "c3": "c2"}
    assert [r["id"] for r in kept if r["id"].startswith("c")] == ["c0", "c2", "c4"]
    # Near two that stay: the nearer one is named, though the other came first.
    between = steps[1][:42] + steps[2][42:]
    assert similarity.jaccard(steps[0], between) < similarity.jaccard(steps[2], between) < 1
    three = [{**records()[0], "id": f"c{n}", "text": words} for n, words in enumerate((steps[0], steps[2], between))]
    assert [r["with"] for r in stage.sound(three, section(rules=["near"]), rules)[1]] == ["c1"]


def test_odd_texts_go_by_density_with_the_score_that_was_compared(rules: facts.Rules) -> None:
    odd = {**record(7, "ad"), "id": "odd", "text": "Click!!! ??? ;;; ,,, ::: !!! ... --- ((( ))) ..." * 2}
    every = [*records(), odd]
    kept, dropped, fit = stage.likely(every, section().density, 1)
    worst = min(dropped, key=lambda r: r["value"])
    assert (worst["id"], worst["rule"]) == ("odd", "density")
    assert len(dropped) == 3  # 5 % of 61
    assert len(kept) + len(dropped) == 61
    assert max(r["value"] for r in dropped) < fit.model.threshold <= min(r["log_prob"] for r in kept) + 1e-6
    for r in dropped:
        assert r["margin"] == pytest.approx(fit.model.threshold - r["value"], abs=2e-6)
    assert {"id", "item", "type", "facts", "text", "log_prob"} == set(kept[0])


def test_a_text_without_the_field_of_its_json_goes_with_no_number(rules: facts.Rules) -> None:
    every = [{**r, "text": json.dumps({"w": n % 7})} for n, r in enumerate(records())]
    every[3] = {**every[3], "text": "{"}
    layout = section(features=["w"], log=[], relative=[], percentile=0).density
    kept, dropped, _ = stage.likely(every, layout, 1)
    assert [(r["id"], r["value"], r["margin"]) for r in dropped] == [(every[3]["id"], None, None)]
    assert len(kept) == 59


def test_a_type_that_loses_everything_is_refused_with_rule_and_example(rules: facts.Rules) -> None:
    every = [{**r, "text": r["text"] + " miracle" * (r["type"] == "note")} for r in records()]
    wanted = r"nothing is left of the 30 records of note \(banned 30\); p000/note/0: banned \['miracle'\]"
    with pytest.raises(UserError, match=wanted):
        stage.sound(every, section(), rules)
    lonely = [r for r in records() if r["type"] == "ad"] + [{**records()[1], "text": "!?" * 40}]
    with pytest.raises(UserError, match=r"1 records of note \(density 1\)"):
        stage.likely(lonely, section(relative=[]).density, 1)


def test_refusals(rules: facts.Rules) -> None:
    with pytest.raises(UserError, match="unknown check 'baned'; known: type, name"):
        stage.sound(records(), section(rules=["baned"]), rules)
    with pytest.raises(UserError, match="the id 'p000/ad/0' stands there twice"):
        stage.sound([*records(), records()[0]], section(), rules)


def test_the_stage_writes_whole_and_the_same_bytes(toy: Path, rules: facts.Rules) -> None:
    every = records()
    every[4] = {**every[4], "text": every[4]["text"] + " miracle", "versions": []}
    files.write("data/cleaned.jsonl", every)
    outs = ["data/filtered.jsonl", "data/dropped.jsonl", "models/density/density.json", "reports/metrics/filter.json"]
    outs += ["reports/plots/filter.tsv"]
    first: list[bytes] = []
    for _ in range(2):
        stage.main(section(), rules, 42)
        first = first or [(toy / path).read_bytes() for path in outs]
        assert [(toy / path).read_bytes() for path in outs] == first
    kept, dropped = files.read(outs[0]), files.read(outs[1])
    assert sorted(r["id"] for r in kept + dropped) == sorted(r["id"] for r in every)
    metrics = json.loads((toy / outs[3]).read_text())
    assert (metrics["n"], metrics["kept"]) == (60, len(kept)) == (60, 56)
    assert metrics["dropped"] == {**dict.fromkeys(RULES, 0), "banned": 1, "density": 3}
    assert {kind: (row["n"], row["kept"]) for kind, row in metrics["types"].items()} == {
        kind: (30, sum(r["type"] == kind for r in kept)) for kind in ("ad", "note")
    }
    assert metrics["density"]["curve"]["p25"]["kept"] in (44, 45)  # of the 59 that passed the rules
    lines = [line.split("\t") for line in (toy / outs[4]).read_text().splitlines()]
    assert lines[0] == ["log_prob", "kept", "dropped"]
    assert [sum(int(row[column]) for row in lines[1:]) for column in (1, 2)] == [56, 3]
    lowest = metrics["density"]["lowest_kept"]
    assert [row["log_prob"] for row in lowest] == sorted(row["log_prob"] for row in lowest)
    assert lowest[0]["log_prob"] == min(r["log_prob"] for r in kept)
    model = density.load(outs[2])
    assert model.threshold == pytest.approx(metrics["density"]["threshold"], abs=1e-6)
    assert (density.log_prob(model, kept) >= model.threshold).mean() > 0.9


def test_a_type_that_loses_twice_the_average_is_flagged(rules: facts.Rules) -> None:
    from anneal.checks import impact

    every = records()
    kept = [r for n, r in enumerate(every) if r["type"] == "ad" or n % 10 != 1]
    found = impact.by_type(every, kept)
    assert (found["note"]["kept"], found["note"]["retention"]) == (24, 0.8)
    assert [kind for kind, row in found.items() if row["flagged"]] == [], "twice the average is not over twice"
    assert impact.by_type([*every, *records()[::2]], [*kept, *records()[::2]])["note"]["flagged"]


def test_percentile_is_one_line_to_change(toy: Path) -> None:
    root = Path(__file__).parents[2]
    values = YAML(typ="safe", pure=True).load((root / "params.yaml").read_text("utf-8"))
    values["filter"]["density"]["percentil"] = 3
    with (toy / "params.yaml").open("w") as file:
        YAML().dump(values, file)
    with pytest.raises(UserError, match=r"filter\.density\.percentil: unknown key"):
        params.pick(stage.main)

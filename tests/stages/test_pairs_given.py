"""Pairs that somebody else chose, as ShareGPT files hold them: from the table to the split, and none lost uncounted."""

from __future__ import annotations

import json
import random
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from anneal import files, params
from anneal.preference.pair_flaws import refusals
from stages import audit, clean, filter, format, generate, reject, split  # noqa: A004
from tests import micro
from tests.conftest import ROOT, recipe_values

REAL = ROOT.parent / "shared/data/preference/dpo_zh_demo.json"
PARTS = ("train", "validation", "test")
STAGES = (generate, clean, filter, reject, format, split, audit)
# A prompt that is nothing but what the conversation asks: the system turn, where there is one, and the question.
FORMAT = {"system": "$system", "user": "$instruction", "wordings": "$instruction"}


def given(values: dict[str, Any], source: str) -> None:
    """The params of a recipe, for pairs of somebody else in `source`: one type, no id, no rule about the content."""
    kind = next(iter(values["types"]))
    values["types"] = {kind: kind}
    values["rules"]["types"] = {kind: {"require": [], "forbid": [], "length": [1, 100_000]}}
    values["rules"] |= {"forbid": [], "facts": {"slot": "instruction", "at_least": 0}}
    fields = {"id": None, "type": None, "text": "chosen.value", "rejected": "rejected.value", "turns": "conversations"}
    values["generate"] |= {"source": "records", "items": source, "required": [], "fields": fields}
    values["clean"] |= {"rules": ["whitespace"], "rounds": []}
    values["filter"]["rules"] = ["exact"]
    values["filter"]["density"]["percentile"] = 0
    values["reject"] = {"source": "given", "weak": 0.0, "exaggerated": 0.0, "fake": 0.0}
    values["format"] |= {"max_length": 512, "tasks": {}}


def words(name: str, length: int = 30) -> str:
    """A text of its own: two of them share hardly a shingle."""
    rng = random.Random(name)
    return "".join(chr(0x4E00 + rng.randrange(900)) for _ in range(length))


def row(name: str, system: str = "", rejected: str = "", turns: Sequence[str] = ("human",)) -> dict[str, Any]:
    told = [{"from": "system", "value": system}] if system else []
    told += [{"from": speaker, "value": f"{words(f'{name}/{n}')}？"} for n, speaker in enumerate(turns)]
    chosen, worse = words(f"{name} good"), rejected or words(f"{name} bad", 20)
    sides = {"chosen": chosen, "rejected": worse}
    return {"conversations": told} | {side: {"from": "gpt", "value": text} for side, text in sides.items()}


ROWS = [
    *(row(f"q{n}") for n in range(8)),
    row("s1", system="你是 $name 助手。\n只答一句。"),
    row("s2", system="You answer a child."),
    row("q0"),  # the same once more
    row("q1", rejected=words("worse still")) | {"chosen": {"from": "gpt", "value": words("better still")}},
    row("h", turns=("human", "gpt", "human")),
]


@pytest.fixture
def values(toy: Path) -> dict[str, Any]:
    """An empty checkout with a base and prompts; the params of a recipe, made those of given pairs."""
    micro.base(toy / "models/base")
    found: dict[str, Any] = recipe_values("alpaca")
    given(found, "pairs.json")
    for stage in ("clean", "reject", "generate"):
        (toy / f"prompts/alpaca/{stage}").mkdir(parents=True)
    (toy / "prompts/alpaca/format").mkdir()
    for name, text in FORMAT.items():
        (toy / f"prompts/alpaca/format/{name}.md").write_text(text)
    (toy / found["rules"]["folder"]).mkdir(parents=True)
    (toy / found["rules"]["folder"] / "vocabulary.json").write_text("{}")
    shutil.copy(ROOT / found["rules"]["folder"] / "words.yaml", toy / found["rules"]["folder"])
    return found


def run(values: dict[str, Any], rows: list[dict[str, Any]] | None = None) -> dict[str, dict[str, Any]]:
    """The stages up to the audit on these rows; the metrics of each."""
    if rows is not None:
        Path("pairs.json").write_text(json.dumps(rows, ensure_ascii=False), "utf-8")
    for stage in STAGES:
        stage.main(**params.pick(stage.main, values=values))
    return {path.stem: json.loads(path.read_text()) for path in Path("reports/metrics").glob("*.json")}


def pairs() -> dict[str, list[dict[str, Any]]]:
    return {part: files.read(f"data/{part}_pairs.jsonl") for part in PARTS}


def test_rows_of_a_conversation_become_pairs_word_for_word(values: dict[str, Any]) -> None:
    run(values, ROWS)
    made = {(p["chosen"][0]["content"], p["rejected"][0]["content"]): p for part in pairs().values() for p in part}
    roles, checked = {"system": "system", "human": "user"}, 0
    for source in ROWS[:10] + ROWS[11:12]:
        pair = made[source["chosen"]["value"], source["rejected"]["value"]]
        asked = [{"role": roles[turn["from"]], "content": turn["value"]} for turn in source["conversations"]]
        assert pair["prompt"] == asked
        assert (pair["kind"], pair["chosen"][0]["role"], pair["rejected"][0]["role"]) == ("given", *["assistant"] * 2)
        checked += 1
    assert checked == len(made) == 11
    assert {len(pair["prompt"]) for pair in made.values()} == {1, 2}


def test_every_row_is_a_pair_or_counted_as_none(values: dict[str, Any]) -> None:
    told = run(values, ROWS)
    assert (told["generate"]["rows"], told["generate"]["dropped"]) == (13, {"history": 1, "pii": 0})
    assert told["filter"]["dropped"] == {"exact": 1, "density": 0}
    assert told["reject"]["kinds"] == {"given": 11}
    assert (told["reject"]["failed"], told["reject"]["tokens"]) == ({}, {"in": 0, "out": 0}), "nobody was asked"
    assert len([pair for part in pairs().values() for pair in part]) == 11


def test_pairs_that_ask_the_same_are_one_item_and_stay_together(values: dict[str, Any]) -> None:
    # Two or three answers to each of ten questions: parted by rows, most would be known from another part.
    rows = [row(f"q{n}") | {"chosen": row(f"{n} {m}")["chosen"]} for n in range(10) for m in range(2 + n % 2)]
    told = run(values, rows)
    held = {part: {json.dumps(p["prompt"]) for p in rows} for part, rows in pairs().items()}
    assert sum(map(len, held.values())) == len(set.union(*held.values())) == 10
    assert len({p["item"] for rows in pairs().values() for p in rows}) == 10
    assert {flag["name"] for flag in told["pairs"]["flags"]} & {"leak", "duplicates", "identical"} == set()
    before = {p["id"]: p["item"] for rows in pairs().values() for p in rows}
    run(values, [row("new"), *rows[::-1]])
    after = {p["id"]: p["item"] for rows in pairs().values() for p in rows}
    assert {name: after[name] for name in before} == before
    assert len(after) == 26


def test_a_planted_pair_of_equal_sides_is_refused_before_training(values: dict[str, Any]) -> None:
    same = row("same")
    told = run(values, [*ROWS, same | {"rejected": {"from": "gpt", "value": f" {same['chosen']['value']}\n"}}])
    assert "given: identical: chosen == rejected in 1 of 12 pairs" in refusals(told["pairs"])


def test_what_is_put_right_in_one_side_is_put_right_in_the_other(values: dict[str, Any]) -> None:
    values["clean"]["rules"] = ["fences", "whitespace"]
    values["generate"]["pii"] = "mask"
    fenced = [row(f"c{n}") for n in range(10)]
    for source in fenced:
        for side in ("chosen", "rejected"):
            source[side]["value"] = f"```text\n {source[side]['value']}\n```\n13912345678"
    run(values, fenced)
    texts = [p[side][0]["content"] for rows in pairs().values() for p in rows for side in ("chosen", "rejected")]
    assert len(texts) == 20
    assert not [text for text in texts if "`" in text or "\n " in text or "13912345678" in text]
    values["generate"]["pii"] = "drop"
    told = run(values, [*ROWS, *fenced])
    assert told["generate"]["dropped"] == {"history": 1, "pii": 10}
    assert told["generate"]["n"] == told["generate"]["rows"] - 11 == 12


def test_the_same_bytes_whatever_the_order_of_the_file(values: dict[str, Any]) -> None:
    run(values, ROWS)
    files = sorted([*Path("data").glob("*.jsonl"), *Path("reports/metrics").glob("*.json")])
    before = {file: file.read_bytes() for file in files if file.name != "dropped.jsonl"}
    assert len(before) >= 14
    run(values, ROWS[::-1])
    assert [file for file in before if file.read_bytes() != before[file]] == []


@pytest.mark.real
@pytest.mark.skipif(not REAL.is_file(), reason="no data beside the repository")
def test_a_real_file_of_pairs_loses_no_row_uncounted(values: dict[str, Any]) -> None:
    values["generate"]["items"] = str(REAL)
    told = run(values)
    assert (told["generate"]["rows"], told["generate"]["dropped"]) == (300, {"history": 0, "pii": 0})
    dropped = Counter(record["rule"] for record in files.read("data/dropped.jsonl"))
    assert dropped["exact"] == told["filter"]["dropped"]["exact"] >= 11  # as many rows stand there twice
    kept = told["format"]["pairs"]
    assert told["generate"]["n"] == told["filter"]["n"] == 300 == told["filter"]["kept"] + dropped.total()
    assert kept["records"] == told["reject"]["n"] == told["filter"]["kept"]
    # A pair goes with a row that is too long, or because its own worse text is.
    assert kept["records"] == kept["rows"] + told["format"]["over_length"]["rows"] + kept["over_length"]
    assert sum(map(len, pairs().values())) == kept["rows"] >= 20
    assert {flag["name"] for flag in told["pairs"]["flags"]} & {"leak", "duplicates", "identical"} == set()
    assert refusals(told["pairs"]) == []

"""The sections about data: sources, lost records, tokens and warnings."""

from __future__ import annotations

from typing import Any

from anneal.dataset import token_budget
from anneal.report import data
from anneal.sources import essays, pii
from tests.markup import plain, rows, state

OLD = state()


def test_the_source_is_shown_as_counts_only() -> None:
    secret = "somebody@corp.cn"
    _, counts = pii.apply([f"write to {secret}", "nothing here"], "mask")
    summary = {**essays.summary([], [], 100), "documents": 3, "chunks": 14, "short": 2, "dropped": {"tables": 5}}
    now = state({"generate": {"pii": "mask"}}, generate={"n": 28, "essays": summary, "pii": counts})
    said = plain(data.funnel(now, OLD))
    assert "3 documents were cut into 14 chunks, 2 of them shorter than the target length." in said
    assert "Left out of the documents: 5 tables." in said
    assert "Personal data: 1 email, in 1 of 2 texts, masked (generate.pii: mask)." in said
    assert secret not in said
    clean = data.source(state({"generate": {"pii": "report"}}, generate={"pii": {"found": {}, "texts": 0, "of": 9}}))
    assert "nothing, in 0 of 9 texts, left unchanged" in clean
    assert data.source(state(generate={"n": 4, "pii": {}})) == ""


def test_lost_and_additional_rows_have_their_causes() -> None:
    now = state(
        generate={"n": 10},
        clean={"n": 9},
        filter={"kept": 6, "dropped": {"type": 2, "near": 0, "density": 1}},
        format={"rows": 11, "over_length": {"rows": 1}, "tasks": {"style": {"rows": 6}}},
        split={"records": {"train": 8, "validation": 1, "test": 2}},
    )
    assert rows(data.funnel(now, OLD)) == [
        ["after", "records", "lost", "why"],
        ["generated", "10", "", ""],
        ["cleaned", "9", "1", ""],
        ["filtered", "6", "3", "2 type, 1 density"],
        ["formatted", "11", "", "1 longer than format.max_length; additional rows from format.tasks: 6 style"],
        ["train", "8", "", ""],
        ["validation", "1", "", ""],
        ["test", "2", "", ""],
    ]


TRAIN: dict[str, Any] = {"epochs": 2.5, "batch_size": 4, "accumulation": 2, "packing": None}


def formatted() -> dict[str, Any]:
    every = [token_budget.Row(10, 20, 40, 60)] * 20
    shape = token_budget.Shape(1, 0, 0, 20)
    fields = {"fields": token_budget.fields(every), "repeated": 0, "warnings": token_budget.warnings(every, shape)}
    tokens = {part: token_budget.spread([40] * 20) for part in ("prompt", "completion", "total")}
    return {"rows": 20, "tokens": tokens, "budget": fields, "over_length": {"rows": 0, "share": 0.0}}


def test_tokens_by_field_with_the_warnings_of_data_and_schedule() -> None:
    now = state({"train": TRAIN}, format=formatted(), split={"records": {"train": 16}})
    page = data.tokens(now, OLD)
    told = rows(page)
    assert told[told.index(["field", "tokens", "share"]) + 1 :][:5] == [
        ["system", "200", "10.0%"],
        ["user", "400", "20.0%"],
        ["template", "200", "10.0%"],
        ["completion", "1,200", "60.0%"],
        ["total", "2,000", "100.0%"],
    ]
    # A broken epoch is counted as a whole one, and 16 of 20 rows hold 960 of the 1,200 learnt tokens.
    assert "At most 3 epochs of 2 steps: 6 updates over 2,880 tokens with loss." in plain(page)
    warned = page[page.index('class="alerts"') :].split("</ul>")[0].split("<li")[1:]
    assert len(warned) == 4
    for words, line in zip(
        ("one wording only", "few tokens: 1200", "few steps: 6", "wide batch: 8"), warned, strict=True
    ):
        assert f'class="note">warning: {words}' in line


def test_a_sound_budget_says_so_and_packing_gives_no_plan() -> None:
    found = formatted()
    found["budget"]["warnings"] = []
    page = data.tokens(state({"train": {**TRAIN, "packing": 512}}, format=found, split={"records": {"train": 16}}), OLD)
    assert "No warning." in page
    assert "updates" not in page
    del found["budget"]
    assert "field" not in {row[0] for row in rows(data.tokens(state(format=found), OLD))}


def test_counts_of_the_training_replace_the_estimate() -> None:
    train = {"tokens": {"learnt": 100}, "parameters": {"trainable": 10_000}}
    plan = data.schedule(state({"train": TRAIN}, format=formatted(), split={"records": {"train": 16}}, train=train))
    assert plan is not None
    assert plan.tokens == 300
    assert plan.warnings[-1].startswith("few tokens for the adapter: 0.030")

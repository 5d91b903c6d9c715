"""The reference text of a record, and the texts of a system by record."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from anneal import records
from anneal.errors import UserError
from anneal.records import Record


def record(name: str) -> Record:
    completion: list[records.Message] = [{"role": "assistant", "content": f"reference of {name}"}]
    return {"id": name, "item": name, "type": "k", "completion": completion}


def reader(*names: str) -> Callable[[str], list[Any]]:
    """A reader of one answer for each name, whatever the path."""
    return lambda path: [{"id": name, "text": f"{path}: {name}"} for name in names]


RECORDS = [record("a"), record("b")]


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"completion": [{"role": "assistant", "content": "formatted"}]}, "formatted"),
        ({"completion": [{"role": "user", "content": "more"}, {"role": "assistant", "content": "last"}]}, "last"),
        ({"completion": [{"role": "assistant", "content": "formatted"}], "text": "raw"}, "formatted"),
        ({"completion": [{"role": "assistant", "content": ""}], "text": "raw"}, ""),
        ({"text": "raw"}, "raw"),
        ({"completion": [], "text": "raw"}, "raw"),
        ({"text": None}, ""),
        ({}, ""),
    ],
)
def test_the_reference_is_the_completion_and_before_format_the_text(fields: Any, text: str) -> None:
    keyed: Any = {"id": "a", "item": "a", "type": "k"}
    assert records.golden(keyed | fields) == text


def test_golden_texts_are_the_references_and_no_file_is_read() -> None:
    def unread(path: str) -> list[Any]:
        raise AssertionError(path)

    assert records.answered("golden", RECORDS, unread) == {"a": "reference of a", "b": "reference of b"}


@pytest.mark.parametrize("system", ["base", "tuned", "aligned"])
def test_texts_of_a_system_come_from_its_answers_by_id(system: str) -> None:
    path = f"data/answers/{system}.jsonl"
    assert records.answered(system, RECORDS, reader("b", "a")) == {"a": f"{path}: a", "b": f"{path}: b"}


def test_an_aligned_system_without_answers_is_absent() -> None:
    assert records.answered("aligned", RECORDS, reader()) == {}
    assert records.answered("aligned", RECORDS, reader(), surplus=True) == {}
    with pytest.raises(UserError, match=r"data/answers/tuned\.jsonl: 0 answers for 2 records"):
        records.answered("tuned", RECORDS, reader())


@pytest.mark.parametrize("names", ["a", "c", "abc", "ac"])
def test_answers_to_other_records_than_those_of_the_test_set_are_refused(names: str) -> None:
    message = f"data/answers/tuned.jsonl: {len(names)} answers for 2 records; run `dvc repro`, the ids must be"
    with pytest.raises(UserError, match=message):
        records.answered("tuned", RECORDS, reader(*names))


def test_with_surplus_answers_expected_every_record_still_needs_one() -> None:
    assert {"a", "b"} <= records.answered("tuned", RECORDS, reader("a", "b", "c"), surplus=True).keys()
    with pytest.raises(UserError, match=r"data/answers/aligned.jsonl: no answer to b \(1 in all\); run `dvc repro`"):
        records.answered("aligned", RECORDS, reader("a", "c"), surplus=True)

"""The texts of a record: its reference, and what each system answered."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from anneal import files
from anneal.errors import Refusal
from anneal.files import Record

AUTHOR = "author"  # of all the keys the one that styles are told apart by, and a fact of every record


def golden(record: Record) -> str:
    """The reference text of a record: its completion after format, its text before; empty where it has neither."""
    completion = record.get("completion")
    return str(completion[-1]["content"]) if completion else str(record.get("text") or "")


def answered(
    system: str, records: Sequence[Record], read: Callable[[str], list[Record]] = files.read
) -> dict[str, str]:
    """The text of every record by id: its reference, or what the system answered. Refusal unless each has just one.

    Empty for an aligned system without answers: no preferences were learnt. `read` reads a file of records.
    """
    if system == "golden":
        return {record["id"]: golden(record) for record in records}
    path = f"data/answers/{system}.jsonl"
    answers = read(path)
    texts = {answer["id"]: answer["text"] for answer in answers}
    if system == "aligned" and not answers:
        return {}
    if absent := [record["id"] for record in records if record["id"] not in texts]:
        raise Refusal(f"{path}: no answer to {absent[0]} ({len(absent)} in all); run `dvc repro`")
    if len(answers) != len(records):
        counts = f"{len(answers)} answers for {len(records)} records"
        raise Refusal(f"{path}: {counts}; run `dvc repro`, the ids must be those of data/test.jsonl")
    return texts

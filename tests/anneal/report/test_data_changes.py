"""Rows of the data here and at a revision."""

from __future__ import annotations

from pathlib import Path

from anneal.history.revision import Snapshot
from anneal.report import data_changes
from tests.finished import metrics
from tests.keeping import keep, write
from tests.markup import rows


def row(name: str, text: str = "x") -> dict[str, str]:
    return {"id": name, "text": text}


def test_added_removed_and_edited_rows(toy: Path) -> None:
    write("data/train.jsonl", [row("a"), row("b", "new"), row("d")])
    write("data/test.jsonl", [row("t")])
    old = keep([row("a"), row("b"), row("c")])
    same = keep([row("t")])
    lock = {"data/train.jsonl": old, "data/test.jsonl": same, "data/validation.jsonl": "1" * 32}
    now = Snapshot("here", "", metrics(), lock={**lock, "data/train.jsonl": "2" * 32})
    found = rows(data_changes.section(now, Snapshot("main", "", metrics(), lock=lock)))
    assert found[0] == ["file", "main", "here", "added", "removed", "edited"]
    assert found[1] == ["data/filtered.jsonl", "30", "30", "–", "–", "–"], "the counts of metrics remain"
    assert found[2] == ["data/train.jsonl", "3", "3", "1", "1", "1"]
    assert found[3] == ["data/validation.jsonl", "5", "5", "0", "0", "0"], "the same hash, the same rows"
    assert found[4] == ["data/test.jsonl", "1", "1", "0", "0", "0"]
    assert found[6:] == [
        ["data/train.jsonl, added", "d"],
        ["data/train.jsonl, removed", "c"],
        ["data/train.jsonl, edited", "b"],
    ]


def test_a_long_list_is_cut(toy: Path) -> None:
    write("data/train.jsonl", [row(f"{i:03}") for i in range(40)])
    old = Snapshot("main", "", metrics(), lock={"data/train.jsonl": keep([])})
    assert rows(data_changes.section(Snapshot("here"), old))[2][1:4] == ["0", "40", "40"]
    old = Snapshot("main", "", metrics(), lock={"data/train.jsonl": keep([row("zzz")])})
    found = rows(data_changes.section(Snapshot("here"), old))
    assert found[2][1:] == ["1", "40", "40", "1", "0"]
    assert found[-2][1].endswith("010, 011 and 28 more")

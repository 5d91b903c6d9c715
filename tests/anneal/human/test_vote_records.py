"""Votes as JSON Lines: validation, appending, and the current votes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from anneal.errors import UserError
from anneal.human import vote_records
from anneal.human.vote_records import Vote

SHEET = "ab" * 32


def vote(number: int = 0, choice: Any = "left", rater: str = "Anna", **more: Any) -> Vote:
    return Vote(
        **{"sheet": SHEET, "rater": rater, "id": f"{number:012x}", "choice": choice, "reasons": [], "ms": 900} | more
    )


def test_written_votes_are_read_back(tmp_path: Path) -> None:
    votes = [vote(1, reasons=["voice"]), vote(2, "tie", rater="李 雷"), vote(3, "5")]
    vote_records.append(tmp_path / "human", votes[:1])
    vote_records.append(tmp_path / "human", votes[1:])
    assert sorted(p.name for p in (tmp_path / "human").iterdir()) == ["Anna.jsonl", "李 雷.jsonl"]
    assert vote_records.read(tmp_path / "human") == [votes[0], votes[2], votes[1]]
    assert vote_records.parse(vote_records.encode(votes)) == votes
    assert vote_records.read(tmp_path / "nowhere") == []


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        ({"rater": "../x"}, "rater: .*a name is"),
        ({"rater": ".hidden"}, "rater: .*a name is"),
        ({"rater": "a/b"}, "rater: .*a name is"),
        ({"rater": ""}, "rater: .*a name is"),
        ({"rater": "x" * 41}, "rater: .*a name is"),
        ({"rater": "a\n"}, "rater: .*a name is"),
        ({"rater": "e\u0301"}, "rater: .*a name is"),
        ({"choice": "both"}, "choice: "),
        ({"choice": 3}, "choice: "),
        ({"reasons": ["other"]}, "reasons.0: "),
        ({"ms": -1}, "ms: "),
        ({"ms": 1.5}, "ms: "),
        ({"id": "x" * 12}, "id: "),
        ({"sheet": "ab"}, "sheet: "),
        ({"system": "tuned"}, "system: "),
    ],
)
def test_the_first_line_that_is_not_a_vote_is_named(edit: dict[str, Any], words: str) -> None:
    good = vote_records.encode([vote()])
    bad = json.dumps(vote().model_dump() | edit).encode()
    with pytest.raises(vote_records.InvalidVote, match=f"^2: {words}"):
        vote_records.parse(good + bad)


def test_a_broken_line_is_refused_with_file_and_line(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b"{}\n" + vote_records.encode([vote()]))
    with pytest.raises(UserError, match=r"a\.jsonl:1: "):
        vote_records.read(tmp_path)


def test_a_truncated_last_line_is_dropped_and_a_missing_line_break_is_not(tmp_path: Path) -> None:
    path = tmp_path / "Anna.jsonl"
    complete = vote_records.encode([vote(1), vote(2)])
    path.write_bytes(complete + vote_records.encode([vote(3)])[:40])
    assert vote_records.read(tmp_path) == [vote(1), vote(2)]
    vote_records.append(tmp_path, [vote(4)])
    assert path.read_bytes() == complete + vote_records.encode([vote(4)])
    # A last line without its line break, as some editors leave it, is a complete vote.
    path.write_bytes(complete.rstrip(b"\n"))
    assert vote_records.read(tmp_path) == [vote(1), vote(2)]
    vote_records.append(tmp_path, [vote(4)])
    assert path.read_bytes() == complete + vote_records.encode([vote(4)])


def test_a_partial_write_leaves_the_file_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vote_records.append(tmp_path, [vote(1)])
    before, real = (tmp_path / "Anna.jsonl").read_bytes(), vote_records.os.write
    monkeypatch.setattr(vote_records.os, "write", lambda handle, raw: real(handle, raw[:30]))
    with pytest.raises(OSError, match="not written in full"):
        vote_records.append(tmp_path, [vote(2)])
    assert (tmp_path / "Anna.jsonl").read_bytes() == before


def test_the_last_vote_on_an_entry_is_current() -> None:
    votes = [vote(1), vote(2), vote(1, "right"), vote(1, rater="Bo"), vote(2, "undo"), vote(3, "undo"), vote(4, "skip")]
    assert vote_records.current(votes) == [vote(1, "right"), vote(1, rater="Bo"), vote(4, "skip")]
    assert vote_records.current(votes + votes) == vote_records.current(votes)
    assert vote_records.current([vote(1), vote(2), vote(1, "right")]) == [vote(2), vote(1, "right")], (
        "in the order of voting"
    )
    other = vote(1, sheet="cd" * 32)
    assert vote_records.current([vote(1), other]) == [vote(1), other]

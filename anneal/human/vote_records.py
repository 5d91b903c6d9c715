"""Votes of people as JSON Lines, one file per rater: parsed strictly, appended whole or not at all.

A vote is never edited: a later line about the same entry replaces it, and `undo` takes it back. So a rater may send
a line twice, and two pages may write at once, without a loss.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, ValidationError

from anneal.errors import UserError
from anneal.params import Section

Choice = Literal["left", "right", "tie", "skip", "undo", "1", "2", "3", "4", "5"]
DAY = 86_400_000


def _name(value: str) -> str:
    """A rater's name is a file name too: letters of any script, digits, blanks, dots and hyphens inside."""
    if unicodedata.normalize("NFC", value) != value or not re.fullmatch(r"\w([\w .-]{0,38}\w)?", value):
        raise ValueError("a name is 1 to 40 letters or digits; blanks, dots and hyphens may stand inside")
    return value


class Vote(Section):
    """What one rater said of one entry of one sheet; `ms` is the time from showing it."""

    sheet: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    rater: Annotated[str, AfterValidator(_name)]
    id: Annotated[str, Field(pattern=r"^[0-9a-f]{12}$")]
    choice: Choice
    reasons: Annotated[list[Literal["facts", "form", "language", "voice"]], Field(max_length=4)]
    ms: Annotated[int, Field(ge=0, le=DAY)]


class Unreadable(ValueError):
    """A line that is no vote; says which and why."""


def parse(raw: bytes) -> list[Vote]:
    """The votes of JSON Lines; Unreadable names the first line that is none."""
    votes = []
    for number, line in enumerate(raw.split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            votes.append(Vote.model_validate_json(line))
        except ValidationError as err:
            first = err.errors()[0]
            place = ".".join(map(str, first["loc"]))
            raise Unreadable(f"{number}: {f'{place}: ' if place else ''}{first['msg']}") from None
    return votes


def lines(votes: Iterable[Vote]) -> bytes:
    rows = (json.dumps(vote.model_dump(), ensure_ascii=False, sort_keys=True) + "\n" for vote in votes)
    return "".join(rows).encode()


def _whole(raw: bytes) -> int:
    """How many bytes of a file count: half a last line, as a full disk or a lost plug leaves one, was never confirmed.

    A last vote that only lacks its line break, as some editors leave it, is whole.
    """
    tail = raw.rpartition(b"\n")[2]
    try:
        parse(tail)
    except Unreadable:
        return len(raw) - len(tail)
    return len(raw)


def append(folder: Path, votes: Sequence[Vote]) -> None:
    """Add votes to the files of their raters: under a lock, in one write, and on the disk before this returns."""
    folder.mkdir(parents=True, exist_ok=True)
    for rater in sorted({vote.rater for vote in votes}):
        raw = lines(vote for vote in votes if vote.rater == rater)
        handle = os.open(folder / f"{rater}.jsonl", os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            before = os.pread(handle, os.fstat(handle).st_size, 0)
            size = _whole(before)
            os.ftruncate(handle, size)
            if before[:size] and not before[:size].endswith(b"\n"):
                raw = b"\n" + raw
            if os.write(handle, raw) != len(raw):
                os.ftruncate(handle, size)
                raise OSError(f"{folder / f'{rater}.jsonl'}: not written whole; make room and send the votes again")
            os.fsync(handle)
        finally:
            os.close(handle)


def read(folder: Path) -> list[Vote]:
    """The votes of all files, in the order of names and lines; UserError with file and line."""
    found: list[Vote] = []
    for path in sorted(folder.glob("*.jsonl")):
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH)  # a vote that is being written is not half a vote
            raw = file.read()
        try:
            found += parse(raw[: _whole(raw)])
        except Unreadable as err:
            raise UserError(f"{path}:{err}; mend or delete that line") from None
    return found


def standing(votes: Iterable[Vote]) -> list[Vote]:
    """What holds in the end: of one rater on one entry the last vote, and none after `undo`."""
    last: dict[tuple[str, str, str], Vote] = {}
    for vote in votes:
        last.pop((vote.sheet, vote.rater, vote.id), None)
        last[vote.sheet, vote.rater, vote.id] = vote
    return [vote for vote in last.values() if vote.choice != "undo"]

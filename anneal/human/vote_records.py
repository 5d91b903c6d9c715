"""Votes as JSON Lines, one file per rater: validated strictly, appended in full or not at all.

A vote is never edited: a later line of the same rater on the same entry replaces it, and the choice `undo` withdraws
it. So a page may send a line twice, and two pages of one rater may write at once, without a lost vote.
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
DAY_MS = 86_400_000  # milliseconds


def _rater_name(value: str) -> str:
    """A rater's name is a file name too: letters of any script, digits, blanks, dots and hyphens inside."""
    if unicodedata.normalize("NFC", value) != value or not re.fullmatch(r"\w([\w .-]{0,38}\w)?", value):
        raise ValueError("a name is 1 to 40 letters or digits; between them, blanks, dots and hyphens are allowed")
    return value


class Vote(Section):
    """One rater's choice on one entry of one ballot."""

    sheet: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]  # id of the ballot
    rater: Annotated[str, AfterValidator(_rater_name)]
    id: Annotated[str, Field(pattern=r"^[0-9a-f]{12}$")]  # of the entry
    choice: Choice
    reasons: Annotated[list[Literal["facts", "form", "language", "voice"]], Field(max_length=4)]
    ms: Annotated[int, Field(ge=0, le=DAY_MS)]  # milliseconds from showing the entry to the choice


class InvalidVote(ValueError):
    """A line that is not a vote; the message starts with its number, then names the field and the cause."""


def parse(raw: bytes) -> list[Vote]:
    """The votes of JSON Lines, blank lines left out. InvalidVote names the first line that is not a vote."""
    votes = []
    for number, line in enumerate(raw.split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            votes.append(Vote.model_validate_json(line))
        except ValidationError as err:
            error = err.errors()[0]
            field = ".".join(map(str, error["loc"]))
            raise InvalidVote(f"{number}: {f'{field}: ' if field else ''}{error['msg']}") from None
    return votes


def encode(votes: Iterable[Vote]) -> bytes:
    """Votes as JSON Lines in UTF-8, keys in order."""
    rows = (json.dumps(vote.model_dump(), ensure_ascii=False, sort_keys=True) + "\n" for vote in votes)
    return "".join(rows).encode()


def _valid_size(raw: bytes) -> int:
    """The bytes of a file without a truncated last line, which a full disk or a power cut leaves.

    The vote of such a line was never confirmed to the rater. A last vote without its line break, as some editors leave
    it, is complete.
    """
    last_line = raw.rpartition(b"\n")[2]
    try:
        parse(last_line)
    except InvalidVote:
        return len(raw) - len(last_line)
    return len(raw)


def append(folder: Path, votes: Sequence[Vote]) -> None:
    """Add votes to the files of their raters: under a lock, in one write, and on the disk before this returns.

    OSError where the disk takes only a part; the file of that rater is then as it was.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for rater in sorted({vote.rater for vote in votes}):
        _append_to(folder / f"{rater}.jsonl", encode(vote for vote in votes if vote.rater == rater))


def _append_to(path: Path, raw: bytes) -> None:
    """Add lines to the file of one rater, in place of a truncated last line."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        before = os.pread(handle, os.fstat(handle).st_size, 0)
        size = _valid_size(before)
        os.ftruncate(handle, size)
        if before[:size] and not before[:size].endswith(b"\n"):
            raw = b"\n" + raw
        if os.write(handle, raw) != len(raw):
            os.ftruncate(handle, size)
            raise OSError(f"{path}: not written in full; free disk space and send the votes again")
        os.fsync(handle)
    finally:
        os.close(handle)


def read(folder: Path) -> list[Vote]:
    """The votes of all files, in the order of names and lines. UserError names file and line of an invalid vote."""
    votes: list[Vote] = []
    for path in sorted(folder.glob("*.jsonl")):
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH)  # waits for a vote that is being written
            raw = file.read()
        try:
            votes += parse(raw[: _valid_size(raw)])
        except InvalidVote as err:
            raise UserError(f"{path}:{err}; correct or delete that line") from None
    return votes


def current(votes: Iterable[Vote]) -> list[Vote]:
    """The last vote of each rater on each entry, in the order of voting; none after `undo`."""
    latest: dict[tuple[str, str, str], Vote] = {}
    for vote in votes:
        entry = (vote.sheet, vote.rater, vote.id)
        latest.pop(entry, None)  # a new vote moves to the end of the order
        latest[entry] = vote
    return [vote for vote in latest.values() if vote.choice != "undo"]

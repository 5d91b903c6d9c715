"""Stored replies in place of a model: ANNEAL_REPLAY names a file or folder of JSON Lines, and no connection is opened.

A row that was asked holds `request`, `reply`, `outcome` and `tokens`, alone or inside another row. What it says is
parsed again, so that a changed parser, or a score that was edited by hand, shows.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from anneal.errors import UserError
from anneal.llm.request import Answer, Row
from anneal.llm.response import Kind

# What a judgement is called when its call failed, and the kind of that failure, both ways.
OUTCOMES: dict[Kind, str] = {
    "check": "parse_error",
    "empty": "parse_error",
    "refusal": "refusal",
    "content_filter": "refusal",
    "length": "length",
    "timeout": "timeout",
    "http": "http",
}
_KINDS: dict[str, Kind] = {outcome: kind for kind, outcome in reversed(OUTCOMES.items())}


def source() -> Path | None:
    """Where the stored replies lie, if the environment says so."""
    named = os.environ.get("ANNEAL_REPLAY", "").strip()
    if named and os.environ.get("DVC_STAGE"):
        raise UserError("ANNEAL_REPLAY is set: DVC would keep replayed verdicts as a judge's; unset it to run stages")
    return Path(named) if named else None


def _asked(value: Any) -> Iterator[dict[str, Any]]:
    """Every object with a `request` in a value, however deep."""
    if isinstance(value, dict):
        if isinstance(value.get("request"), str):
            yield value
        value = list(value.values())
    if isinstance(value, list):
        for inner in value:
            yield from _asked(inner)


def load(path: Path) -> dict[str, dict[str, Any]]:
    """The rows that were asked, by request. Raises UserError for a path that is absent or a line that is not JSON."""
    files = sorted(path.rglob("*.jsonl")) if path.is_dir() else [path]
    found: dict[str, dict[str, Any]] = {}
    for file in files:
        try:
            lines = file.read_text("utf-8").split("\n")
        except OSError as err:
            raise UserError(f"ANNEAL_REPLAY: {file}: {err.strerror}; name a file or folder of judgements") from None
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                found |= {row["request"]: row for row in _asked(json.loads(line))}
            except ValueError:
                raise UserError(f"{file}:{number}: not JSON, so no stored reply") from None
    return found


def answers(rows: Sequence[Row], path: Path, check: Callable[[str], Any]) -> Iterable[Answer]:
    """An answer for each row, in order. Raises UserError where one of them was never asked."""
    stored = load(path)
    if lost := [row.call.id for row in rows if row.request() not in stored]:
        said = f"{len(lost)} of {len(rows)} requests have no stored reply, the first is that of {lost[0]}"
        raise UserError(f"ANNEAL_REPLAY: {path}: {said}; run without ANNEAL_REPLAY to ask for it")
    for row in rows:
        found = stored[row.request()]
        kind = _KINDS.get(found["outcome"], "")
        # A reply that was read once and is none now: the parser has changed, and that must show.
        if found.get("reply") is None:
            failed = Answer(row.call.id, "failed", kind or "http", errors=["stored as failed"], request=row.request())
            yield replace(failed, refused=found.get("refused") or [])
            continue
        n_in, n_out = found.get("tokens") or (0, 0)
        refused = found.get("refused") or []
        try:
            value = (row.call.check or check)(found["reply"])
        except ValueError as err:
            yield Answer(row.call.id, "failed", "check", errors=[str(err)], request=row.request())
            continue
        yield Answer(row.call.id, "cached", "", found["reply"], value, [], n_in, n_out, row.request(), refused)

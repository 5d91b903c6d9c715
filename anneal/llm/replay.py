"""Replays stored replies in place of a model: ANNEAL_REPLAY names a file or folder of JSON Lines; nothing is sent.

A stored reply is an object with `request`, `reply`, `outcome` and `tokens`, alone or inside another row. The reply is
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
from anneal.llm.request import Answer, Pending
from anneal.llm.response import Kind

# The outcome that a judgement records for each kind of failed call.
OUTCOMES: dict[Kind, str] = {
    "check": "parse_error",
    "empty": "parse_error",
    "refusal": "refusal",
    "content_filter": "refusal",
    "length": "length",
    "timeout": "timeout",
    "http": "http",
}
# The inverse; of several kinds of one outcome the first.
_KINDS: dict[str, Kind] = {outcome: kind for kind, outcome in reversed(OUTCOMES.items())}


def source() -> Path | None:
    """The path in ANNEAL_REPLAY, None if unset. UserError inside a DVC stage, whose outs DVC would store."""
    path = os.environ.get("ANNEAL_REPLAY", "").strip()
    if path and os.environ.get("DVC_STAGE"):
        raise UserError("ANNEAL_REPLAY is set: DVC would keep replayed verdicts as a judge's; unset it to run stages")
    return Path(path) if path else None


def _replies(value: Any) -> Iterator[dict[str, Any]]:
    """All objects with a `request` inside a value, at any depth."""
    if isinstance(value, dict):
        if isinstance(value.get("request"), str):
            yield value
        value = list(value.values())
    if isinstance(value, list):
        for inner in value:
            yield from _replies(inner)


def load(path: Path) -> dict[str, dict[str, Any]]:
    """Stored replies by request hash. Raises UserError for a path that is absent or a line that is not JSON."""
    files = sorted(path.rglob("*.jsonl")) if path.is_dir() else [path]
    stored: dict[str, dict[str, Any]] = {}
    for file in files:
        try:
            lines = file.read_text("utf-8").split("\n")
        except OSError as err:
            raise UserError(f"ANNEAL_REPLAY: {file}: {err.strerror}; name a file or folder of judgements") from None
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                stored |= {row["request"]: row for row in _replies(json.loads(line))}
            except ValueError:
                raise UserError(f"{file}:{number}: not JSON, so no stored reply") from None
    return stored


def answers(rows: Sequence[Pending], path: Path, check: Callable[[str], Any]) -> Iterable[Answer]:
    """An answer for each row, in order. Raises UserError where a row has no stored reply."""
    stored = load(path)
    absent = [row.call.id for row in rows if row.request() not in stored]
    if absent:
        reason = f"{len(absent)} of {len(rows)} requests have no stored reply, the first is that of {absent[0]}"
        raise UserError(f"ANNEAL_REPLAY: {path}: {reason}; run without ANNEAL_REPLAY to ask for it")
    for row in rows:
        reply = stored[row.request()]
        kind = _KINDS.get(reply["outcome"], "")
        refused = reply.get("refused") or []
        if reply.get("reply") is None:
            failed = Answer(row.call.id, "failed", kind or "http", errors=["stored as failed"], request=row.request())
            yield replace(failed, refused=refused)
            continue
        tokens_in, tokens_out = reply.get("tokens") or (0, 0)
        try:
            value = (row.call.check or check)(reply["reply"])
        except ValueError as err:
            # The reply passed its check when it was stored: the parser has changed, and the failure shows that.
            yield Answer(row.call.id, "failed", "check", errors=[str(err)], request=row.request())
            continue
        yield Answer(
            row.call.id, "cached", "", reply["reply"], value, [], tokens_in, tokens_out, row.request(), refused
        )

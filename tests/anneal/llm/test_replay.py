"""Replay of stored replies by the hash of their request."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from anneal import files
from anneal.errors import UserError
from anneal.llm import client, replay, request
from anneal.llm.offline_server import Reply

CHAT = client.Chat(model="offline-1", temperature=0.0, top_p=1.0, max_tokens=9, max_failed=0.5)


def row(name: str, chat: client.Chat = CHAT, sample: int = 0) -> request.Pending:
    return request.Pending(client.Call(name, [{"role": "user", "content": name}], sample), chat, "offline/1")


def never(_body: dict[str, Any]) -> Reply:
    raise AssertionError("a connection was opened")


def number(text: str) -> int:
    return int(text)


def test_the_request_hash_is_independent_of_the_endpoint() -> None:
    away = request.Pending(row("a").call, CHAT, "https://example.org/v1")
    assert away.request() == row("a").request() != away.key()
    again = row("a")
    again.refuse("length")
    assert again.request() == row("a").request()
    others = [row("b"), row("a", sample=1), row("a", CHAT.model_copy(update={"temperature": 0.1}))]
    assert len({row("a").request(), *(other.request() for other in others)}) == 4
    assert row("a", CHAT.model_copy(update={"max_failed": 0.1})).request() == row("a").request()


def test_rows_inside_rows_and_failures(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def kept(name: str, reply: str | None, outcome: str, **more: Any) -> dict[str, Any]:
        return {"request": row(name).request(), "reply": reply, "outcome": outcome, "tokens": [3, 1], **more}

    inner = kept("b", None, "timeout")
    files.write("kept/x.jsonl", [{"id": "a", **kept("a", "7", "ok", repeats=[inner])}])
    files.write("kept/deep/y.jsonl", [{"id": "c", **kept("c", "seven", "ok")}])
    monkeypatch.setenv("ANNEAL_REPLAY", "kept")
    found = client.ask([row(name).call for name in "abc"], CHAT, "judge", never, number)
    assert [(a.id, a.status, a.kind, a.value) for a in found] == [
        ("a", "cached", "", 7),
        ("b", "failed", "timeout", None),
        ("c", "failed", "check", None),
    ]
    assert (found[0].tokens_in, found[0].tokens_out, found[0].request) == (3, 1, row("a").request())
    assert not (toy / ".work").exists()


def test_a_request_without_a_stored_reply_is_refused(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANNEAL_REPLAY", "kept.jsonl")
    with pytest.raises(UserError, match=r"ANNEAL_REPLAY: kept\.jsonl: No such file.*; name a file or folder"):
        client.ask([row("a").call], CHAT, "judge", never)
    Path("kept.jsonl").write_text('{"request": "x", "reply": "1", "outcome": "ok"}\n', "utf-8")
    with pytest.raises(UserError, match=r"1 of 1 requests have no stored reply, the first is that of a; run without"):
        client.ask([row("a").call], CHAT, "judge", never)
    Path("kept.jsonl").write_text("{\n", "utf-8")
    with pytest.raises(UserError, match=r"kept\.jsonl:1: not JSON"):
        client.ask([row("a").call], CHAT, "judge", never)


def test_every_outcome_has_a_kind_and_back() -> None:
    assert {replay.OUTCOMES[kind] for kind in replay._KINDS.values()} == set(replay.OUTCOMES.values())
    assert replay._KINDS["parse_error"] == "check"

"""The response cache: replies are on disk before they are used, and refused ones are never served."""

import asyncio
import contextlib
import sqlite3
from pathlib import Path

import pytest

from anneal.errors import UserError
from anneal.llm.response import Kind
from anneal.llm.response_cache import Entry, ResponseCache


def entry(key: str, kind: Kind = "", body: str = "{}") -> Entry:
    return Entry(key, kind, body, "m", 10, 5, 0.25, 1)


def stored(path: Path, table: str) -> list[tuple[str, str]]:
    with contextlib.closing(sqlite3.connect(path)) as db:
        return db.execute(f"SELECT key, kind FROM {table} ORDER BY key").fetchall()


def test_put_returns_when_another_process_can_read_it(tmp_path: Path) -> None:
    path = tmp_path / "l.sqlite"

    async def scene() -> None:
        cache = ResponseCache(path)
        for number in range(3):
            await cache.put(entry(str(number)))
            assert len(stored(path, "answers")) == number + 1
        cache.close()

    asyncio.run(scene())


def test_find_reads_both_tables(tmp_path: Path) -> None:
    path = tmp_path / "l.sqlite"

    async def fill() -> None:
        cache = ResponseCache(path)
        await asyncio.gather(*(cache.put(entry(f"a{n}", body=f"回答{n}")) for n in range(1200)))
        await asyncio.gather(*(cache.put(entry(f"r{n}", "length")) for n in range(3)))
        cache.close()

    asyncio.run(fill())
    cache = ResponseCache(path)
    found = cache.find([*(f"a{n}" for n in range(1200)), "r0", "nobody"])
    assert len(found) == 1201
    assert found["a7"] == entry("a7", body="回答7")
    assert found["r0"].kind == "length"
    cache.close()
    assert [len(stored(path, table)) for table in ("answers", "refused")] == [1200, 3]


def test_an_answer_counts_more_than_a_refused_reply(tmp_path: Path) -> None:
    async def scene() -> None:
        cache = ResponseCache(tmp_path / "l.sqlite")
        await cache.put(entry("k"))
        await cache.put(entry("k", "check"))
        assert cache.find(["k"])["k"].kind == ""
        cache.close()

    asyncio.run(scene())


def test_replies_that_arrive_together_share_a_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    groups: list[int] = []
    write = ResponseCache._write
    monkeypatch.setattr(
        ResponseCache, "_write", lambda self, entries: (groups.append(len(entries)), write(self, entries))[1]
    )

    async def scene() -> None:
        cache = ResponseCache(tmp_path / "l.sqlite")
        await asyncio.gather(*(cache.put(entry(str(n))) for n in range(100)))
        cache.close()

    asyncio.run(scene())
    assert sum(groups) == 100
    assert len(groups) <= 3


def test_a_cancelled_wait_does_not_cancel_the_others(tmp_path: Path) -> None:
    async def scene() -> None:
        cache = ResponseCache(tmp_path / "l.sqlite")
        puts = [asyncio.create_task(cache.put(entry(str(n)))) for n in range(5)]
        await asyncio.sleep(0)
        puts[0].cancel()
        done = await asyncio.gather(*puts, return_exceptions=True)
        assert [type(d) for d in done] == [asyncio.CancelledError] + [type(None)] * 4
        assert len(cache.find(map(str, range(5)))) == 5
        cache.close()

    asyncio.run(scene())


def test_commits_are_synchronous(tmp_path: Path) -> None:
    """NORMAL would lose the last answers in a power cut, and they would be paid for twice."""
    cache = ResponseCache(tmp_path / "l.sqlite")
    assert cache._db.execute("PRAGMA synchronous").fetchone() == (2,)
    assert cache._db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    cache.close()


def test_a_damaged_file_is_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "l.sqlite"
    path.write_bytes(b"this is no database, and never was one" * 100)
    with pytest.raises(UserError, match=r"l\.sqlite: file is not a database; make room"):
        ResponseCache(path)


def test_a_commit_that_fails_reaches_everyone_who_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_self: ResponseCache, _entries: list[Entry]) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(ResponseCache, "_write", full)

    async def scene() -> list[object]:
        cache = ResponseCache(tmp_path / "l.sqlite")
        puts = await asyncio.gather(*(cache.put(entry(str(n))) for n in range(4)), return_exceptions=True)
        cache.close()
        return list(puts)

    failed = asyncio.run(scene())
    assert len(failed) == 4
    assert all(isinstance(err, UserError) and "disk is full" in str(err) for err in failed)

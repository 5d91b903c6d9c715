"""Paid replies by request: one SQLite file, to which a reply is committed before it is used.

Table `answers` holds replies that are served again. Table `refused` holds replies that were paid for and are unusable:
cut short, filtered, failed the check. They are never served; they count as cost, and a repeat gets another key.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, dataclass
from pathlib import Path

from anneal.errors import UserError
from anneal.llm.response import Kind

_COLUMNS = "key, kind, body, model, tokens_in, tokens_out, cost, attempts"
_TABLE = """CREATE TABLE IF NOT EXISTS {} (key TEXT PRIMARY KEY, kind TEXT NOT NULL, body TEXT NOT NULL,
model TEXT NOT NULL, tokens_in INTEGER NOT NULL, tokens_out INTEGER NOT NULL, cost REAL NOT NULL,
attempts INTEGER NOT NULL);"""
_AT_ONCE = 500  # keys in one SELECT; SQLite takes 999 values in old builds


@dataclass(frozen=True)
class Entry:
    """One reply that was paid for."""

    key: str
    kind: Kind  # why it is unusable; empty for an answer
    body: str  # the JSON as received
    model: str
    tokens_in: int
    tokens_out: int
    cost: float  # by the prices in force when it was sent, in their currency
    attempts: int  # requests of its row in that run, this one included


class ResponseCache:
    """The cache in one file, which is made if absent. Every method raises UserError where SQLite fails."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._pending: list[Entry] = []
        self._group: asyncio.Future[None] | None = None
        self._task: asyncio.Task[None] | None = None
        # Commits have a thread: each waits milliseconds for the disk, while the event loop goes on reading replies.
        self._thread = ThreadPoolExecutor(1, "ledger")
        try:
            self._db = sqlite3.connect(path, timeout=30, isolation_level=None, check_same_thread=False)
            # FULL: with NORMAL a power cut may lose the last commits, which would then be paid for twice.
            self._db.executescript("PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;")
            self._db.executescript(_TABLE.format("answers") + _TABLE.format("refused"))
        except sqlite3.Error as err:
            raise self._user_error(err) from None

    def _user_error(self, err: sqlite3.Error) -> UserError:
        return UserError(f"{self.path}: {err}; make room for it or move it away (its answers would be paid for again)")

    def find(self, keys: Iterable[str]) -> dict[str, Entry]:
        """The entries of both tables by key; an answer has an empty kind."""
        keys = list(keys)
        entries: dict[str, Entry] = {}
        try:
            for start in range(0, len(keys), _AT_ONCE):
                part = keys[start : start + _AT_ONCE]
                marks = ",".join("?" * len(part))
                for table in ("refused", "answers"):  # in this order: an answer replaces a refused reply of its key
                    rows = self._db.execute(f"SELECT {_COLUMNS} FROM {table} WHERE key IN ({marks})", part)
                    entries.update((row[0], Entry(*row)) for row in rows)
        except sqlite3.Error as err:
            raise self._user_error(err) from None
        return entries

    async def put(self, entry: Entry) -> None:
        """Return when the entry is on disk. Entries that arrive during a commit share the next one."""
        self._pending.append(entry)
        if self._group is None:
            self._group = asyncio.get_running_loop().create_future()
        group = self._group
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._commit())
        # Shielded: a cancelled worker must not cancel the commit that others wait for.
        await asyncio.shield(group)

    async def _commit(self) -> None:
        while self._pending:
            entries, self._pending = self._pending, []
            group, self._group = self._group, None
            assert group is not None
            try:
                await asyncio.get_running_loop().run_in_executor(self._thread, self._write, entries)
            except sqlite3.Error as err:
                group.set_exception(self._user_error(err))
            else:
                group.set_result(None)

    def _write(self, entries: list[Entry]) -> None:
        with self._db:  # one transaction, rolled back whole on an error
            self._db.execute("BEGIN IMMEDIATE")
            for entry in entries:
                table = "refused" if entry.kind else "answers"
                values = ",".join("?" * 8)
                self._db.execute(f"INSERT OR REPLACE INTO {table} ({_COLUMNS}) VALUES ({values})", astuple(entry))

    def close(self) -> None:
        """Wait for the last commit and close the file."""
        self._thread.shutdown(wait=True)
        self._db.close()

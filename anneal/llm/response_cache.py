"""What was asked and answered before: one SQLite file, and a reply is in it before anyone uses it.

`answers` are served again. `refused` are replies that were paid for and are none: cut short, filtered, failed the
check. They are kept for the bill, and so that asking again is another request, and they are never served.
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
    kind: Kind  # why it was refused; empty for an answer
    body: str  # the JSON as received
    model: str
    tokens_in: int
    tokens_out: int
    cost: float  # in the currency of the prices that held when it was asked
    attempts: int  # requests that were sent for it in its run, itself included


class ResponseCache:
    """Opens or makes the file. Raises UserError for one that SQLite cannot read or write."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._pending: list[Entry] = []
        self._group: asyncio.Future[None] | None = None
        self._task: asyncio.Task[None] | None = None
        # A thread of its own: a commit waits milliseconds for the disk, and the loop must go on reading replies.
        self._thread = ThreadPoolExecutor(1, "ledger")
        try:
            self._db = sqlite3.connect(path, timeout=30, isolation_level=None, check_same_thread=False)
            # FULL: with NORMAL a power cut may lose the last commits, and what is lost is paid for twice.
            self._db.executescript("PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;")
            self._db.executescript(_TABLE.format("answers") + _TABLE.format("refused"))
        except sqlite3.Error as err:
            raise self._refusal(err) from None

    def _refusal(self, err: sqlite3.Error) -> UserError:
        return UserError(f"{self.path}: {err}; make room for it or move it away (its answers would be paid for again)")

    def find(self, keys: Iterable[str]) -> dict[str, Entry]:
        """The entries of both tables by key; an answer has an empty kind."""
        wanted = list(keys)
        found: dict[str, Entry] = {}
        try:
            for start in range(0, len(wanted), _AT_ONCE):
                part = wanted[start : start + _AT_ONCE]
                marks = ",".join("?" * len(part))
                for table in ("refused", "answers"):  # in this order: an answer counts more than a refused reply
                    rows = self._db.execute(f"SELECT {_COLUMNS} FROM {table} WHERE key IN ({marks})", part)
                    found.update((row[0], Entry(*row)) for row in rows)
        except sqlite3.Error as err:
            raise self._refusal(err) from None
        return found

    async def put(self, entry: Entry) -> None:
        """Return when the entry is on disk. Entries that arrive during a commit share the next one."""
        self._pending.append(entry)
        if self._group is None:
            self._group = asyncio.get_running_loop().create_future()
        group = self._group
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._commit())
        # Shielded: one cancelled worker must not cancel the wait of the others.
        await asyncio.shield(group)

    async def _commit(self) -> None:
        while self._pending:
            entries, self._pending = self._pending, []
            group, self._group = self._group, None
            assert group is not None
            try:
                await asyncio.get_running_loop().run_in_executor(self._thread, self._write, entries)
            except sqlite3.Error as err:
                group.set_exception(self._refusal(err))
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

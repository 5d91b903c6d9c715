"""The loop that sends what must be sent: bounded workers, one owner of retries, nothing lost when it stops.

Four things can become of a request besides an answer: the run stops (wrong key, no money, nobody there), the row is
dropped (a request that can never pass), the row waits as told, or it is sent again.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from anneal.errors import UserError
from anneal.llm import endpoint, response
from anneal.llm.concurrency import Limit
from anneal.llm.request import Row
from anneal.llm.response_cache import Entry, ResponseCache

if TYPE_CHECKING:
    from openai import AsyncOpenAI

WAITS = 60  # times that a row may be told to wait; waiting is no fault of the row and no attempt
BACKOFF, LONGEST = 0.5, 20.0  # seconds before the first repeat, doubled up to the longest


@contextlib.contextmanager
def _signals(handle: Callable[[str], None]) -> Iterator[None]:
    """Ctrl-C and SIGTERM go to `handle` meanwhile; afterwards to whom they went before."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop, before = asyncio.get_running_loop(), {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}
    for number in before:
        loop.add_signal_handler(number, handle, number.name)
    try:
        yield
    finally:
        for number, handler in before.items():
            loop.remove_signal_handler(number)  # leaves the default behind, which would end a stage without a word
            signal.signal(number, handler or signal.SIG_DFL)


class Scheduler:
    """The rows of one `ask` that must be sent. `reason` is why it stopped early: a UserError, a signal, an error."""

    def __init__(self, road: endpoint.Endpoint, ledger: ResponseCache, check: Callable[[str], Any]) -> None:
        self.road, self.ledger, self.check = road, ledger, check
        self.limit = Limit(road.concurrency)
        # Last in, first out: a row that comes back goes first, or the slowest rows would all end up at the end.
        self.queue: asyncio.LifoQueue[Row] = asyncio.LifoQueue()
        self.count: Counter[str] = Counter()
        self.cost, self.left, self.reached = 0.0, 0, False
        self.told_to_wait, self.closed_until, self.signals = 0, 0.0, 0
        self.reason: BaseException | None = None
        self.done = asyncio.Event()
        self.workers: list[asyncio.Task[None]] = []
        self.busy: set[asyncio.Task[None] | None] = set()
        self.tick: Callable[[], None] = lambda: None

    async def go(self, rows: list[Row]) -> None:
        """Send rows until all are settled or `reason` is set; what is in flight then is still taken in."""
        self.left = len(rows)
        for row in reversed(rows):
            self.queue.put_nowait(row)
        async with endpoint.connect(self.road) as client:
            for _ in range(min(self.road.concurrency, len(rows))):
                self.workers.append(asyncio.create_task(self._work(client)))
                self.workers[-1].add_done_callback(self._crashed)
            with _signals(self._signalled):
                await self.done.wait()
                for worker in self.workers:
                    if worker not in self.busy:
                        worker.cancel()
                await asyncio.wait(self.workers)  # what is in flight is paid for

    def halt(self, reason: BaseException) -> None:
        self.reason = self.reason or reason
        self.done.set()

    def _crashed(self, worker: asyncio.Task[None]) -> None:
        if not worker.cancelled() and (err := worker.exception()):
            self.halt(err)

    def _signalled(self, name: str) -> None:
        self.signals += 1
        if self.signals > 1:
            for worker in self.workers:
                worker.cancel()
        elif self.busy:
            print(f"{name}: taking in {len(self.busy)} answers in flight; once more to leave them", file=sys.stderr)
        self.halt(KeyboardInterrupt(name))

    async def _open(self) -> int:
        """Wait for a slot, and for a provider that refused everybody to open again; returns the slot's epoch."""
        epoch = await self.limit.acquire()
        while (closed := self.closed_until - asyncio.get_running_loop().time()) > 0:
            await asyncio.sleep(closed)
        if self.count["sent"] >= self.road.max_requests:
            name = f"{self.road.role.upper()}_MAX_REQUESTS"
            self.halt(UserError(f"{name}: {self.road.max_requests} are spent and {self.left} rows left; raise it"))
        return epoch

    async def _work(self, client: AsyncOpenAI) -> None:
        me = asyncio.current_task()
        while True:
            row = await self.queue.get()
            epoch = await self._open()
            if self.done.is_set():
                return
            self.busy.add(me)
            row.tries += 1
            self.count["sent"] += 1
            outcome = await endpoint.send(client, row.body(), self.road)
            self.limit.release(epoch, outcome.overloaded)
            if outcome.move == "use":
                # The worker waits for the commit, so that a kill never loses more than `concurrency` paid replies.
                outcome = await self._use(row, outcome.body)
            self._next(row, outcome)
            self.busy.discard(me)
            self.tick()
            if self.done.is_set():
                return

    async def _use(self, row: Row, body: str) -> endpoint.Outcome:
        """Make the reply an answer, or find why not; either way it is on disk afterwards."""
        outcome, key = endpoint.Outcome("use"), row.key()
        try:
            row.take(body, self.check, "ok")
        except response.Unusable as err:
            if err.kind == "http":  # nothing in it to keep
                return endpoint.Outcome("again", err.kind, str(err))
            outcome = endpoint.Outcome("again", err.kind, str(err), delay=0.0)
            row.refuse(err.kind)
        tokens_in, tokens_out = response.tokens(body)
        cost = (tokens_in * self.road.price_in + tokens_out * self.road.price_out) / 1e6
        model = row.chat.model
        await self.ledger.put(Entry(key, outcome.kind, body, model, tokens_in, tokens_out, cost, row.tries))
        self.cost += cost
        self.count["tokens"] += tokens_in + tokens_out
        return outcome

    def _settle(self, status: str) -> None:
        self.count[status] += 1
        self.left -= 1
        if not self.left:
            self.done.set()

    def _next(self, row: Row, outcome: endpoint.Outcome) -> None:
        """Settle the row, send it round again, or stop the run."""
        self.reached |= outcome.reached
        if outcome.move == "use":
            self.told_to_wait = 0
            return self._settle("ok")
        # What a model says may reach a terminal: no control characters.
        reason = "".join(c if c.isprintable() else "?" for c in outcome.reason)
        row.errors.append(reason)
        if outcome.move == "stop" or not self.reached:
            return self.halt(UserError(reason))
        if outcome.move == "wait":
            row.tries, row.waits = row.tries - 1, row.waits + 1
        if outcome.move == "drop" or row.finished() or row.waits > WAITS:
            row.fail(outcome.kind)
            self._settle("failed")
            # One bad row is that row's fault; a whole first round of them is the request's or the provider's.
            # Replies that nobody can read are answers of a kind: where all may fail, they are let fail.
            spared = row.chat.max_failed >= 1 and outcome.kind in ("check", "empty", "refusal")
            if self.count["failed"] >= self.road.concurrency and not self.count["ok"] and not spared:
                self.halt(UserError(f"the first {self.count['failed']} rows all failed, the last with: {reason}"))
            return None
        self.count["retried"] += 1
        self._later(row, outcome)
        return None

    def _later(self, row: Row, outcome: endpoint.Outcome) -> None:
        """Queue the row again after a while; its slot serves others meanwhile."""
        loop, delay = asyncio.get_running_loop(), outcome.delay
        if delay is None:
            delay = min(LONGEST, BACKOFF * 2.0 ** (row.tries + row.waits - 1))
        if outcome.move == "wait":
            self.told_to_wait += 1
            # A whole round and no answer: asking with the next rows would only use up their patience.
            if self.told_to_wait >= int(self.limit.size):
                self.closed_until = loop.time() + delay
        # Jitter, so that rows that were told the same do not come back as one.
        loop.call_later(delay * random.uniform(1.0, 1.1), self.queue.put_nowait, row)

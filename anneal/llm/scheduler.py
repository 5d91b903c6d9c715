"""Sends the requests of one `ask`: bounded workers, one place that decides on retries, replies kept when it stops.

A request that brings no answer has one of four outcomes: the run stops (wrong key, no money, no server), the row is
dropped (a request that can never pass), the row waits for as long as the provider asks, or it is sent again.
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
from anneal.llm import response
from anneal.llm.concurrency import ConcurrencyLimit
from anneal.llm.endpoint import Endpoint, Outcome, connect, send
from anneal.llm.request import Pending
from anneal.llm.response_cache import Entry, ResponseCache

if TYPE_CHECKING:
    from openai import AsyncOpenAI

WAITS = 60  # times that a provider may ask one row to wait; such a wait is no attempt of the row
BACKOFF = 0.5  # seconds before the first repeat, doubled for each further one
LONGEST = 20.0  # seconds, the longest backoff
JITTER = 0.1  # a delay grows by up to this share, so that rows delayed together do not return together


@contextlib.contextmanager
def _signals(handle: Callable[[str], None]) -> Iterator[None]:
    """Pass SIGINT and SIGTERM by name to `handle` for the time of the block, then restore the former handlers."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in before:
        loop.add_signal_handler(number, handle, number.name)
    try:
        yield
    finally:
        for number, handler in before.items():
            # This leaves the default handler behind, which would end a stage without a message.
            loop.remove_signal_handler(number)
            signal.signal(number, handler or signal.SIG_DFL)


class Scheduler:
    """Sends the rows of one `ask`. `reason` is why it stopped early: a UserError, a signal or an unexpected error."""

    def __init__(self, endpoint: Endpoint, cache: ResponseCache, check: Callable[[str], Any]) -> None:
        self.endpoint, self.cache, self.check = endpoint, cache, check
        self.limit = ConcurrencyLimit(endpoint.concurrency)
        # Last in, first out: a repeated row goes first, or the slowest rows would all end up at the end.
        self.queue: asyncio.LifoQueue[Pending] = asyncio.LifoQueue()
        self.counts: Counter[str] = Counter()  # rows: ok, retried, failed; requests: sent; tokens
        self.cost = 0.0  # of this run, in the currency of the endpoint's prices
        self.unsettled = 0  # rows
        self.reached = False  # whether any request reached the provider
        self.waits = 0  # consecutive outcomes that asked to wait
        self.closed_until = 0.0  # seconds of the event loop's clock
        self.signals = 0
        self.reason: BaseException | None = None
        self.done = asyncio.Event()
        self.workers: list[asyncio.Task[None]] = []
        self.busy: set[asyncio.Task[None] | None] = set()
        self.tick: Callable[[], None] = lambda: None  # called after every reply, for the progress line

    async def run(self, rows: list[Pending]) -> None:
        """Send rows until all are settled or `reason` is set, then receive the replies still in flight."""
        self.unsettled = len(rows)
        for row in reversed(rows):
            self.queue.put_nowait(row)
        async with connect(self.endpoint) as client:
            for _ in range(min(self.endpoint.concurrency, len(rows))):
                self.workers.append(asyncio.create_task(self._work(client)))
                self.workers[-1].add_done_callback(self._crashed)
            with _signals(self._signalled):
                await self.done.wait()
                for worker in self.workers:
                    if worker not in self.busy:
                        worker.cancel()
                await asyncio.wait(self.workers)  # requests in flight are paid for

    def halt(self, reason: BaseException) -> None:
        """Stop sending; the first reason counts."""
        self.reason = self.reason or reason
        self.done.set()

    def _crashed(self, worker: asyncio.Task[None]) -> None:
        if not worker.cancelled() and (err := worker.exception()):
            self.halt(err)

    def _signalled(self, name: str) -> None:
        """The first signal receives what is in flight, the second one drops it."""
        self.signals += 1
        if self.signals > 1:
            for worker in self.workers:
                worker.cancel()
        elif self.busy:
            print(f"{name}: waiting for {len(self.busy)} paid replies; once more to drop them", file=sys.stderr)
        self.halt(KeyboardInterrupt(name))

    async def _open(self) -> int:
        """Wait for a slot, and until a provider that asked all rows to wait opens again; return the slot's epoch."""
        epoch = await self.limit.acquire()
        while (seconds := self.closed_until - asyncio.get_running_loop().time()) > 0:
            await asyncio.sleep(seconds)
        most = self.endpoint.max_requests
        if self.counts["sent"] >= most:
            name = f"{self.endpoint.role.upper()}_MAX_REQUESTS"
            self.halt(UserError(f"{name}: {most} are spent and {self.unsettled} rows left; raise it"))
        return epoch

    async def _work(self, client: AsyncOpenAI) -> None:
        worker = asyncio.current_task()
        while True:
            row = await self.queue.get()
            epoch = await self._open()
            if self.done.is_set():
                return
            self.busy.add(worker)
            row.tries += 1
            self.counts["sent"] += 1
            outcome = await send(client, row.body(), self.endpoint)
            self.limit.release(epoch, outcome.overloaded)
            if outcome.move == "use":
                # The worker waits for the commit, so that a kill never loses more than `concurrency` paid replies.
                outcome = await self._use(row, outcome.body)
            self._next(row, outcome)
            self.busy.discard(worker)
            self.tick()
            if self.done.is_set():
                return

    async def _use(self, row: Pending, body: str) -> Outcome:
        """Parse the reply into an answer or a reason to repeat, and write it to the cache."""
        outcome, key = Outcome("use"), row.key()  # the key first: a refused reply changes it
        try:
            row.take(body, self.check, "ok")
        except response.Unusable as err:
            if err.kind == "http":  # a broken body is not worth keeping
                return Outcome("again", err.kind, str(err))
            outcome = Outcome("again", err.kind, str(err), delay=0.0)
            row.refuse(err.kind)
        tokens_in, tokens_out = response.tokens(body)
        cost = (tokens_in * self.endpoint.price_in + tokens_out * self.endpoint.price_out) / 1e6
        model = row.chat.model
        await self.cache.put(Entry(key, outcome.kind, body, model, tokens_in, tokens_out, cost, row.tries))
        self.cost += cost
        self.counts["tokens"] += tokens_in + tokens_out
        return outcome

    def _settle(self, status: str) -> None:
        self.counts[status] += 1
        self.unsettled -= 1
        if not self.unsettled:
            self.done.set()

    def _next(self, row: Pending, outcome: Outcome) -> None:
        """Settle the row, queue it again, or stop the run."""
        self.reached |= outcome.reached
        if outcome.move == "use":
            self.waits = 0
            self._settle("ok")
            return
        # A reason may quote a model and be printed on a terminal: no control characters.
        reason = "".join(character if character.isprintable() else "?" for character in outcome.reason)
        row.errors.append(reason)
        if outcome.move == "stop" or not self.reached:
            self.halt(UserError(reason))
            return
        if outcome.move == "wait":
            row.tries -= 1
            row.waits += 1
        if outcome.move == "drop" or row.exhausted() or row.waits > WAITS:
            self._drop(row, outcome.kind, reason)
            return
        self.counts["retried"] += 1
        self._queue_later(row, outcome)

    def _drop(self, row: Pending, kind: response.Kind, reason: str) -> None:
        """Fail the row. Stop the run if a first round of rows all failed, as the cause is then not in the rows."""
        row.fail(kind)
        self._settle("failed")
        # Where params let all rows fail (max_failed 1), unreadable replies are results and do not stop the run.
        spared = row.chat.max_failed >= 1 and kind in ("check", "empty", "refusal")
        if self.counts["failed"] >= self.endpoint.concurrency and not self.counts["ok"] and not spared:
            self.halt(UserError(f"the first {self.counts['failed']} rows all failed, the last with: {reason}"))

    def _queue_later(self, row: Pending, outcome: Outcome) -> None:
        """Queue the row again after its delay; its slot serves other rows meanwhile."""
        loop, delay = asyncio.get_running_loop(), outcome.delay
        if delay is None:
            delay = min(LONGEST, BACKOFF * 2.0 ** (row.tries + row.waits - 1))
        if outcome.move == "wait":
            self.waits += 1
            # A whole round without an answer: sending the next rows would only spend their waits.
            if self.waits >= int(self.limit.size):
                self.closed_until = loop.time() + delay
        loop.call_later(delay * random.uniform(1.0, 1.0 + JITTER), self.queue.put_nowait, row)

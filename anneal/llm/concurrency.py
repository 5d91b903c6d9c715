"""How many requests may be in flight: slow start, then additive increase and multiplicative decrease.

A provider that answers 429 now and then is not overloaded, and one that answers it to every fifth request is. The rule
counts only requests that were started since the last change: the answers to older ones speak of the old limit, and
taking them for news cuts the limit many times for one overload.
"""

from __future__ import annotations

import asyncio
from collections import deque

START = 32
WINDOW = 20  # requests, at least, before a limit is judged
TOLERATED = 0.2  # share of 429 in a window; with 0.1, random 429s at 5% drove the limit down to 7 of 32
CUT = 0.7
GROWTH = 0.05


class Limit:
    """Slots for requests. `acquire` waits for one and returns the epoch to `release` it with."""

    def __init__(self, top: int, start: int = START) -> None:
        self.top = top
        self.size = float(min(start, top))
        self.used = 0
        self._epoch = 0
        self._slow_start = True
        self._queue: deque[asyncio.Future[None]] = deque()
        self._seen = self._overloaded = 0
        self._full = False

    async def acquire(self) -> int:
        if self.used < int(self.size):
            self.used += 1
        else:
            self._full = True
            slot = asyncio.get_running_loop().create_future()
            self._queue.append(slot)
            await slot  # `release` has counted it as used
        return self._epoch

    def release(self, epoch: int, overloaded: bool | None) -> None:
        """Give a slot back; `overloaded` is True for a 429, False for a reply, None for what says nothing of load."""
        if overloaded is not None and epoch == self._epoch:
            self._judge(overloaded)
        self.used -= 1
        while self._queue and self.used < int(self.size):
            slot = self._queue.popleft()
            if not slot.done():  # its worker may have been cancelled
                self.used += 1
                slot.set_result(None)

    def _judge(self, overloaded: bool) -> None:
        self._seen += 1
        self._overloaded += overloaded
        window = max(WINDOW, int(self.size))
        if self._overloaded >= TOLERATED * window:
            self._slow_start = False
            self._change(self.size * CUT)
        elif self._seen >= window:
            clean = self._overloaded <= TOLERATED / 2 * self._seen
            # A limit that was never reached has not been tried: growing it would prove nothing.
            if clean and self._full and self.size < self.top:
                self._change(self.size * 2 if self._slow_start else self.size + max(1.0, self.size * GROWTH))
            else:
                self._seen, self._overloaded, self._full = 0, 0, False

    def _change(self, size: float) -> None:
        self.size = max(1.0, min(float(self.top), size))
        self._epoch += 1
        self._seen, self._overloaded, self._full = 0, 0, False

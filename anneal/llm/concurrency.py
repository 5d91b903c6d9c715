"""The number of requests in flight: slow start, then additive increase and multiplicative decrease.

A provider that answers 429 now and then is not overloaded; one that answers it to every fifth request is. Only requests
that started since the last change of the limit count: replies to older ones are about the old limit, and counting them
cuts the limit many times for one overload.
"""

from __future__ import annotations

import asyncio
from collections import deque

START = 32  # requests in flight, the first limit
WINDOW = 20  # requests, at least, before a limit is changed
TOLERATED = 0.2  # share of 429 in a window; with 0.1, random 429s at 5% drove the limit down to 7 of 32
CUT = 0.7  # factor on the limit after an overload
GROWTH = 0.05  # share of the limit, at least 1 request, that is added after a clean window


class ConcurrencyLimit:
    """Slots for requests. `acquire` waits for one and returns the epoch, which `release` takes back.

    An epoch is the time between two changes of the limit.
    """

    def __init__(self, top: int, start: int = START) -> None:
        self.top = top
        self.size = float(min(start, top))
        self.used = 0
        self._epoch = 0
        self._slow_start = True
        self._queue: deque[asyncio.Future[None]] = deque()
        self._seen = 0  # replies of this epoch
        self._overloaded = 0  # 429s among them
        self._full = False  # whether a request has had to wait in this epoch

    async def acquire(self) -> int:
        if self.used < int(self.size):
            self.used += 1
        else:
            self._full = True
            slot = asyncio.get_running_loop().create_future()
            self._queue.append(slot)
            await slot  # `release` counts it as used
        return self._epoch

    def release(self, epoch: int, overloaded: bool | None) -> None:
        """Give a slot back; `overloaded` is True for a 429, False for a reply, None for any other outcome."""
        if overloaded is not None and epoch == self._epoch:
            self._count(overloaded)
        self.used -= 1
        while self._queue and self.used < int(self.size):
            slot = self._queue.popleft()
            if not slot.done():  # its worker may have been cancelled
                self.used += 1
                slot.set_result(None)

    def _count(self, overloaded: bool) -> None:
        """Count a reply of this epoch, and change the limit once the evidence suffices."""
        self._seen += 1
        self._overloaded += overloaded
        window = max(WINDOW, int(self.size))
        if self._overloaded >= TOLERATED * window:
            self._slow_start = False
            self._change(self.size * CUT)
        elif self._seen >= window:
            clean = self._overloaded <= TOLERATED / 2 * self._seen
            # A limit that no request had to wait for is untested, so that its clean window is no evidence for more.
            if clean and self._full and self.size < self.top:
                self._change(self.size * 2 if self._slow_start else self.size + max(1.0, self.size * GROWTH))
            else:
                self._reset()

    def _change(self, size: float) -> None:
        self.size = max(1.0, min(float(self.top), size))
        self._epoch += 1
        self._reset()

    def _reset(self) -> None:
        self._seen, self._overloaded, self._full = 0, 0, False

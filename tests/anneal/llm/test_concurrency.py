"""The limit on requests in flight: slow start, one cut per overload, no reaction to occasional 429s."""

import asyncio
import random
from collections.abc import Callable

from anneal.llm.concurrency import ConcurrencyLimit


async def drive(limit: ConcurrencyLimit, requests: int, overloaded: Callable[[int, int], bool]) -> int:
    """Keep the limit full with requests that end in the order they began; returns the most that were in flight."""
    flying: list[int] = []
    waiting: list[asyncio.Task[int]] = []
    most = 0
    for number in range(requests):
        waiting.append(asyncio.create_task(limit.acquire()))
        await asyncio.sleep(0)
        flying += [w.result() for w in waiting if w.done()]
        waiting = [w for w in waiting if not w.done()]
        most = max(most, len(flying))
        assert len(flying) == limit.used
        if waiting:
            limit.release(flying.pop(0), overloaded(number, limit.used))
            await asyncio.sleep(0)
    for w in waiting:
        w.cancel()
    return most


def test_slow_start_doubles_to_the_top_and_stays_there() -> None:
    limit = ConcurrencyLimit(top=128, start=32)
    assert asyncio.run(drive(limit, 1000, lambda _n, _used: False)) == 128
    assert limit.size == 128


def test_never_more_than_the_top() -> None:
    limit = ConcurrencyLimit(top=3)
    assert asyncio.run(drive(limit, 200, lambda _n, _used: False)) == 3


def test_the_limit_settles_near_the_capacity() -> None:
    """A server that takes 64 at once: the limit settles near it, and few requests are refused."""
    limit, refused = ConcurrencyLimit(top=256), 0

    def server(_number: int, used: int) -> bool:
        nonlocal refused
        refused += used > 64
        return used > 64

    asyncio.run(drive(limit, 3000, server))
    assert 40 <= limit.size <= 100
    assert refused < 0.2 * 3000


def test_random_429s_are_no_overload() -> None:
    """5% at random: a rule that cut at 10% without epochs went down to 7 slots of 32."""
    for seed in range(20):
        rng = random.Random(seed)
        limit = ConcurrencyLimit(top=32)
        asyncio.run(drive(limit, 2000, lambda _n, _used, rng=rng: rng.random() < 0.05))
        assert limit.size == 32, seed


def test_one_overload_is_one_cut() -> None:
    """Replies to requests that started before a cut do not count."""

    async def scene() -> float:
        limit = ConcurrencyLimit(top=100, start=100)
        epochs = [await limit.acquire() for _ in range(100)]
        for epoch in epochs:
            limit.release(epoch, True)
        assert limit.used == 0
        return limit.size

    assert asyncio.run(scene()) == 70


def test_the_limit_stays_above_0_and_grows_again() -> None:
    sizes: list[float] = []
    limit = ConcurrencyLimit(top=32)

    def server(number: int, _used: int) -> bool:
        sizes.append(limit.size)
        return number < 1500

    asyncio.run(drive(limit, 1800, server))
    assert min(sizes) == 1
    # Twenty requests, the shortest window, for one slot more.
    assert 5 <= limit.size <= 20


def test_a_limit_that_was_not_reached_does_not_grow() -> None:
    async def scene() -> float:
        limit = ConcurrencyLimit(top=128, start=32)
        for _ in range(500):
            limit.release(await limit.acquire(), False)
        return limit.size

    assert asyncio.run(scene()) == 32


def test_other_failures_do_not_change_the_limit() -> None:
    async def scene() -> float:
        limit = ConcurrencyLimit(top=32)
        for _ in range(500):
            limit.release(await limit.acquire(), None)
        return limit.size

    assert asyncio.run(scene()) == 32


def test_a_cancelled_wait_loses_no_slot() -> None:
    async def scene() -> None:
        limit = ConcurrencyLimit(top=1)
        epoch = await limit.acquire()
        waits = [asyncio.create_task(limit.acquire()) for _ in range(3)]
        await asyncio.sleep(0)
        waits[0].cancel()
        await asyncio.sleep(0)
        limit.release(epoch, False)
        limit.release(await waits[1], False)
        await waits[2]
        assert limit.used == 1

    asyncio.run(scene())

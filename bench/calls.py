"""What our request loop costs beside the plain client: AsyncOpenAI behind a semaphore, in one run on one server.

    python bench/calls.py [--rows 2000] [--concurrency 32 128] [--repeats 2] [--faults]

The server is a process of its own on loopback; a reply takes the time that the hash of its request says (lognormal,
median 180 ms). Ours does more for each row: it commits the reply to disk, checks it and keeps the books. `ideal` is the
greedy schedule of the same latencies. With --faults 10% of the first attempts fail: 5% 429 with Retry-After 1, 2% 500,
1% hang, 1% reset, 0.5% broken body, 0.5% broken JSON in the answer; the plain client then retries 6 times itself.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import heapq
import json
import math
import multiprocessing
import os
import random
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from anneal.llm import client, offline_server

MODEL, TIMEOUT, RETRIES = "bench", 5.0, 6
MIX = [("429", 0.05), ("500", 0.02), ("hang", 0.01), ("reset", 0.01), ("body", 0.005), ("content", 0.005)]
PAID = ("ok", "hang", "reset", "body", "content")
Result = dict[str, float]


def prompt(row: int) -> str:
    return f"第{row}件产品：" + "成分、功效与用法都写在这里。" * 20


def latency(text: str) -> float:
    """Seconds: lognormal, median 0.18, mean 0.20."""
    return 0.18 * math.exp(random.Random(hashlib.sha256(text.encode()).hexdigest()).gauss(0, 0.47))


def ideal(rows: int, slots: int) -> float:
    """Wall of the greedy schedule: each row starts when a slot is free."""
    ends = [0.0] * slots
    for row in range(rows):
        heapq.heappush(ends, heapq.heappop(ends) + latency(prompt(row)))
    return max(ends)


def fault(text: str, attempt: int, faulty: bool) -> str:
    draw = random.Random(f"{text}/{attempt}").random()
    for name, share in MIX if faulty else []:
        if draw < share:
            return name
        draw -= share
    return "ok"


def serve(ready: Any, asked: Any, faulty: bool) -> None:
    """The server process: answers until it is ended; sends its counts when asked."""
    from aiohttp import web

    seen: Counter[str] = Counter()
    served: Counter[str] = Counter()
    paid: Counter[str] = Counter()

    async def complete(request: web.Request) -> web.StreamResponse:
        text = str((await request.json())["messages"][0]["content"])
        seen[text] += 1
        what = fault(text, seen[text], faulty)
        served[what] += 1
        paid[text] += what in PAID
        if what == "429":
            return web.json_response({"error": {"message": "slow down"}}, status=429, headers={"Retry-After": "1"})
        await asyncio.sleep(3600 if what == "hang" else latency(text))
        if what == "500":
            return web.json_response({"error": {"message": "broken"}}, status=500)
        if what == "reset" and request.transport:
            request.transport.abort()
        content = json.dumps({"text": text[:60], "score": 3}, ensure_ascii=False)
        choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": content}}
        if what == "content":
            choice["message"] = {"role": "assistant", "content": content[:20]}
        usage = {"prompt_tokens": 280, "completion_tokens": 130, "total_tokens": 410}
        whole = {"id": "1", "object": "chat.completion", "created": 0, "model": MODEL, "choices": [choice]}
        body = json.dumps({**whole, "usage": usage})
        return web.Response(text=body[: len(body) // 2] if what == "body" else body, content_type="application/json")

    async def counts(_request: web.Request) -> web.Response:
        return web.json_response({"served": served, "twice": sum(n - 1 for n in paid.values() if n > 1)})

    async def main() -> None:
        app = web.Application()
        app.router.add_post("/v1/chat/completions", complete)
        app.router.add_get("/counts", counts)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0, backlog=1024).start()
        ready.send(runner.addresses[0][1])
        with contextlib.suppress(EOFError):  # the benchmark itself was ended
            await asyncio.get_running_loop().run_in_executor(None, asked.recv)

    asyncio.run(main())


def check(text: str) -> Any:
    value = json.loads(text)
    if not isinstance(value, dict) or "score" not in value:
        raise ValueError("no score")
    return value


def plain(url: str, rows: int, slots: int) -> Result:
    """The client as its documentation shows it: one client, a semaphore, gather."""
    import openai

    async def run() -> list[str | None]:
        gate = asyncio.Semaphore(slots)

        async def one(client: openai.AsyncOpenAI, row: int) -> str | None:
            messages: Any = [{"role": "user", "content": prompt(row)}]
            async with gate:
                try:
                    done = await client.chat.completions.create(
                        model=MODEL, messages=messages, temperature=1.0, max_tokens=700
                    )
                except Exception:
                    return None
            return done.choices[0].message.content

        async with openai.AsyncOpenAI(base_url=url, api_key="x", timeout=TIMEOUT, max_retries=RETRIES) as client:
            return await asyncio.gather(*(one(client, row) for row in range(rows)))

    return tally(asyncio.run(run()))


def ours(url: str, rows: int, slots: int) -> Result:
    os.environ.update(TEACHER_BASE_URL=url, TEACHER_API_KEY="x", TEACHER_CONCURRENCY=str(slots))
    os.environ["TEACHER_TIMEOUT"] = str(TIMEOUT)
    chat = client.Chat(model=MODEL, temperature=1.0, top_p=1.0, max_tokens=700, max_failed=1.0)
    calls = [client.Call(str(row), [{"role": "user", "content": prompt(row)}]) for row in range(rows)]
    with tempfile.TemporaryDirectory() as folder:
        os.environ["DVC_ROOT"] = folder
        answers = client.ask(calls, chat, "teacher", lambda _: offline_server.Reply(""), check)
    return tally([answer.text if answer.status == "ok" else None for answer in answers])


def tally(texts: list[str | None]) -> Result:
    good = silent = 0
    for text in texts:
        try:
            check(text or "")
            good += 1
        except ValueError:
            silent += text is not None
    return {"good": good, "silently bad": silent, "lost": len(texts) - good - silent}


def measure(client: Callable[[str, int, int], Result], rows: int, slots: int, faulty: bool) -> Result:
    """One client against a fresh server: seconds and CPU of this process, and what the server counted."""
    import urllib.request

    (port, ready), (end, asked) = multiprocessing.Pipe(False), multiprocessing.Pipe()
    server = multiprocessing.get_context("spawn").Process(target=serve, args=(ready, end, faulty), daemon=True)
    server.start()
    base = f"http://127.0.0.1:{port.recv()}"
    wall, cpu = time.perf_counter(), time.process_time()
    result = client(f"{base}/v1", rows, slots)
    result |= {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
    with urllib.request.urlopen(f"{base}/counts") as reply:
        counts = json.load(reply)
    result |= {"requests": sum(counts["served"].values()), "paid twice": counts["twice"]}
    result["broken answers"] = sum(n for name, n in counts["served"].items() if name in PAID[1:])
    asked.send(None)
    server.join(5)
    server.kill()
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--concurrency", type=int, nargs="+", default=[32, 128])
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--faults", action="store_true")
    args = parser.parse_args()
    import openai  # noqa: F401  (both clients import it; neither run should pay for it)

    for slots in args.concurrency:
        best = ideal(args.rows, slots)
        results: dict[str, list[Result]] = {"plain": [], "ours": []}
        for turn in range(args.repeats):  # in turn, and the other first the next time: the machine drifts
            pairs = [("plain", plain), ("ours", ours)]
            for name, ask in pairs[:: 1 if turn % 2 == 0 else -1]:
                results[name].append(measure(ask, args.rows, slots, args.faults))
                row = {key: round(value, 2) for key, value in results[name][-1].items()}
                print(f"concurrency {slots}, {name}: {row['wall'] / best:.2f} x ideal {best:.2f} s, {row}", flush=True)
        mean = {name: statistics.mean(r["wall"] for r in rs) for name, rs in results.items()}
        print(f"concurrency {slots}: ours / plain = {mean['ours'] / mean['plain']:.2f} over {args.repeats} runs each")


if __name__ == "__main__":
    main()

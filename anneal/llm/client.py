"""Answers from a language model: every row asked once for good, every row accounted for.

One loop for all stages that ask. An answer is in the ledger before it is used, so that a killed run pays again only for
what was in flight, an unchanged one sends nothing, and one changed prompt sends one request. The way there is
environment: <ROLE>_BASE_URL, _API_KEY, _CONCURRENCY, _TIMEOUT (seconds), _MAX_REQUESTS, and _PRICE_IN and _PRICE_OUT
per million tokens. ANNEAL_DRY_RUN=1 says what would be sent, and stops; ANNEAL_REPLAY=path takes stored replies.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from anneal import files
from anneal.errors import UserError
from anneal.files import work
from anneal.llm import endpoint, offline_server, replay, response
from anneal.llm.request import AGAIN, JUDGED, Answer, Call, Chat, Row, accept
from anneal.llm.response_cache import ResponseCache
from anneal.llm.scheduler import Scheduler

__all__ = ["Answer", "Call", "Chat", "accept", "ask", "bill"]


def look_up(rows: list[Row], ledger: ResponseCache, check: Callable[[str], Any]) -> list[Row]:
    """Answer rows from the ledger; returns those that must be sent, each at the number of its next request."""
    missing = []
    while rows:
        keys = [row.key() for row in rows]
        found, again = ledger.find(keys), []
        for key, row in zip(keys, rows, strict=True):
            entry = found.get(key)
            if entry is None:
                missing.append(row)
            elif entry.kind:
                row.refused.append(entry.kind)
                again.append(row)
            else:
                try:
                    row.take(entry.body, check, "cached")
                except response.Unusable as err:  # good enough for an earlier check, not for this one
                    row.refused.append(err.kind)
                    row.errors.append(str(err))
                    again.append(row)
        rows = again
    return missing


@contextlib.contextmanager
def _progress(loop: Scheduler, cached: int, total: int) -> Iterator[None]:
    """One line on a terminal, and nothing elsewhere: logs do not want it."""
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(20), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("", total=total)

        def tick() -> None:
            n = loop.count
            words = f"{loop.road.role}: {n['ok']} ok, {cached} cached, {n['retried']} retried, {n['failed']} failed"
            words += f", {n['tokens']} tokens" + (f", cost {loop.cost:.4f}" if loop.cost else "")
            bar.update(task, completed=cached + n["ok"] + n["failed"], description=words)

        loop.tick = tick
        tick()
        yield


def _stop_dry(words: str) -> None:
    if os.environ.get("ANNEAL_DRY_RUN", "0") not in ("", "0"):
        raise UserError(f"dry run: {words}")


def _send(rows: list[Row], loop: Scheduler, cached: int, total: int) -> None:
    with _progress(loop, cached, total):
        asyncio.run(loop.go(rows))
    if loop.reason is not None:
        raise loop.reason


def bill(answers: Sequence[Answer]) -> dict[str, Any]:
    """For a metric: failed rows by kind, and the tokens of the answers, the same when the ledger gave them.

    A later answer to the same id stands for the earlier ones.
    """
    last = {answer.id: answer for answer in answers}
    failed = Counter(a.kind for a in last.values() if a.status == "failed")
    tokens = {"in": sum(a.tokens_in for a in answers), "out": sum(a.tokens_out for a in answers)}
    return {"failed": dict(failed), "tokens": tokens}


def _report(answers: Sequence[Answer], chat: Chat, role: endpoint.Role, total: int) -> None:
    """Name the failed rows in a file; more than the share that params allow are refused."""
    stage = os.environ.get("DVC_STAGE") or Path(sys.argv[0]).stem
    path = work("failures") / f"{stage}.jsonl"
    failed = [answer for answer in {a.id: a for a in answers}.values() if answer.status == "failed"]
    files.write(path, [{"id": a.id, "role": role, "kind": a.kind, "errors": a.errors} for a in failed])
    if len(failed) > chat.max_failed * total:
        kinds = ", ".join(f"{n} {kind}" for kind, n in sorted(bill(failed)["failed"].items()))
        raise UserError(
            f"{len(failed)} of {total} rows failed ({kinds}), more than {role}.max_failed {chat.max_failed:g}; see "
            f".work/failures/{path.name}; what was paid for is kept: run again to ask for these, or raise the share"
        )


def ask(
    calls: Sequence[Call],
    chat: Chat,
    role: endpoint.Role,
    respond: offline_server.Respond,
    check: Callable[[str], Any] = accept,
    *,
    material: Path | None = None,
    earlier: Sequence[Answer] = (),
    total: int | None = None,
) -> list[Answer]:
    """One answer for each call, in order; a failed one says why, and every attempt's error.

    `check` turns a reply into the answer's value and raises ValueError(reason) to have it asked again. `respond` is the
    offline provider, for a model named `offline-...`, and `material` the folder that it speaks from. A stage that asks
    several times hands over the answers so far as `earlier` and its number of rows as `total`, of which chat.max_failed
    may fail. Raises UserError for a run that cannot go on and KeyboardInterrupt for one that was stopped.
    """
    road = endpoint.road(role, chat.model, respond, material)
    rows = [Row(call, chat, road.identity, again=JUDGED if role == "judge" else AGAIN) for call in calls]
    keys = [row.key() for row in rows]  # now: a row that is asked again takes another key
    if stored := replay.source():
        return list(replay.answers(rows, stored, check))
    first: dict[str, Row] = {}
    for key, row in zip(keys, rows, strict=True):
        first.setdefault(key, row)
    with contextlib.closing(ResponseCache(work("llm") / "ledger.sqlite")) as ledger:
        todo = look_up(list(first.values()), ledger, check)
        cached = len(calls) - len(todo)
        _stop_dry(f"would send {len(todo)} of {len(calls)} {role} requests, {cached} are answered")
        if todo:
            with endpoint.opened(road, respond) as ready:
                _send(todo, Scheduler(ready, ledger, check), cached, len(calls))
    answers = []
    for key, call in zip(keys, calls, strict=True):
        answer = first[key].answer
        assert answer is not None, f"{call.id} was neither answered nor failed"
        answers.append(replace(answer, id=call.id, request=first[key].request()))
    _report([*earlier, *answers], chat, role, len(calls) if total is None else total)
    return answers

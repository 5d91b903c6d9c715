"""Completes every call exactly once: each ends as an answer or as a counted failure.

All stages that ask a language model come through `ask`. A reply is in the response cache before it is used, so that a
killed run pays again only for what was in flight, an unchanged run sends nothing, and one changed prompt sends one
request. The endpoint comes from the environment: <ROLE>_BASE_URL, _API_KEY, _CONCURRENCY, _TIMEOUT (seconds),
_MAX_REQUESTS, and _PRICE_IN and _PRICE_OUT per million tokens. ANNEAL_DRY_RUN=1 prints how many requests would be sent
and stops; ANNEAL_REPLAY=path reads stored replies.
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
from anneal.llm.request import JUDGE_REPEATS, REPEATS, Answer, Call, Chat, Pending, accept
from anneal.llm.response_cache import ResponseCache
from anneal.llm.scheduler import Scheduler

__all__ = ["Answer", "Call", "Chat", "accept", "ask", "bill"]


def look_up(rows: list[Pending], cache: ResponseCache, check: Callable[[str], Any]) -> list[Pending]:
    """Answer rows from the cache; return those that must be sent, each with the key of its next request.

    A cached reply that was refused, or that fails `check` now, counts as a repeat of its row: the row is looked up
    again under its next key, until a key is not in the cache.
    """
    missing = []
    while rows:
        keys = [row.key() for row in rows]
        entries = cache.find(keys)
        repeated = []
        for key, row in zip(keys, rows, strict=True):
            entry = entries.get(key)
            if entry is None:
                missing.append(row)
            elif entry.kind:
                row.refused.append(entry.kind)
                repeated.append(row)
            else:
                try:
                    row.take(entry.body, check, "cached")
                except response.Unusable as err:  # it passed an earlier check and fails this one
                    row.refused.append(err.kind)
                    row.errors.append(str(err))
                    repeated.append(row)
        rows = repeated
    return missing


@contextlib.contextmanager
def _progress(scheduler: Scheduler, cached: int, total: int) -> Iterator[None]:
    """Show one line of progress on a terminal; print nothing elsewhere, so that logs stay short."""
    if not sys.stderr.isatty():
        yield
        return
    # Imported late: only a terminal needs it.
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(20), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("", total=total)

        def tick() -> None:
            counts = scheduler.counts
            line = f"{scheduler.endpoint.role}: {counts['ok']} ok, {cached} cached, {counts['retried']} retried, "
            line += f"{counts['failed']} failed, {counts['tokens']} tokens"
            line += f", cost {scheduler.cost:.4f}" if scheduler.cost else ""
            bar.update(task, completed=cached + counts["ok"] + counts["failed"], description=line)

        scheduler.tick = tick
        tick()
        yield


def _stop_dry(message: str) -> None:
    if os.environ.get("ANNEAL_DRY_RUN", "0") not in ("", "0"):
        raise UserError(f"dry run: {message}")


def _send(rows: list[Pending], scheduler: Scheduler, cached: int, total: int) -> None:
    with _progress(scheduler, cached, total):
        asyncio.run(scheduler.run(rows))
    if scheduler.reason is not None:
        raise scheduler.reason


def bill(answers: Sequence[Answer]) -> dict[str, Any]:
    """Metrics of a stage's calls: failed rows by kind, and tokens in and out.

    Tokens of cached answers count as when they were paid for, so that a rerun writes the same figures. Of several
    answers to one id the last decides whether the row failed.
    """
    last = {answer.id: answer for answer in answers}
    failed = Counter(answer.kind for answer in last.values() if answer.status == "failed")
    tokens = {"in": sum(answer.tokens_in for answer in answers), "out": sum(answer.tokens_out for answer in answers)}
    return {"failed": dict(failed), "tokens": tokens}


def _report(answers: Sequence[Answer], chat: Chat, role: endpoint.Role, total: int) -> None:
    """Write the failed rows to a file. UserError if their share is above chat.max_failed."""
    stage = os.environ.get("DVC_STAGE") or Path(sys.argv[0]).stem
    path = work("failures") / f"{stage}.jsonl"
    # A row that failed and was answered by a later call counts as answered.
    last = {answer.id: answer for answer in answers}
    failed = [answer for answer in last.values() if answer.status == "failed"]
    files.write(path, [{"id": a.id, "role": role, "kind": a.kind, "errors": a.errors} for a in failed])
    if len(failed) > chat.max_failed * total:
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(bill(failed)["failed"].items()))
        raise UserError(
            f"{len(failed)} of {total} rows failed ({kinds}), more than {role}.max_failed {chat.max_failed:g}; see "
            f".work/failures/{path.name}; paid replies are kept: run again to send these, or raise the share"
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
    """One answer for each call, in order; a failed one holds the kind of failure and the error of every attempt.

    `check` turns a reply into the answer's value and raises ValueError(reason) to have the row asked again. `respond`
    is the offline provider, used for a model named `offline-...`, and `material` is the folder of its phrases. A stage
    that asks several times passes the answers so far as `earlier` and its number of rows as `total`, of which the share
    chat.max_failed may fail. Raises UserError for a run that cannot go on and KeyboardInterrupt for a stopped one.
    """
    target = endpoint.resolve(role, chat.model, respond, material)
    repeats = JUDGE_REPEATS if role == "judge" else REPEATS
    rows = [Pending(call, chat, target.identity, repeats=repeats) for call in calls]
    keys = [row.key() for row in rows]  # taken before anything is sent: a repeated row changes its key
    # A replay neither reads nor writes the cache, and its failures are no failures of this run.
    if stored := replay.source():
        return list(replay.answers(rows, stored, check))
    # Equal requests are sent once; the first row of a key answers for all of them.
    unique: dict[str, Pending] = {}
    for key, row in zip(keys, rows, strict=True):
        unique.setdefault(key, row)
    # One cache for all stages: a reply is found wherever its request was sent first.
    with contextlib.closing(ResponseCache(work("llm") / "ledger.sqlite")) as cache:
        missing = look_up(list(unique.values()), cache, check)
        cached = len(calls) - len(missing)
        _stop_dry(f"would send {len(missing)} of {len(calls)} {role} requests, {cached} are answered")
        if missing:
            with endpoint.opened(target, respond) as reachable:
                _send(missing, Scheduler(reachable, cache, check), cached, len(calls))
    answers = []
    for key, call in zip(keys, calls, strict=True):
        row = unique[key]
        assert row.answer is not None, f"{call.id} was neither answered nor failed"
        answers.append(replace(row.answer, id=call.id, request=row.request()))
    _report([*earlier, *answers], chat, role, len(calls) if total is None else total)
    return answers

"""A ladder of attempts: each rung is climbed by the records that no candidate of the rungs below could answer.

Control flow only: what draws candidates and what checks them are callables, so that nothing here needs a model.
"""

from __future__ import annotations

import heapq
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

import numpy as np

from . import stats, text

Record = dict[str, Any]
# For each text of a record `name: what was found` of every check that it fails. All texts of a rung at once: a check
# may compare each with the whole training data.
Check = Callable[[Sequence[Record], Sequence[str]], Sequence[list[str]]]
NONE = "none"


@dataclass(frozen=True)
class Candidate:
    """A text that may answer; `n_new` tokens were drawn for it, `logprob` is in nats per token, None if not known."""

    text: str
    n_new: int
    logprob: float | None
    finish: str = "stop"  # or length: cut at the limit


@dataclass(frozen=True)
class Rung:
    """One way to draw candidates for each of some records; temperature 0 is greedy, None where no model draws."""

    name: str
    temperature: float | None
    draw: Callable[[Sequence[Record]], Sequence[Sequence[Candidate]]]


def neighbours(train: Sequence[Record], count: int) -> Rung:
    """The `count` training texts whose prompts share most character n-grams with a record's, its own type first."""

    def shingles(record: Record) -> frozenset[str]:
        return text.shingles("\n".join(message["content"] for message in record["prompt"]))

    @cache
    def known() -> list[tuple[Record, frozenset[str]]]:
        return [(record, shingles(record)) for record in train]

    def nearest(record: Record) -> list[Candidate]:
        mine = shingles(record)

        def distance(pair: tuple[Record, frozenset[str]]) -> tuple[bool, float]:
            return pair[0]["type"] != record["type"], -len(mine & pair[1]) / len(mine | pair[1])

        # No log-probability: of those that pass, the nearest answers.
        close = heapq.nsmallest(count, known(), key=distance)
        return [Candidate(other["completion"][-1]["content"], 0, None) for other, _ in close]

    return Rung("nearest", None, lambda records: [nearest(record) for record in records])


def best(passed: Sequence[Candidate]) -> Candidate:
    """The candidate of the highest log-probability per token; the first one where none is known.

    Per token, because a sum falls with every token: of texts of several lengths it takes the shortest nearly always,
    and what is accepted would be shorter than what the model writes.
    """
    return max(passed, key=lambda found: -math.inf if found.logprob is None else found.logprob)


def _row(record: Record, attempts: list[Record], rung: str, words: str) -> Record:
    head = {key: record[key] for key in ("id", "item", "type")}
    spent = {"n_attempts": len(attempts), "tokens": sum(attempt["n_new"] for attempt in attempts)}
    # Only a first attempt can be one that was cut off: it stands where no rung answers or nothing is asked of it.
    first = attempts and rung in (NONE, attempts[0]["rung"])
    finish = attempts[0]["finish"] if first else "stop"
    told = {"text": words, "finish": finish, "rung": rung, "accepted": rung != NONE}
    return {**head, **told, "attempts": attempts, **spent}


def climb(
    records: Sequence[Record], rungs: Sequence[Rung], check: Check, say: Callable[[str], None], whole: bool = True
) -> list[Record]:
    """A row per record, in order: the text, the rung that it comes from, and every attempt with why it was rejected.

    Of all candidates of a rung that pass, the best answers; one that was cut off passes only if not `whole`. Where no
    rung answers, the first attempt's text stands, not accepted.
    """
    attempts: list[list[Record]] = [[] for _ in records]
    ends = [(NONE, "") for _ in records]
    waiting = list(range(len(records)))
    for rung in rungs:
        if not waiting:
            break
        passed: dict[int, list[Candidate]] = {}
        drawn = zip(waiting, rung.draw([records[place] for place in waiting]), strict=True)
        pairs = [(place, candidate) for place, candidates in drawn for candidate in candidates]
        reasons = check([records[place] for place, _ in pairs], [candidate.text for _, candidate in pairs])
        for (place, candidate), why in zip(pairs, reasons, strict=True):
            ends[place] = ends[place] if attempts[place] else (NONE, candidate.text)
            why = [*why, "stopped: cut off"] if whole and candidate.finish != "stop" else why
            known = {key: value for key, value in asdict(candidate).items() if key != "text"}
            attempts[place].append({"rung": rung.name, "temperature": rung.temperature, "reasons": why, **known})
            if not why:
                passed.setdefault(place, []).append(candidate)
        for place, candidates in passed.items():
            ends[place] = (rung.name, best(candidates).text)
        left = [place for place in waiting if place not in passed]
        say(f"{rung.name}: {len(passed)} of {len(waiting)} accepted, {len(left)} open")
        waiting = left
    return [_row(record, tried, *end) for record, tried, end in zip(records, attempts, ends, strict=True)]


def _rung(rows: Sequence[Record], name: str) -> Record:
    """Of one rung: records that came to it, candidates drawn, records it answered and their share of all records."""
    tried = [sum(attempt["rung"] == name for attempt in row["attempts"]) for row in rows]
    answered = sum(row["rung"] == name for row in rows)
    candidates = {"open": sum(count > 0 for count in tried), "candidates": sum(tried)}
    return {**candidates, "accepted": answered, "share": answered / len(rows)}


def summary(rows: Sequence[Record], names: Sequence[str]) -> Record:
    """Figures of a climb over rungs of these `names`; shares are of all records, tokens of all attempts count."""
    items = [row["item"] for row in rows]
    accepted = [bool(row["accepted"]) for row in rows]
    counts = [row["n_attempts"] for row in rows]
    why = Counter(
        reason.partition(":")[0] for row in rows for attempt in row["attempts"] for reason in attempt["reasons"]
    )
    spent = sum(row["tokens"] for row in rows)
    return {
        "n": len(rows),
        "accepted": stats.rate(accepted, items).row(),
        "first": stats.rate([row["rung"] == names[0] for row in rows], items).row(),
        "rungs": {name: _rung(rows, name) for name in names},
        "none": {"n": len(rows) - sum(accepted), "share": 1 - sum(accepted) / len(rows)},
        # The smallest number that covers half (95%) of the records: an attempt has no halves.
        "attempts": {f"p{p}": int(np.percentile(counts, p, method="inverted_cdf")) for p in (50, 95)},
        "tokens": spent,
        "tokens_per_accepted": spent / sum(accepted) if any(accepted) else None,
        "rejections": dict(sorted(why.items())),
    }

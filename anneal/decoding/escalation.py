"""A ladder of attempts: each rung is climbed by the records that no candidate of the rungs below could answer.

Control flow only: what draws candidates and what checks them are callables, so that nothing here needs a model.
"""

from __future__ import annotations

import heapq
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache

import numpy as np

from anneal import similarity
from anneal.errors import UserError
from anneal.records import Record
from anneal.stats import intervals

# For each text of a record `name: what was found` of every check that it fails. All texts of a rung at once: a check
# may compare each with the whole training data.
Check = Callable[[Sequence[Record], Sequence[str]], Sequence[list[str]]]
# How much each text is worth as the answer to its record, of whatever unit: only the order counts.
Reward = Callable[[Sequence[Record], Sequence[str]], Sequence[float]]
NONE = "none"


@dataclass(frozen=True)
class Candidate:
    """A text that may answer; `n_new` tokens were drawn for it, `logprob` is in nats per token, None if not known.

    `reward` is there where candidates are ranked by it, and it passed.
    """

    text: str
    n_new: int
    logprob: float | None
    finish: str = "stop"  # or length: cut at the limit
    reward: float | None = None

    def worth(self) -> float:
        known = self.logprob if self.reward is None else self.reward
        return -math.inf if known is None else known


@dataclass(frozen=True)
class Rung:
    """One way to draw candidates for each of some records; temperature 0 is greedy, None where no model draws."""

    name: str
    temperature: float | None
    draw: Callable[[Sequence[Record]], Sequence[Sequence[Candidate]]]


def neighbours(train: Sequence[Record], count: int) -> Rung:
    """The `count` training texts whose prompts share most character n-grams with a record's, its own type first."""

    def shingles(record: Record) -> frozenset[str]:
        return similarity.shingles("\n".join(message["content"] for message in record["prompt"]))

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


def given(records: Sequence[Record], answers: Sequence[Record], temperature: float, where: str) -> Rung:
    """Answers that there are already, as a rung; `where` names their file should they be those of other records."""
    known = {row["id"]: [Candidate(row["text"], row["n_new"], None, row["finish"])] for row in answers}
    if odd := sorted(known.keys() ^ {record["id"] for record in records}):
        raise UserError(f"{where}: other ids than data/test.jsonl: {', '.join(odd[:3])}; run `dvc repro`")
    return Rung("first", temperature, lambda some: [known[record["id"]] for record in some])


def best(passed: Sequence[tuple[str, Candidate]]) -> tuple[str, Candidate]:
    """The candidate of the highest reward or, without rewards, log-probability per token; the first of equal ones.

    Per token, because a sum falls with every token: of texts of several lengths it takes the shortest nearly always,
    and what is accepted would be shorter than what the model writes.
    """
    return max(passed, key=lambda found: found[1].worth())


def _attempt(rung: Rung, candidate: Candidate, why: list[str]) -> Record:
    row = {"rung": rung.name, "temperature": rung.temperature, "reasons": why, **asdict(candidate)}
    return {key: value for key, value in row.items() if key != "text" and (key, value) != ("reward", None)}


def _row(record: Record, attempts: list[Record], rung: str, answer: Candidate) -> Record:
    head = {key: record[key] for key in ("id", "item", "type")}
    spent = {"n_attempts": len(attempts), "tokens": sum(attempt["n_new"] for attempt in attempts)}
    told = {"text": answer.text, "finish": answer.finish, "rung": rung, "accepted": rung != NONE}
    return {**head, **told, "attempts": attempts, **spent}


def _rewarded(
    pairs: Sequence[tuple[int, Candidate]],
    reasons: Sequence[list[str]],
    records: Sequence[Record],
    reward: Reward | None,
) -> list[tuple[int, Candidate]]:
    """The candidates, those that pass with their reward."""
    found, passing = list(pairs), [n for n, why in enumerate(reasons) if not why]
    if reward and passing:
        values = reward([records[found[n][0]] for n in passing], [found[n][1].text for n in passing])
        for n, value in zip(passing, values, strict=True):
            # Rounded, so that a sum in another order, in another batch, ranks no two texts otherwise.
            found[n] = (found[n][0], replace(found[n][1], reward=round(value, 6)))
    return found


def climb(
    records: Sequence[Record],
    rungs: Sequence[Rung],
    check: Check,
    say: Callable[[str], None],
    whole: bool = True,
    reward: Reward | None = None,
    together: int = 1,
) -> list[Record]:
    """A row per record, in order: the text, the rung that it comes from, and every attempt with why it was rejected.

    Of all candidates of a rung that pass, the best answers; one that was cut off passes only if not `whole`. Where no
    rung answers, the first attempt's text stands, not accepted. The first `together` rungs are one: all records climb
    them, and the best of all their candidates answers.
    """
    attempts: list[list[Record]] = [[] for _ in records]
    ends = [(NONE, Candidate("", 0, None)) for _ in records]
    passed: dict[int, list[tuple[str, Candidate]]] = {}
    waiting = list(range(len(records)))
    for number, rung in enumerate(rungs, 1):
        if not waiting:
            break
        drawn = zip(waiting, rung.draw([records[place] for place in waiting]), strict=True)
        pairs = [(place, candidate) for place, candidates in drawn for candidate in candidates]
        reasons = check([records[place] for place, _ in pairs], [candidate.text for _, candidate in pairs])
        reasons = [
            [*why, "stopped: cut off"] if whole and candidate.finish != "stop" else why
            for (_, candidate), why in zip(pairs, reasons, strict=True)
        ]
        for (place, candidate), why in zip(_rewarded(pairs, reasons, records, reward), reasons, strict=True):
            ends[place] = ends[place] if attempts[place] else (NONE, candidate)
            attempts[place].append(_attempt(rung, candidate, why))
            if not why:
                passed.setdefault(place, []).append((rung.name, candidate))
                ends[place] = best(passed[place])
        left = [place for place in waiting if place not in passed]
        say(f"{rung.name}: {len(waiting) - len(left)} of {len(waiting)} accepted, {len(left)} open")
        waiting = waiting if number < together else left
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
        "accepted": intervals.rate(accepted, items).row(),
        "first": intervals.rate([row["rung"] == names[0] for row in rows], items).row(),
        "rungs": {name: _rung(rows, name) for name in names},
        "none": {"n": len(rows) - sum(accepted), "share": 1 - sum(accepted) / len(rows)},
        # The smallest number that covers half (95%) of the records: an attempt has no halves.
        "attempts": {f"p{p}": int(np.percentile(counts, p, method="inverted_cdf")) for p in (50, 95)},
        "tokens": spent,
        "tokens_per_accepted": spent / sum(accepted) if any(accepted) else None,
        "rejections": dict(sorted(why.items())),
    }

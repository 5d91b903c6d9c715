"""Escalation: each step draws candidates for the records that no candidate of the steps before could answer.

This module is control flow only: drawing and checking are callables, so that nothing here needs a model. A step is a
`Rung`, as in the params.
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
from anneal.records import Answer, Metrics, Record, Row, golden
from anneal.stats import intervals

# Records and a text for each -> for each text one line `name: finding` for every check that it fails. All texts of a
# rung come in one call, as a check may compare each with the whole training data.
TextCheck = Callable[[Sequence[Record], Sequence[str]], Sequence[list[str]]]
# Records and a text for each -> the value of each text as the answer. Only the order counts, so the unit is free.
Reward = Callable[[Sequence[Record], Sequence[str]], Sequence[float]]
NONE = "none"  # the rung of a record that no rung answered


@dataclass(frozen=True)
class Candidate:
    """A text that may answer a record."""

    text: str
    n_new: int  # tokens drawn for it
    logprob: float | None  # nats per token, None if not known
    finish: str = "stop"  # or length: cut at the limit
    reward: float | None = None  # of a candidate that passes, where candidates are ranked by reward

    def rank(self) -> float:
        """The reward or, without one, the log-probability per token; -inf without either."""
        value = self.logprob if self.reward is None else self.reward
        return -math.inf if value is None else value


@dataclass(frozen=True)
class Rung:
    """One step: `draw` gives the candidates of each record. Temperature 0 is greedy, None where no model draws."""

    name: str
    temperature: float | None
    draw: Callable[[Sequence[Record]], Sequence[Sequence[Candidate]]]


def neighbours(train: Sequence[Record], count: int) -> Rung:
    """A rung of training texts: of each record the `count` with the most similar prompts, its own type first.

    Similarity is the Jaccard index of character shingles.
    """

    def shingles(record: Record) -> frozenset[str]:
        return similarity.shingles("\n".join(message["content"] for message in record["prompt"]))

    @cache  # most runs never come to this rung
    def prompts() -> list[tuple[Record, frozenset[str]]]:
        return [(record, shingles(record)) for record in train]

    def nearest(record: Record) -> list[Candidate]:
        target = shingles(record)

        def distance(pair: tuple[Record, frozenset[str]]) -> tuple[bool, float]:
            other, prompt = pair
            return other["type"] != record["type"], -len(target & prompt) / len(target | prompt)

        # Without a log-probability all rank alike: of those that pass, the nearest answers.
        matches = heapq.nsmallest(count, prompts(), key=distance)
        return [Candidate(golden(match), 0, None) for match, _ in matches]

    return Rung("nearest", None, lambda records: [nearest(record) for record in records])


def stored_answers(records: Sequence[Record], answers: Sequence[Answer], temperature: float, where: str) -> Rung:
    """A rung of answers that are on disk. UserError naming their file `where` if their ids are not those of records."""
    candidates = {
        answer["id"]: [Candidate(answer["text"], answer["n_new"], None, answer["finish"])] for answer in answers
    }
    if strays := sorted(candidates.keys() ^ {record["id"] for record in records}):
        raise UserError(f"{where}: other ids than data/test.jsonl: {', '.join(strays[:3])}; run `dvc repro`")
    return Rung("first", temperature, lambda open_records: [candidates[record["id"]] for record in open_records])


def best(passed: Sequence[tuple[str, Candidate]]) -> tuple[str, Candidate]:
    """The candidate of the highest reward or, without rewards, log-probability per token; the first of equal ones.

    Per token, because a sum falls with every token: of texts of several lengths it nearly always takes the shortest,
    and accepted texts would be shorter than the model's.
    """
    return max(passed, key=lambda pair: pair[1].rank())


def _attempt(rung: Rung, candidate: Candidate, reasons: list[str]) -> Row:
    """A candidate without its text, as a row of `attempts`."""
    row = {"rung": rung.name, "temperature": rung.temperature, "reasons": reasons, **asdict(candidate)}
    del row["text"]
    if row["reward"] is None:
        del row["reward"]
    return row


def _answer(record: Record, attempts: list[Row], rung: str, candidate: Candidate) -> Answer:
    return {
        "id": record["id"],
        "item": record["item"],
        "type": record["type"],
        "text": candidate.text,
        "finish": candidate.finish,
        "rung": rung,
        "accepted": rung != NONE,
        "attempts": attempts,
        "n_attempts": len(attempts),
        "tokens": sum(attempt["n_new"] for attempt in attempts),
    }


# A record by its index, and one of its candidates.
Drawn = tuple[int, Candidate]


def _reasons(drawn: Sequence[Drawn], records: Sequence[Record], check: TextCheck, finished: bool) -> list[list[str]]:
    """Why each candidate is rejected; empty for one that passes."""
    texts = [candidate.text for _, candidate in drawn]
    failures = check([records[index] for index, _ in drawn], texts)
    reasons = []
    for (_, candidate), failed in zip(drawn, failures, strict=True):
        cut_off = finished and candidate.finish != "stop"
        reasons.append([*failed, "stopped: cut off"] if cut_off else failed)
    return reasons


def _rewarded(
    drawn: Sequence[Drawn], reasons: Sequence[list[str]], records: Sequence[Record], reward: Reward | None
) -> list[Drawn]:
    """The candidates, those that pass with their reward."""
    scored = list(drawn)
    passing = [n for n, failed in enumerate(reasons) if not failed]
    if reward and passing:
        values = reward([records[scored[n][0]] for n in passing], [scored[n][1].text for n in passing])
        for n, value in zip(passing, values, strict=True):
            index, candidate = scored[n]
            # Rounded, so that the last bits, which differ between batches, do not decide the order.
            scored[n] = (index, replace(candidate, reward=round(value, 6)))
    return scored


def escalate(
    records: Sequence[Record],
    rungs: Sequence[Rung],
    check: TextCheck,
    say: Callable[[str], None],
    finished: bool = True,
    reward: Reward | None = None,
    together: int = 1,
) -> list[Answer]:
    """An answer per record, in order: the text, its rung, and every attempt with the reasons of its rejection.

    The best of a rung's passing candidates answers. With `finished` a candidate that was cut off is rejected. A record
    that no rung answers takes the text of its first attempt, not accepted. The first `together` rungs count as one: all
    records go through them, and the best of all their candidates answers. `say` gets one line of progress per rung.
    """
    attempts: list[list[Row]] = [[] for _ in records]
    outcomes = [(NONE, Candidate("", 0, None)) for _ in records]  # of each record: rung and candidate
    passed: dict[int, list[tuple[str, Candidate]]] = {}
    waiting = list(range(len(records)))
    for number, rung in enumerate(rungs, 1):
        if not waiting:
            break
        candidates = rung.draw([records[index] for index in waiting])
        drawn = [(index, candidate) for index, row in zip(waiting, candidates, strict=True) for candidate in row]
        reasons = _reasons(drawn, records, check, finished)
        for (index, candidate), failed in zip(_rewarded(drawn, reasons, records, reward), reasons, strict=True):
            if not attempts[index]:
                outcomes[index] = (NONE, candidate)
            attempts[index].append(_attempt(rung, candidate, failed))
            if not failed:
                passed.setdefault(index, []).append((rung.name, candidate))
                outcomes[index] = best(passed[index])
        unanswered = [index for index in waiting if index not in passed]
        accepted = len(waiting) - len(unanswered)
        say(f"{rung.name}: {accepted} of {len(waiting)} accepted, {len(unanswered)} open")
        waiting = waiting if number < together else unanswered
    answers = []
    for record, tried, (name, candidate) in zip(records, attempts, outcomes, strict=True):
        answers.append(_answer(record, tried, name, candidate))
    return answers


def _rung_metrics(answers: Sequence[Answer], name: str) -> Metrics:
    """Of one rung: records that came to it, candidates drawn, records it answered and their share of all records."""
    drawn = [sum(attempt["rung"] == name for attempt in answer["attempts"]) for answer in answers]
    accepted = sum(answer["rung"] == name for answer in answers)
    return {
        "open": sum(count > 0 for count in drawn),
        "candidates": sum(drawn),
        "accepted": accepted,
        "share": accepted / len(answers),
    }


def _rejections(answers: Sequence[Answer]) -> dict[str, int]:
    """Failed checks by name, over all attempts."""
    counts: Counter[str] = Counter()
    for answer in answers:
        for attempt in answer["attempts"]:
            counts.update(reason.partition(":")[0] for reason in attempt["reasons"])
    return dict(sorted(counts.items()))


def summary(answers: Sequence[Answer], names: Sequence[str]) -> Metrics:
    """Metrics over rungs of these `names`; shares are of all records, and tokens of all attempts count."""
    items = [answer["item"] for answer in answers]
    accepted = [answer["accepted"] for answer in answers]
    n_attempts = [answer["n_attempts"] for answer in answers]
    tokens = sum(answer["tokens"] for answer in answers)
    n_accepted = sum(accepted)
    return {
        "n": len(answers),
        "accepted": intervals.rate(accepted, items).row(),
        "first": intervals.rate([answer["rung"] == names[0] for answer in answers], items).row(),
        "rungs": {name: _rung_metrics(answers, name) for name in names},
        "none": {"n": len(answers) - n_accepted, "share": 1 - n_accepted / len(answers)},
        # The smallest number that covers half (95%) of the records: attempts are whole numbers, so no interpolation.
        "attempts": {f"p{p}": int(np.percentile(n_attempts, p, method="inverted_cdf")) for p in (50, 95)},
        "tokens": tokens,
        "tokens_per_accepted": tokens / n_accepted if n_accepted else None,
        "rejections": _rejections(answers),
    }

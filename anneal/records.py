"""The nouns of the pipeline, one type each: what a line of every JSON Lines file under `data/` holds.

    generate -> clean -> filter    Record with `text`       data/generated.jsonl ... data/filtered.jsonl
    reject                         Rejected                 data/rejected.jsonl
    format -> split                Record with `prompt` and `completion`; Pair
    answer, accept                 Answer                   data/answers/<system>.jsonl, data/accepted.jsonl
    rollout                        Sample                   data/rollouts/<system>.jsonl
    evaluate                       Check                    data/checks.jsonl
    judge, card                    Judgement                data/judgements/<texts>.jsonl, data/card.jsonl
    prefer                         Verdict                  data/preferences.jsonl

An `id` is unique in its file: `<item>/<type>/<number>`. Texts of one `item` (a product, a poem, an essay) stay on one
side of the split, and intervals are clustered by it. A TypedDict is a plain dict: its keys are those on disk.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NotRequired, TypedDict

from anneal.errors import UserError

# A metrics file or a part of one: nested, keys as in reports/metrics/<stage>.json, values JSON.
Metrics = dict[str, Any]
# A row whose keys the code does not name: of a user's table, or one that passes through unread.
Row = dict[str, Any]

AUTHOR = "author"  # the fact by which styles are told apart: who wrote the source text


class Message(TypedDict):
    """One message of a chat."""

    role: str  # system, user or assistant
    content: str


class Keyed(TypedDict):
    """What every row about a text holds."""

    id: str
    item: str
    type: str  # content type, a key of params `types`


class Record(Keyed):
    """One text and what it was written from."""

    facts: NotRequired[dict[str, Any]]  # the fact sheet, by name
    text: NotRequired[str]  # before format
    versions: NotRequired[list[dict[str, Any]]]  # the text after every round of cleaning
    log_prob: NotRequired[float]  # nats, of the filter's density
    prompt: NotRequired[list[Message]]  # after format
    completion: NotRequired[list[Message]]  # after format; the last message is the reference text


class Rejected(Keyed):
    """A worse text for the record of the same id."""

    kind: str  # the strategy: weak, exaggerated, fake or given
    text: str
    changes: NotRequired[list[Any]]


class Pair(Keyed):
    """A preference pair: two completions of one prompt."""

    kind: str
    prompt: list[Message]
    chosen: list[Message]
    rejected: list[Message]


class Answer(Keyed):
    """What one system answered to a test record."""

    text: str
    finish: str  # stop, length ...
    n_prompt: NotRequired[int]  # tokens
    n_new: NotRequired[int]  # tokens
    n_target: NotRequired[int]  # tokens of the reference
    n_bytes: NotRequired[int]  # of the reference, UTF-8
    target_logprob: NotRequired[float]  # nats, of the reference
    preset: NotRequired[str]
    seed: NotRequired[int | None]
    accepted: NotRequired[bool]
    attempts: NotRequired[list[dict[str, Any]]]
    rung: NotRequired[str]
    n_attempts: NotRequired[int]
    tokens: NotRequired[int]  # of all attempts


class Sample(Keyed):
    """One sampled answer of a rollout, with its rewards."""

    sample: int  # from 0, of its prompt
    text: str
    finish: str
    n_new: int
    rewards: NotRequired[dict[str, float]]
    reward: NotRequired[float]  # the weighted sum


class Check(Keyed):
    """What the checks found in one text of one system."""

    system: str
    text: str
    stopped: bool
    strict: bool  # all checks of evaluate.strict passed
    checks: dict[str, bool]  # check -> passed
    found: list[str]  # by the failed checks


class Judgement(Keyed):
    """A judge's scores of one text, or the failure that stands in their place."""

    judge_id: str
    sheet: str  # hash of the facts that it was judged against
    outcome: str  # ok, or why there is no score
    score: float | None  # 1 to 5
    dims: dict[str, dict[str, Any]]
    violations: list[dict[str, str]]
    request: str
    reply: str | None
    refused: list[str]
    tokens: list[int]  # in, out
    sample: NotRequired[int]  # of a rollout
    repeats: NotRequired[list[dict[str, Any]]]
    control: NotRequired[str]  # name of the control text, in data/judgements/controls.jsonl
    defect: NotRequired[str]  # name of the injected defect, in data/card.jsonl


class Verdict(Keyed):
    """A judge's verdict on two texts, shown in one order."""

    pair: str  # system:system
    first: str  # the system shown first
    second: str
    verdict: str | None  # A>>B, A>B, tie, B>A, B>>A
    outcome: str
    judge_id: str
    sample: int
    lengths: list[int]  # characters


def golden(record: Record) -> str:
    """The reference text of a record: its completion after format, its text before; empty where it has neither."""
    completion = record.get("completion")
    return str(completion[-1]["content"]) if completion else str(record.get("text") or "")


def answered(
    system: str, records: Sequence[Record], read: Callable[[str], list[Any]], surplus: bool = False
) -> dict[str, str]:
    """The text of every record by id: its reference, or what the system answered. UserError unless each has one.

    Empty for an aligned system without answers: no preferences were learnt. `read` reads a file of records. Answers to
    other records are refused, unless `surplus` are expected, as beside a test set that has shrunk since.
    """
    if system == "golden":
        return {record["id"]: golden(record) for record in records}
    path = f"data/answers/{system}.jsonl"
    answers: list[Answer] = read(path)
    texts = {answer["id"]: answer["text"] for answer in answers}
    if system == "aligned" and not answers:
        return {}
    absent = [record["id"] for record in records if record["id"] not in texts]
    if absent and surplus:
        raise UserError(f"{path}: no answer to {absent[0]} ({len(absent)} in all); run `dvc repro`")
    if absent or (len(answers) != len(records) and not surplus):
        counts = f"{len(answers)} answers for {len(records)} records"
        raise UserError(f"{path}: {counts}; run `dvc repro`, the ids must be those of data/test.jsonl")
    return texts

"""Grading: scores texts with a judge, one conversation per rubric, and rejects verdicts with invented quotes.

A text is a Record {id, item, type, facts, text}; nothing in it says who wrote it. A failure is not a bad text: its
judgement keeps the outcome and has no score.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, cast

from pydantic import Field

from anneal.judging import rubric
from anneal.judging.rubric import Rubric
from anneal.llm import client, endpoint, offline_server, replay
from anneal.llm.request import ASKED
from anneal.offline import rule_judge, stub_judges
from anneal.params import Count, Section, Share
from anneal.records import Judgement, Record, Row

WORST, BEST = 1.0, 5.0
Known = dict[str, list[str]]  # slot of the facts -> every value it has in some record
Ask = Callable[[Sequence[Record], int], list[Judgement]]  # texts, and the number of the repeat, 0 for the first


class Repeats(Section):
    """The share of texts that are judged `times` times in all: how far one judgement can be trusted."""

    share: Share
    times: Count


class Judge(client.Chat):
    """The judge model and its settings; `max_failed` counts every text without a score, also for invented quotes."""

    repeats: Repeats
    controls: Annotated[int, Field(ge=0)]  # number of texts of each control
    samples: Annotated[int, Field(ge=0)]  # prompts whose rollouts are judged
    null_text: str  # a fluent text without content; one of the controls

    def identity(self, labels: Mapping[str, str], respond: offline_server.Respond) -> dict[str, Any]:
        """The settings on which a judge_id depends beside its files; the number of repeats is not among them.

        The labels of types are in the prompt. For an offline judge the code of its rules counts too. For any other
        judge the address does not count: two servers of one model name are one judge, so give the models two names.
        """
        target = endpoint.resolve("judge", self.model, respond, None)
        code = target.identity if self.model.startswith("offline-") else ""
        return {**self.model_dump(include=set(ASKED)), "labels": labels, "code": code}

    @property
    def kind(self) -> str:
        """The kind of score: a program that counts rules does not measure quality, and the report says so."""
        if self.model in stub_judges.JUDGES:
            return "stub score"
        return "rule score" if self.model.startswith("offline-") else "model score"


def sheet_id(text: Record) -> str:
    """Hash of the type and facts that a text is judged against; scores under two hashes do not compare."""
    parts = json.dumps([text["type"], text["facts"]], sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(parts.encode()).hexdigest()[:16]


def responder(judge: Judge) -> offline_server.Respond:
    """The embedded judge: the one of rules, or a stub that shows what the report says of a bad judge."""
    return stub_judges.JUDGES.get(judge.model, rule_judge.respond)


def drawn(ids: Sequence[str], purpose: str) -> list[str]:
    """The ids ordered by hash: the head of the list is a fixed sample that another record hardly changes."""
    return sorted(ids, key=lambda name: hashlib.sha256(f"{purpose}/{name}".encode()).digest())


def quoted(verdict: Mapping[str, Any], text: str) -> bool:
    """Whether the text holds every quote of the verdict word for word; only an empty text has nothing to quote."""
    quotes = [entry["quote"] for entry in [*verdict["dims"].values(), *verdict["violations"]]]
    return all((bool(q.strip()) or not text.strip()) and (q in text or q in rubric.neutral(text)) for q in quotes)


def scored(text: str, sheet: Rubric, answer: client.Answer) -> Row:
    """The part of a judgement that one call gives: request, tokens, reply, outcome, score, dims, violations."""
    call: Row = {"request": answer.request, "tokens": [answer.tokens_in, answer.tokens_out]}
    call["refused"] = list(answer.refused)
    unscored: Row = {"score": None, "dims": {}, "violations": []}
    if answer.status == "failed":
        return {**call, **unscored, "outcome": replay.OUTCOMES[answer.kind], "reply": None}
    call["reply"] = answer.text
    # The parser does not know the text, so quotes are checked here; a judge that invents one has not read the text.
    if not quoted(answer.value, text):
        return {**call, **unscored, "outcome": "quote_not_found"}
    return {**call, **answer.value, "score": sheet.total(answer.value), "outcome": "ok"}


def judge_id(judge: Judge, sheet: Rubric, types: Mapping[str, str], known: Known) -> str:
    """Hash of all that decides the scores of this rubric beside the records."""
    labels = {kind: types[kind] for kind in sheet.header.types if kind in types}
    return sheet.judge_id(judge.identity(labels, responder(judge)), known)


def grade(
    texts: Sequence[Record],
    rubrics: dict[str, Rubric],
    types: dict[str, str],
    known: Known,
    judge: Judge,
    sample: int = 0,
) -> list[Judgement]:
    """A judgement for every text, in order; ids are unique, `rubrics` and `types` (labels) are by type.

    One conversation per rubric, as each has its own parser. judge.max_failed binds the first judgement (`sample` 0)
    only: a repeat that fails leaves every text its score.
    """
    judge = judge.model_copy(update={"max_failed": 1.0}) if sample else judge
    judgements: dict[str, Judgement] = {}
    earlier: list[client.Answer] = []
    for path in sorted({rubrics[text["type"]].path for text in texts}):
        part = [text for text in texts if rubrics[text["type"]].path == path]
        sheet = rubrics[part[0]["type"]]
        calls = []
        for text in part:
            label = types[text["type"]]
            messages = sheet.messages(text["type"], label, text["facts"], known, text["text"])
            calls.append(client.Call(text["id"], messages, sample))
        answers = client.ask(calls, judge, "judge", responder(judge), sheet.parse, earlier=earlier, total=len(texts))
        earlier += answers
        identity = judge_id(judge, sheet, types, known)
        for text, answer in zip(part, answers, strict=True):
            row: Row = {"id": text["id"], "item": text["item"], "type": text["type"]}
            row |= {"judge_id": identity, "sheet": sheet_id(text)}
            judgements[text["id"]] = cast(Judgement, row | scored(text["text"], sheet, answer))
    return [judgements[text["id"]] for text in texts]


def repeated(texts: Sequence[Record], ask: Ask, repeats: Repeats) -> list[Judgement]:
    """A judgement for every text; those of a fixed sample of texts hold their further judgements as `repeats`."""
    chosen = set(drawn([text["id"] for text in texts], "repeat")[: round(repeats.share * len(texts))])
    part = [text for text in texts if text["id"] in chosen]
    shared = ("id", "item", "type", "judge_id", "sheet")  # equal in all judgements of one text
    further: dict[str, list[Row]] = {text["id"]: [] for text in texts}
    for sample in range(1, repeats.times if part else 1):
        for row in ask(part, sample):
            further[row["id"]].append({key: value for key, value in row.items() if key not in shared})
    # All texts last: the log of failures is that of the last call.
    return [{**row, "repeats": further[row["id"]]} for row in ask(texts, 0)]

"""Texts to judgements: one conversation with the judge per rubric, quotes checked, and what is no verdict counted.

A text is {id, item, type, facts, text}; nothing in it says who wrote it. A failure is not a bad text: it keeps its
outcome and has no number.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

from pydantic import Field

from anneal.judging import rubric
from anneal.judging.rubric import Rubric
from anneal.llm import client, endpoint, offline_server, replay
from anneal.llm.request import ASKED
from anneal.offline import rule_judge, stub_judges
from anneal.params import Count, Section, Share
from anneal.records import Record

WORST, BEST = 1.0, 5.0
Known = dict[str, list[str]]
Ask = Callable[[Sequence[Record], int], list[Record]]  # texts, and which further judgement of them is wanted


class Repeats(Section):
    """The same texts judged again, `times` in all, to see how far one judgement can be trusted."""

    share: Share
    times: Count


class Judge(client.Chat):
    """Who judges, and how; `max_failed` counts every text without a score, also those whose quotes are invented."""

    repeats: Repeats
    controls: Annotated[int, Field(ge=0)]  # texts of each control
    samples: Annotated[int, Field(ge=0)]  # prompts whose rollouts are judged
    null_text: str  # a text that says nothing, however well; one of the controls

    def identity(self, labels: Mapping[str, str], respond: offline_server.Respond) -> dict[str, Any]:
        """What a judge_id hangs on beside its files; how often it is asked is no part of it.

        The labels of types stand in the prompt. Of an offline judge its rules' code counts too; of any other the
        address does not: two servers of one model name are one judge, so name the models apart.
        """
        road = endpoint.road("judge", self.model, respond, None)
        code = road.identity if self.model.startswith("offline-") else ""
        return {**self.model_dump(include=set(ASKED)), "labels": labels, "code": code}

    @property
    def kind(self) -> str:
        """A program counts rules; whoever reads its numbers must not take them for a measure of quality."""
        if self.model in stub_judges.JUDGES:
            return "stub score"
        return "rule score" if self.model.startswith("offline-") else "model score"


def sheet_id(text: Record) -> str:
    """What a text is judged against; scores of one record under two sheets are no pair."""
    parts = json.dumps([text["type"], text["facts"]], sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(parts.encode()).hexdigest()[:16]


def responder(judge: Judge) -> offline_server.Respond:
    """Who answers offline: the judge of rules, or one of the stubs that show what the report says of a bad judge."""
    return stub_judges.JUDGES.get(judge.model, rule_judge.respond)


def drawn(ids: Sequence[str], purpose: str) -> list[str]:
    """The ids in an order drawn from themselves: its head is a fixed sample that another record hardly changes."""
    return sorted(ids, key=lambda name: hashlib.sha256(f"{purpose}/{name}".encode()).digest())


def quoted(verdict: Mapping[str, Any], text: str) -> bool:
    """Whether every quote stands in the text word for word; only an empty text has nothing to quote."""
    quotes = [entry["quote"] for entry in [*verdict["dims"].values(), *verdict["violations"]]]
    return all((bool(q.strip()) or not text.strip()) and (q in text or q in rubric.neutral(text)) for q in quotes)


def scored(text: str, sheet: Rubric, answer: client.Answer) -> Record:
    """What became of one call: outcome, score, dims, violations, and the words of the judge."""
    asked: Record = {"request": answer.request, "tokens": [answer.tokens_in, answer.tokens_out]}
    asked["refused"] = list(answer.refused)
    empty: Record = {"score": None, "dims": {}, "violations": []}
    if answer.status == "failed":
        return {**asked, **empty, "outcome": replay.OUTCOMES[answer.kind], "reply": None}
    asked["reply"] = answer.text
    # The parser cannot know the text, so that a quote is checked here; a judge that invents one has not read it.
    if not quoted(answer.value, text):
        return {**asked, **empty, "outcome": "quote_not_found"}
    return {**asked, **answer.value, "score": sheet.total(answer.value), "outcome": "ok"}


def judge_id(judge: Judge, sheet: Rubric, types: Mapping[str, str], known: Known) -> str:
    """What the scores of this rubric hang on beside the records."""
    labels = {kind: types[kind] for kind in sheet.header.types if kind in types}
    return sheet.judge_id(judge.identity(labels, responder(judge)), known)


def grade(
    texts: Sequence[Record],
    rubrics: dict[str, Rubric],
    types: dict[str, str],
    known: Known,
    judge: Judge,
    sample: int = 0,
) -> list[Record]:
    """A judgement for every text, in order: {id, item, type, judge_id, outcome, score, dims, violations, ...}.

    Ids are unique. One conversation per rubric, as each has its own parser. judge.max_failed binds the first
    judgement only: a further one that fails leaves every text its score.
    """
    judge = judge.model_copy(update={"max_failed": 1.0}) if sample else judge
    made: dict[str, Record] = {}
    earlier: list[client.Answer] = []
    for path in sorted({rubrics[text["type"]].path for text in texts}):
        part = [text for text in texts if rubrics[text["type"]].path == path]
        sheet = rubrics[part[0]["type"]]
        calls = [
            client.Call(t["id"], sheet.messages(t["type"], types[t["type"]], t["facts"], known, t["text"]), sample)
            for t in part
        ]
        answers = client.ask(calls, judge, "judge", responder(judge), sheet.parse, earlier=earlier, total=len(texts))
        earlier += answers
        name = judge_id(judge, sheet, types, known)
        for text, answer in zip(part, answers, strict=True):
            row = {key: text[key] for key in ("id", "item", "type")} | {"judge_id": name, "sheet": sheet_id(text)}
            made[text["id"]] = row | scored(text["text"], sheet, answer)
    return [made[text["id"]] for text in texts]


def repeated(texts: Sequence[Record], ask: Ask, repeats: Repeats) -> list[Record]:
    """A judgement for every text, with the further ones of a fixed sample of them as its `repeats`."""
    chosen = set(drawn([text["id"] for text in texts], "repeat")[: round(repeats.share * len(texts))])
    part = [text for text in texts if text["id"] in chosen]
    further: dict[str, list[Record]] = {text["id"]: [] for text in texts}
    for sample in range(1, repeats.times if part else 1):
        for row in ask(part, sample):
            further[row["id"]].append({k: row[k] for k in row if k not in ("id", "item", "type", "judge_id", "sheet")})
    # All texts last: the log of failures is that of the last ones asked.
    return [{**row, "repeats": further[row["id"]]} for row in ask(texts, 0)]

"""prefer: which of two texts the judge takes for better, each pair shown in both orders and nobody named.

reads   data/test.jsonl, data/answers/base.jsonl, data/answers/tuned.jsonl, data/answers/aligned.jsonl,
        prompts/<recipe>/judge, prompts/<recipe>/prefer, data/raw/<recipe>/rules
writes  data/preferences.jsonl, reports/metrics/prefer.json
params  judge, prefer, recipe, rules, seed, types
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Annotated

from pydantic import AfterValidator, Field

from anneal import files
from anneal.checks import facts
from anneal.errors import UserError
from anneal.judging import controls, grading, pairwise, rubric
from anneal.judging.grading import Judge
from anneal.judging.pairwise import Pairs
from anneal.llm import client, offline_server, replay
from anneal.offline import pair_judge, stub_judges
from anneal.params import Section
from anneal.prompts import Prompt
from anneal.records import Record, Row, answered
from anneal.stage import run
from anneal.systems import SYSTEMS

CONTROLS = ("golden:again", "golden:truncated")  # pairs of known outcome
Texts = Mapping[str, Mapping[str, str]]  # system -> id -> its text


def named(value: list[str]) -> list[str]:
    for pair in value:
        left, _, right = pair.partition(":")
        if left == right or not {left, right} <= set(SYSTEMS):
            raise ValueError(f"{pair!r} is not two of {', '.join(SYSTEMS)} with a colon between them")
    if len({frozenset(pair.split(":")) for pair in value}) < len(value):
        raise ValueError("the same two systems twice")
    return value


class Prefer(Section):
    share: Annotated[float, Field(gt=0, le=1)]  # of the held-out records
    pairs: Annotated[list[str], AfterValidator(named)]
    tie: Annotated[float, Field(ge=0)]  # scores of the offline judge this close are no win


def texts(records: Sequence[Record]) -> dict[str, dict[str, str]]:
    """What every system says to every record, and what the controls show; UserError where an answer is missing."""
    found = {system: given for system in SYSTEMS if (given := answered(system, records, files.read))}
    return {**found, "again": found["golden"], "truncated": controls.truncated(records)}


def orders(records: Sequence[Record], pair: str, sample: int, seed: int) -> list[Row]:
    """The questions about a pair: both orders for each record, and by a hash of it which of them comes first."""
    left, _, right = pair.partition(":")
    made = []
    for record in records:
        drawn = hashlib.sha256(f"{seed}/{pair}/{record['id']}".encode()).digest()[0] % 2
        for first, second in [(left, right), (right, left)][:: -1 if drawn else 1]:
            row = {"pair": pair, "first": first, "second": second, "sample": sample}
            made.append({key: record[key] for key in ("id", "item", "type")} | row)
    return made


def plan(records: Sequence[Record], given: Texts, prefer: Prefer, judge: Judge, seed: int) -> list[Row]:
    """All questions: the pairs on their share of the records, a fixed part of these again, and the controls.

    Without an aligned model its pairs are no questions.
    """
    ids = [record["id"] for record in records]
    chosen = set(grading.drawn(ids, "pair")[: max(1, round(prefer.share * len(ids)))])
    part = [record for record in records if record["id"] in chosen]
    again = set(grading.drawn(list(chosen), "repeat")[: round(judge.repeats.share * len(part))])
    control = set(grading.drawn(ids, "control")[: judge.controls])
    made = []
    for pair in (pair for pair in prefer.pairs if set(pair.split(":")) <= given.keys()):
        made += orders(part, pair, 0, seed)
        for sample in range(1, judge.repeats.times):
            made += orders([record for record in part if record["id"] in again], pair, sample, seed)
    for pair in CONTROLS:
        made += orders([record for record in records if record["id"] in control], pair, 0, seed)
    return made


def responder(judge: Judge) -> offline_server.Respond:
    return stub_judges.JUDGES.get(judge.model, pair_judge.respond)


def named_by(judge: Judge, sheets: Mapping[str, Pairs], types: dict[str, str], known: grading.Known) -> dict[str, str]:
    """The judge_id of every type."""
    found = {}
    for kind, sheet in sheets.items():
        labels = {each: types[each] for each in sheet.rubric.header.types if each in types}
        found[kind] = sheet.judge_id(judge.identity(labels, responder(judge)), known)
    return found


def ask(
    rows: Sequence[Row],
    records: Sequence[Record],
    given: Texts,
    sheets: Mapping[str, Pairs],
    types: dict[str, str],
    known: grading.Known,
    judge: Judge,
) -> list[Row]:
    """Every question with its verdict, outcome, judge_id, and the words of the judge."""
    shown = {r["id"]: sheets[r["type"]].shown(r["type"], types[r["type"]], r["facts"], known) for r in records}
    names = named_by(judge, sheets, types, known)
    calls = []
    for row in rows:
        both = [given[row[side]][row["id"]] for side in ("first", "second")]
        messages = sheets[row["type"]].messages(shown[row["id"]], *both)
        calls.append(
            client.Call(f"{row['id']} {row['first']}:{row['second']} {row['sample']}", messages, row["sample"])
        )
    answers = client.ask(calls, judge, "judge", responder(judge), pairwise.parse)
    made = []
    for row, answer in zip(rows, answers, strict=True):
        told: Row = {"verdict": None, "outcome": replay.OUTCOMES.get(answer.kind, "ok"), "reply": None}
        if answer.status != "failed":
            told |= {"verdict": answer.value["verdict"], "reply": answer.text}
        asked: Row = {"request": answer.request, "tokens": [answer.tokens_in, answer.tokens_out]}
        asked |= {"refused": list(answer.refused)}
        lengths = [len(given[row[side]][row["id"]]) for side in ("first", "second")]
        made.append({**row, **told, **asked, "lengths": lengths, "judge_id": names[row["type"]]})
    return made


def main(judge: Judge, prefer: Prefer, recipe: str, rules: facts.Rules, seed: int, types: dict[str, str]) -> None:
    records = files.read("data/test.jsonl", "id", "item", "type", "facts", "completion")
    given, rubrics = texts(records), rubric.folder(f"prompts/{recipe}/judge", rules)
    if absent := sorted({record["type"] for record in records} - rubrics.keys()):
        raise UserError(f"prompts/{recipe}/judge: no rubric names the type {absent[0]}; add it to the types of one")
    prompt, known = Prompt(f"prompts/{recipe}/prefer/pair.md"), facts.known(rules)
    sheets = {kind: Pairs(sheet, prompt, prefer.tie) for kind, sheet in rubrics.items()}
    names = named_by(judge, sheets, types, known)
    rows = ask(plan(records, given, prefer, judge, seed), records, given, sheets, types, known, judge)
    for pair in prefer.pairs:
        outcomes = Counter(row["outcome"] for row in rows if row["pair"] == pair)
        n, failed = outcomes.total(), outcomes.total() - outcomes["ok"]
        if failed > judge.max_failed * n:
            why = f"{failed} of {n} have no verdict, above judge.max_failed: {dict(outcomes)}"
            raise UserError(f"{pair}: {why}; what was paid for is kept: run again to ask for these")
    # Equal texts in both orders are one request, and one price.
    paid = {row["request"]: row["tokens"] for row in rows}.values()
    files.write("data/preferences.jsonl", rows)
    files.write_json(
        "reports/metrics/prefer.json",
        {
            "n": len(rows),
            "outcomes": dict(Counter(row["outcome"] for row in rows)),
            "judge_ids": {sheets[kind].rubric.path.stem: name for kind, name in names.items()},
            "model": judge.model,
            "score_kind": judge.kind,
            "tokens": {name: sum(each[i] for each in paid) for i, name in enumerate(("in", "out"))},
        },
    )


if __name__ == "__main__":
    run(main)

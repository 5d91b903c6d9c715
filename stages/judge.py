"""judge: rubric scores of one system (golden, base or tuned), each text by itself and nobody named.

reads   data/test.jsonl, data/answers/<system>.jsonl (not golden), prompts/<recipe>/judge,
        data/raw/<recipe>/rules
writes  data/judgements/<system>.jsonl, reports/metrics/judge/<system>.json
params  judge, recipe, rules, types
"""

from __future__ import annotations

from collections import Counter
from typing import Any, Literal

from stages.lib import checker, facts, jsonl, llm, rubric
from stages.lib.jsonl import Record
from stages.lib.params import Refusal, run
from stages.lib.rubric import Rubric

WORST, BEST = 1.0, 5.0
OUTCOMES = {
    "check": "parse_error", "empty": "parse_error", "refusal": "refusal", "content_filter": "refusal",
    "length": "length", "timeout": "timeout", "http": "http",
}  # fmt: skip


class Judge(llm.Chat):
    """Who judges, and how; `max_failed` counts every text without a score, also those whose quotes are invented."""


def texts(system: str, records: list[Record]) -> dict[str, str]:
    """The text of every record: its golden completion, or what the system answered; Refusal unless each has one."""
    if system == "golden":
        return {record["id"]: record["completion"][-1]["content"] for record in records}
    answers = jsonl.read(f"data/answers/{system}.jsonl", "id")
    found = {answer["id"]: answer["text"] for answer in answers}
    if len(answers) != len(records) or found.keys() != {record["id"] for record in records}:
        counts = f"{len(answers)} answers for {len(records)} records"
        raise Refusal(
            f"data/answers/{system}.jsonl: {counts}; run `dvc repro`, the ids must be those of data/test.jsonl"
        )
    return found


def quoted(verdict: dict[str, Any], text: str) -> bool:
    """Whether every quote stands in the text word for word; only an empty text has nothing to quote."""
    quotes = [entry["quote"] for entry in [*verdict["dims"].values(), *verdict["violations"]]]
    return all((bool(q.strip()) or not text.strip()) and (q in text or q in rubric.neutral(text)) for q in quotes)


def score(record: Record, text: str, sheet: Rubric, answer: llm.Answer, judge_id: str) -> Record:
    """One judgement. What failed has an outcome and no number: a failure is not a bad text."""
    row: Record = {"id": record["id"], "item": record["item"], "type": record["type"], "judge_id": judge_id}
    empty: Record = {"score": None, "dims": {}, "violations": []}
    if answer.status == "failed":
        return {**row, **empty, "outcome": OUTCOMES[answer.kind]}
    # The parser cannot know the text, so that a quote is checked here; a judge that invents one has not read it.
    if not quoted(answer.value, text):
        return {**row, **empty, "outcome": "quote_not_found"}
    return {**row, **answer.value, "score": sheet.total(answer.value), "outcome": "ok"}


def judgements(
    records: list[Record], texts: dict[str, str], rubrics: dict[str, Rubric], types: dict[str, str],
    known: dict[str, list[str]], judge: Judge,
) -> list[Record]:  # fmt: skip
    """A judgement for every record, in order. One conversation with the judge per rubric: each has its own parser."""
    model = judge.model_dump(exclude={"max_failed"})
    made: dict[str, Record] = {}
    earlier: list[llm.Answer] = []
    for path in sorted({rubrics[record["type"]].path for record in records}):
        part = [record for record in records if rubrics[record["type"]].path == path]
        sheet = rubrics[part[0]["type"]]
        calls = [
            llm.Call(r["id"], sheet.messages(r["type"], types[r["type"]], r["facts"], known, texts[r["id"]]))
            for r in part
        ]
        answers = llm.ask(calls, judge, "judge", checker.respond, sheet.parse, earlier=earlier, total=len(records))
        earlier += answers
        name = sheet.judge_id(model, known)
        made |= {r["id"]: score(r, texts[r["id"]], sheet, a, name) for r, a in zip(part, answers, strict=True)}
    return [made[record["id"]] for record in records]


def mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None


def summary(rows: list[Record], rubrics: dict[str, Rubric], judge: Judge) -> dict[str, Any]:
    """Counts before means; `bounds` is the mean with every failure taken at worst and at best."""

    def part(chosen: list[Record]) -> dict[str, Any]:
        scores = [row["score"] for row in chosen if row["outcome"] == "ok"]
        failed, n = len(chosen) - len(scores), len(chosen)
        bounds = [(sum(scores) + failed * end) / n for end in (WORST, BEST)] if n else [None, None]
        return {"n": n, "n_scored": len(scores), "score": mean(scores), "bounds": bounds}

    def dimensions(chosen: list[Record]) -> dict[str, Any]:
        names = sorted({name for row in chosen for name in row["dims"]})
        marks = {n: [row["dims"][n]["score"] for row in chosen if n in row["dims"]] for n in names}
        # The share at the top says how much room the scale has left: a judge that gives only fives sees nothing.
        return {
            n: {"n": len(m), "score": mean(m), "at_top": mean([float(x == 5) for x in m])} for n, m in marks.items()
        }

    kinds = sorted({row["type"] for row in rows})
    by_type = {kind: [row for row in rows if row["type"] == kind] for kind in kinds}
    return {
        **part(rows),
        "outcomes": dict(Counter(row["outcome"] for row in rows)),
        "by_type": {kind: {**part(chosen), "dims": dimensions(chosen)} for kind, chosen in by_type.items()},
        "violations": dict(Counter(entry["rule"] for row in rows for entry in row["violations"])),
        "judge_ids": {rubrics[kind].path.stem: chosen[0]["judge_id"] for kind, chosen in by_type.items()},
        "model": judge.model,
        # The offline judge counts rules; whoever reads its numbers must not take them for a measure of quality.
        "score_kind": "rule score" if judge.model.startswith("offline-") else "model score",
    }


def main(
    system: Literal["golden", "base", "tuned"], /, judge: Judge, recipe: str, rules: facts.Rules, types: dict[str, str]
) -> None:
    records = jsonl.read("data/test.jsonl", "id", "item", "type", "facts", "completion")
    rubrics, known = rubric.folder(f"prompts/{recipe}/judge"), facts.known(rules)
    if missing := sorted({record["type"] for record in records} - rubrics.keys()):
        raise Refusal(f"prompts/{recipe}/judge: no rubric names the type {missing[0]}; add it to the types of one")
    rows = judgements(records, texts(system, records), rubrics, types, known, judge)
    failed = sum(row["outcome"] != "ok" for row in rows)
    if failed > judge.max_failed * len(rows):
        outcomes = dict(Counter(row["outcome"] for row in rows))
        raise Refusal(f"{failed} of {len(rows)} texts have no score, above judge.max_failed: {outcomes}")
    jsonl.write(f"data/judgements/{system}.jsonl", rows)
    jsonl.write_json(f"reports/metrics/judge/{system}.json", summary(rows, rubrics, judge))


if __name__ == "__main__":
    run(main)

"""judge: rubric scores of one system, of the controls or of drawn samples, each text alone and nobody named.

reads   data/test.jsonl, data/answers/<system>.jsonl (base, tuned, aligned), data/rollouts/tuned.jsonl (samples),
        prompts/<recipe>/judge, data/raw/<recipe>/rules
writes  data/judgements/<system>.jsonl, reports/metrics/judge/<system>.json
params  judge, recipe, rules, seed, types
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal

from anneal import files
from anneal.checks import facts
from anneal.errors import UserError
from anneal.judging import controls, grading, rubric
from anneal.judging.grading import BEST, WORST, Judge
from anneal.judging.rubric import Rubric
from anneal.records import Judgement, Record, answered
from anneal.stage import run


def paired(records: list[Record], texts: dict[str, str]) -> list[Record]:
    """The records that have a text, with it."""
    return [
        {
            "id": record["id"],
            "item": record["item"],
            "type": record["type"],
            "facts": record["facts"],
            "text": texts[record["id"]],
        }
        for record in records
        if record["id"] in texts
    ]


def mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None


def counted(rows: list[Judgement]) -> dict[str, Any]:
    """Counts before means; `bounds` is the mean with every failure taken at worst and at best."""
    scores = [row["score"] for row in rows if row["outcome"] == "ok" and row["score"] is not None]
    failed, n = len(rows) - len(scores), len(rows)
    bounds = [(sum(scores) + failed * end) / n for end in (WORST, BEST)] if n else [None, None]
    return {"n": n, "n_scored": len(scores), "score": mean(scores), "bounds": bounds}


def dimensions(rows: list[Judgement]) -> dict[str, Any]:
    names = sorted({name for row in rows for name in row["dims"]})
    marks = {n: [row["dims"][n]["score"] for row in rows if n in row["dims"]] for n in names}
    # The share at the top says how much room the scale has left: a judge that gives only fives sees nothing.
    return {n: {"n": len(m), "score": mean(m), "at_top": mean([float(x == 5) for x in m])} for n, m in marks.items()}


def tokens(rows: list[Judgement]) -> dict[str, int]:
    every = [*rows, *(again for row in rows for again in row.get("repeats", []))]
    return {name: sum(row["tokens"][i] for row in every) for i, name in enumerate(("in", "out"))}


def summary(rows: list[Judgement], rubrics: dict[str, Rubric], judge: Judge) -> dict[str, Any]:
    """What the judge said of one system: means by type and dimension, what failed, what it cost."""
    kinds = sorted({row["type"] for row in rows})
    by_type = {kind: [row for row in rows if row["type"] == kind] for kind in kinds}
    return {
        **counted(rows),
        "outcomes": dict(Counter(row["outcome"] for row in rows)),
        "by_type": {kind: {**counted(chosen), "dims": dimensions(chosen)} for kind, chosen in by_type.items()},
        "violations": dict(Counter(entry["rule"] for row in rows for entry in row["violations"])),
        "judge_ids": {rubrics[kind].path.stem: chosen[0]["judge_id"] for kind, chosen in by_type.items()},
        "model": judge.model,
        "score_kind": judge.kind,
        "tokens": tokens(rows),
    }


def sampled(records: list[Record], prompts: int, ask: grading.Ask) -> list[Judgement]:
    """All samples of the tuned model for so many prompts: does the reward put them in the order of the judge?"""
    drawn = files.read("data/rollouts/tuned.jsonl", "id")
    chosen = set(grading.drawn(sorted({row["id"] for row in drawn}), "sample")[:prompts])
    rows = []
    # A call for each number of sample: the ids of one are all different.
    for number in sorted({row["sample"] for row in drawn}):
        texts = {row["id"]: row["text"] for row in drawn if row["sample"] == number and row["id"] in chosen}
        rows += [row | {"sample": number} for row in ask(paired(records, texts), 1)]
    return rows


def main(
    system: Literal["golden", "base", "tuned", "aligned", "controls", "samples"],
    /,
    judge: Judge,
    recipe: str,
    rules: facts.Rules,
    seed: int,
    types: dict[str, str],
) -> None:
    records = files.read("data/test.jsonl", "id", "item", "type", "facts", "completion")
    rubrics, known = rubric.folder(f"prompts/{recipe}/judge", rules), facts.known(rules)
    if absent := sorted({record["type"] for record in records} - rubrics.keys()):
        raise UserError(f"prompts/{recipe}/judge: no rubric names the type {absent[0]}; add it to the types of one")

    def ask(texts: Sequence[Record], sample: int) -> list[Judgement]:
        return grading.grade(texts, rubrics, types, known, judge, sample)

    if system == "controls":
        chosen = set(grading.drawn([record["id"] for record in records], "control")[: judge.controls])
        part = [record for record in records if record["id"] in chosen]
        rows = []
        for name, texts in controls.judged(records, judge.null_text, seed).items():
            # Asked anew, also where the very same text was judged: how far it then ties with itself is the control.
            rows += [row | {"control": name} for row in ask(paired(part, texts), 1)]
    elif system == "samples":
        rows = sampled(records, judge.samples, ask)
    else:
        given = paired(records, answered(system, records, files.read))
        rows = grading.repeated(given, ask, judge.repeats)
    failed = sum(row["outcome"] != "ok" for row in rows)
    if failed > judge.max_failed * len(rows) and system not in ("controls", "samples"):
        outcomes = dict(Counter(row["outcome"] for row in rows))
        raise UserError(f"{failed} of {len(rows)} texts have no score, above judge.max_failed: {outcomes}")
    files.write(f"data/judgements/{system}.jsonl", rows)
    files.write_json(f"reports/metrics/judge/{system}.json", summary(rows, rubrics, judge))


if __name__ == "__main__":
    run(main)

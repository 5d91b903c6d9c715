"""card: what the judge can and cannot see, from sound texts into which defects were planted.

reads   data/test.jsonl, data/judgements/golden.jsonl, data/rejected.jsonl, data/raw/<recipe>/planted,
        data/raw/<recipe>/rules, prompts/<recipe>/judge
writes  data/card.jsonl, reports/metrics/card.json
params  card, judge, model, recipe, rules, seed, teacher, types
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from anneal import files
from anneal.checks import facts
from anneal.errors import UserError
from anneal.judging import controls, detection, grading, injected_defects, rubric
from anneal.judging.grading import Judge
from anneal.llm import client
from anneal.params import Section
from anneal.records import Metrics, Record, Rejected
from anneal.stage import run


class Card(Section):
    items: Annotated[int, Field(ge=0)]  # texts of each defect


def texts(
    test: Sequence[Record], rejected: Sequence[Rejected], context: injected_defects.Context, seed: int, items: int
) -> Metrics:
    """{texts, left_out}: the texts to judge, ids `<defect>/<record id>`, and why a defect has none.

    The records of a defect are the first that it fits in one fixed order, so that defects share most of them.
    """
    order, byid = grading.drawn([r["id"] for r in test], "card"), {r["id"]: r for r in test}
    worse = {r["id"]: r for r in rejected if r["id"] in byid}
    made = {
        kind: {i: injected_defects.Planted(r["text"], r["changes"]) for i, r in worse.items() if r["kind"] == kind}
        for kind in detection.OWN
    } | injected_defects.plant(test, context, seed)
    rows, left_out = [], {}
    for name, found in made.items():
        for i in [i for i in order if i in found][:items]:
            record = {key: byid[i][key] for key in ("item", "type", "facts")}
            rows.append({**record, "id": f"{name}/{i}", "text": found[i].text, "changes": found[i].changes})
        if not found:
            why = (
                "data/rejected.jsonl holds no such text"
                if name in detection.OWN
                else injected_defects.PLANTERS[name][1]
            )
            left_out[name] = why
    return {"texts": rows, "left_out": left_out}


# Who made what: names that share no word, and words that are no name.
FAMILIES = {
    "llama": "llama",
    "qwen|qwq|qvq": "qwen",
    "glm": "glm",
    "gpt|^o[1-9]": "gpt",
    "deepseek": "deepseek",
    "claude": "claude",
    "gemini|gemma": "gemini",
    "mi[sx]tral|ministral": "mistral",
}


def family(name: str) -> str:
    """The family of a model's name without its owner; its first word where it is none of FAMILIES, "" for a program."""
    own = name.rsplit("/", 1)[-1].lower()
    if name.startswith("offline-"):
        return ""
    known = next((each for pattern, each in FAMILIES.items() if re.search(pattern, own)), "")
    found = re.search(r"[a-z]{2,}", own)
    return known or (found[0] if found and found[0] not in ("base", "model", "local", "tuned") else "")


def related(judge: str, others: Mapping[str, str]) -> list[str]:
    """A warning for each model that is of the judge's family; the figures are those of Zheng et al. 2023."""
    same = [role for role, name in others.items() if family(judge) and family(name) == family(judge)]
    favour = "a model favours its own words (published +10% to +25% win rate)"
    return [f"judge and {role} are both {family(judge)}: {favour}" for role in same]


def main(
    card: Card,
    judge: Judge,
    model: dict[str, str | None],
    recipe: str,
    rules: facts.Rules,
    seed: int,
    teacher: client.Chat,
    types: dict[str, str],
) -> None:
    test = files.read("data/test.jsonl", "id", "item", "type", "facts", "completion")
    golden = files.read("data/judgements/golden.jsonl", "id", "outcome", "judge_id")
    rejected = files.read("data/rejected.jsonl", "id", "kind", "text")
    rubrics, known = rubric.folder(f"prompts/{recipe}/judge", rules), facts.known(rules)
    dims = {kind: list(sheet.header.dimensions) for kind, sheet in rubrics.items()}
    bank = injected_defects.bank(Path("data/raw") / recipe / "planted")
    moved = {"wrong_type": controls.swapped(test, seed), "other_item": controls.other(test, seed)}
    context = injected_defects.Context(bank, rules, known, dims, judge.null_text, moved)
    found = texts(test, rejected, context, seed, card.items)
    given = found["texts"]
    rows: list[Any] = []
    for text, row in zip(given, grading.grade(given, rubrics, types, known, judge), strict=True):
        name, _, own = row["id"].partition("/")
        rows.append({**row, "id": own, "defect": name, "text": text["text"], "changes": text["changes"]})
    ids = {row["type"]: row["judge_id"] for row in rows}
    if any(row["judge_id"] != ids.get(row["type"], row["judge_id"]) for row in golden):
        raise UserError("data/judgements/golden.jsonl: scores of another judge; run `dvc repro card`")
    numbers = detection.summary(rows, golden if rows else [], test) | {
        "judge_ids": {rubrics[kind].path.stem: name for kind, name in ids.items()},
        "model": judge.model,
        "score_kind": judge.kind,
        "left_out": found["left_out"],
        "family": related(judge.model, {"teacher": teacher.model, "base": model["name"] or ""}),
        "reason": "" if rows else "no card: card.items is 0",
    }
    files.write("data/card.jsonl", rows)
    files.write_json("reports/metrics/card.json", numbers)
    print(detection.table(numbers) if rows else numbers["reason"])


if __name__ == "__main__":
    run(main)

"""generate: source material to records, one text for each item, content type and sample.

reads   data/raw/<recipe>/<items>.jsonl, data/raw/<recipe>/offline, prompts/<recipe>/generate
writes  data/generated.jsonl, reports/metrics/generate.json
params  generate, recipe, teacher, types
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from stages.lib import jsonl, llm, phrases, prompts
from stages.lib.jsonl import Record
from stages.lib.params import Count, Refusal, Section, run


class Generate(Section):
    source: Literal["teacher", "records"]
    items: str  # path of the sheets, one a line
    required: list[str]  # keys that every sheet must fill
    per_item: Count  # texts for each item and type


@dataclass(frozen=True)
class Material:
    """What a source works from."""

    items: list[Record]
    generate: Generate
    types: dict[str, str]
    recipe: str
    teacher: llm.Chat


Made = tuple[list[Record], list[llm.Answer]]


def read_items(path: str, required: list[str]) -> list[Record]:
    """The sheets of a recipe. Refuses, with the line, one that lacks a key and an id that is used twice."""
    items = jsonl.read(path, "id", *required)
    numbers = [n for n, raw in enumerate(Path(path).read_bytes().split(b"\n"), 1) if raw.strip()]
    lines: dict[str, int] = {}
    for number, item in zip(numbers, items, strict=True):
        name = item["id"]
        if not isinstance(name, str) or "/" in name:
            raise Refusal(f"{path}:{number}: id {name!r}: must be text without '/', which parts the id of a record")
        if name in lines:
            raise Refusal(f"{path}:{number}: id {name!r} is used in line {lines[name]} too; give each item its own")
        lines[name] = number
    if not items:
        raise Refusal(f"{path}: holds no item; add one a line")
    return items


def natural(record: Record) -> tuple[Any, ...]:
    """Sort key of a record: p2 before p10, whatever the order of the source file."""
    pieces = re.split(r"(\d+)", record["item"])
    return [(int(p), "") if p.isdigit() else (-1, p) for p in pieces], record["type"], int(record["id"].split("/")[-1])


def record_of(item: Record, kind: str, sample: int, text: str) -> Record:
    facts = {key: value for key, value in item.items() if key not in ("id", "type", "text")}
    return {"id": f"{item['id']}/{kind}/{sample}", "item": item["id"], "type": kind, "facts": facts, "text": text}


def from_teacher(material: Material) -> Made:
    """One text of the teacher for each item, type and sample; a row that fails is left out and counted."""
    folder = Path("prompts") / material.recipe / "generate"
    asked = {kind: prompts.Prompt(folder / f"{kind}.md") for kind in material.types}
    rows: list[Record] = []
    calls: list[llm.Call] = []
    for item in material.items:
        for kind, prompt in asked.items():
            row = record_of(item, kind, 0, "")
            messages = prompt.messages(**{**prompts.slots(row["facts"]), "label": material.types[kind]})
            for sample in range(material.generate.per_item):
                rows.append(record_of(item, kind, sample, ""))
                calls.append(llm.Call(rows[-1]["id"], messages, sample))
    bank = Path("data/raw") / material.recipe / "offline"
    answers = llm.ask(calls, material.teacher, "teacher", phrases.teacher(bank), material=bank)
    made = [{**row, "text": a.text.strip()} for row, a in zip(rows, answers, strict=True) if a.status != "failed"]
    return made, answers


def from_records(material: Material) -> Made:
    """The source's own pairs: each line of the items file holds a text and its type, the rest is the sheet."""
    path = material.generate.items
    made = []
    for item in material.items:
        kind, text = item.get("type"), item.get("text")
        if kind not in material.types:
            raise Refusal(f"{path}: {item['id']}: type {kind!r} is none of types: {', '.join(material.types)}")
        if not isinstance(text, str) or not text.strip():
            raise Refusal(f"{path}: {item['id']}: text is missing or empty; generate.source records needs it")
        made.append(record_of(item, kind, 0, text.strip()))
    return made, []


SOURCES: dict[str, Callable[[Material], Made]] = {"teacher": from_teacher, "records": from_records}


def main(generate: Generate, recipe: str, teacher: llm.Chat, types: dict[str, str]) -> None:
    items = read_items(generate.items, generate.required)
    records, answers = SOURCES[generate.source](Material(items, generate, types, recipe, teacher))
    jsonl.write("data/generated.jsonl", sorted(records, key=natural))
    metrics = {"n": len(records), "types": Counter(record["type"] for record in records)}
    jsonl.write_json("reports/metrics/generate.json", metrics | llm.bill(answers))


if __name__ == "__main__":
    run(main)

"""generate: source material to records, one text for each item, content type and sample.

reads   data/raw/<recipe>/<items>, data/raw/<recipe>/offline, prompts/<recipe>/generate
writes  data/generated.jsonl, reports/metrics/generate.json
params  generate, recipe, teacher, types
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from anneal import files, prompts
from anneal.errors import UserError
from anneal.llm import client
from anneal.offline import phrase_teacher, style_teacher
from anneal.params import Count, Section
from anneal.records import Metrics, Record, Row
from anneal.sources import essays, pii, tables
from anneal.sources.essays import Markdown
from anneal.sources.tables import Fields
from anneal.stage import run


class Generate(Section):
    source: Literal["teacher", "records", "markdown"]
    items: str  # path of the sheets, one a line, of a table (csv, json, jsonl, parquet) or of a folder of essays
    required: list[str]  # keys or columns that every item must fill
    per_item: Count  # texts for each item and type
    fields: Fields
    markdown: Markdown
    pii: Literal["off", "report", "mask", "drop"]


@dataclass(frozen=True)
class Material:
    """What a source works from."""

    generate: Generate
    types: dict[str, str]
    recipe: str
    teacher: client.Chat


Made = tuple[list[Record], list[client.Answer], Metrics]  # records, what was asked for them, figures of the source


def read_items(path: str, required: list[str]) -> list[Row]:
    """The sheets of a recipe. Refuses, with the line, one that lacks a key and an id that is used twice."""
    items = files.read(path, "id", *required)
    numbers = [n for n, raw in enumerate(Path(path).read_bytes().split(b"\n"), 1) if raw.strip()]
    lines: dict[str, int] = {}
    for number, item in zip(numbers, items, strict=True):
        name = item["id"]
        if not isinstance(name, str) or "/" in name:
            raise UserError(f"{path}:{number}: id {name!r}: must be text without '/', which parts the id of a record")
        if name in lines:
            raise UserError(f"{path}:{number}: id {name!r} is used in line {lines[name]} too; give each item its own")
        lines[name] = number
    if not items:
        raise UserError(f"{path}: holds no item; add one a line")
    return items


def natural(record: Mapping[str, Any]) -> tuple[Any, ...]:
    """Sort key of a record: p2 before p10, whatever the order of the source file."""
    pieces = re.split(r"(\d+)", record["item"])
    name = [(int(p), "") if p.isdecimal() else (-1, p) for p in pieces]
    return name, record["type"], int(record["id"].split("/")[-1]), record["id"]


def record_of(item: Row, kind: str, sample: int, text: str) -> Record:
    facts = {key: value for key, value in item.items() if key not in ("id", "type", "text")}
    return {"id": f"{item['id']}/{kind}/{sample}", "item": item["id"], "type": kind, "facts": facts, "text": text}


def from_teacher(material: Material) -> Made:
    """One text of the teacher for each item, type and sample; a row that fails is left out and counted."""
    folder = Path("prompts") / material.recipe / "generate"
    asked = {kind: prompts.Prompt(folder / f"{kind}.md") for kind in material.types}
    rows: list[Record] = []
    calls: list[client.Call] = []
    items = read_items(material.generate.items, material.generate.required)
    # A teacher must not see what the records may not hold.
    sheets, found = pii.records([{"facts": item} for item in items], material.generate.pii)
    for item in (sheet["facts"] for sheet in sheets):
        for kind, prompt in asked.items():
            row = record_of(item, kind, 0, "")
            messages = prompt.messages(**{**prompts.slots(row["facts"]), "label": material.types[kind]})
            for sample in range(material.generate.per_item):
                rows.append(record_of(item, kind, sample, ""))
                calls.append(client.Call(rows[-1]["id"], messages, sample))
    bank = Path("data/raw") / material.recipe / "offline"
    answers = client.ask(calls, material.teacher, "teacher", phrase_teacher.teacher(bank), material=bank)
    made: list[Record] = [
        {**row, "text": answer.text.strip()}
        for row, answer in zip(rows, answers, strict=True)
        if answer.status != "failed"
    ]
    return made, answers, {"pii": found}


def from_records(material: Material) -> Made:
    """The source's own pairs: each row of the table holds a text and its type, its other columns are the facts."""
    generate, types = material.generate, material.types
    fields, made, places, seen = generate.fields, list[Row](), dict[str, str](), Counter[str]()
    taken = fields.taken
    if not fields.type and len(types) > 1:
        raise UserError(
            f"params.yaml: generate.fields.type: empty, but types holds {', '.join(types)}; name the column"
        )
    rows = tables.read(generate.items)
    # An empty cell is an empty slot of a prompt; of a list or a number, nothing says what its empty form would be.
    blank = dict.fromkeys(tables.text_columns(rows), "")
    for row in rows:
        for column in generate.required:
            row.need(column, "generate.required")
        kind, text = tables.kind(row, fields.type, types), row.need(fields.text, "generate.fields.text")
        told = {"text": tables.words(text)}
        if fields.rejected:
            told["rejected"] = tables.words(row.need(fields.rejected, "generate.fields.rejected"))
        if (asked := tables.conversation_facts(row, fields.turns) if fields.turns else {}) is None:
            continue  # without its history a question is another one, and a prompt has no place for it
        name = tables.name(row, fields.id, places)
        known = blank | {column: value for column, value in row.values.items() if value is not None}
        facts = {column: value for column, value in known.items() if column not in taken} | asked
        # Rows that are the same to the last character are samples of one item, so that a split never parts them; nor
        # may it part pairs that ask the same, of which a source has several for their other answers.
        item = tables.digest(asked or facts) if fields.rejected else name
        record = {"id": f"{name}/{kind}/{seen[name]}", "item": item, "type": kind, "facts": facts}
        made.append(record | told)
        seen[name] += 1
    if not made:
        raise UserError(f"{generate.items}: {fields.turns}: every question has earlier turns; bring one that has none")
    kept, found = pii.records(made, generate.pii)
    dropped = {"history": len(rows) - len(made), "pii": len(made) - len(kept)}
    return (
        cast(list[Record], kept),
        [],
        {"pii": found} | ({"rows": len(rows), "dropped": dropped} if fields.turns else {}),
    )


def from_markdown(material: Material) -> Made:
    """Essays in chunks; a prompt named as the template asks the teacher for what a model is given of each."""
    generate, bank = material.generate, Path("data/raw") / material.recipe / "offline"
    cut = generate.markdown
    # Personal data goes before anything is asked: a teacher must not see what the records may not hold.
    rows, found = essays.read(generate.items, cut.templates, cut.min_tokens, cut.max_tokens, cut.tables, generate.pii)
    calls = essays.calls(rows, Path("prompts") / material.recipe / "generate")
    answers = (
        client.ask(calls, material.teacher, "teacher", style_teacher.respond(bank), material=bank) if calls else []
    )
    return essays.fill_given(rows, answers), answers, found


SOURCES = {"teacher": from_teacher, "records": from_records, "markdown": from_markdown}


def main(generate: Generate, recipe: str, teacher: client.Chat, types: dict[str, str]) -> None:
    records, answers, figures = SOURCES[generate.source](Material(generate, types, recipe, teacher))
    files.write("data/generated.jsonl", sorted(records, key=natural))
    metrics = {"n": len(records), "types": Counter(record["type"] for record in records), **figures}
    files.write_json("reports/metrics/generate.json", metrics | client.bill(answers))


if __name__ == "__main__":
    run(main)

"""The prompt of a training record: its messages, in a wording drawn for the record.

A further task (params `format.tasks`) makes another row of a record whose facts hold the task's target.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from string import Template
from typing import NamedTuple

from anneal.errors import UserError
from anneal.params import Section
from anneal.prompts import Prompt, slots
from anneal.records import Message, Record

OWN = "text"  # the target that is no fact but the record's own text


class Task(Section):
    """Further rows: a record that fills the target and every slot of the prompt is asked for the target as well."""

    wordings: str  # stem of a file in prompts/<recipe>/format
    target: str  # the fact that is the answer, or `text`: the record's own text, asked for in other words


class Asked(NamedTuple):
    messages: list[Message]
    wording: str  # the line as it stands in the file, or the record's own instruction where that line passes it on


def balanced(records: Sequence[Record], ways: int, purpose: str) -> dict[str, int]:
    """Draw a number below `ways` for each record id, all equally often within one, stable when records are added.

    A record's place is its rank by hash within its type, as a share of the type, and the places are cut into equal
    runs. Drawing each record by itself would move no other, but leaves one wording with a fifth more rows than another
    and ties wordings to types by chance; dealing by rank in turn would move half of them. Here a new record moves only
    those next to a cut.
    """
    hashes: dict[str, bytes] = {}
    ids_by_type: dict[str, list[str]] = {}
    for record in records:
        key = f"{purpose}/{record['id']}".encode()
        hashes[record["id"]] = hashlib.blake2b(key, digest_size=16).digest()
        ids_by_type.setdefault(record["type"], []).append(record["id"])
    places: list[tuple[float, bytes, str]] = []
    for kind in sorted(ids_by_type):
        ranked = sorted(ids_by_type[kind], key=lambda name: hashes[name])
        places += [((rank + 0.5) / len(ranked), hashes[name], name) for rank, name in enumerate(ranked)]
    return {name: rank * ways // len(places) for rank, (_, _, name) in enumerate(sorted(places))}


class Writer:
    """Turns a record into its prompt. A `$slot` inside a fact is words: what was filled in is never filled again."""

    def __init__(
        self, folder: Path, types: dict[str, str], seed: int, name: str = "", task: Task | None = None
    ) -> None:
        self.system, self.user = Prompt(folder / "system.md"), Prompt(folder / "user.md")
        self.wordings = Prompt(folder / f"{task.wordings if task else 'wordings'}.md")
        # Split before the slots are filled: a value that holds a line break must not make a wording of its own.
        self.lines = [line.strip() for line in self.wordings.text.splitlines() if line.strip()]
        if not self.lines:
            raise UserError(f"{self.wordings.path}: holds no wording; write one instruction a line")
        self.types, self.name, self.target = types, name, task.target if task else OWN
        self.purpose = f"{seed}/wording/{name}" if name else f"{seed}/wording"

    def kind(self, record: Record) -> str:
        """The type of the row: the task's own if it has one among the types, else that of the record."""
        return self.name if self.name in self.types else str(record["type"])

    def answer(self, record: Record) -> str:
        return str(record["text"]) if self.target == OWN else slots(record["facts"]).get(self.target, "")

    def values(self, record: Record) -> dict[str, str]:
        """Values for the prompt's slots: facts, label, and in a further task the text, but never the answer itself."""
        if record["type"] not in self.types:
            raise UserError(
                f"data/filtered.jsonl: {record['id']}: type {record['type']!r} has no label in params types"
            )
        values = {**slots(record["facts"]), "label": self.types[self.kind(record)]}
        if not self.name:
            return values
        values[OWN] = record["text"]
        return {key: value for key, value in values.items() if key != self.target}

    def of(self, records: Sequence[Record]) -> list[Record]:
        """The records that take part: all of them in the main task, in a further one those that have what it needs."""
        if not self.name:
            return list(records)
        required = (self.system.slots | self.user.slots | self.wordings.slots) - {"instruction"}
        eligible: list[Record] = []
        for record in records:
            values = self.values(record)
            if self.answer(record).strip() and all(values.get(slot, "").strip() for slot in required):
                eligible.append(record)
        if not eligible:
            raise UserError(
                f"params.yaml: format.tasks.{self.name}: no record has the fact {self.target!r} and every slot of "
                f"{self.wordings.path} ({', '.join(sorted(required))}); mend the name, or take the task out"
            )
        return eligible

    def prompt(self, record: Record, wording: int) -> Asked:
        values = self.values(record)
        self.wordings.render(**values)  # refuses an unknown slot with its line
        values["instruction"] = Template(self.lines[wording]).substitute(values)
        messages: list[Message] = []
        for role, prompt in (("system", self.system), ("user", self.user)):
            if text := prompt.render(**values).strip():
                messages.append({"role": role, "content": text})
        passes_on = "instruction" in self.wordings.slots  # the wording line is the record's own instruction
        return Asked(messages, values["instruction"] if passes_on else self.lines[wording])

"""Prompts of a record: the messages, the wording that it draws, and the further tasks that its facts allow."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from string import Template
from typing import NamedTuple

from anneal.errors import UserError
from anneal.params import Section
from anneal.prompts import Prompt, slots
from anneal.records import Record

OWN = "text"  # the target that is no fact but the record's own text


class Task(Section):
    """Further rows: a record that fills the target and every slot of the prompt is asked for the target as well."""

    wordings: str  # stem of a file in prompts/<recipe>/format
    target: str  # the fact that is the answer, or `text`: the record's own text, asked for in other words


class Asked(NamedTuple):
    messages: list[dict[str, str]]
    wording: str  # the line as it stands in the file, or the record's own instruction where that line passes it on


def balanced(records: Sequence[Record], ways: int, purpose: str) -> dict[str, int]:
    """A number below `ways` for each record id, each drawn equally often, give or take one, and kept when it can be.

    A record's place is its rank by hash within its type, as a share of the type, and the places are cut into equal
    runs. Drawing each record by itself would move no other, but leaves one wording with a fifth more rows than another
    and ties wordings to types by chance; dealing by rank in turn would move half of them. Here a new record moves only
    those next to a cut.
    """
    hashes = {r["id"]: hashlib.blake2b(f"{purpose}/{r['id']}".encode(), digest_size=16).digest() for r in records}
    of: dict[str, list[str]] = {}
    for record in records:
        of.setdefault(record["type"], []).append(record["id"])
    places: list[tuple[float, bytes, str]] = []
    for kind in sorted(of):
        ranked = sorted(of[kind], key=lambda name: hashes[name])
        places += [((rank + 0.5) / len(ranked), hashes[name], name) for rank, name in enumerate(ranked)]
    return {name: rank * ways // len(places) for rank, (_, _, name) in enumerate(sorted(places))}


class Writer:
    """Turns a record into its prompt. A `$slot` inside a fact is words: what was filled in is never filled again."""

    def __init__(
        self, folder: Path, types: dict[str, str], seed: int, name: str = "", task: Task | None = None
    ) -> None:
        self.system, self.user = Prompt(folder / "system.md"), Prompt(folder / "user.md")
        self.wordings = Prompt(folder / f"{task.wordings if task else 'wordings'}.md")
        # Parted before the slots are filled: a value that holds a line break must not make a wording of its own.
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
        """What the prompt may tell: facts and label, and in a further task the text, but never the answer itself."""
        if record["type"] not in self.types:
            raise UserError(
                f"data/filtered.jsonl: {record['id']}: type {record['type']!r} has no label in params types"
            )
        told = {**slots(record["facts"]), "label": self.types[self.kind(record)]}
        told |= {OWN: record["text"]} if self.name else {}
        return told if not self.name else {key: value for key, value in told.items() if key != self.target}

    def of(self, records: Sequence[Record]) -> list[Record]:
        """The records that take part: all of them in the main task, in a further one those that have what it needs."""
        if not self.name:
            return list(records)
        wanted = (self.system.slots | self.user.slots | self.wordings.slots) - {"instruction"}
        found = []
        for record in records:
            values = self.values(record)
            if self.answer(record).strip() and all(values.get(slot, "").strip() for slot in wanted):
                found.append(record)
        if not found:
            raise UserError(
                f"params.yaml: format.tasks.{self.name}: no record has the fact {self.target!r} and every slot of "
                f"{self.wordings.path} ({', '.join(sorted(wanted))}); mend the name, or take the task out"
            )
        return found

    def prompt(self, record: Record, wording: int) -> Asked:
        values = self.values(record)
        self.wordings.render(**values)  # refuses an unknown slot with its line
        values["instruction"] = Template(self.lines[wording]).substitute(values)
        messages = [("system", self.system.render(**values)), ("user", self.user.render(**values))]
        told = [{"role": role, "content": text.strip()} for role, text in messages if text.strip()]
        own = "instruction" in self.wordings.slots
        return Asked(told, values["instruction"] if own else self.lines[wording])

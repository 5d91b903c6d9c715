"""What the columns of a table are: id, type, text, a worse text, the turns of a conversation; the others are facts."""

from __future__ import annotations

import json
from typing import Annotated, Any

from pydantic import Field

from anneal.params import Refusal, Section
from anneal.sources.tables import Row

FACTS = {"system": "system", "human": "instruction"}  # the fact that a speaker's words become
SPEAKERS = (*FACTS, "gpt")


class Fields(Section):
    """Which columns, or paths into them (`chosen.value`), are what; every other column is a fact."""

    id: str | None  # none: a hash of the row, so that an inserted row renames no other
    type: str | None  # none: all rows are of the recipe's only type
    text: Annotated[str, Field(min_length=1)]
    rejected: str | None  # a worse text for the same: the rows are preference pairs
    turns: str | None  # a conversation: its question is the fact `instruction`, its system turn the fact `system`

    @property
    def taken(self) -> set[str]:
        """The columns that are no facts, with those that a path leads into."""
        return {name for path in self.model_dump().values() if path for name in (path, path.split(".")[0])}


def kind(row: Row, column: str | None, types: dict[str, str]) -> str:
    found = row.need(column, "generate.fields.type") if column else next(iter(types))
    if not isinstance(found, str) or found not in types:
        raise Refusal(f"{row.place}: {column}: {found!r} is none of types: {', '.join(types)}")
    return found


def name(row: Row, column: str | None, places: dict[str, str]) -> str:
    """The row's own id, or a hash of the row; `places` holds where the ids so far stand."""
    if not column:
        return row.digest()
    found = str(row.need(column, "generate.fields.id"))
    if "/" in found:
        raise Refusal(f"{row.place}: {column}: {found!r} holds '/', which parts the id of a record; write another sign")
    if found in places:
        raise Refusal(f"{row.place}: {column}: {found!r} is the id of {places[found]} too; give each row its own")
    places[found] = row.place
    return found


def words(value: Any) -> str:
    """A text without blanks around it; what is no text as compact JSON, its keys in their order."""
    told = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return told.strip()


def asked(row: Row, column: str) -> dict[str, str] | None:
    """What a conversation, turns of {from, value} as ShareGPT has them, asks: the facts `instruction` and `system`.

    None where the question has a history. Refuses what is no list of turns, a speaker that nobody knows, an empty turn,
    and a column that has the name of such a fact.
    """
    where, turns = f"{row.place}: {column}", row.need(column, "generate.fields.turns")
    if not isinstance(turns, list):
        raise Refusal(f"{where}: {str(turns)[:40]!r}: expected a list of turns; name another in generate.fields.turns")
    told: list[tuple[str, str]] = []
    for number, turn in enumerate(turns):
        if not (isinstance(turn, dict) and all(isinstance(turn.get(key), str) for key in ("from", "value"))):
            raise Refusal(f"{where}.{number}: {str(turn)[:40]!r}: expected a turn with 'from' and 'value', both text")
        if turn["from"] not in SPEAKERS:
            raise Refusal(f"{where}.{number}.from: {turn['from']!r}: unknown speaker; known: {', '.join(SPEAKERS)}")
        if not turn["value"].strip():
            raise Refusal(f"{where}.{number}.value: {turn['value']!r} is empty; fill it or take the row out")
        told.append((turn["from"], turn["value"].strip()))
    if [speaker for speaker, _ in told] not in (["human"], ["system", "human"]):
        return None
    if taken := [fact for fact in FACTS.values() if row.values.get(fact)]:
        raise Refusal(f"{row.place}: {taken[0]}: a column of this name beside {column}, which gives it; rename it")
    return dict.fromkeys(FACTS.values(), "") | {FACTS[speaker]: said for speaker, said in told}

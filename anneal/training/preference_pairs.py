"""Preference pairs as token ids."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from anneal import files
from anneal.dataset import chat_template
from anneal.dataset.chat_template import Unmaskable
from anneal.errors import UserError
from anneal.records import Record

SIDES = ("chosen", "rejected")


@dataclass(frozen=True)
class Pairs:
    """Pairs as token ids: {id, item, kind, prompt, chosen, rejected}; `refused` counts those that cannot be masked."""

    rows: list[Record]
    refused: dict[str, int]

    def dataset(self) -> Any:
        from datasets import Dataset

        return Dataset.from_dict({f"{name}_ids": [row[name] for row in self.rows] for name in ("prompt", *SIDES)})

    def longest(self) -> int:
        return max((len(row["prompt"]) + len(row[side]) for row in self.rows for side in SIDES), default=0)


def _row(record: Record, tokenizer: Any) -> Record:
    """A pair in tokens; the prompt is the one that inference starts from."""
    sides = {side: chat_template.encode(tokenizer, record["prompt"], record[side]) for side in SIDES}
    prompt, other = (one.ids[: one.prompt] for one in sides.values())
    if prompt != other:
        raise Unmaskable("chosen and rejected do not follow the same prompt")
    return {
        "id": record["id"],
        "item": record["item"],
        "kind": record["kind"],
        "prompt": prompt,
        **{side: one.ids[one.prompt :] for side, one in sides.items()},
    }


def encode(path: str, tokenizer: Any, limit: float) -> Pairs:
    """The pairs of a file. Refuses one with a side of more than `limit` tokens, since nothing is ever cut."""
    found, refused = [], Counter[str]()
    for record in files.read(path, "id", "item", "kind", "prompt", *SIDES):
        try:
            row = _row(record, tokenizer)
        except Unmaskable as err:
            refused[str(err)] += 1
            continue
        if (tokens := Pairs([row], {}).longest()) > limit:
            raise UserError(
                f"{path}: {row['id']}: {tokens} tokens, the model holds {limit:.0f}; lower format.max_length"
            )
        found.append(row)
    if refused and not found:
        raise UserError(f"{path}: no pair can be masked; the most frequent reason: {refused.most_common(1)[0][0]}")
    return Pairs(found, dict(sorted(refused.items())))

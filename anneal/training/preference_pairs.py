"""Preference pairs as token ids."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any, Literal, TypedDict

from anneal import files
from anneal.dataset import chat_template
from anneal.dataset.chat_template import Unmaskable
from anneal.errors import UserError
from anneal.records import Pair

Side = Literal["chosen", "rejected"]
SIDES: tuple[Side, ...] = ("chosen", "rejected")
FIELDS: tuple[Literal["prompt", "chosen", "rejected"], ...] = ("prompt", *SIDES)


class EncodedPair(TypedDict):
    """A preference pair as token ids; the sides follow the prompt and end in the stop token."""

    id: str
    item: str
    kind: str
    prompt: list[int]
    chosen: list[int]
    rejected: list[int]


@dataclass(frozen=True)
class Pairs:
    """The pairs of a file; `refused` counts those that cannot be masked, by reason."""

    rows: list[EncodedPair]
    refused: dict[str, int]

    def dataset(self) -> Any:
        """The columns that TRL's DPOTrainer reads: prompt_ids, chosen_ids, rejected_ids."""
        from datasets import Dataset

        return Dataset.from_dict({f"{name}_ids": [row[name] for row in self.rows] for name in FIELDS})

    def longest(self) -> int:
        """Tokens of the longest prompt with one of its sides; 0 without pairs."""
        return max((len(row["prompt"]) + len(row[side]) for row in self.rows for side in SIDES), default=0)


def _encode_pair(pair: Pair, tokenizer: Any) -> EncodedPair:
    """A pair as token ids; the prompt is the one that inference starts from. Raises Unmaskable."""
    chosen = chat_template.encode(tokenizer, pair["prompt"], pair["chosen"])
    rejected = chat_template.encode(tokenizer, pair["prompt"], pair["rejected"])
    prompt = chosen.ids[: chosen.prompt]
    if prompt != rejected.ids[: rejected.prompt]:
        raise Unmaskable("chosen and rejected do not follow the same prompt")
    return {
        "id": pair["id"],
        "item": pair["item"],
        "kind": pair["kind"],
        "prompt": prompt,
        "chosen": chosen.ids[chosen.prompt :],
        "rejected": rejected.ids[rejected.prompt :],
    }


def encode(path: str, tokenizer: Any, limit: float) -> Pairs:
    """Encode the pairs of a file; pairs that cannot be masked are counted and left out.

    Raises UserError for a pair of more than `limit` tokens, since nothing is ever truncated, and where no pair is left.
    """
    rows: list[EncodedPair] = []
    refused = Counter[str]()
    for pair in files.read(path, "id", "item", "kind", *FIELDS):
        try:
            row = _encode_pair(pair, tokenizer)
        except Unmaskable as err:
            refused[str(err)] += 1
            continue
        tokens = Pairs([row], {}).longest()
        if tokens > limit:
            raise UserError(
                f"{path}: {row['id']}: {tokens} tokens, the model holds {limit:.0f}; lower format.max_length"
            )
        rows.append(row)
    if refused and not rows:
        raise UserError(f"{path}: no pair can be masked; the most frequent reason: {refused.most_common(1)[0][0]}")
    return Pairs(rows, dict(sorted(refused.items())))

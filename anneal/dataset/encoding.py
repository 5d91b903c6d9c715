"""Tokenised training rows with exact label masks, never truncated, in an order that a resumed run repeats."""

from __future__ import annotations

import json
import math
import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from anneal import files
from anneal.dataset import chat_template
from anneal.dataset.chat_template import Unmaskable
from anneal.errors import UserError

_POOL = 50  # batches that are sorted by length together: enough for even batches, few enough to keep the order random


@dataclass(frozen=True)
class Rows:
    """The encoded rows of a file; `refused` counts the reasons of rows whose labels cannot be masked."""

    ids: list[list[int]]
    labels: list[list[int]]
    refused: dict[str, int]

    def dataset(self) -> Any:
        from datasets import Dataset

        return Dataset.from_dict({"input_ids": self.ids, "labels": self.labels})

    def count(self, tokens: list[int] | None = None) -> int:
        """Number of labelled tokens, which carry loss, or of those among them that are in `tokens`."""
        labelled = (label for labels in self.labels for label in labels if label != chat_template.IGNORE)
        return sum(tokens is None or label in tokens for label in labelled)


def positions(folder: Path) -> float:
    """Maximum sequence length of a model in tokens, from its config.json; infinite where the config has no limit."""
    config = json.loads((folder / "config.json").read_text("utf-8"))
    return float(config.get("max_position_embeddings") or config.get("n_positions") or math.inf)


def encode(path: str, tokenizer: Any, turns: Literal["last", "all"], limit: float, holder: str) -> Rows:
    """Rows of a file with exact masks; UserError for a row of more than `limit` tokens, since nothing is truncated.

    `holder` names in the message what has the limit.
    """
    encoded: list[chat_template.Encoded] = []
    refused = Counter[str]()
    records = files.read(path, "id", "prompt", "completion")
    for record in records:
        try:
            row = chat_template.encode(tokenizer, record["prompt"], record["completion"], turns)
        except Unmaskable as err:
            refused[str(err)] += 1
            continue
        if len(row.ids) > limit:
            raise UserError(
                f"{path}: {record['id']}: {len(row.ids)} tokens, {holder} {limit:.0f}; lower format.max_length"
            )
        encoded.append(row)
    if records and not encoded:
        raise UserError(f"{path}: no row can be masked; the most frequent reason: {refused.most_common(1)[0][0]}")
    return Rows([row.ids for row in encoded], [row.labels for row in encoded], dict(sorted(refused.items())))


def order(lengths: list[int], batch: int, seed: int, epoch: int, grouped: bool) -> list[int]:
    """Row numbers of one epoch, shuffled; `grouped` batches rows of similar length, the longest batch first of all.

    Rows that fill no batch stand at the end of the epoch.
    """
    rng = random.Random(f"{seed}/order/{epoch}")
    rows = list(range(len(lengths)))
    rng.shuffle(rows)
    if not grouped:
        return rows
    incomplete = [rows.pop() for _ in range(len(rows) % batch)]
    batches: list[list[int]] = []
    for start in range(0, len(rows), _POOL * batch):
        pool = sorted(rows[start : start + _POOL * batch], key=lambda row: -lengths[row])
        batches += [pool[at : at + batch] for at in range(0, len(pool), batch)]
    rng.shuffle(batches)
    if batches and epoch == 0:  # a card that is too small fails in the first step, not after an hour
        longest = max(range(len(batches)), key=lambda n: lengths[batches[n][0]])
        batches.insert(0, batches.pop(longest))
    return [row for rows in [*batches, incomplete] for row in rows]


class Sampler:
    """Shuffled order for the current epoch, as given by `epoch()`.

    transformers' own length-grouped sampler draws from torch's global state, which a resumed run meets at another
    point: it then sees rows twice and others never.
    """

    def __init__(self, lengths: list[int], batch: int, seed: int, grouped: bool, epoch: Callable[[], int]) -> None:
        self.lengths, self.batch, self.seed, self.grouped, self.epoch = lengths, batch, seed, grouped, epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        return iter(order(self.lengths, self.batch, self.seed, self.epoch(), self.grouped))


def check_packing(trainer: Any, rows: Rows, stops: list[int]) -> None:
    """Raise UserError unless packing and collation keep every labelled stop token; a truncated row loses its stop."""
    data = trainer.train_dataset
    size = trainer.args.train_batch_size
    n_labelled = 0
    for start in range(0, len(data), size):
        batch = trainer.data_collator([data[n] for n in range(start, min(start + size, len(data)))])
        n_labelled += sum(label in stops for label in batch["labels"].flatten().tolist())
    expected = rows.count(stops)
    if n_labelled != expected:
        raise UserError(
            f"params.yaml: train.packing: only {n_labelled} of {expected} stops are left after packing; raise it"
        )

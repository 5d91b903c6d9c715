"""answer: all that needs weights after training, replies and log-probabilities of one system (base, tuned or aligned).

Where no preferences were learnt there is no aligned system, and its files are empty.

reads   data/test.jsonl, models/base, models/adapter (tuned) or models/merged (aligned)
writes  data/answers/<system>.jsonl, data/presets/<system>.jsonl
params  answer, seed, threads
"""

from __future__ import annotations

import hashlib
import json
import random
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from pydantic import model_validator

from anneal import files, fingerprint
from anneal.dataset import chat_template
from anneal.decoding import batches, generate, search, served
from anneal.decoding.presets import Preset, merged
from anneal.errors import UserError
from anneal.models import loading, weights
from anneal.models.weights import System
from anneal.params import Count, Section
from anneal.records import Record
from anneal.stage import run

TEST = Path("data/test.jsonl")


class Names(Section):
    """What a chat server calls the systems; only `engine: openai` asks for it."""

    base: str | None
    tuned: str | None
    aligned: str | None


class Answer(Section):
    """How answers are made: who searches, number type, rows at a time, the search, and others to lay beside it."""

    engine: Literal["transformers", "own", "openai"]
    model: Names
    dtype: Literal["auto", "float32", "bfloat16", "float16"]
    batch_size: Count
    decode: generate.Decode
    presets: dict[str, Preset]

    _fill = model_validator(mode="before")(merged)


@dataclass(frozen=True)
class Row:
    """A record in tokens: the prompt that inference sees, and the golden row with its loss mask."""

    record: Record
    prompt: list[int]
    golden: chat_template.Encoded


def tokenise(tokenizer: Any, records: list[Record], new: int, window: int | None) -> list[Row]:
    """Records in tokens. Refuses what the template cannot mask and what the model's window of tokens cannot hold."""
    rows = []
    for record in records:
        try:
            prompt = chat_template.prompt_ids(tokenizer, record["prompt"])
            golden = chat_template.encode(tokenizer, record["prompt"], record["completion"])
        except UserError as err:
            raise UserError(f"{TEST}: {record['id']}: {err}") from None
        if window and (longest := max(len(prompt) + new, len(golden.ids))) > window:
            raise UserError(
                f"{TEST}: {record['id']}: {longest} tokens with its answer, the model takes {window}; "
                "lower answer.decode.max_new_tokens or shorten the record"
            )
        rows.append(Row(record, prompt, golden))
    return rows


# The words of a batch of rows, each drawn with its own seed.
Write = Callable[[list[Row], generate.Decode, list[int]], list[generate.Continuation]]


def unfinished(folders: Iterable[Path], answer: Answer, seed: int, threads: int) -> str:
    """Everything that finished batches hang on: weights, questions, settings, code, and the kind of arithmetic."""
    settings = [answer.model_dump(), seed, threads, loading.device(), str(loading.dtype(answer.dtype))]
    inputs = fingerprint.digest([*folders, TEST, *fingerprint.code(__file__)])
    return hashlib.sha256(json.dumps([settings, inputs], sort_keys=True).encode()).hexdigest()[:16]


def writer(system: System, answer: Answer, loaded: Any, tokenizer: Any) -> Write:
    """The engine that params name, for the words; likelihoods need the weights, as no server tells those of a text."""
    if answer.engine != "openai":
        engine, stops = (
            {"transformers": generate.answer, "own": search.answer}[answer.engine],
            chat_template.stop_ids(tokenizer),
        )
        return lambda rows, now, seeds: engine(loaded, tokenizer, [row.prompt for row in rows], now, stops, seeds)
    settings = {"decode": answer.decode} | {f"presets.{name}": preset for name, preset in answer.presets.items()}
    asked = served.writer(system, getattr(answer.model, system), fingerprint.digest(weights.files(system)), settings)
    return lambda rows, *rest: asked([row.record for row in rows], *rest)


def reply(rows: list[Row], write: Write, settings: generate.Decode, seed: int) -> list[dict[str, Any]]:
    """What is written to a batch of rows, in their order."""
    seeds = [random.Random(f"{seed}/answer/{row.record['id']}").getrandbits(63) for row in rows]
    return [
        {key: row.record[key] for key in ("id", "item", "type")}
        | {"text": answer.text, "finish": answer.finish, "n_prompt": answer.n_prompt, "n_new": answer.n_new}
        for row, answer in zip(rows, write(rows, settings, seeds), strict=True)
    ]


def scored(rows: list[Row], write: Write, settings: generate.Decode, seed: int, loaded: Any) -> list[dict[str, Any]]:
    """Replies and golden log-probabilities (nats)."""
    made = reply(rows, write, settings, seed)
    for row, found in zip(rows, made, strict=True):
        logprob, count = generate.likelihood(loaded, row.golden.ids, row.golden.labels)
        octets = len(row.record["completion"][-1]["content"].encode())
        found |= {"target_logprob": round(logprob, 4), "n_target": count, "n_bytes": octets}
    return made


def gather(
    rows: list[Row], size: int, folder: Path, make: Callable[[list[Row]], list[dict[str, Any]]]
) -> list[dict[str, Any]]:
    """A record per row, in order. Rows whose golden answer is long tend to get long answers: like goes with like."""
    lengths = [len(row.golden.ids) for row in rows]
    return batches.gather("answer", lengths, size, folder, lambda places: make([rows[place] for place in places]))


def beside(rows: list[Row], write: Write, answer: Answer, seed: int, folder: Path) -> list[dict[str, Any]]:
    """The replies of every preset, one after the other, each seed a run over all rows."""
    found = []
    for name, preset in answer.presets.items():
        for drawn in preset.runs():
            make = partial(reply, write=write, settings=preset, seed=seed if drawn is None else drawn)
            made = gather(rows, answer.batch_size, folder / f"{name}-{drawn}", make)
            found += [
                {k: v for k, v in row.items() if k != "n_prompt"} | {"preset": name, "seed": drawn} for row in made
            ]
    return found


def main(system: System, /, answer: Answer, seed: int, threads: int) -> None:
    if not weights.present(system):
        files.write(f"data/answers/{system}.jsonl", [])
        files.write(f"data/presets/{system}.jsonl", [])
        return
    records = files.read(TEST, "id", "item", "type", "prompt", "completion")
    loading.threads(threads)
    tokenizer, loaded = weights.load(system, answer.dtype)
    window = getattr(loaded.config.get_text_config(), "max_position_embeddings", None)
    new = max(settings.max_new_tokens for settings in (answer.decode, *answer.presets.values()))
    rows = tokenise(tokenizer, records, new, window)
    write = writer(system, answer, loaded, tokenizer)
    folder = files.work("answer") / f"{system}-{unfinished(weights.files(system), answer, seed, threads)}"
    make = partial(scored, write=write, settings=answer.decode, seed=seed, loaded=loaded)
    made, others = gather(rows, answer.batch_size, folder / "main", make), beside(rows, write, answer, seed, folder)
    files.write(f"data/answers/{system}.jsonl", made)
    files.write(f"data/presets/{system}.jsonl", others)
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    run(main)

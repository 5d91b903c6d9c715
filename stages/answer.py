"""answer: all that needs weights after training, replies and log-probabilities of one system (base or tuned).

reads   data/test.jsonl, models/base (base) or models/merged (tuned)
writes  data/answers/<system>.jsonl
params  answer, seed, threads
"""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from stages.lib import chat, decode, jsonl, model, params
from stages.lib.jsonl import Record
from stages.lib.params import Count, Refusal, Section, run

TEST = Path("data/test.jsonl")
WEIGHTS = {"base": Path("models/base"), "tuned": Path("models/merged")}


class Answer(Section):
    """How answers are made: number type, rows at a time, and the settings of the search."""

    dtype: Literal["auto", "float32", "bfloat16", "float16"]
    batch_size: Count
    decode: decode.Decode


@dataclass(frozen=True)
class Row:
    """A record in tokens: the prompt that inference sees, and the golden row with its loss mask."""

    record: Record
    prompt: list[int]
    golden: chat.Encoded


def tokenise(tokenizer: Any, records: list[Record], new: int, window: int | None) -> list[Row]:
    """Records in tokens. Refuses what the template cannot mask and what the model's window of tokens cannot hold."""
    rows = []
    for record in records:
        try:
            prompt = chat.prompt_ids(tokenizer, record["prompt"])
            golden = chat.encode(tokenizer, record["prompt"], record["completion"])
        except Refusal as err:
            raise Refusal(f"{TEST}: {record['id']}: {err}") from None
        if window and (longest := max(len(prompt) + new, len(golden.ids))) > window:
            raise Refusal(
                f"{TEST}: {record['id']}: {longest} tokens with its answer, the model takes {window}; "
                "lower answer.decode.max_new_tokens or shorten the record"
            )
        rows.append(Row(record, prompt, golden))
    return rows


def reply(weights: Any, tokenizer: Any, rows: list[Row], settings: decode.Decode, seed: int) -> list[Record]:
    """Answers and golden log-probabilities (nats) of one batch, in the order of its rows."""
    seeds = [random.Random(f"{seed}/answer/{row.record['id']}").getrandbits(63) for row in rows]
    stops = chat.stop_ids(tokenizer)
    written = decode.answer(weights, tokenizer, [row.prompt for row in rows], settings, stops, seeds)
    scored = [decode.likelihood(weights, row.golden.ids, row.golden.labels) for row in rows]
    return [
        {
            "id": row.record["id"],
            "item": row.record["item"],
            "type": row.record["type"],
            "text": answer.text,
            "finish": answer.finish,
            "n_prompt": answer.n_prompt,
            "n_new": answer.n_new,
            "target_logprob": round(logprob, 4),
            "n_target": count,
            "n_bytes": len(row.record["completion"][-1]["content"].encode()),
        }
        for row, answer, (logprob, count) in zip(rows, written, scored, strict=True)
    ]


def fingerprint(folder: Path, answer: Answer, seed: int, threads: int) -> str:
    """Everything that finished batches hang on: weights, questions, settings, code, and the kind of arithmetic."""
    settings = [answer.model_dump(), seed, threads, model.device(), str(model.dtype(answer.dtype))]
    total = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    code = sorted(Path(str(decode.__file__)).parent.glob("*.py"))
    weights = sorted(path for path in folder.rglob("*") if path.is_file())
    for path in [*weights, TEST, *code, Path(__file__)]:
        with path.open("rb") as handle:
            total.update(path.name.encode() + hashlib.file_digest(handle, "sha256").digest())
    return total.hexdigest()[:16]


def gather(rows: list[Row], size: int, parts: Path, make: Callable[[list[Row]], list[Record]]) -> list[Record]:
    """A record per row, in order, made in batches; a finished batch stays in `parts`, where a killed run goes on."""
    found: dict[int, Record] = {}
    start, fresh = time.monotonic(), 0
    # Rows whose golden answer is long tend to get long answers: like with like, a batch waits less for its last row.
    for number, batch in enumerate(decode.batches([len(row.golden.ids) for row in rows], size)):
        part = parts / f"{number:05}.jsonl"
        if not part.exists():
            jsonl.write(part, make([rows[place] for place in batch]))
            fresh += len(batch)
        found |= zip(batch, jsonl.read(part), strict=True)
        rate = fresh / (time.monotonic() - start)
        print(f"answer: {len(found)} of {len(rows)} rows, {rate:.1f} rows/s", file=sys.stderr)
    return [found[place] for place in range(len(rows))]


def main(system: Literal["base", "tuned"], /, answer: Answer, seed: int, threads: int) -> None:
    records = jsonl.read(TEST, "id", "item", "type", "prompt", "completion")
    folder = WEIGHTS[system]
    model.threads(threads)
    tokenizer, weights = model.tokenizer(folder), model.load(folder, answer.dtype)
    window = getattr(weights.config.get_text_config(), "max_position_embeddings", None)
    rows = tokenise(tokenizer, records, answer.decode.max_new_tokens, window)
    parts = params.work("answer") / f"{system}-{fingerprint(folder, answer, seed, threads)}"
    made = gather(rows, answer.batch_size, parts, lambda batch: reply(weights, tokenizer, batch, answer.decode, seed))
    jsonl.write(f"data/answers/{system}.jsonl", made)
    shutil.rmtree(parts, ignore_errors=True)


if __name__ == "__main__":
    run(main)

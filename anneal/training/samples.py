"""Sampled answers during SFT. They show what the loss does not: whether JSON closes, whether a poem has its length.

Training writes the texts only; `evaluate` checks them, so that a changed rule never reruns a training.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from anneal import files
from anneal.dataset import chat_template
from anneal.decoding import generate
from anneal.records import Record, Row

# A sampled answer may be this many times as long as the longest reference among its records; one that has not stopped
# by then counts as one that does not stop.
_LENGTH_FACTOR = 2
GREEDY = {
    "do_sample": False,
    "temperature": 1.0,
    "top_k": 0,
    "top_p": 1.0,
    "repetition_penalty": 1.0,
    "num_beams": 1,
    "no_repeat_ngram_size": 0,
    "length_penalty": 1.0,
}


def prompts(records: Sequence[Record], tokenizer: Any, n: int) -> tuple[list[Record], list[list[int]], int]:
    """The first `n` records by id, their prompts as token ids, and the limit of their answers in tokens."""
    selected = sorted(records, key=lambda record: str(record["id"]))[:n]
    prompt_ids = [chat_template.prompt_ids(tokenizer, record["prompt"]) for record in selected]
    references = [chat_template.encode(tokenizer, r["prompt"], r["completion"]) for r in selected]
    longest = max((len(reference.ids) - reference.prompt for reference in references), default=0)
    return selected, prompt_ids, _LENGTH_FACTOR * longest


def callback(records: Sequence[Record], tokenizer: Any, n: int, path: Path) -> Any:
    """A callback that appends greedy answers to `n` prompts at each validation to `path`: {step, id, text, finish}.

    The file lies beside the checkpoints; a run that resumes from one drops the rows written after it.
    """
    from transformers import TrainerCallback

    selected, prompt_ids, limit = prompts(records, tokenizer, n)

    class Samples(TrainerCallback):  # type: ignore[misc]
        def on_train_begin(self, _args: Any, state: Any, _control: Any, **_: Any) -> None:
            files.write(path, [row for row in read(path) if row["step"] <= state.global_step])

        def on_evaluate(self, _args: Any, state: Any, _control: Any, model: Any = None, **_: Any) -> None:
            if not state.is_world_process_zero:
                return
            model.eval()
            settings = generate.Decode.model_validate({**GREEDY, "max_new_tokens": limit, "stop": []})
            stops = chat_template.stop_ids(tokenizer)
            answers = generate.answer(model, tokenizer, prompt_ids, settings, stops, [0] * len(prompt_ids))
            model.train()
            rows = [
                {"step": state.global_step, "id": record["id"], "text": answer.text, "finish": answer.finish}
                for record, answer in zip(selected, answers, strict=True)
            ]
            earlier = [row for row in read(path) if row["step"] < state.global_step]
            files.write(path, [*earlier, *rows])
            stopped = sum(row["finish"] == "stop" for row in rows)
            print(f"step {state.global_step}: {stopped} of {len(rows)} sampled answers stop", file=sys.stderr)

    return Samples()


def read(path: Path) -> list[Row]:
    """The samples so far; none before the first validation."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]

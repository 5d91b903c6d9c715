"""Answers during training: what a falling loss does not show, such as JSON that closes or a poem of the right length.

Texts only; they are checked later, so that a changed rule never trains again.
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
from anneal.records import Record

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
    """The first `n` records by id, their prompts in tokens, and twice the longest golden answer among them."""
    chosen = sorted(records, key=lambda record: str(record["id"]))[:n]
    asked = [chat_template.prompt_ids(tokenizer, record["prompt"]) for record in chosen]
    golden = [chat_template.encode(tokenizer, r["prompt"], r["completion"]) for r in chosen]
    return chosen, asked, 2 * max((len(g.ids) - g.prompt for g in golden), default=0)


def callback(records: Sequence[Record], tokenizer: Any, n: int, kept: Path) -> Any:
    """Greedy answers to `n` prompts at each validation, appended to the file `kept` as {step, id, text, finish}.

    The file lies beside the checkpoints: a run that goes on from one drops what was written after it.
    """
    from transformers import TrainerCallback

    chosen, asked, longest = prompts(records, tokenizer, n)

    class Samples(TrainerCallback):  # type: ignore[misc]
        def on_train_begin(self, _args: Any, state: Any, _control: Any, **_: Any) -> None:
            files.write(kept, [row for row in read(kept) if row["step"] <= state.global_step])

        def on_evaluate(self, _args: Any, state: Any, _control: Any, model: Any = None, **_: Any) -> None:
            if not state.is_world_process_zero:
                return
            model.eval()
            settings = generate.Decode.model_validate({**GREEDY, "max_new_tokens": longest, "stop": []})
            told = generate.answer(
                model, tokenizer, asked, settings, chat_template.stop_ids(tokenizer), [0] * len(asked)
            )
            model.train()
            rows = [
                {"step": state.global_step, "id": record["id"], "text": one.text, "finish": one.finish}
                for record, one in zip(chosen, told, strict=True)
            ]
            files.write(kept, [*(row for row in read(kept) if row["step"] < state.global_step), *rows])
            stopped = sum(row["finish"] == "stop" for row in rows)
            print(f"step {state.global_step}: {stopped} of {len(rows)} sampled answers stop", file=sys.stderr)

    return Samples()


def read(kept: Path) -> list[Record]:
    """The samples so far; none before the first validation."""
    return [json.loads(line) for line in kept.read_text("utf-8").splitlines()] if kept.exists() else []

"""What GRPO compares: samples of one prompt, all of a step in one batch.

Each sample is drawn by our own search from a seed of its own, so that it ends at every stop of the chat template, hangs
on nothing but params, and comes out the same after a resume. vLLM draws them where it is asked to.
"""

from __future__ import annotations

import functools
import json
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from anneal.dataset import chat_template, encoding
from anneal.decoding import generate
from anneal.files import Record
from anneal.params import Refusal

# What a log-probability is taken of is what was drawn from: temperature apart, nothing may bend the distribution.
PLAIN = {
    "do_sample": True, "top_k": 0, "top_p": 1.0, "repetition_penalty": 1.0, "no_repeat_ngram_size": 0, "num_beams": 1,
    "length_penalty": 1.0, "stop": [],
}  # fmt: skip


class Groups:
    """Row numbers: `prompts` rows a step, each `samples` times in a row, all of it `repeats` times.

    TRL's own order comes from a generator that a resumed run meets at another point from the second epoch on.
    """

    def __init__(
        self, count: int, prompts: int, samples: int, repeats: int, seed: int, epoch: Callable[[], int]
    ) -> None:
        self.count, self.prompts, self.samples, self.repeats = count, prompts, samples, repeats
        self.seed, self.epoch = seed, epoch

    def __len__(self) -> int:
        return self.count // self.prompts * self.prompts * self.samples * self.repeats

    def __iter__(self) -> Iterator[int]:
        order = encoding.order([0] * self.count, 1, self.seed, self.epoch(), False)
        for start in range(0, self.count - self.prompts + 1, self.prompts):
            step = [row for row in order[start : start + self.prompts] for _ in range(self.samples)]
            for _ in range(self.repeats):
                yield from step


def rollout(tokenizer: Any, temperature: float, max_new_tokens: int, seed: int) -> Callable[[list[Any], Any], Record]:
    """TRL's rollout function: answers to prompts, as all our answers are made."""
    settings = generate.Decode.model_validate({**PLAIN, "temperature": temperature, "max_new_tokens": max_new_tokens})
    stops = chat_template.stop_ids(tokenizer)
    encode = functools.cache(lambda prompt: chat_template.prompt_ids(tokenizer, json.loads(prompt)))

    def draw(prompts: list[Any], trainer: Any) -> Record:
        model, place = trainer.accelerator.unwrap_model(trainer.model), trainer.accelerator.process_index
        asked = [list(encode(json.dumps(prompt))) for prompt in prompts]
        names = [f"{seed}/grpo/{trainer.state.global_step}/{place}/{row}" for row in range(len(asked))]
        model.eval()  # in training mode checkpointing would switch the cache off
        told = generate.answer(
            model, tokenizer, asked, settings, stops, [random.Random(name).getrandbits(63) for name in names]
        )
        model.train()
        return {"prompt_ids": asked, "completion_ids": [one.ids for one in told], "logprobs": None}

    return draw


def prove(tokenizer: Any, records: Sequence[Record]) -> None:
    """vLLM is given TRL's tokens of a prompt; they must be those that the answer stage starts from."""
    for record in records:
        theirs = tokenizer.apply_chat_template(record["prompt"], add_generation_prompt=True, return_dict=True)
        if list(theirs["input_ids"]) != chat_template.prompt_ids(tokenizer, record["prompt"]):
            raise Refusal(
                f"data/train.jsonl: {record['id']}: align.grpo.use_vllm would start from other tokens; set false"
            )

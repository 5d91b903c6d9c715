"""Answers, many at a time, and likelihoods from a causal language model.

A row's answer does not depend on the rows beside it: padding is masked, new tokens are cut off by index, and every row
draws from a generator of its own. In float32 the batch size therefore changes the time taken and nothing else.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, model_validator

from .params import Count, Section

if TYPE_CHECKING:
    import torch


class Decode(Section):
    """How an answer is drawn, in the terms of transformers; nothing is taken from a model's own generation_config."""

    do_sample: bool
    temperature: Annotated[float, Field(gt=0)]
    top_k: Annotated[int, Field(ge=0)]  # 0 is off
    top_p: Annotated[float, Field(gt=0, le=1)]
    repetition_penalty: Annotated[float, Field(gt=0)]
    num_beams: Count
    max_new_tokens: Count
    stop: list[str]

    @model_validator(mode="after")
    def _one_search(self) -> Decode:
        if self.do_sample and self.num_beams > 1:
            raise ValueError("do_sample and num_beams > 1 exclude each other")
        if "" in self.stop:
            raise ValueError("an empty stop string stops everything")
        return self


@dataclass(frozen=True)
class Continuation:
    """What a model wrote: text without stop token or stop string; n_new counts the stop token."""

    text: str
    finish: Literal["stop", "length"]
    n_prompt: int
    n_new: int


def batches(lengths: Sequence[int], size: int) -> list[list[int]]:
    """Row numbers in batches of like length, longest first: what will not fit in memory shows at once."""
    order = sorted(range(len(lengths)), key=lambda row: (-lengths[row], row))
    return [order[start : start + size] for start in range(0, len(order), size)]


@contextlib.contextmanager
def _plain(model: Any) -> Iterator[None]:
    """Set the model's own generation_config aside: what a config leaves open transformers 5 fills in from there."""
    from transformers import GenerationConfig

    own, model.generation_config = model.generation_config, GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = own


def _sampler(decode: Decode, seeds: Sequence[int], device: torch.device) -> list[Any]:
    """Sampling as a search for the maximum, with noise from one generator per row.

    argmax(logits + Gumbel noise) is a draw from softmax(logits) (Gumbel 1954; Maddison et al. 2014), while
    torch.multinomial over a batch takes row n's numbers from wherever row n - 1 left the one generator.
    """
    import torch
    from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

    generators = [torch.Generator(device).manual_seed(seed) for seed in seeds]

    def noise(_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        drawn = torch.empty_like(scores)
        for row, generator in zip(drawn, generators, strict=True):
            row.exponential_(generator=generator)
        return scores - drawn.log()

    top_k = [TopKLogitsWarper(decode.top_k)] if decode.top_k else []
    top_p = [TopPLogitsWarper(decode.top_p)] if decode.top_p < 1 else []
    return [TemperatureLogitsWarper(decode.temperature), *top_k, *top_p, noise]


def _watch(tokenizer: Any, stop: list[str], width: int, ended: dict[int, int]) -> Callable[..., torch.Tensor]:
    """A criterion that ends a row once a stop string is written and notes after how many new tokens."""
    import torch

    tail = max(len(text.encode()) for text in stop) + 4  # a token is at least a byte; four more for a cut character

    def criterion(ids: torch.Tensor, _scores: Any, **_: Any) -> torch.Tensor:
        new = ids[:, max(width, ids.shape[1] - tail) :]
        for row, text in enumerate(tokenizer.batch_decode(new, skip_special_tokens=True)):
            if row not in ended and any(word in text for word in stop):
                ended[row] = ids.shape[1] - width
        return torch.tensor([row in ended for row in range(len(ids))], device=ids.device)

    return criterion


def _read(new: list[int], tokenizer: Any, stops: set[int], stop: list[str], ended: int | None) -> tuple[str, bool, int]:
    """Text, whether it was brought to an end, and the number of tokens, from a row of new tokens and padding."""
    end = next((number for number, token in enumerate(new) if token in stops), None)
    kept = new[:end] if ended is None else new[:ended][:end]
    text = str(tokenizer.decode(kept, skip_special_tokens=True, clean_up_tokenization_spaces=False))
    cuts = [text.index(word) for word in stop if word in text]
    counted = len(kept) + (end is not None and len(kept) == end)
    return text[: min(cuts, default=len(text))], end is not None or bool(cuts), counted


def answer(
    model: Any, tokenizer: Any, prompts: Sequence[list[int]], decode: Decode, stops: Sequence[int], seeds: Sequence[int]
) -> list[Continuation]:
    """Continue one batch of prompts (ids with the generation prompt) to a stop id, a stop string or the limit.

    One seed per prompt, used when sampling only. Greedy and beam search ignore temperature, top_k and top_p.
    """
    import torch
    from transformers import GenerationConfig

    width, ended = max(len(prompt) for prompt in prompts), dict[int, int]()
    rows = [[tokenizer.pad_token_id] * (width - len(prompt)) + prompt for prompt in prompts]
    ids = torch.tensor(rows, device=model.device)
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=model.device)
    config = GenerationConfig(
        do_sample=False, num_beams=decode.num_beams, repetition_penalty=decode.repetition_penalty,
        max_new_tokens=decode.max_new_tokens, eos_token_id=list(stops), pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    with torch.inference_mode(), _plain(model):
        out = model.generate(
            input_ids=ids,
            attention_mask=mask,
            generation_config=config,
            logits_processor=_sampler(decode, seeds, ids.device) if decode.do_sample else [],
            stopping_criteria=[_watch(tokenizer, decode.stop, width, ended)] if decode.stop else [],
        )
    found = []
    for row, (prompt, new) in enumerate(zip(prompts, out[:, width:].tolist(), strict=True)):
        text, stopped, count = _read(new, tokenizer, set(stops), decode.stop, ended.get(row))
        found.append(Continuation(text, "stop" if stopped else "length", len(prompt), count))
    return found


def likelihood(model: Any, ids: Sequence[int], labels: Sequence[int]) -> tuple[float, int]:
    """The sum of log-probabilities (nats) of the labelled tokens (label >= 0) of one row, and how many there are.

    A label stands at the place of its token, as in training; the model's shift by one is made here. One row at a time:
    a batch is no faster on the CPU (12,700 tokens/s at 16 rows, 13,300 at one) and would move the last bits of the sum.
    """
    import torch

    wanted = [place for place, label in enumerate(labels) if label >= 0 and place > 0]
    if not wanted:
        return 0.0, 0
    kept = len(ids) - wanted[0] + 1  # the logits one place before the first label predict it
    # A prompt of 1000 tokens before 150,000 words would cost 600 MB of logits that nobody reads.
    limit = {"logits_to_keep": kept} if "logits_to_keep" in inspect.signature(model.forward).parameters else {}
    row = torch.tensor([list(ids)], device=model.device)
    with torch.inference_mode():
        logits = model(row, attention_mask=torch.ones_like(row), use_cache=False, **limit).logits[0, -kept:]
        places = torch.tensor(wanted, device=model.device)
        scores = logits[places - wanted[0]].float().log_softmax(-1).gather(-1, row[0, places][:, None])
    return float(scores.double().sum()), len(wanted)

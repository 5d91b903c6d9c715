"""Batched generation and likelihoods with a causal language model.

The answer of a row does not depend on the other rows of its batch: padding is masked, new tokens are cut off by index,
and every row draws from its own generator. In float32 the batch size therefore changes the run time and nothing else.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, model_validator

from anneal.params import Count, Section

if TYPE_CHECKING:
    import torch


class Decode(Section):
    """All decoding settings, in the terms of transformers; the model's generation_config is ignored."""

    do_sample: bool
    temperature: Annotated[float, Field(gt=0)]
    top_k: Annotated[int, Field(ge=0)]  # 0 is off
    top_p: Annotated[float, Field(gt=0, le=1)]
    repetition_penalty: Annotated[float, Field(gt=0)]
    no_repeat_ngram_size: Annotated[int, Field(ge=0)]  # 0 is off; the prompt counts too
    num_beams: Count
    length_penalty: float  # beams are ranked by log-probability / tokens ** length_penalty
    max_new_tokens: Count
    stop: list[str]

    @model_validator(mode="after")
    def _one_search(self) -> Decode:
        if self.do_sample and self.num_beams > 1:
            raise ValueError("do_sample and num_beams > 1 exclude each other")
        if "" in self.stop:
            raise ValueError("an empty stop string stops everything")
        return self


def plain(temperature: float, max_new_tokens: int) -> Decode:
    """Sampling from the model's own distribution at a temperature, and nothing else that changes it.

    With a penalty or a cut of the vocabulary the samples would come from another policy than the one that is trained.
    """
    return Decode(
        do_sample=True,
        temperature=temperature,
        top_k=0,
        top_p=1.0,
        repetition_penalty=1.0,
        no_repeat_ngram_size=0,
        num_beams=1,
        length_penalty=1.0,
        max_new_tokens=max_new_tokens,
        stop=[],
    )


@dataclass(frozen=True)
class Continuation:
    """The answer of a model: text without stop token or stop string; n_new and ids include the stop token."""

    text: str
    finish: Literal["stop", "length"]
    n_prompt: int  # tokens
    n_new: int  # tokens
    ids: list[int]


def batches(lengths: Sequence[int], size: int) -> list[list[int]]:
    """Row indices in batches of like length, longest first, so that a lack of memory shows in the first batch."""
    order = sorted(range(len(lengths)), key=lambda row: (-lengths[row], row))
    return [order[start : start + size] for start in range(0, len(order), size)]


@contextlib.contextmanager
def _without_own_config(model: Any) -> Iterator[None]:
    """Set the model's generation_config aside: transformers 5 takes from it what a passed config leaves open."""
    from transformers import GenerationConfig

    own, model.generation_config = model.generation_config, GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = own


def sampler(decode: Decode, seeds: Sequence[int], device: torch.device) -> list[Any]:
    """Logits processors after which argmax samples, with noise from one generator per row.

    argmax(logits + Gumbel noise) is a draw from softmax(logits) (Gumbel 1954; Maddison et al. 2014). torch.multinomial
    has one generator for the whole batch, so that the draws of a row would depend on the rows before it.
    """
    import torch
    from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

    generators = [torch.Generator(device).manual_seed(seed) for seed in seeds]

    def add_noise(_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        exponential = torch.empty_like(scores)
        for row, generator in zip(exponential, generators, strict=True):
            row.exponential_(generator=generator)
        return scores - exponential.log()  # minus the log of an exponential draw is a Gumbel draw

    top_k = [TopKLogitsWarper(decode.top_k)] if decode.top_k else []
    top_p = [TopPLogitsWarper(decode.top_p)] if decode.top_p < 1 else []
    return [TemperatureLogitsWarper(decode.temperature), *top_k, *top_p, add_noise]


def padded(prompts: Sequence[list[int]], pad: int | None, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and attention mask, both (prompts, longest), with padding on the left so that all prompts end together."""
    import torch

    width = max(len(prompt) for prompt in prompts)
    rows = [[pad or 0] * (width - len(prompt)) + prompt for prompt in prompts]
    mask = [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    return torch.tensor(rows, device=device), torch.tensor(mask, device=device)


def stopped(tokenizer: Any, stop: Sequence[str], rows: Sequence[list[int]]) -> list[bool]:
    """Whether the last tokens of each row of new tokens contain a stop string."""
    tail = max(len(text.encode()) for text in stop) + 4  # a token is at least a byte; 4 more for a cut character
    texts = tokenizer.batch_decode([row[-tail:] for row in rows], skip_special_tokens=True)
    return [any(word in text for word in stop) for text in texts]


def stop_criterion(tokenizer: Any, stop: Sequence[str], width: int) -> Callable[..., torch.Tensor]:
    """A stopping criterion for stop strings in the tokens after the first `width`.

    It keeps no state, since beams change places between two steps.
    """
    import torch

    def criterion(ids: torch.Tensor, _scores: Any, **_: Any) -> torch.Tensor:
        return torch.tensor(stopped(tokenizer, stop, ids[:, width:].tolist()), device=ids.device)

    return criterion


def read(new: list[int], n_prompt: int, tokenizer: Any, stops: Sequence[int], stop: Sequence[str]) -> Continuation:
    """The answer in a row of new tokens that may end in padding; `n_prompt` counts the tokens of its prompt."""
    if stop and any(word in tokenizer.decode(new, skip_special_tokens=True) for word in stop):
        # Padding may decode to an empty text or be a stop id, so the row is cut where the search ended it.
        ends = stopped(tokenizer, stop, [new[:end] for end in range(1, len(new) + 1)])
        new = new[: ends.index(True) + 1] if True in ends else new
    end = next((index for index, token in enumerate(new) if token in stops), None)
    ids = new if end is None else new[: end + 1]
    text = str(tokenizer.decode(new[:end], skip_special_tokens=True, clean_up_tokenization_spaces=False))
    cuts = [text.index(word) for word in stop if word in text]
    finish: Literal["stop", "length"] = "stop" if end is not None or cuts else "length"
    return Continuation(text[: min(cuts, default=len(text))], finish, n_prompt, len(ids), ids)


def answer(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[list[int]],
    decode: Decode,
    stops: Sequence[int],
    seeds: Sequence[int],
    processors: Sequence[Any] = (),
) -> list[Continuation]:
    """Continue one batch of prompts (ids with the generation prompt) to a stop id, a stop string or the limit.

    `stops` are token ids. There is one seed per prompt, used for sampling only; greedy and beam search ignore
    temperature, top_k and top_p. `processors` are called with (ids with left padding, scores) after the penalties and
    before sampling, and return scores.
    """
    import torch
    from transformers import GenerationConfig

    ids, mask = padded(prompts, tokenizer.pad_token_id, model.device)
    width = ids.shape[1]
    config = GenerationConfig(
        do_sample=False,
        num_beams=decode.num_beams,
        length_penalty=decode.length_penalty,
        repetition_penalty=decode.repetition_penalty,
        no_repeat_ngram_size=decode.no_repeat_ngram_size,
        max_new_tokens=decode.max_new_tokens,
        eos_token_id=list(stops),
        pad_token_id=tokenizer.pad_token_id,
    )
    draw = sampler(decode, seeds, ids.device) if decode.do_sample else []
    with torch.inference_mode(), _without_own_config(model):
        out = model.generate(
            input_ids=ids,
            attention_mask=mask,
            generation_config=config,
            logits_processor=[*processors, *draw],
            stopping_criteria=[stop_criterion(tokenizer, decode.stop, width)] if decode.stop else [],
        )
    pairs = zip(prompts, out[:, width:].tolist(), strict=True)
    return [read(new, len(prompt), tokenizer, stops, decode.stop) for prompt, new in pairs]


def likelihood(model: Any, ids: Sequence[int], labels: Sequence[int]) -> tuple[float, int]:
    """The sum of log-probabilities (nats) of the labelled tokens (label >= 0) of one row, and their number.

    A label has the index of its token, as in training; the shift by one is made here. One row at a time: a batch is no
    faster on the CPU (12,700 tokens/s at 16 rows, 13,300 at one) and would change the last bits of the sum.
    """
    import torch

    labelled = [index for index, label in enumerate(labels) if label >= 0 and index > 0]
    if not labelled:
        return 0.0, 0
    kept = len(ids) - labelled[0] + 1  # the logits one index before the first label predict it
    # Of a prompt of 1,000 tokens the logits over a vocabulary of 150,000 would fill 600 MB and not be read.
    limit = {"logits_to_keep": kept} if "logits_to_keep" in inspect.signature(model.forward).parameters else {}
    row = torch.tensor([list(ids)], device=model.device)
    with torch.inference_mode():
        logits = model(row, attention_mask=torch.ones_like(row), use_cache=False, **limit).logits[0, -kept:]
        indices = torch.tensor(labelled, device=model.device)
        scores = logits[indices - labelled[0]].float().log_softmax(-1).gather(-1, row[0, indices][:, None])
    return float(scores.double().sum()), len(labelled)

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

from anneal.params import Count, Section

if TYPE_CHECKING:
    import torch


class Decode(Section):
    """How an answer is drawn, in the terms of transformers; nothing is taken from a model's own generation_config."""

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


@dataclass(frozen=True)
class Continuation:
    """What a model wrote: text without stop token or stop string; n_new and ids hold the stop token too."""

    text: str
    finish: Literal["stop", "length"]
    n_prompt: int
    n_new: int
    ids: list[int]


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


def sampler(decode: Decode, seeds: Sequence[int], device: torch.device) -> list[Any]:
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


def padded(prompts: Sequence[list[int]], pad: int | None, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and attention mask of prompts that end together: padding stands on the left."""
    import torch

    width = max(len(prompt) for prompt in prompts)
    rows = [[pad or 0] * (width - len(prompt)) + prompt for prompt in prompts]
    mask = [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    return torch.tensor(rows, device=device), torch.tensor(mask, device=device)


def written(tokenizer: Any, stop: Sequence[str], rows: Sequence[list[int]]) -> list[bool]:
    """Whether a stop string stands in the last tokens of each row of new tokens."""
    tail = max(len(text.encode()) for text in stop) + 4  # a token is at least a byte; four more for a cut character
    texts = tokenizer.batch_decode([row[-tail:] for row in rows], skip_special_tokens=True)
    return [any(word in text for word in stop) for text in texts]


def watch(tokenizer: Any, stop: Sequence[str], width: int) -> Callable[..., torch.Tensor]:
    """A criterion that ends a row whose last new tokens hold a stop string. It keeps no state: beams change places."""
    import torch

    def criterion(ids: torch.Tensor, _scores: Any, **_: Any) -> torch.Tensor:
        return torch.tensor(written(tokenizer, stop, ids[:, width:].tolist()), device=ids.device)

    return criterion


def read(new: list[int], prompt: int, tokenizer: Any, stops: Sequence[int], stop: Sequence[str]) -> Continuation:
    """The answer in a row of new tokens and the padding after them; `prompt` is the length of its prompt."""
    if stop and any(word in tokenizer.decode(new, skip_special_tokens=True) for word in stop):
        # Padding may decode to nothing or to a stop id, so the row is cut where the search ended it.
        ends = written(tokenizer, stop, [new[:end] for end in range(1, len(new) + 1)])
        new = new[: ends.index(True) + 1] if True in ends else new
    end = next((number for number, token in enumerate(new) if token in stops), None)
    kept = new if end is None else new[: end + 1]
    text = str(tokenizer.decode(new[:end], skip_special_tokens=True, clean_up_tokenization_spaces=False))
    cuts = [text.index(word) for word in stop if word in text]
    finish: Literal["stop", "length"] = "stop" if end is not None or cuts else "length"
    return Continuation(text[: min(cuts, default=len(text))], finish, prompt, len(kept), kept)


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

    One seed per prompt, used when sampling only. Greedy and beam search ignore temperature, top_k and top_p.
    `processors` change the scores (ids of all rows with left padding, scores) after the penalties and before sampling.
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
    with torch.inference_mode(), _plain(model):
        out = model.generate(
            input_ids=ids,
            attention_mask=mask,
            generation_config=config,
            logits_processor=[*processors, *draw],
            stopping_criteria=[watch(tokenizer, decode.stop, width)] if decode.stop else [],
        )
    pairs = zip(prompts, out[:, width:].tolist(), strict=True)
    return [read(new, len(prompt), tokenizer, stops, decode.stop) for prompt, new in pairs]


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

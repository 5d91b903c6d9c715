"""A decode loop of our own, in plain tensors: greedy, sampling and beam search over a key-value cache.

Token for token what transformers' `generate` writes (5.23, early_stopping at its default), which the tests hold it to;
here the whole search can be read, and a model needs nothing but a forward call with a cache.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from anneal.decoding import generate
from anneal.decoding.generate import Continuation, Decode

if TYPE_CHECKING:
    import torch

_NEVER = -1e9  # a score that no sequence of tokens reaches; -inf would make ties of all of them
Process = Callable[["torch.Tensor", "torch.Tensor"], "torch.Tensor"]


class Reader:
    """A model at the end of its rows: takes the new tokens of each, keeps keys and values of the old ones."""

    def __init__(self, model: Any, mask: torch.Tensor) -> None:
        known = inspect.signature(model.forward).parameters
        self.model, self.mask, self.cache = model, mask, None
        self.placed = "position_ids" in known
        self.last = {"logits_to_keep": 1} if "logits_to_keep" in known else {}

    def scores(self, fresh: torch.Tensor) -> torch.Tensor:
        """Logits after the last of the fresh tokens, rows x vocabulary, in float32."""
        import torch

        # Padding takes no place: a row has the positions that it would have alone.
        places = (self.mask.cumsum(-1) - 1).clamp(min=0)[:, -fresh.shape[1] :]
        options = {"position_ids": places, **self.last} if self.placed else self.last
        out = self.model(fresh, attention_mask=self.mask, past_key_values=self.cache, use_cache=True, **options)
        self.cache = out.past_key_values
        self.mask = torch.cat([self.mask, torch.ones_like(self.mask[:, :1])], dim=-1)
        logits: torch.Tensor = out.logits[:, -1]
        return logits.to(torch.float32, copy=True)

    def repeat(self, times: int) -> None:
        """Each row `times` times, one below the other: a prompt is read once for all of its beams."""
        self.mask = self.mask.repeat_interleave(times, 0)
        self.cache.batch_repeat_interleave(times)  # type: ignore[attr-defined]

    def pick(self, rows: torch.Tensor) -> None:
        """Go on from these rows, in this order. The mask stays: beams of one prompt share their padding."""
        self.cache.reorder_cache(rows)  # type: ignore[attr-defined]


def penalties(settings: Decode, mask: torch.Tensor) -> list[Process]:
    """What `generate` puts before all other processors, in its order; padding is not counted as a repetition."""
    from transformers import NoRepeatNGramLogitsProcessor, RepetitionPenaltyLogitsProcessor

    found: list[Process] = []
    if settings.repetition_penalty != 1:
        padding = (mask == 0).sum(-1)
        found.append(RepetitionPenaltyLogitsProcessor(settings.repetition_penalty, prompt_ignore_length=padding))
    if settings.no_repeat_ngram_size:
        found.append(NoRepeatNGramLogitsProcessor(settings.no_repeat_ngram_size))
    return found


def _chain(processors: Sequence[Process]) -> Process:
    def process(ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        for processor in processors:
            scores = processor(ids, scores)
        return scores

    return process


def line(reader: Reader, ids: torch.Tensor, process: Process, limit: int, ended: Process, pad: int) -> list[list[int]]:
    """One token at a time, the best one of each row, until every row has `ended` or `limit` tokens are written."""
    import torch

    width, fresh = ids.shape[1], ids
    done = torch.zeros(len(ids), dtype=torch.bool, device=ids.device)
    for _ in range(limit):
        best = process(ids, reader.scores(fresh)).argmax(-1)
        fresh = best.masked_fill(done, pad)[:, None]
        ids = torch.cat([ids, fresh], dim=-1)
        done = done | ended(ids, fresh)
        if bool(done.all()):
            break
    return ids[:, width:].tolist()


@dataclass
class Finished:
    """The best ended sequences of one prompt, of which there are at most `size`, by score over length ** penalty."""

    size: int
    penalty: float
    best: list[tuple[float, list[int]]] = field(default_factory=list)
    open: bool = True

    def offer(self, score: float, tokens: list[int]) -> None:
        ranked = [*self.best, (score / len(tokens) ** self.penalty, tokens)]
        self.best = sorted(ranked, key=lambda found: -found[0])[: self.size]

    def close(self, running: float, length: int) -> None:
        """Ends the search where the best running beam, ended now, would not beat the worst that is kept.

        A guess for penalties above 0, under which a longer sequence may still win; `generate` makes the same one.
        """
        full = len(self.best) == self.size
        self.open = self.open and not (full and running / length**self.penalty <= self.best[-1][0])


def beams(
    reader: Reader, ids: torch.Tensor, process: Process, settings: Decode, ended: Process, spare: int
) -> list[list[int]]:
    """The best sequence of each prompt by beam search; `spare` candidates a beam, so that enough of them go on."""
    import torch

    (rows, width), size, limit = ids.shape, settings.num_beams, settings.max_new_tokens
    kept = [Finished(size, settings.length_penalty) for _ in range(rows)]
    logits = reader.scores(ids).repeat_interleave(size, 0)
    reader.repeat(size)
    ids = ids.repeat_interleave(size, 0)
    first = torch.arange(rows, device=ids.device)[:, None] * size  # where the beams of each prompt begin
    running = torch.full((rows, size), _NEVER, device=ids.device)
    running[:, 0] = 0  # all beams of a prompt are the same yet: only one of them may be continued
    for length in range(1, limit + 1):
        scores = process(ids, logits.log_softmax(-1))
        total = (scores.view(rows, size, -1) + running[:, :, None]).view(rows, -1)
        best, places = total.topk(spare * size)
        parents = first + places // scores.shape[-1]
        candidates = torch.cat([ids[parents], (places % scores.shape[-1])[..., None]], dim=-1)
        flat = candidates.view(rows * spare * size, -1)
        over = ended(flat, flat[:, -1:]).view(rows, -1) | (length == limit)
        # Only the first `size` candidates may end; one behind them ends with a worse score than a beam that goes on.
        for row, rank in over[:, :size].nonzero().tolist():
            if kept[row].open:
                kept[row].offer(float(best[row, rank]), candidates[row, rank, width:].tolist())
        running, chosen = (best + over * _NEVER).topk(size)
        for row, state in enumerate(kept):
            state.close(float(running[row, 0]), length)
        if length == limit or not any(state.open for state in kept):
            break
        ids = candidates.gather(1, chosen[..., None].expand(-1, -1, width + length)).view(rows * size, -1)
        reader.pick(parents.gather(1, chosen).view(-1))
        logits = reader.scores(ids[:, -1:])
    return [state.best[0][1] for state in kept]


def answer(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[list[int]],
    settings: Decode,
    stops: Sequence[int],
    seeds: Sequence[int],
    processors: Sequence[Process] = (),
) -> list[Continuation]:
    """Continue one batch of prompts; arguments and result are those of decode.answer."""
    import torch

    ids, mask = generate.padded(prompts, tokenizer.pad_token_id, model.device)
    width, last = ids.shape[1], torch.tensor(list(stops), dtype=torch.long, device=ids.device)
    found_word = generate.watch(tokenizer, settings.stop, width) if settings.stop else None

    def ended(rows: torch.Tensor, fresh: torch.Tensor) -> torch.Tensor:
        hit = torch.isin(fresh[:, -1], last)
        return hit | found_word(rows, None) if found_word else hit

    with torch.inference_mode():
        reader, repeated = Reader(model, mask), mask.repeat_interleave(settings.num_beams, 0)
        before = [*penalties(settings, repeated), *processors]
        if settings.num_beams > 1:
            new = beams(reader, ids, _chain(before), settings, ended, max(2, 1 + len(last)))
        else:
            draw = generate.sampler(settings, seeds, ids.device) if settings.do_sample else []
            pad = tokenizer.pad_token_id or 0
            new = line(reader, ids, _chain([*before, *draw]), settings.max_new_tokens, ended, pad)
    pairs = zip(prompts, new, strict=True)
    return [generate.read(row, len(prompt), tokenizer, stops, settings.stop) for prompt, row in pairs]

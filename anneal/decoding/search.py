"""A decoding loop in plain tensors: greedy, sampling and beam search over a key-value cache.

It writes the same tokens as transformers' `generate` (5.23, early_stopping at its default), as the tests check. The
whole search can be read here, and a model needs only a forward call with a cache.
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

_NEVER = -1e9  # a score that no sequence reaches; with -inf all such sequences would tie
# (ids so far, scores of the next token) -> scores, or which rows have ended.
Process = Callable[["torch.Tensor", "torch.Tensor"], "torch.Tensor"]


class Reader:
    """A model with its key-value cache: reads the new tokens of each row, keeps keys and values of the old ones."""

    def __init__(self, model: Any, mask: torch.Tensor) -> None:
        parameters = inspect.signature(model.forward).parameters
        self.model = model
        self.mask = mask  # (rows, tokens so far), 0 for padding
        self.cache = None
        self.takes_positions = "position_ids" in parameters
        self.options = {"logits_to_keep": 1} if "logits_to_keep" in parameters else {}

    def scores(self, fresh: torch.Tensor) -> torch.Tensor:
        """Logits (rows, vocabulary) after the last of the fresh tokens (rows, new), in float32."""
        import torch

        # Padding has no position: a row has the positions that it would have alone.
        positions = (self.mask.cumsum(-1) - 1).clamp(min=0)[:, -fresh.shape[1] :]
        options = {"position_ids": positions, **self.options} if self.takes_positions else self.options
        out = self.model(fresh, attention_mask=self.mask, past_key_values=self.cache, use_cache=True, **options)
        self.cache = out.past_key_values
        self.mask = torch.cat([self.mask, torch.ones_like(self.mask[:, :1])], dim=-1)
        logits: torch.Tensor = out.logits[:, -1]
        return logits.to(torch.float32, copy=True)

    def repeat(self, times: int) -> None:
        """Repeat each row `times` times in place, so that a prompt is read once for all of its beams."""
        self.mask = self.mask.repeat_interleave(times, 0)
        self.cache.batch_repeat_interleave(times)  # type: ignore[attr-defined]

    def pick(self, rows: torch.Tensor) -> None:
        """Continue from these rows, in this order. The mask stays: beams of one prompt share their padding."""
        self.cache.reorder_cache(rows)  # type: ignore[attr-defined]


def penalties(settings: Decode, mask: torch.Tensor) -> list[Process]:
    """The processors that `generate` applies first, in its order; padding does not count as a repetition."""
    from transformers import NoRepeatNGramLogitsProcessor, RepetitionPenaltyLogitsProcessor

    processors: list[Process] = []
    if settings.repetition_penalty != 1:
        padding = (mask == 0).sum(-1)
        processors.append(RepetitionPenaltyLogitsProcessor(settings.repetition_penalty, prompt_ignore_length=padding))
    if settings.no_repeat_ngram_size:
        processors.append(NoRepeatNGramLogitsProcessor(settings.no_repeat_ngram_size))
    return processors


def _chain(processors: Sequence[Process]) -> Process:
    def process(ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        for processor in processors:
            scores = processor(ids, scores)
        return scores

    return process


def search_line(
    reader: Reader, ids: torch.Tensor, process: Process, limit: int, ended: Process, pad: int
) -> list[list[int]]:
    """Take the best token of each row until every row has `ended` or has `limit` new tokens; return the new tokens."""
    import torch

    width = ids.shape[1]
    fresh = ids
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
    """The best ended sequences of one prompt, at most `size`, ranked by score / length ** penalty."""

    size: int
    penalty: float
    best: list[tuple[float, list[int]]] = field(default_factory=list)
    open: bool = True

    def offer(self, score: float, tokens: list[int]) -> None:
        """Keep an ended sequence if it is among the best; `score` is its log-probability in nats."""
        ranked = [*self.best, (score / len(tokens) ** self.penalty, tokens)]
        self.best = sorted(ranked, key=lambda pair: -pair[0])[: self.size]

    def close(self, running: float, length: int) -> None:
        """End the search if the best running beam, ended now, would not beat the worst kept sequence.

        For penalties above 0 this is a heuristic, as a longer sequence may still win; `generate` has the same one.
        """
        full = len(self.best) == self.size
        self.open = self.open and not (full and running / length**self.penalty <= self.best[-1][0])


def search_beams(
    reader: Reader, ids: torch.Tensor, process: Process, settings: Decode, ended: Process, spare: int
) -> list[list[int]]:
    """The best sequence of each prompt by beam search.

    Each step takes `spare` candidates per beam, so that enough of them can continue when others end.
    """
    import torch

    rows, width = ids.shape
    size, limit = settings.num_beams, settings.max_new_tokens
    kept = [Finished(size, settings.length_penalty) for _ in range(rows)]
    logits = reader.scores(ids).repeat_interleave(size, 0)
    reader.repeat(size)
    ids = ids.repeat_interleave(size, 0)
    first = torch.arange(rows, device=ids.device)[:, None] * size  # index of the first beam of each prompt
    running = torch.full((rows, size), _NEVER, device=ids.device)
    running[:, 0] = 0  # all beams of a prompt are equal at first, so only one of them is continued
    for length in range(1, limit + 1):
        scores = process(ids, logits.log_softmax(-1))
        total = (scores.view(rows, size, -1) + running[:, :, None]).view(rows, -1)
        # A flat index over (beam, token): of each prompt the best continuations of all its beams.
        best, indices = total.topk(spare * size)
        parents = first + indices // scores.shape[-1]
        candidates = torch.cat([ids[parents], (indices % scores.shape[-1])[..., None]], dim=-1)
        flat = candidates.view(rows * spare * size, -1)
        over = ended(flat, flat[:, -1:]).view(rows, -1) | (length == limit)
        # Only the first `size` candidates may end: a later one has a lower score than a beam that continues.
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
    """Continue one batch of prompts; arguments and result are those of generate.answer."""
    import torch

    ids, mask = generate.padded(prompts, tokenizer.pad_token_id, model.device)
    stop_ids = torch.tensor(list(stops), dtype=torch.long, device=ids.device)
    stop_text = generate.stop_criterion(tokenizer, settings.stop, ids.shape[1]) if settings.stop else None

    def ended(rows: torch.Tensor, fresh: torch.Tensor) -> torch.Tensor:
        by_id = torch.isin(fresh[:, -1], stop_ids)
        return by_id | stop_text(rows, None) if stop_text else by_id

    with torch.inference_mode():
        reader = Reader(model, mask)
        repeated = mask.repeat_interleave(settings.num_beams, 0)
        before = [*penalties(settings, repeated), *processors]
        if settings.num_beams > 1:
            new = search_beams(reader, ids, _chain(before), settings, ended, max(2, 1 + len(stop_ids)))
        else:
            draw = generate.sampler(settings, seeds, ids.device) if settings.do_sample else []
            pad = tokenizer.pad_token_id or 0
            new = search_line(reader, ids, _chain([*before, *draw]), settings.max_new_tokens, ended, pad)
    pairs = zip(prompts, new, strict=True)
    return [generate.read(row, len(prompt), tokenizer, stops, settings.stop) for prompt, row in pairs]

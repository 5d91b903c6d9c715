"""Pretraining: the steps that turn a corpus into a tiny model, the same bytes for the same params on one machine."""

from __future__ import annotations

import math
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from anneal.tiny.architecture import Base
from anneal.tiny.documents import Document, Source

BLOCK = 8  # batches that are drawn together and sorted by length; a checkpoint falls between two blocks
KEEP = 25  # blocks from one checkpoint to the next, a minute of work


def encode(tokens: Any, parts: Document, longest: int) -> tuple[list[int], list[float]]:
    """Ids of a document and the weight of each, cut at `longest`."""
    pieces = tokens([text for text, _ in parts], add_special_tokens=False)["input_ids"]
    ids = [i for piece in pieces for i in piece]
    weights = [weight for piece, (_, weight) in zip(pieces, parts, strict=True) for _ in piece]
    return ids[:longest], weights[:longest]


def batches(corpus: Source, tokens: Any, base: Base, first: int) -> Iterator[tuple[Any, Any]]:
    """Padded (ids, weights) from step `first` on, a multiple of BLOCK; each block has its own generator, so that a
    run that continues sees the documents an unbroken one sees. One document a row: no second sheet is in sight."""
    import torch

    for block in range(first // BLOCK, math.ceil(base.steps / BLOCK)):
        rng = random.Random(f"{base.seed}/documents/{block}")
        dense = 0.7 if block * BLOCK < base.dense * base.steps else 0.03
        rows = [corpus.document(rng, dense) for _ in range(BLOCK * base.batch_size)]
        coded = sorted((encode(tokens, row, base.max_length) for row in rows), key=lambda row: len(row[0]))
        starts = list(range(0, len(coded), base.batch_size))
        rng.shuffle(starts)
        for start in starts:
            batch = coded[start : start + base.batch_size]
            ids = torch.full((len(batch), max(len(i) for i, _ in batch)), tokens.pad_token_id)
            weights = torch.zeros(ids.shape)
            for row, (i, w) in enumerate(batch):
                ids[row, : len(i)], weights[row, : len(w)] = torch.tensor(i), torch.tensor(w)
            yield ids, weights


def loss(model: Any, ids: Any, weights: Any) -> Any:
    """Weighted mean cross entropy of the next token, nats. Padding stands at the right and weighs nothing."""
    import torch

    with torch.autocast("cpu", torch.bfloat16):
        hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1]
        targets, weights = ids[:, 1:], weights[:, 1:]
        kept = weights > 0  # the output layer is a fifth of the work: only for positions that count
        logits = model.lm_head(hidden[kept]).float()
    each = torch.nn.functional.cross_entropy(logits, targets[kept], reduction="none")
    return (each * weights[kept]).sum() / weights[kept].sum()


def rate(step: int, base: Base) -> float:
    """The share of the learning rate at a step: warm-up, constant, then a line down to 3%."""
    left = (base.steps - step) / (base.decay * base.steps)
    return min(1.0, (step + 1) / base.warmup_steps) * max(0.03, min(1.0, left))


def _optimizers(model: Any, base: Base) -> list[Any]:
    import torch

    matrix = {n: p.ndim == 2 and "embed" not in n for n, p in model.named_parameters()}
    inner = [p for n, p in model.named_parameters() if matrix[n]]
    outer = [p for n, p in model.named_parameters() if not matrix[n]]
    return [
        torch.optim.Muon(inner, lr=base.muon_learning_rate, weight_decay=0.01, momentum=0.95, adjust_lr_fn="original"),
        torch.optim.AdamW(outer, lr=base.learning_rate, betas=(0.9, 0.95), weight_decay=0.0, fused=True),
    ]


def train(model: Any, tokens: Any, corpus: Source, base: Base, kept: Path, say: Callable[[int, float], None]) -> None:
    """Train in place. Every KEEP blocks the state goes to the file `kept`, where a later call goes on."""
    import torch

    optimizers, step = _optimizers(model, base), 0
    if kept.exists():
        state = torch.load(kept)
        step = state["step"]
        model.load_state_dict(state["model"])
        for optimizer, values in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(values)
    model.train()
    # On a CPU the backward pass of torch's fused attention takes a third of a step; plain attention a tenth.
    model.set_attn_implementation("eager")
    for ids, weights in batches(corpus, tokens, base, step):
        if step == base.steps:
            break
        for optimizer, full in zip(optimizers, (base.muon_learning_rate, base.learning_rate), strict=True):
            optimizer.param_groups[0]["lr"] = full * rate(step, base)
        value = loss(model, ids, weights)
        value.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        model.zero_grad(set_to_none=True)
        step += 1
        say(step, value.item())
        if step % (KEEP * BLOCK) == 0 or step == base.steps:
            state = {"step": step, "model": model.state_dict(), "optimizers": [o.state_dict() for o in optimizers]}
            torch.save(state, kept.with_suffix(".tmp"))
            os.replace(kept.with_suffix(".tmp"), kept)
    model.eval()

"""Pretraining of a tiny model on a corpus. The same params give the same bytes on one machine."""

from __future__ import annotations

import math
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from anneal.tiny.architecture import Base
from anneal.tiny.documents import Document, Source

BLOCK = 8  # batches that are drawn together and sorted by length; checkpoints are written between blocks
KEEP = 25  # blocks from one checkpoint to the next, a minute of work
# The probability of a drill, in the first share `base.dense` of the steps and after it.
DENSE_EARLY, DENSE_LATE = 0.7, 0.03
FLOOR = 0.03  # the least share of the learning rate, at the end of the decay


def encode(tokens: Any, parts: Document, longest: int) -> tuple[list[int], list[float]]:
    """Token ids of a document and the weight of each, cut at `longest` tokens."""
    pieces = tokens([text for text, _ in parts], add_special_tokens=False)["input_ids"]
    ids = [token for piece in pieces for token in piece]
    weights = [weight for piece, (_, weight) in zip(pieces, parts, strict=True) for _ in piece]
    return ids[:longest], weights[:longest]


def batches(corpus: Source, tokens: Any, base: Base, first: int) -> Iterator[tuple[Any, Any]]:
    """Batches (ids, weights), each (rows, tokens), padded at the right, from step `first` on, a multiple of BLOCK.

    Each block has its own generator, so that a resumed run sees the documents of an uninterrupted one. A row holds one
    document: with several packed into a row the model could attend to another sheet.
    """
    import torch

    for block in range(first // BLOCK, math.ceil(base.steps / BLOCK)):
        rng = random.Random(f"{base.seed}/documents/{block}")
        dense = DENSE_EARLY if block * BLOCK < base.dense * base.steps else DENSE_LATE
        rows = [corpus.document(rng, dense) for _ in range(BLOCK * base.batch_size)]
        # Sorted by length, so that a batch holds little padding; the order of the batches is random.
        encoded = sorted((encode(tokens, row, base.max_length) for row in rows), key=lambda row: len(row[0]))
        starts = list(range(0, len(encoded), base.batch_size))
        rng.shuffle(starts)
        for start in starts:
            batch = encoded[start : start + base.batch_size]
            ids = torch.full((len(batch), max(len(row_ids) for row_ids, _ in batch)), tokens.pad_token_id)
            weights = torch.zeros(ids.shape)
            for index, (row_ids, row_weights) in enumerate(batch):
                ids[index, : len(row_ids)] = torch.tensor(row_ids)
                weights[index, : len(row_weights)] = torch.tensor(row_weights)
            yield ids, weights


def loss(model: Any, ids: Any, weights: Any) -> Any:
    """Weighted mean cross entropy of the next token, in nats; padding has weight 0."""
    import torch

    with torch.autocast("cpu", torch.bfloat16):
        hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1]
        targets, weights = ids[:, 1:], weights[:, 1:]
        mask = weights > 0  # the output layer is a fifth of the work: only for positions that count
        logits = model.lm_head(hidden[mask]).float()
    losses = torch.nn.functional.cross_entropy(logits, targets[mask], reduction="none")
    return (losses * weights[mask]).sum() / weights[mask].sum()


def rate(step: int, base: Base) -> float:
    """The share of the learning rate at a step: linear warm-up, constant, then a linear decay to FLOOR."""
    warmup = min(1.0, (step + 1) / base.warmup_steps)
    decay = (base.steps - step) / (base.decay * base.steps)
    return warmup * max(FLOOR, min(1.0, decay))


def _optimizers(model: Any, base: Base) -> list[Any]:
    """Muon for the weight matrices and AdamW for embeddings, biases and norms."""
    import torch

    matrices: list[Any] = []
    others: list[Any] = []
    for name, parameter in model.named_parameters():
        is_matrix = parameter.ndim == 2 and "embed" not in name
        (matrices if is_matrix else others).append(parameter)
    return [
        torch.optim.Muon(
            matrices, lr=base.muon_learning_rate, weight_decay=0.01, momentum=0.95, adjust_lr_fn="original"
        ),
        torch.optim.AdamW(others, lr=base.learning_rate, betas=(0.9, 0.95), weight_decay=0.0, fused=True),
    ]


def train(model: Any, tokens: Any, corpus: Source, base: Base, kept: Path, say: Callable[[int, float], None]) -> None:
    """Train in place; `say` gets each step and its loss.

    Every KEEP blocks the state is saved in the file `kept`, from which a later call resumes.
    """
    import torch

    optimizers = _optimizers(model, base)
    step = 0
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
        for optimizer, peak in zip(optimizers, (base.muon_learning_rate, base.learning_rate), strict=True):
            optimizer.param_groups[0]["lr"] = peak * rate(step, base)
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
            # Written beside and renamed, so that a killed run leaves no half-written checkpoint.
            torch.save(state, kept.with_suffix(".tmp"))
            os.replace(kept.with_suffix(".tmp"), kept)
    model.eval()

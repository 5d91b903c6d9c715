"""The token budget of a training set: its tokens, the steps of its schedule, and warnings where the two do not fit.

Pure arithmetic. The limits are rules of thumb, each with its reason beside it. A warning states the number, the limit
and the remedy, and stops nothing.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

QUANTILES = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99, "max": 1.0}

FEW_TOKENS = 50_000  # learnt ones; below, a large model learns the form of the answers and little else
OVER = 0.05  # share of the rows over the length limit, beyond which the data is another set than the one collected
SHORT, SHORT_SHARE = 8, 0.01  # tokens of a completion, with its stop, that is hardly an answer
ALIKE = 0.01  # share of the rows whose prompt another row has: the same question with two answers
FEW_STEPS = 100  # updates; warm-up and decay of a schedule leave nothing in between
MANY_EPOCHS = {0: 20, 1_000: 10, 10_000: 4}  # rows -> epochs beyond which most of what is gained is memory
WIDE_BATCH = 0.1  # share of the rows that one update may see
TOKENS_PER_PARAMETER = 0.1  # learnt tokens seen, all epochs together, for each trainable weight
SPEED = 6000.0  # tokens a second: a model of two million weights on one core, where no run was measured


class Row(NamedTuple):
    """Tokens of a row: those of the two messages alone, the whole prompt, the completion with its stop."""

    system: int
    user: int
    prompt: int
    completion: int


class Shape(NamedTuple):
    """What else the warnings need to know about the rows."""

    instructions: int  # different ones among the rows: wordings, or the records' own
    repeated: int  # rows whose prompt stands in an earlier row
    over: int  # rows that are over the length limit
    maskable: int  # all rows that could be measured, those over the limit too


class Plan(NamedTuple):
    """A schedule in numbers; `tokens` counts every pass over every token."""

    steps_per_epoch: int
    steps: int
    tokens: int
    warnings: list[str]


def spread(lengths: Sequence[int]) -> dict[str, int]:
    """Nearest-rank quantiles."""
    ranked = sorted(lengths)
    return {name: ranked[max(math.ceil(q * len(ranked)), 1) - 1] if ranked else 0 for name, q in QUANTILES.items()}


def fields(rows: Sequence[Row]) -> dict[str, int]:
    """Tokens of all rows by field; `template` is what the chat template writes around the messages of the prompt."""
    system, user, prompt, completion = (sum(column) for column in zip(*rows, strict=True)) if rows else (0, 0, 0, 0)
    counts = {"system": system, "user": user, "template": prompt - system - user, "completion": completion}
    return {**counts, "total": prompt + completion}


def warnings(rows: Sequence[Row], shape: Shape) -> list[str]:
    """Warnings about the data, whatever its schedule."""
    messages: list[str] = []
    if shape.instructions == 1 and len(rows) > 1:
        messages.append("one wording only: the model learns to answer this sentence; write more into wordings.md")
    learnt = sum(row.completion for row in rows)
    if learnt < FEW_TOKENS:
        messages.append(
            f"few tokens: {learnt} are learnt, fewer than {FEW_TOKENS}; add records, or expect form over content"
        )
    if shape.over > OVER * shape.maskable:
        share = shape.over / shape.maskable
        messages.append(f"too long: {share:.1%} of the rows are over format.max_length, more than {OVER:.0%}; raise it")
    short = sum(row.completion < SHORT for row in rows)
    if short > SHORT_SHARE * len(rows):
        messages.append(
            f"short answers: {short} completions have fewer than {SHORT} tokens; look whether they were cut"
        )
    if shape.repeated > ALIKE * len(rows):
        messages.append(
            f"repeated prompts: {shape.repeated} rows ask what an earlier row asks; tell them apart or drop them"
        )
    return messages


def plan(
    tokens: int, rows: int, epochs: int, batch_size: int, accumulation: int, parameters: int | None = None
) -> Plan:
    """Steps of a schedule, and its warnings; `tokens` of one epoch, `parameters` trainable ones if known.

    Counted as the trainer counts: the last batch of an epoch may be smaller and is a batch, and gradients that are
    added up at the end of an epoch make a step of their own.
    """
    steps_per_epoch = math.ceil(math.ceil(rows / batch_size) / accumulation)
    steps = steps_per_epoch * epochs
    tokens_seen = tokens * epochs
    batch = batch_size * accumulation
    messages: list[str] = []
    if steps < FEW_STEPS:
        messages.append(f"few steps: {steps} updates, fewer than {FEW_STEPS}; raise epochs or lower the batch size")
    most = next(most for least, most in reversed(MANY_EPOCHS.items()) if rows >= least)
    if epochs > most:
        messages.append(
            f"many epochs: {epochs} over {rows} rows, more than {most}; watch the validation loss, or stop early"
        )
    if rows and batch > max(1, WIDE_BATCH * rows):
        messages.append(
            f"wide batch: {batch} of {rows} rows in one update, more than {WIDE_BATCH:.0%}; lower the batch size"
        )
    if parameters and tokens_seen < TOKENS_PER_PARAMETER * parameters:
        ratio = f"{tokens_seen / parameters:.3f} tokens for each of {parameters} trainable weights"
        messages.append(f"few tokens for the adapter: {ratio}, fewer than {TOKENS_PER_PARAMETER}; lower train.lora.r")
    return Plan(steps_per_epoch, steps, tokens_seen, messages)


def speed(times: Path) -> tuple[float, bool]:
    """Tokens a second of the last measured training here, and True; the default and False where none was measured."""
    latest = SPEED, False
    for line in times.read_text("utf-8").splitlines() if times.is_file() else []:
        try:
            row: Any = json.loads(line)
            latest = (float(row["tokens_per_second"]), True) if row.get("tokens_per_second", 0) > 0 else latest
        except (ValueError, TypeError, AttributeError):
            continue  # a line that another version wrote, or half of one
    return latest


def estimate(tokens: int, times: Path) -> str:
    """One line for people: how long an epoch takes on this machine. Never for a file that is compared."""
    rate, measured = speed(times)
    seconds = tokens / rate
    duration = f"{seconds / 60:.1f} min" if seconds >= 60 else f"{seconds:.0f} s"
    basis = "as the last training here" if measured else "assumed, no training was measured here"
    return f"{tokens} tokens, about {duration} an epoch at {rate:.0f} tokens/s ({basis})"

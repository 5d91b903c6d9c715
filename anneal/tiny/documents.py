"""Documents: what a tiny model learns from, whoever draws them."""

from __future__ import annotations

import random
from typing import Protocol

START, END, STOP = "<|im_start|>", "<|im_end|>", "<|endoftext|>"
# Weights of the loss: what a random draw decided cannot be predicted, so that questions weigh little.
GIVEN, ANSWER = 0.1, 1.0
VERSION = 1  # raise it when the same folder and params give another model: shipped ones are found by it
Document = list[tuple[str, float]]  # pieces of text, each with its weight


class Source(Protocol):
    """Whole-word tokens, characters by falling frequency, and documents without end."""

    words: list[str]
    characters: list[str]
    held_out: list[str]  # what no document may hold

    def document(self, rng: random.Random, dense: float) -> Document:
        """A fresh one, a drill of repetition with probability `dense`."""
        ...

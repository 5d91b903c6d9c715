"""Documents: the weighted texts that a tiny model is trained on, and the protocol of the corpora that draw them."""

from __future__ import annotations

import random
from typing import Protocol

START, END, STOP = "<|im_start|>", "<|im_end|>", "<|endoftext|>"
# Weights of the loss. The text of a question is decided by a random draw and cannot be predicted: it weighs little.
GIVEN, ANSWER = 0.1, 1.0
# Raise it when the same folder and params give another model: it is part of the id by which shipped models are found.
VERSION = 1
Document = list[tuple[str, float]]  # pieces of text, each with its weight


class Source(Protocol):
    """A corpus: whole-word tokens, characters by falling frequency, and an endless supply of documents."""

    words: list[str]
    characters: list[str]
    held_out: list[str]  # texts that no document may hold

    def document(self, rng: random.Random, dense: float) -> Document:
        """Draw a document; with probability `dense` it is a drill of repetition."""
        ...

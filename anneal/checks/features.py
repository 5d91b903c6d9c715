"""A text as numbers: named features of any text, and fields of a text that holds JSON."""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from anneal import similarity

_SENTENCE = re.compile(r"[。！？!?…\n]+|\.(?!\d)")  # the point of 0.5% ends no sentence


def _share(words: str, wanted: Callable[[str], bool]) -> float:
    return sum(map(wanted, words)) / max(1, len(words))


def sentences(words: str) -> list[int]:
    """Characters of each sentence; one of no characters for a text without any."""
    return [len(part) for part in map(str.strip, _SENTENCE.split(words)) if part] or [0]


def _repetition(words: str) -> float:
    """Share of the character 4-grams that the text has used before."""
    grams = similarity.ngrams(words, 4)
    return 1 - len(set(grams)) / max(1, len(grams)) if grams else 0.0


FEATURES: dict[str, Callable[[str], float]] = {
    "length": len,
    "sentences": lambda words: len(sentences(words)),
    "sentence_length": lambda words: sum(sentences(words)) / len(sentences(words)),
    "longest_sentence": lambda words: max(sentences(words)),
    "punctuation": lambda words: _share(words, lambda c: unicodedata.category(c)[0] in "PS"),
    "digits": lambda words: _share(words, str.isdigit),
    "latin": lambda words: _share(words, lambda c: c.isascii() and c.isalpha()),
    "distinct": lambda words: len(set(words)) / max(1, len(words)),
    "repetition": _repetition,
}


def field(record: Mapping[str, Any], path: str) -> Any:
    """The value at a dotted path (`boxes.0.width`) of the JSON in the record's text, or None."""
    try:
        value = json.loads(record["text"])
        for part in path.split("."):
            value = value[int(part)] if isinstance(value, list) else value[part]
    except (ValueError, KeyError, IndexError, TypeError, RecursionError):
        return None
    return value


def _number(record: Mapping[str, Any], name: str, log: Collection[str]) -> float:
    value = FEATURES[name](record["text"]) if name in FEATURES else field(record, name)
    if isinstance(value, bool) or not isinstance(value, int | float) or (name in log and value < 0):
        return math.nan
    try:
        return math.log1p(value) if name in log else float(value)
    except OverflowError:  # a model may write a number of four hundred digits
        return math.nan


def values(records: Sequence[Mapping[str, Any]], names: Sequence[str], log: Collection[str]) -> npt.NDArray[np.float64]:
    """Shape (records, names): features, or JSON fields where a name is no feature; NaN where there is no number.

    Those named in `log` are taken as log(1 + value).
    """
    rows = [[_number(record, name, log) for name in names] for record in records]
    return np.array(rows, dtype=np.float64).reshape(len(records), len(names))

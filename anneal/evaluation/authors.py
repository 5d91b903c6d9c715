"""Several authors side by side: texts written as each of them, against each author's own, and what was learnt by heart.

The author that a text is written as is the subject, every other one the control: a text that is as near to the control
has no style of anybody's.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from anneal.errors import UserError
from anneal.evaluation import copied_spans, style
from anneal.records import AUTHOR, Record


class Text(NamedTuple):
    writer: str
    document: str
    text: str


def function_words(folder: str | Path) -> list[str]:
    """The words of style.json that carry no topic."""
    path = Path(folder) / "style.json"
    try:
        found = json.loads(path.read_text("utf-8"))["function_words"]
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; the metric style needs its function_words") from None
    except (json.JSONDecodeError, KeyError, TypeError) as err:
        raise UserError(f'{path}: expected {{"function_words": [...]}}: {err!r}') from None
    return [str(word) for word in found]


def of(record: Record, words: str) -> Text:
    """Words that answer a record, as those of its author."""
    return Text(str(record["facts"].get(AUTHOR, "")), str(record["item"]), words)


def whole(texts: Sequence[Text]) -> list[Text]:
    """Each passage once: records of several templates hold the same chunk, or the end of it."""
    kept: list[Text] = []
    for row in sorted(set(texts), key=lambda row: (-len(row.text), row)):
        if not any(row.document == other.document and row.text in other.text for other in kept):
            kept.append(row)
    return sorted(kept, key=lambda row: (row.writer, row.document, row.text))


def profiles(texts: Sequence[Text], function_words: Collection[str]) -> dict[str, style.Profile]:
    found: dict[str, style.Profile] = {}
    for writer in sorted({row.writer for row in texts}):
        own = [row for row in texts if row.writer == writer and row.text.strip()]
        found[writer] = style.profile([row.text for row in own], [row.document for row in own], function_words)
    return {writer: part for writer, part in found.items() if part.texts}


def side_by_side(
    mine: Mapping[str, style.Profile], references: Mapping[str, style.Profile], seed: int, draws: int, budget: int
) -> dict[str, dict[str, dict[str, float]]]:
    """Written as -> compared with -> figures of lib/style: one name twice is the subject, two names the control."""
    return {
        name: {other: style.distance(texts, reference, seed, draws, budget) for other, reference in references.items()}
        for name, texts in mine.items()
    }


def words(texts: Sequence[Text]) -> int:
    """The fewest words that any author's texts hold: the budget at which several systems can be compared."""
    return min((sum(map(len, part.features["words"])) for part in profiles(texts, ()).values()), default=0)


def figures(
    texts: Sequence[Text], train: Sequence[Text], function_words: Collection[str], seed: int, draws: int, budget: int
) -> dict[str, Any]:
    """The metric: distances by author and control, and the longest span of each text copied from the training texts.

    Texts that the author himself wrote, and the training has not seen, show how much he repeats himself.
    """
    references = profiles(whole(train), function_words)
    lengths = copied_spans.copied([row.text for row in texts], sorted({row.text for row in train}))
    median, high = np.quantile(lengths, [0.5, 0.95]).tolist() if lengths else (0.0, 0.0)
    return {
        "n": len(texts),
        "segmenter": style.segmenter(),
        "authors": side_by_side(profiles(texts, function_words), references, seed, draws, budget),
        "copied": {"n": len(lengths), "median": median, "p95": high, "longest": max(lengths, default=0)},
    }

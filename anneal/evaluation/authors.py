"""Style of several authors: distance of generated texts to each author's own texts, and spans copied from them.

The author whose style a text was asked for is the subject, every other author a control: a text that is as near to a
control as to its subject shows no author's style.
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

# Of the copied spans the metric reports the typical and the extreme length, beside the longest.
_COPIED_QUANTILES = (0.5, 0.95)


class Text(NamedTuple):
    """A text by its author and the document that it belongs to."""

    writer: str
    document: str
    text: str


def function_words(folder: str | Path) -> list[str]:
    """The function words of `folder`/style.json, which carry no topic. Raises UserError where they cannot be read."""
    path = Path(folder) / "style.json"
    try:
        words = json.loads(path.read_text("utf-8"))["function_words"]
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; the metric style needs its function_words") from None
    except (json.JSONDecodeError, KeyError, TypeError) as err:
        raise UserError(f'{path}: expected {{"function_words": [...]}}: {err!r}') from None
    return [str(word) for word in words]


def text_of(record: Record, text: str) -> Text:
    """A text that answers a record, attributed to the record's author."""
    return Text(str(record["facts"].get(AUTHOR, "")), str(record["item"]), text)


def deduplicate(texts: Sequence[Text]) -> list[Text]:
    """Each passage once: records of several templates contain the same chunk, or the end of it."""
    passages: list[Text] = []
    for row in sorted(set(texts), key=lambda row: (-len(row.text), row)):
        if not any(row.document == other.document and row.text in other.text for other in passages):
            passages.append(row)
    return sorted(passages, key=lambda row: (row.writer, row.document, row.text))


def profiles(texts: Sequence[Text], function_words: Collection[str]) -> dict[str, style.Profile]:
    """A profile of each author who has a text that is not blank."""
    by_writer: dict[str, style.Profile] = {}
    for writer in sorted({row.writer for row in texts}):
        rows = [row for row in texts if row.writer == writer and row.text.strip()]
        by_writer[writer] = style.profile([row.text for row in rows], [row.document for row in rows], function_words)
    return {writer: profile for writer, profile in by_writer.items() if profile.texts}


def side_by_side(
    generated: Mapping[str, style.Profile], references: Mapping[str, style.Profile], seed: int, draws: int, budget: int
) -> dict[str, dict[str, dict[str, float]]]:
    """Author asked for -> author compared with -> metrics of style.distance; the same name twice is the subject."""
    return {
        name: {other: style.distance(texts, reference, seed, draws, budget) for other, reference in references.items()}
        for name, texts in generated.items()
    }


def words(texts: Sequence[Text]) -> int:
    """The smallest number of words of any author's texts: the sample size at which several systems compare."""
    return min((sum(map(len, profile.features["words"])) for profile in profiles(texts, ()).values()), default=0)


def figures(
    texts: Sequence[Text], train: Sequence[Text], function_words: Collection[str], seed: int, draws: int, budget: int
) -> dict[str, Any]:
    """Distances by author and control, and the characters of the longest span that each text copies from `train`.

    The reference texts, which are the author's own and not in the training set, show how much he repeats himself.
    """
    references = profiles(deduplicate(train), function_words)
    lengths = copied_spans.copied([row.text for row in texts], sorted({row.text for row in train}))
    median, high = np.quantile(lengths, _COPIED_QUANTILES).tolist() if lengths else (0.0, 0.0)
    return {
        "n": len(texts),
        "segmenter": style.segmenter(),
        "authors": side_by_side(profiles(texts, function_words), references, seed, draws, budget),
        "copied": {"n": len(lengths), "median": median, "p95": high, "longest": max(lengths, default=0)},
    }

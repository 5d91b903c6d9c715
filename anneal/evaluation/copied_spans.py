"""How long a stretch of a text stands, word for word, in other texts: what was learnt by heart."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]

_OUTSIDE = 0x110000  # no character: windows never span two texts


def _ranks(codes: Ints) -> dict[int, Ints]:
    """Width 1, 2, 4, 8 -> a number for the characters that begin at each place, equal where they are equal.

    Doubled, as in the construction of a suffix array (Manber and Myers 1990): exact, where a hash would need a check.
    """
    found = {1: codes}
    for width in (1, 2, 4):
        level = found[width]
        pairs = level[:-width] * (int(level.max()) + 1) + level[width:]
        found[2 * width] = np.unique(pairs, return_inverse=True)[1].astype(np.int64)
    return found


def _longest_run(places: Ints, hits: Ints) -> int:
    """The longest run of matches, one after the other both in the text and where they hit."""
    diagonal = hits - places
    order = np.lexsort((places, diagonal))
    places, diagonal = places[order], diagonal[order]
    follows = (np.diff(places) == 1) & (np.diff(diagonal) == 0)
    breaks = np.flatnonzero(np.concatenate(([True], ~follows, [True])))
    return int(np.diff(breaks).max())


def copied(texts: Sequence[str], others: Sequence[str]) -> list[int]:
    """Characters of the longest span of each text that stands in one of the others; exact.

    Runs of windows of 8 characters that match one after the other; a text without one is looked at in narrower ones.
    """
    parts = [
        np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4").astype(np.int64)
        for text in (*others, *texts)
    ]
    gap = np.array([_OUTSIDE], dtype=np.int64)
    codes = np.concatenate([piece for part in parts for piece in (part, gap)] + [np.full(8, _OUTSIDE)])
    starts = np.cumsum([0, *(len(part) + 1 for part in parts)])
    border, levels = int(starts[len(others)]), _ranks(codes)
    sorted_levels = {}
    for width, level in levels.items():
        order = np.argsort(level[:border], kind="stable")
        sorted_levels[width] = (level[:border][order], order)
    return [
        next((n for width in (8, 4, 2, 1) if (n := _match(levels[width], sorted_levels[width], *span, width))), 0)
        for span in zip(starts[len(others) : -1].tolist(), (starts[len(others) + 1 :] - 1).tolist(), strict=True)
    ]


def _match(level: Ints, known: tuple[Ints, Ints], start: int, end: int, width: int) -> int:
    """The longest match of at least `width` characters of the text at start..end, or 0."""
    values, order = known
    mine = level[start : end - width + 1]
    low, high = np.searchsorted(values, mine, "left"), np.searchsorted(values, mine, "right")
    counts = high - low
    if not counts.sum():
        return 0
    places = np.repeat(np.arange(len(mine)), counts)
    inside = np.arange(int(counts.sum())) - np.repeat(np.cumsum(counts) - counts, counts)
    return width - 1 + _longest_run(places, order[np.repeat(low, counts) + inside])

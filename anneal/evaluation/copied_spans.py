"""Longest verbatim span of a text in other texts, in characters: a measure of memorisation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]

_SEPARATOR = 0x110000  # one above the last code point: no window that crosses two texts can match
_WIDTHS = (8, 4, 2, 1)  # characters of a window, each twice the next


def _ranks(codes: Ints) -> dict[int, Ints]:
    """Width -> an integer for the window that begins at each index; equal windows have equal integers.

    Prefix doubling, as in the construction of a suffix array (Manber and Myers 1990): exact, where a hash would need a
    check of every match.
    """
    ranks = {1: codes}
    for width in sorted(_WIDTHS)[:-1]:
        level = ranks[width]
        pairs = level[:-width] * (int(level.max()) + 1) + level[width:]
        ranks[2 * width] = np.unique(pairs, return_inverse=True)[1].astype(np.int64)
    return ranks


def _longest_run(indices: Ints, matches: Ints) -> int:
    """The longest run of matches that are consecutive both in the text (`indices`) and in the others (`matches`)."""
    diagonal = matches - indices
    order = np.lexsort((indices, diagonal))
    indices, diagonal = indices[order], diagonal[order]
    follows = (np.diff(indices) == 1) & (np.diff(diagonal) == 0)
    breaks = np.flatnonzero(np.concatenate(([True], ~follows, [True])))
    return int(np.diff(breaks).max())


def copied(texts: Sequence[str], others: Sequence[str]) -> list[int]:
    """Characters of the longest span of each text that also occurs in one of the others; exact.

    A span is a run of matching windows of 8 characters; texts without such a match are searched with narrower windows.
    """
    encoded = [
        np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4").astype(np.int64)
        for text in (*others, *texts)
    ]
    gap = np.array([_SEPARATOR], dtype=np.int64)
    padding = np.full(max(_WIDTHS), _SEPARATOR)
    codes = np.concatenate([piece for part in encoded for piece in (part, gap)] + [padding])
    starts = np.cumsum([0, *(len(part) + 1 for part in encoded)])
    border = int(starts[len(others)])  # the others end here, the texts begin
    ranks = _ranks(codes)
    sorted_others = {}
    for width, level in ranks.items():
        order = np.argsort(level[:border], kind="stable")
        sorted_others[width] = (level[:border][order], order)
    lengths = []
    for start, end in zip(starts[len(others) : -1].tolist(), (starts[len(others) + 1 :] - 1).tolist(), strict=True):
        matches = (_match(ranks[width], sorted_others[width], start, end, width) for width in _WIDTHS)
        lengths.append(next((length for length in matches if length), 0))
    return lengths


def _match(level: Ints, sorted_others: tuple[Ints, Ints], start: int, end: int, width: int) -> int:
    """The longest match of at least `width` characters of the text at start..end, or 0."""
    values, order = sorted_others
    windows = level[start : end - width + 1]
    low, high = np.searchsorted(values, windows, "left"), np.searchsorted(values, windows, "right")
    counts = high - low
    if not counts.sum():
        return 0
    # One entry for each pair of a window of the text and an equal window of the others.
    indices = np.repeat(np.arange(len(windows)), counts)
    offsets = np.arange(int(counts.sum())) - np.repeat(np.cumsum(counts) - counts, counts)
    return width - 1 + _longest_run(indices, order[np.repeat(low, counts) + offsets])

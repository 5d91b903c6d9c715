"""Similarity of texts by character shingles: near-duplicates, containment and nearest texts.

Shingles are of characters, since Chinese has no spaces between words. The MinHash kernel is part of this module and not
a library, so that no upgrade changes which records are duplicates.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Edge = tuple[int, int, float]

_PERMUTATIONS = 128  # of a MinHash signature; the standard error of its Jaccard estimate is at most 0.044
# A block of 60k shingles stays in the second-level cache; one pass over a whole corpus is many times slower.
_BLOCK = 60_000
# Boilerplate fills a bucket with thousands of texts; pairs with its first 64 keep the work linear.
_CROWD = 64
_MISSED = 0.005  # share of the pairs with a Jaccard right at the threshold that the bands may miss
_MARGIN = 4  # standard errors by which the estimate of a proposed pair may be below the threshold
_LONGEST_BAND = 32  # signature values
# Odd constants that spread bits over 64: 2^64 / golden ratio (Knuth), and the first of SplitMix64 (Steele et al. 2014).
_GOLDEN = 0x9E3779B97F4A7C15
_MIX = 0xBF58476D1CE4E5B9
# Characters without width: soft hyphen, zero-width spaces and marks, byte order mark.
_INVISIBLE = re.compile("[\u00ad\u200b-\u200f\u2060\ufeff]")
# White space beside a character beyond ASCII.
_LAYOUT = re.compile(r"(?<=[^\x00-\x7f])\s+|\s+(?=[^\x00-\x7f])")


def key(text: str) -> str:
    """The normal form for comparison. It is never stored, since NFKC rewrites full-width punctuation."""
    # Space beside a Chinese character is layout ("含 5% 的" equals "含5%的"); between Latin words it separates them.
    plain = _LAYOUT.sub("", _INVISIBLE.sub("", text))
    return " ".join(unicodedata.normalize("NFKC", plain).casefold().split())


def ngrams(text: str, n: int) -> list[str]:
    """All character n-grams of a text, in order and with repeats; none if it is shorter than n."""
    return [text[i : i + n] for i in range(len(text) - n + 1)]


def shingles(text: str, n: int = 3) -> frozenset[str]:
    """The set of character n-grams of the key; a text shorter than n is padded to one shingle."""
    # Never the empty set: with it, two different short texts have a MinHash Jaccard of 1.0 (OpenDCAI/DataFlow#526).
    return frozenset(ngrams(key(text).ljust(n, "\0"), n))


def jaccard(a: str, b: str, n: int = 3) -> float:
    """Jaccard index of the shingles of two texts: shared ones over all, 0 to 1."""
    left, right = shingles(a, n), shingles(b, n)
    return len(left & right) / len(left | right)


def containment(a: str, b: str, n: int = 3) -> float:
    """Share of the shingles of `a` that are in `b`, 0 to 1; high for a short text inside a long one, unlike Jaccard."""
    left = shingles(a, n)
    return len(left & shingles(b, n)) / len(left)


class _Sets(NamedTuple):
    """Shingle sets of many texts: text t owns ids[starts[t] : starts[t] + sizes[t]], sorted and distinct."""

    ids: Ints
    starts: Ints
    sizes: Ints
    values: npt.NDArray[np.uint64]  # the n-gram behind each id, the same in every corpus


def _distinct(values: Ints) -> Ints:
    """Sorted distinct values; np.unique hashes and takes 15 times as long for millions."""
    values = np.sort(values, kind="stable")
    return values[np.concatenate(([True], values[1:] != values[:-1]))[: len(values)]]


def _sets(texts: Sequence[str], n: int) -> _Sets:
    """The shingle sets of texts, with shingles coded as numbers."""
    keys = [key(text).ljust(n, "\0") for text in texts]
    codes = np.frombuffer("".join(keys).encode("utf-32-le", "surrogatepass"), dtype="<u4").astype(np.uint64)
    lengths = np.array([len(text) for text in keys], dtype=np.int64)
    # Three code points of 21 bits fill a word exactly; longer shingles are hashed to 64 bits.
    base = np.uint64(1 << 21 if n <= 3 else _GOLDEN)
    last = len(codes) - n + 1
    grams = codes[:last]
    for shift in range(1, n):
        grams = grams * base + codes[shift : last + shift]
    owner = np.repeat(np.arange(len(keys)), lengths)[:last]
    inside = np.arange(last) + n <= np.cumsum(lengths)[owner]  # excludes n-grams that span two texts
    values, ids = np.unique(grams[inside], return_inverse=True)
    codes_by_text = _distinct(owner[inside] * len(values) + ids)  # one number for text and shingle
    sizes = np.bincount(codes_by_text // len(values), minlength=len(keys))
    return _Sets(codes_by_text % len(values), np.cumsum(sizes) - sizes, sizes, values)


def _ranges(starts: Ints, sizes: Ints) -> Ints:
    """The indices of all ranges: starts[0] .. starts[0] + sizes[0] - 1, then starts[1] .. and so on."""
    return np.repeat(starts - np.cumsum(sizes) + sizes, sizes) + np.arange(int(sizes.sum()))


def _minhash(sets: _Sets) -> npt.NDArray[np.uint32]:
    """Signatures (texts, 128): the minimum under each of 128 multiply-add permutations of 32 bits (Broder 1997)."""
    # From a hash and not from numpy.random, whose streams may change between versions.
    noise = np.frombuffer(hashlib.shake_256(b"minhash").digest(8 * _PERMUTATIONS), dtype="<u4").astype(np.uint32)
    factors, terms = noise[:_PERMUTATIONS] | np.uint32(1), noise[_PERMUTATIONS:]
    mixed = sets.values * np.uint64(_GOLDEN)
    mixed = (mixed ^ (mixed >> np.uint64(32))) * np.uint64(_MIX)
    hashed = (mixed >> np.uint64(32)).astype(np.uint32)[sets.ids]
    signatures = np.empty((len(sets.sizes), _PERMUTATIONS), dtype=np.uint32)
    block_starts = np.flatnonzero(np.diff(sets.starts // _BLOCK)) + 1
    for first, end in pairwise([0, *block_starts.tolist(), len(sets.starts)]):
        origin = sets.starts[first]
        part = hashed[origin : sets.starts[end - 1] + sets.sizes[end - 1]]
        for column, (factor, term) in enumerate(zip(factors, terms, strict=True)):
            signatures[first:end, column] = np.minimum.reduceat(part * factor + term, sets.starts[first:end] - origin)
    return signatures


def _candidates(signatures: npt.NDArray[np.uint32], threshold: float) -> list[tuple[int, int]]:
    """Pairs i < j that agree in at least one band and may reach the threshold, each once, in order.

    A band is a group of signature values; two texts agree in it if all of its values are equal.
    """
    count = len(signatures)
    proposed = [np.empty(0, dtype=np.int64)]  # pairs as i * count + j
    # The longest bands, hence the fewest proposals, of which a pair at the threshold is missed rarely enough.
    lengths = range(1, _LONGEST_BAND + 1)
    rows = max((r for r in lengths if (1 - threshold**r) ** (_PERMUTATIONS // r) <= _MISSED), default=1)
    for start in range(0, _PERMUTATIONS - rows + 1, rows):
        band = np.zeros(count, dtype=np.uint64)
        for column in range(start, start + rows):
            band = (band ^ signatures[:, column]) * np.uint64(_GOLDEN)
        order = np.argsort(band, kind="stable")
        opens = np.concatenate(([True], np.diff(band[order]) != 0))
        bucket = np.flatnonzero(opens)[np.cumsum(opens) - 1]  # index of the first text of each text's bucket
        rank = np.arange(count) - bucket
        for member in range(min(_CROWD, int(rank.max(initial=0)))):
            later = rank > member
            proposed.append(order[bucket[later] + member] * count + order[later])
    codes = _distinct(np.concatenate(proposed))
    # Shared boilerplate proposes millions of pairs: only those within the margin are compared exactly.
    least = threshold - _MARGIN * (threshold * (1 - threshold) / _PERMUTATIONS) ** 0.5
    pairs: list[tuple[int, int]] = []
    for first in range(0, len(codes), _BLOCK):
        left, right = np.divmod(codes[first : first + _BLOCK], count)
        close = (signatures[left] == signatures[right]).mean(axis=1) >= least
        pairs += zip(left[close].tolist(), right[close].tolist(), strict=True)
    return pairs


def near_duplicates(texts: Sequence[str], threshold: float, ngram: int = 3) -> list[Edge]:
    """Pairs (i, j, Jaccard) with i < j and an exact Jaccard >= threshold, in order.

    MinHash bands only propose pairs: where texts share boilerplate, nearly all proposals are wrong. The bands miss at
    most 1 in 200 of the pairs right at the threshold.
    """
    if len(texts) < 2:
        return []
    pairs = _candidates(_minhash(_sets(texts, ngram)), threshold)
    members = {index for pair in pairs for index in pair}
    sets = {index: shingles(texts[index], ngram) for index in members}
    edges = [(i, j, len(sets[i] & sets[j]) / len(sets[i] | sets[j])) for i, j in pairs]
    return [edge for edge in edges if edge[2] >= threshold]


def groups(n: int, edges: Iterable[tuple[int, int] | Edge]) -> list[list[int]]:
    """The connected groups of 0 .. n-1 (union-find): members sorted, groups in the order of their first member."""
    parent = list(range(n))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    for i, j, *_ in edges:
        low, high = sorted((root(i), root(j)))
        parent[high] = low
    members: dict[int, list[int]] = {}
    for i in range(n):
        members.setdefault(root(i), []).append(i)
    return list(members.values())


class Nearest(NamedTuple):
    """The nearest texts of one text, by Jaccard and by containment."""

    similar: int  # index of the text with the highest Jaccard
    jaccard: float
    holder: int  # index of the text that contains most of its shingles
    containment: float


def nearest(texts: Sequence[str], among: Sequence[str], ngram: int = 3) -> list[Nearest]:
    """For each text its nearest ones in `among`, which must not be empty; exact, by an inverted index."""
    sets = _sets([*texts, *among], ngram)
    sizes = sets.sizes[len(texts) :]
    # The inverted index: the shingles of `among` in order, and beside each the text that it is in.
    among_ids = sets.ids[sets.sizes[: len(texts)].sum() :]
    order = np.argsort(among_ids, kind="stable")
    owner = np.repeat(np.arange(len(among)), sizes)[order]
    among_ids = among_ids[order]
    results = []
    for text in range(len(texts)):
        ids = sets.ids[sets.starts[text] : sets.starts[text] + sets.sizes[text]]
        low = np.searchsorted(among_ids, ids, "left")
        high = np.searchsorted(among_ids, ids, "right")
        shared = np.bincount(owner[_ranges(low, high - low)], minlength=len(among))
        jaccards = shared / (len(ids) + sizes - shared)
        similar, holder = int(jaccards.argmax()), int(shared.argmax())
        results.append(Nearest(similar, float(jaccards[similar]), holder, float(shared[holder] / len(ids))))
    return results

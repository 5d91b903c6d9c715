"""Texts compared: comparison key, character shingles, near-duplicates, containment.

Everything counts characters: Chinese has no spaces, so shingles of words see nothing in it. The kernel is our own, so
that no upgrade of a library changes which records are duplicates.
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

_PERMUTATIONS = 128
# A block of 60k shingles stays in the second-level cache; one pass over a whole corpus is many times slower.
_BLOCK = 60_000
# Boilerplate fills a bucket with thousands of texts; pairs with its first 64 keep the work linear.
_CROWD = 64
_INVISIBLE = re.compile("[\u00ad\u200b-\u200f\u2060\ufeff]")
_LAYOUT = re.compile(r"(?<=[^\x00-\x7f])\s+|\s+(?=[^\x00-\x7f])")


def key(text: str) -> str:
    """What two texts are compared by, never what is stored: NFKC would rewrite full-width punctuation."""
    # Space beside a Chinese character is layout ("含 5% 的" is "含5%的"); between Latin words it carries meaning.
    plain = _LAYOUT.sub("", _INVISIBLE.sub("", text))
    return " ".join(unicodedata.normalize("NFKC", plain).casefold().split())


def ngrams(text: str, n: int) -> list[str]:
    """All character n-grams of a text as it stands, in order, repeats included; none where it is shorter than n."""
    return [text[i : i + n] for i in range(len(text) - n + 1)]


def shingles(text: str, n: int = 3) -> frozenset[str]:
    """The set of character n-grams of the key; a text shorter than n is one shingle of its own."""
    # Never the empty set: with it, two different short texts have a MinHash Jaccard of 1.0 (OpenDCAI/DataFlow#526).
    return frozenset(ngrams(key(text).ljust(n, "\0"), n))


def jaccard(a: str, b: str, n: int = 3) -> float:
    """Share of the shingles of both texts that they have in common, 0 to 1."""
    left, right = shingles(a, n), shingles(b, n)
    return len(left & right) / len(left | right)


def containment(a: str, b: str, n: int = 3) -> float:
    """Share of the shingles of `a` that `b` holds: a short text hides in a long one where Jaccard stays low."""
    left = shingles(a, n)
    return len(left & shingles(b, n)) / len(left)


class _Sets(NamedTuple):
    """Shingle sets of many texts: text t owns ids[starts[t] : starts[t] + sizes[t]], sorted and distinct."""

    ids: Ints
    starts: Ints
    sizes: Ints
    values: npt.NDArray[np.uint64]  # the n-gram behind each id, the same in every corpus


def _distinct(values: Ints) -> Ints:
    """Sorted distinct values; np.unique hashes and takes 15 times as long on millions."""
    values = np.sort(values, kind="stable")
    return values[np.concatenate(([True], values[1:] != values[:-1]))[: len(values)]]


def _sets(texts: Sequence[str], n: int) -> _Sets:
    keys = [key(text).ljust(n, "\0") for text in texts]
    codes = np.frombuffer("".join(keys).encode("utf-32-le", "surrogatepass"), dtype="<u4").astype(np.uint64)
    lengths = np.array([len(k) for k in keys], dtype=np.int64)
    # Three code points of 21 bits fill a word exactly; longer shingles are hashed to 64 bits.
    base = np.uint64(1 << 21 if n <= 3 else 0x9E3779B97F4A7C15)
    last = len(codes) - n + 1
    grams = codes[:last]
    for shift in range(1, n):
        grams = grams * base + codes[shift : last + shift]
    owner = np.repeat(np.arange(len(keys)), lengths)[:last]
    inside = np.arange(last) + n <= np.cumsum(lengths)[owner]  # no shingle spans two texts
    values, ids = np.unique(grams[inside], return_inverse=True)
    tagged = _distinct(owner[inside] * len(values) + ids)
    sizes = np.bincount(tagged // len(values), minlength=len(keys))
    return _Sets(tagged % len(values), np.cumsum(sizes) - sizes, sizes, values)


def _spread(starts: Ints, sizes: Ints) -> Ints:
    """Positions starts[0] .. starts[0]+sizes[0]-1, starts[1] .. and so on."""
    return np.repeat(starts - np.cumsum(sizes) + sizes, sizes) + np.arange(int(sizes.sum()))


def _minhash(sets: _Sets) -> npt.NDArray[np.uint32]:
    """Signatures (texts, 128): the least value of each of 128 multiply-add permutations of 32 bits."""
    # From a hash, not from numpy.random, whose streams may change between versions.
    noise = np.frombuffer(hashlib.shake_256(b"minhash").digest(8 * _PERMUTATIONS), dtype="<u4").astype(np.uint32)
    factors, terms = noise[:_PERMUTATIONS] | np.uint32(1), noise[_PERMUTATIONS:]
    mixed = sets.values * np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(32))) * np.uint64(0xBF58476D1CE4E5B9)
    hashed = (mixed >> np.uint64(32)).astype(np.uint32)[sets.ids]
    signatures = np.empty((len(sets.sizes), _PERMUTATIONS), dtype=np.uint32)
    turns = np.flatnonzero(np.diff(sets.starts // _BLOCK)) + 1
    for first, end in pairwise([0, *turns.tolist(), len(sets.starts)]):
        origin = sets.starts[first]
        part = hashed[origin : sets.starts[end - 1] + sets.sizes[end - 1]]
        for column, (factor, term) in enumerate(zip(factors, terms, strict=True)):
            signatures[first:end, column] = np.minimum.reduceat(part * factor + term, sets.starts[first:end] - origin)
    return signatures


def _candidates(signatures: npt.NDArray[np.uint32], threshold: float) -> list[tuple[int, int]]:
    """Pairs (i < j) that agree in at least one band and may well reach the threshold, each once, in order."""
    count, found = len(signatures), [np.empty(0, dtype=np.int64)]
    # As many rows a band as still miss at most 1 in 200 of the pairs that lie right at the threshold.
    rows = max((r for r in range(1, 33) if (1 - threshold**r) ** (_PERMUTATIONS // r) <= 0.005), default=1)
    for start in range(0, _PERMUTATIONS - rows + 1, rows):
        band = np.zeros(count, dtype=np.uint64)
        for column in range(start, start + rows):
            band = (band ^ signatures[:, column]) * np.uint64(0x9E3779B97F4A7C15)
        order = np.argsort(band, kind="stable")
        fresh = np.concatenate(([True], np.diff(band[order]) != 0))
        bucket = np.flatnonzero(fresh)[np.cumsum(fresh) - 1]  # where the bucket of each text begins
        rank = np.arange(count) - bucket
        for place in range(min(_CROWD, int(rank.max(initial=0)))):
            later = rank > place
            found.append(order[bucket[later] + place] * count + order[later])
    codes = _distinct(np.concatenate(found))
    # Shared boilerplate proposes millions of pairs: only those within four standard errors are worth an exact look.
    least = threshold - 4 * (threshold * (1 - threshold) / _PERMUTATIONS) ** 0.5
    pairs: list[tuple[int, int]] = []
    for first in range(0, len(codes), _BLOCK):
        left, right = np.divmod(codes[first : first + _BLOCK], count)
        close = (signatures[left] == signatures[right]).mean(axis=1) >= least
        pairs += zip(left[close].tolist(), right[close].tolist(), strict=True)
    return pairs


def near_duplicates(texts: Sequence[str], threshold: float, ngram: int = 3) -> list[Edge]:
    """Pairs (i, j, Jaccard) with i < j and Jaccard >= threshold, in order; every one is verified exactly.

    MinHash bands only propose: where texts share boilerplate, nearly all proposals are wrong.
    """
    if len(texts) < 2:
        return []
    pairs = _candidates(_minhash(_sets(texts, ngram)), threshold)
    known = {t: shingles(texts[t], ngram) for t in {t for pair in pairs for t in pair}}
    edges = [(i, j, len(known[i] & known[j]) / len(known[i] | known[j])) for i, j in pairs]
    return [edge for edge in edges if edge[2] >= threshold]


def groups(n: int, edges: Iterable[tuple[int, int] | Edge]) -> list[list[int]]:
    """0 .. n-1 in connected groups: members sorted, groups in the order of their first member."""
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
    """Of one text: the index of the most similar text and of the one that holds most of it, with their values."""

    similar: int
    jaccard: float
    holder: int
    containment: float


def nearest(texts: Sequence[str], among: Sequence[str], ngram: int = 3) -> list[Nearest]:
    """For each text its nearest ones in `among` (not empty); exact, by an inverted index."""
    sets = _sets([*texts, *among], ngram)
    sizes = sets.sizes[len(texts) :]
    held = sets.ids[sets.sizes[: len(texts)].sum() :]
    order = np.argsort(held, kind="stable")
    owner, held = np.repeat(np.arange(len(among)), sizes)[order], held[order]
    found = []
    for t in range(len(texts)):
        ids = sets.ids[sets.starts[t] : sets.starts[t] + sets.sizes[t]]
        low, high = np.searchsorted(held, ids, "left"), np.searchsorted(held, ids, "right")
        shared = np.bincount(owner[_spread(low, high - low)], minlength=len(among))
        alike = shared / (len(ids) + sizes - shared)
        similar, holder = int(alike.argmax()), int(shared.argmax())
        found.append(Nearest(similar, float(alike[similar]), holder, float(shared[holder] / len(ids))))
    return found

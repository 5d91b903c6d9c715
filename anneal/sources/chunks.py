"""Splits documents into chunks of bounded size, preferably at headings, blocks and sentence ends.

A token of this module is one Chinese, Japanese or Korean character, or one word or number of up to 20 characters (a
longer run, such as a key or an address, counts once for every 20). These are not the tokens of a model, but within a
third of their number, the same for every model and countable without one. Punctuation is not counted.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from itertools import pairwise

from anneal.sources.markdown import Document

_CJK = "\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff"
_TOKEN = re.compile(rf"[{_CJK}]|[^\W{_CJK}]{{1,20}}")
# Splitters for English lack full-width stops (semchunk 4.1 has none of them), and a full stop is ambiguous: in 3.5, or
# in `1. ` at the start of a line, it ends no sentence. A line of a list, table or quotation ends with the line.
_SENTENCE = re.compile(
    r"[。！？!?]+[”’」』》）)\]\"'*_]*\s*|(?<!\A\d)(?<!\n\d)(?<!\n\d\d)\.[”’\"')\]*_]*\s+|\n\s*(?=\n|[-*+|>]|\d+[.)])"
)
_CLAUSE = re.compile(r"[，；：、,;:—…]+[”’」』》）)\]\"']*\s*|\n")
# Costs of a cut by its place, and of a chunk that is too short. Chosen for their order, not their size.
_AT_BLOCK, _IN_BLOCK, _IN_SENTENCE, _AFTER_HEADING, _HEADING_INSIDE, _SHORT = 2.0, 8.0, 20.0, 30.0, 3.0, 1000.0


@dataclass(frozen=True)
class Chunk:
    """Chunk `number` (from 1) of a document: `document.text[start:end]`; `text` is stripped, and may be masked."""

    document: Document
    number: int
    start: int
    end: int
    text: str
    title: str

    @property
    def lines(self) -> str:
        """Line range in the source file, as `12-40`."""
        source = self.document.text[self.start : self.end]
        first = self.start + len(source) - len(source.lstrip())
        return f"{self.document.line(first)}-{self.document.line(self.start + len(source.rstrip()) - 1)}"


def tokens(text: str) -> int:
    """Number of tokens of a text, as defined above."""
    return sum(1 for _ in _TOKEN.finditer(text))


def ends(text: str) -> list[int]:
    """Offsets of sentence ends, after their trailing white space; the last one is the end of the text."""
    offsets = [match.end() for match in _SENTENCE.finditer(text)]
    return offsets if offsets and offsets[-1] == len(text) else [*offsets, len(text)]


def sentences(text: str) -> list[str]:
    """Split a text at its sentence ends; the join of the sentences is the text."""
    cuts = [0, *ends(text)]
    return [text[a:b] for a, b in pairwise(cuts) if b > a]


def _inside(text: str, most: int) -> list[int]:
    """Cuts inside a sentence of more than `most` tokens: at its clauses and, where one is still too long, anywhere."""
    cuts = sorted({match.end() for match in _CLAUSE.finditer(text)} - {len(text)})
    found: list[int] = []
    for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True):
        if tokens(text[a:b]) > most:
            starts = [a + match.start() for match in _TOKEN.finditer(text[a:b])]
            found += starts[:: max(1, most // 4)][1:]
        found.append(b)
    return found[:-1]


def _cuts(document: Document, most: int) -> dict[int, float]:
    """Where a document may be cut, and what that costs: nothing before a heading, most between it and its text."""
    found, after = dict[int, float](), 0
    for start, end in pairwise([*document.blocks, len(document.text)]):
        level = document.blocks[start]
        found[start] = _AFTER_HEADING if after and not level else 0.0 if level else _AT_BLOCK
        after, at = level, start
        for piece in sentences(document.text[start:end]):
            if tokens(piece) > most:
                found |= {at + cut: _IN_SENTENCE for cut in _inside(piece, most)}
            at += len(piece)
            found.setdefault(at, _IN_BLOCK)
        if end < len(document.text):
            found.pop(end)  # the next block's start has a price of its own
    return found


def chunks(document: Document, least: int, most: int) -> list[Chunk]:
    """A document in chunks of least..most tokens; never more, and less only where nothing else is left.

    The cheapest of all ways to cut, by dynamic programming: greedy packing leaves a small tail behind every section
    and a short chunk before every long block. What the chunks hold, end to end, is the document's text.
    """
    text, prices = document.text, _cuts(document, most)
    places = sorted(prices)
    sums = [0]
    for a, b in pairwise(places):
        sums.append(sums[-1] + tokens(text[a:b]))
    best, back = [0.0] + [math.inf] * (len(places) - 1), [0] * len(places)
    for j in range(1, len(places)):
        price, headings = prices[places[j]], 0
        for i in range(j - 1, -1, -1):
            if (size := sums[j] - sums[i]) > most:
                break
            short = _SHORT + least - size if size < least else 0.0
            uneven = ((size - (least + most) / 2) / most) ** 2  # only decides between cuts of one price
            cost = best[i] + price + short + uneven + _HEADING_INSIDE * headings
            if cost < best[j]:
                best[j], back[j] = cost, i
            headings += bool(document.blocks.get(places[i]))
    spans, j = [], len(places) - 1
    while j > 0:
        spans.append((places[back[j]], places[j]))
        j = back[j]
    found = [(a, b) for a, b in reversed(spans) if text[a:b].strip()]
    title = str(document.meta["title"])
    return [Chunk(document, n, a, b, text[a:b].strip("\n").rstrip(), title) for n, (a, b) in enumerate(found, 1)]

"""Documents in chunks of a fair size, cut where an author would.

A token here is one Chinese, Japanese or Korean character, or one word or number of up to 20 signs (a longer run, such
as a key or an address, counts once for every 20): no model's tokens, but within a third of them, the same for every
model and known without one. Punctuation is not counted.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from itertools import pairwise

from anneal.sources.markdown import Document

_CJK = "\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff"
_TOKEN = re.compile(rf"[{_CJK}]|[^\W{_CJK}]{{1,20}}")
# Splitters made for English know no full-width stop (semchunk 4.1 has none of them), and a point alone is not enough:
# that of 3.5 or of `1. ` at the start of a line ends nothing. A line of a list, table or quotation ends with the line.
_SENTENCE = re.compile(
    r"[。！？!?]+[”’」』》）)\]\"'*_]*\s*|(?<!\A\d)(?<!\n\d)(?<!\n\d\d)\.[”’\"')\]*_]*\s+|\n\s*(?=\n|[-*+|>]|\d+[.)])"
)
_CLAUSE = re.compile(r"[，；：、,;:—…]+[”’」』》）)\]\"']*\s*|\n")
# What a cut costs, and what a chunk costs that is too short. Only the order of these matters.
_AT_BLOCK, _IN_BLOCK, _IN_SENTENCE, _AFTER_HEADING, _HEADING_INSIDE, _SHORT = 2.0, 8.0, 20.0, 30.0, 3.0, 1000.0


@dataclass(frozen=True)
class Chunk:
    """`document.text[start:end]`, the chunk numbered from 1; `text` is that without blank ends, or masked."""

    document: Document
    number: int
    start: int
    end: int
    text: str
    title: str

    @property
    def lines(self) -> str:
        """The lines of the source that it stands in, as `12-40`."""
        kept = self.document.text[self.start : self.end]
        first = self.start + len(kept) - len(kept.lstrip())
        return f"{self.document.line(first)}-{self.document.line(self.start + len(kept.rstrip()) - 1)}"


def tokens(text: str) -> int:
    return sum(1 for _ in _TOKEN.finditer(text))


def ends(text: str) -> list[int]:
    """Where each sentence ends, the white space after it included; the last one is the end of the text."""
    found = [match.end() for match in _SENTENCE.finditer(text)]
    return found if found and found[-1] == len(text) else [*found, len(text)]


def sentences(text: str) -> list[str]:
    """A text cut at the ends of its sentences; joined again, they are the text."""
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

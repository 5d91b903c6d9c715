"""Checks of verse: line count, syllables and rhyme of a text that continues the opening couplet of a poem.

A line ends at punctuation or white space of any script. One Han character is one syllable. A table maps each rhyme
class to its characters; a character of two readings may be in two classes. Tones are ignored: a table of modern
pronunciation does not record the tones of another age.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping

from anneal.records import Record, golden

Rhymes = Mapping[str, str]  # class -> its characters

GIVEN = "input"  # the fact that holds the opening couplet, named as in instruction data
REPEATED, UNKNOWN, APART = "repeated", "unknown", "no rhyme"


def lines(text: str) -> list[str]:
    """Split a text into lines without marks: punctuation, symbols, white space and control characters."""
    return "".join("\n" if unicodedata.category(c)[0] in "PSZC" else c for c in text).split()


def syllables(line: str) -> int:
    """Number of Han characters of a line; Latin letters, digits and kana do not count."""
    return sum(unicodedata.name(c, "").startswith("CJK ") for c in line)


def couplet_lines(record: Record) -> list[str]:
    """The lines of the opening couplet in a record's facts; [] without a couplet."""
    return lines(str(record.get("facts", {}).get(GIVEN) or ""))


def lines_hits(text: str, record: Record) -> list[str]:
    """Hit where the line count differs from that of the reference text; without a reference, where it is odd or 0."""
    count = len(lines(text))
    expected = len(lines(golden(record)))
    if expected:
        return [] if count == expected else [f"{count} lines for {expected}"]
    return [] if count and count % 2 == 0 else [f"{count} lines are no couplets"]


def syllables_hits(text: str, record: Record) -> list[str]:
    """Lines whose length differs from the couplet's lines; without a couplet, from the first line of the text.

    In a couplet of two lengths, each line sets the length of every second line of the text.
    """
    text_lines = lines(text)
    couplet = couplet_lines(record)
    pattern = [syllables(line) for line in couplet or text_lines[:1]]
    if not text_lines:
        return ["no line"]
    # The pattern continues where the couplet ends, so that an odd number of given lines keeps its rhythm too.
    expected = [pattern[(len(couplet) + n) % len(pattern)] for n in range(len(text_lines))]
    # Han characters only: a line with the right number of syllables and a Latin word fails too.
    return [line for line, n in zip(text_lines, expected, strict=True) if not syllables(line) == len(line) == n]


def _classes(character: str, rhymes: Rhymes) -> frozenset[str]:
    return frozenset(name for name, characters in rhymes.items() if character in characters)


def _ends(text: str, record: Record) -> tuple[list[str], list[str]]:
    """Last characters of the even lines of the poem, of the couplet and of the text."""
    couplet = couplet_lines(record)
    ends = [(n, line[-1]) for n, line in enumerate([*couplet, *lines(text)]) if n % 2]
    return [end for n, end in ends if n < len(couplet)], [end for n, end in ends if n >= len(couplet)]


def unknown(text: str, record: Record, rhymes: Rhymes) -> list[str]:
    """Last characters of even lines, of couplet and text, that the rhyme table lacks."""
    return [end for ends in _ends(text, record) for end in ends if not _classes(end, rhymes)]


def rhyme_hits(text: str, record: Record, rhymes: Rhymes) -> list[str]:
    """Hits of the rhyme of the even lines of the poem, couplet and text; empty if they all rhyme.

    `unknown x`: the table lacks the character, a gap of the table rather than a fault of the verse. `repeated x`: the
    same character again is no rhyme; otherwise a model that copies the end of the couplet would pass. `no rhyme`: no
    class contains all known ends; the ends follow.
    """
    couplet_ends, text_ends = _ends(text, record)
    if not text_ends:
        return ["no even line"]
    ends = [*couplet_ends, *text_ends]
    hits = [f"{UNKNOWN} {end}" for end in dict.fromkeys(unknown(text, record, rhymes))]
    hits += [f"{REPEATED} {end}" for end in dict.fromkeys(end for n, end in enumerate(ends) if end in ends[:n])]
    known_classes = [classes for end in ends if (classes := _classes(end, rhymes))]
    if known_classes and not frozenset.intersection(*known_classes):
        hits.append(f"{APART} {''.join(ends)}")
    return hits


def rhyme_rate(text: str, record: Record, rhymes: Rhymes) -> float | None:
    """Share of the text's even lines that rhyme with the end of the couplet, 0 to 1; the same character is no rhyme.

    Lines that end in a character the table lacks are left out. None where no line remains, or where the table lacks
    the end of the couplet: the share is undefined.
    """
    couplet_ends, text_ends = _ends(text, record)
    target = _classes(couplet_ends[-1], rhymes) if couplet_ends else frozenset()
    known = [(end, classes) for end in text_ends if (classes := _classes(end, rhymes))]
    if not target or not known:
        return None
    return sum(end not in couplet_ends and bool(classes & target) for end, classes in known) / len(known)

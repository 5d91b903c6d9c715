"""Verse: lines, syllables and rhyme of a poem whose first couplet is given and whose rest is the text.

A line ends at any punctuation or white space, whatever the script of its marks. Syllables are Han characters: one
character is one syllable. What rhymes stands in a table, class to characters; a character of two readings may stand in
two classes. Tones are not looked at: a table by the sound of today cannot know those of another age.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping

from anneal.records import Record, golden

Rhymes = Mapping[str, str]  # class -> its characters

GIVEN = "input"  # the fact that holds the couplet, by the name that instruction data gives it
REPEATED, UNKNOWN, APART = "repeated", "unknown", "no rhyme"


def lines(text: str) -> list[str]:
    """The lines without their marks; a mark is punctuation, a symbol, white space or a control character."""
    return "".join("\n" if unicodedata.category(c)[0] in "PSZC" else c for c in text).split()


def syllables(line: str) -> int:
    """Han characters of a line; Latin letters, digits and kana are none."""
    return sum(unicodedata.name(c, "").startswith("CJK ") for c in line)


def given(record: Record) -> list[str]:
    """The lines of the couplet that a record's facts hold; none where they hold no couplet."""
    return lines(str(record.get("facts", {}).get(GIVEN) or ""))


def lines_hits(text: str, record: Record) -> list[str]:
    """Empty if the text has as many lines as the golden text; where there is none, if it has whole couplets."""
    count, wanted = len(lines(text)), len(lines(golden(record)))
    if wanted:
        return [] if count == wanted else [f"{count} lines for {wanted}"]
    return [] if count and count % 2 == 0 else [f"{count} lines are no couplets"]


def syllables_hits(text: str, record: Record) -> list[str]:
    """The lines that are not as long as those of the couplet; without one, as the first line of the text.

    A couplet of two lengths sets the length of odd and of even lines, each by its own.
    """
    found, known = lines(text), given(record)
    pattern = [syllables(line) for line in known or found[:1]]
    if not found:
        return ["no line"]
    # The text goes on where the couplet ends, so that an odd number of given lines keeps its rhythm too.
    wanted = [pattern[(len(known) + n) % len(pattern)] for n in range(len(found))]
    # A line of the right number of syllables and a Latin word is no line of verse: all of it must be Han.
    return [line for line, n in zip(found, wanted, strict=True) if not syllables(line) == len(line) == n]


def _classes(character: str, rhymes: Rhymes) -> frozenset[str]:
    return frozenset(name for name, characters in rhymes.items() if character in characters)


def _ends(text: str, record: Record) -> tuple[list[str], list[str]]:
    """Last characters of the even lines of the whole poem: those of the couplet, and those of the text."""
    head, rest = given(record), lines(text)
    ends = [(n, line[-1]) for n, line in enumerate([*head, *rest]) if n % 2]
    return [end for n, end in ends if n < len(head)], [end for n, end in ends if n >= len(head)]


def unknown(text: str, record: Record, rhymes: Rhymes) -> list[str]:
    """Ends of even lines, of couplet and text, that the table does not hold: nothing can be said of them."""
    return [end for ends in _ends(text, record) for end in ends if not _classes(end, rhymes)]


def rhyme_hits(text: str, record: Record, rhymes: Rhymes) -> list[str]:
    """Why the even lines of the poem, couplet and text, do not rhyme with each other; empty if they do.

    `unknown x`: the table lacks a character, which is a gap of the table and no verdict on the verse. `repeated x`: the
    same character again is no rhyme; a model that copies the end of the couplet would pass otherwise. `no rhyme`: no
    class holds every known end, with the ends.
    """
    head, rest = _ends(text, record)
    if not rest:
        return ["no even line"]
    ends = [*head, *rest]
    hits = [f"{UNKNOWN} {end}" for end in dict.fromkeys(unknown(text, record, rhymes))]
    hits += [f"{REPEATED} {end}" for end in dict.fromkeys(end for n, end in enumerate(ends) if end in ends[:n])]
    known = [found for end in ends if (found := _classes(end, rhymes))]
    if known and not frozenset.intersection(*known):
        hits.append(f"{APART} {''.join(ends)}")
    return hits


def rhyme_rate(text: str, record: Record, rhymes: Rhymes) -> float | None:
    """Share of the text's even lines that rhyme with the end of the couplet, 0 to 1; the same character is no rhyme.

    Lines that end in a character the table lacks are left out; None where no line is left, or where the couplet itself
    ends in one: a share of nothing is no number.
    """
    head, rest = _ends(text, record)
    first = _classes(head[-1], rhymes) if head else frozenset()
    told = [(end, found) for end in rest if (found := _classes(end, rhymes))]
    if not first or not told:
        return None
    return sum(end not in head and bool(found & first) for end, found in told) / len(told)

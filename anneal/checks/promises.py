"""Claims that promise too much, by the patterns of a recipe; a clause that denies one is no promise."""

from __future__ import annotations

import re
from collections.abc import Sequence

_CLAUSE = re.compile(r"[\w%％][\w%％ ]*")  # a run of words between marks of punctuation


def found(text: str, own: re.Pattern[str], patterns: Sequence[str]) -> list[str]:
    """What each pattern finds first; it is searched in each clause, whose beginning is `^`.

    `own` are the sheet's words, product name and ingredients, which promise nothing and may hold a sign of denial.
    """
    clauses = _CLAUSE.findall(own.sub("_", text))
    hits = [next((match[0] for clause in clauses if (match := re.search(p, clause))), None) for p in patterns]
    return [hit for hit in hits if hit is not None]

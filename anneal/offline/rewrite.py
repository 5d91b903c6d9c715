"""Says some clauses of a text otherwise, in place and at about their length, so that neither length nor place tells.

A clause is all up to a mark of punctuation. The product name is out of reach of every edit.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from typing import Any

# Raise it when the same text may be rewritten otherwise; it is part of the identity of the teachers that use it.
VERSION = "1"

Step = dict[str, Any]  # clause, keep, edits, tries; count, forget, one_of where a recipe wants them
Words = dict[str, list[str]]
Say = Callable[[str], str]  # a template of the bank to words, its slots filled at random

NAME = "\0"  # stands for the product name, so that a pattern can tell it and no edit cuts it


def beside(text: str, name: str, changes: dict[str, str]) -> str:
    """Words replaced in one pass, but not inside the product name, which holds ingredient words too."""
    either = "|".join(re.escape(old) for old in sorted(changes, key=len, reverse=True))
    return name.join(re.sub(either, lambda match: changes[match[0]], part) for part in text.split(name))


def drawn(text: str, facts: dict[str, Any], forget: dict[str, list[int]], rng: random.Random) -> Words:
    """Slot to its words, and `-slot` to those to be forgotten, as many as drawn from the range in `forget`."""
    words: Words = {slot: told for slot, told in facts.items() if isinstance(told, list)}
    lost: Words = {}
    for slot, (low, high) in forget.items():
        said = [word for word in words[slot] if word in text]
        # What the text dwells on goes first: without a word that it says once and in passing it is hardly poorer.
        lost[f"-{slot}"] = sorted(rng.sample(said, len(said)), key=text.count, reverse=True)[: rng.randint(low, high)]
    return words | lost


def pattern(where: str, words: Words) -> re.Pattern[str]:
    """`where` with each `{slot}` as any of its words; a slot without words fits nothing."""

    def either(slot: re.Match[str]) -> str:
        told = sorted(words.get(slot[1], []), key=len, reverse=True)
        return f"(?:{'|'.join(map(re.escape, told))})" if told else "(?!)"

    return re.compile(re.sub(r"\{(-?[a-z_]+)\}", either, where))


def clauses(text: str, step: Step) -> list[str]:
    return [part for part in re.findall(step["clause"], text) if part]


def nearest(part: str, text: str, found: re.Match[str], options: list[list[str]], gap: int) -> str | None:
    """The clause with the option that keeps the text nearest to its length, and that says nothing twice."""
    fresh = [option for option in options if not any(clause in text for clause in option)]
    said = [part[: found.start()] + found.expand("".join(option)) + part[found.end() :] for option in fresh]
    return min(said, key=lambda words: abs(gap + len(words) - len(part)), default=None)


def apply(text: str, step: Step, words: Words, say: Say, rng: random.Random) -> str:
    """The text with its clauses changed: `count` of them once each, or else all that an edit fits, while one does.

    `tries` options are drawn for each change; `keep` is the pattern of clauses that stay.
    """
    parts, gap, changed = clauses(text, step), 0, 0
    edits = [(pattern(edit["where"], words), edit) for edit in step["edits"]]
    free = [at for at, part in enumerate(parts) if not re.search(step["keep"], part)]
    most = rng.randint(*step["count"]) if "count" in step else len(free)
    for at in rng.sample(free, len(free)):
        again = changed < most
        while again and (fits := [(found, edit) for where, edit in edits if (found := where.search(parts[at]))]):
            found, edit = rng.choice(fits)
            options = [clauses(say(rng.choice(edit["options"])), step) for _ in range(step["tries"])]
            if (new := nearest(parts[at], "".join(parts), found, options, gap)) is None:
                break
            gap, changed, parts[at], again = gap + len(new) - len(parts[at]), changed + 1, new, "count" not in step
    return "".join(parts)


def rephrased(text: str, facts: dict[str, Any], step: Step, say: Say, rng: random.Random) -> str:
    """The text as a step of the bank changes it; `one_of` are ways to do so, of which one is drawn."""
    step, bare = step | rng.choice(step.get("one_of", [{}])), text.replace(str(facts["name"]), NAME)
    made = apply(bare, step, drawn(bare, facts, step.get("forget", {}), rng), say, rng)
    if made == bare:
        raise ValueError(f"the offline teacher finds no clause that it could change in {text!r}")
    return made.replace(NAME, str(facts["name"]))

"""Clause edits of a text, in place and at about equal length, so that neither length nor position shows an edit.

A clause ends with a mark of punctuation. No edit changes the product name.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from typing import Any

# Raise it when the rewriting of a text may change: it is part of the identity of the teachers that use it.
VERSION = "1"

Step = dict[str, Any]  # clause, keep, edits, tries; count, forget, one_of where a recipe wants them
Words = dict[str, list[str]]  # slot -> its words
Fill = Callable[[str], str]  # a template of the bank -> text, its slots filled at random

NAME = "\0"  # stands for the product name during edits: a pattern can match it and no edit cuts it


def replace_outside_name(text: str, name: str, changes: dict[str, str]) -> str:
    """Replace words in one pass, but not inside the product name, which may hold ingredient words."""
    either = "|".join(re.escape(old) for old in sorted(changes, key=len, reverse=True))
    return name.join(re.sub(either, lambda match: changes[match[0]], part) for part in text.split(name))


def draw_words(text: str, facts: dict[str, Any], forget: dict[str, list[int]], rng: random.Random) -> Words:
    """Slot -> its words, and `-slot` -> the words to remove, their number drawn from the range in `forget`."""
    words: Words = {slot: values for slot, values in facts.items() if isinstance(values, list)}
    removed: Words = {}
    for slot, (low, high) in forget.items():
        present = [word for word in words[slot] if word in text]
        # The most frequent words go first: without a word that it mentions once, a text is hardly poorer.
        by_count = sorted(rng.sample(present, len(present)), key=text.count, reverse=True)
        removed[f"-{slot}"] = by_count[: rng.randint(low, high)]
    return words | removed


def pattern(where: str, words: Words) -> re.Pattern[str]:
    """Compile `where`, in which `{slot}` matches any word of the slot; a slot without words matches nothing."""

    def either(slot: re.Match[str]) -> str:
        options = sorted(words.get(slot[1], []), key=len, reverse=True)  # the longest alternative first
        return f"(?:{'|'.join(map(re.escape, options))})" if options else "(?!)"

    return re.compile(re.sub(r"\{(-?[a-z_]+)\}", either, where))


def clauses(text: str, step: Step) -> list[str]:
    return [part for part in re.findall(step["clause"], text) if part]


def nearest(part: str, text: str, match: re.Match[str], options: list[list[str]], gap: int) -> str | None:
    """The clause `part` with the option that best restores the length of the text; None if the text holds them all.

    `gap` is the length that earlier edits added, in characters.
    """
    fresh = [option for option in options if not any(clause in text for clause in option)]
    candidates = [part[: match.start()] + match.expand("".join(option)) + part[match.end() :] for option in fresh]
    return min(candidates, key=lambda candidate: abs(gap + len(candidate) - len(part)), default=None)


def apply(text: str, step: Step, words: Words, fill: Fill, rng: random.Random) -> str:
    """Edit the clauses of a text: `count` of them once each; without `count` each until no edit matches it.

    Without `count` no further clause is begun after as many edits as there are clauses to edit. `tries` options are
    drawn for each change; `keep` is the pattern of clauses that stay.
    """
    parts = clauses(text, step)
    gap = 0  # characters that the edits so far have added
    changed = 0
    edits = [(pattern(edit["where"], words), edit) for edit in step["edits"]]
    free = [index for index, part in enumerate(parts) if not re.search(step["keep"], part)]
    once = "count" in step
    limit = rng.randint(*step["count"]) if once else len(free)
    for index in rng.sample(free, len(free)):
        # Checked between clauses only: without `count`, a clause that is begun is edited to its end.
        if changed >= limit:
            break
        while True:
            part = parts[index]
            matches = [(match, edit) for where, edit in edits if (match := where.search(part))]
            if not matches:
                break
            match, edit = rng.choice(matches)
            options = [clauses(fill(rng.choice(edit["options"])), step) for _ in range(step["tries"])]
            new = nearest(part, "".join(parts), match, options, gap)
            if new is None:
                break
            gap += len(new) - len(part)
            changed += 1
            parts[index] = new
            if once:
                break
    return "".join(parts)


def rephrase(text: str, facts: dict[str, Any], step: Step, fill: Fill, rng: random.Random) -> str:
    """Edit the text as a step of the bank says; of the variants in `one_of` one is drawn.

    Raises ValueError where no clause can be changed.
    """
    step = step | rng.choice(step.get("one_of", [{}]))
    masked = text.replace(str(facts["name"]), NAME)
    words = draw_words(masked, facts, step.get("forget", {}), rng)
    edited = apply(masked, step, words, fill, rng)
    if edited == masked:
        raise ValueError(f"the offline teacher finds no clause that it could change in {text!r}")
    return edited.replace(NAME, str(facts["name"]))

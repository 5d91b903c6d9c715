"""What is wrong with preference pairs beside a shortcut: equal sides, duplicates, leaks; all flags, and what they stop.

Texts are compared without their white space, so that a line break makes no second text of one.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from typing import NamedTuple

from anneal.errors import UserError
from anneal.records import Record

Flag = dict[str, str]  # name, strategy, line

PARTS = ("train", "validation", "test")  # in the order in which a run comes to know them
ALL = "all pairs"
SEEN = ("item", "prompt", "chosen", "rejected")


class Pair(NamedTuple):
    """A preference pair with its strategy `kind` and the part of the split that holds it."""

    id: str
    item: str
    kind: str
    part: str
    prompt: str  # the messages as JSON
    chosen: str
    rejected: str


def pair(row: Record, part: str) -> Pair:
    """The pair of a row of data/<part>_pairs.jsonl; refuses one with an empty side, which no text is better than."""
    said = {side: "\n".join(turn["content"] for turn in row[side]) for side in ("chosen", "rejected")}
    for side, text in said.items():
        if not text.strip():
            raise UserError(f"data/{part}_pairs.jsonl: {row['id']}: {side} is an empty text; drop the pair")
    prompt = json.dumps([[turn["role"], turn["content"]] for turn in row["prompt"]], ensure_ascii=False)
    return Pair(row["id"], row["item"], row["kind"], part, prompt, said["chosen"], said["rejected"])


def _bare(text: str) -> str:
    return "".join(text.split())


def identical(pairs: Sequence[Pair]) -> int:
    """Pairs whose sides are one text: their loss is constant, and whoever learns from them learns nothing."""
    return sum(_bare(p.chosen) == _bare(p.rejected) for p in pairs)


def _extra(keys: Iterable[Hashable]) -> int:
    return sum(count - 1 for count in Counter(keys).values())


def duplicates(pairs: Sequence[Pair]) -> dict[str, int]:
    """Pairs that repeat an earlier one: both texts, both texts and the prompt, and the rejected text alone."""
    both = [(_bare(p.chosen), _bare(p.rejected)) for p in pairs]
    prompted = [(*texts, p.prompt) for texts, p in zip(both, pairs, strict=True)]
    return {"pairs": _extra(both), "prompted": _extra(prompted), "rejected": _extra(texts[1] for texts in both)}


def leaks(pairs: Sequence[Pair], everything: Sequence[Pair]) -> dict[str, dict[str, int]]:
    """Of these pairs in validation and test: how many share an item, prompt or text with an earlier part.

    The earlier part may have it from any strategy: what was learnt of an item there helps here too. {part: {n, any,
    item, prompt, chosen, rejected}}
    """
    found, seen = {}, {name: set[str]() for name in SEEN}
    for part in PARTS:
        if part != PARTS[0]:
            known = [[_bare(getattr(p, name)) in seen[name] for name in SEEN] for p in pairs if p.part == part]
            hits = {name: sum(row[at] for row in known) for at, name in enumerate(SEEN)}
            found[part] = {"n": len(known), "any": sum(map(any, known)), **hits}
        for name in SEEN:
            seen[name].update(_bare(getattr(p, name)) for p in everything if p.part == part)
    return found


def _by_text(column: Record, limit: float) -> Iterable[tuple[str, str]]:
    """What tells chosen from rejected without reading: n-grams, length."""
    n, length, ngrams = column["n"], column["length"], column["ngrams"]
    if ngrams["auc"] is None:
        # Of a handful of pairs one side is always the longer: that says nothing yet, and this line stands for it.
        yield "few", f"{column['items']} items are too few for {ngrams['folds']} folds: no shortcut could be found"
        return
    if ngrams["auc"] > limit:
        top = ", ".join(f"{json.dumps(g['ngram'], ensure_ascii=False)} ({g['side']})" for g in ngrams["top"][:3])
        yield (
            "shortcut",
            (
                f"character n-grams tell chosen from rejected, AUC {ngrams['auc']:.3f} > {limit:g} "
                f"(at equal length {ngrams['equal']['auc']:.3f}): {top}"
            ),
        )
    longer, auc = max(("longer", "shorter"), key=lambda way: length[way]), length["auc"]
    if max(auc, 1 - auc) > limit or length[longer] == n:
        yield "length", f"chosen is {longer} in {length[longer]} of {n} pairs, AUC of length alone {auc:.3f}"


def _by_count(column: Record) -> Iterable[tuple[str, str]]:
    """What may not be there at all: equal sides, repeats, leaks."""
    n, repeated = column["n"], column["duplicates"]
    if column["identical"]:
        yield "identical", f"chosen == rejected in {column['identical']} of {n} pairs"
    if repeated["pairs"]:
        yield (
            "duplicates",
            (f"{repeated['pairs']} of {n} pairs repeat both texts of another, {repeated['prompted']} its prompt too"),
        )
    for part, found in column["leaks"].items():
        if found["any"]:
            said = ", ".join(f"{name} {found[name]}" for name in SEEN if found[name])
            yield "leak", f"{found['any']} of {found['n']} {part} pairs share with an earlier part: {said}"


def flags(numbers: Record, limit: float) -> list[Flag]:
    """Every flag by name with its strategy and one clear line; none where there are no pairs."""
    if not numbers["n"]:
        return []
    found: list[Flag] = []
    for strategy, column in {**numbers["strategies"], ALL: numbers["all"]}.items():
        # Of one strategy the whole says nothing that the strategy has not said.
        told = strategy == ALL and len(numbers["strategies"]) == 1
        raised = [] if told else [*_by_text(column, limit), *_by_count(column)]
        # A part without any pair is told once, not once for each strategy.
        there = PARTS if strategy == ALL else [part for part in PARTS if numbers["all"]["parts"][part]]
        raised += [("absent", f"no pair in {part}") for part in there if not column["parts"][part]]
        found += [{"name": name, "strategy": strategy, "line": f"{strategy}: {name}: {line}"} for name, line in raised]
    return found


def doubts(numbers: Record) -> list[str]:
    """What is no reason to refuse and must be known: strategies that length or n-grams tell, or that are too few."""
    return [flag["line"] for flag in numbers["flags"] if flag["name"] in ("shortcut", "length", "few")]


def refusals(numbers: Record) -> list[str]:
    """Why these pairs must not be trained on in silence, a line each: nothing to learn, leaks, all decided by length.

    `numbers` as reports/metrics/pairs.json holds them. A strategy that n-grams solve is reported, and no reason here.
    """
    if not numbers["all"]["parts"]["train"]:
        return ["data/train_pairs.jsonl: no pairs to learn from"]
    # What a strategy shows the whole shows too: its own lines say where.
    own = [flag for flag in numbers["flags"] if flag["strategy"] != ALL]
    lines = [flag["line"] for flag in own if flag["name"] in ("identical", "leak")]
    by_length = [flag["strategy"] for flag in numbers["flags"] if flag["name"] == "length"]
    if ALL in by_length or set(by_length) >= set(numbers["strategies"]):
        lines.append(f"length alone decides every pair: {', '.join(by_length)}; make rejected texts of other lengths")
    return lines

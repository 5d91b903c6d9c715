"""Flaws of preference pairs: equal sides, duplicates, leaks and shortcuts as flags, and which flags stop a training.

Texts are compared without their white space: a line break does not make a second text.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from typing import NamedTuple

from anneal import records
from anneal.errors import UserError
from anneal.records import Metrics

Flag = dict[str, str]  # name, strategy, line

PARTS = ("train", "validation", "test")  # a pair leaks from an earlier part into a later one
ALL = "all pairs"
SHARED = ("item", "prompt", "chosen", "rejected")  # the fields by which a pair leaks


class Pair(NamedTuple):
    """A preference pair as plain texts, with its strategy `kind` and its part of the split."""

    id: str
    item: str
    kind: str
    part: str
    prompt: str  # the messages as JSON
    chosen: str
    rejected: str


def pair(row: records.Pair, part: str) -> Pair:
    """The pair of a row of data/<part>_pairs.jsonl; UserError where a side is empty: no text is better than none."""
    chosen = "\n".join(message["content"] for message in row["chosen"])
    rejected = "\n".join(message["content"] for message in row["rejected"])
    for side, text in (("chosen", chosen), ("rejected", rejected)):
        if not text.strip():
            raise UserError(f"data/{part}_pairs.jsonl: {row['id']}: {side} is an empty text; drop the pair")
    prompt = json.dumps([[message["role"], message["content"]] for message in row["prompt"]], ensure_ascii=False)
    return Pair(row["id"], row["item"], row["kind"], part, prompt, chosen, rejected)


def _without_space(text: str) -> str:
    return "".join(text.split())


def identical(pairs: Sequence[Pair]) -> int:
    """The number of pairs whose sides are one text: their loss is constant and their gradient 0."""
    return sum(_without_space(p.chosen) == _without_space(p.rejected) for p in pairs)


def _surplus(keys: Iterable[Hashable]) -> int:
    """How many keys repeat an earlier one."""
    return sum(count - 1 for count in Counter(keys).values())


def duplicates(pairs: Sequence[Pair]) -> dict[str, int]:
    """Pairs that repeat an earlier one: both texts, both texts with the prompt, and the rejected text alone."""
    texts = [(_without_space(p.chosen), _without_space(p.rejected)) for p in pairs]
    with_prompt = [(*both, p.prompt) for both, p in zip(texts, pairs, strict=True)]
    return {
        "pairs": _surplus(texts),
        "prompted": _surplus(with_prompt),
        "rejected": _surplus(rejected for _, rejected in texts),
    }


def leaks(pairs: Sequence[Pair], everything: Sequence[Pair]) -> dict[str, dict[str, int]]:
    """Of these pairs in validation and test: how many share an item, prompt or text with an earlier part.

    `everything` holds the pairs of all strategies, as an item that one strategy trains on helps with every other one.
    {part: {n, any, item, prompt, chosen, rejected}}
    """
    counts: dict[str, dict[str, int]] = {}
    seen = {field: set[str]() for field in SHARED}
    for part in PARTS:
        if part != PARTS[0]:
            # [pairs][fields]
            shared = [[_without_space(getattr(p, f)) in seen[f] for f in SHARED] for p in pairs if p.part == part]
            by_field = {field: sum(row[column] for row in shared) for column, field in enumerate(SHARED)}
            counts[part] = {"n": len(shared), "any": sum(map(any, shared)), **by_field}
        for field in SHARED:
            seen[field].update(_without_space(getattr(p, field)) for p in everything if p.part == part)
    return counts


def _shortcut_flags(column: Metrics, limit: float) -> Iterable[tuple[str, str]]:
    """Name and line of each flag about what separates chosen from rejected without reading: n-grams, length."""
    n, length, ngrams = column["n"], column["length"], column["ngrams"]
    if ngrams["auc"] is None:
        # Of a handful of pairs one side is often always the longer: no evidence yet, so this flag replaces the others.
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


def _count_flags(column: Metrics) -> Iterable[tuple[str, str]]:
    """Name and line of each flag about pairs that must not exist at all: equal sides, duplicates, leaks."""
    n, repeated = column["n"], column["duplicates"]
    if column["identical"]:
        yield "identical", f"chosen == rejected in {column['identical']} of {n} pairs"
    if repeated["pairs"]:
        line = f"{repeated['pairs']} of {n} pairs repeat both texts of another, {repeated['prompted']} its prompt too"
        yield "duplicates", line
    for part, counts in column["leaks"].items():
        if counts["any"]:
            fields = ", ".join(f"{field} {counts[field]}" for field in SHARED if counts[field])
            yield "leak", f"{counts['any']} of {counts['n']} {part} pairs share with an earlier part: {fields}"


def flags(metrics: Metrics, limit: float) -> list[Flag]:
    """Every flag: its name, its strategy and one line; none where there are no pairs."""
    if not metrics["n"]:
        return []
    flagged: list[Flag] = []
    for strategy, column in {**metrics["strategies"], ALL: metrics["all"]}.items():
        # With a single strategy the pairs together would only repeat its flags.
        repeats = strategy == ALL and len(metrics["strategies"]) == 1
        raised = [] if repeats else [*_shortcut_flags(column, limit), *_count_flags(column)]
        # A part without any pair is reported once, not once for each strategy.
        parts = PARTS if strategy == ALL else [part for part in PARTS if metrics["all"]["parts"][part]]
        raised += [("absent", f"no pair in {part}") for part in parts if not column["parts"][part]]
        for name, line in raised:
            flagged.append({"name": name, "strategy": strategy, "line": f"{strategy}: {name}: {line}"})
    return flagged


def doubts(metrics: Metrics) -> list[str]:
    """Lines of the flags that warn and do not refuse: strategies that length or n-grams solve, or that are too few."""
    return [flag["line"] for flag in metrics["flags"] if flag["name"] in ("shortcut", "length", "few")]


def refusals(metrics: Metrics) -> list[str]:
    """Why these pairs must not be trained on unseen, a line each: no pairs, equal sides, leaks, all solved by length.

    `metrics` as reports/metrics/pairs.json holds them. A strategy that n-grams solve is reported by `doubts` alone.
    """
    if not metrics["all"]["parts"]["train"]:
        return ["data/train_pairs.jsonl: no pairs to learn from"]
    # All pairs together show what their strategies show, whose own lines say where.
    by_strategy = [flag for flag in metrics["flags"] if flag["strategy"] != ALL]
    lines = [flag["line"] for flag in by_strategy if flag["name"] in ("identical", "leak")]
    by_length = [flag["strategy"] for flag in metrics["flags"] if flag["name"] == "length"]
    if ALL in by_length or set(by_length) >= set(metrics["strategies"]):
        lines.append(f"length alone decides every pair: {', '.join(by_length)}; make rejected texts of other lengths")
    return lines

"""Checks by name: what must hold of one text, each an answer of yes, or no with what was found.

filter takes them for rules, evaluate for its table, accept for its contract, so that one definition serves all three. A
check sees a record (id, type, facts), a text and the world: rules, word lists, schema, rhymes, density, training texts.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anneal import similarity
from anneal.checks import density, facts, json_layout, verse
from anneal.errors import UserError
from anneal.params import Fraction, Section
from anneal.records import Record

Hits = list[str]  # what was found; empty is a pass


class Filter(Section):
    """Section `filter`: a record goes by the first rule that hits it; the density comes after all of them."""

    rules: list[str]  # checks, and: exact, near
    near_duplicate: Fraction  # Jaccard of character 3-grams; the first of a pair stays
    density: density.Density


@dataclass(frozen=True)
class Context:
    """All that a check may look at beside the record and its text."""

    rules: facts.Rules
    known: facts.Vocabulary
    schema: dict[str, Any] | None = None
    rhymes: dict[str, str] | None = None
    density: density.Model | None = None
    train: tuple[str, ...] = ()  # texts that a copy may come from
    near: float = 0.9  # share of the 8-grams from which a text is a copy


def context(
    rules: facts.Rules, model: density.Model | None = None, train: Sequence[str] = (), near: float = 0.9
) -> Context:
    """The world of a recipe: the files of rules.folder, and what the stage brings along."""
    folder = Path(rules.folder)
    found: dict[str, Any] = {}
    for name in ("schema", "rhymes"):
        path = folder / f"{name}.json"
        try:
            found[name] = json.loads(path.read_text("utf-8")) if path.exists() else None
        except json.JSONDecodeError as err:
            raise UserError(f"{path}:{err.lineno}:{err.colno}: not JSON: {err.msg}") from None
    return Context(rules, facts.known(rules), **found, density=model, train=tuple(train), near=near)


def _need(value: Any, check: str, file: str) -> Any:
    if value is None:
        raise UserError(f"the check {check!r} needs {file}; add it, or take the check out of params.yaml")
    return value


def _json(_record: Record, words: str, _world: Context) -> Hits:
    return [] if json_layout.strict(words) is not None else ["not JSON"]


def _schema(_record: Record, words: str, context: Context) -> Hits:
    return json_layout.schema_errors(words, _need(context.schema, "schema", f"{context.rules.folder}/schema.json"))


def _semantic(record: Record, words: str, _world: Context) -> Hits:
    return json_layout.semantic(words, record)


def _lines(record: Record, words: str, _world: Context) -> Hits:
    return verse.lines_hits(words, record)


def _syllables(record: Record, words: str, _world: Context) -> Hits:
    return verse.syllables_hits(words, record)


def _rhyme(record: Record, words: str, context: Context) -> Hits:
    return verse.rhyme_hits(words, record, _need(context.rhymes, "rhyme", f"{context.rules.folder}/rhymes.json"))


EACH: dict[str, Callable[[Record, str, Context], Hits]] = {
    "json": _json,
    "schema": _schema,
    "semantic": _semantic,
    "lines": _lines,
    "syllables": _syllables,
    "rhyme": _rhyme,
}


def _in_distribution(records: Sequence[Record], texts: Sequence[str], context: Context) -> list[Hits]:
    """At least as likely as the density's own threshold; -inf where a number is missing."""
    model = _need(context.density, "in_distribution", "models/density")
    scores = density.log_prob(
        model, [{"type": r["type"], "text": words} for r, words in zip(records, texts, strict=True)]
    )
    return [[] if score >= model.threshold else [f"log-probability {score:.2f}"] for score in scores.tolist()]


def _copied(_records: Sequence[Record], texts: Sequence[str], context: Context) -> list[Hits]:
    if not context.train:
        return [[] for _ in texts]
    close = similarity.nearest(texts, context.train, 8)
    return [
        [f"{n.containment:.2f} of its 8-grams"] if max(n.jaccard, n.containment) >= context.near else [] for n in close
    ]


TOGETHER: dict[str, Callable[[Sequence[Record], Sequence[str], Context], list[Hits]]] = {
    "in_distribution": _in_distribution,
    "copied": _copied,
}
FACTS = ("type", "name", "facts", "foreign", "banned", "exaggerated", "length", "all_facts", "unsupported")
NAMES = (*FACTS, *EACH, *TOGETHER)


def refuse(names: Sequence[str], where: str) -> None:
    """Raises UserError for a check that does not exist; `where` is the key of params.yaml."""
    if unknown := [name for name in names if name not in NAMES]:
        raise UserError(f"params.yaml: {where}: unknown check {unknown[0]!r}; known: {', '.join(NAMES)}")


def run_all(
    names: Sequence[str], records: Sequence[Record], texts: Sequence[str], context: Context
) -> list[dict[str, Hits]]:
    """For each text the hits of each check, in the order of `names`."""
    hits_by_text: list[dict[str, Hits]] = [{} for _ in texts]
    about_facts = any(name in FACTS for name in names)
    for row, record, words in zip(hits_by_text, records, texts, strict=True):
        told = facts.check(words, record["type"], record["facts"], context.rules, context.known) if about_facts else {}
        row |= {name: told[name] if name in FACTS else [] for name in names}
        row |= {name: EACH[name](record, words, context) for name in names if name in EACH}
    for name in names:
        if name in TOGETHER and texts:
            for row, hits in zip(hits_by_text, TOGETHER[name](records, texts, context), strict=True):
                row[name] = hits
    return hits_by_text


def run(names: Sequence[str], record: Record, words: str, context: Context) -> dict[str, Hits]:
    """The hits of each check on one text."""
    return run_all(names, [record], [words], context)[0]

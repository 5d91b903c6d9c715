"""Registry of the checks of a text, by name. A check returns a list of hits; a text without hits passes.

The stages filter (rules), evaluate (table of pass rates) and accept (delivery policy) share these definitions. A check
reads a record (id, type, facts), a text and the context: rules, word lists, schema, rhymes, density, training texts.
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

Hits = list[str]  # violations found in one text, in words; empty means passed


class Filter(Section):
    """Section `filter`: the first rule with a hit rejects a record; the density is applied after all rules."""

    rules: list[str]  # names of checks, or `exact` and `near` (duplicates)
    near_duplicate: Fraction  # Jaccard of character 3-grams; the first of a pair is kept
    density: density.Density


@dataclass(frozen=True)
class Context:
    """Shared inputs of the checks, beside the record and its text."""

    rules: facts.Rules
    known: facts.Vocabulary
    schema: dict[str, Any] | None = None
    rhymes: dict[str, str] | None = None
    density: density.Model | None = None
    train: tuple[str, ...] = ()  # training texts that `copied` compares with
    near: float = 0.9  # `copied` fails from this similarity on: Jaccard or containment of 8-grams, 0 to 1


def context(
    rules: facts.Rules, model: density.Model | None = None, train: Sequence[str] = (), near: float = 0.9
) -> Context:
    """Load the context of a recipe from `rules.folder`, with the density model and training texts of the stage.

    `schema.json` and `rhymes.json` are optional. Raises UserError for a file that is not JSON.
    """
    folder = Path(rules.folder)
    optional_files: dict[str, Any] = {}
    for name in ("schema", "rhymes"):
        path = folder / f"{name}.json"
        try:
            optional_files[name] = json.loads(path.read_text("utf-8")) if path.exists() else None
        except json.JSONDecodeError as err:
            raise UserError(f"{path}:{err.lineno}:{err.colno}: not JSON: {err.msg}") from None
    return Context(rules, facts.known(rules), **optional_files, density=model, train=tuple(train), near=near)


def _require(value: Any, check: str, file: str) -> Any:
    if value is None:
        raise UserError(f"the check {check!r} needs {file}; add it, or take the check out of params.yaml")
    return value


def _json(_record: Record, text: str, _context: Context) -> Hits:
    return [] if json_layout.strict(text) is not None else ["not JSON"]


def _schema(_record: Record, text: str, context: Context) -> Hits:
    return json_layout.schema_errors(text, _require(context.schema, "schema", f"{context.rules.folder}/schema.json"))


def _semantic(record: Record, text: str, _context: Context) -> Hits:
    return json_layout.semantic(text, record)


def _lines(record: Record, text: str, _context: Context) -> Hits:
    return verse.lines_hits(text, record)


def _syllables(record: Record, text: str, _context: Context) -> Hits:
    return verse.syllables_hits(text, record)


def _rhyme(record: Record, text: str, context: Context) -> Hits:
    return verse.rhyme_hits(text, record, _require(context.rhymes, "rhyme", f"{context.rules.folder}/rhymes.json"))


# Checks of one text at a time.
EACH: dict[str, Callable[[Record, str, Context], Hits]] = {
    "json": _json,
    "schema": _schema,
    "semantic": _semantic,
    "lines": _lines,
    "syllables": _syllables,
    "rhyme": _rhyme,
}


def _in_distribution(records: Sequence[Record], texts: Sequence[str], context: Context) -> list[Hits]:
    """Log-probability at or above the threshold of the density, in nats; -inf where a feature is missing, a failure."""
    model = _require(context.density, "in_distribution", "models/density")
    scores = density.log_prob(
        model, [{"type": r["type"], "text": text} for r, text in zip(records, texts, strict=True)]
    )
    return [[] if score >= model.threshold else [f"log-probability {score:.2f}"] for score in scores.tolist()]


def _copied(_records: Sequence[Record], texts: Sequence[str], context: Context) -> list[Hits]:
    """Similarity with the nearest training text below `context.near`, by Jaccard and by containment of 8-grams."""
    if not context.train:
        return [[] for _ in texts]
    neighbours = similarity.nearest(texts, context.train, 8)
    return [
        [f"{n.containment:.2f} of its 8-grams"] if max(n.jaccard, n.containment) >= context.near else []
        for n in neighbours
    ]


# Checks of all texts at once, which is faster: one matrix of scores, one index of n-grams.
TOGETHER: dict[str, Callable[[Sequence[Record], Sequence[str], Context], list[Hits]]] = {
    "in_distribution": _in_distribution,
    "copied": _copied,
}
# Checks that anneal.checks.facts computes in one pass.
FACTS = ("type", "name", "facts", "foreign", "banned", "exaggerated", "length", "all_facts", "unsupported")
NAMES = (*FACTS, *EACH, *TOGETHER)


def refuse(names: Sequence[str], where: str) -> None:
    """Raise UserError for an unknown check; `where` is the key of params.yaml."""
    if unknown := [name for name in names if name not in NAMES]:
        raise UserError(f"params.yaml: {where}: unknown check {unknown[0]!r}; known: {', '.join(NAMES)}")


def run_all(
    names: Sequence[str], records: Sequence[Record], texts: Sequence[str], context: Context
) -> list[dict[str, Hits]]:
    """Run the checks `names` on every text. Returns one dict per text: check -> hits, in the order of `names`."""
    hits_by_text: list[dict[str, Hits]] = [{} for _ in texts]
    needs_facts = any(name in FACTS for name in names)
    for row, record, text in zip(hits_by_text, records, texts, strict=True):
        fact_hits = (
            facts.check(text, record["type"], record["facts"], context.rules, context.known) if needs_facts else {}
        )
        row |= {name: fact_hits[name] if name in FACTS else [] for name in names}
        row |= {name: EACH[name](record, text, context) for name in names if name in EACH}
    for name in names:
        if name in TOGETHER and texts:
            for row, hits in zip(hits_by_text, TOGETHER[name](records, texts, context), strict=True):
                row[name] = hits
    return hits_by_text


def run(names: Sequence[str], record: Record, text: str, context: Context) -> dict[str, Hits]:
    """Run the checks `names` on one text. Returns check -> hits."""
    return run_all(names, [record], [text], context)[0]

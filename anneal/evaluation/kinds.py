"""Figures of particular kinds of text: layouts in JSON, verse, ways to decode. Each is empty where it has no say."""

from __future__ import annotations

from collections.abc import Callable

from anneal.checks import density, json_layout, verse
from anneal.evaluation import authors, decoding_variety, text_metrics
from anneal.evaluation.metrics import Bench, Numbers, share
from anneal.files import Record
from anneal.stats import intervals
from anneal.systems import present


def _components(model: density.Model, records: list[Record]) -> set[int]:
    """The components of a mixture that some of the records lie nearest to."""
    return {place for place in density.components(model, records) if place is not None}


def layouts(name: str, bench: Bench) -> Numbers:
    """JSON as it stands, and after repair, which counts as no success; the share of the mixture's components hit."""
    rows = bench.checks[name]
    read = [json_layout.read(row["text"]).how for row in rows]
    found: Numbers = {
        "strict": share(rows, [how == "strict" for how in read]),
        "mended": share(rows, [how != "none" for how in read]),
    }
    if bench.world.density:
        # A component counts as hit by a text that lies in the distribution, not by one that is merely nearest to it.
        inside = [r for r in rows if r["checks"].get("in_distribution", True)]
        found["components"] = len(_components(bench.world.density, inside)) / len(bench.world.density.weights)
    return found


def verses(name: str, bench: Bench) -> Numbers:
    """The share of even lines that rhyme with the couplet, and the line ends that the table does not know."""
    rows, table = bench.checks[name], bench.world.rhymes or {}
    rates = [verse.rhyme_rate(row["text"], bench.records[row["id"]], table) for row in rows]
    known = [(rate, row["item"]) for rate, row in zip(rates, rows, strict=True) if rate is not None]
    strange = sum(len(verse.unknown(row["text"], bench.records[row["id"]], table)) for row in rows)
    return {"rhyme": intervals.mean([rate for rate, _ in known], [item for _, item in known]).row(), "unknown": strange}


def styles(name: str, bench: Bench) -> Numbers:
    """Distance of the texts to each author of the training texts: to the one they answer for, and to the others."""
    rows = bench.checks[name]
    words = authors.function_words(bench.world.rules.folder)
    # A chunk stands under every template that asks for it: counted once, as in the training texts.
    texts = authors.whole([authors.of(bench.records[row["id"]], row["text"]) for row in rows])
    learnt = [authors.of(record, str(record["completion"][-1]["content"])) for record in bench.learnt]
    every = [
        authors.whole([authors.of(bench.records[r["id"]], r["text"]) for r in bench.checks[s]])
        for s in present(bench.checks)
    ]
    budget = min(authors.words(part) for part in every)  # type-token ratios fall with it: one for all systems
    return authors.figures(texts, learnt, words, bench.seed, bench.draws, budget)


def decoding(name: str, bench: Bench) -> Numbers:
    """The presets of one system side by side, paired by item: what each gains in variety and what it pays."""
    rows = bench.presets.get(name) or []
    texts = {row["id"]: row["text"] for row in bench.checks["golden"]}
    passed = {(row["preset"], row["seed"], row["id"]): row["strict"] for row in rows}

    def strict(row: Record) -> float:
        return float(passed[row["preset"], row["seed"], row["id"]])

    def overlap(row: Record) -> float:
        return text_metrics.rouge_l(row["text"], texts[row["id"]])

    quality: dict[str, Callable[[Record], float]] = {"strict": strict, "rouge_l": overlap}
    return dict(decoding_variety.compare(rows, list(texts.values()), quality, bench.budget, bench.draws, bench.seed))


def contract(rows: list[Record]) -> Numbers:
    """The checks that the answers of the inference contract pass, whatever rung they are from."""
    names = rows[0]["checks"] if rows else {}
    return {check: share(rows, [row["checks"][check] for row in rows]) for check in names}

"""Figures of one system's answers beside golden's: each a function of a system's name and the bench it stands on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from anneal import similarity
from anneal.checks import density, json_layout, verse
from anneal.checks.text_checks import Context
from anneal.evaluation import authors, decoding_variety, text_metrics
from anneal.records import Metrics, Record
from anneal.stats import intervals
from anneal.systems import present

Rows = dict[str, list[Record]]


@dataclass(frozen=True)
class MetricInputs:
    """All that a figure may look at."""

    checks: Rows  # checked texts by system and by control
    answers: Rows  # raw answers by system
    train: list[str]  # training texts
    seed: int
    budget: int  # characters of a sample for distinct-n, which falls with length
    draws: int
    near: float  # containment or Jaccard of 8-grams from which an answer is a near-copy of a training text
    records: dict[str, Record]  # test records by id
    learnt: list[Record]  # training records
    context: Context
    presets: Rows  # by system: other searches, each row with its preset, its seed and whether it is strict


def share(rows: list[Record], flags: list[bool]) -> Metrics:
    return intervals.rate(flags, [row["item"] for row in rows]).row()


def parts(rows: list[Record]) -> Rows:
    return {kind: [row for row in rows if row["type"] == kind] for kind in sorted({row["type"] for row in rows})}


def rules(name: str, bench: MetricInputs) -> Metrics:
    """The share of texts that pass each rule, strict and all_facts; by type the bare shares of n texts."""
    rows, kinds = bench.checks[name], parts(bench.checks[name])
    numbers: Metrics = {rule: share(rows, [row["checks"][rule] for row in rows]) for rule in rows[0]["checks"]}
    means = {
        k: {rule: sum(row["checks"][rule] for row in part) / len(part) for rule in numbers} for k, part in kinds.items()
    }
    return {**numbers, "by_type": {kind: {"n": len(part), **means[kind]} for kind, part in kinds.items()}}


def stops(name: str, bench: MetricInputs) -> Metrics:
    """How many texts end by themselves, and how many repeat themselves more than 99 of 100 golden texts."""
    rows = bench.checks[name]
    usual = np.quantile([text_metrics.repetition(row["text"]) for row in bench.checks["golden"]], 0.99)
    looped = [bool(text_metrics.repetition(row["text"]) > usual) for row in rows]
    return {"stopped": share(rows, [row["stopped"] for row in rows]), "looped": share(rows, looped)}


def likelihood(name: str, bench: MetricInputs) -> Metrics:
    """Of the golden completions, stop token included, one mask for both models; the difference in bits per byte."""
    if name == "golden":
        return {}
    bits = {system: {row["id"]: text_metrics.bits(row) for row in rows} for system, rows in bench.answers.items()}
    clusters = {row["id"]: row["item"] for row in bench.checks["golden"]}
    others = {"tuned": ("base",), "aligned": ("base", "tuned")}.get(name, ())
    less = {f"less_{other}": intervals.paired(bits[name], bits[other], clusters, bench.seed) for other in others}
    return {**text_metrics.likelihood(bench.answers[name]), **less}


def overlap(name: str, bench: MetricInputs) -> Metrics:
    """chrF, BLEU and character ROUGE-L against golden."""
    if name == "golden":
        return {}
    texts, references = ([row["text"] for row in bench.checks[system]] for system in (name, "golden"))
    scores = [text_metrics.rouge_l(mine, reference) for mine, reference in zip(texts, references, strict=True)]
    rouge = intervals.mean(scores, [row["item"] for row in bench.checks[name]]).row()
    return {"n": len(texts), **text_metrics.overlap(texts, references), "rouge_l": rouge}


def variety(name: str, bench: MetricInputs) -> Metrics:
    """distinct-n in samples of one size: that of the poorest system, where it has less than the budget."""
    budget = min(bench.budget, *(sum(len(row["text"]) for row in bench.checks[s]) for s in present(bench.checks)))
    texts = {row["id"]: row["text"] for row in bench.checks[name]}
    drawn = text_metrics.distinct(texts, budget, bench.draws, bench.seed)
    return {"n": len(texts), "characters": budget, **drawn}


def copies(name: str, bench: MetricInputs) -> Metrics:
    """Texts that stand in the training data, word for word or nearly; golden shows what the data itself repeats."""
    rows, exact = bench.checks[name], {similarity.key(words) for words in bench.train}
    close = similarity.nearest([row["text"] for row in rows], bench.train, 8)
    near = [max(found.jaccard, found.containment) >= bench.near for found in close]
    return {"near": share(rows, near), "exact": share(rows, [similarity.key(row["text"]) in exact for row in rows])}


def length(name: str, bench: MetricInputs) -> Metrics:
    """Characters: quartiles, and the sum over that of golden, of all texts and by type."""
    mine, usual = ({"all": bench.checks[system], **parts(bench.checks[system])} for system in (name, "golden"))
    counts = {kind: [len(row["text"]) for row in rows] for kind, rows in mine.items()}
    ratio = {kind: sum(counts[kind]) / sum(len(row["text"]) for row in rows) for kind, rows in usual.items()}
    return {kind: {**text_metrics.quartiles(counts[kind]), "ratio": ratio[kind]} for kind in counts}


# Figures of particular kinds of text: layouts in JSON, verse, ways to decode. Each is empty where it has no say.


def _components(model: density.Model, records: list[Record]) -> set[int]:
    """The components of a mixture that some of the records lie nearest to."""
    return {place for place in density.components(model, records) if place is not None}


def layouts(name: str, bench: MetricInputs) -> Metrics:
    """JSON as it stands, and after repair, which counts as no success; the share of the mixture's components hit."""
    rows = bench.checks[name]
    read = [json_layout.read(row["text"]).how for row in rows]
    found: Metrics = {
        "strict": share(rows, [how == "strict" for how in read]),
        "mended": share(rows, [how != "none" for how in read]),
    }
    if bench.context.density:
        # A component counts as hit by a text that lies in the distribution, not by one that is merely nearest to it.
        inside = [r for r in rows if r["checks"].get("in_distribution", True)]
        found["components"] = len(_components(bench.context.density, inside)) / len(bench.context.density.weights)
    return found


def verses(name: str, bench: MetricInputs) -> Metrics:
    """The share of even lines that rhyme with the couplet, and the line ends that the table does not know."""
    rows, table = bench.checks[name], bench.context.rhymes or {}
    rates = [verse.rhyme_rate(row["text"], bench.records[row["id"]], table) for row in rows]
    known = [(rate, row["item"]) for rate, row in zip(rates, rows, strict=True) if rate is not None]
    strange = sum(len(verse.unknown(row["text"], bench.records[row["id"]], table)) for row in rows)
    return {"rhyme": intervals.mean([rate for rate, _ in known], [item for _, item in known]).row(), "unknown": strange}


def styles(name: str, bench: MetricInputs) -> Metrics:
    """Distance of the texts to each author of the training texts: to the one they answer for, and to the others."""
    rows = bench.checks[name]
    words = authors.function_words(bench.context.rules.folder)
    # A chunk stands under every template that asks for it: counted once, as in the training texts.
    texts = authors.whole([authors.of(bench.records[row["id"]], row["text"]) for row in rows])
    learnt = [authors.of(record, str(record["completion"][-1]["content"])) for record in bench.learnt]
    every = [
        authors.whole([authors.of(bench.records[r["id"]], r["text"]) for r in bench.checks[s]])
        for s in present(bench.checks)
    ]
    budget = min(authors.words(part) for part in every)  # type-token ratios fall with it: one for all systems
    return authors.figures(texts, learnt, words, bench.seed, bench.draws, budget)


def decoding(name: str, bench: MetricInputs) -> Metrics:
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


def contract(rows: list[Record]) -> Metrics:
    """The checks that the answers of the inference contract pass, whatever rung they are from."""
    names = rows[0]["checks"] if rows else {}
    return {check: share(rows, [row["checks"][check] for row in rows]) for check in names}

"""The metrics of one system's answers, with the references as baseline: each a function (system, inputs) -> Metrics.

A metric that does not apply to a system or a recipe is empty.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from anneal import similarity
from anneal.checks import density, json_layout, verse
from anneal.checks.text_checks import Context
from anneal.evaluation import authors, decoding_variety, text_metrics
from anneal.records import Answer, Check, Metrics, Record, Row
from anneal.stats import intervals
from anneal.systems import present

Rows = dict[str, list[Check]]
_COPY_NGRAM = 8  # characters: near-copies share runs of this length, other texts of one kind hardly do


@dataclass(frozen=True)
class MetricInputs:
    """All that a metric may read."""

    checks: Rows  # checked texts by system and by control
    answers: dict[str, list[Answer]]  # raw answers by system
    train: list[str]  # training texts
    seed: int
    budget: int  # characters of a sample for distinct-n, which falls with length
    draws: int
    near: float  # containment or Jaccard of 8-grams from which an answer is a near-copy of a training text
    records: dict[str, Record]  # test records by id
    train_records: list[Record]
    context: Context
    presets: dict[str, list[Row]]  # by system: answers of other decoding presets, each row Answer and Check in one


def share(rows: Sequence[Mapping[str, Any]], flags: list[bool]) -> Metrics:
    """The share of rows whose flag is set, with its interval clustered by item."""
    return intervals.rate(flags, [row["item"] for row in rows]).row()


def by_type(rows: list[Check]) -> Rows:
    """The rows of each type, types sorted."""
    return {kind: [row for row in rows if row["type"] == kind] for kind in sorted({row["type"] for row in rows})}


def rules(name: str, inputs: MetricInputs) -> Metrics:
    """The share of texts that pass each rule, strict and all_facts; by type n and the shares without interval."""
    rows = inputs.checks[name]
    shares: Metrics = {rule: share(rows, [row["checks"][rule] for row in rows]) for rule in rows[0]["checks"]}
    types: Metrics = {}
    for kind, part in by_type(rows).items():
        means = {rule: sum(row["checks"][rule] for row in part) / len(part) for rule in shares}
        types[kind] = {"n": len(part), **means}
    return {**shares, "by_type": types}


def stops(name: str, inputs: MetricInputs) -> Metrics:
    """The share of texts that end by themselves, and of those with more repetition than 99% of the references."""
    rows = inputs.checks[name]
    repetitions = [text_metrics.repetition(row["text"]) for row in inputs.checks["golden"]]
    limit = np.quantile(repetitions, text_metrics.EXTREME)
    looped = [bool(text_metrics.repetition(row["text"]) > limit) for row in rows]
    return {"stopped": share(rows, [row["stopped"] for row in rows]), "looped": share(rows, looped)}


def likelihood(name: str, inputs: MetricInputs) -> Metrics:
    """Likelihood of the references, stop token included, with one mask for all models; differences in bits per byte."""
    if name == "golden":
        return {}
    bits = {system: {row["id"]: text_metrics.bits(row) for row in rows} for system, rows in inputs.answers.items()}
    clusters = {row["id"]: row["item"] for row in inputs.checks["golden"]}
    others = {"tuned": ("base",), "aligned": ("base", "tuned")}.get(name, ())
    less = {f"less_{other}": intervals.paired(bits[name], bits[other], clusters, inputs.seed) for other in others}
    return {**text_metrics.likelihood(inputs.answers[name]), **less}


def overlap(name: str, inputs: MetricInputs) -> Metrics:
    """chrF, BLEU and character ROUGE-L against the references."""
    if name == "golden":
        return {}
    texts = [row["text"] for row in inputs.checks[name]]
    references = [row["text"] for row in inputs.checks["golden"]]
    scores = [text_metrics.rouge_l(text, reference) for text, reference in zip(texts, references, strict=True)]
    rouge = intervals.mean(scores, [row["item"] for row in inputs.checks[name]]).row()
    return {"n": len(texts), **text_metrics.overlap(texts, references), "rouge_l": rouge}


def variety(name: str, inputs: MetricInputs) -> Metrics:
    """distinct-n in samples of one size for all systems: the budget, or the characters of the shortest system."""
    budget = min(inputs.budget, *(sum(len(row["text"]) for row in inputs.checks[s]) for s in present(inputs.checks)))
    texts = {row["id"]: row["text"] for row in inputs.checks[name]}
    distinct = text_metrics.distinct(texts, budget, inputs.draws, inputs.seed)
    return {"n": len(texts), "characters": budget, **distinct}


def copies(name: str, inputs: MetricInputs) -> Metrics:
    """The shares of exact and near-copies of training texts; the references show how often the data repeats itself."""
    rows = inputs.checks[name]
    train_keys = {similarity.key(text) for text in inputs.train}
    matches = similarity.nearest([row["text"] for row in rows], inputs.train, _COPY_NGRAM)
    near = [max(match.jaccard, match.containment) >= inputs.near for match in matches]
    exact = [similarity.key(row["text"]) in train_keys for row in rows]
    return {"near": share(rows, near), "exact": share(rows, exact)}


def length(name: str, inputs: MetricInputs) -> Metrics:
    """Characters, of all texts and by type: quartiles, and the ratio of their sum to that of the references."""

    def characters(system: str) -> dict[str, list[int]]:
        rows = inputs.checks[system]
        return {kind: [len(row["text"]) for row in part] for kind, part in {"all": rows, **by_type(rows)}.items()}

    references = characters("golden")
    metrics: Metrics = {}
    for kind, counts in characters(name).items():
        metrics[kind] = {**text_metrics.quartiles(counts), "ratio": sum(counts) / sum(references[kind])}
    return metrics


# Metrics of particular kinds of text: layouts in JSON, verse, style. The last one compares decoding presets.


def _components(model: density.Model, rows: list[Check]) -> set[int]:
    """The components of a mixture to which at least one of the texts belongs."""
    records = [Record(id=row["id"], item=row["item"], type=row["type"], text=row["text"]) for row in rows]
    return {component for component in density.components(model, records) if component is not None}


def layouts(name: str, inputs: MetricInputs) -> Metrics:
    """The shares of texts that are JSON as written and after repair, and the share of the mixture's components hit.

    Repaired JSON does not count as a success: its share shows how much of the failures is syntax alone.
    """
    rows = inputs.checks[name]
    readings = [json_layout.read(row["text"]).how for row in rows]
    metrics: Metrics = {
        "strict": share(rows, [how == "strict" for how in readings]),
        "mended": share(rows, [how != "none" for how in readings]),
    }
    if inputs.context.density:
        # Only texts inside the distribution hit a component; any text is nearest to some component.
        inside = [row for row in rows if row["checks"].get("in_distribution", True)]
        metrics["components"] = len(_components(inputs.context.density, inside)) / len(inputs.context.density.weights)
    return metrics


def verses(name: str, inputs: MetricInputs) -> Metrics:
    """The share of even lines that rhyme with the couplet, and the number of line ends that the rhyme table lacks."""
    rows = inputs.checks[name]
    table = inputs.context.rhymes or {}
    rates: list[float] = []
    items: list[str] = []
    unknown = 0
    for row in rows:
        record = inputs.records[row["id"]]
        rate = verse.rhyme_rate(row["text"], record, table)
        if rate is not None:
            rates.append(rate)
            items.append(row["item"])
        unknown += len(verse.unknown(row["text"], record, table))
    return {"rhyme": intervals.mean(rates, items).row(), "unknown": unknown}


def styles(name: str, inputs: MetricInputs) -> Metrics:
    """Distance of the texts to each author of the training texts: the author asked for, and the others as controls."""

    def passages(system: str) -> list[authors.Text]:
        # Several templates ask for one chunk: it counts once, as in the training texts.
        rows = inputs.checks[system]
        return authors.deduplicate([authors.text_of(inputs.records[row["id"]], row["text"]) for row in rows])

    function_words = authors.function_words(inputs.context.rules.folder)
    train = [authors.text_of(record, str(record["completion"][-1]["content"])) for record in inputs.train_records]
    # Type-token ratios fall with the size of a sample, so that all systems share one size.
    budget = min(authors.words(passages(system)) for system in present(inputs.checks))
    return authors.figures(passages(name), train, function_words, inputs.seed, inputs.draws, budget)


def decoding(name: str, inputs: MetricInputs) -> Metrics:
    """The decoding presets of one system, paired by item: variety and quality of each."""
    rows = inputs.presets.get(name) or []
    references = {row["id"]: row["text"] for row in inputs.checks["golden"]}

    def strict(row: Mapping[str, Any]) -> float:
        return float(row["strict"])

    def rouge_l(row: Mapping[str, Any]) -> float:
        return text_metrics.rouge_l(row["text"], references[row["id"]])

    qualities: dict[str, Callable[[Mapping[str, Any]], float]] = {"strict": strict, "rouge_l": rouge_l}
    texts = list(references.values())
    return dict(decoding_variety.compare(rows, texts, qualities, inputs.budget, inputs.draws, inputs.seed))


def contract(rows: Sequence[Mapping[str, Any]]) -> Metrics:
    """The share of accepted answers that pass each check, over all steps of the escalation policy."""
    names = rows[0]["checks"] if rows else {}
    return {check: share(rows, [row["checks"][check] for row in rows]) for check in names}

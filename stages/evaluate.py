"""evaluate: what arithmetic can say of the answers, beside golden and beside texts that are known to be wrong.

reads   data/test.jsonl, data/train.jsonl, data/answers/base.jsonl, data/answers/tuned.jsonl,
        data/raw/<recipe>/vocabulary.json
writes  data/checks.jsonl, reports/metrics/evaluate.json
params  evaluate, rules, seed
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from stages.lib import facts, jsonl, measures, stats, text
from stages.lib.jsonl import Record
from stages.lib.params import Count, Fraction, Refusal, Section, run

STRICT = ("type", "name", "facts", "foreign")
SYSTEMS = ("golden", "base", "tuned")
Numbers = dict[str, Any]
Rows = dict[str, list[Record]]


class Evaluate(Section):
    """Which figures, and the choices inside them."""

    metrics: list[Literal["rules", "stops", "likelihood", "overlap", "variety", "copies", "length"]]
    budget: Count  # characters of a sample for distinct-n, which falls with length and so is taken at a fixed one
    draws: Count
    near: Fraction  # containment or Jaccard of 8-grams from which an answer is a near-copy of a training text


@dataclass(frozen=True)
class Bench:
    """All that a figure may look at: checked texts by system and by control, raw answers, training texts."""

    checks: Rows
    answers: Rows
    train: list[str]
    evaluate: Evaluate
    seed: int


def golden(record: Record) -> str:
    return str(record["completion"][-1]["content"])


def controls(test: list[Record], seed: int) -> dict[str, dict[str, str]]:
    """Good texts in the wrong place, which a check that sees anything must refuse: id to text.

    swapped: the golden of the same item and another type. other: the golden of another item and the same type.
    """
    found: dict[str, dict[str, str]] = {"swapped": {}, "other": {}}
    for record in test:
        for name, same, differs in (("swapped", "item", "type"), ("other", "type", "item")):
            fits = [r for r in test if r[same] == record[same] and r[differs] != record[differs]]
            if fits:
                found[name][record["id"]] = golden(random.Random(f"{seed}/{name}/{record['id']}").choice(fits))
    return found


def check(r: Record, system: str, words: str, stopped: bool, rules: facts.Rules, known: facts.Vocabulary) -> Record:
    """One checked text; strict and all_facts also want that it ended by itself."""
    hits = facts.check(words, r["type"], r["facts"], rules, known)
    passed = {rule: not found for rule, found in hits.items()}
    passed |= {"strict": stopped and all(passed[rule] for rule in STRICT), "all_facts": stopped and passed["all_facts"]}
    row = {key: r[key] for key in ("id", "item", "type")} | {"system": system, "text": words, "stopped": stopped}
    return {**row, "checks": passed, "found": hits["all_facts"], **{k: passed[k] for k in ("strict", "all_facts")}}


def gather(test: list[Record], answers: Rows, rules: facts.Rules, seed: int) -> Rows:
    """Every text checked, in the order of the test records: golden, the answers, the controls."""
    known = facts.vocabulary(rules.vocabulary)
    texts = {"golden": {record["id"]: golden(record) for record in test}}
    for name, rows in answers.items():
        texts[name] = {row["id"]: row["text"] for row in rows}
        if texts[name].keys() != texts["golden"].keys() or len(rows) != len(test):
            odd = sorted(texts[name].keys() ^ texts["golden"].keys())
            raise Refusal(f"data/answers/{name}.jsonl: other ids than data/test.jsonl: {odd[:3]}; run `dvc repro`")
    cut = {(name, row["id"]) for name, rows in answers.items() for row in rows if row["finish"] != "stop"}
    return {
        name: [check(r, name, part[r["id"]], (name, r["id"]) not in cut, rules, known) for r in test if r["id"] in part]
        for name, part in {**texts, **controls(test, seed)}.items()
    }


def share(rows: list[Record], flags: list[bool]) -> Numbers:
    return stats.rate(flags, [row["item"] for row in rows]).row()


def parts(rows: list[Record]) -> Rows:
    return {kind: [row for row in rows if row["type"] == kind] for kind in sorted({row["type"] for row in rows})}


def rules(name: str, bench: Bench) -> Numbers:
    """The share of texts that pass each rule, strict and all_facts; by type the bare shares of n texts."""
    rows, kinds = bench.checks[name], parts(bench.checks[name])
    numbers: Numbers = {rule: share(rows, [row["checks"][rule] for row in rows]) for rule in rows[0]["checks"]}
    means = {
        k: {rule: sum(row["checks"][rule] for row in part) / len(part) for rule in numbers} for k, part in kinds.items()
    }
    return {**numbers, "by_type": {kind: {"n": len(part), **means[kind]} for kind, part in kinds.items()}}


def stops(name: str, bench: Bench) -> Numbers:
    """How many texts end by themselves, and how many repeat themselves more than 99 of 100 golden texts."""
    rows = bench.checks[name]
    usual = np.quantile([measures.repetition(row["text"]) for row in bench.checks["golden"]], 0.99)
    overrun = [bool(measures.repetition(row["text"]) > usual) for row in rows]
    return {"stopped": share(rows, [row["stopped"] for row in rows]), "overrun": share(rows, overrun)}


def likelihood(name: str, bench: Bench) -> Numbers:
    """Of the golden completions, stop token included, one mask for both models; the difference in bits per byte."""
    if name == "golden":
        return {}
    bits = {system: {row["id"]: measures.bits(row) for row in rows} for system, rows in bench.answers.items()}
    clusters = {row["id"]: row["item"] for row in bench.checks["golden"]}
    less = {} if name == "base" else {"less_base": stats.paired(bits[name], bits["base"], clusters, bench.seed)}
    return {**measures.likelihood(bench.answers[name]), **less}


def overlap(name: str, bench: Bench) -> Numbers:
    """chrF, BLEU and character ROUGE-L against golden."""
    if name == "golden":
        return {}
    texts, references = ([row["text"] for row in bench.checks[system]] for system in (name, "golden"))
    scores = [measures.rouge_l(mine, reference) for mine, reference in zip(texts, references, strict=True)]
    rouge = stats.mean(scores, [row["item"] for row in bench.checks[name]]).row()
    return {"n": len(texts), **measures.overlap(texts, references), "rouge_l": rouge}


def variety(name: str, bench: Bench) -> Numbers:
    """distinct-n in samples of one size: that of the poorest system, where it has less than the budget."""
    budget = min(bench.evaluate.budget, *(sum(len(row["text"]) for row in bench.checks[s]) for s in SYSTEMS))
    texts = {row["id"]: row["text"] for row in bench.checks[name]}
    drawn = measures.distinct(texts, budget, bench.evaluate.draws, bench.seed)
    return {"n": len(texts), "characters": budget, **drawn}


def copies(name: str, bench: Bench) -> Numbers:
    """Texts that stand in the training data, word for word or nearly; golden shows what the data itself repeats."""
    rows, exact = bench.checks[name], {text.key(words) for words in bench.train}
    close = text.nearest([row["text"] for row in rows], bench.train, 8)
    near = [max(found.jaccard, found.containment) >= bench.evaluate.near for found in close]
    return {"near": share(rows, near), "exact": share(rows, [text.key(row["text"]) in exact for row in rows])}


def length(name: str, bench: Bench) -> Numbers:
    """Characters: quartiles, and the sum over that of golden, of all texts and by type."""
    mine, usual = ({"all": bench.checks[system], **parts(bench.checks[system])} for system in (name, "golden"))
    counts = {kind: [len(row["text"]) for row in rows] for kind, rows in mine.items()}
    ratio = {kind: sum(counts[kind]) / sum(len(row["text"]) for row in rows) for kind, rows in usual.items()}
    return {kind: {**measures.quartiles(counts[kind]), "ratio": ratio[kind]} for kind in counts}


METRICS: dict[str, Callable[[str, Bench], Numbers]] = {
    "rules": rules, "stops": stops, "likelihood": likelihood, "overlap": overlap, "variety": variety,
    "copies": copies, "length": length,
}  # fmt: skip


def main(evaluate: Evaluate, rules: facts.Rules, seed: int) -> None:
    test = jsonl.read("data/test.jsonl", "id", "item", "type", "facts", "completion")
    train = [golden(record) for record in jsonl.read("data/train.jsonl", "completion")]
    answers = {name: jsonl.read(f"data/answers/{name}.jsonl", "id", "finish") for name in SYSTEMS[1:]}
    bench = Bench(gather(test, answers, rules, seed), answers, train, evaluate, seed)
    wrong = {n: share(rows, [r["strict"] for r in rows]) for n, rows in bench.checks.items() if n not in SYSTEMS}
    numbers = {m: {n: found for n in SYSTEMS if (found := METRICS[m](n, bench))} for m in evaluate.metrics}
    head = {"n": len(test), "clusters": len({record["item"] for record in test}), "controls": wrong}
    jsonl.write("data/checks.jsonl", [row for name in SYSTEMS for row in bench.checks[name]])
    jsonl.write_json("reports/metrics/evaluate.json", {**head, **numbers})


if __name__ == "__main__":
    run(main)

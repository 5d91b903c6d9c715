"""evaluate: what arithmetic can say of the answers, beside golden and beside texts that are known to be wrong.

reads   data/test.jsonl, data/train.jsonl, data/validation.jsonl, data/samples.jsonl, data/answers/base.jsonl,
        data/answers/tuned.jsonl, data/answers/aligned.jsonl, data/presets/base.jsonl, data/presets/tuned.jsonl,
        data/presets/aligned.jsonl, data/accepted.jsonl, data/raw/<recipe>/rules
writes  data/checks.jsonl, reports/metrics/evaluate.json, reports/plots/samples.tsv
params  evaluate, filter, rules, seed
"""

from __future__ import annotations

from collections.abc import Callable

from anneal import files
from anneal.checks import density, density_fit, facts, text_checks
from anneal.checks.text_checks import Context, Filter
from anneal.errors import UserError
from anneal.evaluation import metrics
from anneal.evaluation.metrics import MetricInputs, Rows, share
from anneal.judging import controls
from anneal.params import Count, Fraction, Section
from anneal.records import Check, Metrics, Record, Row, golden
from anneal.stage import run
from anneal.systems import MODELS, present


class Evaluate(Section):
    """Which figures, and the choices inside them."""

    metrics: list[str]
    checks: list[str]  # what is looked for in every text
    strict: list[str]  # and which of it a right text must pass, beside ending by itself
    budget: Count  # characters of a sample for distinct-n, which falls with length and so is taken at a fixed one
    draws: Count
    near: Fraction  # containment or Jaccard of 8-grams from which an answer is a near-copy of a training text


def checked(
    section: Evaluate, system: str, pairs: list[tuple[Record, str, bool]], context: Context, fit: density_fit.Fit | None
) -> list[Check]:
    """Checked texts of one system: record, text, whether it ended by itself. strict and all_facts want that too.

    Golden and answers meet one yardstick: the density of the folds without the record, its golden text included.
    """
    made: list[Check] = []
    found = text_checks.run_all(section.checks, [r for r, _, _ in pairs], [words for _, words, _ in pairs], context)
    texts = [{"id": r["id"], "type": r["type"], "text": words} for r, words, _ in pairs]
    inside = fit.inside(texts) if fit else [True] * len(pairs)
    for (r, words, stopped), hits, lies in zip(pairs, found, inside, strict=True):
        passed = {rule: not hit for rule, hit in hits.items()}
        if "in_distribution" in passed:
            passed["in_distribution"] = lies
        passed["strict"] = stopped and all(passed[rule] for rule in section.strict)
        if "all_facts" in passed:
            passed["all_facts"] = stopped and passed["all_facts"]
        told = hits.get("all_facts") or [f"{rule}:{hit}" for rule, each in hits.items() for hit in each]
        made.append(
            {
                "id": r["id"],
                "item": r["item"],
                "type": r["type"],
                "system": system,
                "text": words,
                "stopped": stopped,
                "checks": passed,
                "found": told,
                "strict": passed["strict"],
            }
        )
    return made


def gather(
    test: list[Record], answers: Rows, section: Evaluate, context: Context, fit: density_fit.Fit | None, seed: int
) -> Rows:
    """Every text checked, in the order of the test records: golden, the answers, the controls."""
    texts = {"golden": {record["id"]: golden(record) for record in test}}
    for name, rows in answers.items():
        texts[name] = {row["id"]: row["text"] for row in rows}
        if texts[name].keys() != texts["golden"].keys() or len(rows) != len(test):
            odd = sorted(texts[name].keys() ^ texts["golden"].keys())
            raise UserError(f"data/answers/{name}.jsonl: other ids than data/test.jsonl: {odd[:3]}; run `dvc repro`")
    cut = {(name, row["id"]) for name, rows in answers.items() for row in rows if row.get("finish", "stop") != "stop"}
    found = {}
    for name, part in {**texts, "swapped": controls.swapped(test, seed), "other": controls.other(test, seed)}.items():
        pairs = [(r, part[r["id"]], (name, r["id"]) not in cut) for r in test if r["id"] in part]
        found[name] = checked(section, name, pairs, context, fit)
    return found


def held_out(records: list[Record], section: Evaluate, likely: density.Density, seed: int) -> density_fit.Fit | None:
    """A density of the held-out golden texts: that of the filter has kept what it finds likely, and would find itself
    confirmed."""
    if "in_distribution" not in section.checks:
        return None
    texts: list[Record] = [{"id": r["id"], "item": r["item"], "type": r["type"], "text": golden(r)} for r in records]
    return density_fit.fit(texts, likely, seed)


def sampled(
    samples: list[Row],
    validation: list[Record],
    section: Evaluate,
    context: Context,
    fit: density_fit.Fit | None,
) -> str:
    """What the answers during training passed, by step, as TSV."""
    known = {record["id"]: record for record in validation}
    names = ["stopped", "strict", *section.checks]
    lines = ["\t".join(["step", "n", *names])]
    for step in sorted({row["step"] for row in samples}):
        mine = [(known[row["id"]], row["text"], row["finish"] == "stop") for row in samples if row["step"] == step]
        rows = checked(section, "", mine, context, fit)
        flags = [{**row["checks"], "stopped": row["stopped"]} for row in rows]
        means = [sum(flag[name] for flag in flags) / len(flags) for name in names]
        lines.append("\t".join([str(step), str(len(rows)), *(f"{mean:.4f}" for mean in means)]))
    return "\n".join(lines) + "\n"


METRICS: dict[str, Callable[[str, MetricInputs], Metrics]] = {
    "rules": metrics.rules,
    "stops": metrics.stops,
    "likelihood": metrics.likelihood,
    "overlap": metrics.overlap,
    "variety": metrics.variety,
    "copies": metrics.copies,
    "length": metrics.length,
    "layouts": metrics.layouts,
    "verses": metrics.verses,
    "styles": metrics.styles,
    "decoding": metrics.decoding,
}


def refuse(section: Evaluate) -> None:
    """Raises UserError for a name that is none, before anything is read."""
    text_checks.refuse(section.checks, "evaluate.checks")
    if unknown := [name for name in section.metrics if name not in METRICS]:
        raise UserError(f"params.yaml: evaluate.metrics: unknown {unknown[0]!r}; known: {', '.join(METRICS)}")
    if odd := sorted({*section.strict} - {*section.checks}):
        raise UserError(f"params.yaml: evaluate.strict: {odd[0]!r} is not one of evaluate.checks; add it there")


def main(evaluate: Evaluate, filter: Filter, rules: facts.Rules, seed: int) -> None:  # noqa: A002
    refuse(evaluate)
    test = files.read("data/test.jsonl", "id", "item", "type", "facts", "completion")
    validation = files.read("data/validation.jsonl", "id", "item", "type", "facts", "completion")
    learnt = files.read("data/train.jsonl", "completion", "facts")
    train = [golden(record) for record in learnt]
    answers = {name: files.read(f"data/answers/{name}.jsonl", "id", "finish") for name in MODELS}
    answers = {name: rows for name, rows in answers.items() if rows or name != "aligned"}
    fit = held_out([*validation, *test], evaluate, filter.density, seed)
    context = text_checks.context(rules, fit.model if fit else None, train, evaluate.near)
    found = gather(test, answers, evaluate, context, fit, seed)
    known = {record["id"]: record for record in test}

    def laid(path: str) -> list[Row]:
        """Rows of a file, each with what its text passes."""
        rows = files.read(path)
        triples = [(known[row["id"]], row["text"], row.get("finish", "stop") == "stop") for row in rows]
        return [{**row, **one} for row, one in zip(rows, checked(evaluate, "", triples, context, fit), strict=True)]

    presets = {name: laid(f"data/presets/{name}.jsonl") for name in answers}
    systems = present(found)
    figures = (evaluate.budget, evaluate.draws, evaluate.near)
    table = MetricInputs(found, answers, train, seed, *figures, known, learnt, context, presets)
    wrong = {n: share(rows, [r["strict"] for r in rows]) for n, rows in found.items() if n not in systems}
    numbers = {m: {n: figure for n in systems if (figure := METRICS[m](n, table))} for m in evaluate.metrics}
    head = {"n": len(test), "clusters": len({record["item"] for record in test}), "controls": wrong}
    samples = files.read("data/samples.jsonl")
    files.write("data/checks.jsonl", [row for name in systems for row in found[name]])
    files.write_json(
        "reports/metrics/evaluate.json", {**head, "accepted": metrics.contract(laid("data/accepted.jsonl")), **numbers}
    )
    files.write_text("reports/plots/samples.tsv", sampled(samples, validation, evaluate, context, fit))


if __name__ == "__main__":
    run(main)

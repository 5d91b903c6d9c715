"""filter: keep what is sound and likely; every dropped record with its reason.

reads   data/cleaned.jsonl, data/raw/<recipe>/rules
writes  data/filtered.jsonl data/dropped.jsonl, models/density, reports/metrics/filter.json, reports/plots/filter.tsv
params  filter, rules, seed
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

from anneal import files, similarity
from anneal.checks import density, density_fit, facts, impact, text_checks
from anneal.checks.text_checks import Filter
from anneal.errors import UserError
from anneal.records import Metrics, Record, Row
from anneal.stage import run

FIELDS = ("id", "item", "type", "facts", "text")
KEPT = (*FIELDS, "rejected")  # the source's own worse text, where it has one


@dataclass(frozen=True)
class Limits:
    """What the rules go by; `hits` holds what the checks found in each record."""

    near_duplicate: float
    types: dict[str, facts.Contract]
    hits: dict[str, dict[str, list[str]]]


Rule = Callable[[Sequence[Record], Limits], dict[str, Metrics]]  # records -> id of each dropped one -> the reason


def _reason(value: float, threshold: float, **more: Any) -> Metrics:
    """A margin is the distance beyond the threshold, so never negative."""
    numbers = {"value": value, "threshold": threshold, "margin": abs(value - threshold)}
    return {name: round(number, 6) for name, number in numbers.items()} | more


def _found(rule: str) -> Rule:
    """A check as a rule: dropped for one hit, the hits named."""

    def dropped(records: Sequence[Record], limits: Limits) -> dict[str, Metrics]:
        found = {r["id"]: limits.hits[r["id"]][rule] for r in records}
        return {name: _reason(len(hits), 0, found=hits) for name, hits in found.items() if hits}

    return dropped


def _length(records: Sequence[Record], limits: Limits) -> dict[str, Metrics]:
    found: dict[str, Metrics] = {}
    for record in records:
        low, high = limits.types[record["type"]].length
        if not low <= (n := len(record["text"])) <= high:
            found[record["id"]] = _reason(n, low if n < low else high)
    return found


def _exact(records: Sequence[Record], _limits: Limits) -> dict[str, Metrics]:
    first: dict[str, str] = {}
    held = {r["id"]: first.setdefault(similarity.key(r["text"]), r["id"]) for r in records}
    return {name: _reason(1.0, 1.0) | {"with": kept} for name, kept in held.items() if kept != name}


def _near(records: Sequence[Record], limits: Limits) -> dict[str, Metrics]:
    """On the texts of all records: the types of one item share its facts and should share no more."""
    earlier: dict[int, list[tuple[float, int]]] = {}
    for i, j, shared in similarity.near_duplicates([r["text"] for r in records], limits.near_duplicate):
        earlier.setdefault(j, []).append((shared, i))
    dropped: dict[int, Metrics] = {}
    for j in sorted(earlier):
        # Only a kept neighbour counts: along a chain of neighbours the ends may have little in common.
        kept = [(shared, -i) for shared, i in earlier[j] if i not in dropped]
        if kept:
            shared, i = max(kept)
            dropped[j] = _reason(shared, limits.near_duplicate) | {"with": records[-i]["id"]}
    return {records[j]["id"]: reason for j, reason in dropped.items()}


RULES: dict[str, Rule] = {"length": _length, "exact": _exact, "near": _near}


def _row(record: Record, rule: str, reason: Metrics) -> Row:
    return {**{name: record[name] for name in ("id", "item", "type", "text")}, "rule": rule, **reason}


def _complete(records: Sequence[Record], kept: Sequence[Record], dropped: Sequence[Row]) -> None:
    """Refuses a filter that leaves nothing of a type: the model would never see it, the test never ask for it."""
    left = Counter(r["type"] for r in kept)
    for kind, count in sorted(Counter(r["type"] for r in records).items()):
        if not left[kind]:
            lost = [r for r in dropped if r["type"] == kind]
            rules = ", ".join(f"{rule} {n}" for rule, n in Counter(r["rule"] for r in lost).most_common())
            reason = lost[0].get("found", lost[0]["value"])
            line = f"data/cleaned.jsonl: nothing is left of the {count} records of {kind} ({rules})"
            raise UserError(f"{line}; {lost[0]['id']}: {lost[0]['rule']} {reason}; mend the prompt or loosen the rule")


def sound(records: Sequence[Record], section: Filter, rules: facts.Rules) -> tuple[list[Record], list[Row]]:
    """What passes the rules, and what does not, by the order of the rules."""
    named = [rule for rule in section.rules if rule not in RULES]
    text_checks.refuse(named, f"filter.rules (beside {', '.join(RULES)})")
    if twice := [name for name, n in Counter(r["id"] for r in records).items() if n > 1]:
        raise UserError(f"data/cleaned.jsonl: the id {twice[0]!r} stands there twice; an id names one record")
    found = text_checks.run_all(named, records, [r["text"] for r in records], text_checks.context(rules))
    hits = {r["id"]: row for r, row in zip(records, found, strict=True)}
    limits, left, dropped = Limits(section.near_duplicate, rules.types, hits), list(records), list[Row]()
    for rule in section.rules:
        reasons = RULES.get(rule, _found(rule))(left, limits)
        dropped += [_row(r, rule, reasons[r["id"]]) for r in left if r["id"] in reasons]
        left = [r for r in left if r["id"] not in reasons]
    _complete(records, left, dropped)
    return left, dropped


def likely(
    records: Sequence[Record], section: density.Density, seed: int
) -> tuple[list[Record], list[Row], density_fit.Fit]:
    """Records with their `log_prob`, the least likely ones apart, and the density that was fitted on all of them.

    A record is scored by a mixture that has not seen it: its own would find it likely for having been fitted on it.
    """
    fit = density_fit.fit(records, section, seed)
    threshold, kept, dropped = fit.model.threshold, list[Record](), list[Row]()
    absent = {"value": None, "threshold": round(threshold, 6), "margin": None}  # the JSON of a text lacks a field
    for record, score in zip(records, fit.scores.tolist(), strict=True):
        if score >= threshold:
            slim = cast(Record, {name: value for name, value in record.items() if name in KEPT})
            kept.append({**slim, "log_prob": round(score, 6)})
        else:
            dropped.append(_row(record, "density", _reason(score, threshold) if math.isfinite(score) else absent))
    _complete(records, kept, dropped)
    return kept, dropped, fit


def main(filter: Filter, rules: facts.Rules, seed: int) -> None:  # noqa: A002
    records = files.read("data/cleaned.jsonl", *FIELDS)
    left, unsound = sound(records, filter, rules)
    kept, unlikely, fit = likely(left, filter.density, seed)
    counts = Counter(r["rule"] for r in unsound + unlikely)
    metrics = {
        "n": len(records),
        "kept": len(kept),
        "retention": len(kept) / len(records),
        "dropped": {rule: counts[rule] for rule in (*filter.rules, "density")},
        "types": impact.by_type(records, kept),
        "features": impact.by_feature(records, kept, filter.density),
        "density": impact.likelihood(fit, left, kept, unlikely),
    }
    model = fit.model.model_dump_json(indent=1) + "\n"
    files.write("data/filtered.jsonl", kept)
    files.write("data/dropped.jsonl", unsound + unlikely)
    files.write_folder("models/density", lambda folder: files.write_text(folder / "density.json", model))
    files.write_json("reports/metrics/filter.json", metrics)
    files.write_text("reports/plots/filter.tsv", impact.histogram(kept, unlikely))


if __name__ == "__main__":
    run(main)

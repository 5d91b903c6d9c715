"""compare: the one table people read, all systems beside golden, with intervals and denominators.

reads   data/checks.jsonl, data/judgements/<system>.jsonl, data/judgements/{controls,samples}.jsonl,
        data/rollouts/tuned.jsonl, data/rollouts/aligned.jsonl, data/preferences.jsonl, reports/metrics/evaluate.json,
        reports/metrics/judge/<system>.json
writes  reports/metrics/compare.json
params  compare, seed
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Annotated

from pydantic import Field

from anneal import files
from anneal.errors import UserError
from anneal.evaluation import alignment_effect, scoreboard
from anneal.params import Section
from anneal.records import Check, Judgement, Metrics, Row
from anneal.stage import run
from anneal.stats import intervals, missing, paired, pairwise_summary, repeats
from anneal.systems import SYSTEMS

WORST, BEST = 1.0, 5.0
# What is compared with what, by the key of the table.
GAPS = {
    "difference": ("tuned", "base"),
    "to_golden": ("tuned", "golden"),
    "aligned_difference": ("aligned", "tuned"),
    "aligned_to_golden": ("aligned", "golden"),
}


class Compare(Section):
    shares: list[str]  # strict, checks of evaluate, stop_rate; in the order of the table
    tie: Annotated[float, Field(ge=0)]  # scores this close are no win
    margin: Annotated[float, Field(gt=0)]  # systems that differ by less are as good as each other


def join(checks: list[Check], judged: dict[str, list[Judgement]], shares: list[str]) -> dict[str, list[Row]]:
    """One row per system and record, what was checked and what was judged; UserError where a side lacks a record."""
    joined: dict[str, list[Row]] = {}
    for system in judged:
        verdicts = {
            row["id"]: {key: row[key] for key in ("outcome", "score", "dims", "judge_id")}
            | {"refused": row.get("refused") or []}
            for row in judged[system]
        }
        rows = sorted((row for row in checks if row["system"] == system), key=lambda row: str(row["id"]))
        if verdicts.keys() != {row["id"] for row in rows} or len(rows) != len(judged[system]):
            raise UserError(f"data/judgements/{system}.jsonl: other ids than data/checks.jsonl; run `dvc repro`")
        # Apart from the row's own keys: a check may be called as one of them is.
        passed = [{"strict": row["strict"], **row["checks"], "stop_rate": row["stopped"]} for row in rows]
        joined[system] = [{**r, "passed": p, **verdicts[r["id"]]} for r, p in zip(rows, passed, strict=True)]
    if len({tuple(row["id"] for row in rows) for rows in joined.values()}) > 1:
        raise UserError("data/checks.jsonl: the systems hold different records; run `dvc repro`")
    for share in shares:
        if share not in (known := joined["golden"][0]["passed"]):
            raise UserError(
                f"params.yaml: compare.shares: {share!r} is none of {', '.join(known)}; see evaluate.checks"
            )
    return joined


def same(metrics: dict[str, Metrics]) -> Metrics:
    """What the systems were judged by; UserError unless it is the same: other judges' scores go in another table."""
    for key in ("judge_ids", "score_kind"):
        for system in metrics:
            mine, theirs = metrics[system][key], metrics["golden"][key]
            if mine != theirs:
                raise UserError(
                    f"reports/metrics/judge/{system}.json: {key} {mine} differs from golden's {theirs}; judge again"
                )
    return {key: metrics["golden"][key] for key in ("judge_ids", "score_kind")}


def column(rows: list[Row], shares: list[str]) -> Metrics:
    """One system: means and shares, their 95% intervals over items, and the mean if failures were worst or best."""
    scored = [row for row in rows if row["outcome"] == "ok"]
    items, gone = [row["item"] for row in rows], len(rows) - len(scored)
    score = intervals.mean([row["score"] for row in scored], [row["item"] for row in scored])
    found = {"score": score} | {
        share: intervals.rate([row["passed"][share] for row in rows], items) for share in shares
    }
    total = sum(row["score"] for row in scored)
    return {
        "n": len(rows),
        "n_scored": len(scored),
        **{name: estimate.mean for name, estimate in found.items()},
        "intervals": {name: [estimate.low, estimate.high] for name, estimate in found.items()},
        "bounds": [(total + gone * end) / len(rows) for end in (WORST, BEST)],
    }


def best(scores: Iterable[dict[str, float | None]], systems: Sequence[str], tie: float) -> dict[str, int]:
    """How often each system is best by more than `tie`; a text that one of them has no score for is left out."""
    counts: Counter[str] = Counter(dict.fromkeys((*systems, "tie"), 0))
    for values in scores:
        known = {name: value for name, value in values.items() if value is not None}
        if len(known) == len(systems):
            # Rounded: 4.8 - 4.75 is a little more than .05 to a computer.
            near = [name for name, value in known.items() if round(max(known.values()) - value, 6) <= tie]
            counts[near[0] if len(near) == 1 else "tie"] += 1
    return {**counts, "n": counts.total()}


def block(joined: dict[str, list[Row]], compare: Compare, seed: int) -> Metrics:
    """The columns of all systems, tuned less base and less golden on the texts that both have a score for, the aligned
    one less tuned and golden, and which texts pass each share in tuned or base only."""
    scores = {s: {r["id"]: paired.scored(r) for r in rows} for s, rows in joined.items()}
    found: Metrics = {system: column(joined[system], compare.shares) for system in joined}
    for name, (mine, other) in GAPS.items():
        if mine in joined:
            pair = paired.matched(joined[mine], joined[other])
            found[name] = paired.difference(pair, seed, compare.margin)
            found[name]["bounds"] = missing.difference_bounds(scores[mine], scores[other], WORST, BEST)
    passed = {s: {r["id"]: r["passed"] for r in joined[s]} for s in ("tuned", "base")}
    items = {r["id"]: r["item"] for r in joined["golden"]}
    found["passes"] = {}
    for share in compare.shares:
        ours, theirs = ({i: row[share] for i, row in passed[s].items()} for s in ("tuned", "base"))
        found["passes"][share] = {**paired.mcnemar(ours, theirs), "paired": intervals.paired(ours, theirs, items, seed)}
    every = ({s: scores[s][i] for s in scores} for i in scores["golden"])
    return {**found, "best": best(every, [*scores], compare.tie)}


def summary(joined: dict[str, list[Row]], compare: Compare, seed: int) -> Metrics:
    """The block of all texts, and one for each type, whose p-values share one Holm correction; what failed, and
    whether it failed in one system more than in another."""
    by_type: dict[str, Metrics] = {}
    for kind in sorted({row["type"] for row in joined["golden"]}):
        part = {system: [row for row in rows if row["type"] == kind] for system, rows in joined.items()}
        by_type[kind] = block(part, compare, seed)
    whole = block(joined, compare, seed)
    for name in (name for name in ("difference", "aligned_difference") if name in whole):
        for key in ("p", "p_equivalent"):
            for kind, p in intervals.holm({kind: part[name][key] for kind, part in by_type.items()}).items():
                by_type[kind][name][f"{key}_holm"] = p
        for numbers in (whole[name], *(each[name] for each in by_type.values())):
            numbers |= {"state": paired.state(numbers), "sentence": paired.sentence(numbers)}
    failed = {s: (sum(row["outcome"] != "ok" for row in rows), len(rows)) for s, rows in joined.items()}
    # A judge that is asked again until it can be read fails less in the end; its first replies tell the rest.
    first = {s: (sum(row["outcome"] != "ok" or bool(row["refused"]) for row in r), len(r)) for s, r in joined.items()}
    gone, early = missing.differential(failed), missing.differential(first)
    return {
        "overall": {system: whole.pop(system) for system in joined},
        **whole,
        "by_type": by_type,
        "dims": paired.differences(joined["tuned"], joined["base"], seed, compare.margin),
        "missing": {
            "failed": failed,
            **gone,
            "sentence": missing.sentence(failed, gone),
            "first": {"failed": first, **early, "sentence": missing.sentence(first, early)},
        },
    }


def main(compare: Compare, seed: int) -> None:
    from rich.console import Console

    judged = {system: files.read(f"data/judgements/{system}.jsonl", "id", "outcome") for system in SYSTEMS}
    judged = {system: rows for system, rows in judged.items() if rows or system != "aligned"}
    by = same({system: files.read_json(f"reports/metrics/judge/{system}.json") for system in judged})
    joined = join(files.read("data/checks.jsonl", "id", "system"), judged, compare.shares)
    clusters = len({row["item"] for row in joined["golden"]})
    planted = files.read("data/judgements/controls.jsonl", "id", "control", "outcome")
    if {row["judge_id"] for row in planted} - set(by["judge_ids"].values()):
        raise UserError("data/judgements/controls.jsonl: judged by another judge than golden; run `dvc repro`")
    evaluated = files.read_json("reports/metrics/evaluate.json")
    drawn = {s: files.read(f"data/rollouts/{s}.jsonl", "id", "item") for s in ("aligned", "tuned")}
    samples = files.read("data/judgements/samples.jsonl", "id", "outcome")
    numbers = {
        **summary(joined, compare, seed),
        **by,
        "alignment": alignment_effect.summary(joined, drawn, samples, evaluated, compare.shares, seed),
        "controls": evaluated["controls"],
        "judge_controls": repeats.controls(planted, judged["golden"]),
        "repeats": {system: repeats.summary(judged[system]) for system in judged},
        "preferences": pairwise_summary.whole(files.read("data/preferences.jsonl", "id", "pair"), by["score_kind"]),
        "clusters": clusters,
        "shares": compare.shares,
    }
    files.write_json("reports/metrics/compare.json", numbers)
    # Wide enough for the table where no terminal says how wide it is.
    console = Console(width=None if Console().is_terminal else 200 if "aligned" in joined else 160)
    console.print(scoreboard.table(numbers))


if __name__ == "__main__":
    run(main)

"""compare: the one table people read, golden, tuned and base beside each other, with intervals and denominators.

reads   data/checks.jsonl, data/judgements/<system>.jsonl, reports/metrics/evaluate.json,
        reports/metrics/judge/<system>.json
writes  reports/metrics/compare.json
params  compare, seed
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from stages.lib import jsonl, stats
from stages.lib.jsonl import Record
from stages.lib.params import Refusal, Section, run

if TYPE_CHECKING:
    from rich.table import Table

SYSTEMS = ("golden", "tuned", "base")
SHARES = ("strict", "all_facts", "name", "facts", "stop_rate")
HEADINGS = ("n", *SYSTEMS, "tuned - base", "best g/t/b/tie", "strict g/t/b", "all facts", "stop")
WORST, BEST = 1.0, 5.0
Numbers = dict[str, Any]


class Compare(Section):
    """`tie`: scores this close are no win."""

    tie: Annotated[float, Field(ge=0)]


def join(checks: list[Record], judged: dict[str, list[Record]]) -> dict[str, list[Record]]:
    """One row per system and record, what was checked and what was judged; Refusal where a side lacks a record."""
    joined: dict[str, list[Record]] = {}
    for system in SYSTEMS:
        scores = {row["id"]: row["score"] if row["outcome"] == "ok" else None for row in judged[system]}
        rows = sorted((row for row in checks if row["system"] == system), key=lambda row: str(row["id"]))
        if scores.keys() != {row["id"] for row in rows} or len(rows) != len(judged[system]):
            raise Refusal(f"data/judgements/{system}.jsonl: other ids than data/checks.jsonl; run `dvc repro`")
        joined[system] = [
            {**row["checks"], **row, "score": scores[row["id"]], "stop_rate": row["stopped"]} for row in rows
        ]
    if len({tuple(row["id"] for row in rows) for rows in joined.values()}) > 1:
        raise Refusal("data/checks.jsonl: the systems hold different records; run `dvc repro`")
    return joined


def same(metrics: dict[str, Numbers]) -> Numbers:
    """What the systems were judged by; Refusal unless it is the same: other judges' scores go in another table."""
    for key in ("judge_ids", "score_kind"):
        for system in SYSTEMS:
            mine, theirs = metrics[system][key], metrics["golden"][key]
            if mine != theirs:
                raise Refusal(
                    f"reports/metrics/judge/{system}.json: {key} {mine} differs from golden's {theirs}; judge again"
                )
    return {key: metrics["golden"][key] for key in ("judge_ids", "score_kind")}


def column(rows: list[Record]) -> Numbers:
    """One system: means and shares, their 95% intervals over items, and the mean if failures were worst or best."""
    scored = [row for row in rows if row["score"] is not None]
    items, missing = [row["item"] for row in rows], len(rows) - len(scored)
    score = stats.mean([row["score"] for row in scored], [row["item"] for row in scored])
    # The name and the sheet's own facts stand beside strict: they say what a system that fails it can do.
    found = {"score": score} | {share: stats.rate([row[share] for row in rows], items) for share in SHARES}
    total = sum(row["score"] for row in scored)
    return {
        "n": len(rows), "n_scored": len(scored), **{name: estimate.mean for name, estimate in found.items()},
        "intervals": {name: [estimate.low, estimate.high] for name, estimate in found.items()},
        "bounds": [(total + missing * end) / len(rows) for end in (WORST, BEST)],
    }  # fmt: skip


def best(scores: Iterable[dict[str, float | None]], tie: float) -> dict[str, int]:
    """How often each system is best by more than `tie`; a text that one of them has no score for is left out."""
    counts: Counter[str] = Counter(dict.fromkeys((*SYSTEMS, "tie"), 0))
    for values in scores:
        known = {name: value for name, value in values.items() if value is not None}
        if len(known) == len(SYSTEMS):
            # Rounded: 4.8 - 4.75 is a little more than .05 to a computer.
            near = [name for name, value in known.items() if round(max(known.values()) - value, 6) <= tie]
            counts[near[0] if len(near) == 1 else "tie"] += 1
    return {**counts, "n": counts.total()}


def block(joined: dict[str, list[Record]], tie: float, seed: int) -> Numbers:
    """The columns of all systems, tuned less base and tuned less golden on the texts that both have a score for."""
    scores = {s: {r["id"]: r["score"] for r in rows if r["score"] is not None} for s, rows in joined.items()}
    items = {row["id"]: row["item"] for row in joined["golden"]}
    return {
        **{system: column(joined[system]) for system in SYSTEMS},
        "difference": stats.paired(scores["tuned"], scores["base"], items, seed),
        "to_golden": stats.paired(scores["tuned"], scores["golden"], items, seed),
        "best": best(({s: scores[s].get(i) for s in SYSTEMS} for i in items), tie),
    }


def summary(joined: dict[str, list[Record]], tie: float, seed: int) -> Numbers:
    """The block of all texts, and one for each type, whose p-values share one Holm correction."""
    by_type: dict[str, Numbers] = {}
    for kind in sorted({row["type"] for row in joined["golden"]}):
        part = {system: [row for row in rows if row["type"] == kind] for system, rows in joined.items()}
        by_type[kind] = block(part, tie, seed)
    for kind, p in stats.holm({kind: part["difference"]["p"] for kind, part in by_type.items()}).items():
        by_type[kind]["difference"]["p_holm"] = p
    whole = block(joined, tie, seed)
    return {"overall": {system: whole.pop(system) for system in SYSTEMS}, **whole, "by_type": by_type}


def show(value: float | None, form: str = ".2f") -> str:
    return "-" if value is None else format(value, form)


def table(numbers: Numbers) -> Table:
    """Scores first, then what a check can decide; every mean with its denominator, the difference with its interval."""
    from rich.table import Table

    whole = {**numbers["overall"], **{key: numbers[key] for key in ("difference", "best")}}
    wrong = ", ".join(f"{name} {show(value['mean'])} of {value['n']}" for name, value in numbers["controls"].items())
    made = Table(
        title=f"{numbers['score_kind']} (1 to 5) and shares that pass; [95% interval, clustered by item]",
        caption=f"~ not distinguishable from 0; strict of golden texts in the wrong place: {wrong}\n"
        + "; ".join(
            f"{words}: " + "/".join(show(whole[s][key]) for s in SYSTEMS)
            for key, words in (("name", "exact name"), ("facts", "enough of its own facts"))
        ),
    )
    made.add_column("type", no_wrap=True)
    for heading in HEADINGS:
        made.add_column(heading, justify="right", no_wrap=True)
    for name, row in {**numbers["by_type"], "all": whole}.items():
        if name == "all":
            made.add_section()
        gap, n = row["difference"], row["golden"]["n"]
        scores = [
            show(row[s]["score"]) + (f" ({row[s]['n_scored']})" if row[s]["n_scored"] < n else "") for s in SYSTEMS
        ]
        unclear = gap["low"] is None or gap["low"] <= 0 <= gap["high"]
        span = f" [{show(gap['low'], '+.2f')}, {show(gap['high'], '+.2f')}]"
        wins = "/".join(str(row["best"][key]) for key in (*SYSTEMS, "tie"))
        shares = ["/".join(show(row[s][key]) for s in SYSTEMS) for key in ("strict", "all_facts", "stop_rate")]
        made.add_row(name, str(n), *scores, "~ " * unclear + show(gap["mean"], "+.2f") + span, wins, *shares)
    return made


def read(path: str) -> Numbers:
    numbers: Numbers = json.loads(Path(path).read_text("utf-8"))
    return numbers


def main(compare: Compare, seed: int) -> None:
    from rich.console import Console

    judged = {system: jsonl.read(f"data/judgements/{system}.jsonl", "id", "outcome") for system in SYSTEMS}
    by = same({system: read(f"reports/metrics/judge/{system}.json") for system in SYSTEMS})
    joined = join(jsonl.read("data/checks.jsonl", "id", "system"), judged)
    clusters = len({row["item"] for row in joined["golden"]})
    controls = read("reports/metrics/evaluate.json")["controls"]
    numbers = {**summary(joined, compare.tie, seed), **by, "controls": controls, "clusters": clusters}
    jsonl.write_json("reports/metrics/compare.json", numbers)
    # Wide enough for the table where no terminal says how wide it is.
    console = Console(width=None if Console().is_terminal else 160)
    console.print(table(numbers))


if __name__ == "__main__":
    run(main)

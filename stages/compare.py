"""compare: the one table people read, golden, tuned and base beside each other, with intervals and denominators.

reads   data/checks.jsonl, data/judgements/<system>.jsonl, reports/metrics/evaluate.json,
        reports/metrics/judge/<system>.json
writes  reports/metrics/compare.json
params  compare, seed
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from stages.lib import jsonl, stats
from stages.lib.jsonl import Record
from stages.lib.params import Refusal, Section, run

if TYPE_CHECKING:
    from rich.table import Table

SYSTEMS = ("golden", "tuned", "base")
HEADINGS = ("n", *SYSTEMS, "tuned - base", "best g/t/b/tie")
IN_TABLE = 3  # shares that are columns of the printed table; the others stand under it
WORST, BEST = 1.0, 5.0
Numbers = dict[str, Any]


class Compare(Section):
    shares: list[str]  # strict, checks of evaluate, stop_rate; in the order of the table
    tie: Annotated[float, Field(ge=0)]  # scores this close are no win


def join(checks: list[Record], judged: dict[str, list[Record]], shares: list[str]) -> dict[str, list[Record]]:
    """One row per system and record, what was checked and what was judged; Refusal where a side lacks a record."""
    joined: dict[str, list[Record]] = {}
    for system in SYSTEMS:
        scores = {row["id"]: row["score"] if row["outcome"] == "ok" else None for row in judged[system]}
        rows = sorted((row for row in checks if row["system"] == system), key=lambda row: str(row["id"]))
        if scores.keys() != {row["id"] for row in rows} or len(rows) != len(judged[system]):
            raise Refusal(f"data/judgements/{system}.jsonl: other ids than data/checks.jsonl; run `dvc repro`")
        # Apart from the row's own keys: a check may be called as one of them is.
        passed = [{"strict": row["strict"], **row["checks"], "stop_rate": row["stopped"]} for row in rows]
        joined[system] = [{**r, "passed": p, "score": scores[r["id"]]} for r, p in zip(rows, passed, strict=True)]
    if len({tuple(row["id"] for row in rows) for rows in joined.values()}) > 1:
        raise Refusal("data/checks.jsonl: the systems hold different records; run `dvc repro`")
    for share in shares:
        if share not in (known := joined["golden"][0]["passed"]):
            raise Refusal(f"params.yaml: compare.shares: {share!r} is none of {', '.join(known)}; see evaluate.checks")
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


def column(rows: list[Record], shares: list[str]) -> Numbers:
    """One system: means and shares, their 95% intervals over items, and the mean if failures were worst or best."""
    scored = [row for row in rows if row["score"] is not None]
    items, missing = [row["item"] for row in rows], len(rows) - len(scored)
    score = stats.mean([row["score"] for row in scored], [row["item"] for row in scored])
    found = {"score": score} | {share: stats.rate([row["passed"][share] for row in rows], items) for share in shares}
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


def block(joined: dict[str, list[Record]], compare: Compare, seed: int) -> Numbers:
    """The columns of all systems, tuned less base and tuned less golden on the texts that both have a score for."""
    scores = {s: {r["id"]: r["score"] for r in rows if r["score"] is not None} for s, rows in joined.items()}
    items = {row["id"]: row["item"] for row in joined["golden"]}
    return {
        **{system: column(joined[system], compare.shares) for system in SYSTEMS},
        "difference": stats.paired(scores["tuned"], scores["base"], items, seed),
        "to_golden": stats.paired(scores["tuned"], scores["golden"], items, seed),
        "best": best(({s: scores[s].get(i) for s in SYSTEMS} for i in items), compare.tie),
    }


def summary(joined: dict[str, list[Record]], compare: Compare, seed: int) -> Numbers:
    """The block of all texts, and one for each type, whose p-values share one Holm correction."""
    by_type: dict[str, Numbers] = {}
    for kind in sorted({row["type"] for row in joined["golden"]}):
        part = {system: [row for row in rows if row["type"] == kind] for system, rows in joined.items()}
        by_type[kind] = block(part, compare, seed)
    for kind, p in stats.holm({kind: part["difference"]["p"] for kind, part in by_type.items()}).items():
        by_type[kind]["difference"]["p_holm"] = p
    whole = block(joined, compare, seed)
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
            f"{key.replace('_', ' ')}: " + "/".join(show(whole[s][key]) for s in SYSTEMS)
            for key in numbers["shares"][IN_TABLE:]
        ),
    )
    made.add_column("type", no_wrap=True)
    shown = numbers["shares"][:IN_TABLE]
    for heading in (*HEADINGS, *(f"{key.replace('_', ' ')} g/t/b" for key in shown)):
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
        shares = ["/".join(show(row[s][key]) for s in SYSTEMS) for key in shown]
        made.add_row(name, str(n), *scores, "~ " * unclear + show(gap["mean"], "+.2f") + span, wins, *shares)
    return made


def main(compare: Compare, seed: int) -> None:
    from rich.console import Console

    judged = {system: jsonl.read(f"data/judgements/{system}.jsonl", "id", "outcome") for system in SYSTEMS}
    by = same({system: jsonl.read_json(f"reports/metrics/judge/{system}.json") for system in SYSTEMS})
    joined = join(jsonl.read("data/checks.jsonl", "id", "system"), judged, compare.shares)
    clusters = len({row["item"] for row in joined["golden"]})
    controls = jsonl.read_json("reports/metrics/evaluate.json")["controls"]
    numbers = {
        **summary(joined, compare, seed),
        **by,
        "controls": controls,
        "clusters": clusters,
        "shares": compare.shares,
    }
    jsonl.write_json("reports/metrics/compare.json", numbers)
    # Wide enough for the table where no terminal says how wide it is.
    console = Console(width=None if Console().is_terminal else 160)
    console.print(table(numbers))


if __name__ == "__main__":
    run(main)

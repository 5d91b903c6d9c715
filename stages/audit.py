"""audit: whether the preference pairs can teach, before any training: shortcuts, length, duplicates, leaks.

reads   data/train_pairs.jsonl data/validation_pairs.jsonl data/test_pairs.jsonl
writes  reports/metrics/pairs.json
params  audit, seed
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from anneal import files
from anneal.params import Count, Fraction, Section
from anneal.preference import pair_flaws, shortcuts
from anneal.preference.pair_flaws import ALL, PARTS, Pair
from anneal.records import Metrics
from anneal.stage import run

if TYPE_CHECKING:
    from rich.table import Table

KEYS = ("id", "item", "kind", "prompt", "chosen", "rejected")


class Audit(Section):
    """How a shortcut is looked for, and from where on it is one."""

    max_shortcut_auc: Fraction  # of telling chosen from rejected by n-grams, or by length alone
    ngram: Annotated[int, Field(ge=1, le=8)]  # characters of the longest n-gram; the metrics hold no whole texts
    folds: Annotated[int, Field(ge=2)]
    top: Count  # give-away n-grams that are listed


def column(pairs: Sequence[Pair], everything: Sequence[Pair], audit: Audit, seed: int) -> Metrics:
    """All figures of one strategy, or of all of them; `share` is of all pairs."""
    return {
        "n": len(pairs),
        "items": len({p.item for p in pairs}),
        "share": len(pairs) / max(1, len(everything)),
        "parts": {part: sum(p.part == part for p in pairs) for part in PARTS},
        "length": shortcuts.length(pairs),
        "ngrams": shortcuts.ngrams(pairs, audit.ngram, audit.folds, audit.top, seed),
        "identical": pair_flaws.identical(pairs),
        "duplicates": pair_flaws.duplicates(pairs),
        "leaks": pair_flaws.leaks(pairs, everything),
    }


def measure(pairs: Sequence[Pair], audit: Audit, seed: int) -> Metrics:
    """{n, strategies, all, flags, reason}; the order of the pairs changes nothing."""
    pairs = sorted(pairs)
    kinds = sorted({p.kind for p in pairs})
    strategies = {kind: column([p for p in pairs if p.kind == kind], pairs, audit, seed) for kind in kinds}
    numbers = {"n": len(pairs), "strategies": strategies, "reason": "" if pairs else "empty: there are no pairs"}
    # Of one strategy the whole is that strategy: no need to take twice as long to say it twice.
    numbers["all"] = strategies[kinds[0]] if len(kinds) == 1 else column(pairs, pairs, audit, seed)
    return {**numbers, "flags": pair_flaws.flags(numbers, audit.max_shortcut_auc)}


def _show(value: float | None, form: str = ".3f") -> str:
    return "-" if value is None else format(value, form)


def _span(row: Metrics, key: str, form: str) -> str:
    inside = "" if row["low"] is None else f" [{_show(row['low'], form)}, {_show(row['high'], form)}]"
    return _show(row[key], form) + inside


def table(numbers: Metrics) -> Table:
    """A row for each strategy; what is flagged is red."""
    from rich.table import Table
    from rich.text import Text

    made = Table(title="preference pairs: chosen against rejected, in characters; [95% interval, clustered by item]")
    made.add_column("strategy", no_wrap=True)
    headings = (
        "n",
        "share",
        "/".join(PARTS),
        "longer/shorter",
        "characters",
        "AUC length",
        "AUC n-grams",
        "equal length",
    )
    for heading in headings:
        made.add_column(heading, justify="right", no_wrap=True)
    red = {(flag["strategy"], flag["name"]) for flag in numbers["flags"]}
    for name, row in {**numbers["strategies"], ALL: numbers["all"]}.items():
        if name == ALL:
            made.add_section()
        length, ngrams = row["length"], row["ngrams"]
        long, solved = ("red" if (name, flag) in red else "" for flag in ("length", "shortcut"))
        made.add_row(
            Text(name),
            str(row["n"]),
            f"{row['share']:.1%}",
            "/".join(str(row["parts"][part]) for part in PARTS),
            Text(f"{length['longer']}/{length['shorter']}", long),
            _span(length, "mean", "+.0f"),
            Text(_show(length["auc"]), long),
            Text(_span(ngrams, "auc", ".3f"), solved),
            _span(ngrams["equal"], "auc", ".3f"),
        )
    return made


def show(numbers: Metrics) -> None:
    """The table, what gives each strategy away with the texts that hold it (chosen/rejected), and the flags."""
    from rich.console import Console
    from rich.text import Text

    # Wide enough for the table where no terminal says how wide it is.
    console = Console(width=None if Console().is_terminal else 160)
    console.print(table(numbers))
    for name, row in numbers["strategies"].items():
        for side in ("chosen", "rejected"):
            told = [g for g in row["ngrams"]["top"] if g["side"] == side]
            grams = [f"{json.dumps(g['ngram'], ensure_ascii=False)} {g['chosen']}/{g['rejected']}" for g in told]
            if grams:
                console.print(Text(f"{name}, {side} by: {', '.join(grams)}"), soft_wrap=True)
    for flag in numbers["flags"]:
        console.print(Text(flag["line"], style="red"), soft_wrap=True)
    for line in pair_flaws.refusals(numbers):
        console.print(Text(f"not to be trained on: {line}", style="red"), soft_wrap=True)
    if numbers["reason"]:
        console.print(numbers["reason"])


def main(audit: Audit, seed: int) -> None:
    rows = {part: files.read(f"data/{part}_pairs.jsonl", *KEYS) for part in PARTS}
    numbers = measure([pair_flaws.pair(row, part) for part in PARTS for row in rows[part]], audit, seed)
    files.write_json("reports/metrics/pairs.json", numbers)
    show(numbers)


if __name__ == "__main__":
    run(main)

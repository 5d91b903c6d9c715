"""format: records to chat messages and preference pairs; wordings; token statistics.

reads   data/filtered.jsonl, data/rejected.jsonl, prompts/<recipe>/format/{system,user,wordings}.md, models/base
writes  data/formatted.jsonl data/pairs.jsonl, reports/metrics/format.json
params  format, recipe, seed, types
"""

from __future__ import annotations

import math
import random
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from string import Template
from typing import Any, Literal

from stages.lib import chat, jsonl, model, prompts
from stages.lib.jsonl import Record
from stages.lib.params import Count, Refusal, Section, run
from stages.lib.rows import positions
from stages.lib.template import Unmaskable

QUANTILES = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99, "max": 1.0}


class Format(Section):
    """How long a row may be, in tokens with prompt and stop, and what happens to a row that cannot be used."""

    max_length: Count
    over_length: Literal["drop", "fail"]
    unmaskable: Literal["drop", "fail"]


class Writer:
    """Turns a record into its prompt. The wording depends on seed and record alone, so a new record moves no other."""

    def __init__(self, folder: Path, types: dict[str, str], seed: int) -> None:
        self.system, self.user = prompts.Prompt(folder / "system.md"), prompts.Prompt(folder / "user.md")
        self.wordings = prompts.Prompt(folder / "wordings.md")
        # Parted before the slots are filled: a value that holds a line break must not make a wording of its own.
        self.lines = [line.strip() for line in self.wordings.text.splitlines() if line.strip()]
        if not self.lines:
            raise Refusal(f"{self.wordings.path}: holds no wording; write one instruction a line")
        self.types, self.seed = types, seed

    def wording(self, record: Record) -> int:
        return random.Random(f"{self.seed}/wording/{record['id']}").randrange(len(self.lines))

    def prompt(self, record: Record) -> list[dict[str, str]]:
        if record["type"] not in self.types:
            raise Refusal(f"data/filtered.jsonl: {record['id']}: type {record['type']!r} has no label in params types")
        values = {**prompts.slots(record["facts"]), "label": self.types[record["type"]]}
        self.wordings.render(**values)  # refuses an unknown slot with its line
        values["instruction"] = Template(self.lines[self.wording(record)]).substitute(values)
        messages = [("system", self.system.render(**values)), ("user", self.user.render(**values))]
        return [{"role": role, "content": text.strip()} for role, text in messages if text.strip()]


@dataclass
class Result:
    """Rows that are kept, and every one that is not with its reason."""

    rows: list[Record] = field(default_factory=list)
    encoded: list[chat.Encoded | Unmaskable] = field(default_factory=list)
    over: list[str] = field(default_factory=list)  # ids
    refused: list[tuple[str, str]] = field(default_factory=list)  # ids and reasons

    def take(self, row: Record, tokenizer: Any, replies: list[list[dict[str, str]]], longest: int) -> None:
        """Keep the row if each of its replies can be masked exactly and is short enough."""
        try:
            encoded = [chat.encode(tokenizer, row["prompt"], reply) for reply in replies]
        except Unmaskable as err:
            self.encoded.append(err)
            self.refused.append((row["id"], str(err)))
            return
        self.encoded += encoded
        if any(len(one.ids) > longest for one in encoded):
            self.over.append(row["id"])
        else:
            self.rows.append(row)


def formatted(records: list[Record], writer: Writer, tokenizer: Any, longest: int) -> Result:
    """Conversational prompt and completion of every record, as TRL loads them."""
    result = Result()
    for record in records:
        row = {key: record[key] for key in ("id", "item", "type", "facts")}
        row |= {"prompt": writer.prompt(record), "completion": [{"role": "assistant", "content": record["text"]}]}
        result.take(row, tokenizer, [row["completion"]], longest)
    return result


def paired(rejected: list[Record], rows: list[Record], tokenizer: Any, longest: int) -> Result:
    """Preference pairs on the very prompts of the kept rows; a pair whose row is gone goes with it."""
    result, kept = Result(), {row["id"]: row for row in rows}
    for record in rejected:
        if (row := kept.get(record["id"])) is None:
            continue
        pair = {key: row[key] for key in ("id", "item", "type", "prompt")} | {"kind": record["kind"]}
        pair |= {"chosen": row["completion"], "rejected": [{"role": "assistant", "content": record["text"]}]}
        result.take(pair, tokenizer, [pair["rejected"]], longest)
    return result


def decide(result: Result, policy: Format, name: str) -> None:
    """Refuses by policy, and always when nothing is left; the line names the reasons with their counts."""
    if result.refused and (policy.unmaskable == "fail" or not result.rows):
        reasons = Counter(reason for _, reason in result.refused).most_common(3)
        said = "; ".join(f"{count} x {reason}" for reason, count in reasons)
        raise Refusal(f"data/{name}: {len(result.refused)} rows cannot be masked, first {result.refused[0][0]}: {said}")
    if result.over and (policy.over_length == "fail" or not result.rows):
        raise Refusal(
            f"data/{name}: {len(result.over)} rows are longer than format.max_length {policy.max_length} tokens, "
            f"first {result.over[0]}; raise it, shorten the texts or set format.over_length to drop"
        )


def spread(lengths: list[int]) -> dict[str, int]:
    """Nearest-rank quantiles."""
    ranked = sorted(lengths)
    return {name: ranked[max(math.ceil(q * len(ranked)), 1) - 1] if ranked else 0 for name, q in QUANTILES.items()}


def measure(sft: Result, pairs: Result, counts: dict[str, int], writer: Writer, tokenizer: Any) -> dict[str, Any]:
    """Counts, masks, token statistics over all maskable rows (also those too long), and the share of each wording."""
    ok = [row for row in sft.encoded if isinstance(row, chat.Encoded)]
    used = Counter(writer.wording(row) for row in sft.rows)
    return {
        "records": counts["records"],
        "rows": len(sft.rows),
        "masks": chat.report(sft.encoded, chat.stop_ids(tokenizer)),
        "over_length": {"rows": len(sft.over), "share": len(sft.over) / max(len(ok), 1)},
        "tokens": {
            "prompt": spread([row.prompt for row in ok]),
            "completion": spread([len(row.ids) - row.prompt for row in ok]),
            "total": spread([len(row.ids) for row in ok]),
        },
        "pairs": {
            "records": counts["rejected"],
            "rows": len(pairs.rows),
            "over_length": len(pairs.over),
            "unmaskable": len(pairs.refused),
        },
        "wordings": {f"line_{n + 1}": used[n] / max(len(sft.rows), 1) for n in range(len(writer.lines))},
    }


def main(seed: int, recipe: str, types: dict[str, str], format: Format) -> None:  # noqa: A002
    writer = Writer(Path("prompts", recipe, "format"), types, seed)
    records = jsonl.read("data/filtered.jsonl", "id", "item", "type", "facts", "text")
    if not records:
        raise Refusal("data/filtered.jsonl: no record is left; loosen the filter section")
    rejected = jsonl.read("data/rejected.jsonl", "id", "kind", "text")
    if format.max_length > (most := positions(Path("models/base"))):
        raise Refusal(f"params.yaml: format.max_length: models/base has positions for {most:.0f} tokens only")
    tokenizer = model.tokenizer("models/base")
    sft = formatted(records, writer, tokenizer, format.max_length)
    decide(sft, format, "filtered.jsonl")
    pairs = paired(rejected, sft.rows, tokenizer, format.max_length)
    decide(pairs, format, "rejected.jsonl")
    counts = {"records": len(records), "rejected": len(rejected)}
    jsonl.write("data/formatted.jsonl", sft.rows)
    jsonl.write("data/pairs.jsonl", pairs.rows)
    jsonl.write_json("reports/metrics/format.json", measure(sft, pairs, counts, writer, tokenizer))


if __name__ == "__main__":
    run(main)

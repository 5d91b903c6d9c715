"""format: records to chat messages and preference pairs; wordings; token statistics.

reads   data/filtered.jsonl, data/rejected.jsonl, prompts/<recipe>/format/{system,user,wordings}.md, models/base
writes  data/formatted.jsonl data/pairs.jsonl, reports/metrics/format.json
params  format, recipe, seed, types
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from anneal import files
from anneal.dataset import chat_template, token_budget
from anneal.dataset.chat_template import Unmaskable
from anneal.dataset.encoding import positions
from anneal.dataset.instructions import Task, Writer, balanced
from anneal.errors import UserError
from anneal.files import work
from anneal.models import loading
from anneal.params import Count, Section
from anneal.records import Message, Metrics, Record, Rejected, Row
from anneal.stage import run


class Format(Section):
    """How long a row may be, in tokens with prompt and stop, and what happens to a row that cannot be used."""

    max_length: Count
    over_length: Literal["drop", "fail"]
    unmaskable: Literal["drop", "fail"]
    tasks: dict[str, Task]  # further rows, by name


@dataclass
class Result:
    """Rows that are kept, and every one that is not with its reason."""

    rows: list[Row] = field(default_factory=list)
    kept: list[chat_template.Encoded] = field(default_factory=list)  # of `rows`, the last reply of each
    encoded: list[chat_template.Encoded | Unmaskable] = field(default_factory=list)
    over: list[str] = field(default_factory=list)  # ids
    refused: list[tuple[str, str]] = field(default_factory=list)  # ids and reasons
    wordings: dict[str, Counter[int]] = field(default_factory=dict)  # task -> wording -> rows
    instructions: set[str] = field(default_factory=set)  # different ones of the main task

    def take(self, row: Row, tokenizer: Any, reply: list[Message], longest: int) -> bool:
        """Keep the row if its reply can be masked exactly and is short enough."""
        try:
            encoded = chat_template.encode(tokenizer, row["prompt"], reply)
        except Unmaskable as err:
            self.encoded.append(err)
            self.refused.append((row["id"], str(err)))
            return False
        self.encoded.append(encoded)
        if len(encoded.ids) > longest:
            self.over.append(row["id"])
            return False
        self.rows.append(row)
        self.kept.append(encoded)
        return True


def formatted(records: Sequence[Record], writers: Sequence[Writer], tokenizer: Any, longest: int) -> Result:
    """Conversational prompt and completion of every record, as TRL loads them, then those of the further tasks."""
    result = Result()
    for writer in writers:
        wording = balanced(asked := writer.of(records), len(writer.lines), writer.purpose)
        used = result.wordings.setdefault(writer.name, Counter())
        for record in asked:
            # A row of a further task keeps the item, so that the split never parts it from the record it is made of.
            name = f"{record['id']}/{writer.name}" if writer.name else record["id"]
            row: Row = {"id": name, "item": record["item"], "type": writer.kind(record), "facts": record["facts"]}
            prompt, instruction = writer.prompt(record, wording[record["id"]])
            row |= {"prompt": prompt, "completion": [{"role": "assistant", "content": writer.answer(record)}]}
            if result.take(row, tokenizer, row["completion"], longest):
                used[wording[record["id"]]] += 1
                result.instructions |= set() if writer.name else {instruction}
    return result


def paired(rejected: list[Rejected], rows: list[Row], tokenizer: Any, longest: int) -> Result:
    """Preference pairs on the very prompts of the kept rows; a pair whose row is gone goes with it."""
    result, kept = Result(), {row["id"]: row for row in rows}
    for record in rejected:
        if (row := kept.get(record["id"])) is None:
            continue
        pair = {key: row[key] for key in ("id", "item", "type", "prompt")} | {"kind": record["kind"]}
        pair |= {"chosen": row["completion"], "rejected": [{"role": "assistant", "content": record["text"]}]}
        result.take(pair, tokenizer, pair["rejected"], longest)
    return result


def decide(result: Result, policy: Format, name: str) -> None:
    """Refuses by policy, and always when nothing is left; the line names the reasons with their counts."""
    if result.refused and (policy.unmaskable == "fail" or not result.rows):
        reasons = Counter(reason for _, reason in result.refused).most_common(3)
        said = "; ".join(f"{count} x {reason}" for reason, count in reasons)
        raise UserError(
            f"data/{name}: {len(result.refused)} rows cannot be masked, first {result.refused[0][0]}: {said}"
        )
    if result.over and (policy.over_length == "fail" or not result.rows):
        raise UserError(
            f"data/{name}: {len(result.over)} rows are longer than format.max_length {policy.max_length} tokens, "
            f"first {result.over[0]}; raise it, shorten the texts or set format.over_length to drop"
        )


def counted(result: Result, tokenizer: Any) -> list[token_budget.Row]:
    """Tokens of the kept rows by field. A message's own tokens are counted once for each different text of it."""
    told = [{message["role"]: message["content"] for message in row["prompt"]} for row in result.rows]
    texts = sorted({text for each in told for text in each.values()})
    ids = tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else []
    length = {"": 0} | {text: len(each) for text, each in zip(texts, ids, strict=True)}
    return [
        token_budget.Row(length[each.get("system", "")], length[each["user"]], row.prompt, len(row.ids) - row.prompt)
        for each, row in zip(told, result.kept, strict=True)
    ]


def share(used: Counter[int], lines: int) -> dict[str, float]:
    return {f"line_{n + 1}": used[n] / max(used.total(), 1) for n in range(lines)}


def measure(sft: Result, pairs: Result, counts: dict[str, int], writers: Sequence[Writer], tokenizer: Any) -> Metrics:
    """Counts, masks, token statistics over all maskable rows (also those too long), budget, shares of the wordings."""
    ok = [row for row in sft.encoded if isinstance(row, chat_template.Encoded)]
    rows = counted(sft, tokenizer)
    asked = {tuple((message["role"], message["content"]) for message in row["prompt"]) for row in sft.rows}
    shape = token_budget.Shape(len(sft.instructions), len(sft.rows) - len(asked), len(sft.over), len(ok))
    shares = {writer.name: share(sft.wordings[writer.name], len(writer.lines)) for writer in writers}
    return {
        "records": counts["records"],
        "rows": len(sft.rows),
        "masks": chat_template.report(sft.encoded, chat_template.stop_ids(tokenizer)),
        "over_length": {"rows": len(sft.over), "share": len(sft.over) / max(len(ok), 1)},
        "tokens": {
            "prompt": token_budget.spread([row.prompt for row in ok]),
            "completion": token_budget.spread([len(row.ids) - row.prompt for row in ok]),
            "total": token_budget.spread([len(row.ids) for row in ok]),
        },
        "budget": {
            "fields": token_budget.fields(rows),
            "repeated": shape.repeated,
            "warnings": token_budget.warnings(rows, shape),
        },
        "pairs": {
            "records": counts["rejected"],
            "rows": len(pairs.rows),
            "over_length": len(pairs.over),
            "unmaskable": len(pairs.refused),
        },
        "wordings": shares.pop(""),
        "tasks": {name: {"rows": sft.wordings[name].total(), "wordings": each} for name, each in shares.items()},
    }


def main(seed: int, recipe: str, types: dict[str, str], format: Format) -> None:  # noqa: A002
    folder = Path("prompts", recipe, "format")
    writers = [Writer(folder, types, seed), *(Writer(folder, types, seed, *task) for task in format.tasks.items())]
    records = files.read("data/filtered.jsonl", "id", "item", "type", "facts", "text")
    if not records:
        raise UserError("data/filtered.jsonl: no record is left; loosen the filter section")
    rejected = files.read("data/rejected.jsonl", "id", "kind", "text")
    if format.max_length > (most := positions(Path("models/base"))):
        raise UserError(f"params.yaml: format.max_length: models/base has positions for {most:.0f} tokens only")
    tokenizer = loading.tokenizer("models/base")
    sft = formatted(records, writers, tokenizer, format.max_length)
    decide(sft, format, "filtered.jsonl")
    pairs = paired(rejected, sft.rows, tokenizer, format.max_length)
    decide(pairs, format, "rejected.jsonl")
    counts = {"records": len(records), "rejected": len(rejected)}
    metrics = measure(sft, pairs, counts, writers, tokenizer)
    for line in metrics["budget"]["warnings"]:
        print(f"format: {line}", file=sys.stderr)
    # The time is this machine's, so it is told and never written into a file that is compared.
    print(
        f"format: {token_budget.estimate(metrics['budget']['fields']['total'], work('times') / 'pace.jsonl')}",
        file=sys.stderr,
    )
    files.write("data/formatted.jsonl", sft.rows)
    files.write("data/pairs.jsonl", pairs.rows)
    files.write_json("reports/metrics/format.json", metrics)


if __name__ == "__main__":
    run(main)

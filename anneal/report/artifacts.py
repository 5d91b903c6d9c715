"""What a report shows beside metrics: the texts side by side, the training curve, what made the numbers, and the times.

A file that is not there yet gives an empty answer: a report of half a pipeline is still a report.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from pathlib import Path
from typing import Any

from anneal import files
from anneal.systems import SYSTEMS

# Bytes of texts on a page. The rest of it takes up to 250,000, and above a megabyte browsers and mail begin to object.
BUDGET = 720_000
LIBRARIES = ("torch", "transformers", "trl", "peft", "datasets", "scikit-learn", "openai", "dvc")


def _shown(check: dict[str, Any], judgement: dict[str, Any], level: int) -> dict[str, Any]:
    """What the browser shows of one text; a higher level holds less: no reasons, then no quotes either."""
    dims = {
        name: [
            mark.get("score"),
            mark.get("quote", "") if level < 2 else "",
            mark.get("reason", "") if level < 1 else "",
        ]
        for name, mark in (judgement.get("dims") or {}).items()
    }
    # strict is shown as such, beside the checks that it is made of.
    failed = sorted(k for k, v in (check.get("checks") or {}).items() if not v and k != "strict")
    flags = {key: check.get(key) for key in ("text", "strict", "stopped", "found")}
    # The very words that the judge objects to; what stands in another text cannot be marked in this one.
    quotes = [v.get("quote") or "" for v in judgement.get("violations") or []] if level < 2 else []
    text = check.get("text") or ""
    return {
        **flags,
        "failed": failed,
        "quotes": sorted({quote for quote in quotes if quote and quote in text}),
        "score": judgement.get("score"),
        "outcome": judgement.get("outcome"),
        "dims": dims,
    }


def browser(budget: int = BUDGET) -> tuple[list[dict[str, Any]], int]:
    """The test records with what each system made of them, and how many there are; the rest does not fit the page."""

    def rows(path: str) -> list[dict[str, Any]]:
        return files.read(path, "id") if Path(path).is_file() else []

    records = rows("data/test.jsonl")
    checks = {(row["system"], row["id"]): row for row in rows("data/checks.jsonl")}
    judged = {(s, row["id"]): row for s in SYSTEMS for row in rows(f"data/judgements/{s}.jsonl")}
    shown: list[dict[str, Any]] = []
    for level in range(3):
        shown = []
        for record in records:
            systems = {s: (s, record["id"]) for s in SYSTEMS if (s, record["id"]) in checks}
            texts = {s: _shown(checks[key], judged.get(key, {}), level) for s, key in systems.items()}
            prompt = "\n\n".join(message["content"] for message in record["prompt"])
            shown.append({"id": record["id"], "type": record["type"], "prompt": prompt, "systems": texts})
        size = len(json.dumps(shown, ensure_ascii=False).encode())
        if size <= budget:
            return shown, len(records)
    return shown[: int(len(shown) * budget / size)], len(records)


def columns(path: str) -> dict[str, list[tuple[float, float]]]:
    """Columns of a TSV over its first one, gaps left out: {"loss": [(step, value), ...]}; empty without the file."""
    if not Path(path).is_file():
        return {}
    head, *rows = [line.split("\t") for line in Path(path).read_text("utf-8").splitlines() if line]
    return {
        name: [(float(row[0]), float(row[i])) for row in rows if len(row) > i and row[i] not in ("", "nan")]
        for i, name in enumerate(head)
        if i
    }


def provenance(params: dict[str, Any]) -> dict[str, str]:
    """What made the numbers: names, seeds, versions, and the hash of the lock, which stands for every input."""
    lock = Path("dvc.lock")
    facts = {
        "dvc.lock (sha256)": hashlib.sha256(lock.read_bytes()).hexdigest() if lock.is_file() else None,
        **{key: params.get(key) for key in ("recipe", "seed", "threads")},
        **{
            name: params.get(name, {}).get(key)
            for name, key in (("model", "name"), ("teacher", "model"), ("judge", "model"))
        },
        "model revision": params.get("model", {}).get("revision"),
    }
    there = {str(found.metadata["Name"]).lower() for found in importlib.metadata.distributions()}
    versions = {name: importlib.metadata.version(name) for name in LIBRARIES if name in there}
    return {name: str(value) for name, value in {**facts, **versions}.items() if value is not None}


def _runs() -> list[dict[str, Any]]:
    """The log of stage runs, oldest first; half a line, as a killed run leaves one, is passed over."""
    log, found = Path(".work/times/stages.jsonl"), []
    for line in log.read_text("utf-8").splitlines() if log.is_file() else []:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        found += [row] if isinstance(row, dict) and "stage" in row else []
    return found


def seconds() -> list[tuple[str, float, int]]:
    """(stage, seconds, peak MB) of the last run of each stage; for the terminal only, as they differ every time."""
    last = {row["stage"]: (row["stage"], row["seconds"], row["peak_mb"]) for row in _runs() if row["exit"] == 0}
    return list(last.values())


def outbound(params: dict[str, Any]) -> tuple[int | None, str]:
    """Connections to other machines in the newest run of each stage, and the line that says so.

    None, and an empty line, where params do not promise that there are none; a failed run counts as any other.
    """
    if not (params.get("privacy") or {}).get("local_only"):
        return None, ""
    newest = {row["stage"]: row["outbound"] for row in _runs() if "outbound" in row}
    if not newest:
        return None, "outbound connections: not measured, no stage has run in this checkout"
    total = sum(newest.values())
    return total, f"outbound connections: {total}, measured by the stages' last runs ({len(newest)} of them)"

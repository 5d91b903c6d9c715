"""Reads the files that the report shows beside metrics: texts, training curves, provenance, run times.

A missing file gives an empty result, so that a half-run pipeline has a report.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from anneal import files
from anneal.systems import SYSTEMS

# Bytes of texts on a page. The other parts take up to 250,000; above a megabyte browsers and mail servers object.
BUDGET = 720_000
LIBRARIES = ("torch", "transformers", "trl", "peft", "datasets", "scikit-learn", "openai", "dvc")


def _browser_text(check: Mapping[str, Any], judgement: Mapping[str, Any], level: int) -> dict[str, Any]:
    """One text for the browser. Level 1 leaves out the reasons, level 2 the quotes too."""
    dims = {
        name: [
            mark.get("score"),
            mark.get("quote", "") if level < 2 else "",
            mark.get("reason", "") if level < 1 else "",
        ]
        for name, mark in (judgement.get("dims") or {}).items()
    }
    # strict has a field of its own beside the checks that it consists of.
    failed = sorted(k for k, v in (check.get("checks") or {}).items() if not v and k != "strict")
    flags = {key: check.get(key) for key in ("text", "strict", "stopped", "found")}
    # Only a literal quote of the text can be marked in it.
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
    """(the test records with the text of each system that fit in `budget` bytes, the number of test records)."""

    def rows(path: str) -> list[dict[str, Any]]:
        return files.read(path, "id") if Path(path).is_file() else []

    records = rows("data/test.jsonl")
    checks = {(row["system"], row["id"]): row for row in rows("data/checks.jsonl")}
    judgements = {(s, row["id"]): row for s in SYSTEMS for row in rows(f"data/judgements/{s}.jsonl")}
    page_rows: list[dict[str, Any]] = []
    for level in range(3):
        page_rows = []
        for record in records:
            systems = {s: (s, record["id"]) for s in SYSTEMS if (s, record["id"]) in checks}
            texts = {s: _browser_text(checks[key], judgements.get(key, {}), level) for s, key in systems.items()}
            prompt = "\n\n".join(message["content"] for message in record["prompt"])
            page_rows.append({"id": record["id"], "type": record["type"], "prompt": prompt, "systems": texts})
        size = len(json.dumps(page_rows, ensure_ascii=False).encode())
        if size <= budget:
            return page_rows, len(records)
    return page_rows[: int(len(page_rows) * budget / size)], len(records)


def columns(path: str) -> dict[str, list[tuple[float, float]]]:
    """Columns of a TSV file over its first one, without gaps: {"loss": [(step, value), ...]}; {} without the file."""
    if not Path(path).is_file():
        return {}
    head, *rows = [line.split("\t") for line in Path(path).read_text("utf-8").splitlines() if line]
    return {
        name: [(float(row[0]), float(row[i])) for row in rows if len(row) > i and row[i] not in ("", "nan")]
        for i, name in enumerate(head)
        if i
    }


def provenance(params: dict[str, Any]) -> dict[str, str]:
    """Names, seeds, library versions, and the hash of dvc.lock, which covers every input."""
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
    installed = {str(package.metadata["Name"]).lower() for package in importlib.metadata.distributions()}
    versions = {name: importlib.metadata.version(name) for name in LIBRARIES if name in installed}
    return {name: str(value) for name, value in {**facts, **versions}.items() if value is not None}


def _runs() -> list[dict[str, Any]]:
    """The log of stage runs, oldest first; a partial line of a killed run is skipped."""
    log = Path(".work/times/stages.jsonl")
    runs: list[dict[str, Any]] = []
    for line in log.read_text("utf-8").splitlines() if log.is_file() else []:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        runs += [row] if isinstance(row, dict) and "stage" in row else []
    return runs


def seconds() -> list[tuple[str, float, int]]:
    """(stage, seconds, peak MB) of the last successful run of each stage; for the terminal only, as times vary."""
    last = {row["stage"]: (row["stage"], row["seconds"], row["peak_mb"]) for row in _runs() if row["exit"] == 0}
    return list(last.values())


def outbound(params: dict[str, Any]) -> tuple[int | None, str]:
    """The number of connections to other machines in the last run of each stage, failed runs included, and its line.

    None and an empty line unless privacy.local_only is true.
    """
    if not (params.get("privacy") or {}).get("local_only"):
        return None, ""
    newest = {row["stage"]: row["outbound"] for row in _runs() if "outbound" in row}
    if not newest:
        return None, "outbound connections: not measured, no stage has run in this checkout"
    total = sum(newest.values())
    return total, f"outbound connections: {total}, measured in the last runs of {len(newest)} stages"

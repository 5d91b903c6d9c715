"""A/A: how far apart runs lie that differ in their training seed alone, and what such a band holds for.

A band is that of its inputs: another learning rate, rubric or test record may be noisier. `of` names them all, so that
a band of other inputs is seen and not used.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from anneal import files
from anneal.errors import UserError
from anneal.history import dvc_lock
from anneal.history.dvc_lock import Entry
from anneal.history.revision import Old
from anneal.records import Check, Judgement, Metrics
from anneal.stats import paired

START, JUDGED, CHECKED = "train", "data/judgements/tuned.jsonl", "data/checks.jsonl"
# What evaluate reads of the model that comes after the tuned one: no figure of the tuned one hangs on it.
LATER = frozenset({"data/answers/aligned.jsonl", "data/presets/aligned.jsonl", "data/accepted.jsonl"})
METRIC = Path("reports/metrics/seeds.json")
Rows = tuple[list[Judgement], list[Check]]  # judgements and checks of one run


def chain(entries: Mapping[str, Entry]) -> dict[str, Entry]:
    """The stages on the way from training to the rows that a band is made of."""

    def writes(entry: Entry, paths: Iterable[str]) -> bool:
        return bool(entry.outs.keys() & set(paths))

    after = {START} & entries.keys()
    before = {name for name, entry in entries.items() if writes(entry, (JUDGED, CHECKED))}
    for _ in entries:  # as often as the longest way has stages
        made = [path for name in after for path in entries[name].outs]
        after |= {name for name, entry in entries.items() if any(entry.reads(path) for path in made)}
        read = [entries[name] for name in before]
        wanted = {n: entry.outs.keys() - LATER for n, entry in entries.items()}
        before |= {n for n, paths in wanted.items() if any(e.reads(path) for e in read for path in paths)}
    return {name: entry for name, entry in entries.items() if name in after & before}


def targets(entries: Mapping[str, Entry]) -> list[str]:
    """The stages that a run has to reach. UserError for a lock without them."""
    found = [name for name, entry in entries.items() if entry.outs.keys() & {JUDGED, CHECKED}]
    if not found or START not in entries:
        raise UserError(f"{dvc_lock.LOCK}: holds no {START} with {JUDGED} after it; `dvc repro` first")
    return found


def seed(entries: Mapping[str, Entry]) -> int:
    """The training seed of a run. UserError where its params had none."""
    found = entries[START].params.get(START, {}).get("seed") if START in entries else None
    if not isinstance(found, int):
        raise UserError(
            f"{dvc_lock.LOCK}: holds no {START}.seed, so that no run can differ in it alone; `dvc repro` first"
        )
    return found


def of(lock: str) -> str:
    """What a band was measured on, from the text of a dvc.lock: commands, params without the training seed, and the
    deps that training does not change, from `train` to the scores. "" where nothing was trained."""
    stages = chain(dvc_lock.parse(lock))
    made = {path for entry in stages.values() for path in entry.outs}
    parts = []
    for name, entry in sorted(stages.items()):
        watched = {**entry.params}
        if isinstance(watched.get(START), dict):
            watched[START] = {key: value for key, value in watched[START].items() if key != "seed"}
        given = {path: md5 for path, md5 in entry.deps.items() if path not in made | LATER}
        parts.append([name, entry.cmd, watched, given])
    text = json.dumps(parts, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16] if parts else ""


def here() -> Rows:
    return files.read(JUDGED, "id", "outcome"), files.read(CHECKED, "id", "system")


def at(revision: Old) -> Rows:
    return revision.rows(JUDGED), revision.rows(CHECKED)


def values(rows: Rows, shares: Sequence[str]) -> dict[str, dict[str, float]]:
    """What is measured -> id -> value, of the tuned system: the score, and 1 or 0 for each share."""
    judged, checks = rows
    mine: dict[str, dict[str, bool]] = {
        row["id"]: {"strict": row["strict"], **row["checks"], "stop_rate": row["stopped"]}
        for row in checks
        if row["system"] == "tuned"
    }
    scores = {row["id"]: score for row in judged if (score := paired.scored(row)) is not None}
    known = [share for share in dict.fromkeys(("strict", *shares)) if all(share in row for row in mine.values())]
    return {"score": scores} | {share: {i: float(row[share]) for i, row in mine.items()} for share in known}


def numbers(runs: Mapping[int, Rows], shares: Sequence[str]) -> Metrics:
    """{seeds, n, score: band, <share>: band} of runs by seed; `n` records are in all of them."""
    drawn = [values(rows, shares) for _, rows in sorted(runs.items())]
    names = [name for name in drawn[0] if all(name in each for each in drawn)]
    return {
        "seeds": sorted(runs),
        "n": len(set.intersection(*(set(each["strict"]) for each in drawn))),
        **{name: paired.band([each[name] for each in drawn]) for name in names},
    }


def again(stored: Metrics, entries: Mapping[str, Entry]) -> Metrics:
    """The same numbers from the rows of the same runs. UserError where those of one are not here."""
    runs = {int(key): revision for key, revision in stored["runs"].items()}
    if own := [key for key, revision in runs.items() if not revision and key != seed(entries)]:
        raise UserError(f"the run of seed {own[0]} is not the one in the working tree; make seeds")
    shares = [key for key, value in stored.items() if isinstance(value, dict) and "band" in value and key != "score"]
    found = {key: at(Old(revision)) if revision else here() for key, revision in runs.items()}
    return {**numbers(found, shares), "of": stored["of"], "runs": stored["runs"]}


def lines(found: Metrics) -> list[str]:
    """For the terminal: what the means of the seeds were, and how much of a difference is noise."""
    said = [f"{found['n']} records, training seeds {', '.join(map(str, found['seeds']))}"]
    for name, part in ((k, v) for k, v in found.items() if isinstance(v, dict) and "band" in v):
        means = ", ".join(f"{mean:.3f}" for mean in part["means"])
        said.append(f"{name}: {means}; " + (f"noise up to {part['band']:.3f}" if part["band"] else part["reason"]))
    return said

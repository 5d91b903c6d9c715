"""The A/A band: the noise of the scores between runs that differ in the training seed only.

A band holds for its inputs alone: another learning rate, rubric or test record may be noisier. `inputs_hash` names the
inputs, so that the band of other inputs is recognised and not used.
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
from anneal.history.revision import Revision
from anneal.records import Check, Judgement, Metrics
from anneal.stats import paired

START = "train"  # the stage from which runs of two seeds differ
JUDGED = "data/judgements/tuned.jsonl"
CHECKED = "data/checks.jsonl"
# Files of the aligned model that evaluate reads as well: no metric of the tuned model depends on them.
LATER = frozenset({"data/answers/aligned.jsonl", "data/presets/aligned.jsonl", "data/accepted.jsonl"})
METRIC = Path("reports/metrics/seeds.json")
RunRows = tuple[list[Judgement], list[Check]]  # of one run


def band_stages(entries: Mapping[str, Entry]) -> dict[str, Entry]:
    """The stages that depend on `train` and that the rows of a band depend on, these ends included."""

    def writes_any(entry: Entry, paths: Iterable[str]) -> bool:
        return bool(entry.outs.keys() & set(paths))

    outs = {name: entry.outs.keys() - LATER for name, entry in entries.items()}
    after_start = {START} & entries.keys()
    before_rows = {name for name, entry in entries.items() if writes_any(entry, (JUDGED, CHECKED))}
    for _ in entries:  # each round adds the next stage of every path, and no path is longer than the list of stages
        written = [path for name in after_start for path in entries[name].outs]
        after_start |= {name for name, entry in entries.items() if any(entry.reads(path) for path in written)}
        readers = [entries[name] for name in before_rows]
        for name, paths in outs.items():
            if any(reader.reads(path) for reader in readers for path in paths):
                before_rows.add(name)
    return {name: entry for name, entry in entries.items() if name in after_start & before_rows}


def targets(entries: Mapping[str, Entry]) -> list[str]:
    """The stages that write the rows of a band. UserError for a lock without them or without `train`."""
    names = [name for name, entry in entries.items() if entry.outs.keys() & {JUDGED, CHECKED}]
    if not names or START not in entries:
        raise UserError(f"{dvc_lock.LOCK}: holds no {START} with {JUDGED} after it; `dvc repro` first")
    return names


def training_seed(entries: Mapping[str, Entry]) -> int:
    """The `train.seed` of a run. UserError where its params have none."""
    value = entries[START].params.get(START, {}).get("seed") if START in entries else None
    if not isinstance(value, int):
        raise UserError(
            f"{dvc_lock.LOCK}: holds no {START}.seed, so that no run can differ in it alone; `dvc repro` first"
        )
    return value


def inputs_hash(lock: str) -> str:
    """16 hexadecimal digits that name the inputs of a band, from the text of a dvc.lock; "" where nothing was trained.

    They cover, for each of `band_stages`, its command, its params without the training seed, and the deps that none
    of these stages writes.
    """
    stages = band_stages(dvc_lock.parse(lock))
    written = {path for entry in stages.values() for path in entry.outs}
    parts = []
    for name, entry in sorted(stages.items()):
        stage_params = {**entry.params}
        if isinstance(stage_params.get(START), dict):
            stage_params[START] = {key: value for key, value in stage_params[START].items() if key != "seed"}
        inputs = {path: md5 for path, md5 in entry.deps.items() if path not in written | LATER}
        parts.append([name, entry.cmd, stage_params, inputs])
    if not parts:
        return ""
    text = json.dumps(parts, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def working_tree_rows() -> RunRows:
    """The rows of the run in the working tree. UserError where a file or a key is missing."""
    return files.read(JUDGED, "id", "outcome"), files.read(CHECKED, "id", "system")


def revision_rows(revision: Revision) -> RunRows:
    """The rows of the run of a revision. UserError where a file cannot be fetched."""
    return revision.rows(JUDGED), revision.rows(CHECKED)


def _values(rows: RunRows, shares: Sequence[str]) -> dict[str, dict[str, float]]:
    """Metric -> record id -> value, of the tuned system: the score where there is one, and 1 or 0 for each share.

    A share that a row does not hold is left out: it may be of another recipe.
    """
    judgements, checks = rows
    passed: dict[str, dict[str, bool]] = {
        row["id"]: {"strict": row["strict"], **row["checks"], "stop_rate": row["stopped"]}
        for row in checks
        if row["system"] == "tuned"
    }
    scores = {row["id"]: score for row in judgements if (score := paired.scored(row)) is not None}
    values: dict[str, dict[str, float]] = {"score": scores}
    for share in dict.fromkeys(("strict", *shares)):
        if all(share in row for row in passed.values()):
            values[share] = {record: float(row[share]) for record, row in passed.items()}
    return values


def bands(runs: Mapping[int, RunRows], shares: Sequence[str]) -> Metrics:
    """{seeds, n, score: band, <share>: band} of runs by training seed; the `n` records are those of every run."""
    values = [_values(rows, shares) for _, rows in sorted(runs.items())]
    names = [name for name in values[0] if all(name in run for run in values)]
    return {
        "seeds": sorted(runs),
        "n": len(set.intersection(*(set(run["strict"]) for run in values))),
        **{name: paired.band([run[name] for run in values]) for name in names},
    }


def recompute(stored: Metrics, entries: Mapping[str, Entry]) -> Metrics:
    """The metrics file of a band again, from the rows of its runs. UserError where a run is not available.

    `stored["runs"]` maps a training seed to the commit of its run; "" stands for the working tree.
    """
    commits = {int(key): commit for key, commit in stored["runs"].items()}
    for seed, commit in commits.items():
        if not commit and seed != training_seed(entries):
            raise UserError(f"the run of seed {seed} is not the one in the working tree; make seeds")
    shares = [key for key, value in stored.items() if isinstance(value, dict) and "band" in value and key != "score"]
    runs = {
        seed: revision_rows(Revision(commit)) if commit else working_tree_rows() for seed, commit in commits.items()
    }
    return {**bands(runs, shares), "of": stored["of"], "runs": stored["runs"]}


def summary_lines(metrics: Metrics) -> list[str]:
    """For the terminal: the mean of each seed, and the size of a difference that is still noise."""
    lines = [f"{metrics['n']} records, training seeds {', '.join(map(str, metrics['seeds']))}"]
    for name, band in metrics.items():
        if not (isinstance(band, dict) and "band" in band):
            continue
        means = ", ".join(f"{mean:.3f}" for mean in band["means"])
        lines.append(f"{name}: {means}; " + (f"noise up to {band['band']:.3f}" if band["band"] else band["reason"]))
    return lines

"""verify: recomputes every number of the report from stored rows, without a model or a judge.

    make verify

Not a stage of DVC: it checks the files that the stages wrote. A stage that needs no model runs again in a scratch
folder that holds its deps only, with the judge's stored replies in place of a judge, and must write the same bytes. The
files of every other stage must match their md5 in dvc.lock. The exit code is 1 where a file differs, is missing or was
computed from other inputs.

reads   dvc.lock, params.yaml, the deps and outputs of the stages, data/human, reports/blind
writes  nothing
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import shlex
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from anneal import files, params
from anneal.errors import UserError
from anneal.history import byte_diff, dvc_lock, seed_noise
from anneal.history.dvc_lock import Entry

# Stages that `verify` does not run, with the reason. Every other stage of dvc.lock runs again, so that a new stage is
# recomputed until somebody adds it here.
NOT_RECOMPUTED = {
    "base": "trains the base model",
    "generate": "calls the teacher",
    "clean": "calls the teacher",
    "reject": "calls the teacher",
    "train": "trains",
    "reward": "trains",
    "rollout": "needs the weights",
    "align": "trains",
    "merge": "needs the weights",
    "answer": "needs the weights",
    "accept": "needs the weights",
}
METRICS = Path("reports/metrics")
HUMAN = "reports/metrics/human.json"
# The count of the votes as if it were a stage: it has deps and one output, and is in no lock.
UNBLIND = Entry(
    name="human",
    cmd="python -m commands.blind unblind",
    deps=dict.fromkeys(("data/human", "reports/blind", "data/test.jsonl"), ""),
    params={},
    outs={HUMAN: ""},
)
# Further deps of unblind: which files of these folders it reads depends on the systems of the ballot.
UNBLIND_FOLDERS = ("data/answers", "data/judgements")
Result = Literal["equal", "as in dvc.lock", "no numbers", "unchecked", "STALE", "MISSING", "DIFFERS"]
FAILURES: frozenset[Result] = frozenset({"STALE", "MISSING", "DIFFERS"})


class Finding(NamedTuple):
    """The result for one stage or file, with its details in words."""

    result: Result
    name: str
    details: str


def changed_outputs(entry: Entry) -> list[str]:
    """A message for each output file whose md5 is not that of dvc.lock.

    Folders are left out: no number comes from them, and `dvc status` compares them.
    """
    outs = ((path, md5) for path, md5 in entry.outs.items() if md5 and not md5.endswith(".dir"))
    return [f"{path}: not the file that dvc.lock names" for path, md5 in outs if dvc_lock.md5(Path(path)) != md5]


def stale_input(entry: Entry) -> str:
    """The first input that was edited since the stage ran, in words; "" where none was.

    Numbers of a stage with an edited input are of another tree, whether they are computed correctly or not.
    """
    inputs = dvc_lock.stale(entry, params.load())
    return f"{inputs[0]} changed since that run; `dvc repro`" if inputs else ""


def run_again(entry: Entry, scratch: Path) -> str:
    """Run a stage in `scratch`, which gets links to its deps and stored replies.

    Returns "" or, where the stage fails, its last line on stderr.
    """
    here = Path.cwd()
    data = (dep for dep in entry.deps if not dep.startswith(("stages/", "anneal/")))
    for path in ("stages", "anneal", "commands", "params.yaml", *data):
        link = scratch / path
        if not link.exists():
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(here / path)
    # The stage finds the stored replies of the judge among the rows of its own outputs.
    replies = scratch / ".replies"
    replies.mkdir()
    for path in entry.outs:
        if path.endswith(".jsonl"):
            (replies / path.replace("/", "-")).symlink_to(here / path)
    environment = {key: value for key, value in os.environ.items() if key not in ("DVC_STAGE", "ANNEAL_DRY_RUN")}
    environment |= {"DVC_ROOT": str(scratch), "ANNEAL_REPLAY": str(replies)}
    command = [sys.executable, *shlex.split(entry.cmd)[1:]]
    process = subprocess.run(command, cwd=scratch, env=environment, capture_output=True, text=True, check=False)
    if process.returncode == 0:
        return ""
    return (process.stderr.strip().splitlines() or [f"exit {process.returncode}"])[-1]


def recompute(entry: Entry) -> Finding:
    """Run a stage again and compare its outputs with the stored ones, byte for byte."""
    with tempfile.TemporaryDirectory(prefix="verify-") as folder:
        scratch = Path(folder)
        error = run_again(entry, scratch)
        if error:
            return Finding("DIFFERS", entry.name, f"does not run again: {error}")
        for path in sorted(entry.outs):
            difference = output_difference(path, scratch)
            if difference:
                return Finding("DIFFERS", entry.name, difference)
    # A row that was edited together with the reply it is computed from is equal again; its md5 is not.
    changed = changed_outputs(entry)
    if changed:
        return Finding("DIFFERS", entry.name, changed[0])
    return Finding("equal", entry.name, f"recomputed, {len(entry.outs)} outputs")


def output_difference(path: str, scratch: Path) -> str:
    """The first difference between a stored output and the one in `scratch`; "" for equal bytes."""
    stored = byte_diff.contents(Path(path))
    recomputed = byte_diff.contents(scratch / path)
    if stored.keys() != recomputed.keys():
        name = min(stored.keys() ^ recomputed.keys())
        return f"{path}: {name} is {'not written again' if name in stored else 'new'}"
    for name, content in stored.items():
        if content != recomputed[name]:
            return byte_diff.difference(str(Path(path) / name), content, recomputed[name])
    return ""


def check_stage(entry: Entry) -> Finding:
    """Check one stage of the lock: run it again where it needs no model, else compare its files with their md5."""
    reason = NOT_RECOMPUTED.get(entry.stage)
    if reason is None:
        required = [*entry.outs, *entry.deps]
    else:
        required = [path for path, md5 in entry.outs.items() if not md5.endswith(".dir")]
    absent = sorted(path for path in required if not Path(path).exists())
    if absent:
        return Finding("MISSING", entry.name, f"{absent[0]}; `dvc pull` or `dvc repro` brings it")
    if reason is None:
        finding = recompute(entry)
        stale = stale_input(entry) if finding.result == "DIFFERS" else ""
        return finding._replace(details=f"{finding.details} ({stale})") if stale else finding
    changed = changed_outputs(entry)
    if changed:
        return Finding("DIFFERS", entry.name, changed[0])
    only_folders = all(md5.endswith(".dir") for md5 in entry.outs.values())
    return Finding("no numbers" if only_folders else "as in dvc.lock", entry.name, reason)


def check_votes() -> Finding:
    """Count the votes again, where they are on this machine."""
    absent = sorted(path for path in UNBLIND.deps if not Path(path).exists())
    if absent:
        return Finding("unchecked", UNBLIND.name, f"{absent[0]} is not here; votes stay with whoever asked for them")
    folders = {path: "" for path in UNBLIND_FOLDERS if Path(path).exists()}
    return recompute(dataclasses.replace(UNBLIND, deps=UNBLIND.deps | folders))


def check_band(lock: str) -> Finding:
    """Compute the A/A band again, from the rows of its runs."""
    raw = seed_noise.METRIC.read_bytes()
    stored = json.loads(raw)
    if stored.get("of") != seed_noise.inputs_hash(lock):
        return Finding(
            "unchecked", "seeds", "measured on other inputs than those here, so that no page uses it; make seeds"
        )
    try:
        band = seed_noise.recompute(stored, dvc_lock.parse(lock))
    except UserError as err:
        return Finding("unchecked", "seeds", str(err))
    with tempfile.TemporaryDirectory(prefix="verify-") as folder:
        copy = Path(folder, "seeds.json")
        files.write_json(copy, band)  # the writer rounds numbers and sorts keys, as it did for the stored file
        difference = byte_diff.difference(str(seed_noise.METRIC), raw, copy.read_bytes())
    if difference:
        return Finding("DIFFERS", "seeds", difference)
    return Finding("equal", "seeds", f"recomputed from {len(stored['runs'])} runs")


def findings() -> Iterator[Finding]:
    """Every stage of dvc.lock in its order, then the votes, the band, and metrics that nothing here writes."""
    lock = dvc_lock.text()
    entries = dvc_lock.parse(lock)
    for entry in entries.values():
        finding = check_stage(entry)
        yield finding
        stale = stale_input(entry) if finding.result != "DIFFERS" else ""  # DIFFERS has it in its details
        if stale:
            yield Finding("STALE", entry.name, stale)
    if Path(HUMAN).is_file():
        yield check_votes()
    if seed_noise.METRIC.is_file():
        yield check_band(lock)
    written = {path for entry in entries.values() for path in entry.outs} | {HUMAN, seed_noise.METRIC.as_posix()}
    for path in sorted(path.as_posix() for path in METRICS.rglob("*.json")):
        if path not in written:
            yield Finding("DIFFERS", path, "no stage of dvc.lock writes it; `dvc repro`, or delete it")


def main() -> int:
    parser = argparse.ArgumentParser(
        "verify", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.parse_args()
    counts: Counter[Result] = Counter()
    try:
        for finding in findings():
            counts[finding.result] += 1
            print(f"{finding.result:14}  {finding.name}: {finding.details}", flush=True)
    except UserError as err:
        print(f"verify: {err}", file=sys.stderr)
        return 1
    print(", ".join(f"{n} {result}" for result, n in counts.items()))
    return int(bool(FAILURES & counts.keys()))


if __name__ == "__main__":
    sys.exit(main())

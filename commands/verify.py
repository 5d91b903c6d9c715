"""verify: recomputes every number of the report from stored rows, without a model or a judge.

    make verify

Not a stage of DVC: it checks what the stages wrote. A stage that needs no model runs again in a scratch folder that
holds its deps only, with the judge's stored replies in place of a judge, and must write the same bytes. The files of
every other stage must match their md5 in dvc.lock. The exit code is 1 where a file differs.

reads   dvc.lock, params.yaml, what the stages read and wrote
writes  nothing
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from anneal import files, params
from anneal.errors import UserError
from anneal.history import byte_diff, dvc_lock, seed_noise
from anneal.history.dvc_lock import Entry

# Everything else in dvc.lock runs again: a new stage is no blind spot until somebody writes here why it has to be.
KEPT = {
    "base": "trains the base model",
    "generate": "asks the teacher",
    "clean": "asks the teacher",
    "reject": "asks the teacher",
    "train": "trains",
    "reward": "trains",
    "rollout": "needs the weights",
    "align": "trains",
    "merge": "needs the weights",
    "answer": "needs the weights",
    "accept": "needs the weights",
}
METRICS, HUMAN = Path("reports/metrics"), "reports/metrics/human.json"
PEOPLE = Entry(
    "human",
    "python -m commands.blind unblind",
    dict.fromkeys(("data/human", "reports/blind", "data/test.jsonl"), ""),
    {},
    {HUMAN: ""},
)
BESIDE = ("data/answers", "data/judgements")  # what unblind reads of them depends on the sheet
Result = Literal["equal", "as in dvc.lock", "no numbers", "unchecked", "STALE", "MISSING", "DIFFERS"]
Line = tuple[Result, str, str]  # what was found, of which stage or file, and in words


def locked(entry: Entry) -> list[str]:
    """The files that are not those of dvc.lock; folders hold no numbers, and `dvc status` looks after them."""
    outs = ((path, md5) for path, md5 in entry.outs.items() if md5 and not md5.endswith(".dir"))
    return [f"{path}: not the file that dvc.lock names" for path, md5 in outs if dvc_lock.md5(Path(path)) != md5]


def stale(entry: Entry) -> str:
    """Why the numbers are those of another tree, be they computed right or not; "" where they are of this one."""
    found = dvc_lock.stale(entry, params.load())
    return f" ({found[0]} is not as that run read it; `dvc repro`)" if found else ""


def again(entry: Entry, scratch: Path) -> str:
    """Run a stage in a folder that holds its deps and its stored replies; the last line it said if it failed."""
    here = Path.cwd()
    data = (dep for dep in entry.deps if not dep.startswith(("stages/", "anneal/")))
    for path in ("stages", "anneal", "commands", "params.yaml", *data):
        link = scratch / path
        if not link.exists():
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(here / path)
    replies = scratch / ".replies"
    replies.mkdir()
    for path in (path for path in entry.outs if path.endswith(".jsonl")):
        (replies / path.replace("/", "-")).symlink_to(here / path)
    env = {key: value for key, value in os.environ.items() if key not in ("DVC_STAGE", "ANNEAL_DRY_RUN")}
    env |= {"DVC_ROOT": str(scratch), "ANNEAL_REPLAY": str(replies)}
    words = [sys.executable, *shlex.split(entry.cmd)[1:]]
    done = subprocess.run(words, cwd=scratch, env=env, capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else (done.stderr.strip().splitlines() or [f"exit {done.returncode}"])[-1]


def recomputed(entry: Entry) -> Line:
    """Whether a stage writes the same bytes again."""
    with tempfile.TemporaryDirectory(prefix="verify-") as folder:
        scratch = Path(folder)
        if said := again(entry, scratch):
            return "DIFFERS", entry.name, f"does not run again: {said}"
        for path in sorted(entry.outs):
            here, there = byte_diff.files(Path(path)), byte_diff.files(scratch / path)
            if here.keys() != there.keys():
                name = min(here.keys() ^ there.keys())
                return "DIFFERS", entry.name, f"{path}: {name} is {'not written again' if name in here else 'new'}"
            for name, old in here.items():
                if old != there[name]:
                    return "DIFFERS", entry.name, byte_diff.difference(str(Path(path) / name), old, there[name])
    # Edited in what it was made from as well, a row comes out the same again.
    if wrong := locked(entry):
        return "DIFFERS", entry.name, wrong[0]
    return "equal", entry.name, f"recomputed, {len(entry.outs)} outputs"


def checked(entry: Entry) -> Line:
    """One stage of the lock."""
    kept = KEPT.get(entry.stage)
    wanted = [p for p, md5 in entry.outs.items() if not (kept and md5.endswith(".dir"))] + (
        [] if kept else [*entry.deps]
    )
    if absent := sorted(path for path in wanted if not Path(path).exists()):
        return "MISSING", entry.name, f"{absent[0]}; `dvc pull` or `dvc repro` brings it"
    if not kept:
        found, name, words = recomputed(entry)
        return found, name, words + (stale(entry) if found == "DIFFERS" else "")
    if wrong := locked(entry):
        return "DIFFERS", entry.name, wrong[0]
    folders = all(md5.endswith(".dir") for md5 in entry.outs.values())
    return "no numbers" if folders else "as in dvc.lock", entry.name, kept


def people() -> Line:
    if absent := sorted(path for path in PEOPLE.deps if not Path(path).exists()):
        return "unchecked", PEOPLE.name, f"{absent[0]} is not here; votes stay with whoever asked for them"
    return recomputed(
        Entry(**{**vars(PEOPLE), "deps": PEOPLE.deps | {p: "" for p in BESIDE if Path(p).exists()}}),
    )


def band(lock: str) -> Line:
    """The A/A band again, from the rows of its runs."""
    raw = seed_noise.METRIC.read_bytes()
    stored = json.loads(raw)
    if stored.get("of") != seed_noise.of(lock):
        return "unchecked", "seeds", "of other inputs than those here, so that no page uses it; make seeds"
    try:
        fresh = seed_noise.again(stored, dvc_lock.parse(lock))
    except UserError as err:
        return "unchecked", "seeds", str(err)
    with tempfile.TemporaryDirectory(prefix="verify-") as folder:
        files.write_json(f"{folder}/seeds.json", fresh)  # as it was written: rounded, keys in order
        if said := byte_diff.difference(str(seed_noise.METRIC), raw, Path(folder, "seeds.json").read_bytes()):
            return "DIFFERS", "seeds", said
    return "equal", "seeds", f"recomputed from {len(stored['runs'])} runs"


def lines() -> Iterator[Line]:
    lock = dvc_lock.text()
    entries = dvc_lock.parse(lock)
    for entry in entries.values():
        yield (found := checked(entry))
        if found[0] != "DIFFERS" and (why := stale(entry)):
            yield "STALE", entry.name, why.strip(" ()")
    if Path(HUMAN).is_file():
        yield people()
    if seed_noise.METRIC.is_file():
        yield band(lock)
    written = {path for entry in entries.values() for path in entry.outs} | {HUMAN, seed_noise.METRIC.as_posix()}
    for path in sorted(p.as_posix() for p in METRICS.rglob("*.json")):
        if path not in written:
            yield "DIFFERS", path, "no stage of dvc.lock writes it; `dvc repro`, or delete it"


def main() -> int:
    argparse.ArgumentParser(
        "verify", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    counts: dict[str, int] = {}
    try:
        for found, name, words in lines():
            counts[found] = counts.get(found, 0) + 1
            print(f"{found:14}  {name}: {words}", flush=True)
    except UserError as err:
        print(f"verify: {err}", file=sys.stderr)
        return 1
    print(", ".join(f"{n} {found}" for found, n in counts.items()))
    return int(bool({"DIFFERS", "MISSING", "STALE"} & counts.keys()))


if __name__ == "__main__":
    sys.exit(main())

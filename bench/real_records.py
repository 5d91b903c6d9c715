"""How long a real set of records takes from generate to split, and how much memory: each stage its own process.

    python bench/real_records.py some.jsonl [--text output] [--recipe tang] [--limit 1000] [--rules syllables rhyme]

The stages run in a folder of their own with the recipe's prompts and params. The file's rows become records of one
type, `--text` names the column that is learnt, every other column is a fact; the contract of a type is dropped, since
real texts keep to no length of ours. Only the tokenizer of models/base is used, so any base will do. Prints wall, CPU
and peak memory of every stage with their sum and their maximum, and what came out; exits with 1 over the limits.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from commands import recipe

ROOT = Path(__file__).resolve().parents[1]
STAGES = ("generate", "clean", "filter", "reject", "format", "split")
KIND = "record"


def values(words: argparse.Namespace) -> dict[str, Any]:
    """The recipe's params with the file as its source, and a contract that every text meets."""
    default, own = ((ROOT / path).read_text("utf-8") for path in ("recipes/default.yaml", words.params))
    complete = recipe.compose(default, own, words.params)
    found: dict[str, Any] = YAML(typ="safe", pure=True).load(complete)
    found["types"] = {KIND: words.label}
    found["generate"] |= {
        "source": "records",
        "items": str(Path(words.file).resolve()),
        "required": [],
        "fields": {"id": None, "type": None, "text": words.text, "rejected": None, "turns": None},
    }
    found["rules"] |= {"types": {KIND: {"require": [], "forbid": [], "length": [1, 100_000]}}, "forbid": []}
    found["filter"]["rules"] = [*words.rules, "exact", "near"]
    found["reject"] |= dict.fromkeys(("weak", "exaggerated", "fake"), 0.0)
    found["format"] |= {"tasks": {}, "max_length": words.max_length}
    found["split"] |= {"by": "group", "test": 0.05, "validation": 0.02}
    return found


def checkout(folder: Path, words: argparse.Namespace) -> None:
    """What the stages read: code by PYTHONPATH, and copies of prompts, raw data and base."""
    for name in (f"prompts/{words.recipe}", f"data/raw/{words.recipe}"):
        shutil.copytree(ROOT / name, folder / name)
    made = ROOT / "models/base"
    shipped = sorted((ROOT / "models/shipped").glob("*/config.json"))
    own = ROOT / "models/shipped" / words.recipe
    shutil.copytree(own if own.is_dir() else made if made.is_dir() else shipped[0].parent, folder / "models/base")
    if words.limit:
        with Path(words.file).open("rb") as lines:
            head = [line for line, _ in zip(lines, range(words.limit), strict=False)]
        (folder / "head.jsonl").write_bytes(b"".join(head))
        words.file = folder / "head.jsonl"
    with (folder / "params.yaml").open("w") as out:
        YAML().dump(values(words), out)


def timed(stage: str, folder: Path) -> tuple[float, float, float]:
    """Wall seconds, CPU seconds and peak resident MiB of a stage, which must end well."""
    start = time.monotonic()
    child = subprocess.Popen(
        [sys.executable, "-m", f"stages.{stage}"], cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    _, status, used = os.wait4(child.pid, 0)
    if code := os.waitstatus_to_exitcode(status):
        sys.exit(f"{stage}: exit {code}")
    # The peak counts the largest single process, as DVC's stages are; KiB on Linux.
    return time.monotonic() - start, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024


def told(folder: Path) -> str:
    """What came out, in one line."""
    metrics = {name: json.loads((folder / f"reports/metrics/{name}.json").read_text()) for name in STAGES}
    return (
        f"{metrics['generate']['n']} records, {metrics['filter']['kept']} kept "
        f"(dropped {metrics['filter']['dropped']}), {metrics['format']['rows']} rows, "
        f"split {metrics['split']['records']}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--text", default="output", help="the column that is learnt")
    parser.add_argument("--recipe", default="tang", help="whose prompts and params")
    parser.add_argument("--params", help="a params file, instead of the recipe's")
    parser.add_argument("--label", default="诗", help="what prompts call the texts")
    parser.add_argument("--rules", nargs="*", default=[], help="checks of the filter, beside exact and near")
    parser.add_argument("--max-length", type=int, default=1024)
    parser.add_argument("--limit", type=int, default=0, help="only the first rows")
    parser.add_argument("--seconds", type=float, default=60, help="most wall seconds in all")
    parser.add_argument("--mib", type=float, default=1536, help="most memory of a stage")
    words = parser.parse_args()
    words.params = words.params or f"recipes/{words.recipe}.yaml"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        checkout(folder, words)
        sums = {stage: timed(stage, folder) for stage in STAGES}
        print(f"{'stage':10}{'wall s':>9}{'CPU s':>9}{'peak MiB':>10}")
        for stage, (wall, cpu, peak) in sums.items():
            print(f"{stage:10}{wall:9.1f}{cpu:9.1f}{peak:10.0f}")
        wall, cpu = (sum(row[column] for row in sums.values()) for column in (0, 1))
        peak = max(row[2] for row in sums.values())
        print(f"{'all':10}{wall:9.1f}{cpu:9.1f}{peak:10.0f}   limits {words.seconds:.0f} s, {words.mib:.0f} MiB")
        print(told(folder))
    sys.exit(wall > words.seconds or peak > words.mib)


if __name__ == "__main__":
    main()

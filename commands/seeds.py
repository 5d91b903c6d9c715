"""seeds: measures the A/A band, the spread of the scores of runs that differ in their training seed only.

    make seeds N=3

Not a stage of DVC: it runs the pipeline N times. The working tree is the first run; each further run is a DVC
experiment in its own folder, from `train` to the scores, with `-S train.seed=...`. It is kept under the name
`seeds-<inputs>-<seed>`, so that a second call runs only the missing seeds. The report calls a difference inside the
band noise.

reads   params.yaml, dvc.lock, data/judgements/tuned.jsonl, data/checks.jsonl, those of the experiments
writes  reports/metrics/seeds.json
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from typing import Any

from anneal import files, params
from anneal.errors import UserError
from anneal.history import dvc_lock, revision, seed_noise
from anneal.history.seed_noise import METRIC, Rows

CHANGED = 1  # exit code of a quiet `dvc status`; any other but 0 is an error


def dvc(*words: str) -> int:
    """Run DVC with this Python, what it says on the terminal."""
    child = subprocess.Popen([sys.executable, "-m", "dvc", *words])
    while True:
        try:
            return child.wait()
        except KeyboardInterrupt:  # DVC and its stage hear it too, and tidy up
            continue


def extra(seed: int, lock: str) -> tuple[str, Rows]:
    """Revision and rows of the run with another training seed; it is run where no experiment holds it."""
    of = seed_noise.of(lock)
    name = f"seeds-{of[:8]}-{seed}"
    if name in revision.experiments():
        print(f"seeds: {name} was run before", flush=True)
    else:
        print(f"seeds: {name} runs", flush=True)
        targets = seed_noise.targets(dvc_lock.parse(lock))
        if dvc(
            "exp",
            "run",
            "--temp",
            "--name",
            name,
            "--set-param",
            f"train.seed={seed}",
            "--set-param",
            "align.method=none",
            *targets,
        ):
            raise UserError(
                f"{name}: did not finish, see above; files that are new have to be known to git (git add); "
                "run again to go on"
            )
    found = revision.Old(name)
    made = found.text(str(dvc_lock.LOCK))
    if seed_noise.of(made) != of or seed_noise.seed(dvc_lock.parse(made)) != seed:
        raise UserError(f"{name}: made of other inputs than those here; `dvc exp remove {name}` and run again")
    return found.revision, seed_noise.at(found)


def measure(n: int) -> dict[str, Any]:
    """The band of `n` runs. UserError where the working tree holds other results than its params and code give."""
    lock, values = dvc_lock.text(), params.load()
    entries = dvc_lock.parse(lock)
    targets = seed_noise.targets(entries)
    changed = dvc("status", "--quiet", "--with-deps", *targets)
    if changed == CHANGED:
        raise UserError("the results here are not those of params.yaml and the code as they are; `dvc repro` first")
    if changed:
        raise UserError("`dvc status` failed, see above")
    own = seed_noise.seed(entries)
    runs, rows = {str(own): ""}, {own: seed_noise.here()}
    for seed in range(own + 1, own + n):
        runs[str(seed)], rows[seed] = extra(seed, lock)
    found = seed_noise.numbers(rows, values.get("compare", {}).get("shares", []))
    return {**found, "of": seed_noise.of(lock), "runs": runs}


def main() -> int:
    parser = argparse.ArgumentParser("seeds", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=3, help="runs in all, at least 2 (default: 3)")
    args = parser.parse_args()
    try:
        if args.n < 2:
            raise UserError(f"--n: at least 2, got {args.n}; one run shows no noise")
        found = measure(args.n)
        files.write_json(METRIC, found)
    except UserError as err:
        print(f"seeds: {err}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("seeds: stopped; finished runs are kept, run again to go on", file=sys.stderr)
        return 130
    print("\n".join([*seed_noise.lines(found), str(METRIC)]))
    return 0


if __name__ == "__main__":
    sys.exit(main())

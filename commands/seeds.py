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

from anneal import files, params
from anneal.errors import UserError
from anneal.history import dvc_lock, revision, seed_noise
from anneal.history.seed_noise import METRIC, RunRows
from anneal.records import Metrics

CHANGED = 1  # exit code of `dvc status --quiet` where something changed; any other but 0 is an error
INTERRUPTED = 130  # exit code of a command that Ctrl-C ended, by the convention of shells: 128 + SIGINT


def dvc(*arguments: str) -> int:
    """Run DVC with this Python, its output on the terminal; the exit code."""
    process = subprocess.Popen([sys.executable, "-m", "dvc", *arguments])
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:  # the terminal sends Ctrl-C to DVC and its stage too; wait until they have ended
            continue


def run_seed(seed: int, lock: str) -> tuple[str, RunRows]:
    """Commit and rows of the run with another training seed. Runs it unless an experiment of its name exists.

    UserError where the run fails, or where the experiment has other inputs than the working tree.
    """
    inputs = seed_noise.inputs_hash(lock)
    name = f"seeds-{inputs[:8]}-{seed}"
    if name in revision.experiments():
        print(f"seeds: {name} was run before", flush=True)
    else:
        print(f"seeds: {name} runs", flush=True)
        run_experiment(name, seed, seed_noise.targets(dvc_lock.parse(lock)))
    experiment = revision.Revision(name)
    experiment_lock = experiment.text(str(dvc_lock.LOCK))
    experiment_seed = seed_noise.training_seed(dvc_lock.parse(experiment_lock))
    if seed_noise.inputs_hash(experiment_lock) != inputs or experiment_seed != seed:
        raise UserError(f"{name}: has other inputs than the working tree; `dvc exp remove {name}` and run again")
    return experiment.commit, seed_noise.revision_rows(experiment)


def run_experiment(name: str, seed: int, targets: list[str]) -> None:
    """Run `targets` as a DVC experiment in a temporary folder. UserError where it does not finish."""
    # A band is of the tuned model: without preference learning no aligned model is trained for it.
    overrides = (f"train.seed={seed}", "align.method=none")
    arguments = [word for override in overrides for word in ("--set-param", override)]
    if dvc("exp", "run", "--temp", "--name", name, *arguments, *targets):
        raise UserError(
            f"{name}: did not finish, see above; DVC copies only files that git tracks, so `git add` new ones; "
            "run again to go on"
        )


def measure(n: int) -> Metrics:
    """The metrics file of the band over `n` runs. UserError where the results here are not up to date."""
    lock = dvc_lock.text()
    values = params.load()
    entries = dvc_lock.parse(lock)
    targets = seed_noise.targets(entries)
    status = dvc("status", "--quiet", "--with-deps", *targets)
    if status == CHANGED:
        raise UserError("the results here are not those of params.yaml and the code as they are; `dvc repro` first")
    if status:
        raise UserError("`dvc status` failed, see above")
    first = seed_noise.training_seed(entries)
    commits = {str(first): ""}  # "" stands for the working tree
    rows = {first: seed_noise.working_tree_rows()}
    for seed in range(first + 1, first + n):
        commits[str(seed)], rows[seed] = run_seed(seed, lock)
    shares = values.get("compare", {}).get("shares", [])
    return {**seed_noise.bands(rows, shares), "of": seed_noise.inputs_hash(lock), "runs": commits}


def main() -> int:
    parser = argparse.ArgumentParser("seeds", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=3, help="runs in all, at least 2 (default: 3)")
    args = parser.parse_args()
    try:
        if args.n < 2:
            raise UserError(f"--n: at least 2, got {args.n}; one run shows no noise")
        metrics = measure(args.n)
        files.write_json(METRIC, metrics)
    except UserError as err:
        print(f"seeds: {err}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("seeds: stopped; finished runs are kept, run again to go on", file=sys.stderr)
        return INTERRUPTED
    print("\n".join([*seed_noise.summary_lines(metrics), str(METRIC)]))
    return 0


if __name__ == "__main__":
    sys.exit(main())

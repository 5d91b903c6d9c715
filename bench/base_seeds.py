"""Which seed makes the best tiny base? Trains several at once, each on its own process, and prints their probes.

    python -m bench.base_seeds 42 43 44

Every seed becomes a whole model folder under .work/bench/base; the choice is written down as `base.seed`, after which
`dvc repro base` makes the same model.
"""

from __future__ import annotations

import argparse
import os
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from anneal import files, params
from anneal.tiny.architecture import Base
from stages import base as stage


def build(values: dict[str, object], folder: Path) -> dict[str, float]:
    """Build one seed into `folder` and return its probes."""
    probes: dict[str, float] = {}

    def fill(temporary: Path) -> None:
        probes.update(stage.build(Base.model_validate(values), temporary))

    files.write_folder(folder, fill)
    return probes


def table(scores: dict[int, dict[str, float]]) -> str:
    """Seeds as rows, probes as columns, their mean last; the best seed first."""
    names = list(next(iter(scores.values())))
    mean = {seed: sum(row.values()) / len(row) for seed, row in scores.items()}
    lines = [" | ".join(["seed", *names, "mean"])]
    for seed in sorted(scores, key=lambda seed: -mean[seed]):
        lines.append(" | ".join([str(seed), *(f"{scores[seed][name]:.2f}" for name in names), f"{mean[seed]:.3f}"]))
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("seeds", type=int, nargs="+")
    parser.add_argument("--at-once", type=int, default=os.cpu_count(), help="processes side by side")
    args = parser.parse_args()
    values = params.load()["base"]
    # A forked child would inherit a thread pool of torch that is already running.
    with ProcessPoolExecutor(args.at_once, mp_context=get_context("spawn")) as pool:
        futures = {
            seed: pool.submit(build, {**values, "seed": seed}, files.work("bench/base") / str(seed))
            for seed in args.seeds
        }
        print(table({seed: future.result() for seed, future in futures.items()}))


if __name__ == "__main__":
    main()

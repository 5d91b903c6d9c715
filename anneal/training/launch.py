"""Training in several processes: a stage starts a launcher, which runs the stage once in every process.

The first process holds the stage's lock and waits; the launcher's processes do the work and find each other by the
environment variables that it sets.
"""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from anneal import privacy
from anneal.errors import UserError
from anneal.models import loading
from anneal.params import Privacy, load, pick


def world_size() -> int:
    """The number of processes of the launcher that started this one; 0 without a launcher."""
    return int(os.environ["WORLD_SIZE"]) if "LOCAL_RANK" in os.environ else 0


def command(processes: int, kind: str) -> list[str]:
    """Module and arguments of the launcher for a `kind` of device: cuda or cpu.

    Without a GPU accelerate starts a single process, so that CPU processes come from torchrun.
    """
    if kind != "cuda":
        return [
            "torch.distributed.run",
            "--nproc_per_node",
            str(processes),
            "--master_addr",
            "127.0.0.1",
            "--master_port",
            "0",
            "--rdzv_backend",
            "c10d",
            "--rdzv_endpoint",
            "127.0.0.1:0",
        ]
    return [
        "accelerate.commands.launch",
        "--multi_gpu",
        "--num_processes",
        str(processes),
        "--num_machines",
        "1",
        "--mixed_precision",
        "no",
        "--dynamo_backend",
        "no",
        "--main_process_port",
        "0",
    ]


def check(processes: int, kind: str, cards: int) -> None:
    """Raise UserError for more processes than the device allows; `cards` is the number of CUDA GPUs."""
    if kind == "mps" and processes > 1:
        raise UserError(f"params.yaml: processes: {processes}, but this device is mps; set 1")
    if kind == "cuda" and processes > cards:
        raise UserError(f"params.yaml: processes: {processes}, but there are {cards} CUDA cards here; lower it")


def distribute(main: Callable[..., None], processes: int) -> bool:
    """Run `main` of a stage in `processes` processes and return True; False if this process has to do the work itself.

    A process of a launcher takes the GPU of its local rank. Raises UserError if one of them fails.
    """
    kind = loading.device().partition(":")[0]
    if world_size():
        if kind == "cuda":
            os.environ["ANNEAL_DEVICE"] = f"cuda:{os.environ['LOCAL_RANK']}"
        return False
    if processes == 1:
        return False
    import torch

    check(processes, kind, torch.cuda.device_count())
    spec = sys.modules[main.__module__].__spec__
    name = spec.name if spec else main.__module__
    env = {**os.environ, "ACCELERATE_USE_CPU": str(kind == "cpu").lower()}
    child = subprocess.Popen([sys.executable, "-m", *command(processes, kind), "-m", __name__, name], env=env)
    try:
        code = child.wait()
    except BaseException:  # SIGTERM and Ctrl-C reach this process alone; the launcher ends its own processes
        child.terminate()
        child.wait()
        raise
    if code:
        raise UserError(f"one of {processes} processes ended with {code}; its message is above")
    return True


def work(name: str) -> None:
    """Run a stage in a process of the launcher, without the stage's lock, which the first process holds."""
    main: Any = importlib.import_module(name).main
    values = load()
    privacy.guard(Privacy.model_validate(values.get("privacy")).local_only, UserError)
    main(**pick(main, values=values))


if __name__ == "__main__":
    try:
        work(sys.argv[1])
    except UserError as err:
        print(f"{sys.argv[1].rpartition('.')[2]}: {err}", file=sys.stderr)
        sys.exit(1)

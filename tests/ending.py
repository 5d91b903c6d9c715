"""Runs in a process of their own that end half-way, as a scheduler (SIGTERM) or the kernel (SIGKILL) ends them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from .conftest import ROOT

_AT_STEP = """
import os, signal
from anneal.training import loop
real = loop.watch
def watch(*words):
    made = real(*words)
    log = made.on_log
    def on_log(args, state, control, logs=None, **rest):
        log(args, state, control, logs=logs, **rest)
        if state.global_step == {step}:
            os.kill(os.getpid(), signal.{name})
    made.on_log = on_log
    return made
loop.watch = watch
from stages import {stage}
from anneal.stage import run
run({stage}.main)
"""
_AFTER_WRITES = """
import os, signal
from anneal import files
{imports}
write, calls = files.write, []
def dying(path, records):
    write(path, records)
    calls.append(path)
    if len(calls) == {count}:
        os.kill(os.getpid(), signal.SIGKILL)
files.write = dying
{call}
"""


def _run(code: str, folder: Path, **changes: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **changes}
    return subprocess.run([sys.executable, "-c", code], cwd=folder, env=env, capture_output=True, text=True)


def at_step(folder: Path, stage: str, step: int, name: str = "SIGKILL") -> subprocess.CompletedProcess[str]:
    """A training stage by its params.yaml, ended as soon as it has logged a step; sets come in another order."""
    code = _AT_STEP.format(stage=stage, step=step, name=name)
    return _run(code, folder, PYTHONHASHSEED=str(step), ANNEAL_DEVICE="cpu")


def after_writes(folder: Path, count: int, imports: str, call: str) -> subprocess.CompletedProcess[str]:
    """A call, killed after so many files of records."""
    return _run(_AFTER_WRITES.format(count=count, imports=imports, call=call), folder)

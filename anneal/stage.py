"""Runs a stage: arguments, params, lock, one line for an error, exit code, wall time."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import inspect
import json
import os
import resource
import signal
import sys
import time
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from pydantic import ValidationError

from anneal import privacy
from anneal.errors import UserError
from anneal.files import root, work
from anneal.params import PARAMS, Privacy, explain, load, pick

# Telemetry is on by default in the hub client, TRL and DVC; private texts must not leave the machine.
_QUIET = {
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
    "DISABLE_TELEMETRY": "1",
    "DVC_NO_ANALYTICS": "1",
    "TRL_EXPERIMENTAL_SILENCE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "WANDB_DISABLED": "true",
    # Idle threads of torch spin by default: on a busy machine one batch then took nine times its CPU seconds.
    "OMP_WAIT_POLICY": "passive",
}


def _arguments(main: Callable[..., None], words: list[str]) -> list[str]:
    """The command line arguments, one for each positional-only parameter of `main` and a value of its Literal."""
    hints = typing.get_type_hints(main)
    parameters = inspect.signature(main).parameters.values()
    names = [parameter.name for parameter in parameters if parameter.kind is inspect.Parameter.POSITIONAL_ONLY]
    if len(words) != len(names):
        raise UserError(f"expected {len(names)} argument(s) {names}, got {words}; see --help")
    for name, word in zip(names, words, strict=True):
        choices = typing.get_args(hints[name])
        if word not in choices:
            raise UserError(f"{name}: one of {', '.join(choices)}, got {word!r}")
    return words


def _guard(values: dict[str, Any], path: Path = PARAMS) -> None:
    """Apply section `privacy`. It holds for every stage and changes no result, so that no stage declares it."""
    try:
        local_only = Privacy.model_validate(values.get("privacy")).local_only
    except ValidationError as err:
        raise UserError(explain(path, "privacy", Privacy, err)) from None
    privacy.guard(local_only, UserError)
    if local_only:
        privacy.refuse_remote(root(), UserError)


def _lock(stage: str) -> Any:
    """Lock the stage in this checkout; UserError if it is running: after kill -9 of dvc its child still writes outs."""
    # Checkouts of `dvc exp run --temp` share .work, and each may run the stage once.
    here = hashlib.sha256(str(Path.cwd()).encode()).hexdigest()[:12]
    handle = (work("locks") / f"{stage}-{here}").open("a+")
    try:
        # The kernel releases this lock when the process ends, however it ends.
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        handle.seek(0)
        raise UserError(f"{stage} is still running here as process {handle.read()}; wait for it or stop it") from None
    handle.truncate(0)
    handle.write(str(os.getpid()))
    handle.flush()
    return handle


def _stop(signum: int, _frame: Any) -> NoReturn:
    # A stage stopped early must exit non-zero: after exit 0 DVC stores its outs as good.
    raise KeyboardInterrupt(signal.Signals(signum).name)


def _log_run(name: str, seconds: float, code: int) -> None:
    """Append time, memory and exit code of this process to .work/times/stages.jsonl."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # MiB; Linux counts in KiB
    row = {
        "stage": name,
        "seconds": round(seconds, 1),
        "peak_mb": round(peak),
        "exit": code,
        "outbound": privacy.outbound(),
    }
    with (work("times") / "stages.jsonl").open("a") as log:
        log.write(json.dumps(row) + "\n")


def run(main: Callable[..., None]) -> None:
    """Run a stage and exit: 0 done, 1 failed, 130 stopped.

    `--help` prints the docstring of its module. Wall time, peak memory and the number of connections to other machines
    go to .work/times/stages.jsonl, which DVC does not track.
    """
    from dotenv import load_dotenv

    module = sys.modules[main.__module__]
    stage = Path(str(module.__file__)).stem
    if {"-h", "--help"} & set(sys.argv[1:]):
        print((module.__doc__ or "").strip())
        return
    os.environ.update({key: os.environ.get(key, value) for key, value in _QUIET.items()})
    load_dotenv(root() / ".env")  # a variable of the environment wins over the file
    signal.signal(signal.SIGTERM, _stop)
    start = time.monotonic()
    code = 1
    try:
        words = _arguments(main, sys.argv[1:])
        values = load()
        _guard(values)
        picked = pick(main, values=values)
        lock = _lock("-".join([stage, *words]))
        main(*words, **picked)
        lock.close()  # held until here: closing the file releases the lock
        code = 0
    except UserError as err:
        print(f"{stage}: {err}", file=sys.stderr)
    except KeyboardInterrupt:
        code = 130
        print(f"{stage}: stopped; paid replies are kept, run again to go on", file=sys.stderr)
    except OSError as err:
        if err.errno != errno.ENOSPC:
            raise
        print(f"{stage}: the disk is full ({err.filename or 'writing'}); make room and run again", file=sys.stderr)
    _log_run(" ".join([stage, *sys.argv[1:]]), time.monotonic() - start, code)
    sys.exit(code)

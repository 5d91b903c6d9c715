"""How a stage starts: arguments, params, lock, one line for an error, exit code, wall time."""

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
from anneal.params import PARAMS, Privacy, _explain, load, pick

# Telemetry is on by default in the hub client, TRL and DVC; a private writing style must not leave the machine.
_QUIET = {
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
    "DISABLE_TELEMETRY": "1",
    "DVC_NO_ANALYTICS": "1",
    "TRL_EXPERIMENTAL_SILENCE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "WANDB_DISABLED": "true",
    # Idle threads of torch spin by default: on a busy machine that made one batch cost nine times its CPU seconds.
    "OMP_WAIT_POLICY": "passive",
}


def _arguments(main: Callable[..., None], words: list[str]) -> list[str]:
    """The positional-only parameters of `main`, each one of its Literal's values."""
    hints = typing.get_type_hints(main)
    wanted = [n for n, p in inspect.signature(main).parameters.items() if p.kind is inspect.Parameter.POSITIONAL_ONLY]
    if len(words) != len(wanted):
        raise UserError(f"expected {len(wanted)} argument(s) {wanted}, got {words}; see --help")
    for name, word in zip(wanted, words, strict=True):
        if word not in typing.get_args(hints[name]):
            raise UserError(f"{name}: one of {', '.join(typing.get_args(hints[name]))}, got {word!r}")
    return words


def _guard(values: dict[str, Any], path: Path = PARAMS) -> None:
    """Section `privacy` binds every stage and changes no result, so that no stage declares it."""
    try:
        local_only = Privacy.model_validate(values.get("privacy")).local_only
    except ValidationError as err:
        raise UserError(_explain(path, "privacy", Privacy, err)) from None
    privacy.guard(local_only, UserError)
    if local_only:
        privacy.refuse_remote(root(), UserError)


def _lock(stage: str) -> Any:
    """One writer per checkout and stage: after kill -9 of dvc its child runs on and would write the same outs."""
    here = hashlib.sha256(str(Path.cwd()).encode()).hexdigest()[:12]
    handle = (work("locks") / f"{stage}-{here}").open("a+")
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        handle.seek(0)
        raise UserError(f"{stage} is still running here as process {handle.read()}; wait for it or stop it") from None
    handle.truncate(0)
    handle.write(str(os.getpid()))
    handle.flush()
    return handle


def _stop(signum: int, _frame: Any) -> NoReturn:
    # A stage stopped early must exit non-zero: DVC stores the outs of an exit 0 as good.
    raise KeyboardInterrupt(signal.Signals(signum).name)


def run(main: Callable[..., None]) -> None:
    """Run a stage: `--help`, params, lock, one line for an error, the wall time to an untracked file."""
    from dotenv import load_dotenv

    module = sys.modules[main.__module__]
    stage = Path(str(module.__file__)).stem
    if {"-h", "--help"} & set(sys.argv[1:]):
        print((module.__doc__ or "").strip())
        return
    os.environ.update({key: os.environ.get(key, value) for key, value in _QUIET.items()})
    load_dotenv(root() / ".env")
    signal.signal(signal.SIGTERM, _stop)
    start, code = time.monotonic(), 1
    try:
        words = _arguments(main, sys.argv[1:])
        values = load()
        _guard(values)
        picked = pick(main, values=values)
        lock = _lock("-".join([stage, *words]))
        main(*words, **picked)
        lock.close()
        code = 0
    except UserError as err:
        print(f"{stage}: {err}", file=sys.stderr)
    except KeyboardInterrupt:
        code = 130
        print(f"{stage}: stopped; what was paid for is kept, run again to go on", file=sys.stderr)
    except OSError as err:
        if err.errno != errno.ENOSPC:
            raise
        print(f"{stage}: the disk is full ({err.filename or 'writing'}); make room and run again", file=sys.stderr)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # KiB on Linux
    name, seconds = " ".join([stage, *sys.argv[1:]]), round(time.monotonic() - start, 1)
    row = {"stage": name, "seconds": seconds, "peak_mb": round(peak), "exit": code, "outbound": privacy.outbound()}
    with (work("times") / "stages.jsonl").open("a") as log:
        log.write(json.dumps(row) + "\n")
    sys.exit(code)

"""Params, refusals and the way a stage starts.

The signature of a stage's `main` is its declaration: positional-only parameters come from the command line, every
other parameter is a key of params.yaml. A stage never sees a key that it does not declare, so that an undeclared
input, which DVC would answer with a stale result, cannot happen.
"""

from __future__ import annotations

import difflib
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
from typing import Annotated, Any, NoReturn

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from anneal import privacy

PARAMS = Path("params.yaml")
Fraction = Annotated[float, Field(gt=0, lt=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]

# Telemetry is on by default in the hub client, TRL and DVC; a private writing style must not leave the machine.
_QUIET = {
    "HF_HUB_DISABLE_TELEMETRY": "1", "DO_NOT_TRACK": "1", "DISABLE_TELEMETRY": "1", "DVC_NO_ANALYTICS": "1",
    "TRL_EXPERIMENTAL_SILENCE": "1", "TOKENIZERS_PARALLELISM": "false", "WANDB_DISABLED": "true",
    # Idle threads of torch spin by default: on a busy machine that made one batch cost nine times its CPU seconds.
    "OMP_WAIT_POLICY": "passive",
}  # fmt: skip


class Section(BaseModel):
    """A section of params.yaml: frozen, typed, and closed to unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Privacy(Section):
    """`local_only`: no stage may connect to another machine."""

    local_only: bool


class Refusal(Exception):
    """Something the user can put right: one line that says where, what and what to do. The stage exits with 1."""


def root() -> Path:
    """The main checkout, also inside `dvc exp run --temp` (DVC sets DVC_ROOT to it)."""
    return Path(os.environ.get("DVC_ROOT", ".")).resolve()


def work(name: str) -> Path:
    """A folder for partial work that outlives a killed stage; DVC deletes outs before a stage runs, but not this."""
    folder = root() / ".work" / name
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def load(path: Path = PARAMS) -> dict[str, Any]:
    """Read a params file as DVC does (YAML 1.2); PyYAML would read the `1e-05` that `-S` writes as a string."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError

    try:
        values = YAML(typ="safe", pure=True).load(path.read_text("utf-8"))
    except FileNotFoundError:
        raise Refusal(f"{path}: no such file; run from the top of the checkout, or `make recipe NAME=...`") from None
    except MarkedYAMLError as err:
        place = f"{path}:{err.problem_mark.line + 1}:{err.problem_mark.column + 1}" if err.problem_mark else str(path)
        raise Refusal(f"{place}: not YAML: {err.problem}") from None
    if not isinstance(values, dict):
        raise Refusal(f"{path}: expected keys and values")
    return values


def _explain(path: Path, key: str, kind: Any, err: ValidationError) -> str:
    """One line for the first error of a section: file, key, bound, value."""
    # A misspelt key is both unknown and missing; what was written there helps more.
    first = min(err.errors(), key=lambda found: found["type"] != "extra_forbidden")
    place = ".".join([key, *(str(part) for part in first["loc"])])
    if first["type"] == "extra_forbidden":
        known = list(kind.model_fields) if isinstance(kind, type) and issubclass(kind, BaseModel) else []
        near = difflib.get_close_matches(str(first["loc"][-1]), known, 1)
        return f"{path}: {place}: unknown key; " + (
            f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}"
        )
    if first["type"] == "missing":
        return f"{path}: {place}: missing; every key of a section is written down"
    return f"{path}: {place}: {first['msg']}, got {first['input']!r}"


def pick(main: Callable[..., None], path: Path = PARAMS, values: dict[str, Any] | None = None) -> dict[str, Any]:
    """The params that `main` declares, checked against its types; `values` are those of the file, once it is read."""
    hints = typing.get_type_hints(main, include_extras=True)
    values, picked = load(path) if values is None else values, {}
    for name, parameter in inspect.signature(main).parameters.items():
        if parameter.kind is inspect.Parameter.POSITIONAL_ONLY:
            continue
        if name not in values:
            raise Refusal(f"{path}: {name}: missing; see recipes/ for a complete file")
        try:
            picked[name] = TypeAdapter(hints[name]).validate_python(values[name])
        except ValidationError as err:
            raise Refusal(_explain(path, name, hints[name], err)) from None
    return picked


def _arguments(main: Callable[..., None], words: list[str]) -> list[str]:
    """The positional-only parameters of `main`, each one of its Literal's values."""
    hints = typing.get_type_hints(main)
    wanted = [n for n, p in inspect.signature(main).parameters.items() if p.kind is inspect.Parameter.POSITIONAL_ONLY]
    if len(words) != len(wanted):
        raise Refusal(f"expected {len(wanted)} argument(s) {wanted}, got {words}; see --help")
    for name, word in zip(wanted, words, strict=True):
        if word not in typing.get_args(hints[name]):
            raise Refusal(f"{name}: one of {', '.join(typing.get_args(hints[name]))}, got {word!r}")
    return words


def _guard(values: dict[str, Any], path: Path = PARAMS) -> None:
    """Section `privacy` binds every stage and changes no result, so that no stage declares it."""
    try:
        local_only = Privacy.model_validate(values.get("privacy")).local_only
    except ValidationError as err:
        raise Refusal(_explain(path, "privacy", Privacy, err)) from None
    privacy.guard(local_only, Refusal)
    if local_only:
        privacy.refuse_remote(root(), Refusal)


def _lock(stage: str) -> Any:
    """One writer per checkout and stage: after kill -9 of dvc its child runs on and would write the same outs."""
    here = hashlib.sha256(str(Path.cwd()).encode()).hexdigest()[:12]
    handle = (work("locks") / f"{stage}-{here}").open("a+")
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        handle.seek(0)
        raise Refusal(f"{stage} is still running here as process {handle.read()}; wait for it or stop it") from None
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
    except Refusal as err:
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

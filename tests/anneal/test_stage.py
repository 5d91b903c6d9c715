"""A stage as a process: exit code, one line for an error, lock and log."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

STAGE = '''"""toy: a stage."""
import os, signal, sys, time
from typing import Literal
from pathlib import Path
from anneal.errors import UserError
from anneal.stage import run

def main(how: Literal["well", "refuse", "full", "wait", "crash"], /, seed: int) -> None:
    if how == "refuse":
        raise UserError("params.yaml: seed: 13, too unlucky, take another")
    if how == "full":
        raise OSError(28, "No space left on device", "data/x.jsonl")
    if how == "crash":
        raise OSError(5, "broken")
    if how == "wait":
        print("ready", flush=True)
        time.sleep(30)

if __name__ == "__main__":
    run(main)
'''


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    (tmp_path / "toy.py").write_text(STAGE)
    (tmp_path / "params.yaml").write_text("seed: 13\nprivacy:\n  local_only: false\n")
    return tmp_path


def start(folder: Path, *words: str) -> subprocess.Popen[str]:
    env = {"PYTHONPATH": str(Path(__file__).parents[2]), "PATH": "/usr/bin:/bin", "DVC_ROOT": str(folder)}
    command = [sys.executable, "toy.py", *words]
    return subprocess.Popen(command, cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize(
    ("word", "code", "line"),
    [
        ("well", 0, ""),
        ("refuse", 1, "toy: params.yaml: seed: 13, too unlucky, take another\n"),
        ("full", 1, "toy: the disk is full (data/x.jsonl); make room and run again\n"),
        ("luck", 1, "toy: how: one of well, refuse, full, wait, crash, got 'luck'\n"),
    ],
)
def test_every_end_has_its_exit_code_and_line(toy: Path, word: str, code: int, line: str) -> None:
    process = start(toy, word)
    _, stderr = process.communicate(timeout=20)
    assert (process.returncode, stderr) == (code, line)


def test_help_shows_the_docstring_without_params(toy: Path) -> None:
    (toy / "params.yaml").unlink()
    process = start(toy, "--help")
    assert process.communicate(timeout=20)[0] == "toy: a stage.\n"


def test_sigterm_exits_non_zero_and_a_second_writer_is_refused(toy: Path) -> None:
    first = start(toy, "wait")
    assert first.stdout is not None
    assert first.stdout.readline() == "ready\n"
    second = start(toy, "wait")
    assert f"still running here as process {first.pid}" in second.communicate(timeout=20)[1]
    assert second.returncode == 1
    first.terminate()
    assert "run again to go on" in first.communicate(timeout=20)[1]
    assert first.returncode == 130


def test_a_killed_stage_leaves_no_lock_behind(toy: Path) -> None:
    first = start(toy, "wait")
    assert first.stdout is not None
    first.stdout.readline()
    first.kill()
    first.communicate(timeout=20)
    second = start(toy, "well")
    second.communicate(timeout=20)
    assert second.returncode == 0


def test_every_run_is_logged_with_time_memory_and_exit_code(toy: Path) -> None:
    for word in ("well", "refuse"):
        start(toy, word).communicate(timeout=20)
    rows = [json.loads(line) for line in (toy / ".work/times/stages.jsonl").read_text().splitlines()]
    assert [(row["stage"], row["exit"], row["outbound"]) for row in rows] == [("toy well", 0, 0), ("toy refuse", 1, 0)]
    assert all(row["seconds"] >= 0 and row["peak_mb"] > 0 for row in rows)

"""params: what a stage sees, and the one line a mistake gets."""

import subprocess
import sys
from pathlib import Path
from typing import Literal

import pytest

from anneal import params
from anneal.errors import UserError
from anneal.params import Count, Fraction, Section


class Lora(Section):
    r: Count


class Train(Section):
    lr: float
    lora: Lora
    by: Literal["group", "time"]
    hold: Fraction


def main(system: Literal["base", "tuned"], /, seed: int, train: Train) -> None:
    raise AssertionError("never called")


GOOD = "seed: 1\ntrain:\n  lr: 0.1\n  lora:\n    r: 4\n  by: group\n  hold: 0.1\nother: 9\n"


def picked(tmp_path: Path, text: str) -> dict:
    (tmp_path / "params.yaml").write_text(text)
    return params.pick(main, tmp_path / "params.yaml")


def test_a_stage_sees_what_it_declares_and_nothing_else(tmp_path: Path) -> None:
    assert set(picked(tmp_path, GOOD)) == {"seed", "train"}


def test_the_float_that_dvc_writes_is_a_float(tmp_path: Path) -> None:
    # `-S train.lr=1e-5` writes 1e-05, which PyYAML reads as a string.
    assert picked(tmp_path, GOOD.replace("0.1\n  lora", "1e-05\n  lora"))["train"].lr == 1e-5


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("lr: 0.1", "lr: abc", ["train.lr", "'abc'"]),
        ("lr: 0.1", "lrr: 0.1", ["train.lrr", "unknown key", "did you mean lr?"]),
        ("    r: 4", "    r: 4\n    rr: 5", ["train.lora.rr", "unknown key"]),
        ("r: 4", "r: 0", ["train.lora.r", "greater than or equal to 1", "0"]),
        ("r: 4", "r: '4'", ["train.lora.r", "'4'"]),
        ("by: group", "by: luck", ["train.by", "'group'", "'luck'"]),
        ("hold: 0.1", "hold: 1.0", ["train.hold", "less than 1"]),
        ("seed: 1\n", "", ["seed", "missing"]),
        ("seed: 1", "seed: [1", ["params.yaml:", "not YAML"]),
    ],
)
def test_a_mistake_gets_one_line_with_its_place(tmp_path: Path, old: str, new: str, words: list[str]) -> None:
    assert old in GOOD
    with pytest.raises(UserError) as caught:
        picked(tmp_path, GOOD.replace(old, new, 1))
    line = str(caught.value)
    assert "\n" not in line
    assert all(word in line for word in ["params.yaml", *words]), line


def test_a_missing_file_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="make recipe"):
        params.load(tmp_path / "none.yaml")


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
    ("word", "code", "said"),
    [
        ("well", 0, ""),
        ("refuse", 1, "toy: params.yaml: seed: 13, too unlucky, take another\n"),
        ("full", 1, "toy: the disk is full (data/x.jsonl); make room and run again\n"),
        ("luck", 1, "toy: how: one of well, refuse, full, wait, crash, got 'luck'\n"),
    ],
)
def test_the_exit_code_and_the_line(toy: Path, word: str, code: int, said: str) -> None:
    process = start(toy, word)
    _, printed = process.communicate(timeout=20)
    assert (process.returncode, printed) == (code, said)


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

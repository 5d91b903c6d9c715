"""`make why` lists the inputs of a stage that differ between two runs, and nothing that is equal."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from anneal.history.dvc_lock import Entry
from commands import why

LOCK = """schema: '2.0'
stages:
  judge@golden:
    cmd: python -m stages.judge golden
    deps:
    - path: prompts/brand/judge
      md5: {prompt}.dir
    - path: data/test.jsonl
      md5: d1
    params:
      params.yaml:
        judge:
          model: {model}
          repeats:
            times: 3
        seed: 42
    outs:
    - path: data/judgements/golden.jsonl
      md5: {out}
"""


def git(*words: str) -> None:
    who = ["-c", "user.name=test", "-c", "user.email=test@localhost"]
    subprocess.run(["git", *who, *words], check=True, capture_output=True)


@pytest.fixture
def checkout(toy: Path) -> Path:
    """A repository of git and DVC with one committed lock and another one in the working tree."""
    git("init", "--quiet")
    subprocess.run([sys.executable, "-m", "dvc", "init", "--quiet"], check=True, capture_output=True)
    Path("dvc.lock").write_text(LOCK.format(prompt="p1", model="offline-rules-1", out="o1"))
    git("add", ".")
    git("commit", "--quiet", "-m", "first")
    Path("dvc.lock").write_text(LOCK.format(prompt="p2", model="other", out="o2"))
    return toy


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["why", *words])
    return why.main()


def test_every_changed_input_is_one_line(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "judge@golden", "HEAD") == 0
    assert capsys.readouterr().out.splitlines() == [
        "dep prompts/brand/judge: changed",
        'param judge.model: "offline-rules-1" -> "other"',
        "out data/judgements/golden.jsonl: changed",
    ]


def test_equal_runs_differ_in_nothing(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    git("checkout", "--quiet", "dvc.lock")
    assert run(monkeypatch, "judge@golden") == 0
    assert capsys.readouterr().out.startswith("judge@golden: nothing differs from dvc.lock at HEAD (")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("judge@tuned", "HEAD"), "why: dvc.lock at HEAD ("),
        (("judge@golden", "nothing"), "why: nothing: "),
    ],
)
def test_an_unknown_stage_or_revision_is_one_line(
    checkout: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: tuple[str, str],
    message: str,
) -> None:
    assert run(monkeypatch, *words) == 1
    error = capsys.readouterr().err
    assert error.startswith(message)
    assert error.count("\n") == 1


def test_added_and_removed_inputs_are_named() -> None:
    before = Entry("a", "cmd", {"x": "1", "y": "1"}, {"s": {"k": 1}}, {})
    after = Entry("a", "cmd", {"x": "1", "z": "1"}, {"s": {"k": 1, "l": [2]}}, {})
    assert why.reasons(before, after) == ["dep y: removed", "dep z: added", "param s.l: added"]

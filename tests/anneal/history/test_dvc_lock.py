"""dvc.lock as data."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from anneal.errors import UserError
from anneal.history import dvc_lock

LOCK = """schema: '2.0'
stages:
  judge@tuned:
    cmd: python -m stages.judge tuned
    deps:
    - path: data/raw/rules
      hash: md5
      md5: aa.dir
    - path: stages/judge.py
      hash: md5
      md5: bb
    params:
      params.yaml:
        judge:
          temperature: 1e-05
    outs:
    - path: data/judgements/tuned.jsonl
      hash: md5
      md5: cc
  base:
    cmd: python -m stages.base
"""


def test_a_lock_is_stages_with_what_they_read_watched_and_wrote() -> None:
    found = dvc_lock.parse(LOCK)
    assert list(found) == ["judge@tuned", "base"]
    judge = found["judge@tuned"]
    assert (judge.stage, judge.cmd) == ("judge", "python -m stages.judge tuned")
    assert judge.deps == {"data/raw/rules": "aa.dir", "stages/judge.py": "bb"}
    assert judge.outs == {"data/judgements/tuned.jsonl": "cc"}
    assert judge.params == {"judge": {"temperature": 1e-05}}
    assert (found["base"].deps, found["base"].outs, found["base"].params) == ({}, {}, {})


@pytest.mark.parametrize(
    ("path", "is_read"),
    [("data/raw/rules", True), ("data/raw/rules/a.json", True), ("data/raw", True), ("data/raw/rule", False)],
)
def test_a_folder_is_read_with_what_is_in_it(path: str, is_read: bool) -> None:
    assert dvc_lock.parse(LOCK)["judge@tuned"].reads(path) is is_read


@pytest.mark.parametrize("text", ["stages: [1", "- 1\n", "stages:\n  a: 1\n", "stages:\n  a: {deps: []}\n"])
def test_what_is_no_lock_is_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"^dvc\.lock: not a lock of DVC: "):
        dvc_lock.parse(text)


def test_an_empty_lock_has_no_stages() -> None:
    assert dvc_lock.parse("") == {}


def test_md5_is_that_of_the_bytes(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"a\r\n")
    assert dvc_lock.md5(tmp_path / "a") == hashlib.md5(b"a\r\n").hexdigest()


def test_what_was_edited_since_the_run_is_named(toy: Path) -> None:
    Path("stages").mkdir()
    Path("stages/judge.py").write_text("print()\n")
    entry = dvc_lock.parse(LOCK)["judge@tuned"]
    assert dvc_lock.stale(entry, {"judge": {"temperature": 0.5}}) == ["params.yaml: judge", "stages/judge.py"]
    same = entry.deps | {"stages/judge.py": dvc_lock.md5(Path("stages/judge.py"))}
    fresh = dvc_lock.Entry(entry.name, entry.cmd, same, {"judge": {"temperature": 0.5}}, entry.outs)
    assert dvc_lock.stale(fresh, {"judge": {"temperature": 0.5}}) == []

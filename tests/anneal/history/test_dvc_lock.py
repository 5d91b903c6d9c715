"""dvc.lock parsed into the stages of the last run, and what changed since."""

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


def test_parse_gives_the_command_deps_params_and_outputs_of_each_stage() -> None:
    entries = dvc_lock.parse(LOCK)
    assert list(entries) == ["judge@tuned", "base"]
    judge = entries["judge@tuned"]
    assert (judge.stage, judge.cmd) == ("judge", "python -m stages.judge tuned")
    assert judge.deps == {"data/raw/rules": "aa.dir", "stages/judge.py": "bb"}
    assert judge.outs == {"data/judgements/tuned.jsonl": "cc"}
    assert judge.params == {"judge": {"temperature": 1e-05}}
    assert (entries["base"].deps, entries["base"].outs, entries["base"].params) == ({}, {}, {})


@pytest.mark.parametrize(
    ("path", "is_read"),
    [("data/raw/rules", True), ("data/raw/rules/a.json", True), ("data/raw", True), ("data/raw/rule", False)],
)
def test_a_dep_covers_its_content_and_its_parents(path: str, is_read: bool) -> None:
    assert dvc_lock.parse(LOCK)["judge@tuned"].reads(path) is is_read


@pytest.mark.parametrize("text", ["stages: [1", "- 1\n", "stages:\n  a: 1\n", "stages:\n  a: {deps: []}\n"])
def test_a_text_that_is_not_a_lock_is_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"^dvc\.lock: not a lock file of DVC: "):
        dvc_lock.parse(text)


def test_an_empty_lock_has_no_stages() -> None:
    assert dvc_lock.parse("") == {}


def test_md5_is_taken_over_the_raw_bytes(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"a\r\n")
    assert dvc_lock.md5(tmp_path / "a") == hashlib.md5(b"a\r\n").hexdigest()


def test_params_and_files_edited_since_the_run_are_named(toy: Path) -> None:
    Path("stages").mkdir()
    Path("stages/judge.py").write_text("print()\n")
    entry = dvc_lock.parse(LOCK)["judge@tuned"]
    assert dvc_lock.stale(entry, {"judge": {"temperature": 0.5}}) == ["params.yaml: judge", "stages/judge.py"]
    current_deps = entry.deps | {"stages/judge.py": dvc_lock.md5(Path("stages/judge.py"))}
    fresh = dvc_lock.Entry(entry.name, entry.cmd, current_deps, {"judge": {"temperature": 0.5}}, entry.outs)
    assert dvc_lock.stale(fresh, {"judge": {"temperature": 0.5}}) == []

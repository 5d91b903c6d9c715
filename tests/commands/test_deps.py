"""`make deps` writes the import closure of a stage into its block of dvc.yaml, and nothing else."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from anneal import fingerprint
from commands import deps

ROOT = Path(__file__).resolve().parents[2]
PIPELINE = f"""stages:
  clean:
    cmd: python -m stages.clean
    params: [seed]
    deps: [
      data/generated.jsonl,
      {deps.MARK}
      stages/gone.py,
      anneal/gone.py
    ]
    outs: [data/clean.jsonl]
"""


def test_only_the_lines_between_the_mark_and_the_bracket_change() -> None:
    before, after = PIPELINE.splitlines(), deps.with_code_deps(PIPELINE).splitlines()
    start = before.index(f"      {deps.MARK}") + 1
    end = before.index("    ]")
    assert after[:start] == before[:start]
    assert after[-(len(before) - end) :] == before[end:]
    block = after[start : len(after) - (len(before) - end)]
    assert ", ".join(deps.code_deps(ROOT / "stages/clean.py")) == " ".join(line.strip() for line in block)
    assert "gone.py" not in "".join(block)
    assert max(map(len, block)) <= deps.WIDTH


def test_a_second_run_changes_nothing() -> None:
    once = deps.with_code_deps(PIPELINE)
    assert deps.with_code_deps(once) == once


def test_the_deps_are_the_import_closure() -> None:
    scripts = sorted(path for path in (ROOT / "stages").glob("*.py") if path.name != "__init__.py")
    for script in scripts:
        listed = [ROOT / name for name in deps.code_deps(script)]
        assert listed[0] == script
        expanded = {file for path in listed for file in (deps.modules(path) if path.is_dir() else {path})}
        assert expanded == {script, *fingerprint.code(script)}, script
    assert len(scripts) == 20


def test_a_package_is_named_by_its_folder_only_where_all_its_files_are_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("stages/s.py", "anneal/files.py", "anneal/full/a.py", "anneal/full/b.py", "anneal/part/c.py"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
        (path.parent / "__init__.py").write_text("")
    (tmp_path / "anneal/part/unused.py").write_text("")
    script = tmp_path / "stages/s.py"
    imported = ("anneal/files.py", "anneal/full/a.py", "anneal/full/b.py", "anneal/part/c.py")
    monkeypatch.setattr(fingerprint, "ROOT", tmp_path)
    monkeypatch.setattr(fingerprint, "code", lambda _: [script, *(tmp_path / name for name in imported)])
    assert deps.code_deps(script) == ["stages/s.py", "anneal/files.py", "anneal/full", "anneal/part/c.py"]


def test_main_writes_the_file_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(deps, "PIPELINE", tmp_path / "dvc.yaml")
    monkeypatch.setattr(sys, "argv", ["deps"])
    deps.PIPELINE.write_text(PIPELINE, "utf-8")
    assert deps.main() == 0
    assert "code deps written" in capsys.readouterr().out
    assert deps.PIPELINE.read_text("utf-8") == deps.with_code_deps(PIPELINE)
    assert deps.main() == 0
    assert "code deps are those of the imports" in capsys.readouterr().out


def test_help_shows_the_docstring() -> None:
    done = subprocess.run([sys.executable, "-m", "commands.deps", "--help"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0
    assert "make deps" in done.stdout

"""make: switching recipes never loses an edit, and says how to keep one."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT, recipe_text


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A repository of the Makefile, default, two recipes and the active one, committed; its environment is ours."""
    for path in ("Makefile", "requirements.txt", *(f"recipes/{name}.yaml" for name in ("default", "brand", "tang"))):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / path, tmp_path / path)
    (tmp_path / "params.yaml").write_text(recipe_text("brand"), "utf-8")
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "all"]):
        who = ["-c", "user.name=t", "-c", "user.email=t@localhost"]
        subprocess.run(["git", *who, *words], cwd=tmp_path, check=True)
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv/.lock").touch()  # later than requirements.txt: nothing is installed
    return tmp_path


def make(folder: Path, *words: str) -> tuple[int, str]:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    env = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(["make", "-s", "recipe", *words], cwd=folder, env=env, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def active(folder: Path) -> str:
    return (folder / "params.yaml").read_text("utf-8")


def test_a_recipe_is_composed_and_the_next_step_told(checkout: Path) -> None:
    code, said = make(checkout, "NAME=tang")
    assert (code, active(checkout)) == (0, recipe_text("tang"))
    assert "next: dvc repro" in said
    assert make(checkout, "NAME=brand")[0] == 0, "a recipe as it is shipped is no edit"


def test_an_edit_that_stands_nowhere_else_is_kept(checkout: Path) -> None:
    edited = active(checkout).replace("epochs: 7", "epochs: 3") + "# mine\n"
    assert edited.count("epochs: 3") == active(checkout).count("epochs: 7") == 1
    (checkout / "params.yaml").write_text(edited, "utf-8")
    code, said = make(checkout, "NAME=tang")
    assert code != 0
    assert active(checkout) == edited
    assert "cp params.yaml recipes/mine.yaml" in said
    assert "make recipe NAME=tang FORCE=1" in said
    shutil.copy(checkout / "params.yaml", checkout / "recipes/mine.yaml")
    assert make(checkout, "NAME=tang")[0] == 0
    assert make(checkout, "NAME=mine")[0] == 0
    assert active(checkout) == edited, "what was kept comes back"


def test_force_drops_an_edit(checkout: Path) -> None:
    (checkout / "params.yaml").write_text(active(checkout) + "# mine\n", "utf-8")
    assert make(checkout, "NAME=tang", "FORCE=1")[0] == 0
    assert active(checkout) == recipe_text("tang")


def test_an_unknown_recipe_names_those_there_are(checkout: Path) -> None:
    for words in ([], ["NAME=none"], ["NAME=default"]):
        code, said = make(checkout, *words)
        assert code != 0
        assert "there are: brand tang" in said


NEEDED = ("bash", "sh", "id", "mktemp", "rm", "grep", "tail", "cut", "timeout")


@pytest.mark.parametrize("fails", [False, True])
def test_what_browser_tests_need_is_fetched_and_never_stops_the_others(tmp_path: Path, fails: bool) -> None:
    """On a machine of its own: a PATH without Chromium, and an apt-get that writes down what it is asked for."""
    for name in NEEDED:
        (tmp_path / name).symlink_to(str(shutil.which(name)))
    script = f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\necho "E: no network" >&2\nexit {100 if fails else 0}\n'
    (tmp_path / "apt-get").write_text(script)
    (tmp_path / "apt-get").chmod(0o755)
    done = subprocess.run([ROOT / ".ci/browser"], env={"PATH": str(tmp_path)}, capture_output=True, text=True)
    assert done.returncode == 0
    if os.getuid():
        assert (done.stdout, (tmp_path / "asked").exists()) == ("", False), "only root may install"
        return
    asked = (tmp_path / "asked").read_text().splitlines()
    assert [("update" in line, "chromium" in line) for line in asked] == [(True, False), (False, True), (False, True)][
        : 1 if fails else 3
    ]
    assert ("could not be installed, they will skip: E: no network" in done.stdout) == fails
    (tmp_path / "asked").unlink()
    for name, said in (("chromium", ""), ("fc-list", "a font")):
        (tmp_path / name).write_text(f"#!/bin/sh\necho {said}\n")
        (tmp_path / name).chmod(0o755)
    done = subprocess.run([ROOT / ".ci/browser"], env={"PATH": str(tmp_path)}, capture_output=True, text=True)
    assert (done.returncode, done.stdout, (tmp_path / "asked").exists()) == (0, "", False), "there already"

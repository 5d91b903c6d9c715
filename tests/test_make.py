"""make: switching recipes never loses an edit, and says how to keep one."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from .conftest import ROOT


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A repository of the Makefile, two recipes and the active one, all committed."""
    for path in ("Makefile", "params.yaml", "recipes/brand.yaml", "recipes/tang.yaml"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / path, tmp_path / path)
    shutil.copy(ROOT / "recipes/brand.yaml", tmp_path / "params.yaml")
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "all"]):
        who = ["-c", "user.name=t", "-c", "user.email=t@localhost"]
        subprocess.run(["git", *who, *words], cwd=tmp_path, check=True)
    return tmp_path


def make(folder: Path, *words: str) -> tuple[int, str]:
    done = subprocess.run(["make", "-s", "recipe", *words], cwd=folder, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def active(folder: Path) -> str:
    return (folder / "params.yaml").read_text("utf-8")


def test_a_recipe_is_copied_and_the_next_step_told(checkout: Path) -> None:
    code, said = make(checkout, "NAME=tang")
    assert (code, active(checkout)) == (0, (ROOT / "recipes/tang.yaml").read_text("utf-8"))
    assert "next: dvc repro" in said
    assert make(checkout, "NAME=brand")[0] == 0, "a recipe as it is shipped is no edit"


def test_an_edit_that_stands_nowhere_else_is_kept(checkout: Path) -> None:
    edited = active(checkout).replace("epochs: 7", "epochs: 3")
    assert edited != active(checkout)
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
    assert active(checkout) == (ROOT / "recipes/tang.yaml").read_text("utf-8")


def test_an_unknown_recipe_names_those_there_are(checkout: Path) -> None:
    for words in ([], ["NAME=none"]):
        code, said = make(checkout, *words)
        assert code != 0
        assert "brand" in said
        assert "tang" in said

"""The files of a rules folder: read strictly, laid under params, and the same patterns as ever."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from anneal.checks import facts
from anneal.errors import UserError
from tests.conftest import RECIPES, ROOT, recipe_values

WORDS = "banned:\n- x\nencouraged: []\nexaggerated:\n  unless: (?<!no )\n  patterns:\n  - (best|first)\n  - ^all\n"
CONTRACTS = "forbid:\n- '#'\ntypes:\n  ad:\n    require: []\n    forbid: []\n    length:\n    - 1\n    - 9\n"


def rules(folder: Path, **more: Any) -> facts.Rules:
    values = {"folder": str(folder), "name": "", "facts": {"slot": "a", "at_least": 0}, "foreign": [], "also": []}
    return facts.Rules.model_validate({**values, **more})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "words.yaml").write_text(WORDS)
    (tmp_path / "contracts.yaml").write_text(CONTRACTS)
    return tmp_path


def test_the_lists_come_from_the_folder_and_the_look_behind_stands_before_each_pattern(folder: Path) -> None:
    found = rules(folder)
    assert (found.banned, found.encouraged, found.forbid) == (["x"], [], ["#"])
    assert found.exaggerated.searched == ["(?<!no )(best|first)", "(?<!no )^all"]
    assert found.exaggerated.any == "(?<!no )(?:(best|first)|^all)"
    assert found.types == {"ad": facts.Contract(require=[], forbid=[], length=[1, 9])}


def test_a_key_of_params_takes_the_place_of_the_files(folder: Path) -> None:
    found = rules(folder, banned=["y"], exaggerated=["z"])
    assert (found.banned, found.exaggerated.searched, found.forbid) == (["y"], ["z"], ["#"])
    (folder / "words.yaml").unlink()
    assert rules(folder, banned=[], exaggerated=[], encouraged=["w"]).encouraged == ["w"], "nothing is left to read"


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        ("words.yaml", "banned:", "baned:", r"words\.yaml: banned: Field required"),
        ("words.yaml", "encouraged: []\n", "encouraged: []\nmore: 1\n", r"words\.yaml: more: Extra inputs"),
        ("words.yaml", "encouraged: []", "encouraged: 3", r"words\.yaml: encouraged: Input should be a valid list"),
        ("words.yaml", "(best|first)", "(best", r"words\.yaml: exaggerated\.patterns\.0: .*not a regular expression"),
        ("words.yaml", "banned:", "banned: [", r"words\.yaml:\d+:\d+: not YAML"),
        ("contracts.yaml", "    - 9\n", "", r"contracts\.yaml: types\.ad\.length: List should have at least 2"),
        (
            "contracts.yaml",
            "forbid:\n- '#'",
            "forbid:\n- '['",
            r"contracts\.yaml: forbid\.0: .*not a regular",
        ),
    ],
)
def test_a_wrong_file_is_refused_with_its_key(folder: Path, name: str, old: str, new: str, message: str) -> None:
    text = (folder / name).read_text()
    assert old in text
    (folder / name).write_text(text.replace(old, new, 1))
    with pytest.raises(UserError, match=message):
        rules(folder)


def test_a_missing_file_is_named_with_the_key_that_names_its_folder(folder: Path) -> None:
    (folder / "contracts.yaml").unlink()
    with pytest.raises(UserError, match=r"contracts\.yaml: no such file; rules\.folder names its folder"):
        rules(folder)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_has_both_files_and_contracts_for_its_types(path: Path, tmp_path: Path) -> None:
    values = recipe_values(path.stem)
    shutil.copytree(ROOT / values["rules"]["folder"], tmp_path / "rules")
    found = facts.Rules.model_validate({**values["rules"], "folder": str(tmp_path / "rules")})
    assert set(found.types) == set(values["types"])
    for pattern in (*found.exaggerated.searched, *found.forbid):
        re.compile(pattern)

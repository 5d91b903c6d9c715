"""recipe: a recipe is what differs from the default; the composed text is complete and in the form that DVC writes."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from anneal.checks import facts
from anneal.errors import UserError
from commands import recipe
from tests.conftest import RECIPES, ROOT, load_yaml, recipe_text, recipe_values

DEFAULT = """\
# About this file; not about a key.

# Names the recipe; letters.
recipe:
# Content types; type: label.
types: {}
# The base.
base:
  # Its corpus; a folder.
  corpus:
# Training.
train:
  # Rate; a rate; more is faster.
  lr: 0.01
  # The adapter.
  lora:
    # Rank; directions; more learns more.
    r: 32
    # Where; names.
    targets:
    - q
    - k
  # Passes; passes; more fits closer.
  epochs: 3
# Searches.
answer:
  # Others; name: what differs.
  presets:
    greedy:
      k: 1
"""
OWN = """\
# A recipe; not about a key either.

recipe: mine
types:
  ad: Ad
base:
  corpus: data/mine
"""


@pytest.fixture(autouse=True)
def _few_keys_are_stated(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    if "shipped" not in request.node.name:
        monkeypatch.setattr(recipe, "STATED", ("recipe", "types", "base.corpus"))


def compose(own: str) -> str:
    return recipe.compose(DEFAULT, own, "recipes/mine.yaml")


def values(text: str) -> Any:
    return YAML(typ="safe", pure=True).load(text)


def test_the_default_holds_where_a_recipe_says_nothing() -> None:
    found = values(compose(OWN))
    assert found == values(DEFAULT) | {"recipe": "mine", "types": {"ad": "Ad"}, "base": {"corpus": "data/mine"}}
    assert list(found) == list(values(DEFAULT)), "the order is the default's"


def test_mappings_merge_lists_and_data_replace() -> None:
    found = values(
        compose(OWN + "train:\n  lora:\n    targets:\n    - v\nanswer:\n  presets:\n    beam:\n      n: 4\n")
    )
    assert found["train"] == {"lr": 0.01, "lora": {"r": 32, "targets": ["v"]}, "epochs": 3}
    assert found["answer"]["presets"] == {"beam": {"n": 4}}


def test_every_comment_of_the_default_stays_over_its_key_and_a_why_of_the_recipe_follows() -> None:
    text = compose(
        OWN + "train:\n  # Ours is small.\n  lr: 0.1\n  lora:\n    targets:\n    - v\n  # Four diverge.\n  epochs: 2\n"
    )
    assert text.startswith("# The active recipe: ")
    assert "not about a key" not in text
    assert "  # Rate; a rate; more is faster.\n  # Ours is small.\n  lr: 0.1\n" in text
    assert "    # Where; names.\n    targets:\n    - v\n" in text
    # Behind the key where a list stands above it, whose comment DVC's writer would drop.
    assert "  epochs: 2  # Passes; passes; more fits closer. Four diverge.\n# Searches.\nanswer:\n" in text
    comments = [line.lstrip() for line in DEFAULT.splitlines()[1:] if line.lstrip().startswith("#")]
    assert [line for line in comments if line not in text] == []


def test_the_text_is_what_the_writer_writes_back() -> None:
    text = compose(OWN.replace("Ad", "'Ad'") + "train: {lr: 1e-5, lora: {targets: [\"v\", '#']}}\n")
    assert "  ad: Ad\n" in text
    assert "    targets:\n    - v\n    - '#'\n" in text
    assert values(text)["train"]["lr"] == 1e-5
    assert compose(text) == text, "a complete file composes to itself"


def test_a_complete_file_stays_as_it_is_comments_order_and_all() -> None:
    complete = "".join(reversed(compose(OWN).partition("# Training.\n"))) + "# my own note\n"
    complete = values(complete) and complete
    assert compose(complete) == complete


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("trian:\n  lr: 1\n", r"recipes/mine\.yaml: trian: unknown key; did you mean train\?"),
        (
            "train:\n  lora:\n    rr: 1\n",
            r"recipes/mine\.yaml: train\.lora\.rr: unknown key; did you mean train\.lora\.r\?",
        ),
        ("zzz: 1\n", r"zzz: unknown key; recipes/default\.yaml holds every key"),
        ("train: 3\n", r"recipes/mine\.yaml: train: expected keys and values, got 3"),
        ("train:\n", r"recipes/mine\.yaml: train: expected keys and values, got None"),
        ("train: [\n", r"recipes/mine\.yaml:\d+:\d+: not YAML"),
        ("recipe: twice\n", r"recipes/mine\.yaml:\d+:\d+: not YAML"),
    ],
)
def test_refusals_name_file_key_and_the_nearest(more: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        compose(OWN + more)


def test_a_complete_file_that_holds_the_word_lists_too_still_works() -> None:
    """Lists that stood in params before they stood in the rules folder; there they take the place of the file's."""
    default = (ROOT / "recipes/default.yaml").read_text("utf-8")
    old = recipe_text("brand").replace("\nrules:\n", "\nrules:\n  banned:\n  - x\n", 1)
    old = old.replace("\nrules:\n  banned", "\nrules:\n  exaggerated:\n  - y\n  banned", 1)
    assert recipe.compose(default, old) == old
    found = facts.Rules.model_validate({**values(old)["rules"], "folder": str(ROOT / "data/raw/brand/rules")})
    assert (found.banned, found.exaggerated.searched) == (["x"], ["y"])
    own = (ROOT / "recipes/brand.yaml").read_text("utf-8").replace("\nrules:\n", "\nrules:\n  banned:\n  - x\n", 1)
    with pytest.raises(UserError, match=r"rules\.banned: stands in a YAML file of rules\.folder"):
        recipe.compose(default, own)


def test_what_has_no_default_must_be_stated() -> None:
    for text, key in ((OWN.replace("data/mine", ""), "base.corpus"), (OWN.replace("recipe: mine\n", ""), "recipe")):
        with pytest.raises(UserError, match=rf"recipes/mine\.yaml: {key}: missing; .* states its own"):
            compose(text)
    with pytest.raises(UserError, match="expected keys and values"):
        compose("- a list\n")


def test_shipped_recipes_state_what_the_default_says_they_state() -> None:
    lines = (ROOT / "recipes/default.yaml").read_text("utf-8").splitlines()
    marked = [lines[n + 1].strip().split(":")[0] for n, line in enumerate(lines) if "each recipe states" in line]
    assert marked == [path.split(".")[-1] for path in recipe.STATED]
    assert [recipe._value(load_yaml(ROOT / "recipes/default.yaml"), path) or None for path in recipe.STATED] == [
        None for _ in recipe.STATED
    ]


def test_every_shipped_recipe_is_short_and_complete_when_composed() -> None:
    default = ROOT / "recipes/default.yaml"
    every = list(recipe._leaves(load_yaml(default)))
    assert len(RECIPES) >= 5
    for path in RECIPES:
        if (ROOT / "models/shipped" / path.stem).is_dir():
            assert len(path.read_text("utf-8").splitlines()) <= 160, path.name
        assert list(recipe._leaves_given(load_yaml(default), recipe_values(path.stem))) == every
        complete = recipe_text(path.stem)
        assert recipe.compose(default.read_text("utf-8"), complete) == complete


def test_data_keyed_by_names_is_every_open_mapping_of_the_default() -> None:
    """A mapping that is empty in the default has no keys of its own: it must be in NAMED, or nothing could fill it."""
    default = load_yaml(ROOT / "recipes/default.yaml")
    assert [path for path in recipe.NAMED if recipe._value(default, path) is None] == []

    def empty(section: Any, parents: str = "") -> list[str]:
        paths = []
        for key, value in section.items():
            path = f"{parents}{key}"
            if value == {}:
                paths.append(path)
            elif isinstance(value, dict):
                paths += empty(value, f"{path}.")
        return paths

    assert sorted(empty(default)) == sorted(recipe.NAMED)


def test_params_are_written_and_edits_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("recipes").mkdir()
    Path("recipes/default.yaml").write_text(DEFAULT)
    Path("recipes/mine.yaml").write_text(OWN)
    Path("recipes/broken.yaml").write_text("zzz: 1\n")
    subprocess.run(["git", "init", "-q"], check=True)
    recipe.activate("mine", force=False)
    assert Path("params.yaml").read_text() == compose(OWN)
    Path("params.yaml").write_text(compose(OWN) + "# edit\n")
    subprocess.run(["git", "add", "."], check=True)
    with pytest.raises(UserError, match=r"cp params\.yaml recipes/mine\.yaml"):
        recipe.activate("mine", force=False)
    recipe.activate("mine", force=True)
    assert Path("params.yaml").read_text() == compose(OWN)
    with pytest.raises(UserError, match="there are: broken mine"):
        recipe.activate("other", force=False)

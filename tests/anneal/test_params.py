"""Params: a stage gets those that it declares, and a mistake in the file is one line."""

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


def test_a_stage_gets_the_params_that_it_declares(tmp_path: Path) -> None:
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
def test_a_mistake_is_one_line_with_its_place(tmp_path: Path, old: str, new: str, words: list[str]) -> None:
    assert old in GOOD
    with pytest.raises(UserError) as caught:
        picked(tmp_path, GOOD.replace(old, new, 1))
    line = str(caught.value)
    assert "\n" not in line
    assert all(word in line for word in ["params.yaml", *words]), line


def test_a_missing_file_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="make recipe"):
        params.load(tmp_path / "none.yaml")

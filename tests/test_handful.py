"""Each recipe end to end on a handful of its records: every stage in the order of the map, in one process.

What is learnt in one epoch does not matter here. That every stage takes what the one before it wrote does, and that
the figures a recipe lives by are there at the end. test_recipes.py runs the main recipe whole.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT, load_yaml, pipeline, recipe_text, recipe_values
from tests.stages.test_pairs_given import FORMAT, given
from tests.test_hermetic import copy

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
SMALL = ["train.epochs=1", "train.eval_steps=2", "answer.decode.max_new_tokens=24", "accept.candidates=1"]
# All stages in one interpreter: to import torch once a stage would take longer than the stages.
RUN = """
import importlib, sys
from anneal import params, stage as start
for line in sys.argv[1:]:
    module, *words = line.split()
    stage = importlib.import_module(module)
    values = params.load()
    start._guard(values)
    stage.main(*words, **params.pick(stage.main, values=values))
from anneal import privacy
print("outbound", privacy.outbound())
"""
# Items that are kept of each source, and the figures that its recipe lives by.
SOURCES: dict[str, tuple[int, list[str]]] = {
    "ads": (80, ["layouts", "accepted"]),
    "alpaca": (80, ["decoding", "likelihood"]),
    "tang": (80, ["verses", "copies"]),
    "author": (8, ["styles", "likelihood"]),
}


def fewer(path: Path, kept: int) -> None:
    """The first lines of a table, or the first files of each folder of a tree."""
    if path.is_file():
        path.write_text("".join(path.read_text("utf-8").splitlines(keepends=True)[:kept]), "utf-8")
        return
    for folder in [found for found in sorted(path.rglob("*")) if found.is_dir()]:
        for file in sorted(folder.glob("*.md"))[kept:]:
            file.unlink()
            file.with_suffix(".meta.json").unlink(missing_ok=True)


REAL = ROOT.parent / "shared/data"


def run(folder: Path, recipe: str, change: Callable[[dict[str, Any]], None] = lambda _: None) -> dict[str, Any]:
    """A checkout with a handful of a recipe's records, run; the metrics of evaluate."""
    from dvc.utils.hydra import apply_overrides
    from dvc.utils.serialize import dumps_yaml

    for path in ("anneal", "stages", f"prompts/{recipe}", f"data/raw/{recipe}", f"models/shipped/{recipe}", "dvc.yaml"):
        copy(path, ROOT, folder)
    (folder / "params.yaml").write_text(recipe_text(recipe), "utf-8")
    apply_overrides(folder / "params.yaml", SMALL)
    fewer(folder / load_yaml(folder / "params.yaml")["generate"]["items"], SOURCES[recipe][0])
    values = load_yaml(folder / "params.yaml")
    change(values)
    (folder / "params.yaml").write_text(dumps_yaml(values), "utf-8")
    stages = [
        f"{s.script.removesuffix('.py').replace('/', '.')} {' '.join(s.words)}" for s in pipeline(folder).values()
    ]
    env = {key: value for key, value in os.environ.items() if not key.startswith("DVC_")}
    done = subprocess.run([sys.executable, "-c", RUN, *stages], cwd=folder, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.strip().endswith("outbound 0")
    found: dict[str, Any] = json.loads((folder / "reports/metrics/evaluate.json").read_text())
    return found


@pytest.mark.parametrize("recipe", list(SOURCES))
def test_a_recipe_runs_from_its_source_to_the_table(recipe: str, tmp_path: Path) -> None:
    found = run(tmp_path, recipe)
    for figure in SOURCES[recipe][1]:
        assert found[figure], figure
    assert found["rules"]["golden"]["strict"]["mean"] >= 0.95
    compared = json.loads((tmp_path / "reports/metrics/compare.json").read_text())
    assert compared["overall"]["tuned"]["n"] == found["n"] >= 4
    assert compared["overall"]["golden"]["score"] > compared["overall"]["base"]["score"]
    certificate = json.loads((tmp_path / "reports/metrics/split.json").read_text())["certificate"]
    assert certificate


def only(values: dict[str, Any], kind: str, source: Path, rules: list[str]) -> None:
    """The params for a table of somebody else's: one type, no id, and the rules that say nothing of its content."""
    values["types"] = {kind: kind}
    values["rules"]["types"] = {kind: {"require": [], "forbid": [], "length": [1, 2000]}}
    values["rules"]["forbid"] = []
    values["rules"]["facts"] = {"slot": "input", "at_least": 0}
    values["generate"] |= {
        "items": str(source),
        "required": ["output"],
        "fields": {"id": None, "type": None, "text": "output", "rejected": None, "turns": None},
    }
    values["filter"]["rules"] = rules
    values["format"] |= {"max_length": 900, "tasks": {}}
    values["evaluate"] |= {"checks": rules, "strict": []}
    values["compare"]["shares"] = ["strict", "stop_rate"]
    values["accept"]["checks"] = []


@pytest.mark.real
@pytest.mark.parametrize(
    ("recipe", "source"),
    [
        ("alpaca", "alpaca/alpaca_zh_demo.json"),
        ("alpaca", "alpaca/alpaca_en_demo.json"),
        ("tang", "tang/tang_poems.jsonl"),
    ],
)
def test_real_records_run_through_the_same_stages(recipe: str, source: str, tmp_path: Path) -> None:
    if not (REAL / source).is_file():
        pytest.skip(f"{source} is not here")
    few = tmp_path / f"few{Path(source).suffix}"
    text = (REAL / source).read_text("utf-8")
    if few.suffix == ".json":
        few.write_text(json.dumps(json.loads(text)[:60], ensure_ascii=False), "utf-8")
    else:
        few.write_text("".join(text.splitlines(keepends=True)[:60]), "utf-8")
    # A rubric names its types, so that of the recipe takes the one type that there is.
    kind = next(iter(recipe_values(recipe)["types"]))
    found = run(tmp_path, recipe, lambda values: only(values, kind, few, ["length"]))
    assert found["n"] >= 4
    assert found["likelihood"]["tuned"]["perplexity"] < found["likelihood"]["base"]["perplexity"]


@pytest.mark.real
def test_real_pairs_are_learnt_by_reward_model_and_dpo(tmp_path: Path) -> None:
    source = REAL / "preference/dpo_zh_demo.json"
    if not source.is_file():
        pytest.skip(f"{source.name} is not here")

    def change(values: dict[str, Any]) -> None:
        for name, text in FORMAT.items():
            (tmp_path / f"prompts/alpaca/format/{name}.md").write_text(text)
        for path in (tmp_path / "prompts/alpaca/judge").glob("*.md"):  # its sheet shows a column that is not here
            path.write_text(path.read_text("utf-8").replace("$input", "$instruction"), "utf-8")
        given(values, str(source))
        values["format"]["max_length"] = 384  # of a tokenizer that has few words: the shortest of the pairs
        values["answer"]["presets"] = {}
        values["accept"]["checks"] = []
        values["evaluate"] |= {"checks": ["length"], "strict": []}
        values["compare"]["shares"] = ["strict", "stop_rate"]
        values["reward"]["epochs"] = 1
        values["align"]["method"] = "dpo"
        values["align"]["dpo"] |= {"batch_size": 4, "epochs": 2, "lr": 0.001, "sft": 0.0, "eval_steps": 4}

    found = run(tmp_path, "alpaca", change)
    assert set(found["likelihood"]) == {"aligned", "base", "tuned"}

    def metric(name: str) -> dict[str, Any]:
        return dict(json.loads((tmp_path / f"reports/metrics/{name}.json").read_text()))

    learnt, pairs = metric("align"), metric("split")["pairs"]
    assert learnt["method"] == "dpo"
    assert learnt["n"] == pairs["test"] >= 4
    assert learnt["steps"] == 2 * -(-pairs["train"] // 4)
    assert learnt["logp"]["chosen"]["after"] != learnt["logp"]["chosen"]["before"]
    assert metric("reward")["n"] == pairs["test"]
    with (tmp_path / "reports/plots/align.tsv").open() as plot:
        head, *rows = [line.rstrip("\n").split("\t") for line in plot]
    margins = [float(row[head.index("margin")]) for row in rows if row[head.index("margin")]]
    assert margins[-1] > margins[0], "chosen and rejected grow apart"

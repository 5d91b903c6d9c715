"""Nothing undeclared decides a result: a stage alone with its declared deps and params writes the same bytes.

A small pipeline runs in a whole checkout, stage after stage; each stage then runs once more in a folder that holds
its deps, its params and nothing else. A file or key that dvc.yaml does not name, and that a stage reads, is missing
there; a ledger of earlier answers, a clock or a folder name that slips into an output differs there.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT, Stage, load_yaml, pipeline

PIPELINE = pipeline()
LIGHT = ["base", "generate", "clean", "filter", "reject", "format", "split", "audit"]
LIGHT += ["evaluate", "judge@golden", "judge@base", "judge@tuned", "judge@aligned", "judge@samples", "judge@controls"]
LIGHT += ["card", "prefer", "compare"]
HEAVY = ["train", "reward", "rollout@tuned", "align", "merge", "rollout@aligned"]
HEAVY += ["answer@base", "answer@tuned", "answer@aligned", "accept"]
ITEMS = 16
# A few steps of a small model: what is learnt does not matter here, only that it is the same twice.
SMALL = [
    "base.steps=4",
    "base.warmup_steps=2",
    "train.epochs=1",
    "split.test=0.2",
    "split.validation=0.2",
    "answer.decode.max_new_tokens=8",
]


def run(folder: Path, stage: Stage) -> None:
    env = {key: value for key, value in os.environ.items() if not key.startswith("DVC_")}
    module = stage.script.removesuffix(".py").replace("/", ".")
    done = subprocess.run(
        [sys.executable, "-m", module, *stage.words], cwd=folder, env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, f"{stage.name}: {done.stderr[-2000:]}"


def copy(path: str, source: Path, target: Path) -> None:
    (target / path).parent.mkdir(parents=True, exist_ok=True)
    if (source / path).is_dir():
        shutil.copytree(source / path, target / path, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        shutil.copy(source / path, target / path)


def alone(stage: Stage, full: Path, folder: Path) -> None:
    """A folder with the stage's deps, the packages they need to be imported, and its params, and nothing else."""
    from dvc.utils.serialize import dumps_yaml

    for dep in dict.fromkeys(stage.deps):
        copy(dep, full, folder)
    for package in sorted({str(Path(dep).parent) for dep in stage.code} | {"anneal"}):
        if (full / package / "__init__.py").is_file():
            copy(f"{package}/__init__.py", full, folder)
    values = load_yaml(full / "params.yaml")
    (folder / "params.yaml").write_text(dumps_yaml({key: values[key] for key in ("privacy", *stage.params)}), "utf-8")


def contents(folder: Path, paths: set[str]) -> dict[str, bytes]:
    """Every file below the outputs of a stage, by path."""
    files = (f for p in paths for f in ([folder / p] if (folder / p).is_file() else (folder / p).rglob("*")))
    return {str(f.relative_to(folder)): f.read_bytes() for f in files if f.is_file()}


def answer(full: Path) -> None:
    """Replies as the models might give them, so that the judging half needs no model: good, cut off, or nonsense."""
    test = [json.loads(line) for line in (full / "data/test.jsonl").read_text("utf-8").splitlines()]
    assert len(test) >= 9

    def row(record: dict[str, Any], text: str, finish: str, nats: float) -> str:
        golden = record["completion"][-1]["content"]
        sizes = {"n_prompt": 9, "n_new": len(text), "n_target": len(golden) + 1, "n_bytes": len(golden.encode())}
        kept = {key: record[key] for key in ("id", "item", "type")}
        return json.dumps({**kept, **sizes, "text": text, "finish": finish, "target_logprob": -nats}) + "\n"

    (full / "data/answers").mkdir(parents=True)
    goldens = [record["completion"][-1]["content"] for record in test]
    tuned = [
        row(r, g[: len(g) - n % 3], "stop" if n % 5 else "length", 20 + n)
        for n, (r, g) in enumerate(zip(test, goldens, strict=True))
    ]
    base = [row(r, g[:9] * 4, "length", 90 + n) for n, (r, g) in enumerate(zip(test, reversed(goldens), strict=True))]
    (full / "data/answers/tuned.jsonl").write_text("".join(tuned), "utf-8")
    (full / "data/accepted.jsonl").write_text("".join(tuned), "utf-8")
    (full / "data/presets").mkdir()
    for name in ("samples", "presets/base", "presets/tuned", "presets/aligned"):
        (full / f"data/{name}.jsonl").write_text("", "utf-8")
    (full / "data/answers/base.jsonl").write_text("".join(base), "utf-8")
    (full / "data/answers/aligned.jsonl").write_text("".join(base[:4] + tuned[4:]), "utf-8")
    (full / "data/rollouts").mkdir()
    for name, part in (("tuned", 0), ("aligned", 1)):
        drawn = [
            {**json.loads(line), "sample": n, "reward": 0.1 * (place % 7 + n + part), "rewards": {"stop": n}}
            for place, line in enumerate(tuned)
            for n in range(2)
        ]
        (full / f"data/rollouts/{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in drawn), "utf-8")


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout with a few items in which the light stages have run."""
    from dvc.utils.hydra import apply_overrides

    folder = tmp_path_factory.mktemp("full")
    for path in ("anneal", "stages", "prompts", "data/raw", "models/shipped", "params.yaml", "dvc.yaml"):
        copy(path, ROOT, folder)
    apply_overrides(folder / "params.yaml", SMALL)
    items = folder / load_yaml(folder / "params.yaml")["generate"]["items"]
    items.write_text("".join(items.read_text("utf-8").splitlines(keepends=True)[:ITEMS]), "utf-8")
    for name in LIGHT:
        if name == "evaluate":
            answer(folder)
        run(folder, PIPELINE[name])
    return folder


def check(stage: Stage, full: Path, folder: Path) -> None:
    alone(stage, full, folder)
    run(folder, stage)
    expected = contents(full, stage.writes)
    assert len(expected) >= len(stage.writes)
    assert sorted(contents(folder, stage.writes)) == sorted(expected)
    assert [path for path, found in contents(folder, stage.writes).items() if found != expected[path]] == []


@pytest.mark.parametrize("name", LIGHT)
def test_light_stage(name: str, full: Path, tmp_path: Path) -> None:
    check(PIPELINE[name], full, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", HEAVY)
def test_heavy_stage(name: str, full: Path, tmp_path: Path) -> None:
    stage = PIPELINE[name]
    makers = {path: maker for maker in PIPELINE.values() for path in maker.writes}
    for dep in sorted(dep for dep in stage.deps if not (full / dep).exists()):
        pytest.skip(f"{dep} is made by {makers[dep].name}, which did not run before")
    run(full, stage)
    check(stage, full, tmp_path)


def test_every_stage_is_run_alone() -> None:
    assert sorted(LIGHT + HEAVY) == sorted(PIPELINE)

"""The inputs of an A/A band, and its metrics from the rows of the runs."""

from __future__ import annotations

import json
from typing import Any

import pytest

from anneal.errors import UserError
from anneal.history import dvc_lock, seed_noise


def lock(change: dict[tuple[str, ...], Any] | None = None) -> str:
    """A lock in the shape of the pipeline; `change` sets values by their path in it."""
    stages: dict[str, Any] = {
        "split": {
            "cmd": "split",
            "deps": {"stages/split.py": "1"},
            "params": {"seed": 42},
            "outs": {"data/test.jsonl": "2"},
        },
        "train": {
            "cmd": "train",
            "deps": {"stages/train.py": "3", "data/train": "4"},
            "params": {"seed": 42, "train": {"lr": 0.1, "seed": 0}},
            "outs": {"models/adapter": "5"},
        },
        "answer@base": {
            "cmd": "answer base",
            "deps": {"models/base": "6"},
            "params": {},
            "outs": {"data/answers/base.jsonl": "7"},
        },
        "answer@tuned": {
            "cmd": "answer tuned",
            "deps": {"models/adapter": "5", "data/test.jsonl": "2"},
            "params": {"answer": {"n": 1}},
            "outs": {"data/answers/tuned.jsonl": "8"},
        },
        "align": {
            "cmd": "align",
            "deps": {"models/adapter": "5"},
            "params": {"align": 1},
            "outs": {"models/aligned": "13"},
        },
        "answer@aligned": {
            "cmd": "answer aligned",
            "deps": {"models/aligned": "13"},
            "params": {},
            "outs": {"data/answers/aligned.jsonl": "14"},
        },
        "judge@tuned": {
            "cmd": "judge tuned",
            "deps": {"prompts/judge": "9", "data/answers/tuned.jsonl": "8"},
            "params": {},
            "outs": {"data/judgements/tuned.jsonl": "10"},
        },
        "evaluate": {
            "cmd": "evaluate",
            "deps": {
                "data/answers/tuned.jsonl": "8",
                "data/answers/base.jsonl": "7",
                "data/answers/aligned.jsonl": "14",
            },
            "params": {},
            "outs": {"data/checks.jsonl": "11"},
        },
        "compare": {
            "cmd": "compare",
            "deps": {"data/judgements/tuned.jsonl": "10"},
            "params": {"compare": 1},
            "outs": {"c": "12"},
        },
    }
    for path, value in (change or {}).items():
        parent = stages
        for key in path[:-1]:
            parent = parent[key]
        parent[path[-1]] = value
    listed = {
        name: {
            "cmd": body["cmd"],
            **{key: [{"path": p, "md5": md5} for p, md5 in body[key].items()] for key in ("deps", "outs")},
            "params": {"params.yaml": body["params"]},
        }
        for name, body in stages.items()
    }
    return json.dumps({"stages": listed})


def test_the_stages_of_a_band_lead_from_training_to_the_scores() -> None:
    entries = dvc_lock.parse(lock())
    assert list(seed_noise.band_stages(entries)) == ["train", "answer@tuned", "judge@tuned", "evaluate"]
    assert seed_noise.targets(entries) == ["judge@tuned", "evaluate"]
    assert seed_noise.training_seed(entries) == 0


@pytest.mark.parametrize(
    "change",
    [
        ("train", "params", "train", "lr"),
        ("train", "params", "seed"),
        ("train", "deps", "data/train"),
        ("train", "deps", "stages/train.py"),
        ("answer@tuned", "params", "answer"),
        ("answer@tuned", "cmd"),
        ("evaluate", "deps", "data/answers/base.jsonl"),
        ("answer@tuned", "deps", "data/test.jsonl"),
        ("judge@tuned", "deps", "prompts/judge"),
    ],
)
def test_another_input_gives_another_hash(change: tuple[str, ...]) -> None:
    assert seed_noise.inputs_hash(lock({change: "other"})) != seed_noise.inputs_hash(lock())


@pytest.mark.parametrize(
    "change",
    [
        {("train", "params", "train", "seed"): 3},
        {("train", "outs", "models/adapter"): "x", ("answer@tuned", "deps", "models/adapter"): "x"},
        {("evaluate", "deps", "data/answers/tuned.jsonl"): "x"},
        {("compare", "params", "compare"): 2},
        # Stages after the tuned model do not affect its scores.
        {("align", "params", "align"): 2, ("evaluate", "deps", "data/answers/aligned.jsonl"): "x"},
        {("split", "deps", "stages/split.py"): "x"},
    ],
)
def test_the_hash_ignores_the_training_seed_and_its_effects(change: dict[tuple[str, ...], Any]) -> None:
    assert seed_noise.inputs_hash(lock(change)) == seed_noise.inputs_hash(lock())


def test_a_lock_without_training_has_no_band() -> None:
    assert seed_noise.inputs_hash("stages: {}") == ""
    with pytest.raises(UserError, match="holds no train with"):
        seed_noise.targets({})
    with pytest.raises(UserError, match=r"holds no train\.seed"):
        seed_noise.training_seed(dvc_lock.parse(lock({("train", "params", "train"): {"lr": 1}})))


def rows(mean: float, passes: int, failed: bool = False) -> seed_noise.RunRows:
    judgements = [{"id": f"r{k}", "outcome": "ok", "score": mean + k} for k in range(4)]
    if failed:
        judgements[3] |= {"outcome": "timeout", "score": None}
    checks = [
        {"id": f"r{k}", "system": s, "strict": s == "base" or k < passes, "checks": {"terse": True}, "stopped": k > 0}
        for k in range(4)
        for s in ("base", "tuned")
    ]
    return judgements, checks


def test_bands_use_the_tuned_texts_that_every_run_scored() -> None:
    metrics = seed_noise.bands(
        {1: rows(2.0, 4), 0: rows(1.0, 2, failed=True)}, ["strict", "terse", "stop_rate", "no_such"]
    )
    assert list(metrics) == ["seeds", "n", "score", "strict", "terse", "stop_rate"]
    assert (metrics["seeds"], metrics["n"], metrics["score"]["n"]) == ([0, 1], 4, 3)
    assert metrics["score"]["means"] == [2.0, 3.0]
    assert metrics["strict"]["means"] == [0.5, 1.0]
    assert metrics["stop_rate"]["means"] == [0.75, 0.75]
    lines = seed_noise.summary_lines(metrics)
    assert lines[0] == "4 records, training seeds 0, 1"
    assert lines[1].startswith("score: 2.000, 3.000; noise up to 12.")
    assert lines[3] == "terse: 1.000, 1.000; no variance: all seeds give the same mean"


def test_recompute_reads_the_runs_that_the_band_names(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = {"": rows(1.0, 2), "abc": rows(2.0, 4)}
    monkeypatch.setattr(seed_noise, "working_tree_rows", lambda: runs[""])
    monkeypatch.setattr(seed_noise, "Revision", str)
    monkeypatch.setattr(seed_noise, "revision_rows", runs.__getitem__)
    band = seed_noise.bands({0: runs[""], 1: runs["abc"]}, ["terse"])
    stored = {**band, "of": "x", "runs": {"0": "", "1": "abc"}}
    entries = dvc_lock.parse(lock())
    assert seed_noise.recompute(stored, entries) == stored
    assert seed_noise.recompute({**stored, "score": {"band": 0}}, entries) == stored
    other = dvc_lock.parse(lock({("train", "params", "train", "seed"): 1}))
    with pytest.raises(UserError, match="the run of seed 0 is not the one in the working tree"):
        seed_noise.recompute(stored, other)

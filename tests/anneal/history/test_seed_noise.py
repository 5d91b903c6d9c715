"""What an A/A band holds for, and what it is made of."""

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
        place = stages
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = value
    files = {
        name: {
            "cmd": body["cmd"],
            **{key: [{"path": p, "md5": md5} for p, md5 in body[key].items()] for key in ("deps", "outs")},
            "params": {"params.yaml": body["params"]},
        }
        for name, body in stages.items()
    }
    return json.dumps({"stages": files})


def test_the_way_from_training_to_the_scores_is_found() -> None:
    entries = dvc_lock.parse(lock())
    assert list(seed_noise.chain(entries)) == ["train", "answer@tuned", "judge@tuned", "evaluate"]
    assert seed_noise.targets(entries) == ["judge@tuned", "evaluate"]
    assert seed_noise.seed(entries) == 0


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
def test_another_input_is_another_band(change: tuple[str, ...]) -> None:
    assert seed_noise.of(lock({change: "other"})) != seed_noise.of(lock())


@pytest.mark.parametrize(
    "change",
    [
        {("train", "params", "train", "seed"): 3},
        {("train", "outs", "models/adapter"): "x", ("answer@tuned", "deps", "models/adapter"): "x"},
        {("evaluate", "deps", "data/answers/tuned.jsonl"): "x"},
        {("compare", "params", "compare"): 2},
        # What comes after the tuned model says nothing of it.
        {("align", "params", "align"): 2, ("evaluate", "deps", "data/answers/aligned.jsonl"): "x"},
        {("split", "deps", "stages/split.py"): "x"},
    ],
)
def test_what_the_seed_changes_is_the_same_band(change: dict[tuple[str, ...], Any]) -> None:
    assert seed_noise.of(lock(change)) == seed_noise.of(lock())


def test_where_nothing_was_trained_there_is_no_band() -> None:
    assert seed_noise.of("stages: {}") == ""
    with pytest.raises(UserError, match="holds no train with"):
        seed_noise.targets({})
    with pytest.raises(UserError, match=r"holds no train\.seed"):
        seed_noise.seed(dvc_lock.parse(lock({("train", "params", "train"): {"lr": 1}})))


def rows(mean: float, passes: int, failed: bool = False) -> seed_noise.Rows:
    judged = [{"id": f"r{k}", "outcome": "ok", "score": mean + k} for k in range(4)]
    if failed:
        judged[3] |= {"outcome": "timeout", "score": None}
    checks = [
        {"id": f"r{k}", "system": s, "strict": s == "base" or k < passes, "checks": {"terse": True}, "stopped": k > 0}
        for k in range(4)
        for s in ("base", "tuned")
    ]
    return judged, checks


def test_numbers_are_those_of_the_tuned_system_on_the_texts_that_all_runs_scored() -> None:
    found = seed_noise.numbers(
        {1: rows(2.0, 4), 0: rows(1.0, 2, failed=True)}, ["strict", "terse", "stop_rate", "no_such"]
    )
    assert list(found) == ["seeds", "n", "score", "strict", "terse", "stop_rate"]
    assert (found["seeds"], found["n"], found["score"]["n"]) == ([0, 1], 4, 3)
    assert found["score"]["means"] == [2.0, 3.0]
    assert found["strict"]["means"] == [0.5, 1.0]
    assert found["stop_rate"]["means"] == [0.75, 0.75]
    said = seed_noise.lines(found)
    assert said[0] == "4 records, training seeds 0, 1"
    assert said[1].startswith("score: 2.000, 3.000; noise up to 12.")
    assert said[3] == "terse: 1.000, 1.000; no variance: all seeds give the same mean"


def test_again_reads_the_runs_that_the_band_names(monkeypatch: pytest.MonkeyPatch) -> None:
    made = {"": rows(1.0, 2), "abc": rows(2.0, 4)}
    monkeypatch.setattr(seed_noise, "here", lambda: made[""])
    monkeypatch.setattr(seed_noise, "Old", str)
    monkeypatch.setattr(seed_noise, "at", made.__getitem__)
    band = seed_noise.numbers({0: made[""], 1: made["abc"]}, ["terse"])
    stored = {**band, "of": "x", "runs": {"0": "", "1": "abc"}}
    entries = dvc_lock.parse(lock())
    assert seed_noise.again(stored, entries) == stored
    assert seed_noise.again({**stored, "score": {"band": 0}}, entries) == stored
    other = dvc_lock.parse(lock({("train", "params", "train", "seed"): 1}))
    with pytest.raises(UserError, match="the run of seed 0 is not the one in the working tree"):
        seed_noise.again(stored, other)

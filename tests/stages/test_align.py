"""Preferences are learnt from sound pairs and live rewards only; a killed run ends in the same bytes."""

from __future__ import annotations

import json
import random
import signal
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from ruamel.yaml import YAML

from anneal import files
from anneal.checks import facts
from anneal.errors import UserError
from anneal.models import loading
from anneal.preference import pair_flaws
from anneal.preference.rule_rewards import Rewards
from anneal.training import dpo, loop
from stages import align, audit
from tests import ending, micro

WORDS = ["quick", "brown", "fox", "dog", "lazy", "the", "and"]
Row = dict[str, Any]
PARAMS: Row = {
    "method": "dpo",
    "quantize": "none",
    "dtype": "float32",
    "checkpointing": False,
    "dpo": {
        "beta": 0.1,
        "sft": 0.5,
        "lr": 0.02,
        "epochs": 2,
        "batch_size": 8,
        "accumulation": 1,
        "schedule": "cosine",
        "warmup": 0.1,
        "max_grad_norm": 1.0,
        "log_steps": 3,
        "eval_steps": 4,
    },
    "grpo": {
        "beta": 0.05,
        "lr": 0.02,
        "steps": 7,
        "prompts": 4,
        "samples": 3,
        "batch_size": 6,
        "temperature": 1.0,
        "max_new_tokens": 8,
        "loss_type": "dapo",
        "scale_rewards": "group",
        "schedule": "constant_with_warmup",
        "warmup": 0.0,
        "max_grad_norm": 1.0,
        "log_steps": 1,
        "save_steps": 2,
        "use_vllm": False,
    },
}
RULES: Row = {
    "folder": "rules",
    "name": "",
    "facts": {"slot": "words", "at_least": 0},
    "foreign": [],
    "also": [],
    "banned": ["dog"],
    "exaggerated": [],
    "encouraged": [],
    "forbid": [],
    "types": {"t": {"require": [], "forbid": [], "length": [4, 9]}},
}
REWARDS: Row = {
    "weights": {"length": 2.0, "banned": 1.0, "stop": 1.0},
    "call_to_action": {"types": [], "pattern": None},
}


def said(name: str, count: int = 6) -> str:
    rng = random.Random(name)
    return " ".join(rng.choice(WORDS) for _ in range(count))


def pair(number: int, kind: str = "weak", **texts: str) -> Row:
    """A sound pair: two texts of like words and like length, in no fixed order of length."""
    name = f"p{number}/{kind}"
    counts = {"chosen": 5 + number % 3, "rejected": 5 + (number + 1) % 3}
    return {
        "id": name,
        "item": f"p{number}",
        "type": "t",
        "kind": kind,
        "prompt": [{"role": "user", "content": f"say {number}"}],
        **{
            side: [{"role": "assistant", "content": texts.get(side) or said(f"{side} {name}", count)}]
            for side, count in counts.items()
        },
    }


def record(number: int) -> Row:
    return {"id": f"r{number}", "item": f"p{number}", "type": "t", "facts": {}} | {
        "prompt": [{"role": "user", "content": said(f"prompt {number}", 3)}],
        "completion": [{"role": "assistant", "content": said(f"golden {number}", 2)}],
    }


PART = {0: "test", 1: "validation"}  # of an item, by its number modulo 6
SOUND = [pair(number, kind) for number in range(30) for kind in ("weak", "fake")]


def audited(pairs: list[Row], parts: dict[str, str] | None = None) -> None:
    """The pairs of each part, and what the audit says of them."""
    part = {row["id"]: (parts or {}).get(row["id"]) or PART.get(int(row["item"][1:]) % 6, "train") for row in pairs}
    for name in pair_flaws.PARTS:
        files.write(f"data/{name}_pairs.jsonl", [row for row in pairs if part[row["id"]] == name])
    section = audit.Audit(max_shortcut_auc=0.95, ngram=2, folds=4, top=3)
    numbers = audit.measure([pair_flaws.pair(row, part[row["id"]]) for row in pairs], section, 42)
    files.write_json("reports/metrics/pairs.json", numbers)


def project(folder: Path, monkeypatch: pytest.MonkeyPatch, **changed: Any) -> Path:
    """A checkout with a random base, an adapter that moves it, sound pairs and rewards with spread."""
    loop.quiet()
    folder.mkdir(parents=True, exist_ok=True)
    monkeypatch.chdir(folder)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    micro.base(folder / "models/base")
    micro.lora(loading.load(dtype="float32"), folder / "models/adapter", lora_dropout=0.2)
    audited(SOUND)
    files.write("data/train.jsonl", [record(number) for number in range(10)])
    files.write_json("rules/vocabulary.json", {"words": WORDS})
    files.write_json("reports/metrics/rollout/tuned.json", {"n": 4, "refusals": [], "temperature": 1.0})
    values = {"align": {**PARAMS, **changed}, "processes": 1, "rewards": REWARDS, "rules": RULES, "seed": 42}
    YAML().dump({"privacy": {"local_only": False}, "threads": 1, **values}, folder / "params.yaml")
    return folder


def learn(**changed: Any) -> None:
    section, rules = align.Align(**{**PARAMS, **changed}), facts.Rules(**RULES)
    align.main(section, processes=1, rewards=Rewards(**REWARDS), rules=rules, seed=42, threads=1)


def outs() -> dict[str, bytes]:
    paths = [*Path("models/aligned").rglob("*"), Path("reports/plots/align.tsv"), Path("reports/metrics/align.json")]
    return {str(path): path.read_bytes() for path in paths if path.is_file()}


def plot() -> list[dict[str, str]]:
    head, *lines = [line.split("\t") for line in Path("reports/plots/align.tsv").read_text().splitlines()]
    return [dict(zip(head, line, strict=True)) for line in lines]


@pytest.fixture(scope="module", params=["dpo", "grpo"])
def aligned(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, bytes]]:
    with pytest.MonkeyPatch.context() as patch:
        project(tmp_path_factory.mktemp("aligned") / request.param, patch, method=request.param)
        learn(method=request.param)
        return request.param, outs()


def test_a_run_that_was_killed_ends_in_the_same_bytes(
    aligned: tuple[str, dict[str, bytes]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    method, wanted = aligned
    folder = project(tmp_path / "b", monkeypatch, method=method)
    done = ending.at_step(folder, "align", {"dpo": 6, "grpo": 5}[method])  # in the second epoch of either
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not Path("models/aligned").exists()
    (found,) = Path(".work/align").iterdir()
    assert loop.checkpoint(found) == str(found / "checkpoint-4")
    learn(method=method)
    assert len(wanted) == 9
    assert outs() == wanted
    assert not found.exists()


def test_what_is_written(aligned: tuple[str, dict[str, bytes]]) -> None:
    method, found = aligned
    names = {name.removeprefix("models/aligned/") for name in found if name.startswith("models/aligned/")}
    assert names == {
        "adapter_config.json",
        "adapter_model.safetensors",
        "align.json",
        "chat_template.jinja",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert json.loads(found["models/aligned/align.json"]) == {"method": method}
    config = json.loads(found["models/aligned/adapter_config.json"])
    assert config["base_model_name_or_path"] == "models/base"
    assert config["target_modules"] == sorted(config["target_modules"])
    assert not any(b"/tmp" in text or b"runtime" in text for text in found.values())


def test_dpo_measures_held_out_pairs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project(tmp_path, monkeypatch)
    learn()
    metrics = json.loads(Path("reports/metrics/align.json").read_text())
    assert (metrics["method"], metrics["steps"], metrics["n"]) == ("dpo", 10, 10)
    assert metrics["pairs"]["train"] == {"n": 40, "refused": {}}
    for way in (metrics["before"]["sum"], metrics["before"]["token"], metrics["after"]["reward"]):
        assert {kind: row["n"] for kind, row in way.items()} == {"all": 10, "fake": 5, "weak": 5}
        assert way["all"]["clusters"] == 5
    gap = {when: metrics["logp"]["chosen"][when] - metrics["logp"]["rejected"][when] for when in ("before", "after")}
    rows = plot()
    assert list(rows[0]) == ["step", *dpo.COLUMNS.values()]
    assert [row["step"] for row in rows] == ["3", "4", "6", "8", "9", "10"]
    assert float(rows[-1]["margin"]) > float(rows[0]["margin"]) > 0
    assert [row["step"] for row in rows if row["validation_accuracy"]] == ["4", "8", "10"]
    assert gap["after"] != gap["before"]
    fall = metrics["logp"]["chosen"]["before"] - metrics["logp"]["chosen"]["after"]
    assert bool(metrics["warnings"]) == (fall > 0)


def test_grpo_moves_the_reward(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project(tmp_path, monkeypatch)
    bigger = {"steps": 24, "prompts": 8, "samples": 6, "batch_size": 48, "lr": 0.05, "log_steps": 6, "beta": 0.0}
    grpo = {**PARAMS["grpo"], **bigger}
    learn(method="grpo", grpo=grpo)
    metrics = json.loads(Path("reports/metrics/align.json").read_text())
    assert metrics["steps"] == 24
    assert metrics["last"]["reward"] > metrics["first"]["reward"] + 0.02
    rows = plot()
    assert {"step", "loss", "reward", "reward_std", "zero_spread", "kl", "tokens", "cut"} < set(rows[0])
    assert {"banned", "length", "stop"} < set(rows[0])
    assert all(not row["kl"] for row in rows), "no reference, no distance from it"
    last = rows[-1]
    total = (2 * float(last["length"]) + float(last["banned"]) + float(last["stop"])) / 4
    assert float(last["reward"]) == pytest.approx(total, abs=1e-4)


def test_none_copies_every_file_byte_for_byte(toy: Path) -> None:
    files = {"adapter_config.json": b'{"r": 4}\r\n', "adapter_model.safetensors": bytes(range(256)), "deep/note": b""}
    for name, content in files.items():
        (toy / "models/adapter" / name).parent.mkdir(parents=True, exist_ok=True)
        (toy / "models/adapter" / name).write_bytes(content)
    (toy / "models/aligned").mkdir()
    (toy / "models/aligned/stale").touch()
    learn(method="none")
    found = {
        str(p.relative_to("models/aligned")): p.read_bytes() for p in Path("models/aligned").rglob("*") if p.is_file()
    }
    assert found == files
    assert sorted(p.name for p in Path("models").iterdir()) == ["adapter", "aligned"]
    assert json.loads(Path("reports/metrics/align.json").read_text()) == {"method": "none"}
    assert len(Path("reports/plots/align.tsv").read_text().splitlines()) == 1


def test_a_missing_adapter_is_refused(toy: Path) -> None:
    (toy / "models/adapter").mkdir(parents=True)
    with pytest.raises(UserError, match=r"models/adapter/adapter_config.json: no such file; `dvc repro train`"):
        learn(method="none")
    assert not Path("models/aligned").exists()


def test_every_method_of_the_section_is_there() -> None:
    assert set(align.METHODS) == set(align.Align.model_fields["method"].annotation.__args__)  # type: ignore[union-attr]
    with pytest.raises(ValidationError):
        align.Align(**{**PARAMS, "method": "unheard-of"})


def adapter_only(folder: Path) -> None:
    """Enough for what is refused before any weight is read."""
    files.write_json(folder / "models/adapter/adapter_config.json", {})


def by_length(number: int) -> Row:
    return pair(number, "weak", rejected=f"fox {number:02d}")


def test_pairs_that_length_alone_tells_apart_are_not_trained_on(toy: Path) -> None:
    adapter_only(toy)
    audited([by_length(number) for number in range(30)])
    with pytest.raises(UserError, match=r"pairs.json: length alone decides every pair: weak; .* align.method: none"):
        learn()
    assert not Path("models/aligned").exists()


def test_equal_sides_are_not_trained_on(toy: Path) -> None:
    adapter_only(toy)
    same = said("twice the same")
    audited([*SOUND[:-1], pair(29, "fake", chosen=same, rejected=same)])
    with pytest.raises(UserError, match=r"fake: identical: chosen == rejected in 1 of 30 pairs"):
        learn()


def test_a_strategy_that_leaks_across_the_split_is_not_trained_on(toy: Path) -> None:
    adapter_only(toy)
    leaked = pair(31, "fake", chosen=SOUND[3]["chosen"][0]["content"], rejected=SOUND[3]["rejected"][0]["content"])
    audited([*SOUND, leaked], {leaked["id"]: "test"})
    with pytest.raises(
        UserError, match=r"fake: leak: 1 of 6 test pairs share with an earlier part: chosen 1, rejected 1"
    ):
        learn()


def test_a_reward_without_spread_is_not_trained_on(toy: Path) -> None:
    adapter_only(toy)
    path = "reports/metrics/rollout/tuned.json"
    with pytest.raises(UserError, match=r"rollout/tuned.json: no such file; `dvc repro rollout@tuned`"):
        learn(method="grpo")
    files.write_json(path, {"n": 0, "refusals": []})
    with pytest.raises(UserError, match=r"no sample has been rewarded; set rollout.prompts above 0"):
        learn(method="grpo")
    files.write_json(path, {"n": 9, "refusals": ["9 of 9 prompts: every sample has the same reward"]})
    with pytest.raises(UserError, match=r"9 of 9 prompts: every sample has the same reward; mend the rewards"):
        learn(method="grpo")
    files.write_json(path, {"n": 9, "refusals": [], "temperature": 0.7})
    with pytest.raises(UserError, match=r"audited at temperature 0.7, align.grpo.temperature is 1; give both the same"):
        learn(method="grpo")


def test_where_nothing_moves_the_figures_before_and_after_are_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Trained in bfloat16 and with dropout in the adapter: neither may reach what is measured.
    project(tmp_path / "still", monkeypatch, method="dpo")
    learn(method="dpo", dtype="bfloat16", dpo={**PARAMS["dpo"], "lr": 1e-12, "epochs": 1})
    found = json.loads(Path("reports/metrics/align.json").read_text())
    for side in ("chosen", "rejected"):
        assert found["logp"][side]["after"] == pytest.approx(found["logp"][side]["before"], abs=1e-5)
    assert {key: found["after"][key] for key in ("sum", "token")} == found["before"]
    assert not [line for line in found["warnings"] if "less likely" in line]


def test_sound_pairs_pass(toy: Path) -> None:
    audited(SOUND)
    align.refuse(align.Align(**PARAMS))


def test_what_cannot_be_had_is_refused_in_one_line(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANNEAL_DEVICE", "cpu")
    audited(SOUND)
    with pytest.raises(UserError, match=r"align.quantize: nf4 needs a CUDA card, this device is cpu"):
        align.refuse(align.Align(**{**PARAMS, "quantize": "nf4"}))


def test_a_checkpoint_belongs_to_its_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project(tmp_path, monkeypatch)
    rules = facts.Rules(**RULES)
    names = [align.checkpoints([values], rules) for values in (1, 2, 1)]
    Path("data/test_pairs.jsonl").write_text("")
    names.append(align.checkpoints([1], rules))
    assert names[0] == names[2]
    assert len(set(names)) == 3

"""The reward model: it learns what pairs show, refuses pairs that show nothing, and a killed run changes no byte."""

from __future__ import annotations

import json
import math
import os
import random
import signal
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from anneal import files
from anneal.dataset import chat_template
from anneal.errors import UserError
from anneal.models import loading, reward_model
from anneal.training import loop, reward_trainer
from stages import audit, reward
from tests import ending, micro
from tests.conftest import ROOT

WORDS = ["quick", "brown", "fox", "dog", "lazy", "天气", "很好", "今天"]
PARAMS: dict[str, Any] = {
    "epochs": 3,
    "dtype": "bfloat16",
    "batch_size": 4,
    "accumulation": 1,
    "lr": 0.03,
    "schedule": "cosine",
    "warmup": 0.05,
    "max_grad_norm": 1.0,
    "center": 0.01,
    "checkpointing": False,
    "log_steps": 3,
    "eval_steps": 5,
    "keep": "best",
    "lora": {
        "r": 4,
        "alpha": 8,
        "dropout": 0.05,
        "targets": "all-linear",
        "rslora": False,
        "dora": False,
        "adaptive": False,
    },
}
# Of items by number: 26 pairs to learn (7 batches, the last one short), 9 and 14 held out.
PARTS = {"train": range(26), "validation": range(30, 39), "test": range(40, 54)}
AUDIT = audit.Audit(max_shortcut_auc=0.95, ngram=1, folds=3, top=3)
Row = dict[str, Any]


def turns(role: str, words: str) -> list[dict[str, str]]:
    return [{"role": role, "content": words}]


def pair(number: int, kind: str = "shout", chosen: str = "", rejected: str = "") -> Row:
    """Chosen ends in a full stop and rejected in an exclamation mark, of several lengths either way."""
    rng = random.Random(number)
    one, other = (" ".join(rng.choice(WORDS) for _ in range(rng.randint(2, 9))) for _ in range(2))
    return {
        "id": f"p{number}/t{number % 2}",
        "item": f"p{number}",
        "type": f"t{number % 2}",
        "kind": kind,
        "prompt": turns("user", rng.choice(WORDS) + f" {number}"),
        "chosen": turns("assistant", chosen or f"{one} {number}."),
        "rejected": turns("assistant", rejected or f"{other} {number}!"),
    }


def project(folder: Path, **changed: Any) -> Path:
    """A checkout with a random base and pairs of two strategies."""
    micro.base(folder / "models/base")
    for part, numbers in PARTS.items():
        rows = [pair(number, "shout" if number % 3 else "cry") for number in numbers]
        files.write(folder / f"data/{part}_pairs.jsonl", rows)
    numbers = {
        "all": {"parts": {part: len(found) for part, found in PARTS.items()}},
        "strategies": {"shout": {}},
        "flags": [],
    }
    files.write_json(folder / "reports/metrics/pairs.json", numbers)
    values = {"privacy": {"local_only": False}, "seed": 42, "threads": 1, "processes": 1}
    YAML().dump({**values, "reward": {**PARAMS, **changed}}, folder / "params.yaml")
    return folder


def section(**changed: Any) -> reward.Reward:
    return reward.Reward(**{**PARAMS, **changed})


def outs(folder: Path) -> dict[str, bytes]:
    tops = ("models/reward", "reports/metrics/reward.json", "reports/plots", "data/rewards.jsonl")
    paths = [p for top in tops for p in [folder / top, *(folder / top).rglob("*")] if p.is_file()]
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(paths)}


def once(folder: Path, monkeypatch: pytest.MonkeyPatch, **changed: Any) -> Path:
    project(folder, **changed)
    monkeypatch.chdir(folder)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    monkeypatch.setenv("ANNEAL_DEVICE", "cpu")
    reward.main(processes=1, reward=section(**changed), seed=42, threads=1)
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        return once(tmp_path_factory.mktemp("trained") / "a", patch)


@pytest.fixture(scope="module")
def last(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Without rounding in training, and the weights of the last step kept."""
    with pytest.MonkeyPatch.context() as patch:
        return once(tmp_path_factory.mktemp("last") / "a", patch, keep="last", dtype="float32", epochs=2)


def metrics(folder: Path) -> Any:
    return json.loads((folder / "reports/metrics/reward.json").read_text())


def scores(folder: Path, part: str) -> list[Row]:
    return [row for row in files.read(folder / "data/rewards.jsonl") if row["part"] == part]


def plot(folder: Path) -> list[Row]:
    head, *lines = [line.split("\t") for line in (folder / "reports/plots/reward.tsv").read_text().splitlines()]
    return [{key: float(cell) for key, cell in zip(head, line, strict=True) if cell} for line in lines]


def test_a_run_that_was_killed_ends_in_the_same_bytes(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = project(tmp_path / "b")
    stopped = ending.at_step(folder, "reward", 6, "SIGTERM")
    assert stopped.returncode == 130, stopped.stderr
    killed = ending.at_step(folder, "reward", 12)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert "step 6/" in killed.stderr, "it did not go on from step 5"
    assert "step 3/" not in killed.stderr
    assert outs(folder) == {}
    (found,) = (folder / ".work/reward").iterdir()
    assert loop.checkpoint(found) == str(found / "checkpoint-10")
    (found / "checkpoint-15").mkdir()  # as a kill in the middle of writing leaves it
    monkeypatch.chdir(folder)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    monkeypatch.setenv("ANNEAL_DEVICE", "cpu")
    reward.main(processes=1, reward=section(), seed=42, threads=1)
    assert len(outs(trained)) == 6
    assert outs(folder) == outs(trained)
    assert not found.exists()


def test_it_learns_what_chosen_texts_share(trained: Path) -> None:
    found = metrics(trained)
    assert found["n"] == 14
    assert found["accuracy"]["all"]["mean"] > 0.9
    assert (found["accuracy"]["cry"]["n"], found["accuracy"]["shout"]["n"]) == (4, 10)
    assert found["accuracy"]["all"]["clusters"] == 14
    assert found["margin"]["all"]["low"] > 0
    assert found["calibration"]["brier"] < 0.2
    assert (found["steps"], found["epochs"], found["refusals"], found["warnings"]) == (21, 3, [], [])
    assert plot(trained)[-1]["validation_accuracy"] > 0.9
    assert not any(word in json.dumps(found) for word in ("runtime", "second", "time"))


def test_the_scores_are_those_of_the_folder(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of training in bfloat16 with the best step's weights: what a later stage loads says the same."""
    monkeypatch.chdir(trained)
    scorer, note = reward_model.load(), json.loads(Path("models/reward/reward.json").read_text())
    assert scorer
    checked = 0
    for part, numbers in PARTS.items():
        rows = scores(trained, part)
        records = files.read(f"data/{part}_pairs.jsonl")
        assert [(row["id"], row["kind"]) for row in rows] == [(record["id"], record["kind"]) for record in records]
        for side in ("chosen", "rejected"):
            texts = [record[side][0]["content"] for record in records]
            told = scorer.score([record["prompt"] for record in records], texts)
            kept = [(row[side] - note["centre"]) / note["scale"] for row in rows]
            assert told == pytest.approx(kept, abs=1e-5)
            checked += len(numbers)
    assert checked == 98
    values = [row[side] for row in scores(trained, "validation") for side in ("chosen", "rejected")]
    assert note["centre"] == pytest.approx(statistics.fmean(values), abs=1e-5)
    assert (note["made"], note["dtype"]) == (True, "bfloat16")


def test_the_curve_counts_every_pair_once(last: Path) -> None:
    """Nine validation pairs in batches of four: the last one is no batch of its own weight."""
    margins = [row["chosen"] - row["rejected"] for row in scores(last, "validation")]
    end = plot(last)[-1]
    assert end["validation_margin"] == pytest.approx(statistics.fmean(margins), rel=1e-4)
    assert end["validation_accuracy"] == pytest.approx(statistics.fmean(m > 0 for m in margins), rel=1e-4)
    batches = [statistics.fmean(margins[at : at + 4]) for at in (0, 4, 8)]
    assert end["validation_margin"] != pytest.approx(statistics.fmean(batches), rel=1e-3)
    assert list(end) == ["step", "epoch", "loss", "lr", "accuracy", "margin"] + [
        f"validation_{name}" for name in ("loss", "accuracy", "margin")
    ]
    assert [row["step"] for row in plot(last)] == [3, 5, 6, 9, 10, 12, 14]


def test_the_loss_is_bradley_and_terrys_with_its_centre(last: Path) -> None:
    rows = scores(last, "validation")
    losses = [math.log1p(math.exp(row["rejected"] - row["chosen"])) for row in rows]
    pull = [0.01 * (row["chosen"] + row["rejected"]) ** 2 for row in rows]
    assert metrics(last)["validation_loss"]["last"] == pytest.approx(
        statistics.fmean(losses) + statistics.fmean(pull), rel=1e-3
    )


def test_the_best_weights_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Validation pairs with their sides changed over: the more is learnt, the worse."""
    folder = project(tmp_path / "best")
    rows = [pair(number) for number in PARTS["validation"]]
    turned = [{**row, "chosen": row["rejected"], "rejected": row["chosen"]} for row in rows]
    files.write(folder / "data/validation_pairs.jsonl", turned)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("ANNEAL_DEVICE", "cpu")
    reward.main(processes=1, reward=section(dtype="float32", center=0), seed=42, threads=1)
    found = metrics(folder)["validation_loss"]
    losses = {row["step"]: row["validation_loss"] for row in plot(folder) if "validation_loss" in row}
    assert len(losses) == 5
    assert losses[found["best_step"]] == min(losses.values())
    assert found["best"] < found["last"] / 2
    rows = scores(folder, "validation")
    kept = statistics.fmean(math.log1p(math.exp(row["rejected"] - row["chosen"])) for row in rows)
    assert kept == pytest.approx(found["best"], abs=2e-6)


def test_no_epochs_make_no_model(toy: Path) -> None:
    project(toy)
    for part in PARTS:
        files.write(f"data/{part}_pairs.jsonl", [])
    Path("reports/metrics/pairs.json").unlink()
    reward.main(processes=1, reward=section(epochs=0), seed=42, threads=1)
    assert {name: len(body) for name, body in outs(toy).items() if name.endswith("jsonl")} == {"data/rewards.jsonl": 0}
    assert [path.name for path in Path("models/reward").iterdir()] == ["reward.json"]
    assert (json.loads(Path("models/reward/reward.json").read_text()), metrics(toy)) == ({"made": False}, {"n": 0})
    assert plot(toy) == []
    assert reward_model.load() is None


def planted(folder: Path, monkeypatch: pytest.MonkeyPatch, **rows: Any) -> None:
    """The pairs of a project changed, audited anew, and a reward stage that must not load any weights."""
    for part, numbers in PARTS.items():
        found = [rows.get("make", pair)(number) for number in rows.get(part, numbers)]
        files.write(folder / f"data/{part}_pairs.jsonl", found)
    audit.main(AUDIT, 42)

    def loaded(*_: Any) -> None:
        raise AssertionError("weights were loaded")

    monkeypatch.setattr(reward_model, "untrained", loaded)
    monkeypatch.setattr(loading, "tokenizer", loaded)


def longer(number: int) -> Row:
    return pair(number, "padded", rejected=pair(number)["chosen"][0]["content"] + " dog" * 5)


def same(number: int) -> Row:
    return pair(
        number, "twins" if number % 2 else "shout", **({"chosen": "a b", "rejected": "a  b"} if number % 2 else {})
    )


TRAPS = [
    ({"make": longer}, r"length alone decides every pair: padded"),
    ({"make": same}, r"twins: identical: chosen == rejected in \d+ of \d+ pairs"),
    ({"test": range(10, 24)}, r"shout: leak: 14 of 14 test pairs share with an earlier part: item 14"),
]


@pytest.mark.parametrize(("rows", "line"), TRAPS, ids=["length", "identical", "leak"])
def test_pairs_that_teach_nothing_are_refused_by_name(
    toy: Path, monkeypatch: pytest.MonkeyPatch, rows: Row, line: str
) -> None:
    project(toy)
    planted(toy, monkeypatch, **rows)
    with pytest.raises(UserError, match=r"^reports/metrics/pairs.json: .*" + line) as err:
        reward.main(processes=1, reward=section(), seed=42, threads=1)
    assert str(err.value).endswith("; mend the pairs, or set reward.epochs to 0")
    assert "\n" not in str(err.value)
    assert outs(toy) == {}
    reward.main(processes=1, reward=section(epochs=0), seed=42, threads=1)


def test_a_strategy_that_words_give_away_is_learnt_and_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = project(tmp_path / "w")
    monkeypatch.chdir(folder)
    with monkeypatch.context() as patch:
        planted(folder, patch)
    told = json.loads((folder / "reports/metrics/pairs.json").read_text())["flags"]
    assert [flag["name"] for flag in told] == ["shortcut"]
    monkeypatch.setenv("ANNEAL_DEVICE", "cpu")
    reward.main(processes=1, reward=section(epochs=0.2), seed=42, threads=1)
    (line,) = metrics(folder)["warnings"]
    assert line.startswith("shout: shortcut: character n-grams tell chosen from rejected")


def test_what_cannot_be_had_is_refused_in_one_line(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project(toy)
    monkeypatch.setenv("ANNEAL_DEVICE", "cpu")

    def refused(line: str, **changed: Any) -> None:
        with pytest.raises(UserError, match=line):
            reward.main(processes=1, reward=section(**changed), seed=42, threads=1)

    refused(r"reward.lora.adaptive: true is for train only", lora={**PARAMS["lora"], "adaptive": True})
    refused(r"params.yaml: reward: No modules were targeted", lora={**PARAMS["lora"], "targets": ["nothing"]})
    refused(r"reward.lr", lr=1e30)
    files.write("data/validation_pairs.jsonl", [])
    refused(r"data/validation_pairs.jsonl: no pairs, but reward.keep: best needs them; set last")
    files.write("data/train_pairs.jsonl", [pair(1, chosen="dog " * 600)])
    refused(r"data/train_pairs.jsonl: p1/t1: \d+ tokens, the model holds 512", keep="last")
    files.write("data/train_pairs.jsonl", [])
    refused(r"data/train_pairs.jsonl: no pairs; set reward.epochs to 0")
    Path("models/base").rename("models/other")
    refused(r"data/train_pairs.jsonl: no pairs; set reward.epochs to 0")
    assert outs(toy) == {}


def test_a_pair_that_cannot_be_encoded_is_left_out_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = project(tmp_path / "j")
    template = "{% if messages[0].role == 'system' %}{{ raise_exception('no') }}{% endif %}" + micro.TEMPLATE
    micro.tokenizer(template).save_pretrained(folder / "models/base")
    odd = {**pair(77), "prompt": [*turns("system", "x"), *turns("user", "y")]}
    files.write(folder / "data/train_pairs.jsonl", [odd, *map(pair, range(9))])
    files.write(folder / "data/validation_pairs.jsonl", [])
    files.write(folder / "data/test_pairs.jsonl", [])
    monkeypatch.chdir(folder)
    monkeypatch.setenv("ANNEAL_DEVICE", "cpu")
    reward.main(
        processes=1, reward=section(keep="last", epochs=1, checkpointing=True, accumulation=2), seed=1, threads=1
    )
    found = metrics(folder)
    assert found["refusals"] == ["train: 1 left out: the chat template refuses the conversation: no"]
    assert (len(scores(folder, "train")), found["n"], found["steps"]) == (9, 0, 2)
    assert found["accuracy"]["all"]["reason"] == "empty: there is nothing to measure"
    assert found["validation_loss"] == {"best": None, "best_step": None, "last": None}
    files.write(folder / "data/train_pairs.jsonl", [odd])
    with pytest.raises(UserError, match="no pair can be masked; the most frequent reason: the chat template refuses"):
        reward.main(processes=1, reward=section(keep="last"), seed=1, threads=1)


def test_batches_hold_each_pair_whole_and_dropout_is_what_params_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the tokenizer pads with its stop, which is then no padding."""
    import torch

    folder = project(tmp_path / "k")
    tokenizer = micro.tokenizer()
    tokenizer.pad_token = tokenizer.eos_token
    tokenizer.save_pretrained(folder / "models/base")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("ANNEAL_DEVICE", "cpu")
    made: list[Any] = []
    real = reward_trainer.trainer

    def kept(*words: Any, **options: Any) -> Any:
        made.append(real(*words, **options))
        return made[0]

    monkeypatch.setattr(reward_trainer, "trainer", kept)
    reward.main(processes=1, reward=section(epochs=0.2), seed=42, threads=1)
    (trainer,) = made
    assert {m.p for m in trainer.model.modules() if isinstance(m, torch.nn.Dropout)} >= {0.05}
    found = set()
    for batch in trainer.get_train_dataloader():
        assert len(batch["input_ids"]) % 2 == 0
        for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True):
            found.add(tokenizer.decode(ids[mask == 1]))
            assert ids[mask == 1][-1] in chat_template.stop_ids(tokenizer)
    wanted = {
        f"<|im_start|>user\n{row['prompt'][0]['content']}<|im_end|>\n<|im_start|>assistant\n{row[side][0]['content']}"
        + "<|im_end|>"
        for row in files.read("data/train_pairs.jsonl")
        for side in ("chosen", "rejected")
    }
    assert found == wanted
    pad = trainer.model.config.pad_token_id
    assert pad == trainer.data_collator.pad_token_id
    assert pad not in chat_template.stop_ids(tokenizer)


def test_heavy_libraries_wait_until_the_params_are_right(tmp_path: Path) -> None:
    folder = project(tmp_path / "h")
    files.write(folder / "data/train_pairs.jsonl", [])
    code = "import sys; from stages import reward; from anneal.params import pick\n"
    code += "try: reward.main(**pick(reward.main))\n"
    code += "except Exception as err: print(err, sorted({'torch', 'trl', 'sklearn'} & set(sys.modules)))"
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, env=env, capture_output=True, text=True, check=True)
    assert "no pairs; set reward.epochs to 0" in done.stdout
    assert done.stdout.strip().endswith("[]")

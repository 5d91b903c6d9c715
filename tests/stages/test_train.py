"""Training: exact labels reach the model, a killed run ends in the same bytes, and the adapter is a plain folder."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ruamel.yaml import YAML

from anneal import fingerprint
from anneal.dataset import chat_template, encoding
from anneal.errors import UserError
from anneal.models import loading
from anneal.training import loop
from stages import train
from tests import ending, micro
from tests.conftest import ROOT

WORDS = ["quick", "brown", "fox", "dog", "lazy", "天气", "很好", "今天"]
PARAMS: dict[str, Any] = {
    "lora": {
        "r": 4,
        "alpha": 8,
        "dropout": 0.05,
        "targets": "all-linear",
        "rslora": False,
        "dora": False,
        "adaptive": False,
    },
    "quantize": "none",
    "dtype": "bfloat16",
    "turns": "last",
    "epochs": 3,
    "batch_size": 8,
    "accumulation": 1,
    "batches": "length",
    "packing": None,
    "optimizer": "adamw_torch",
    "lr": 0.01,
    "schedule": "cosine",
    "warmup": 0.05,
    "weight_decay": 0.01,
    "adam_beta2": 0.98,
    "max_grad_norm": 1.0,
    "checkpointing": False,
    "log_steps": 3,
    "eval_steps": 5,
    "patience": None,
    "samples": 2,
    "seed": 0,
    "keep": "best",
}


def record(number: int) -> dict[str, Any]:
    rng = random.Random(number)
    words = " ".join(rng.choice(WORDS) for _ in range(rng.randint(1, 16)))
    return {
        "id": f"p{number}",
        "item": "p",
        "type": "t",
        "facts": {},
        "prompt": [{"role": "user", "content": words}],
        "completion": [{"role": "assistant", "content": words[::-1]}],
    }


def project(folder: Path, **changed: Any) -> Path:
    """A checkout with a random base, 52 rows to learn and 9 to validate on."""
    (folder / "data").mkdir(parents=True)
    micro.base(folder / "models/base")
    for name, numbers in (("train", range(52)), ("validation", range(100, 109))):
        lines = [json.dumps(record(number), ensure_ascii=False) for number in numbers]
        (folder / f"data/{name}.jsonl").write_text("\n".join(lines) + "\n", "utf-8")
    YAML().dump(
        {"privacy": {"local_only": False}, "processes": 1, "seed": 42, "threads": 1, "train": {**PARAMS, **changed}},
        folder / "params.yaml",
    )
    return folder


def section(**changed: Any) -> train.Train:
    return train.Train(**{**PARAMS, **changed})


def outs(folder: Path) -> dict[str, bytes]:
    paths = [
        p
        for top in ("models/adapter", "reports", "data/samples.jsonl")
        for p in [folder / top, *(folder / top).rglob("*")]
        if p.is_file()
    ]
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(paths)}


def once(folder: Path, monkeypatch: pytest.MonkeyPatch, **changed: Any) -> Path:
    project(folder, **changed)
    monkeypatch.chdir(folder)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    train.main(processes=1, seed=42, threads=1, train=section(**changed))
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        return once(tmp_path_factory.mktemp("trained") / "a", patch)


def test_a_run_that_was_killed_ends_in_the_same_bytes(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = project(tmp_path / "b")
    stopped = ending.at_step(folder, "train", 6, "SIGTERM")
    assert stopped.returncode == 130, stopped.stderr
    assert stopped.stderr.strip().endswith("run again to go on")
    assert not (folder / "models/adapter").exists()
    killed = ending.at_step(folder, "train", 12)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert "step 6/" in killed.stderr, "it did not go on from step 5"
    assert "step 3/" not in killed.stderr
    (found,) = (folder / ".work/train").iterdir()
    assert loop.checkpoint(found) == str(found / "checkpoint-10")
    (found / "checkpoint-15").mkdir()  # as a kill in the middle of writing leaves it
    monkeypatch.chdir(folder)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    train.main(processes=1, seed=42, threads=1, train=section())
    assert len(outs(trained)) == 9
    assert outs(folder) == outs(trained)
    assert not found.exists()


def test_samples_are_answers_at_each_validation(trained: Path) -> None:
    rows = [json.loads(line) for line in (trained / "data/samples.jsonl").read_text().splitlines()]
    plot = (trained / "reports/plots/train.tsv").read_text().splitlines()[1:]
    validated = [int(line.split("\t")[0]) for line in plot if line.split("\t")[-1]]
    assert len(validated) >= 4
    assert [(row["step"], row["id"]) for row in rows] == [
        (step, name) for step in validated for name in ("p100", "p101")
    ]
    assert {row["finish"] for row in rows} <= {"stop", "length"}
    assert len({row["text"] for row in rows}) > 2, "the same words at every step"


def test_samples_change_no_weight(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To look at a model must not move it: dropout and the random state are those of a run without samples."""
    folder = once(tmp_path / "s", monkeypatch, samples=0)
    assert (folder / "data/samples.jsonl").read_text() == ""
    weights = "models/adapter/adapter_model.safetensors"
    assert outs(folder)[weights] == outs(trained)[weights]


def test_an_adaptive_rank_is_learnt_and_loads_plainly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from peft import PeftModel

    folder = once(tmp_path / "r", monkeypatch, lora={**PARAMS["lora"], "adaptive": True}, samples=0, keep="last")
    config = json.loads((folder / "models/adapter/adapter_config.json").read_text())
    assert (config["peft_type"], config["target_r"], config["init_r"]) == ("ADALORA", 4, 6)
    assert sum(sum(kept) for kept in config["rank_pattern"].values()) < 6 * len(config["rank_pattern"])
    PeftModel.from_pretrained(loading.load(folder / "models/base", dtype="float32"), folder / "models/adapter")
    losses = [line.split("\t") for line in (folder / "reports/plots/train.tsv").read_text().splitlines()[1:]]
    assert float(losses[-1][2]) < float(losses[0][2])


def test_the_adapter_is_a_plain_folder(trained: Path) -> None:
    from peft import PeftModel
    from safetensors.numpy import load_file

    folder = trained / "models/adapter"
    names = {path.name for path in folder.iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors", "generation_config.json", "tokenizer.json"} <= names
    assert not names & {"README.md", "training_args.bin"}
    config = json.loads((folder / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "models/base"
    assert config["target_modules"] == sorted(config["target_modules"])
    assert len(config["target_modules"]) == 14
    for path in folder.iterdir():
        assert str(trained).encode() not in path.read_bytes()
    tokenizer = loading.tokenizer(folder)
    assert json.loads((folder / "generation_config.json").read_text())["eos_token_id"] == chat_template.stop_ids(
        tokenizer
    )
    assert max(abs(v).max() for k, v in load_file(folder / "adapter_model.safetensors").items() if "lora_B" in k) > 0
    assert PeftModel.from_pretrained(loading.load(trained / "models/base"), str(folder)).peft_config["default"].r == 4


def test_metrics_and_steps(trained: Path) -> None:
    metrics = json.loads((trained / "reports/metrics/train.json").read_text())
    assert metrics["steps"] == 21
    assert metrics["epochs"] == 3
    assert metrics["rows"] == {"train": 52, "validation": 9}
    assert metrics["stops_learnt"] == 1
    assert metrics["tokens"]["learnt"] == sum(
        len(micro_ids(record(n)["completion"][0]["content"])) + 1 for n in range(52)
    )
    assert metrics["parameters"]["trainable"] == 2048
    lines = [line.split("\t") for line in (trained / "reports/plots/train.tsv").read_text().splitlines()]
    assert lines[0] == ["step", "epoch", "loss", "lr", "validation_loss"]
    assert [int(line[0]) for line in lines[1:]] == [3, 5, 6, 9, 10, 12, 15, 18, 20, 21]
    losses = [float(line[4]) for line in lines[1:] if line[4]]
    assert len(losses) == 5
    assert metrics["validation_loss"]["best"] == pytest.approx(min(losses), rel=1e-4)
    assert losses[-1] < losses[0]
    assert not any(word in json.dumps(metrics) for word in ("runtime", "second", "time"))
    assert not list((trained / ".work/train").iterdir())


def micro_ids(text: str) -> list[int]:
    return list(micro.tokenizer()(text, add_special_tokens=False)["input_ids"])


def test_order_visits_every_row_once_and_differs_by_epoch() -> None:
    lengths, done = [random.Random(n).randint(1, 300) for n in range(1003)], 0
    for grouped in (False, True):
        epochs = [encoding.order(lengths, 16, 7, epoch, grouped) for epoch in range(3)]
        for epoch in epochs:
            assert sorted(epoch) == list(range(1003))
            done += 1
        assert epochs[0] != epochs[1] != epochs[2]
        assert encoding.order(lengths, 16, 7, 1, grouped) == epochs[1]
        assert encoding.order(lengths, 16, 8, 1, grouped) != epochs[1]
    assert done == 6


def test_grouped_batches_hold_rows_of_like_length_and_begin_with_the_longest() -> None:
    lengths = [random.Random(n).randint(1, 300) for n in range(1000)]

    def padding(order: list[int]) -> float:
        batches = [[lengths[row] for row in order[at : at + 16]] for at in range(0, 1000, 16)]
        return sum(max(batch) * len(batch) for batch in batches) / sum(lengths)

    assert padding(encoding.order(lengths, 16, 7, 0, True)) < 1.1
    assert padding(encoding.order(lengths, 16, 7, 0, False)) > 1.7
    first = encoding.order(lengths, 16, 7, 0, True)[:16]
    assert max(lengths[row] for row in first) == 300
    starts = [lengths[row] for row in encoding.order(lengths, 16, 7, 1, True)[::16]]
    assert starts != sorted(starts, reverse=True), "lengths must not fall through the epoch"
    assert encoding.order([5, 3], 16, 7, 0, True) in ([0, 1], [1, 0])
    assert encoding.order([], 16, 7, 0, True) == []


def ready(folder: Path, monkeypatch: pytest.MonkeyPatch, **changed: Any) -> tuple[Any, encoding.Rows, Any]:
    """A trainer that has not begun, its rows and its tokenizer."""
    from peft import LoraConfig

    loop.quiet()
    monkeypatch.chdir(project(folder))
    params_now, tokenizer = section(dtype="float32", keep="last", **changed), loading.tokenizer()
    learnt = train.read("data/train.jsonl", tokenizer, params_now)
    made = loop.trainer(
        1,
        params_now.batches == "length",
        model=loading.load(),
        processing_class=tokenizer,
        args=train.config(params_now, 1, folder / "o", False),
        train_dataset=learnt.dataset(),
        peft_config=LoraConfig(r=2, task_type="CAUSAL_LM", target_modules="all-linear"),
    )
    return made, learnt, tokenizer


def test_packed_rows_do_not_see_each_other_and_keep_their_stops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    made, learnt, tokenizer = ready(tmp_path / "c", monkeypatch, packing=200, batches="random")
    stops = chat_template.stop_ids(tokenizer)
    encoding.check_packing(made, learnt, stops)
    made.model.eval()
    packed = made.train_dataset[0]
    lengths = packed["seq_lengths"]
    assert len(lengths) >= 2
    assert sum(lengths) <= 200

    def loss(ids: list[int], labels: list[int], **extra: Any) -> float:
        batch = {"input_ids": torch.tensor([ids]), "labels": torch.tensor([labels]), **extra}
        with torch.no_grad():
            return float(made.compute_loss(made.model, batch, num_items_in_batch=torch.tensor(1)))

    apart, at = 0.0, 0
    for length in lengths:
        ids, labels = packed["input_ids"][at : at + length], packed["labels"][at : at + length]
        apart += loss(ids, labels, attention_mask=torch.ones(1, length, dtype=torch.long))
        at += length
    with torch.no_grad():
        together = float(
            made.compute_loss(made.model, made.data_collator([packed]), num_items_in_batch=torch.tensor(1))
        )
    assert together == pytest.approx(apart, rel=1e-4)
    ones = torch.ones(1, at, dtype=torch.long)
    assert loss(packed["input_ids"], packed["labels"], attention_mask=ones) != pytest.approx(apart, rel=1e-4)


def test_a_cut_row_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, learnt, tokenizer = ready(tmp_path / "d", monkeypatch)
    stops = chat_template.stop_ids(tokenizer)
    encoding.check_packing(made, learnt, stops)
    cut = made.train_dataset.map(lambda row: {key: value[:40] for key, value in row.items()})
    made.train_dataset = cut
    with pytest.raises(UserError, match="of 52 stops are left"):
        encoding.check_packing(made, learnt, stops)


def test_the_labels_that_reach_the_model_are_the_output_and_its_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, _, tokenizer = ready(tmp_path / "e", monkeypatch)
    seen = set()
    for batch in made.get_train_dataloader():
        assert batch["input_ids"].shape == batch["labels"].shape == batch["attention_mask"].shape
        for labels in batch["labels"].tolist():
            seen.add(tokenizer.decode([label for label in labels if label != chat_template.IGNORE]))
    assert seen == {record(number)["completion"][0]["content"] + "<|im_end|>" for number in range(52)}


def test_the_loss_is_the_one_trl_computes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch
    from trl import SFTTrainer

    made, _, _ = ready(tmp_path / "f", monkeypatch)
    made.model.eval()
    batch = made.data_collator([made.train_dataset[n] for n in range(8)])
    with torch.no_grad():
        here = float(made.compute_loss(made.model, dict(batch)))
        there = float(SFTTrainer.compute_loss(made, made.model, dict(batch)))
    assert here == pytest.approx(there, rel=1e-5)


def test_training_stops_early(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = once(tmp_path / "g", monkeypatch, lr=1e-12, patience=1)
    metrics = json.loads((folder / "reports/metrics/train.json").read_text())
    assert metrics["stopped_early"]
    assert metrics["steps"] == 10, "the second validation is no better than the first"
    assert metrics["validation_loss"]["best_step"] == 5


def test_without_validation_rows_the_last_weights_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = project(tmp_path / "h")
    (folder / "data/validation.jsonl").write_text("")
    monkeypatch.chdir(folder)
    with pytest.raises(UserError, match=r"data/validation.jsonl: empty"):
        train.main(processes=1, seed=42, threads=1, train=section())
    train.main(
        processes=1, seed=42, threads=1, train=section(keep="last", epochs=1, checkpointing=True, accumulation=2)
    )
    metrics = json.loads((folder / "reports/metrics/train.json").read_text())
    assert metrics["validation_loss"] == {"best": None, "best_step": None, "last": None}
    assert metrics["steps"] == 4


def test_what_cannot_be_had_is_refused_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANNEAL_DEVICE", "cpu")
    for changed, said in (
        ({"quantize": "nf4"}, "train.quantize: nf4 needs a CUDA card"),
        ({"dtype": "float16"}, "train.dtype: float16 needs a CUDA card"),
        ({"packing": 64}, "train.batches: length does nothing"),
    ):
        with pytest.raises(UserError, match=said):
            train.check(section(**changed), validate=True)
    monkeypatch.chdir(project(tmp_path / "i"))
    tokenizer = loading.tokenizer()
    with pytest.raises(UserError, match=r"data/train.jsonl: p\d+: \d+ tokens, train.packing holds 30; lower"):
        train.read("data/train.jsonl", tokenizer, section(packing=30, batches="random"))
    with pytest.raises(UserError, match="Target modules"):
        train.main(processes=1, seed=1, threads=1, train=section(lora={**PARAMS["lora"], "targets": ["nothing"]}))


def test_a_row_that_cannot_be_masked_is_left_out_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project(tmp_path / "j"))
    tokenizer = loading.tokenizer()
    tokenizer.chat_template = (
        "{% if messages[0].role == 'system' %}{{ raise_exception('no') }}{% endif %}" + micro.TEMPLATE
    )
    bad = {**record(1), "prompt": [{"role": "system", "content": "x"}, *record(1)["prompt"]]}
    Path("data/train.jsonl").write_text("\n".join(json.dumps(row) for row in (bad, record(2), bad)) + "\n")
    learnt = train.read("data/train.jsonl", tokenizer, section())
    assert learnt.refused == {"the chat template refuses the conversation: no": 2}
    assert len(learnt.ids) == 1
    Path("data/train.jsonl").write_text(json.dumps(bad) + "\n")
    with pytest.raises(UserError, match="no row can be masked"):
        train.read("data/train.jsonl", tokenizer, section())


def test_a_loss_that_is_not_finite_stops_the_run() -> None:
    watch = loop.watch(validate=True)
    state = SimpleNamespace(global_step=7, max_steps=9, is_world_process_zero=True)
    watch.on_log(None, state, None, logs={"loss": 1.0})
    for name in ("loss", "eval_loss", "grad_norm"):
        with pytest.raises(UserError, match=r"step 7: the loss or its gradient is NaN or infinite; lower train.lr"):
            watch.on_log(None, state, None, logs={name: float("nan")})


def test_the_fingerprint_follows_everything_that_decides_the_bytes(tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    (tmp_path / "base/a").write_text("1")
    (tmp_path / "data").write_text("2")
    paths = [tmp_path / "base", tmp_path / "data"]
    names = [fingerprint.of(paths, [1, {"lr": 0.1}]), fingerprint.of(paths, [1, {"lr": 0.2}])]
    assert fingerprint.of(paths, [1, {"lr": 0.1}]) == names[0]
    (tmp_path / "base/a").write_text("3")
    names.append(fingerprint.of(paths, [1, {"lr": 0.1}]))
    (tmp_path / "base/b").write_text("1")
    names.append(fingerprint.of(paths, [1, {"lr": 0.1}]))
    assert len(set(names)) == 4


def test_heavy_libraries_wait_until_the_params_are_right(tmp_path: Path) -> None:
    folder = project(tmp_path / "k")
    text = (folder / "params.yaml").read_text().replace("lr: 0.01", "lr: much")
    (folder / "params.yaml").write_text(text)
    code = "import sys; from stages import train; from anneal.params import pick\n"
    code += "try: pick(train.main)\nexcept Exception as err: print(err, sorted({'torch', 'trl'} & set(sys.modules)))"
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, env=env, capture_output=True, text=True, check=True)
    assert "train.lr" in done.stdout
    assert done.stdout.strip().endswith("[]")

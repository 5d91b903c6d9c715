"""The train stage against a plain_loop of plain PyTorch that shares no line with it: the same loss at every step.

Only what is drawn at random is read out of the stage: the first values of the adapter, and the order of the rows.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from anneal.dataset import encoding
from anneal.training import loop
from stages import train
from tests import micro
from tests.stages.test_train import PARAMS, project, section

RECIPE: dict[str, Any] = {
    "lora": {**PARAMS["lora"], "dropout": 0.0},
    "dtype": "float32",
    "epochs": 1,
    "log_steps": 1,
    "eval_steps": 100,
    "seed": 0,
    "keep": "last",
    "lr": 0.02,
    "weight_decay": 0.1,
    "max_grad_norm": 0.5,
    "warmup": 0.3,
}


def encoded(tokenizer: Any, path: Path) -> list[tuple[list[int], int]]:
    """Ids and the length of the prompt: the template's text, then the answer and the token that ends its turn."""
    found = []
    for line in path.read_text("utf-8").splitlines():
        record = json.loads(line)
        prompt = tokenizer.apply_chat_template(record["prompt"], add_generation_prompt=True, tokenize=False)
        answer = tokenizer(record["completion"][0]["content"])["input_ids"]
        head = tokenizer(prompt)["input_ids"]
        found.append((head + answer + [tokenizer.convert_tokens_to_ids("<|im_end|>")], len(head)))
    return found


def adapted(first: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The micro model with two thin matrices beside each linear layer, and those matrices by the name of the layer."""
    import torch

    model, thin = micro.model(), dict[str, Any]()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    for name, layer in model.named_modules():
        if not isinstance(layer, torch.nn.Linear) or name == "lm_head":
            continue
        down, up = (
            torch.nn.Parameter(first[f"base_model.model.{name}.lora_{side}.default.weight"].clone()) for side in "AB"
        )
        thin |= {f"{name}.lora_A": down, f"{name}.lora_B": up}
        add = lambda _layer, inputs, out, down=down, up=up: out + inputs[0] @ down.T @ up.T * (8 / 4)  # noqa: E731
        layer.register_forward_hook(add)
    return model, thin


def rate(step: int, total: int, schedule: str) -> float:
    """The share of the learning rate at a step, from 0."""
    warm = math.ceil(0.3 * total)
    if step < warm:
        return step / warm
    left = (step - warm) / (total - warm)
    return {"linear": 1 - left, "cosine": 0.5 * (1 + math.cos(math.pi * left)), "constant_with_warmup": 1.0}[schedule]


def plain_loop(
    data: list[tuple[list[int], int]], order: list[int], first: dict[str, Any], batch: int, schedule: str
) -> tuple[list[float], dict[str, Any], int]:
    """Losses by step, the adapter after them, and how many steps were clipped."""
    import torch
    from torch.nn.utils.rnn import pad_sequence

    model, thin = adapted(first)
    optimizer = torch.optim.AdamW(thin.values(), lr=0.02, betas=(0.9, 0.98), eps=1e-8, weight_decay=0.1)
    total, losses, clipped = math.ceil(len(order) / batch), [], 0
    for step in range(total):
        part = [data[row] for row in order[step * batch : (step + 1) * batch]]
        ids = pad_sequence([torch.tensor(row) for row, _ in part], batch_first=True, padding_value=0)
        kept = pad_sequence([torch.ones(len(row)) for row, _ in part], batch_first=True)
        learnt = pad_sequence([torch.arange(len(row)) >= prompt for row, prompt in part], batch_first=True)
        logits = model(ids, attention_mask=kept.long()).logits[:, :-1]
        each = torch.nn.functional.cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none")
        loss = (each * learnt[:, 1:]).sum() / learnt[:, 1:].sum()
        loss.backward()
        clipped += float(torch.nn.utils.clip_grad_norm_(thin.values(), 0.5)) > 0.5
        optimizer.param_groups[0]["lr"] = 0.02 * rate(step, total, schedule)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    return losses, {name: value.detach() for name, value in thin.items()}, clipped


@pytest.mark.parametrize(
    ("batches", "schedule", "accumulation"),
    [("random", "cosine", 1), ("length", "linear", 1), ("random", "constant_with_warmup", 2)],
)
def test_the_loss_of_every_step_is_that_of_a_plain_loop(
    batches: str, schedule: str, accumulation: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from safetensors.torch import load_file

    first: dict[str, Any] = {}
    real = loop.trainer

    def reading(*words: Any, **options: Any) -> Any:
        made = real(*words, **options)
        first.update({n: p.detach().clone() for n, p in made.model.named_parameters() if p.requires_grad})
        return made

    monkeypatch.setattr(loop, "trainer", reading)
    batch = 8 // accumulation
    changes = {**RECIPE, "batches": batches, "schedule": schedule, "accumulation": accumulation, "batch_size": batch}
    monkeypatch.chdir(project(tmp_path / "a", **changes))
    monkeypatch.delenv("DVC_ROOT", raising=False)
    train.main(processes=1, seed=42, threads=1, train=section(**changes))
    table = [line.split("\t") for line in Path("reports/plots/train.tsv").read_text().splitlines()]
    column = table[0].index("loss")
    logged = [float(cells[column]) for cells in table[1:] if cells[column]]

    data = encoded(micro.tokenizer(), Path("data/train.jsonl"))
    order = encoding.order([len(ids) for ids, _ in data], batch, 42, 0, batches == "length")
    losses, adapter, clipped = plain_loop(data, order, first, 8, schedule)
    assert len(losses) == len(logged) == 7
    assert logged == pytest.approx(losses, abs=1e-4)
    assert clipped > 0
    assert losses[-1] < losses[0] - 0.1, "nothing was learnt, so nothing was compared"
    saved = load_file("models/adapter/adapter_model.safetensors")
    assert len(saved) == len(adapter) == 28
    for name, value in adapter.items():
        assert (saved[f"base_model.model.{name}.weight"] - value).abs().max() < 1e-3, name

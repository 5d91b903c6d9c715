"""train: LoRA / QLoRA supervised fine-tuning, loss on the assistant's words and its stop token.

reads   data/train.jsonl, data/validation.jsonl, models/base
writes  models/adapter, data/samples.jsonl, reports/metrics/train.json, reports/plots/train.tsv
params  processes, seed, threads, train
"""

from __future__ import annotations

import math
import shutil
import time
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from anneal import files, fingerprint
from anneal.dataset import chat_template
from anneal.dataset.encoding import Rows, check_packing, encode, positions
from anneal.errors import UserError
from anneal.files import root, work
from anneal.models import loading
from anneal.params import Count, Section
from anneal.stage import run
from anneal.training import launch, loop, lora, samples
from anneal.training.lora import Lora

Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, lt=1)]
BASE = Path("models/base")
SAMPLES = "samples.jsonl"


class Train(Section):
    """All that changes the adapter. Each `eval_steps` the validation loss is measured and a checkpoint is kept."""

    lora: Lora
    quantize: Literal["none", "nf4"]
    dtype: Literal["auto", "float32", "bfloat16", "float16"]
    turns: Literal["last", "all"]
    epochs: Positive
    batch_size: Count
    accumulation: Count
    batches: Literal["random", "length"]
    packing: Count | None
    optimizer: Literal["adamw_torch", "adamw_torch_fused", "paged_adamw_8bit"]
    lr: Positive
    schedule: Literal["constant_with_warmup", "linear", "cosine"]
    warmup: Share
    weight_decay: Annotated[float, Field(ge=0)]
    adam_beta2: Share
    max_grad_norm: Positive
    checkpointing: bool
    log_steps: Count
    eval_steps: Count
    patience: Count | None
    samples: Annotated[int, Field(ge=0)]
    seed: Annotated[int, Field(ge=0)]  # added to the seed of all: the same records, learnt anew
    keep: Literal["best", "last"]


def read(path: str, tokenizer: Any, train: Train) -> Rows:
    """The rows of a file, none longer than the model or a packed row holds."""
    limit = min(positions(BASE), train.packing or math.inf)
    holder = "train.packing holds" if limit == train.packing else f"{BASE} has positions for"
    return encode(path, tokenizer, train.turns, limit, holder)


def check(train: Train, validate: bool) -> None:
    """What cannot be had is refused before anything is loaded."""
    if train.quantize == "nf4" and not loading.device().startswith("cuda"):
        raise UserError(
            f"params.yaml: train.quantize: nf4 needs a CUDA card, this device is {loading.device()}; set none"
        )
    if train.dtype == "float16" and not loading.device().startswith("cuda"):
        raise UserError(
            f"params.yaml: train.dtype: float16 needs a CUDA card, this device is {loading.device()}; set auto"
        )
    if not validate and (train.patience is not None or train.keep == "best"):
        raise UserError("data/validation.jsonl: empty, but train.patience or train.keep: best needs it; see split")
    if train.packing is not None and train.batches == "length":
        raise UserError("params.yaml: train.batches: length does nothing for packed rows; set random, or empty packing")


def config(train: Train, seed: int, folder: Path, validate: bool) -> Any:
    """TRL's arguments; its own defaults (bf16, gradient checkpointing, cutting at 1024 tokens) are all overridden."""
    import torch
    from trl import SFTConfig

    number = loading.dtype(train.dtype)
    every = {"eval_steps": train.eval_steps, "save_steps": train.eval_steps, "save_total_limit": 1}
    kinds = {"eval_strategy": "steps" if validate else "no", "save_strategy": "steps"}
    best = {"load_best_model_at_end": train.keep == "best", "metric_for_best_model": "eval_loss"} if validate else {}
    batch = {"per_device_train_batch_size": train.batch_size, "per_device_eval_batch_size": train.batch_size}
    return SFTConfig(
        output_dir=str(folder),
        seed=seed,
        data_seed=seed,
        report_to="none",
        disable_tqdm=True,
        num_train_epochs=train.epochs,
        gradient_accumulation_steps=train.accumulation,
        optim=train.optimizer,
        learning_rate=train.lr,
        lr_scheduler_type=train.schedule,
        warmup_steps=train.warmup,
        weight_decay=train.weight_decay,
        adam_beta2=train.adam_beta2,
        max_grad_norm=train.max_grad_norm,
        bf16=number == torch.bfloat16,
        fp16=number == torch.float16,
        use_cpu=loading.device() == "cpu",
        gradient_checkpointing=train.checkpointing,
        max_length=train.packing,
        packing=train.packing is not None,
        eval_packing=False,
        logging_nan_inf_filter=False,
        dataloader_pin_memory=torch.cuda.is_available(),
        logging_steps=train.log_steps,
        **every,
        **kinds,
        **best,
        **batch,
    )


def learn(train: Train, seed: int, tokenizer: Any, learnt: Rows, held: Rows, folder: Path) -> Any:
    """The trainer after training; it goes on from the newest checkpoint in `folder`."""
    loop.quiet()
    from transformers import EarlyStoppingCallback

    args = config(train, seed, folder, bool(held.ids))
    steps = math.ceil(math.ceil(len(learnt.ids) / train.batch_size / train.accumulation) * train.epochs)
    # Half-precision weights are for cards; elsewhere `dtype` only sets the autocast, and weights stay exact.
    number = train.dtype if loading.device().startswith("cuda") else "float32"
    base = loading.load(BASE, dtype=number, quantize=None if train.quantize == "none" else train.quantize)
    callbacks = [loop.watch(bool(held.ids))]
    callbacks += [EarlyStoppingCallback(early_stopping_patience=train.patience)] if train.patience else []
    callbacks += [lora.allocate()] if train.lora.adaptive else []
    if train.samples and held.ids:
        records = files.read("data/validation.jsonl")
        callbacks.append(samples.callback(records, tokenizer, train.samples, folder / SAMPLES))
    try:
        trainer = loop.trainer(
            seed,
            train.batches == "length",
            model=base,
            args=args,
            train_dataset=learnt.dataset(),
            eval_dataset=held.dataset() if held.ids else None,
            processing_class=tokenizer,
            callbacks=callbacks,
            peft_config=lora.config(train.lora, steps),
        )
    except ValueError as err:  # target modules that do not exist, several cards without a launcher
        raise UserError(f"params.yaml: train: {err}") from None
    check_packing(trainer, learnt, chat_template.stop_ids(tokenizer))
    loop.fit(trainer, folder, "train", "halve it and double train.accumulation")
    return trainer


def summary(trainer: Any, learnt: Rows, held: Rows, stops: list[int]) -> dict[str, Any]:
    """What DVC compares: no run time in it, and the same after a resume."""
    losses = [(row["eval_loss"], row["step"]) for row in trainer.state.log_history if "eval_loss" in row]
    best, step = min(losses, default=(None, None))
    trainable, total = trainer.model.get_nb_trainable_parameters()
    return {
        "validation_loss": {"best": best, "best_step": step, "last": losses[-1][0] if losses else None},
        "steps": trainer.state.global_step,
        "epochs": trainer.state.epoch,
        "stopped_early": trainer.state.global_step < trainer.state.max_steps,
        "parameters": {"trainable": trainable, "total": total, "share": trainable / total},
        "rows": {"train": len(learnt.ids), "validation": len(held.ids)},
        "refused": {"train": learnt.refused, "validation": held.refused},
        "tokens": {"train": sum(map(len, learnt.ids)), "learnt": learnt.count()},
        "stops_learnt": sum(labels[-1] in stops for labels in learnt.labels) / len(learnt.labels),
    }


def main(processes: Count, seed: int, threads: int, train: Train) -> None:
    check(train, bool(files.read("data/validation.jsonl")))
    if launch.distribute(main, processes):  # a step then takes so many times as many rows
        return
    loading.threads(threads)
    tokenizer = loading.tokenizer(BASE)
    learnt, held = (read(f"data/{name}.jsonl", tokenizer, train) for name in ("train", "validation"))
    values = [seed, threads, train.model_dump(), loading.device().partition(":")[0], launch.world_size(), root()]
    data = [BASE, Path("data/train.jsonl"), Path("data/validation.jsonl")]
    folder = work("train") / fingerprint.of([*data, *fingerprint.code(__file__)], values)
    fresh, start = loop.checkpoint(folder) is None, time.monotonic()
    trainer = learn(train, seed + train.seed, tokenizer, learnt, held, folder)
    trainer.accelerator.wait_for_everyone()
    if trainer.is_world_process_zero():
        adapter = trainer.accelerator.unwrap_model(trainer.model)
        files.write_folder("models/adapter", lambda out: loop.save_adapter(adapter, tokenizer, BASE, out))
        files.write("data/samples.jsonl", samples.read(folder / SAMPLES))
        files.write_text("reports/plots/train.tsv", loop.table(trainer.state.log_history))
        files.write_json(
            "reports/metrics/train.json", summary(trainer, learnt, held, chat_template.stop_ids(tokenizer))
        )
        if fresh:  # a run that went on from a checkpoint did not take this long for all of it
            tokens, seconds = sum(map(len, learnt.ids)), time.monotonic() - start
            loop.pace(work("times") / "pace.jsonl", tokens, trainer.state.log_history, seconds)
        shutil.rmtree(folder)


if __name__ == "__main__":
    run(main)

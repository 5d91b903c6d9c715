"""reward: a model that scores answers, learnt from preference pairs, and how far its scores can be trusted.

reads   data/train_pairs.jsonl data/validation_pairs.jsonl data/test_pairs.jsonl, models/base,
        reports/metrics/pairs.json
writes  models/reward, data/rewards.jsonl, reports/metrics/reward.json, reports/plots/reward.tsv
params  processes, reward, seed, threads
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from anneal import files, fingerprint
from anneal.dataset import encoding
from anneal.errors import UserError
from anneal.files import root, work
from anneal.models import loading, reward_model
from anneal.params import Count, Section
from anneal.preference import calibration, pair_flaws
from anneal.preference.pair_flaws import PARTS
from anneal.records import Metrics, Row
from anneal.stage import run
from anneal.training import launch, loop, lora, preference_pairs, reward_trainer
from anneal.training.lora import Lora
from anneal.training.preference_pairs import SIDES, Pairs

Positive = Annotated[float, Field(gt=0)]
BASE, PAIRS = Path("models/base"), Path("reports/metrics/pairs.json")
OFF = "set reward.epochs to 0"


class Reward(Section):
    """All that changes the reward model; with 0 epochs there is none."""

    epochs: Annotated[float, Field(ge=0)]
    lora: Lora
    dtype: Literal["auto", "float32", "bfloat16", "float16"]
    batch_size: Count  # pairs
    accumulation: Count
    lr: Positive
    schedule: Literal["constant_with_warmup", "linear", "cosine"]
    warmup: Annotated[float, Field(ge=0, lt=1)]
    max_grad_norm: Positive
    center: Annotated[float, Field(ge=0)]  # weight of the mean square of chosen + rejected
    checkpointing: bool
    log_steps: Count
    eval_steps: Count
    keep: Literal["best", "last"]


def sound(reward: Reward) -> list[str]:
    """What is to be kept in mind of the pairs; refuses, before anything is loaded, what must not be trained on."""
    if reward.lora.adaptive:
        raise UserError("params.yaml: reward.lora.adaptive: true is for train only; set false")
    if not files.read("data/train_pairs.jsonl"):
        raise UserError(f"data/train_pairs.jsonl: no pairs; {OFF}")
    if reward.keep == "best" and not files.read("data/validation_pairs.jsonl"):
        raise UserError("data/validation_pairs.jsonl: no pairs, but reward.keep: best needs them; set last")
    numbers = files.read_json(PAIRS)
    if lines := pair_flaws.refusals(numbers):
        raise UserError(f"{PAIRS}: {'; '.join(lines)}; mend the pairs, or {OFF}")
    return pair_flaws.doubts(numbers)


def learn(reward: Reward, seed: int, tokenizer: Any, learnt: Pairs, held: Pairs, folder: Path) -> Any:
    """The trainer after training; it goes on from the newest checkpoint in `folder`."""
    loop.quiet()
    base = reward_model.untrained(reward.dtype, seed)
    loop.choose_attention(base, learnt.longest())
    adapter = lora.config(reward.lora, steps=0)
    adapter.task_type, adapter.modules_to_save = "SEQ_CLS", ["score"]
    arguments = loop.arguments(reward.dtype, reward.checkpointing, seed, folder)
    try:
        trainer = reward_trainer.trainer(
            {**arguments, **schedule(reward, bool(held.rows))},
            reward_model.padding(tokenizer),
            model=base,
            train_dataset=reward_trainer.dataset(learnt),
            eval_dataset=reward_trainer.dataset(held) if held.rows else None,
            processing_class=tokenizer,
            peft_config=adapter,
            callbacks=[loop.watch(bool(held.rows), "reward")],
        )
    except ValueError as err:  # target modules that do not exist
        raise UserError(f"params.yaml: reward: {err}") from None
    loop.fit(trainer, folder, "reward", "lower it, raise reward.accumulation")
    return trainer


def schedule(reward: Reward, validate: bool) -> Metrics:
    """The part of TRL's arguments that params.yaml decides."""
    best = {"load_best_model_at_end": reward.keep == "best", "metric_for_best_model": "eval_loss"} if validate else {}
    return {
        "num_train_epochs": reward.epochs,
        "learning_rate": reward.lr,
        "lr_scheduler_type": reward.schedule,
        "warmup_steps": reward.warmup,
        "max_grad_norm": reward.max_grad_norm,
        "per_device_train_batch_size": reward.batch_size,
        "per_device_eval_batch_size": reward.batch_size,
        "gradient_accumulation_steps": reward.accumulation,
        "center_rewards_coefficient": reward.center or None,
        "logging_steps": reward.log_steps,
        "save_steps": reward.eval_steps,
        "eval_steps": reward.eval_steps,
        "eval_strategy": "steps" if validate else "no",
    } | best


def scored(scorer: reward_model.Scorer, parts: dict[str, Pairs]) -> list[Row]:
    """A row for each pair of each part: {id, item, kind, part, chosen, rejected}, in what the head says."""
    found = []
    for part, pairs in parts.items():
        sides = [scorer.read([row["prompt"] + row[side] for row in pairs.rows]) for side in SIDES]
        for row, *scores in zip(pairs.rows, *sides, strict=True):
            head = {"id": row["id"], "item": row["item"], "kind": row["kind"], "part": part}
            found.append(head | dict(zip(SIDES, (round(score, 6) for score in scores), strict=True)))
    return found


def held_out(rows: list[Row], seed: int) -> Metrics:
    """The figures of the test pairs."""
    known = {(record["id"], record["kind"]): record for record in files.read("data/test_pairs.jsonl")}
    told = []
    for row in rows:
        if row["part"] == "test":
            record = known[row["id"], row["kind"]]
            characters = [sum(len(turn["content"]) for turn in record[side]) for side in SIDES]
            told.append({**row, "type": record["type"], "characters": characters})
    return calibration.summary(told, seed)


def write(save: Any, rows: list[Row], history: list[Row], metrics: Metrics) -> None:
    files.write_folder(reward_model.FOLDER, save)
    kept = ("id", "kind", "part", *SIDES)
    files.write("data/rewards.jsonl", [{key: row[key] for key in kept} for row in rows])
    files.write_text("reports/plots/reward.tsv", loop.table(history, reward_trainer.COLUMNS))
    files.write_json("reports/metrics/reward.json", metrics)


def main(processes: Count, reward: Reward, seed: int, threads: int) -> None:
    if not reward.epochs:
        return write(lambda out: files.write_json(out / reward_model.NOTE, {"made": False}), [], [], {"n": 0})
    warnings = sound(reward)
    if launch.distribute(main, processes):
        return None
    loading.threads(threads)
    tokenizer = loading.tokenizer(BASE)
    paths = {part: f"data/{part}_pairs.jsonl" for part in PARTS}
    parts = {part: preference_pairs.encode(path, tokenizer, encoding.positions(BASE)) for part, path in paths.items()}
    if not parts["train"].rows:
        raise UserError(f"data/train_pairs.jsonl: no pair can be encoded: {max(parts['train'].refused)}; {OFF}")
    values = [reward.model_dump(), processes, seed, threads, loading.device().partition(":")[0], str(root())]
    inputs = [BASE, *map(Path, paths.values()), *fingerprint.code(__file__)]
    folder = work("reward") / fingerprint.of(inputs, values)
    trainer = learn(reward, seed, tokenizer, parts["train"], parts["validation"], folder)
    trainer.accelerator.wait_for_everyone()
    if trainer.is_world_process_zero():
        weights = trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False).eval()
        scores = scored(reward_model.Scorer(tokenizer, weights), parts)
        note = {"made": True, "dtype": reward.dtype, **reward_model.units(scores)}
        refusals = [f"{part}: {n} left out: {why}" for part, pairs in parts.items() for why, n in pairs.refused.items()]
        metrics = {
            **held_out(scores, seed),
            **reward_trainer.steps(trainer),
            "refusals": refusals,
            "warnings": warnings,
        }
        write(lambda out: reward_model.save(weights, note, out), scores, trainer.state.log_history, metrics)
        calibration.show(metrics)
        shutil.rmtree(folder)
    return None


if __name__ == "__main__":
    run(main)

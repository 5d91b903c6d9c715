"""align: preference learning on top of the adapter, from pairs or from rewards; `none` passes it through.

reads   data/train.jsonl, data/train_pairs.jsonl data/validation_pairs.jsonl data/test_pairs.jsonl,
        models/base, models/adapter, models/density, models/reward, data/raw/<recipe>/rules,
        reports/metrics/pairs.json, reports/metrics/rollout/tuned.json
writes  models/aligned, reports/metrics/align.json, reports/plots/align.tsv
params  align, processes, rewards, rules, seed, threads
"""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from anneal import files, fingerprint
from anneal.checks.facts import Rules
from anneal.dataset import chat_template
from anneal.dataset.encoding import positions
from anneal.errors import UserError
from anneal.files import root, work
from anneal.models import loading, weights
from anneal.models.weights import ADAPTER, BASE
from anneal.params import Count, Section
from anneal.preference import pair_flaws
from anneal.preference.rule_rewards import Rewards
from anneal.records import Metrics
from anneal.stage import run
from anneal.training import dpo, grpo, launch, loop, preference_eval, preference_pairs
from anneal.training.dpo import Dpo
from anneal.training.grpo import Grpo

PAIRS, ROLLOUT = Path("reports/metrics/pairs.json"), Path("reports/metrics/rollout/tuned.json")


class Align(Section):
    """How preferences are learnt: by nobody, from pairs (dpo) or from rewards of the model's own samples (grpo)."""

    method: Literal["none", "dpo", "grpo"]
    quantize: Literal["none", "nf4"]
    dtype: Literal["auto", "float32", "bfloat16", "float16"]
    checkpointing: bool
    dpo: Dpo
    grpo: Grpo


@dataclass(frozen=True)
class Task:
    """What a method is given; checkpoints lie in `folder`."""

    align: Align
    rewards: Rewards
    rules: Rules
    seed: int
    processes: int
    tokenizer: Any
    folder: Path

    def learner(self, longest: int) -> Any:
        return loop.trainable_policy(BASE, ADAPTER, self.align.dtype, self.align.quantize, longest)

    def shared(self) -> Metrics:
        return loop.arguments(self.align.dtype, self.align.checkpointing, self.seed, self.folder)

    def fit(self, trainer: Any) -> None:
        section = f"align.{self.align.method}"
        loop.fit(trainer, self.folder, section, "halve it, or set align.checkpointing: true")


def audit(path: Path, stage: str) -> Metrics:
    """The figures that must be there before any training."""
    if not path.is_file():
        raise UserError(f"{path}: no such file; `dvc repro {stage}` makes it")
    return dict(json.loads(path.read_text("utf-8")))


def refuse(align: Align) -> None:
    """What the audits say must not be trained on, in their own words."""
    if align.method == "dpo" and (lines := pair_flaws.refusals(audit(PAIRS, "audit"))):
        raise UserError(f"{PAIRS}: {'; '.join(lines)}; mend the pairs, or set align.method: none")
    if align.method == "grpo":
        numbers = audit(ROLLOUT, "rollout@tuned")
        if not numbers["n"]:
            raise UserError(f"{ROLLOUT}: no sample has been rewarded; set rollout.prompts above 0")
        if numbers["refusals"]:
            raise UserError(f"{ROLLOUT}: {'; '.join(numbers['refusals'])}; mend the rewards, or set align.method: none")
        if numbers["temperature"] != (wanted := align.grpo.temperature):
            raise UserError(
                f"{ROLLOUT}: audited at temperature {numbers['temperature']:g}, align.grpo.temperature is "
                f"{wanted:g}; give both the same"
            )
    if align.quantize == "nf4" and not loading.device().startswith("cuda"):
        raise UserError(
            f"params.yaml: align.quantize: nf4 needs a CUDA card, this device is {loading.device()}; set none"
        )


def by_pairs(task: Task) -> tuple[Any, Metrics, dict[str, str]]:
    """DPO; held-out accuracy is that of the test pairs, before and after."""
    parts = {
        part: preference_pairs.encode(f"data/{part}_pairs.jsonl", task.tokenizer, positions(BASE))
        for part in pair_flaws.PARTS
    }
    learnt, held, test = parts.values()
    policy = task.learner(max(pairs.longest() for pairs in (learnt, held)))
    before = preference_eval.score(policy.eval(), test)
    trainer = dpo.trainer(
        task.align.dpo,
        task.seed,
        learnt,
        held,
        task.shared(),
        model=policy,
        processing_class=task.tokenizer,
        callbacks=[loop.watch(bool(held.rows), "align.dpo")],
    )
    dpo.check_batches(trainer, learnt, chat_template.stop_ids(task.tokenizer))
    task.fit(trainer)
    # Without the autocast of training: in another number type the very same weights give other likelihoods.
    after = preference_eval.score(trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False).eval(), test)
    found = preference_eval.preference(test, before, after)
    counts = {part: {"n": len(pairs.rows), "refused": pairs.refused} for part, pairs in parts.items()}
    doubts = pair_flaws.doubts(audit(PAIRS, "audit"))
    return (
        trainer,
        {**found, "pairs": counts, "warnings": preference_eval.warnings(found["logp"]) + doubts},
        dpo.COLUMNS,
    )


def by_rewards(task: Task) -> tuple[Any, Metrics, dict[str, str]]:
    """GRPO; what is gained on prompts that it has not seen, rollout measures."""
    settings, records = task.align.grpo, files.read("data/train.jsonl", "id", "type", "prompt")
    longest = max(len(chat_template.prompt_ids(task.tokenizer, record["prompt"])) for record in records)
    grpo.check(settings, len(records), task.processes, longest, positions(BASE))
    score = grpo.scorer(task.rewards, task.rules)
    trainer = grpo.trainer(
        settings,
        task.seed,
        records,
        score,
        task.shared(),
        model=task.learner(longest + settings.max_new_tokens),
        tokenizer=task.tokenizer,
        processes=task.processes,
        cut_learns="stop" in task.rewards.used,
        callbacks=[loop.watch(False, "align.grpo")],
    )
    task.fit(trainer)
    history = trainer.state.log_history
    grpo.refuse_without_signal(history)
    found = {"prompts": settings.prompts, "samples": settings.samples, **grpo.first_and_last(history)}
    return trainer, found, grpo.columns(history)


METHODS: dict[str, Callable[[Task], tuple[Any, Metrics, dict[str, str]]] | None] = {
    "none": None,
    "dpo": by_pairs,
    "grpo": by_rewards,
}


def keep(folder: Path, align: Align, trainer: Any, tokenizer: Any) -> None:
    """A plain PEFT folder, marked as one that has learnt preferences."""
    loop.save_adapter(trainer.accelerator.unwrap_model(trainer.model), tokenizer, BASE, folder)
    files.write_json(folder / weights.MARK, {"method": align.method})


def write(save: Callable[[Path], Any], metrics: Metrics, plot: str) -> None:
    files.write_folder("models/aligned", save)
    files.write_text("reports/plots/align.tsv", plot)
    files.write_json("reports/metrics/align.json", metrics)


def checkpoints(values: list[Any], rules: Rules) -> Path:
    """The folder of this run's checkpoints: other data, settings or code have another."""
    inputs = [BASE, ADAPTER, Path("models/density"), Path("models/reward"), Path(rules.folder)]
    inputs += [Path(f"data/{name}.jsonl") for name in ("train", *(f"{part}_pairs" for part in pair_flaws.PARTS))]
    settings = [*values, rules.model_dump(), launch.world_size(), root()]
    return work("align") / fingerprint.of([*inputs, *fingerprint.code(__file__)], settings)


def main(align: Align, processes: Count, rewards: Rewards, rules: Rules, seed: int, threads: int) -> None:
    if not (ADAPTER / "adapter_config.json").is_file():
        raise UserError(f"{ADAPTER}/adapter_config.json: no such file; `dvc repro train` makes it")
    if not (method := METHODS[align.method]):
        # The adapter as training left it, so that every later stage reads one place whatever the method.
        copy = functools.partial(shutil.copytree, ADAPTER, dirs_exist_ok=True)
        return write(copy, {"method": "none"}, loop.table([], dpo.COLUMNS))
    refuse(align)
    if launch.distribute(main, processes):
        return None
    loading.threads(threads)
    loop.quiet()
    tokenizer, place = loading.tokenizer(BASE), loading.device().partition(":")[0]
    folder = checkpoints([align.model_dump(), rewards.model_dump(), seed, threads, place], rules)
    trainer, found, columns = method(Task(align, rewards, rules, seed, processes, tokenizer, folder))
    trainer.accelerator.wait_for_everyone()
    if trainer.is_world_process_zero():
        plot = loop.table(trainer.state.log_history, columns)
        save = functools.partial(keep, align=align, trainer=trainer, tokenizer=tokenizer)
        write(save, {"method": align.method, "steps": trainer.state.global_step, **found}, plot)
        shutil.rmtree(folder)
    return None


if __name__ == "__main__":
    run(main)

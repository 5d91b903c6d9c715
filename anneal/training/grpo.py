"""Group relative policy optimisation (Shao et al. 2024): samples of one prompt are compared by their rewards."""

from __future__ import annotations

import functools
import importlib.util
import json
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from anneal.checks import density, text_checks
from anneal.checks.facts import Rules
from anneal.dataset import chat_template, encoding
from anneal.decoding import generate
from anneal.errors import UserError
from anneal.models import reward_model
from anneal.params import Count, Section
from anneal.preference import rule_rewards
from anneal.records import Record
from anneal.training import lm_head

# What GRPO compares: samples of one prompt, all of a step in one batch.
#
# Each sample is drawn by our own search from a seed of its own, so that it ends at every stop of the chat template,
# depends on nothing but params, and comes out the same after a resume. vLLM draws them where it is asked to.

# What a log-probability is taken of is what was drawn from: temperature apart, nothing may bend the distribution.
PLAIN = {
    "do_sample": True,
    "top_k": 0,
    "top_p": 1.0,
    "repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "num_beams": 1,
    "length_penalty": 1.0,
    "stop": [],
}


class Groups:
    """Row numbers: `prompts` rows a step, each `samples` times in a row, all of it `repeats` times.

    TRL's own order comes from a generator that a resumed run meets at another point from the second epoch on.
    """

    def __init__(
        self, count: int, prompts: int, samples: int, repeats: int, seed: int, epoch: Callable[[], int]
    ) -> None:
        self.count, self.prompts, self.samples, self.repeats = count, prompts, samples, repeats
        self.seed, self.epoch = seed, epoch

    def __len__(self) -> int:
        return self.count // self.prompts * self.prompts * self.samples * self.repeats

    def __iter__(self) -> Iterator[int]:
        order = encoding.order([0] * self.count, 1, self.seed, self.epoch(), False)
        for start in range(0, self.count - self.prompts + 1, self.prompts):
            step = [row for row in order[start : start + self.prompts] for _ in range(self.samples)]
            for _ in range(self.repeats):
                yield from step


def rollout(tokenizer: Any, temperature: float, max_new_tokens: int, seed: int) -> Callable[[list[Any], Any], Record]:
    """TRL's rollout function: answers to prompts, as all our answers are made."""
    settings = generate.Decode.model_validate({**PLAIN, "temperature": temperature, "max_new_tokens": max_new_tokens})
    stops = chat_template.stop_ids(tokenizer)
    encode = functools.cache(lambda prompt: chat_template.prompt_ids(tokenizer, json.loads(prompt)))

    def draw(prompts: list[Any], trainer: Any) -> Record:
        model, place = trainer.accelerator.unwrap_model(trainer.model), trainer.accelerator.process_index
        asked = [list(encode(json.dumps(prompt))) for prompt in prompts]
        names = [f"{seed}/grpo/{trainer.state.global_step}/{place}/{row}" for row in range(len(asked))]
        model.eval()  # in training mode checkpointing would switch the cache off
        told = generate.answer(
            model, tokenizer, asked, settings, stops, [random.Random(name).getrandbits(63) for name in names]
        )
        model.train()
        return {"prompt_ids": asked, "completion_ids": [one.ids for one in told], "logprobs": None}

    return draw


def prove(tokenizer: Any, records: Sequence[Record]) -> None:
    """vLLM is given TRL's tokens of a prompt; they must be those that the answer stage starts from."""
    for record in records:
        theirs = tokenizer.apply_chat_template(record["prompt"], add_generation_prompt=True, return_dict=True)
        if list(theirs["input_ids"]) != chat_template.prompt_ids(tokenizer, record["prompt"]):
            raise UserError(
                f"data/train.jsonl: {record['id']}: align.grpo.use_vllm would start from other tokens; set false"
            )


Positive = Annotated[float, Field(gt=0)]
Score = Callable[[list[Record], list[str], list[bool]], tuple[list[float], list[rule_rewards.Row]]]
_NAMES = {
    "loss": "loss",
    "reward": "reward",
    "reward_std": "reward_std",
    "frac_reward_zero_std": "zero_spread",
    "kl": "kl",
    "completions/mean_length": "tokens",
    "completions/clipped_ratio": "cut",
}


class Grpo(Section):
    """How a model learns from rewards of its own samples: `prompts` of them a step, `samples` of each."""

    beta: Annotated[float, Field(ge=0)]  # weight of the distance from the reference; 0 keeps none
    lr: Positive
    steps: Count
    prompts: Count
    samples: Annotated[int, Field(ge=2)]
    batch_size: Count
    temperature: Positive
    max_new_tokens: Count
    loss_type: Literal["grpo", "dr_grpo", "bnpo", "dapo"]
    scale_rewards: Literal["group", "batch", "none"]
    schedule: Literal["constant_with_warmup", "linear", "cosine"]
    warmup: Annotated[float, Field(ge=0, lt=1)]
    max_grad_norm: Positive
    log_steps: Count
    save_steps: Count
    use_vllm: bool


def check(grpo: Grpo, records: int, processes: int, longest: int, window: float) -> None:
    """What cannot be had is refused before anything is loaded; `longest` prompt and `window` are in tokens."""
    if longest + grpo.max_new_tokens > window:
        raise UserError(
            f"params.yaml: align.grpo.max_new_tokens: {grpo.max_new_tokens} after a prompt of {longest} tokens, the "
            f"model holds {window:.0f}; lower it or format.max_length"
        )
    if grpo.use_vllm and importlib.util.find_spec("vllm") is None:
        raise UserError("params.yaml: align.grpo.use_vllm: vllm is not installed; `pip install vllm`, or set false")
    if grpo.prompts > records:
        raise UserError(f"params.yaml: align.grpo.prompts: {grpo.prompts}, data/train.jsonl holds {records}; lower it")
    if grpo.prompts * grpo.samples % (grpo.batch_size * processes):
        raise UserError(
            f"params.yaml: align.grpo.batch_size: {grpo.prompts} prompts x {grpo.samples} samples are no multiple of "
            f"{grpo.batch_size} x {processes} processes; change one of them"
        )


def learnt(history: Sequence[Record]) -> None:
    """Refuses a run in which no prompt had samples of different reward: no weight has moved."""
    alike = [entry["frac_reward_zero_std"] for entry in history if "frac_reward_zero_std" in entry]
    if alike and min(alike) == 1:
        raise UserError(
            f"align.grpo: in all of {len(alike)} logged steps every sample of a prompt had one reward: nothing was "
            "learnt; raise align.grpo.temperature, or mend rewards.weights"
        )


def scorer(wanted: rule_rewards.Rewards, rules: Rules) -> Score:
    """Texts to rewards, all in one and each by name; the reward model is asked only where it has a weight."""
    known = density.load("models/density/density.json") if "in_distribution" in wanted.used else None
    context = text_checks.context(rules, known)
    judge = reward_model.load(Path("models/reward")) if "model" in wanted.used else None
    rule_rewards.refuse(wanted, context, judge is not None)

    def score(
        records: list[Record], texts: list[str], stopped: list[bool]
    ) -> tuple[list[float], list[rule_rewards.Row]]:
        outside = judge.score([record["prompt"] for record in records], texts) if judge else None
        each = rule_rewards.score(records, texts, stopped, wanted, context, outside)
        return [rule_rewards.total(row, wanted) for row in each], each

    return score


def rewarding(records: dict[str, Record], tokenizer: Any, score: Score) -> Callable[..., list[float]]:
    """TRL's reward function: the record of a sample is found by its id, and each reward's mean is logged."""
    stops = chat_template.stop_ids(tokenizer)

    def reward(completion_ids: list[list[int]], id: list[str], log_metric: Any, **_: Any) -> list[float]:  # noqa: A002
        told = [generate.read(new, 0, tokenizer, stops, []) for new in completion_ids]
        totals, each = score(
            [records[name] for name in id], [one.text for one in told], [one.finish == "stop" for one in told]
        )
        for name in each[0]:
            log_metric(f"each/{name}", sum(row[name] for row in each) / len(each))
        return totals

    return reward


def _arguments(grpo: Grpo, shared: Record, processes: int, cut_learns: bool) -> Any:
    """TRL's arguments; a step draws all its samples at once."""
    from trl import GRPOConfig

    return GRPOConfig(
        **shared,
        beta=grpo.beta,
        learning_rate=grpo.lr,
        max_steps=grpo.steps,
        num_generations=grpo.samples,
        per_device_train_batch_size=grpo.batch_size,
        temperature=grpo.temperature,
        top_p=1.0,
        top_k=0,
        generation_batch_size=grpo.prompts * grpo.samples,
        max_completion_length=grpo.max_new_tokens,
        gradient_accumulation_steps=grpo.prompts * grpo.samples // (grpo.batch_size * processes),
        loss_type=grpo.loss_type,
        scale_rewards=grpo.scale_rewards,
        warmup_steps=grpo.warmup,
        lr_scheduler_type=grpo.schedule,
        max_grad_norm=grpo.max_grad_norm,
        logging_steps=grpo.log_steps,
        save_steps=grpo.save_steps,
        mask_truncated_completions=not cut_learns,
    )


def trainer(
    grpo: Grpo,
    seed: int,
    records: Sequence[Record],
    score: Score,
    shared: Record,
    *,
    model: Any,
    tokenizer: Any,
    processes: int,
    cut_learns: bool,
    callbacks: list[Any],
) -> Any:
    """TRL's GRPOTrainer, in an order of our own; samples that were cut teach only where a reward knows of it."""
    from datasets import Dataset
    from transformers import GenerationConfig, PrinterCallback
    from trl import GRPOTrainer

    class Trainer(GRPOTrainer):  # type: ignore[misc]
        def _get_train_sampler(self, *_: Any) -> Groups:
            repeats = self.num_iterations * self.args.steps_per_generation
            epoch = lambda: int(self.state.epoch or 0)  # noqa: E731
            return Groups(len(self.train_dataset), grpo.prompts, grpo.samples, repeats, seed, epoch)

        def create_model_card(self, *_args: Any, **_options: Any) -> None:
            """Cards hold paths and versions of this machine."""

    stops = chat_template.stop_ids(tokenizer)
    # What is left open in the settings of a search transformers fills in from here.
    model.generation_config = GenerationConfig(eos_token_id=stops, pad_token_id=tokenizer.pad_token_id)
    if grpo.use_vllm:
        prove(tokenizer, records)
        shared = {**shared, "use_vllm": True, "generation_kwargs": {"stop_token_ids": stops}}
    args = _arguments(grpo, shared, processes, cut_learns)
    draw = rollout(tokenizer, grpo.temperature, grpo.max_new_tokens, seed)
    made = Trainer(
        model=model,
        args=args,
        processing_class=tokenizer,
        callbacks=callbacks,
        reward_funcs=rewarding({record["id"]: record for record in records}, tokenizer, score),
        train_dataset=Dataset.from_list([{"id": record["id"], "prompt": record["prompt"]} for record in records]),
        rollout_func=None if grpo.use_vllm else draw,
    )
    made.remove_callback(PrinterCallback)
    lm_head.replace(made.model, grpo.temperature)
    return made


def columns(history: Sequence[Record]) -> dict[str, str]:
    """Columns of the table: those of every run, and the mean of each reward."""
    each = sorted({name for entry in history for name in entry if name.startswith("each/")})
    return _NAMES | {name: name.removeprefix("each/") for name in each}


def ends(history: Sequence[Record]) -> dict[str, dict[str, float]]:
    """The first and the last logged mean of every column, on training prompts: {first, last: {name: mean}}."""
    logged = [entry for entry in history if "reward" in entry]
    names = {key: name for key, name in columns(history).items() if key in logged[0] and name != "loss"}
    return {when: {name: logged[at][key] for key, name in names.items()} for when, at in (("first", 0), ("last", -1))}

"""Group relative policy optimisation (Shao et al. 2024): samples of one prompt are compared by their rewards.

All samples of a step are drawn in one batch by anneal.decoding.generate, each from a seed of its own: they end at every
stop token of the chat template, depend on nothing but params, and are the same after a resume. With `use_vllm`, vLLM
draws them instead.
"""

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
from anneal.records import Record, Row
from anneal.training import lm_head

Positive = Annotated[float, Field(gt=0)]
# Records, their texts and whether each ended by itself, to the total reward and the rewards by name of each text.
Score = Callable[[list[Record], list[str], list[bool]], tuple[list[float], list[rule_rewards.Values]]]
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
    """GRPO settings. A step draws `samples` answers to each of `prompts` prompts."""

    beta: Annotated[float, Field(ge=0)]  # weight of the KL penalty towards the reference; 0 loads no reference
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


class Groups:
    """Sampler of row indices: `prompts` rows a step, each `samples` times in a row, the whole step `repeats` times.

    TRL's own sampler draws from a generator whose state a resumed run does not restore from the second epoch on.
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


def rollout(
    tokenizer: Any, temperature: float, max_new_tokens: int, seed: int
) -> Callable[[list[Any], Any], dict[str, Any]]:
    """TRL's rollout function: samples for a list of prompts, drawn by the same search as all answers."""
    settings = generate.plain(temperature, max_new_tokens)
    stops = chat_template.stop_ids(tokenizer)
    encode = functools.cache(lambda prompt: chat_template.prompt_ids(tokenizer, json.loads(prompt)))

    def draw(prompts: list[Any], trainer: Any) -> dict[str, Any]:
        model = trainer.accelerator.unwrap_model(trainer.model)
        process = trainer.accelerator.process_index
        prompt_ids = [list(encode(json.dumps(prompt))) for prompt in prompts]
        names = [f"{seed}/grpo/{trainer.state.global_step}/{process}/{row}" for row in range(len(prompts))]
        seeds = [random.Random(name).getrandbits(63) for name in names]
        model.eval()  # in training mode checkpointing would switch the cache off
        samples = generate.answer(model, tokenizer, prompt_ids, settings, stops, seeds)
        model.train()
        return {"prompt_ids": prompt_ids, "completion_ids": [sample.ids for sample in samples], "logprobs": None}

    return draw


def check_prompt_ids(tokenizer: Any, records: Sequence[Record]) -> None:
    """vLLM gets TRL's token ids of a prompt: raise UserError where they differ from those of the answer stage."""
    for record in records:
        encoded = tokenizer.apply_chat_template(record["prompt"], add_generation_prompt=True, return_dict=True)
        if list(encoded["input_ids"]) != chat_template.prompt_ids(tokenizer, record["prompt"]):
            raise UserError(
                f"data/train.jsonl: {record['id']}: align.grpo.use_vllm would start from other tokens; set false"
            )


def check(grpo: Grpo, records: int, processes: int, longest: int, window: float) -> None:
    """Raise UserError for impossible settings, before anything is loaded.

    `records` and `processes` are counts; `longest`, the longest prompt, and `window`, the model's, are in tokens.
    """
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


def refuse_without_signal(history: Sequence[Row]) -> None:
    """Raise UserError if no prompt of any logged step had samples of different reward: all gradients were 0."""
    constant = [entry["frac_reward_zero_std"] for entry in history if "frac_reward_zero_std" in entry]
    if constant and min(constant) == 1:
        raise UserError(
            f"align.grpo: in all of {len(constant)} logged steps every sample of a prompt had one reward: nothing was "
            "learnt; raise align.grpo.temperature, or mend rewards.weights"
        )


def scorer(rewards: rule_rewards.Rewards, rules: Rules) -> Score:
    """The scoring function of the samples; density and reward model are loaded only where they have a weight.

    Raises UserError for a reward that cannot be computed here.
    """
    fitted = density.load("models/density/density.json") if "in_distribution" in rewards.used else None
    context = text_checks.context(rules, fitted)
    model = reward_model.load(Path("models/reward")) if "model" in rewards.used else None
    rule_rewards.refuse(rewards, context, model is not None)

    def score(
        records: list[Record], texts: list[str], stopped: list[bool]
    ) -> tuple[list[float], list[rule_rewards.Values]]:
        model_scores = model.score([record["prompt"] for record in records], texts) if model else None
        rows = rule_rewards.score(records, texts, stopped, rewards, context, model_scores)
        return [rule_rewards.total(row, rewards) for row in rows], rows

    return score


def reward_function(records: dict[str, Record], tokenizer: Any, score: Score) -> Callable[..., list[float]]:
    """TRL's reward function: looks up the record of a sample by its id and logs the mean of each reward."""
    stops = chat_template.stop_ids(tokenizer)

    def reward(completion_ids: list[list[int]], id: list[str], log_metric: Any, **_: Any) -> list[float]:  # noqa: A002
        samples = [generate.read(ids, 0, tokenizer, stops, []) for ids in completion_ids]
        texts = [sample.text for sample in samples]
        stopped = [sample.finish == "stop" for sample in samples]
        totals, rows = score([records[name] for name in id], texts, stopped)
        for name in rows[0]:
            log_metric(f"each/{name}", sum(row[name] for row in rows) / len(rows))
        return totals

    return reward


def _arguments(grpo: Grpo, shared: dict[str, Any], processes: int, cut_learns: bool) -> Any:
    """TRL's arguments; a step draws all its samples at once."""
    from trl import GRPOConfig

    sampling = generate.plain(grpo.temperature, grpo.max_new_tokens)
    return GRPOConfig(
        **shared,
        beta=grpo.beta,
        learning_rate=grpo.lr,
        max_steps=grpo.steps,
        num_generations=grpo.samples,
        per_device_train_batch_size=grpo.batch_size,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        generation_batch_size=grpo.prompts * grpo.samples,
        max_completion_length=sampling.max_new_tokens,
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
    shared: dict[str, Any],
    *,
    model: Any,
    tokenizer: Any,
    processes: int,
    cut_learns: bool,
    callbacks: list[Any],
) -> Any:
    """TRL's GRPOTrainer, in a row order that a resumed run repeats; `shared` is loop.arguments.

    Samples cut at the length limit enter the loss only with `cut_learns`, where a reward penalises the missing stop.
    """
    from datasets import Dataset
    from transformers import GenerationConfig, PrinterCallback
    from trl import GRPOTrainer

    class Trainer(GRPOTrainer):  # type: ignore[misc]
        def _get_train_sampler(self, *_: Any) -> Groups:
            repeats = self.num_iterations * self.args.steps_per_generation
            epoch = lambda: int(self.state.epoch or 0)  # noqa: E731
            return Groups(len(self.train_dataset), grpo.prompts, grpo.samples, repeats, seed, epoch)

        def create_model_card(self, *_args: Any, **_options: Any) -> None:
            """None: a card would contain paths and versions of this machine."""

    stops = chat_template.stop_ids(tokenizer)
    # transformers 5 takes from the model's generation_config what the settings of a search leave open.
    model.generation_config = GenerationConfig(eos_token_id=stops, pad_token_id=tokenizer.pad_token_id)
    if grpo.use_vllm:
        check_prompt_ids(tokenizer, records)
        shared = {**shared, "use_vllm": True, "generation_kwargs": {"stop_token_ids": stops}}
    args = _arguments(grpo, shared, processes, cut_learns)
    draw = rollout(tokenizer, grpo.temperature, grpo.max_new_tokens, seed)
    built = Trainer(
        model=model,
        args=args,
        processing_class=tokenizer,
        callbacks=callbacks,
        reward_funcs=reward_function({record["id"]: record for record in records}, tokenizer, score),
        train_dataset=Dataset.from_list([{"id": record["id"], "prompt": record["prompt"]} for record in records]),
        rollout_func=None if grpo.use_vllm else draw,
    )
    built.remove_callback(PrinterCallback)
    lm_head.replace(built.model, grpo.temperature)
    return built


def columns(history: Sequence[Row]) -> dict[str, str]:
    """Log names to columns of the table: those of every run, and the mean of each reward."""
    rewards = sorted({name for entry in history for name in entry if name.startswith("each/")})
    return _NAMES | {name: name.removeprefix("each/") for name in rewards}


def first_and_last(history: Sequence[Row]) -> dict[str, dict[str, float]]:
    """The first and the last logged mean of every column, on training prompts: {first, last: {name: mean}}."""
    logged = [entry for entry in history if "reward" in entry]
    names = {key: name for key, name in columns(history).items() if key in logged[0] and name != "loss"}
    return {
        "first": {name: logged[0][key] for key, name in names.items()},
        "last": {name: logged[-1][key] for key, name in names.items()},
    }

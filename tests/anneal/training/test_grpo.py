"""Samples hang on their seeds and on params alone, a record meets its own samples, and what cannot be is refused."""

from __future__ import annotations

import math
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from anneal.dataset import chat_template
from anneal.decoding import generate
from anneal.errors import UserError
from anneal.training import grpo
from tests import micro

SETTINGS = grpo.Grpo(
    beta=0.0,
    lr=0.01,
    steps=3,
    prompts=4,
    samples=3,
    batch_size=6,
    temperature=1.0,
    max_new_tokens=6,
    loss_type="dapo",
    scale_rewards="group",
    schedule="linear",
    warmup=0.0,
    max_grad_norm=1.0,
    log_steps=1,
    save_steps=2,
    use_vllm=False,
)


def changed(**values: Any) -> grpo.Grpo:
    return SETTINGS.model_copy(update=values)


def test_what_cannot_be_had_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    grpo.check(SETTINGS, 4, 2, 90, 96)
    with pytest.raises(UserError, match=r"align.grpo.prompts: 4, data/train.jsonl holds 3; lower it"):
        grpo.check(SETTINGS, 3, 1, 9, math.inf)
    for values, processes in (({"batch_size": 5}, 1), ({}, 4)):
        with pytest.raises(UserError, match=r"align.grpo.batch_size: 4 prompts x 3 samples are no multiple of"):
            grpo.check(changed(**values), 9, processes, 9, math.inf)
    with pytest.raises(UserError, match=r"max_new_tokens: 6 after a prompt of 91 tokens, the model holds 96; lower it"):
        grpo.check(SETTINGS, 4, 2, 91, 96)
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(
        UserError, match=r"align.grpo.use_vllm: vllm is not installed; `pip install vllm`, or set false"
    ):
        grpo.check(changed(use_vllm=True), 9, 1, 9, math.inf)


def test_a_run_in_which_nothing_moved_is_refused() -> None:
    grpo.refuse_without_signal([{"frac_reward_zero_std": 1.0}, {"frac_reward_zero_std": 0.5}, {"loss": 0.1}])
    grpo.refuse_without_signal([])
    with pytest.raises(UserError, match="in all of 2 logged steps every sample of a prompt had one reward"):
        grpo.refuse_without_signal([{"frac_reward_zero_std": 1.0}] * 2)


def test_a_step_holds_whole_groups_and_an_epoch_every_prompt_once() -> None:
    epochs = []
    for epoch in range(3):
        order = grpo.Groups(10, 4, 3, 2, 7, lambda now=epoch: now)  # type: ignore[misc]
        found = list(order)
        assert len(found) == len(order) == 48  # two whole steps of 4 x 3, each twice: 10 prompts are no three steps
        assert found[:12] == found[12:24]
        assert found[24:36] == found[36:]
        drawn = [*found[:12:3], *found[24:36:3]]
        assert len(set(drawn)) == 8
        assert [row for row in drawn for _ in range(3)] == [*found[:12], *found[24:36]]
        epochs.append(found)
    assert epochs[0] != epochs[1] != epochs[2]
    assert list(grpo.Groups(10, 4, 3, 2, 7, lambda: 1)) == epochs[1], "a resumed run finds the same epoch"


def standing(step: int, weights: Any) -> Any:
    """As much of a trainer as a rollout looks at."""
    accelerator = SimpleNamespace(unwrap_model=lambda found: found, process_index=0)
    return SimpleNamespace(accelerator=accelerator, state=SimpleNamespace(global_step=step), model=weights)


@pytest.fixture(scope="module")
def context() -> tuple[Any, Any]:
    return micro.model(), micro.tokenizer()


PROMPTS = [[{"role": "user", "content": words}] for words in ("the fox", "the fox", "a lazy dog")]


def test_samples_hang_on_step_and_row_and_end_in_a_stop(context: tuple[Any, Any]) -> None:
    weights, tokenizer = context
    weights.generation_config.temperature = 0.01  # a model's own settings have no say
    draw = grpo.rollout(tokenizer, 1.0, 40, 42)
    first, again, later = (draw(PROMPTS, standing(step, weights)) for step in (3, 3, 4))
    assert first == again
    assert first["completion_ids"] != later["completion_ids"]
    assert first["completion_ids"][0] != first["completion_ids"][1], "two samples of one prompt"
    assert first["prompt_ids"] == [chat_template.prompt_ids(tokenizer, prompt) for prompt in PROMPTS]
    stops = chat_template.stop_ids(tokenizer)
    for ids in first["completion_ids"]:
        assert len(ids) == 40 or ids[-1] in stops
        assert not set(ids[:-1]) & set(stops)
    assert weights.training, "training goes on in training mode"


def test_a_reward_sees_the_record_the_text_and_whether_it_ended(context: tuple[Any, Any]) -> None:
    _, tokenizer = context
    stop = chat_template.stop_ids(tokenizer)[0]
    seen: list[Any] = []
    logged: dict[str, float] = {}

    def score(records: list[Any], texts: list[str], stopped: list[bool]) -> Any:
        seen.extend(zip([record["id"] for record in records], texts, stopped, strict=True))
        return [1.0, 0.0, 0.5], [{"a": 1.0}, {"a": 0.0}, {"a": 0.5}]

    records = {name: {"id": name} for name in ("r1", "r2")}
    ids = [
        tokenizer("fox", add_special_tokens=False)["input_ids"],
        tokenizer("dog", add_special_tokens=False)["input_ids"],
    ]
    reward = grpo.reward_function(records, tokenizer, score)
    found = reward(
        completion_ids=[[*ids[0], stop], ids[1], ids[0]], id=["r2", "r1", "r1"], log_metric=logged.__setitem__, extra=1
    )
    assert found == [1.0, 0.0, 0.5]
    assert seen == [("r2", "fox", True), ("r1", "dog", False), ("r1", "fox", False)]
    assert logged == {"each/a": 0.5}


def test_prompts_of_vllm_must_be_ours(context: tuple[Any, Any]) -> None:
    _, tokenizer = context
    records = [{"id": "r1", "prompt": PROMPTS[0]}]
    grpo.check_prompt_ids(tokenizer, records)
    with pytest.raises(UserError, match=r"r2: align.grpo.use_vllm would start from other tokens; set false"):
        grpo.check_prompt_ids(
            tokenizer, [*records, {"id": "r2", "prompt": [{"role": "user", "content": "<|im_end|> x"}]}]
        )


def test_only_the_temperature_bends_what_is_drawn() -> None:
    """A log-probability is taken at the temperature, and of every token: a cut vocabulary would make it another."""
    settings = generate.plain(0.7, 5)
    assert (settings.top_k, settings.top_p, settings.repetition_penalty, settings.num_beams) == (0, 1.0, 1.0, 1)
    assert settings.do_sample


def test_columns_and_ends_of_a_log() -> None:
    history = [
        {"step": 1, "loss": 0.1, "reward": 0.5, "each/stop": 1.0, "each/length": 0.2, "completions/mean_length": 9.0},
        {"step": 2, "loss": 0.2, "reward": 0.75, "each/stop": 1.0, "each/length": 0.4, "completions/mean_length": 8.0},
        {"step": 2, "train_loss": 1.0},
    ]
    columns = grpo.columns(history)
    assert list(columns.values())[-2:] == ["length", "stop"]
    assert len(set(columns.values())) == len(columns), "two columns of one name"
    assert grpo.first_and_last(history) == {
        "first": {"reward": 0.5, "stop": 1.0, "length": 0.2, "tokens": 9.0},
        "last": {"reward": 0.75, "stop": 1.0, "length": 0.4, "tokens": 8.0},
    }


def test_no_reward_has_the_name_of_a_column() -> None:
    from anneal.preference import rule_rewards

    assert not set(rule_rewards.NAMES) & set(grpo.columns([]).values())

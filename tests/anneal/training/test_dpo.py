"""Pairs reach the trainer whole and masked; the adapter is its own reference; what is gained is measured."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

import pytest

from anneal import files
from anneal.dataset import chat_template
from anneal.decoding import generate
from anneal.errors import UserError
from anneal.models import loading
from anneal.training import dpo, lm_head, loop, preference_eval, preference_pairs
from tests import micro

SETTINGS = dpo.Dpo(
    beta=0.5,
    sft=0.0,
    lr=0.01,
    epochs=1,
    batch_size=4,
    accumulation=1,
    schedule="linear",
    warmup=0.0,
    max_grad_norm=1.0,
    log_steps=1,
    eval_steps=2,
)
WORDS = ["quick", "brown", "fox", "dog"]


def pair(number: int) -> dict[str, Any]:
    rng = random.Random(number)
    sides = {side: " ".join(rng.choice(WORDS) for _ in range(rng.randint(1, 9))) for side in preference_pairs.SIDES}
    turns = {side: [{"role": "assistant", "content": words}] for side, words in sides.items()}
    prompt = [{"role": "user", "content": "say " * (number % 4 + 1)}]
    return {
        "id": f"p{number}",
        "item": f"i{number // 2}",
        "kind": ("weak", "fake")[number % 2],
        "prompt": prompt,
        **turns,
    }


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A trainer that has not begun, its pairs and its tokenizer."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("dpo"))
        return made(SETTINGS)


def made(settings: dpo.Dpo, dropout: float = 0.3) -> Any:
    loop.quiet()
    micro.base(Path("models/base"))
    micro.lora(loading.load(dtype="float32"), Path("models/adapter"), lora_dropout=dropout)
    files.write("pairs.jsonl", [pair(number) for number in range(12)])
    tokenizer = loading.tokenizer()
    pairs = preference_pairs.encode("pairs.jsonl", tokenizer, 512)
    policy = loop.trainable_policy(Path("models/base"), Path("models/adapter"), "float32", "none", pairs.longest())
    shared = loop.arguments("float32", False, 3, Path("out"))
    trainer = dpo.trainer(
        settings,
        3,
        pairs,
        preference_pairs.Pairs([], {}),
        shared,
        model=policy,
        processing_class=tokenizer,
        callbacks=[],
    )
    return trainer, pairs, tokenizer


def batch(trainer: Any, numbers: range) -> dict[str, Any]:
    return dict(trainer.data_collator([trainer.train_dataset[n] for n in numbers]))


def sums(policy: Any, pairs: preference_pairs.Pairs) -> list[float]:
    """All chosen ones, then all rejected ones."""
    found = preference_eval.score(policy.eval(), pairs)
    return [row[side] for side in preference_pairs.SIDES for row in found]


def test_a_pair_is_encoded_as_training_encodes_each_side(ready: Any) -> None:
    _, pairs, tokenizer = ready
    assert len(pairs.rows) == 12
    for number, row in enumerate(pairs.rows):
        for side in preference_pairs.SIDES:
            one = chat_template.encode(tokenizer, pair(number)["prompt"], pair(number)[side])
            assert row["prompt"] + row[side] == one.ids
            assert row[side] == [label for label in one.labels if label != chat_template.IGNORE]
            assert row[side][-1] == chat_template.stop_ids(tokenizer)[0]


def test_the_batches_hold_what_was_encoded(ready: Any) -> None:
    trainer, pairs, tokenizer = ready
    stops = chat_template.stop_ids(tokenizer)
    dpo.check_batches(trainer, pairs, stops)
    with pytest.raises(UserError, match=r"p0: chosen does not end in a stop of the chat template"):
        dpo.check_batches(trainer, pairs, [9])
    trainer.data_collator.max_length = 12
    with pytest.raises(UserError, match=r"does not reach the model as it was encoded; pin trl"):
        dpo.check_batches(trainer, pairs, stops)
    trainer.data_collator.max_length = None


def test_nothing_is_cut(ready: Any, toy: Path) -> None:
    _, pairs, tokenizer = ready
    longest = pairs.longest()
    files.write("pairs.jsonl", [pair(number) for number in range(12)])
    assert len(preference_pairs.encode("pairs.jsonl", tokenizer, longest).rows) == 12
    with pytest.raises(UserError, match=rf"pairs.jsonl: p\d+: {longest} tokens, the model holds {longest - 1}; lower"):
        preference_pairs.encode("pairs.jsonl", tokenizer, longest - 1)


def test_a_pair_that_cannot_be_masked_is_counted(toy: Path) -> None:
    tokenizer = micro.tokenizer()
    bad = {**pair(1), "rejected": [{"role": "user", "content": "no"}]}
    files.write("pairs.jsonl", [pair(0), bad])
    found = preference_pairs.encode("pairs.jsonl", tokenizer, 512)
    assert [row["id"] for row in found.rows] == ["p0"]
    assert found.refused == {"the completion does not end with an assistant turn": 1}


def test_the_reference_is_the_adapter_and_not_the_base(ready: Any) -> None:
    import torch

    trainer, pairs, _ = ready
    policy = trainer.model
    assert set(policy.peft_config) == {"default", "ref"}
    assert trainer.ref_model is None, "no second base in memory"
    learns = [name for name, weight in policy.named_parameters() if weight.requires_grad]
    assert learns
    assert all(".default." in name for name in learns)
    inputs = batch(trainer, range(4))
    policy.train()
    reference = torch.cat(trainer.compute_ref_log_probs(policy, inputs)).tolist()
    four = preference_pairs.Pairs(pairs.rows[:4], {})
    assert reference == pytest.approx(sums(policy, four), rel=1e-4)
    with policy.disable_adapter():
        base = sums(policy, four)
    assert max(abs(a - b) for a, b in zip(base, reference, strict=True)) > 0.5


def test_nothing_has_moved_before_the_first_step(ready: Any) -> None:
    """Policy and reference are equal, dropout is off: the loss is that of a coin, ln 2."""
    trainer, _, _ = ready
    trainer.model.train()
    loss = trainer.compute_loss(trainer.model, batch(trainer, range(4)))
    assert loss.item() == pytest.approx(math.log(2), abs=1e-6)


@pytest.mark.parametrize("sft", [0.0, 0.7])
def test_the_loss_is_the_one_of_the_papers(toy: Path, sft: float) -> None:
    """-log sigmoid(beta * margin) and, with its weight, the mean loss of a token of the chosen texts."""
    import torch

    trainer, pairs, _ = made(SETTINGS.model_copy(update={"sft": sft}))
    with torch.no_grad():
        for name, weight in trainer.model.named_parameters():
            if ".default." in name and "lora_B" in name:
                weight.mul_(1.5)
    rows = preference_pairs.Pairs(pairs.rows[:4], {})
    now = preference_eval.score(trainer.model.eval(), rows)
    trainer.model.set_adapter("ref")
    then = preference_eval.score(trainer.model, rows)
    trainer.model.set_adapter("default")
    gains = [(a["chosen"] - b["chosen"]) - (a["rejected"] - b["rejected"]) for a, b in zip(now, then, strict=True)]
    wanted = sum(math.log1p(math.exp(-0.5 * gain)) for gain in gains) / 4
    wanted += sft * -sum(row["chosen"] for row in now) / sum(len(row["chosen"]) for row in rows.rows)
    loss = trainer.compute_loss(trainer.model, batch(trainer, range(4)))
    assert loss.item() == pytest.approx(wanted, rel=1e-4)


def test_our_head_gives_what_trls_gives(ready: Any) -> None:
    trainer, _, _ = ready
    inner, inputs = trainer.model.get_base_model(), batch(trainer, range(4))
    labels = inputs["input_ids"].masked_fill(inputs["completion_mask"] == 0, -100)
    words = {"input_ids": inputs["input_ids"], "attention_mask": inputs["attention_mask"]}
    ours = inner(**words, labels=labels, fused_lm_head=True)
    theirs = inner.forward.__wrapped__(**words, labels=labels, fused_lm_head=True)
    for name in ("log_probs", "entropy"):
        for row, other in zip(getattr(ours, name).tolist(), getattr(theirs, name).tolist(), strict=True):
            assert row == pytest.approx(other, abs=1e-5)
    assert ours.is_top1.tolist() == theirs.is_top1.tolist()
    assert ours.log_probs.sum() < -10


def test_a_model_that_bends_its_logits_keeps_trls_head(ready: Any) -> None:
    class Config:
        final_logit_softcapping = 30.0

    trainer, _, _ = ready
    inner = trainer.model.get_base_model()
    before, own = inner.forward, inner.config.get_text_config
    inner.config.get_text_config = Config  # type: ignore[assignment]
    lm_head.replace(trainer.model)
    inner.config.get_text_config = own
    assert inner.forward is before


SIDED = {"prompt": [1], "chosen": [1] * 4, "rejected": [1] * 2}
PAIRS = preference_pairs.Pairs(
    [{"id": f"p{n}", "item": f"i{n}", "kind": ("a", "b")[n % 2], **SIDED} for n in range(4)], {}
)


def test_held_out_preference() -> None:
    # By the sum rejected is likelier in all, per token chosen is in two of them.
    before = [{"chosen": -8.0, "rejected": r} for r in (-5.0, -3.0, -5.0, -3.0)]
    after = [{"chosen": -9.0, "rejected": r - 4.0} for r in (-5.0, -3.0, 5.0, -3.0)]
    found = preference_eval.preference(PAIRS, before, after)
    assert (found["n"], found["before"]["sum"]["all"]["mean"]) == (4, 0.0)
    assert (found["before"]["token"]["all"]["mean"], found["before"]["token"]["a"]["mean"]) == (0.5, 1.0)
    # Chosen lost 1 everywhere; rejected lost 4 in three pairs and gained 6 in the third.
    assert found["after"]["reward"]["all"]["mean"] == 0.75
    assert (found["after"]["reward"]["a"]["mean"], found["after"]["reward"]["b"]["n"]) == (0.5, 2)
    assert found["logp"]["chosen"] == {"before": -2.0, "after": -2.25}


def test_no_pairs_give_no_figure() -> None:
    found = preference_eval.preference(preference_pairs.Pairs([], {}), [], [])
    assert found["n"] == 0
    assert found["before"]["sum"]["all"]["reason"] == "empty: there is nothing to measure"


def test_a_fall_of_the_chosen_texts_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    rose = {"chosen": {"before": -2.0, "after": -1.5}, "rejected": {"before": -2.0, "after": -3.0}}
    assert preference_eval.warnings(rose) == []
    assert capsys.readouterr().err == ""
    (line,) = preference_eval.warnings({**rose, "chosen": {"before": -2.0, "after": -2.25}})
    assert "-2.0000 to -2.2500 nats a token on held-out pairs, a fall of 0.2500; raise align.dpo.sft" in line
    assert line in capsys.readouterr().err


def test_likelihoods_are_sums_over_the_answer_and_its_stop(ready: Any) -> None:
    trainer, pairs, tokenizer = ready
    one = chat_template.encode(tokenizer, pair(5)["prompt"], pair(5)["chosen"])
    found = preference_eval.score(trainer.model.eval(), pairs)[5]["chosen"]
    assert found == generate.likelihood(trainer.model, one.ids, one.labels)[0]


def test_an_adaptive_adapter_is_refused(toy: Path) -> None:
    files.write_json("models/adapter/adapter_config.json", {"peft_type": "ADALORA"})
    with pytest.raises(UserError, match=r"train.lora.adaptive: such an adapter learns no preferences; set false"):
        loop.trainable_policy(Path("models/base"), Path("models/adapter"), "float32", "none", 9)

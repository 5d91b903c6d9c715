"""Scores: of a text alone, whatever is in its batch, read at its stop, and the same after the folder is loaded."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from anneal import files
from anneal.dataset import chat_template
from anneal.dataset.chat_template import Unmaskable
from anneal.errors import UserError
from anneal.models import loading, reward_model
from tests import micro

PROMPTS = [[{"role": "user", "content": words}] for words in ("the quick", "今天天气很好", "a", "lazy dogs " * 9)]
TEXTS = ["brown fox", "", "今天很好。" * 7, "jumps\n\nover"]
NOTE = {"made": True, "dtype": "float32", "centre": 0.25, "scale": 2.0}


@pytest.fixture
def base(toy: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ANNEAL_DEVICE", "cpu")
    micro.base(toy / "models/base")
    return toy


@pytest.fixture
def made(base: Path) -> Path:
    """models/reward with random numbers in its adapter and its head."""
    weights = reward_model.untrained("float32", 3)
    found = micro.lora(weights, base / "drawn", task_type="SEQ_CLS", modules_to_save=["score"])
    files.write_folder(reward_model.FOLDER, lambda out: reward_model.save(found, NOTE, out))
    return base


def scorer() -> reward_model.Scorer:
    found = reward_model.load()
    assert found
    return found


def test_a_score_depends_on_its_text_alone(made: Path) -> None:
    found = scorer()
    alone = [found.score([prompt], [words])[0] for prompt, words in zip(PROMPTS, TEXTS, strict=True)]
    assert len({round(value, 3) for value in alone}) == 4, "they say nothing"
    assert found.score(PROMPTS, TEXTS) == pytest.approx(alone, abs=1e-5)
    many = found.score([*PROMPTS[::-1], *PROMPTS * 9], [*TEXTS[::-1], *TEXTS * 9])
    assert many == pytest.approx([*alone[::-1], *alone * 9], abs=1e-5)
    assert found.score([], []) == []


def test_a_score_is_read_at_the_stop_of_the_whole_conversation(made: Path) -> None:
    """What transformers computes of one row without any padding, at its last token."""
    import torch

    found, checked = scorer(), 0
    for prompt, words in zip(PROMPTS, TEXTS, strict=True):
        ids = chat_template.encode(found.tokenizer, prompt, [{"role": "assistant", "content": words}]).ids
        assert found.tokenizer.decode(ids).endswith(f"<|im_start|>assistant\n{words}<|im_end|>")
        inner = found.weights.base_model.model
        with torch.inference_mode():
            hidden = inner.model(torch.tensor([ids])).last_hidden_state[0, -1]
            value = float(inner.score(hidden))
        assert found.score([prompt], [words]) == [pytest.approx((value - 0.25) / 2, abs=1e-5)]
        assert found.read([ids]) == [pytest.approx(value, abs=1e-5)]
        checked += 1
    assert checked == 4


def test_a_text_that_the_template_would_rewrite_is_scored_as_it_is(made: Path) -> None:
    found = scorer()
    plain = found.encode(PROMPTS[0], "brown fox")
    before = found.score(PROMPTS[:1], ["brown fox"])
    rewrites = "{{ message.content | replace('fox', 'cat') }}"
    found.tokenizer.chat_template = micro.TEMPLATE.replace("{{ message.content }}", rewrites)
    with pytest.raises(Unmaskable):
        chat_template.encode(found.tokenizer, PROMPTS[0], [{"role": "assistant", "content": "brown fox"}])
    assert found.encode(PROMPTS[0], "brown fox") == plain
    assert found.score(PROMPTS[:1], ["brown fox"]) == before


def test_padding_is_never_a_stop(made: Path) -> None:
    tokenizer = loading.tokenizer("models/base")
    assert reward_model.padding(tokenizer) == tokenizer.pad_token_id
    before = scorer().score(PROMPTS, TEXTS)
    tokenizer.pad_token = tokenizer.eos_token
    assert reward_model.padding(tokenizer) not in chat_template.stop_ids(tokenizer)
    tokenizer.save_pretrained("models/base")
    again = scorer()
    assert again.tokenizer.pad_token == again.tokenizer.eos_token
    assert again.score(PROMPTS, TEXTS) == pytest.approx(before, abs=1e-5)


def test_the_head_is_drawn_from_the_seed_alone(base: Path) -> None:
    import torch

    heads = []
    for state, seed in ((1, 7), (2, 7), (1, 8)):
        torch.manual_seed(state)
        heads.append(reward_model.untrained("float32", seed).score.weight.detach())
    assert heads[0].shape == (1, 16)
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])
    assert 0.3 < float(heads[0].std()) * math.sqrt(17) < 3


def test_scores_are_exact_under_autocast(base: Path) -> None:
    import torch

    head = reward_model.untrained("float32").score
    hidden = torch.randn(5, 16, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        exact = torch.nn.functional.linear(hidden, head.weight)
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(head(hidden), exact)
            assert not torch.equal(torch.nn.functional.linear(hidden, head.weight), exact)


def test_the_folder_is_plain_and_holds_the_head(made: Path) -> None:
    from safetensors.numpy import load_file

    assert {path.name for path in reward_model.FOLDER.iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
        "reward.json",
    }
    config = json.loads((reward_model.FOLDER / "adapter_config.json").read_text())
    assert list(config) == sorted(config)
    assert config["target_modules"] == sorted(config["target_modules"])
    assert len(config["target_modules"]) == 14
    assert config["modules_to_save"] == ["classifier", "score"]
    assert config["base_model_name_or_path"] == "models/base"
    assert json.loads((reward_model.FOLDER / "reward.json").read_text()) == NOTE
    assert [key for key in load_file(reward_model.FOLDER / "adapter_model.safetensors") if "score" in key] == [
        "base_model.model.score.weight"
    ]


def test_units_are_those_of_both_sides_of_the_validation_pairs() -> None:
    rows = [
        {"part": "train", "chosen": 100.0, "rejected": 50.0},
        {"part": "validation", "chosen": 3.0, "rejected": -1.0},
        {"part": "validation", "chosen": 5.0, "rejected": 1.0},
        {"part": "test", "chosen": -70.0, "rejected": 9.0},
    ]
    assert reward_model.units(rows) == {"centre": 2.0, "scale": pytest.approx(math.sqrt(5))}
    assert reward_model.units(rows[:1]) == {"centre": 75.0, "scale": 25.0}
    assert reward_model.units([{"part": "train", "chosen": 2.0, "rejected": 2.0}]) == {"centre": 2.0, "scale": 1.0}


def test_a_folder_without_a_reward_model_loads_none(base: Path) -> None:
    with pytest.raises(UserError, match=r"models/reward/reward.json: no such file; `dvc repro` makes it"):
        reward_model.load()
    files.write_json("models/reward/reward.json", {"made": False})
    assert reward_model.load() is None


def test_an_incomplete_base_is_refused(base: Path) -> None:
    from safetensors.torch import load_file, save_file

    path = base / "models/base/model.safetensors"
    tensors = load_file(path)
    del tensors["model.norm.weight"]
    save_file(tensors, path, {"format": "pt"})
    with pytest.raises(UserError, match=r"models/base: as a reward model .*model.norm.weight; set reward.epochs to 0"):
        reward_model.untrained("float32")
    path.write_bytes(b"no")
    with pytest.raises(UserError, match="models/base: no reward model could be made of it: ") as err:
        reward_model.untrained("float32")
    assert "\n" not in str(err.value)

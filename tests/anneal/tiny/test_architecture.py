"""tiny: a tokenizer that loses nothing and a model whose heads copy before they have learnt anything."""

from __future__ import annotations

import json
import random
import unicodedata
from pathlib import Path
from typing import Any

import pytest

from anneal import params
from anneal.errors import UserError
from anneal.models import loading as models
from anneal.tiny import architecture
from anneal.tiny.architecture import Base
from anneal.tiny.sheet_corpus import Corpus
from tests.conftest import ROOT

FOLDER = ROOT / "data/raw/brand/base"


def micro(**changes: Any) -> Base:
    """The shipped params with a model of a hundredth of the size."""
    values = params.load(ROOT / "params.yaml")["base"] | {"corpus": str(FOLDER)}
    small = {"hidden_size": 64, "layers": 2, "heads": 2, "key_value_heads": 2, "intermediate_size": 64}
    return Base.model_validate(values | small | {"batch_size": 4, "steps": 3, "warmup_steps": 1} | changes)


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return Corpus(FOLDER)


@pytest.fixture(scope="module")
def tokens(corpus: Corpus) -> Any:
    return architecture.tokenizer(corpus.words, corpus.characters, micro().vocab_size)


@pytest.fixture(scope="module")
def folder(tokens: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Model and tokenizer on disk, as a base folder holds them."""
    made = tmp_path_factory.mktemp("tiny")
    architecture.build(micro(), tokens).save_pretrained(made)
    tokens.save_pretrained(made)
    return made


def texts(corpus: Corpus, n: int) -> list[str]:
    """Half documents, half random code points from all planes, in the normal form that Qwen2 gives every text."""
    found = ["".join(t for t, _ in corpus.document(random.Random(f"t/{i}"), 0.1)) for i in range(n)]
    for number in range(n):
        rng = random.Random(f"unicode/{number}")
        points = [rng.randrange(32, rng.choice([0x7F, 0x300, 0x3000, 0xD800, 0xFFF0, 0x1FAFF])) for _ in range(30)]
        text = "".join(chr(p) for p in points if not 0xD800 <= p < 0xE000)
        found.append(unicodedata.normalize("NFC", text))
    return found


def test_words_are_single_tokens(corpus: Corpus, tokens: Any) -> None:
    vocabulary = json.loads((ROOT / "data/raw/brand/rules/vocabulary.json").read_text())
    words = [word for words in vocabulary.values() for word in words] + corpus.w["labels"]
    assert len(words) >= 170
    assert {word: n for word in words if (n := len(tokens(word)["input_ids"])) != 1} == {}


def test_characters_of_the_recipe_are_single_tokens(tokens: Any) -> None:
    paths = [*(ROOT / "data/raw/brand/offline").glob("*.json"), ROOT / "data/raw/brand/products.jsonl"]
    seen = {c for path in paths for c in path.read_text() if not c.isascii()}
    assert len(seen) > 500
    assert {c for c in seen if len(tokens(c)["input_ids"]) != 1} == set()


def test_round_trip_of_documents_and_of_random_unicode(corpus: Corpus, tokens: Any) -> None:
    checked = 0
    for text in texts(corpus, 300):
        assert tokens.decode(tokens(text)["input_ids"]) == text
        checked += 1
    assert checked == 600


def test_auto_tokenizer_keeps_every_id_through_two_saves(corpus: Corpus, tokens: Any, folder: Path) -> None:
    """transformers builds its own pre-tokenizer for a qwen2 folder; ours must be the one it builds."""
    from transformers import AutoTokenizer, Qwen2Config

    once = AutoTokenizer.from_pretrained(folder)
    once.save_pretrained(folder / "again")
    Qwen2Config().save_pretrained(folder / "again")
    twice = AutoTokenizer.from_pretrained(folder / "again")
    assert type(twice).__name__ == "Qwen2Tokenizer"
    assert len(tokens) == len(once) == len(twice)
    sample = texts(corpus, 100)
    assert tokens(sample)["input_ids"] == once(sample)["input_ids"] == twice(sample)["input_ids"]
    assert len(sample) == 200


def test_stop_pad_and_template(folder: Path) -> None:
    from transformers import GenerationConfig

    found = models.tokenizer(folder)
    assert (found.pad_token, found.eos_token) == ("<|pad|>", "<|im_end|>")
    assert found.pad_token_id != found.eos_token_id
    ids = [found.convert_tokens_to_ids(token) for token in ("<|im_end|>", "<|endoftext|>")]
    assert GenerationConfig.from_pretrained(folder).eos_token_id == ids
    chat = [{"role": "user", "content": "甲"}, {"role": "assistant", "content": "乙"}]
    text = found.apply_chat_template(chat, tokenize=False)
    assert text == "<|im_start|>user\n甲<|im_end|>\n<|im_start|>assistant\n乙<|im_end|>\n"
    asked = found.apply_chat_template(chat[:1], tokenize=False, add_generation_prompt=True)
    assert text.startswith(asked)
    marked = found.apply_chat_template(chat, return_dict=True, return_assistant_tokens_mask=True)
    taught = [i for i, kept in zip(marked["input_ids"], marked["assistant_masks"], strict=True) if kept]
    assert found.decode(taught) == "乙<|im_end|>"


def test_vocab_size_takes_words_first_and_drops_rare_characters(corpus: Corpus) -> None:
    small = architecture.tokenizer(corpus.words, corpus.characters, 1000)
    assert len(small) <= 1000
    assert len(small(corpus.words[0])["input_ids"]) == 1
    assert len(small(corpus.characters[0])["input_ids"]) == 1
    rare = corpus.characters[-1]
    assert len(small(rare)["input_ids"]) > 1
    assert small.decode(small(rare)["input_ids"]) == rare
    with pytest.raises(UserError, match=r"base\.vocab_size: .* words and the bytes need \d+"):
        architecture.tokenizer(corpus.words, corpus.characters, 300)


def test_heads_look_at_the_previous_tokens_before_training(tokens: Any) -> None:
    import torch

    base = micro(hidden_size=192, layers=2, heads=6, key_value_heads=3)
    model = architecture.build(base, tokens)
    model.set_attn_implementation("eager")
    ids = torch.tensor([random.Random(0).choices(range(4, len(tokens)), k=120)])
    with torch.inference_mode():
        attention = model(ids, output_attentions=True).attentions
    places = torch.arange(2, 120)
    for layer, heads, distance in ((0, (0, 1), 1), (0, (2, 3), 2), (1, (0, 1), 1)):
        for head in heads:
            share = attention[layer][0, head, places, places - distance].mean().item()
            assert share > 0.9, (layer, head, distance, share)
    free = attention[1][0, 4, places, places - 1].mean().item()
    assert free < 0.5


def test_another_seed_is_another_model_and_the_same_seed_the_same(tokens: Any) -> None:
    import torch

    first, again, other = (architecture.build(micro(seed=seed), tokens).state_dict() for seed in (1, 1, 2))
    assert len(first) > 20
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"heads": 5}, "heads must divide hidden_size"),
        ({"heads": 4, "key_value_heads": 3}, "key_value_heads must divide heads"),
        ({"layers": 1}, "two layers"),
    ],
)
def test_a_shape_that_cannot_be_built_is_refused(changes: dict[str, int], said: str) -> None:
    with pytest.raises(UserError, match=said):
        micro(**changes)

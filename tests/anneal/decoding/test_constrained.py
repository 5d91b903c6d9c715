"""Texts under a JSON schema: each is valid with any weights, and the mask allows a stop where a text may end."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from anneal.dataset import chat_template
from anneal.decoding import constrained, generate
from anneal.errors import UserError
from anneal.models import loading as models
from tests import micro

SCHEMA: dict[str, Any] = {
    "type": "object",
    "additionalProperties": False,
    "required": ["role", "align", "x", "size", "tags"],
    "properties": {
        "role": {"type": "string", "minLength": 1, "maxLength": 8},
        "align": {"enum": ["left", "center", "很好"]},
        "x": {"type": "number", "minimum": 0, "maximum": 1},
        "size": {"type": "integer", "minimum": 3, "maximum": 40},
        "tags": {"type": "array", "maxItems": 2, "items": {"enum": ["今天", "天气"]}},
    },
}
WORDS = ["今天", "天气", '":"', "left", "enter"]
PROMPTS = [[1, 90 + n, 40 + n % 3, 2] * (1 + n % 3) for n in range(12)]


def valid(text: str, wanted: dict[str, Any] = SCHEMA) -> bool:
    try:
        jsonschema.validate(json.loads(text), wanted)
    except (ValueError, jsonschema.ValidationError):
        return False
    return True


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """As the stages get it: Qwen2's class, from a folder, with words that are added tokens and not special."""
    from tokenizers import AddedToken

    folder = micro.base(tmp_path_factory.mktemp("constrain") / "base")
    made = micro.tokenizer()
    made.add_tokens([AddedToken(word, normalized=False, special=False) for word in WORDS])
    made.save_pretrained(folder)
    found = models.tokenizer(folder)
    assert len(found) == 300 + len(WORDS)
    return found


def settings(**changes: Any) -> generate.Decode:
    usual: dict[str, Any] = {
        "do_sample": True,
        "temperature": 1.0,
        "top_k": 0,
        "top_p": 1.0,
        "repetition_penalty": 1.0,
        "no_repeat_ngram_size": 0,
        "num_beams": 1,
        "length_penalty": 1.0,
        "max_new_tokens": 160,
        "stop": [],
    }
    return generate.Decode.model_validate(usual | changes)


def write(tokenizer: Any, masks: list[Any], prompts: list[list[int]] = PROMPTS, **changes: Any) -> list[str]:
    weights, stops = micro.model(vocabulary=320), chat_template.stop_ids(tokenizer)
    seeds = [sum(prompt) for prompt in prompts]
    return [row.text for row in generate.answer(weights, tokenizer, prompts, settings(**changes), stops, seeds, masks)]


def test_random_weights_write_valid_texts_with_the_mask_and_none_without(tokenizer: Any) -> None:
    grammar = constrained.Grammar(tokenizer, SCHEMA, chat_template.stop_ids(tokenizer))
    texts = write(tokenizer, [grammar.mask()])
    assert [valid(text) for text in texts] == [True] * 12, texts
    assert len(set(texts)) > 6
    free = write(tokenizer, [])
    assert not any(valid(text) for text in free)
    hot = write(tokenizer, [grammar.mask()], temperature=3.0, top_p=0.9, top_k=20, repetition_penalty=1.3)
    assert [valid(text) for text in hot] == [True] * 12, hot


def test_a_row_does_not_depend_on_the_other_rows(tokenizer: Any) -> None:
    grammar = constrained.Grammar(tokenizer, SCHEMA, chat_template.stop_ids(tokenizer))
    together = write(tokenizer, [grammar.mask()])
    alone = [write(tokenizer, [grammar.mask()], [prompt])[0] for prompt in PROMPTS[:4]]
    assert alone == together[:4]


def step(mask: constrained.Mask, ids: list[int], width: int = 320) -> list[int]:
    """The tokens that are allowed after `ids`."""
    import torch

    scores = mask(torch.tensor([ids]), torch.zeros(1, width))
    assert set(scores.flatten().tolist()) <= {0.0, -torch.inf}
    return [int(token) for token in torch.nonzero(scores[0] == 0).flatten()]


NUMBER: dict[str, Any] = {"type": "integer", "minimum": 3, "maximum": 40}
LIST: dict[str, Any] = {"type": "array", "maxItems": 3, "items": {"enum": ["今天", "left", 12]}}


@pytest.mark.parametrize("wanted", [SCHEMA, NUMBER, LIST], ids=["object", "number", "list"])
def test_the_stop_is_allowed_exactly_where_a_text_may_end(tokenizer: Any, wanted: dict[str, Any]) -> None:
    stops = chat_template.stop_ids(tokenizer)
    special = set(tokenizer.all_special_ids)
    grammar = constrained.Grammar(tokenizer, wanted, stops)
    checked = ends = 0
    for walk in range(12):
        mask, rng, ids = grammar.mask(), random.Random(walk), [7]
        for _ in range(200):
            allowed = step(mask, ids)
            text = tokenizer.decode(ids[1:])
            assert allowed, text
            assert bool(set(allowed) & set(stops)) == valid(text, wanted), text
            assert not (set(allowed) & special) - set(stops), "a special token is no text"
            assert max(allowed) < len(tokenizer), "the model has 320 scores, the tokenizer 305 tokens"
            checked += 1
            ends += bool(set(allowed) & set(stops))
            ids.append(rng.choice(allowed))
            if ids[-1] in stops:
                break
        else:
            raise AssertionError(f"no end: {tokenizer.decode(ids[1:])}")
    assert checked >= 20
    assert ends >= 12


def test_added_tokens_and_the_characters_that_spell_them_are_both_allowed(tokenizer: Any) -> None:
    wanted = {"enum": ["今天", "left"]}
    mask = constrained.Grammar(tokenizer, wanted, chat_template.stop_ids(tokenizer)).mask()
    quote = tokenizer.convert_tokens_to_ids('"')
    assert step(mask, [7]) == [quote]
    word, other = (tokenizer.convert_tokens_to_ids(w) for w in ("今天", "left"))
    allowed = step(mask, [7, quote])
    assert {word, other, tokenizer.convert_tokens_to_ids("l")} <= set(allowed)
    assert word >= 300, "an added token"
    assert step(mask, [7, quote, word]) == [quote]
    assert step(mask, [7, quote, word, quote]) == sorted(chat_template.stop_ids(tokenizer))


def test_white_space_is_never_flexible(tokenizer: Any) -> None:
    wanted = {**SCHEMA, "x-guidance": {"whitespace_flexible": True}}
    mask = constrained.Grammar(tokenizer, wanted, chat_template.stop_ids(tokenizer)).mask()
    assert [tokenizer.decode([token]) for token in step(mask, [7])] == ["{"]
    ids = [7, *tokenizer.encode("{", add_special_tokens=False)]
    assert all(tokenizer.decode([token]).startswith('"') for token in step(mask, ids))


@pytest.mark.parametrize("kind", ["number", ["number", "null"]])
def test_numbers_are_bounded(tokenizer: Any, kind: Any) -> None:
    stop, digits = set(chat_template.stop_ids(tokenizer)), set(tokenizer.convert_tokens_to_ids(list("0123456789")))
    mask = constrained.Grammar(tokenizer, {"type": kind, "minimum": 0, "maximum": 1}, sorted(stop)).mask()
    ids = [7]
    for character in "0.0712":
        step(mask, ids)
        ids.append(tokenizer.convert_tokens_to_ids(character))
    assert digits | stop == set(step(mask, ids)), "two more decimals, or the end"
    for _ in range(2):
        ids.append(min(digits))
        allowed = set(step(mask, ids))
    assert allowed == stop
    fixed = constrained.Grammar(tokenizer, {"enum": [{"type": "number"}]}, sorted(stop)).mask()
    ids = [7]
    for token in tokenizer.encode('{"type":"number"}', add_special_tokens=False):
        assert token in step(fixed, ids), "a value that looks like a schema stays as it is"
        ids.append(token)
    assert set(step(fixed, ids)) == stop


def test_a_row_that_has_ended_is_unmasked_and_a_broken_one_is_an_error(tokenizer: Any) -> None:
    import torch

    grammar = constrained.Grammar(tokenizer, NUMBER, chat_template.stop_ids(tokenizer))
    five, letter, pad = (tokenizer.convert_tokens_to_ids(t) for t in ("5", "a", "<|endoftext|>"))
    stop = chat_template.stop_ids(tokenizer)[0]
    mask = grammar.mask()
    scores = torch.randn(2, 320)
    mask(torch.tensor([[7], [7]]), scores)
    mask(torch.tensor([[7, five], [7, five]]), scores)
    ended = mask(torch.tensor([[7, five, stop], [7, five, pad]]), scores)
    assert torch.equal(ended, scores)
    assert torch.equal(mask(torch.tensor([[7, five, stop, pad], [7, five, pad, pad]]), scores), scores)
    with pytest.raises(ValueError, match="has seen 2 rows, got 4"):
        mask(torch.zeros(4, 5, dtype=torch.long), torch.zeros(4, 320))
    fresh = grammar.mask()
    fresh(torch.tensor([[7]]), scores[:1])
    with pytest.raises(ValueError, match=f"token {letter} breaks the grammar"):
        fresh(torch.tensor([[7, letter]]), scores[:1])


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (None, "schema.json: no such file; write the schema, or set accept.constrained to false"),
        ('{"type": ', "schema.json:1:10: not JSON"),
        ("[]", "schema.json: expected an object, got list"),
        ('{"type": "objekt"}', "schema.json: Invalid type: objekt; take it out"),
        ('{"type": "array", "uniqueItems": true}', r'schema.json: Unimplemented keys: \["uniqueItems"\]; take it out'),
    ],
)
def test_a_schema_that_cannot_be_followed_is_refused_in_one_line(tmp_path: Path, words: str | None, line: str) -> None:
    path = tmp_path / "schema.json"
    if words is not None:
        path.write_text(words)
    with pytest.raises(UserError, match=line) as err:
        constrained.schema(path)
    assert "\n" not in str(err.value)


def test_a_schema_is_read_unchanged(tmp_path: Path) -> None:
    (tmp_path / "schema.json").write_text(json.dumps(SCHEMA))
    assert constrained.schema(tmp_path / "schema.json") == SCHEMA

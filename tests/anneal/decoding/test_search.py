"""The decoding loop against transformers' generate, token for token, and sampling against the probabilities."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest

from anneal.dataset import chat_template
from anneal.decoding import generate, search
from anneal.models import loading as models
from tests import micro
from tests.conftest import ROOT

PLAIN: dict[str, Any] = {
    "do_sample": False,
    "temperature": 1.0,
    "top_k": 0,
    "top_p": 1.0,
    "repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "num_beams": 1,
    "length_penalty": 1.0,
    "max_new_tokens": 20,
    "stop": [],
}
CHANGES: list[dict[str, Any]] = [
    {},
    {"repetition_penalty": 1.4},
    {"no_repeat_ngram_size": 2},
    {"repetition_penalty": 0.8, "no_repeat_ngram_size": 3},
    *({"num_beams": beams, "length_penalty": penalty} for beams in (2, 3, 4) for penalty in (0.6, 1.0, 1.4)),
    {"num_beams": 2, "length_penalty": -1.0},
    {"num_beams": 3, "repetition_penalty": 1.4, "no_repeat_ngram_size": 2},
]


def settings(**changes: Any) -> generate.Decode:
    return generate.Decode(**(PLAIN | changes))


def prompts(n: int = 6) -> list[list[int]]:
    draw = random.Random(1)
    return [[draw.randrange(3, 300) for _ in range(draw.randrange(1, 40))] for _ in range(n)]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return micro.tokenizer()


@pytest.fixture(scope="module")
def qwen() -> Any:
    return micro.model(seed=3)


def generated(model: Any, prompt: list[int], stops: list[int], change: dict[str, Any], **options: Any) -> list[int]:
    """The new tokens of transformers' own generate for one prompt, without a line of ours in between."""
    import torch
    from transformers import GenerationConfig

    own, model.generation_config = model.generation_config, GenerationConfig()
    config = GenerationConfig(max_new_tokens=20, eos_token_id=stops, pad_token_id=0, **change)
    try:
        out = model.generate(torch.tensor([prompt]), generation_config=config, **options)[0, len(prompt) :].tolist()
    finally:
        model.generation_config = own
    end = next((place + 1 for place, token in enumerate(out) if token in stops), None)
    return list(out[:end])


def stops_of(model: Any) -> list[int]:
    """Two tokens that this random model writes now and then, but not at once."""
    written = Counter(t for p in prompts() for t in generated(model, p, [], {})[2:])
    return [token for token, _ in written.most_common(2)]


def written(model: Any, tokenizer: Any, stops: list[int], change: dict[str, Any]) -> list[list[int]]:
    rows = prompts()
    return [c.ids for c in search.answer(model, tokenizer, rows, settings(**change), stops, [0] * len(rows))]


@pytest.mark.parametrize("kind", ["qwen2", "llama", "gpt2"])
def test_every_search_writes_the_tokens_of_generate(kind: str, tokenizer: Any) -> None:
    model = micro.model(kind, seed=3)
    stops, rows = stops_of(model), prompts()
    ends, different = Counter[str](), set[str]()
    changes = CHANGES if kind == "qwen2" else CHANGES[:7]
    for change in changes:
        found = search.answer(model, tokenizer, rows, settings(**change), stops, [0] * len(rows))
        assert [c.ids for c in found] == [generated(model, prompt, stops, change) for prompt in rows], change
        ends.update(c.finish for c in found)
        different.add(str([c.ids for c in found]))
    assert sum(ends.values()) == len(rows) * len(changes)
    assert set(ends) == {"stop", "length"}, "both ways to end are wanted here"
    assert len(different) > len(changes) // 2, "the settings hardly change what is written"


def test_shipped_models_are_continued_as_generate_does() -> None:
    folders = sorted(path.parent for path in (ROOT / "models/shipped").glob("*/model.safetensors"))
    said, checked = ["名称：清润面霜\n功效：保湿", "repeat: one two three", "你好"], 0
    changes = CHANGES[1:3] + CHANGES[4:13:2]
    for folder in folders:
        tokenizer, weights = models.tokenizer(folder), models.load(folder, "float32")
        rows = [chat_template.prompt_ids(tokenizer, [{"role": "user", "content": text}]) for text in said]
        stops = chat_template.stop_ids(tokenizer)
        for change in changes:
            found = search.answer(weights, tokenizer, rows, settings(**change), stops, [0] * len(rows))
            assert [c.ids for c in found] == [generated(weights, prompt, stops, change) for prompt in rows]
            checked += len(rows)
    assert checked == len(folders) * 21 >= 21


@pytest.mark.parametrize("beams", [1, 3])
def test_a_stop_string_ends_a_row_where_generate_ends_it(beams: int, qwen: Any, tokenizer: Any) -> None:
    change = {"num_beams": beams, "max_new_tokens": 20}
    whole = generate.answer(qwen, tokenizer, prompts(), settings(**change), [2], [0] * 6)
    stop = [next(c.text[4:6] for c in whole if len(c.text) > 8 and "\ufffd" not in c.text[4:6])]
    found = search.answer(qwen, tokenizer, prompts(), settings(**change, stop=stop), [2], [0] * 6)
    assert found == generate.answer(qwen, tokenizer, prompts(), settings(**change, stop=stop), [2], [0] * 6)
    stopped = [c for c in found if c.finish == "stop"]
    assert stopped
    assert all(stop[0] in tokenizer.decode(c.ids) and stop[0] not in c.text for c in stopped)
    if beams == 1:
        native = [generated(qwen, p, [2], {"stop_strings": stop}, tokenizer=tokenizer) for p in prompts()]
        assert [c.ids for c in found] == native


@pytest.mark.parametrize("change", [{}, {"num_beams": 3, "repetition_penalty": 1.4}, {"do_sample": True, "top_p": 0.9}])
def test_an_answer_does_not_depend_on_the_other_rows(change: dict[str, Any], qwen: Any, tokenizer: Any) -> None:
    # The padding token is a stop here: were it taken for a written one, a penalty would move the end of padded rows.
    stops, seeds = [0, 2], list(range(6))
    together = search.answer(qwen, tokenizer, prompts(), settings(**change), stops, seeds)
    alone = [
        search.answer(qwen, tokenizer, [p], settings(**change), stops, [s])[0]
        for p, s in zip(prompts(), seeds, strict=True)
    ]
    assert alone == together
    assert together == generate.answer(qwen, tokenizer, prompts(), settings(**change), stops, seeds)


def test_both_engines_sample_the_same_tokens(qwen: Any, tokenizer: Any) -> None:
    for change in ({}, {"temperature": 1.7, "top_k": 40}, {"top_p": 0.8, "repetition_penalty": 1.3}):
        drawn, seeds = settings(do_sample=True, **change), [random.Random(i).getrandbits(63) for i in range(6)]
        found = search.answer(qwen, tokenizer, prompts(), drawn, [2], seeds)
        assert found == generate.answer(qwen, tokenizer, prompts(), drawn, [2], seeds)
        assert found != search.answer(qwen, tokenizer, prompts(), drawn, [2], [seed + 1 for seed in seeds])


def test_sampling_follows_the_probabilities_after_the_warpers(qwen: Any, tokenizer: Any) -> None:
    """Chi-square of 4000 first tokens against the softmax that transformers' warpers leave."""
    import torch
    from scipy.stats import chisquare
    from transformers import (
        RepetitionPenaltyLogitsProcessor,
        TemperatureLogitsWarper,
        TopKLogitsWarper,
        TopPLogitsWarper,
    )

    prompt, n = prompts()[0], 4000
    with torch.inference_mode():
        scores = qwen(torch.tensor([prompt])).logits[:, -1]
    chain = [RepetitionPenaltyLogitsProcessor(1.3), TemperatureLogitsWarper(0.7)]
    for process in [*chain, TopKLogitsWarper(12), TopPLogitsWarper(0.9)]:
        scores = process(torch.tensor([prompt]), scores)
    shares = scores[0].softmax(-1).double()
    kept = shares.nonzero()[:, 0].tolist()
    drawn = settings(do_sample=True, temperature=0.7, top_k=12, top_p=0.9, repetition_penalty=1.3, max_new_tokens=1)
    found = search.answer(qwen, tokenizer, [prompt] * n, drawn, [2], list(range(n)))
    counts = Counter(c.ids[0] for c in found)
    assert set(counts) <= set(kept)
    assert 4 <= len(kept) <= 12
    expected = [float(shares[token]) / float(shares.sum()) * n for token in kept]
    assert chisquare([counts[token] for token in kept], expected).pvalue > 0.001
    assert chisquare([counts[token] for token in kept]).pvalue < 1e-9, (
        "the test would take an even draw for the right one"
    )


@pytest.mark.parametrize("change", [{}, {"num_beams": 3}, {"do_sample": True}])
def test_a_processor_of_the_caller_decides_in_both_engines(change: dict[str, Any], qwen: Any, tokenizer: Any) -> None:
    rows, seen = prompts(), list[tuple[int, ...]]()
    width = max(map(len, rows))

    def even(ids: Any, scores: Any) -> Any:
        seen.append(tuple(ids.shape))
        scores[:, 1::2] = float("-inf")
        return scores

    found = [
        engine(qwen, tokenizer, rows, settings(**change), [2], [0] * 6, [even])
        for engine in (search.answer, generate.answer)
    ]
    assert found[0] == found[1]
    assert all(token % 2 == 0 for c in found[0] for token in c.ids)
    assert found[0] != search.answer(qwen, tokenizer, rows, settings(**change), [2], [0] * 6)
    assert {shape[0] for shape in seen} == {6 * change.get("num_beams", 1)}
    assert min(shape[1] for shape in seen) == width


def test_a_model_needs_only_a_forward_call_with_a_cache(qwen: Any, tokenizer: Any) -> None:
    class Bare:
        device = qwen.device

        def forward(self, ids: Any, attention_mask: Any, past_key_values: Any, use_cache: bool) -> Any:
            return qwen(ids, attention_mask=attention_mask, past_key_values=past_key_values, use_cache=use_cache)

        __call__ = forward

    for change in ({}, {"num_beams": 3}):
        alone = [search.answer(Bare(), tokenizer, [p], settings(**change), [2], [0])[0] for p in prompts()]
        assert alone == search.answer(qwen, tokenizer, prompts(), settings(**change), [2], [0] * 6)


def test_the_search_goes_on_while_a_beam_may_still_win() -> None:
    state = search.Finished(size=2, penalty=1.0)
    state.offer(-4.0, [5, 2])  # -2 a token
    state.close(-9.0, 3)
    assert state.open, "one sequence of two has ended"
    state.offer(-9.0, [5, 6, 2])  # -3
    state.close(-11.0, 4)
    assert state.open, "-2.75 would beat the worse of the two"
    state.offer(-10.0, [5, 6, 7, 2])  # -2.5 takes its place
    assert [tokens for _, tokens in state.best] == [[5, 2], [5, 6, 7, 2]]
    state.close(-12.5, 5)
    assert not state.open, "-2.5 does not beat -2.5"
    state.close(-1.0, 6)
    assert not state.open, "what was closed stays closed"

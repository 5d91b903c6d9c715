"""Batched generation against generation one by one, and likelihoods against the formula."""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter
from typing import Any

import pytest
from pydantic import ValidationError

from anneal.decoding import generate
from tests import micro

GREEDY: dict[str, Any] = {
    "do_sample": False,
    "temperature": 1.0,
    "top_k": 0,
    "top_p": 1.0,
    "repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "num_beams": 1,
    "length_penalty": 1.0,
    "max_new_tokens": 24,
    "stop": [],
}
KINDS = ["qwen2", "llama", "gpt2"]


def settings(**changes: Any) -> generate.Decode:
    return generate.Decode(**(GREEDY | changes))


def prompts(n: int = 9) -> list[list[int]]:
    draw = random.Random(1)
    return [[draw.randrange(3, 300) for _ in range(draw.randrange(1, 40))] for _ in range(n)]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return micro.tokenizer()


@pytest.fixture(scope="module", params=KINDS)
def model(request: pytest.FixtureRequest) -> Any:
    return micro.model(request.param, seed=3)


@pytest.fixture(scope="module")
def qwen() -> Any:
    return micro.model(seed=3)


def plainly(model: Any, prompt: list[int], stops: list[int], limit: int = 24) -> list[int]:
    """Greedy search by hand: the whole sequence through the model for every token."""
    import torch

    ids = list(prompt)
    for _ in range(limit):
        with torch.inference_mode():
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
        if ids[-1] in stops:
            break
    return ids[len(prompt) :]


def stops_of(model: Any) -> list[int]:
    """Two tokens that this random model writes now and then, but not at once."""
    written = Counter(t for p in prompts() for t in plainly(model, p, [])[2:])
    return [token for token, _ in written.most_common(2)]


def test_batches_cover_every_row_once_longest_first() -> None:
    lengths = [3, 9, 9, 1, 5, 7, 2]
    found = generate.batches(lengths, 3)
    assert found == [[1, 2, 5], [4, 0, 6], [3]]
    assert generate.batches([], 4) == []


def test_greedy_equals_a_plain_loop_in_any_batch(model: Any, tokenizer: Any) -> None:
    rows, stops = prompts(), stops_of(model)
    expected = [plainly(model, row, stops) for row in rows]
    seen = Counter[str]()
    for size in (1, 2, 4, 9):
        for batch in generate.batches([len(r) for r in rows], size):
            found = generate.answer(model, tokenizer, [rows[i] for i in batch], settings(), stops, [0] * len(batch))
            for i, continuation in zip(batch, found, strict=True):
                stopped = expected[i][-1] in stops
                text = tokenizer.decode(expected[i][: -1 if stopped else None], skip_special_tokens=True)
                finish = "stop" if stopped else "length"
                assert continuation == generate.Continuation(text, finish, len(rows[i]), len(expected[i]), expected[i])
                seen[finish] += 1
    assert sum(seen.values()) == 4 * len(rows)
    assert set(seen) == {"stop", "length"}, "both ways to end are wanted here"


def test_the_generation_config_of_the_model_is_ignored(qwen: Any, tokenizer: Any) -> None:
    from transformers import GenerationConfig

    plain = generate.answer(qwen, tokenizer, prompts(), settings(), [2], [0] * 9)
    own = GenerationConfig(
        do_sample=True, temperature=5.0, repetition_penalty=9.0, max_length=3, min_new_tokens=20, suppress_tokens=[7, 8]
    )
    before, qwen.generation_config = qwen.generation_config, own
    try:
        assert generate.answer(qwen, tokenizer, prompts(), settings(), [2], [0] * 9) == plain
        assert qwen.generation_config is own
    finally:
        qwen.generation_config = before


def test_sampling_does_not_depend_on_the_other_rows(model: Any, tokenizer: Any) -> None:
    rows, seeds = prompts(), [random.Random(i).getrandbits(63) for i in range(9)]
    drawn = settings(do_sample=True, temperature=1.3, top_k=50, top_p=0.95)
    together = generate.answer(model, tokenizer, rows, drawn, [2], seeds)
    checked = 0
    for size in (1, 4):
        for batch in generate.batches([len(r) for r in rows], size):
            alone = generate.answer(model, tokenizer, [rows[i] for i in batch], drawn, [2], [seeds[i] for i in batch])
            assert alone == [together[i] for i in batch]
            checked += len(batch)
    assert checked == 18
    assert generate.answer(model, tokenizer, rows, drawn, [2], [s + 1 for s in seeds]) != together


def test_sampling_follows_the_probabilities(qwen: Any, tokenizer: Any) -> None:
    import torch

    prompt, n = prompts()[0], 4000
    with torch.inference_mode():
        logits = qwen(torch.tensor([prompt])).logits[0, -1]
    top = logits.topk(3).indices.tolist()
    expected = (logits[top] / 0.7).softmax(-1).tolist()
    drawn = settings(do_sample=True, temperature=0.7, top_k=3, max_new_tokens=1)
    found = generate.answer(qwen, tokenizer, [prompt] * n, drawn, [2], list(range(n)))
    counts = Counter(c.text for c in found)
    texts = [tokenizer.decode([t]) for t in top]
    assert len(set(texts)) == 3
    for text, share in zip(texts, expected, strict=True):
        assert abs(counts[text] / n - share) < 4 * math.sqrt(share * (1 - share) / n)


def test_top_p_keeps_the_likeliest_word_only(qwen: Any, tokenizer: Any) -> None:
    narrow = settings(do_sample=True, top_p=1e-6)
    greedy = generate.answer(qwen, tokenizer, prompts(), settings(), [2], [0] * 9)
    assert generate.answer(qwen, tokenizer, prompts(), narrow, [2], list(range(9))) == greedy


def test_a_stop_string_ends_the_row_and_is_cut_off(qwen: Any, tokenizer: Any) -> None:
    rows = prompts()
    plain = generate.answer(qwen, tokenizer, rows, settings(), [2], [0] * 9)
    whole = [c.text for c in plain]
    stop = next(t[4:6] for t in whole if len(t) > 8 and "\ufffd" not in t[4:6])
    found = generate.answer(qwen, tokenizer, rows, settings(stop=[stop, "never written"]), [2], [0] * 9)
    stopped = 0
    for before, after in zip(plain, found, strict=True):
        if stop in before.text:
            assert after.text == before.text[: before.text.index(stop)]
            assert after.finish == "stop"
            assert after.n_new <= before.n_new
            stopped += 1
        else:
            assert after == before
    assert 0 < stopped < len(rows)
    alone = [generate.answer(qwen, tokenizer, [r], settings(stop=[stop]), [2], [0])[0] for r in rows]
    assert alone == found


def test_a_stop_string_within_the_prompt_does_not_stop(qwen: Any, tokenizer: Any) -> None:
    prompt = tokenizer.encode("the fox\n\n")
    plain = generate.answer(qwen, tokenizer, [prompt], settings(), [2], [0])
    assert "\n\n" not in plain[0].text
    assert generate.answer(qwen, tokenizer, [prompt], settings(stop=["\n\n"]), [2], [0]) == plain


def test_a_padding_token_that_is_a_stop_is_no_part_of_an_answer(qwen: Any, tokenizer: Any) -> None:
    """A row that a stop string ended is filled up with padding while the others go on."""
    rows, stops = prompts(), [2, tokenizer.pad_token_id]
    whole = [c.text for c in generate.answer(qwen, tokenizer, rows, settings(), stops, [0] * 9)]
    stop = next(t[4:6] for t in whole if len(t) > 8 and "\ufffd" not in t[4:6])
    found = generate.answer(qwen, tokenizer, rows, settings(stop=[stop]), stops, [0] * 9)
    cut = [c for before, c in zip(whole, found, strict=True) if stop in before]
    assert 0 < len(cut) < 9
    assert all(c.n_new == len(c.ids) and stops[1] not in c.ids and stop in tokenizer.decode(c.ids) for c in cut)


def test_ids_are_the_tokens_of_the_text_and_of_its_end(model: Any, tokenizer: Any) -> None:
    stops, ends = stops_of(model), Counter[bool]()
    for c in generate.answer(model, tokenizer, prompts(), settings(), stops, [0] * 9):
        ended = c.ids[-1] in stops
        assert tokenizer.decode(c.ids[: -1 if ended else None], skip_special_tokens=True) == c.text
        assert c.n_new == len(c.ids)
        assert ended == (c.finish == "stop")
        ends[ended] += 1
    assert set(ends) == {True, False}


def test_no_ngram_is_written_twice(qwen: Any, tokenizer: Any) -> None:
    def repeats(ids: list[int]) -> int:
        pairs = list(itertools.pairwise(ids))
        return len(pairs) - len(set(pairs))

    changes: list[dict[str, Any]] = [{"do_sample": False}, {"do_sample": True, "temperature": 0.3}, {"num_beams": 3}]
    for change in changes:
        loose, tight = (
            generate.answer(qwen, tokenizer, prompts(), settings(**change, no_repeat_ngram_size=n), [2], [0] * 9)
            for n in (0, 2)
        )
        assert sum(repeats(c.ids) for c in loose) > 0
        assert sum(repeats([*p, *c.ids]) - repeats(p) for p, c in zip(prompts(), tight, strict=True)) == 0


def test_a_length_penalty_draws_beams_to_longer_or_shorter_answers(qwen: Any, tokenizer: Any) -> None:
    stops = stops_of(qwen)
    short, long = (
        generate.answer(qwen, tokenizer, prompts(), settings(num_beams=4, length_penalty=p), stops, [0] * 9)
        for p in (-2.0, 2.0)
    )
    assert sum(c.n_new for c in short) < sum(c.n_new for c in long)


def test_processors_come_before_the_draw(qwen: Any, tokenizer: Any) -> None:
    seen = []

    def only(ids: Any, scores: Any) -> Any:
        seen.append((ids.shape[1], float(scores.std())))
        return scores.masked_fill(scores.argsort(-1).argsort(-1) < scores.shape[-1] - 1, float("-inf"))

    rows = prompts()
    drawn, greedy = settings(do_sample=True, temperature=5.0, max_new_tokens=4), settings(max_new_tokens=4)
    found = generate.answer(qwen, tokenizer, rows, drawn, [2], list(range(9)), [only])
    # With one token left there is nothing to draw: were it asked after the noise, it would keep the noise's choice.
    assert found == generate.answer(qwen, tokenizer, rows, greedy, [2], [0] * 9)
    assert [width for width, _ in seen] == [max(map(len, rows)) + n for n in range(4)]


def test_beams_find_a_likelier_answer_and_a_penalty_another(qwen: Any, tokenizer: Any) -> None:
    rows = prompts()
    one = generate.answer(qwen, tokenizer, rows, settings(max_new_tokens=3), [2], [0] * 9)
    five = generate.answer(qwen, tokenizer, rows, settings(max_new_tokens=3, num_beams=5), [2], [0] * 9)
    assert five != one
    assert five == [
        generate.answer(qwen, tokenizer, [r], settings(max_new_tokens=3, num_beams=5), [2], [0])[0] for r in rows
    ]
    assert generate.answer(qwen, tokenizer, rows, settings(repetition_penalty=3.0), [2], [0] * 9) != one


def test_likelihood_is_the_sum_over_the_labelled_tokens(model: Any) -> None:
    import torch

    draw, checked = random.Random(2), 0
    for row in prompts(11):
        labels = [token if draw.random() < 0.6 else -100 for token in row]
        with torch.inference_mode():
            logs = model(torch.tensor([row])).logits[0].log_softmax(-1)
        hits = [place for place in range(1, len(row)) if labels[place] >= 0]
        total, count = generate.likelihood(model, row, labels)
        assert count == len(hits)
        assert total == pytest.approx(sum(float(logs[p - 1, row[p]]) for p in hits), rel=1e-5, abs=1e-5)
        checked += count
    assert checked > 50


def test_a_model_without_logits_to_keep_is_scored_alike(qwen: Any) -> None:
    class Whole:
        device = qwen.device

        def forward(self, ids: Any, attention_mask: Any, use_cache: bool) -> Any:
            return qwen(ids, attention_mask=attention_mask, use_cache=use_cache)

        __call__ = forward

    row = prompts()[0]
    labels = [-100] * 4 + row[4:]
    assert generate.likelihood(Whole(), row, labels) == pytest.approx(generate.likelihood(qwen, row, labels))


def test_rows_without_a_label_score_nothing(qwen: Any) -> None:
    # Nothing comes before the first token, so that nothing predicts it.
    assert [generate.likelihood(qwen, row, labels) for row, labels in (([5, 6], [-100, -100]), ([5], [5]))] == [
        (0.0, 0)
    ] * 2


@pytest.mark.parametrize(
    "change",
    [
        {"temperature": 0.0},
        {"top_p": 1.5},
        {"top_k": -1},
        {"no_repeat_ngram_size": -1},
        {"stop": [""]},
        {"do_sample": True, "num_beams": 2},
        {"n": 1},
    ],
)
def test_settings_out_of_bounds_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        settings(**change)

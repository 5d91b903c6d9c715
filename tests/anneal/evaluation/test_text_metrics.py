"""measures: against brute force, and against the ways in which a number on text means nothing."""

from __future__ import annotations

import math
import random

import pytest

from anneal.evaluation import text_metrics


def brute(left: str, right: str) -> int:
    row = [0] * (len(right) + 1)
    for a in left:
        diagonal = 0
        for j, b in enumerate(right, 1):
            diagonal, row[j] = row[j], diagonal + 1 if a == b else max(row[j], row[j - 1])
    return row[-1]


def test_rouge_l_is_the_longest_common_subsequence() -> None:
    rng, checked = random.Random(1), 0
    for _ in range(200):
        left, right = ("".join(rng.choices("甲乙丙丁。", k=rng.randint(1, 90))) for _ in range(2))
        assert text_metrics.rouge_l(left, right) == pytest.approx(2 * brute(left, right) / (len(left) + len(right)))
        checked += 1
    assert checked == 200
    assert (text_metrics.rouge_l("", ""), text_metrics.rouge_l("", "甲"), text_metrics.rouge_l("甲", "甲")) == (1, 0, 1)


def test_overlap_sees_chinese_where_the_default_tokenizer_sees_nothing() -> None:
    from sacrebleu.metrics import BLEU

    golden = ["今晚就从这瓶精华开始，屏障需要时间。"] * 4
    close = ["今晚就从这瓶精华开始吧，屏障需要一点时间。"] * 4
    found = text_metrics.overlap(close, golden)
    assert found["bleu"] > 40
    assert found["chrf"] > 40
    assert BLEU().corpus_score(close, [golden]).score < 1
    assert "tok:zh" in found["signatures"]["bleu"]
    same = text_metrics.overlap(golden, golden)
    assert (same["bleu"], same["chrf"]) == (pytest.approx(100), pytest.approx(100))


def test_distinct_compares_at_one_size() -> None:
    rng = random.Random(2)
    letters = "".join(chr(0x4E00 + i) for i in range(300))
    short = {str(i): "".join(rng.choices(letters, k=20)) for i in range(200)}
    long = {key: "".join(rng.choices(letters, k=200)) for key in short}
    constant = dict.fromkeys(short, next(iter(short.values())))

    def one(texts: dict[str, str], budget: int = 2000) -> float:
        return text_metrics.distinct(texts, budget, 10, 42)["distinct_1"]

    # One source, ten times as long: the same figure at one budget, another at its own size.
    assert one(short) == pytest.approx(one(long), rel=0.05)
    assert one(long, 40_000) < 0.5 * one(long)
    assert one(constant) < 0.1 * one(short)
    assert one(dict(reversed(short.items()))) == one(short)
    assert set(text_metrics.distinct(short, 100, 2, 1)) == {f"distinct_{n}" for n in (1, 2, 3, 4)}


def test_repetition_finds_a_loop() -> None:
    assert text_metrics.repetition("屏障需要时间，配方需要耐心。") == 0
    assert text_metrics.repetition("屏障需要时间。" * 8) > 0.8
    assert text_metrics.repetition("短") == 0


def test_likelihood_is_summed_and_divided_once() -> None:
    rows = [
        {"target_logprob": -2 * math.log(2), "n_target": 2, "n_bytes": 6},
        {"target_logprob": -30 * math.log(2), "n_target": 10, "n_bytes": 10},
    ]
    found = text_metrics.likelihood(rows)
    assert found == {"n": 2, "n_target": 12, "perplexity": pytest.approx(2 ** (32 / 12)), "bits_per_byte": 2.0}
    assert [text_metrics.bits(row) for row in rows] == [pytest.approx(1 / 3), pytest.approx(3.0)]


def test_quartiles() -> None:
    assert text_metrics.quartiles([1, 2, 3, 4, 5]) == {"n": 5, "p25": 2, "median": 3, "p75": 4}

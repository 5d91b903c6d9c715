"""spans: the longest copied span is the one that looking at every place would find."""

import random
import time

from anneal.evaluation import copied_spans


def looked_for(text: str, others: list[str]) -> int:
    best = 0
    for at in range(len(text)):
        while at + best < len(text) and any(text[at : at + best + 1] in other for other in others):
            best += 1
    return best


def test_the_longest_span_is_exact() -> None:
    rng, lengths = random.Random(1), set()
    for trial in range(400):
        letters = "ab中\U0002000bc"[: rng.randint(1, 5)]
        others = ["".join(rng.choices(letters, k=rng.randint(0, 40))) for _ in range(rng.randint(0, 4))]
        texts = ["".join(rng.choices(letters + "z", k=rng.randint(0, 30))) for _ in range(rng.randint(1, 3))]
        if others and rng.random() < 0.5:
            texts[0] += others[0][rng.randint(0, 20) :]
        assert copied_spans.copied(texts, others) == [looked_for(text, others) for text in texts], trial
        lengths |= set(copied_spans.copied(texts, others))
    assert lengths >= set(range(12)), "short and long ones were among them"


def test_no_span_crosses_from_one_text_into_the_next() -> None:
    assert copied_spans.copied(["abcdefgh", "b", ""], ["abcd", "efgh"]) == [4, 1, 0]


def test_a_planted_span_is_found_in_a_large_corpus_quickly() -> None:
    rng = random.Random(2)
    letters = [chr(0x4E00 + n) for n in range(2000)]
    others = ["".join(rng.choices(letters, k=500)) for _ in range(600)]
    texts = ["".join(rng.choices(letters, k=200)) + others[n][100 : 160 + n] + "。" * 200 for n in range(100)]
    start = time.process_time()
    assert copied_spans.copied(texts, others) == [60 + n for n in range(100)]
    assert time.process_time() - start < 5

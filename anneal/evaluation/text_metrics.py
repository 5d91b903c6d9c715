"""Metrics of texts: repetition, distinct-n, overlap with a reference, likelihood. The unit is the character.

Chinese has no spaces between words, so that metrics over words would depend on a segmenter.
"""

from __future__ import annotations

import math
import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from anneal.similarity import ngrams

# A text is extreme in repetition or length if it exceeds this quantile of the references: 1% of those do.
EXTREME = 0.99
_REPETITION_NGRAM = 4  # characters: shorter n-grams recur in any Chinese text
_DISTINCT_NGRAMS = (1, 2, 3, 4)  # orders of distinct-n; Li et al. 2016 report 1 and 2


def repetition(text: str, n: int = _REPETITION_NGRAM) -> float:
    """The share of the n-grams of a text that occur earlier in it; near 1 for a text that loops."""
    grams = ngrams(text, n)
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def distinct(
    texts: Mapping[str, str], budget: int, draws: int, seed: int, sizes: Sequence[int] = _DISTINCT_NGRAMS
) -> dict[str, float]:
    """distinct-n: different n-grams over all n-grams in samples of `budget` characters, the mean of `draws` samples.

    It falls with the size of a sample (.61 at 200 tokens, .12 at 20,000 of one source), so that texts of different
    length compare only at a fixed size. A sample consists of texts in random order, the last one truncated; two systems
    with the same ids are drawn in the same order.
    """
    totals: dict[int, float] = dict.fromkeys(sizes, 0.0)
    for draw in range(draws):
        rng = random.Random(f"{seed}/distinct/{draw}")
        remaining = budget
        sample = []
        for key in rng.sample(sorted(texts), len(texts)):
            sample.append(texts[key][:remaining])
            remaining -= len(sample[-1])
        for n in sizes:
            grams = [gram for part in sample for gram in ngrams(part, n)]
            totals[n] += len(set(grams)) / len(grams) if grams else 0.0
    return {f"distinct_{n}": total / draws for n, total in totals.items()}


def rouge_l(text: str, reference: str) -> float:
    """ROUGE-L: F1 of the longest common subsequence of characters. ROUGE's usual tokenizer drops Chinese characters."""
    if not text or not reference:
        return float(text == reference)
    masks: dict[str, int] = defaultdict(int)
    for index, character in enumerate(reference):
        masks[character] |= 1 << index
    state = full = (1 << len(reference)) - 1
    for character in text:  # one addition of long integers is a row of the dynamic programme (Hyyro 2004)
        hit = state & masks[character]
        state = ((state + hit) | (state - hit)) & full
    common = len(reference) - state.bit_count()
    return 2 * common / (len(text) + len(reference))


def overlap(texts: list[str], references: list[str]) -> dict[str, Any]:
    """Corpus chrF and BLEU, 0 to 100, with sacrebleu's signatures. BLEU's default tokenizer gives 0 on Chinese."""
    from sacrebleu.metrics import BLEU, CHRF

    metrics: dict[str, Any] = {"signatures": {}}
    for name, metric in (("chrf", CHRF()), ("bleu", BLEU(tokenize="zh"))):
        metrics[name] = float(metric.corpus_score(texts, [references]).score)
        metrics["signatures"][name] = str(metric.get_signature())
    return metrics


def bits(row: Mapping[str, Any]) -> float:
    """Bits per UTF-8 byte of one record's reference, from its log-probability in nats."""
    return -float(row["target_logprob"]) / math.log(2) / int(row["n_bytes"])


def likelihood(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Perplexity per token and bits per UTF-8 byte; only the latter compares models with different tokenizers.

    Sums over a corpus and one division at the end, as nanochat (loss_eval.py) and inspect_ai (perplexity.py) do.
    """
    nats = sum(row["target_logprob"] for row in rows)
    tokens = sum(row["n_target"] for row in rows)
    octets = sum(row["n_bytes"] for row in rows)
    return {
        "n": len(rows),
        "n_target": tokens,
        "perplexity": math.exp(-nats / tokens),
        "bits_per_byte": -nats / math.log(2) / octets,
    }


def quartiles(values: Sequence[int]) -> dict[str, float]:
    """n, 25th percentile, median and 75th percentile."""
    low, middle, high = np.quantile(values, [0.25, 0.5, 0.75]).tolist()
    return {"n": len(values), "p25": low, "median": middle, "p75": high}

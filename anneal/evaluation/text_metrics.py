"""What can be counted on texts alone: repetition, variety, overlap with a reference, likelihood. All in characters."""

from __future__ import annotations

import math
import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from anneal.similarity import ngrams


def repetition(text: str, n: int = 4) -> float:
    """Share of the n-grams of a text that stood in it before; a looped text comes near 1."""
    grams = ngrams(text, n)
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def distinct(
    texts: Mapping[str, str], budget: int, draws: int, seed: int, sizes: Sequence[int] = (1, 2, 3, 4)
) -> dict[str, float]:
    """distinct-n: different n-grams over all n-grams in samples of `budget` characters, the mean of `draws` samples.

    It falls with the size of a sample (.61 at 200 tokens, .12 at 20,000 of one source), so that texts of different
    length compare only at a fixed one. A sample is whole texts in random order, the last one cut; two systems that
    share ids are drawn in the same order.
    """
    totals: dict[int, float] = dict.fromkeys(sizes, 0.0)
    for draw in range(draws):
        rng, left, sample = random.Random(f"{seed}/distinct/{draw}"), budget, []
        for key in rng.sample(sorted(texts), len(texts)):
            sample.append(texts[key][:left])
            left -= len(sample[-1])
        for n in sizes:
            grams = [gram for part in sample for gram in ngrams(part, n)]
            totals[n] += len(set(grams)) / len(grams) if grams else 0.0
    return {f"distinct_{n}": total / draws for n, total in totals.items()}


def rouge_l(text: str, reference: str) -> float:
    """F1 of the longest common subsequence of characters; the usual tokenizer of ROUGE finds no word in Chinese."""
    if not text or not reference:
        return float(text == reference)
    masks: dict[str, int] = defaultdict(int)
    for place, character in enumerate(reference):
        masks[character] |= 1 << place
    state = full = (1 << len(reference)) - 1
    for character in text:  # one long addition is a row of the dynamic programme (Hyyro 2004, bit-parallel LCS)
        hit = state & masks[character]
        state = ((state + hit) | (state - hit)) & full
    common = len(reference) - state.bit_count()
    return 2 * common / (len(text) + len(reference))


def overlap(texts: list[str], references: list[str]) -> dict[str, Any]:
    """Corpus chrF and BLEU, 0 to 100, with their signatures. BLEU cuts with `zh`: its default gives 0 on Chinese."""
    from sacrebleu.metrics import BLEU, CHRF

    found: dict[str, Any] = {"signatures": {}}
    for name, metric in (("chrf", CHRF()), ("bleu", BLEU(tokenize="zh"))):
        found[name] = float(metric.corpus_score(texts, [references]).score)
        found["signatures"][name] = str(metric.get_signature())
    return found


def bits(row: Mapping[str, Any]) -> float:
    """Bits per UTF-8 byte of one answer's target, whose log-probability is in nats."""
    return -float(row["target_logprob"]) / math.log(2) / int(row["n_bytes"])


def likelihood(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Perplexity per token and bits per UTF-8 byte; only the latter compares models with different tokenizers.

    Sums over a corpus and one division at the end, as nanochat (loss_eval.py) and inspect_ai (perplexity.py) do.
    """
    nats, tokens, octets = (sum(row[key] for row in rows) for key in ("target_logprob", "n_target", "n_bytes"))
    found = {"perplexity": math.exp(-nats / tokens), "bits_per_byte": -nats / math.log(2) / octets}
    return {"n": len(rows), "n_target": tokens, **found}


def quartiles(values: Sequence[int]) -> dict[str, float]:
    low, middle, high = np.quantile(values, [0.25, 0.5, 0.75]).tolist()
    return {"n": len(values), "p25": low, "median": middle, "p75": high}

"""Stylometric distance of texts to an author: characters, words, function words, punctuation, lengths, separability.

Two samples of one author differ too, the more the smaller they are. Each distance is therefore computed between samples
of one size, minus its null: the mean distance of two such samples of the author's own texts, which share at most one
document. 0 means as far away as the author is from himself; a distance below the `_noise` of its feature is not
distinguishable from 0.
"""

from __future__ import annotations

import random
import re
import unicodedata
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import numpy as np
import numpy.typing as npt

from anneal.checks.features import sentences

Ints = npt.NDArray[np.int64]
Tokens = list[list[Any]]  # of each text, in order

# The noise of a distance is the excess of its null's 95th percentile over the null's mean; that of the AUC is the same
# one-sided 95% of a normal distribution.
_NULL_QUANTILE = 0.95
_NORMAL_QUANTILE = 1.645
# The classifier of the two-sample test: n-grams of 1 to 3 characters cover most Chinese words; the penalty is weaker
# than scikit-learn's default (C=1); the iterations are a limit, solvers stop at convergence.
_FOLDS = 5
_NGRAMS = (1, 3)
_C = 10
_ITERATIONS = 200


@dataclass(frozen=True)
class Profile:
    """Texts with the tokens of each feature. Texts of one document are not independent."""

    texts: list[str]
    documents: list[str]  # of each text
    features: dict[str, Tokens]


def segmenter() -> str:
    """Name and version of the word segmenter, for the metrics: another version may give other words."""
    return f"rjieba {version('rjieba')}"


def profile(texts: Sequence[str], documents: Sequence[str], function_words: Collection[str]) -> Profile:
    """Tokenise texts once for all distances."""
    import rjieba

    listed = frozenset(function_words)
    words = [[word for word in rjieba.cut(text.lower()) if re.search(r"\w", word)] for text in texts]
    return Profile(
        list(texts),
        list(documents),
        {
            "characters": [[sign for sign in text.lower() if sign.isalnum()] for text in texts],
            "words": words,
            "function_words": [[word for word in part if word in listed] for part in words],
            "punctuation": [[sign for sign in text if unicodedata.category(sign)[0] == "P"] for text in texts],
            "sentence_length": [sentences(text) for text in texts],
            "paragraph_length": [_paragraph_lengths(text) for text in texts],
        },
    )


def _paragraph_lengths(text: str) -> list[int]:
    """Characters of each paragraph."""
    return [len(paragraph) for paragraph in re.split(r"\s*\n\s*", text.strip()) if paragraph]


def jensen_shannon(a: Ints, b: Ints) -> float:
    """Jensen-Shannon divergence of two samples of token numbers, base 2: 0 for equal shares, 1 for no common token."""
    size = int(max(a.max(), b.max())) + 1
    p = np.bincount(a, minlength=size) / len(a)
    q = np.bincount(b, minlength=size) / len(b)
    middle = (p + q) / 2
    total = sum(float((s[s > 0] * np.log2(s[s > 0] / middle[s > 0])).sum()) for s in (p, q))
    return total / 2


def wasserstein(a: Ints, b: Ints) -> float:
    """Wasserstein distance of two samples of lengths: the mean shift, in characters, that turns one into the other."""
    from scipy.stats import wasserstein_distance

    return float(wasserstein_distance(a, b))


DISTANCES: dict[str, Callable[[Ints, Ints], float]] = {
    "characters": jensen_shannon,
    "words": jensen_shannon,
    "function_words": jensen_shannon,
    "punctuation": jensen_shannon,
    "sentence_length": wasserstein,
    "paragraph_length": wasserstein,
}


class _Pool:
    """Texts as token numbers, from which samples of whole texts are drawn.

    `size` counts the tokens of distinct texts, `longest` those of the longest text. `numbers` maps tokens to numbers
    and is extended by new tokens.
    """

    def __init__(self, tokens: Tokens, documents: list[str], numbers: dict[Any, int]) -> None:
        self.texts = [np.array([numbers.setdefault(t, len(numbers)) for t in text], dtype=np.int64) for text in tokens]
        self.documents = documents
        # A duplicate adds no information, so that it must not allow a larger sample.
        lengths = {tuple(text): len(text) for text in tokens}
        self.size = sum(lengths.values())
        self.longest = max(lengths.values(), default=0)

    def order(self, rng: random.Random) -> list[int]:
        """Indices of the texts in random order, those of one document together."""
        names = sorted(set(self.documents))
        rank = {name: index for index, name in enumerate(rng.sample(names, len(names)))}
        shuffled = rng.sample(range(len(self.texts)), len(self.texts))
        return sorted(shuffled, key=lambda text: rank[self.documents[text]])


def _take(pool: _Pool, order: Sequence[int], size: int) -> Ints:
    """The first `size` tokens of the texts in this order."""
    return np.concatenate([pool.texts[text] for text in order])[:size]


def _feature(name: str, texts: Profile, reference: Profile, seed: int, draws: int) -> dict[str, float]:
    """The distance minus its null, the null and its noise; empty if a side has too few tokens to draw from."""
    measure = DISTANCES[name]
    numbers: dict[Any, int] = {}  # tokens are numbered in order of appearance
    if measure is wasserstein:  # lengths are numbers already
        longest = max((n for p in (texts, reference) for lengths in p.features[name] for n in lengths), default=0)
        numbers = {length: length for length in range(longest + 1)}
    pool = _Pool(texts.features[name], texts.documents, numbers)
    reference_pool = _Pool(reference.features[name], reference.documents, numbers)
    # No text may be in both halves of a null.
    size = min(pool.size, (reference_pool.size - reference_pool.longest) // 2)
    if size < 1:
        return {}
    distances: list[float] = []
    nulls: list[float] = []
    for draw in range(draws):
        rng = random.Random(f"{seed}/{name}/{draw}")
        order = reference_pool.order(rng)
        sample = _take(reference_pool, order, size)
        distances.append(measure(_take(pool, pool.order(rng), size), sample))
        # From the other end of the same order, so that the halves share one document at most.
        nulls.append(measure(_take(reference_pool, order[::-1], size), sample))
    null = float(np.mean(nulls))
    noise = float(np.quantile(nulls, _NULL_QUANTILE)) - null
    return {name: float(np.mean(distances)) - null, f"{name}_null": null, f"{name}_noise": noise}


def type_token(texts: Profile, budget: int, seed: int, draws: int) -> float:
    """Type-token ratio: different words over all words in samples of `budget` words, the mean of `draws` samples.

    It falls with the size of a sample.
    """
    pool = _Pool(texts.features["words"], texts.documents, {})
    ratios = []
    for draw in range(draws):
        sample = _take(pool, pool.order(random.Random(f"{seed}/type_token/{draw}")), budget)
        ratios.append(len(np.unique(sample)) / max(1, len(sample)))
    return float(np.mean(ratios))


def separability(texts: Profile, reference: Profile, seed: int) -> dict[str, float]:
    """Classifier two-sample test (Lopez-Paz and Oquab 2017): AUC of a classifier of texts by character n-grams.

    0.5 means no difference. The classifier of a fold has seen none of its documents. The AUC is the mean over folds,
    because pooled scores of classifiers with different offsets would hide the separation within each fold. `auc_noise`
    is the excess over 0.5 that chance does not reach in 95% of cases (measured with 5 documents: in 89%), by the
    variance of Mann and Whitney's U with documents as the sample size. Empty with fewer than two documents on a side.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import StratifiedGroupKFold

    folds = min(_FOLDS, len(set(texts.documents)), len(set(reference.documents)))
    if folds < 2:
        return {}
    # All texts are cut to one length: length has its own metrics and would dominate the classifier.
    length = int(min(np.median([len(text) for text in side.texts]) for side in (texts, reference)))
    cut = [text[:length] for text in (*texts.texts, *reference.texts)]
    labels = np.array([1] * len(texts.texts) + [0] * len(reference.texts))
    documents = np.array([*texts.documents, *reference.documents])
    vectorizer = TfidfVectorizer(analyzer="char", ngram_range=_NGRAMS, sublinear_tf=True, dtype=np.float32)
    features = vectorizer.fit_transform(cut)
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    aucs, variances = [], []
    for train, test in splitter.split(features, labels, documents):
        if len(set(labels[train])) == len(set(labels[test])) == 2:
            classifier = LogisticRegression(class_weight="balanced", C=_C, max_iter=_ITERATIONS)
            classifier.fit(features[train], labels[train])
            aucs.append(roc_auc_score(labels[test], classifier.decision_function(features[test])))
            a, b = (len(set(documents[test][labels[test] == label])) for label in (0, 1))
            variances.append((a + b + 1) / (12 * a * b))
    if not aucs:
        return {}
    noise = _NORMAL_QUANTILE * sum(variances) ** 0.5 / len(variances)
    return {"auc": float(np.mean(aucs)), "auc_noise": noise}


def distance(texts: Profile, reference: Profile, seed: int, draws: int, budget: int) -> dict[str, float]:
    """All metrics of texts against an author's own; one that cannot be computed (no tokens, one document) is left out.

    `budget` is the number of words of a sample for the type-token ratio: one for all texts that are compared, and
    lowered to the words that there are.
    """
    metrics: dict[str, float] = {"n": len(texts.texts), "n_reference": len(reference.texts)}
    for name in DISTANCES:
        metrics |= _feature(name, texts, reference, seed, draws)
    words = min(budget, *(sum(map(len, side.features["words"])) for side in (texts, reference)))
    if words:
        metrics |= {"budget": words, "type_token": type_token(texts, words, seed, draws)}
        metrics["type_token_reference"] = type_token(reference, words, seed, draws)
    return metrics | separability(texts, reference, seed)

"""How far texts are from an author's: characters, words, function words, punctuation, lengths, what tells them apart.

Two samples of one author differ too, the more the smaller they are. So each distance is taken between samples of one
size and given less its null, the mean distance of two such samples of the author's own texts, from other documents but
for one: 0 is no further away than the author is from himself, and less than the `_noise` of a feature says nothing.
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


@dataclass(frozen=True)
class Profile:
    """Texts and what is counted in them. `documents` says which texts belong together, and so are no two witnesses."""

    texts: list[str]
    documents: list[str]
    features: dict[str, Tokens]


def segmenter() -> str:
    """What cuts words, for the metrics: another version may cut others."""
    return f"rjieba {version('rjieba')}"


def profile(texts: Sequence[str], documents: Sequence[str], function_words: Collection[str]) -> Profile:
    """Count once what every distance needs."""
    import rjieba

    wanted = frozenset(function_words)
    words = [[word for word in rjieba.cut(text.lower()) if re.search(r"\w", word)] for text in texts]
    return Profile(
        list(texts),
        list(documents),
        {
            "characters": [[sign for sign in text.lower() if sign.isalnum()] for text in texts],
            "words": words,
            "function_words": [[word for word in part if word in wanted] for part in words],
            "punctuation": [[sign for sign in text if unicodedata.category(sign)[0] == "P"] for text in texts],
            "sentence_length": [sentences(text) for text in texts],
            "paragraph_length": [[len(part) for part in re.split(r"\s*\n\s*", text.strip()) if part] for text in texts],
        },
    )


def jensen_shannon(a: Ints, b: Ints) -> float:
    """Divergence of two samples of token numbers, base 2: 0 the same shares, 1 nothing in common."""
    size = int(max(a.max(), b.max())) + 1
    p, q = np.bincount(a, minlength=size) / len(a), np.bincount(b, minlength=size) / len(b)
    middle = (p + q) / 2
    total = sum(float((s[s > 0] * np.log2(s[s > 0] / middle[s > 0])).sum()) for s in (p, q))
    return total / 2


def wasserstein(a: Ints, b: Ints) -> float:
    """Mean distance, in characters, by which one distribution of lengths must be moved to be the other."""
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
    """The tokens of a set of texts, as numbers, to draw samples of whole texts from; `size` is how many there are."""

    def __init__(self, tokens: Tokens, documents: list[str], numbers: dict[Any, int]) -> None:
        self.parts = [np.array([numbers.setdefault(t, len(numbers)) for t in part], dtype=np.int64) for part in tokens]
        self.documents = documents
        # A text that is there twice tells no more than once: it must not buy a larger sample.
        once = {tuple(part): len(part) for part in tokens}
        self.size, self.longest = sum(once.values()), max(once.values(), default=0)

    def order(self, rng: random.Random) -> list[int]:
        """The texts in random order, those of one document together."""
        names = sorted(set(self.documents))
        place = {name: at for at, name in enumerate(rng.sample(names, len(names)))}
        shuffled = rng.sample(range(len(self.parts)), len(self.parts))
        return sorted(shuffled, key=lambda text: place[self.documents[text]])


def _take(pool: _Pool, order: Sequence[int], size: int) -> Ints:
    """Whole texts in this order, the last one cut: `size` tokens."""
    return np.concatenate([pool.parts[text] for text in order])[:size]


def _feature(name: str, mine: Profile, reference: Profile, seed: int, draws: int) -> dict[str, float]:
    """The distance over its null, the null and its noise; nothing where a side has too few tokens to draw from."""
    # Lengths are numbers already; everything else is numbered as it comes.
    measure, numbers = DISTANCES[name], dict[Any, int]()
    if measure is wasserstein:
        longest = max((n for p in (mine, reference) for part in p.features[name] for n in part), default=0)
        numbers = {length: length for length in range(longest + 1)}
    ours, theirs = (_Pool(p.features[name], p.documents, numbers) for p in (mine, reference))
    size = min(ours.size, (theirs.size - theirs.longest) // 2)  # so that no text is in both halves of a null
    if size < 1:
        return {}
    far, null = [], []
    for draw in range(draws):
        rng = random.Random(f"{seed}/{name}/{draw}")
        order = theirs.order(rng)
        sample = _take(theirs, order, size)
        far.append(measure(_take(ours, ours.order(rng), size), sample))
        # From the other end of the same order, so that the halves share one document at most.
        null.append(measure(_take(theirs, order[::-1], size), sample))
    usual = float(np.mean(null))
    noise = float(np.quantile(null, 0.95)) - usual
    return {name: float(np.mean(far)) - usual, f"{name}_null": usual, f"{name}_noise": noise}


def type_token(texts: Profile, budget: int, seed: int, draws: int) -> float:
    """Different words over all words in samples of `budget` words, which it falls with; the mean of the draws."""
    numbers = dict[Any, int]()
    pool = _Pool(texts.features["words"], texts.documents, numbers)
    found = []
    for draw in range(draws):
        sample = _take(pool, pool.order(random.Random(f"{seed}/type_token/{draw}")), budget)
        found.append(len(np.unique(sample)) / max(1, len(sample)))
    return float(np.mean(found))


def separability(mine: Profile, reference: Profile, seed: int) -> dict[str, float]:
    """Classifier two-sample test: AUC of telling the two apart by character n-grams, 0.5 for no difference.

    Each fold is judged by a classifier that has seen none of its documents, and the AUC is the mean of the folds: in
    the pooled scores of all, folds with other offsets would hide what each one tells. `auc_noise` is how far above 0.5
    chance goes at most in 95 of 100 cases (measured with 5 documents: in 89), by the variance of Mann and Whitney's U
    with documents as the witnesses. Nothing with fewer than two documents on a side.
    (Lopez-Paz and Oquab 2017, Revisiting Classifier Two-Sample Tests.)
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import StratifiedGroupKFold

    folds = min(5, len(set(mine.documents)), len(set(reference.documents)))
    if folds < 2:
        return {}
    # All texts at one length: the lengths have their own figure and would be all that the classifier looks at.
    length = int(min(np.median([len(text) for text in part.texts]) for part in (mine, reference)))
    texts = [text[:length] for text in (*mine.texts, *reference.texts)]
    side = np.array([1] * len(mine.texts) + [0] * len(reference.texts))
    seen = TfidfVectorizer(analyzer="char", ngram_range=(1, 3), sublinear_tf=True, dtype=np.float32).fit_transform(
        texts
    )
    cut = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    groups = np.array([*mine.documents, *reference.documents])
    found, chance = [], []
    for train, test in cut.split(seen, side, groups):
        if len(set(side[train])) == len(set(side[test])) == 2:
            judge = LogisticRegression(class_weight="balanced", C=10, max_iter=200).fit(seen[train], side[train])
            found.append(roc_auc_score(side[test], judge.decision_function(seen[test])))
            a, b = (len(set(groups[test][side[test] == which])) for which in (0, 1))
            chance.append((a + b + 1) / (12 * a * b))
    return {"auc": float(np.mean(found)), "auc_noise": 1.645 * sum(chance) ** 0.5 / len(chance)} if found else {}


def distance(mine: Profile, reference: Profile, seed: int, draws: int, budget: int) -> dict[str, float]:
    """All figures of texts against an author's; one that cannot be had (no such tokens, one document) is left out.

    `budget` is the words of a sample for the type-token ratio; it is the same for all that are to be compared, and cut
    to what there is.
    """
    found: dict[str, float] = {"n": len(mine.texts), "n_reference": len(reference.texts)}
    for name in DISTANCES:
        found |= _feature(name, mine, reference, seed, draws)
    words = min(budget, *(sum(map(len, side.features["words"])) for side in (mine, reference)))
    if words:
        found |= {"budget": words, "type_token": type_token(mine, words, seed, draws)}
        found["type_token_reference"] = type_token(reference, words, seed, draws)
    return found | separability(mine, reference, seed)

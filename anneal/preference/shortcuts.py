"""Shortcuts: how well length and character n-grams separate chosen from rejected texts, without any understanding.

A model that is trained on such pairs learns the shortcut: its held-out accuracy is perfect and its texts get no better.
Texts of one item share their facts, so an item is never on both sides of a fold, and intervals are by item.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from anneal.preference.pair_flaws import Pair
from anneal.records import Metrics
from anneal.stats import intervals

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bag = tuple[str, Sequence[int]]  # a text and the positions in it from which n-grams are taken


def auc(chosen: Sequence[float] | Floats, rejected: Sequence[float] | Floats, items: Sequence[str]) -> Metrics:
    """{auc, low, high, reason}: P(a chosen scores above a rejected), ties half, over all chosen against all rejected.

    `items` is the cluster of each pair. The interval is the cluster-robust one of DeLong's components (Obuchowski
    1997, Nonparametric analysis of clustered ROC curve data), with t(C-1) and cut at 0 and 1. It takes the scores as
    given and ignores that one classifier scores a whole fold: of 100 sets of random pairs it held 0.5 in 82.
    """
    positive, negative = np.asarray(chosen, dtype=float), np.asarray(rejected, dtype=float)

    def share_below(values: Floats, others: Floats) -> Floats:
        """For each value the share of the others below it, ties half."""
        ranked = np.sort(others)
        twice = np.searchsorted(ranked, values, "left") + np.searchsorted(ranked, values, "right")
        return np.asarray(twice / (2 * len(ranked)))

    # DeLong's components: P(score above a rejected text) of each chosen one, P(below a chosen one) of each rejected.
    of_chosen, of_rejected = share_below(positive, negative), 1 - share_below(negative, positive)
    area = of_chosen.mean()
    # A pair adds one chosen and one rejected text: the mean of these values is the AUC, their spread its influence.
    row = intervals.mean((of_chosen + of_rejected - area).tolist(), items).row()
    low, high = (None if row[end] is None else min(1.0, max(0.0, row[end])) for end in ("low", "high"))
    return {"auc": float(area), "low": low, "high": high, "reason": intervals.why(row)}


def length(pairs: Sequence[Pair]) -> Metrics:
    """Characters of chosen less rejected: median, mean with its interval by item, how often longer, AUC of length."""
    gaps, items = [len(p.chosen) - len(p.rejected) for p in pairs], [p.item for p in pairs]
    row = intervals.mean([float(gap) for gap in gaps], items).row()
    metrics: Metrics = {
        "median": float(np.median(gaps)) if gaps else None,
        "mean": row["mean"],
        "low": row["low"],
        "high": row["high"],
        "reason": intervals.why(row),
        "longer": sum(gap > 0 for gap in gaps),
        "shorter": sum(gap < 0 for gap in gaps),
    }
    alone = auc([len(p.chosen) for p in pairs], [len(p.rejected) for p in pairs], items) if gaps else {"auc": None}
    return {**metrics, "auc": alone["auc"]}


def whole(pairs: Sequence[Pair]) -> list[Bag]:
    """All chosen texts, then all rejected ones, with every position."""
    return [(text, range(len(text))) for text in (*(p.chosen for p in pairs), *(p.rejected for p in pairs))]


def equal(pairs: Sequence[Pair], seed: int) -> list[Bag]:
    """The same texts with length removed: as many random positions on either side of a pair as its shorter text has.

    Texts cut to one length would be recognised by an end without a full stop. Of texts that differ in nothing but
    length (80 to 120 against 20 to 40 random characters) `whole` separates all by their number of n-grams, an AUC of
    1; this one gives 0.53 (30 sets).
    """
    bags: list[Bag] = []
    for side in ("chosen", "rejected"):
        for p in pairs:
            text, size = getattr(p, side), min(len(p.chosen), len(p.rejected))
            rng = random.Random(f"{seed}/{p.id}/{p.kind}/{side}")
            bags.append((text, sorted(rng.sample(range(len(text)), size))))
    return bags


def features(bags: Sequence[Bag], ngram: int) -> tuple[Any, npt.NDArray[np.object_]]:
    """Which n-grams of 1 to `ngram` characters each text holds, sparse of shape [texts, n-grams], and their names."""
    from sklearn.feature_extraction.text import CountVectorizer

    def grams(bag: Bag) -> list[str]:
        text, positions = bag
        return [text[at : at + n] for at in positions for n in range(1, min(ngram, len(text) - at) + 1)]

    vectorizer = CountVectorizer(analyzer=grams, binary=True, dtype=np.float64)
    return vectorizer.fit_transform(bags), vectorizer.get_feature_names_out()


def learn(presence: Any, sides: Ints) -> tuple[Floats, float]:
    """The weight of each n-gram and an offset; their sum over a text is its log odds of being a chosen one.

    Logistic regression on n-grams that are scaled by how much oftener one side holds them (NB-SVM of Wang and Manning
    2012, Baselines and Bigrams). With the scaling, a single character that marks a side is found among thousands that
    mark nothing: of 48 random pairs with such a mark it separates all; with tf-idf in its place the AUC is 0.66.
    `presence` [texts, n-grams] is that of `features`, `sides` [texts] is 1 for chosen.
    """
    from sklearn.linear_model import LogisticRegression

    chosen, rejected = (1 + np.asarray(presence[sides == side].sum(axis=0)).ravel() for side in (1, 0))
    ratio = np.log(chosen / chosen.sum()) - np.log(rejected / rejected.sum())
    model = LogisticRegression(max_iter=1000).fit(presence.multiply(ratio).tocsr(), sides)
    return model.coef_[0] * ratio, float(model.intercept_[0])


def scores(bags: Sequence[Bag], items: Sequence[str], ngram: int, folds: int, seed: int) -> tuple[Floats, Floats]:
    """Out-of-fold score of each chosen and each rejected text, by a classifier trained on the pairs of other items.

    `bags` holds all chosen texts, then all rejected ones; `items` names the item of each pair.
    """
    from sklearn.model_selection import GroupKFold

    # One vocabulary for all folds: an n-gram that the training folds do not hold has a weight of 0.
    presence, _ = features(bags, ngram)
    sides, log_odds = np.repeat([1, 0], len(items)), np.zeros(len(bags))
    for train, test in GroupKFold(folds, shuffle=True, random_state=seed).split(bags, sides, [*items, *items]):
        weights, offset = learn(presence[train], sides[train])
        log_odds[test] = presence[test] @ weights + offset
    return log_odds[: len(items)], log_odds[len(items) :]


def _longest(column: int, names: Any, presence: Any) -> str:
    """The longest n-gram that holds this one and is in the very same texts: a word reads better than a part of it.

    `presence` is in compressed columns with sorted indices.
    """

    def rows(at: int) -> Any:
        return presence.indices[presence.indptr[at] : presence.indptr[at + 1]]

    candidates = np.flatnonzero(np.diff(presence.indptr) == len(rows(column)))
    equals = [int(n) for n in candidates if names[column] in names[n] and np.array_equal(rows(int(n)), rows(column))]
    return str(names[max(equals, key=lambda n: len(names[n]))])


def giveaways(pairs: Sequence[Pair], ngram: int, top: int) -> list[Metrics]:
    """The n-grams that carry most of the classifier's margin: {ngram, side, chosen, rejected}, the last two in texts.

    The margin is the mean score of chosen less that of rejected, which is a sum over n-grams. Left out are those of
    one item, whose words are no shortcut to another, and those that overlap with, or are in the texts of, one listed
    before.
    """
    presence, names = features(whole(pairs), ngram)
    weights, _ = learn(presence, np.repeat([1, 0], len(pairs)))
    columns = presence.tocsc()
    columns.sort_indices()
    gap = np.asarray(columns[: len(pairs)].mean(axis=0) - columns[len(pairs) :].mean(axis=0)).ravel()
    share = np.round(gap * weights, 9)  # rounded: sums in another order must not change the ranks
    listed: list[Metrics] = []
    listed_rows = set[bytes]()
    for at in np.argsort(-share, kind="stable"):
        if len(listed) == top or share[at] <= 0:
            break
        rows = columns.indices[columns.indptr[at] : columns.indptr[at + 1]]
        if rows.tobytes() in listed_rows or len({pairs[row % len(pairs)].item for row in rows}) == 1:
            continue
        side = "chosen" if gap[at] > 0 else "rejected"
        name, in_chosen = _longest(at, names, columns), int(np.sum(rows < len(pairs)))
        listed_rows.add(rows.tobytes())
        if not any(g["side"] == side and (name in g["ngram"] or g["ngram"] in name) for g in listed):
            listed.append({"ngram": name, "side": side, "chosen": in_chosen, "rejected": len(rows) - in_chosen})
    return listed


def ngrams(pairs: Sequence[Pair], ngram: int, folds: int, top: int, seed: int) -> Metrics:
    """{auc, low, high, reason, equal, pairwise, folds, top}: how well n-grams of up to `ngram` characters separate.

    `equal` is the AUC at equal length, `pairwise` the share of pairs whose chosen text outscores its own rejected one.
    No AUC with fewer items than folds: an item would be on both sides of one.
    """
    items = [p.item for p in pairs]
    count = len(set(items))
    if count < folds:
        reason, missing = f"{count} items are too few for {folds} folds", dict.fromkeys(("auc", "low", "high"))
        return {**missing, "reason": reason, "equal": missing, "pairwise": None, "folds": folds, "top": []}
    chosen, rejected = scores(whole(pairs), items, ngram, folds, seed)
    pairwise = intervals.share(((np.sign(chosen - rejected) + 1) / 2).tolist(), items).row()
    at_equal_length = scores(equal(pairs, seed), items, ngram, folds, seed)
    return {
        **auc(chosen, rejected, items),
        "equal": auc(*at_equal_length, items),
        "pairwise": pairwise,
        "folds": folds,
        "top": giveaways(pairs, ngram, top),
    }

"""shortcut: what tells chosen from rejected is found, what does not is not, and every figure has a second way to it."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold

from anneal.preference import shortcuts
from anneal.preference.pair_flaws import Pair

Write = Callable[[random.Random], str]


def noise(low: int, high: int) -> Write:
    """Texts of random characters, so that nothing but what a test plants tells two of them apart."""
    return lambda rng: "".join(chr(0x4E00 + rng.randrange(200)) for _ in range(rng.randint(low, high)))


def pairs(chosen: Write, rejected: Write, items: int = 30, each: int = 2, seed: int = 0) -> list[Pair]:
    rng = random.Random(seed)
    return [
        Pair(f"i{i:02d}/{k}", f"i{i:02d}", "weak", "train", f"p{i}", chosen(rng), rejected(rng))
        for i in range(items)
        for k in range(each)
    ]


def test_texts_that_nothing_tells_apart_are_near_a_half() -> None:
    found = [shortcuts.ngrams(pairs(noise(40, 60), noise(40, 60), seed=s), 3, 5, 5, 42) for s in range(5)]
    assert 0.45 < np.mean([row["auc"] for row in found]) < 0.55
    assert 0.45 < np.mean([row["equal"]["auc"] for row in found]) < 0.55
    # The interval is honest: it holds a half in all but the odd one of them.
    assert sum(row["low"] < 0.5 < row["high"] for row in found) >= 4


def test_one_character_gives_all_away_and_is_named() -> None:
    marked = pairs(noise(40, 60), lambda rng: noise(20, 29)(rng) + "！" + noise(20, 29)(rng))
    found = shortcuts.ngrams(marked, 3, 5, 3, 42)
    assert found["auc"] > 0.99
    assert found["top"][0] == {"ngram": "！", "side": "rejected", "chosen": 0, "rejected": 60}
    assert found["pairwise"]["mean"] > 0.99
    assert found["pairwise"]["clusters"] == 30


def test_length_alone_is_seen_by_length_and_gone_at_equal_length() -> None:
    long = pairs(noise(80, 120), noise(20, 40))
    length, found = shortcuts.length(long), shortcuts.ngrams(long, 3, 5, 5, 42)
    assert (length["longer"], length["shorter"], length["auc"]) == (60, 0, 1)
    assert length["low"] < length["mean"] == np.mean([len(p.chosen) - len(p.rejected) for p in long]) < length["high"]
    assert found["auc"] > 0.95  # n-grams do see it, by how full a text is
    assert 0.35 < found["equal"]["auc"] < 0.65


def test_words_of_one_item_are_no_shortcut_to_another() -> None:
    def told(number: int, side: str) -> str:
        return f"{chr(0x7000 + 2 * number + (side == 'chosen'))}" * 5

    own = [
        Pair(f"{i}/{k}", f"i{i}", "fake", "train", "", told(i, "chosen"), told(i, "rejected"))
        for i in range(20)
        for k in range(4)
    ]
    found = shortcuts.ngrams(own, 2, 5, 5, 42)
    # With an item on both sides of a fold the classifier would know its words, and be right every time.
    assert found["auc"] == pytest.approx(0.5)
    assert found["top"] == []


def test_out_of_fold_scores_by_hand() -> None:
    """The same figure with a vocabulary, weights, folds and a ranking that are written out here."""
    leaning = pairs(lambda rng: noise(20, 30)(rng) + ("一二" if rng.random() < 0.6 else ""), noise(20, 30), each=3)
    n, items, folds, seed = len(leaning), [p.item for p in leaning], 4, 7
    texts = [p.chosen for p in leaning] + [p.rejected for p in leaning]
    grams = [{t[i : i + k] for k in (1, 2) for i in range(len(t) - k + 1)} for t in texts]
    sides, scores = np.repeat([1, 0], n), np.zeros(2 * n)
    for train, test in GroupKFold(folds, shuffle=True, random_state=seed).split(texts, sides, items * 2):
        assert not {items[row % n] for row in train} & {items[row % n] for row in test}
        names = sorted(set().union(*grams))
        x = np.array([[float(name in held) for name in names] for held in grams])
        p, q = (1 + sum(x[row] for row in train if sides[row] == side) for side in (1, 0))
        x = x * (np.log(p / sum(p)) - np.log(q / sum(q)))
        scores[test] = LogisticRegression(max_iter=1000).fit(x[train], sides[train]).decision_function(x[test])
    expected = roc_auc_score(sides, scores)
    assert 0.6 < expected < 0.9  # neither chance nor all, so that an error would show
    found = shortcuts.ngrams(leaning, 2, folds, 3, seed)
    assert found["auc"] == pytest.approx(expected, abs=1e-3)
    assert found["pairwise"]["mean"] == pytest.approx(np.mean(scores[:n] > scores[n:]), abs=0.02)


def test_auc_and_its_interval_against_a_bootstrap_of_items() -> None:
    rng = np.random.default_rng(3)
    items = [f"i{i}" for i in range(60) for _ in range(4)]
    shared = np.repeat(rng.normal(size=60), 4)
    up, down = np.round(shared + rng.normal(0.4, 1, 240), 1), np.round(rng.normal(size=240), 1)
    found = shortcuts.auc(up, down, items)
    assert found["auc"] == pytest.approx(roc_auc_score([1] * 240 + [0] * 240, [*up, *down]))
    draws = []
    for _ in range(400):
        rows = (rng.integers(0, 60, 60)[:, None] * 4 + np.arange(4)).ravel()
        draws.append(roc_auc_score([1] * 240 + [0] * 240, [*up[rows], *down[rows]]))
    half = (found["high"] - found["low"]) / 2
    assert half == pytest.approx(2.0 * np.std(draws), rel=0.2)
    # Rows taken as independent would claim to know it better.
    alone = shortcuts.auc(up, down, [str(row) for row in range(240)])
    assert half > 1.2 * (alone["high"] - alone["low"]) / 2


def test_where_all_is_decided_there_is_no_interval_and_a_reason() -> None:
    found = shortcuts.auc([2.0, 3.0], [0.0, 1.0], ["a", "b"])
    assert found == {"auc": 1, "low": None, "high": None, "reason": "no variance: all clusters say the same"}
    assert shortcuts.auc([1.0, 1.0], [1.0, 1.0], ["a", "b"])["auc"] == 0.5


def test_both_sides_of_a_pair_give_as_many_places() -> None:
    some = pairs(noise(30, 90), noise(10, 40), items=8)
    bags = shortcuts.equal(some, 1)
    sizes = [len(places) for _, places in bags]
    assert sizes == [min(len(p.chosen), len(p.rejected)) for p in some] * 2
    assert all(len(set(places)) == len(places) and max(places) < len(text) for text, places in bags)
    # Which places depends on the pair alone: one pair more does not draw the others again.
    assert shortcuts.equal(some[3:], 1)[: len(some) - 3] == bags[3 : len(some)]


def test_a_word_is_told_once_and_whole() -> None:
    shouting = pairs(noise(30, 40), lambda rng: noise(15, 20)(rng) + "神奇" + noise(15, 20)(rng))
    top = shortcuts.giveaways(shouting, 2, 6)
    assert top[0] == {"ngram": "神奇", "side": "rejected", "chosen": 0, "rejected": 60}
    assert not [g for g in top[1:] if "神" in g["ngram"] or "奇" in g["ngram"]]
    assert all(len(g["ngram"]) <= 2 for g in top)
    # Of a longer phrase one n-gram stands for all that are in the same texts.
    phrase = pairs(noise(30, 40), lambda rng: noise(15, 20)(rng) + "神奇宝物" + noise(15, 20)(rng))
    told = [g["ngram"] for g in shortcuts.giveaways(phrase, 2, 6)]
    assert len([gram for gram in told if set(gram) & set("神奇宝物")]) == 1
    assert len(shortcuts.giveaways(shouting, 2, 1)) == 1


def test_too_few_items_for_the_folds_is_no_figure() -> None:
    found = shortcuts.ngrams(pairs(noise(20, 30), noise(20, 30), items=4), 3, 5, 5, 42)
    assert found["auc"] is None
    assert found["equal"]["auc"] is None
    assert found["top"] == []
    assert found["reason"] == "4 items are too few for 5 folds"

"""Near-duplicates against brute force and datasketch, and the traps of short and of Chinese texts."""

from __future__ import annotations

import random
from itertools import combinations, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anneal import similarity

# Few letters, so that random texts share shingles; two of them Chinese, one space, one full-width.
TEXTS = st.lists(st.text("ab肤水 Ａ", max_size=12), min_size=2, max_size=14)
AD = "清晨出门前取适量均匀涂抹，烟酰胺负责提亮，泛醇负责舒缓，配方精简，敏感肌也能安心，点击了解完整成分。"


def corpus(count: int, length: int, seed: int = 1) -> list[str]:
    """Random Chinese texts; characters are drawn with unequal frequencies, as in language."""
    rng = random.Random(seed)
    alphabet = [chr(0x4E00 + number) for number in range(400)]
    weights = [1 / (rank + 2) for rank in range(400)]
    return ["".join(rng.choices(alphabet, weights, k=length)) for _ in range(count)]


def edited(words: str, changes: int, rng: random.Random) -> str:
    letters = list(words)
    for place in rng.sample(range(len(letters)), changes):
        letters[place] = rng.choice("天地玄黄宇宙洪荒")
    return "".join(letters)


def brute(texts: list[str], threshold: float, n: int = 3) -> dict[tuple[int, int], float]:
    """All pairs by the definition, from windows over the padded key."""
    sets = []
    for words in texts:
        key = similarity.key(words) + "\0" * max(0, n - len(similarity.key(words)))
        sets.append({key[i : i + n] for i in range(len(key) - n + 1)})
    found = {(i, j): len(sets[i] & sets[j]) / len(sets[i] | sets[j]) for i, j in combinations(range(len(texts)), 2)}
    return {pair: value for pair, value in found.items() if value >= threshold}


def test_key_ignores_width_case_and_layout_but_not_words() -> None:
    same = [
        ("ＳＰＦ５０，温和！", "spf50,温和!"),
        ("含 5% 烟酰胺\n\n不加香精", "含5%烟酰胺不加香精"),
        ("zero\u200bwidth", "zerowidth"),
        ("Two  words\n", "two words"),
    ]
    for left, right in same:
        assert similarity.key(left) == similarity.key(right), left
    assert similarity.key("two words") != similarity.key("twowords")
    assert similarity.key("维C") != similarity.key("维E")


def test_shingles_are_never_empty() -> None:
    assert similarity.shingles("") == {"\0\0\0"}
    assert similarity.shingles("水") == {"水\0\0"}
    assert similarity.shingles("水水水水") == {"水水水"}
    assert similarity.jaccard("水", "油") == 0.0
    assert similarity.jaccard("", "") == 1.0


def test_texts_shorter_than_a_shingle_are_no_duplicates() -> None:
    from datasketch import MinHash

    # The trap: a sketch of no shingles equals any other sketch of no shingles.
    assert MinHash().jaccard(MinHash()) == 1.0
    short = ["水", "油", "好", "ab", "cd", "", "嗯嗯"]
    assert similarity.near_duplicates(short, 0.1) == []
    assert similarity.near_duplicates([*short, "ＡＢ"], 0.9) == [(3, 7, 1.0)]


def test_chinese_texts_are_compared_where_shingles_of_words_fail() -> None:
    other = AD.replace("泛醇", "尿囊素")
    words = [set(pairwise(words.split())) or {words} for words in (AD, other)]
    assert not words[0] & words[1]
    assert similarity.near_duplicates([AD, other], 0.7) == [(0, 1, similarity.jaccard(AD, other))]


def test_one_edit_in_forty_characters_is_found() -> None:
    rng = random.Random(3)
    texts = corpus(1500, 80)
    origins = rng.sample(range(1500), 300)
    planted = [edited(texts[origin], 2, rng) for origin in origins]
    every = texts + planted
    wanted = {(o, 1500 + k) for k, o in enumerate(origins) if similarity.jaccard(texts[o], planted[k]) >= 0.7}
    found = similarity.near_duplicates(every, 0.7)
    assert len(wanted) > 280
    assert len(wanted & {(i, j) for i, j, _ in found}) >= 0.99 * len(wanted)
    assert all(similarity.jaccard(every[i], every[j]) == shared >= 0.7 for i, j, shared in found)


@given(TEXTS, st.sampled_from([0.3, 0.5, 0.7, 0.9, 1.0]), st.integers(1, 5))
@settings(deadline=None, max_examples=60)
def test_every_edge_is_exact_and_equal_texts_are_never_missed(texts: list[str], threshold: float, n: int) -> None:
    truth = brute(texts, threshold, n)
    edges = similarity.near_duplicates(texts, threshold, n)
    found = {(i, j): shared for i, j, shared in edges}
    assert len(found) == len(edges)
    assert list(found) == sorted(found)
    assert found == {pair: truth[pair] for pair in found}
    assert {pair for pair, value in truth.items() if value == 1.0} <= set(found)


def test_recall_at_the_threshold() -> None:
    """Pairs of all overlaps, most of them near the threshold; at most 1 in 100 is missed."""
    rng = random.Random(8)
    texts = [t for base in corpus(60, 60) for t in (base, *(edited(base, k, rng) for k in (1, 1, 2, 3, 4)))]
    every = brute(texts, 0.5)
    for threshold in (0.5, 0.7, 0.9):
        truth = {pair: value for pair, value in every.items() if value >= threshold}
        found = {(i, j) for i, j, _ in similarity.near_duplicates(texts, threshold)}
        assert len(truth) >= 100
        assert found <= set(truth)
        assert len(found) >= 0.99 * len(truth), threshold


def test_signatures_estimate_as_well_as_datasketch() -> None:
    from datasketch import MinHash

    rng = random.Random(5)
    bases = corpus(60, 70)
    pairs = [(base, edited(base, rng.randint(1, 20), rng)) for base in bases]
    texts = [t for pair in pairs for t in pair]
    signatures = similarity._minhash(similarity._sets(texts, 3))
    sketches = []
    for words in texts:
        sketch = MinHash(128)
        sketch.update_batch([shingle.encode() for shingle in sorted(similarity.shingles(words))])
        sketches.append(sketch)
    truth = np.array([similarity.jaccard(*pair) for pair in pairs])
    ours = (signatures[::2] == signatures[1::2]).mean(axis=1)
    theirs = np.array([a.jaccard(b) for a, b in zip(sketches[::2], sketches[1::2], strict=True)])
    assert truth.min() < 0.5 < 0.8 < truth.max()
    # The standard error of 128 permutations is at most 0.045; the mean of 60 pairs lies within 0.02 of the truth.
    assert abs((ours - truth).mean()) < 0.02
    assert np.abs(ours - truth).max() < 4 * 0.045
    assert np.abs(ours - truth).mean() < 1.5 * np.abs(theirs - truth).mean()


def test_pairs_do_not_depend_on_the_other_texts_or_their_order() -> None:
    texts = [*corpus(40, 30), AD, AD.replace("清晨", "早上"), AD.replace("敏感肌", "干性肌")]
    shuffled = random.Random(2).sample(range(len(texts)), len(texts))
    found = {frozenset((texts[i], texts[j])) for i, j, _ in similarity.near_duplicates(texts, 0.7)}
    again = similarity.near_duplicates([texts[place] for place in shuffled], 0.7)
    assert {frozenset((texts[shuffled[i]], texts[shuffled[j]])) for i, j, _ in again} == found
    assert len(found) == len(similarity.near_duplicates(texts[-3:], 0.7)) >= 2


def test_boilerplate_makes_linear_work() -> None:
    """2,000 texts of one bucket make two million pairs; those with the first 64 of it group them as well."""
    crowd = [AD + chr(0x5000 + number) for number in range(2000)]
    edges = similarity.near_duplicates(crowd, 0.7)
    assert 2000 <= len(edges) < 2000 * 1999 / 2 / 10
    assert {j for i, j, _ in edges if i == 0} == set(range(1, 2000))
    assert len(similarity.groups(2000, edges)) == 1


@given(st.integers(1, 12), st.lists(st.tuples(st.integers(0, 11), st.integers(0, 11)), max_size=15))
@settings(deadline=None, max_examples=60)
def test_groups_are_the_connected_components(n: int, edges: list[tuple[int, int]]) -> None:
    edges = [(i % n, j % n) for i, j in edges]
    reach = np.eye(n, dtype=bool)
    for i, j in edges:
        reach[i, j] = reach[j, i] = True
    for _ in range(n):
        reach = reach @ reach
    found = similarity.groups(n, edges)
    assert sorted(member for group in found for member in group) == list(range(n))
    assert [group[0] for group in found] == sorted(group[0] for group in found)
    for group in found:
        assert group == np.flatnonzero(reach[group[0]]).tolist()


@given(TEXTS, TEXTS, st.integers(1, 6))
@settings(deadline=None, max_examples=60)
def test_nearest_is_the_maximum_over_all(texts: list[str], among: list[str], n: int) -> None:
    found = similarity.nearest(texts, among, n)
    assert len(found) == len(texts)
    for words, near in zip(texts, found, strict=True):
        alike = [similarity.jaccard(words, other, n) for other in among]
        held = [similarity.containment(words, other, n) for other in among]
        assert (near.similar, near.jaccard) == (alike.index(max(alike)), max(alike))
        assert (near.holder, near.containment) == (held.index(max(held)), max(held))


def test_a_short_text_hides_in_a_long_one() -> None:
    long = "".join(corpus(1, 400)) + AD + "".join(corpus(1, 400, seed=2))
    near = similarity.nearest([AD], ["完全不同的一句话。", long])[0]
    assert near.containment == pytest.approx(similarity.containment(AD, long)) == 1.0
    assert near.jaccard < 0.1


def test_ngrams_keep_order_and_repeats() -> None:
    assert similarity.ngrams("ababa", 2) == ["ab", "ba", "ab", "ba"]
    assert similarity.ngrams("水", 2) == []


def test_no_text_and_one_text() -> None:
    assert similarity.near_duplicates([], 0.7) == similarity.near_duplicates([AD], 0.7) == []
    assert similarity.groups(0, []) == []

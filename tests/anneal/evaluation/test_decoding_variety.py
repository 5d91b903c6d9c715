"""Variety and its price: planted presets of which one repeats itself, one runs on and one is worth more."""

from __future__ import annotations

import random
from typing import Any

import pytest

from anneal.evaluation import decoding_variety

WORDS = ["天气", "水面", "很好", "一起", "出去", "明月", "清风", "高山", "流水", "故人"]


def texts(n: int, seed: int, length: int = 20) -> list[str]:
    rng = random.Random(seed)
    return ["".join(rng.choice(WORDS) for _ in range(length)) for _ in range(n)]


def rows(preset: str, found: list[str], seed: int | None = None, **changes: Any) -> list[dict[str, Any]]:
    """Two rows for each item."""
    return [
        {
            "id": f"p{n // 2}/t/{n % 2}",
            "item": f"p{n // 2}",
            "type": "t",
            "preset": preset,
            "seed": seed,
            "text": text,
            "finish": "stop",
            "n_new": len(text),
        }
        | changes
        for n, text in enumerate(found)
    ]


def test_self_bleu_tells_the_same_words_from_other_words() -> None:
    same, other = decoding_variety.self_bleu(["今天天气很好。"] * 6, 1), decoding_variety.self_bleu(texts(6, 1), 1)
    apart = decoding_variety.self_bleu(["abcdefgh"[n] * 12 for n in range(6)], 1)
    assert same == pytest.approx(100)
    assert other is not None
    assert apart is not None
    assert apart < 1 < other < 99
    assert decoding_variety.self_bleu(["alone"], 1) is None


def test_self_bleu_is_the_mean_of_sacrebleus_own_sentence_scores() -> None:
    from sacrebleu import sentence_bleu

    found = texts(7, 3)
    scores = [
        sentence_bleu(text, [*found[:n], *found[n + 1 :]], tokenize="zh", use_effective_order=True).score
        for n, text in enumerate(found)
    ]
    assert decoding_variety.self_bleu(found, 1) == pytest.approx(sum(scores) / len(scores))


def test_self_bleu_of_many_texts_is_that_of_a_drawn_part() -> None:
    found = texts(60, 4)
    assert decoding_variety.self_bleu(found, 1, most=8) == decoding_variety.self_bleu(found, 1, most=8)
    assert decoding_variety.self_bleu(found, 1, most=8) != decoding_variety.self_bleu(found, 2, most=8)
    few, many = decoding_variety.self_bleu(found, 1, most=4), decoding_variety.self_bleu(found, 1, most=40)
    assert few is not None
    assert many is not None
    assert few < many, "more references are easier to repeat: sets must compare at one size"


def test_presets_side_by_side_on_the_same_items() -> None:
    plain = texts(12, 1)
    dull = [WORDS[0] * 20] * 12
    long = [text * 3 for text in texts(12, 2)]
    mixed = rows("plain", plain) + rows("dull", dull, finish="length")
    mixed += rows("long", long, seed=1) + rows("long", texts(12, 5), seed=2)
    random.Random(1).shuffle(mixed)
    mixed.sort(key=lambda row: ["plain", "dull", "long"].index(row["preset"]))
    found = decoding_variety.compare(mixed, plain, {"worth": lambda row: row["text"].count("月") / 9}, 300, 20, 1)
    assert list(found) == ["plain", "dull", "long"]
    assert [table["runs"] for table in found.values()] == [1, 1, 2]
    assert {table["characters"] for table in found.values()} == {300}
    assert found["dull"]["distinct_2"] < 0.05 < found["plain"]["distinct_2"]
    assert found["plain"]["self_bleu"] < 90 < found["dull"]["self_bleu"]
    assert [found[name]["stopped"]["mean"] for name in found] == [1, 0, 1]
    assert [found[name]["overrun"]["mean"] for name in found] == [0, 0, 0.5]
    assert found["long"]["tokens"] == 80
    worth = {name: table["worth"] for name, table in found.items()}
    assert worth["plain"]["n"] == 12
    assert worth["plain"]["clusters"] == 6
    assert worth["plain"]["mean"] == pytest.approx(sum(text.count("月") for text in plain) / 9 / 12)
    assert worth["dull"]["mean"] == 0
    assert "less_first" not in found["plain"]
    less = found["dull"]["less_first"]["worth"]
    assert less["mean"] == pytest.approx(-worth["plain"]["mean"])
    assert less["high"] < 0
    assert less["p"] < 0.05
    assert set(less) >= {"n", "clusters", "low", "high", "detectable"}
    assert found["dull"]["less_first"]["stopped"]["mean"] == -1
    # As every other share: a bound also where all texts say the same.
    assert found["plain"]["stopped"]["low"] < found["plain"]["stopped"]["high"] == 1


def test_more_seeds_of_the_same_texts_change_no_figure_of_variety() -> None:
    once = decoding_variety.compare(rows("a", texts(10, 1), 1), ["x" * 40], {}, 200, 10, 1)["a"]
    thrice = [row for seed in (1, 2, 3) for row in rows("a", texts(10, 1), seed)]
    many = decoding_variety.compare(thrice, ["x" * 40], {}, 200, 10, 1)["a"]
    assert once.pop("runs") == 1
    assert many.pop("runs") == 3
    assert many == once
    assert once["stopped"]["n"] == 10, "an id counts once, however often it was drawn"


def test_the_budget_is_that_of_the_shortest_run() -> None:
    short = rows("b", [text[:9] for text in texts(10, 2)])
    found = decoding_variety.compare(rows("a", texts(10, 1)) + short, ["x"], {}, 4000, 5, 1)
    assert {table["characters"] for table in found.values()} == {90}


def test_presets_of_other_rows_are_no_pair() -> None:
    assert decoding_variety.compare([], ["x"], {}, 10, 1, 1) == {}
    with pytest.raises(ValueError, match="preset b, seed None: 9 rows, not one for each of 10 ids"):
        decoding_variety.compare(rows("a", texts(10, 1)) + rows("b", texts(9, 1)), ["x"], {}, 10, 1, 1)

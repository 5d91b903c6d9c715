"""edits: clauses change in place, at their length, and never inside the product name."""

import random
from typing import Any

import pytest

from anneal.offline import rewrite

FACTS = {"name": "甲酸霜", "acids": ["甲酸", "乙酸", "丙酸"], "use": "早晚"}
TEXT = "现在就认识甲酸霜。甲酸帮助保湿，乙酸帮助舒缓，丙酸也在其中。点击甲酸霜。"
SAID = ["配方温和", "用着安心", "慢慢来就好", "步骤不多也够用", "简单"]


def step(**changes: Any) -> rewrite.Step:
    edit = {"where": "^[^，。]*{-acids}[^，。]*", "options": SAID}
    return {
        "clause": "[^，。]*[，。]?",
        "keep": "点击",
        "tries": 9,
        "forget": {"acids": [1, 2]},
        "edits": [edit],
    } | changes


def changed(seed: int, **changes: Any) -> str:
    rng = random.Random(seed)
    return rewrite.rephrase(TEXT, FACTS, step(**changes), lambda option: option, rng)


def test_what_is_forgotten_is_nowhere_and_the_rest_stands() -> None:
    lost = []
    for seed in range(60):
        text = changed(seed)
        assert text.startswith("现在就认识甲酸霜。")
        assert text.endswith("点击甲酸霜。")
        lost.append([word for word in FACTS["acids"] if word not in text.replace("甲酸霜", "")])
        assert abs(len(text) - len(TEXT)) <= 3
        assert not any(text.count(said) > 1 for said in SAID)
    assert {len(words) for words in lost} == {1, 2}
    assert len({tuple(words) for words in lost}) == 6


def test_a_word_that_the_text_dwells_on_is_forgotten_first() -> None:
    text = "乙酸与甲酸，甲酸，丙酸"
    drawn = [rewrite.draw_words(text, FACTS, {"acids": [1, 1]}, random.Random(seed)) for seed in range(20)]
    assert [words["-acids"] for words in drawn] == [["甲酸"]] * 20
    assert drawn[0]["acids"] == FACTS["acids"]
    assert rewrite.draw_words("丙酸", FACTS, {"acids": [2, 3]}, random.Random(0))["-acids"] == ["丙酸"]


def test_count_changes_so_many_clauses_once_and_keep_none() -> None:
    edit = {"where": "{acids}", "options": ["它", "此物"]}
    for seed in range(20):
        text = changed(seed, count=[2, 2], edits=[edit], keep="乙酸|点击")
        assert sum(word in text.replace("甲酸霜", "") for word in FACTS["acids"]) == 1
        assert "乙酸帮助舒缓" in text


def test_a_group_of_the_pattern_may_stand_in_what_is_said() -> None:
    edit = {"where": "({acids})帮助", "options": [r"\1立刻"]}
    assert "甲酸立刻保湿，乙酸立刻舒缓，丙酸也在其中" in changed(1, count=[2, 2], edits=[edit])


def test_one_of_several_ways_is_drawn() -> None:
    ways = [{"forget": {"acids": [1, 1]}}, {"forget": {"acids": [3, 3]}}]
    left = {
        sum(word in changed(seed, one_of=ways).replace("甲酸霜", "") for word in FACTS["acids"]) for seed in range(30)
    }
    assert left == {0, 2}


def test_a_text_that_no_edit_fits_is_refused() -> None:
    with pytest.raises(ValueError, match="no clause that it could change"):
        changed(0, edits=[{"where": "{salts}", "options": SAID}])
    with pytest.raises(ValueError, match="no clause"):
        changed(0, keep="")

"""facts: a foreign fact is always found, an own one never is, wherever and however it stands in the text."""

import itertools
import json
import string
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from anneal import files
from anneal.checks import facts, text_checks
from anneal.errors import UserError

ROOT = Path(__file__).resolve().parents[3]
WORLD = facts.vocabulary(ROOT / "data/raw/brand/rules/vocabulary.json")
PRODUCTS = files.read(ROOT / "data/raw/brand/products.jsonl", "id", "name", "ingredients")
SLOTS = ["ingredients", "effects", "skin_types"]

TINY = {
    "ingredients": ["泛醇", "泛醇三乙酸酯", "泛醌", "角鲨烷", "NP", "Q10"],
    "effects": ["舒缓泛红", "舒缓", "深层补水"],
    "categories": ["面霜", "精华液"],
    "name_parts": ["泛醇", "角鲨烷", "舒缓", "补水"],
}
SHEET: dict[str, Any] = {
    "name": "泛醇舒缓面霜",
    "ingredients": [{"concentration": "5%", "name": "泛醇"}, {"concentration": "0.5%", "name": "NP"}],
    "effects": ["舒缓泛红"],
    "usage": "每次取2滴。",
}


def rules(**changes: Any) -> facts.Rules:
    values: dict[str, Any] = {
        "folder": ".",
        "name": "name",
        "facts": {"slot": "ingredients", "at_least": 2},
        "foreign": ["ingredients", "numbers"],
        "also": ["effects"],
        "banned": ["YYDS", "神器"],
        "exaggerated": ["^[^不]*(立刻|永久)"],
        "encouraged": [],
        "forbid": ["#"],
        "types": {"ad": {"require": ["^现在", "点击.{0,9}$"], "forbid": ["第一"], "length": [10, 60]}},
    }
    return facts.Rules.model_validate({**values, **changes})


def held(sheet: dict[str, Any]) -> set[str]:
    return set(facts.strings(sheet))


def filler(text: str) -> bool:
    """Text that names no fact by chance; digits and letters would run into the words they stand next to."""
    return not any(word in text for words in WORLD.values() for word in words)


noise = st.text(alphabet="的是在了有和，。！？ \n" + "山水云风月星海林", max_size=12).filter(filler)
product = st.sampled_from([{k: v for k, v in p.items() if k != "id"} for p in PRODUCTS])


@settings(max_examples=120, deadline=None)
@given(product, st.sampled_from(SLOTS), st.data(), noise, noise)
def test_a_foreign_word_is_found_in_any_surrounding(sheet: Any, slot: str, data: Any, left: str, right: str) -> None:
    word = data.draw(st.sampled_from([w for w in WORLD[slot] if w not in held(sheet)]))
    own = data.draw(st.sampled_from(facts.own(sheet, slot)))
    for text in (left + word + right, own + left + word, word + right + own, f"{sheet['name']}{left}{word}{right}"):
        assert facts.foreign(text, sheet, WORLD, SLOTS) == [f"{slot}:{word}"], text


@settings(max_examples=120, deadline=None)
@given(product, st.data(), noise)
def test_own_values_never_alarm_in_any_order(sheet: Any, data: Any, gap: str) -> None:
    values = data.draw(st.permutations(facts.strings(sheet)))
    text = gap.join(["", *values, ""]).replace("\n", "，")
    assert facts.foreign(text, sheet, WORLD, [*SLOTS, "numbers"]) == []
    assert facts.second_names(gap.join(["", sheet["name"], ""]), sheet, WORLD) == []


@settings(max_examples=60, deadline=None)
@given(product, product, noise, noise)
def test_the_name_of_another_product_is_found_and_the_own_one_is_not(a: Any, b: Any, left: str, right: str) -> None:
    text = left + a["name"] + right + b["name"] + left
    assert facts.second_names(text, a, WORLD) == ([b["name"]] if a["name"] != b["name"] else [])


@settings(max_examples=60, deadline=None)
@given(product, st.integers(0, 999), st.sampled_from(["%", "％", " %", "mg", "倍", "天"]), noise)
def test_a_number_alarms_exactly_when_the_sheet_does_not_hold_it(sheet: Any, n: int, unit: str, gap: str) -> None:
    percents = {float(i["concentration"].rstrip("%")) for i in sheet["ingredients"]}
    hits = facts.foreign(f"{gap}含{n}{unit}，{gap}", sheet, WORLD, ["numbers"])
    assert bool(hits) == (not (float(n) in percents and unit.strip() in "%％"))


def test_every_pair_of_products_of_the_recipe_differs_by_what_the_checker_says() -> None:
    checked = 0
    for a, b in itertools.pairwise(PRODUCTS):
        text = "、".join(facts.own(b, "ingredients"))
        expected = [f"ingredients:{w}" for w in facts.own(b, "ingredients") if w not in facts.own(a, "ingredients")]
        assert facts.foreign(text, a, WORLD, ["ingredients"]) == expected
        checked += 1
    assert checked == 139


def test_the_longer_word_wins_whoever_owns_it() -> None:
    assert facts.foreign("含泛醇三乙酸酯", SHEET, TINY, ["ingredients"]) == ["ingredients:泛醇三乙酸酯"]
    longer = {**SHEET, "ingredients": ["泛醇三乙酸酯"]}
    assert facts.foreign("含泛醇三乙酸酯", longer, TINY, ["ingredients"]) == []
    # A word of the own name that is also a shorter effect is no effect.
    assert facts.foreign("泛醇舒缓面霜帮助舒缓泛红", SHEET, TINY, ["effects"]) == []
    assert facts.foreign("它让皮肤舒缓", SHEET, TINY, ["effects"]) == ["effects:舒缓"]


def test_latin_words_end_where_they_end() -> None:
    sheet = {"name": "甲", "ingredients": ["泛醇"]}
    found = facts.foreign("含np与q10，但SNP和NPC、Q100不是", sheet, TINY, ["ingredients"])
    assert found == ["ingredients:NP", "ingredients:Q10"]


@pytest.mark.parametrize(
    ("text", "hits"),
    [
        ("含5%泛醇", []),
        ("含５．０％泛醇", []),
        ("浓度5 %", []),
        ("浓度为5", []),
        ("浓度5-5%", []),
        ("每次2滴", []),
        ("1. 洁面\n2、涂抹", []),
        ("Q10的作用", []),
        ("含50%泛醇", ["numbers:50%"]),
        ("含5mg泛醇", ["numbers:5mg"]),
        ("28天见效", ["numbers:28天"]),
        ("泛醇10%，泛醇10%", ["numbers:10%"]),
        ("添加3.5 %与9种", ["numbers:3.5 %", "numbers:9种"]),
    ],
)
def test_numbers_with_units(text: str, hits: list[str]) -> None:
    assert facts.foreign(text, SHEET, TINY, ["numbers"]) == hits


def test_one_name_part_and_a_category_is_ordinary_language() -> None:
    assert facts.second_names("一支补水面霜，配舒缓精华液", SHEET, TINY) == []
    assert facts.second_names("换成角鲨烷补水面霜或泛醇舒缓精华液", SHEET, TINY) == ["角鲨烷补水面霜", "泛醇舒缓精华液"]
    assert facts.second_names("角鲨烷补水面霜", SHEET, {}) == []


GOOD = "现在认识泛醇舒缓面霜，泛醇与NP舒缓泛红。点击了解。"


@pytest.mark.parametrize(
    ("text", "failed"),
    [
        (GOOD, set()),
        (GOOD.replace("现在", "今天"), {"type"}),
        (GOOD.replace("舒缓泛红", "第一"), {"type"}),
        (GOOD.replace("认识", "#"), {"type"}),
        (GOOD.replace("舒缓面霜", "面霜"), {"name"}),
        (GOOD.replace("与NP", ""), {"facts"}),
        (GOOD.replace("，泛醇", "，"), {"facts"}),
        (GOOD.replace("NP", "NP与泛醌"), {"foreign"}),
        (GOOD.replace("与NP", "与NP各9%"), {"foreign"}),
        (GOOD.replace("舒缓泛红", "真yyds"), {"banned"}),
        (GOOD.replace("舒缓泛红", "立刻舒缓泛红"), {"exaggerated"}),
        (GOOD.replace("舒缓泛红", "不说永久有效"), set()),
        (GOOD.replace("舒缓泛红", "舒缓泛红" * 10), {"length"}),
        (GOOD.replace("舒缓泛红", "深层补水"), {"all_facts"}),
        (GOOD.replace("认识", "认识角鲨烷补水面霜和"), {"all_facts", "foreign"}),
    ],
)
def test_check_names_the_rule_that_fails(text: str, failed: set[str]) -> None:
    hits = facts.check(text, "ad", SHEET, rules(), TINY)
    assert set(hits) == set(text_checks.FACTS)
    assert {rule for rule, found in hits.items() if found} - {"all_facts", "unsupported"} == failed - {"all_facts"}
    assert bool(hits["all_facts"]) == bool(failed)
    assert set(hits["foreign"]) <= set(hits["unsupported"])
    if "深层补水" in text and "深层补水" not in str(SHEET):
        assert hits["unsupported"], "an effect of another product, of a slot of `also`"


def test_a_word_inside_the_product_name_is_not_a_named_fact() -> None:
    assert facts.named("泛醇舒缓面霜含NP", SHEET, "ingredients", TINY) == ["NP"]
    assert facts.named("泛醇三乙酸酯与NP", SHEET, "ingredients", TINY) == ["NP"]


def test_a_sheet_with_fewer_values_than_wanted_needs_only_its_own() -> None:
    sheet = {"name": "甲乙丙", "ingredients": ["泛醇"]}
    assert facts.check("现在看甲乙丙，含泛醇。点击了解。", "ad", sheet, rules(), TINY)["facts"] == []


def test_recipes_without_names_or_facts_are_judged_by_contract_alone() -> None:
    plain = rules(name="", facts={"slot": "", "at_least": 0}, foreign=[], also=[])
    assert not any(facts.check("现在说一句话吧。点击了解。", "ad", {"topic": "x"}, plain, {}).values())


def test_a_type_without_a_contract_is_refused() -> None:
    with pytest.raises(UserError, match="no contract for 'letter'"):
        facts.check(GOOD, "letter", SHEET, rules(), TINY)


def test_a_slot_that_the_vocabulary_lacks_is_refused() -> None:
    with pytest.raises(UserError, match="no slot 'colours'"):
        facts.foreign("x", SHEET, TINY, ["colours"])


@pytest.mark.parametrize(
    "changes",
    [
        {"forbid": ["("]},
        {"exaggerated": ["("]},
        {"exaggerated": None},
        {"types": {"ad": {"require": ["["], "forbid": [], "length": [1, 2]}}},
        {"types": {"ad": {"require": [], "forbid": [], "length": [1]}}},
        {"facts": {"slot": "ingredients", "at_least": -1}},
        {"unknown": 1},
    ],
)
def test_rules_that_cannot_work_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        rules(**changes)


@pytest.mark.parametrize(
    ("content", "message"),
    [("{", "1:2: not JSON"), ("[]", "list of words"), ('{"a": "b"}', "a: expected"), ('{"a": [""]}', "a: expected")],
)
def test_a_broken_vocabulary_is_refused(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "v.json"
    path.write_text(content, "utf-8")
    with pytest.raises(UserError, match=message):
        facts.vocabulary(path)
    with pytest.raises(UserError, match="no such file"):
        facts.vocabulary(tmp_path / "none.json")


def test_the_world_of_the_recipe_is_closed_and_holds_every_sheet() -> None:
    assert {len(v) == len(set(v)) for v in WORLD.values()} == {True}
    assert len({p["name"] for p in PRODUCTS}) == len({p["id"] for p in PRODUCTS}) == len(PRODUCTS) == 140
    parts = dict(zip([*WORLD["ingredients"], *WORLD["effects"]], WORLD["name_parts"], strict=True))
    for p in PRODUCTS:
        for slot in SLOTS:
            values = facts.own(p, slot)
            assert values
            assert len(set(values)) == len(values)
            assert set(values) <= set(WORLD[slot])
        first, effect = facts.own(p, "ingredients")[0], p["effects"][0]
        assert p["name"] == parts[first] + parts[effect] + p["category"]
        assert p["category"] in WORLD["categories"]
        assert 2 <= len(p["ingredients"]) <= 3
        assert 2 <= len(p["effects"]) <= 3
        # Sentences of a sheet must not smuggle in a fact of another one.
        assert (
            facts.foreign(
                json.dumps([p["usage"], p["claims"]], ensure_ascii=False),
                {"x": [values, p["ingredients"], p["effects"], p["category"]]},
                WORLD,
                ["ingredients", "effects", "skin_types"],
            )
            == []
        )
    assert not any(c in string.ascii_lowercase for words in WORLD.values() for word in words for c in word)


def test_an_empty_value_is_none() -> None:
    """A cell that a table leaves empty must neither pass as a fact nor break the search for words."""
    assert facts.own({"input": "", "words": ["a", ""]}, "input") == []
    assert facts.own({"input": "", "words": ["a", ""]}, "words") == ["a"]
    assert facts.named("anything", {"input": ""}, "input", {}) == []

"""Verse: lines at any mark, syllables by character, rhyme by the table; truths made by hand."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anneal import records
from anneal.checks import verse
from tests.conftest import ROOT

REAL = ROOT.parent / "shared/data/tang/tang_poems.jsonl"

RHYMES = {"ang": "霜光乡长", "an": "山间还看", "eng": "风明", "ong": "风中"}
COUPLET = "寒灯一点霜，老树数峰光。"


def record(couplet: str = COUPLET, golden: str = "石径人初到，柴门月下乡。") -> dict[str, Any]:
    return {"id": "a", "type": "quatrain", "facts": {"input": couplet}, "text": golden}


def test_lines_end_at_any_mark_and_white_space() -> None:
    assert verse.lines("石径，柴门。\n空山 孤城\t大漠\u3000寒潭？古寺——野渡…") == [
        "石径",
        "柴门",
        "空山",
        "孤城",
        "大漠",
        "寒潭",
        "古寺",
        "野渡",
    ]
    assert verse.lines("，。 \n") == verse.lines("") == []


def test_syllables_are_han_characters() -> None:
    assert verse.syllables("石径人初到") == 5
    assert verse.syllables("石abc1径ひー") == 2
    assert verse.syllables("\u3400\U00020000\uf900") == 3, "the extensions are Han too"
    assert verse.syllables("") == 0


def test_the_golden_text_is_that_of_the_completion_or_of_the_record() -> None:
    assert records.golden({"completion": [{"role": "assistant", "content": "甲"}], "text": "乙"}) == "甲"
    assert records.golden({"text": "乙"}) == "乙"
    assert records.golden({}) == ""


def test_as_many_lines_as_the_golden_text() -> None:
    assert verse.lines_hits("一二三四五，六七八九十。", record()) == []
    assert verse.lines_hits("一二三四五。", record()) == ["1 lines for 2"]
    assert verse.lines_hits("", record()) == ["0 lines for 2"]
    assert verse.lines_hits(COUPLET + "一二三四五，六七八九十。", record()) == ["4 lines for 2"], "an echo is no answer"
    row = record() | {"completion": [{"role": "assistant", "content": "甲，乙，丙，丁。"}]}
    assert verse.lines_hits("甲，乙，丙，丁。", row) == []
    bare = record(golden="")
    assert verse.lines_hits("甲，乙。", bare) == []
    assert verse.lines_hits("甲，乙，丙。", bare) == ["3 lines are no couplets"]
    assert verse.lines_hits("", bare) == ["0 lines are no couplets"]


def test_every_line_is_as_long_as_those_of_the_couplet() -> None:
    assert verse.syllables_hits("石径人初到，柴门月下乡。", record()) == []
    assert verse.syllables_hits("石径人初，柴门月下还乡。", record()) == ["石径人初", "柴门月下还乡"]
    assert verse.syllables_hits("石径人初a，柴门月下乡b。", record()) == ["石径人初a", "柴门月下乡b"]
    assert verse.syllables_hits("。", record()) == ["no line"]
    long_short = record("甲甲甲，乙乙乙乙乙。")
    assert verse.syllables_hits("丙丙丙，丁丁丁丁丁。", long_short) == []
    assert verse.syllables_hits("丙丙丙丙丙，丁丁丁。", long_short) == ["丙丙丙丙丙", "丁丁丁"]
    assert verse.syllables_hits("丙丙丙，丁丁丁。", {"facts": {}}) == []
    assert verse.syllables_hits("丙丙丙，丁丁。", {}) == ["丁丁"]


def test_even_lines_rhyme_with_each_other_and_with_the_couplet() -> None:
    assert verse.rhyme_hits("石径人初到，柴门月下乡。", record(), RHYMES) == []
    assert verse.rhyme_hits("石径人初到，柴门月下山。", record(), RHYMES) == ["no rhyme 光山"]
    assert verse.rhyme_hits("一一乡，二二长。三三山，四四霜。", record(), RHYMES) == [], "odd lines rhyme with nothing"
    assert verse.rhyme_hits("一一乡，二二长。三三霜，四四山。", record(), RHYMES) == ["no rhyme 光长山"]
    assert verse.rhyme_hits("石径人初到，柴门月下光。", record(), RHYMES) == ["repeated 光"], (
        "the same word is no rhyme"
    )
    assert verse.rhyme_hits("石径人初到，柴门月下石。", record(), RHYMES) == ["unknown 石"]
    assert verse.rhyme_hits("石径人初到，柴门月下石。二，三山。", record(), RHYMES) == ["unknown 石", "no rhyme 光石山"]
    assert (
        verse.rhyme_hits("石径人初到。", record(), RHYMES) == verse.rhyme_hits("", record(), RHYMES) == ["no even line"]
    )


def test_two_readings_stand_in_two_classes_but_one_class_must_hold_all() -> None:
    assert verse.rhyme_hits("一，二中。", record("三，四风。"), RHYMES) == []
    assert verse.rhyme_hits("一，二明。", record("三，四风。"), RHYMES) == []
    assert verse.rhyme_hits("一，二中。三，四明。", record("五，六风。"), RHYMES) == ["no rhyme 风中明"]


def test_the_rate_is_a_share_of_the_lines_that_can_be_told() -> None:
    text = "一，二乡。三，四山。五，六石。七，八光。"
    assert verse.rhyme_rate(text, record(), RHYMES) == pytest.approx(1 / 3)
    assert verse.unknown(text, record(), RHYMES) == ["石"]
    assert verse.rhyme_rate("一，二石。", record(), RHYMES) is None
    assert verse.rhyme_rate("一，二乡。", record("三，四石。"), RHYMES) is None
    assert verse.rhyme_rate("一，二乡。", {"facts": {}}, RHYMES) is None
    assert verse.rhyme_rate("", record(), RHYMES) is None
    assert verse.rhyme_rate("一，二光。", record(), RHYMES) == 0.0


HAN = st.characters(min_codepoint=0x4E00, max_codepoint=0x9FFF)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(HAN, min_size=1, max_size=9), max_size=8), st.sampled_from(["，", "。\n", " ", "！？", ", "]))
def test_joined_lines_come_apart_again(parts: list[str], mark: str) -> None:
    assert verse.lines(mark.join(parts)) == parts
    assert [verse.syllables(part) for part in parts] == [len(part) for part in parts]


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=60), st.text(max_size=30))
def test_no_text_breaks_a_check(text: str, couplet: str) -> None:
    row = record(couplet)
    assert all(isinstance(hit, str) for hit in verse.lines_hits(text, row) + verse.syllables_hits(text, row))
    assert verse.rhyme_hits(text, row, RHYMES) or verse.lines(text)
    rate = verse.rhyme_rate(text, row, RHYMES)
    assert rate is None or 0 <= rate <= 1


def test_the_recipes_own_poems_pass_every_check_and_their_shuffled_ends_do_not() -> None:
    folder = ROOT / "data/raw/tang"
    rhymes = json.loads((folder / "rules/rhymes.json").read_text("utf-8"))
    rows = [json.loads(line) for line in (folder / "records.jsonl").read_text("utf-8").splitlines()]
    assert len(rows) >= 440
    assert len({row["input"] + row["output"] for row in rows}) == len(rows)
    sizes = {"quatrain_5": (2, 5), "quatrain_7": (2, 7), "regulated_5": (6, 5), "regulated_7": (6, 7)}
    failed = 0
    for row, other in zip(rows, rows[1:] + rows[:1], strict=True):
        made = record(row["input"], row["output"])
        assert verse.syllables_hits(row["output"], made) == verse.rhyme_hits(row["output"], made, rhymes) == []
        count, length = sizes[row["type"]]
        assert len(verse.lines(row["output"])) == count
        assert len(verse.lines(row["input"])) == 2
        assert {verse.syllables(line) for line in verse.lines(row["input"])} == {length}
        failed += bool(verse.rhyme_hits(other["output"], made, rhymes))
    assert failed > 0.8 * len(rows), "a poem that goes on with the end of another seldom rhymes"


@pytest.mark.real
@pytest.mark.skipif(not REAL.is_file(), reason="no data beside the repository")
def test_verse_of_another_age_keeps_its_lengths_and_mostly_rhymes() -> None:
    rhymes = json.loads((ROOT / "data/raw/tang/rules/rhymes.json").read_text("utf-8"))
    rows = [json.loads(line) for line in REAL.read_text("utf-8").splitlines()][::10]
    assert len(rows) > 2000
    made = [(row["output"], record(row["input"], row["output"])) for row in rows]
    other = [(rows[n - 1]["output"], row) for n, (_, row) in enumerate(made)]
    assert sum(not verse.syllables_hits(*each) for each in made) > 0.97 * len(made)
    assert sum(bool(verse.unknown(*each, rhymes)) for each in made) < 0.06 * len(made)
    own, chance = ([verse.rhyme_rate(*each, rhymes) for each in pairs] for pairs in (made, other))
    shares = [sum(rate for rate in rates if rate is not None) / len(rates) for rates in (own, chance)]
    assert shares[0] > 0.8
    assert shares[1] < 0.15

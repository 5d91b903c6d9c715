"""planted: each defect is what it says and nothing else, the same every time, and its words are on no list."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from anneal.checks import facts
from anneal.errors import UserError
from anneal.judging import controls, injected_defects, rubric
from tests import goldens
from tests.conftest import ROOT

TEST = goldens.records(0, 6)
RUBRICS = rubric.folder(ROOT / "prompts/brand/judge", goldens.RULES)
BANK = injected_defects.bank(ROOT / "data/raw/brand/planted")
RECIPES = sorted(path.parent.name for path in (ROOT / "data/raw").glob("*/planted"))
NULL = "这是一篇非常优秀的文案。"
Defects = dict[str, dict[str, injected_defects.Planted]]


def context(
    test: list[dict[str, Any]], rules: facts.Rules = goldens.RULES, bank: injected_defects.Bank = BANK
) -> injected_defects.Context:
    moved = {"wrong_type": controls.swapped(test, 42), "other_item": controls.other(test, 42)}
    dims = {kind: list(sheet.header.dimensions) for kind, sheet in RUBRICS.items()}
    return injected_defects.Context(bank, rules, goldens.KNOWN, dims, NULL, moved)


@pytest.fixture(scope="module")
def made() -> Defects:
    return injected_defects.plant(TEST, context(TEST), 42)


GOLDEN = {row["id"]: goldens.text(row) for row in TEST}
ROWS = {row["id"]: row for row in TEST}


def test_every_defect_fits_every_record_and_changes_it(made: Defects) -> None:
    assert {name: len(found) for name, found in made.items()} == dict.fromkeys(injected_defects.PLANTERS, 54)
    assert all(each.text != GOLDEN[i] for found in made.values() for i, each in found.items())


def test_the_same_seed_gives_the_same_texts_whoever_else_is_there(made: Defects) -> None:
    assert injected_defects.plant(TEST, context(TEST), 42) == made
    fewer = injected_defects.plant(TEST[:20], context(TEST), 42)
    assert all(made[name][i] == each for name, found in fewer.items() for i, each in found.items())
    assert sum(map(len, fewer.values())) == 20 * len(injected_defects.PLANTERS)
    other = injected_defects.plant(TEST, context(TEST), 43)
    drawn = [n for n in made if other[n] != made[n]]
    assert drawn == [
        "padded",
        "stuffed",
        "stuffed_unknown",
        "break_out",
        "fact_swap",
        "fake_unknown",
        "added_unknown",
        "exaggerated_unknown",
    ]


def test_what_was_inserted_is_what_it_says(made: Defects) -> None:
    names = ("padded", "stuffed", "stuffed_unknown", "break_out", "added_unknown", "exaggerated_unknown")
    for name in names:
        for i, each in made[name].items():
            ((before, part),) = each.changes
            assert before == ""
            assert each.text.count(part) == 1
            assert each.text.replace(part, "") == GOLDEN[i]
    for name in names[:3] + names[4:]:
        kept = [made[name][i].text for i in GOLDEN]
        # The close of a text is what some rules look at: what is put in must not hide behind it.
        assert all(a[-5:] == b[-5:] for a, b in zip(kept, GOLDEN.values(), strict=True))


def test_a_swapped_fact_is_one_own_value_everywhere_but_in_the_name(made: Defects) -> None:
    for name in ("fact_swap", "fake_unknown"):
        for i, each in made[name].items():
            ((true, false),) = each.changes
            sheet = ROWS[i]["facts"]
            assert true in facts.strings(sheet)
            assert false not in GOLDEN[i]
            assert false not in " ".join(facts.strings(sheet))
            assert each.text.replace(false, true) == GOLDEN[i]
            assert each.text.count(sheet["name"]) == GOLDEN[i].count(sheet["name"])
            foreign = facts.foreign(each.text, sheet, goldens.KNOWN, ["ingredients", "effects", "skin_types"])
            assert [hit.split(":")[1] for hit in foreign] == ([false] if name == "fact_swap" else [])
    slots = {s for _, change in made["fact_swap"].values() for s, w in goldens.KNOWN.items() if change[0][0] in w}
    assert slots >= {"ingredients", "effects", "skin_types"}


def test_padding_doubles_and_a_loop_says_its_last_sentence_again(made: Defects) -> None:
    for i, text in GOLDEN.items():
        assert 2 <= len(made["padded"][i].text) / len(text) < 2.5
        looped = made["looped"][i].text
        assert looped.startswith(text)
        last = looped[len(text) :][: (len(looped) - len(text)) // injected_defects.TURNS]
        assert looped == text + last * injected_defects.TURNS
        assert text.endswith(last)
        assert 0.55 < len(made["truncated"][i].text) / len(text) <= 0.6
        assert text.startswith(made["truncated"][i].text)


def test_a_heap_holds_every_encouraged_word_once(made: Defects) -> None:
    for name in ("stuffed", "stuffed_unknown"):
        for each in made[name].values():
            heap = each.changes[0][1]
            assert [heap.count(word) for word in goldens.RULES.encouraged] == [1] * len(goldens.RULES.encouraged)
    touching = re.compile("(?:(?:" + "|".join(goldens.RULES.encouraged) + r")\W*){2}")
    assert all(touching.search(each.changes[0][1]) for each in made["stuffed"].values())
    assert not any(touching.search(each.changes[0][1]) for each in made["stuffed_unknown"].values())


def test_break_outs_are_of_every_kind(made: Defects) -> None:
    tails = [each.changes[0][1] for each in made["break_out"].values()]
    for mark in ("</text>", "[END] give 5", '"score": 5', "<checks>", "```json"):
        assert 4 < sum(mark in tail for tail in tails) < 54, mark
    forged = next(tail for tail in tails if "```json" in tail)
    assert set(json.loads(forged.strip().removeprefix("```json").removesuffix("```"))) == {"dims", "violations"}


def test_texts_in_the_wrong_place_are_golden_ones(made: Defects) -> None:
    home = {text: i for i, text in GOLDEN.items()}
    for i, row in ROWS.items():
        other, swapped = (ROWS[home[made[name][i].text]] for name in ("other_item", "wrong_type"))
        assert (other["type"], other["item"] != row["item"]) == (row["type"], True)
        assert (swapped["item"], swapped["type"] != row["type"]) == (row["item"], True)
        assert made["null"][i].text == NULL


def test_what_cannot_be_planted_is_left_out() -> None:
    empty = injected_defects.Bank(**{name: {} for name in injected_defects.Bank.model_fields})
    none = injected_defects.plant(TEST, context(TEST, bank=empty), 42)
    assert [name for name, found in none.items() if not found] == [
        "padded",
        "stuffed",
        "stuffed_unknown",
        "fake_unknown",
        "added_unknown",
        "exaggerated_unknown",
    ]
    open_world = goldens.RULES.model_copy(update={"foreign": ["numbers"], "also": [], "encouraged": []})
    found = injected_defects.plant(TEST, context(TEST, open_world), 42)
    assert [name for name, each in found.items() if not each] == ["stuffed", "stuffed_unknown", "fact_swap"]
    alone = [row for row in TEST if row["id"] == TEST[0]["id"]]
    assert injected_defects.plant(alone, context(alone), 42)["other_item"] == {}


def test_a_text_that_is_json_stays_one_but_for_its_loop() -> None:
    bank = injected_defects.bank(ROOT / "data/raw/ads/planted")
    text = '{"elements":[{"role":"headline","text":"a"},{"role":"cta","text":"b"}]}'
    rows = [{**TEST[0], "id": "1", "completion": [{"role": "assistant", "content": text}]}]
    made = {
        name: found["1"].text
        for name, found in injected_defects.plant(rows, context(rows, bank=bank), 1).items()
        if found
    }
    assert json.loads(made["added_unknown"])["elements"][1]["role"] == "badge"
    assert len(json.loads(made["padded"])["elements"]) > 2
    assert made["looped"].count('{"role":"cta","text":"b"}') == injected_defects.TURNS + 1
    with pytest.raises(ValueError, match="delimiter"):
        json.loads(made["looped"])


def test_a_bank_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"defects\.json: no such file"):
        injected_defects.bank(tmp_path)
    (tmp_path / "defects.json").write_text("{")
    with pytest.raises(UserError, match="the file: Invalid JSON"):
        injected_defects.bank(tmp_path)
    (tmp_path / "defects.json").write_text('{"padded": ["a"]}')
    with pytest.raises(UserError, match=r"padded: Input should be an object.*words by type pattern"):
        injected_defects.bank(tmp_path)


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_has_a_bank(recipe: str) -> None:
    found = injected_defects.bank(ROOT / f"data/raw/{recipe}/planted")
    assert len(RECIPES) == 5
    for table in (found.padded, found.added_unknown, found.exaggerated_unknown):
        for sentences in table.values():
            assert all(injected_defects.ends(part)[-1:] == [len(part)] for part in sentences), (
                "a part ends as a sentence does"
            )
            assert len(set(sentences)) == len(sentences) >= 3


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        value = [*value, *value.values()]
    if isinstance(value, list):
        for inner in value:
            yield from _strings(inner)
    if isinstance(value, str):
        yield value


HELD_OUT = [part for name in injected_defects.HELD_OUT for parts in getattr(BANK, name).values() for part in parts]


def test_held_out_words_are_on_no_list() -> None:
    words = [word for slot in goldens.KNOWN.values() for word in slot]
    words += [*goldens.RULES.banned, *goldens.RULES.encouraged]
    words += [word for sheet in RUBRICS.values() for each in sheet.header.words.values() for word in each]
    assert len(words) > 180
    assert [(part, word) for part in HELD_OUT for word in words if word in part or part in word] == []
    told = "\n".join(
        s for path in (goldens.BRAND / "offline").glob("*.json") for s in _strings(json.loads(path.read_text("utf-8")))
    )
    assert len(told) > 3000
    grams = [(part, part[k : k + 4]) for part in [*HELD_OUT, *BANK.padded["*"]] for k in range(len(part) - 3)]
    assert len(grams) > 150
    assert [gram for gram in grams if gram[1] in told] == [], "the offline teacher must not say it"


def test_no_rule_of_a_rubric_knows_a_held_out_word() -> None:
    patterns: dict[str, set[str]] = {}
    for row in TEST:
        sheet = RUBRICS[row["type"]]
        asked = sheet.messages(row["type"], goldens.TYPES[row["type"]], row["facts"], goldens.KNOWN, "@@")
        block = re.search(r"^<checks>\n(.*?)\n</checks>$", asked[-1]["content"], re.M | re.S)
        assert block
        for rule in map(json.loads, block[1].split("\n")[1:]):
            patterns.setdefault(rule["rule"], set()).update(rule.get("of", []))
    patterns.pop("long_sentence")  # says how long, not what
    assert sum(map(len, patterns.values())) > 150
    known = [
        (part, rule)
        for part in [*HELD_OUT, *BANK.padded["*"]]
        for rule, each in patterns.items()
        for pattern in each
        if re.search(pattern, part)
    ]
    assert known == []

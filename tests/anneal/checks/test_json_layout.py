"""Reading JSON out of replies: what is valid, what is found, what is mended; and what boxes on a page may not do."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anneal.checks import json_layout
from anneal.errors import UserError

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-1000, 1000) | st.floats(-5, 5) | st.text('{}"\\:,ab水', max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text('{}"\\ab水', max_size=4), inner, max_size=3),
    max_leaves=8,
)
OBJECTS = st.dictionaries(st.text('{}"\\ab水', max_size=4), VALUES, min_size=1, max_size=4)
# Pieces of JSON in any order come closer to the edge cases than characters do.
BROKEN = st.lists(
    st.sampled_from(
        ["{", "}", "[", "]", '"', '"a"', ":", ",", "1", "0.5", "NaN", "\\", "null", "水", "```json\n", " "]
    ),
    max_size=25,
).map("".join)
PROSE = st.text("ab水。，：\n`[]<>\"'", max_size=12)
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"a": {"type": "number", "minimum": 0}, "b": {"enum": ["x", "y"]}},
    "required": ["a"],
    "additionalProperties": False,
}


def box(x: float, y: float, w: float, h: float, text: str = "good day") -> dict[str, Any]:
    return {"text": text, "x": x, "y": y, "w": w, "h": h}


def page(*boxes: dict[str, Any], facts: Any = None) -> list[str]:
    source = {"number": 3, "copy": "A good day to all."} if facts is None else facts
    return json_layout.semantic(json.dumps({"kind": "page", "parts": list(boxes)}), {"facts": source})


@settings(deadline=None, max_examples=60)
@given(OBJECTS, st.booleans())
def test_valid_json_comes_back_as_it_is(value: dict[str, Any], ascii_only: bool) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only)
    assert json_layout.parse(text) == json_layout.strict(text) == value
    assert json_layout.extract(text) == text
    assert json_layout.read(text) == (value, "strict")
    assert json_layout.repair(text) == value


@settings(deadline=None, max_examples=60)
@given(PROSE, OBJECTS, PROSE)
def test_an_object_is_found_inside_prose(before: str, value: dict[str, Any], after: str) -> None:
    text = json.dumps(value, ensure_ascii=False)
    assert json_layout.extract(f"{before}{text}{after}") == text
    fenced = f"{before}\n```json\n{text}\n```\n{after}"
    assert json_layout.extract(fenced) == text
    assert json_layout.read(fenced) == (value, "extracted")
    assert json_layout.strict(fenced) is None
    assert json_layout.extract(json_layout.extract(fenced) or "") == text


@settings(deadline=None, max_examples=300)
@given(
    BROKEN
    | st.text(max_size=30)
    | OBJECTS.map(json.dumps).flatmap(lambda s: st.integers(0, len(s)).map(lambda n: s[:n]))
)
def test_no_text_raises(text: str) -> None:
    found = json_layout.extract(text)
    assert found is None or (found in text and isinstance(json_layout.strict(found), dict))
    mended = json_layout.repair(text)
    assert mended is None or json_layout.parse(json.dumps(mended)) == mended
    value, how = json_layout.read(text)
    assert (value is None) == (how == "none")
    assert (how == "strict") == (json_layout.strict(text) is not None)
    for hits in (json_layout.schema_errors(text, SCHEMA), json_layout.semantic(text, {"facts": {}})):
        assert hits == ["not JSON"] or how == "strict"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "3",
        '"a"',
        "{",
        "{'a': 1}",
        '{"a": NaN}',
        '{"a": -Infinity}',
        '{"a": 1, "a": 2}',
        '{"a": 1,}',
        '{"a": 1} {"b": 2}',
        '```json\n{"a": 1}\n```',
        "[" * 60 + "]" * 60,
        '{"a":' * 100_000,
        "9" * 5000,
    ],
)
def test_what_is_not_strictly_json(text: str) -> None:
    assert json_layout.strict(text) is None
    with pytest.raises(ValueError, match=r"nested|neither|Expecting|Extra|number|twice|delimiter|digits|Illegal"):
        json_layout.parse(text)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('say {name} and {"a": "}{"} {"b": 2}', '{"a": "}{"}'),
        ('{"a": {"b": {"c": "\\"}"}}} tail', '{"a": {"b": {"c": "\\"}"}}}'),
        ('{ not this, {"a": [1, {"b": 2}]}', '{"a": [1, {"b": 2}]}'),
        ("no object", None),
        ('{"a": 1', None),
    ],
)
def test_extract(text: str, found: str | None) -> None:
    assert json_layout.extract(text) == found


def test_what_is_mended_is_told_apart() -> None:
    texts = {
        '{"a": 1}': "strict",
        'Here it is: {"a": 1}.': "extracted",
        "{'a': 1, 'b': [2, 3,]}": "repaired",
        '{"a": [{"b": 1}, {"b": 2}': "repaired",
        "nothing of the kind": "none",
    }
    assert [json_layout.read(text).how for text in texts] == list(texts.values())
    assert json_layout.read("{'a': 1, 'b': [2, 3,]}").value == {"a": 1, "b": [2, 3]}
    # The whole object around the first complete one.
    assert json_layout.read('{"a": [{"b": 1}, {"b": 2}').value == {"a": [{"b": 1}, {"b": 2}]}
    assert json_layout.count([*texts, "{}"]) == {"strict": 2, "extracted": 1, "repaired": 2, "none": 1}
    assert sum(json_layout.count([]).values()) == 0


def test_schema_errors_name_the_place() -> None:
    assert json_layout.schema_errors('{"a": 1, "b": "x"}', SCHEMA) == []
    assert json_layout.schema_errors("{'a': 1}", SCHEMA) == ["not JSON"]
    errors = json_layout.schema_errors('{"a": -1, "b": "z", "c": 0}', SCHEMA)
    assert [error.split(":")[0] for error in errors] == ["$.a", "$.b", "$"]
    assert "less than the minimum" in errors[0]
    assert json_layout.schema_errors("{}", SCHEMA) == ["$: 'a' is a required property"]
    with pytest.raises(UserError, match=r"schema\.json: \$\.type"):
        json_layout.schema_errors("{}", {"type": "page"})


@pytest.mark.parametrize("side", range(4))
def test_a_box_may_touch_an_edge_and_not_cross_it(side: int) -> None:
    inside = [(0, 0.2, 0.3, 0.3), (0.2, 0, 0.3, 0.3), (0.7, 0.2, 0.3, 0.3), (0.2, 0.7, 0.3, 0.3)][side]
    outside = [(-0.01, 0.2, 0.3, 0.3), (0.2, -0.01, 0.3, 0.3), (0.71, 0.2, 0.3, 0.3), (0.2, 0.71, 0.3, 0.3)][side]
    assert page(box(*inside)) == []
    assert page(box(0.1, 0.1, 0.01, 0.01), box(*outside)) == ["element 1: outside the page"]


def test_boxes_that_cover_each_other() -> None:
    assert json_layout.covered(box(0, 0, 0.4, 0.4), box(0.2, 0.2, 0.4, 0.4)) == pytest.approx(0.25)
    assert json_layout.covered(box(0, 0, 1, 1), box(0.2, 0.2, 0.1, 0.1)) == pytest.approx(1)
    assert json_layout.covered(box(0, 0, 0.4, 0.4), box(0.4, 0, 0.4, 0.4)) == 0
    assert json_layout.covered(box(0, 0, 0, 0.4), box(0, 0, 0.4, 0.4)) == 0
    assert page(box(0, 0, 0.4, 0.4), box(0.6, 0, 0.4, 0.4), box(0.2, 0.2, 0.4, 0.4)) == [
        "elements 0 and 2: 25% of the smaller one covered"
    ]
    assert page(box(0, 0, 0.4, 0.4), box(0.38, 0, 0.4, 0.4)) == [], "a twentieth is a matter of taste"


def test_words_come_from_any_string_of_the_facts() -> None:
    assert page(box(0, 0, 0.1, 0.1, "good night")) == ["element 0: 'good night' is not in the source"]
    assert page(box(0, 0, 0.1, 0.1, "good night"), facts={"n": 1, "deep": [{"any": "one good night"}]}) == []
    assert page({"x": 0, "y": 0, "w": 1, "h": 1}, facts={}) == [], "a picture has no words"


@pytest.mark.parametrize(
    "text",
    [
        "{}",
        "[]",
        '{"parts": []}',
        '{"parts": [{"x": 0, "y": 0, "w": 1}]}',
        '{"parts": [{"x": true, "y": 0, "w": 1, "h": 1}]}',
        '{"parts": [{"x": 1e999, "y": 0, "w": 1, "h": 1}]}',
    ],
)
def test_without_boxes(text: str) -> None:
    assert json_layout.semantic(text, {"facts": {}}) == ["no list of boxes"]


def test_boxes_are_found_under_any_key() -> None:
    boxes = [box(0, 0, 0.1, 0.1)]
    for value in (boxes, {"a": 1, "b": boxes}, {"a": [1, 2], "b": {"c": [{"d": boxes}]}}):
        assert json_layout.elements(value) == boxes

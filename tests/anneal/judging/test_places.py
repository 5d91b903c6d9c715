"""places: where a text can take a further part."""

from __future__ import annotations

import json

import pytest

from anneal.judging import places

TEXTS = [
    ("一。二？三！", [2, 4, 6]),
    ("他说“好。”走了。", [6, 9]),
    ("A cup, 3.5 metres. Two e.g. more.", [18, 27, 33]),
    ("没有句号", []),
    ('{"a":[{"b":1},{"b":2}]}', [13, 21]),
]


@pytest.mark.parametrize(("text", "ends"), TEXTS)
def test_parts_end_where_sentences_or_objects_do(text: str, ends: list[int]) -> None:
    assert places.ends(text) == ends


def test_a_further_part_leaves_opening_and_close() -> None:
    assert places.put("一。二。三。", places.close("一。二。三。"), "新。") == "一。二。新。三。"
    assert places.put("一。", places.close("一。"), "新。") == "一。新。"
    assert places.put("没有句号", places.close("没有句号"), "新。") == "没有句号新。"
    assert places.put("One. Two.", places.close("One. Two."), "New.") == "One. New. Two."
    text = '{"a":[{"b":1},{"b":2}]}'
    assert json.loads(places.put(text, places.close(text), '{"b":9}'))["a"] == [{"b": 1}, {"b": 9}, {"b": 2}]

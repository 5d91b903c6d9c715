"""places: where a text can take a further part."""

from __future__ import annotations

import json

import pytest

from anneal.judging import injected_defects

TEXTS = [
    ("一。二？三！", [2, 4, 6]),
    ("他说“好。”走了。", [6, 9]),
    ("A cup, 3.5 metres. Two e.g. more.", [18, 27, 33]),
    ("没有句号", []),
    ('{"a":[{"b":1},{"b":2}]}', [13, 21]),
]


@pytest.mark.parametrize(("text", "ends"), TEXTS)
def test_parts_end_where_sentences_or_objects_do(text: str, ends: list[int]) -> None:
    assert injected_defects.ends(text) == ends


def test_a_further_part_leaves_opening_and_close() -> None:
    assert injected_defects.put("一。二。三。", injected_defects.close("一。二。三。"), "新。") == "一。二。新。三。"
    assert injected_defects.put("一。", injected_defects.close("一。"), "新。") == "一。新。"
    assert injected_defects.put("没有句号", injected_defects.close("没有句号"), "新。") == "没有句号新。"
    assert injected_defects.put("One. Two.", injected_defects.close("One. Two."), "New.") == "One. New. Two."
    text = '{"a":[{"b":1},{"b":2}]}'
    assert json.loads(injected_defects.put(text, injected_defects.close(text), '{"b":9}'))["a"] == [
        {"b": 1},
        {"b": 9},
        {"b": 2},
    ]

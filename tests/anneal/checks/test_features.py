"""A text as numbers, a field of a JSON text, and what happens where there is no number."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from anneal.checks import features


def record(words: str) -> dict[str, Any]:
    return {"id": "a", "type": "x", "text": words}


@pytest.mark.parametrize(
    ("name", "words", "value"),
    [
        ("length", "温和，有效。", 6),
        ("sentences", "一句。两句！Three? 0.5% 也算一句\n末行", 5),
        ("sentences", "", 1),
        ("sentence_length", "四个字呢。两字。", 3),
        ("longest_sentence", "四个字呢。两字。", 4),
        ("punctuation", "水，油。", 0.5),
        ("digits", "5%水", 1 / 3),
        ("latin", "SPF水油", 0.6),
        ("distinct", "水水油油", 0.5),
        ("repetition", "水油水油水油水油", 3 / 5),
        ("repetition", "水", 0.0),
    ],
)
def test_feature(name: str, words: str, value: float) -> None:
    assert features.values([record(words)], [name], []).tolist() == [[value]]


def test_every_feature_takes_every_text() -> None:
    for words in ("", " ", "\n", "。", "水", "a" * 5000, "𠮷\u200b"):
        found = features.values([record(words)], list(features.FEATURES), []).tolist()[0]
        assert len(found) == len(features.FEATURES) >= 9
        assert all(math.isfinite(value) for value in found), words


def test_fields_of_a_json_text() -> None:
    layout = record(json.dumps({"boxes": [{"width": 99, "name": "logo"}], "dark": True}))
    assert features.field(layout, "boxes.0.name") == "logo"
    assert features.values([layout], ["boxes.0.width", "length"], ["boxes.0.width"]).tolist() == [
        [math.log(100), float(len(layout["text"]))]
    ]
    missing = ("boxes.1.width", "boxes.x", "boxes.0.name", "boxes.0.width.x", "dark", "none")
    assert all(math.isnan(value) for value in features.values([layout], missing, [])[0])
    assert features.field(record("not JSON {"), "boxes") is None
    assert math.isnan(features.values([record('{"x": -1}')], ["x"], ["x"])[0, 0])


def test_what_no_number_can_hold_is_no_number() -> None:
    """A model may write four hundred digits, or open a list twenty thousand times."""
    found = features.values([record(json.dumps({"x": 10**400})), record("[" * 20_000)], ["x"], [])
    assert all(math.isnan(value) for value in found[:, 0])
    assert math.isnan(features.values([record(json.dumps({"x": 10**400}))], ["x"], ["x"])[0, 0])

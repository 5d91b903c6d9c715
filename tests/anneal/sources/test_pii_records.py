"""personal: a record is treated as a whole: text, facts, what is nested in them, and numbers."""

from __future__ import annotations

import json

from anneal.sources import pii


def test_records_are_treated_text_and_facts_alike() -> None:
    rows = [
        {"id": "a", "text": "call 13812345678", "facts": {"given": "or 13812345678", "n": 3, "tags": ["x"]}},
        {"id": "b", "text": "nothing", "facts": {"given": "mail a.b@mail.cn"}},
        {"id": "c", "text": "nothing", "facts": {}},
    ]
    masked, counts = pii.records(rows, "mask")
    assert counts == {"found": {"email": 1, "phone": 2}, "texts": 3, "of": 7}
    assert [row["id"] for row in masked] == ["a", "b", "c"]
    assert "13812345678" not in json.dumps(masked)
    assert masked[0]["text"].split()[1] == masked[0]["facts"]["given"].split()[1]
    assert masked[0]["facts"]["n"] == 3
    assert masked[2] == rows[2]
    assert [row["id"] for row in pii.records(rows, "drop")[0]] == ["c"]
    assert pii.records(rows, "off") == (rows, {})
    assert pii.records(rows, "report")[0] == rows


def test_nothing_inside_a_record_is_overlooked() -> None:
    facts = {
        "list": ["call 13912345678"],
        "deep": {"more": [{"n": 13912345678, "share": 0.5, "yes": True}]},
        "none": None,
    }
    rows = [{"id": "a", "text": "fine", "facts": facts}]
    assert pii.records(rows, "drop")[0] == []
    (masked,), counts = pii.records(rows, "mask")
    assert "13912345678" not in str(masked)
    assert counts["texts"] == 2
    kept = masked["facts"]["deep"]["more"][0]
    assert (kept["share"], kept["yes"], masked["facts"]["none"], masked["text"]) == (0.5, True, None, "fine")
    assert pii.find(kept["n"]) == {}


def test_a_sheet_without_a_text_is_treated_too() -> None:
    (row,), _ = pii.records([{"facts": {"usage": "mail a.b@mail.cn"}}], "mask")
    assert "a.b@mail.cn" not in row["facts"]["usage"]

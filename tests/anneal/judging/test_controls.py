"""controls: golden texts in the wrong place or cut short, drawn the same each time."""

from __future__ import annotations

from anneal import records
from anneal.judging import controls
from tests import goldens

TEST = goldens.records(0, 4)


def test_a_text_in_the_wrong_place_differs_in_what_it_says_it_does() -> None:
    home = {records.golden(record): record for record in TEST}
    checked = 0
    for name, same, differs in (("swapped", "item", "type"), ("other", "type", "item")):
        for record_id, text in getattr(controls, name)(TEST, 42).items():
            record = next(r for r in TEST if r["id"] == record_id)
            assert home[text][same] == record[same]
            assert home[text][differs] != record[differs]
            checked += 1
    assert checked == 2 * len(TEST)
    assert controls.other(TEST, 42) == controls.other(TEST, 42)
    assert controls.other(TEST, 42) != controls.other(TEST, 43)


def test_one_item_alone_has_no_other() -> None:
    assert controls.other(TEST[:1], 42) == controls.swapped(TEST[:1], 42) == {}


def test_the_controls_of_a_judge() -> None:
    found = controls.judged(TEST, "nothing", 42)
    assert list(found) == ["null", "other", "truncated", "again"]
    for record in TEST:
        golden = records.golden(record)
        assert found["null"][record["id"]] == "nothing"
        assert found["again"][record["id"]] == golden
        assert golden.startswith(cut := found["truncated"][record["id"]])
        assert len(cut) == int(0.6 * len(golden))

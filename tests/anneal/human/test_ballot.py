"""The blind ballot: balance, repeats, attention checks, and a page that names no system."""

from __future__ import annotations

import json
import random
from collections import Counter
from typing import Any

import pytest

from anneal.errors import UserError
from anneal.human import ballot

PAIR = [("tuned", "base")]
LEVELS = {kind: {dim: [f"{dim} {i}" for i in range(1, 6)] for dim in ("facts", "form")} for kind in ("ad", "note")}


def records(n: int) -> list[dict[str, Any]]:
    rows = []
    for i in range(n):
        kind = "ad" if i % 2 else "note"
        row = {"id": f"p{i // 4}/{kind}/{i}", "item": f"p{i // 4}", "type": kind}
        rows.append({**row, "prompt": [{"role": "user", "content": f"ask {i}"}]})
    return rows


def texts_of(rows: list[dict[str, Any]]) -> dict[str, dict[str, str]]:
    """A text of each system for each record, none of which names a system."""
    numbers = {row["id"]: row["id"].rpartition("/")[2] for row in rows}
    return {
        system: {id_: f"words on {number}, hand {place}" for id_, number in numbers.items()}
        for place, system in enumerate(("tuned", "base", "golden"))
    }


def built(n: int = 40, of: int = 80, seed: int = 1, **changes: Any) -> ballot.Ballot:
    """A ballot of pairs on `n` of `of` records."""
    rows = records(of)
    options = {"pairs": PAIR, "question": "", "repeat": 0.1, "identical": 0.05} | changes
    return ballot.pairs_ballot(rows, texts_of(rows), n=n, seed=seed, **options)


def roles(rows: ballot.Ballot, role: str) -> list[dict[str, Any]]:
    return [entry for entry in rows.key["entries"] if entry["role"] == role]


def test_sides_are_balanced_overall_and_within_a_type() -> None:
    for seed in range(20):
        entries = roles(built(seed=seed), "vote")
        assert len(entries) == 40
        left = Counter(entry["sides"][0] for entry in entries)
        assert left == {"tuned": 20, "base": 20}
        for kind in ("ad", "note"):
            part = Counter(e["sides"][0] for e in entries if e["type"] == kind)
            assert abs(part["tuned"] - part["base"]) <= 1
    # The side of a system does not follow from the place of the pair.
    firsts = "".join(e["sides"][0][0] for e in roles(built(), "vote"))
    assert "ttt" in firsts or "bbb" in firsts


def test_two_pairs_are_asked_equally_often_and_each_is_balanced() -> None:
    entries = roles(built(pairs=[("tuned", "base"), ("golden", "tuned")]), "vote")
    counts = Counter(tuple(entry["sides"]) for entry in entries)
    assert len({e["record"] for e in entries}) == 40, "a record is asked under one pair only"
    assert sorted(counts.values()) == [10, 10, 10, 10]


def test_repeats_swap_the_sides_and_come_later() -> None:
    drawn_ballot = built()
    order = [entry["id"] for entry in drawn_ballot.key["entries"]]
    by_id = {entry["id"]: entry for entry in drawn_ballot.key["entries"]}
    repeats = roles(drawn_ballot, "repeat")
    assert len(repeats) == 4
    for entry in repeats:
        first = by_id[entry["of"]]
        assert (first["record"], first["role"]) == (entry["record"], "vote")
        assert first["sides"] == entry["sides"][::-1]
        assert first["digests"] == entry["digests"][::-1]
        assert order.index(entry["id"]) - order.index(first["id"]) >= 7


def test_attention_checks_show_one_text_twice_and_no_drawn_record() -> None:
    drawn_ballot = built()
    checks = roles(drawn_ballot, "identical")
    drawn = {entry["record"] for entry in roles(drawn_ballot, "vote")}
    assert len(checks) == 2
    places = {row["id"]: row["show"] for row in drawn_ballot.shown["entries"]}
    for entry in checks:
        left, right = drawn_ballot.shown["shown"][places[entry["id"]]]["texts"]
        assert left == right
        assert entry["record"] not in drawn
    assert {entry["sides"][0] for entry in checks} == {"tuned", "base"}


def test_the_page_holds_no_name_and_the_hash_of_the_key() -> None:
    drawn_ballot = built()
    page = ballot.page(drawn_ballot)
    assert ballot.sha256(drawn_ballot.key_text) in page
    shown = json.dumps(drawn_ballot.shown)
    for word in ("tuned", "base", "golden", "repeat", "identical", "p1/", drawn_ballot.key["salt"]):
        assert word not in shown, word
    ids = [row["id"] for row in drawn_ballot.shown["entries"]]
    assert ids == [entry["id"] for entry in drawn_ballot.key["entries"]]
    assert len(set(ids)) == 46


def test_equal_texts_in_any_order_give_equal_bytes_and_another_seed_another_ballot() -> None:
    rows = records(80)
    mixed = random.Random(0).sample(rows, 80)
    again = ballot.pairs_ballot(mixed, texts_of(rows), PAIR, 40, 1, "", 0.1, 0.05)
    assert (again.key_text, ballot.page(again)) == (built().key_text, ballot.page(built()))
    assert built(seed=2).id != built().id
    assert built(question="other?").id != built().id


def test_types_are_drawn_in_turn_and_items_evenly() -> None:
    drawn = ballot.draw_records(records(80), 20, 3)
    assert Counter(r["type"] for r in drawn) == {"ad": 10, "note": 10}
    assert len({r["item"] for r in drawn}) == 20
    assert len(ballot.draw_records(records(8), 20, 3)) == 8
    # With as many draws as records, each record is drawn once.
    assert {r["id"] for r in ballot.draw_records(records(80), 80, 3)} == {r["id"] for r in records(80)}


def test_records_with_equal_texts_are_left_out_and_counted() -> None:
    rows = records(10)
    texts = texts_of(rows)
    texts["base"][rows[0]["id"]] = texts["tuned"][rows[0]["id"]] + "\n"
    different = ballot.pairs_ballot(rows, texts, PAIR, 40, 1, "", 0.0, 0.0)
    assert different.key["left_out"] == 1
    assert rows[0]["id"] not in {e["record"] for e in different.key["entries"]}
    with pytest.raises(UserError, match="nothing to compare"):
        ballot.pairs_ballot(rows, {**texts, "base": texts["tuned"]}, PAIR, 40, 1, "", 0.0, 0.0)


def test_both_sides_are_cut_at_the_same_length() -> None:
    texts = [text for row in built(cap=10).shown["shown"] for text in row["texts"]]
    assert len(texts) == 92
    assert all(text.endswith(" …") and len(text) <= 12 for text in texts)
    two_records = records(2)
    spaced = {"tuned": {r["id"]: "  a\n\n" for r in two_records}, "base": {r["id"]: "b" for r in two_records}}
    rows = ballot.pairs_ballot(two_records, spaced, PAIR, 2, 1, "", 0, 0).shown["shown"]
    assert [sorted(row["texts"]) for row in rows] == [["a", "b"], ["a", "b"]]


def test_a_label_ballot_asks_all_dimensions_of_a_text_in_sequence() -> None:
    rows = records(80)
    labels = ballot.label_ballot(rows, texts_of(rows), ("golden", "tuned", "base"), 30, 1, "", 0.1, LEVELS)
    votes = roles(labels, "vote")
    assert len(votes) == 60
    assert Counter(e["sides"][0] for e in votes) == {"golden": 20, "tuned": 20, "base": 20}
    entries = labels.key["entries"]
    for one, other in zip(entries[::2], entries[1::2], strict=True):
        assert (one["record"], one["dim"], other["dim"]) == (other["record"], "facts", "form")
    assert len(roles(labels, "repeat")) == 6
    assert labels.shown["entries"][0]["levels"] == ["facts 1", "facts 2", "facts 3", "facts 4", "facts 5"]
    assert [len(row["texts"]) for row in labels.shown["shown"]] == [1] * 33


def test_markup_in_a_text_opens_no_element() -> None:
    rows = records(4)
    texts = {s: {r["id"]: f"{s}</script><img src=x>" for r in rows} for s in ("tuned", "base")}
    page = ballot.page(ballot.pairs_ballot(rows, texts, PAIR, 4, 1, "</script><b>?", 0, 0))
    assert page.count("</script>") == 3
    assert "<img" not in page
    assert "<b>" not in page


def test_both_languages_have_the_same_keys_and_placeholders() -> None:
    words = json.loads((ballot.Path(ballot.__file__).parent / "assets/blind.json").read_text("utf-8"))
    assert list(words) == ["en", "zh"]
    assert words["en"].keys() == words["zh"].keys()
    assert len(words["en"]) >= 40
    for key, value in words["en"].items():
        placeholders = [sorted(part.split("}")[0] for part in str(w[key]).split("{")[1:]) for w in words.values()]
        assert placeholders[0] == placeholders[1], key
        assert type(value) is type(words["zh"][key])
    script = (ballot.Path(ballot.__file__).parent / "assets/blind.js").read_text("utf-8")
    unused = [
        k for k in words["en"] if f'"{k}"' not in script and not k.endswith("_label") and not k.startswith("side_")
    ]
    assert unused == []

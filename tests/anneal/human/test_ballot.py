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
    made = []
    for i in range(n):
        row = {
            "id": f"p{i // 4}/{'ad' if i % 2 else 'note'}/{i}",
            "item": f"p{i // 4}",
            "type": "ad" if i % 2 else "note",
        }
        made.append({**row, "prompt": [{"role": "user", "content": f"ask {i}"}]})
    return made


def said(found: list[dict[str, Any]]) -> dict[str, dict[str, str]]:
    words = {r["id"]: r["id"].rpartition("/")[2] for r in found}
    systems = ("tuned", "base", "golden")
    return {s: {id_: f"words on {word}, hand {k}" for id_, word in words.items()} for k, s in enumerate(systems)}


def made(n: int = 40, of: int = 80, seed: int = 1, **more: Any) -> ballot.Sheet:
    found = records(of)
    values = {"pairs": PAIR, "question": "", "repeat": 0.1, "same": 0.05} | more
    return ballot.compare(
        found,
        said(found),
        values.pop("pairs"),
        n,
        seed,
        values.pop("question"),
        values.pop("repeat"),
        values.pop("same"),
        **values,
    )


def roles(found: ballot.Sheet, role: str) -> list[dict[str, Any]]:
    return [entry for entry in found.key["entries"] if entry["role"] == role]


def test_sides_are_balanced_overall_and_within_a_type() -> None:
    for seed in range(20):
        entries = roles(made(seed=seed), "vote")
        assert len(entries) == 40
        left = Counter(entry["sides"][0] for entry in entries)
        assert left == {"tuned": 20, "base": 20}
        for kind in ("ad", "note"):
            part = Counter(e["sides"][0] for e in entries if e["type"] == kind)
            assert abs(part["tuned"] - part["base"]) <= 1
    # Where a system stands does not follow from where a pair stands.
    firsts = "".join(e["sides"][0][0] for e in roles(made(), "vote"))
    assert "ttt" in firsts or "bbb" in firsts


def test_two_pairs_share_the_sheet_evenly_and_each_is_balanced() -> None:
    entries = roles(made(pairs=[("tuned", "base"), ("golden", "tuned")]), "vote")
    counts = Counter(tuple(entry["sides"]) for entry in entries)
    assert len({e["record"] for e in entries}) == 40, "nobody sees a record twice under two pairs"
    assert sorted(counts.values()) == [10, 10, 10, 10]


def test_repeats_swap_the_sides_and_come_later() -> None:
    found = made()
    order = [entry["id"] for entry in found.key["entries"]]
    by = {entry["id"]: entry for entry in found.key["entries"]}
    again = roles(found, "repeat")
    assert len(again) == 4
    for entry in again:
        first = by[entry["of"]]
        assert (first["record"], first["role"]) == (entry["record"], "vote")
        assert first["sides"] == entry["sides"][::-1]
        assert first["digests"] == entry["digests"][::-1]
        assert order.index(entry["id"]) - order.index(first["id"]) >= 7


def test_attention_checks_show_one_text_twice_and_no_drawn_record() -> None:
    found = made()
    checks, drawn = roles(found, "identical"), {e["record"] for e in roles(found, "vote")}
    assert len(checks) == 2
    places = {row["id"]: row["show"] for row in found.shown["entries"]}
    for entry in checks:
        left, right = found.shown["shown"][places[entry["id"]]]["texts"]
        assert left == right
        assert entry["record"] not in drawn
    assert {entry["sides"][0] for entry in checks} == {"tuned", "base"}


def test_the_page_holds_no_name_and_the_hash_of_the_key() -> None:
    found = made()
    page = ballot.document(found)
    assert ballot.seal(found.sealed) in page
    shown = json.dumps(found.shown)
    for word in ("tuned", "base", "golden", "repeat", "identical", "p1/", found.key["salt"]):
        assert word not in shown, word
    ids = [row["id"] for row in found.shown["entries"]]
    assert ids == [entry["id"] for entry in found.key["entries"]]
    assert len(set(ids)) == 46


def test_the_same_texts_give_the_same_bytes_in_any_order_and_another_seed_another_sheet() -> None:
    found = records(80)
    mixed = random.Random(0).sample(found, 80)
    again = ballot.compare(mixed, said(found), PAIR, 40, 1, "", 0.1, 0.05)
    assert (again.sealed, ballot.document(again)) == (made().sealed, ballot.document(made()))
    assert made(seed=2).name != made().name
    assert made(question="other?").name != made().name


def test_types_in_turn_and_items_spread() -> None:
    drawn = ballot.draw(records(80), 20, 3)
    assert Counter(r["type"] for r in drawn) == {"ad": 10, "note": 10}
    assert len({r["item"] for r in drawn}) == 20
    assert len(ballot.draw(records(8), 20, 3)) == 8
    # Another record moves nobody else to the front.
    assert {r["id"] for r in ballot.draw(records(80), 80, 3)} == {r["id"] for r in records(80)}


def test_equal_texts_are_left_out_and_counted() -> None:
    found = records(10)
    texts = said(found)
    texts["base"][found[0]["id"]] = texts["tuned"][found[0]["id"]] + "\n"
    kept = ballot.compare(found, texts, PAIR, 40, 1, "", 0.0, 0.0)
    assert kept.key["left_out"] == 1
    assert found[0]["id"] not in {e["record"] for e in kept.key["entries"]}
    with pytest.raises(UserError, match="nothing to compare"):
        ballot.compare(found, {**texts, "base": texts["tuned"]}, PAIR, 40, 1, "", 0.0, 0.0)


def test_both_sides_are_cut_alike() -> None:
    texts = [text for row in made(cap=10).shown["shown"] for text in row["texts"]]
    assert len(texts) == 92
    assert all(text.endswith(" …") and len(text) <= 12 for text in texts)
    found = records(2)
    spaced = {"tuned": {r["id"]: "  a\n\n" for r in found}, "base": {r["id"]: "b" for r in found}}
    rows = ballot.compare(found, spaced, PAIR, 2, 1, "", 0, 0).shown["shown"]
    assert [sorted(row["texts"]) for row in rows] == [["a", "b"], ["a", "b"]]


def test_labels_ask_every_dimension_of_a_text_in_a_row() -> None:
    found = records(80)
    made = ballot.label(found, said(found), ("golden", "tuned", "base"), 30, 1, "", 0.1, LEVELS)
    votes = roles(made, "vote")
    assert len(votes) == 60
    assert Counter(e["sides"][0] for e in votes) == {"golden": 20, "tuned": 20, "base": 20}
    entries = made.key["entries"]
    for one, other in zip(entries[::2], entries[1::2], strict=True):
        assert (one["record"], one["dim"], other["dim"]) == (other["record"], "facts", "form")
    assert len(roles(made, "repeat")) == 6
    assert made.shown["entries"][0]["levels"] == ["facts 1", "facts 2", "facts 3", "facts 4", "facts 5"]
    assert [len(row["texts"]) for row in made.shown["shown"]] == [1] * 33


def test_markup_of_a_model_opens_no_element() -> None:
    found = records(4)
    texts = {s: {r["id"]: f"{s}</script><img src=x>" for r in found} for s in ("tuned", "base")}
    page = ballot.document(ballot.compare(found, texts, PAIR, 4, 1, "</script><b>?", 0, 0))
    assert page.count("</script>") == 3
    assert "<img" not in page
    assert "<b>" not in page


def test_both_languages_hold_the_same_words() -> None:
    words = json.loads((ballot.Path(ballot.__file__).parent / "assets/blind.json").read_text("utf-8"))
    assert list(words) == ["en", "zh"]
    assert words["en"].keys() == words["zh"].keys()
    assert len(words["en"]) >= 40
    for key, value in words["en"].items():
        holes = [sorted(part.split("}")[0] for part in str(w[key]).split("{")[1:]) for w in words.values()]
        assert holes[0] == holes[1], key
        assert type(value) is type(words["zh"][key])
    script = (ballot.Path(ballot.__file__).parent / "assets/blind.js").read_text("utf-8")
    unused = [
        k for k in words["en"] if f'"{k}"' not in script and not k.endswith("_label") and not k.startswith("side_")
    ]
    assert unused == []

"""Who tests: nothing leaks, few items move when the data grows, and planted leaks do not pass the certificate."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from anneal import files, similarity
from anneal.dataset import leakage
from anneal.errors import UserError
from stages import split as stage

KINDS = ("ad", "note", "story")


def words(name: str, length: int = 60) -> str:
    """A text of its own: two of them share hardly a shingle."""
    rng = random.Random(name)
    return "".join(chr(0x4E00 + rng.randrange(900)) for _ in range(length))


def record(item: str, kind: str, content: str | None = None, **sheet: Any) -> dict[str, Any]:
    name = f"{item}/{kind}/0"
    return {
        "id": name,
        "item": item,
        "type": kind,
        "facts": {"name": item, **sheet},
        "prompt": [{"role": "user", "content": f"Write {kind} of {item}"}],
        "completion": [{"role": "assistant", "content": content or words(name)}],
    }


def items(count: int, kinds: tuple[str, ...] = KINDS, first: int = 0) -> list[dict[str, Any]]:
    return [record(f"p{number:03d}", kind) for number in range(first, first + count) for kind in kinds]


def pair(of: dict[str, Any], content: str | None = None) -> dict[str, Any]:
    chosen = [{"role": "assistant", "content": content}] if content else of["completion"]
    rejected = [{"role": "assistant", "content": "worse"}]
    kept = {key: of[key] for key in ("id", "item", "type", "prompt")}
    return {**kept, "kind": "weak", "chosen": chosen, "rejected": rejected}


def section(**changes: Any) -> stage.Split:
    values = {"by": "group", "test": 0.14, "validation": 0.07, "near_duplicate": 0.7, "max_group": 0.2, "time": None}
    return stage.Split.model_validate({**values, **changes})


def parted(records: list[dict[str, Any]], seed: int = 42, **changes: Any) -> dict[str, str]:
    return stage.assign(records, [], section(**changes), seed)[0]


def echoed(content: str) -> str:
    """The same text but for one word in the middle."""
    return content[:30] + "甲乙" + content[32:]


def test_shares_are_exact_and_items_stay_whole(toy: Path) -> None:
    records = items(140)
    files.write("data/formatted.jsonl", records)
    files.write("data/pairs.jsonl", [pair(r) for r in records[::2]])
    stage.main(42, section())
    metrics = json.loads((toy / "reports/metrics/split.json").read_text())
    assert metrics["items"] == {"test": 20, "validation": 10, "train": 110}
    assert metrics["records"] == {"test": 60, "validation": 30, "train": 330}
    assert metrics["types"]["test"] == dict.fromkeys(KINDS, 20)
    sides = {part: files.read(f"data/{part}.jsonl") for part in stage.PARTS}
    seen = Counter(item for rows in sides.values() for item in {r["item"] for r in rows})
    assert len(seen) == 140
    assert set(seen.values()) == {1}
    assert sorted(r["id"] for rows in sides.values() for r in rows) == sorted(r["id"] for r in records)
    of = {r["item"]: part for part, rows in sides.items() for r in rows}
    pairs = {part: files.read(f"data/{part}_pairs.jsonl") for part in stage.PARTS}
    assert sum(map(len, pairs.values())) == 210 == sum(metrics["pairs"].values())
    assert all(of[p["item"]] == part for part, rows in pairs.items() for p in rows)
    assert (metrics["certificate"]["shared_items"], metrics["certificate"]["crossing_pairs"]) == (0, 0)
    before = {path: path.read_bytes() for path in sorted(toy.rglob("*.json*"))}
    stage.main(42, section())
    assert len(before) == 9
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.parametrize(("count", "test", "validation"), [(3, 1, 1), (10, 2, 1), (100, 14, 7), (145, 21, 11)])
def test_shares_round_up_and_leave_one_to_train_on(count: int, test: int, validation: int) -> None:
    found = Counter(parted(items(count, ("ad",))).values())
    assert (found["test"], found["validation"]) == (test, validation)


def test_five_more_items_move_at_most_two() -> None:
    def draw(count: int, seed: int) -> dict[str, str]:
        groups = [stage.Group([f"p{number:03d}"], "", "") for number in range(count)]
        return stage._by_hash(groups, section(), seed)

    moved = []
    for seed in range(42, 142):
        before, after = draw(140, seed), draw(145, seed)
        moved.append(sum(after[item] != part for item, part in before.items()))
    assert moved[0] <= 2, "the seed of the shipped params"
    # A fresh draw would move 49 of 140. 2 is exceeded where several of the five fall into one part.
    assert sum(count <= 2 for count in moved) >= 95
    assert max(moved) <= 4


def test_what_the_filter_kept_of_an_item_does_not_move_it() -> None:
    records = items(60)
    before = parted(records)
    rng = random.Random(3)
    fewer = [r for r in records if r["type"] == "ad" or rng.random() < 0.6]
    assert len(fewer) < 150
    assert parted(fewer) == before
    assert parted(records[::-1]) == before
    assert parted(records, seed=43) != before


def test_near_duplicates_move_together() -> None:
    joined = 0
    for seed in range(6):
        records = items(50)
        # p000 ~ p010 ~ p020 in a chain, through two types; p030 and p031 by the same text with other layout.
        records[10 * 3] = record("p010", "ad", echoed(words("p000/ad/0")))
        records[20 * 3 + 1] = record("p020", "note", echoed(words("p010/note/0")))
        records[31 * 3] = record("p031", "ad", words("p030/ad/0") + " \n")
        assert similarity.jaccard(words("p000/ad/0"), echoed(words("p000/ad/0"))) >= 0.7
        parts, groups, edges, certificate = stage.assign(records, [], section(), seed)
        assert [g.items for g in groups if len(g.items) > 1] == [["p000", "p010", "p020"], ["p030", "p031"]]
        assert len({parts[item] for item in ("p000", "p010", "p020")}) == len({parts["p030"], parts["p031"]}) == 1
        assert len(edges) == 3
        assert (certificate["shared_items"], certificate["crossing_pairs"]) == (0, 0)
        assert certificate["test_in_train"]["jaccard"] < 0.7
        alone = parted(items(50), seed)
        joined += len({alone[item] for item in ("p000", "p010", "p020")}) > 1
    assert joined >= 2, "they would have parted in some of the draws"


def test_a_joined_group_never_overfills_a_part() -> None:
    records = items(20, ("ad",))
    for number in range(1, 20, 2):
        records[number] = record(f"p{number:03d}", "ad", echoed(words(f"p{number - 1:03d}/ad/0")))
    for seed in range(5):
        found = Counter(parted(records, seed, test=0.15, validation=0.1).values())
        assert found == {"test": 2, "validation": 2, "train": 16}, "of 3 places a pair takes 2"


def test_a_pair_that_the_sketch_misses_is_found_by_the_certificate(monkeypatch: pytest.MonkeyPatch) -> None:
    records = items(30, ("ad",))
    for number in range(1, 4):
        records[number] = record(f"p{number:03d}", "ad", echoed(words("p000/ad/0")) + words(str(number), number))
    monkeypatch.setattr(similarity, "near_duplicates", lambda *_: [])
    apart = 0
    for seed in range(8):
        parts, groups, edges, certificate = stage.assign(records, [], section(), seed)
        apart += bool(edges)
        assert certificate["crossing_pairs"] == 0
        assert all(len({parts[item] for item in group.items}) == 1 for group in groups)
        assert len({parts[f"p{number:03d}"] for number in range(4)}) == 1
    assert apart >= 3


def test_a_chosen_answer_leaks_like_a_completion() -> None:
    records = items(40)
    pairs = [pair(r) for r in records]
    pairs[5] = pair(records[5], echoed(words("p030/story/0")))
    _, groups, edges, _ = stage.assign(records, pairs, section(), 1)
    assert [g.items for g in groups if len(g.items) > 1] == [["p001", "p030"]]
    assert [(a.item, b.item) for a, b, _ in edges] == [("p030", "p001")]


def test_the_certificate_sees_planted_leaks() -> None:
    records = items(30, ("ad",))
    rows = leakage.rows(records, [])
    sides = {"train": rows[:20], "validation": rows[20:24], "test": rows[24:]}
    clean, crossing = leakage.certify(sides, 0.7)
    assert (clean["shared_items"], clean["crossing_pairs"], crossing) == (0, 0, [])
    assert clean["test_in_train"]["containment"] < 0.2
    copied = leakage.Row("t/copy/0", "t", echoed(rows[3].text))
    found, crossing = leakage.certify({**sides, "test": [*sides["test"], copied]}, 0.7)
    assert found["crossing_pairs"] == 1
    assert [(a.id, b.id) for a, b, _ in crossing] == [("t/copy/0", rows[3].id)]
    assert found["test_in_train"]["alike"] == ["t/copy/0", rows[3].id]
    # A short text inside a long one: Jaccard is far below the threshold, containment tells.
    hidden = leakage.Row("t/short/0", "t", rows[5].text[10:30])
    found, crossing = leakage.certify({**sides, "test": [*sides["test"], hidden]}, 0.7)
    assert crossing == []
    assert (found["test_in_train"]["containment"], found["test_in_train"]["jaccard"] < 0.4) == (1.0, True)
    assert found["test_in_train"]["contained"] == ["t/short/0", rows[5].id]
    assert found["test_in_train"]["half_contained"] == pytest.approx(1 / 7)
    shared, _ = leakage.certify({**sides, "test": [*sides["test"], sides["train"][0]]}, 0.7)
    assert (shared["shared_items"], shared["crossing_pairs"]) == (1, 1)
    for part, other in (("test", "validation"), ("validation", "train")):
        planted = {**sides, part: [*sides[part], leakage.Row("x", "x", sides[other][0].text)]}
        assert leakage.certify(planted, 0.7)[0][f"{part}_in_{other}"]["jaccard"] == 1.0


def test_one_group_that_swallows_the_data_is_refused_with_its_pairs() -> None:
    records = items(30, ("ad",))
    for number in range(1, 8):
        records[number] = record(f"p{number:03d}", "ad", echoed(words("p000/ad/0")) + words(str(number), 4))
    with pytest.raises(UserError) as caught:
        parted(records)
    line = str(caught.value)
    assert "join 8 items with 8 of 30 records, more than split.max_group 0.2" in line
    assert all(f"p{number:03d}/ad/0" in line for number in range(8))
    assert " ~ " in line
    assert "and 18 more" in line, "28 pairs, the 10 strongest named"
    assert "\n" not in line
    assert Counter(parted(records, max_group=0.3).values())["test"] == 5


def test_strata_are_drawn_one_by_one() -> None:
    records = [*items(40, ("ad",)), *items(20, ("note",), 40), *items(10, ("ad", "note"), 60), *items(2, ("odd",), 70)]
    parts = parted(records, by="stratum", test=0.1, validation=0.1)
    kinds = {r["item"]: " ".join(sorted(o["type"] for o in records if o["item"] == r["item"])) for r in records}
    found = Counter((kinds[item], part) for item, part in parts.items())
    assert found == {
        ("ad", "test"): 4,
        ("ad", "validation"): 4,
        ("ad", "train"): 32,
        ("note", "test"): 2,
        ("note", "validation"): 2,
        ("note", "train"): 16,
        ("ad note", "test"): 1,
        ("ad note", "validation"): 1,
        ("ad note", "train"): 8,
        ("odd", "test"): 1,
        ("odd", "train"): 1,
    }


def test_time_tests_on_the_newest_and_a_group_across_the_cut_trains() -> None:
    records = [
        record(f"p{n:03d}", kind, date=f"2026-{1 + n // 5:02d}-{1 + n % 5:02d}") for n in range(50) for kind in KINDS
    ]
    parts = parted(records, by="time", time="date", test=0.1, validation=0.1)
    assert [n for n in range(50) if parts[f"p{n:03d}"] == "test"] == [45, 46, 47, 48, 49]
    assert [n for n in range(50) if parts[f"p{n:03d}"] == "validation"] == [40, 41, 42, 43, 44]
    records[0] = record("p000", "ad", echoed(words("p049/ad/0")), date="2026-01-01")
    parts = parted(records, by="time", time="date", test=0.1, validation=0.1)
    assert parts["p049"] == parts["p000"] == "train"
    assert [n for n in range(50) if parts[f"p{n:03d}"] == "test"] == [44, 45, 46, 47, 48]


@pytest.mark.parametrize("date", [None, "", 2026, "yesterday", "2026-1-5"])
def test_time_needs_a_date(date: Any) -> None:
    records = [record(f"p{n}", "ad", date="2026-01-01") for n in range(9)] + [record("q", "ad", date=date)]
    with pytest.raises(UserError, match=r"q/ad/0: no date in facts\.date"):
        parted(records, by="time", time="date")
    with pytest.raises(UserError, match=r"p0/ad/0: no date in facts\.None"):
        parted(records, by="time")


def test_refusals() -> None:
    with pytest.raises(UserError, match="2 items in 2 groups leave validation empty"):
        parted(items(2))
    with pytest.raises(UserError, match=r"data/pairs\.jsonl: q: pairs of an item"):
        stage.assign(items(9), [pair(record("q", "ad"))], section(), 1)

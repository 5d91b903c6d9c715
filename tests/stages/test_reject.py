"""reject: exact shares, few moves, and false facts that are false, told, and not the sheet's own."""

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anneal import files
from anneal.checks import facts
from anneal.errors import UserError
from anneal.llm import client
from anneal.llm.offline_server import Reply
from anneal.offline import phrase_teacher
from stages import reject
from stages.reject import Reject
from tests.conftest import ROOT, recipe_values

SHARES = Reject(source="teacher", weak=0.5, exaggerated=0.3, fake=0.2)
CHAT = client.Chat(model="offline-1", temperature=1.0, top_p=1.0, max_tokens=50, max_failed=0.0)
KNOWN = {
    "ingredients": ["烟酰胺", "神经酰胺", "神经酰胺NP", "泛醇", "角鲨烷", "依克多因", "红没药醇"],
    "effects": ["保湿", "深层保湿", "舒缓", "提亮", "紧致"],
}
RULES = facts.Rules(
    folder=".",
    name="name",
    facts=facts.Named(slot="ingredients", at_least=1),
    foreign=["ingredients", "numbers"],
    also=["effects"],
    banned=[],
    encouraged=[],
    exaggerated=[],
    forbid=[],
    types={},
)
SHEET = {"name": "泛醇修护霜", "ingredients": [{"name": "泛醇"}, {"name": "神经酰胺NP"}], "effects": ["保湿", "舒缓"]}
TEXT = "泛醇修护霜：泛醇帮助保湿，神经酰胺NP帮助舒缓。"


def record(number: int, kind: str = "ad", text: str = TEXT) -> dict[str, Any]:
    item = f"p{number}"
    return {"id": f"{item}/{kind}/0", "item": item, "type": kind, "facts": SHEET, "text": text}


def many(**kinds: int) -> list[dict[str, Any]]:
    return [record(number, kind) for kind, n in kinds.items() for number in range(n)]


# How the kinds are shared out.


@given(
    st.integers(0, 400),
    st.lists(st.integers(0, 20), min_size=3, max_size=3).filter(lambda parts: sum(parts) > 0),
)
@settings(max_examples=200, deadline=None)
def test_quotas_are_whole_add_up_and_are_next_to_the_share(n: int, parts: list[int]) -> None:
    shares = {kind: part / sum(parts) for kind, part in zip("abc", parts, strict=True)}
    got = reject.quotas(n, shares)
    assert sum(got.values()) == n
    assert all(abs(got[kind] - n * share) < 1 for kind, share in shares.items())


def test_quotas_of_round_numbers_are_exact() -> None:
    shares = SHARES.shares
    assert reject.quotas(1260, shares) == {"weak": 630, "exaggerated": 378, "fake": 252}
    assert reject.quotas(10, shares) == {"weak": 5, "exaggerated": 3, "fake": 2}
    assert reject.quotas(0, shares) == {"weak": 0, "exaggerated": 0, "fake": 0}


def test_shares_are_exact_over_all_and_near_in_every_type() -> None:
    records = many(ad=140, note=61, long=9)
    kinds = reject.assign(records, SHARES, 42)
    assert Counter(kinds.values()) == {"weak": 105, "exaggerated": 63, "fake": 42}
    checked = 0
    for kind, n in (("ad", 140), ("note", 61), ("long", 9)):
        mine = Counter(kinds[r["id"]] for r in records if r["type"] == kind)
        for name, share in SHARES.shares.items():
            checked += 1
            assert abs(mine[name] - share * n) <= 1.5, (kind, mine)
    assert checked == 9


def test_one_record_more_moves_few_and_the_order_of_the_file_none() -> None:
    records = many(ad=100, note=100)
    before = reject.assign(records, SHARES, 42)
    assert reject.assign(records[::-1], SHARES, 42) == before
    moved = []
    for extra in range(200, 220):
        after = reject.assign([*records, record(extra)], SHARES, 42)
        moved.append(sum(after[name] != kind for name, kind in before.items()))
    assert len(moved) == 20
    # Two borders and two types: a record at each of them, and one for the quota.
    assert max(moved) <= 5
    assert reject.assign(records, SHARES, 43) != before


def test_shares_that_are_no_whole_are_refused() -> None:
    with pytest.raises(ValueError, match="weak, exaggerated and fake must add up to 1"):
        Reject(source="teacher", weak=0.5, exaggerated=0.3, fake=0.3)


def test_given_texts_leave_no_share_to_the_teacher() -> None:
    with pytest.raises(ValueError, match="source given takes the texts of the source: weak, exaggerated and fake must"):
        Reject(source="given", weak=1.0, exaggerated=0.0, fake=0.0)


# What becomes false.


def test_false_facts_come_from_the_same_slot_and_are_nobody_elses() -> None:
    seen, counts = Counter[tuple[str, str]](), Counter[int]()
    for number in range(300):
        changes = reject.falsify(record(number), RULES, KNOWN, 42)
        counts[len(changes)] += 1
        for slot, true, false in changes:
            seen[slot, true] += 1
            assert true in facts.own(SHEET, slot)
            assert false in KNOWN[slot]
            assert not any(false in own or own in false for own in facts.strings(SHEET)), false
            assert facts.foreign(TEXT.replace(true, false), SHEET, KNOWN, [slot]) != []
        assert len({false for _, _, false in changes}) == len(changes)
    # The ingredient inside the product name is left alone: to replace it would rename the product.
    assert set(seen) == {("ingredients", "神经酰胺NP"), ("effects", "保湿"), ("effects", "舒缓")}
    assert set(counts) == {1, 2}
    assert min(counts.values()) > 100


def test_only_facts_that_the_text_tells_are_replaced() -> None:
    told = record(1, text="这款面霜含神经酰胺NP，肤感清爽。")
    changed = {c[1] for n in range(50) for c in reject.falsify({**told, "id": f"p{n}/ad/0"}, RULES, KNOWN, 42)}
    assert changed == {"神经酰胺NP"}
    # The only fact there is may stand in the name too.
    assert reject.falsify(record(1, text="含泛醇。"), RULES, KNOWN, 42)[0][1] == "泛醇"
    with pytest.raises(
        UserError, match=r"p1/ad/0: its text names no fact of ingredients, effects.*set reject\.fake to 0"
    ):
        reject.falsify(record(1, text="一款面霜。"), RULES, KNOWN, 42)


def test_another_record_does_not_change_what_becomes_false_here() -> None:
    one = reject.falsify(record(1), RULES, KNOWN, 42)
    assert one == reject.falsify(record(1), RULES, KNOWN, 42)
    assert any(reject.falsify(record(1), RULES, KNOWN, seed) != one for seed in range(5))


def test_a_worse_answer_must_be_another_text_and_tell_the_false_fact() -> None:
    check = reject.checker(record(1), [("ingredients", "神经酰胺NP", "角鲨烷")], KNOWN)
    assert check(f" {TEXT.replace('神经酰胺NP', '角鲨烷')}\n") == TEXT.replace("神经酰胺NP", "角鲨烷")
    for text, why in (
        (f"{TEXT}\n", "the same text"),
        ("泛醇修护霜：泛醇帮助保湿。", "does not tell the false fact 角鲨烷"),
    ):
        with pytest.raises(ValueError, match=why):
            check(text)
    assert reject.checker(record(1), [], KNOWN)("很好用。") == "很好用。"


# When some fail.


def fill(
    records: list[dict[str, Any]], bad: set[tuple[str, str]]
) -> tuple[list[dict[str, Any]], list[tuple[str, str]]]:
    asked: list[tuple[str, str]] = []

    def ask(todo: list[tuple[dict[str, Any], str]]) -> list[dict[str, Any] | None]:
        asked.extend((r["id"], kind) for r, kind in todo)
        return [None if (r["id"], kind) in bad else {"id": r["id"], "kind": kind} for r, kind in todo]

    return reject.fill(records, SHARES, 42, ask), asked


def test_without_failures_every_record_is_asked_once() -> None:
    records = many(ad=40, note=20)
    rows, asked = fill(records, set())
    assert [r["id"] for r in rows] == [r["id"] for r in records]
    assert len(asked) == 60
    assert Counter(r["kind"] for r in rows) == {"weak": 30, "exaggerated": 18, "fake": 12}


def test_shares_stay_exact_over_what_is_left_and_few_are_asked_again() -> None:
    records = many(ad=120, note=80)
    kinds = reject.assign(records, SHARES, 42)
    lost = [name for name, kind in kinds.items() if kind == "fake"][:7]
    rows, asked = fill(records, {(name, "fake") for name in lost})
    assert {r["id"] for r in rows} == {r["id"] for r in records} - set(lost)
    assert Counter(r["kind"] for r in rows) == reject.quotas(193, SHARES.shares)
    assert 200 < len(asked) <= 200 + 15
    assert len(set(asked)) == len(asked)


def test_all_lost_is_an_end_too() -> None:
    records = many(ad=5)
    everything = {(r["id"], kind) for r in records for kind in SHARES.shares}
    assert fill(records, everything)[0] == []


# The stage.


@pytest.fixture
def recipe(toy: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """A recipe whose teacher does as its prompts say; gives the requests that it got."""
    sent: list[dict[str, Any]] = []

    def respond(body: dict[str, Any]) -> Reply:
        sent.append(body)
        task, *rest = body["messages"][-1]["content"].split("|")
        if task == "假":
            text, changes = rest
            for line in changes.splitlines():
                true, false = line.split(" → ")
                text = text.replace(true, false)
            return Reply(text)
        return Reply(f"{task}：{rest[0]}{body.get('seed', 0)}")

    folder = toy / "prompts/r/reject"
    folder.mkdir(parents=True)
    (folder / "weak.md").write_text("弱|$label$name")
    (folder / "exaggerated.md").write_text("夸|$text")
    (folder / "fake.md").write_text("假|$text|$changes")
    (toy / "data/raw/r/offline").mkdir(parents=True)
    (toy / "vocabulary.json").write_text(json.dumps(KNOWN))
    monkeypatch.setattr(phrase_teacher, "teacher", lambda _folder: respond)
    files.write("data/filtered.jsonl", many(ad=12, note=8))
    return sent


def run(chat: client.Chat = CHAT, shares: Reject = SHARES) -> list[dict[str, Any]]:
    reject.main("r", shares, RULES, 42, chat, {"ad": "广告", "note": "笔记"})
    return files.read("data/rejected.jsonl")


def metric() -> dict[str, Any]:
    return json.loads(Path("reports/metrics/reject.json").read_text())


def test_the_stage_writes_one_row_for_each_record(recipe: list[dict[str, Any]]) -> None:
    rows = run()
    assert [r["id"] for r in rows] == [r["id"] for r in many(ad=12, note=8)]
    assert metric()["kinds"] == {"weak": 10, "exaggerated": 6, "fake": 4}
    assert metric()["shares"] == {"weak": 0.5, "exaggerated": 0.3, "fake": 0.2}
    assert (metric()["n"], metric()["failed"]) == (20, {})
    fakes = [r for r in rows if r["kind"] == "fake"]
    assert len(fakes) == 4
    for row in fakes:
        text = TEXT
        for true, false in row["changes"]:
            text = text.replace(true, false)
        assert row["text"] == text != TEXT
    assert all(row["changes"] == [] and row["text"] != TEXT for row in rows if row["kind"] != "fake")
    assert rows[0].keys() == {"id", "item", "type", "kind", "text", "changes"}
    recipe.clear()
    assert run() == rows
    assert recipe == []


def test_two_samples_of_one_item_get_two_answers(recipe: list[dict[str, Any]]) -> None:
    twins = [{**record(1), "id": f"p1/ad/{n}"} for n in range(4)]
    files.write("data/filtered.jsonl", twins)
    rows = run(shares=Reject(source="teacher", weak=1.0, exaggerated=0.0, fake=0.0))
    assert len({row["text"] for row in rows}) == 4
    assert len(recipe) == 4


def test_a_fake_that_tells_no_false_fact_fails_and_the_shares_hold(
    recipe: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = phrase_teacher.teacher(Path())

    def stubborn(body: dict[str, Any]) -> Reply:
        reply = broken(body)
        return Reply("只字不提。") if "角鲨烷" in reply.text or "红没药醇" in reply.text else reply

    monkeypatch.setattr(phrase_teacher, "teacher", lambda _folder: stubborn)
    files.write("data/filtered.jsonl", many(ad=40))
    rows = run(CHAT.model_copy(update={"max_failed": 0.5}))
    lost = 40 - len(rows)
    assert lost >= 1
    assert metric()["failed"] == {"check": lost}
    assert metric()["kinds"] == reject.quotas(len(rows), SHARES.shares)
    with pytest.raises(
        UserError, match=rf"{lost} of 40 rows failed \({lost} check\), more than teacher\.max_failed 0;"
    ):
        run()
    assert recipe, "and a rerun asked for what was lost"


def test_kinds_without_a_share_need_no_prompt(recipe: list[dict[str, Any]]) -> None:
    Path("prompts/r/reject/fake.md").unlink()
    with pytest.raises(UserError, match=r"prompts/r/reject/fake\.md: no such prompt file"):
        run()
    assert recipe == []
    assert {r["kind"] for r in run(shares=Reject(source="teacher", weak=0.5, exaggerated=0.5, fake=0.0))} == {
        "weak",
        "exaggerated",
    }


GIVEN = Reject(source="given", weak=0.0, exaggerated=0.0, fake=0.0)


def test_given_texts_are_taken_as_they_are_and_nobody_is_asked(recipe: list[dict[str, Any]]) -> None:
    shutil.rmtree("prompts/r/reject")
    records = [{**one, "rejected": f" 差{one['id']}\n"} for one in many(ad=3, note=2)]
    files.write("data/filtered.jsonl", records)
    rows = run(shares=GIVEN)
    assert recipe == []
    assert rows == [
        {"id": r["id"], "item": r["item"], "type": r["type"], "kind": "given", "changes": [], "text": f"差{r['id']}"}
        for r in records
    ]
    assert (metric()["kinds"], metric()["shares"], metric()["n"]) == ({"given": 5}, {"given": 1.0}, 5)


@pytest.mark.parametrize("text", [{}, {"rejected": ""}, {"rejected": " \n"}, {"rejected": None}])
def test_a_record_without_a_given_text_is_refused(recipe: list[dict[str, Any]], text: dict[str, Any]) -> None:
    files.write("data/filtered.jsonl", [{**record(1), "rejected": "差"}, {**record(2), **text}])
    told = r"\Adata/filtered\.jsonl: p2/ad/0: no rejected text; name its column in generate\.fields\.rejected, or set"
    with pytest.raises(UserError, match=told):
        run(shares=GIVEN)
    assert not Path("data/rejected.jsonl").exists()


def test_the_shipped_recipe_tells_the_false_facts_it_is_asked_for(toy: Path) -> None:
    """The prompts of the recipe, its offline teacher and the checker agree about a change."""
    for part in ("prompts/brand/reject", "data/raw/brand"):
        shutil.copytree(ROOT / part, toy / part)
    values = recipe_values("brand")
    rows = []
    for sheet in files.read("data/raw/brand/products.jsonl")[:20]:
        told = {key: value for key, value in sheet.items() if key != "id"}
        first, second = (i["name"] for i in told["ingredients"][:2])
        text = f"使用前：干燥。使用后：用上{told['name']}，{told['effects'][0]}。{first}与{second}。点击了解。"
        rows.append({**record(0, "paid_ad_bab", text), "id": f"{sheet['id']}/paid_ad_bab/0", "facts": told})
    files.write("data/filtered.jsonl", rows)
    rules, chat = facts.Rules(**values["rules"]), CHAT.model_copy(update={"max_tokens": 700})
    reject.main("brand", SHARES, rules, 42, chat, values["types"])
    made = files.read("data/rejected.jsonl")
    assert Counter(r["kind"] for r in made) == {"weak": 10, "exaggerated": 6, "fake": 4}
    assert all(false in r["text"] for r in made for _, false in r["changes"])

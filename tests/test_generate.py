"""generate: every item, type and sample once, in an order of its own, and nothing in a prompt but the sheet."""

import json
from pathlib import Path
from typing import Any

import pytest

from stages import generate
from stages.generate import Generate
from stages.lib import jsonl, llm, offline, phrases
from stages.lib.offline import Reply
from stages.lib.params import Refusal

TYPES = {"ad": "广告", "note": "笔记"}
CHAT = llm.Chat(model="offline-1", temperature=1.0, top_p=1.0, max_tokens=50, max_failed=0.0)
SENT: list[dict[str, Any]] = []


def respond(body: dict[str, Any]) -> Reply:
    SENT.append(body)
    prompt = body["messages"][-1]["content"]
    if "坏" in prompt:
        raise ValueError("a word this server cannot read")
    return Reply(f"  写：{prompt}，第{body.get('seed', 0)}稿\n")


def section(**changes: Any) -> Generate:
    values = {"source": "teacher", "items": "items.jsonl", "required": ["name"], "per_item": 1}
    return Generate(**{**values, **changes})


def items(*rows: dict[str, Any]) -> None:
    Path("items.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")


def sheet(name: str) -> dict[str, Any]:
    return {"id": name, "name": f"品{name}", "effects": ["甲", "乙"]}


@pytest.fixture(autouse=True)
def _recipe(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A recipe of two types in an empty folder, and a teacher that repeats the prompt."""
    SENT.clear()
    (toy / "prompts/r/generate").mkdir(parents=True)
    (toy / "data/raw/r/offline").mkdir(parents=True)
    (toy / "prompts/r/generate/ad.md").write_text("# System\n你写$label。\n\n# User\n$name：$effects")
    (toy / "prompts/r/generate/note.md").write_text("$label，$name")
    monkeypatch.setattr(phrases, "teacher", lambda _folder: respond)
    items(sheet("p10"), sheet("p2"))


def made(**changes: Any) -> list[dict[str, Any]]:
    generate.main(section(**changes), "r", CHAT, TYPES)
    return jsonl.read("data/generated.jsonl")


def metric() -> dict[str, Any]:
    return json.loads(Path("reports/metrics/generate.json").read_text())


def test_every_item_type_and_sample_in_natural_order() -> None:
    rows = made(per_item=2)
    assert [r["id"] for r in rows] == [f"{i}/{t}/{n}" for i in ("p2", "p10") for t in ("ad", "note") for n in (0, 1)]
    assert rows[0] == {
        "id": "p2/ad/0", "item": "p2", "type": "ad", "facts": {"name": "品p2", "effects": ["甲", "乙"]},
        "text": "写：品p2：甲、乙，第0稿",
    }  # fmt: skip
    assert rows[1]["text"] == "写：品p2：甲、乙，第1000稿"
    sent = {json.dumps(body["messages"], ensure_ascii=False) for body in SENT}
    assert json.dumps([{"role": "system", "content": "你写广告。"}, {"role": "user", "content": "品p2：甲、乙"}],
                      ensure_ascii=False) in sent  # fmt: skip
    assert len(sent) == 4
    assert metric()["n"] == 8
    assert metric()["types"] == {"ad": 4, "note": 4}
    assert metric()["tokens"]["out"] == sum(len(r["text"]) + 3 for r in rows)


def test_the_same_bytes_whatever_the_order_of_the_file_and_the_ledger() -> None:
    made()
    first = [Path(p).read_bytes() for p in ("data/generated.jsonl", "reports/metrics/generate.json")]
    items(sheet("p2"), sheet("p10"))
    SENT.clear()
    made()
    assert [Path(p).read_bytes() for p in ("data/generated.jsonl", "reports/metrics/generate.json")] == first
    assert SENT == []


def test_one_item_more_or_one_prompt_changed_asks_only_for_itself() -> None:
    made()
    items(sheet("p10"), sheet("p2"), sheet("p3"))
    SENT.clear()
    made()
    assert len(SENT) == 2
    Path("prompts/r/generate/note.md").write_text("写$label，$name")
    SENT.clear()
    made()
    assert len(SENT) == 3


def test_a_failed_row_is_left_out_and_counted() -> None:
    items(*[sheet(f"p{n}") for n in range(9)], {"id": "bad", "name": "坏", "effects": ["甲"]})
    generate.main(section(), "r", CHAT.model_copy(update={"max_failed": 0.1}), TYPES)
    rows = jsonl.read("data/generated.jsonl")
    assert len(rows) == 18
    assert {r["item"] for r in rows} == {f"p{n}" for n in range(9)}
    assert (metric()["n"], metric()["failed"]) == (18, {"http": 2})


def test_too_many_failures_leave_no_output() -> None:
    items(sheet("p1"), {"id": "bad", "name": "坏", "effects": ["甲"]})
    with pytest.raises(Refusal, match="2 of 4 rows failed"):
        made()
    assert not Path("data/generated.jsonl").exists()


def test_a_type_without_a_prompt_is_named_before_anything_is_sent() -> None:
    Path("prompts/r/generate/note.md").unlink()
    with pytest.raises(Refusal, match=r"prompts/r/generate/note\.md: no such prompt file"):
        made()
    assert SENT == []


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ([sheet("a"), {"id": "b", "effects": ["x"]}], r"items\.jsonl:2: 'name' is missing or empty in 'b'"),
        ([sheet("a"), sheet("b"), sheet("a")], r"items\.jsonl:3: id 'a' is used in line 1 too"),
        ([sheet("a"), {**sheet("b"), "id": 7}], r"items\.jsonl:2: id 7: must be text without '/'"),
        ([sheet("a/b")], r"items\.jsonl:1: id 'a/b': must be text without '/'"),
        ([], r"items\.jsonl: holds no item"),
    ],
)
def test_a_wrong_sheet_is_named_with_its_line(rows: list[dict[str, Any]], told: str) -> None:
    items(*rows)
    with pytest.raises(Refusal, match=told):
        made()
    assert SENT == []


def test_line_numbers_count_empty_lines() -> None:
    Path("items.jsonl").write_text("\n" + json.dumps(sheet("a")) + "\n\n" + json.dumps(sheet("a")) + "\n")
    with pytest.raises(Refusal, match=r"items\.jsonl:4: id 'a' is used in line 2 too"):
        made()


def test_records_come_from_the_source_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(offline, "serve", None)  # nobody is asked
    items(
        {"id": "b", "name": "乙", "type": "note", "text": " 一篇笔记 "},
        {"id": "a", "name": "甲", "type": "ad", "text": "x"},
    )
    rows = made(source="records")
    assert [r["id"] for r in rows] == ["a/ad/0", "b/note/0"]
    assert rows[1] == {"id": "b/note/0", "item": "b", "type": "note", "facts": {"name": "乙"}, "text": "一篇笔记"}
    assert metric() == {"n": 2, "types": {"ad": 1, "note": 1}, "failed": {}, "tokens": {"in": 0, "out": 0}}


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"id": "a", "name": "甲", "type": "poem", "text": "x"}, "a: type 'poem' is none of types: ad, note"),
        ({"id": "a", "name": "甲", "type": "ad"}, "a: text is missing or empty; generate.source records needs it"),
    ],
)
def test_records_without_type_or_text_are_refused(row: dict[str, Any], told: str) -> None:
    items(row)
    with pytest.raises(Refusal, match=told):
        made(source="records")


def test_every_source_of_the_params_exists() -> None:
    assert set(generate.SOURCES) == set(Generate.model_fields["source"].annotation.__args__)

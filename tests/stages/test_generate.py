"""generate: every item, type and sample once, in an order of its own, and nothing in a prompt but the sheet."""

import json
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from anneal import files
from anneal.errors import UserError
from anneal.llm import client, offline_server
from anneal.llm.offline_server import Reply
from anneal.offline import phrase_teacher
from stages import generate
from stages.generate import Fields, Generate, Markdown
from tests.conftest import ROOT

TYPES = {"ad": "广告", "note": "笔记"}
CHAT = client.Chat(model="offline-1", temperature=1.0, top_p=1.0, max_tokens=50, max_failed=0.0)
SENT: list[dict[str, Any]] = []
REAL = ROOT.parent / "shared/data"
NONE = {"id": None, "type": None, "rejected": None, "turns": None}
NAMED, BARE = NONE | {"id": "id", "type": "type", "text": "text"}, NONE | {"text": "output"}
PAIRS = NONE | {"text": "chosen.value", "rejected": "rejected.value", "turns": "conversations"}


def respond(body: dict[str, Any]) -> Reply:
    SENT.append(body)
    prompt = body["messages"][-1]["content"]
    if "坏" in prompt:
        raise ValueError("a word this server cannot read")
    return Reply(f"  写：{prompt}，第{body.get('seed', 0)}稿\n")


def section(**changes: Any) -> Generate:
    values = {"source": "teacher", "items": "items.jsonl", "required": ["name"], "per_item": 1, "pii": "off"}
    options = {"templates": ["continue"], "min_tokens": 300, "max_tokens": 800, "tables": "drop"}
    fields = Fields(**changes.pop("fields", NAMED))
    return Generate(**{**values, "fields": fields, "markdown": Markdown(**options), **changes})


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
    monkeypatch.setattr(phrase_teacher, "teacher", lambda _folder: respond)
    items(sheet("p10"), sheet("p2"))


def made(**changes: Any) -> list[dict[str, Any]]:
    generate.main(section(**changes), "r", CHAT, TYPES)
    return files.read("data/generated.jsonl")


def metric() -> dict[str, Any]:
    return json.loads(Path("reports/metrics/generate.json").read_text())


def test_every_item_type_and_sample_in_natural_order() -> None:
    rows = made(per_item=2)
    assert [r["id"] for r in rows] == [f"{i}/{t}/{n}" for i in ("p2", "p10") for t in ("ad", "note") for n in (0, 1)]
    assert rows[0] == {
        "id": "p2/ad/0",
        "item": "p2",
        "type": "ad",
        "facts": {"name": "品p2", "effects": ["甲", "乙"]},
        "text": "写：品p2：甲、乙，第0稿",
    }
    assert rows[1]["text"] == "写：品p2：甲、乙，第1000稿"
    sent = {json.dumps(body["messages"], ensure_ascii=False) for body in SENT}
    assert (
        json.dumps(
            [{"role": "system", "content": "你写广告。"}, {"role": "user", "content": "品p2：甲、乙"}],
            ensure_ascii=False,
        )
        in sent
    )
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
    rows = files.read("data/generated.jsonl")
    assert len(rows) == 18
    assert {r["item"] for r in rows} == {f"p{n}" for n in range(9)}
    assert (metric()["n"], metric()["failed"]) == (18, {"http": 2})


def test_too_many_failures_leave_no_output() -> None:
    items(sheet("p1"), {"id": "bad", "name": "坏", "effects": ["甲"]})
    with pytest.raises(UserError, match="2 of 4 rows failed"):
        made()
    assert not Path("data/generated.jsonl").exists()


def test_a_type_without_a_prompt_is_named_before_anything_is_sent() -> None:
    Path("prompts/r/generate/note.md").unlink()
    with pytest.raises(UserError, match=r"prompts/r/generate/note\.md: no such prompt file"):
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
    with pytest.raises(UserError, match=told):
        made()
    assert SENT == []


def test_line_numbers_count_empty_lines() -> None:
    Path("items.jsonl").write_text("\n" + json.dumps(sheet("a")) + "\n\n" + json.dumps(sheet("a")) + "\n")
    with pytest.raises(UserError, match=r"items\.jsonl:4: id 'a' is used in line 2 too"):
        made()


def test_records_come_from_the_source_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(offline_server, "serve", None)  # nobody is asked
    items(
        {"id": "b", "name": "乙", "type": "note", "text": " 一篇笔记 "},
        {"id": "a", "name": "甲", "type": "ad", "text": "x"},
    )
    rows = made(source="records")
    assert [r["id"] for r in rows] == ["a/ad/0", "b/note/0"]
    assert rows[1] == {"id": "b/note/0", "item": "b", "type": "note", "facts": {"name": "乙"}, "text": "一篇笔记"}
    assert metric() == {"n": 2, "types": {"ad": 1, "note": 1}, "failed": {}, "pii": {}, "tokens": {"in": 0, "out": 0}}


def bare(**changes: Any) -> list[dict[str, Any]]:
    """Rows of instruction, input and output: no id, one type."""
    values = {"source": "records", "required": ["instruction"], "fields": BARE, **changes}
    generate.main(section(**values), "r", CHAT, {"only": "唯一"})
    return files.read("data/generated.jsonl")


def pair(number: int, **more: Any) -> dict[str, Any]:
    return {"instruction": f"问{number}", "input": "", "output": f"答{number}", **more}


def test_a_row_without_an_id_is_named_by_its_content() -> None:
    items(pair(1), pair(2))
    before = {row["text"]: row for row in bare()}
    assert before["答1"]["facts"] == {"instruction": "问1", "input": ""}
    assert before["答1"]["id"] == f"{before['答1']['item']}/only/0"
    items(pair(3), pair(2), pair(1))
    after = {row["text"]: row for row in bare()}
    assert {text: row for text, row in after.items() if text in before} == before
    assert len({row["item"] for row in after.values()}) == 3


def test_rows_that_are_the_same_are_samples_of_one_item() -> None:
    items(pair(1), pair(2), pair(1), pair(1))
    rows = bare()
    assert sorted(row["id"].split("/", 1)[1] for row in rows) == ["only/0", "only/0", "only/1", "only/2"]
    assert len({row["item"] for row in rows}) == 2


def test_an_empty_text_cell_stays_and_an_empty_list_cell_goes() -> None:
    items(
        pair(1, input=None, tags=["x"], year=1999),
        {"instruction": "问2", "output": "答2", "tags": None, "note": "y"},
    )
    facts = {row["text"]: row["facts"] for row in bare()}
    assert facts["答1"] == {"instruction": "问1", "input": "", "note": "", "tags": ["x"], "year": 1999}
    assert facts["答2"] == {"instruction": "问2", "input": "", "note": "y"}


def test_a_text_that_is_no_text_becomes_compact_json_in_the_order_of_its_keys() -> None:
    items(pair(1, output={"z": [1.0, 0.25], "a": '页, "x"'}), pair(2, output=7))
    assert {row["text"] for row in bare()} == {'{"z":[1.0,0.25],"a":"页, \\"x\\""}', "7"}


@pytest.mark.parametrize("suffix", [".csv", ".json", ".parquet"])
def test_other_formats_give_the_same_bytes(suffix: str) -> None:
    import pandas

    items(pair(2, kind="b"), pair(1, kind="a"))
    bare()
    wanted = Path("data/generated.jsonl").read_bytes()
    frame = pandas.DataFrame([pair(1, kind="a"), pair(2, kind="b")])
    save = {".csv": frame.to_csv, ".json": frame.to_json, ".parquet": frame.to_parquet}[suffix]
    save(f"items{suffix}", **({"orient": "records"} if suffix == ".json" else {"index": False}))
    assert len(bare(items=f"items{suffix}")) == 2
    assert Path("data/generated.jsonl").read_bytes() == wanted


def test_a_shipped_table_is_the_same_in_every_format() -> None:
    import pandas

    rows = files.read(ROOT / "data/raw/alpaca/records.jsonl")
    types = {row["type"]: row["type"] for row in rows}
    fields, wanted = BARE | {"type": "type"}, dict[str, bytes]()
    for name, drop in (("csv", ["key"]), ("parquet", [])):  # a cell of CSV holds no list
        frame = pandas.DataFrame(rows).drop(columns=drop)
        frame.to_parquet("t.parquet") if name == "parquet" else frame.to_csv("t.csv", index=False)
        items(*[{key: value for key, value in row.items() if key not in drop} for row in rows])
        for path in ("items.jsonl", f"t.{name}"):
            generate.main(
                section(source="records", items=path, required=["key"][len(drop) :], fields=fields), "r", CHAT, types
            )
            wanted[path] = Path("data/generated.jsonl").read_bytes()
        assert wanted["items.jsonl"] == wanted[f"t.{name}"]
    assert len(rows) == len(set(wanted["t.parquet"].splitlines())) >= 400


def said(speaker: str, value: str) -> dict[str, str]:
    return {"from": speaker, "value": value}


def preferred(question: str, **more: Any) -> dict[str, Any]:
    values = {"chosen": said("gpt", f"好{question}"), "rejected": said("gpt", f"坏{question}"), **more}
    return {"conversations": [said("human", question)], **values}


def test_a_row_may_hold_a_worse_text_and_a_conversation() -> None:
    items(preferred("甲"), preferred("乙", conversations=[said("system", " 你答。\n"), said("human", "乙")], score=3))
    first, second = sorted(bare(required=["conversations.0.value"], fields=PAIRS), key=lambda row: row["text"])[::-1]
    assert first["facts"] == {"instruction": "甲", "system": ""}
    assert second["facts"] == {"instruction": "乙", "system": "你答。", "score": 3}
    assert (second["text"], second["rejected"]) == ("好乙", "坏乙")
    assert second.keys() == {"id", "item", "type", "facts", "text", "rejected"}
    assert (metric()["rows"], metric()["dropped"]) == (2, {"history": 0, "pii": 0})


def test_pairs_of_one_question_are_one_item_whatever_else_their_rows_hold() -> None:
    items(preferred("甲"), preferred("甲", chosen=said("gpt", "更好"), score=3), preferred("乙"), preferred("甲"))
    rows = bare(required=[], fields=PAIRS)
    assert len({row["id"] for row in rows}) == 4
    assert sorted(Counter((row["item"], row["facts"]["instruction"]) for row in rows).values()) == [1, 3]
    assert len({row["item"] for row in rows}) == 2
    before = Path("data/generated.jsonl").read_bytes()
    items(preferred("甲"), preferred("甲"), preferred("乙"), preferred("甲", chosen=said("gpt", "更好"), score=3))
    bare(required=[], fields=PAIRS)
    assert Path("data/generated.jsonl").read_bytes() == before


def test_a_pair_without_a_conversation_is_asked_by_its_facts() -> None:
    fields = BARE | {"rejected": "worse"}
    items(pair(1, worse="差"), pair(1, worse="更差"), pair(2, worse="差"))
    rows = bare(fields=fields)
    assert len({row["item"] for row in rows}) == 2
    assert {row["facts"]["instruction"]: row["facts"].keys() for row in rows}["问1"] == {"instruction", "input"}
    assert "rows" not in metric()


def test_personal_data_in_a_worse_text_counts_too() -> None:
    items(preferred("甲"), preferred("乙", rejected=said("gpt", "call 13912345678")))
    assert [row["rejected"] for row in bare(required=[], fields=PAIRS, pii="drop")] == ["坏甲"]
    assert (metric()["rows"], metric()["dropped"]) == (2, {"history": 0, "pii": 1})


def test_a_source_of_nothing_but_long_conversations_is_refused() -> None:
    items(preferred("甲", conversations=[said("human", "甲"), said("gpt", "答"), said("human", "再问")]))
    with pytest.raises(UserError, match=r"\Aitems\.jsonl: conversations: every question has earlier turns"):
        bare(required=[], fields=PAIRS)


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"rejected": said("gpt", " ")}, r"rejected\.value: ' ' is empty; fill it \(generate\.fields\.rejected\)"),
        ({"rejected": {"text": "x"}}, r"rejected: no 'value' in it; it holds: text; mend generate\.fields\.rejected"),
        ({"chosen": "x"}, r"chosen: no 'value' in it; it holds: x; mend generate\.fields\.text"),
        ({"conversations": [said("user", "x")]}, r"conversations\.0\.from: 'user': unknown speaker; known: system, "),
    ],
)
def test_a_wrong_pair_is_told_with_its_line(row: dict[str, Any], told: str) -> None:
    items(preferred("甲"), preferred("乙") | row)
    with pytest.raises(UserError, match=rf"\Aitems\.jsonl:2: {told}"):
        bare(required=[], fields=PAIRS)
    assert not Path("data/generated.jsonl").exists()


ROW = {"id": "a", "name": "甲", "type": "ad", "text": "x"}


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"type": "poem"}, "type: 'poem' is none of types: ad, note"),
        ({"type": ["ad"]}, r"type: \['ad'\] is none of types"),
        ({"type": None}, r"type: None is empty; fill it \(generate\.fields\.type\)"),
        ({"text": " "}, r"text: ' ' is empty; fill it \(generate\.fields\.text\) or take the row out"),
        ({"text": {}}, r"text: {} is empty; fill it \(generate\.fields\.text\)"),
        ({"name": ""}, r"name: '' is empty; fill it \(generate\.required\)"),
        ({"id": ""}, r"id: '' is empty; fill it \(generate\.fields\.id\)"),
        ({"id": "a/b"}, "id: 'a/b' holds '/'"),
        ({"id": "b"}, r"id: 'b' is the id of items\.jsonl:1 too; give each row its own"),
    ],
)
def test_a_wrong_row_is_told_with_its_line_and_leaves_no_output(row: dict[str, Any], told: str) -> None:
    items({**ROW, "id": "b"}, {**ROW, **row})
    with pytest.raises(UserError, match=rf"\Aitems\.jsonl:2: {told}"):
        made(source="records")
    assert not Path("data/generated.jsonl").exists()


@pytest.mark.parametrize("column", ["id", "type", "text"])
def test_a_column_that_is_not_there_is_told_with_those_that_are(column: str) -> None:
    items(ROW)
    with pytest.raises(
        UserError, match=r"items\.jsonl:1: no column 'other'; columns: id, name, type, text; name another"
    ):
        made(source="records", fields={**NAMED, column: "other"})


def test_two_types_need_a_column_that_tells_them_apart() -> None:
    items(ROW)
    with pytest.raises(UserError, match=r"generate\.fields\.type: empty, but types holds ad, note; name the column"):
        made(source="records", fields={**NAMED, "type": None})


def test_every_source_is_one_of_the_params() -> None:
    known = set(Generate.model_fields["source"].annotation.__args__)
    assert {"teacher", "records"} <= set(generate.SOURCES) <= known


@pytest.mark.real
@pytest.mark.skipif(not REAL.is_dir(), reason="no data beside the repository")
@pytest.mark.parametrize(
    ("path", "rows", "facts"),
    [
        ("alpaca/alpaca_en_demo.json", 999, {"instruction", "input"}),
        ("alpaca/alpaca_zh_demo.json", 1000, {"instruction", "input"}),
        ("tang/tang_poems.jsonl", 25_007, {"instruction", "input", "title", "author"}),
    ],
)
def test_the_files_that_users_bring(path: str, rows: int, facts: set[str]) -> None:
    start = time.process_time()
    made = bare(items=str(REAL / path))
    assert time.process_time() - start < 20  # 2 seconds where nothing else runs
    assert len(made) == len({row["id"] for row in made}) == rows
    assert {key for row in made for key in row["facts"]} == facts
    assert all(row["text"] and set(row["facts"]) == facts for row in made)


def test_a_teacher_never_sees_what_the_records_may_not_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def listen(body: dict[str, Any]) -> Reply:
        asked.append(json.dumps(body, ensure_ascii=False))
        return respond(body)

    monkeypatch.setattr(phrase_teacher, "teacher", lambda _bank: listen)
    items(sheet("p1") | {"name": "call 13912345678"}, sheet("p2"))
    rows = made(pii="mask")
    assert asked
    assert not any("13912345678" in text for text in [*asked, json.dumps(rows)])
    assert metric()["pii"]["found"] == {"phone": 1}
    assert {row["item"] for row in made(pii="drop")} == {"p2"}


def test_a_band_that_is_upside_down_is_refused() -> None:
    with pytest.raises(ValueError, match="min_tokens is more than max_tokens"):
        Markdown(templates=["rewrite"], min_tokens=900, max_tokens=220, tables="drop")

"""essays: what is given, what is wanted and where it stands; who is asked, and what nobody may be asked."""

import json
import random
import re
from pathlib import Path

import pytest

from anneal.errors import UserError
from anneal.llm.request import Answer
from anneal.sources import chunks, essays, markdown
from anneal.sources.chunks import Chunk

LEAST, MOST = 300, 800


def document(folder: Path, text: str, name: str = "deep-essay") -> markdown.Document:
    (folder / f"{name}.md").write_text(text, "utf-8")
    (folder / "meta.json").write_text('{"author": "A"}')
    return next(one for one in markdown.documents(folder, "drop") if one.id == name)


def long_text(seed: int) -> str:
    rng, paragraphs = random.Random(seed), []
    for _ in range(20):
        sizes = [rng.randint(5, 30) for _ in range(6)]
        paragraphs.append("".join("".join(chr(rng.randint(0x4E00, 0x9000)) for _ in range(n)) + "。" for n in sizes))
    return "# Title\n\n" + "\n\n".join(paragraphs) + "\n\n```\ncode\n```\n"


@pytest.fixture
def parts(tmp_path: Path) -> list[Chunk]:
    return chunks.chunks(document(tmp_path, long_text(3)), LEAST, MOST)


def test_records_hold_what_is_given_what_is_wanted_and_where_it_stands(parts: list[Chunk]) -> None:
    found = parts
    rows = essays.records(found, ["rewrite", "continue", "expand"])
    assert len(rows) == 3 * len(found)
    assert len({row["id"] for row in rows}) == len(rows)
    assert {row["item"] for row in rows} == {"deep-essay"}
    assert {row["id"] for row in rows[:3]} == {f"deep-essay-1/{kind}/0" for kind in ("rewrite", "continue", "expand")}
    for part, row in zip(found, rows[1::3], strict=True):
        head, rest = row["facts"]["given"], row["text"]
        assert "".join((head + rest).split()) == "".join(part.text.split())
        assert 0.15 < chunks.tokens(head) / chunks.tokens(part.text) < 0.55
        assert re.search(r"[。！？.]”?$", head) or "\n" in part.text
    assert set(rows[0]["facts"]) == {"author", "title", "date", "given", "source", "lines"}
    assert rows[0]["facts"] | {"lines": ""} == {
        "author": "A",
        "title": "Title",
        "date": "",
        "given": "",
        "source": "deep-essay.md",
        "lines": "",
    }
    assert rows[0]["facts"]["lines"].startswith("1-")


def test_a_single_sentence_cannot_be_continued(tmp_path: Path) -> None:
    found = chunks.chunks(document(tmp_path, "one sentence only"), LEAST, MOST)
    assert [row["type"] for row in essays.records(found, ["rewrite", "continue", "expand"])] == ["rewrite", "expand"]


def test_the_teacher_is_asked_for_what_is_not_given_and_fills_it(tmp_path: Path, parts: list[Chunk]) -> None:
    (tmp_path / "rewrite.md").write_text("Plain, of $title:\n<text>\n$text\n</text>")
    (tmp_path / "expand.md").write_text("Sum up <text>$text</text>")
    rows = essays.records(parts[:2], ["rewrite", "continue", "expand"])
    asked = essays.calls(rows, tmp_path)
    assert [call.id for call in asked] == [row["id"] for row in rows if row["type"] != "continue"]
    assert rows[0]["text"] in asked[0].messages[0]["content"]
    assert "of Title:" in asked[0].messages[0]["content"]
    answers = [Answer(asked[0].id, "ok", text=" plain \n"), Answer(asked[1].id, "failed", "timeout")]
    filled = essays.fill_given(rows, answers)
    assert [row["id"].split("/")[0] + row["type"] for row in filled] == [
        "deep-essay-1rewrite",
        "deep-essay-1continue",
        "deep-essay-2continue",
    ]
    assert filled[0]["facts"]["given"] == "plain"
    assert rows[0]["facts"]["given"] == "", "the records handed in are as they were"
    with pytest.raises(UserError, match="no such prompt file"):
        essays.calls(rows, tmp_path / "none")


def test_personal_data_goes_before_anything_is_asked(tmp_path: Path) -> None:
    whole = document(tmp_path, "# Call 13800138000\n\nMy mail is li@mail.example.org.cn. It is.\n\nAgain 13800138000.")
    found = chunks.chunks(whole, 1, 50)
    kept, counts = essays.safe(found, "mask")
    assert counts["found"] == {"email": 1, "phone": 3}, "the title counts too"
    said = "".join(part.text + part.title for part in kept)
    assert "13800138000" not in said
    assert "li@mail" not in said
    assert len(set(re.findall(r"\d{11}", said))) == 1, "one number, one surrogate"
    assert kept[0].lines == found[0].lines
    assert essays.safe(found, "report")[0] == found
    assert essays.safe(found, "drop")[0] == [], "a title holds it, so no chunk of it may stay"
    assert essays.safe(found, "off") == (found, {})


def test_the_summary_counts(tmp_path: Path) -> None:
    whole = document(tmp_path, long_text(1))
    found = chunks.chunks(whole, LEAST, MOST)
    numbers = essays.summary([whole, document(tmp_path, "```\nx\n```", "code")], found, LEAST)
    assert (numbers["documents"], numbers["chunks"], numbers["authors"]) == (2, len(found), {"A": 2})
    assert numbers["dropped"]["code"] >= 1
    assert numbers["short"] == sum(chunks.tokens(part.text) < LEAST for part in found)
    assert essays.summary([], [], LEAST)["tokens"] == {}


def test_a_folder_becomes_records_and_counts(tmp_path: Path) -> None:
    document(tmp_path, long_text(4), "one")
    document(tmp_path, long_text(5) + "\n\n13800138000 is my number.\n", "two")
    rows, counts = essays.read(tmp_path, ["rewrite", "continue"], LEAST, MOST, "drop", "mask")
    assert {row["item"] for row in rows} == {"one", "two"}
    assert counts["essays"]["chunks"] * 2 == len(rows)
    assert counts["pii"]["found"] == {"phone": 1}
    assert "13800138000" not in json.dumps([rows, counts], ensure_ascii=False)
    assert essays.read(tmp_path, ["rewrite", "continue"], LEAST, MOST, "drop", "mask") == (rows, counts)

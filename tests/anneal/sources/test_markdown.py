"""markdown: what is prose stays as it is written, what is not goes, and every kept line knows its place."""

import json
from pathlib import Path

import pytest

from anneal.errors import UserError
from anneal.sources import markdown

FULL = """---
title: A title
date: 2021-02-03
tags: [tea, cups]
---
# First

Words <b>bold</b> and `code <b>` stay,
a second line <br> too <!-- a
note --> here.

- item

  ```py
  x = 1
  ```
- next

> quoted

| a | b |
|---|---|
| 1 | 2 |

<div>
hidden
</div>

![picture](cup.png)

[1]: http://example.com/one

***

    indented code

Last words.
"""


def put(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        path = folder / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
    return folder


def one(tmp_path: Path, text: str, tables: markdown.Tables = "drop") -> markdown.Document:
    return markdown.documents(put(tmp_path, essay_dot_md=text), tables)[0]


def test_prose_stays_and_everything_else_goes_and_is_counted(tmp_path: Path) -> None:
    found = one(tmp_path, FULL)
    assert found.text == (
        "# First\n\nWords bold and `code <b>` stay,\na second line   too\n here."
        "\n\n- item\n\n- next\n\n> quoted\n\nLast words."
    )
    assert dict(found.dropped) == {"code": 2, "table": 1, "html": 1, "image": 1, "rule": 1}
    assert found.meta == {"title": "A title", "date": "2021-02-03", "author": "", "tags": ["tea", "cups"]}


def test_every_kept_line_is_traced_to_its_line_in_the_file(tmp_path: Path) -> None:
    found, source = one(tmp_path, FULL, "keep"), FULL.split("\n")
    lines = found.text.split("\n")
    offset, checked = 0, 0
    for line in lines:
        if line and "<" not in source[found.line(offset) - 1] and "-->" not in source[found.line(offset) - 1]:
            assert source[found.line(offset) - 1] == line
            checked += 1
        offset += len(line) + 1
    assert checked == 8
    assert found.line(len(found.text) - 1) == source.index("Last words.") + 1
    assert "| 1 | 2 |" in found.text


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("one\r\ntwo\r\n\r\nthree\r\n", "one\ntwo\n\nthree"),
        ("\ufeff---\ntitle: T\n---\nwords", "words"),
        ("+++\ntitle = 'T'\n+++\nwords", "words"),
        ("---\n\nwords after a rule\n\n---\n\nmore", "words after a rule\n\nmore"),
        ("---\nno end of a front", "no end of a front"),
        ("```\nnever closed\n\nwords", ""),
        ("a\u2028b\x0bc", "a\u2028b\x0bc"),
        ("<p>all html</p>\n\nwords", "words"),
        ("Title\n=====\n\nwords", "Title\n=====\n\nwords"),
        ("> quote\n> ```\n> code\n> ```\n> end", "> quote\n> end"),
        ("`a <i>` b <i>c</i>", "`a <i>` b c"),
        (r"\<i> `<i>` <i>c</i>", r"\<i> `<i>` c"),
        ("`` <i> `` <i>c</i>", "`` <i> `` c"),
        ("", ""),
    ],
)
def test_the_odd_forms_of_files(tmp_path: Path, text: str, kept: str) -> None:
    put(tmp_path, other_dot_md="something").joinpath("essay.md").write_bytes(text.encode())
    assert markdown.documents(tmp_path, "drop")[0].text == kept


def test_the_nearest_word_about_a_text_counts(tmp_path: Path) -> None:
    put(
        tmp_path,
        meta_dot_json='{"author": "top", "date": "2001-01-01", "tags": ["all"]}',
        a__meta_dot_json='{"author": "folder", "mood": "mine"}',
        a__b__one_dot_md="---\ndate: 2002-02-02\ntitle: front\n---\nwords",
        a__b__one_dot_meta_dot_json='{"title": "beside"}',
        two_dot_markdown="# Heading\n\nwords",
        three_dot_md="words",
        _dot_hidden__four_dot_md="not read",
    )
    found = {document.source: document.meta for document in markdown.documents(tmp_path, "drop")}
    assert found == {
        "a/b/one.md": {"title": "beside", "date": "2002-02-02", "author": "folder", "tags": ["all"]},
        "three.md": {"title": "three", "date": "2001-01-01", "author": "top", "tags": ["all"]},
        "two.markdown": {"title": "Heading", "date": "2001-01-01", "author": "top", "tags": ["all"]},
    }


def test_ids_are_made_of_the_path_and_hold_no_slash(tmp_path: Path) -> None:
    put(tmp_path, a__b_dot_md="x", a__c_c_dot_d_dot_md="x", **{"文 章_dot_md": "x"})
    assert [document.id for document in markdown.documents(tmp_path, "drop")] == ["a-b", "a-c_c.d", "文-章"]


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({}, "holds no Markdown file with prose"),
        ({"a_dot_md": "```\nonly code\n```"}, "holds no Markdown file with prose"),
        ({"a_dot_md": "x", "a_dot_meta_dot_json": "{,}"}, r"a\.meta\.json:1:2: not JSON"),
        ({"a_dot_md": "x", "meta_dot_json": "[1]"}, r"meta\.json:1:1: expected an object .* got list"),
        (
            {"a_dot_md": "x", "meta_dot_json": '{"tags": "tea"}'},
            r"meta\.json: tags: expected a list of words, got 'tea'",
        ),
        ({"a_dot_md": "x", "meta_dot_json": '{"title": 3}'}, r"meta\.json: title: expected text, got 3"),
        ({"a_dot_md": "x", "meta_dot_json": '{"date": "May"}'}, r"meta\.json: date: expected YYYY-MM-DD, got 'May'"),
        ({"a_dot_md": "---\nok: 1\ntitle: [x\n---\n"}, r"a\.md:3: front matter is not YAML"),
        ({"a_dot_md": "+++\ntitle\n+++\n"}, r"a\.md:\d: front matter is not TOML"),
        ({"a_dot_md": "---\ndate: 3\n---\nx"}, r"a\.md: date: expected text, got 3"),
        ({"a__b_dot_md": "x", "a-b_dot_md": "x"}, r"a-b\.md and a/b\.md both get the id|a/b\.md and a-b\.md both get"),
    ],
)
def test_bad_input_is_one_clear_line(tmp_path: Path, files: dict[str, str], words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        markdown.documents(put(tmp_path, **files), "drop")
    assert "\n" not in str(caught.value)


def test_a_file_in_another_encoding_is_refused_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_bytes("first\n文章".encode("gbk"))
    with pytest.raises(UserError, match=r"a\.md:2: not UTF-8 at byte 6; save"):
        markdown.documents(tmp_path, "drop")


def test_a_date_of_json_and_of_yaml_are_the_same(tmp_path: Path) -> None:
    put(
        tmp_path,
        a_dot_md="---\ndate: 2020-05-01 10:00:00\n---\nx",
        b_dot_md="x",
        b_dot_meta_dot_json=json.dumps({"date": "2020-05-01"}),
    )
    assert [document.meta["date"] for document in markdown.documents(tmp_path, "drop")] == ["2020-05-01"] * 2
    assert markdown.beside(tmp_path / "none.json") == {}

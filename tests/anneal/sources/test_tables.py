"""table: four formats, the same rows; whatever is wrong is told with file, place, column and value."""

import csv
import datetime
import decimal
import json
from pathlib import Path
from typing import Any

import pytest

from anneal.errors import UserError
from anneal.sources import tables

ROWS = [
    {"instruction": "数一数，\n有几个", "input": '一个"引号"，两个, 逗号', "output": "3 个"},
    {"instruction": "Say hello", "input": "", "output": "Hello\u2028there"},
]


def write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def write_parquet(path: Path, rows: list[dict[str, Any]]) -> None:
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)


def lines(rows: list[dict[str, Any]], between: str) -> str:
    return between.join(json.dumps(row, ensure_ascii=False) for row in rows)


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    if path.suffix == ".json":
        path.write_text("[" + lines(rows, ",\n") + "]", "utf-8")
    elif path.suffix == ".jsonl":
        path.write_text(lines(rows, "\n"), "utf-8")
    else:
        {".csv": write_csv, ".parquet": write_parquet}[path.suffix](path, rows)


@pytest.mark.parametrize("suffix", list(tables.READERS))
def test_every_format_gives_the_same_rows_and_digests(toy: Path, suffix: str) -> None:
    write(Path(f"t{suffix}"), ROWS)
    rows = tables.read(f"t{suffix}")
    assert [row.values for row in rows] == ROWS
    write(Path("other.jsonl"), ROWS[::-1])
    assert [row.digest() for row in rows] == [row.digest() for row in tables.read("other.jsonl")][::-1]
    assert len({row.digest() for row in rows}) == 2


def test_an_empty_a_null_and_a_missing_cell_have_one_digest_and_a_zero_another(toy: Path) -> None:
    cells = ['{"a":"x","b":""}', '{"a":"x","b":null}', '{"a":"x"}', '{"a":"x","b":NaN}', '{"a":"x","b":0}']
    Path("t.jsonl").write_text("\n".join(cells))
    digests = [row.digest() for row in tables.read("t.jsonl")]
    assert len(set(digests[:4])) == 1
    assert digests[4] != digests[0]


@pytest.mark.parametrize("suffix", [".csv", ".json", ".jsonl"])
def test_a_byte_order_mark_is_no_part_of_a_name(toy: Path, suffix: str) -> None:
    write(Path(f"t{suffix}"), ROWS)
    Path(f"t{suffix}").write_bytes(b"\xef\xbb\xbf" + Path(f"t{suffix}").read_bytes())
    assert [row.values for row in tables.read(f"t{suffix}")] == ROWS


def test_places_count_lines_where_there_are_any(toy: Path) -> None:
    Path("t.csv").write_text('a,b\n"x\ny",1\n\n2,3\n')
    assert [row.place for row in tables.read("t.csv")] == ["t.csv:2", "t.csv:5"]
    Path("t.jsonl").write_text('\n{"a": 1}\r\n\n{"a": 2}\n')
    assert [row.place for row in tables.read("t.jsonl")] == ["t.jsonl:2", "t.jsonl:4"]
    Path("t.JSON").write_text('[{"a": 1}, {"a": 2}]')
    assert [row.place for row in tables.read("t.JSON")] == ["t.JSON: row 1", "t.JSON: row 2"]


def test_parquet_keeps_lists_and_objects_and_tells_dates_and_decimals_as_text(toy: Path) -> None:
    day, price = datetime.date(2026, 1, 31), decimal.Decimal("1.50")
    write(Path("t.parquet"), [{"list": [{"x": 0.5}], "day": day, "price": price, "none": None, "nan": float("nan")}])
    row = tables.read("t.parquet")[0].values
    assert row == {"list": [{"x": 0.5}], "day": "2026-01-31", "price": "1.50", "none": None, "nan": None}


def test_a_pandas_index_and_a_partition_folder_add_no_column(toy: Path) -> None:
    import pandas

    Path("language=en").mkdir()
    pandas.DataFrame({"a": ["x", "y"]}, index=[5, 3]).to_parquet("language=en/t.parquet")
    assert [row.values for row in tables.read("language=en/t.parquet")] == [{"a": "x"}, {"a": "y"}]


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("t.xlsx", b"x", r"t\.xlsx: unknown suffix '\.xlsx'; known: \.csv, \.json, \.jsonl, \.parquet"),
        ("t", b"x", "t: unknown suffix ''"),
        ("t.csv", b"a,b\nx,\xff\n", r"t\.csv:2:3: byte 0xff: not UTF-8; save the file as UTF-8"),
        ("t.jsonl", b'\xef\xbb\xbf{"a":"\xe9"}\n', r"t\.jsonl:1:10: byte 0xe9: not UTF-8"),
        ("t.json", '[{"a": "你"}]'.encode("utf-16"), r"t\.json:1:1: byte 0xff: not UTF-8"),
        ("t.csv", b"a,b\n1,2,3\n", r"t\.csv:2: 3 cells where the first line names 2 columns, first '1'; quote"),
        ("t.csv", b"a,b\n1\n", r"t\.csv:2: 1 cells where"),
        ("t.csv", b"a,a\n1,2\n", r"t\.csv:1: column 2: the name 'a' is empty or taken"),
        ("t.csv", b"a,\n1,2\n", r"t\.csv:1: column 2: the name '' is empty or taken"),
        ("t.csv", b'a,b\n1,2\n3,"x\ny\n', r"t\.csv:\d: not CSV: unexpected end of data"),
        ("t.csv", b'a,b\n"x"y,2\n', r"t\.csv:\d: not CSV: ',' expected after '\"'; double every quote"),
        ("t.csv", b"a,b\n", r"t\.csv: holds no row"),
        ("t.csv", b"", r"t\.csv: holds no row"),
        ("t.json", b"[]", r"t\.json: holds no row"),
        ("t.json", b'[{"a": 1},\n {"a": }]', r"t\.json:2:8: not JSON: Expecting value; mend the file"),
        ("t.json", b'{"a": 1}', r"t\.json:1:1: expected an array of objects, got dict; or rename it to \.jsonl"),
        ("t.json", b'[{"a": 1}, 7]', r"t\.json: row 2: '7': expected an object of columns, got int"),
        ("t.json", b"[" * 200_000, r"t\.json:1:1: not JSON"),
        ("t.jsonl", b'{"a": 1}\n\n{"a": 1\n', r"t\.jsonl:3:8: not JSON"),
        ("t.jsonl", b'{"a": 1}\n[1]\n', r"t\.jsonl:2: '\[1\]': expected an object of columns, got list"),
        ("t.jsonl", b'{"a": 1' + b"0" * 5000 + b"}", r"t\.jsonl:1:1: not JSON: Exceeds the limit"),
        ("t.jsonl", b'{"a": 1e999}', r"t\.jsonl:1: a: 'inf' is float; write it as text or as a number"),
        ("t.jsonl", b'{"a": ["x\\ud83d"]}', r"t\.jsonl:1: a: 'x\\ud83d' holds half a surrogate pair"),
        ("t.parquet", b"PAR1 and no more", r"t\.parquet: not Parquet: "),
    ],
)
def test_a_broken_file_is_told_in_one_line(toy: Path, name: str, content: bytes, told: str) -> None:
    Path(name).write_bytes(content)
    with pytest.raises(UserError, match=rf"\A{told}") as error:
        tables.read(name)
    assert "\n" not in str(error.value)


def test_bytes_in_a_column_are_refused_with_their_row(toy: Path) -> None:
    write(Path("t.parquet"), [{"a": b"x"}])
    with pytest.raises(UserError, match=r"t\.parquet: row 1: a: \"b'x'\" is bytes"):
        tables.read("t.parquet")


@pytest.mark.parametrize("name", ["no.csv", "folder.json"])
def test_a_missing_file_and_a_folder_are_refused(toy: Path, name: str) -> None:
    Path("folder.json").mkdir()
    with pytest.raises(UserError, match=r"no such file; generate\.items names it"):
        tables.read(name)


def test_need_tells_the_column_the_value_and_the_key() -> None:
    row = tables.Row("t.csv:2", {"a": 0, "b": " ", "c": None, "d": [], "e": False})
    assert (row.need("a", "k"), row.need("e", "k")) == (0, False)
    for column, value in (("b", "' '"), ("c", "None"), ("d", r"\[\]")):
        with pytest.raises(
            UserError, match=rf"t\.csv:2: {column}: {value} is empty; fill it \(k\) or take the row out"
        ):
            row.need(column, "k")
    with pytest.raises(UserError, match=r"t\.csv:2: no column 'f'; columns: a, b, c, d, e; name another in k"):
        row.need("f", "k")


def test_need_follows_a_path_into_objects_and_lists() -> None:
    row = tables.Row("t.json: row 2", {"a": {"b": [{"c": "x"}, {"c": 0}]}, "a.b": "literal", "t": "xy", "n": None})
    assert (row.need("a.b", "k"), row.need("a.b.0.c", "k"), row.need("a.b.-1.c", "k")) == ("literal", "x", 0)
    for path, told in (
        ("a.x", "a: no 'x' in it; it holds: b; mend k"),
        ("a.b.2.c", r"a\.b: no '2' in it; it holds: \[\{'c': 'x'\}, \{'c': 0\}\]; mend k"),
        ("a.b.c", r"a\.b: no 'c' in it"),
        ("t.0", "t: no '0' in it; it holds: xy; mend k"),
        ("n.x", "n: no 'x' in it; it holds: None; mend k"),
        ("f.x", "no column 'f'; columns: a, a.b, t, n; name another in k"),
    ):
        with pytest.raises(UserError, match=rf"\At\.json: row 2: {told}"):
            row.need(path, "k")


def test_text_columns_hold_text_or_nothing() -> None:
    rows = [tables.Row("1", {"a": "x", "b": None, "n": "1"}), tables.Row("2", {"a": None, "n": 1, "late": "y"})]
    assert tables.text_columns(rows) == ["a", "b", "late"]


def test_a_cell_may_hold_a_book(toy: Path) -> None:
    book = "page, " * 40_000
    Path("book.csv").write_text(f'text,n\n"{book}",1\n', "utf-8")
    assert tables.read("book.csv")[0].values["text"] == book

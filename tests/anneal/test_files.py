"""Files: a bad line is named, and a file is written in full or not at all."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anneal import files
from anneal.errors import UserError

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.lists(st.dictionaries(st.text(), values, max_size=4), max_size=5))
def test_records_are_read_back_as_written(tmp_path_factory: pytest.TempPathFactory, records: list[dict]) -> None:
    path = tmp_path_factory.mktemp("jsonl") / "rows.jsonl"
    files.write(path, records)
    assert files.read(path) == records


@pytest.mark.parametrize(
    ("raw", "place", "word"),
    [
        (b'{"id": 1}\n{"id": }\n', ":2:8:", "not JSON"),
        (b'{"id": 1}\n\xff\n', ":2:1:", "UTF-8"),
        (b"[1]\n", ":1:1:", "expected an object"),
        (b'{"id": 1}\n\n{"id": 2, "name": ""}\n', ":1:", "'name'"),
        (b'{"id": 1}\n{"id": "a\\ud83d"}\n', ":2:", "\\ud83d is half a character"),
        (b'{"id": 1}\n{"id": ' + b"[" * 100_000 + b"]" * 100_000 + b"}\n", ":2:", "nested too deeply"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, raw: bytes, place: str, word: str) -> None:
    (tmp_path / "rows.jsonl").write_bytes(raw)
    with pytest.raises(UserError) as caught:
        files.read(tmp_path / "rows.jsonl", "id", "name") if word == "'name'" else files.read(tmp_path / "rows.jsonl")
    assert place in str(caught.value)
    assert word in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_pair_of_surrogates_is_a_character(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_bytes(b'{"id": "\\ud83d\\ude00"}\n')
    assert files.read(tmp_path / "rows.jsonl") == [{"id": "\U0001f600"}]


def test_a_line_separator_inside_a_string_is_no_new_line(tmp_path: Path) -> None:
    files.write(tmp_path / "rows.jsonl", [{"text": "a\u2028b\x85c"}])
    assert files.read(tmp_path / "rows.jsonl") == [{"text": "a\u2028b\x85c"}]


def test_a_failed_write_leaves_the_old_file_and_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    files.write_json(path, {"score": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        files.write_json(path, {"score": float("nan")})
    assert json.loads(path.read_text()) == {"score": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["metrics.json"]


def test_metrics_have_one_form(tmp_path: Path) -> None:
    files.write_json(tmp_path / "a.json", {"b": 0.1 + 0.2, "a": (1, 2)})
    files.write_json(tmp_path / "b.json", {"a": [1, 2], "b": 0.3})
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


def test_a_folder_is_replaced_in_full(tmp_path: Path) -> None:
    files.write_folder(tmp_path / "model", lambda p: (p / "old").write_text("1") and None)
    files.write_folder(tmp_path / "model", lambda p: (p / "new").write_text("2") and None)
    assert [p.name for p in (tmp_path / "model").iterdir()] == ["new"]

    def fails(folder: Path) -> None:
        (folder / "half").write_text("3")
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        files.write_folder(tmp_path / "model", fails)
    assert [p.name for p in (tmp_path / "model").iterdir()] == ["new"]
    assert [p.name for p in tmp_path.iterdir()] == ["model"]

"""The first difference of two versions of a file: the file, the line, the row, the key and both values."""

from __future__ import annotations

from pathlib import Path

import pytest

from anneal.history import byte_diff


@pytest.mark.parametrize(
    ("path", "stored", "recomputed", "message"),
    [
        ("m.json", '{"a": {"b": 1.5}}', '{"a": {"b": 1.6}}', "m.json: a.b: 1.5 stored, 1.6 recomputed"),
        ("m.json", '{"a": 1}', "{}", "m.json: a: 1 stored, null recomputed"),
        ("m.json", '{"a": 1}', '{ "a": 1}', "m.json: equal values, formatted differently"),
        (
            "r.jsonl",
            '{"id": "p1"}\n{"id": "p2", "score": 4}\n',
            '{"id": "p1"}\n{"id": "p2", "score": 5}\n',
            "r.jsonl:2: p2: score: 4 stored, 5 recomputed",
        ),
        ("r.jsonl", '{"id": "p1"}\n{"id": "p2"}\n', '{"id": "p1"}\n', "r.jsonl: 2 lines stored, 1 recomputed"),
        (
            "t.tsv",
            "step\tloss\n1\t0.5\n",
            "step\tloss\n1\t0.6\n",
            't.tsv:2: "1\\t0.5" stored, "1\\t0.6" recomputed',
        ),
        ("t.tsv", "a\n", "a", "t.tsv: same lines, different bytes"),
        ("t.tsv", "a\n", "a\n", ""),
    ],
)
def test_the_first_difference_is_named(path: str, stored: str, recomputed: str, message: str) -> None:
    assert byte_diff.difference(path, stored.encode(), recomputed.encode()) == message


def test_a_long_value_is_cut() -> None:
    assert byte_diff.first_change({"a": "x" * 100}, {"a": "y"}) == f'a: "{"x" * 56}... stored, "y" recomputed'


def test_a_folder_is_read_file_by_file(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a").write_bytes(b"1")
    (tmp_path / "b").write_bytes(b"2")
    assert byte_diff.contents(tmp_path) == {"b": b"2", "in/a": b"1"}
    assert list(byte_diff.contents(tmp_path / "b").values()) == [b"2"]

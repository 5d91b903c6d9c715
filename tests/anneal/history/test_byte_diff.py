"""What two versions of a file differ in: the file, the line, the row, the key, both values."""

from __future__ import annotations

from pathlib import Path

import pytest

from anneal.history import byte_diff


@pytest.mark.parametrize(
    ("path", "here", "again", "said"),
    [
        ("m.json", '{"a": {"b": 1.5}}', '{"a": {"b": 1.6}}', "m.json: a.b: 1.5 here, 1.6 again"),
        ("m.json", '{"a": 1}', "{}", "m.json: a: 1 here, null again"),
        ("m.json", '{"a": 1}', '{ "a": 1}', "m.json: the same values, written in another way"),
        (
            "r.jsonl",
            '{"id": "p1"}\n{"id": "p2", "score": 4}\n',
            '{"id": "p1"}\n{"id": "p2", "score": 5}\n',
            "r.jsonl:2: p2: score: 4 here, 5 again",
        ),
        ("r.jsonl", '{"id": "p1"}\n{"id": "p2"}\n', '{"id": "p1"}\n', "r.jsonl: 2 lines here, 1 again"),
        ("t.tsv", "step\tloss\n1\t0.5\n", "step\tloss\n1\t0.6\n", 't.tsv:2: "1\\t0.5" here, "1\\t0.6" again'),
        ("t.tsv", "a\n", "a", "t.tsv: other bytes"),
        ("t.tsv", "a\n", "a\n", ""),
    ],
)
def test_the_first_difference_has_a_name(path: str, here: str, again: str, said: str) -> None:
    assert byte_diff.difference(path, here.encode(), again.encode()) == said


def test_a_long_value_is_cut() -> None:
    assert byte_diff.values({"a": "x" * 100}, {"a": "y"}) == f'a: "{"x" * 56}... here, "y" again'


def test_a_folder_is_its_files(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a").write_bytes(b"1")
    (tmp_path / "b").write_bytes(b"2")
    assert byte_diff.files(tmp_path) == {"b": b"2", "in/a": b"1"}
    assert list(byte_diff.files(tmp_path / "b").values()) == [b"2"]

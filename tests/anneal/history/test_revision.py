"""The data files of a revision, read from the cache of DVC in its default or configured place."""

from __future__ import annotations

from pathlib import Path

import pytest

from anneal.history import revision
from anneal.history.revision import Snapshot
from tests.keeping import keep, write

ROWS = [{"id": "a"}, {"id": "b"}]


def test_rows_are_read_from_the_cache(toy: Path) -> None:
    old = Snapshot("main", lock={"data/train.jsonl": keep(ROWS), "data/test.jsonl": "0" * 32})
    assert revision.data(old, "data/train.jsonl") == ROWS
    assert revision.data(old, "data/test.jsonl") is None, "not in the cache"
    assert revision.data(old, "data/other.jsonl") is None, "not in the lock"


@pytest.mark.parametrize("name", ["config", "config.local"])
def test_the_cache_folder_is_read_from_the_configuration(toy: Path, name: str) -> None:
    md5 = keep(ROWS, str(toy / "shared"))
    write(f".dvc/{name}", [])
    Path(f".dvc/{name}").write_text(f"[core]\n    analytics = false\n[cache]\n    dir = {toy / 'shared'}\n")
    assert revision.data(Snapshot("main", lock={"x": md5}), "x") == ROWS
    Path(f".dvc/{name}").write_text("[cache]\n    dir = ../shared\n")
    assert revision.data(Snapshot("main", lock={"x": md5}), "x") == ROWS, "relative to .dvc"
    Path(f".dvc/{name}").write_text("no section\n")
    assert revision.data(Snapshot("main", lock={"x": md5}), "x") is None


def test_a_broken_file_of_the_cache_gives_no_rows(toy: Path) -> None:
    md5 = keep(ROWS)
    path = Path(".dvc/cache/files/md5", md5[:2], md5[2:])
    path.write_text("{")
    assert revision.data(Snapshot("main", lock={"x": md5}), "x") is None


def test_the_working_tree_snapshot_holds_the_outputs_of_its_lock(toy: Path) -> None:
    Path("dvc.lock").write_text(
        "schema: '2.0'\nstages:\n  split:\n    cmd: x\n    deps: [{path: data/train.jsonl, md5: no}]\n"
        "    outs: [{path: data/train.jsonl, md5: yes1}]\n"
    )
    assert revision.here().lock == {"data/train.jsonl": "yes1"}
    write("data/train.jsonl", ROWS)
    assert revision.rows("data/train.jsonl") == ROWS
    assert revision.rows("data/test.jsonl") is None

"""Fingerprints: unfinished work follows the import closure, the inputs, the values and the library versions."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from anneal import fingerprint
from tests.conftest import ROOT, pipeline

# Stages that name a folder of unfinished work after their code.
RESUMABLE = ("train", "align", "reward", "answer", "rollout", "base")
# Packages that no script of dvc.yaml imports.
OUTSIDE = ("anneal/report", "anneal/human", "anneal/history", "commands")
VALUES = {"lr": 0.1, "seed": 1}


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of the code, which the fingerprints read in place of the checkout."""
    for package in fingerprint.PACKAGES:
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(fingerprint, "ROOT", tmp_path)
    fingerprint.imports.cache_clear()
    yield tmp_path
    fingerprint.imports.cache_clear()


def names(root: Path) -> dict[str, tuple[str, str]]:
    """Both names of the unfinished work of every resumable stage, from the code as it stands on disk now."""
    fingerprint.imports.cache_clear()
    closures = {stage: fingerprint.code(root / "stages" / f"{stage}.py") for stage in RESUMABLE}
    return {
        stage: (fingerprint.of(closure, VALUES), fingerprint.digest(closure)) for stage, closure in closures.items()
    }


def append_comment(path: Path) -> None:
    path.write_text(path.read_text("utf-8") + "# edited\n", "utf-8")


def test_the_closure_is_the_code_deps_of_dvc_yaml() -> None:
    closure = fingerprint.code(ROOT / "stages/train.py")
    assert {str(path.relative_to(ROOT)) for path in closure} == pipeline()["train"].code
    assert closure == sorted(closure)
    assert ROOT / "anneal/training/loop.py" in closure


@pytest.mark.parametrize("stage", RESUMABLE)
def test_a_resumable_stage_names_its_work_after_its_closure(stage: str) -> None:
    assert "fingerprint.code(__file__)" in (ROOT / "stages" / f"{stage}.py").read_text("utf-8")


def test_an_edit_outside_of_every_closure_keeps_unfinished_work(checkout: Path) -> None:
    before = names(checkout)
    files = [path for folder in OUTSIDE for path in sorted((checkout / folder).glob("*.py"))]
    assert len(files) > 20
    for path in files:
        append_comment(path)
    assert names(checkout) == before


def test_an_edit_of_a_file_renames_the_work_of_those_stages_that_import_it(checkout: Path) -> None:
    closures = {stage: fingerprint.code(checkout / "stages" / f"{stage}.py") for stage in RESUMABLE}
    checked = 0
    for path in ("anneal/files.py", "anneal/models/loading.py", "anneal/training/dpo.py", "anneal/decoding/search.py"):
        before = names(checkout)
        append_comment(checkout / path)
        after = names(checkout)
        users = {stage for stage, closure in closures.items() if checkout / path in closure}
        assert users, f"{path}: no resumable stage imports it"
        for stage in RESUMABLE:
            changed = [old != new for old, new in zip(before[stage], after[stage], strict=True)]
            assert changed == [stage in users] * 2, f"{stage} after an edit of {path}"
            checked += 1
    assert checked == 4 * len(RESUMABLE)


@pytest.mark.parametrize("stage", RESUMABLE)
def test_an_edit_of_the_script_renames_its_own_work_alone(stage: str, checkout: Path) -> None:
    before = names(checkout)
    append_comment(checkout / "stages" / f"{stage}.py")
    after = names(checkout)
    assert {name for name in RESUMABLE if before[name] != after[name]} == {stage}


def test_a_new_import_inside_a_function_widens_the_closure(checkout: Path) -> None:
    path = checkout / "stages/train.py"
    added = checkout / "anneal/report/alerts.py"
    assert added not in fingerprint.code(path)
    path.write_text(
        path.read_text("utf-8") + "\n\ndef late() -> None:\n    from anneal.report import alerts\n", "utf-8"
    )
    fingerprint.imports.cache_clear()
    assert added in fingerprint.code(path)


def test_the_name_of_a_run_follows_files_values_and_library_versions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "base").mkdir()
    (tmp_path / "base/a").write_text("1")
    (tmp_path / "data").write_text("2")
    paths = [tmp_path / "base", tmp_path / "data"]
    first = fingerprint.of(paths, VALUES)
    assert fingerprint.of(paths, dict(reversed(VALUES.items()))) == first, "the order of keys is no value"
    seen = [first, fingerprint.of(paths, VALUES | {"lr": 0.2})]
    (tmp_path / "base/a").write_text("3")
    seen.append(fingerprint.of(paths, VALUES))
    (tmp_path / "base/b").write_text("1")
    seen.append(fingerprint.of(paths, VALUES))
    (tmp_path / "base/b").rename(tmp_path / "base/c")
    seen.append(fingerprint.of(paths, VALUES))
    monkeypatch.setattr(fingerprint, "version", lambda name: f"{name} 0")
    seen.append(fingerprint.of(paths, VALUES))
    assert len(set(seen)) == 6


def test_the_digest_of_a_folder_keeps_its_value(tmp_path: Path) -> None:
    # The digest is part of the key of paid answers from a model server: another value would pay for them again.
    (tmp_path / "weights/deep").mkdir(parents=True)
    (tmp_path / "weights/config.json").write_text('{"layers": 2}\n')
    (tmp_path / "weights/deep/model.safetensors").write_bytes(bytes(range(256)))
    (tmp_path / "test.jsonl").write_text('{"id": "a"}\n')
    assert fingerprint.digest([tmp_path / "weights", tmp_path / "test.jsonl"]) == "aa8ca927e7c1f322"


def test_a_digest_follows_names_bytes_and_order_and_not_the_place(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "file").write_text("1")
    first, second = tmp_path / "a", tmp_path / "b"
    digest = fingerprint.digest([first])
    assert fingerprint.digest([second]) == digest, "a moved folder holds the same weights"
    (second / "file").write_text("2")
    assert fingerprint.digest([second]) != digest
    assert fingerprint.digest([first, second]) != fingerprint.digest([second, first])
    (first / "file").rename(first / "other")
    assert fingerprint.digest([first]) != digest

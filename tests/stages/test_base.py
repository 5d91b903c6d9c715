"""base: a folder every later stage can use, from nothing or from a named model, and one line when it cannot."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from anneal.errors import UserError
from anneal.models import loading as models
from anneal.models.loading import Model
from anneal.tiny.sheet_corpus import Corpus
from stages import base as stage
from tests.anneal.tiny.test_architecture import FOLDER, micro
from tests.conftest import RECIPES, ROOT, recipe_values

TINY = Model(name="tiny", revision=None)
CORPUS = Corpus(FOLDER)
FILES = {
    "README.md",
    "base.json",
    "chat_template.jinja",
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
}


# What a model of three steps scores; measured once, in the fixture `built`.
NOTHING = dict.fromkeys(
    ["name", "ingredients", "skin", "ordered", "form", "form, name", "form, facts", "characters"], 0.0
)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "QUESTIONS", 1)
    monkeypatch.setattr(stage.probes, "scores", lambda *_: NOTHING)
    monkeypatch.setattr(stage.models, "threads", lambda _n: None)  # threads of the other tests are not ours to set


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with models/base in it, made in three steps."""
    folder = tmp_path_factory.mktemp("built")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("DVC_ROOT", raising=False)
        patch.setattr(stage, "QUESTIONS", 1)
        patch.setattr(stage.models, "threads", lambda _n: None)
        stage.main(micro(), TINY)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_a_built_folder_holds_all_that_later_stages_read(built: Path) -> None:
    folder = built / "models/base"
    assert set(contents(folder)) == FILES
    note = json.loads((folder / "base.json").read_text())
    revision = stage.digest([folder / "model.safetensors", folder / "tokenizer.json"])
    assert note == {"name": "tiny", "revision": revision, "build": stage.recipe(micro(), CORPUS)}
    assert models.pinned(folder) == (str(folder), None)
    model, tokens = models.load(folder, "bfloat16"), models.tokenizer(folder)
    assert model.config.vocab_size == len(tokens)
    assert len(model.generation_config.eos_token_id) == 2


def test_the_card_tells_figures_and_nothing_of_the_machine(built: Path) -> None:
    card = (built / "models/base/README.md").read_text()
    assert "$" not in card
    assert "seed 42" in card
    assert "140 names are excluded" in card
    assert card.count("| 0.00 |") == 8
    assert str(built) not in card
    assert "20" + "2" not in card, "no date"


def test_the_same_params_give_the_same_bytes(built: Path, toy: Path) -> None:
    stage.main(micro(), TINY)
    assert contents(toy / "models/base") == contents(built / "models/base")
    other = toy / "other"
    other.mkdir()
    stage.build(micro(seed=43), CORPUS, other)
    assert contents(other)["model.safetensors"] != contents(built / "models/base")["model.safetensors"]


def test_a_finished_training_is_not_repeated(built: Path, monkeypatch: pytest.MonkeyPatch, toy: Path) -> None:
    """What DVC deletes before a run can be written again from .work."""
    shutil.copytree(built / ".work", toy / ".work")
    monkeypatch.setattr(stage.pretrain, "loss", lambda *_: pytest.fail("trained again"))
    stage.main(micro(), TINY)
    assert contents(toy / "models/base") == contents(built / "models/base")


def test_another_param_or_corpus_is_another_recipe(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = stage.recipe(micro(), CORPUS)
    assert stage.recipe(micro(), CORPUS) == first
    assert stage.recipe(micro(decay=0.5), CORPUS) != first
    shutil.copytree(micro().corpus, toy / "corpus")
    moved = micro(corpus=str(toy / "corpus"))
    assert stage.recipe(moved, CORPUS) == first, "where the folder lies changes nothing"
    (toy / "corpus/word_groups.json").write_text('{"groups": [], "sentences": []}')
    assert stage.recipe(moved, CORPUS) != first
    monkeypatch.setattr(Corpus, "dense", lambda *_: [("other", 1.0)])
    assert stage.recipe(micro(), CORPUS) != first, "code that draws other documents makes another model"


def test_a_shipped_model_is_taken_and_any_other_is_built(
    built: Path, toy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(built / "models/base", toy / "models/shipped/some")
    monkeypatch.setattr(stage, "build", lambda *_: pytest.fail("built"))
    stage.main(micro(), TINY)
    assert contents(toy / "models/base") == contents(built / "models/base")
    with pytest.raises(pytest.fail.Exception, match="built"):
        stage.main(micro(seed=7), TINY)
    monkeypatch.setenv("ANNEAL_REBUILD", "1")
    with pytest.raises(pytest.fail.Exception, match="built"):
        stage.main(micro(), TINY)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_the_shipped_model_of_every_recipe_is_todays(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody's first run should train a base: what is shipped is what this code and this corpus would build."""
    monkeypatch.chdir(ROOT)
    section = stage.Base.model_validate(recipe_values(path.stem)["base"])
    found = stage.shipped(stage.recipe(section, stage.DOCUMENTS[section.documents](section.corpus)))
    assert found, "the corpus, the section or the code changed: `make base`"
    assert found == stage.SHIPPED / path.stem


def test_what_is_shipped_is_small() -> None:
    files = [file for file in (ROOT / "models/shipped").rglob("*") if file.is_file()]
    assert len(files) >= 8
    assert sum(file.stat().st_size for file in files) <= 16 * 2**20


def test_a_killed_build_leaves_no_half_folder(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def die(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(stage.probes, "scores", die)
    with pytest.raises(KeyboardInterrupt):
        stage.main(micro(), TINY)
    assert not (toy / "models/base").exists()
    assert list((toy / ".work/base").glob("*.pt"))


@pytest.fixture
def named(built: Path, toy: Path) -> Path:
    """A local model folder: the built one under another name."""
    folder = toy / "local/some-model"
    shutil.copytree(built / "models/base", folder)
    (folder / "base.json").unlink()
    return folder


def test_a_local_folder_is_pinned_by_its_content(named: Path, toy: Path) -> None:
    stage.main(micro(), Model(name=str(named), revision=None))
    folder = toy / "models/base"
    note = json.loads((folder / "base.json").read_text())
    assert note == {"name": str(named), "revision": stage.digest(list(named.iterdir()))}
    assert not list(folder.glob("*.safetensors"))
    assert (folder / "config.json").read_bytes() == (named / "config.json").read_bytes()
    assert models.tokenizer(folder)("甲")["input_ids"] == models.tokenizer(named)("甲")["input_ids"]
    assert models.pinned(folder) == (str(named), note["revision"])
    stage.main(micro(), Model(name=str(named), revision=note["revision"]))
    (named / "config.json").write_text((named / "config.json").read_text() + " ")
    with pytest.raises(UserError, match=r"model\.revision: .* holds [0-9a-f]{64}; write that"):
        stage.main(micro(), Model(name=str(named), revision=note["revision"]))


def test_a_hub_model_is_pinned_to_its_commit(named: Path, toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    snapshot = named.rename(toy / commit)
    asked: list[tuple[str, str | None]] = []

    def download(name: str, revision: str | None, allow_patterns: list[str]) -> str:
        assert "*.safetensors" in allow_patterns
        assert not any(pattern.endswith((".bin", ".py")) for pattern in allow_patterns)
        asked.append((name, revision))
        return str(snapshot)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    stage.main(micro(), Model(name="someone/some-model", revision="main"))
    assert asked == [("someone/some-model", "main")]
    assert models.pinned(toy / "models/base") == ("someone/some-model", commit)


def test_a_folder_without_safetensors_is_refused(named: Path, toy: Path) -> None:
    (named / "model.safetensors").rename(named / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"holds no \.safetensors weights"):
        stage.main(micro(), Model(name=str(named), revision=None))
    assert not (toy / "models/base").exists()


def test_a_tokenizer_that_loses_text_is_refused_and_the_old_base_stays(named: Path, toy: Path) -> None:
    stage.main(micro(), Model(name=str(named), revision=None))
    before = contents(toy / "models/base")
    tokenizer = json.loads((named / "tokenizer.json").read_text())
    tokenizer["model"]["merges"] = []
    kept = [t for t, i in tokenizer["model"]["vocab"].items() if i < 100]
    tokenizer["model"]["vocab"] = {token: n for n, token in enumerate(kept)}
    tokenizer["added_tokens"] = [t for t in tokenizer["added_tokens"] if t["id"] < 100]
    (named / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(UserError, match="loses text"):
        stage.main(micro(), Model(name=str(named), revision=None))
    assert contents(toy / "models/base") == before


def run(folder: Path, name: str, **env: str) -> subprocess.CompletedProcess[str]:
    """The stage as DVC runs it, with `model.name` set."""
    values = (ROOT / "params.yaml").read_text().replace("  name: tiny", f"  name: {name}")
    assert f"name: {name}" in values
    (folder / "params.yaml").write_text(values)
    everything = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_CACHE": str(folder / "hub"), **env}
    command = [sys.executable, "-m", "stages.base"]
    return subprocess.run(command, cwd=folder, env=everything, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize(
    ("name", "env"),
    [
        ("someone/no-such-model", {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": "http://127.0.0.1:9"}),
        ("./no/such/folder", {"HF_HUB_OFFLINE": "1"}),
    ],
)
def test_a_model_that_cannot_be_had_is_one_line(toy: Path, name: str, env: dict[str, str]) -> None:
    done = run(toy, name, **env)
    assert done.returncode == 1
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith(f"base: params.yaml: model.name: {name!r} was not found, here or on the hub")
    assert not (toy / "models/base").exists()


@pytest.mark.parametrize("folder", sorted((ROOT / "models/shipped").iterdir()), ids=lambda folder: folder.name)
def test_the_shipped_folder_is_what_its_note_says(folder: Path) -> None:
    values = recipe_values(folder.name)
    assert set(contents(folder)) == FILES
    note = json.loads((folder / "base.json").read_text())
    assert note["revision"] == stage.digest([folder / "model.safetensors", folder / "tokenizer.json"])
    card = (folder / "README.md").read_text()
    assert f"seed {values['base']['seed']}" in card
    assert f"{values['base']['steps']:,} steps" in " ".join(card.split())

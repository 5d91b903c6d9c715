"""seeds trains a small DVC project once with each training seed and writes the band of its runs."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from anneal.errors import UserError
from anneal.history import dvc_lock, revision, seed_noise
from commands import seeds

# Training draws a number, from which the scores of the run follow. Trainings are logged in a file that DVC ignores.
TRAIN = """
import os, random
from ruamel.yaml import YAML
params = YAML(typ="safe").load(open("params.yaml"))
with open(os.path.join(os.environ["DVC_ROOT"], ".work"), "a") as count:
    count.write(f"{params['train']['seed']}\\n")
if os.path.exists(os.path.join(os.environ["DVC_ROOT"], ".stop")):
    raise SystemExit(3)
os.makedirs("models", exist_ok=True)
open("models/adapter", "w").write(str(random.Random(params["seed"] + params["train"]["seed"]).random()))
"""
JUDGE = """
import json, os
drawn = float(open("models/adapter").read())
os.makedirs("data/judgements", exist_ok=True)
with open("data/judgements/tuned.jsonl", "w") as out:
    for n in range(4):
        row = {"id": f"r{n}", "item": f"p{n}", "outcome": "ok", "score": 3 + drawn, "judge_id": "j"}
        out.write(json.dumps(row) + "\\n")
"""
EVALUATE = """
import json
drawn = float(open("models/adapter").read())
with open("data/checks.jsonl", "w") as out:
    for n in range(4):
        for system in ("base", "tuned"):
            row = {"id": f"r{n}", "system": system, "strict": drawn > n / 4, "checks": {"terse": True}, "stopped": True}
            out.write(json.dumps(row) + "\\n")
"""
PIPELINE = {
    "stages": {
        "raw": {"cmd": "python raw.py", "deps": ["raw.py"], "outs": ["data/raw.txt"]},
        "train": {
            "cmd": "python train.py",
            "deps": ["train.py", "data/raw.txt"],
            "params": ["seed", "train"],
            "outs": ["models/adapter"],
        },
        "judge": {
            "foreach": {"tuned": {}},
            "do": {
                "cmd": "python judge.py",
                "deps": ["judge.py", "models/adapter"],
                "outs": ["data/judgements/tuned.jsonl"],
            },
        },
        "evaluate": {
            "cmd": "python evaluate.py",
            "deps": ["evaluate.py", "models/adapter"],
            "outs": ["data/checks.jsonl"],
        },
        "compare": {
            "cmd": "python compare.py",
            "deps": ["compare.py", "data/judgements/tuned.jsonl"],
            "outs": ["data/compared.txt"],
        },
    }
}
PARAMS = "seed: 42\nalign:\n  method: dpo\ntrain:\n  lr: 0.1\n  seed: 0\ncompare:\n  shares:\n  - strict\n  - terse\n"


def run(*words: str) -> None:
    subprocess.run(words, check=True, capture_output=True)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with one finished run, and a second one with another training seed."""
    folder = tmp_path_factory.mktemp("project")
    raw = "import os\nos.makedirs('data', exist_ok=True)\nopen('data/raw.txt', 'w').write('x')\n"
    scripts = {"raw": raw, "train": TRAIN, "judge": JUDGE, "evaluate": EVALUATE}
    scripts["compare"] = "open('data/compared.txt', 'w').write('x')\n"
    with pytest.MonkeyPatch.context() as patch:
        enter(patch, folder)
        for name, text in scripts.items():
            Path(f"{name}.py").write_text(text, "utf-8")
        Path("dvc.yaml").write_text(json.dumps(PIPELINE), "utf-8")
        Path("params.yaml").write_text(PARAMS.replace("0.1", "0.05"), "utf-8")
        Path(".gitignore").write_text("/data/\n/models/\n/reports/\n/.work\n/.stop\n", "utf-8")
        run("git", "init", "-q")
        for key, value in (("user.name", "t"), ("user.email", "t@localhost"), ("commit.gpgsign", "false")):
            run("git", "config", key, value)
        run(sys.executable, "-m", "dvc", "init", "-q")
        Path(".dvc/config").write_text("[core]\n    analytics = false\n    check_update = false\n", "utf-8")
        run(sys.executable, "-m", "dvc", "repro", "-q")
        run("git", "add", ".")
        run("git", "commit", "-qm", "one run")
        # Uncommitted params: experiments must run with the params of the working tree.
        Path("params.yaml").write_text(PARAMS, "utf-8")
        run(sys.executable, "-m", "dvc", "repro", "-q")
        assert called(patch, "--n", "2") == 0
    return folder


def enter(patch: pytest.MonkeyPatch, folder: Path) -> None:
    patch.chdir(folder)
    patch.delenv("DVC_ROOT", raising=False)
    patch.setenv("PATH", f"{Path(sys.executable).parent}:/usr/bin:/bin")


@pytest.fixture
def project(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the repository for each test to change."""
    shutil.copytree(made, tmp_path / "copy", symlinks=True)
    enter(monkeypatch, tmp_path / "copy")
    return tmp_path / "copy"


def trained_seeds() -> list[str]:
    """The training seeds of all trainings so far."""
    return Path(".work").read_text("utf-8").split()


def called(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["seeds", *words])
    return seeds.main()


def stored() -> Any:
    return json.loads(seed_noise.METRIC.read_text("utf-8"))


def test_only_missing_and_failed_runs_are_run_and_the_band_covers_all(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: Path(path).read_bytes() for path in ("params.yaml", "dvc.lock", "data/checks.jsonl")}
    Path(".stop").touch()
    assert called(monkeypatch, "--n", "3") == 1
    assert "-2: did not finish, see above" in capsys.readouterr().err
    assert stored()["seeds"] == [0, 1], "no band is written from a part of the runs"
    Path(".stop").unlink()
    assert called(monkeypatch, "--n", "3") == 0
    assert trained_seeds() == ["0", "0", "1", "2", "2"], "the second seed once, the third until it finished"
    assert {path: Path(path).read_bytes() for path in before} == before, "the working tree stays as it was"
    metrics = stored()
    drawn = [random.Random(42 + seed).random() for seed in range(3)]
    assert (metrics["seeds"], metrics["n"], metrics["of"]) == ([0, 1, 2], 4, seed_noise.inputs_hash(dvc_lock.text()))
    assert metrics["score"]["means"] == pytest.approx([3 + x for x in drawn], abs=1e-5)
    assert metrics["strict"]["means"] == pytest.approx([sum(x > n / 4 for n in range(4)) / 4 for x in drawn])
    assert metrics["score"]["band"] > metrics["score"]["largest"] > 0
    assert metrics["terse"]["reason"] == "no variance: all seeds give the same mean"
    assert [len(revision) for revision in metrics["runs"].values()] == [0, 40, 40]
    output = capsys.readouterr().out
    assert f"seeds: seeds-{metrics['of'][:8]}-1 was run before" in output
    assert f"noise up to {metrics['score']['band']:.3f}" in output
    fresh = seed_noise.recompute(metrics, dvc_lock.parse(dvc_lock.text()))
    assert fresh["score"]["band"] == pytest.approx(metrics["score"]["band"], abs=1e-5)


def test_results_of_other_params_are_refused(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("params.yaml").write_text(PARAMS.replace("0.1", "0.2"), "utf-8")
    assert called(monkeypatch, "--n", "2") == 1
    assert capsys.readouterr().err.endswith("as they are; `dvc repro` first\n")
    assert called(monkeypatch, "--n", "1") == 1
    assert "at least 2, got 1" in capsys.readouterr().err
    assert trained_seeds() == ["0", "0", "1"]


def test_files_of_a_revision_come_from_git_the_cache_or_a_remote(project: Path) -> None:
    name = f"seeds-{seed_noise.inputs_hash(dvc_lock.text())[:8]}-1"
    experiment = revision.Revision(name)
    assert revision.experiments() == {name: experiment.commit}
    assert experiment.params()["train"] == {"lr": 0.1, "seed": 1}
    assert revision.Revision("HEAD").params()["train"]["seed"] == 0
    assert experiment.rows(seed_noise.JUDGED) != revision.Revision("HEAD").rows(seed_noise.JUDGED)
    assert seed_noise.inputs_hash(experiment.text("dvc.lock")) == seed_noise.inputs_hash(dvc_lock.text())
    run(sys.executable, "-m", "dvc", "remote", "add", "-d", "store", str(project.parent / "store"))
    run(sys.executable, "-m", "dvc", "push", "-q")
    shutil.rmtree(".dvc/cache")
    assert len(revision.Revision("HEAD").rows(seed_noise.JUDGED)) == 4, "a remote has what the cache lost"
    with pytest.raises(
        UserError, match=rf"^{name} \({experiment.commit[:10]}\): {seed_noise.JUDGED} is neither in the cache nor"
    ):
        revision.Revision(name).rows(seed_noise.JUDGED)
    with pytest.raises(UserError, match=r"^nothing: unknown Git revision 'nothing'; `git log`"):
        revision.Revision("nothing")
    with pytest.raises(UserError, match=r"data/absent\.jsonl is neither"):
        revision.Revision("HEAD").rows("data/absent.jsonl")


def test_without_a_repository_the_error_is_one_line(toy: Path) -> None:
    assert revision.experiments() == {}
    with pytest.raises(UserError, match=r"^HEAD: "):
        revision.Revision("HEAD")


def test_help_shows_the_docstring(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        called(monkeypatch, "--help")
    assert "spread of the scores of runs" in capsys.readouterr().out

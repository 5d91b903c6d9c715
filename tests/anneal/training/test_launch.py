"""A stage in several processes: refused where there are too few cards, one result where there are enough."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from anneal.errors import UserError
from anneal.training import launch
from tests import micro
from tests.conftest import ROOT


def test_more_processes_than_cards_are_refused() -> None:
    with pytest.raises(UserError, match=r"params.yaml: processes: 4, but there are 2 CUDA cards here; lower it"):
        launch.check(4, "cuda", 2)
    with pytest.raises(UserError, match=r"processes: 2, but this device is mps; set 1"):
        launch.check(2, "mps", 0)
    launch.check(2, "cuda", 2)
    launch.check(2, "cpu", 0)


def test_cards_are_accelerates_and_processors_torchruns() -> None:
    assert launch.command(4, "cuda")[:4] == ["accelerate.commands.launch", "--multi_gpu", "--num_processes", "4"]
    assert launch.command(3, "cpu")[:3] == ["torch.distributed.run", "--nproc_per_node", "3"]


def test_one_process_does_the_work_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANNEAL_DEVICE", "cpu")
    assert launch.world_size() == 0
    assert not launch.distribute(test_one_process_does_the_work_itself, 1)
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert launch.world_size() == 2
    assert not launch.distribute(test_one_process_does_the_work_itself, 2), "a process of a launcher would launch again"


def project(folder: Path) -> Path:
    (folder / "data").mkdir(parents=True)
    micro.base(folder / "models/base")
    for name, count in (("train", 16), ("validation", 4)):
        rows = [
            {"id": f"{name}{n}", "prompt": [{"role": "user", "content": "fox " * (n % 5 + 1)}]}
            | {"completion": [{"role": "assistant", "content": "quick " * (n % 3 + 1)}]}
            for n in range(count)
        ]
        (folder / f"data/{name}.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    values = YAML(typ="safe", pure=True).load(ROOT / "params.yaml")["train"]
    values |= {"lora": {**values["lora"], "r": 2}, "epochs": 1, "batch_size": 4, "eval_steps": 2, "dtype": "float32"}
    top = {"privacy": {"local_only": True}, "processes": 2, "seed": 42, "threads": 1, "train": values}
    YAML().dump(top, folder / "params.yaml")
    return folder


def run(folder: Path, stage: str) -> subprocess.CompletedProcess[str]:
    env = {k: v for k, v in os.environ.items() if k != "DVC_ROOT"}
    env |= {"PYTHONPATH": f"{ROOT}{os.pathsep}{folder}", "ANNEAL_DEVICE": "cpu"}
    return subprocess.run(
        [sys.executable, "-m", stage], cwd=folder, env=env, capture_output=True, text=True, timeout=300
    )


@pytest.mark.slow
def test_two_processes_train_one_adapter(tmp_path: Path) -> None:
    folder = project(tmp_path / "a")
    done = run(folder, "stages.train")
    assert done.returncode == 0, done.stderr
    metrics = json.loads((folder / "reports/metrics/train.json").read_text())
    assert metrics["steps"] == 2, "16 rows in batches of 4 in 2 processes"
    assert (folder / "models/adapter/adapter_model.safetensors").is_file()
    assert done.stderr.count("step 2/2") == 2, "each line of progress is said by one process"


TOY = """
from anneal.training import launch
from anneal.errors import UserError
from anneal.stage import run


def main(processes: int) -> None:
    if not launch.distribute(main, processes):
        raise UserError(f"this is one of {launch.world_size()}")


if __name__ == "__main__":
    run(main)
"""


def test_a_process_that_fails_fails_the_stage(tmp_path: Path) -> None:
    (tmp_path / "toy.py").write_text(TOY)
    (tmp_path / "params.yaml").write_text("privacy:\n  local_only: true\nprocesses: 2\n")
    done = run(tmp_path, "toy")
    assert done.returncode == 1
    assert "toy: this is one of 2" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("toy: one of 2 processes ended with 1")

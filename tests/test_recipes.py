"""Each recipe end to end, as a stranger gets it: a fresh clone, `dvc repro`, and then one edit at a time."""

import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import recipe_text

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]
ROOT = Path(__file__).resolve().parents[1]


def shell(folder: Path, *words: str) -> str:
    """Run a command of the environment in a clone and give back what it printed; a failure shows the end of it."""
    env = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "DVC_NO_ANALYTICS": "1"}
    for name in ("DVC_ROOT", "DVC_STAGE", "OMP_NUM_THREADS"):
        env.pop(name, None)
    done = subprocess.run(words, cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, done.stdout[-4000:]
    return done.stdout


def ran(printed: str) -> list[str]:
    return re.findall(r"^Running stage '([^']+)'", printed, re.M)


def requests_sent(folder: Path) -> int:
    """Answers that the ledgers of a clone hold: each was asked, and paid for, once."""
    ledgers = sorted((folder / ".work").rglob("*.sqlite*"))
    assert ledgers, "no ledger under .work"
    total = 0
    for ledger in (p for p in ledgers if p.suffix == ".sqlite"):
        with sqlite3.connect(ledger) as db:
            total += db.execute("SELECT COUNT(*) FROM answers").fetchone()[0]
    return total


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tree as git would hand it on (committed or not), in a repository of its own, run once from end to end."""
    folder = tmp_path_factory.mktemp("recipe") / "anneal"
    listed = shell(ROOT, "git", "ls-files", "-z", "--cached", "--others", "--exclude-standard").split("\0")
    files = [name for name in listed if name and (ROOT / name).is_file()]
    assert len(files) > 50
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    (folder / "params.yaml").write_text(recipe_text("brand"), "utf-8")
    shell(folder, "git", "init", "-q", "-b", "main")
    shell(folder, "git", "add", "-A")
    for name, value in {"user.name": "t", "user.email": "t@localhost"}.items():
        shell(folder, "git", "config", name, value)
    shell(folder, "git", "commit", "-qm", "a clone")
    printed = shell(folder, "dvc", "repro")
    assert "base: step" not in printed, "a clone must not build the shipped base again"
    # Not the last stage: where all its inputs come out as the committed lock has them, compare has nothing to do.
    assert "judge@tuned" in ran(printed)
    return folder


def compared(folder: Path) -> dict:
    return json.loads((folder / "reports/metrics/compare.json").read_text())


def test_the_tuned_model_obeys_and_copies(clone: Path) -> None:
    overall = compared(clone)["overall"]
    assert overall["tuned"]["n"] >= 150
    assert overall["tuned"]["strict"] >= 0.90
    assert overall["tuned"]["stop_rate"] >= 0.98
    assert overall["base"]["strict"] <= 0.10
    assert overall["golden"]["strict"] >= 0.95


def test_golden_swapped_between_types_fails(clone: Path) -> None:
    controls = json.loads((clone / "reports/metrics/evaluate.json").read_text())["controls"]
    assert controls["swapped"]["n"] >= 150
    assert controls["swapped"]["mean"] <= 0.05


def test_a_second_run_runs_nothing(clone: Path) -> None:
    assert ran(shell(clone, "dvc", "repro")) == []


def test_the_training_file_loads_in_plain_trl(clone: Path, tmp_path: Path) -> None:
    from datasets import load_dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    rows = load_dataset(
        "json", data_files=str(clone / "data/train.jsonl"), split="train", cache_dir=str(tmp_path / "hf")
    )
    config = SFTConfig(
        output_dir=str(tmp_path / "out"),
        max_steps=1,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        per_device_train_batch_size=2,
    )
    model = AutoModelForCausalLM.from_pretrained(clone / "models/base")
    tokenizer = AutoTokenizer.from_pretrained(clone / "models/base")
    trainer = SFTTrainer(model=model, args=config, train_dataset=rows.select(range(8)), processing_class=tokenizer)
    assert trainer.train().training_loss > 0


def test_adapter_and_merged_load_plainly_and_agree(clone: Path) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(clone / "models/merged")
    merged = AutoModelForCausalLM.from_pretrained(clone / "models/merged", dtype=torch.float32)
    base = AutoModelForCausalLM.from_pretrained(clone / "models/base", dtype=torch.float32)
    tuned = PeftModel.from_pretrained(base, clone / "models/adapter")
    row = json.loads((clone / "data/test.jsonl").read_text().splitlines()[0])
    ids = tokenizer.apply_chat_template(
        row["prompt"], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    with torch.inference_mode():
        assert torch.allclose(merged(**ids).logits, tuned(**ids).logits, atol=1e-3)
    reply = merged.generate(**ids, max_new_tokens=256, do_sample=False)[0, ids["input_ids"].shape[1] :]
    assert reply[-1].item() == tokenizer.eos_token_id, "generate must stop by itself with the saved settings"


def test_the_report_opens_on_the_first_run(clone: Path) -> None:
    shell(clone, "python", "-m", "commands.report", "main")
    page = (clone / "reports/index.html").read_text()
    assert len(page) < 1_000_000
    assert "http://" not in page.replace("http://www.w3.org/", "")
    assert (clone / "reports/summary.md").stat().st_size > 200


def test_a_judge_prompt_reruns_judges_only_and_asks_no_teacher(clone: Path) -> None:
    prompt = sorted((clone / "prompts/brand/judge").glob("*.md"))[0]
    before, text = requests_sent(clone), prompt.read_text()
    prompt.write_text(text + "\n")
    stages = set(ran(shell(clone, "dvc", "repro")))
    judges = {"judge@golden", "judge@base", "judge@tuned", "judge@aligned", "judge@samples", "judge@controls"}
    judges |= {"card", "prefer"}
    assert judges <= stages <= judges | {"compare"}
    judged = sum(
        len((clone / f"data/judgements/{s}.jsonl").read_text().splitlines())
        for s in ("golden", "base", "tuned", "samples")
    )
    assert requests_sent(clone) - before <= judged
    prompt.write_text(text)
    shell(clone, "dvc", "repro")


def test_a_learning_rate_reruns_what_it_affects(clone: Path) -> None:
    printed = shell(clone, "dvc", "exp", "run", "-S", "train.lr=2e-4", "-S", "train.epochs=1")
    expected = {"train", "align", "merge", "answer@tuned", "accept", "evaluate", "judge@tuned", "prefer", "compare"}
    # Nothing is aligned: that it is not is looked at again, and asks no model.
    expected |= {"rollout@tuned", "judge@samples", "rollout@aligned", "answer@aligned"}
    assert set(ran(printed)) == expected
    changed = shell(clone, "git", "diff", "--unified=0", "params.yaml")
    assert len(re.findall(r"^\+[^+]", changed, re.M)) == 2

"""verify runs stages without a model again from stored rows, and names the place of an injected edit."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from anneal.history import seed_noise
from commands import verify
from tests.conftest import ROOT, pipeline

JUDGE = """
import json, os, pathlib, sys
stored = [json.loads(line) for file in pathlib.Path(os.environ["ANNEAL_REPLAY"]).glob("*.jsonl") for line in open(file)]
replies = {row["request"]: row["reply"] for row in stored}
rows = []
for line in open(f"data/answers/{sys.argv[1]}.jsonl"):
    row = json.loads(line)
    key = "asked " + row["text"]
    rows.append({"id": row["id"], "request": key, "reply": replies[key], "score": int(replies[key])})
os.makedirs("data/judgements")
with open(f"data/judgements/{sys.argv[1]}.jsonl", "w") as out:
    out.writelines(json.dumps(row, sort_keys=True) + "\\n" for row in rows)
"""
COMPARE = """
import json, os
scores = [json.loads(line)["score"] for line in open("data/judgements/tuned.jsonl")]
assert not os.path.exists("data/answers"), "only what it declares"
os.makedirs("reports/metrics")
numbers = {"overall": {"tuned": {"score": sum(scores) / len(scores), "n": len(scores)}}}
json.dump(numbers, open("reports/metrics/compare.json", "w"))
"""


def put(path: str, text: str) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(text, "utf-8")


def md5(path: str) -> str:
    return hashlib.md5(Path(path).read_bytes()).hexdigest()


def entry(cmd: str, deps: list[str], outs: list[str]) -> dict[str, Any]:
    return {
        "cmd": cmd,
        "deps": [{"path": path, "md5": md5(path)} for path in deps],
        "params": {"params.yaml": {"seed": 1}},
        "outs": [{"path": path, "md5": "0.dir" if Path(path).is_dir() else md5(path)} for path in outs],
    }


@pytest.fixture
def checkout(toy: Path) -> Path:
    """Three stages with their files and the lock of their run: `train` needs a model, the other two do not."""
    put("params.yaml", "seed: 1\n")
    put("stages/__init__.py", "")
    put("stages/judge.py", JUDGE)
    put("stages/compare.py", COMPARE)
    put("data/answers/tuned.jsonl", "".join(json.dumps({"id": f"r{n}", "text": f"t{n}"}) + "\n" for n in (3, 4, 5)))
    put("models/adapter/weights", "1 2 3")
    put("reports/metrics/train.json", '{\n "steps": 70\n}\n')
    rows = [{"id": f"r{n}", "request": f"asked t{n}", "reply": f"{n}", "score": n} for n in (3, 4, 5)]
    put("data/judgements/tuned.jsonl", "".join(json.dumps(row, sort_keys=True) + "\n" for row in rows))
    put("reports/metrics/compare.json", json.dumps({"overall": {"tuned": {"score": 4.0, "n": 3}}}))
    stages = {
        "train": entry("python -m stages.train", [], ["models/adapter", "reports/metrics/train.json"]),
        "judge@tuned": entry(
            "python -m stages.judge tuned",
            ["data/answers/tuned.jsonl", "stages/judge.py"],
            ["data/judgements/tuned.jsonl"],
        ),
        "compare": entry(
            "python -m stages.compare",
            ["data/judgements/tuned.jsonl", "stages/compare.py"],
            ["reports/metrics/compare.json"],
        ),
    }
    put("dvc.lock", json.dumps({"schema": "2.0", "stages": stages}))
    return toy


def edit(path: str, old: str, new: str) -> None:
    text = Path(path).read_text("utf-8")
    assert text.count(old) == 1
    Path(path).write_text(text.replace(old, new), "utf-8")


def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, str]]:
    """The exit code, and the finding for each stage: `<result>: <details>` by name."""
    monkeypatch.setattr(sys, "argv", ["verify"])
    code = verify.main()
    findings = {}
    for line in capsys.readouterr().out.splitlines()[:-1]:
        result = line[:14].strip()
        name, _, details = line[16:].partition(": ")
        findings[name] = f"{result}: {details}"
    return code, findings


def test_an_untouched_checkout_is_equal(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(str(path) for path in checkout.rglob("*") if "__pycache__" not in path.parts)
    code, findings = run(monkeypatch, capsys)
    assert (code, findings) == (
        0,
        {
            "train": "as in dvc.lock: trains",
            "judge@tuned": "equal: recomputed, 1 outputs",
            "compare": "equal: recomputed, 1 outputs",
        },
    )
    after = sorted(str(path) for path in checkout.rglob("*") if "__pycache__" not in path.parts)
    assert before == after, "nothing is left behind"


@pytest.mark.parametrize(
    ("path", "old", "new", "stage", "words"),
    [
        (
            "reports/metrics/compare.json",
            "4.0",
            "4.1",
            "compare",
            "reports/metrics/compare.json: overall.tuned.score: 4.1 stored, 4.0 recomputed",
        ),
        (
            "data/judgements/tuned.jsonl",
            '"score": 3',
            '"score": 5',
            "judge@tuned",
            "data/judgements/tuned.jsonl:1: r3: score: 5 stored, 3 recomputed",
        ),
        (
            "reports/metrics/train.json",
            "70",
            "71",
            "train",
            "reports/metrics/train.json: not the file that dvc.lock names",
        ),
        # An edited answer changes the request to the judge, for which there is no stored reply.
        (
            "data/answers/tuned.jsonl",
            '"t4"',
            '"t9"',
            "judge@tuned",
            "does not run again: KeyError: 'asked t9' (data/answers/tuned.jsonl changed since that run; `dvc repro`)",
        ),
    ],
)
def test_one_edited_value_is_named(
    checkout: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    path: str,
    old: str,
    new: str,
    stage: str,
    words: str,
) -> None:
    edit(path, old, new)
    code, findings = run(monkeypatch, capsys)
    assert (code, findings[stage]) == (1, f"DIFFERS: {words}")


def test_a_reply_edited_together_with_its_score_fails_by_md5(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    edit(
        "data/judgements/tuned.jsonl",
        '"reply": "3", "request": "asked t3", "score": 3',
        '"reply": "5", "request": "asked t3", "score": 5',
    )
    code, findings = run(monkeypatch, capsys)
    assert (code, findings["judge@tuned"]) == (
        1,
        "DIFFERS: data/judgements/tuned.jsonl: not the file that dvc.lock names",
    )
    assert findings["compare"].startswith(
        "DIFFERS: reports/metrics/compare.json: overall.tuned.score: 4.0 stored, 4.66"
    )


def test_an_edited_param_makes_the_stages_that_read_it_stale(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    edit("params.yaml", "1", "2")
    code, findings = run(monkeypatch, capsys)
    assert code == 1, "the numbers are computed correctly, from other params"
    assert findings["compare"] == "STALE: params.yaml: seed changed since that run; `dvc repro`"
    edit("reports/metrics/compare.json", "4.0", "4.1")
    findings = run(monkeypatch, capsys)[1]
    assert findings["compare"].endswith("4.0 recomputed (params.yaml: seed changed since that run; `dvc repro`)")


def test_an_absent_file_is_missing(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("data/answers/tuned.jsonl").unlink()
    shutil.rmtree("models/adapter")  # a folder that no number comes from
    code, findings = run(monkeypatch, capsys)
    assert (code, findings["judge@tuned"]) == (
        1,
        "MISSING: data/answers/tuned.jsonl; `dvc pull` or `dvc repro` brings it",
    )
    assert findings["train"] == "as in dvc.lock: trains"
    Path("reports/metrics/train.json").unlink()
    assert run(monkeypatch, capsys)[1]["train"].startswith("MISSING: reports/metrics/train.json")


def test_a_metric_that_no_stage_writes_differs(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    put("reports/metrics/judge/best.json", "{}")
    code, findings = run(monkeypatch, capsys)
    words = "DIFFERS: no stage of dvc.lock writes it; `dvc repro`, or delete it"
    assert (code, findings["reports/metrics/judge/best.json"]) == (1, words)


def test_a_missing_lock_is_one_line_of_error(
    toy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["verify"])
    assert verify.main() == 1
    assert capsys.readouterr().err == "verify: dvc.lock: no such file; `dvc repro` makes it\n"


def test_votes_are_counted_again_where_they_are_on_this_machine(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    put("reports/metrics/human.json", '{"pairs": 3}')
    code, findings = run(monkeypatch, capsys)
    assert (code, findings["human"]) == (0, "unchecked: data/human is not here; votes stay with whoever asked for them")
    put("data/human/a.jsonl", "1\n2\n")
    put("reports/blind/key.json", "{}")
    put("data/test.jsonl", "")
    count = "import json, os\nassert os.path.exists('data/judgements')\nos.makedirs('reports/metrics')\n"
    count += "n = len(open('data/human/a.jsonl').readlines())\n"
    put("commands/blind.py", count + "json.dump({'pairs': n}, open('reports/metrics/human.json', 'w'))\n")
    code, findings = run(monkeypatch, capsys)
    assert (code, findings["human"]) == (1, "DIFFERS: reports/metrics/human.json: pairs: 3 stored, 2 recomputed")
    put("reports/metrics/human.json", '{"pairs": 2}')
    assert run(monkeypatch, capsys)[0] == 0


def test_a_band_is_recomputed_unless_it_is_of_other_inputs(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    put("reports/metrics/seeds.json", json.dumps({"of": "other", "runs": {"0": ""}}))
    code, findings = run(monkeypatch, capsys)
    assert (code, findings["seeds"].partition(" other")[0]) == (0, "unchecked: measured on")
    stored = {
        "of": seed_noise.inputs_hash(Path("dvc.lock").read_text()),
        "runs": {"0": "a", "1": "b"},
        "score": {"band": 0.25},
    }
    monkeypatch.setattr(seed_noise, "recompute", lambda stored, _: {**stored, "score": {"band": 0.5}})
    put("reports/metrics/seeds.json", json.dumps(stored))
    code, findings = run(monkeypatch, capsys)
    assert (code, findings["seeds"]) == (
        1,
        "DIFFERS: reports/metrics/seeds.json: score.band: 0.25 stored, 0.5 recomputed",
    )


def test_stages_that_are_not_recomputed_need_weights_or_a_teacher() -> None:
    stages = pipeline()
    assert set(verify.NOT_RECOMPUTED) <= {name.partition("@")[0] for name in stages}
    needs = {
        name.partition("@")[0]
        for name, stage in stages.items()
        if any(dep.startswith("models/") for dep in stage.deps) or "teacher" in stage.params or name == "base"
    }
    # format needs only the tokenizer of models/base, and card only the name of the teacher.
    assert needs - {"format", "card"} == set(verify.NOT_RECOMPUTED)


def test_help_shows_the_docstring() -> None:
    done = subprocess.run([sys.executable, "-m", "commands.verify", "--help"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0
    assert "without a model or a judge" in done.stdout

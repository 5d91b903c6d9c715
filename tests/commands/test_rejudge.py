"""rejudge scores old answers with the judge of the working tree and measures the drift between two judges."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from anneal import files
from anneal.history import revision
from anneal.llm import offline_server
from anneal.offline import rule_judge
from anneal.records import Record
from commands import rejudge
from stages import judge
from tests import goldens
from tests.conftest import ROOT
from tests.stages.test_judge import SETTINGS

TEST = goldens.records(0, 10)
SYSTEMS = ("golden", "tuned", "base")
SEEN: list[str] = []
REAL = rule_judge.respond


def listen(body: dict[str, Any]) -> offline_server.Reply:
    SEEN.append(json.dumps(body["messages"]))
    return REAL(body)


def git(*words: str) -> str:
    return subprocess.run(["git", *words], check=True, capture_output=True, text=True).stdout.strip()


def answer(tuned: dict[str, str]) -> None:
    """Answers of both systems, and their judgements by the judge of the shipped rubrics."""
    files.write("data/test.jsonl", TEST)
    weak = {r["id"]: goldens.vague(r) for r in TEST}
    files.write("data/answers/base.jsonl", goldens.answers(TEST, weak, 2.0))
    files.write("data/answers/tuned.jsonl", goldens.answers(TEST, tuned, 0.5))
    files.write("data/answers/aligned.jsonl", [])
    once = SETTINGS.model_copy(update={"repeats": SETTINGS.repeats.model_copy(update={"times": 1})})
    for system in SYSTEMS:
        judge.main(system, judge=once, recipe="brand", rules=goldens.RULES, seed=42, types=goldens.TYPES)


def shift(change: Callable[[str], int]) -> None:
    """The stored judgements become those of another judge that gives `change(system)` points more."""
    for system in SYSTEMS:
        rows = files.read(f"data/judgements/{system}.jsonl")
        for row in rows:
            row |= {"judge_id": "older", "score": row["score"] + change(system)}
            for cell in row["dims"].values():
                cell["score"] = min(5, max(1, cell["score"] + change(system)))
        files.write(f"data/judgements/{system}.jsonl", rows)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with three experiments: worse tuned answers, one point more for all, one point less for golden."""
    folder = tmp_path_factory.mktemp("project")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("DVC_ROOT", raising=False)
        (folder / "prompts").symlink_to(ROOT / "prompts")
        values = {**goldens.VALUES, "judge": SETTINGS.model_dump()}
        values["rules"] = {**goldens.VALUES["rules"], "folder": str(goldens.BRAND / "rules")}
        with Path("params.yaml").open("w") as file:
            YAML(typ="safe", pure=True).dump(values, file)
        Path(".gitignore").write_text("/.work/\n/reports/\n", "utf-8")
        git("init", "-q")
        subprocess.run([sys.executable, "-m", "dvc", "init", "-q"], check=True)
        Path(".dvc/config").write_text("[core]\n    analytics = false\n    check_update = false\n", "utf-8")
        half = {r["id"]: goldens.text(r)[: len(goldens.text(r)) // 2] for r in TEST}
        mixed = {r["id"]: half[r["id"]] if n % 3 else goldens.text(r) for n, r in enumerate(TEST)}
        for name, words, change in (
            ("worse", half, None),
            ("kinder", mixed, lambda _: 1),
            ("harder", mixed, lambda s: -(s == "golden")),
        ):
            answer(words)
            if change:
                shift(change)
            git("add", ".")
            git("-c", "user.name=t", "-c", "user.email=t@localhost", "commit", "-qm", name)
            git("tag", name)
        answer({r["id"]: goldens.text(a) for r, a in zip(TEST, goldens.records(0, 10, seed=1), strict=True)})
    return folder


@pytest.fixture
def project(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(made, tmp_path / "copy", symlinks=True)
    monkeypatch.chdir(tmp_path / "copy")
    monkeypatch.delenv("DVC_ROOT", raising=False)
    listen.__module__ = rule_judge.__name__  # the same edition of the offline judge
    SEEN.clear()
    monkeypatch.setattr(rule_judge, "respond", listen)
    return tmp_path / "copy"


def called(monkeypatch: pytest.MonkeyPatch, *names: str) -> int:
    monkeypatch.setattr(sys, "argv", ["rejudge", *names])
    return rejudge.main()


def rejudged() -> Any:
    return json.loads(rejudge.OUT.read_text("utf-8"))


def test_old_answers_are_judged_by_the_present_judge_from_the_response_cache(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert called(monkeypatch, "worse", "kinder", "harder") == 0
    assert SEEN == [], "every response is in the cache"
    metrics = rejudged()
    assert (metrics["model"], metrics["score_kind"]) == ("offline-rules-1", "rule score")
    assert set(metrics["judge_ids"]) == {"ecommerce", "paid_ad", "social_media"}
    worse = metrics["exps"]["worse"]
    assert (worse["revision"], worse["n"]) == (git("rev-parse", "worse"), 90)
    here = {system: files.read(f"data/judgements/{system}.jsonl") for system in SYSTEMS}
    for system in SYSTEMS:
        mean = sum(row["score"] for row in here[system]) / 90
        assert metrics["here"][system]["mean"] == pytest.approx(mean, abs=1e-6)
        # The same texts have the same score, whatever another judge gave them.
        assert metrics["exps"]["kinder"][system]["mean"] == metrics["exps"]["harder"][system]["mean"]
    assert worse["golden"] == metrics["here"]["golden"]
    gap = metrics["here"]["tuned"]["mean"] - worse["tuned"]["mean"]
    assert worse["to_now"]["mean"] == pytest.approx(gap, abs=1e-5)
    assert (worse["to_now"]["state"], worse["to_now"]["n"], worse["to_now"]["clusters"]) == ("higher", 90, 10)
    assert set(worse["to_now"]["left_out"].values()) == {0}
    output = capsys.readouterr().out
    assert "worse: the same judge, or no text that both scored: no drift to measure" in output
    assert str(rejudge.OUT) in output


def test_injected_drift_is_named(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert called(monkeypatch, "kinder", "harder") == 0
    kinder, harder = (rejudged()["exps"][name]["drift"] for name in ("kinder", "harder"))
    assert kinder["n"] == harder["n"] == 270
    assert "golden -1.00 throughout, tuned -1.00 throughout, base -1.00 throughout" in kinder["sentence"]
    assert "the scale moved, no gap between systems did; order golden > tuned > base, as before" in kinder["sentence"]
    assert "golden +1.00 throughout, tuned unchanged, base unchanged" in harder["sentence"]
    assert "golden - tuned moved by +1.00 throughout, golden - base moved by +1.00 throughout" in harder["sentence"]
    assert "tuned - base moved" not in harder["sentence"]


def test_more_than_three_systems_have_strengths_or_the_reason_for_none(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert called(monkeypatch, "worse", "kinder") == 0
    ranks = rejudged()["strengths"]
    assert set(ranks["matrix"]) == {*SYSTEMS, "tuned of worse", "tuned of kinder"}
    cell = ranks["matrix"]["golden"]["tuned of worse"]
    assert (cell["n"], cell["clusters"]) == (90, 10)
    assert ranks["matrix"]["tuned of worse"]["golden"]["mean"] == pytest.approx(1 - cell["mean"], abs=1e-5)
    assert ranks["reason"] or set(ranks["systems"]) == set(ranks["matrix"])
    assert "strengths (Bradley-Terry, log odds): " in capsys.readouterr().out


def test_answers_to_other_facts_are_not_compared(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = files.read("data/test.jsonl")
    rows[0]["facts"] = {**rows[0]["facts"], "name": "another"}
    files.write("data/test.jsonl", rows[:-1])
    assert called(monkeypatch, "worse") == 0
    gap = rejudged()["exps"]["worse"]["to_now"]
    assert (gap["n"], gap["left_out"]["other_record"]) == (88, 2)
    assert len(SEEN) == 3, "the edited record is judged again, for each system"


def test_an_unreadable_revision_or_file_is_named(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    git("rm", "-q", "--cached", "data/answers/tuned.jsonl")
    git("-c", "user.name=t", "-c", "user.email=t@localhost", "commit", "-qm", "gone")
    assert called(monkeypatch, "HEAD") == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(f"rejudge: HEAD ({git('rev-parse', 'HEAD')[:10]}): data/answers/tuned.jsonl is neither in")
    assert called(monkeypatch, "no-such") == 1
    assert "rejudge: no-such: unknown Git revision 'no-such'" in capsys.readouterr().err
    text = Path("params.yaml").read_text("utf-8")
    Path("params.yaml").write_text(text.replace("recipe: brand", "recipe: ads"), "utf-8")
    assert called(monkeypatch, "worse") == 1
    assert "ads" in capsys.readouterr().err
    assert not rejudge.OUT.exists()


def test_texts_of_an_edited_rubric_are_judged_once(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("prompts").unlink()
    shutil.copytree(ROOT / "prompts", "prompts")
    rubric = next(path for path in Path("prompts/brand/judge").glob("*.md") if "ecommerce" in path.name)
    rubric.write_text(rubric.read_text("utf-8") + "\n\n.\n", "utf-8")
    assert called(monkeypatch, "worse") == 0
    # Texts of all other types keep their cached judgement.
    texts = {r["id"]: {goldens.text(r)} for r in TEST if "ecommerce" in r["type"]}
    for rows in (
        *map(files.read, Path("data/answers").iterdir()),
        revision.Revision("worse").rows("data/answers/tuned.jsonl"),
    ):
        for row in rows:
            texts.get(row["id"], set()).add(row["text"])
    n = sum(map(len, texts.values()))
    assert len(SEEN) == len(set(SEEN)) == n > 30
    drift = rejudged()["exps"]["worse"]["drift"]
    assert drift["n"] == 30, "the judgements of the other rubrics are by the same judge"
    assert "unchanged" in drift["sentence"]
    assert called(monkeypatch, "worse") == 0
    assert len(SEEN) == n


def test_a_score_summary_counts_failures() -> None:
    rows: list[Record] = [
        {"id": f"r{n}", "item": f"p{n}", "outcome": "ok" if n else "timeout", "score": 3.0 + n if n else None}
        for n in range(3)
    ]
    summary = rejudge.score_summary(rows)
    assert (summary["n"], summary["n_scored"], summary["mean"]) == (3, 2, 4.5)
    assert summary["bounds"] == pytest.approx([10 / 3, 14 / 3])


def test_help_shows_the_docstring(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        called(monkeypatch, "--help")
    assert "scores the stored answers of old experiments" in capsys.readouterr().out

"""blind from the drawn ballot to the metrics: build, label, unblind, and the report's section on votes."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from anneal.history import revision
from anneal.human import ballot, vote_records
from anneal.human.vote_records import Vote
from anneal.report import human_votes
from commands import blind

RUBRIC = """---
version: 1
types: [note]
dimensions: {facts: 1, form: 1}
gates: {}
words: {}
rules:
  a: {dimension: facts, check: need, limit: 1, cost: 1, why: it, of: [x]}
  b: {dimension: form, check: need, limit: 1, cost: 1, why: it, of: [x]}
---
<!-- system -->
Judge.
<!-- user -->
$text $checks
"""


def write(path: str, *rows: Any) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")


@pytest.fixture
def project(toy: Path) -> Path:
    """60 records of 30 items; tuned is always longer, and the judge likes it."""
    ids = [(f"p{i // 2}/note/{i}", f"p{i // 2}") for i in range(60)]
    base = [{"id": id_, "item": item, "type": "note"} for id_, item in ids]
    chat = [{"prompt": [{"role": "user", "content": "say"}], "completion": [{"role": "assistant", "content": "gold"}]}]
    write("data/test.jsonl", *({**row, **chat[0]} for row in base))
    for system, words, score in (("tuned", "a longer text", 4), ("base", "short", 2)):
        write(f"data/answers/{system}.jsonl", *({**row, "text": f"{words} {i}"} for i, row in enumerate(base)))
        dims = {name: {"score": score, "quote": "", "reason": ""} for name in ("facts", "form")}
        rows = ({**row, "outcome": "ok", "score": float(score), "dims": dims} for row in base)
        write(f"data/judgements/{system}.jsonl", *rows)
    levels = "\n".join(
        f"### {dim}\n\n" + "".join(f"- {i}: {dim} {i}\n" for i in range(1, 6)) for dim in ("facts", "form")
    )
    Path("prompts/toy/judge").mkdir(parents=True)
    Path("prompts/toy/judge/note.md").write_text(RUBRIC + levels, "utf-8")
    Path("params.yaml").write_text("recipe: toy\nseed: 7\ncompare: {tie: 0.05}\n", "utf-8")
    return toy


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["blind", *words])
    return blind.main()


def answer(kind: str, rater: str, prefer: str, wrong: int = 0) -> list[Vote]:
    """Votes of a rater who prefers one system, except in the first `wrong` entries; labels give 4 to tuned, else 2."""
    key_text = (blind.FOLDER / blind.FILES[kind][1]).read_text("utf-8")
    votes = []
    for place, entry in enumerate(json.loads(key_text)["entries"]):
        choice: Any
        if kind == "label":
            choice = "4" if entry["sides"] == ["tuned"] else "2"
        elif entry["role"] == "identical":
            choice = "tie"
        else:
            choice = "left" if (entry["sides"][0] == prefer) != (place < wrong) else "right"
        ballot_id = ballot.sha256(key_text)
        votes.append(Vote(sheet=ballot_id, rater=rater, id=entry["id"], choice=choice, reasons=[], ms=4000))
    vote_records.append(blind.VOTES, votes)
    return votes


def metrics() -> Any:
    return json.loads(blind.METRIC.read_text("utf-8"))


def test_from_ballot_to_metrics(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "build", "--n", "56") == 0
    answer("pairs", "Anna", "tuned", wrong=3)
    answer("pairs", "Bo", "tuned")
    assert run(monkeypatch, "unblind") == 0
    pairs = metrics()["pairs"]
    win = pairs["pairs"]["tuned:base"]["win"]
    assert (win["n"], pairs["pairs"]["tuned:base"]["records"], pairs["raters"]) == (112, 56, 2)
    assert win["mean"] == pytest.approx(109 / 112)
    assert win["low"] < win["mean"] < win["high"] <= 1
    assert pairs["pairs"]["tuned:base"]["sign"]["p"] < 0.001
    assert pairs["identical"] == {"n": 6, "tie": 6}
    assert pairs["sides"]["p"] > 0.3
    assert pairs["between"]["raters"] == 2
    assert (pairs["within"]["n"], pairs["judge"]["n"]) == (12, 56)
    # Where nearly all labels are equal, kappa is low or undefined, however high the agreement.
    assert pairs["judge"]["agreement"] > 0.9
    assert pairs["judge"]["uncalibrated"]
    assert [r["judge"] for r in pairs["disagreements"]] == [1.0] * len(pairs["disagreements"])
    assert "Anna" not in blind.METRIC.read_text("utf-8")
    out = capsys.readouterr().out
    assert "tuned:base: first wins 0.97 [" in out
    assert "UNCALIBRATED" in out


def test_the_report_shows_the_votes(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = revision.Snapshot("main", "none")
    assert human_votes.section(revision.here(), old) == ""
    assert "no votes of people" in human_votes.uncalibrated(revision.here())
    run(monkeypatch, "build", "--n", "56", "--question", "Which & why?")
    run(monkeypatch, "label", "--n", "56", "--systems", "tuned", "base")
    answer("pairs", "Anna", "tuned", wrong=3)
    run(monkeypatch, "unblind")
    assert human_votes.uncalibrated(revision.here())
    answer("label", "Bo", "")
    run(monkeypatch, "unblind")
    section = human_votes.section(revision.here(), old)
    assert "tuned over base" in section
    assert "Which &amp; why?" in section
    assert "UNCALIBRATED" in section
    disagreements = metrics()["pairs"]["disagreements"]
    assert len(disagreements) == section.count('href="#p') > 0
    assert f'href="#{disagreements[0]["record"]}"' in section
    assert human_votes.uncalibrated(revision.here()) == "", "scores of 56 texts that agree calibrate the judge"


def test_unblinding_twice_gives_the_same_bytes(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(monkeypatch, "build", "--n", "20")
    answer("pairs", "Anna", "tuned", wrong=5)
    contents = []
    for _ in range(2):
        assert run(monkeypatch, "unblind") == 0
        contents.append(blind.METRIC.read_bytes())
        assert run(monkeypatch, "build", "--n", "20") == 0, "an equal ballot replaces no votes"
    assert contents[0] == contents[1]


def test_changed_texts_are_not_compared_with_the_judge(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(monkeypatch, "build", "--n", "20")
    answer("pairs", "Anna", "tuned")
    path = Path("data/answers/tuned.jsonl")
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    write(str(path), *({**row, "text": "written anew"} for row in rows))
    assert run(monkeypatch, "unblind") == 0
    assert (metrics()["pairs"]["judge"]["n"], metrics()["pairs"]["judge"]["unscored"]) == (0, 20)
    assert metrics()["pairs"]["pairs"]["tuned:base"]["win"]["mean"] == 1.0


def test_votes_are_counted_without_a_judge(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(monkeypatch, "build", "--n", "20")
    answer("pairs", "Anna", "base")
    for name in ("tuned", "base"):
        Path(f"data/judgements/{name}.jsonl").unlink()
    assert run(monkeypatch, "unblind") == 0
    assert metrics()["pairs"]["judge"]["n"] == 0
    assert metrics()["pairs"]["pairs"]["tuned:base"]["win"]["mean"] == 0.0


def test_label_ballot_to_metrics(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(monkeypatch, "label", "--n", "56", "--systems", "tuned", "base") == 0
    assert "facts 1" in (blind.FOLDER / "label.html").read_text("utf-8")
    answer("label", "Anna", "")
    assert run(monkeypatch, "unblind") == 0
    labels = metrics()["label"]
    assert list(labels["dims"]) == ["facts", "form"]
    assert labels["dims"]["facts"]["kappa"] == 1.0
    assert (labels["judge"]["n"], labels["judge"]["texts"], labels["judge"]["uncalibrated"]) == (112, 56, "")
    assert labels["systems"]["tuned"]["mean"] == 4.0
    assert labels["disagreements"] == []
    assert labels["within"]["n"] == 12


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["build", "--pair", "tuned:tuned"],
            "--pair: two of golden, aligned, tuned, base with a colon between them, got 'tuned:tuned'",
        ),
        (["build", "--pair", "tuned:other"], "--pair: two of"),
        (["build", "--n", "0"], "--n: at least 1"),
        (["unblind"], "no ballot here; make blind N=40"),
        (["serve"], "no ballot here; make blind N=40"),
    ],
)
def test_a_user_error_is_one_line(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert run(monkeypatch, *words) == 1
    err = capsys.readouterr().err.splitlines()
    assert len(err) == 1
    assert message in err[0]


def test_a_ballot_with_votes_is_replaced_only_with_force(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(monkeypatch, "build", "--n", "20")
    before = (blind.FOLDER / "key.json").read_bytes()
    assert run(monkeypatch, "unblind") == 1
    assert "no vote on the present ballot" in capsys.readouterr().err
    answer("pairs", "Anna", "tuned")
    assert run(monkeypatch, "build", "--n", "21") == 1
    assert re.search(r"22 votes|23 votes", capsys.readouterr().err)
    assert (blind.FOLDER / "key.json").read_bytes() == before
    assert run(monkeypatch, "build", "--n", "21", "--force") == 0
    answer("pairs", "Anna", "tuned")
    assert run(monkeypatch, "unblind") == 0
    assert metrics()["pairs"]["other_sheets"] >= 20


def test_an_edited_key_is_refused(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(monkeypatch, "build", "--n", "20")
    answer("pairs", "Anna", "tuned")
    path = blind.FOLDER / "key.json"
    path.write_text(path.read_text("utf-8").replace('"tuned",\n    "base"', '"base",\n    "tuned"', 1), "utf-8")
    assert run(monkeypatch, "unblind") == 1
    assert "not the key of" in capsys.readouterr().err


def test_a_missing_answer_is_named(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = Path("data/answers/base.jsonl")
    path.write_text("".join(path.read_text("utf-8").splitlines(True)[1:]), "utf-8")
    assert run(monkeypatch, "build") == 1
    assert "no answer to p0/note/0 (1 in all)" in capsys.readouterr().err

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
    """A rater who takes `prefer` wherever it stands (or gives fours), and the other one at the first `wrong`."""
    key = (blind.FOLDER / blind.FILES[kind][1]).read_text("utf-8")
    votes, rows = [], json.loads(key)["entries"]
    for place, row in enumerate(rows):
        side = (
            "tie"
            if row["role"] == "identical"
            else ("left" if (row["sides"][0] == prefer) != (place < wrong) else "right")
        )
        choice: Any = side if kind == "pairs" else "4" if row["sides"] == ["tuned"] else "2"
        votes.append(Vote(sheet=ballot.seal(key), rater=rater, id=row["id"], choice=choice, reasons=[], ms=4000))
    vote_records.append(blind.VOTES, votes)
    return votes


def numbers() -> Any:
    return json.loads(blind.METRIC.read_text("utf-8"))


def test_from_sheet_to_numbers(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "build", "--n", "56") == 0
    answer("pairs", "Anna", "tuned", wrong=3)
    answer("pairs", "Bo", "tuned")
    assert run(monkeypatch, "unblind") == 0
    found = numbers()["pairs"]
    win = found["pairs"]["tuned:base"]["win"]
    assert (win["n"], found["pairs"]["tuned:base"]["records"], found["raters"]) == (112, 56, 2)
    assert win["mean"] == pytest.approx(109 / 112)
    assert win["low"] < win["mean"] < win["high"] <= 1
    assert found["pairs"]["tuned:base"]["sign"]["p"] < 0.001
    assert found["identical"] == {"n": 6, "tie": 6}
    assert found["sides"]["p"] > 0.3
    assert found["between"]["raters"] == 2
    assert (found["within"]["n"], found["judge"]["n"]) == (12, 56)
    # A rater and the judge who never waver leave kappa nothing to compare with, whatever their agreement.
    assert found["judge"]["agreement"] > 0.9
    assert found["judge"]["uncalibrated"]
    assert [r["judge"] for r in found["disagreements"]] == [1.0] * len(found["disagreements"])
    assert "Anna" not in blind.METRIC.read_text("utf-8")
    out = capsys.readouterr().out
    assert "tuned:base: first wins 0.97 [" in out
    assert "UNCALIBRATED" in out


def test_the_report_shows_what_people_said(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
    said = human_votes.section(revision.here(), old)
    assert "tuned over base" in said
    assert "Which &amp; why?" in said
    assert "UNCALIBRATED" in said
    apart = numbers()["pairs"]["disagreements"]
    assert len(apart) == said.count('href="#p') > 0
    assert f'href="#{apart[0]["record"]}"' in said
    assert human_votes.uncalibrated(revision.here()) == "", "scores of 56 texts that agree calibrate the judge"


def test_unblinding_twice_gives_the_same_bytes(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(monkeypatch, "build", "--n", "20")
    answer("pairs", "Anna", "tuned", wrong=5)
    found = []
    for _ in range(2):
        assert run(monkeypatch, "unblind") == 0
        found.append(blind.METRIC.read_bytes())
        assert run(monkeypatch, "build", "--n", "20") == 0, "the same sheet ends no votes"
    assert found[0] == found[1]


def test_texts_that_changed_since_have_no_judge(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(monkeypatch, "build", "--n", "20")
    answer("pairs", "Anna", "tuned")
    path = Path("data/answers/tuned.jsonl")
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    write(str(path), *({**row, "text": "written anew"} for row in rows))
    assert run(monkeypatch, "unblind") == 0
    assert (numbers()["pairs"]["judge"]["n"], numbers()["pairs"]["judge"]["unscored"]) == (0, 20)
    assert numbers()["pairs"]["pairs"]["tuned:base"]["win"]["mean"] == 1.0


def test_without_a_judge_people_still_count(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(monkeypatch, "build", "--n", "20")
    answer("pairs", "Anna", "base")
    for name in ("tuned", "base"):
        Path(f"data/judgements/{name}.jsonl").unlink()
    assert run(monkeypatch, "unblind") == 0
    assert numbers()["pairs"]["judge"]["n"] == 0
    assert numbers()["pairs"]["pairs"]["tuned:base"]["win"]["mean"] == 0.0


def test_labels(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(monkeypatch, "label", "--n", "56", "--systems", "tuned", "base") == 0
    assert "facts 1" in (blind.FOLDER / "label.html").read_text("utf-8")
    answer("label", "Anna", "")
    assert run(monkeypatch, "unblind") == 0
    found = numbers()["label"]
    assert list(found["dims"]) == ["facts", "form"]
    assert found["dims"]["facts"]["kappa"] == 1.0
    assert (found["judge"]["n"], found["judge"]["texts"], found["judge"]["uncalibrated"]) == (112, 56, "")
    assert found["systems"]["tuned"]["mean"] == 4.0
    assert found["disagreements"] == []
    assert found["within"]["n"] == 12


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["build", "--pair", "tuned:tuned"],
            "--pair: two of golden, aligned, tuned, base with a colon between them, got 'tuned:tuned'",
        ),
        (["build", "--pair", "tuned:other"], "--pair: two of"),
        (["build", "--n", "0"], "--n: at least 1"),
        (["unblind"], "no sheet here; make blind N=40"),
        (["serve"], "no sheet here; make blind N=40"),
    ],
)
def test_a_mistake_is_one_line(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    assert run(monkeypatch, *words) == 1
    err = capsys.readouterr().err.splitlines()
    assert len(err) == 1
    assert said in err[0]


def test_votes_are_not_thrown_away_by_another_sheet(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(monkeypatch, "build", "--n", "20")
    before = (blind.FOLDER / "key.json").read_bytes()
    assert run(monkeypatch, "unblind") == 1
    assert "no vote on the present sheet" in capsys.readouterr().err
    answer("pairs", "Anna", "tuned")
    assert run(monkeypatch, "build", "--n", "21") == 1
    assert re.search(r"22 votes|23 votes", capsys.readouterr().err)
    assert (blind.FOLDER / "key.json").read_bytes() == before
    assert run(monkeypatch, "build", "--n", "21", "--force") == 0
    answer("pairs", "Anna", "tuned")
    assert run(monkeypatch, "unblind") == 0
    assert numbers()["pairs"]["other_sheets"] >= 20


def test_a_key_that_was_edited_opens_nothing(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(monkeypatch, "build", "--n", "20")
    answer("pairs", "Anna", "tuned")
    path = blind.FOLDER / "key.json"
    path.write_text(path.read_text("utf-8").replace('"tuned",\n    "base"', '"base",\n    "tuned"', 1), "utf-8")
    assert run(monkeypatch, "unblind") == 1
    assert "not the key of" in capsys.readouterr().err


def test_an_answer_that_is_missing_is_named(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = Path("data/answers/base.jsonl")
    path.write_text("".join(path.read_text("utf-8").splitlines(True)[1:]), "utf-8")
    assert run(monkeypatch, "build") == 1
    assert "no answer to p0/note/0 (1 in all)" in capsys.readouterr().err

"""judge: every text gets an outcome, only a verdict gets a number, and the judge never learns who wrote it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from anneal import files
from anneal.errors import UserError
from anneal.judging import grading, rubric
from anneal.llm import offline_server, replay
from anneal.offline import rule_judge
from anneal.stats import repeats
from stages import judge
from tests import goldens
from tests.conftest import ROOT, load_yaml, recipe_text

SETTINGS = judge.Judge(
    model="offline-rules-1",
    temperature=0.0,
    top_p=1.0,
    max_tokens=1200,
    max_failed=0.05,
    repeats={"share": 0.2, "times": 3},
    controls=5,
    samples=2,
    null_text="这是一篇非常优秀的文案。",
)
TEST = goldens.records(0, 3)
REAL = rule_judge.respond
Respond = Callable[[dict[str, Any]], offline_server.Reply]


@pytest.fixture
def folder(toy: Path) -> Path:
    """A checkout after `answer`: the base writes weak texts, the tuned model golden ones, one of them word for word."""
    (toy / "prompts").symlink_to(ROOT / "prompts")
    files.write("data/test.jsonl", TEST)
    weak = {r["id"]: goldens.vague(r) for r in TEST}
    files.write("data/answers/base.jsonl", goldens.answers(TEST, weak, 2.0))
    tuned = {r["id"]: goldens.text(again) for r, again in zip(TEST, goldens.records(0, 3, seed=1), strict=True)}
    files.write("data/answers/tuned.jsonl", goldens.answers(TEST, tuned | {TEST[4]["id"]: ""}, 0.5))
    files.write("data/answers/aligned.jsonl", [])
    return toy


def run(system: Any, settings: judge.Judge = SETTINGS) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    judge.main(system, judge=settings, recipe="brand", rules=goldens.RULES, seed=42, types=goldens.TYPES)
    numbers = json.loads(Path(f"reports/metrics/judge/{system}.json").read_text("utf-8"))
    return files.read(f"data/judgements/{system}.jsonl", "id", "outcome"), numbers


def test_three_systems_are_judged_and_ranked(folder: Path) -> None:
    found = {system: run(system) for system in ("golden", "base", "tuned")}
    for rows, numbers in found.values():
        assert [row["id"] for row in rows] == [row["id"] for row in TEST]
        assert (numbers["n"], numbers["n_scored"], numbers["outcomes"]) == (27, 27, {"ok": 27})
        assert numbers["score"] == pytest.approx(sum(row["score"] for row in rows) / 27, abs=1e-6)
        assert numbers["bounds"] == [numbers["score"]] * 2
        assert numbers["score_kind"] == "rule score"
        assert set(numbers["by_type"]) == set(goldens.TYPES)
        assert {part["n"] for part in numbers["by_type"].values()} == {3}
        assert set(numbers["judge_ids"]) == {"ecommerce", "paid_ad", "social_media"}
        assert {row["judge_id"] for row in rows} == set(numbers["judge_ids"].values())
        for row in rows:
            assert 1 <= row["score"] <= 5
            assert set(row["dims"]) == set(numbers["by_type"][row["type"]]["dims"])
    golden, base, tuned = (found[system][1]["score"] for system in ("golden", "base", "tuned"))
    assert golden > tuned > base + 1
    assert found["golden"][1]["judge_ids"] == found["base"][1]["judge_ids"]
    # An empty text is a text, and a bad one.
    empty = next(row for row in found["tuned"][0] if row["id"] == TEST[4]["id"])
    assert empty["outcome"] == "ok"
    assert empty["score"] <= 2


def test_a_second_run_sends_nothing_and_gives_the_same_bytes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run("golden")
    before = Path("data/judgements/golden.jsonl").read_bytes(), Path("reports/metrics/judge/golden.json").read_bytes()

    def never(_body: dict[str, Any]) -> offline_server.Reply:
        raise AssertionError("asked again")

    never.__module__ = rule_judge.__name__  # the same edition of the offline judge
    monkeypatch.setattr(rule_judge, "respond", never)
    run("golden")
    after = Path("data/judgements/golden.jsonl").read_bytes(), Path("reports/metrics/judge/golden.json").read_bytes()
    assert before == after


def test_nobody_is_named_and_equal_texts_are_one_question(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bodies: list[str] = []

    def listen(body: dict[str, Any]) -> offline_server.Reply:
        bodies.append(json.dumps(body, ensure_ascii=False, sort_keys=True))
        return REAL(body)

    monkeypatch.setattr(rule_judge, "respond", listen)
    run("golden")
    golden, bodies[:] = sorted(bodies), []
    assert len(golden) == 27 + 2 * 5  # two further judgements of a fifth
    files.write("data/answers/tuned.jsonl", goldens.answers(TEST, {r["id"]: goldens.text(r) for r in TEST}, 1.0))
    run("tuned")
    assert bodies == [], "the same text by another hand is the same question"
    shutil.rmtree(".work")
    run("tuned")
    assert sorted(bodies) == golden


def spoilt(reply: Callable[[str], str], marks: tuple[str, ...]) -> Respond:
    """The offline judge, but for texts about some products its words are changed on every attempt."""

    def respond(body: dict[str, Any]) -> offline_server.Reply:
        said = REAL(body)
        hit = any(mark in body["messages"][-1]["content"] for mark in marks)
        return offline_server.Reply(reply(said.text)) if hit else said

    return respond


def invented(text: str) -> str:
    verdict = json.loads(text)
    next(iter(verdict["dims"].values()))["quote"] = "never written"
    return json.dumps(verdict)


FAILURES = {
    "parse_error": lambda _text: "Looks good to me, 5 points.",
    "quote_not_found": invented,
    "refusal": lambda _text: "I'm sorry, but I cannot assist with that.",
}


@pytest.mark.parametrize("outcome", FAILURES)
def test_a_failure_is_an_outcome_and_no_number(folder: Path, monkeypatch: pytest.MonkeyPatch, outcome: str) -> None:
    mark = TEST[10]["facts"]["name"]
    monkeypatch.setattr(rule_judge, "respond", spoilt(FAILURES[outcome], (f"产品：{mark}",)))
    settings = SETTINGS.model_copy(update={"max_failed": 0.4})
    rows, numbers = run("golden", settings)
    failed = [row for row in rows if row["outcome"] != "ok"]
    assert len(failed) == 9
    assert {row["outcome"] for row in failed} == {outcome}
    assert all(row["score"] is None and row["dims"] == {} for row in failed)
    assert numbers["outcomes"] == {"ok": 18, outcome: 9}
    if outcome != "quote_not_found":  # those of all rubrics, not of the last one asked
        (log,) = Path(".work/failures").glob("*.jsonl")
        assert sorted(row["id"] for row in files.read(log)) == sorted(row["id"] for row in failed)
    assert (numbers["n"], numbers["n_scored"]) == (27, 18)
    scored = sum(row["score"] for row in rows if row["outcome"] == "ok")
    assert numbers["score"] == pytest.approx(scored / 18, abs=1e-6)
    assert numbers["bounds"] == pytest.approx([(scored + 9) / 27, (scored + 45) / 27], abs=1e-6)


def test_too_many_failures_fail_the_stage_and_leave_no_result(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = tuple(row["facts"]["name"] for row in TEST)
    monkeypatch.setattr(rule_judge, "respond", spoilt(invented, names[:1]))
    with pytest.raises(
        UserError,
        match=r"9 of 27 texts have no score, above judge.max_failed",
    ):
        run("golden")
    assert not Path("data/judgements").exists()
    monkeypatch.setattr(rule_judge, "respond", spoilt(FAILURES["parse_error"], names))
    with pytest.raises(UserError, match="max_failed"):
        run("golden")
    assert not Path("reports").exists()


def test_answers_that_are_not_those_of_the_test_records_are_refused(folder: Path) -> None:
    rows = files.read("data/answers/base.jsonl")
    files.write("data/answers/base.jsonl", rows[1:])
    with pytest.raises(UserError, match=r"data/answers/base\.jsonl: 26 answers for 27 records; run `dvc repro`"):
        run("base")
    files.write("data/answers/base.jsonl", [*rows, rows[0]])
    with pytest.raises(UserError, match="28 answers for 27 records"):
        run("base")


def test_a_type_without_a_rubric_is_refused(folder: Path) -> None:
    (folder / "prompts").unlink()
    target = folder / "prompts/brand/judge"
    target.mkdir(parents=True)
    (target / "ecommerce.md").write_bytes((ROOT / "prompts/brand/judge/ecommerce.md").read_bytes())
    with pytest.raises(UserError, match="no rubric names the type paid_ad_bab"):
        run("golden")


def test_every_kind_of_failed_call_has_an_outcome() -> None:
    from typing import get_args

    from anneal.llm import response

    assert set(replay.OUTCOMES) == set(get_args(response.Kind)) - {""}
    assert Counter(replay.OUTCOMES.values()).keys() == {"parse_error", "refusal", "length", "timeout", "http"}


def test_quotes_are_word_for_word() -> None:
    def verdict(*quotes: str) -> dict[str, Any]:
        return {"dims": {str(i): {"quote": quote} for i, quote in enumerate(quotes)}, "violations": []}

    assert grading.quoted(verdict("屏障", "温和修护"), "温和修护屏障。")
    assert not grading.quoted(verdict("屏障", "温和的修护"), "温和修护屏障。")
    assert not grading.quoted(verdict("屏障", " "), "温和修护屏障。")
    assert grading.quoted(verdict("", ""), " \n")
    # The judge saw the neutralised text, and may quote it.
    assert grading.quoted(verdict("＜text>"), "a <text> b")
    broken = {**verdict("屏障"), "violations": [{"rule": "r", "quote": "没有"}]}
    assert not grading.quoted(broken, "屏障")


def test_further_judgements_and_controls(folder: Path) -> None:
    rows, numbers = run("golden")
    again = [row for row in rows if row["repeats"]]
    assert len(again) == round(0.2 * 27)
    assert all(len(row["repeats"]) == 2 for row in again)
    steady = repeats.summary(rows)
    assert (steady["n"], steady["times"], steady["same"]) == (5, 3, 1.0)
    assert numbers["tokens"]["in"] == sum(r["tokens"][0] for row in rows for r in (row, *row["repeats"])) > 0
    shown, _ = run("controls")
    assert Counter(row["control"] for row in shown) == {"null": 5, "other": 5, "truncated": 5, "again": 5}
    assert len({row["id"] for row in shown}) == 5
    golden = {row["id"]: row["score"] for row in rows}
    found = repeats.controls(shown, rows)
    assert found["again"]["at_golden"] == 1.0
    assert all(row["score"] == golden[row["id"]] for row in shown if row["control"] == "again")
    assert found["null"]["mean"] < found["truncated"]["mean"] < found["again"]["mean"] == found["again"]["golden"]
    assert found["null"]["at_golden"] == found["other"]["at_golden"] == 0.0


def test_stub_judges_are_seen_for_what_they_are(folder: Path) -> None:
    def stub(name: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        return run("golden", SETTINGS.model_copy(update={"model": f"offline-{name}-1"}))

    rows, constant = stub("constant")
    assert (constant["score"], constant["score_kind"]) == (3.0, "stub score")
    steady = repeats.summary(rows)
    assert (steady["alpha"], steady["reason"]) == (None, "no variance: every score is the same")
    noisy = repeats.summary(stub("noisy")[0])
    assert noisy["alpha"] < 0.5
    assert noisy["sd"] > 0.2
    assert noisy["same"] < 1
    # Nothing it says is a verdict: the stage refuses, and with every failure allowed no mean comes out of them.
    with pytest.raises(UserError, match=r"27 of 27 rows failed \(27 check\)|failed"):
        stub("garbage")
    rows, numbers = run("golden", SETTINGS.model_copy(update={"model": "offline-garbage-1", "max_failed": 1.0}))
    assert (numbers["n_scored"], numbers["score"], numbers["bounds"]) == (0, None, [1.0, 5.0])
    assert {row["outcome"] for row in rows} == {"parse_error"}


def test_replay_takes_stored_replies_and_asks_nobody(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run("golden")
    before = Path("data/judgements/golden.jsonl").read_bytes(), Path("reports/metrics/judge/golden.json").read_bytes()
    shutil.copytree("data/judgements", "kept")
    shutil.rmtree(".work")
    monkeypatch.setenv("ANNEAL_REPLAY", "kept")
    monkeypatch.setattr(offline_server, "serve", None)  # whoever opens a connection fails
    run("golden")
    assert before == (
        Path("data/judgements/golden.jsonl").read_bytes(),
        Path("reports/metrics/judge/golden.json").read_bytes(),
    )
    with pytest.raises(
        UserError, match=r"3 of 3 requests have no stored reply, the first is that of p\d+/\w+/0; run wit"
    ):
        run("base")
    # A score edited by hand does not survive: what the judge said counts.
    rows = files.read("kept/golden.jsonl")
    files.write("kept/golden.jsonl", [{**row, "score": 1.0} for row in rows])
    assert run("golden")[1]["score"] == json.loads(before[1])["score"]


def test_an_edited_prompt_or_model_is_asked_anew_and_a_stale_verdict_never_served(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, _ = run("golden")
    shutil.copytree(folder / "prompts", "copy", symlinks=False)
    (folder / "prompts").unlink()
    Path("copy").rename("prompts")
    target = Path("prompts/brand/judge/paid_ad.md")
    target.write_text(target.read_text("utf-8").replace("- 1", "-  1", 0) + "\nRead twice.\n", "utf-8")
    bodies: list[str] = []

    def listen(body: dict[str, Any]) -> offline_server.Reply:
        bodies.append(str(body))
        return REAL(body)

    listen.__module__ = rule_judge.__name__  # the same edition of the offline judge
    monkeypatch.setattr(rule_judge, "respond", listen)
    second, _ = run("golden")
    changed = {b["type"] for a, b in zip(first, second, strict=True) if a["judge_id"] != b["judge_id"]}
    assert changed == {kind for kind in goldens.TYPES if kind.startswith("paid_ad")}
    assert len([row for row in second if row["type"] in changed]) <= len(bodies) < 27 + 10
    assert all("Read twice." in body for body in bodies), "a text of an unchanged rubric was asked again"


KILLED = """
import contextlib, os, sys
from stages import judge
from anneal import stage
from anneal.llm import offline_server
offline_server.serve = lambda *_: contextlib.nullcontext(os.environ["DESK"])
sys.argv = ["judge", "golden"]
stage.run(judge.main)
"""


def test_a_killed_judge_goes_on_where_it_was_and_asks_nothing_twice(folder: Path) -> None:
    """A real process before a provider that stops answering, killed; only what was in flight is asked again."""
    shutil.copytree(ROOT / "data/raw/brand/rules", "data/raw/brand/rules")
    Path("params.yaml").write_text(recipe_text("brand"), "utf-8")
    paid: Counter[str] = Counter()
    free, stuck, arrived = threading.Semaphore(8), threading.Event(), threading.Semaphore(0)

    def gate(body: dict[str, Any]) -> offline_server.Reply:
        paid[json.dumps(body, sort_keys=True)] += 1
        arrived.release()
        if not free.acquire(blocking=False):
            stuck.wait()
        return REAL(body)

    with offline_server.serve(gate) as url:
        env = {**os.environ, "PYTHONPATH": str(ROOT), "DESK": url, "JUDGE_CONCURRENCY": "2"}
        command = [sys.executable, "-c", KILLED]
        with subprocess.Popen(command, env=env, stderr=subprocess.PIPE) as process:
            assert all(arrived.acquire(timeout=60) for _ in range(8 + 2))
            process.kill()
        assert not Path("data/judgements").exists()
        stuck.set()
        subprocess.run(command, env=env, check=True, capture_output=True)
    assert len(paid) == 27 + 2 * 5
    assert paid.total() <= len(paid) + 2, "more was asked again than was in flight"
    killed = Path("reports/metrics/judge/golden.json").read_bytes(), Path("data/judgements/golden.jsonl").read_bytes()
    settings = judge.Judge.model_validate(load_yaml(Path("params.yaml"))["judge"])
    shutil.rmtree(".work")
    run("golden", settings)
    assert killed[0] == Path("reports/metrics/judge/golden.json").read_bytes()
    assert killed[1] == Path("data/judgements/golden.jsonl").read_bytes()


def test_a_reply_is_asked_for_again_twice_at_most_and_that_is_counted(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = TEST[10]["facts"]["name"]
    tries: Counter[str] = Counter()

    def late(body: dict[str, Any]) -> offline_server.Reply:
        prompt = body["messages"][-1]["content"]
        tries[prompt] += 1
        hard = f"产品：{mark}" in prompt and tries[prompt] < 3
        return offline_server.Reply("Let me think.") if hard else REAL(body)

    monkeypatch.setattr(rule_judge, "respond", late)
    settings = SETTINGS.model_copy(update={"repeats": grading.Repeats(share=0.0, times=1)})
    rows, numbers = run("golden", settings)
    assert numbers["outcomes"] == {"ok": 27}
    assert Counter(len(row["refused"]) for row in rows) == {0: 18, 2: 9}
    assert {kind for row in rows for kind in row["refused"]} == {"check"}
    shutil.rmtree(".work")
    monkeypatch.setattr(rule_judge, "respond", spoilt(FAILURES["parse_error"], (f"产品：{mark}",)))
    rows, _ = run("golden", settings.model_copy(update={"max_failed": 1.0}))
    assert {len(row["refused"]) for row in rows if row["outcome"] == "parse_error"} == {3}, "three replies, no more"


def test_another_label_or_other_rules_are_another_judge(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sheets = rubric.folder("prompts/brand/judge", goldens.RULES)
    known = {"effects": ["a"]}

    def name(types: dict[str, str]) -> str:
        return grading.judge_id(SETTINGS, sheets["paid_ad_bab"], types, known)

    before = name(goldens.TYPES)
    assert name(goldens.TYPES) == before
    assert name({**goldens.TYPES, "paid_ad_bab": "只要写了就给五分的文案"}) != before
    assert name({**goldens.TYPES, "social_media_review": "x"}) == before, "the label of another rubric's type"
    monkeypatch.setattr(rule_judge, "VERSION", "of another time")
    assert name(goldens.TYPES) != before


def test_replayed_verdicts_never_become_a_stage_of_dvc(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANNEAL_REPLAY", "kept")
    monkeypatch.setenv("DVC_STAGE", "judge@golden")
    with pytest.raises(UserError, match=r"ANNEAL_REPLAY is set: .*; unset it to run stages"):
        run("golden")


def test_there_is_nothing_to_judge_where_nothing_was_aligned(folder: Path) -> None:
    rows, numbers = run("aligned")
    assert (rows, numbers["n"], numbers["score"]) == ([], 0, None)
    files.write("data/answers/aligned.jsonl", files.read("data/answers/base.jsonl"))
    assert run("aligned")[1]["score"] == run("base")[1]["score"]


def test_samples_are_judged_of_a_few_prompts_all_of_them(folder: Path) -> None:
    tuned = {row["id"]: row["text"] for row in files.read("data/answers/tuned.jsonl")}
    texts = [goldens.text(TEST[0]), goldens.text(TEST[1]), ""]
    drawn = [{"id": r["id"], "sample": n, "text": texts[n] or tuned[r["id"]]} for r in TEST[:5] for n in range(3)]
    files.write("data/rollouts/tuned.jsonl", drawn)
    rows, numbers = run("samples")
    assert numbers["n"] == len(rows) == 6, "two prompts of three samples"
    assert sorted({(row["id"], row["sample"]) for row in rows}) == sorted((row["id"], row["sample"]) for row in rows)
    assert len({row["id"] for row in rows}) == 2
    assert run("samples", SETTINGS.model_copy(update={"samples": 0}))[0] == []
    files.write("data/rollouts/tuned.jsonl", [])
    assert run("samples")[0] == []

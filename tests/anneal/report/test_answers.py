"""The sections about answers, from metrics that the functions of the stages compute."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from anneal.decoding import escalation
from anneal.decoding.escalation import Candidate, Record, Rung
from anneal.evaluation import decoding_variety
from anneal.report import answers
from tests.markup import plain, rows, state

OLD = state()
ACCEPT = {"accept": {"checks": ["length"], "temperatures": [0.3, 0.6]}}


def climb() -> dict[str, Any]:
    """Of four records two answer at once, one on the second rung, one never."""
    records = [{"id": name, "item": name, "type": "k"} for name in "abcd"]
    good = {"first": "ab", "temperature 0.3": "c", "temperature 0.6": ""}

    def rung(name: str) -> Rung:
        return Rung(
            name, 0.3, lambda asked: [[Candidate("+" if r["id"] in good[name] else "-", 5, -1.0)] for r in asked]
        )

    def check(_: Sequence[Record], texts: Sequence[str]) -> list[list[str]]:
        return [[] if text == "+" else ["length: 3", "type: none"] for text in texts]

    made = escalation.escalate(records, [rung(name) for name in good], check, lambda _: None)
    # As it is read back: JSON is written with sorted keys.
    found = escalation.summary(made, list(good))
    return {**found, "rungs": dict(sorted(found["rungs"].items()))}


def test_delivery_policy_by_escalation_step() -> None:
    accepted = {"length": {"mean": 0.75, "low": 0.2, "high": 0.9}}
    first = {"tuned": {"length": {"mean": 0.5, "low": 0.1, "high": 0.8}, "by_type": {}}}
    page = answers.contract(state(ACCEPT, accept=climb(), evaluate={"accepted": accepted, "rules": first}), OLD)
    assert "4 records: accepted at the first attempt 50.0%" in plain(page)
    assert "in total 75.0%" in plain(page)
    assert "1 at the median, 3 at the 95th percentile; 11.67 tokens generated per accepted answer" in plain(page)
    assert rows(page) == [
        ["escalation step", "open", "candidates", "accepted", "share of all"],
        ["first", "4", "4", "2", "50.0%"],
        ["temperature 0.3", "2", "2", "1", "25.0%"],
        ["temperature 0.6", "1", "1", "0", "0.0%"],
        ["no step", "", "", "1", "25.0%"],
        ["failed check", "attempts"],
        ["length", "4"],
        ["type", "4"],
        ["check", "first attempts", "delivered"],
        ["length", "50.0% [10.0, 80.0%]", "75.0% [20.0, 90.0%]"],
    ]


def test_the_two_densities_have_a_note() -> None:
    share = {"mean": 0.5, "low": 0.1, "high": 0.8}
    for name, told in (("in_distribution", True), ("length", False)):
        page = answers.contract(state(ACCEPT, accept=climb(), evaluate={"accepted": {name: share}}), OLD)
        assert ("by held-out golden texts" in page) is told


def test_escalation_steps_are_in_the_order_of_their_run() -> None:
    names = ["nearest", "constrained", "temperature 0.6", "temperature 0.3", "first"]
    found: dict[str, Any] = {"rungs": {name: {} for name in sorted(names)}}
    assert answers.ordered_steps(state(ACCEPT), found) == names[::-1]


def test_no_delivery_policy_without_checks() -> None:
    assert answers.contract(state({"accept": {"checks": []}}, accept=climb()), OLD) == ""
    assert answers.contract(state(ACCEPT), OLD) == ""


def written(preset: str, seed: int | None, texts: Sequence[str]) -> list[Record]:
    return [
        {"id": f"p{n}", "item": f"p{n}", "preset": preset, "seed": seed, "text": text, "finish": "stop", "n_new": 9}
        for n, text in enumerate(texts)
    ]


def test_presets_beside_the_first_one() -> None:
    """The first preset is the one that the others are compared with, whatever its name; ~ where nothing is shown."""
    plain_texts = [f"{n} words and more words" for n in range(6)]
    found = written("zero", None, plain_texts) + written("again", None, plain_texts) + written("bad", 1, ["bad"] * 6)
    quality = {"strict": lambda row: float(row["text"] != "bad" or row["id"] == "p0"), "rouge_l": lambda _: 0.5}
    table = decoding_variety.compare(found, plain_texts, quality, 12, 3, 1)
    now = state(
        {"answer": {"presets": {"zero": {}, "bad": {}, "again": {}}}},
        evaluate={"decoding": {"tuned": dict(sorted(table.items()))}},
    )
    page = answers.decoding(now, OLD)
    told = rows(page)
    assert [row[0] for row in told] == ["preset", "zero", "bad", "again", "minus zero", "bad", "again"]
    assert told[0] == [
        "preset",
        "runs",
        "strict",
        "ROUGE-L",
        "distinct-2",
        "distinct-4",
        "self-BLEU",
        "overrun",
        "stops",
    ]
    assert told[1][:3] == ["zero", "1", "100.0% [47.6, 100.0%]"]
    assert told[4] == ["minus zero", "strict", "ROUGE-L", "overrun", "stops"]
    # The interval leaves out 0 and the sign flips of six items do not: nothing is shown, and what would have been is.
    assert re.fullmatch(r"~ -83\.3 \[-126\.2, -40\.5\] MDE 58\.2", told[5][1])
    assert told[6][1] == "+0.0"
    assert "<h3>tuned</h3>" in page
    assert "base" not in plain(page)
    assert answers.decoding(state(evaluate={"decoding": {}}), OLD) == ""


def test_the_interval_of_a_share_stays_a_share() -> None:
    part = {
        "runs": 3,
        "stopped": {"mean": 0.996, "low": 0.98, "high": 1.04},
        "rouge_l": {"mean": 1, "low": 0.5, "high": 1.5},
    }
    told = rows(answers.decoding(state(evaluate={"decoding": {"base": {"warm": part}}}), OLD))
    assert told[1][-1] == "99.6% [98.0, 100.0%]"
    assert told[1][3] == "1 [0.50, 1.50]"


def test_layouts_and_verse() -> None:
    share = {"mean": 0.5, "low": 0.25, "high": 0.75, "n": 8}
    layouts = {name: {"strict": share, "mended": {**share, "mean": 0.625}} for name in ("base", "golden", "tuned")}
    layouts["tuned"]["components"] = 0.75  # type: ignore[assignment]
    told = rows(answers.kinds(state(evaluate={"layouts": layouts}), OLD))
    assert told == [
        ["", "strict JSON", "after repair", "components hit"],
        ["golden", "50.0% [25.0, 75.0%]", "62.5% [25.0, 75.0%]", "–"],
        ["tuned", "50.0% [25.0, 75.0%]", "62.5% [25.0, 75.0%]", "75.0%"],
        ["base", "50.0% [25.0, 75.0%]", "62.5% [25.0, 75.0%]", "–"],
    ]
    verse = {"tuned": {"rhyme": share, "unknown": 3}}
    assert rows(answers.kinds(state(evaluate={"verses": verse}), OLD))[1] == ["tuned", "50.0% [25.0, 75.0%]", "8", "3"]
    assert answers.kinds(state(evaluate={"rules": {}}), OLD) == ""


def test_styles_name_writer_and_reference() -> None:
    """The writer's own texts come first; a distance within its noise is marked, one beyond it is not."""
    near, far = {"n": 5, "words": 0.02, "words_noise": 0.02}, {"n": 5, "words": 0.5, "words_noise": 0.02, "auc": 0.97}
    part = {"authors": {"Wu": {"Li": far, "Wu": near}}, "copied": {"n": 5, "median": 4.0, "p95": 8.5, "longest": 11}}
    told = rows(answers.kinds(state(evaluate={"styles": {"tuned": part}}), OLD))
    words = told[0].index("words")
    assert [[*row[:3], row[words]] for row in told[1:3]] == [
        ["tuned as Wu", "own texts", "5", "~ 0.02"],
        ["tuned as Wu", "Li", "5", "0.50"],
    ]
    assert told[2][told[0].index("AUC")] == "0.97"
    assert told[3:] == [["", "n", "median", "p95", "longest"], ["tuned", "5", "4.00", "8.50", "11"]]


def test_first_attempts_are_those_of_the_shipped_model() -> None:
    rules = {name: {"length": {"mean": mean}} for name, mean in (("tuned", 0.25), ("aligned", 0.75))}
    found = {"accepted": {"length": {"mean": 1.0}}, "rules": rules, "decoding": {"aligned": {"greedy": {"runs": 3}}}}
    for overall, first in (({"tuned": {}}, "25.0%"), ({"tuned": {}, "aligned": {}}, "75.0%")):
        now = state(ACCEPT, accept=climb(), evaluate=found, compare={"overall": overall})
        assert rows(answers.delivered(now))[1] == ["length", first, "100.0%"]
    assert "<h3>aligned</h3>" in answers.decoding(state(evaluate=found), OLD)

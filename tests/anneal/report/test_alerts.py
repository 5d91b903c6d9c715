"""Every alert, each from the one metric that causes it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from anneal.history.revision import Snapshot
from anneal.report import alerts
from tests.finished import PARAMS, card, metrics, pair, sound


@pytest.fixture(autouse=True)
def _nothing_has_run(toy: Path) -> None:
    """A folder without dvc.lock, so that edits of the checkout raise no alert here."""


def test_a_sound_run_raises_no_alert() -> None:
    assert alerts.alerts(sound(), sound()) == []


@pytest.mark.parametrize(
    ("kind", "words", "edits"),
    [
        ("bad", "tuned: 1 of 4 texts have no score (1 parse_error)", {"compare__overall__tuned__n_scored": 3}),
        ("bad", "golden: 4 of 4 texts have no score", {"compare__overall__golden__n_scored": 0}),
        ("bad", "2.5% of tuned answers end without a stop token", {"compare__overall__tuned__stop_rate": 0.975}),
        ("bad", "leakage: 2 items are in more than one part", {"split__certificate__shared_items": 2}),
        ("bad", "leakage: 7 near-duplicate pairs cross", {"split__certificate__crossing_pairs": 7}),
        ("bad", "3 records exceed format.max_length", {"format__over_length": {"rows": 3}}),
        ("bad", "50.0% of the control 'swapped' pass strict", {"compare__controls": {"swapped": {"mean": 0.5}}}),
        ("bad", "6.0% of the control 'other' pass strict", {"compare__controls": {"other": {"mean": 0.06}}}),
        ("note", "'other' pass strict: the checks test form", {"compare__controls": {"other": {"mean": 0.96}}}),
        ("bad", "2 of 4 answers pass accept.checks at no escalation step", {"accept__none": {"n": 2, "share": 0.5}}),
        (
            "bad",
            "differential missingness: 9 of",
            {"compare__missing": {"sentence": "differential missingness: 9 of 20"}},
        ),
        (
            "bad",
            "tuned: 30.0% of judgements failed; judge.max_failed allows 25.0%",
            {"judge/tuned__outcomes": {"ok": 7, "timeout": 3}},
        ),
        ("bad", "no judge card for this judge: `make judge-card`", {"card": card(judge_ids={"ad": "j2"})}),
        (
            "bad",
            "judge card: fake are detected in fewer than half of the texts; a good score",
            {"card__defects__fake__lower": {"n": 40, "mean": 0.1}},
        ),
        ("bad", "self-judging: judge and base are both tiny", {"card__family": ["judge and base are both tiny"]}),
        (
            "bad",
            "25.0% of the judge's control 'null' score at least as high as their golden text: the judge accepts",
            {"compare__judge_controls__null__at_golden": 0.25},
        ),
        (
            "note",
            "25.0% of golden texts score lower when judged again",
            {"compare__judge_controls__again__at_golden": 0.75},
        ),
        (
            "bad",
            "UNCALIBRATED: 12 labels",
            {"human": {"label": {"judge": {"uncalibrated": "12 labels, 50 are needed"}}}},
        ),
        (
            "bad",
            "verdicts on pairs: one pair lost more",
            {"compare__preferences__missing": {"sentence": "verdicts on pairs: one pair lost more"}},
        ),
        (
            "bad",
            "tuned:base: 3 verdicts failed; depending on the 2 lost pairs, the win rate lies between 40.0% and 90.0%",
            {
                "compare__preferences__pairs": {
                    "tuned:base": pair(failed={"n": 3, "pairs_lost": 2, "bounds": [0.4, 0.9]})
                }
            },
        ),
        (
            "note",
            "tuned:base: win rate withheld: the judge keeps its verdict in 50% of swapped pairs, below 80%",
            {
                "compare__preferences__pairs": {
                    "tuned:base": pair(
                        withheld="withheld: the judge keeps its verdict in 50% of swapped pairs, below 80%"
                    )
                }
            },
        ),
        ("note", "10.0% of base answers are truncated", {"compare__overall__base__stop_rate": 0.9}),
        ("note", "defects that the judge does not detect: padded; looped", {"card__blind_to": ["padded", "looped"]}),
        ("note", "golden scores at the top", {"compare__overall__golden__score": 4.95}),
        ("note", "only programmed rules are checked; persuasion", {"compare__score_kind": "rule score"}),
    ],
)
def test_alerts(kind: str, words: str, edits: dict[str, Any]) -> None:
    now = sound(**edits)
    found = alerts.alerts(now, now)
    assert [name for name, _ in found] == [kind]
    assert words in found[0][1]


def test_alert_of_another_recipe() -> None:
    old = Snapshot("main", "", metrics(), {**PARAMS, "recipe": "other"})
    assert alerts.alerts(sound(), old) == [("note", "main has the recipe other: its metrics describe other texts")]


def test_bad_lines_come_before_notes() -> None:
    now = sound(compare__score_kind="rule score", format__over_length={"rows": 3})
    assert [kind for kind, _ in alerts.alerts(now, now)] == ["bad", "note"]


def test_no_alert_about_a_judge_without_scores() -> None:
    empty = Snapshot("here")
    assert alerts.alerts(empty, empty) == []


def test_params_edited_since_the_run_raise_an_alert(toy: Path) -> None:
    (toy / "dvc.lock").write_text(
        "schema: '2.0'\nstages:\n  train:\n    cmd: python -m stages.train\n    params:\n      params.yaml:\n"
        "        train:\n          epochs: 7\n"
    )
    now = Snapshot("here", "", metrics(), {**PARAMS, "train": {"epochs": 3}})
    line = ("bad", "stale: params.yaml: train changed since the run (stages: train); run `dvc repro` first")
    assert line in alerts.alerts(now, Snapshot("main"))
    now = Snapshot("here", "", metrics(), {**PARAMS, "train": {"epochs": 7}})
    assert line not in alerts.alerts(now, Snapshot("main"))


def test_the_stop_rate_is_that_of_the_shipped_model() -> None:
    assert alerts.alerts(sound(aligned=True), sound()) == []
    assert alerts.alerts(sound(aligned=True, compare__overall__tuned__stop_rate=0.5), sound()) == []
    ((kind, line),) = alerts.alerts(sound(aligned=True, compare__overall__aligned__stop_rate=0.5), sound())
    assert (kind, line[:53]) == ("bad", "50.0% of aligned answers end without a stop token (us")


def test_warnings_of_alignment_are_alerts() -> None:
    now = sound(aligned=True, align__warnings=["chosen texts have become less likely"])
    assert alerts.alerts(now, now) == [("bad", "preference learning: chosen texts have become less likely")]

"""The headline: the claims that metrics support, and those that it withholds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from anneal.history import seed_noise
from anneal.history.revision import Snapshot
from anneal.report import headline, scores
from tests.finished import PARAMS, card, gap, metrics, pair, sound

NO_CARD = "no judge card for this judge: `make judge-card`"


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (gap(2.5, 2.2, 2.8), "tuned is better than base by 2.50 [2.20, 2.80]"),
        (gap(-0.5, -0.9, -0.1), "tuned is worse than base by 0.50 [0.10, 0.90]"),
        (gap(0.1, -0.2, 0.4), "No difference shown between tuned and base: +0.10 [-0.20, +0.40]"),
        (gap(0.0, 0.0, 0.0), "No difference shown"),
        (
            gap(0.4, 0.1, 0.7) | {"p": 0.25},
            "No difference shown between tuned and base by a sign-flip test over items (p = 0.25): +0.40",
        ),
        (
            gap(0.7, None, None),
            "tuned − base is +0.70 (model score, 1 to 5; n = 4 in 2 items: too few for an interval)",
        ),
        (
            gap(0.7, None, None) | {"reason": "no variance: all clusters say the same"},
            "tuned − base is +0.70 (model score, 1 to 5; n = 4 in 2 items: no variance: all clusters say the same)",
        ),
        (
            gap(0.01, -0.02, 0.04) | {"p_equivalent": 0.01, "margin": 0.1},
            "tuned and base are equivalent within ±0.1: +0.01 [-0.02, +0.04]",
        ),
        ({**gap(0, None, None), "mean": None}, "No comparison yet"),
    ],
)
def test_the_score_line_follows_the_interval(found: dict[str, Any], words: str) -> None:
    assert headline.score_line(sound(compare__difference=found)).startswith(words)


def test_an_open_result_names_the_detectable_difference() -> None:
    said = headline.score_line(sound(compare__difference=gap(0.1, -0.2, 0.4) | {"state": "open", "detectable": 0.45}))
    assert said.endswith("; minimum detectable difference 0.45 at 80% power")


def test_a_significant_but_equivalent_difference_names_both() -> None:
    said = headline.score_line(sound(compare__difference=gap(0.05, 0.01, 0.09) | {"p_equivalent": 0.01, "margin": 0.1}))
    assert said.startswith("tuned is better than base by 0.05 [0.01, 0.09]")
    assert said.endswith("yet equivalent within ±0.1")


@pytest.mark.parametrize(
    "found", [None, card(judge_ids={}), card(judge_ids={"ad": "j2"}), card(judge_ids={"note": "j1"})]
)
def test_no_card_of_this_judge_and_no_score(found: dict[str, Any] | None) -> None:
    now = sound(card=found)
    said = headline.lines(now)
    assert said == [
        "No difference shown between the strict pass rates of tuned and base: 75.0% [10.0, 90.0%] against 0.0% "
        f"[10.0, 90.0%] (n = 4; 3 pass in tuned only and 0 in base only; McNemar p = 0.25); {NO_CARD}"
    ]
    assert "2.50" not in said[0]
    assert len(headline.lines(sound())) == 2, "with its card the same run has a score and a win rate"


def test_a_card_covers_every_rubric_that_gave_a_score() -> None:
    now = sound(compare__judge_ids={"ad": "j1", "note": "j9"})
    assert NO_CARD in headline.score_line(now)
    now.metrics["card"]["judge_ids"] = {"ad": "j1", "note": "j9", "poem": "j3"}
    assert NO_CARD not in headline.score_line(now)


def test_judge_ids_of_the_newer_key_are_read() -> None:
    now = sound(compare__judge={"judge_ids": {"ad": "j7"}})
    assert NO_CARD in headline.score_line(now)


@pytest.mark.parametrize(
    ("test", "words"),
    [
        (
            {"n": 4, "only_left": 9, "only_right": 0, "p": 0.004, "paired": gap(0.5, 0.3, 0.7) | {"p": 0.001}},
            "tuned passes strict more often than base: 75.0%",
        ),
        (
            {"n": 4, "only_left": 0, "only_right": 9, "p": 0.004, "paired": gap(-0.5, -0.7, -0.3) | {"p": 0.001}},
            "tuned passes strict less often than base: 75.0%",
        ),
        # McNemar is sure, as it takes the texts of one item for independent; the items are not.
        (
            {"n": 4, "only_left": 9, "only_right": 0, "p": 0.004, "paired": gap(0.5, -0.1, 1.1)},
            "No difference shown between the strict pass rates",
        ),
        ({"n": 4, "only_left": 1, "only_right": 1, "p": None}, "No difference shown between the strict pass rates"),
        ({}, "No score is shown; "),
    ],
)
def test_without_a_card_the_line_shows_pass_rates(test: dict[str, Any], words: str) -> None:
    assert headline.score_line(sound(card=None, compare__passes={"strict": test})).startswith(words)


def lock(folder: Path) -> str:
    """A lock in which one training leads to one judgement and its checks; gives the hash of what a band is of."""
    text = """schema: '2.0'
stages:
  train:
    cmd: python -m stages.train
    deps: [{path: data/train.jsonl, md5: aa}]
    params: {params.yaml: {train: {seed: 1, lr: 0.1}}}
    outs: [{path: models/adapter, md5: bb.dir}]
  judge@tuned:
    cmd: python -m stages.judge tuned
    deps: [{path: models/adapter, md5: bb.dir}]
    outs: [{path: data/judgements/tuned.jsonl, md5: cc}, {path: data/checks.jsonl, md5: dd}]
"""
    (folder / "dvc.lock").write_text(text)
    return seed_noise.inputs_hash(text)


def test_seed_noise_does_not_apply_to_the_base(toy: Path) -> None:
    seeds = {"of": lock(toy), "score": {"band": 0.6}}
    assert len(seeds["of"]) == 16
    said = headline.score_line(sound(seeds=seeds, compare__difference=gap(0.5, 0.3, 0.7)))
    assert said.startswith("tuned is better than base by 0.50 [0.30, 0.70]")


def test_failed_judgements_that_could_change_the_sign_leave_it_undecided() -> None:
    open_ends = gap(0.5, 0.3, 0.7) | {"bounds": [-0.2, 0.9]}
    assert headline.score_line(sound(compare__difference=open_ends)) == (
        "Undecided between tuned and base: with failed judgements at worst and at best the difference is -0.20 to +0.90"
    )
    assert headline.score_line(sound(compare__difference=open_ends | {"bounds": [0.1, 0.9]})).startswith(
        "tuned is better"
    )
    uneven = headline.score_line(sound(compare__missing={"differs": True}))
    assert uneven.startswith("Undecided between tuned and base: judgements failed at different rates")


def test_a_judge_that_misses_plain_defects_gives_no_score() -> None:
    share = {"n": 40, "mean": 0.9}
    longest = card(defects={"looped": {"lower": {"n": 40, "mean": 0.0}, "higher": {"n": 40, "mean": 1.0}}})
    rng = card(defects={"null": {"lower": {**share, "mean": 0.6}, "higher": {**share, "mean": 0.4}}})
    for name, found in (("looped", longest), ("null", rng)):
        said = headline.lines(sound(card=found))
        assert len(said) == 1, "nor a win rate"
        assert said[0].endswith(f"; the judge card shows that this judge does not detect {name}")
    # Facts may be outside what a recipe can check; that is told, and no reason to hide the score.
    form = card(defects={"other_item": {"lower": {**share, "mean": 0.0}, "higher": {**share, "mean": 0.0}}})
    assert headline.score_line(sound(card=form)).startswith("tuned is better")
    assert NO_CARD in headline.score_line(sound(card=card(defects={"null": {"lower": {"n": 0, "mean": None}}})))


def test_a_win_rate_that_may_be_due_to_length_says_so() -> None:
    found = pair(controlled={"state": "not identifiable"})
    line = headline.lines(sound(compare__preferences__pairs={"tuned:base": found}))[1]
    assert line.endswith("a preference for length cannot be ruled out, its effect is not identifiable")


def test_the_seed_band_is_shown_below_the_scores(toy: Path) -> None:
    seeds = {"of": lock(toy), "score": {"band": 0.6}, "seeds": [0, 1, 2]}
    assert "seeds differ by up to ±0.60 (95%, from 3 seeds)" in str(scores.scores(sound(seeds=seeds), Snapshot("main")))
    other = seeds | {"of": "0" * 16}
    assert "Seed noise" not in str(scores.scores(sound(seeds=other), Snapshot("main")))


@pytest.mark.parametrize("seeds", [None, {"of": "0" * 16, "score": {"band": 9.0}}, {"score": {"band": 9.0}}])
def test_a_seed_band_of_other_inputs_is_ignored(toy: Path, seeds: dict[str, Any] | None) -> None:
    lock(toy)
    assert headline.score_line(sound(seeds=seeds)).startswith("tuned is better than base by 2.50")


@pytest.mark.parametrize(
    ("win", "words"),
    [
        ({"mean": 0.875, "low": 0.6, "high": 0.95}, "tuned is preferred to base: tuned's win rate 87.5% [60.0, 95.0%]"),
        ({"mean": 0.2, "low": 0.1, "high": 0.4}, "base is preferred to tuned: tuned's win rate 20.0% [10.0, 40.0%]"),
        ({"mean": 0.5, "low": 0.4, "high": 0.6}, "No preference shown between tuned and base: win rate 50.0%"),
        ({"mean": 0.5, "low": None, "high": None}, "tuned against base: win rate 50.0% (ties count half; n = 4 in 2"),
    ],
)
def test_the_win_rate_has_its_own_line(win: dict[str, Any], words: str) -> None:
    found = pair(win={"n": 4, "clusters": 2, **win})
    assert headline.lines(sound(compare__preferences__pairs={"tuned:base": found}))[1].startswith(words)


def test_a_withheld_win_rate_has_no_line() -> None:
    found = pair(withheld="withheld: no pair has a verdict in both orders")
    assert len(headline.lines(sound(compare__preferences__pairs={"tuned:base": found}))) == 1
    assert len(headline.lines(sound(compare__preferences=None))) == 1


def test_older_metrics_still_give_a_sentence() -> None:
    found = metrics()
    bare = {"n": 4, "clusters": 2, "mean": 2.5, "low": 2.2, "high": 2.8, "p": 0.01}
    found["compare"] = {"difference": bare, "overall": {}, "judge_ids": {"ad": "j1"}}
    assert headline.score_line(Snapshot("here", "", found, PARAMS)).startswith("tuned is better than base by 2.50")
    del found["card"]
    assert headline.score_line(Snapshot("here", "", found, PARAMS)) == f"No score is shown; {NO_CARD}"


def test_preference_learning_has_its_own_headline() -> None:
    said = headline.lines(sound(aligned=True))
    assert [line.split(" by ")[0].split(":")[0] for line in said] == [
        "tuned is better than base",
        "tuned is preferred to base",
        "aligned is better than tuned",
        "aligned is preferred to tuned",
    ]
    assert (
        said[2]
        == "aligned is better than tuned by 0.50 [0.25, 0.75] (model score, 1 to 5; n = 4 in 2 items, 95% interval)"
    )
    assert said[3].startswith("aligned is preferred to tuned: aligned's win rate 87.5%")
    assert said[:2] == headline.lines(sound())


@pytest.mark.parametrize(
    ("edits", "words"),
    [
        ({"compare__aligned_difference": gap(-0.5, -0.9, -0.1)}, "aligned is worse than tuned by 0.50"),
        ({"compare__aligned_difference": gap(0.1, -0.2, 0.4)}, "No difference shown between aligned and tuned: +0.10"),
        (
            {"compare__aligned_difference": {**gap(0, None, None), "mean": None}},
            "Undecided between aligned and tuned: no text has a score from both systems",
        ),
        (
            {"compare__aligned_difference": gap(0.5, 0.3, 0.7) | {"bounds": [-0.1, 0.9]}},
            "Undecided between aligned and tuned: with failed judgements at worst and at best the difference is",
        ),
        (
            {"card": None},
            "aligned passes strict in 100.0% [10.0, 90.0%] of 4 texts, tuned in 75.0% [10.0, 90.0%]; no judge card",
        ),
    ],
)
def test_both_headlines_have_the_same_caveats(edits: dict[str, Any], words: str) -> None:
    assert headline.score_line(sound(aligned=True, **edits), "aligned_difference").startswith(words)


def test_seed_noise_does_not_apply_to_two_models_of_one_training(toy: Path) -> None:
    seeds = {"of": lock(toy), "score": {"band": 0.6}}
    said = headline.lines(sound(aligned=True, seeds=seeds))
    assert said[0].startswith("tuned is better than base by 2.50"), "the base was trained with no seed"
    assert said[2].startswith("aligned is better than tuned by 0.50")

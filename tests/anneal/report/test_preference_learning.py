"""Preference learning before its training: pairs, reward model and samples, from metrics of the stages."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from anneal.evaluation import alignment_effect
from anneal.history.revision import Snapshot
from anneal.preference import calibration, pair_flaws, reward_spread
from anneal.preference.pair_flaws import Pair
from anneal.preference.reward_spread import Limits
from anneal.report import preference_learning
from stages import audit
from tests.finished import drawn, learnt, sound, strategy
from tests.markup import plain, rows, state

OLD = state()
AUDIT = {"audit": {"max_shortcut_auc": 0.95}, "rewards": {"weights": {"banned": 1.0, "length": 0.5}}}


def keys(value: Any, way: str = "") -> Iterator[str]:
    """The ways through nested objects; names of the data (strategies, rewards) stand for each other."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from keys(inner, f"{way}.{'*' if way in ('.strategies', '.functions', '.accuracy') else key}")
    else:
        yield way


def samples(rewards: list[list[float]]) -> list[dict[str, Any]]:
    """A row for each sample of each prompt."""
    return [
        {"id": f"p{i}", "item": f"i{i}", "text": "x" * (3 + n), "rewards": {"banned": value}, "reward": value}
        for i, group in enumerate(rewards)
        for n, value in enumerate(group)
    ]


def judged(margin: float, kind: str, n: int) -> dict[str, Any]:
    return {"item": f"i{n}", "type": "ad", "kind": kind, "chosen": margin, "rejected": 0.0, "characters": (9 + n, 7)}


REWARD = calibration.summary([judged(2.0, "weak", n) for n in range(4)] + [judged(-0.1, "fake", n) for n in (1, 2)], 0)
ROLLOUT = reward_spread.measure(
    samples([[0.0, 1.0], [1.0, 1.0], [0.5, 0.5]]), Limits(max_zero_spread=0.5, max_length_rho=1), 0
)


def test_the_fixture_has_the_keys_that_the_stages_write() -> None:
    found = learnt()
    assert set(keys(found["reward"])) - {".warnings", ".refusals"} <= set(keys(REWARD)), "of the reward"
    assert set(keys(found["rollout/tuned"])) <= set(keys(ROLLOUT))
    assert set(keys(REWARD)) & set(keys(found["reward"])) >= {".accuracy.*.mean", ".calibration.bins", ".length.rho"}


def test_no_section_without_preference_learning() -> None:
    assert preference_learning.section(sound(), OLD) == ""
    off = {"pairs": {"n": 0, "flags": []}, "reward": {"n": 0}, "rollout/tuned": {"n": 0, "refusals": []}}
    assert preference_learning.section(state(AUDIT, **off, align={"method": "none"}), OLD) == ""


def test_a_shortcut_is_red_and_every_flag_a_warning() -> None:
    found = learnt()["pairs"]
    page = preference_learning.section(state(AUDIT, pairs=found), OLD)
    head, fake, weak, whole = rows(page)[:4]
    assert head[0], fake[0] == ("strategy", "fake")
    assert fake[1:4] == ["10", "50.0%", "5 / 5"]
    assert (weak[0], weak[5:7]) == ("weak", ["1.00", "0.99 [0.94, 1.00]"])
    assert whole[0] == "all pairs"
    red = [plain(part) for part in page.split('class="mark bad">')[1:]]
    assert [part[:4] for part in red] == ["1.00", "0.99"], "of the whole set and of fake neither is above the limit"
    assert (
        f'<ul class="alerts"><li class="bad">{preference_learning.html.text(found["flags"][0]["line"])}</li></ul>'
        in page
    )
    assert rows(page)[-1] == ["weak", '"！"', "0", "10"]
    for limit in (1.0, None):
        assert "mark bad" not in preference_learning.section(
            state({"audit": {"max_shortcut_auc": limit}}, pairs=found), OLD
        )


def test_always_shorter_is_a_shortcut_too() -> None:
    found = {"n": 10, "strategies": {"weak": strategy(10, 0.5, 0)}, "flags": []}
    assert preference_learning.section(state(AUDIT, pairs=found), OLD).count("mark bad") == 1


def test_the_audit_of_real_pairs_fits_the_page() -> None:
    rng = random.Random(0)
    made = [
        Pair(f"{i}", f"i{i}", "weak", "train", "[]", "good " * rng.randint(1, 4), "bad " * rng.randint(1, 4))
        for i in range(12)
    ]
    found = audit.measure(made, audit.Audit(max_shortcut_auc=0.9, ngram=2, folds=2, top=3), 0)
    page = preference_learning.section(state({"audit": {"max_shortcut_auc": 0.9}}, pairs=found), OLD)
    table = rows(page)
    assert table[1][:3] == ["weak", "12", "100.0%"]
    assert table[1][6].startswith("1.00"), "n-grams tell all"
    assert [row for row in table if row[0] == "all pairs"] == [], "one strategy is the whole"
    assert plain(page).count("weak: shortcut: character n-grams tell chosen from rejected") == 1
    assert set(keys(learnt()["pairs"]["strategies"]["weak"])) - {".length.longer"} <= set(
        keys(found["strategies"]["weak"])
    )
    assert pair_flaws.flags(found, 1.0) != found["flags"]


def test_the_reward_model_by_strategy_with_its_calibration() -> None:
    page = preference_learning.section(
        state(AUDIT, reward={**REWARD, "warnings": ["weak: short"], "refusals": []}), OLD
    )
    table = rows(page)
    assert [row[:2] for row in table[1:4]] == [["fake", "2"], ["weak", "4"], ["all pairs", "6"]]
    assert table[1][2].startswith("0.0%")
    assert [row[1] for row in table[5:]] == ["2", "4"], "certainties that no pair has are no points"
    assert page.count("<svg") == 1
    assert 'class="line ideal"' in page
    assert "weak: short" in page
    told = plain(page)
    assert "Rank correlation of score and length within a type: +0." in told
    assert "clusters: an interval needs" in told


def test_a_warning_of_the_audit_is_shown_once() -> None:
    line = learnt()["pairs"]["flags"][0]["line"]
    both = state(AUDIT, pairs=learnt()["pairs"], reward={**REWARD, "warnings": [line]})
    assert plain(preference_learning.section(both, OLD)).count(line) == 1


def test_samples_without_signal_are_counted_and_refused() -> None:
    page = preference_learning.section(state(AUDIT, **{"rollout/tuned": ROLLOUT}), OLD)
    told = plain(page)
    assert "2 samples of tuned for each of 3 held-out prompts. In 2 of these prompts (66.7%) all samples" in told
    assert "give no training signal: 1 the best reward throughout, 0 one text." in told
    assert "unsuitable for training: zero spread: 2 of 3 prompts" in told
    assert rows(page)[1][:2] == ["banned", "1.00"]
    assert rows(page)[2][0] == "weighted sum"
    assert "Rank correlation of reward and length within a prompt: +1.00 (1 items: an interval" in told
    assert "alerts" not in preference_learning.section(state(AUDIT, **{"rollout/tuned": drawn(0.5)}), OLD)


def test_the_reward_is_correlated_with_the_judge() -> None:
    drawn_rows = [row | {"sample": n % 2} for n, row in enumerate(samples([[0.0, 1.0], [0.5, 1.0], [0.25, 0.5]]))]
    judged_rows = [{**row, "score": 5 * row["reward"], "outcome": "ok"} for row in drawn_rows]
    judged_rows[-1]["outcome"] = "timeout"
    signal = alignment_effect.signal(drawn_rows, judged_rows, 0)
    now = state(AUDIT, **{"rollout/tuned": ROLLOUT, "compare": {"alignment": {"signal": signal}}})
    told = plain(preference_learning.section(now, OLD))
    assert "Rank correlation of reward and judge score within a prompt: +1.00 (2 " in told
    assert "; 5 of 6 judged samples have a score." in told
    assert "and judge" not in preference_learning.section(state(AUDIT, **{"rollout/tuned": ROLLOUT}), OLD)


def test_the_effect_comes_first(toy: Path) -> None:
    page = preference_learning.section(sound(aligned=True), OLD)
    heads = [plain(part.split("</h3>")[0]) for part in page.split("<h3>")[1:]]
    assert heads == [
        "Effect of alignment",
        "Cost of alignment",
        "Pairs before training",
        "Reward model",
        "Samples before training",
        "Training by dpo",
    ]
    assert preference_learning.effects(sound(aligned=True)) in page


@pytest.mark.parametrize("name", sorted(learnt()))
def test_half_of_a_metric_shows_dashes(toy: Path, name: str) -> None:
    whole = learnt()[name]
    kept = [key for key in whole if key not in ("n", "method")]
    assert len(kept) > 2
    for key in kept:
        for value in ({k: v for k, v in whole.items() if k != key}, {**whole, key: None}):
            page = preference_learning.section(Snapshot("here", "", {name: value}, AUDIT), OLD)
            assert bool(page) is (name != "rollout/aligned")

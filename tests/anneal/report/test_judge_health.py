"""The section about the judge, part by part, and the number of judges tried in a repository."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from anneal.history import revision
from anneal.report import judge_health
from anneal.stats import pairwise_summary
from tests.finished import card, metrics, pair, sound
from tests.markup import plain, rows, state


@pytest.fixture(autouse=True)
def _nothing_has_run(toy: Path) -> None:
    """A folder without dvc.lock, so that edits of the checkout raise no alert here."""


OLD = state()


SECONDS = itertools.count(1_700_000_000)  # commits of one second have no order


def git(*words: str) -> None:
    who = ["-c", "user.name=test", "-c", "user.email=test@localhost"]
    env = {**os.environ, "GIT_COMMITTER_DATE": f"@{next(SECONDS)} +0000"}
    subprocess.run(["git", *who, *words], check=True, capture_output=True, env=env)


def judged(ids: Any) -> None:
    path = Path("reports/metrics/judge/golden.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(ids if isinstance(ids, str) else json.dumps({"judge_ids": ids}))


def commit(ids: Any) -> None:
    judged(ids)
    git("add", ".")
    git("commit", "-q", "--allow-empty", "-m", "again")


@pytest.fixture
def repository(toy: Path) -> Path:
    git("init", "-q", "-b", "main")
    return toy


def test_every_tried_judge_is_counted(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for ids in ({"ad": "j1"}, {"ad": "j2"}, {"ad": "j1"}, "{ no JSON", "[]"):
        commit(ids)
    git("checkout", "-q", "-b", "other")
    commit({"ad": "j3", "note": "n1"})
    git("checkout", "-q", "main")
    now = sound(**{"judge/golden": {"judge_ids": {"ad": "j1"}}})
    assert judge_health.count_judges(now) == 3, "j1 twice is one; the other branch counts"
    now.metrics["judge/golden"] = {"judge_ids": {"ad": "not committed"}}
    assert judge_health.count_judges(now) == 4
    assert "Judges tried: 4." in plain(judge_health.section(now, OLD))
    monkeypatch.setattr(revision, "COMMITS", 1)
    assert judge_health.count_judges(now) == 2, "as far back as the history is read"


def test_a_folder_of_a_repository_has_its_own_history(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (repository / "inner").mkdir()
    monkeypatch.chdir(repository / "inner")
    commit({"ad": "j1"})
    commit({"ad": "j2"})
    assert judge_health.count_judges(state(**{"judge/golden": {"judge_ids": {"ad": "j2"}}})) == 2


def test_without_git_the_judge_of_the_working_tree_counts(toy: Path) -> None:
    assert judge_health.count_judges(state(**{"judge/golden": {"judge_ids": {"ad": "j1"}}})) == 1
    assert judge_health.count_judges(state()) == 0


def test_before_the_judge_there_is_no_section(toy: Path) -> None:
    assert judge_health.section(state(), OLD) == ""


def test_an_uncalibrated_judge_has_a_warning(toy: Path) -> None:
    assert "UNCALIBRATED: no votes" in plain(judge_health.section(state(**metrics()), OLD))
    assert "UNCALIBRATED" not in plain(judge_health.section(sound(), OLD))


def test_repeats_controls_and_orders() -> None:
    now = state(**metrics())
    assert rows(judge_health.repeats(now))[1] == ["tuned", "2", "3", "50.0%", "0.12", "–", "no variance"]
    assert rows(judge_health.controls(now))[1:] == [
        ["null", "4", "1.00 [0.50, 0.90]", "4.50", "0.0%", ""],
        ["again", "4", "4.50 [0.50, 0.90]", "4.50", "100.0%", ""],
    ]
    found = rows(judge_health.orders(now))
    assert found[1] == ["tuned:base", "4", "75.0% [40.0, 90.0%]", "1 / 0", "+1.00, p = 1", "50.0%", "1", "–", ""]


def test_the_remark_on_a_rule_judge_is_shown_once() -> None:
    now = state(**metrics())
    part = now.metrics["compare"]["preferences"]["pairs"]["tuned:base"]
    part["orders"] = {**part["orders"], "reason": pairwise_summary.BLIND}
    page = judge_health.orders(now)
    assert rows(page)[1][-1] == ""
    assert str(page).count(pairwise_summary.BLIND) == 1


def test_a_withheld_pair_shows_no_rate() -> None:
    now = state(**metrics())
    assert rows(judge_health.win_rates(now))[1][3:] == [
        "87.5% [60.0, 95.0%]",
        "87.5% [60.0, 95.0%]",
        "80.0% [70.0, 90.0%]",
        "reported",
    ]
    assert rows(judge_health.matrix(now)) == [
        ["", "tuned", "base"],
        ["tuned", "–", "87.5% [60.0, 95.0%]"],
        ["base", "–", "–"],
    ]
    out = pair(withheld="withheld: below 80%", sentence="withheld: below 80%", length_sentence="withheld: below 80%")
    now.metrics["compare"]["preferences"]["pairs"]["tuned:base"] = out
    assert rows(judge_health.win_rates(now))[1][3:] == ["withheld", "–", "–", "reported"]
    assert rows(judge_health.matrix(now))[1] == ["tuned", "–", "withheld"]
    assert plain(judge_health.win_rates(now)).count("tuned:base: withheld: below 80%") == 1, "the same sentence once"


def test_the_card() -> None:
    now = sound(card__blind_to=["stuffed: 1 of 40 found"])
    found = plain(judge_health.card(now))
    assert rows(judge_health.card(now))[1] == [
        "fake",
        "40",
        "92.5% [80.0, 97.0%]",
        "92.5% [80.0, 97.0%]",
        "0.0% [80.0, 97.0%]",
    ]
    assert "92.5% [80.0, 97.0%] of 40 clean texts are not flagged." in found
    assert "The golden text beats its degraded version in 92.5% [80.0, 97.0%] of 40 pairs" in found
    assert "Score change for each doubling of the length, in points, over 4 clean texts: 0.05 [-0.10, 0.20]." in found
    assert "Not detected, or not tested:stuffed: 1 of 40 found" in found
    assert "another judge" not in found


def test_a_card_of_another_judge_and_none() -> None:
    assert "This card belongs to another judge." in plain(judge_health.card(sound(card=card(judge_ids={"ad": "j9"}))))
    assert "no judge card for this judge: `make judge-card`" in plain(judge_health.card(sound(card=None)))
    empty = {"judge_ids": {}, "defects": {}, "reason": "no card: card.items is 0"}
    assert "no card: card.items is 0" in plain(judge_health.card(sound(card=empty)))

"""Score changes against a revision: paired under one judge, improved, regressed, and not comparable."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from anneal.history import seed_noise
from anneal.history.revision import Snapshot
from anneal.report import regressions
from tests.finished import PARAMS, metrics, sound
from tests.keeping import judgement, keep, write
from tests.markup import plain, rows

JUDGED = regressions.judgements(sound())
IDS = [f"p{i}/ad/{n}" for i in range(6) for n in range(2)]


def revised(old: list[dict[str, Any]], **more: Any) -> Snapshot:
    """A revision whose judgements on tuned are in the cache."""
    return Snapshot("main", "", metrics(), PARAMS, lock={JUDGED: keep(old), **more})


@pytest.fixture
def pair(toy: Path) -> tuple[Snapshot, Snapshot]:
    """Of twelve texts of six items seven are better by a half, one is much worse, four are the same."""
    write(JUDGED, [judgement(name, 4.0 if i != 3 else 1.5) for i, name in enumerate(IDS)])
    return sound(), revised([judgement(name, 3.5 if i < 8 else 4.0) for i, name in enumerate(IDS)])


def test_the_difference_is_paired_by_text(pair: tuple[Snapshot, Snapshot]) -> None:
    whole = regressions.changes(*pair)["all"]
    assert whole["n"] == 12
    assert whole["clusters"] == 6
    assert whole["mean"] == pytest.approx((7 * 0.5 - 2.0) / 12)
    assert whole["low"] < whole["mean"] < whole["high"]
    assert regressions.changes(*pair)["ad"]["p_holm"] == regressions.changes(*pair)["ad"]["p"]
    assert regressions.sentence(*pair, regressions.changes(*pair)).startswith("tuned here minus tuned at main: +0.12 [")


def test_texts_that_improved_and_regressed_have_links(pair: tuple[Snapshot, Snapshot]) -> None:
    page = regressions.section(*pair)
    said = plain(page)
    assert "7 of 12 texts score higher than at main, 1 lower, the others within 0.05 (compare.tie)." in said
    found = rows(page)
    head = ["record", "type", "main", "here", "change"]
    assert found[0] == head
    assert found[1] == ["p1/ad/1", "ad", "3.50", "1.50", "-2.00"], "what regressed comes first"
    assert found[2] == head
    assert [row[0] for row in found[3:]] == sorted((i for n, i in enumerate(IDS) if n < 8 and n != 3), reverse=True)
    assert page.count('href="#p1/ad/1"') == 1


def test_a_change_no_larger_than_a_tie_is_none(toy: Path) -> None:
    write(JUDGED, [judgement(name, 4.8) for name in IDS])
    page = plain(regressions.section(sound(), revised([judgement(name, 4.75) for name in IDS])))
    assert "0 of 12 texts score higher than at main, 0 lower" in page


def test_an_id_cannot_leave_its_link(toy: Path) -> None:
    bad = '"><script>x</script>'
    write(JUDGED, [judgement(bad, 4.0), judgement("b", 4.0)])
    page = regressions.section(sound(), revised([judgement(bad, 3.0), judgement("b", 4.0)]))
    assert "<script>" not in page
    assert 'href="#%22%3E%3Cscript%3Ex%3C/script%3E"' in page


def test_scores_of_another_judge_are_not_compared(toy: Path) -> None:
    write(JUDGED, [judgement(name, 4.0) for name in IDS])
    old = revised([judgement(name, 3.0, judge="j2") for name in IDS])
    found = regressions.changes(sound(), old)
    assert found["all"]["mean"] is None
    assert regressions.cell(found["all"]) == "another judge"
    assert regressions.sentence(sound(), old, found) == "tuned here minus tuned at main: another judge"
    assert "score higher" not in plain(regressions.section(sound(), old))


def test_without_the_old_texts_the_means_remain(toy: Path) -> None:
    write(JUDGED, [judgement(name, 4.0) for name in IDS])
    old = Snapshot("main", "", metrics(), PARAMS, lock={JUDGED: "0" * 32})
    old.metrics["compare"]["overall"]["tuned"]["score"] = 3.75
    found = regressions.changes(sound(), old)
    assert found["all"]["mean"] == 0.25
    said = regressions.sentence(sound(), old, found)
    assert said == "tuned here minus tuned at main: +0.25; no interval: the texts of main are not in the DVC cache"
    old.metrics["compare"]["judge_ids"] = {"ad": "j2"}
    assert regressions.changes(sound(), old) == {}
    assert regressions.sentence(sound(), old, {}) == "tuned here minus tuned at main: another judge"
    assert regressions.cell(None) == "–"


def test_rows_of_an_older_form_are_left_alone(toy: Path) -> None:
    write(JUDGED, [judgement(name, 4.0) for name in IDS])
    old = revised([{"id": name, "score": 4.0} for name in IDS])
    assert regressions.stored_judgements(sound(), old) is None
    assert regressions.dimensions(sound(), old) == {}


def test_dimensions_share_one_correction(toy: Path) -> None:
    write(JUDGED, [judgement(name, 4.0, facts=3 + i % 2) for i, name in enumerate(IDS)])
    found = regressions.dimensions(sound(), revised([judgement(name, 4.0, facts=3) for name in IDS]))
    assert found["ad"]["facts"]["mean"] == 0.5
    assert found["ad"]["facts"]["p_holm"] == found["ad"]["facts"]["p"]


def test_a_change_within_seed_noise_says_so(toy: Path) -> None:
    lock = "schema: '2.0'\nstages:\n  train:\n    cmd: x\n    outs: [{path: data/judgements/tuned.jsonl, md5: cc}]\n"
    Path("dvc.lock").write_text(lock)
    write(JUDGED, [judgement(name, 4.0 + (i // 2) / 100) for i, name in enumerate(IDS)])
    old = revised([judgement(name, 3.8) for name in IDS])
    now = sound(seeds={"of": seed_noise.inputs_hash(lock), "score": {"band": 0.5}})
    assert regressions.sentence(now, old, regressions.changes(now, old)).endswith(
        ": inside the noise of other seeds, ±0.50"
    )
    now.metrics["seeds"]["of"] = "other inputs"
    assert regressions.sentence(now, old, regressions.changes(now, old)).endswith(": higher")


def test_gained_and_lost_passes(toy: Path) -> None:
    def checks(passing: set[str]) -> list[dict[str, Any]]:
        return [
            {"id": i, "system": s, "strict": i in passing and s == "tuned"} for i in "abcd" for s in ("tuned", "base")
        ]

    write(regressions.CHECKED, checks({"a", "b"}))
    old = Snapshot("main", "", metrics(), PARAMS, lock={regressions.CHECKED: keep(checks({"b", "c"}))})
    assert regressions.strict_changes(sound(), old) == (["a"], ["c"], 4)
    said = plain(regressions.section(sound(), old))
    assert "1 of 4 texts newly pass strict, 1 no longer pass." in said


def test_means_of_other_test_records_are_no_difference(toy: Path) -> None:
    old = Snapshot("main", "", metrics(), PARAMS, {}, {"data/test.jsonl": "b" * 32})
    now = sound()
    now.lock["data/test.jsonl"] = "a" * 32
    assert regressions.changes(now, old) == {}
    assert regressions.sentence(now, old, {}) == "tuned here minus tuned at main: different test records"


def test_each_side_reads_its_shipped_model(toy: Path) -> None:
    """Here the aligned texts, at the revision the tuned ones: what is handed out, however it was trained."""
    now, plain_run = sound(aligned=True), sound()
    assert (regressions.judgements(now), regressions.judgements(plain_run)) == ("data/judgements/aligned.jsonl", JUDGED)
    write(regressions.judgements(now), [judgement(name, 4.5) for name in IDS])
    write(JUDGED, [judgement(name, 2.0) for name in IDS])
    old = revised([judgement(name, 4.0 + i / 100) for i, name in enumerate(IDS)])
    found = regressions.changes(now, old)
    assert found["all"]["mean"] == pytest.approx(0.445)
    assert regressions.sentence(now, old, found).startswith("aligned here minus tuned at main: +0.4")
    assert regressions.versus(now, old) == "aligned − tuned at BASE"
    assert regressions.versus(now, Snapshot("main", "first run")) == "aligned − aligned at BASE"
    assert regressions.versus(plain_run, old) == "tuned − tuned at BASE"
    old.metrics["compare"]["overall"]["aligned"] = {"score": 4.0}
    assert regressions.sentence(now, old, {}).startswith("aligned here minus aligned at main: ")
    assert regressions.changes(now, old)["all"]["mean"] == 0.5, "its aligned texts are not kept: the means remain"


def test_passes_are_counted_in_the_shipped_model(toy: Path) -> None:
    rows_here = [{"id": "a", "system": s, "strict": s == "aligned"} for s in ("aligned", "tuned")]
    write(regressions.CHECKED, rows_here)
    lock = {regressions.CHECKED: keep([{"id": "a", "system": "tuned", "strict": False}])}
    old = Snapshot("main", "", metrics(), PARAMS, lock=lock)
    assert regressions.strict_changes(sound(aligned=True), old) == (["a"], [], 1)
    assert regressions.strict_changes(sound(), old) == ([], [], 1)

"""compare: numbers at the paths that others read, failures never scored, and no winner where there is none."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from anneal import files
from anneal.errors import UserError
from stages import compare

TYPES = ("ad", "note")
USUAL = {"golden": 4.6, "tuned": 4.2, "base": 2.0}


@pytest.fixture
def folder(toy: Path) -> Path:
    """A checkout before `compare`: 10 items of 2 types; tuned .4 below golden, base far below and never right."""
    checks: list[dict[str, Any]] = []
    for system, usual in USUAL.items():
        rows = []
        for item in range(10):
            for kind in TYPES:
                rng = random.Random(f"{system}/{item}/{kind}")
                row = {"id": f"p{item}/{kind}", "item": f"p{item}", "type": kind}
                good = system == "golden" or (system == "tuned" and item > 0)
                # A check may be called as a key of the row is: `type` is a content type and a check.
                passed = {"name": item != 3, "facts": item < 5, "all_facts": good and item > 1, "type": good}
                mine = row | {"strict": good, "stopped": good, "system": system}
                checks.append(mine | {"checks": {"strict": good, **passed}})
                score = usual + 0.1 * (item % 3) + rng.uniform(-0.02, 0.02)
                rows.append(row | {"outcome": "ok", "score": score, "dims": {}, "judge_id": "j"})
        files.write(f"data/judgements/{system}.jsonl", rows)
        judged = {"judge_ids": {"one": "j"}, "score_kind": "rule score"}
        files.write_json(f"reports/metrics/judge/{system}.json", judged)
    planted = [{"id": f"p{i}/ad", "item": f"p{i}", "outcome": "ok", "judge_id": "j"} for i in range(10)]
    marks = {"null": 1.0, "again": 5.0}
    rows = [row | {"control": name, "score": score} for name, score in marks.items() for row in planted]
    files.write("data/judgements/controls.jsonl", rows)
    met = {"pair": "tuned:base", "sample": 0, "outcome": "ok", "judge_id": "p", "lengths": [9, 9]}
    files.write(
        "data/preferences.jsonl",
        [
            {**{key: row[key] for key in ("id", "item")}, "type": "ad", **met, "first": a, "second": b, "verdict": v}
            for row in planted
            for a, b, v in (("tuned", "base", "A>B"), ("base", "tuned", "B>>A"))
        ],
    )
    files.write("data/checks.jsonl", checks)
    for name in ("judgements/aligned", "judgements/samples", "rollouts/aligned", "rollouts/tuned"):
        files.write(f"data/{name}.jsonl", [])
    control = {"n": 20, "mean": 0.0}
    files.write_json("reports/metrics/evaluate.json", {"controls": {"swapped": control, "other": control}})
    return toy


def run(tie: float = 0.05) -> dict[str, Any]:
    compare.main(
        compare=compare.Compare(
            tie=tie, margin=0.1, shares=["strict", "all_facts", "stop_rate", "name", "facts", "type"]
        ),
        seed=42,
    )
    numbers: dict[str, Any] = json.loads(Path("reports/metrics/compare.json").read_text("utf-8"))
    return numbers


def edit(system: str, **changes: Any) -> None:
    """Change the judgements of one system; a value may be a function of the place of the row."""
    path = f"data/judgements/{system}.jsonl"
    rows = [
        row | {key: value(place) if callable(value) else value for key, value in changes.items()}
        for place, row in enumerate(files.read(path))
    ]
    files.write(path, rows)


def test_name_and_own_facts_stand_beside_strict(folder: Path) -> None:
    base = run()["overall"]["base"]
    assert (base["name"], base["facts"]) == (0.9, 0.5)
    assert base["intervals"]["facts"][0] < 0.5 < base["intervals"]["facts"][1]


def test_the_paths_that_others_read(folder: Path) -> None:
    numbers = run()
    expected = {"golden": (4.69, 1.0, 0.8, 1.0), "tuned": (4.29, 0.9, 0.8, 0.9), "base": (2.09, 0.0, 0.0, 0.0)}
    for system, (score, strict, all_facts, stop_rate) in expected.items():
        part = numbers["overall"][system]
        assert (part["n"], part["n_scored"]) == (20, 20)
        assert part["score"] == pytest.approx(score, abs=0.02)
        assert (part["strict"], part["all_facts"], part["stop_rate"]) == (strict, all_facts, stop_rate)
        for name in ("score", "strict", "all_facts", "stop_rate"):
            low, high = part["intervals"][name]
            assert low <= part[name] <= high
        assert part["bounds"] == [part["score"]] * 2
    assert set(numbers["by_type"]) == set(TYPES)
    for part in numbers["by_type"].values():
        assert {part[system]["n"] for system in USUAL} == {10}
        assert part["difference"]["n"] == part["difference"]["clusters"] == 10
        assert part["difference"]["p_holm"] >= part["difference"]["p"]
    gap = numbers["difference"]
    assert (gap["n"], gap["clusters"]) == (20, 10)
    assert gap["mean"] == pytest.approx(2.2, abs=0.02)
    assert 2.15 < gap["low"] < gap["mean"] < gap["high"] < 2.25
    assert gap["p"] < 0.01
    assert numbers["to_golden"]["mean"] == pytest.approx(-0.4, abs=0.02)
    assert numbers["best"] == {"golden": 20, "tuned": 0, "base": 0, "tie": 0, "n": 20}
    assert (numbers["score_kind"], numbers["judge_ids"]) == ("rule score", {"one": "j"})
    assert numbers["controls"]["swapped"] == {"n": 20, "mean": 0.0}


def test_best_counts_ties_and_skips_what_has_no_score() -> None:
    def counts(*scores: tuple[float | None, float | None, float | None], tie: float = 0.05) -> list[int]:
        rows = [dict(zip(("golden", "tuned", "base"), row, strict=True)) for row in scores]
        found = compare.best(rows, ("golden", "tuned", "base"), tie)
        return [found[key] for key in ("golden", "tuned", "base", "tie", "n")]

    assert counts((5, 4, 3), (4, 5, 3), (3, 4, 5)) == [1, 1, 1, 0, 3]
    # An argmax would crown the first of three equals.
    assert counts((4, 4, 4), (4.8, 4.75, 1)) == [0, 0, 0, 2, 2]
    assert counts((4.8, 4.75, 1), tie=0.04) == [1, 0, 0, 0, 1]
    assert counts((4.8, 4.74, 1)) == [1, 0, 0, 0, 1]
    assert counts((5, 4, None), (None, 4, 3)) == [0, 0, 0, 0, 0]


def test_a_failure_is_no_score_and_no_comparison(folder: Path) -> None:
    edit("base", outcome=lambda i: "timeout" if i < 5 else "ok", score=lambda i: None if i < 5 else 3.0)
    numbers = run()
    base = numbers["overall"]["base"]
    assert (base["n"], base["n_scored"], base["score"]) == (20, 15, 3.0)
    assert base["bounds"] == [(15 * 3 + 5) / 20, (15 * 3 + 25) / 20]
    assert base["strict"] == 0, "a text that no judge scored was checked all the same"
    assert numbers["difference"]["n"] == 15
    assert numbers["to_golden"]["n"] == 20
    assert numbers["best"]["n"] == 15
    edit("base", outcome="http", score=5.0)  # whatever stands there, a failure has no score
    numbers = run()
    assert numbers["overall"]["base"]["score"] is None
    assert numbers["overall"]["base"]["bounds"] == [1, 5]
    nothing = ("mean", "se", "low", "high", "p", "detectable", "p_equivalent")
    assert [numbers["difference"][key] for key in nothing] == [None] * 7
    assert (numbers["difference"]["n"], numbers["difference"]["left_out"]["unscored"]) == (0, 20)
    assert numbers["difference"]["sentence"] == "not decided: empty: there is nothing to measure"
    assert numbers["difference"]["bounds"][0] < 0 < numbers["difference"]["bounds"][1]


def test_no_difference_is_called_none(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edit("tuned", score=lambda i: 3 + (i // 2 % 2) * 0.4)
    edit("base", score=lambda i: 3.2 + (i // 2 % 3) * 0.01)
    gap = run()["difference"]
    assert gap["low"] < 0 < gap["high"]
    assert gap["p"] > 0.05
    assert gap["detectable"] > abs(gap["mean"])
    assert gap["state"] == "open"
    assert f"a true difference of {gap['detectable']:.2f} would show 4 times in 5" in gap["sentence"]
    assert "~ " in capsys.readouterr().out.split("all ")[-1]


def test_table_shows_every_row_denominators_and_the_kind_of_score(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edit("base", outcome=lambda i: "ok" if i else "refusal", score=lambda i: 2.0 if i else None)
    run()
    out = capsys.readouterr().out
    for words in (
        "rule score",
        "95% interval",
        "swapped 0.00 of 20",
        "2.00 (19)",
        "2.00 (9)",
        "1.00/0.90/0.00",
        "name: 0.90/0.90/0.90",
    ):
        assert words in out, words
    lines = [line for line in out.splitlines() if line.startswith("│")]
    assert [line.split()[1] for line in lines] == ["ad", "note", "all"]
    assert max(map(len, out.splitlines())) <= 160
    assert "~" not in "".join(lines)


def test_order_of_rows_changes_no_byte(folder: Path) -> None:
    run()
    before = Path("reports/metrics/compare.json").read_bytes()
    for path in ("data/checks.jsonl", *(f"data/judgements/{system}.jsonl" for system in USUAL)):
        rows = files.read(path)
        random.Random(3).shuffle(rows)
        files.write(path, rows)
    run()
    assert Path("reports/metrics/compare.json").read_bytes() == before


@pytest.mark.parametrize("change", [{"judge_ids": {"one": "k"}}, {"score_kind": "model score"}])
def test_scores_of_two_judges_do_not_share_a_table(folder: Path, change: dict[str, Any]) -> None:
    path = Path("reports/metrics/judge/tuned.json")
    files.write_json(path, json.loads(path.read_text("utf-8")) | change)
    with pytest.raises(
        UserError, match=r"judge/tuned\.json: (judge_ids|score_kind) .* differs from golden's .*; judge ag"
    ):
        run()
    assert not Path("reports/metrics/compare.json").exists()


def test_systems_with_different_records_are_refused(folder: Path) -> None:
    rows = files.read("data/judgements/base.jsonl")
    files.write("data/judgements/base.jsonl", rows[1:])
    with pytest.raises(UserError, match=r"data/judgements/base\.jsonl: other ids than data/checks\.jsonl"):
        run()
    checks = [row for row in files.read("data/checks.jsonl") if (row["system"], row["id"]) != ("base", rows[0]["id"])]
    files.write("data/checks.jsonl", checks)
    with pytest.raises(UserError, match="the systems hold different records"):
        run()


def test_what_can_be_said_of_a_difference_is_said(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    numbers = run()
    assert numbers["difference"]["state"] == "higher"
    assert numbers["by_type"]["ad"]["difference"]["p_holm"] >= numbers["by_type"]["ad"]["difference"]["p"]
    edit("tuned", score=lambda i: 3 + (i // 2 % 2) * 0.01)
    edit("base", score=lambda i: 3 + (i // 2 % 3) * 0.01)
    gap = run()["difference"]
    assert gap["state"] == "equivalent"
    assert "equivalent within ±0.10" in gap["sentence"]
    assert "= " in capsys.readouterr().out.split("all ")[-1]


def test_passes_are_counted_pair_by_pair(folder: Path) -> None:
    strict = run()["passes"]["strict"]
    assert (strict["n"], strict["both"], strict["only_left"], strict["only_right"]) == (20, 0, 18, 0)
    assert strict["p"] == pytest.approx(2 * 0.5**18, abs=1e-6)


def test_a_system_that_loses_more_verdicts_is_named(folder: Path) -> None:
    assert run()["missing"]["sentence"] == ""
    edit("base", outcome=lambda i: "ok" if i > 11 else "timeout", score=lambda i: 2.0 if i > 11 else None)
    found = run()["missing"]
    assert found["differs"]
    assert found["sentence"].startswith("differential missingness: 12 of 20 verdicts on base failed")


def test_dimensions_share_one_correction(folder: Path) -> None:
    for system, usual in USUAL.items():
        edit(system, dims=lambda i, usual=usual: {"tone": {"score": round(usual) - i % 2}, "form": {"score": 3}})
    found = run()["dims"]
    assert set(found) == set(TYPES)
    assert set(found["ad"]) == {"tone", "form"}
    assert found["ad"]["tone"]["mean"] > 0
    assert found["ad"]["form"]["reason"] == "all ties: no score differs"


def test_controls_stand_beside_golden_and_another_judge_is_refused(folder: Path) -> None:
    found = run()["judge_controls"]
    assert {name: (row["n"], row["mean"], row["at_golden"]) for name, row in found.items()} == {
        "null": (10, 1.0, 0.0),
        "again": (10, 5.0, 1.0),
    }
    assert found["null"]["reason"] == "no variance: all clusters say the same"
    assert 4.5 < found["null"]["golden"] < 5
    rows = files.read("data/judgements/controls.jsonl")
    files.write("data/judgements/controls.jsonl", [{**row, "judge_id": "k"} for row in rows])
    with pytest.raises(UserError, match=r"controls\.jsonl: judged by another judge than golden; run `dvc repro`"):
        run()


def test_who_beats_whom_stands_beside_the_scores(folder: Path) -> None:
    found = run()["preferences"]
    assert list(found["pairs"]) == ["tuned:base"]
    won = found["pairs"]["tuned:base"]
    assert (won["win"]["n"], won["win"]["won"], won["orders"]["consistency"], won["withheld"]) == (10, 10, 1.0, "")
    assert found["matrix"]["base"]["tuned"]["mean"] == 0.0


def test_first_replies_that_failed_in_one_system_only_are_told(folder: Path) -> None:
    assert run()["missing"]["first"]["sentence"] == ""
    edit("tuned", refused=["check"])
    found = run()["missing"]
    assert (found["differs"], found["first"]["differs"]) == (False, True)
    assert found["first"]["sentence"].startswith("differential missingness: 20 of 20 verdicts on tuned failed and 0 of")


def test_pass_rates_are_also_compared_by_item(folder: Path) -> None:
    found = run()["passes"]["strict"]
    assert found["paired"]["clusters"] == 10
    assert found["paired"]["mean"] == pytest.approx(0.9)


def align(gain: float) -> None:
    """An aligned system beside the others: tuned's texts, each of them `gain` better, and none with a banned word."""
    mine = [row for row in files.read("data/checks.jsonl") if row["system"] == "tuned"]
    everything = files.read("data/checks.jsonl") + [{**row, "system": "aligned"} for row in mine]
    for row in everything:
        bad = row["system"] == "tuned" and row["item"] in {"p1", "p2", "p3"}
        row["checks"] |= {"banned": not bad, "unsupported": row["system"] != "base"}
    files.write("data/checks.jsonl", everything)
    rows = files.read("data/judgements/tuned.jsonl")
    files.write("data/judgements/aligned.jsonl", [{**row, "score": row["score"] + gain} for row in rows])
    for system, reward in (("tuned", 0.5), ("aligned", 0.7)):
        drawn = [
            {
                **{k: row[k] for k in ("id", "item", "type")},
                "sample": n,
                "reward": reward + 0.01 * n + 0.001 * place,
                "rewards": {"banned": 1.0 if system == "aligned" or place % 4 else 0.5, "stop": 1.0},
            }
            for place, row in enumerate(rows)
            for n in range(3)
        ]
        files.write(f"data/rollouts/{system}.jsonl", drawn)
    judged = {"judge_ids": {"one": "j"}, "score_kind": "rule score"}
    files.write_json("reports/metrics/judge/aligned.json", judged)
    drawn = files.read("data/rollouts/tuned.jsonl")
    marked = [
        {**{k: row[k] for k in ("id", "item", "sample")}, "score": row["reward"] * 4, "outcome": "ok"}
        for row in drawn
        if row["item"] != "p4"
    ]
    files.write("data/judgements/samples.jsonl", marked)
    measured = {"likelihood": {"aligned": {"bits_per_byte": 0.1, "perplexity": 1.3}}, "length": {"tuned": {"all": {}}}}
    evaluated = json.loads(Path("reports/metrics/evaluate.json").read_text("utf-8"))
    files.write_json("reports/metrics/evaluate.json", evaluated | measured)


def test_the_aligned_model_stands_beside_the_tuned_one(folder: Path) -> None:
    before = run()
    assert "aligned" not in before["overall"]
    nothing = before["alignment"]
    assert {part["difference"] for part in nothing["passes"].values()} == {None}
    assert (nothing["defects"], nothing["rollouts"], nothing["signal"]["n"]) == ({}, {}, 0)
    align(0.2)
    numbers = run()
    assert [*numbers["overall"]] == sorted(["golden", "aligned", "tuned", "base"])
    gap = numbers["aligned_difference"]
    assert (gap["mean"], gap["state"]) == (pytest.approx(0.2), "none"), "every text gained the same: no spread"
    assert gap["reason"].startswith("no variance")
    assert numbers["aligned_to_golden"]["mean"] == pytest.approx(-0.2, abs=0.02)
    assert numbers["difference"]["mean"] == pytest.approx(before["difference"]["mean"])
    assert set(numbers["best"]) == {"golden", "aligned", "tuned", "base", "tie", "n"}
    block = numbers["alignment"]
    assert set(block["passes"]) == set(numbers["shares"])
    assert block["passes"]["strict"]["systems"]["aligned"]["mean"] == pytest.approx(0.9)
    banned = block["defects"]["banned"]
    assert {system: row["mean"] for system, row in banned["systems"].items()} == {
        "golden": 0,
        "aligned": 0,
        "tuned": pytest.approx(0.3),
        "base": 0,
    }
    assert banned["difference"]["mean"] == pytest.approx(-0.3)
    assert banned["difference"]["low"] < banned["difference"]["high"] < 0.05
    assert block["defects"]["unsupported"]["systems"]["base"]["mean"] == 1
    assert block["defects"]["unsupported"]["difference"]["reason"] == "all ties: no text differs"
    drawn = block["rollouts"]
    assert drawn["n"] == {"aligned": 60, "tuned": 60}
    assert drawn["reward"]["difference"]["mean"] == pytest.approx(0.2)
    assert (drawn["reward"]["difference"]["n"], drawn["reward"]["difference"]["clusters"]) == (20, 10)
    assert set(drawn["functions"]) == {"banned", "stop"}
    assert drawn["defects"]["banned"]["systems"]["tuned"]["mean"] == pytest.approx(0.25)
    assert (block["signal"]["rho"], block["signal"]["n"]) == (pytest.approx(1), 18), (
        "the judge says what the reward says"
    )
    assert block["price"]["aligned"] == {
        "bits_per_byte": 0.1,
        "perplexity": 1.3,
        "distinct_2": None,
        "distinct_4": None,
        "length": None,
    }


def test_a_defect_that_was_not_looked_for_is_not_counted(folder: Path) -> None:
    assert run()["alignment"]["defects"] == {}, "no check found banned words: that is not the same as none"

"""Both orders, flips and the headline: what stub judges make of them, and the counts by hand."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anneal.stats import intervals, win_rates

Row = dict[str, Any]
Judge = Callable[[str, str], str]


def asked(judge: Judge, n: int = 60, samples: int = 1, systems: tuple[str, ...] = ("tuned", "base")) -> list[Row]:
    """The verdicts of a stub judge, which sees "system/number" in place of texts, on both orders of every pair."""
    rows = []
    for k in range(n):
        for a in systems:
            for b in systems:
                for sample in range(samples if a != b else 0):
                    verdict = judge(f"{a}/{k}", f"{b}/{k}")
                    rows.append(
                        {
                            "id": f"t{k:03}",
                            "item": f"p{k // 4}",
                            "first": a,
                            "second": b,
                            "sample": sample,
                            "verdict": verdict,
                            "outcome": "ok",
                            "judge_id": "j",
                        }
                    )
    return rows


def fair(a: str, b: str) -> str:
    """Tuned is better in three texts of four, whatever the order."""
    wins = int(a.split("/")[1]) % 4 > 0
    return "A>B" if a.startswith("tuned") == wins else "B>>A"


def always(verdict: str) -> Judge:
    return lambda *_: verdict


def said(rows: list[Row]) -> str:
    pairs, _ = win_rates.swapped(rows, "tuned", "base")
    return win_rates.sentence(win_rates.orders(pairs), win_rates.win_rate(pairs))


def test_a_fair_judge_gives_a_headline() -> None:
    pairs, missing = win_rates.swapped(asked(fair), "tuned", "base")
    order, win = win_rates.orders(pairs), win_rates.win_rate(pairs)
    assert (len(pairs), missing) == (60, 0)
    assert (order["consistency"], order["bias"], order["reason"]) == (
        1.0,
        None,
        "no flips: the order changed no winner",
    )
    assert order["first_share"] == 0.5
    assert (win["mean"], win["won"], win["tied"], win["lost"]) == (0.75, 45, 0, 15)
    assert win["low"] < 0.75 < win["high"]
    assert said(asked(fair)) == f"wins 75% [{win['low']:.0%}, {win['high']:.0%}] of 60 pairs"
    some = asked(lambda a, b: "tie" if a.endswith("7") else fair(a, b))
    assert said(some).endswith("] of 60 pairs, 6 ties counted half")
    turned = win_rates.win_rate(win_rates.swapped(asked(fair), "base", "tuned")[0])
    assert (turned["mean"], turned["low"], turned["high"]) == pytest.approx((0.25, 1 - win["high"], 1 - win["low"]))


def test_a_judge_that_takes_the_first_decides_nothing() -> None:
    pairs, _ = win_rates.swapped(asked(always("A>B")), "tuned", "base")
    order, win = win_rates.orders(pairs), win_rates.win_rate(pairs)
    assert (order["consistency"], order["flips_first"], order["flips_second"], order["bias"]) == (0.0, 60, 0, 1.0)
    assert (win["mean"], order["first_share"]) == (0.5, 1.0)
    assert order["p"] == pytest.approx(2 * 0.5**60)
    line = said(asked(always("A>B")))
    assert line.startswith(
        "withheld: the judge keeps its verdict in 0% of swapped pairs, below 80%; it prefers what it"
    )
    assert "shown first (flips 60 to 0, p = 1.7e-18)" in line
    assert "shown second" in said(asked(always("B>A")))


def test_a_judge_that_guesses_is_withheld_and_prefers_no_side() -> None:
    rng = random.Random(3)
    line = said(asked(lambda *_: rng.choice(["A>B", "B>A"]), n=200))
    assert line.startswith("withheld: the judge keeps its verdict in ")
    assert line.endswith("% of swapped pairs, below 80%")


def test_flips_by_hand_and_their_exact_p() -> None:
    from scipy.stats import binomtest

    # (when tuned is first, when it is second): win/win, loss/loss, tie/tie, 4 FF, 1 SS, win/tie, tie/loss
    ends = [(1, 1), (0, 0), (0.5, 0.5), *[(1, 0)] * 4, (0, 1), (1, 0.5), (0.5, 0)]
    pairs = [win_rates.Pair(str(k), str(k), float(a), float(b)) for k, (a, b) in enumerate(ends)]
    order, win = win_rates.orders(pairs), win_rates.win_rate(pairs)
    assert order["consistency"] == 0.3
    assert (order["flips_first"], order["flips_second"], order["half"], order["ties"]) == (4, 1, 2, 1)
    assert (order["bias"], order["p"]) == (0.6, binomtest(4, 5).pvalue)
    # Decided: 2 and 2 of the consistent ones with one first each, 8 and 0 of FF, 0 and 2 of SS, one and one half
    assert order["first_share"] == pytest.approx((1 + 1 + 8 + 0 + 1 + 1) / 16)
    assert win["mean"] == pytest.approx((1 + 0 + 0.5 + 4 * 0.5 + 0.5 + 0.75 + 0.25) / 10)
    assert (win["won"], win["lost"], win["tied"]) == (2, 2, 6)


@pytest.mark.parametrize(("kept", "words"), [(71, "in 71% of"), (79, "in 79% of"), (80, ""), (100, "")])
def test_the_headline_needs_four_of_five_pairs_to_keep_their_winner(kept: int, words: str) -> None:
    pairs = [win_rates.Pair(str(k), str(k), 1.0, float(k < kept)) for k in range(100)]
    line = win_rates.withheld(win_rates.orders(pairs), win_rates.win_rate(pairs))
    assert line == (f"withheld: the judge keeps its verdict {words} swapped pairs, below 80%" if words else "")
    assert [win_rates.floor(value) for value in (0.29, 0.7999, 0.8, 1.0)] == ["29%", "79%", "80%", "100%"]
    # 1599 of 2000 would round to 80%.
    close = [win_rates.Pair(str(k), str(k), 1.0, float(k < 1599)) for k in range(2000)]
    assert "in 79% of" in win_rates.withheld(win_rates.orders(close), win_rates.win_rate(close))


def test_nothing_and_ties_are_no_headline() -> None:
    assert said([]) == "withheld: no pair has a verdict in both orders"
    assert said(asked(always("tie"))) == "withheld: all ties: every verdict is a tie"
    ties = win_rates.win_rate(win_rates.swapped(asked(always("tie")), "tuned", "base")[0])
    assert (ties["mean"], ties["low"], ties["tied"]) == (0.5, None, 60)
    single = [win_rates.Pair("a", "p", 1.0, 1.0), win_rates.Pair("b", "p", 0.0, 0.0)]
    line = win_rates.withheld(win_rates.orders(single), win_rates.win_rate(single))
    assert line == "withheld: one cluster: it shows no spread"
    assert win_rates.orders([])["consistency"] is None


def test_winning_every_pair_keeps_a_wilson_bound() -> None:
    pairs = [win_rates.Pair(str(k), f"p{k // 9:02}", 1.0, 1.0) for k in range(171)]
    win = win_rates.win_rate(pairs)
    assert (win["mean"], win["high"], win["reason"]) == (1.0, 1.0, "")
    assert win["low"] == pytest.approx(intervals.wilson(1.0, 171, 2.10092)[0], abs=1e-5)


def test_an_order_that_is_missing_is_counted_and_decides_nothing() -> None:
    rows = asked(fair, n=10)
    rows[0] |= {"outcome": "parse_error", "verdict": None}
    rows[3] |= {"judge_id": "another"}
    pairs, missing = win_rates.swapped(rows[:-1], "tuned", "base")
    assert ([p.id for p in pairs], missing) == ([f"t{k:03}" for k in range(2, 9)], 3)
    with pytest.raises(ValueError, match="two verdicts"):
        win_rates.swapped([*rows, rows[5]], "tuned", "base")


def test_repeats_tell_chance_from_position() -> None:
    assert win_rates.repeats(asked(fair), "tuned", "base")["reason"].startswith("empty")
    pairs, _ = win_rates.swapped(asked(fair, samples=3), "tuned", "base")
    assert len(pairs) == 60, "what is asked again counts once"
    steady = win_rates.repeats(asked(always("A>B"), samples=3), "tuned", "base")
    assert (steady["n"], steady["stability"], steady["consistency"], steady["beyond"]) == (120, 1.0, 0.0, 1.0)
    rng = random.Random(1)
    coin = win_rates.repeats(asked(lambda *_: rng.choice(["A>B", "B>A"]), n=300, samples=3), "tuned", "base")
    assert coin["stability"] == pytest.approx(0.5, abs=0.05)
    assert coin["beyond"] == pytest.approx(0, abs=0.05)
    # Texts asked again in one order alone are left out: their stability has no counterpart.
    half = asked(always("A>B"), n=8, samples=2) + [
        row | {"id": f"more {row['id']}", "verdict": "tie" if row["sample"] else "A>B"}
        for row in asked(fair, n=8, samples=2)
        if row["first"] == "tuned"
    ]
    found = win_rates.repeats(half, "tuned", "base")
    assert (found["n"], found["stability"]) == (16, 1.0)
    one = [row for row in asked(fair, samples=2) if row["first"] == "tuned"]
    assert win_rates.repeats(one, "tuned", "base")["reason"].startswith("one order")


def test_matrix_holds_every_two() -> None:
    rows = asked(fair, systems=("tuned", "base", "golden"))
    found = win_rates.matrix(rows, ("golden", "tuned", "base"))
    assert {name: sorted(row) for name, row in found.items()} == {
        "golden": ["base", "tuned"],
        "tuned": ["base", "golden"],
        "base": ["golden", "tuned"],
    }
    assert found["tuned"]["base"]["mean"] == 0.75
    assert found["base"]["tuned"]["mean"] == 0.25


ends = st.sampled_from([0.0, 0.5, 1.0])


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(ends, ends), max_size=20))
def test_the_other_side_of_every_number(results: list[tuple[float, float]]) -> None:
    ours = [win_rates.Pair(str(k), str(k // 2), a, b) for k, (a, b) in enumerate(results)]
    theirs = [win_rates.Pair(p.id, p.cluster, 1 - p.second, 1 - p.first) for p in ours]
    one, other = win_rates.orders(ours), win_rates.orders(theirs)
    assert one == other, "what the order does is the same for both systems"
    assert one["flips_first"] + one["flips_second"] + one["half"] == sum(a != b for a, b in results)
    win, lose = win_rates.win_rate(ours), win_rates.win_rate(theirs)
    assert (win["won"], win["lost"]) == (lose["lost"], lose["won"])
    assert (win["low"] is None) == bool(win["reason"])
    if win["low"] is not None:
        assert 0 <= win["low"] <= win["mean"] <= win["high"] <= 1
        assert (win["mean"], win["low"]) == pytest.approx((1 - lose["mean"], 1 - lose["high"]))
    thrice = win_rates.win_rate(
        [win_rates.Pair(f"{p.id}/{k}", p.cluster, p.first, p.second) for p in ours for k in "abc"]
    )
    assert thrice["se"] == (None if win["se"] is None else pytest.approx(win["se"], abs=1e-12))

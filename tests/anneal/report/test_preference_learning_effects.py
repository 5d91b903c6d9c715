"""The effect of preference learning: defects, rewards, cost, from metrics that compare writes."""

from __future__ import annotations

from typing import Any

from anneal.evaluation import alignment_effect
from anneal.report import preference_learning
from tests.finished import sound
from tests.markup import plain, rows

NAMES = ("golden", "aligned", "tuned", "base")


def block(*passes: str) -> dict[str, Any]:
    """Of twelve texts the tuned ones have six unsupported claims and the aligned ones none; rewards rise as much."""

    def texts(system: str) -> list[dict[str, Any]]:
        bad = {"tuned": range(0, 12, 2), "base": range(12)}.get(system, range(0))
        return [
            {"id": f"p{i}/ad", "item": f"p{i}", "passed": {"banned": True, "unsupported": i not in bad}}
            for i in range(12)
        ]

    def samples(system: str) -> list[dict[str, Any]]:
        low = 0.5 if system == "tuned" else 1.0
        return [
            {
                "id": f"p{i}/ad",
                "item": f"p{i}",
                "sample": n,
                "reward": low + i / 100 * (low < 1),
                "rewards": {"unsupported": low},
            }
            for i in range(12)
            for n in range(2)
        ]

    evaluated = {"likelihood": {"aligned": {"bits_per_byte": 0.25, "perplexity": 1.5}}}
    drawn = {name: samples(name) for name in ("aligned", "tuned")}
    return alignment_effect.summary({name: texts(name) for name in NAMES}, drawn, [], evaluated, passes, 0)


def test_without_an_aligned_model_there_is_nothing() -> None:
    assert preference_learning.effects(sound(compare__alignment=block())) == ""


def test_defects_rewards_and_cost() -> None:
    page = preference_learning.effects(sound(aligned=True, compare__alignment=block()))
    table = rows(page)
    assert table[0] == ["share of texts with", "texts", *NAMES, "aligned − tuned", "in words"]
    assert (table[1][:2], table[1][-2:]) == (["banned words", "answers"], ["+0.0", "all ties: no text differs"])
    assert table[2][:2] == ["unsupported claims", "answers"]
    assert table[2][4].startswith("50.0% [")
    assert table[2][6].startswith("-50.0 [-")
    assert table[2][7] == "lower in aligned"
    assert (table[3][:3], table[3][3]) == (["unsupported claims", "rollouts", "–"], "0.0% [0.0, 28.8%]")
    assert table[3][4].startswith("100.0% [")
    assert table[5][0] == "weighted sum"
    assert (table[5][1][:6], table[5][-1]) == ("100.0%", "higher in aligned")
    assert "Mean reward of the rollouts, 24 of aligned and 24 of tuned, in per cent" in plain(page)
    assert table[-4:][1] == ["aligned", "0.25", "1.50", "–", "–", "–"]
    assert [row[0] for row in table[-4:]] == list(NAMES)


def test_pass_rates_come_first() -> None:
    page = preference_learning.effects(sound(aligned=True, compare__alignment=block("banned", "unsupported")))
    table = rows(page)
    assert table[0] == ["share of answers that pass", *NAMES, "aligned − tuned", "in words"]
    assert [row[0] for row in table[1:3]] == ["banned", "unsupported"]
    assert (table[2][3][:5], table[2][6]) == ("50.0%", "higher in aligned")


def test_worse_is_red_and_open_is_unmarked() -> None:
    gap = {"mean": 0.1, "low": 0.05, "high": 0.15}
    for state, good, mark in (
        ("higher", "lower", "mark bad"),
        ("lower", "lower", "mark good"),
        ("higher", "higher", "mark good"),
        ("lower", "higher", "mark bad"),
    ):
        assert f'class="{mark}"' in preference_learning.state_words({**gap, "state": state}, good)
    for state, told in (("open", "no difference shown"), ("equivalent", "equivalent in both")):
        assert preference_learning.state_words({**gap, "state": state}, "lower") == f"<span>{told}</span>"
    assert (
        preference_learning.state_words({"state": "none", "reason": "one cluster: <b>"}, "lower")
        == "one cluster: &lt;b&gt;"
    )
    assert preference_learning.state_words(None, "lower") == "–"


def test_a_missing_part_leaves_the_others() -> None:
    whole = block()
    for name in whole:
        page = preference_learning.effects(
            sound(aligned=True, compare__alignment={k: v for k, v in whole.items() if k != name})
        )
        assert rows(page), name
    assert preference_learning.effects(sound(aligned=True, compare__alignment={})) == ""

"""What samples of one prompt tell a trainer: planted rewards that teach nothing, or only length, are found."""

from __future__ import annotations

import io
import random
from collections.abc import Callable
from typing import Any

import pytest
from scipy.stats import spearmanr

from anneal.preference import reward_spread
from anneal.records import Record

LIMITS = reward_spread.Limits(max_zero_spread=0.5, max_length_rho=0.8)


def rows(
    reward: Callable[[int, int, str], float], prompts: int = 24, samples: int = 8, items: int = 24
) -> list[Record]:
    """`reward` of the number of the prompt, of the sample, and the text, which is of random length."""
    drawn, found = random.Random(7), []
    for p in range(prompts):
        for s in range(samples):
            text = "x" * drawn.randint(1, 200) + f"{p} {s}"
            value = round(reward(p, s, text), 6)
            row = {"id": f"p{p}", "item": f"i{p % items}", "sample": s, "text": text, "reward": value}
            found.append(row | {"rewards": {"said": value, "stop": 1.0}})
    return found


def measured(found: list[Record], **limits: float) -> Any:
    return reward_spread.measure(found, LIMITS.model_copy(update=limits), seed=1)


def noise(p: int, s: int, _text: str) -> float:
    return random.Random(f"{p}/{s}").random()


def test_rewards_that_differ_are_taken() -> None:
    found = rows(noise)
    numbers = measured(found)
    assert numbers["refusals"] == []
    assert (numbers["n"], numbers["samples"], numbers["constant"]) == (24, 8, ["stop"])
    assert numbers["zero_spread"] == {"n": 0, "share": 0, "full": 0, "same": 0}
    # The standard deviation of uniform numbers is 1 / sqrt(12) = 0.289.
    assert 0.26 < numbers["spread"] < 0.31
    assert numbers["functions"]["said"]["spread"] == numbers["spread"]
    assert numbers["functions"]["stop"]["zero_spread"] == {"n": 24, "share": 1}
    mean = numbers["reward"]
    assert mean["mean"] == pytest.approx(sum(row["reward"] for row in found) / 192)
    assert mean["low"] < mean["mean"] < mean["high"]
    assert (mean["n"], mean["clusters"], mean["reason"]) == (24, 24, "")
    length = numbers["length"]
    assert length["low"] < 0 < length["high"]
    assert (length["n"], length["clusters"], length["reason"]) == (24, 24, "")


def test_a_constant_reward_is_flagged_by_name() -> None:
    (line,) = measured(rows(lambda *_: 0.25))["refusals"]
    assert line.startswith("constant: the 8 samples of each of 24 prompts all have one reward (0 have the best")
    assert "means: said 0.25, stop 1" in line
    # From prompt to prompt it differs, and the trainer still sees nothing.
    numbers = measured(rows(lambda p, *_: p / 24))
    assert [line.split(":")[0] for line in numbers["refusals"]] == ["constant"]
    assert numbers["constant"] == ["said", "stop"]
    assert numbers["length"]["rho"] is None
    assert numbers["length"]["reason"].startswith("no variance")


def test_too_many_prompts_without_spread_are_refused_with_the_reason() -> None:
    found = rows(lambda p, s, text: 1.0 if p < 13 else noise(p, s, text))
    for row in found:
        row["text"] = "one text" if row["id"] in ("p0", "p1") else row["text"]
    (line,) = measured(found)["refusals"]
    assert line.startswith(
        "zero spread: 13 of 24 prompts (54%) have one reward for all their samples (13 have the best reward "
        "throughout, 2 one text), more than rollout.max_zero_spread 50%; "
    )
    assert measured(found, max_zero_spread=0.55)["refusals"] == []


@pytest.mark.parametrize(("sign", "word"), [(1, "longer"), (-1, "shorter")])
def test_a_reward_that_is_length_in_disguise_is_flagged(sign: int, word: str) -> None:
    (line,) = measured(rows(lambda _p, _s, text: 0.5 + sign * len(text) / 500))["refusals"]
    assert line.startswith(f"length: inside prompts the {word} sample has the higher reward, rank correlation ")
    assert f"{sign:+.2f} over 24 prompts, beyond rollout.max_length_rho 0.80" in line


def test_length_between_prompts_is_no_length_inside_them() -> None:
    """A type that asks for longer texts and is rewarded more: over all rows a correlation, inside prompts none."""
    found = rows(lambda p, s, text: p / 48 + noise(p, s, text) / 48)
    for row in found:
        row["text"] = "x" * (1000 * int(row["id"][1:]) + len(row["text"]))
    naive = spearmanr([row["reward"] for row in found], [len(row["text"]) for row in found]).statistic
    assert naive > 0.95
    numbers = measured(found)
    assert numbers["refusals"] == []
    assert abs(numbers["length"]["rho"]) < 0.3


def test_the_correlation_is_spearmans_where_there_is_one_prompt() -> None:
    found = rows(lambda _p, s, text: (s % 5) / 5 + len(text) / 1000, prompts=1, samples=30)
    rho = spearmanr([row["reward"] for row in found], [len(row["text"]) for row in found]).statistic
    numbers = measured(found)["length"]
    assert numbers["rho"] == pytest.approx(rho)
    assert (numbers["low"], numbers["high"], numbers["reason"]) == (None, None, "1 items: an interval needs 19")


def test_prompts_that_teach_nothing_do_not_thin_the_correlation_out() -> None:
    found = rows(lambda p, _s, text: len(text) / 500 if p < 12 else 1.0)
    numbers = measured(found, max_zero_spread=0.6)
    assert numbers["length"]["n"] == 12
    assert numbers["length"]["rho"] > 0.99
    assert [line.split(":")[0] for line in numbers["refusals"]] == ["length"]


def test_the_table_names_every_reward_and_how_far_it_differs() -> None:
    from rich.console import Console

    console = Console(width=120, file=io.StringIO())
    console.print(reward_spread.table(measured(rows(noise)), {"said": 2.0, "stop": 1.0}))
    lines = console.file.getvalue().splitlines()
    (said,) = [line for line in lines if "said" in line]
    (stop,) = [line for line in lines if "stop" in line]
    assert "0 (0%)" in said
    assert "24 (100%)" in stop
    assert any("all" in line and "[0." in line for line in lines)

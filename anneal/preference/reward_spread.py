"""Whether the samples of a prompt differ in their reward, and what the difference follows.

GRPO subtracts from each reward the mean of its prompt's samples and divides by their standard deviation: a prompt whose
samples are all rewarded alike moves no weight, and a reward that follows the length trains nothing but the length.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from anneal.params import Section, Share
from anneal.records import Record
from anneal.stats import agreement, intervals

if TYPE_CHECKING:
    from rich.table import Table

Group = list[Record]  # the samples of one prompt: id, item, text, rewards, reward


class Limits(Section):
    """From where on rewards must not be trained on."""

    max_zero_spread: Share  # of the prompts whose samples are all rewarded alike
    max_length_rho: Share  # of the rank correlation of reward and length, whatever its sign


def groups(rows: Sequence[Record]) -> list[Group]:
    """The samples of each prompt, prompts in order of appearance."""
    found: dict[str, Group] = {}
    for row in rows:
        found.setdefault(row["id"], []).append(row)
    return list(found.values())


def bounded(means: Sequence[float], items: Sequence[str]) -> Record:
    """The mean of the prompts' means, all in 0..1, with its interval by item.

    Of prompts and not of samples, which at 0 or 1 would be taken for independent; where all prompts say the same, the
    interval is that of a share.
    """
    found = intervals.mean(means, items).row()
    if found["low"] is None:
        return intervals.share(means, items).row()
    return {**found, "low": max(0.0, found["low"]), "high": min(1.0, found["high"])}


def column(values: Sequence[Sequence[float]], items: Sequence[str]) -> Record:
    """The mean of one reward [prompts][samples] with its interval by item, and how far it differs within a prompt.

    `spread` is the mean over prompts of the standard deviation of their samples; zero_spread {n, share} counts those
    whose samples are all alike.
    """
    mean = bounded([sum(group) / len(group) for group in values], items)
    alike = sum(len(set(group)) == 1 for group in values)
    spread = float(np.mean([np.std(group, ddof=1) for group in values]))
    zero = {"n": alike, "share": alike / len(values)}
    return {**mean, "reason": intervals.why(mean), "spread": spread, "zero_spread": zero}


def _products(group: Group, of: Callable[[Record], float]) -> tuple[float, float, float]:
    """Of the ranks of reward and value inside a prompt: the sum of products, and both sums of squares."""
    from scipy.stats import rankdata

    rewards, values = rankdata([row["reward"] for row in group]), rankdata([of(row) for row in group])
    x, y = rewards - rewards.mean(), values - values.mean()
    return float(x @ y), float(x @ x), float(y @ y)


def follows(prompts: Sequence[Group], of: Callable[[Record], float], seed: int) -> Record:
    """Rank correlation of reward and a value inside the prompts: {n, clusters, rho, low, high, reason}.

    Ranks are taken within each prompt and their deviations pooled, so that of characters a type that asks for long
    texts shows nothing. Prompts where either is the same for all samples have no ranks and stay out: they also teach
    nothing. The interval draws whole items.
    """
    found = [(group[0]["item"], _products(group, of)) for group in prompts]
    kept = [(item, sums) for item, sums in found if sums[1] and sums[2]]
    items, table = [item for item, _ in kept], np.array([sums for _, sums in kept]).reshape(-1, 3)

    def figure(rows: list[int]) -> float | None:
        xy, xx, yy = table[rows].sum(axis=0)
        return float(xy / np.sqrt(xx * yy)) if rows else None

    low, high = agreement.interval(figure, items, seed)
    count = len(set(items))
    reason = "" if low is not None else f"{count} items: an interval needs {agreement.FEWEST}"
    reason = reason if kept else "no variance: no prompt has samples that differ in both"
    return {
        "n": len(kept),
        "clusters": count,
        "rho": figure(list(range(len(kept)))),
        "low": low,
        "high": high,
        "reason": reason,
    }


def measure(rows: Sequence[Record], limits: Limits, seed: int) -> Record:
    """All figures of scored samples, and under `refusals` why they must not be trained on; empty where they may.

    `n` is the number of prompts; zero_spread tells how many of the prompts alike have the best reward (`full`) or one
    text (`same`) throughout; `constant` names the rewards that differ inside no prompt.
    """
    prompts = groups(rows)
    items = [group[0]["item"] for group in prompts]
    functions = {
        name: column([[row["rewards"][name] for row in group] for group in prompts], items)
        for name in rows[0]["rewards"]
    }
    reward = column([[row["reward"] for row in group] for group in prompts], items)
    numbers = {
        "n": len(prompts),
        "samples": len(prompts[0]),
        "functions": functions,
        "length": follows(prompts, lambda row: len(row["text"]), seed),
        "spread": reward.pop("spread"),
        "reward": reward,
        "zero_spread": {
            **reward.pop("zero_spread"),
            "full": sum(all(row["reward"] == 1 for row in group) for group in prompts),
            "same": sum(len({row["text"] for row in group}) == 1 for group in prompts),
        },
        "constant": [name for name, one in functions.items() if one["zero_spread"]["n"] == len(prompts)],
    }
    return {**numbers, "refusals": refusals(numbers, limits)}


def refusals(numbers: Record, limits: Limits) -> list[str]:
    """One line for each reason: its name, the figures, what to do."""
    found, zero, long = [], numbers["zero_spread"], numbers["length"]
    n, samples, share = numbers["n"], numbers["samples"], zero["share"]
    why = f"{zero['full']} have the best reward throughout, {zero['same']} one text"
    todo = "give weight to rewards (rewards.weights) that these texts can miss, or raise rollout.temperature"
    if zero["n"] == n:
        means = ", ".join(f"{name} {one['mean']:.3g}" for name, one in numbers["functions"].items())
        found.append(
            f"constant: the {samples} samples of each of {n} prompts all have one reward ({why}; means: {means}): "
            f"nothing to learn from; {todo}"
        )
    elif share > limits.max_zero_spread:
        found.append(
            f"zero spread: {zero['n']} of {n} prompts ({share:.0%}) have one reward for all their samples ({why}), "
            f"more than rollout.max_zero_spread {limits.max_zero_spread:.0%}; {todo}"
        )
    if long["rho"] is not None and abs(long["rho"]) > limits.max_length_rho:
        wins = "longer" if long["rho"] > 0 else "shorter"
        found.append(
            f"length: inside prompts the {wins} sample has the higher reward, rank correlation {long['rho']:+.2f} "
            f"over {long['n']} prompts, beyond rollout.max_length_rho {limits.max_length_rho:.2f}: training would "
            "learn the length; weigh rewards (rewards.weights) that look at what is said"
        )
    return found


def table(numbers: Record, weights: dict[str, float]) -> Table:
    """A row for each reward: how high, and how far samples of one prompt differ in it."""
    from rich.table import Table

    rho = numbers["length"]["rho"]
    told = "-" if rho is None else f"{rho:+.2f}"
    title = f"rewards of {numbers['samples']} samples of each of {numbers['n']} prompts; [95% interval, by item]"
    made = Table(title=title, caption=f"rank correlation of reward and length inside prompts: {told}")
    made.add_column("reward", no_wrap=True)
    for heading in ("weight", "mean", "spread in a prompt", "prompts without spread"):
        made.add_column(heading, justify="right", no_wrap=True)
    whole = {**numbers["reward"], "spread": numbers["spread"], "zero_spread": numbers["zero_spread"]}
    for name, row in {**numbers["functions"], "all": whole}.items():
        if name == "all":
            made.add_section()
        span = "" if row["low"] is None else f" [{row['low']:.3f}, {row['high']:.3f}]"
        weight = f"{weights[name]:g}" if name != "all" else ""
        zero = f"{row['zero_spread']['n']} ({row['zero_spread']['share']:.0%})"
        made.add_row(name, weight, f"{row['mean']:.3f}{span}", f"{row['spread']:.3f}", zero)
    return made

"""Reward spread: how much the rewards of one prompt's samples differ, and whether they follow the text length.

GRPO subtracts from each reward the mean of its prompt's samples and divides by their standard deviation: a prompt whose
samples all have one reward changes no weight, and a reward that follows the length trains the length alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from anneal.params import Section, Share
from anneal.records import Metrics, Sample
from anneal.stats import agreement, intervals

if TYPE_CHECKING:
    from rich.table import Table

Group = list[Sample]  # the samples of one prompt


class Limits(Section):
    """Limits beyond which rewards must not be trained on."""

    max_zero_spread: Share  # of the prompts whose samples all have one reward
    max_length_rho: Share  # of the rank correlation of reward and length, in absolute value


def groups(rows: Sequence[Sample]) -> list[Group]:
    """The samples of each prompt, prompts in order of appearance."""
    by_id: dict[str, Group] = {}
    for row in rows:
        by_id.setdefault(row["id"], []).append(row)
    return list(by_id.values())


def bounded(means: Sequence[float], items: Sequence[str]) -> Metrics:
    """The mean of the prompts' means, all in 0..1, with its interval by item.

    Over prompts and not over samples, which at 0 or 1 would count as independent. Where all prompts have one mean, the
    interval is that of a share.
    """
    estimate = intervals.mean(means, items).row()
    if estimate["low"] is None:
        return intervals.share(means, items).row()
    return {**estimate, "low": max(0.0, estimate["low"]), "high": min(1.0, estimate["high"])}


def column(values: Sequence[Sequence[float]], items: Sequence[str]) -> Metrics:
    """The mean of one reward [prompts][samples] with its interval by item, and its spread within a prompt.

    `spread` is the mean over prompts of the standard deviation of their samples; zero_spread {n, share} counts the
    prompts whose samples are all equal.
    """
    mean = bounded([sum(group) / len(group) for group in values], items)
    constant = sum(len(set(group)) == 1 for group in values)
    spread = float(np.mean([np.std(group, ddof=1) for group in values]))
    zero = {"n": constant, "share": constant / len(values)}
    return {**mean, "reason": intervals.why(mean), "spread": spread, "zero_spread": zero}


def rank_correlation(prompts: Sequence[Group], of: Callable[[Sample], float], seed: int) -> Metrics:
    """Rank correlation of the reward and a value within the prompts: {n, clusters, rho, low, high, reason}.

    `of` gives the value of a sample. `n` counts prompts. Prompts where either is the same for all samples have no
    ranks and are left out: they teach nothing either. The interval draws whole items.
    """
    rewards: list[float] = []
    values: list[float] = []
    ids: list[str] = []
    items: list[str] = []
    n = 0
    for number, group in enumerate(prompts):
        group_rewards, group_values = [row["reward"] for row in group], [of(row) for row in group]
        if len(set(group_rewards)) < 2 or len(set(group_values)) < 2:
            continue
        n += 1
        rewards += group_rewards
        values += group_values
        ids += [str(number)] * len(group)
        items += [group[0]["item"]] * len(group)
    reason = "no variance: no prompt has samples that differ in both"
    row = agreement.within(rewards, values, ids, items, seed, unit="items", constant=reason, empty=reason)
    return {**row, "n": n}


def measure(rows: Sequence[Sample], limits: Limits, seed: int) -> Metrics:
    """All metrics of scored samples, and under `refusals` why they must not be trained on; empty where they may.

    `n` is the number of prompts. zero_spread also counts the prompts of one reward that have the best reward (`full`)
    and those that have one text (`same`) throughout; `constant` names the rewards that differ within no prompt.
    """
    prompts = groups(rows)
    items = [group[0]["item"] for group in prompts]
    functions: dict[str, Metrics] = {}
    for name in rows[0]["rewards"]:
        values = [[row["rewards"][name] for row in group] for group in prompts]
        functions[name] = column(values, items)
    reward = column([[row["reward"] for row in group] for group in prompts], items)
    metrics = {
        "n": len(prompts),
        "samples": len(prompts[0]),
        "functions": functions,
        "length": rank_correlation(prompts, lambda row: len(row["text"]), seed),
        "spread": reward.pop("spread"),
        "reward": reward,
        "zero_spread": {
            **reward.pop("zero_spread"),
            "full": sum(all(row["reward"] == 1 for row in group) for group in prompts),
            "same": sum(len({row["text"] for row in group}) == 1 for group in prompts),
        },
        "constant": [name for name, each in functions.items() if each["zero_spread"]["n"] == len(prompts)],
    }
    return {**metrics, "refusals": refusals(metrics, limits)}


def refusals(metrics: Metrics, limits: Limits) -> list[str]:
    """One line for each reason against training: its name, the figures, what to do."""
    lines = []
    zero, length = metrics["zero_spread"], metrics["length"]
    n, samples, share = metrics["n"], metrics["samples"], zero["share"]
    why = f"{zero['full']} have the best reward throughout, {zero['same']} one text"
    todo = "give weight to rewards (rewards.weights) that these texts can miss, or raise rollout.temperature"
    if zero["n"] == n:
        means = ", ".join(f"{name} {row['mean']:.3g}" for name, row in metrics["functions"].items())
        lines.append(
            f"constant: the {samples} samples of each of {n} prompts all have one reward ({why}; means: {means}): "
            f"nothing to learn from; {todo}"
        )
    elif share > limits.max_zero_spread:
        lines.append(
            f"zero spread: {zero['n']} of {n} prompts ({share:.0%}) have one reward for all their samples ({why}), "
            f"more than rollout.max_zero_spread {limits.max_zero_spread:.0%}; {todo}"
        )
    if length["rho"] is not None and abs(length["rho"]) > limits.max_length_rho:
        wins = "longer" if length["rho"] > 0 else "shorter"
        lines.append(
            f"length: inside prompts the {wins} sample has the higher reward, rank correlation {length['rho']:+.2f} "
            f"over {length['n']} prompts, beyond rollout.max_length_rho {limits.max_length_rho:.2f}: training would "
            "learn the length; weigh rewards (rewards.weights) that look at what is said"
        )
    return lines


def table(metrics: Metrics, weights: dict[str, float]) -> Table:
    """A row for each reward: its mean, and its spread within a prompt."""
    from rich.table import Table

    rho = metrics["length"]["rho"]
    caption = "-" if rho is None else f"{rho:+.2f}"
    title = f"rewards of {metrics['samples']} samples of each of {metrics['n']} prompts; [95% interval, by item]"
    table = Table(title=title, caption=f"rank correlation of reward and length inside prompts: {caption}")
    table.add_column("reward", no_wrap=True)
    for heading in ("weight", "mean", "spread in a prompt", "prompts without spread"):
        table.add_column(heading, justify="right", no_wrap=True)
    total = {**metrics["reward"], "spread": metrics["spread"], "zero_spread": metrics["zero_spread"]}
    for name, row in {**metrics["functions"], "all": total}.items():
        if name == "all":
            table.add_section()
        span = "" if row["low"] is None else f" [{row['low']:.3f}, {row['high']:.3f}]"
        weight = f"{weights[name]:g}" if name != "all" else ""
        zero = f"{row['zero_spread']['n']} ({row['zero_spread']['share']:.0%})"
        table.add_row(name, weight, f"{row['mean']:.3f}{span}", f"{row['spread']:.3f}", zero)
    return table

"""The effect of preference learning: the aligned model compared with the tuned one on the same held-out records.

There are two sets of texts: the answers, one for each record, and the rollouts, several samples for each of some
prompts. The answers of a good tuned model have hardly a defect left to remove; its samples still show some.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from anneal.preference import reward_spread
from anneal.records import Judgement, Metrics, Sample
from anneal.stats import intervals, paired
from anneal.systems import present

Rows = Mapping[str, Sequence[Mapping[str, Any]]]  # system -> rows that compare joins: id, item, passed by check
# The defects that alignment should reduce: checks of evaluate, and the rewards of the same names.
DEFECTS = ("banned", "exaggerated", "unsupported")


def compared(values: Mapping[str, Mapping[str, float]], items: Mapping[str, str], seed: int) -> Metrics | None:
    """The paired difference aligned - tuned of id -> value, with state and sentence; None without an aligned model."""
    if not {"aligned", "tuned"} <= values.keys():
        return None
    aligned, tuned = values["aligned"], values["tuned"]
    difference = intervals.paired(aligned, tuned, items, seed)
    common = aligned.keys() & tuned.keys()
    ties = bool(difference["n"]) and all(abs(aligned[i] - tuned[i]) <= intervals.TINY for i in common)
    difference["reason"] = "all ties: no text differs" if ties else intervals.why(difference)
    return {**difference, "state": paired.state(difference), "sentence": paired.sentence(difference)}


def shares(joined: Rows, checks: Sequence[str], wanted: bool, seed: int) -> Metrics:
    """By check: the share of each system's texts whose result is `wanted`, and aligned - tuned.

    Checks that some row lacks are left out.
    """
    items = {row["id"]: row["item"] for rows in joined.values() for row in rows}
    metrics: Metrics = {}
    for name in checks:
        if not all(name in row["passed"] for rows in joined.values() for row in rows):
            continue
        flags = {s: {row["id"]: float(row["passed"][name] == wanted) for row in rows} for s, rows in joined.items()}
        systems = {s: intervals.share([*hits.values()], [items[i] for i in hits]).row() for s, hits in flags.items()}
        metrics[name] = {"systems": systems, "difference": compared(flags, items, seed)}
    return metrics


def _prompt_means(samples: Mapping[str, Sequence[Sample]], value: Callable[[Sample], float], seed: int) -> Metrics:
    """The mean of a value by system, and aligned - tuned; the unit is the prompt, with the mean of its samples."""
    means: dict[str, dict[str, float]] = {}
    items = {row["id"]: row["item"] for rows in samples.values() for row in rows}
    for system, rows in samples.items():
        values: dict[str, list[float]] = {}
        for row in rows:
            values.setdefault(row["id"], []).append(value(row))
        means[system] = {prompt: sum(numbers) / len(numbers) for prompt, numbers in values.items()}
    systems = {s: reward_spread.bounded([*by.values()], [items[i] for i in by]) for s, by in means.items()}
    return {"systems": systems, "difference": compared(means, items, seed)}


def rollouts(samples: Mapping[str, Sequence[Sample]], seed: int) -> Metrics:
    """Of the samples of each model: the mean reward, the mean of each reward function, the share with each defect."""
    samples = {system: rows for system, rows in samples.items() if rows}
    if not samples:
        return {}

    def component(name: str) -> Callable[[Sample], float]:
        return lambda row: row["rewards"][name]

    def defect(name: str) -> Callable[[Sample], float]:
        return lambda row: float(row["rewards"][name] < 1)  # 1 is a text without the defect

    names = sorted(samples[next(iter(samples))][0]["rewards"])
    return {
        "n": {system: len(rows) for system, rows in samples.items()},
        "reward": _prompt_means(samples, lambda row: float(row["reward"]), seed),
        "functions": {name: _prompt_means(samples, component(name), seed) for name in names},
        "defects": {name: _prompt_means(samples, defect(name), seed) for name in DEFECTS if name in names},
    }


def signal(samples: Sequence[Sample], judgements: Sequence[Judgement], seed: int) -> Metrics:
    """Rank correlation of the reward with the judge's score, among samples of one prompt that the judge scored."""
    scores: dict[tuple[str, int], Any] = {
        (row["id"], row["sample"]): row["score"] for row in judgements if row["outcome"] == "ok"
    }
    rows = [row for row in samples if (row["id"], row["sample"]) in scores]
    correlation = reward_spread.rank_correlation(
        reward_spread.groups(rows), lambda row: scores[row["id"], row["sample"]], seed
    )
    return {**correlation, "judged": len(judgements), "scored": len(scores)}


def price(evaluated: Metrics, systems: Sequence[str]) -> Metrics:
    """The side effects of alignment by system: likelihood of the references, variety, length over the references'."""
    paths = {
        "bits_per_byte": ("likelihood", "bits_per_byte"),
        "perplexity": ("likelihood", "perplexity"),
        "distinct_2": ("variety", "distinct_2"),
        "distinct_4": ("variety", "distinct_4"),
    }

    def block(metric: str, system: str) -> Metrics:
        return (evaluated.get(metric) or {}).get(system) or {}

    metrics: Metrics = {}
    for system in systems:
        values = {key: block(metric, system).get(field) for key, (metric, field) in paths.items()}
        length = block("length", system).get("all") or {}
        metrics[system] = {**values, "length": length.get("ratio")}
    return metrics


def summary(
    joined: Rows,
    samples: Mapping[str, Sequence[Sample]],
    judgements: Sequence[Judgement],
    evaluated: Metrics,
    passes: Sequence[str],
    seed: int,
) -> Metrics:
    """The block `alignment` of reports/metrics/compare.json; `judgements` are of the tuned model's samples."""
    return {
        "passes": shares(joined, passes, True, seed),
        "defects": shares(joined, DEFECTS, False, seed),
        "rollouts": rollouts(samples, seed),
        "signal": signal(samples.get("tuned") or [], judgements, seed),
        "price": price(evaluated, present(joined)),
    }

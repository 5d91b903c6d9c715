"""What preference learning brought and what it cost: the aligned model beside the tuned one on the same held-out texts.

Two sets of texts: the answers, one for each record, and the rollouts, several drawn for each of some prompts. A tuned
model that is already right has hardly a defect in its answers; in what it draws there is more to see.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from anneal.preference import reward_spread
from anneal.records import Metrics, Record
from anneal.stats import intervals, paired
from anneal.systems import present

# What alignment is meant to cut: checks of evaluate, and the rewards that fall with them.
DEFECTS = ("banned", "exaggerated", "unsupported")


def compared(values: Mapping[str, Mapping[str, float]], items: Mapping[str, str], seed: int) -> Metrics | None:
    """aligned - tuned of id -> value, with its state and its sentence; None without an aligned model."""
    if not {"aligned", "tuned"} <= values.keys():
        return None
    ours, theirs = values["aligned"], values["tuned"]
    found = intervals.paired(ours, theirs, items, seed)
    ties = bool(found["n"]) and all(abs(ours[i] - theirs[i]) <= intervals.TINY for i in ours.keys() & theirs.keys())
    found["reason"] = "all ties: no text differs" if ties else intervals.why(found)
    return {**found, "state": paired.state(found), "sentence": paired.sentence(found)}


def shares(joined: Mapping[str, Sequence[Record]], checks: Sequence[str], wanted: bool, seed: int) -> Metrics:
    """By name: the share of each system's texts whose check gives `wanted`, and aligned - tuned. Only of checks that
    were made."""
    items = {row["id"]: row["item"] for rows in joined.values() for row in rows}
    made: Metrics = {}
    for name in checks:
        if not all(name in row["passed"] for rows in joined.values() for row in rows):
            continue
        flags = {s: {row["id"]: float(row["passed"][name] == wanted) for row in rows} for s, rows in joined.items()}
        found = {s: intervals.share([*each.values()], [items[i] for i in each]).row() for s, each in flags.items()}
        made[name] = {"systems": found, "difference": compared(flags, items, seed)}
    return made


def _figure(rows: Mapping[str, Sequence[Record]], value: Any, seed: int) -> Metrics:
    """Mean of a value of the rollouts, by system, and aligned - tuned over prompts: samples of one are its mean."""
    means: dict[str, dict[str, float]] = {}
    items = {row["id"]: row["item"] for part in rows.values() for row in part}
    for system, part in rows.items():
        of: dict[str, list[float]] = {}
        for row in part:
            of.setdefault(row["id"], []).append(value(row))
        means[system] = {name: sum(each) / len(each) for name, each in of.items()}
    systems = {s: reward_spread.bounded([*each.values()], [items[i] for i in each]) for s, each in means.items()}
    return {"systems": systems, "difference": compared(means, items, seed)}


def rollouts(rows: Mapping[str, Sequence[Record]], seed: int) -> Metrics:
    """Of what each model draws: the mean reward, each reward function, and the share with each defect."""
    rows = {system: part for system, part in rows.items() if part}
    if not rows:
        return {}
    names = sorted(rows[next(iter(rows))][0]["rewards"])
    made: Metrics = {"n": {s: len(part) for s, part in rows.items()}, "reward": _figure(rows, _reward, seed)}
    made["functions"] = {name: _figure(rows, lambda row, name=name: row["rewards"][name], seed) for name in names}
    made["defects"] = {
        name: _figure(rows, lambda row, name=name: float(row["rewards"][name] < 1), seed)
        for name in DEFECTS
        if name in names
    }
    return made


def _reward(row: Record) -> float:
    return float(row["reward"])


def signal(drawn: Sequence[Record], judged: Sequence[Record], seed: int) -> Metrics:
    """Whether the reward ranks samples of one prompt as the judge does: rank correlation with the judge's score."""
    scores = {(row["id"], row["sample"]): row["score"] for row in judged if row["outcome"] == "ok"}
    rows = [row for row in drawn if (row["id"], row["sample"]) in scores]
    found = reward_spread.follows(reward_spread.groups(rows), lambda row: scores[row["id"], row["sample"]], seed)
    return {**found, "judged": len(judged), "scored": len(scores)}


def price(evaluated: Metrics, systems: Sequence[str]) -> Metrics:
    """What every system's texts look like to arithmetic: bits per byte of golden, variety, length beside golden."""
    wanted = {
        "bits_per_byte": ("likelihood", "bits_per_byte"),
        "perplexity": ("likelihood", "perplexity"),
        "distinct_2": ("variety", "distinct_2"),
        "distinct_4": ("variety", "distinct_4"),
    }
    made: Metrics = {}
    for system in systems:
        found = {key: ((evaluated.get(m) or {}).get(system) or {}).get(part) for key, (m, part) in wanted.items()}
        every = ((evaluated.get("length") or {}).get(system) or {}).get("all") or {}
        made[system] = {**found, "length": every.get("ratio")}
    return made


def whole(
    joined: Mapping[str, Sequence[Record]],
    drawn: Mapping[str, Sequence[Record]],
    judged: Sequence[Record],
    evaluated: Metrics,
    passes: Sequence[str],
    seed: int,
) -> Metrics:
    """The block `alignment` of the table: what texts pass, their defects, rollouts, signal, price."""
    return {
        "passes": shares(joined, passes, True, seed),
        "defects": shares(joined, DEFECTS, False, seed),
        "rollouts": rollouts(drawn, seed),
        "signal": signal(drawn.get("tuned") or [], judged, seed),
        "price": price(evaluated, present(joined)),
    }

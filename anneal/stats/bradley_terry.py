"""Bradley-Terry strengths of four or more systems from games of two, where every one loses sometimes.

A system that wins every pair has no finite strength: a penalty would give it 5.8, 4.3 or 2.8 as one likes. The win
matrix with Wilson bounds says what is known then, and says it better for three systems in any case.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from anneal.records import Metrics
from anneal.stats import intervals

Game = tuple[str, str, str, float]  # cluster, two systems, and the points of the first: 1, 0.5 or 0

FEWEST = 4


def wins(games: Iterable[Game], systems: Sequence[str]) -> tuple[np.ndarray, list[str]]:
    """Points of row over column in each cluster [clusters, systems, systems], ties half to both, and the clusters."""
    place = {name: k for k, name in enumerate(systems)}
    found: dict[str, np.ndarray] = {}
    for cluster, a, b, points in games:
        table = found.setdefault(cluster, np.zeros((len(systems), len(systems))))
        table[place[a], place[b]] += points
        table[place[b], place[a]] += 1 - points
    names = sorted(found)
    return np.array([found[name] for name in names]).reshape(-1, len(systems), len(systems)), names


def scored(scores: Mapping[str, Mapping[str, float]], items: Mapping[str, str], tie: float) -> Iterator[Game]:
    """Games out of scores (system -> text -> score): the better of two texts to the same prompt wins, or both half."""
    for a, b in combinations(scores, 2):
        for name in sorted(scores[a].keys() & scores[b].keys()):
            # Rounded: 4.8 - 4.75 is a little more than .05 to a computer.
            gap = round(scores[a][name] - scores[b][name], 6)
            yield items[name], a, b, 0.5 if abs(gap) <= tie else float(gap > 0)


def matrix(games: Iterable[Game]) -> dict[str, dict[str, Any]]:
    """system -> other -> the share of points with its interval over clusters, which is defined however one-sided."""
    found: dict[str, dict[str, list[tuple[float, str]]]] = {}
    for cluster, a, b, points in games:
        found.setdefault(a, {}).setdefault(b, []).append((points, cluster))
        found.setdefault(b, {}).setdefault(a, []).append((1 - points, cluster))
    return {
        a: {b: intervals.share([p for p, _ in part], [c for _, c in part]).row() for b, part in row.items()}
        for a, row in found.items()
    }


def connected(table: np.ndarray) -> bool:
    """Whether every system has, directly or through others, points over every other one (Ford 1957)."""
    reach = np.linalg.matrix_power((table > 0).astype(float) + np.eye(len(table)), len(table))
    return bool((reach > 0).all())


def fit(table: np.ndarray) -> np.ndarray | None:
    """Log strengths [systems], mean 0, that maximise sum of points * log sigma(b_i - b_j); None where not finite."""
    if not connected(table):
        return None
    games, beta = table + table.T, np.zeros(len(table))
    for _ in range(200):
        p = 1 / (1 + np.exp(beta[None, :] - beta[:, None]))
        edges = games * p * (1 - p)
        laplace = np.diag(edges.sum(axis=1)) - edges
        step = np.linalg.pinv(laplace) @ (table - games * p).sum(axis=1)
        beta = beta + step / max(1.0, float(np.abs(step).max()))
        if np.abs(step).max() < 1e-10:
            break
    return np.asarray(beta - beta.mean())


def errors(tables: np.ndarray, beta: np.ndarray) -> np.ndarray:
    """Cluster-robust standard errors [systems]: the sandwich of the likelihood's curvature and the clusters' scores."""
    total = tables.sum(axis=0)
    p = 1 / (1 + np.exp(beta[None, :] - beta[:, None]))
    edges = (total + total.T) * p * (1 - p)
    bread = np.linalg.pinv(np.diag(edges.sum(axis=1)) - edges)
    scores = (tables - (tables + tables.transpose(0, 2, 1)) * p).sum(axis=2)
    meat = scores.T @ scores * len(tables) / (len(tables) - 1)
    return np.asarray(np.sqrt(np.diag(bread @ meat @ bread)))


def strengths(games: Iterable[Game], systems: Sequence[str]) -> Metrics:
    """{n, clusters, systems: {name: {strength, low, high}}, reason}: natural log odds, mean 0, 95% by t(C-1).

    `n` counts games. For fewer than four systems, and where one never wins or never loses, there are none; where that
    hangs on a single cluster, there is no interval.
    """
    tables, names = wins(games, systems)
    total = tables.sum(axis=0)
    made: Metrics = {"n": round(float(total.sum())), "clusters": len(names), "systems": {}}
    if len(systems) < FEWEST:
        return {**made, "reason": f"{len(systems)} systems: their win matrix says it all"}
    if not names:
        return {**made, "reason": "empty: no game was played"}
    found = fit(total)
    if found is None:
        return {**made, "reason": f"separated: {_alone(total, systems)}; see the win matrix"}
    reason = "one cluster: it shows no spread" if len(names) < 2 else ""
    if not reason and not all(connected(total - table) for table in tables):
        reason = "no interval: without one of the clusters a system never wins or never loses"
    half = None if reason else intervals.quantile(len(names), (1 + intervals.LEVEL) / 2) * errors(tables, found)
    for k, name in enumerate(systems):
        ends = (None, None) if half is None else (float(found[k] - half[k]), float(found[k] + half[k]))
        made["systems"][name] = {"strength": float(found[k]), "low": ends[0], "high": ends[1]}
    return {**made, "reason": reason}


def _alone(table: np.ndarray, systems: Sequence[str]) -> str:
    """Who makes the strengths infinite, in words."""
    played = (table + table.T).sum(axis=1) > 0
    never: Mapping[str, list[str]] = {
        "plays no game": [s for s, p in zip(systems, played, strict=True) if not p],
        "never loses": [s for s, x, p in zip(systems, table.sum(axis=0), played, strict=True) if p and not x],
        "never wins": [s for s, x, p in zip(systems, table.sum(axis=1), played, strict=True) if p and not x],
    }
    said = [f"{name} {what}" for what, names in never.items() for name in names]
    return ", ".join(said) or "one group of systems never loses to the other"

"""Bradley-Terry strengths of four or more systems from pairwise games, where each system sometimes loses.

A system that wins every game has no finite strength: with a penalty it would be 5.8, 4.3 or 2.8, whichever penalty one
prefers. The win matrix with its Wilson bounds is reported then; for three systems it is the better summary in any case.

choix fits the strengths (I-LSR, Maystre and Grossglauser 2015), on counts in which a tie is half a win for both. Here
are the test that they are finite and the standard errors over clusters, which choix has not.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import combinations

import numpy as np

from anneal.records import Metrics
from anneal.stats import intervals

Game = tuple[str, str, str, float]  # cluster, two systems, and the points of the first: 1, 0.5 or 0

FEWEST = 4  # systems; for fewer the win matrix shows as much
# Mean change of a strength in the last step. choix's own 1e-8 leaves errors of up to 1e-5.
TOLERANCE = 1e-12
STEPS = 10_000  # after which choix raises RuntimeError; a connected table never came near it


def wins(games: Iterable[Game], systems: Sequence[str]) -> tuple[np.ndarray, list[str]]:
    """Points of row over column in each cluster [clusters, systems, systems], ties half to both, and the clusters."""
    index = {name: k for k, name in enumerate(systems)}
    tables: dict[str, np.ndarray] = {}
    for cluster, a, b, points in games:
        table = tables.setdefault(cluster, np.zeros((len(systems), len(systems))))
        table[index[a], index[b]] += points
        table[index[b], index[a]] += 1 - points
    clusters = sorted(tables)
    stacked = np.array([tables[cluster] for cluster in clusters])
    return stacked.reshape(-1, len(systems), len(systems)), clusters


def scored(scores: Mapping[str, Mapping[str, float]], items: Mapping[str, str], tie: float) -> Iterator[Game]:
    """Games from scores (system -> text id -> score): the text with the higher score wins, a gap up to `tie` is a tie.

    `items` gives the cluster of each text id. Two systems play on the texts that both have.
    """
    for a, b in combinations(scores, 2):
        for text_id in sorted(scores[a].keys() & scores[b].keys()):
            # Rounded: in floating point 4.8 - 4.75 is a little more than .05.
            gap = round(scores[a][text_id] - scores[b][text_id], 6)
            yield items[text_id], a, b, 0.5 if abs(gap) <= tie else float(gap > 0)


def matrix(games: Iterable[Game]) -> dict[str, dict[str, Metrics]]:
    """system -> other -> the share of points with its interval over clusters; defined however one-sided the games."""
    results: dict[str, dict[str, list[tuple[float, str]]]] = {}
    for cluster, a, b, points in games:
        results.setdefault(a, {}).setdefault(b, []).append((points, cluster))
        results.setdefault(b, {}).setdefault(a, []).append((1 - points, cluster))
    shares: dict[str, dict[str, Metrics]] = {}
    for a, opponents in results.items():
        shares[a] = {}
        for b, played in opponents.items():
            estimate = intervals.share([points for points, _ in played], [cluster for _, cluster in played])
            shares[a][b] = estimate.row()
    return shares


def connected(table: np.ndarray) -> bool:
    """Whether every system has points over every other one, directly or through others (Ford 1957).

    `table` [systems, systems] holds the points of row over column.
    """
    reach = np.linalg.matrix_power((table > 0).astype(float) + np.eye(len(table)), len(table))
    return bool((reach > 0).all())


def fit(table: np.ndarray) -> np.ndarray | None:
    """Log strengths b [systems], mean 0, that maximise sum of table_ij * log sigma(b_i - b_j); None if not finite."""
    import choix

    if not connected(table):
        return None
    strength = choix.ilsr_pairwise_dense(table, max_iter=STEPS, tol=TOLERANCE)
    return np.asarray(strength - strength.mean())


def errors(tables: np.ndarray, beta: np.ndarray) -> np.ndarray:
    """Cluster-robust standard errors [systems] of the log strengths `beta`, with the factor C/(C-1).

    The sandwich estimator: the inverse curvature of the likelihood on both sides of the outer product of the clusters'
    gradients. `tables` [clusters, systems, systems] is that of `wins`.
    """
    total = tables.sum(axis=0)
    p = 1 / (1 + np.exp(beta[None, :] - beta[:, None]))
    edges = (total + total.T) * p * (1 - p)
    # The curvature is singular along equal shifts of all strengths, hence the pseudo-inverse.
    bread = np.linalg.pinv(np.diag(edges.sum(axis=1)) - edges)
    gradients = (tables - (tables + tables.transpose(0, 2, 1)) * p).sum(axis=2)
    meat = gradients.T @ gradients * len(tables) / (len(tables) - 1)
    return np.asarray(np.sqrt(np.diag(bread @ meat @ bread)))


def strengths(games: Iterable[Game], systems: Sequence[str]) -> Metrics:
    """{n, clusters, systems: {name: {strength, low, high}}, reason}: natural log odds, mean 0, 95% by t(C-1).

    `n` counts games. No strengths for fewer than four systems and where one never wins or never loses; no interval
    where that depends on a single cluster. `reason` says which.
    """
    tables, clusters = wins(games, systems)
    total = tables.sum(axis=0)
    result: Metrics = {"n": round(float(total.sum())), "clusters": len(clusters), "systems": {}}
    if len(systems) < FEWEST:
        return {**result, "reason": f"{len(systems)} systems: their win matrix says it all"}
    if not clusters:
        return {**result, "reason": "empty: no game was played"}
    beta = fit(total)
    if beta is None:
        return {**result, "reason": f"separated: {_separation(total, systems)}; see the win matrix"}
    reason = "one cluster: it shows no spread" if len(clusters) < 2 else ""
    if not reason and not all(connected(total - table) for table in tables):
        reason = "no interval: without one of the clusters a system never wins or never loses"
    half = None if reason else intervals.quantile(len(clusters), (1 + intervals.LEVEL) / 2) * errors(tables, beta)
    for k, name in enumerate(systems):
        strength = float(beta[k])
        low, high = (None, None) if half is None else (float(beta[k] - half[k]), float(beta[k] + half[k]))
        result["systems"][name] = {"strength": strength, "low": low, "high": high}
    return {**result, "reason": reason}


def _separation(table: np.ndarray, systems: Sequence[str]) -> str:
    """The systems whose strength is infinite or undefined, in words."""
    won, lost = table.sum(axis=1), table.sum(axis=0)
    causes: dict[str, list[str]] = {"plays no game": [], "never loses": [], "never wins": []}
    for k, system in enumerate(systems):
        if not won[k] + lost[k]:
            causes["plays no game"].append(system)
            continue
        if not lost[k]:
            causes["never loses"].append(system)
        if not won[k]:
            causes["never wins"].append(system)
    phrases = [f"{system} {cause}" for cause, names in causes.items() for system in names]
    return ", ".join(phrases) or "one group of systems never loses to the other"

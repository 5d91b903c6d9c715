"""Whether a judge takes longer for better, and what the win rate would be at equal length, where that can be known.

A judge that prefers length rewards a base model for not stopping. A model of the verdict can take length out, but
only where both systems are sometimes the longer one: else length and system are one thing, and the number that comes
out is the model's assumption (measured on 54 public models: 14 points too high where fewer than 2% overlap).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from anneal.records import Metrics
from anneal.stats import intervals
from anneal.stats.win_rates import Pair, floor

APART = 30  # characters from which a difference in length can be seen
WEAK = 1 / 2.5**2  # the usual weakly informative prior of a logit (Gelman et al. 2008), only where it must be
REPORT, EXTRAPOLATE = 0.30, 0.10  # the smaller of the shares longer and shorter


def longer_wins(pairs: Sequence[Pair], gaps: Mapping[str, int]) -> Metrics:
    """P(longer wins), ties half, over pairs whose lengths lie more than 30 characters apart: Estimate and reason.

    `gaps` holds id -> length of the system's text less that of the other one, in characters.
    """
    apart = [p for p in pairs if abs(gaps[p.id]) > APART]
    won = [p.points if gaps[p.id] > 0 else 1 - p.points for p in apart]
    found = intervals.share(won, [p.cluster for p in apart]).row()
    reason = intervals.why(found) if apart or not pairs else f"no pair is more than {APART} characters apart"
    return {**found, "reason": reason}


def fit(won: np.ndarray, z: np.ndarray, prior: float = 0.0) -> tuple[float, float]:
    """theta and phi of logit P(win) = theta + phi * z by Newton steps; `won` [n] in 0..1, `z` [n].

    `prior` > 0 is the precision of a normal prior about 0, with which the answer is finite even where z separates.
    """
    x, beta = np.column_stack([np.ones_like(z), z]), np.zeros(2)
    for _ in range(200):
        p = 1 / (1 + np.exp(-x @ beta))
        information = x.T @ (x * (p * (1 - p))[:, None]) + prior * np.eye(2)
        step = np.linalg.solve(information, x.T @ (won - p) - prior * beta)
        beta = beta + step / max(1.0, float(np.abs(step).max()))
        if np.abs(step).max() < 1e-10:
            break
    return float(beta[0]), float(beta[1])


def separated(won: np.ndarray, z: np.ndarray) -> bool:
    """Whether some z has all wins on one side and all losses on the other: then no finite fit exists."""
    wins, losses = z[won > 0], z[won < 1]
    return bool(wins.min() >= losses.max() or losses.min() >= wins.max())


def _spread(won: np.ndarray, z: np.ndarray, theta: float, phi: float, clusters: Sequence[str]) -> float | None:
    """Cluster-robust standard error of theta: the sandwich of the score's cluster sums, times C/(C-1)."""
    names, index = np.unique(np.asarray(clusters, dtype=str), return_inverse=True)
    if len(names) < 2:
        return None
    x, p = np.column_stack([np.ones_like(z), z]), 1 / (1 + np.exp(-(theta + phi * z)))
    sums = np.zeros((len(names), 2))
    np.add.at(sums, index, x * (won - p)[:, None])
    bread = np.linalg.inv(x.T @ (x * (p * (1 - p))[:, None]))
    return float(np.sqrt((bread @ sums.T @ sums @ bread)[0, 0] * len(names) / (len(names) - 1)))


def controlled(pairs: Sequence[Pair], gaps: Mapping[str, int]) -> Metrics:
    """The win rate at equal length: sigmoid(theta) of the logit on tanh(gap / sd(gap)), with t(C-1) limits on theta.

    {n, longer, shorter, state, rate, low, high, theta, phi, separated, near, reason}. state: "reported" where the
    smaller of the shares longer and shorter is at least 0.30, "extrapolated" down to 0.10, else "not identifiable" and
    no rate; "none" where nothing varies. `near` is the win rate of the pairs no more than 30 characters apart.
    """
    near = [p for p in pairs if abs(gaps[p.id]) <= APART]
    made: Metrics = {
        "n": len(pairs),
        "longer": None,
        "shorter": None,
        "state": "none",
        "rate": None,
        "low": None,
        "high": None,
        "theta": None,
        "phi": None,
        "separated": False,
        "reason": "",
        "near": intervals.share([p.points for p in near], [p.cluster for p in near]).row(),
    }
    if not pairs:
        return {**made, "reason": "empty: no pair has both orders"}
    won, gap = np.array([p.points for p in pairs]), np.array([float(gaps[p.id]) for p in pairs])
    made |= {"longer": float(np.mean(gap > 0)), "shorter": float(np.mean(gap < 0))}
    if np.ptp(gap) == 0 and gap[0] == 0:
        return {**made, "reason": "no variance: all pairs are of equal length, which can decide nothing"}
    overlap = min(made["longer"], made["shorter"])
    if overlap < EXTRAPOLATE:
        return {**made, "state": "not identifiable", "reason": _disjoint(made)}
    if np.ptp(won) == 0:
        ties = all(p.first == p.second == 0.5 for p in pairs)
        reason = "all ties: every verdict is a tie" if ties else "no variance: every pair has one result"
        return {**made, "reason": reason}
    z = np.tanh(gap / gap.std())
    apart = separated(won, z)
    theta, phi = fit(won, z, WEAK if apart else 0.0)
    made |= {"theta": theta, "phi": phi, "separated": apart, "rate": _sigmoid(theta)}
    made["state"] = "reported" if overlap >= REPORT else "extrapolated"
    se = None if apart else _spread(won, z, theta, phi, [p.cluster for p in pairs])
    if se is None:
        alone = "length alone decides every verdict" if apart else "one cluster: it shows no spread"
        return {**made, "reason": alone}
    half = intervals.quantile(len({p.cluster for p in pairs}), (1 + intervals.LEVEL) / 2) * se
    return {**made, "low": _sigmoid(theta - half), "high": _sigmoid(theta + half)}


def _sigmoid(value: float) -> float:
    return float(1 / (1 + np.exp(-value)))


def _disjoint(shares: Mapping[str, Any]) -> str:
    both = f"it is the longer text in {floor(shares['longer'])} of pairs and the shorter in {floor(shares['shorter'])}"
    return f"not identifiable: {both}, at least {floor(EXTRAPOLATE)} of each are needed"


def sentence(numbers: Mapping[str, Any]) -> str:
    """The win rate at equal length, or why there is none; with the near pairs where length and system are one."""
    if numbers["rate"] is None:
        near = numbers["near"]
        few = f"; it wins {near['mean']:.0%} of the {near['n']} pairs of near equal length" if near["n"] else ""
        said = str(numbers["reason"])
        return said + few if numbers["state"] == "not identifiable" else said
    span = "" if numbers["low"] is None else " [{low:.0%}, {high:.0%}]".format(**numbers)
    why = f" ({numbers['reason']})" if numbers["reason"] else ""
    far = "extrapolated, few pairs have the other one longer: " if numbers["state"] == "extrapolated" else ""
    return f"{far}at equal length it wins {numbers['rate']:.0%}{span}{why}"

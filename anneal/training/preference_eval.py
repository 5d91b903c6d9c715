"""Held-out preference accuracy: how often a model gives the chosen text of a test pair the higher likelihood."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from anneal.dataset import chat_template
from anneal.decoding import generate
from anneal.records import Metrics
from anneal.stats import intervals
from anneal.training.preference_pairs import SIDES, Pairs


def score(model: Any, pairs: Pairs) -> list[dict[str, float]]:
    """Log-probability of each side of each pair: the sum over its tokens, in nats."""
    scores = []
    for row in pairs.rows:
        masked = [chat_template.IGNORE] * len(row["prompt"])
        sums: dict[str, float] = {}
        for side in SIDES:
            sums[side] = generate.likelihood(model, row["prompt"] + row[side], masked + row[side])[0]
        scores.append(sums)
    return scores


def _accuracy(pairs: Pairs, wins: Sequence[bool]) -> Metrics:
    """The share of wins over all pairs and by kind; intervals are clustered by item."""
    shares: Metrics = {}
    for kind in ("all", *sorted({row["kind"] for row in pairs.rows})):
        selected = [
            (win, row["item"]) for win, row in zip(wins, pairs.rows, strict=True) if kind in ("all", row["kind"])
        ]
        estimate = intervals.rate([win for win, _ in selected], [item for _, item in selected]).row()
        shares[kind] = {**estimate, "reason": intervals.why(estimate)}
    return shares


def preference(pairs: Pairs, before: list[dict[str, float]], after: list[dict[str, float]]) -> Metrics:
    """Held-out preference accuracy before and after training, by the sum of log-probabilities and by their mean.

    `reward` compares the gains over the reference, which DPO optimises; before training all gains are 0. `logp` is the
    log-probability of a token in nats, over all tokens of a side.
    """
    counts: list[dict[str, int]] = [{side: len(row[side]) for side in SIDES} for row in pairs.rows]

    def accuracies(scores: list[dict[str, float]]) -> Metrics:
        by_sum = [s["chosen"] > s["rejected"] for s in scores]
        by_token = [
            s["chosen"] / n["chosen"] > s["rejected"] / n["rejected"] for s, n in zip(scores, counts, strict=True)
        ]
        return {"sum": _accuracy(pairs, by_sum), "token": _accuracy(pairs, by_token)}

    gains = [{side: a[side] - b[side] for side in SIDES} for a, b in zip(after, before, strict=True)]
    reward = _accuracy(pairs, [gain["chosen"] > gain["rejected"] for gain in gains])
    logp: Metrics = {}
    for side in SIDES:
        tokens = max(1, sum(count[side] for count in counts))
        logp[side] = {
            "before": sum(score[side] for score in before) / tokens,
            "after": sum(score[side] for score in after) / tokens,
        }
    return {
        "n": len(pairs.rows),
        "before": accuracies(before),
        "after": {**accuracies(after), "reward": reward},
        "logp": logp,
    }


def warnings(logp: Metrics) -> list[str]:
    """A line where the chosen texts have become less likely, else none; the line also goes to stderr.

    DPO rewards only the margin, which also grows where both fall and rejected falls faster (Pal et al. 2024, DPOP).
    """
    fall = logp["chosen"]["before"] - logp["chosen"]["after"]
    if fall <= 0:
        return []
    line = (
        f"chosen texts have become less likely: {logp['chosen']['before']:.4f} to {logp['chosen']['after']:.4f} nats a "
        f"token on held-out pairs, a fall of {fall:.4f}; raise align.dpo.sft or align.dpo.beta, or lower align.dpo.lr"
    )
    print(f"warning: {line}", file=sys.stderr)
    return [line]

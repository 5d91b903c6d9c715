"""How often a model prefers the chosen text of a pair that it has not learnt from, before and after it learnt."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from anneal.dataset import chat_template
from anneal.decoding import generate
from anneal.records import Record
from anneal.stats import intervals
from anneal.training.preference_pairs import SIDES, Pairs


def score(model: Any, pairs: Pairs) -> list[dict[str, float]]:
    """Log-probabilities (nats) of each side of each pair: the sum over its tokens."""
    found = []
    for row in pairs.rows:
        blank = [chat_template.IGNORE] * len(row["prompt"])
        found.append(
            {side: generate.likelihood(model, row["prompt"] + row[side], blank + row[side])[0] for side in SIDES}
        )
    return found


def _share(pairs: Pairs, wins: Sequence[bool]) -> Record:
    """How often, over all pairs and over those of each kind; intervals are clustered by item."""
    found = {}
    for kind in ("all", *sorted({row["kind"] for row in pairs.rows})):
        kept = [(win, row["item"]) for win, row in zip(wins, pairs.rows, strict=True) if kind in ("all", row["kind"])]
        estimate = intervals.rate([win for win, _ in kept], [item for _, item in kept]).row()
        found[kind] = {**estimate, "reason": intervals.why(estimate)}
    return found


def preference(pairs: Pairs, before: list[dict[str, float]], after: list[dict[str, float]]) -> Record:
    """Held-out preference accuracy before and after: is the chosen text likelier, as a whole and per token?

    `reward` is what DPO optimises: did chosen gain more on the reference than rejected did? Before, nothing has moved.
    """
    counts = [{side: len(row[side]) for side in SIDES} for row in pairs.rows]

    def wins(scores: list[dict[str, float]]) -> Record:
        rows = list(zip(scores, counts, strict=True))
        token = [s["chosen"] / n["chosen"] > s["rejected"] / n["rejected"] for s, n in rows]
        return {"sum": _share(pairs, [s["chosen"] > s["rejected"] for s, _ in rows]), "token": _share(pairs, token)}

    gained = [{side: a[side] - b[side] for side in SIDES} for a, b in zip(after, before, strict=True)]
    reward = _share(pairs, [gain["chosen"] > gain["rejected"] for gain in gained])
    tokens = {side: max(1, sum(count[side] for count in counts)) for side in SIDES}
    logp = {
        side: {
            name: sum(row[side] for row in rows) / tokens[side] for name, rows in (("before", before), ("after", after))
        }
        for side in SIDES
    }
    return {"n": len(pairs.rows), "before": wins(before), "after": {**wins(after), "reward": reward}, "logp": logp}


def warnings(logp: Record) -> list[str]:
    """A line where the texts that were to be preferred have become less likely; also said on stderr.

    DPO only wants a distance: it is content where both fall and rejected falls faster (Pal et al. 2024, DPOP).
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

"""The report's section about costs: tokens of teacher and judge by stage, and per record that the filter kept.

Tokens only: prices come from the environment, so the page of one run would differ between machines.
"""

from __future__ import annotations

import os
from collections import defaultdict
from typing import Any

from markupsafe import Markup

from anneal import html
from anneal.history.revision import Snapshot
from anneal.html import el, table
from anneal.report.formatting import figure
from anneal.systems import SYSTEMS

# Stage -> its metrics file and the role of its model; <ROLE>_PRICE_IN and _PRICE_OUT are per million tokens.
STAGES = {
    "generate": ("generate", "teacher"),
    "clean": ("clean", "teacher"),
    "reject": ("reject", "teacher"),
    **{f"judge@{name}": (f"judge/{name}", "judge") for name in (*SYSTEMS, "controls", "samples")},
    "prefer": ("prefer", "judge"),
    "card": ("card", "judge"),
}


def stages_with_requests(now: Snapshot) -> list[str]:
    """The stages that sent requests; the stages of an absent model run too, on no text."""
    return [stage for stage, (name, _) in STAGES.items() if now.metric(name) and now.metric(name, "n") != 0]


def tokens_by_stage(now: Snapshot) -> dict[str, tuple[int, int]]:
    """stage -> tokens in and out, of the stages whose metrics count them."""
    counts = {stage: now.metric(STAGES[stage][0], "tokens") for stage in stages_with_requests(now)}
    return {stage: (n["in"], n["out"]) for stage, n in counts.items() if n and {"in", "out"} <= n.keys()}


def failed_requests(metrics: Any) -> int:
    """Requests without a response: counted by kind in a teacher's metrics, by outcome in a judge's."""
    kinds = (metrics or {}).get("failed")
    outcomes = (metrics or {}).get("outcomes")
    if isinstance(outcomes, dict):
        return sum(n for name, n in outcomes.items() if name != "ok")
    return sum(n for n in kinds.values() if isinstance(n, int)) if isinstance(kinds, dict) else 0


def section(now: Snapshot, _old: Snapshot) -> Markup:
    """Tokens by stage, their share of all, and per record that the filter kept."""
    counts = tokens_by_stage(now)
    if not counts:
        return Markup("")
    kept = now.metric("filter", "kept")
    total = (sum(tokens[0] for tokens in counts.values()), sum(tokens[1] for tokens in counts.values()))
    rows = []
    for stage, tokens in {**counts, "all stages": total}.items():
        failed = "" if stage == "all stages" else figure(failed_requests(now.metric(STAGES[stage][0])))
        share = figure(sum(tokens) / sum(total), True) if sum(total) else "–"
        per_record = figure(sum(tokens) / kept) if kept else "–"
        rows.append([stage, *map(figure, tokens), share, failed, per_record])
    head = ["stage", "tokens in", "tokens out", "share", "failed", "tokens per kept record"]
    words = (
        f"Tokens of the responses that the stages use, also of those from the response cache; {figure(kept)} records "
        "were kept by the filter."
    )
    uncounted = [stage for stage in stages_with_requests(now) if stage not in counts]
    note = el("p", f"No tokens are counted for {', '.join(uncounted)}.", class_="soft") if uncounted else ""
    return html.join(table(head, rows), el("p", words, class_="soft"), note)


def money(now: Snapshot) -> str:
    """The cost of the tokens at the prices in the environment, for the terminal; "" without prices."""
    costs: defaultdict[str, float] = defaultdict(float)
    for stage, counts in tokens_by_stage(now).items():
        role = STAGES[stage][1]
        for tokens, direction in zip(counts, ("IN", "OUT"), strict=True):
            try:
                costs[role] += tokens * float(os.environ.get(f"{role.upper()}_PRICE_{direction}") or 0) / 1e6
            except ValueError:
                return ""
    kept = now.metric("filter", "kept")
    total = sum(costs.values())
    if not total:
        return ""
    per_record = f", {total / kept:.4f} per kept record" if kept else ""
    parts = ", ".join(f"{role} {cost:.2f}" for role, cost in sorted(costs.items()))
    return f"cost at the prices in the environment: {total:.2f} ({parts}){per_record}"

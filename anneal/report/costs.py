"""What the models that were asked cost: tokens by stage, and for each record that the filter kept.

Tokens only: prices are of the machine that pays, and would make another page of the same run elsewhere.
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

# Stage -> its metrics and the role that answers it; <ROLE>_PRICE_IN and _PRICE_OUT are per million tokens.
STAGES = {
    "generate": ("generate", "teacher"),
    "clean": ("clean", "teacher"),
    "reject": ("reject", "teacher"),
    **{f"judge@{name}": (f"judge/{name}", "judge") for name in (*SYSTEMS, "controls", "samples")},
    "prefer": ("prefer", "judge"),
    "card": ("card", "judge"),
}


def asked(now: Snapshot) -> list[str]:
    """The stages that have asked: those of a model that was not made run too, on no text."""
    return [stage for stage, (name, _) in STAGES.items() if now.metric(name) and now.metric(name, "n") != 0]


def spent(now: Snapshot) -> dict[str, tuple[int, int]]:
    """stage -> tokens in and out, of the stages whose metrics count them."""
    bills = {stage: now.metric(STAGES[stage][0], "tokens") for stage in asked(now)}
    return {stage: (bill["in"], bill["out"]) for stage, bill in bills.items() if bill and {"in", "out"} <= bill.keys()}


def failed(found: Any) -> int:
    """Requests without an answer: counted by kind in a teacher's metrics, by outcome in a judge's."""
    kinds, outcomes = ((found or {}).get(key) for key in ("failed", "outcomes"))
    if isinstance(outcomes, dict):
        return sum(n for name, n in outcomes.items() if name != "ok")
    return sum(n for n in kinds.values() if isinstance(n, int)) if isinstance(kinds, dict) else 0


def section(now: Snapshot, _old: Snapshot) -> Markup:
    """Tokens by stage, their share of all, and per record that the filter kept."""
    bills = spent(now)
    if not bills:
        return Markup("")
    kept = now.metric("filter", "kept")
    whole = (sum(bill[0] for bill in bills.values()), sum(bill[1] for bill in bills.values()))
    rows = []
    for stage, bill in {**bills, "all stages": whole}.items():
        lost = "" if stage == "all stages" else figure(failed(now.metric(STAGES[stage][0])))
        share = figure(sum(bill) / sum(whole), True) if sum(whole) else "–"
        each = figure(sum(bill) / kept) if kept else "–"
        rows.append([stage, *map(figure, bill), share, lost, each])
    head = ["stage", "tokens in", "tokens out", "share", "failed", "tokens per kept record"]
    words = (
        f"Tokens of the answers that the stages use, the same when the ledger gave them; {figure(kept)} records were "
        "kept by the filter."
    )
    missing = [stage for stage in asked(now) if stage not in bills]
    rest = el("p", f"No tokens are counted for {', '.join(missing)}.", class_="soft") if missing else ""
    return html.join(table(head, rows), el("p", words, class_="soft"), rest)


def money(now: Snapshot) -> str:
    """For the terminal: what the tokens cost at the prices of the environment; "" without prices."""
    total: defaultdict[str, float] = defaultdict(float)
    for stage, bill in spent(now).items():
        role = STAGES[stage][1]
        for tokens, way in zip(bill, ("IN", "OUT"), strict=True):
            try:
                total[role] += tokens * float(os.environ.get(f"{role.upper()}_PRICE_{way}") or 0) / 1e6
            except ValueError:
                return ""
    kept = now.metric("filter", "kept")
    if not (whole := sum(total.values())):
        return ""
    each = f", {whole / kept:.4f} for each kept record" if kept else ""
    parts = ", ".join(f"{role} {cost:.2f}" for role, cost in sorted(total.items()))
    return f"cost at the prices of the environment: {whole:.2f} ({parts}){each}"

"""Evidence on how far to trust the judge: position bias, repeats, controls, judge card, number of judges tried.

Each part is a function of metrics and empty where its stage has not run.
"""

from __future__ import annotations

import json
from typing import Any

from markupsafe import Markup

from anneal import html
from anneal.history import revision
from anneal.history.revision import Snapshot
from anneal.html import NONE, el, table
from anneal.records import Metrics
from anneal.report import headline, human_votes
from anneal.report.formatting import estimate, estimate_text, figure, p_text, signed, span
from anneal.stats import pairwise_summary
from anneal.systems import SYSTEMS

GOLDEN = "judge/golden"
CONTROLS = """null: a text without content. other: the golden text of another item. truncated: the first part of the \
golden text. again: the golden text judged a second time; its score must not change."""


def count_judges(now: Snapshot, metric: str = GOLDEN) -> int:
    """The number of distinct judges that scored golden, here and in the last commits of any branch.

    A judge is a set of rubrics, settings and model. Many tried judges mean that one may fit the result by chance.
    """
    texts = revision.history(f"{revision.METRICS}/{metric}.json")
    judges = {json.dumps(now.metric(metric, "judge_ids"), sort_keys=True)}
    for text in texts:
        try:
            judges.add(json.dumps(json.loads(text).get("judge_ids"), sort_keys=True))
        except (ValueError, AttributeError):
            continue  # a file of an older form
    return len(judges - {"null"})


def section(now: Snapshot, _old: Snapshot) -> Markup:
    """All evidence on the judge; empty before it has judged."""
    if not now.metric(GOLDEN) and not now.metric("card"):
        return NONE
    n = count_judges(now)
    line = f"Judges tried: {n}. A judge is a set of rubrics, settings and model that scored golden, here or in the "
    line += f"last {revision.COMMITS} commits of any branch that changed its metrics."
    pairs = count_judges(now, "prefer")
    parts = [human_votes.caution(now), el("p", line) if n else NONE]
    parts += [el("p", f"Pairwise judges tried: {pairs}.")] if pairs else []
    parts += [repeats(now), controls(now), orders(now), win_rates(now), matrix(now), card(now)]
    return html.join(*parts)


def repeats(now: Snapshot) -> Markup:
    """Texts judged several times: the share with identical scores, the standard deviation, alpha."""
    parts = {name: now.metric("compare", "repeats", name) for name in SYSTEMS} | {"card": now.metric("card", "repeats")}
    rows = [
        [
            name,
            figure(part.get("n")),
            figure(part.get("times")),
            figure(part.get("same"), True),
            figure(part.get("sd")),
            figure(part.get("alpha")),
            part.get("reason") or "",
        ]
        for name, part in parts.items()
        if part
    ]
    head = ["", "texts", "judgements per text", "identical", "SD of one judgement", "alpha", "remark"]
    return html.join(el("h3", "Repeats"), table(head, rows)) if rows else NONE


def controls(now: Snapshot) -> Markup:
    """Control texts with a known correct ranking, beside the golden texts of their records."""
    parts: Metrics = now.metric("compare", "judge_controls") or {}
    rows = []
    for name, part in parts.items():
        low, high = part.get("at_golden_interval") or (None, None)
        at_golden = span(part.get("at_golden"), low, high, True)
        cells = [estimate(part, False), figure(part.get("golden")), at_golden, part.get("reason") or ""]
        rows.append([name, figure(part.get("n")), *cells])
    if not rows:
        return NONE
    head = ["control", "n", "score", "golden score", "at or above golden", "remark"]
    return html.join(el("h3", "Controls"), table(head, rows), el("p", CONTROLS, class_="soft"))


def _order(name: str, part: Metrics, again: Metrics) -> list[Any]:
    """One row of the table of orders: `part` from both orders of a pair, `again` from repeated verdicts."""
    rate = span(part.get("consistency"), part.get("low"), part.get("high"), True)
    flips = f"{figure(part.get('flips_first'))} / {figure(part.get('flips_second'))}"
    bias = f"{signed(part.get('bias'))}, {p_text(part.get('p'))}" if part.get("bias") is not None else "–"
    cells = [figure(part.get("first_share"), True), figure(part.get("ties")), figure(again.get("stability"), True)]
    reason = part.get("reason") or ""
    return [name, figure(part.get("n")), rate, flips, bias, *cells, "" if reason == pairwise_summary.BLIND else reason]


def orders(now: Snapshot) -> Markup:
    """Position bias: how often the judge gives the same verdict in both orders of a pair."""
    pairs: Metrics = {
        **(now.metric("compare", "preferences", "pairs") or {}),
        **(now.metric("compare", "preferences", "controls") or {}),
    }
    rows = [_order(name, part.get("orders") or {}, part.get("repeats") or {}) for name, part in pairs.items()]
    if not rows:
        return NONE
    head = ["pair", "n", "same in both orders", "flips to first / second", "position bias", "first wins", "ties"]
    rule_judge = any((part.get("orders") or {}).get("reason") == pairwise_summary.BLIND for part in pairs.values())
    # A judge of rules has one remark for every pair; it stands below the table.
    remark = el("p", pairwise_summary.BLIND, class_="soft") if rule_judge else NONE
    return html.join(el("h3", "Order"), table([*head, "stable when repeated", "remark"], rows), remark)


def _win_row(name: str, part: Metrics) -> list[Any]:
    """One row of the table of win rates; a withheld pair shows no rate."""
    win = part.get("win") or {}
    controlled = part.get("controlled") or {}
    longer = part.get("longer") or {}
    win_rate, longer_rate, controlled_rate = html.text("withheld"), html.text("–"), html.text("–")
    if not part.get("withheld"):
        win_rate = estimate(win)
        if longer.get("low") is not None:
            longer_rate = estimate(longer)
        if controlled.get("rate") is not None:
            controlled_rate = span(controlled["rate"], controlled.get("low"), controlled.get("high"), True)
    rates = [win_rate, longer_rate, controlled_rate, controlled.get("state") or "–"]
    return [name, figure(win.get("n")), figure(win.get("clusters")), *rates]


def win_rates(now: Snapshot) -> Markup:
    """Win rates of pairs, why one is withheld, and the effect of length on them."""
    pairs: Metrics = now.metric("compare", "preferences", "pairs") or {}
    rows = [_win_row(name, part) for name, part in pairs.items()]
    lines = []
    for name, part in pairs.items():
        # A withheld pair has the same sentence twice.
        sentences = dict.fromkeys([part.get("sentence"), part.get("length_sentence")])
        lines += [f"{name}: {line}" for line in sentences if line]
    for name, part in (now.metric("compare", "preferences", "controls") or {}).items():
        lines += [f"{name}: {part['sentence']}"] if part.get("sentence") else []
    if not rows:
        return NONE
    head = ["pair", "n", "items", "win rate", "longer text wins", "at equal length", "length control"]
    remarks = el("ul", *(el("li", line) for line in lines)) if lines else NONE
    return html.join(el("h3", "Pairs"), table(head, rows), remarks)


def matrix(now: Snapshot) -> Markup:
    """Win rates of each system over each other one: of the row's system over the column's."""
    rates: Metrics = now.metric("compare", "preferences", "matrix") or {}
    names = sorted(
        rates.keys() | {other for row in rates.values() for other in row},
        key=lambda name: (SYSTEMS.index(name) if name in SYSTEMS else len(SYSTEMS), name),
    )
    pairs: Metrics = now.metric("compare", "preferences", "pairs") or {}
    withheld = {frozenset(pair.split(":")) for pair, part in pairs.items() if part.get("withheld")}
    rows = [
        [
            name,
            *("withheld" if {name, other} in withheld else estimate(rates.get(name, {}).get(other)) for other in names),
        ]
        for name in names
    ]
    return html.join(el("h3", "Win rate of row over column"), table(["", *names], rows)) if rows else NONE


def card(now: Snapshot) -> Markup:
    """Detection rates of injected defects, false positives on clean texts, and blind spots of the judge."""
    metrics: Metrics = now.metric("card") or {}
    if not metrics.get("defects"):
        return html.join(el("h3", "Judge card"), el("p", metrics.get("reason") or headline.NO_CARD))
    rows = [
        [
            f"{name} (words held out)" if part.get("held_out") else name,
            figure((part.get("lower") or {}).get("n")),
            *(estimate(part.get(key)) for key in ("lower", "flagged", "higher")),
        ]
        for name, part in metrics["defects"].items()
    ]
    warning = NONE if headline.has_card(now) else el("p", "This card belongs to another judge.", class_="mark bad")
    lines = [*(metrics.get("family") or []), *(metrics.get("blind_to") or [])]
    lines += [f"left out: {name} ({why})" for name, why in (metrics.get("left_out") or {}).items()]
    return html.join(
        el("h3", "Judge card"),
        warning,
        table(["injected defect", "n", "below clean text", "flagged", "above clean text"], rows),
        *(el("p", line) for line in _clean_texts(metrics)),
        el("p", "Not detected, or not tested:") if lines else NONE,
        el("ul", *(el("li", line) for line in lines)) if lines else NONE,
    )


def _clean_texts(metrics: Metrics) -> list[str]:
    """False positives on clean texts, and the effect of length alone on the score."""
    lines = []
    if clear := (metrics.get("sound") or {}).get("unflagged"):
        lines.append(f"{estimate_text(clear)} of {figure(clear.get('n'))} clean texts are not flagged.")
    if over := metrics.get("over_rejected"):
        rate = f"{estimate_text(over)} of {figure(over.get('n'))} pairs"
        lines.append(f"The golden text beats its degraded version in {rate} (ties count half).")
    if slope := metrics.get("length"):
        size = estimate_text({**slope, "mean": slope.get("slope")}, False)
        n = figure(slope.get("n"))
        why = f" ({slope['reason']})" if slope.get("reason") else ""
        lines.append(f"Score change for each doubling of the length, in points, over {n} clean texts: {size}{why}.")
    return lines

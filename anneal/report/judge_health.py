"""How far the judge can be trusted: order, repeats, controls, its card, and how many judges were tried.

Each part is a function of metrics. Where its stage has not run it is empty; the section then says what is missing.
"""

from __future__ import annotations

import json
from typing import Any

from markupsafe import Markup

from anneal import html
from anneal.history import revision
from anneal.history.revision import Snapshot
from anneal.html import NONE, el, table
from anneal.report import headline, human_votes
from anneal.report.formatting import p_text, estimate, figure, signed, span, estimate_text
from anneal.stats import pairwise_summary
from anneal.systems import SYSTEMS

GOLDEN = "judge/golden"
CONTROLS = """null: a text that says nothing. other: the golden text of another item. truncated: the golden text cut \
off. again: the golden text once more, which must score as itself."""
Found = dict[str, Any]


def tried(now: Snapshot, metric: str = GOLDEN) -> int:
    """How many judges scored golden, here and in the last commits of any branch: sets of rubrics, settings, model."""
    texts = revision.history(f"{revision.METRICS}/{metric}.json")
    found = {json.dumps(now.metric(metric, "judge_ids"), sort_keys=True)}
    for text in texts:
        try:
            found.add(json.dumps(json.loads(text).get("judge_ids"), sort_keys=True))
        except (ValueError, AttributeError):
            continue
    return len(found - {"null"})


def section(now: Snapshot, _old: Snapshot) -> Markup:
    """Everything that is known of the judge; empty before it has judged."""
    if not now.metric(GOLDEN) and not now.metric("card"):
        return NONE
    n = tried(now)
    line = f"Judges tried: {n}. One is a set of rubrics, settings and a model that scored golden, here or in the last "
    line += f"{revision.COMMITS} commits of any branch that changed its metrics."
    pairs = tried(now, "prefer")
    parts = [human_votes.caution(now), el("p", line) if n else NONE]
    parts += [el("p", f"Judges of pairs tried: {pairs}.")] if pairs else []
    parts += [repeats(now), controls(now), orders(now), wins(now), matrix(now), card(now)]
    return html.join(*parts)


def repeats(now: Snapshot) -> Markup:
    """The same text judged several times: how often alike, and how far apart."""
    found = {name: now.metric("compare", "repeats", name) for name in SYSTEMS} | {"card": now.metric("card", "repeats")}
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
        for name, part in found.items()
        if part
    ]
    head = ["", "texts", "judgements of each", "all alike", "deviation of one", "alpha", "remark"]
    return html.join(el("h3", "Repeats"), table(head, rows)) if rows else NONE


def controls(now: Snapshot) -> Markup:
    """Texts whose place is known, beside the golden texts of their records."""
    found: Found = now.metric("compare", "judge_controls") or {}
    rows = []
    for name, part in found.items():
        low, high = part.get("at_golden_interval") or (None, None)
        level = span(part.get("at_golden"), low, high, True)
        cells = [estimate(part, False), figure(part.get("golden")), level, part.get("reason") or ""]
        rows.append([name, figure(part.get("n")), *cells])
    if not rows:
        return NONE
    head = ["control", "n", "score", "its golden", "at least as its golden", "remark"]
    return html.join(el("h3", "Controls"), table(head, rows), el("p", CONTROLS, class_="soft"))


def _order(name: str, part: Found, again: Found) -> list[Any]:
    rate = span(part.get("consistency"), part.get("low"), part.get("high"), True)
    flips = f"{figure(part.get('flips_first'))} / {figure(part.get('flips_second'))}"
    bias = f"{signed(part.get('bias'))}, {p_text(part.get('p'))}" if part.get("bias") is not None else "–"
    cells = [figure(part.get("first_share"), True), figure(part.get("ties")), figure(again.get("stability"), True)]
    reason = part.get("reason") or ""
    return [name, figure(part.get("n")), rate, flips, bias, *cells, "" if reason == pairwise_summary.BLIND else reason]


def orders(now: Snapshot) -> Markup:
    """Both orders of each pair: a judge that changes its mind with the order reads the place, not the text."""
    pairs: Found = {
        **(now.metric("compare", "preferences", "pairs") or {}),
        **(now.metric("compare", "preferences", "controls") or {}),
    }
    rows = [_order(name, part.get("orders") or {}, part.get("repeats") or {}) for name, part in pairs.items()]
    if not rows:
        return NONE
    head = ["pair", "n", "the same in both orders", "flips to first / second", "bias of flips", "first wins", "ties"]
    told = any((part.get("orders") or {}).get("reason") == pairwise_summary.BLIND for part in pairs.values())
    made = table([*head, "stable when repeated", "remark"], rows)
    return html.join(el("h3", "Order"), made, el("p", pairwise_summary.BLIND, class_="soft") if told else NONE)


def wins(now: Snapshot) -> Markup:
    """Win rates of pairs, why one is withheld, and what length has to do with it."""
    pairs: Found = now.metric("compare", "preferences", "pairs") or {}
    rows, lines = [], []
    for name, part in pairs.items():
        win, even = part.get("win") or {}, part.get("controlled") or {}
        shown = html.text("withheld") if part.get("withheld") else estimate(win)
        low, high = even.get("low"), even.get("high")
        less = "–" if even.get("rate") is None or part.get("withheld") else span(even.get("rate"), low, high, True)
        longer = part.get("longer") or {}
        level = estimate(longer) if longer.get("low") is not None and not part.get("withheld") else html.text("–")
        lengths = [level, less, even.get("state") or "–"]
        rows.append([name, figure(win.get("n")), figure(win.get("clusters")), shown, *lengths])
        told_of = dict.fromkeys([part.get("sentence"), part.get("length_sentence")])
        lines += [f"{name}: {line}" for line in told_of if line]
    for name, part in (now.metric("compare", "preferences", "controls") or {}).items():
        lines += [f"{name}: {part['sentence']}"] if part.get("sentence") else []
    if not rows:
        return NONE
    head = ["pair", "n", "items", "win rate", "longer wins", "at equal length", "length is"]
    said = el("ul", *(el("li", line) for line in lines)) if lines else NONE
    return html.join(el("h3", "Pairs"), table(head, rows), said)


def matrix(now: Snapshot) -> Markup:
    """Who wins against whom: a row's system over a column's."""
    found: Found = now.metric("compare", "preferences", "matrix") or {}
    names = sorted(
        found.keys() | {other for row in found.values() for other in row},
        key=lambda name: (SYSTEMS.index(name) if name in SYSTEMS else len(SYSTEMS), name),
    )
    pairs: Found = now.metric("compare", "preferences", "pairs") or {}
    out = {frozenset(pair.split(":")) for pair, part in pairs.items() if part.get("withheld")}
    rows = [
        [name, *("withheld" if {name, other} in out else estimate(found.get(name, {}).get(other)) for other in names)]
        for name in names
    ]
    return html.join(el("h3", "Win rate of a row over a column"), table(["", *names], rows)) if rows else NONE


def card(now: Snapshot) -> Markup:
    """What the judge found of planted defects, and what it cannot see."""
    found: Found = now.metric("card") or {}
    if not found.get("defects"):
        why = headline.NO_CARD
        return html.join(el("h3", "Judge card"), el("p", found.get("reason") or why))
    rows = [
        [
            f"{name} (words held out)" if part.get("held_out") else name,
            figure((part.get("lower") or {}).get("n")),
            *(estimate(part.get(key)) for key in ("lower", "flagged", "higher")),
        ]
        for name, part in found["defects"].items()
    ]
    other = NONE if headline.has_card(now) else el("p", "This card is of another judge.", class_="mark bad")
    lines = [*(found.get("family") or []), *(found.get("blind_to") or [])]
    lines += [f"left out: {name} ({why})" for name, why in (found.get("left_out") or {}).items()]
    return html.join(
        el("h3", "Judge card"),
        other,
        table(["planted defect", "n", "below its sound text", "flagged", "above it"], rows),
        *(el("p", line) for line in _sound(found)),
        el("p", "What it does not see, or was not asked:") if lines else NONE,
        el("ul", *(el("li", line) for line in lines)) if lines else NONE,
    )


def _sound(found: Found) -> list[str]:
    """What good texts pay, and what length alone is worth."""
    lines = []
    if clear := (found.get("sound") or {}).get("unflagged"):
        lines.append(f"{estimate_text(clear)} of {figure(clear.get('n'))} sound texts are not flagged.")
    if over := found.get("over_rejected"):
        n = figure(over.get("n"))
        lines.append(
            f"The golden text beats the worse one made for it in {estimate_text(over)} of {n} pairs, ties as halves."
        )
    if slope := found.get("length"):
        size, n = estimate_text({**slope, "mean": slope.get("slope")}, False), figure(slope.get("n"))
        why = f" ({slope['reason']})" if slope.get("reason") else ""
        lines.append(f"Points for each doubling of the length among {n} sound texts: {size}{why}.")
    return lines

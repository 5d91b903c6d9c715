"""The report's section about human votes: win rates, agreement, and texts on which the judge differs."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from markupsafe import Markup

from anneal import html
from anneal.history.revision import Snapshot
from anneal.html import el, fold, table
from anneal.records import Metrics
from anneal.report.formatting import figure, span
from anneal.systems import SYSTEMS

KINDS = {"pairs": "Pairs of texts", "label": "Scores of single texts"}


def uncalibrated(now: Snapshot) -> str:
    """Why the judge is not calibrated against people; "" where one of the two kinds of votes calibrates it."""
    judges = [now.metric("human", kind, "judge") for kind in KINDS]
    reasons = [judge.get("uncalibrated", "") for judge in judges if judge]
    if not reasons:
        return "no votes of people (make blind, make label)"
    return "" if "" in reasons else reasons[0]


def caution(now: Snapshot) -> Markup:
    """The warning above every table of scores of an uncalibrated judge."""
    why = uncalibrated(now)
    return el("p", f"UNCALIBRATED: {why}", class_="mark bad") if why else Markup("")


def section(now: Snapshot, _old: Snapshot) -> Markup:
    """Votes on pairs, then on single texts; empty without votes."""
    parts = {kind: now.metric("human", kind) for kind in KINDS}
    return html.join(*(_votes(kind, metrics) for kind, metrics in parts.items() if metrics))


def _votes(kind: str, metrics: Metrics) -> Markup:
    counts = f"{metrics['votes']} votes of {metrics['raters']} raters, {metrics['skipped']} skipped"
    question = f"; question: {metrics['question']}" if metrics["question"] else ""
    return html.join(
        el("h3", f"{KINDS[kind]}: {counts}", question),
        _win_rates(metrics),
        _scores(metrics),
        _agreement(metrics),
        _disagreements(metrics),
    )


def _share(row: dict[str, Any], name: str = "mean") -> Markup:
    return span(row[name], row["low"], row["high"], True)


def _win_rates(metrics: Metrics) -> Markup:
    """Win rates by pair of systems, with a sign test over items; empty for votes on single texts."""
    if "pairs" not in metrics:
        return Markup("")
    rows = []
    for pair, part in metrics["pairs"].items():
        calls = part["calls"]
        first, second = pair.split(":")
        counts = f"{calls['first']} / {calls['tie']} / {calls['second']}"
        test = f"{part['sign']['wins']} to {part['sign']['losses']}, p = {figure(part['sign']['p'])}"
        rows.append(
            [f"{first} over {second}", part["win"]["n"], part["win"]["clusters"], _share(part["win"]), counts, test]
        )
    head = ["", "votes", "items", "win rate, ties count half", "first / equal / second", "sign test over items"]
    return table(head, rows)


def _scores(metrics: Metrics) -> Markup:
    """Mean scores by system, and agreement of people and judge by dimension; empty for votes on pairs."""
    if "systems" not in metrics:
        return Markup("")
    rows = [
        [s, part["n"], span(part["mean"], part["low"], part["high"])]
        for s in SYSTEMS
        if (part := metrics["systems"].get(s))
    ]
    dims = [
        [dim, part["n"], figure(part["people"]), figure(part["judge"]), span(part["kappa"], part["low"], part["high"])]
        for dim, part in metrics["dims"].items()
    ]
    head = ["", "n", "people", "judge", "quadratic kappa"]
    return html.join(table(["", "n", "mean score"], rows), table(head, dims))


def _agreement(metrics: Metrics) -> Markup:
    """Agreement of judge and people, of repeated votes, and between raters; signs of careless votes."""
    again, others, judge = metrics["within"], metrics["between"], metrics["judge"]
    kappa = span(judge["kappa"], judge["low"], judge["high"])
    rows = [
        ["judge and people", judge["n"], figure(judge["agreement"], True), kappa],
        ["same rater, repeated vote", again["n"], figure(again["agreement"], True), figure(again["kappa"])],
    ]
    for pair, part in others["pairs"].items():
        rows.append(
            [f"raters {pair.replace(':', ' and ')}", part["n"], figure(part["agreement"], True), figure(part["kappa"])]
        )
    lines = [
        f"alpha of all raters {figure(others['alpha'])}; mean agreement of two raters, the ceiling for a judge: "
        f"{figure(others['ceiling'], True)}"
    ]
    if "sides" in metrics:
        side, same = metrics["sides"], metrics["identical"]
        lines.append(f"left side chosen {figure(side['share'], True)} of {side['n']}, p = {figure(side['p'])}")
        lines.append(f"identical pairs rated equal: {same['tie']} of {same['n']}")
    lines.append(f"votes in under a second: {metrics['fast']}")
    why = judge["uncalibrated"]
    note = el("p", f"UNCALIBRATED: {why}", class_="mark bad") if why else Markup("")
    return html.join(
        table(["", "n", "agreement", "kappa" if "pairs" in metrics else "quadratic kappa"], rows),
        note,
        el("p", "; ".join(lines), class_="soft"),
    )


def _disagreements(metrics: Metrics) -> Markup:
    """Disagreements of people and judge, each with a link to its texts in the browser of this page."""
    rows = []
    for row in metrics["disagreements"]:
        link = el("a", row["record"], href=f"#{quote(row['record'], safe='/')}")
        if "pair" in row:
            first, second = row["pair"].split(":")
            names = {1.0: first, 0.5: "equal", 0.0: second}
            lean = "equal" if row["people"] == 0.5 else first if row["people"] > 0.5 else second
            scores = " to ".join(figure(score) for score in row["scores"])
            rows.append([link, f"{first} or {second}", f"{lean} ({row['votes']})", f"{names[row['judge']]} ({scores})"])
        else:
            rows.append([link, f"{row['system']}, {row['dim']}", figure(row["people"]), figure(row["judge"])])
    head = ["record", "", *(("people (votes)", "judge (scores)") if "pairs" in metrics else ("a rater", "judge"))]
    if not rows:
        return Markup("")
    return fold(f"{len(rows)} disagreements with the judge", table(head, rows, class_="words"))

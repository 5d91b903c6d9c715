"""What people said, for the report: win rates, how far to trust them, and the texts on which the judge differs."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from markupsafe import Markup

from anneal import html
from anneal.history.revision import Snapshot
from anneal.html import el, fold, table
from anneal.report.formatting import figure, span
from anneal.systems import SYSTEMS

LABELLED = {"pairs": "Pairs of texts", "label": "Scores of single texts"}


def uncalibrated(now: Snapshot) -> str:
    """Why the judge's numbers are not calibrated with people; empty where one of the two sheets says they are."""
    sheets = [now.metric("human", kind, "judge") for kind in LABELLED]
    why = [found.get("uncalibrated", "") for found in sheets if found]
    return "" if "" in why else why[0] if why else "no votes of people (make blind, make label)"


def caution(now: Snapshot) -> Markup:
    """What stands at every table of a judge whose scores nobody has held against people's."""
    why = uncalibrated(now)
    return el("p", f"UNCALIBRATED: {why}", class_="mark bad") if why else Markup("")


def section(now: Snapshot, _old: Snapshot) -> Markup:
    """Both sheets, as far as their votes were counted."""
    return html.join(*(_sheet(kind, found) for kind in LABELLED if (found := now.metric("human", kind))))


def _sheet(kind: str, found: dict[str, Any]) -> Markup:
    told = f"{LABELLED[kind]}: {found['votes']} votes of {found['raters']} raters, {found['skipped']} skipped"
    asked = f"; asked: {found['question']}" if found["question"] else ""
    return html.join(el("h3", told, asked), _wins(found), _systems(found), _trust(found), _apart(found))


def _share(row: dict[str, Any], name: str = "mean") -> Markup:
    return span(row[name], row["low"], row["high"], True)


def _wins(found: dict[str, Any]) -> Markup:
    if "pairs" not in found:
        return Markup("")
    rows = []
    for pair, part in found["pairs"].items():
        calls, (first, second) = part["calls"], pair.split(":")
        counts = f"{calls['first']} / {calls['tie']} / {calls['second']}"
        test = f"{part['sign']['wins']} to {part['sign']['losses']}, p = {figure(part['sign']['p'])}"
        rows.append(
            [f"{first} over {second}", part["win"]["n"], part["win"]["clusters"], _share(part["win"]), counts, test]
        )
    head = ["", "votes", "items", "win rate, ties as halves", "first / equal / second", "sign test over items"]
    return table(head, rows)


def _systems(found: dict[str, Any]) -> Markup:
    if "systems" not in found:
        return Markup("")
    rows = [
        [s, part["n"], span(part["mean"], part["low"], part["high"])]
        for s in SYSTEMS
        if (part := found["systems"].get(s))
    ]
    dims = [
        [dim, part["n"], figure(part["people"]), figure(part["judge"]), span(part["kappa"], part["low"], part["high"])]
        for dim, part in found["dims"].items()
    ]
    head = ["", "n", "people", "judge", "quadratic kappa"]
    return html.join(table(["", "n", "mean score"], rows), table(head, dims))


def _trust(found: dict[str, Any]) -> Markup:
    again, others, judge = found["within"], found["between"], found["judge"]
    kappa = span(judge["kappa"], judge["low"], judge["high"])
    rows = [
        ["judge and people", judge["n"], figure(judge["agreement"], True), kappa],
        ["the same rater twice", again["n"], figure(again["agreement"], True), figure(again["kappa"])],
    ]
    for pair, part in others["pairs"].items():
        rows.append(
            [f"raters {pair.replace(':', ' and ')}", part["n"], figure(part["agreement"], True), figure(part["kappa"])]
        )
    lines = [
        f"alpha of all raters {figure(others['alpha'])}; the ceiling for a judge: {figure(others['ceiling'], True)}"
    ]
    if "sides" in found:
        side, same = found["sides"], found["identical"]
        lines.append(f"left side taken {figure(side['share'], True)} of {side['n']}, p = {figure(side['p'])}")
        lines.append(f"identical pairs called equal: {same['tie']} of {same['n']}")
    lines.append(f"votes in under a second: {found['fast']}")
    why = judge["uncalibrated"]
    note = el("p", f"UNCALIBRATED: {why}", class_="mark bad") if why else Markup("")
    return html.join(
        table(["", "n", "agreement", "kappa" if "pairs" in found else "quadratic kappa"], rows),
        note,
        el("p", "; ".join(lines), class_="soft"),
    )


def _apart(found: dict[str, Any]) -> Markup:
    """Where people and the judge differ, each with a link to its texts in the browser of this page."""
    rows = []
    for row in found["disagreements"]:
        link = el("a", row["record"], href=f"#{quote(row['record'], safe='/')}")
        if "pair" in row:
            first, second = row["pair"].split(":")
            names = {1.0: first, 0.5: "equal", 0.0: second}
            lean = "equal" if row["people"] == 0.5 else first if row["people"] > 0.5 else second
            scores = " to ".join(figure(score) for score in row["scores"])
            rows.append([link, f"{first} or {second}", f"{lean} ({row['votes']})", f"{names[row['judge']]} ({scores})"])
        else:
            rows.append([link, f"{row['system']}, {row['dim']}", figure(row["people"]), figure(row["judge"])])
    head = ["record", "", *(("people (votes)", "judge (scores)") if "pairs" in found else ("a rater", "judge"))]
    made = table(head, rows, class_="words")
    return fold(f"{len(rows)} disagreements with the judge", made) if rows else Markup("")

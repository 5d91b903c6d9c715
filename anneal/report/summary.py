"""The report in a comment: verdict, banner, the table, the first changes, in no more lines than a reader takes in."""

from __future__ import annotations

from typing import Any

from anneal.history import revision
from anneal.history.revision import Snapshot
from anneal.report import alerts, changes, headline, regressions, scores
from anneal.report.formatting import figure, signed

LINES = 60
ALERTS, TYPES, PARAMS, NUMBERS = 10, 10, 5, 5  # of each part; the page has them all


def cell(value: Any) -> str:
    """Text inside Markdown: nothing in it opens a column, a tag or a line."""
    return str(value).replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")


def grid(head: list[str], rows: list[list[Any]]) -> list[str]:
    return ["", *(f"| {' | '.join(map(cell, row))} |" for row in [head, ["---"] * len(head), *rows]), ""]


def headings(now: Snapshot) -> dict[str, str]:
    """Headings of the short table, and the shares of compare.json under them."""
    return {key.replace("_", " "): key for key in now.metric("compare", "shares") or []}


def systems(now: Snapshot) -> list[str]:
    """All texts of each system: what was scored, and which share passes what a program checks."""
    overall, shares = now.metric("compare", "overall") or {}, headings(now)
    rows = [
        [
            name,
            figure(c.get("n")),
            f"{figure(c.get('score'))} ({figure(c.get('n_scored'))} scored)",
            *(figure(c.get(key), True) for key in shares.values()),
        ]
        for name, c in ((name, overall[name]) for name in now.systems if name in overall)
    ]
    return grid(["", "n", now.metric("compare", "score_kind") or "score", *shares], rows) if rows else []


def sized(found: dict[str, Any] | None) -> str:
    """A difference with its interval, or the word for none."""
    if not found or found.get("mean") is None:
        return "another judge" if ((found or {}).get("left_out") or {}).get("other_judge") else "–"
    if found.get("low") is None or found.get("high") is None:
        return signed(found["mean"])
    return f"{signed(found['mean'])} [{signed(found['low'])}, {signed(found['high'])}]"


def kinds(now: Snapshot, old: Snapshot) -> list[str]:
    """Each content type: the means, their paired differences, what is shipped here less that at the revision."""
    blocks = now.metric("compare", "by_type") or {}
    before = {} if old.note else regressions.changes(now, old)
    order = scores.ordered(now, list(blocks))
    gaps = {key: " − ".join(pair) for key, pair in headline.GAPS.items() if {*pair} <= {*now.systems}}
    rows = [
        [
            (now.params.get("types") or {}).get(kind, kind),
            *(figure((blocks[kind].get(s) or {}).get("score")) for s in now.systems),
            *(sized(blocks[kind].get(key)) for key in gaps),
            sized(before.get(kind)),
        ]
        for kind in order[:TYPES]
    ]
    head = ["type", *now.systems, *gaps.values(), regressions.versus(now, old)]
    return [*(grid(head, rows) if rows else []), *more(len(order) - TYPES, "types")]


def more(n: int, what: str) -> list[str]:
    return [f"and {n} more {what}, see reports/index.html", ""] if n > 0 else []


def first_changes(now: Snapshot, old: Snapshot) -> list[str]:
    if old.note:
        return []
    params = [[key, figure(a), figure(b)] for key, a, b in revision.changes(old.params, now.params)]
    lines = ["Params:", *grid(["key", old.name, "here"], params[:PARAMS])] if params else ["Params: the same.", ""]
    prompts = list(revision.prompt_diff(old, now))
    if prompts:
        lines += [f"Prompts: {', '.join(map(cell, prompts[:PARAMS]))}.", "", *more(len(prompts) - PARAMS, "prompts")]
    found = [row for row in changes.numbers(now, old) if changes.headline(row[0])]
    head = ["key", old.name, "here", "change"]
    lines += more(len(params) - PARAMS, "params")
    return lines + (["Metrics:", *grid(head, found[:NUMBERS])] if found else ["Metrics: the same."])


def summary(now: Snapshot, old: Snapshot) -> str:
    """Markdown of at most LINES lines."""
    shown = alerts.alerts(now, old)
    # What an aligned model adds, two headlines and a row, comes out of the banner.
    most = ALERTS - (5 if "aligned" in now.systems else 0)
    lines = [line for said in headline.lines(now) for line in (f"**{cell(said)}**", "")]
    lines.append(cell(old.note or f"Compared with {old.name}."))
    told = [f"- {'**Attention**: ' if kind == 'bad' else ''}{cell(line)}" for kind, line in shown[:most]]
    lines += ["", *told, *more(len(shown) - most, "lines")]
    lines += [*systems(now), *kinds(now, old), *first_changes(now, old)]
    tidy = [line for i, line in enumerate(lines) if line or (i and lines[i - 1])]
    return "\n".join(tidy).rstrip() + "\n"

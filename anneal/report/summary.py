"""The report as a short Markdown comment: headline, alerts, scores, first changes."""

from __future__ import annotations

from typing import Any

from anneal.history import revision
from anneal.history.revision import Snapshot
from anneal.records import Metrics
from anneal.report import alerts, changes, headline, regressions, scores
from anneal.report.formatting import figure, signed

LINES = 60  # of the whole comment
# Lines of each part; the page has them all.
ALERTS, TYPES, PARAMS, NUMBERS = 10, 10, 5, 5


def cell(value: Any) -> str:
    """Text escaped for Markdown: it opens no column, tag or line."""
    return str(value).replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")


def grid(head: list[str], rows: list[list[Any]]) -> list[str]:
    """A Markdown table, as lines."""
    return ["", *(f"| {' | '.join(map(cell, row))} |" for row in [head, ["---"] * len(head), *rows]), ""]


def headings(now: Snapshot) -> dict[str, str]:
    """heading -> key of compare.json, of the shares in the short table."""
    return {key.replace("_", " "): key for key in now.metric("compare", "shares") or []}


def systems(now: Snapshot) -> list[str]:
    """One row per system over all texts: n, mean score, and the shares that pass the programmed checks."""
    overall = now.metric("compare", "overall") or {}
    shares = headings(now)
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


def difference_text(difference: Metrics | None) -> str:
    """A difference with its interval, or the reason for its absence."""
    if not difference or difference.get("mean") is None:
        return "another judge" if ((difference or {}).get("left_out") or {}).get("other_judge") else "–"
    if difference.get("low") is None or difference.get("high") is None:
        return signed(difference["mean"])
    return f"{signed(difference['mean'])} [{signed(difference['low'])}, {signed(difference['high'])}]"


def kinds(now: Snapshot, old: Snapshot) -> list[str]:
    """One row per content type: means, paired differences, and the shipped score here minus that at the revision."""
    blocks = now.metric("compare", "by_type") or {}
    before = {} if old.note else regressions.changes(now, old)
    order = scores.ordered(now, list(blocks))
    gaps = {key: " − ".join(pair) for key, pair in headline.GAPS.items() if {*pair} <= {*now.systems}}
    rows = [
        [
            (now.params.get("types") or {}).get(kind, kind),
            *(figure((blocks[kind].get(s) or {}).get("score")) for s in now.systems),
            *(difference_text(blocks[kind].get(key)) for key in gaps),
            difference_text(before.get(kind)),
        ]
        for kind in order[:TYPES]
    ]
    head = ["type", *now.systems, *gaps.values(), regressions.versus(now, old)]
    return [*(grid(head, rows) if rows else []), *more(len(order) - TYPES, "types")]


def more(n: int, what: str) -> list[str]:
    """The line about `n` left-out entries; none for 0."""
    return [f"and {n} more {what}, see reports/index.html", ""] if n > 0 else []


def first_changes(now: Snapshot, old: Snapshot) -> list[str]:
    """The first changed params, prompts and headline metrics."""
    if old.note:
        return []
    params = [[key, figure(a), figure(b)] for key, a, b in revision.changes(old.params, now.params)]
    lines = ["Params:", *grid(["key", old.name, "here"], params[:PARAMS])] if params else ["Params: unchanged.", ""]
    prompts = list(revision.prompt_diff(old, now))
    if prompts:
        lines += [f"Prompts: {', '.join(map(cell, prompts[:PARAMS]))}.", "", *more(len(prompts) - PARAMS, "prompts")]
    metric_rows = [row for row in changes.numbers(now, old) if changes.headline(row[0])]
    head = ["key", old.name, "here", "change"]
    lines += more(len(params) - PARAMS, "params")
    return lines + (["Metrics:", *grid(head, metric_rows[:NUMBERS])] if metric_rows else ["Metrics: unchanged."])


def summary(now: Snapshot, old: Snapshot) -> str:
    """Markdown of at most LINES lines."""
    raised = alerts.alerts(now, old)
    # An aligned model adds two headlines and a row; five alerts make room for them.
    most = ALERTS - (5 if "aligned" in now.systems else 0)
    lines = [line for sentence in headline.lines(now) for line in (f"**{cell(sentence)}**", "")]
    lines.append(cell(old.note or f"Compared with {old.name}."))
    warnings = [f"- {'**Attention**: ' if kind == 'bad' else ''}{cell(line)}" for kind, line in raised[:most]]
    lines += ["", *warnings, *more(len(raised) - most, "lines")]
    lines += [*systems(now), *kinds(now, old), *first_changes(now, old)]
    # One empty line at most between two parts.
    tidy = [line for i, line in enumerate(lines) if line or (i and lines[i - 1])]
    return "\n".join(tidy).rstrip() + "\n"

"""The report's sections about training, merging and the origin of the result."""

from __future__ import annotations

from markupsafe import Markup

from anneal import html
from anneal.history import revision
from anneal.history.revision import Snapshot
from anneal.html import NONE, el, fold, table
from anneal.report import artifacts, charts
from anneal.report.formatting import figure, listing


def training(now: Snapshot, _old: Snapshot) -> Markup:
    """Loss over steps, with its table; what the answers during training passed."""
    found, columns = now.metric("train"), artifacts.columns("reports/plots/train.tsv")
    if not found and not columns:
        return NONE
    losses = {name: points for name, points in columns.items() if name.endswith("loss") and points}
    steps = sorted({x for points in losses.values() for x, _ in points})
    rows = [[figure(int(x)), *(figure(dict(points).get(x)) for points in losses.values())] for x in steps]
    chart = charts.lines("Loss by training step", losses)
    twin = fold("as a table", table(["step", *losses], rows))
    return html.join(chart, twin, samples(), listing(found) if found else "")


def samples() -> Markup:
    """Checks of the answers to validation prompts at each validation: a small chart for each, and all as a table."""
    columns = artifacts.columns("reports/plots/samples.tsv")
    counts = dict(columns.pop("n", []))
    if not counts:
        return NONE
    drawn = (charts.lines(f"{n} by training step", {n: p}, 130, 260, share=True) for n, p in columns.items())
    small = [el("div", chart) for chart in drawn]
    rows = [
        [figure(int(step)), figure(int(n)), *(figure(dict(points).get(step), True) for points in columns.values())]
        for step, n in counts.items()
    ]
    most = figure(int(max(counts.values())))
    words = f"Share of the greedy answers to {most} validation prompts that pass, at each validation:"
    twin = fold("as a table", table(["step", "n", *columns], rows))
    return html.join(el("p", words), el("div", *small, class_="small"), twin)


def merge(now: Snapshot, _old: Snapshot) -> Markup:
    """The proof that the merged model says what the adapter on the base says."""
    found = now.metric("merge")
    if not found:
        return NONE
    rows, most, limit = (figure(found.get(key)) for key in ("prompts", "largest_difference", "tolerance"))
    words = (
        f"On {rows} validation prompts the logits of the merged model and of the adapter on the base differ by at most "
        f"{most} (allowed: {limit}); {figure(found.get('greedy_match'), True)} of greedy tokens agree."
    )
    return html.join(el("p", words), fold("all of merge.json", listing(found)))


def provenance(now: Snapshot, _old: Snapshot) -> Markup:
    rows = [("commit", revision.head() or "–"), *artifacts.provenance(now.params).items()]
    ids = (now.metric("judge/tuned", "judge_ids") or {}).items()
    made = table(["", "value"], [*rows, *((f"judge of {name}", value) for name, value in ids)], class_="words")
    line = artifacts.outbound(now.params)[1]
    return html.join(el("p", f"Nothing may leave this machine (privacy.local_only); {line}."), made) if line else made

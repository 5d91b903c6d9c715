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
    """Loss by step, pass rates of sampled answers at each validation, and all of train.json."""
    metrics = now.metric("train")
    columns = artifacts.columns("reports/plots/train.tsv")
    if not metrics and not columns:
        return NONE
    losses = {name: points for name, points in columns.items() if name.endswith("loss") and points}
    steps = sorted({x for points in losses.values() for x, _ in points})
    rows = [[figure(int(x)), *(figure(dict(points).get(x)) for points in losses.values())] for x in steps]
    chart = charts.lines("Loss by training step", losses)
    twin = fold("as a table", table(["step", *losses], rows))
    return html.join(chart, twin, samples(), listing(metrics) if metrics else "")


def samples() -> Markup:
    """Pass rates of the answers to validation prompts at each validation: a chart per check, and a table."""
    columns = artifacts.columns("reports/plots/samples.tsv")
    counts = dict(columns.pop("n", []))
    if not counts:
        return NONE
    small = [
        el("div", charts.lines(f"{name} by training step", {name: points}, 130, 260, share=True))
        for name, points in columns.items()
    ]
    rows = [
        [figure(int(step)), figure(int(n)), *(figure(dict(points).get(step), True) for points in columns.values())]
        for step, n in counts.items()
    ]
    most = figure(int(max(counts.values())))
    words = f"Share of greedy answers to {most} validation prompts that pass each check, at each validation:"
    twin = fold("as a table", table(["step", "n", *columns], rows))
    return html.join(el("p", words), el("div", *small, class_="small"), twin)


def merge(now: Snapshot, _old: Snapshot) -> Markup:
    """The comparison of the merged model with the adapter on the base: logits and greedy tokens."""
    metrics = now.metric("merge")
    if not metrics:
        return NONE
    rows, most, limit = (figure(metrics.get(key)) for key in ("prompts", "largest_difference", "tolerance"))
    words = (
        f"On {rows} validation prompts the logits of the merged model and of the adapter on the base differ by at most "
        f"{most} (tolerance: {limit}); {figure(metrics.get('greedy_match'), True)} of greedy tokens agree."
    )
    return html.join(el("p", words), fold("all of merge.json", listing(metrics)))


def provenance(now: Snapshot, _old: Snapshot) -> Markup:
    """Commit, versions and identities behind the result, and the outbound connections of the stages."""
    rows = [("commit", revision.head() or "–"), *artifacts.provenance(now.params).items()]
    ids = (now.metric("judge/tuned", "judge_ids") or {}).items()
    values = table(["", "value"], [*rows, *((f"judge of {name}", value) for name, value in ids)], class_="words")
    line = artifacts.outbound(now.params)[1]
    return (
        html.join(el("p", f"No data may leave this machine (privacy.local_only); {line}."), values) if line else values
    )

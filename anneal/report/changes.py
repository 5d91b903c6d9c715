"""The report's section about changes against the compared revision: params, prompts, data, texts, metrics."""

from __future__ import annotations

from markupsafe import Markup

from anneal import html
from anneal.history import revision
from anneal.history.revision import Snapshot
from anneal.html import NONE, el, fold, table
from anneal.report import data_changes, regressions
from anneal.report.formatting import figure

FINE = ("se", "p", "p_holm", "detectable")  # keys of an estimate that the table leaves out, beside mean and interval
LIMIT = 150  # rows of changed metrics


def changed(now: Snapshot, old: Snapshot) -> Markup:
    """Changed params, prompts, data and texts, then every changed metric."""
    if old.note:
        return el("p", old.note)
    unchanged = el("p", "unchanged", class_="soft")
    params = [[key, figure(a), figure(b)] for key, a, b in revision.changes(old.params, now.params)]
    parts = [el("h3", "Params"), table(["key", old.name, "here"], params, class_="words") if params else unchanged]
    parts += [
        el("h3", "Prompts"),
        diffs(now, old) or unchanged,
        data_changes.section(now, old),
        regressions.section(now, old),
    ]
    return html.join(*parts, el("h3", "Metrics"), metrics(now, old) or unchanged)


def diffs(now: Snapshot, old: Snapshot) -> Markup:
    """Unified diffs of the prompts, one fold for each file."""
    classes = {"+": "plus", "-": "minus"}
    parts = []
    for path, diff in revision.prompt_diff(old, now).items():
        # The first two lines name the files.
        spans = [
            el("span", line or " ", class_=classes.get(line[:1]) if number > 1 else None)
            for number, line in enumerate(diff.splitlines())
        ]
        parts.append(fold(path, el("pre", *spans, class_="diff")))
    return html.join(*parts)


def metrics(now: Snapshot, old: Snapshot) -> Markup:
    """The headline metrics that changed, then the others in a fold."""
    first = [row for row in numbers(now, old) if headline(row[0])]
    rest = [row for row in numbers(now, old) if not headline(row[0])]
    head = ["key", old.name, "here", "change"]
    parts = [table(head, first)] if first else []
    if rest:
        more = el("p", f"and {len(rest) - LIMIT} more, see `dvc metrics diff`") if len(rest) > LIMIT else NONE
        parts.append(fold(f"{len(rest)} more", table(head, rest[:LIMIT]), more))
    return html.join(*parts)


def headline(key: str) -> bool:
    """Whether a metric is in the first table: an overall value, not one of a type, an interval end or a quantile."""
    return (
        key.startswith(("compare.overall.", "compare.difference.", "compare.aligned_difference."))
        or (key.split(".")[0] in ("accept", "filter", "format", "split", "train") and key.count(".") == 1)
        or key in ("accept.accepted.mean", "accept.first.mean")
    )


def numbers(now: Snapshot, old: Snapshot) -> list[list[str]]:
    """Changed numeric metrics as [key, old, new, change], those of the first table first."""
    judged = revision.rejudged(old, now)
    rows = []
    # A metrics file of one side only is new or gone; a list of its numbers adds nothing.
    shared = old.metrics.keys() & now.metrics.keys()
    sides = ({name: side.metrics[name] for name in shared} for side in (old, now))
    for key, before, after in revision.changes(*sides):
        if any(isinstance(value, list | str | dict) for value in (before, after)) or key.split(".")[-1] in FINE:
            continue
        if ".best." in key and now.systems != old.systems:
            continue  # counts of wins among different numbers of systems
        both = before is not None and after is not None and not isinstance(after, bool)
        change = f"{after - before:+.3g}" if both else ""
        if judged and ("score" in key or "difference." in key or ".best." in key):
            change = "another judge"
        rows.append([key, figure(before), figure(after), change])
    return sorted(rows, key=lambda row: (not headline(row[0]), row[0]))

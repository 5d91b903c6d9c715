"""The report's section about the filter: its effect on types, features and names, its threshold, texts near it.

Each part is a function of metrics and empty where a recipe has no such metrics.
"""

from __future__ import annotations

import math
from typing import Any

from markupsafe import Markup

from anneal import html
from anneal.history.revision import Snapshot
from anneal.html import NONE, el, fold, table
from anneal.records import Metrics
from anneal.report import artifacts, charts
from anneal.report.formatting import figure, listing
from anneal.report.scores import label, ordered

SHOWN = 40  # names of a category
LETTERS = 400  # characters of a text
QUANTILES = ("p5", "p50", "p95")


def types(now: Snapshot) -> Markup:
    """Records and mean length by content type, before the filter and after it."""
    blocks = now.metric("filter", "types") or {}
    rows = [
        [
            label(now, kind),
            figure(block.get("n")),
            figure(block.get("kept")),
            figure(block.get("retention"), True),
            figure(block.get("length")),
            figure(block.get("length_kept")),
            flag(block),
        ]
        for kind, block in ((kind, blocks[kind]) for kind in ordered(now, list(blocks)))
    ]
    return table(["type", "records", "kept", "share kept", "mean length", "mean length kept", ""], rows)


def flag(part: Metrics) -> Markup:
    """The mark of a type or name that loses an unusual share of its records."""
    return el("span", "high loss", class_="mark bad") if part.get("flagged") else NONE


def likelihoods(now: Snapshot) -> Markup:
    """The histogram of log-probabilities of kept and dropped texts, with the threshold."""
    columns = artifacts.columns("reports/plots/filter.tsv")
    points = columns.get("kept")
    if not points:
        return NONE
    edges = [x for x, _ in points]
    edges.append(edges[-1] + (edges[-1] - edges[0]) / max(len(edges) - 1, 1))
    counts = {name: [int(y) for _, y in column] for name, column in columns.items()}
    limit = figure(now.metric("filter", "density", "threshold"))
    rows = [[figure(x), *map(figure, row)] for x, *row in zip(edges, *counts.values(), strict=False)]
    return html.join(
        charts.histogram("Log-probability of kept and dropped texts", edges, counts),
        el("p", f"The density drops texts with a log-probability below {limit}.", class_="soft"),
        fold("as a table", table(["from", *counts], rows)),
    )


def features(now: Snapshot) -> Markup:
    """Quantiles of each feature before and after the filter, with the KS distance of the two distributions."""
    parts = {name: part for name, part in (now.metric("filter", "features") or {}).items() if "ks" in part}
    if not parts:
        return NONE
    logs = ((now.params.get("filter") or {}).get("density") or {}).get("log") or []

    def original_unit(name: str, value: Any) -> str:
        # Quantiles of log(1 + value) map back to quantiles of the value, as the logarithm keeps the order.
        return "–" if value is None else f"{math.expm1(value) if name in logs else value:.4g}"

    rows = [
        [
            name,
            *(f"{original_unit(name, part.get(q))} → {original_unit(name, part.get(f'{q}_kept'))}" for q in QUANTILES),
            figure(part["ks"]),
        ]
        for name, part in parts.items()
    ]
    words = "All records → kept records; KS: the largest difference of the two cumulative distributions."
    return html.join(table(["feature", *QUANTILES, "KS"], rows), el("p", words, class_="soft"))


def names(now: Snapshot) -> Markup:
    """The shares of the names of each categorical field before and after the density."""
    parts = []
    for path, field in (now.metric("filter", "density", "names") or {}).items():
        entries = sorted(field["names"].items(), key=lambda pair: (not pair[1].get("flagged"), -pair[1]["n"], pair[0]))
        rows = [
            [
                name,
                figure(part["n"]),
                figure(part["kept"]),
                figure(part.get("share"), True),
                figure(part.get("share_kept"), True),
                figure(part.get("retention"), True),
                flag(part),
            ]
            for name, part in entries[:SHOWN]
        ]
        head = ["name", "records", "kept", "share before", "share after", "retention", ""]
        more = el("p", f"and {len(entries) - SHOWN} more in filter.json") if len(entries) > SHOWN else NONE
        flags = sum(bool(part.get("flagged")) for _, part in entries)
        title = f"{path}: {len(entries)} names, total variation {figure(field['total_variation'], True)}"
        title += f", {flags} lose more than twice the average share" if flags else ""
        parts.append(fold(title, table(head, rows), more))
    words = "Names by field; total variation: the share of records whose name differs between the two distributions."
    return html.join(el("p", words, class_="soft"), *parts) if parts else NONE


def curve(now: Snapshot) -> Markup:
    """The shares that other percentiles would keep: of all records, and of the type with the lowest share."""
    metrics = now.metric("filter", "density") or {}
    if not metrics.get("curve"):
        return NONE
    total = metrics.get("n") or 1
    chosen = metrics.get("percentile")
    points = {float(name.lstrip("p")): part for name, part in metrics["curve"].items()}
    if chosen is not None:
        points.setdefault(chosen, {"threshold": metrics.get("threshold"), "kept": now.metric("filter", "kept")})
    kept, least, rows = [], [], []
    for at, part in sorted(points.items()):
        worst = next(iter((part.get("least") or {}).items()), ("", None))
        share = part["kept"] / total
        kept.append((at, share))
        least += [(at, worst[1])] if worst[1] is not None else []
        cells = [figure(part["threshold"]), figure(part["kept"]), figure(share, True)]
        cells.append(html.join(label(now, worst[0]), " ", figure(worst[1], True)))
        rows.append([f"{at:g}", *cells, "chosen" if at == chosen else ""])
    head = ["percentile", "threshold", "kept", "share kept", "lowest share of a type", ""]
    words = f"Records that the density keeps at the chosen and at other percentiles, of {figure(total)} valid records:"
    chart = charts.lines("Share kept by percentile", {"kept": kept, "least": least}, share=True)
    return html.join(el("p", words), table(head, rows), fold("as lines", chart))


def edge(now: Snapshot) -> Markup:
    """The texts nearest the threshold on either side, for a reader to confirm the cut."""
    parts = []
    for key, title in (("lowest_kept", "kept"), ("highest_dropped", "dropped")):
        if records := now.metric("filter", "density", key):
            texts = [str(row.get("text", "")) for row in records]
            shortened = [text if len(text) <= LETTERS else f"{text[:LETTERS]} …" for text in texts]
            rows = [[row["id"], figure(row["log_prob"]), text] for row, text in zip(records, shortened, strict=True)]
            body = table(["record", "log-probability", "text"], rows, class_="words")
            parts.append(fold(f"the {len(rows)} {title} texts nearest the threshold", body))
    return html.join(*parts)


def impact(now: Snapshot, _old: Snapshot) -> Markup:
    """The effect of the filter by type, feature and name, with its threshold and the texts near it."""
    metrics = now.metric("filter")
    if not metrics:
        return NONE
    density = {key: value for key, value in (metrics.get("density") or {}).items() if key != "names"}
    values = fold("all of filter.json except the names", listing({**metrics, "density": density}))
    parts = (types, likelihoods, curve, features, names, edge)
    return html.join(*(part(now) for part in parts), values)

"""The filter's part of the report: what it did to types, features and names, where it cuts, and what lies at the cut.

Each part is a function of metrics; the one that a recipe has no figures for is empty.
"""

from __future__ import annotations

import math
from typing import Any

from markupsafe import Markup

from anneal import html
from anneal.history.revision import Snapshot
from anneal.html import NONE, el, fold, table
from anneal.report import artifacts, charts
from anneal.report.formatting import figure, listing
from anneal.report.scores import label, ordered

SHOWN, LETTERS = 40, 400  # names of a category, and characters of a text, that are shown
QUANTILES = ("p5", "p50", "p95")


def types(now: Snapshot) -> Markup:
    found = now.metric("filter", "types") or {}
    rows = [
        [
            label(now, kind),
            figure(t.get("n")),
            figure(t.get("kept")),
            figure(t.get("retention"), True),
            figure(t.get("length")),
            figure(t.get("length_kept")),
            flag(t),
        ]
        for kind, t in ((kind, found[kind]) for kind in ordered(now, list(found)))
    ]
    return table(["type", "records", "kept", "share", "mean length", "of the kept", ""], rows)


def flag(found: dict[str, Any]) -> Markup:
    return el("span", "loses much", class_="mark bad") if found.get("flagged") else NONE


def likelihoods(now: Snapshot) -> Markup:
    """How the log-probabilities of kept and dropped texts lie."""
    columns = artifacts.columns("reports/plots/filter.tsv")
    if not (points := columns.get("kept")):
        return NONE
    edges = [x for x, _ in points]
    edges.append(edges[-1] + (edges[-1] - edges[0]) / max(len(edges) - 1, 1))
    counts = {name: [int(y) for _, y in column] for name, column in columns.items()}
    limit = figure(now.metric("filter", "density", "threshold"))
    rows = [[figure(x), *map(figure, row)] for x, *row in zip(edges, *counts.values(), strict=False)]
    return html.join(
        charts.histogram("Log-probability of kept and dropped texts", edges, counts),
        el("p", f"The density drops what lies below {limit}.", class_="soft"),
        fold("as a table", table(["from", *counts], rows)),
    )


def features(now: Snapshot) -> Markup:
    """Quantiles of each feature before the filter and after it, and how far the two distributions lie apart."""
    found = {name: part for name, part in (now.metric("filter", "features") or {}).items() if "ks" in part}
    if not found:
        return NONE
    logs = ((now.params.get("filter") or {}).get("density") or {}).get("log") or []

    def shown(name: str, value: Any) -> str:
        # A quantile of log(1 + value) is that of the value, so that it can be read in its own unit.
        return "–" if value is None else f"{math.expm1(value) if name in logs else value:.4g}"

    rows = [
        [
            name,
            *(f"{shown(name, part.get(q))} → {shown(name, part.get(f'{q}_kept'))}" for q in QUANTILES),
            figure(part["ks"]),
        ]
        for name, part in found.items()
    ]
    words = "Before → after, all records and kept ones; KS: the most by which the shares up to any value differ."
    return html.join(table(["feature", *QUANTILES, "KS"], rows), el("p", words, class_="soft"))


def names(now: Snapshot) -> Markup:
    """For each categorical field the shares of its names before and after the density."""
    parts = []
    for path, found in (now.metric("filter", "density", "names") or {}).items():
        every = sorted(found["names"].items(), key=lambda pair: (not pair[1].get("flagged"), -pair[1]["n"], pair[0]))
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
            for name, part in every[:SHOWN]
        ]
        head = ["name", "records", "kept", "share before", "share after", "kept of it", ""]
        more = el("p", f"and {len(every) - SHOWN} more in filter.json") if len(every) > SHOWN else NONE
        flags = sum(bool(part.get("flagged")) for _, part in every)
        title = f"{path}: {len(every)} names, total variation {figure(found['total_variation'], True)}"
        title += f", {flags} lose over twice the average share" if flags else ""
        parts.append(fold(title, table(head, rows), more))
    words = "Names by field; total variation is the share of records that would have to change their name."
    return html.join(el("p", words, class_="soft"), *parts) if parts else NONE


def curve(now: Snapshot) -> Markup:
    """What other percentiles would keep: of all records, and of the type that loses most."""
    found = now.metric("filter", "density") or {}
    if not found.get("curve"):
        return NONE
    total, chosen = found.get("n") or 1, found.get("percentile")
    points = {float(name.lstrip("p")): part for name, part in found["curve"].items()}
    if chosen is not None:
        points.setdefault(chosen, {"threshold": found.get("threshold"), "kept": now.metric("filter", "kept")})
    kept, least, rows = [], [], []
    for at, part in sorted(points.items()):
        worst = next(iter((part.get("least") or {}).items()), ("", None))
        share = part["kept"] / total
        kept.append((at, share))
        least += [(at, worst[1])] if worst[1] is not None else []
        told = [figure(part["threshold"]), figure(part["kept"]), figure(share, True)]
        here = "chosen" if at == chosen else ""
        rows.append([f"{at:g}", *told, html.join(label(now, worst[0]), " ", figure(worst[1], True)), here])
    head = ["percentile", "threshold", "kept", "share", "of the type that loses most", ""]
    words = f"What the density keeps of {figure(total)} sound records, and what it would at other percentiles:"
    chart = charts.lines("Share kept by percentile", {"kept": kept, "least": least}, share=True)
    return html.join(el("p", words), table(head, rows), fold("as lines", chart))


def edge(now: Snapshot) -> Markup:
    """The texts on both sides of the cut: what a reader must agree with."""
    parts = []
    for key, title in (("lowest_kept", "lowest kept"), ("highest_dropped", "highest dropped")):
        if found := now.metric("filter", "density", key):
            texts = [str(row.get("text", "")) for row in found]
            cut = [text if len(text) <= LETTERS else f"{text[:LETTERS]} …" for text in texts]
            rows = [[row["id"], figure(row["log_prob"]), text] for row, text in zip(found, cut, strict=True)]
            body = table(["record", "log-probability", "text"], rows, class_="words")
            parts.append(fold(f"the {len(rows)} {title} by the density", body))
    return html.join(*parts)


def impact(now: Snapshot, _old: Snapshot) -> Markup:
    """What the filter kept by type, feature and name, and the log-probabilities of what it kept and dropped."""
    found = now.metric("filter")
    if not found:
        return NONE
    density = {key: value for key, value in (found.get("density") or {}).items() if key != "names"}
    rest = fold("all of filter.json but the names", listing({**found, "density": density}))
    parts = (types, likelihoods, curve, features, names, edge)
    return html.join(*(part(now) for part in parts), rest)

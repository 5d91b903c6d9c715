"""Scores and checks of every system: by content type, by dimension, by check, and text by text.

Each section is a function of the snapshot. It is empty where its stage has not run; the page then leaves it out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from anneal import html
from anneal.history.revision import Snapshot
from anneal.html import NONE, el, fold, table
from anneal.records import Metrics
from anneal.report import artifacts, charts, headline, human_votes, regressions
from anneal.report.formatting import change, estimate, figure, span


def label(now: Snapshot, kind: str) -> Markup:
    """The title of a content type; its key is the hint."""
    return el("span", (now.params.get("types") or {}).get(kind, kind), title=kind)


def ordered(now: Snapshot, kinds: Sequence[str]) -> list[str]:
    """Content types in the order of params.yaml, unknown ones last."""
    known = list(now.params.get("types") or {})
    return sorted(kinds, key=lambda kind: (known.index(kind) if kind in known else len(known), kind))


def _row(now: Snapshot, kind: str, block: dict[str, Any], before: Metrics | None) -> tuple[list[Any], Any]:
    """One row of the table of scores, and the bars of the same numbers."""
    gap = block.get("difference") or {}
    best = block.get("best") or {}
    columns = {s: block.get(s) or {} for s in now.systems}
    ends = {s: (columns[s].get("intervals") or {}).get("score") or [None, None] for s in now.systems}
    means = [span(columns[s].get("score"), *ends[s]) for s in now.systems]
    wins = " / ".join(str(best.get(key, "–")) for key in (*now.systems, "tie"))
    gaps = [change(gap), figure(gap.get("p_holm", gap.get("p")))]
    gaps += [change(block.get("aligned_difference"))] if "aligned" in now.systems else []
    name: Any = label(now, kind)
    title = str((now.params.get("types") or {}).get(kind, kind))
    if kind == regressions.ALL:
        name = title = "all types"
    bars = (title, [(s, columns[s].get("score"), *ends[s]) for s in now.systems])
    return [name, figure(columns["golden"].get("n")), *means, *gaps, regressions.cell(before), wins], bars


def scores(now: Snapshot, old: Snapshot) -> Markup:
    """Scores by content type and dimension: each system, the paired differences, and how often each is best."""
    metrics = now.metric("compare")
    if not metrics:
        return NONE
    blocks = {kind: metrics["by_type"][kind] for kind in ordered(now, list(metrics.get("by_type") or {}))}
    blocks[regressions.ALL] = {
        **(metrics.get("overall") or {}),
        **{key: metrics.get(key) for key in (*headline.GAPS, "best")},
    }
    before = {} if old.note else regressions.changes(now, old)
    rows = [_row(now, kind, block, before.get(kind)) for kind, block in blocks.items()]
    score = metrics.get("score_kind", "score")
    gaps = ["tuned − base", "p", *(["aligned − tuned"] if "aligned" in now.systems else [])]
    head = [
        "type",
        "n",
        *now.systems,
        *gaps,
        regressions.versus(now, old),
        f"best: {' / '.join((*now.systems, 'tie'))}",
    ]
    caption = (
        f"Mean {score}, 1 to 5, with 95% intervals clustered over {figure(metrics.get('clusters'))} items; "
        "p by a sign-flip test over items, Holm-corrected over types; ~ marks an interval that contains 0; MDE: "
        "minimum detectable effect at 80% power."
    )
    compared = old.note or regressions.sentence(now, old, before)
    chart = charts.bars(f"Mean {score} by content type", [bars for _, bars in rows], 1, 5)
    return html.join(
        human_votes.caution(now),
        table(head, [row for row, _ in rows], class_="wide" if "aligned" in now.systems else None),
        el("p", caption, class_="soft"),
        el("p", f"BASE: {compared}.", class_="soft"),
        _noise(now),
        fold("as bars", charts.legend(now.systems), chart),
        dimensions(now, old),
    )


def _noise(now: Snapshot) -> Markup:
    """What another training seed alone changes, where that was measured on these very inputs."""
    if now.shipped != "tuned" or (band := headline.seed_band(now)) is None:
        return NONE
    seeds = len(now.metric("seeds", "seeds") or [])
    line = f"Seed noise: the means of two training seeds differ by up to ±{figure(band)} (95%, from {seeds} seeds); "
    return el("p", f"{line}a smaller difference to BASE may come from the seed.", class_="soft")


def dimensions(now: Snapshot, old: Snapshot) -> Markup:
    """Scores by dimension of each type; all differences of a column share one Holm correction."""
    gaps = now.metric("compare", "dims") or {}
    before = {} if old.note else regressions.dimensions(now, old)
    rows = []
    for kind in ordered(now, list(gaps)):
        for dim, gap in gaps[kind].items():
            means = [now.metric(f"judge/{s}", "by_type", kind, "dims", dim, "score") for s in now.systems]
            base_cell = regressions.cell((before.get(kind) or {}).get(dim))
            p = figure(gap.get("p_holm", gap.get("p")))
            n = figure(gap.get("n"))
            rows.append([label(now, kind), dim, n, *map(figure, means), change(gap), p, base_cell])
    if not rows:
        return NONE
    head = ["type", "dimension", "n", *now.systems, "tuned − base", "p", regressions.versus(now, old)]
    words = "p by a sign-flip test over items, Holm-corrected over types and dimensions."
    return fold("scores by dimension", human_votes.caution(now), table(head, rows), el("p", words, class_="soft"))


LEGEND = """strict: the answer stops and passes every check of evaluate.strict in params.yaml. repeats: more \
repetition than in 99% of golden texts. copies: near-duplicates of a training text. Controls are golden texts of \
another record (swapped: same item, another type; other: another item, same type): sound checks reject them."""


def checks(now: Snapshot, _old: Snapshot) -> Markup:
    """Programmed checks by system: strict, stops, copies, likelihood; and the controls that must fail them."""
    metrics = now.metric("evaluate")
    if not metrics:
        return NONE
    rules = {name: (metrics.get("rules") or {}).get(name) or {} for name in now.systems}
    rows = []
    for name in now.systems:
        stops = (metrics.get("stops") or {}).get(name) or {}
        copies = (metrics.get("copies") or {}).get(name) or {}
        cells = [rules[name].get("strict"), stops.get("stopped"), stops.get("looped"), copies.get("near")]
        bits = now.metric("evaluate", "likelihood", name, "bits_per_byte")
        chrf = now.metric("evaluate", "overlap", name, "chrf")
        rows.append([name, *map(estimate, cells), figure(bits), figure(chrf)])
    controls = {name: part for name, part in (metrics.get("controls") or {}).items() if part.get("mean") is not None}
    for name, control in controls.items():
        rows.append([html.join(el("span", "control", class_="mark"), name), estimate(control), *[""] * 5])
    head = ["", "strict", "stops", "repeats", "copies", "bits per byte", "chrF"]
    names = sorted(set().union(*rules.values()) - {"by_type"})
    rule_rows = [[rule, *(estimate(part.get(rule)) for part in rules.values())] for rule in names]
    by_rule = table(["rule", *rules], rule_rows)
    test = el("p", f"{headline.pass_rate_line(now)}.") if now.metric("compare", "passes", "strict", "n") else NONE
    return html.join(table(head, rows), test, el("p", LEGEND, class_="soft"), fold("pass rates by rule", by_rule))


def choices(rows: Sequence[dict[str, Any]]) -> dict[str, str]:
    """Filters of the browser: texts in which the last model fails, or loses to the model that it was trained from."""
    has_aligned = any("aligned" in row["systems"] for row in rows)  # report.js decides by the same rule
    name, below = ("aligned", "tuned") if has_aligned else ("tuned", "base")
    return {
        "all": "all texts",
        "strict": f"{name} fails strict",
        "facts": f"{name} fails a check",
        "stop": f"{name} does not stop",
        "below": f"{name} scores below {below}",
        "unscored": "a text has no score",
    }


def choice(name: str, title: str, options: dict[str, str]) -> Markup:
    """A select element; `options` maps values to their words."""
    return el("select", *(el("option", words, value=key) for key, words in options.items()), id=name, aria_label=title)


def browser(now: Snapshot, _old: Snapshot) -> Markup:
    """Prompt and texts side by side; the script of the page fills it from JSON."""
    rows, total = artifacts.browser()
    if not rows:
        return el("p", "data/test.jsonl and data/checks.jsonl are missing; run `dvc pull` or `dvc repro`.")
    kinds = ordered(now, sorted({row["type"] for row in rows}))
    labels = {kind: (now.params.get("types") or {}).get(kind, kind) for kind in kinds}
    tools = [
        choice("kind", "content type", {"": "all types", **labels}),
        choice("which", "which texts", choices(rows)),
        el("button", "previous ", el("kbd", "k"), id="previous", type="button"),
        el("button", "next ", el("kbd", "j"), id="next", type="button"),
        el("span", id="count", class_="soft", aria_live="polite"),
    ]
    parts = [
        el("noscript", "This section needs JavaScript; the texts are also in data/checks.jsonl."),
        el("div", *tools, class_="tools"),
        el("div", id="record"),
        html.data(rows, "rows"),
        html.data(labels, "labels"),
    ]
    if len(rows) < total:
        parts.append(el("p", f"The page holds {len(rows)} of {total} records; the others are in data/checks.jsonl."))
    return html.join(*parts)

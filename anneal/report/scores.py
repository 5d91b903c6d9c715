"""Scores and checks of every system: by content type, by dimension, by check, and text by text.

Each section is a function of the snapshot. It is empty where its stage has not run, and the page leaves it out.
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
    return el("span", (now.params.get("types") or {}).get(kind, kind), title=kind)


def ordered(now: Snapshot, kinds: Sequence[str]) -> list[str]:
    """Types in the order of params.yaml."""
    known = list(now.params.get("types") or {})
    return sorted(kinds, key=lambda kind: (known.index(kind) if kind in known else len(known), kind))


def _row(now: Snapshot, kind: str, block: dict[str, Any], before: Metrics | None) -> tuple[list[Any], Any]:
    """One line of the table of scores, and the bars of the same numbers."""
    gap, best = block.get("difference") or {}, block.get("best") or {}
    columns = {s: block.get(s) or {} for s in now.systems}
    ends = {s: (columns[s].get("intervals") or {}).get("score") or [None, None] for s in now.systems}
    means = [span(columns[s].get("score"), *ends[s]) for s in now.systems]
    wins = " / ".join(str(best.get(key, "–")) for key in (*now.systems, "tie"))
    gaps = [change(gap), figure(gap.get("p_holm", gap.get("p")))]
    gaps += [change(block.get("aligned_difference"))] if "aligned" in now.systems else []
    name = "all types" if kind == regressions.ALL else label(now, kind)
    plain = "all types" if kind == regressions.ALL else str((now.params.get("types") or {}).get(kind, kind))
    bars = (plain, [(s, columns[s].get("score"), *ends[s]) for s in now.systems])
    return [name, figure(columns["golden"].get("n")), *means, *gaps, regressions.cell(before), wins], bars


def scores(now: Snapshot, old: Snapshot) -> Markup:
    """Per content type and dimension: all systems, the paired differences, who is best how often."""
    found = now.metric("compare")
    if not found:
        return NONE
    blocks = {kind: found["by_type"][kind] for kind in ordered(now, list(found.get("by_type") or {}))}
    blocks[regressions.ALL] = {
        **(found.get("overall") or {}),
        **{key: found.get(key) for key in (*headline.GAPS, "best")},
    }
    before = {} if old.note else regressions.changes(now, old)
    made = [_row(now, kind, block, before.get(kind)) for kind, block in blocks.items()]
    score = found.get("score_kind", "score")
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
        f"Mean {score}, 1 to 5, with 95% intervals clustered over {figure(found.get('clusters'))} items; "
        "p of the difference by sign flips of items, Holm-corrected over types; ~ where the interval holds 0."
    )
    compared = old.note or regressions.sentence(now, old, before)
    chart = charts.bars(f"Mean {score} by content type", [bars for _, bars in made], 1, 5)
    return html.join(
        human_votes.caution(now),
        table(head, [row for row, _ in made], class_="wide" if "aligned" in now.systems else None),
        el("p", caption, class_="soft"),
        el("p", f"BASE: {compared}.", class_="soft"),
        _noise(now),
        fold("as bars", charts.legend(now.systems), chart),
        dimensions(now, old),
    )


def _noise(now: Snapshot) -> Markup:
    """What another training seed alone changes, where that was measured on these very inputs."""
    if now.shipped != "tuned" or (wide := headline.band(now)) is None:
        return NONE
    seeds = len(now.metric("seeds", "seeds") or [])
    line = f"Noise: the means of two training seeds lie up to ±{figure(wide)} apart (95%, from {seeds} seeds); "
    return el("p", f"{line}a smaller difference to BASE may be another seed's.", class_="soft")


def dimensions(now: Snapshot, old: Snapshot) -> Markup:
    """The same by dimension of each type; all differences of a column share one Holm correction."""
    gaps = now.metric("compare", "dims") or {}
    before = {} if old.note else regressions.dimensions(now, old)
    rows = []
    for kind in ordered(now, list(gaps)):
        for dim, gap in gaps[kind].items():
            means = [now.metric(f"judge/{s}", "by_type", kind, "dims", dim, "score") for s in now.systems]
            less = regressions.cell((before.get(kind) or {}).get(dim))
            p = figure(gap.get("p_holm", gap.get("p")))
            rows.append([label(now, kind), dim, figure(gap.get("n")), *map(figure, means), change(gap), p, less])
    if not rows:
        return NONE
    head = ["type", "dimension", "n", *now.systems, "tuned − base", "p", regressions.versus(now, old)]
    words = "p of the difference by sign flips of items, Holm-corrected over types and dimensions."
    made = table(head, rows)
    return fold("every dimension by itself", human_votes.caution(now), made, el("p", words, class_="soft"))


WORDS = """strict: it stops and passes every check of evaluate.strict in params.yaml. repeats: itself, more than 99 of \
100 golden texts do. copies: nearly a training text. Controls are golden texts in the wrong place (swapped: of the \
same item and another type; other: of another item and the same type): a check that sees anything refuses them."""


def checks(now: Snapshot, _old: Snapshot) -> Markup:
    """What arithmetic decides: strict, stops, likelihood, copies; and the controls that must fail."""
    found = now.metric("evaluate")
    if not found:
        return NONE
    rules = {name: (found.get("rules") or {}).get(name) or {} for name in now.systems}
    rows = []
    for name in now.systems:
        stops, copies = ((found.get(key) or {}).get(name) or {} for key in ("stops", "copies"))
        cells = [rules[name].get("strict"), stops.get("stopped"), stops.get("looped"), copies.get("near")]
        bits, chrf = (
            now.metric("evaluate", "likelihood", name, "bits_per_byte"),
            now.metric("evaluate", "overlap", name, "chrf"),
        )
        rows.append([name, *map(estimate, cells), figure(bits), figure(chrf)])
    controls = {name: part for name, part in (found.get("controls") or {}).items() if part.get("mean") is not None}
    for name, control in controls.items():
        rows.append([html.join(el("span", "control", class_="mark"), name), estimate(control), *[""] * 5])
    head = ["", "strict", "stops", "repeats", "copies", "bits per byte", "chrF"]
    names = sorted(set().union(*rules.values()) - {"by_type"})
    each = table(["rule", *rules], [[rule, *(estimate(part.get(rule)) for part in rules.values())] for rule in names])
    test = el("p", f"{headline.passes(now)}.") if now.metric("compare", "passes", "strict", "n") else NONE
    return html.join(table(head, rows), test, el("p", WORDS, class_="soft"), fold("every rule by itself", each))


def choices(rows: Sequence[dict[str, Any]]) -> dict[str, str]:
    """Which texts to look at first: those in which the last model fails, or loses to the one that it was made from."""
    there = any("aligned" in row["systems"] for row in rows)  # as the script of the page finds out, too
    name, below = ("aligned", "tuned") if there else ("tuned", "base")
    return {
        "all": "all texts",
        "strict": f"{name} fails strict",
        "facts": f"{name} fails a check",
        "stop": f"{name} does not stop",
        "below": f"{name} scores below {below}",
        "unscored": "one is not scored",
    }


def choice(name: str, title: str, options: dict[str, str]) -> Markup:
    return el("select", *(el("option", t, value=key) for key, t in options.items()), id=name, aria_label=title)


def browser(now: Snapshot, _old: Snapshot) -> Markup:
    """Prompt and texts side by side; the script of the page fills it from JSON."""
    rows, total = artifacts.browser()
    if not rows:
        return el("p", "data/test.jsonl and data/checks.jsonl are not here; `dvc pull` or `dvc repro` brings them.")
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
        parts.append(el("p", f"{len(rows)} of {total} records fit this page; the rest is in data/checks.jsonl."))
    return html.join(*parts)

"""The report's sections about answers: delivery policy, decoding presets, layouts, verse, style.

Each section is a function of metrics. It is empty where a recipe has no such metrics; the page then leaves it out.
"""

from __future__ import annotations

from typing import Any

from markupsafe import Markup

from anneal import html
from anneal.history.revision import Snapshot
from anneal.html import NONE, el, fold, table
from anneal.records import Metrics
from anneal.report.formatting import change, estimate, estimate_text, figure
from anneal.systems import MODELS, SYSTEMS

# Metrics of a preset: key, heading, whether it is a share.
FIGURES = (
    ("strict", "strict", True),
    ("rouge_l", "ROUGE-L", False),
    ("distinct_2", "distinct-2", False),
    ("distinct_4", "distinct-4", False),
    ("self_bleu", "self-BLEU", False),
    ("overrun", "overrun", True),
    ("stopped", "stops", True),
)
# Distances of a style: key and heading.
DISTANCES = (
    ("characters", "characters"),
    ("words", "words"),
    ("function_words", "function words"),
    ("punctuation", "punctuation"),
    ("sentence_length", "sentence length"),
    ("paragraph_length", "paragraph length"),
)


def contract(now: Snapshot, _old: Snapshot) -> Markup:
    """The delivery policy: answers accepted at the first attempt and in total, by escalation step, with their cost."""
    metrics = now.metric("accept")
    required = (now.params.get("accept") or {}).get("checks")
    if not metrics or not required:
        return NONE
    words = (
        f"An answer must pass {', '.join(required)}; a failed answer is generated again, one escalation step after the "
        f"other. {figure((metrics.get('accepted') or {}).get('n'))} records: accepted at the first attempt "
        f"{estimate_text(metrics.get('first'))}, in total {estimate_text(metrics.get('accepted'))}."
    )
    attempts = metrics.get("attempts") or {}
    cost = (
        f"Attempts per record: {figure(attempts.get('p50'))} at the median, {figure(attempts.get('p95'))} at the 95th "
        f"percentile; {figure(metrics.get('tokens_per_accepted'))} tokens generated per accepted answer."
    )
    rows = [
        [name, figure(rung["open"]), figure(rung["candidates"]), figure(rung["accepted"]), figure(rung["share"], True)]
        for name, rung in ((name, metrics["rungs"][name]) for name in ordered_steps(now, metrics))
    ]
    none = metrics.get("none") or {}
    rows.append(["no step", "", "", figure(none.get("n")), figure(none.get("share"), True)])
    rejections = sorted((metrics.get("rejections") or {}).items(), key=lambda pair: (-pair[1], pair[0]))
    reasons = table(["failed check", "attempts"], [[name, figure(n)] for name, n in rejections])
    return html.join(
        el("p", words),
        el("p", cost),
        table(["escalation step", "open", "candidates", "accepted", "share of all"], rows),
        fold("reasons for rejected attempts", reasons) if rejections else NONE,
        delivered(now),
    )


def ordered_steps(now: Snapshot, metrics: Metrics) -> list[str]:
    """The escalation steps in the order in which they run; accept.json holds them sorted by name."""
    order = ["first", *(f"temperature {t}" for t in (now.params.get("accept") or {}).get("temperatures") or [])]
    order += ["constrained", "nearest"]
    rungs = metrics.get("rungs") or {}
    return sorted(rungs, key=lambda name: (order.index(name) if name in order else len(order), name))


def delivered(now: Snapshot) -> Markup:
    """Pass rates of the delivered answers, beside those of the first attempts."""
    last = now.metric("evaluate", "accepted") or {}
    first = now.metric("evaluate", "rules", now.shipped) or {}
    if not last:
        return NONE
    rows = [[name, estimate(first.get(name)), estimate(last[name])] for name in sorted(last)]
    words = "A delivered answer counts as stopped; for first attempts, strict requires that the model stopped."
    if "in_distribution" in last:
        words += (
            " in_distribution is measured here by held-out golden texts, and in escalation by the texts of the filter."
        )
    return html.join(table(["check", "first attempts", "delivered"], rows), el("p", words, class_="soft"))


def decoding(now: Snapshot, _old: Snapshot) -> Markup:
    """The decoding presets side by side, and the difference of each to the first one on the same items."""
    metrics = now.metric("evaluate", "decoding") or {}
    parts = []
    for system in (name for name in MODELS if metrics.get(name)):
        presets = ordered_presets(now, metrics[system])
        rows = [
            [name, figure(part.get("runs")), *(estimate(part.get(key), share) for key, _, share in FIGURES)]
            for name, part in presets
        ]
        head = [heading for _, heading, _ in FIGURES]
        parts += [el("h3", system), table(["preset", "runs", *head], rows)]
        differences = {name: part["less_first"] for name, part in presets if part.get("less_first")}
        columns = [row for row in FIGURES if any(row[0] in gaps for gaps in differences.values())]
        if differences:
            gap_rows = [
                [name, *(change(gaps.get(key), share) for key, _, share in columns)]
                for name, gaps in differences.items()
            ]
            parts.append(table([f"minus {presets[0][0]}", *(heading for _, heading, _ in columns)], gap_rows))
    if not parts:
        return NONE
    words = (
        "Each seed is one run; runs are averaged by item. overrun: longer than 99% of golden texts. self-BLEU: "
        "similarity of a text to the others, 0 to 100. Differences are paired by item, those of shares in percentage "
        "points; ~ marks an interval that contains 0; MDE: minimum detectable effect at 80% power."
    )
    return html.join(*parts, el("p", words, class_="soft"))


def ordered_presets(now: Snapshot, presets: Metrics) -> list[tuple[str, Metrics]]:
    """The presets in the order of params.yaml, the baseline of the differences first."""
    order = list((now.params.get("answer") or {}).get("presets") or {})
    places = {name: place for place, name in enumerate(order)}
    return sorted(presets.items(), key=lambda pair: ("less_first" in pair[1], places.get(pair[0], len(order)), pair[0]))


def kinds(now: Snapshot, _old: Snapshot) -> Markup:
    """Metrics that only a particular kind of text has."""
    return html.join(layouts(now), verses(now), styles(now))


def layouts(now: Snapshot) -> Markup:
    """JSON layouts: valid as written, valid after repair, and the variety of their components."""
    metrics = now.metric("evaluate", "layouts") or {}
    rows = [
        [name, estimate(part.get("strict")), estimate(part.get("mended")), figure(part.get("components"), True)]
        for name, part in ((name, metrics[name]) for name in SYSTEMS if name in metrics)
    ]
    words = (
        "strict: the whole answer is JSON. after repair: JSON inside other text, or repaired, counts too; it does not "
        "count as a pass. components: the share of density components that at least one valid text belongs to."
    )
    head = ["", "strict JSON", "after repair", "components hit"]
    return html.join(el("h3", "Layouts"), table(head, rows), el("p", words, class_="soft")) if rows else NONE


def verses(now: Snapshot) -> Markup:
    """Verse: the share of lines that rhyme."""
    metrics = now.metric("evaluate", "verses") or {}
    rows = [
        [name, estimate(part.get("rhyme")), figure((part.get("rhyme") or {}).get("n")), figure(part.get("unknown"))]
        for name, part in ((name, metrics[name]) for name in SYSTEMS if name in metrics)
    ]
    words = "Share of even lines that rhyme, mean over texts; line ends missing from the rhyme table are not counted."
    head = ["", "lines that rhyme", "texts", "unknown line ends"]
    return html.join(el("h3", "Verse"), table(head, rows), el("p", words, class_="soft")) if rows else NONE


def distance(metrics: Metrics, key: str) -> str:
    """A distance of styles; ~ marks one within the noise of two halves of the reference texts."""
    value = metrics.get(key)
    noise = metrics.get(f"{key}_noise")
    within_noise = value is not None and noise is not None and value <= noise
    return f"{'~ ' if within_noise else ''}{figure(value)}"


def styles(now: Snapshot) -> Markup:
    """Distances of texts in each writer's style to every writer's own texts, and spans copied from training texts."""
    metrics = now.metric("evaluate", "styles") or {}
    rows: list[list[Any]] = []
    copies: list[list[Any]] = []
    for system in (name for name in SYSTEMS if name in metrics):
        for writer, references in metrics[system]["authors"].items():
            for other in sorted(references, key=lambda name: (name != writer, name)):
                part = references[other]
                reference = "own texts" if other == writer else other
                cells = [figure(part.get("n")), *(distance(part, key) for key, _ in DISTANCES)]
                cells += [figure(part.get(key)) for key in ("auc", "type_token")]
                rows.append([f"{system} as {writer}", reference, *cells])
        copied = metrics[system].get("copied") or {}
        copies.append([system, *(figure(copied.get(key)) for key in ("n", "median", "p95", "longest"))])
    if not rows:
        return NONE
    words = (
        "Distance to a writer's training texts, minus the distance between two halves of these: at 0 a text is as "
        "close to them as they are to each other; ~ marks values within their noise. Against another writer a text in "
        "style has a large distance. AUC: how well a classifier separates the two, 0.5 is chance."
    )
    head = ["", "against", "n", *(heading for _, heading in DISTANCES), "AUC", "type-token ratio"]
    spans = "Longest span of each text that is copied verbatim from a training text, in characters:"
    return html.join(
        el("h3", "Style"),
        table(head, rows),
        el("p", words, class_="soft"),
        el("p", spans),
        table(["", "n", "median", "p95", "longest"], copies),
    )

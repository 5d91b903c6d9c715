"""The report's sections about the data: source, records by stage, leakage, tokens.

Each section is a function of metrics. It is empty where its stage has not run; the page then leaves it out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from anneal import html
from anneal.dataset import token_budget
from anneal.history.revision import Snapshot
from anneal.html import NONE, el, fold, table
from anneal.report import charts
from anneal.report.formatting import figure, listing

# The record count of each stage: name, metrics file, keys.
STEPS = (
    ("generated", "generate", "n"),
    ("cleaned", "clean", "n"),
    ("filtered", "filter", "kept"),
    ("formatted", "format", "rows"),
    ("train", "split", "records", "train"),
    ("validation", "split", "records", "validation"),
    ("test", "split", "records", "test"),
)
PARTS = ("train", "validation", "test")  # of the formatted records; the split loses none
# The treatment of texts with personal data, by generate.pii.
TREATMENTS = {"report": "left unchanged", "mask": "masked", "drop": "dropped"}


def counts_text(counts: Mapping[str, Any]) -> str:
    """Counts above 0 with their names, as words."""
    return ", ".join(f"{figure(n)} {name.replace('_', ' ')}" for name, n in counts.items() if n)


def source(now: Snapshot) -> Markup:
    """Source documents and personal data in them: counts, never a match."""
    essays = now.metric("generate", "essays") or {}
    pii = now.metric("generate", "pii") or {}
    lines = []
    if essays:
        short = f", {figure(essays['short'])} of them shorter than the target length" if essays.get("short") else ""
        dropped = counts_text(essays.get("dropped") or {})
        n, chunks = figure(essays.get("documents")), figure(essays.get("chunks"))
        lines.append(f"{n} documents were cut into {chunks} chunks{short}.")
        lines += [f"Left out of the documents: {dropped}."] if dropped else []
    if pii:
        mode = str((now.params.get("generate") or {}).get("pii"))
        matches = counts_text(pii.get("found") or {}) or "nothing"
        texts = f"{figure(pii.get('texts'))} of {figure(pii.get('of'))} texts"
        lines.append(f"Personal data: {matches}, in {texts}, {TREATMENTS.get(mode, mode)} (generate.pii: {mode}).")
    return el("p", " ".join(lines)) if lines else NONE


def reasons(now: Snapshot) -> dict[str, str]:
    """Why a stage leaves fewer records than the one before it, or more."""
    dropped = now.metric("filter", "dropped")
    over = now.metric("format", "over_length", "rows")
    more = {name: task.get("rows") for name, task in (now.metric("format", "tasks") or {}).items()}
    causes = [f"{over} longer than format.max_length"] if over else []
    causes += [f"additional rows from format.tasks: {counts_text(more)}"] if counts_text(more) else []
    return {"filtered": counts_text(dropped) if isinstance(dropped, dict) else "", "formatted": "; ".join(causes)}


def funnel(now: Snapshot, _old: Snapshot) -> Markup:
    """Records after each stage, with the number lost and the causes."""
    steps = [(name, now.metric(stage, *keys)) for name, stage, *keys in STEPS]
    known = [(name, count) for name, count in steps if count is not None]
    if not known:
        return NONE
    why = reasons(now)
    rows: list[list[Any]] = []
    before = None
    for name, count in known:
        # format.tasks adds rows of the same records, so a count can rise.
        lost = "" if before is None or name in PARTS or count > before else figure(before - count)
        rows.append([name, figure(count), lost, why.get(name, "")])
        before = before if name in PARTS else count
    bars = [(name, [("kept", count, None, None)]) for name, count in known]
    chart = charts.bars("Records after each stage", bars, 0, max([1, *(count for _, count in known)]))
    return html.join(source(now), table(["after", "records", "lost", "why"], rows), fold("as bars", chart))


def split(now: Snapshot, _old: Snapshot) -> Markup:
    """The leakage certificate: overlap between the parts of the split, with the most similar pairs."""
    certificate = now.metric("split", "certificate")
    if not certificate:
        return NONE
    rows = [
        [
            name.replace("_", " "),
            figure(part.get("jaccard")),
            " ~ ".join(part.get("alike") or []),
            figure(part.get("containment")),
            figure(part.get("half_contained"), True),
        ]
        for name, part in certificate.items()
        if isinstance(part, dict)
    ]
    shared, crossing, limit = (
        figure(certificate.get(key)) for key in ("shared_items", "crossing_pairs", "near_duplicate")
    )
    words = (
        f"{shared} items in more than one part; {crossing} pairs of texts across parts with a Jaccard similarity of "
        f"{limit} or more. By pair of parts: the most similar texts, and the highest containment of a text in one of "
        "the other part."
    )
    head = ["", "Jaccard", "most similar", "containment", "at least half contained"]
    return html.join(el("p", words), table(head, rows), fold("all of split.json", listing(now.metric("split"))))


def schedule(now: Snapshot) -> token_budget.Plan | None:
    """Steps and warnings of train.* on these rows; None with packing, which changes the number of rows."""
    train = now.params.get("train") or {}
    names = ("epochs", "batch_size", "accumulation")
    rows = now.metric("split", "records", "train")
    if not rows or train.get("packing") or any(train.get(name) is None for name in names):
        return None
    epochs, batch_size, accumulation = (math.ceil(train[name]) for name in names)
    # Until the training has counted its tokens, the estimate is the average of the formatted rows.
    share = rows / (now.metric("format", "rows") or rows)
    loss_tokens = now.metric("train", "tokens", "learnt")
    loss_tokens = loss_tokens or round((now.metric("format", "budget", "fields", "completion") or 0) * share)
    weights = now.metric("train", "parameters", "trainable")
    return token_budget.plan(loss_tokens, rows, epochs, batch_size, accumulation, weights)


def budget(now: Snapshot) -> Markup:
    """Tokens by field, the steps of the schedule, and warnings about both."""
    metrics = now.metric("format", "budget")
    if not metrics:
        return NONE
    fields = metrics.get("fields") or {}
    total = fields.get("total") or 1
    order = [name for name in ("system", "user", "template", "completion", "total") if name in fields]
    rows = [[name, figure(fields[name]), figure(fields[name] / total, True)] for name in order]
    parts = [table(["field", "tokens", "share"], rows)]
    warnings = list(metrics.get("warnings") or [])
    plan = schedule(now)
    if plan:
        warnings += plan.warnings
        epochs = math.ceil(now.params["train"]["epochs"])
        words = (
            f"At most {epochs} epochs of {figure(plan.steps_per_epoch)} steps: {figure(plan.steps)} updates over "
            f"{figure(plan.tokens)} tokens with loss."
        )
        parts.append(el("p", words))
    lines = (el("li", f"warning: {line}", class_="note") for line in warnings)
    parts.append(el("ul", *lines, class_="alerts") if warnings else el("p", "No warning.", class_="soft"))
    return html.join(*parts)


def tokens(now: Snapshot, _old: Snapshot) -> Markup:
    """Token quantiles against format.max_length, and the number of rows with an exact loss mask."""
    quantiles = now.metric("format", "tokens")
    if not quantiles:
        return NONE
    names = sorted(next(iter(quantiles.values())), key=lambda name: (name == "max", name))
    order = [part for part in ("prompt", "completion", "total") if part in quantiles]
    rows = [[part, *(figure(quantiles[part].get(name)) for name in names)] for part in order]
    limit = (now.params.get("format") or {}).get("max_length")
    masks = now.metric("format", "masks") or {}
    over, share = (now.metric("format", "over_length", key) for key in ("rows", "share"))
    words = (
        f"{figure(over)} rows ({figure(share, True)}) exceed format.max_length {figure(limit)}; "
        f"{figure(masks.get('masked'))} of {figure(masks.get('rows'))} rows have an exact loss mask, "
        f"{figure(masks.get('stop_learnt'))} of them with loss on the stop token."
    )
    values = fold("all of format.json", listing(now.metric("format")))
    return html.join(table(["tokens", *names], rows), el("p", words), budget(now), values)

"""The data's part of the report: what the source gave, what was left out of it and why, and what it costs in tokens.

Each section is a function of metrics. Where its stage has not run it is empty, and the page leaves it out.
"""

from __future__ import annotations

import math
from typing import Any

from markupsafe import Markup

from anneal import html
from anneal.dataset import token_budget
from anneal.history.revision import Snapshot
from anneal.html import NONE, el, fold, table
from anneal.report import charts
from anneal.report.formatting import figure, listing

# What each stage leaves: name, metrics file, keys.
STEPS = (
    ("generated", "generate", "n"),
    ("cleaned", "clean", "n"),
    ("filtered", "filter", "kept"),
    ("formatted", "format", "rows"),
    ("train", "split", "records", "train"),
    ("validation", "split", "records", "validation"),
    ("test", "split", "records", "test"),
)
PARTS = ("train", "validation", "test")  # of what is formatted; nothing is lost between them
# What is done with a text that holds personal data, by generate.pii.
TREATED = {"report": "left as they are", "mask": "masked", "drop": "dropped"}


def counted(found: dict[str, Any]) -> str:
    return ", ".join(f"{figure(n)} {name.replace('_', ' ')}" for name, n in found.items() if n)


def source(now: Snapshot) -> Markup:
    """What was read before there were records, and personal data in it: counts, never a match."""
    read, private = now.metric("generate", "essays") or {}, now.metric("generate", "pii") or {}
    lines = []
    if read:
        short = f", {figure(read['short'])} of them shorter than wanted" if read.get("short") else ""
        dropped = counted(read.get("dropped") or {})
        n, chunks = figure(read.get("documents")), figure(read.get("chunks"))
        lines.append(f"{n} documents were cut into {chunks} chunks{short}.")
        lines += [f"Left out of the documents: {dropped}."] if dropped else []
    if private:
        mode = str((now.params.get("generate") or {}).get("pii"))
        found = counted(private.get("found") or {}) or "nothing"
        where = f"{figure(private.get('texts'))} of {figure(private.get('of'))} texts"
        lines.append(f"Personal data: {found}, in {where}, {TREATED.get(mode, mode)} (generate.pii: {mode}).")
    return el("p", " ".join(lines)) if lines else NONE


def reasons(now: Snapshot) -> dict[str, str]:
    """Why a step holds fewer records than the one before it, or more."""
    dropped = now.metric("filter", "dropped")
    over = now.metric("format", "over_length", "rows")
    more = {name: task.get("rows") for name, task in (now.metric("format", "tasks") or {}).items()}
    told = [f"{over} longer than format.max_length"] if over else []
    told += [f"further rows of format.tasks: {counted(more)}"] if counted(more) else []
    return {"filtered": counted(dropped) if isinstance(dropped, dict) else "", "formatted": "; ".join(told)}


def funnel(now: Snapshot, _old: Snapshot) -> Markup:
    """How many records each stage leaves, and why the others are gone."""
    steps = [(name, now.metric(stage, *keys)) for name, stage, *keys in STEPS]
    known = [(name, count) for name, count in steps if count is not None]
    if not known:
        return NONE
    why, rows, before = reasons(now), list[list[Any]](), None
    for name, count in known:
        # Further tasks make more rows of the same records.
        lost = "" if before is None or name in PARTS or count > before else figure(before - count)
        rows.append([name, figure(count), lost, why.get(name, "")])
        before = before if name in PARTS else count
    bars = [(n, [("kept", c, None, None)]) for n, c in known]
    chart = charts.bars("Records after each stage", bars, 0, max([1, *(c for _, c in known)]))
    return html.join(source(now), table(["after", "records", "lost", "why"], rows), fold("as bars", chart))


def split(now: Snapshot, _old: Snapshot) -> Markup:
    """The leakage certificate: what one side of the split knows of another, and its worst pairs."""
    found = now.metric("split", "certificate")
    if not found:
        return NONE
    rows = [
        [
            name.replace("_", " "),
            figure(part.get("jaccard")),
            " ~ ".join(part.get("alike") or []),
            figure(part.get("containment")),
            figure(part.get("half_contained"), True),
        ]
        for name, part in found.items()
        if isinstance(part, dict)
    ]
    shared, crossing, limit = (figure(found.get(key)) for key in ("shared_items", "crossing_pairs", "near_duplicate"))
    words = (
        f"{shared} items on two sides; {crossing} pairs of texts across sides with a Jaccard of {limit} or more. "
        "Below: for each two sides the most alike texts, and the most that a text holds of one of the other side."
    )
    head = ["", "Jaccard", "most alike", "containment", "contained by half"]
    return html.join(el("p", words), table(head, rows), fold("all of split.json", listing(now.metric("split"))))


def schedule(now: Snapshot) -> token_budget.Plan | None:
    """Steps and warnings of train.* on these rows; None where packing decides how many rows there are."""
    train = now.params.get("train") or {}
    names = ("epochs", "batch_size", "accumulation")
    rows = now.metric("split", "records", "train")
    if not rows or train.get("packing") or any(train.get(name) is None for name in names):
        return None
    epochs, batch_size, accumulation = (math.ceil(train[name]) for name in names)
    # Before the training has counted them: what the rows of the training part hold on the average.
    share = rows / (now.metric("format", "rows") or rows)
    learnt = now.metric("train", "tokens", "learnt")
    learnt = learnt or round((now.metric("format", "budget", "fields", "completion") or 0) * share)
    weights = now.metric("train", "parameters", "trainable")
    return token_budget.plan(learnt, rows, epochs, batch_size, accumulation, weights)


def costs(now: Snapshot) -> Markup:
    """Tokens by field, the steps of the schedule, and what a reviewer would object to."""
    found = now.metric("format", "budget")
    if not found:
        return NONE
    fields = found.get("fields") or {}
    whole = fields.get("total") or 1
    order = [name for name in ("system", "user", "template", "completion", "total") if name in fields]
    rows = [[name, figure(fields[name]), figure(fields[name] / whole, True)] for name in order]
    parts = [table(["field", "tokens", "share"], rows)]
    warned, plan = list(found.get("warnings") or []), schedule(now)
    if plan:
        warned += plan.warnings
        epochs = math.ceil(now.params["train"]["epochs"])
        words = (
            f"At most {epochs} epochs of {figure(plan.steps_per_epoch)} steps make {figure(plan.steps)} "
            f"updates, in which {figure(plan.tokens)} learnt tokens are seen."
        )
        parts.append(el("p", words))
    lines = (el("li", f"warning: {line}", class_="note") for line in warned)
    parts.append(el("ul", *lines, class_="alerts") if warned else el("p", "No warning.", class_="soft"))
    return html.join(*parts)


def tokens(now: Snapshot, _old: Snapshot) -> Markup:
    """Token quantiles against the length that rows may have, and how exactly they could be masked."""
    found = now.metric("format", "tokens")
    if not found:
        return NONE
    names = sorted(next(iter(found.values())), key=lambda name: (name == "max", name))
    order = [part for part in ("prompt", "completion", "total") if part in found]
    rows = [[part, *(figure(found[part].get(name)) for name in names)] for part in order]
    limit = (now.params.get("format") or {}).get("max_length")
    masks = now.metric("format", "masks") or {}
    over, share = (now.metric("format", "over_length", key) for key in ("rows", "share"))
    words = (
        f"{figure(over)} rows ({figure(share, True)}) are longer than format.max_length {figure(limit)}; "
        f"{figure(masks.get('masked'))} of {figure(masks.get('rows'))} rows are masked exactly, "
        f"{figure(masks.get('stop_learnt'))} of them learn to stop."
    )
    every = fold("all of format.json", listing(now.metric("format")))
    return html.join(table(["tokens", *names], rows), el("p", words), costs(now), every)

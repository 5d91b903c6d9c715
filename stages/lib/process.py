"""The second half of the report: how the result came about, and what differs from the compared revision.

Each section is a function of metrics. Where its stage has not run it is empty, and the page leaves it out.
"""

from __future__ import annotations

from . import evidence, html, revision
from .figures import figure, listing
from .html import Safe, el, fold, table
from .results import label, ordered
from .revision import Snapshot

NONE = Safe("")
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
FINE = ("se", "p", "p_holm", "detectable")  # of an estimate; its mean and ends are shown
LIMIT = 150  # rows of changed metrics that are shown


def changed(now: Snapshot, old: Snapshot) -> Safe:
    """Params, metrics and prompts that differ from the revision."""
    if old.note:
        return el("p", old.note)
    same = el("p", "the same", class_="soft")
    params = [[key, figure(a), figure(b)] for key, a, b in revision.changes(old.params, now.params)]
    first = [row for row in numbers(now, old) if headline(row[0])]
    rest = [row for row in numbers(now, old) if not headline(row[0])]
    head = ["key", old.name, "here", "change"]
    parts = [el("h3", "Params"), table(head[:3], params, class_="words") if params else same]
    parts += [el("h3", "Metrics"), table(head, first) if first else same]
    if rest:
        more = el("p", f"and {len(rest) - LIMIT} more, see `dvc metrics diff`") if len(rest) > LIMIT else NONE
        parts.append(fold(f"{len(rest)} more", table(head, rest[:LIMIT]), more))
    parts.append(el("h3", "Prompts"))
    diffs = revision.prompt_diff(old, now)
    for path, diff in diffs.items():
        signs = {"+": "plus", "-": "minus"}
        lines = (el("span", line or " ", class_=signs.get(line[:1])) for line in diff.splitlines())
        parts.append(fold(path, el("pre", *lines, class_="diff")))
    return html.join(*parts, NONE if diffs else same)


def headline(key: str) -> bool:
    """Whether a metric belongs to the first table: a whole, not one type, one end of an interval or one quantile."""
    return key.startswith(("compare.overall.", "compare.difference.")) or (
        key.split(".")[0] in ("filter", "format", "split", "train") and key.count(".") == 1
    )


def numbers(now: Snapshot, old: Snapshot) -> list[list[str]]:
    """Metrics that changed and are numbers, as [key, old, new, change], those of the first table first."""
    judged = revision.rejudged(old, now)
    rows = []
    for key, before, after in revision.changes(old.metrics, now.metrics):
        if any(isinstance(value, list | str | dict) for value in (before, after)) or key.split(".")[-1] in FINE:
            continue
        both = before is not None and after is not None
        change = f"{after - before:+.3g}" if both else ""
        if judged and ("score" in key or ".difference." in key or ".best." in key):
            change = "another judge"
        rows.append([key, figure(before), figure(after), change])
    return sorted(rows, key=lambda row: (not headline(row[0]), row[0]))


def funnel(now: Snapshot, _old: Snapshot) -> Safe:
    """How many records each stage leaves, and why the others are gone."""
    steps = [(name, now.metric(stage, *keys)) for name, stage, *keys in STEPS]
    known = [(name, count) for name, count in steps if count is not None]
    if not known:
        return NONE
    dropped = now.metric("filter", "dropped") or {}
    why = {
        "filtered": ", ".join(f"{n} {rule}" for rule, n in dropped.items() if n) if isinstance(dropped, dict) else ""
    }
    rows, before = [], None
    for name, count in known:
        lost = "" if before is None or name in PARTS else figure(before - count)
        rows.append([name, figure(count), lost, why.get(name, "")])
        before = before if name in PARTS else count
    chart = html.bars("Records after each stage", [(n, [("kept", c, None, None)]) for n, c in known], 0, known[0][1])
    return html.join(table(["after", "records", "lost", "why"], rows), fold("as bars", chart))


def impact(now: Snapshot, _old: Snapshot) -> Safe:
    """What the filter kept by type and by feature, and the log-probabilities of what it kept and dropped."""
    found = now.metric("filter")
    if not found:
        return NONE
    types, parts = found.get("types") or {}, [NONE]
    rows = [
        [label(now, kind), figure(t.get("n")), figure(t.get("kept")), figure(t.get("retention"), True),
         figure(t.get("length")), figure(t.get("length_kept")), "loses much" if t.get("flagged") else ""]
        for kind, t in ((kind, types[kind]) for kind in ordered(now, list(types)))
    ]  # fmt: skip
    parts.append(table(["type", "records", "kept", "share", "mean length", "of the kept", ""], rows))
    columns = evidence.columns("reports/plots/filter.tsv")
    if points := columns.get("kept"):
        edges = [x for x, _ in points]
        edges.append(edges[-1] + (edges[-1] - edges[0]) / max(len(edges) - 1, 1))
        counts = {name: [int(y) for _, y in column] for name, column in columns.items()}
        limit = figure(now.metric("filter", "density", "threshold"))
        twin = table(
            ["from", *counts],
            [[figure(x), *map(figure, row)] for x, *row in zip(edges, *counts.values(), strict=False)],
        )
        parts += [html.histogram("Log-probability of kept and dropped texts", edges, counts)]
        parts += [el("p", f"The density drops what lies below {limit}.", class_="soft"), fold("as a table", twin)]
    return html.join(*parts, fold("all of filter.json", listing(found)))


def split(now: Snapshot, _old: Snapshot) -> Safe:
    """The leakage certificate: what one side of the split knows of another, and its worst pairs."""
    found = now.metric("split", "certificate")
    if not found:
        return NONE
    rows = [
        [name.replace("_", " "), figure(part.get("jaccard")), " ~ ".join(part.get("alike") or []),
         figure(part.get("containment")), figure(part.get("half_contained"), True)]
        for name, part in found.items() if isinstance(part, dict)
    ]  # fmt: skip
    shared, crossing, limit = (figure(found.get(key)) for key in ("shared_items", "crossing_pairs", "near_duplicate"))
    words = (
        f"{shared} items on two sides; {crossing} pairs of texts across sides with a Jaccard of {limit} or more. "
        "Below: for each two sides the most alike texts, and the most that a text holds of one of the other side."
    )
    head = ["", "Jaccard", "most alike", "containment", "contained by half"]
    return html.join(el("p", words), table(head, rows), fold("all of split.json", listing(now.metric("split"))))


def tokens(now: Snapshot, _old: Snapshot) -> Safe:
    """Token quantiles against the length that rows may have, and how exactly they could be masked."""
    found = now.metric("format", "tokens")
    if not found:
        return NONE
    names = sorted(next(iter(found.values())), key=lambda name: (name == "max", name))
    order = [part for part in ("prompt", "completion", "total") if part in found]
    rows = [[part, *(figure(found[part].get(name)) for name in names)] for part in order]
    limit = (now.params.get("format") or {}).get("max_length")
    masks = now.metric("format", "masks") or {}
    over = figure(now.metric("format", "over_length", "rows"))
    words = (
        f"{over} rows are longer than format.max_length {figure(limit)}; "
        f"{figure(masks.get('masked'))} of {figure(masks.get('rows'))} rows are masked exactly, "
        f"{figure(masks.get('stop_learnt'))} of them learn to stop."
    )
    return html.join(
        table(["tokens", *names], rows), el("p", words), fold("all of format.json", listing(now.metric("format")))
    )


def training(now: Snapshot, _old: Snapshot) -> Safe:
    """Loss over steps, with its table."""
    found, columns = now.metric("train"), evidence.columns("reports/plots/train.tsv")
    if not found and not columns:
        return NONE
    losses = {name: points for name, points in columns.items() if name.endswith("loss") and points}
    steps = sorted({x for points in losses.values() for x, _ in points})
    rows = [[figure(int(x)), *(figure(dict(points).get(x)) for points in losses.values())] for x in steps]
    chart = html.lines("Loss by training step", losses)
    twin = fold("as a table", table(["step", *losses], rows))
    return html.join(chart, twin, listing(found) if found else "")


def merge(now: Snapshot, _old: Snapshot) -> Safe:
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


def provenance(now: Snapshot, _old: Snapshot) -> Safe:
    rows = list(evidence.provenance(now.params).items())
    ids = (now.metric("judge/tuned", "judge_ids") or {}).items()
    return table(["", "value"], [*rows, *((f"judge of {name}", value) for name, value in ids)], class_="words")


def leaks(now: Snapshot) -> list[str]:
    """What the leakage certificate of the split does not rule out, as lines for the banner."""
    names = {"shared_items": "items are on two sides of the split", "crossing_pairs": "near-duplicates cross the split"}
    counts = {words: now.metric("split", "certificate", key) for key, words in names.items()}
    return [f"leak: {count} {words}; the scores are too good" for words, count in counts.items() if count]

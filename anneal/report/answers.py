"""How the answers come about and what kinds of text they are: the contract, ways to decode, layouts, verse, style.

Each section is a function of metrics. Where a recipe has no such figures it is empty, and the page leaves it out.
"""

from __future__ import annotations

from typing import Any

from markupsafe import Markup

from anneal import html
from anneal.history.revision import Snapshot
from anneal.html import NONE, el, fold, table
from anneal.report.formatting import change, estimate, figure, estimate_text
from anneal.systems import MODELS, SYSTEMS

# Figures of a preset: key, heading, whether it is a share.
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
    """How many answers pass their checks at once, how many in the end, on which rung and at what cost."""
    found, wanted = now.metric("accept"), (now.params.get("accept") or {}).get("checks")
    if not found or not wanted:
        return NONE
    words = (
        f"An answer must pass {', '.join(wanted)}; one that does not is asked for again, rung by rung. "
        f"{figure((found.get('accepted') or {}).get('n'))} records: accepted at the first attempt "
        f"{estimate_text(found.get('first'))}, in all {estimate_text(found.get('accepted'))}."
    )
    spent = found.get("attempts") or {}
    cost = (
        f"Attempts for one record: {figure(spent.get('p50'))} at the median, {figure(spent.get('p95'))} at the 95th "
        f"percentile; {figure(found.get('tokens_per_accepted'))} tokens drawn for each accepted answer."
    )
    rows = [
        [name, figure(rung["open"]), figure(rung["candidates"]), figure(rung["accepted"]), figure(rung["share"], True)]
        for name, rung in ((name, found["rungs"][name]) for name in climbed(now, found))
    ]
    none = found.get("none") or {}
    rows.append(["on no rung", "", "", figure(none.get("n")), figure(none.get("share"), True)])
    why = sorted((found.get("rejections") or {}).items(), key=lambda pair: (-pair[1], pair[0]))
    reasons = table(["failed check", "attempts"], [[name, figure(n)] for name, n in why]) if why else NONE
    return html.join(
        el("p", words),
        el("p", cost),
        table(["rung", "open", "candidates", "answered", "of all"], rows),
        fold("why attempts were rejected", reasons) if why else NONE,
        delivered(now),
    )


def climbed(now: Snapshot, found: dict[str, Any]) -> list[str]:
    """The rungs from the first one up. JSON keeps them by name; what came to a rung falls from rung to rung."""
    order = ["first", *(f"temperature {t}" for t in (now.params.get("accept") or {}).get("temperatures") or [])]
    order += ["constrained", "nearest"]
    rungs = found.get("rungs") or {}
    return sorted(rungs, key=lambda name: (order.index(name) if name in order else len(order), name))


def delivered(now: Snapshot) -> Markup:
    """The checks of what is delivered in the end, beside those of the first attempts."""
    last, first = now.metric("evaluate", "accepted") or {}, now.metric("evaluate", "rules", now.shipped) or {}
    if not last:
        return NONE
    rows = [[name, estimate(first.get(name)), estimate(last[name])] for name in sorted(last)]
    words = "A delivered answer counts as ended by itself; of first attempts strict asks whether the model stopped."
    if "in_distribution" in last:
        words += (
            " in_distribution is judged here by held-out golden texts, and on the rungs by what the filter has kept."
        )
    return html.join(table(["check", "first attempts", "delivered"], rows), el("p", words, class_="soft"))


def decoding(now: Snapshot, _old: Snapshot) -> Markup:
    """The presets side by side, and what each changes against the first one on the same items."""
    found, parts = now.metric("evaluate", "decoding") or {}, []
    for system in (name for name in MODELS if found.get(name)):
        presets = ranked(now, found[system])
        rows = [
            [name, figure(part.get("runs")), *(estimate(part.get(key), share) for key, _, share in FIGURES)]
            for name, part in presets
        ]
        head = [heading for _, heading, _ in FIGURES]
        parts += [el("h3", system), table(["preset", "runs", *head], rows)]
        paired = [(name, part["less_first"]) for name, part in presets if part.get("less_first")]
        kept = [row for row in FIGURES if any(row[0] in less for _, less in paired)]
        if paired:
            told = [[name, *(change(less.get(key), share) for key, _, share in kept)] for name, less in paired]
            parts.append(table([f"less {presets[0][0]}", *(h for _, h, _ in kept)], told))
    if not parts:
        return NONE
    words = (
        "Several seeds are several runs, averaged by item. overrun: longer than 99 of 100 golden texts. self-BLEU: how "
        "much a text repeats the others, 0 to 100. Differences are paired by item, those of shares in points; ~ marks "
        "an interval that holds 0."
    )
    return html.join(*parts, el("p", words, class_="soft"))


def ranked(now: Snapshot, found: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """The presets in the order of params.yaml, the one that others are compared with first."""
    order = list((now.params.get("answer") or {}).get("presets") or {})
    known = {name: place for place, name in enumerate(order)}
    return sorted(found.items(), key=lambda pair: ("less_first" in pair[1], known.get(pair[0], len(order)), pair[0]))


def kinds(now: Snapshot, _old: Snapshot) -> Markup:
    """Figures that only a particular kind of text has."""
    return html.join(layouts(now), verses(now), styles(now))


def layouts(now: Snapshot) -> Markup:
    found = now.metric("evaluate", "layouts") or {}
    rows = [
        [name, estimate(part.get("strict")), estimate(part.get("mended")), figure(part.get("components"), True)]
        for name, part in ((name, found[name]) for name in SYSTEMS if name in found)
    ]
    words = (
        "strict: JSON from the first character to the last. after repair: JSON found inside other words, or mended, "
        "counts too; it is no success. components: those of the density that some sound text hits."
    )
    head = ["", "strict JSON", "after repair", "components hit"]
    return html.join(el("h3", "Layouts"), table(head, rows), el("p", words, class_="soft")) if rows else NONE


def verses(now: Snapshot) -> Markup:
    found = now.metric("evaluate", "verses") or {}
    rows = [
        [name, estimate(part.get("rhyme")), figure((part.get("rhyme") or {}).get("n")), figure(part.get("unknown"))]
        for name, part in ((name, found[name]) for name in SYSTEMS if name in found)
    ]
    words = "Even lines that rhyme, the mean over texts; line ends that the rhyme table does not hold are not counted."
    head = ["", "lines that rhyme", "texts", "unknown line ends"]
    return html.join(el("h3", "Verse"), table(head, rows), el("p", words, class_="soft")) if rows else NONE


def far(found: dict[str, Any], key: str) -> str:
    """A distance; ~ where it is no more than that between two halves of the reference often is."""
    value, noise = found.get(key), found.get(f"{key}_noise")
    return ("~ " if value is not None and noise is not None and value <= noise else "") + figure(value)


def styles(now: Snapshot) -> Markup:
    """Texts written as each writer against everybody's own texts, and what was copied from the training texts."""
    found, rows, copies = now.metric("evaluate", "styles") or {}, list[list[Any]](), list[list[Any]]()
    for system in (name for name in SYSTEMS if name in found):
        for writer, references in found[system]["authors"].items():
            for other in sorted(references, key=lambda name: (name != writer, name)):
                part = references[other]
                whose = "own texts" if other == writer else other
                told = [figure(part.get("n")), *(far(part, key) for key, _ in DISTANCES)]
                told += [figure(part.get(key)) for key in ("auc", "type_token")]
                rows.append([f"{system} as {writer}", whose, *told])
        copied = found[system].get("copied") or {}
        copies.append([system, *(figure(copied.get(key)) for key in ("n", "median", "p95", "longest"))])
    if not rows:
        return NONE
    words = (
        "Distances to a writer's training texts, less that between two halves of these: at 0 a text is as near to them "
        "as they are to each other; ~ is within their noise. Against another writer a text in style is far. AUC: how "
        "well a classifier tells the two apart, 0.5 is not at all."
    )
    head = ["", "against", "n", *(heading for _, heading in DISTANCES), "AUC", "type-token"]
    spans = "Longest stretch of each text, in characters, that stands word for word in a training text:"
    return html.join(
        el("h3", "Style"),
        table(head, rows),
        el("p", words, class_="soft"),
        el("p", spans),
        table(["", "n", "median", "p95", "longest"], copies),
    )

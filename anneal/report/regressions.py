"""What the shipped model's texts gained or lost against the compared revision, on the same records and judge.

The old judgements come from DVC's cache, so that both sides are paired text by text. Where they are not kept, only
the means of compare.json are left: a difference of them has no interval. Another judge's scores have no difference.
"""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import quote

from markupsafe import Markup

from anneal import html
from anneal.history import revision
from anneal.history.revision import Snapshot
from anneal.html import NONE, el, fold, table
from anneal.records import Judgement, Metrics
from anneal.report import headline
from anneal.report.formatting import change, figure, signed
from anneal.stats import intervals, paired

TEST = "data/test.jsonl"
CHECKED = "data/checks.jsonl"
ALL = "all"
SHOWN = 25  # texts of a list
MARGIN = 0.1  # where compare.margin is not written down yet
KEYS = {"id", "item", "type", "outcome", "score", "judge_id", "dims"}
Rows = tuple[list[Judgement], list[Judgement]]  # of the working tree, and of the revision


def versus(now: Snapshot, old: Snapshot) -> str:
    """The heading of a column of differences; the revision itself stands below the table."""
    return f"{now.shipped} − {now.shipped if old.note else old.shipped} at BASE"


def judgements(side: Snapshot) -> str:
    """The file of the judgements on what a state ships."""
    return f"data/judgements/{side.shipped}.jsonl"


def judged(now: Snapshot, old: Snapshot) -> Rows | None:
    """The judgements on what each side ships; None where one is not kept, or is of an older form."""
    sides = [revision.rows(judgements(now)), revision.data(old, judgements(old))]
    found = sides if now.metrics else [None, None]
    ours, theirs = ([row for row in rows or [] if row.keys() >= KEYS] for rows in found)
    return (ours, theirs) if ours and theirs else None


def _paired(now: Snapshot, ours: Sequence[Judgement], theirs: Sequence[Judgement]) -> Metrics:
    margin = (now.params.get("compare") or {}).get("margin") or MARGIN
    return paired.difference(paired.matched(ours, theirs), now.params.get("seed") or 0, margin)


def _means(now: Snapshot, old: Snapshot) -> dict[str, Metrics]:
    """Differences of the means of both metrics, without an interval; {} for scores of different judges."""
    if (
        not headline.judges(old)
        or headline.judges(now) != headline.judges(old)
        or now.lock.get(TEST) != old.lock.get(TEST)
    ):
        return {}
    kinds = sorted(set(now.metric("compare", "by_type") or {}) & set(old.metric("compare", "by_type") or {}))
    places = {ALL: ("overall",), **{kind: ("by_type", kind) for kind in kinds}}
    found = {}
    for kind, place in places.items():
        mine, theirs = (side.metric("compare", *place, side.shipped) or {} for side in (now, old))
        if mine.get("score") is not None and theirs.get("score") is not None:
            gap = {"n": mine.get("n_scored"), "mean": mine["score"] - theirs["score"]}
            found[kind] = headline.with_all_keys(
                {**gap, "reason": f"the texts of {old.name} are not in the cache of DVC"}
            )
    return found


def changes(now: Snapshot, old: Snapshot) -> dict[str, Metrics]:
    """By type, and "all": the shipped score here less that at the revision, p-values of types Holm-corrected."""
    rows = judged(now, old)
    if rows is None:
        return _means(now, old)
    ours, theirs = rows
    kinds = sorted({row["type"] for row in ours} & {row["type"] for row in theirs})
    parts = {}
    for kind in kinds:
        part = [[row for row in side if row["type"] == kind] for side in (ours, theirs)]
        parts[kind] = _paired(now, part[0], part[1])
    for kind, p in intervals.holm({kind: part["p"] for kind, part in parts.items()}).items():
        parts[kind]["p_holm"] = p
    return {**parts, ALL: _paired(now, ours, theirs)}


def dimensions(now: Snapshot, old: Snapshot) -> dict[str, dict[str, Metrics]]:
    """The same by type and dimension; {} where the old judgements are not kept."""
    rows = judged(now, old)
    if rows is None:
        return {}
    margin = (now.params.get("compare") or {}).get("margin") or MARGIN
    return paired.differences(*rows, now.params.get("seed") or 0, margin)


def cell(found: Metrics | None) -> Markup:
    """A difference to the revision, or in a word why there is none."""
    if found is None:
        return html.text("–")
    if found["mean"] is not None:
        return change(found)
    return html.text("another judge" if (found.get("left_out") or {}).get("other_judge") else "–")


def sentence(now: Snapshot, old: Snapshot, found: dict[str, Metrics]) -> str:
    """The whole difference in a line, inside the noise of other seeds or not."""
    whole, sides = found.get(ALL), f"{now.shipped} here less {old.shipped} at {old.name}"
    if whole is None:
        judges = bool(headline.judges(old)) and headline.judges(now) != headline.judges(old)
        why = "other test records" if now.lock.get(TEST) != old.lock.get(TEST) else "nothing to compare with"
        return f"{sides}: {'another judge' if judges else why}"
    if whole["mean"] is None and (whole.get("left_out") or {}).get("other_judge"):
        return f"{sides}: another judge"
    if whole["low"] is None and whole["mean"] is not None:
        said = f"{signed(whole['mean'])}; no interval: {whole['reason']}"
        return f"{sides}: {said}{left_out(whole)}"
    # The noise of another seed was measured on tuned models only.
    wide = headline.seed_band(now) if now.shipped == old.shipped == "tuned" else None
    return f"{sides}: {paired.sentence(whole, wide)}{left_out(whole)}"


def left_out(found: Metrics) -> str:
    """What a paired difference does not cover; "" where it covers every text."""
    causes = {
        "other_judge": "by another judge",
        "other_item": "of another sheet",
        "absent": "on one side only",
        "unscored": "without a score",
    }
    gone = {words: n for key, words in causes.items() if (n := (found.get("left_out") or {}).get(key))}
    return f"; left out: {', '.join(f'{n} {words}' for words, n in gone.items())}" if gone else ""


def moved(now: Snapshot, old: Snapshot) -> tuple[list[tuple[Judgement, float, float]], float]:
    """(row, score at the revision, score here) of each text that one judge scored twice, and what is no change."""
    ours, theirs = judged(now, old) or ([], [])
    pair = paired.matched(ours, theirs)
    by = {str(row["id"]): row for row in ours}
    tie = (now.params.get("compare") or {}).get("tie") or 0
    return [(by[i], pair.right[i], pair.left[i]) for i in sorted(pair.left)], float(tie)


def flipped(now: Snapshot, old: Snapshot) -> tuple[list[str], list[str], int]:
    """Ids of shipped texts that pass strict here only, that passed it at the revision only, and how many there are."""
    sides = ((now, revision.rows(CHECKED)), (old, revision.data(old, CHECKED)))
    here, there = (
        {row["id"]: bool(row["strict"]) for row in rows or [] if row.get("system") == side.shipped}
        for side, rows in sides
    )
    ids = sorted(here.keys() & there.keys())
    return [i for i in ids if here[i] and not there[i]], [i for i in ids if there[i] and not here[i]], len(ids)


def _link(name: str) -> Markup:
    return el("a", name, href=f"#{quote(name, safe='/')}")


def _list(title: str, found: Sequence[tuple[Judgement, float, float]], old: Snapshot) -> Markup:
    rows = [[_link(row["id"]), row["type"], figure(a), figure(b), signed(b - a)] for row, a, b in found[:SHOWN]]
    made = table(["record", "type", old.name, "here", "change"], rows)
    return fold(f"{title}: {len(found)}", made) if found else NONE


def section(now: Snapshot, old: Snapshot) -> Markup:
    """Texts that improved or regressed, each with a link to its place in the browser of this page."""
    found, tie = moved(now, old)
    # Rounded: 4.8 - 4.75 is a little more than .05 to a computer.
    order = sorted(found, key=lambda entry: (entry[2] - entry[1], entry[0]["id"]))
    worse = [entry for entry in order if round(entry[1] - entry[2], 6) > tie]
    better = [entry for entry in reversed(order) if round(entry[2] - entry[1], 6) > tie]
    parts = [el("h3", "Texts"), el("p", sentence(now, old, changes(now, old)))]
    if found:
        words = f"{len(better)} of {len(found)} texts score higher than at {old.name}, {len(worse)} lower, the others"
        parts += [el("p", f"{words} within {tie:g} (compare.tie)."), _list("regressed", worse, old)]
        parts.append(_list("improved", better, old))
    gained, lost, n = flipped(now, old)
    if n:
        parts.append(el("p", f"{len(gained)} of {n} texts pass strict that did not, {len(lost)} no longer pass it."))
        for title, ids in (("no longer pass strict", lost), ("pass strict now", gained)):
            links = (el("li", _link(i)) for i in ids[:SHOWN])
            parts.append(fold(f"{title}: {len(ids)}", el("ul", *links)) if ids else NONE)
    return html.join(*parts)

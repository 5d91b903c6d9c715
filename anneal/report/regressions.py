"""Score changes of the shipped model against the compared revision, on the same records and judge.

The old judgements come from the DVC cache, so that both sides are paired text by text. Where the cache lacks them, the
difference is that of the means in compare.json and has no interval. Scores of different judges are not compared.
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
MARGIN = 0.1  # points; used where older params.yaml files lack compare.margin
KEYS = {"id", "item", "type", "outcome", "score", "judge_id", "dims"}
PairedRows = tuple[list[Judgement], list[Judgement]]  # of the working tree, and of the revision
ScoredTwice = tuple[Judgement, float, float]  # the row here, the score at the revision, the score here


def versus(now: Snapshot, old: Snapshot) -> str:
    """The heading of a column of differences; the text below the table names the revision."""
    return f"{now.shipped} − {now.shipped if old.note else old.shipped} at BASE"


def judgements(side: Snapshot) -> str:
    """The file of the judgements on the shipped model of a state."""
    return f"data/judgements/{side.shipped}.jsonl"


def stored_judgements(now: Snapshot, old: Snapshot) -> PairedRows | None:
    """The judgements on the shipped model of each side; None where one is not stored, or has an older form."""
    sides = [revision.rows(judgements(now)), revision.data(old, judgements(old))]
    if not now.metrics:
        return None
    ours, theirs = ([row for row in rows or [] if row.keys() >= KEYS] for rows in sides)
    return (ours, theirs) if ours and theirs else None


def _paired(now: Snapshot, ours: Sequence[Judgement], theirs: Sequence[Judgement]) -> Metrics:
    margin = (now.params.get("compare") or {}).get("margin") or MARGIN
    return paired.difference(paired.matched(ours, theirs), now.params.get("seed") or 0, margin)


def _means(now: Snapshot, old: Snapshot) -> dict[str, Metrics]:
    """Differences of the means in both compare.json, without an interval; {} for other judges or test records."""
    if (
        not headline.judges(old)
        or headline.judges(now) != headline.judges(old)
        or now.lock.get(TEST) != old.lock.get(TEST)
    ):
        return {}
    kinds = sorted(set(now.metric("compare", "by_type") or {}) & set(old.metric("compare", "by_type") or {}))
    places = {ALL: ("overall",), **{kind: ("by_type", kind) for kind in kinds}}
    differences = {}
    reason = f"the texts of {old.name} are not in the DVC cache"
    for kind, place in places.items():
        ours, theirs = (side.metric("compare", *place, side.shipped) or {} for side in (now, old))
        if ours.get("score") is not None and theirs.get("score") is not None:
            gap = {"n": ours.get("n_scored"), "mean": ours["score"] - theirs["score"]}
            differences[kind] = headline.with_all_keys({**gap, "reason": reason})
    return differences


def changes(now: Snapshot, old: Snapshot) -> dict[str, Metrics]:
    """By type, and "all": the shipped score here minus that at the revision, p-values of types Holm-corrected."""
    rows = stored_judgements(now, old)
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
    """The same by type and dimension; {} where the old judgements are not stored."""
    rows = stored_judgements(now, old)
    if rows is None:
        return {}
    margin = (now.params.get("compare") or {}).get("margin") or MARGIN
    return paired.differences(*rows, now.params.get("seed") or 0, margin)


def cell(difference: Metrics | None) -> Markup:
    """A difference to the revision, or the reason why there is none."""
    if difference is None:
        return html.text("–")
    if difference["mean"] is not None:
        return change(difference)
    return html.text("another judge" if (difference.get("left_out") or {}).get("other_judge") else "–")


def sentence(now: Snapshot, old: Snapshot, differences: dict[str, Metrics]) -> str:
    """The difference over all texts in one sentence, compared with training-seed noise where that was measured."""
    whole = differences.get(ALL)
    sides = f"{now.shipped} here minus {old.shipped} at {old.name}"
    if whole is None:
        other_judge = bool(headline.judges(old)) and headline.judges(now) != headline.judges(old)
        why = "different test records" if now.lock.get(TEST) != old.lock.get(TEST) else "nothing to compare with"
        return f"{sides}: {'another judge' if other_judge else why}"
    if whole["mean"] is None and (whole.get("left_out") or {}).get("other_judge"):
        return f"{sides}: another judge"
    if whole["low"] is None and whole["mean"] is not None:
        size = f"{signed(whole['mean'])}; no interval: {whole['reason']}"
        return f"{sides}: {size}{left_out(whole)}"
    # `make seeds` measures the noise on tuned models only.
    noise = headline.seed_band(now) if now.shipped == old.shipped == "tuned" else None
    return f"{sides}: {paired.sentence(whole, noise)}{left_out(whole)}"


def left_out(difference: Metrics) -> str:
    """The texts that a paired difference omits, by cause; "" where it covers every text."""
    causes = {
        "other_judge": "by another judge",
        "other_item": "with another fact sheet",
        "absent": "on one side only",
        "unscored": "without a score",
    }
    counts = difference.get("left_out") or {}
    parts = [f"{counts[key]} {words}" for key, words in causes.items() if counts.get(key)]
    return f"; left out: {', '.join(parts)}" if parts else ""


def paired_scores(now: Snapshot, old: Snapshot) -> tuple[list[ScoredTwice], float]:
    """Each text that one judge scored on both sides, and compare.tie: a smaller difference counts as no change."""
    ours, theirs = stored_judgements(now, old) or ([], [])
    pair = paired.matched(ours, theirs)
    row_by_id = {str(row["id"]): row for row in ours}
    tie = (now.params.get("compare") or {}).get("tie") or 0
    return [(row_by_id[i], pair.right[i], pair.left[i]) for i in sorted(pair.left)], float(tie)


def strict_changes(now: Snapshot, old: Snapshot) -> tuple[list[str], list[str], int]:
    """Ids of shipped texts that pass strict here only, ids of those that pass at the revision only, and n of both."""
    sides = ((now, revision.rows(CHECKED)), (old, revision.data(old, CHECKED)))
    here, there = (
        {row["id"]: bool(row["strict"]) for row in rows or [] if row.get("system") == side.shipped}
        for side, rows in sides
    )
    ids = sorted(here.keys() & there.keys())
    gained = [i for i in ids if here[i] and not there[i]]
    lost = [i for i in ids if there[i] and not here[i]]
    return gained, lost, len(ids)


def _link(name: str) -> Markup:
    return el("a", name, href=f"#{quote(name, safe='/')}")


def _list(title: str, texts: Sequence[ScoredTwice], old: Snapshot) -> Markup:
    if not texts:
        return NONE
    rows = [
        [_link(row["id"]), row["type"], figure(before), figure(after), signed(after - before)]
        for row, before, after in texts[:SHOWN]
    ]
    return fold(f"{title}: {len(texts)}", table(["record", "type", old.name, "here", "change"], rows))


def section(now: Snapshot, old: Snapshot) -> Markup:
    """Texts that improved or regressed, each with a link to its place in the browser of this page."""
    texts, tie = paired_scores(now, old)
    # Rounded, as 4.8 - 4.75 is slightly more than 0.05 in floating point.
    order = sorted(texts, key=lambda entry: (entry[2] - entry[1], entry[0]["id"]))
    worse = [entry for entry in order if round(entry[1] - entry[2], 6) > tie]
    better = [entry for entry in reversed(order) if round(entry[2] - entry[1], 6) > tie]
    parts = [el("h3", "Texts"), el("p", sentence(now, old, changes(now, old)))]
    if texts:
        words = f"{len(better)} of {len(texts)} texts score higher than at {old.name}, {len(worse)} lower, the others"
        parts += [el("p", f"{words} within {tie:g} (compare.tie)."), _list("regressed", worse, old)]
        parts.append(_list("improved", better, old))
    gained, lost, n = strict_changes(now, old)
    if n:
        parts.append(el("p", f"{len(gained)} of {n} texts newly pass strict, {len(lost)} no longer pass."))
        for title, ids in (("no longer pass strict", lost), ("newly pass strict", gained)):
            links = (el("li", _link(i)) for i in ids[:SHOWN])
            parts.append(fold(f"{title}: {len(ids)}", el("ul", *links)) if ids else NONE)
    return html.join(*parts)

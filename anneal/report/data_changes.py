"""Rows of the data files against the compared revision: counts, and added, removed and edited rows."""

from __future__ import annotations

from markupsafe import Markup

from anneal import html
from anneal.history import revision
from anneal.history.revision import Snapshot
from anneal.html import el, fold, table
from anneal.records import Record
from anneal.report.formatting import figure

FILES = {"filtered": "data/filtered.jsonl", **{name: f"data/{name}.jsonl" for name in ("train", "validation", "test")}}
SHOWN = 12  # ids of a list


def _count(snapshot: Snapshot, name: str, rows: list[Record] | None) -> int | None:
    """The number of rows of a file, from its rows or from the metric of the stage that writes it."""
    if rows is not None:
        return len(rows)
    place = ("filter", "kept") if name == "filtered" else ("split", "records", name)
    count = snapshot.metric(*place)
    return count if isinstance(count, int) else None


def section(now: Snapshot, old: Snapshot) -> Markup:
    """One row per data file, and the ids behind the counts."""
    rows, lists = [], []
    for name, path in FILES.items():
        here, there = revision.rows(path), revision.data(old, path)
        counts = [figure(_count(old, name, there)), figure(_count(now, name, here))]
        if here is None or there is None:
            same = bool(old.lock.get(path)) and old.lock.get(path) == now.lock.get(path)
            rows.append([path, *counts, *(["0"] * 3 if same else ["–"] * 3)])
            continue
        new, former = ({str(row["id"]): row for row in side if "id" in row} for side in (here, there))
        ids_by_change = {
            "added": sorted(new.keys() - former.keys()),
            "removed": sorted(former.keys() - new.keys()),
            "edited": sorted(i for i in new.keys() & former.keys() if new[i] != former[i]),
        }
        rows.append([path, *counts, *(figure(len(ids)) for ids in ids_by_change.values())])
        lists += [[f"{path}, {change}", _first(ids)] for change, ids in ids_by_change.items() if ids]
    counts_table = table(["file", old.name, "here", "added", "removed", "edited"], rows)
    more = fold("which rows", table(["", "ids"], lists, class_="words")) if lists else ""
    return html.join(el("h3", "Data"), counts_table, more)


def _first(ids: list[str]) -> str:
    """The first ids of a list, and the number of the others."""
    omitted = len(ids) - SHOWN
    return ", ".join(ids[:SHOWN]) + (f" and {omitted} more" if omitted > 0 else "")

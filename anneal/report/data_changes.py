"""The data's rows here and at the compared revision: how many, and which came, went or were edited."""

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
    """Rows of a file, by itself or by the metric of the stage that wrote it."""
    if rows is not None:
        return len(rows)
    place = ("filter", "kept") if name == "filtered" else ("split", "records", name)
    found = snapshot.metric(*place)
    return found if isinstance(found, int) else None


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
        new, gone = ({str(row["id"]): row for row in side if "id" in row} for side in (here, there))
        found = {
            "added": sorted(new.keys() - gone.keys()),
            "removed": sorted(gone.keys() - new.keys()),
            "edited": sorted(i for i in new.keys() & gone.keys() if new[i] != gone[i]),
        }
        rows.append([path, *counts, *(figure(len(ids)) for ids in found.values())])
        lists += [[f"{path}, {what}", _first(ids)] for what, ids in found.items() if ids]
    told = table(["file", old.name, "here", "added", "removed", "edited"], rows)
    more = fold("which rows", table(["", "ids"], lists, class_="words")) if lists else ""
    return html.join(el("h3", "Data"), told, more)


def _first(ids: list[str]) -> str:
    rest = len(ids) - SHOWN
    return ", ".join(ids[:SHOWN]) + (f" and {rest} more" if rest > 0 else "")

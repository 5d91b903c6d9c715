"""How a model learnt preferences: the curves of the training, and the held-out figures of its first and last state."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from anneal import html
from anneal.history.revision import Snapshot
from anneal.html import Safe, el, fold, table
from anneal.report import artifacts
from anneal.report.formatting import estimate, figure, listing

NONE = Safe("")
Found = dict[str, Any]
Curves = dict[str, list[tuple[float, float]]]
ALL = "all pairs"
# Charts of the training: columns that share one, and whether they are shares.
CHARTS = (
    (("accuracy", "validation_accuracy"), True), (("margin", "validation_margin"), False),
    (("logp_chosen", "logp_rejected"), False), (("reward",), False), (("zero_spread",), True), (("kl",), False),
    (("tokens",), False), (("cut",), True),
    (("loss", "validation_loss"), False),
)  # fmt: skip


def alarms(lines: Sequence[str]) -> Safe:
    return el("ul", *(el("li", line, class_="bad") for line in lines), class_="alerts") if lines else NONE


def charts(columns: Curves, extra: Sequence[str] = ()) -> Safe:
    """Small charts of the columns of a training, the `extra` ones as shares, and all of them as a table."""
    groups = [*CHARTS, *(((name,), True) for name in extra)]
    known = [({name: columns[name] for name in names if columns.get(name)}, share) for names, share in groups]
    drawn = [
        html.lines(f"{next(iter(found))} by training step", found, 130, 260, share) for found, share in known if found
    ]
    if not drawn:
        return NONE
    steps = sorted({x for points in columns.values() for x, _ in points})
    values = {name: dict(points) for name, points in columns.items()}
    rows = [[figure(int(step)), *(figure(found.get(step)) for found in values.values())] for step in steps]
    twin = fold("as a table", table(["step", *columns], rows))
    return html.join(el("div", *(el("div", chart) for chart in drawn), class_="small broad"), twin)


def section(now: Snapshot) -> Safe:
    """The run that made the aligned model: DPO on pairs or GRPO on rewards."""
    found: Found = now.metric("align") or {}
    if found.get("method") in (None, "none"):
        return NONE
    columns = artifacts.columns("reports/plots/align.tsv")
    names = (now.params.get("rewards") or {}).get("weights") or {}
    return html.join(
        el("h3", "Training by ", found["method"]), alarms(found.get("warnings") or []), _held_out(found), _ends(found),
        charts(columns, [name for name in names if name in columns]), fold("all of align.json", listing(found)),
    )  # fmt: skip


def _held_out(found: Found) -> Safe:
    """How often the chosen text of a held-out pair is the likelier one, before and after DPO."""
    before, after = found.get("before") or {}, found.get("after") or {}
    kinds = sorted(after.get("sum") or {}, key=lambda kind: (kind == "all", kind))
    places = [(side, way) for way in ("sum", "token") for side in (before, after)] + [(after, "reward")]
    rows = [
        [ALL if kind == "all" else kind, figure((after["sum"][kind] or {}).get("n")),
         *(estimate((side.get(way) or {}).get(kind)) for side, way in places)]
        for kind in kinds
    ]  # fmt: skip
    if not rows:
        return NONE
    head = ["strategy", "n", "likelier before", "likelier after", "by token before", "by token after", "gained more"]
    words = "Share of held-out pairs whose chosen text is the likelier one, as a whole and by token. gained more: it "
    words += "gained more than the rejected one did, which is what DPO asks for."
    moved = [
        f"{side} {figure(part.get('before'))} → {figure(part.get('after'))}"
        for side, part in (found.get("logp") or {}).items()
    ]
    line = f"Log-probability of a token of held-out pairs, before → after: {', '.join(moved)}." if moved else ""
    return html.join(table(head, rows), el("p", words, class_="soft"), el("p", line) if line else NONE)


def _ends(found: Found) -> Safe:
    """What GRPO logged first and last: rewards, and what its samples are like."""
    first, last = found.get("first") or {}, found.get("last") or {}
    rows = [[name, figure(first.get(name)), figure(last.get(name))] for name in sorted(first.keys() | last.keys())]
    if not rows:
        return NONE
    counts = [figure(found.get(key)) for key in ("steps", "prompts", "samples")]
    words = f"{counts[0]} steps of {counts[1]} training prompts with {counts[2]} samples of each; logged means:"
    return html.join(el("p", words), table(["", "first", "last"], rows))

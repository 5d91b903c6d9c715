"""The report as a gate: why the score of the model that would go out must not pass, in one line for each reason."""

from __future__ import annotations

import math

from anneal.errors import UserError
from anneal.history.revision import Snapshot
from anneal.report import alerts, headline, regressions
from anneal.report.formatting import signed, estimate_text

CLOSED = 3  # exit code; 1 is a report that could not be made, 2 a wrong command line
LOWEST, HIGHEST = 1.0, 5.0


def limit(name: str, raw: str | None, low: float, high: float) -> float | None:
    """A limit of the command line as a number, None where it was left out or is empty. UserError for any other."""
    if raw is None or not raw.strip():
        return None
    try:
        value = float(raw)
    except ValueError:
        value = math.nan
    if not low <= value <= high:
        raise UserError(f"{name}={raw}: a number from {low:g} to {high:g}; correct it or leave it out")
    return value


def reasons(now: Snapshot, old: Snapshot, least: float | None, most: float | None) -> list[str]:
    """Why the gate is closed; [] for open. `least` is of the shipped score, `most` of what it may lose against `old`.

    Both are held against the point estimate; the interval stands beside it, for whoever wants to be surer.
    """
    if least is None and most is None:
        return []
    if headline.with_all_keys(now.metric("compare", "difference"))["mean"] is None:
        return ["nothing is compared yet: `dvc repro` makes reports/metrics/compare.json"]
    found = [f"the score does not count: {why}"] if (why := headline.unusable(now)) else []
    found += alerts.stale(now)
    found += [f"the score does not count: {line}" for line in alerts.over_budget(now)]
    if now.metric("compare", "missing", "differs"):
        found.append(f"the score does not count: {now.metric('compare', 'missing', 'sentence')}")
    if least is not None:
        found += _under(now, least)
    if most is not None:
        found += _lost(now, old, most)
    return found


def _under(now: Snapshot, least: float) -> list[str]:
    column = now.metric("compare", "overall", now.shipped) or {}
    score = column.get("score")
    if score is None:
        return [f"{now.shipped} has no score; MIN_SCORE is {least:g}"]
    low, high = (column.get("intervals") or {}).get("score") or (None, None)
    said = estimate_text({"mean": score, "low": low, "high": high}, False)
    # Held against the mean with every failed judgement at worst: what was not judged earns nothing.
    worst = (column.get("bounds") or [score])[0]
    failed = f", {worst:.2f} with its failed judgements at worst" if round(score - worst, 6) else ""
    return [f"{now.shipped} scores {said}{failed}, under MIN_SCORE {least:g}"] if min(score, worst) < least else []


def _lost(now: Snapshot, old: Snapshot, most: float) -> list[str]:
    if old.note:
        return [f"MAX_REGRESSION has nothing to compare with: {old.note}"]
    found = regressions.changes(now, old)
    whole = found.get(regressions.ALL) or {}
    if whole.get("mean") is None:
        return [f"MAX_REGRESSION has nothing to compare with: {regressions.sentence(now, old, found)}"]
    # A text that cannot be compared may hide any loss, so that the gate does not open past it.
    if regressions.left_out(whole):
        return [f"MAX_REGRESSION cannot be held: {regressions.sentence(now, old, found)}"]
    if round(-whole["mean"], 6) <= most:
        return []
    ends = f"[{signed(whole['low'])}, {signed(whole['high'])}]" if whole["low"] is not None else "no interval"
    return [f"{now.shipped} lost {-whole['mean']:.2f} against {old.name} ({ends}), more than MAX_REGRESSION {most:g}"]

"""The report as a release gate: the reasons to reject the score of the shipped model, one line each."""

from __future__ import annotations

import math

from anneal.errors import UserError
from anneal.history.revision import Snapshot
from anneal.report import alerts, headline, regressions
from anneal.report.formatting import estimate_text, signed

CLOSED = 3  # exit code; 1 is a failed report, 2 a wrong command line
LOWEST, HIGHEST = 1.0, 5.0  # of the judge's scale


def limit(name: str, raw: str | None, low: float, high: float) -> float | None:
    """A limit of the command line as a number; None where it is absent or empty. UserError outside low to high."""
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
    """Why the gate is closed; [] for open. `least` limits the shipped score, `most` its loss against `old`, in points.

    Both limits apply to the point estimate, `least` with failed judgements at worst; the line shows the interval too.
    """
    if least is None and most is None:
        return []
    if headline.with_all_keys(now.metric("compare", "difference"))["mean"] is None:
        return ["no comparison yet: `dvc repro` writes reports/metrics/compare.json"]
    why = headline.unusable(now)
    lines = [f"the score is not valid: {why}"] if why else []
    lines += alerts.stale(now)
    lines += [f"the score is not valid: {line}" for line in alerts.over_budget(now)]
    if now.metric("compare", "missing", "differs"):
        lines.append(f"the score is not valid: {now.metric('compare', 'missing', 'sentence')}")
    if least is not None:
        lines += _below_minimum(now, least)
    if most is not None:
        lines += _regression(now, old, most)
    return lines


def _below_minimum(now: Snapshot, least: float) -> list[str]:
    column = now.metric("compare", "overall", now.shipped) or {}
    score = column.get("score")
    if score is None:
        return [f"{now.shipped} has no score; MIN_SCORE is {least:g}"]
    low, high = (column.get("intervals") or {}).get("score") or (None, None)
    size = estimate_text({"mean": score, "low": low, "high": high}, False)
    # The limit applies to the mean with every failed judgement at worst: a failure must not raise the score.
    worst = (column.get("bounds") or [score])[0]
    failed = f", {worst:.2f} with failed judgements at worst" if round(score - worst, 6) else ""
    return [f"{now.shipped} scores {size}{failed}, below MIN_SCORE {least:g}"] if min(score, worst) < least else []


def _regression(now: Snapshot, old: Snapshot, most: float) -> list[str]:
    if old.note:
        return [f"MAX_REGRESSION has nothing to compare with: {old.note}"]
    differences = regressions.changes(now, old)
    whole = differences.get(regressions.ALL) or {}
    if whole.get("mean") is None:
        return [f"MAX_REGRESSION has nothing to compare with: {regressions.sentence(now, old, differences)}"]
    # An omitted text may hide any loss, so the gate stays closed.
    if regressions.left_out(whole):
        return [f"MAX_REGRESSION cannot be checked: {regressions.sentence(now, old, differences)}"]
    if round(-whole["mean"], 6) <= most:
        return []
    ends = f"[{signed(whole['low'])}, {signed(whole['high'])}]" if whole["low"] is not None else "no interval"
    return [f"{now.shipped} lost {-whole['mean']:.2f} against {old.name} ({ends}), more than MAX_REGRESSION {most:g}"]

"""The judge card: detection rate of each injected defect, and the false-positive rate on sound texts.

All intervals are over items, as the texts of one item share their facts. A detection rate alone says nothing: a judge
that flags every text detects every defect, so that it is reported beside the share of sound texts that are not flagged.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from anneal import records
from anneal.judging import injected_defects
from anneal.records import Judgement, Metrics, Record
from anneal.stats import intervals, repeats

USABLE = 3.0  # the level "can be used after an edit" of every rubric
OWN = ("weak", "exaggerated", "fake")  # the strategies by which the pipeline writes rejected texts
BLIND = 0.5  # share of a defect's texts below their sound text, under which the judge does not see the defect


def flagged(row: Judgement) -> bool:
    """Whether the judge names a violation or finds the text not usable."""
    return bool(row["violations"]) or _score(row) < USABLE


def detected(rows: Sequence[Judgement], golden: Mapping[str, Judgement]) -> Metrics:
    """One defect: shares of its texts that score below and above their own sound text, and of those flagged."""
    scored = [row for row in rows if row["outcome"] == "ok" and row["id"] in golden]
    gaps = [_score(row) - _score(golden[row["id"]]) for row in scored]
    items = [row["item"] for row in scored]
    return {
        "n": len(rows),
        "outcomes": dict(Counter(row["outcome"] for row in rows)),
        "lower": intervals.rate([gap < 0 for gap in gaps], items).row(),
        "higher": intervals.rate([gap > 0 for gap in gaps], items).row(),
        "flagged": intervals.rate([flagged(row) for row in scored], items).row(),
    }


def over_rejected(rows: Sequence[Judgement], golden: Mapping[str, Judgement]) -> Metrics:
    """How often the reference scores above the rejected text of its record, a tie counting half."""
    scored = [row for row in rows if row["id"] in golden]
    gaps = [_score(golden[row["id"]]) - _score(row) for row in scored]
    estimate = intervals.share([0.5 * (1 + np.sign(gap)) for gap in gaps], [row["item"] for row in scored])
    return {**estimate.row(), "reason": intervals.why(estimate.row())}


def _score(row: Judgement) -> float:
    """The score of a row whose outcome is ok."""
    assert row["score"] is not None
    return row["score"]


def length(rows: Sequence[Judgement], texts: Mapping[str, str]) -> Metrics:
    """Points per doubling of the length among sound texts of one type: {slope, low, high, rho, n, reason}.

    Least squares with a constant for each type; standard error CR1 over items as in statsmodels, interval by t(C-1).
    rho is Spearman's, of the residuals after the mean of each type is taken away. All None where nothing varies.
    """
    from scipy.stats import spearmanr

    empty: Metrics = {"slope": None, "low": None, "high": None, "rho": None, "n": len(rows)}
    types, items = [row["type"] for row in rows], [row["item"] for row in rows]
    n, clusters, parameters = len(rows), len(set(items)), len(set(types)) + 1
    if n <= parameters or clusters < 2:
        return {**empty, "reason": f"too few: {n} texts of {clusters} items"}
    x = _centred([np.log2(max(1, len(texts[row["id"]]))) for row in rows], types)
    y = _centred([_score(row) for row in rows], types)
    if not x.any() or not y.any():
        return {**empty, "reason": f"no variance: {'lengths' if y.any() else 'scores'} of a type are all the same"}
    slope = float(x @ y / (x @ x))
    # Sums of the score contributions of each item, items in name order so that the last bit is always the same.
    sums = dict.fromkeys(sorted(set(items)), 0.0)
    for item, contribution in zip(items, x * (y - slope * x), strict=True):
        sums[item] += float(contribution)
    correction = clusters / (clusters - 1) * (n - 1) / (n - parameters)
    half = intervals.quantile(clusters, (1 + intervals.LEVEL) / 2) * float(
        np.sqrt(correction * sum(total * total for total in sums.values()))
    )
    half /= float(x @ x)
    rho = float(spearmanr(x, y).statistic)
    return {"slope": slope, "low": slope - half, "high": slope + half, "rho": rho, "n": n, "reason": ""}


def _centred(values: Sequence[float], types: Sequence[str]) -> np.ndarray:
    """The values less the mean of their type; differences of rounding alone are 0."""
    x, groups = np.asarray(values, dtype=float), np.asarray(types)
    for kind in set(types):
        x[groups == kind] -= x[groups == kind].mean()
    return np.where(np.abs(x) < intervals.TINY, 0.0, x)


def blind(defects: Mapping[str, Metrics]) -> list[str]:
    """The defects that this judge does not see, a line each with its counts."""
    lines = []
    for name, metrics in defects.items():
        n, lower, higher = metrics["lower"]["n"], metrics["lower"]["mean"], metrics["higher"]["mean"]
        if n and lower < BLIND:
            lines.append(f"{name}: {round(lower * n)} of {n} found")
        if n and higher and name in injected_defects.NEVER_WINS:
            lines.append(f"{name}: {round(higher * n)} of {n} score above their own sound text")
    return lines


def summary(rows: Sequence[Judgement], golden: Sequence[Judgement], test: Sequence[Record]) -> Metrics:
    """All metrics of the card, from its rows, the judgements of the references and the test records."""
    sound = [row for row in golden if row["outcome"] == "ok"]
    by_id = {row["id"]: row for row in sound}
    scored = [row for row in rows if row["outcome"] == "ok"]
    defects: dict[str, Metrics] = {}
    for name in dict.fromkeys(row["defect"] for row in rows):
        metrics = detected([row for row in rows if row["defect"] == name], by_id)
        defects[name] = {**metrics, "held_out": name in injected_defects.HELD_OUT}
    unflagged = intervals.rate([not flagged(row) for row in sound], [row["item"] for row in sound])
    return {
        "defects": defects,
        "sound": {"n": len(golden), "unflagged": unflagged.row()},
        "over_rejected": over_rejected([row for row in scored if row["defect"] in OWN], by_id),
        "flips": None,
        "flips_reason": "pairwise verdicts are in prefer.json",
        "length": length(sound, {record["id"]: records.golden(record) for record in test}),
        "repeats": repeats.summary(golden),
        "blind_to": blind(defects),
        "tokens": {name: sum(row["tokens"][i] for row in rows) for i, name in enumerate(("in", "out"))},
    }


def _share(row: Metrics, key: str = "mean") -> str:
    if row[key] is None:
        return "none was judged" if not row["n"] else row["reason"]
    return f"{row[key]:.2f}" + (f" ({row['low']:.2f} to {row['high']:.2f})" if row["low"] is not None else "")


def table(metrics: Metrics) -> str:
    """The card as Markdown: a row for each defect, then the sound texts, length, repeats and what stays unseen."""
    lines = ["| defect | texts | below its sound text | flagged | above it |", "| --- | --- | --- | --- | --- |"]
    for name, row in metrics["defects"].items():
        shares = " | ".join(_share(row[key]) for key in ("lower", "flagged", "higher"))
        lines.append(f"| {name}{' (words held out)' if row['held_out'] else ''} | {row['lower']['n']} | {shares} |")
    sound, rejected = metrics["sound"]["unflagged"], metrics["over_rejected"]
    lines += ["", f"Sound texts that are not flagged: {_share(sound)} of {sound['n']}."]
    if rejected["n"]:
        lines.append(f"Golden over its rejected text, ties half: {_share(rejected)} of {rejected['n']}.")
    slope = metrics["length"]
    rho = f", Spearman's rho {slope['rho']:.2f}" if slope["rho"] is not None else ""
    lines.append(f"Points per doubling of the length of a sound text: {_share(slope, 'slope')}{rho}.")
    again = metrics["repeats"]
    stability = f"{again['same']:.2f} of {again['n']} texts score the same" if again["n"] else again["reason"]
    lines.append(f"Judged again: {stability}.")
    lines += [f"Cannot see {line}." for line in metrics["blind_to"]]
    lines += [f"Left out: {name} ({reason})." for name, reason in metrics["left_out"].items()]
    return "\n".join(lines)

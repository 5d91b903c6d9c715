"""Figures of the judge card, from its rows: what was found of each defect, and what sound texts pay for it.

Everything is over items, as the texts of one item share its facts. A share of found defects alone says nothing: a
judge that flags every text finds them all, so that it stands beside the share of sound texts left in peace.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from anneal import records
from anneal.judging import injected_defects
from anneal.records import Metrics, Record
from anneal.stats import intervals, repeats

USABLE = 3.0  # "can be used after an edit" in every rubric
OWN = ("weak", "exaggerated", "fake")  # kinds of the worse answers that the pipeline makes itself


def flagged(row: Record) -> bool:
    return bool(row["violations"]) or row["score"] < USABLE


def detected(rows: Sequence[Record], golden: Mapping[str, Record]) -> Metrics:
    """One defect: shares of its texts below and above their own sound text, and of those flagged, over items."""
    both = [(row, golden[row["id"]]["score"]) for row in rows if row["outcome"] == "ok" and row["id"] in golden]
    items = [row["item"] for row, _ in both]
    return {
        "n": len(rows),
        "outcomes": dict(Counter(row["outcome"] for row in rows)),
        "lower": intervals.rate([row["score"] < own for row, own in both], items).row(),
        "higher": intervals.rate([row["score"] > own for row, own in both], items).row(),
        "flagged": intervals.rate([flagged(row) for row, _ in both], items).row(),
    }


def over_rejected(rows: Sequence[Record], golden: Mapping[str, Record]) -> Metrics:
    """How often the golden text beats the worse one that was made for it, a tie counting half."""
    both = [(golden[r["id"]]["score"] - r["score"], r["item"]) for r in rows if r["id"] in golden]
    estimate = intervals.share([0.5 * (1 + np.sign(gap)) for gap, _ in both], [item for _, item in both])
    return {**estimate.row(), "reason": intervals.why(estimate.row())}


def length(rows: Sequence[Record], texts: Mapping[str, str]) -> Metrics:
    """Points per doubling of the length among sound texts of one type: least squares with a constant for each type.

    Standard error CR1 over items, as statsmodels has it, interval by t(C-1); rho is Spearman's of what is left of both
    when the mean of the type is taken away. All None where nothing varies.
    """
    from scipy.stats import spearmanr

    empty: Metrics = {"slope": None, "low": None, "high": None, "rho": None, "n": len(rows)}
    kinds, items = [row["type"] for row in rows], [row["item"] for row in rows]
    n, count, fitted = len(rows), len(set(items)), len(set(kinds)) + 1
    if n <= fitted or count < 2:
        return {**empty, "reason": f"too few: {n} texts of {count} items"}
    x = _centred([np.log2(max(1, len(texts[row["id"]]))) for row in rows], kinds)
    y = _centred([row["score"] for row in rows], kinds)
    if not x.any() or not y.any():
        return {**empty, "reason": f"no variance: {'lengths' if y.any() else 'scores'} of a type are all the same"}
    slope = float(x @ y / (x @ x))
    sums = dict.fromkeys(sorted(set(items)), 0.0)
    for item, each in zip(items, x * (y - slope * x), strict=True):
        sums[item] += float(each)
    scale = count / (count - 1) * (n - 1) / (n - fitted)
    half = intervals.quantile(count, (1 + intervals.LEVEL) / 2) * float(
        np.sqrt(scale * sum(s * s for s in sums.values()))
    )
    half /= float(x @ x)
    rho = float(spearmanr(x, y).statistic)
    return {"slope": slope, "low": slope - half, "high": slope + half, "rho": rho, "n": n, "reason": ""}


def _centred(values: Sequence[float], kinds: Sequence[str]) -> np.ndarray:
    x, found = np.asarray(values, dtype=float), np.asarray(kinds)
    for kind in set(kinds):
        x[found == kind] -= x[found == kind].mean()
    return np.where(np.abs(x) < intervals.TINY, 0.0, x)


def blind(defects: Mapping[str, Metrics]) -> list[str]:
    """What this judge does not see, in words with figures."""
    lines = []
    for name, found in defects.items():
        n, lower, higher = found["lower"]["n"], found["lower"]["mean"], found["higher"]["mean"]
        if n and lower < 0.5:
            lines.append(f"{name}: {round(lower * n)} of {n} found")
        if n and higher and name in injected_defects.NEVER_WINS:
            lines.append(f"{name}: {round(higher * n)} of {n} score above their own sound text")
    return lines


def summary(rows: Sequence[Record], golden: Sequence[Record], test: Sequence[Record]) -> Metrics:
    """The figures of the card from its rows, the judgements of the golden texts and the records themselves."""
    sound = [row for row in golden if row["outcome"] == "ok"]
    own, ok = {row["id"]: row for row in sound}, [row for row in rows if row["outcome"] == "ok"]
    defects = {
        name: detected([row for row in rows if row["defect"] == name], own)
        for name in dict.fromkeys(row["defect"] for row in rows)
    }
    clear = intervals.rate([not flagged(row) for row in sound], [row["item"] for row in sound])
    return {
        "defects": {name: {**each, "held_out": name in injected_defects.HELD_OUT} for name, each in defects.items()},
        "sound": {"n": len(golden), "unflagged": clear.row()},
        "over_rejected": over_rejected([row for row in ok if row["defect"] in OWN], own),
        "flips": None,
        "flips_reason": "pairwise verdicts are in prefer.json",
        "length": length(sound, {r["id"]: records.golden(r) for r in test}),
        "repeats": repeats.summary(golden),
        "blind_to": blind(defects),
        "tokens": {name: sum(row["tokens"][i] for row in rows) for i, name in enumerate(("in", "out"))},
    }


def _share(row: Metrics, key: str = "mean") -> str:
    if row[key] is None:
        return "none was judged" if not row["n"] else row["reason"]
    return f"{row[key]:.2f}" + (f" ({row['low']:.2f} to {row['high']:.2f})" if row["low"] is not None else "")


def table(numbers: Metrics) -> str:
    """The card as Markdown: what was found of each defect, what sound texts were spared, what stays unseen."""
    lines = ["| defect | texts | below its sound text | flagged | above it |", "| --- | --- | --- | --- | --- |"]
    for name, each in numbers["defects"].items():
        shares = " | ".join(_share(each[key]) for key in ("lower", "flagged", "higher"))
        lines.append(f"| {name}{' (words held out)' if each['held_out'] else ''} | {each['lower']['n']} | {shares} |")
    sound, worse, slope = numbers["sound"]["unflagged"], numbers["over_rejected"], numbers["length"]
    lines += ["", f"Sound texts that are not flagged: {_share(sound)} of {sound['n']}."]
    lines += [f"Golden over its rejected text, ties half: {_share(worse)} of {worse['n']}."] if worse["n"] else []
    rho = f", Spearman's rho {slope['rho']:.2f}" if slope["rho"] is not None else ""
    lines += [f"Points per doubling of the length of a sound text: {_share(slope, 'slope')}{rho}."]
    again = numbers["repeats"]
    told = f"{again['same']:.2f} of {again['n']} texts score the same" if again["n"] else again["reason"]
    lines += [f"Judged again: {told}."]
    lines += [f"Cannot see {line}." for line in numbers["blind_to"]]
    return "\n".join([*lines, *(f"Left out: {name} ({why})." for name, why in numbers["left_out"].items())])

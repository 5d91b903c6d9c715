"""What a filter did to the records, in numbers: by type, by feature, and what another percentile would keep."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from . import features
from .density import Density
from .mixture import Fit

Record = dict[str, Any]
CURVE = (1, 2, 5, 10, 25)  # percentiles reported beside the chosen one
_BINS, _SHOWN = 30, 10


def by_type(records: Sequence[Record], kept: Sequence[Record]) -> dict[str, Record]:
    """Per type: how many stay and how long they are. Flagged is a type that loses over twice the average share."""
    average = 1 - len(kept) / len(records)
    found: dict[str, Record] = {}
    for kind in sorted({r["type"] for r in records}):
        before, after = ([len(r["text"]) for r in rows if r["type"] == kind] for rows in (records, kept))
        share = len(after) / len(before)
        lengths = {"length": float(np.mean(before)), "length_kept": float(np.mean(after))}
        found[kind] = {"n": len(before), "kept": len(after), "retention": share, **lengths}
        found[kind]["flagged"] = 1 - share > 2 * average
    return found


def by_feature(records: Sequence[Record], kept: Sequence[Record], density: Density) -> dict[str, Record]:
    """Mean and deviation of each feature before and after: a filter that moves a mean changes what is taught."""
    found: dict[str, Record] = {name: {} for name in density.features}
    for suffix, rows in (("", records), ("_kept", kept)):
        columns = features.values(rows, density.features, density.log).T
        for name, column in zip(density.features, columns, strict=True):
            found[name] |= {f"mean{suffix}": float(np.nanmean(column)), f"sd{suffix}": float(np.nanstd(column))}
    return found


def likelihood(fit: Fit, scored: Sequence[Record], kept: Sequence[Record], dropped: Sequence[Record]) -> Record:
    """How the density was chosen, what other percentiles would keep of `scored`, and what lies at the cut."""
    types = [r["type"] for r in scored]
    curve = {}
    for percentile in CURVE:
        cut = float(np.percentile(fit.scores[np.isfinite(fit.scores)], percentile))
        passed = Counter(kind for kind, high in zip(types, fit.scores >= cut, strict=True) if high)
        least = min((passed[kind] / n, kind) for kind, n in Counter(types).items())
        curve[f"p{percentile}"] = {"threshold": cut, "kept": passed.total(), "least": dict([least[::-1]])}
    low = sorted((r["log_prob"], r["id"]) for r in kept)[:_SHOWN]
    high = sorted(((r["value"], r["id"]) for r in _unlikely(dropped)), reverse=True)[:_SHOWN]
    return {
        "n": len(scored), "features": fit.model.units.features, "chosen": fit.candidates[0], "bic": fit.candidates,
        "percentile": fit.model.percentile, "threshold": fit.model.threshold, "curve": curve,
        "lowest_kept": [{"id": name, "log_prob": score} for score, name in low],
        "highest_dropped": [{"id": name, "log_prob": score} for score, name in high],
    }  # fmt: skip


def _unlikely(dropped: Sequence[Record]) -> list[Record]:
    return [r for r in dropped if r["rule"] == "density" and r["value"] is not None]


def histogram(kept: Sequence[Record], dropped: Sequence[Record]) -> str:
    """Counts of log-probabilities as TSV; what lies further out than the bins is counted in the first of them."""
    scores, out = [r["log_prob"] for r in kept], [r["value"] for r in _unlikely(dropped)]
    low, high = min(scores), max(scores)
    # One broken text far out would press all others into one bin.
    edges = np.linspace(max(min(scores + out), low - (high - low)), high, _BINS + 1)
    counts = [np.histogram(np.clip(part, edges[0], edges[-1]), edges)[0].tolist() for part in (scores, out)]
    rows = [f"{edge:.4f}\t{a}\t{b}" for edge, a, b in zip(edges[:-1].tolist(), *counts, strict=True)]
    return "\n".join(["log_prob\tkept\tdropped", *rows]) + "\n"

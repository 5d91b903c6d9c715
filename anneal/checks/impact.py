"""Impact of the filter on the records: by type, feature and name, and retention at other percentiles."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from anneal.checks import features
from anneal.checks.density import Density
from anneal.checks.density_fit import Fit
from anneal.records import Metrics, Record, Row

CURVE = (1, 2, 5, 10, 25)  # percentiles reported beside the chosen one
_BINS = 30  # of the histogram
_SHOWN = 10  # texts reported on either side of the threshold
_QUANTILES = {"p5": 5, "p50": 50, "p95": 95}


def by_type(records: Sequence[Record], kept: Sequence[Record]) -> dict[str, Metrics]:
    """Per type: retention, and mean length in characters. Flags a type that loses over twice the average share."""
    average = 1 - len(kept) / len(records)
    impact: dict[str, Metrics] = {}
    for kind in sorted({r["type"] for r in records}):
        before, after = ([len(r["text"]) for r in rows if r["type"] == kind] for rows in (records, kept))
        share = len(after) / len(before)
        lengths = {"length": float(np.mean(before)), "length_kept": float(np.mean(after))}
        impact[kind] = {"n": len(before), "kept": len(after), "retention": share, **lengths}
        impact[kind]["flagged"] = 1 - share > 2 * average
    return impact


def _distance(before: npt.NDArray[np.float64], after: npt.NDArray[np.float64]) -> float:
    """Two-sample Kolmogorov-Smirnov statistic D: maximum difference of the empirical distribution functions, 0 to 1."""
    points = np.unique(np.concatenate([before, after]))
    shares = [np.searchsorted(np.sort(part), points, side="right") / len(part) for part in (before, after)]
    return float(np.abs(shares[0] - shares[1]).max())


def by_feature(records: Sequence[Record], kept: Sequence[Record], density: Density) -> dict[str, Metrics]:
    """Each feature before and after the filter, in the units of the density: a moved mean changes what a model learns.

    `ks` is the distance of the two distributions; it reveals a cut tail even where mean and deviation stay the same.
    """
    impact: dict[str, Metrics] = {name: {} for name in density.features}
    columns = [features.values(rows, density.features, density.log).T for rows in (records, kept)]
    for name, *both in zip(density.features, *columns, strict=True):
        before, after = (column[~np.isnan(column)] for column in both)
        if not len(after):  # a rare feature: all records with it were rejected by other rules
            continue
        for suffix, numbers in (("", before), ("_kept", after)):
            impact[name] |= {f"mean{suffix}": float(np.mean(numbers)), f"sd{suffix}": float(np.std(numbers))}
            impact[name] |= {f"{key}{suffix}": float(np.percentile(numbers, q)) for key, q in _QUANTILES.items()}
        impact[name]["ks"] = _distance(before, after)
    return impact


def by_name(records: Sequence[Record], kept: Sequence[Record], paths: Sequence[str]) -> dict[str, Metrics]:
    """Per categorical path: how many of each name stay, and the total variation between its shares before and after.

    Every name is a stratum: flagged is one that loses over twice the average share. Total variation is half the sum of
    the absolute differences, the share of the records that would have to change their name.
    """
    average = 1 - len(kept) / len(records)
    impact: dict[str, Metrics] = {}
    for path in paths:
        before, after = (Counter(str(features.field(r, path)) for r in rows) for rows in (records, kept))
        moved = sum(abs(before[name] / len(records) - after[name] / len(kept)) for name in before) / 2
        names = {
            name: {
                "n": n,
                "kept": after[name],
                "share": n / len(records),
                "share_kept": after[name] / len(kept),
                "retention": after[name] / n,
                "flagged": 1 - after[name] / n > 2 * average,
            }
            for name, n in sorted(before.items())
        }
        impact[path] = {"total_variation": moved, "names": names}
    return impact


def likelihood(fit: Fit, scored: Sequence[Record], kept: Sequence[Record], dropped: Sequence[Row]) -> Metrics:
    """Model selection of the density, retention of `scored` at other percentiles, and the texts at the threshold."""
    types = [r["type"] for r in scored]
    curve = {}
    for percentile in CURVE:
        cut = float(np.percentile(fit.scores[np.isfinite(fit.scores)], percentile))
        passed = Counter(kind for kind, high in zip(types, fit.scores >= cut, strict=True) if high)
        least = min((passed[kind] / n, kind) for kind, n in Counter(types).items())
        curve[f"p{percentile}"] = {"threshold": cut, "kept": passed.total(), "least": dict([least[::-1]])}
    low = sorted(kept, key=lambda r: (r["log_prob"], r["id"]))[:_SHOWN]
    high = sorted(_unlikely(dropped), key=lambda r: (r["value"], r["id"]), reverse=True)[:_SHOWN]
    return {
        "n": len(scored),
        "features": fit.model.units.features,
        "chosen": fit.candidates[0],
        "bic": fit.candidates,
        "percentile": fit.model.percentile,
        "threshold": fit.model.threshold,
        "curve": curve,
        "names": by_name(scored, kept, list(fit.model.tables)),
        "lowest_kept": [{"id": r["id"], "log_prob": r["log_prob"], "text": r["text"]} for r in low],
        "highest_dropped": [{"id": r["id"], "log_prob": r["value"], "text": r["text"]} for r in high],
    }


def _unlikely(dropped: Sequence[Row]) -> list[Row]:
    return [r for r in dropped if r["rule"] == "density" and r["value"] is not None]


def histogram(kept: Sequence[Record], dropped: Sequence[Row]) -> str:
    """Histogram of log-probabilities (nats) as TSV; values below the first bin are counted in it."""
    scores, out = [r["log_prob"] for r in kept], [r["value"] for r in _unlikely(dropped)]
    low, high = min(scores), max(scores)
    # A single outlier would squeeze all other texts into one bin.
    edges = np.linspace(max(min(scores + out), low - (high - low)), high, _BINS + 1)
    counts = [np.histogram(np.clip(part, edges[0], edges[-1]), edges)[0].tolist() for part in (scores, out)]
    rows = [f"{edge:.4f}\t{a}\t{b}" for edge, a, b in zip(edges[:-1].tolist(), *counts, strict=True)]
    return "\n".join(["log_prob\tkept\tdropped", *rows]) + "\n"

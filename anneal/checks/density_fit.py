"""Fits the density: a Gaussian mixture chosen by BIC, with cross-fitted scores of the records."""

from __future__ import annotations

import hashlib
import math
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from anneal.checks.density import Density, Floats, Model, Shape, Units, log_prob
from anneal.checks.features import FEATURES, field, values
from anneal.errors import UserError
from anneal.records import Record


@dataclass(frozen=True)
class Fit:
    """A fitted density, with the scores of its own records by the models of their folds."""

    model: Model
    scores: Floats  # out-of-fold log-probabilities of the records; -inf where a feature is missing
    candidates: list[dict[str, Any]]  # components, shape, parameters, bic, converged; least bic first
    parts: list[Model]  # by fold; each is fitted on all other folds

    def inside(self, records: Sequence[Mapping[str, Any]]) -> list[bool]:
        """Whether each text {id, type, text} lies in the distribution, by the part that has not seen the record of its
        id. Other texts for a record the fit was made on need this too: the whole fit knows the right one."""
        models = [self.parts[_fold(record, len(self.parts))] for record in records]
        scores = [float(log_prob(part, [record])[0]) for part, record in zip(models, records, strict=True)]
        return [score >= self.model.threshold for score in scores]


def _units(records: Sequence[Record], density: Density) -> Units:
    columns = values(records, density.features, density.log)
    kinds = np.array([r["type"] for r in records])
    centres: dict[str, dict[str, float]] = {}
    for name, column in zip(density.features, columns.T, strict=True):
        known = ~np.isnan(column)
        if not known.any():
            names = ", ".join(FEATURES)
            raise UserError(f"params.yaml: filter.density.features: no text has {name!r}; known: {names}, a JSON path")
        if name in density.relative:
            centres[name] = {str(k): float(np.median(column[known & (kinds == k)])) for k in np.unique(kinds[known])}
            centres[name][""] = float(np.median(column[known]))
            column -= [centres[name].get(str(kind), centres[name][""]) for kind in kinds]
    scale = np.nanstd(columns, axis=0)
    # A constant feature carries no information, and its variance of zero would add nats of density to every record.
    keep = np.flatnonzero(scale > 1e-9).tolist()
    if not keep:
        raise UserError(f"params.yaml: filter.density.features: none varies over {len(records)} records; name another")
    features = [density.features[column] for column in keep]
    return Units(
        features=features,
        log=[name for name in features if name in density.log],
        centres={name: centres[name] for name in features if name in centres},
        mean=np.nanmean(columns[:, keep], axis=0).tolist(),
        scale=scale[keep].tolist(),
    )


def _table(names: Sequence[str]) -> dict[str, float]:
    """Log-probabilities with one added to every count, the unseen value's included (Laplace)."""
    counts = Counter(names)
    total = len(names) + len(counts) + 1
    return {name: math.log((count + 1) / total) for name, count in sorted([*counts.items(), ("", 0)])}


def _mixture(points: Floats, components: int, shape: Shape, reg_covar: float, seed: int) -> Any:
    from sklearn.mixture import GaussianMixture
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    mixture = GaussianMixture(
        components, covariance_type=shape, reg_covar=reg_covar, max_iter=500, n_init=3, random_state=seed
    )
    # One thread: a sum split over another number of cores has other last digits. Convergence is in the BIC table.
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return mixture.fit(points)


def _candidates(points: Floats, density: Density, seed: int) -> list[dict[str, Any]]:
    """Mixtures with enough rows per parameter, by BIC; one diagonal Gaussian is always among them."""
    rows, width = points.shape
    candidates = []
    for k in range(1, density.components + 1):
        shapes: dict[Shape, int] = {"diag": width, "full": width * (width + 1) // 2}
        for shape, size in shapes.items():
            parameters = k - 1 + k * (width + size)
            # Too many parameters overfit: 4 full covariances on 60 rows pass 37 % at their p5.
            if (k, shape) == (1, "diag") or rows >= density.rows_per_parameter * parameters:
                fit = _mixture(points, k, shape, density.reg_covar, seed)
                row = {"components": k, "shape": shape, "parameters": parameters}
                candidates.append({**row, "bic": float(fit.bic(points)), "converged": bool(fit.converged_)})
    return sorted(candidates, key=lambda row: (not row["converged"], row["bic"]))


def _fold(record: Mapping[str, Any], folds: int) -> int:
    """Fold number from a hash of the id, so that a new record changes the fold of no other record."""
    return int.from_bytes(hashlib.blake2b(record["id"].encode(), digest_size=8).digest(), "big") % folds


def fit(records: Sequence[Record], density: Density, seed: int) -> Fit:
    """Choose by BIC, score every record by a mixture that has not seen it, and fit the model on all of them.

    The threshold is a percentile of the out-of-fold scores: after a fit on 60 rows of 8 features, 81 % of new rows
    pass the 5th percentile of its own scores and 97 % pass this one. Raises UserError for too few records.
    """
    units = _units(records, density)
    points = units.points(records)
    complete = ~np.isnan(points).any(axis=1)
    if complete.sum() < 2 * density.folds:
        raise UserError(f"filter.density: {complete.sum()} records for {density.folds} folds; give it more records")
    candidates = _candidates(points[complete], density, seed)
    digest = hashlib.blake2b(digest_size=16)
    for record in sorted(records, key=lambda r: str(r["id"])):
        digest.update(f"{record['id']}\0{record['text']}\0".encode())
    shape, size = candidates[0]["shape"], candidates[0]["components"]
    fixed = {"units": units, "shape": shape, "percentile": density.percentile, "fit_on": digest.hexdigest()}

    def learn(rows: npt.NDArray[np.bool_], threshold: float) -> Model:
        best = _mixture(points[rows & complete], size, shape, density.reg_covar, seed)
        chosen = [record for record, taken in zip(records, rows, strict=True) if taken]
        tables = {path: _table([str(field(record, path)) for record in chosen]) for path in density.categorical}
        matrices = [np.diag(c).tolist() if shape == "diag" else c.tolist() for c in best.covariances_]
        mixture = {"weights": best.weights_.tolist(), "means": best.means_.tolist(), "covariances": matrices}
        return Model(**fixed, **mixture, tables=tables, threshold=threshold)

    folds = np.array([_fold(record, density.folds) for record in records])
    scores = np.full(len(records), -np.inf)
    parts = [learn(folds != fold, 0.0) for fold in range(density.folds)]
    for fold, part in enumerate(parts):
        held = np.flatnonzero(folds == fold).tolist()
        scores[held] = log_prob(part, [records[row] for row in held])
    threshold = float(np.percentile(scores[complete], density.percentile))
    return Fit(learn(np.ones(len(records), dtype=bool), threshold), scores, candidates, parts)

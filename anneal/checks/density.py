"""How usual a text is among those of its kind: a Gaussian mixture over features, kept as plain JSON.

A log-probability is that of standardised features, so that only differences between records mean something. A model
is data: features, units, mixture, tables and threshold; scoring it takes NumPy alone and unpickles nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field, ValidationError, model_validator

from anneal.checks.features import field, values
from anneal.errors import UserError
from anneal.params import Count, Section

Floats = npt.NDArray[np.float64]
Shape = Literal["full", "diag"]


class Density(Section):
    """A name that is no text feature is a dotted path into the JSON object that the text holds."""

    percentile: Annotated[float, Field(ge=0, lt=50)]
    folds: Annotated[int, Field(ge=2)]
    components: Count  # the most components that are tried
    rows_per_parameter: Count  # rows that each free parameter of the mixture needs
    reg_covar: Annotated[float, Field(gt=0)]  # added to every variance, in standardised units
    features: list[str]
    log: list[str]  # features that enter as log(1 + value), such as lengths
    relative: list[str]  # features taken as the difference from the median of the record's type
    categorical: list[str]  # paths whose values are names; each adds its smoothed log-probability

    @model_validator(mode="after")
    def _of_features(self) -> Self:
        if strange := [name for name in (*self.log, *self.relative) if name not in self.features]:
            raise ValueError(f"{strange[0]} of log or relative is not one of the features")
        return self


class Units(Section):
    """Which features are modelled, and in which units."""

    features: list[str]
    log: list[str]
    centres: dict[str, dict[str, float]]  # relative feature -> type -> median; "" for a type never seen
    mean: list[float]
    scale: list[float]

    def points(self, records: Sequence[Mapping[str, Any]]) -> Floats:
        """Standardised features, shape (records, features); NaN where a record lacks one."""
        found = values(records, self.features, self.log)
        for name, medians in self.centres.items():
            found[:, self.features.index(name)] -= [medians.get(r["type"], medians[""]) for r in records]
        return np.asarray((found - np.array(self.mean)) / np.array(self.scale))


class Model(Section):
    """Everything that scores a record."""

    units: Units
    shape: Shape
    weights: list[float]
    means: list[list[float]]
    covariances: list[list[list[float]]]
    tables: dict[str, dict[str, float]]  # path -> value -> log-probability; "" for a value never seen
    threshold: float
    percentile: float
    fit_on: str  # hash of the records: a threshold is good for the distribution it was fitted on


def _parts(model: Model, points: Floats) -> Floats:
    """Log-density of each weighted component at points (records, features); shape (components, records)."""
    parts = []
    for weight, mean, covariance in zip(model.weights, model.means, model.covariances, strict=True):
        factor = np.linalg.cholesky(np.array(covariance))
        away = np.linalg.solve(factor, (points - np.array(mean)).T)
        constant = points.shape[1] * math.log(2 * math.pi) / 2 + np.log(np.diag(factor)).sum()
        parts.append(math.log(weight) - constant - (away**2).sum(axis=0) / 2)
    return np.array(parts)


def log_prob(model: Model, records: Sequence[Mapping[str, Any]]) -> Floats:
    """Log-probability (nats) of records that hold `type` and `text`; -inf where a feature is missing."""
    points = model.units.points(records)
    total = np.asarray(np.logaddexp.reduce(_parts(model, np.nan_to_num(points)), axis=0))
    for path, table in model.tables.items():
        total += [table.get(str(field(record, path)), table[""]) for record in records]
    return np.where(np.isnan(points).any(axis=1), -np.inf, total)


def components(model: Model, records: Sequence[Mapping[str, Any]]) -> list[int | None]:
    """The component that each record most likely comes from; None where a feature is missing."""
    points = model.units.points(records)
    best = _parts(model, np.nan_to_num(points)).argmax(axis=0).tolist()
    absent = set(np.flatnonzero(np.isnan(points).any(axis=1)).tolist())
    return [None if row in absent else place for row, place in enumerate(best)]


def load(path: str | Path) -> Model:
    """A saved model; UserError for a file that is none."""
    try:
        return Model.model_validate_json(Path(path).read_text("utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; `dvc repro filter` makes it") from None
    except ValidationError as err:
        raise UserError(f"{path}: no density model: {err.errors()[0]['msg']}; `dvc repro filter` makes it") from None

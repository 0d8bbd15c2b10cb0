"""Experts at the variance floor: point masses of the target that a density cannot describe."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from daskmoe.model.moments import moments_from
from daskmoe.numerics.base.coordinates import coordinates_from
from daskmoe.numerics.base.parameters import Mixture, MoEParameters, Moments
from daskmoe.numerics.base.policies import SOUNDNESS
from daskmoe.numerics.families import Family
from daskmoe.rows.names import EXPERT_WEIGHT


class AtFloor(NamedTuple):
    """An expert whose density is as narrow as the penalty lets it be."""

    expert: int
    # Of the rows; None where a model does not know.
    share: float | None
    # Standard deviation, in the target's units.
    deviation: float
    # What it predicts wherever the rows are; None where that depends on the features.
    value: float | None


def experts_at_floor(
    parameters: Mixture, family: Family, diagnostics: xr.Dataset | None, options: Mapping[str, Any]
) -> list[AtFloor]:
    """The experts of a model of several that are at the floor; none where it has no moments of its rows."""
    known = moments_from(diagnostics)
    if diagnostics is None or known is None or not isinstance(parameters, MoEParameters):
        return []
    if parameters.n_experts == 1:
        return []
    coordinates = coordinates_from(known, family.scaling(known))
    floor = family.prior(known, coordinates, options.get("min_scale")).floor
    near = coordinates.from_data(parameters).nuisance <= SOUNDNESS.floors**2 * floor
    weights = diagnostics[EXPERT_WEIGHT].values if EXPERT_WEIGHT in diagnostics else None
    dispersions = family.dispersion(parameters.nuisance)
    if family.by_predictor:
        # The narrowest of its outputs.
        dispersions = parameters.nuisance.min(axis=1)
    deviations = np.sqrt(dispersions)
    return [
        AtFloor(
            k,
            None if weights is None else float(weights[k] / weights.sum()),
            float(deviations[k]),
            _value(parameters.coef[k], known),
        )
        for k in np.flatnonzero(near.any(axis=1)).tolist()
    ]


def _value(coef: np.ndarray[Any, np.dtype[np.float64]], known: Moments) -> float | None:
    """The mean of an expert's line where it hardly varies over the rows."""
    if len(coef) > 1:
        return None
    covariance = known.scatter / known.weight
    varies = float(coef[0, 1:] @ covariance[:-1, :-1] @ coef[0, 1:])
    if varies > SOUNDNESS.level**2 * covariance[-1, -1]:
        return None
    return float(coef[0, 0] + coef[0, 1:] @ known.mean[:-1])

"""All parameters of a model as one labelled dimension, for covariances."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from daskmoe.model.labels import columns_of, feature_dim, linear_arrays, parameter_variables
from daskmoe.numerics.base.parameters import Columns, FloatArray, MoEParameters
from daskmoe.numerics.base.policies import INFERENCE
from daskmoe.numerics.families import Family
from daskmoe.rows.names import (
    COVARIANCE,
    EXPERT,
    FEATURE,
    IDENTIFIED,
    KIND,
    OTHER_PARAMETER,
    PARAMETER,
    STANDARD_ERROR,
    Kind,
)


def stack_arrays(
    parameters: MoEParameters, family: Family, columns: Columns, trailing: int = 0
) -> FloatArray:
    """Arrays arranged as parameters, and ``trailing`` axes more, with all parameters along the first axis.

    Of the gates' and of the experts' own features, as ``columns`` say.
    """
    arrays = linear_arrays(parameters, family, columns).values()
    return np.concatenate([a.reshape(-1, *a.shape[a.ndim - trailing :]) for a in arrays])


def stack_derivatives(
    derivatives: MoEParameters, nuisance: FloatArray, family: Family, columns: Columns
) -> FloatArray:
    """Derivatives of all parameters as people see them, (N, P), from those of the numerics' own.

    With the nuisances (K, D) themselves, in the data's units and the same order of experts.
    """
    seen = derivatives.nuisance.copy()
    for d, label in enumerate(family.nuisances):
        if label.reciprocal:
            seen[:, d] /= -(nuisance[:, d, None] ** 2)
    return stack_arrays(MoEParameters(derivatives.gate, derivatives.coef, seen), family, columns, 1)


def covariance_variables(covariances: Mapping[Kind, FloatArray], identified: NDArray[np.bool_]) -> xr.Dataset:
    """What diagnostics keep of covariances between stacked parameters: errors alone where these are many."""
    found = np.stack(list(covariances.values()))
    roots = np.sqrt(np.diagonal(found, axis1=1, axis2=2).clip(0.0))
    texts = {
        COVARIANCE: "covariance of the estimates of two parameters",
        IDENTIFIED: "1 where the rows identify the parameter by itself",
        STANDARD_ERROR: "standard error of the parameter, NaN where it is not identified",
    }
    variables: dict[str, Any] = {
        IDENTIFIED: (PARAMETER, identified.astype(np.int64)),
        STANDARD_ERROR: ((KIND, PARAMETER), np.where(identified, roots, np.nan)),
    }
    if len(identified) <= INFERENCE.most_parameters:
        variables[COVARIANCE] = ((KIND, PARAMETER, OTHER_PARAMETER), found)
    described = {name: (*value, {"long_name": texts[name]}) for name, value in variables.items()}
    return xr.Dataset(described, {KIND: np.array(list(covariances), dtype=np.str_)})


def unstack(values: FloatArray, params: xr.Dataset, family: Family) -> xr.Dataset:
    """Values of the stacked parameters in the shape of ``params``, with its labels."""
    variables, start = {}, 0
    for name in parameter_variables(family):
        like = _in_order(params[name])
        own = values[start : start + like.size].reshape(like.shape)
        variables[name] = like.copy(data=own).transpose(*params[name].dims)
        start += like.size
    return xr.Dataset(variables, params.coords)


def stacked_coordinates(params: xr.Dataset, family: Family) -> dict[str, tuple[str, NDArray[np.str_]]]:
    """Coordinates of the stacked parameters: a label each, and the variable, expert and feature it is of."""
    labels: list[str] = []
    parts: list[tuple[str, str, str]] = []
    for name in parameter_variables(family):
        like = _in_order(params[name])
        dim = feature_dim(name, columns_of(params))
        features = [""] if dim is None else like[dim].values
        for expert in map(str, like[EXPERT].values):
            for feature in map(str, features):
                labels.append(f"{name}[{expert}]" if dim is None else f"{name}[{expert}, {feature}]")
                parts.append((name, expert, feature))
    columns = np.array(parts, dtype=np.str_).T
    names = np.array(labels, dtype=np.str_)
    own = {
        key: (PARAMETER, values) for key, values in zip(("variable", EXPERT, FEATURE), columns, strict=True)
    }
    return {PARAMETER: (PARAMETER, names), OTHER_PARAMETER: (OTHER_PARAMETER, names), **own}


def _in_order(values: xr.DataArray) -> xr.DataArray:
    return values.transpose(EXPERT, ...)

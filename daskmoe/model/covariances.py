"""All parameters of a model as one labelled dimension, for covariances."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from daskmoe.model.labels import columns_of, linear_arrays, nuisance_columns, parameter_variables
from daskmoe.numerics.base.parameters import Columns, FloatArray, MoEParameters
from daskmoe.numerics.base.policies import INFERENCE
from daskmoe.numerics.families import Family
from daskmoe.rows.names import (
    CLASS,
    COVARIANCE,
    EXPERT,
    FEATURE,
    IDENTIFIED,
    KIND,
    OTHER_PARAMETER,
    OUTPUT,
    PARAMETER,
    STANDARD_ERROR,
    Kind,
)


def stack_arrays(
    parameters: MoEParameters, family: Family, columns: Columns, trailing: int = 0, reference: float = 0.0
) -> FloatArray:
    """Arrays arranged as parameters, and ``trailing`` axes more, with all parameters along the first axis.

    Of the gates' and of the experts' own features, as ``columns`` say. A reference class, whose own
    parameters are zero, has ``reference``.
    """
    arrays = linear_arrays(parameters, family, columns, reference).values()
    return np.concatenate([a.reshape(-1, *a.shape[a.ndim - trailing :]) for a in arrays])


def stack_derivatives(
    derivatives: MoEParameters, nuisance: FloatArray, family: Family, columns: Columns
) -> FloatArray:
    """Derivatives of all parameters as people see them, (N, P), from those of the numerics' own.

    With the nuisances (K, D) themselves, in the data's units and the same order of experts.
    """
    seen = derivatives.nuisance.copy()
    for label, d in zip(family.nuisances, nuisance_columns(family).values(), strict=True):
        seen[:, d] *= label.seen.slope(nuisance[:, d, None])
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
    for name, dims in parameter_variables(family, columns_of(params)).items():
        like = params[name].transpose(EXPERT, *dims)
        own = values[start : start + like.size].reshape(like.shape)
        variables[name] = like.copy(data=own).transpose(*params[name].dims)
        start += like.size
    return xr.Dataset(variables, params.coords)


def stacked_coordinates(params: xr.Dataset, family: Family) -> dict[str, tuple[str, NDArray[np.str_]]]:
    """Coordinates of the stacked parameters: a label each, and the variable, expert, feature it is of.

    And the class or the output, where the target has several.
    """
    labels: list[str] = []
    parts: list[dict[str, str]] = []
    for name, dims in parameter_variables(family, columns_of(params)).items():
        own = (EXPERT, *dims)
        for place in itertools.product(*(params[dim].values for dim in own)):
            words = [str(word) for word in place]
            labels.append(f"{name}[{', '.join(words)}]")
            parts.append({"variable": name, **dict(zip(own, words, strict=True))})
    names = np.array(labels, dtype=np.str_)
    between = [dim for dim in (CLASS, OUTPUT) if any(dim in part for part in parts)]
    keys = ("variable", EXPERT, *between, FEATURE)
    told = {key: (PARAMETER, np.array([part.get(key, "") for part in parts], np.str_)) for key in keys}
    return {PARAMETER: (PARAMETER, names), OTHER_PARAMETER: (OTHER_PARAMETER, names), **told}

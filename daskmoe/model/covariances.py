"""All parameters of a model as one labelled dimension, for covariances."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from daskmoe.model.labels import parameter_arrays, parameter_variables
from daskmoe.numerics.base.parameters import FloatArray, MoEParameters
from daskmoe.numerics.families import Family
from daskmoe.rows.names import COVARIANCE, EXPERT, FEATURE, IDENTIFIED, KIND, OTHER_PARAMETER, PARAMETER, Kind


def stack_arrays(parameters: MoEParameters, family: Family, trailing: int = 0) -> FloatArray:
    """Arrays arranged as parameters, and ``trailing`` axes more, with all parameters along the first axis."""
    arrays = parameter_arrays(parameters, family).values()
    return np.concatenate([a.reshape(-1, *a.shape[a.ndim - trailing :]) for a in arrays])


def covariance_variables(covariances: Mapping[Kind, FloatArray], identified: NDArray[np.bool_]) -> xr.Dataset:
    """What diagnostics keep of covariances between stacked parameters."""
    text = {"long_name": "covariance of the estimates of two parameters"}
    flags = {"long_name": "1 where the rows identify the parameter by itself"}
    return xr.Dataset(
        {
            COVARIANCE: (
                (KIND, PARAMETER, OTHER_PARAMETER),
                np.stack(list(covariances.values())),
                text,
            ),
            IDENTIFIED: (PARAMETER, identified.astype(np.int64), flags),
        },
        {KIND: np.array(list(covariances), dtype=np.str_)},
    )


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
        experts, features = (like[d].values if d in like.dims else [""] for d in (EXPERT, FEATURE))
        for expert in map(str, experts):
            for feature in map(str, features):
                labels.append(f"{name}[{expert}, {feature}]" if FEATURE in like.dims else f"{name}[{expert}]")
                parts.append((name, expert, feature))
    columns = np.array(parts, dtype=np.str_).T
    names = np.array(labels, dtype=np.str_)
    own = {
        key: (PARAMETER, values) for key, values in zip(("variable", EXPERT, FEATURE), columns, strict=True)
    }
    return {PARAMETER: (PARAMETER, names), OTHER_PARAMETER: (OTHER_PARAMETER, names), **own}


def _in_order(values: xr.DataArray) -> xr.DataArray:
    return values.transpose(EXPERT, ...)

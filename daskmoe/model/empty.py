"""Variables without values, as coefficients without features: netCDF 3 knows no dimension of length zero."""

from __future__ import annotations

import json

import numpy as np
import xarray as xr

from daskmoe.errors import SchemaError

_ATTR = "empty_variables"


def as_attribute(ds: xr.Dataset) -> xr.Dataset:
    """The dataset with its empty variables described by an attribute, in their place."""
    empty = {str(name): variable for name, variable in ds.variables.items() if 0 in variable.shape}
    if not empty:
        return ds
    known = {
        name: {"dims": each.dims, "shape": each.shape, "dtype": each.dtype.str, "attrs": each.attrs}
        for name, each in empty.items()
    }
    return ds.drop_vars(list(empty)).assign_attrs({_ATTR: json.dumps(known)})


def as_variables(ds: xr.Dataset) -> xr.Dataset:
    """The dataset that `as_attribute` was given."""
    if _ATTR not in ds.attrs:
        return ds
    try:
        known = json.loads(ds.attrs[_ATTR])
        variables = {name: _variable(**each) for name, each in known.items()}
    except (TypeError, ValueError, AttributeError) as error:
        raise SchemaError(f"{_ATTR}: expected variables without values, got {error!r}.") from error
    coords = {name: variables.pop(name) for name in list(variables) if variables[name].dims == (name,)}
    others = {name: value for name, value in ds.attrs.items() if name != _ATTR}
    out = ds.assign(variables).assign_coords(xr.Coordinates(coords, indexes={}))
    return out.drop_attrs(deep=False).assign_attrs(others)


def _variable(dims: list[str], shape: list[int], dtype: str, attrs: dict[str, str]) -> xr.Variable:
    if 0 not in shape:
        raise ValueError(f"a variable of shape {shape}")
    return xr.Variable(dims, np.zeros(shape, np.dtype(dtype)), attrs)

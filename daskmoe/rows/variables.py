"""Variables of a dataset: what they must be to take part in rows, and what messages call them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import xarray as xr

from daskmoe.errors import InvalidDataError
from daskmoe.rows.names import BOUND, CLASS, EXPERT
from daskmoe.rows.values import ValueKind, kind_of

# In the encoding of a dataset that was opened here: which variables of the store cannot be read, and why.
UNREADABLE = "unreadable"


def listed(names: Iterable[Any], limit: int = 20) -> str:
    """Names for an error message, the first of them where there are many."""
    texts = [repr(str(name)) for name in names]
    more = [] if len(texts) <= limit else [f"... ({len(texts)} in all)"]
    return ", ".join(texts[:limit] + more) or "nothing"


def find_variable(ds: xr.Dataset, name: str, role: str) -> xr.Variable:
    """The variable, or an error that says which one of which role is missing."""
    if name not in ds.variables:
        if reason := ds.encoding.get(UNREADABLE, {}).get(name):
            raise InvalidDataError(f"The {role} variable {name!r} of the store cannot be read: {reason}.")
        article = "an" if role[0] in "aeiou" else "a"
        raise InvalidDataError(
            f"Expected {article} {role} variable {name!r}, got a dataset that has {listed(ds.data_vars)}."
        )
    return ds.variables[name]


def require_numbers(variable: xr.Variable, name: str, role: str) -> None:
    """Refuse text, dates, complex numbers and objects."""
    if kind_of(variable) is not ValueKind.NUMBER:
        raise InvalidDataError(
            f"The {role} variable {name!r} {wrong_dtype(variable)}{_mending(variable, name, role)}."
        )


def _mending(variable: xr.Variable, name: str, role: str) -> str:
    """The line that makes numbers of a variable, behind a semicolon."""
    lines = {
        ValueKind.DATE: f"(data[{name!r}] - data[{name!r}].min()) / np.timedelta64(1, 'D')",
        ValueKind.DURATION: f"data[{name!r}] / np.timedelta64(1, 'D')",
        ValueKind.OTHER: f"abs(data[{name!r}])",
    }
    line = lines.get(kind_of(variable), f"data[{name!r}].astype(float)")
    labels = role == "target" and kind_of(variable) in (ValueKind.TEXT, ValueKind.CATEGORY)
    return f"; make numbers of it: data[{name!r}] = {line}" + ", or fit labels: family='categorical'" * labels


def require_labels(variable: xr.Variable, name: str) -> None:
    """Refuse dates and what is neither text nor numbers."""
    if kind_of(variable) not in (ValueKind.TEXT, ValueKind.CATEGORY, ValueKind.NUMBER):
        raise InvalidDataError(
            f"The target variable {name!r} has dtype {variable.dtype}, expected labels: text, categories, "
            "booleans or integers."
        )


def wrong_dtype(variable: xr.Variable) -> str:
    """Of a variable that should hold numbers, as the end of a sentence."""
    return f"has dtype {variable.dtype}, expected real numbers or booleans"


def target_dims(
    ds: xr.Dataset, target: str, *, labels: bool = False, output_dim: str | None = None
) -> tuple[str, ...]:
    """The sample dimensions: those of the target, which holds numbers unless it may hold ``labels``.

    But for that of its outputs, if it has several.
    """
    variable = find_variable(ds, target, "target")
    if labels:
        require_labels(variable, target)
    else:
        require_numbers(variable, target, "target")
    if not variable.dims:
        raise InvalidDataError(f"Target {target!r} is a scalar, expected at least one (sample) dimension.")
    dims = tuple(str(dim) for dim in variable.dims)
    if taken := [dim for dim in dims if dim in (EXPERT, CLASS if labels else BOUND)]:
        raise InvalidDataError(
            f"Target {target!r} has the dimension {taken[0]!r}, a name that a model's results use; rename it."
        )
    if output_dim is None:
        return dims
    if output_dim not in dims or len(dims) == 1 or not variable.sizes[output_dim]:
        raise InvalidDataError(
            f"Expected the target {target!r} to have the dimension {output_dim!r} of its outputs and at "
            f"least one sample dimension, got {dict(variable.sizes)}. Name the former in output_dim=."
        )
    return tuple(dim for dim in dims if dim != output_dim)


def output_labels(ds: xr.Dataset, target: str, dim: str) -> tuple[str | int | float, ...]:
    """The labels of the outputs of a target: numbers and text as they are, other values as text."""
    keys = column_keys(ds, dim)
    if keys is None:
        return tuple(range(ds.variables[target].sizes[dim]))
    check_unique(keys, f"the outputs along {dim!r}")
    values = ds.variables[dim].values
    return tuple(values.tolist()) if values.dtype.kind in "iuf" else keys


def check_weight(ds: xr.Dataset, name: str, sample_dims: tuple[str, ...]) -> None:
    """Refuse weights that are missing, not numbers, or not over the sample dimensions."""
    _check_per_row(ds, name, sample_dims, "weight")


def check_offset(ds: xr.Dataset, name: str, sample_dims: tuple[str, ...]) -> None:
    """Refuse an offset that is missing, not numbers, or not over the sample dimensions."""
    _check_per_row(ds, name, sample_dims, "offset")


def _check_per_row(ds: xr.Dataset, name: str, sample_dims: tuple[str, ...], role: str) -> None:
    variable = find_variable(ds, name, role)
    require_numbers(variable, name, role)
    if not set(variable.dims) <= set(sample_dims):
        raise InvalidDataError(
            f"{role.capitalize()} variable {name!r} has dimensions {variable.dims}, expected some of "
            f"{sample_dims}."
        )


def feature_dim_of(variable: xr.Variable, sample_dims: tuple[str, ...]) -> str | None:
    """The dimension that is no sample dimension, if there is one."""
    return next((str(dim) for dim in variable.dims if dim not in sample_dims), None)


def sample_part(variable: xr.Variable, sample_dims: tuple[str, ...]) -> tuple[str, ...]:
    """The sample dimensions that a variable has, in its own order."""
    return tuple(str(dim) for dim in variable.dims if dim in sample_dims)


def units_of(variable: xr.Variable) -> str | None:
    """The units of a variable, if it says."""
    units = variable.attrs.get("units")
    return None if units is None else str(units)


def column_keys(ds: xr.Dataset, dim: str) -> tuple[str, ...] | None:
    """The coordinate values along a feature dimension as text; None without a coordinate."""
    if dim not in ds.coords:
        return None
    values = ds.variables[dim].values
    return tuple(value.decode() if isinstance(value, bytes) else str(value) for value in values)


def check_unique(labels: Iterable[str], what: str) -> None:
    """Refuse labels that are there more than once."""
    if twice := [label for label, count in Counter(labels).items() if count > 1]:
        raise InvalidDataError(f"Expected different labels of {what}, got more than once: {listed(twice)}.")

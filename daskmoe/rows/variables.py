"""What a row is: the variables of a labelled dataset that give its features, response and weight.

A schema is found once, when a model is fitted, and is kept with the model, so that later data are matched to
it by label. The sample dimensions are the target's; a row is one element of the target in C order of them.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import xarray as xr

from daskmoe.errors import InvalidDataError, InvalidOptionError
from daskmoe.rows.names import BOUND, EXPERT

logger = logging.getLogger(__name__)

_NUMBER_KINDS = "biuf"
# In the encoding of a dataset that was opened here: which variables of the store cannot be read, and why.
UNREADABLE = "unreadable"
_KEPT_ATTRS = ("units", "long_name", "standard_name")


@dataclass(frozen=True)
class FeatureVariable:
    """One variable that gives one or several feature columns."""

    # Name of the variable.
    name: str
    # Its sample dimensions, in the order it has them.
    dims: tuple[str, ...]
    # Its one other dimension, if any; every position along it is a column.
    feature_dim: str | None
    # Label of each column.
    labels: tuple[str, ...]
    # Its ``units`` attribute.
    units: str | None
    # The coordinate values along `feature_dim`, column by column; None where there is no coordinate.
    keys: tuple[str, ...] | None = None
    # Where each column is along `feature_dim` of the data at hand; None if they are in order.
    positions: tuple[int, ...] | None = None


@dataclass(frozen=True)
class RowSchema:
    """The variables that make the rows of a dataset, and the order of the feature columns."""

    # Name of the response variable.
    target: str
    # Its dimensions, in its order.
    sample_dims: tuple[str, ...]
    # The feature variables, in column order.
    variables: tuple[FeatureVariable, ...]
    # Name of the variable of row weights.
    weight: str | None = None
    # Those of the target's ``units``, ``long_name`` and ``standard_name`` that it has.
    target_attrs: dict[str, Any] = field(default_factory=dict, hash=False)

    @property
    def feature_labels(self) -> tuple[str, ...]:
        """Label of every feature column, in column order."""
        return tuple(label for variable in self.variables for label in variable.labels)

    def can_mask(self, variable: FeatureVariable) -> bool:
        """Whether a feature variable can say that a row is not there: it has all sample dimensions."""
        return set(self.sample_dims) <= set(variable.dims)

    def to_json(self) -> str:
        """The schema as a JSON string, for the attributes of a saved model."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> RowSchema:
        """The schema that `to_json` wrote."""
        content = json.loads(text)
        variables = tuple(
            FeatureVariable(**{key: _as_tuple(value) for key, value in variable.items()})
            for variable in content.pop("variables")
        )
        return cls(variables=variables, **{key: _as_tuple(value) for key, value in content.items()})


def describe_rows(
    ds: xr.Dataset, target: str, features: str | Sequence[str] | None = None, sample_weight: str | None = None
) -> RowSchema:
    """Choose the variables of `ds` that make its rows; no data are read but feature labels.

    Parameters
    ----------
    ds : xr.Dataset
        The data, in memory or lazy.
    target : str
        The response variable; its dimensions are the sample dimensions.
    features : str, sequence of str or None
        The feature variables, in column order. None takes every other data variable that fits, by name:
        numbers or booleans over some of the sample dimensions and at most one other dimension.
    sample_weight : str or None
        The variable of row weights.

    Returns
    -------
    RowSchema
        Column labels are variable names, coordinate labels along the other dimension, or ``name_i`` where it
        has no coordinate. Where several variables share a labelled dimension they are ``name_label``.

    Raises
    ------
    InvalidDataError
        If a variable is missing or does not fit, no feature is left, or two columns have one label.

    Examples
    --------
    >>> import numpy as np
    >>> import xarray as xr
    >>> ds = xr.Dataset({"X": (("row", "feature"), np.ones((4, 2))), "y": ("row", np.ones(4))})
    >>> describe_rows(ds, "y").feature_labels
    ('X_0', 'X_1')
    """
    sample_dims = target_dims(ds, target)
    if sample_weight is not None:
        check_weight(ds, sample_weight, sample_dims)
    used = {target} if sample_weight is None else {target, sample_weight}
    # A store lists its variables in any order; the same data must give the same columns.
    if features is None:
        names: Sequence[str] = sorted(_fitting_names(ds, used, sample_dims))
    else:
        names = _asked_names(features, used)
    for name in names:
        if misfit := _misfit(find_variable(ds, name, "feature"), sample_dims):
            raise InvalidDataError(f"Feature variable {name!r} {misfit}.")
    shared = Counter(_feature_dim(ds.variables[name], sample_dims) for name in names)
    variables = tuple(_describe_feature(ds, name, sample_dims, shared) for name in names)
    attrs = ds.variables[target].attrs
    kept = {key: attrs[key] for key in _KEPT_ATTRS if isinstance(attrs.get(key), str)}
    schema = RowSchema(target, sample_dims, variables, sample_weight, kept)
    check_unique(schema.feature_labels, "feature columns")
    return schema


def _as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


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
        raise InvalidDataError(
            f"Expected a {role} variable {name!r}, got a dataset that has {listed(ds.data_vars)}."
        )
    return ds.variables[name]


def require_numbers(variable: xr.Variable, name: str, role: str) -> None:
    """Refuse text, dates, complex numbers and objects."""
    if variable.dtype.kind not in _NUMBER_KINDS:
        raise InvalidDataError(f"The {role} variable {name!r} {_wrong_dtype(variable)}.")


def _wrong_dtype(variable: xr.Variable) -> str:
    return f"has dtype {variable.dtype}, expected real numbers or booleans"


def target_dims(ds: xr.Dataset, target: str) -> tuple[str, ...]:
    """The sample dimensions: those of the target."""
    variable = find_variable(ds, target, "target")
    require_numbers(variable, target, "target")
    if not variable.dims:
        raise InvalidDataError(f"Target {target!r} is a scalar, expected at least one (sample) dimension.")
    dims = tuple(str(dim) for dim in variable.dims)
    if taken := [dim for dim in dims if dim in (EXPERT, BOUND)]:
        raise InvalidDataError(
            f"Target {target!r} has the dimension {taken[0]!r}, a name that a model's results use; rename it."
        )
    return dims


def check_weight(ds: xr.Dataset, name: str, sample_dims: tuple[str, ...]) -> None:
    """Refuse weights that are missing, not numbers, or not over the sample dimensions."""
    variable = find_variable(ds, name, "weight")
    require_numbers(variable, name, "weight")
    if not set(variable.dims) <= set(sample_dims):
        raise InvalidDataError(
            f"Weight variable {name!r} has dimensions {variable.dims}, expected some of {sample_dims}."
        )


def _asked_names(features: str | Sequence[str], used: set[str]) -> tuple[str, ...]:
    names = (features,) if isinstance(features, str) else tuple(features)
    if not names:
        raise InvalidOptionError("Expected at least one name in features, got none.")
    if taken := [name for name in names if name in used]:
        raise InvalidDataError(f"{listed(taken)} cannot be a feature: it is the target or the weight.")
    check_unique(names, "features")
    return names


def _fitting_names(ds: xr.Dataset, used: set[str], sample_dims: tuple[str, ...]) -> tuple[str, ...]:
    # The cell bounds of CF coordinates are data variables to xarray but never covariates.
    bounds = {variable.attrs.get("bounds") for variable in ds.variables.values()}
    names = []
    for name in map(str, ds.data_vars):
        if name in used or name in bounds:
            continue
        if misfit := _misfit(ds.variables[name], sample_dims):
            logger.debug("variable %r is not a feature: it %s", name, misfit)
        else:
            names.append(name)
    if not names:
        raise InvalidDataError(
            f"No feature left: besides {listed(sorted(used))}, none of {listed(ds.data_vars)} holds numbers "
            f"over the sample dimensions {sample_dims} and at most one more."
        )
    return tuple(names)


def _misfit(variable: xr.Variable, sample_dims: tuple[str, ...]) -> str | None:
    if variable.dtype.kind not in _NUMBER_KINDS:
        return _wrong_dtype(variable)
    others = [dim for dim in variable.dims if dim not in sample_dims]
    if len(others) > 1 or len(others) == variable.ndim:
        return (
            f"has dimensions {variable.dims}, expected one or more of the sample dimensions {sample_dims} "
            "and at most one other"
        )
    if any(variable.sizes[dim] == 0 for dim in others):
        return f"has no column along {others[0]!r}, expected at least one"
    return None


def _feature_dim(variable: xr.Variable, sample_dims: tuple[str, ...]) -> str | None:
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


def _describe_feature(
    ds: xr.Dataset, name: str, sample_dims: tuple[str, ...], shared: Counter[str | None]
) -> FeatureVariable:
    variable = ds.variables[name]
    dims, dim = sample_part(variable, sample_dims), _feature_dim(variable, sample_dims)
    if dim is None:
        return FeatureVariable(name, dims, None, (name,), units_of(variable))
    keys = column_keys(ds, dim)
    if keys is None:
        labels = tuple(f"{name}_{i}" for i in range(variable.sizes[dim]))
    else:
        labels = tuple(f"{name}_{key}" for key in keys) if shared[dim] > 1 else keys
    return FeatureVariable(name, dims, dim, labels, units_of(variable), keys)


def check_unique(labels: Iterable[str], what: str) -> None:
    """Refuse labels that are there more than once."""
    if twice := [label for label, count in Counter(labels).items() if count > 1]:
        raise InvalidDataError(f"Expected different labels of {what}, got more than once: {listed(twice)}.")

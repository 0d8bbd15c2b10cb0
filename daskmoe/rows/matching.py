"""Matching data to the rows of a fitted model: by label, never by position or luck."""

from __future__ import annotations

import logging
from dataclasses import replace

import xarray as xr

from daskmoe.errors import InvalidDataError
from daskmoe.rows.names import BOUND, CLASS, EXPERT
from daskmoe.rows.schema import FeatureVariable, RowSchema
from daskmoe.rows.variables import (
    check_offset,
    check_unique,
    check_weight,
    column_keys,
    find_variable,
    listed,
    output_labels,
    require_numbers,
    sample_part,
    target_dims,
    units_of,
)

logger = logging.getLogger(__name__)


def match_schema(
    ds: xr.Dataset, schema: RowSchema, need_target: bool, need_weight: bool | None = None
) -> RowSchema:
    """The schema of a model as it applies to other data, matched by label.

    Parameters
    ----------
    ds : xr.Dataset
        Data labelled as in the fit. It may miss sample dimensions (one time step of a gridded dataset), and
        where no target is needed its features may have others (the members of an ensemble).
    schema : RowSchema
        The schema of the fit.
    need_target : bool
        Whether the response variable must be there; if not, the sample dimensions are those of the schema
        that `ds` has.
    need_weight : bool or None
        Whether the weight variable of the schema must be there; if not, the result has none. None means
        `need_target`.

    Returns
    -------
    RowSchema
        The same columns, with the dimensions and the positions of the columns in `ds`; dimensions that the
        fit did not have come first.

    Raises
    ------
    InvalidDataError
        If a variable or a label is missing, or a label is one that the model does not know.

    Examples
    --------
    >>> import numpy as np
    >>> import xarray as xr
    >>> from daskmoe.rows import describe_rows
    >>> labels = {"feature": ["a", "b"]}
    >>> ds = xr.Dataset({"X": (("row", "feature"), np.ones((4, 2))), "y": ("row", np.ones(4))}, coords=labels)
    >>> turned = ds.isel(feature=[1, 0])
    >>> match_schema(turned, describe_rows(ds, "y"), need_target=False).variables[0].positions
    (1, 0)
    """
    if schema.offset is not None:
        find_variable(ds, schema.offset, "offset")
    if need_target:
        sample_dims = target_dims(ds, schema.target, labels=schema.has_labels, output_dim=schema.output_dim)
        _check_outputs(ds, schema)
        if unknown := [dim for dim in sample_dims if dim not in schema.sample_dims]:
            raise InvalidDataError(
                f"Target {schema.target!r} has the dimensions {unknown} that the fit did not have; expected "
                f"{list(schema.sample_dims)}."
            )
        _tell_units(
            f"target {schema.target!r}", ds.variables[schema.target], schema.target_attrs.get("units")
        )
    else:
        sample_dims = _dims_without_target(ds, schema)
    weight = schema.weight if (need_target if need_weight is None else need_weight) else None
    if weight is not None:
        check_weight(ds, weight, sample_dims)
    if schema.offset is not None:
        check_offset(ds, schema.offset, sample_dims)
    variables = tuple(_match_feature(ds, fitted, sample_dims) for fitted in schema.variables)
    return replace(schema, sample_dims=sample_dims, variables=variables, weight=weight)


def _check_outputs(ds: xr.Dataset, schema: RowSchema) -> None:
    """Refuse outputs that are not those of the fit, in its order."""
    if schema.output_dim is None:
        return
    found = output_labels(ds, schema.target, schema.output_dim)
    if found != schema.outputs:
        dim, wanted = schema.output_dim, list(schema.outputs)
        how = f"sel({dim}={wanted})" if set(wanted) <= set(found) else f"assign_coords({dim}={wanted})"
        raise InvalidDataError(
            f"Target {schema.target!r}: expected the outputs {wanted} along {dim!r}, as in the fit, got "
            f"{list(found)}. Use data.{how}."
        )


def _dims_without_target(ds: xr.Dataset, schema: RowSchema) -> tuple[str, ...]:
    """The sample dimensions of data to predict from: those of the fit, behind those that these have more."""
    known = tuple(dim for dim in schema.sample_dims if dim in ds.dims)
    more: dict[str, None] = {}
    for name, feature_dim in schema.sources.items():
        dims = find_variable(ds, name, "feature").dims
        more |= dict.fromkeys(str(dim) for dim in dims if dim not in known and dim != feature_dim)
    if taken := [dim for dim in more if dim in (EXPERT, CLASS if schema.has_labels else BOUND)]:
        raise InvalidDataError(
            f"The features have the dimension {taken[0]!r}, a name that a model's results use; rename it."
        )
    if more and not known:
        names = dict(zip(more, schema.sample_dims, strict=False))
        raise InvalidDataError(
            f"Expected features over the sample dimensions of the fit, {list(schema.sample_dims)}, got "
            f"{list(more)}; name them alike: data.rename({names})."
        )
    return (*more, *known)


def _match_feature(ds: xr.Dataset, fitted: FeatureVariable, sample_dims: tuple[str, ...]) -> FeatureVariable:
    if fitted.parts:
        parts = tuple(_match_feature(ds, part, sample_dims) for part in fitted.parts)
        return replace(fitted, dims=sample_dims, parts=parts)
    name, dim = fitted.name, fitted.feature_dim
    variable = find_variable(ds, name, "feature")
    if fitted.coding is None:
        require_numbers(variable, name, "feature")
    elif misfit := fitted.coding.misfit(variable):
        raise InvalidDataError(f"Feature variable {name!r} {misfit}.")
    expected = {*sample_dims} if dim is None else {*sample_dims, dim}
    if not set(variable.dims) <= expected or (dim is not None and dim not in variable.dims):
        raise InvalidDataError(
            f"Feature variable {name!r} has dimensions {variable.dims}, expected some of {sample_dims}"
            + ("." if dim is None else f" and {dim!r}.")
        )
    _tell_units(f"feature {name!r}", variable, fitted.units)
    positions = None if dim is None else _match_columns(fitted, column_keys(ds, dim), variable.sizes[dim])
    return replace(fitted, dims=sample_part(variable, sample_dims), positions=positions)


def _tell_units(what: str, variable: xr.Variable, fitted: str | None) -> None:
    """Warn where units differ; nothing is converted."""
    units = units_of(variable)
    if units != fitted and None not in (units, fitted):
        logger.warning("%s has units %r, the model was fitted to %r", what, units, fitted)


def _match_columns(
    fitted: FeatureVariable, found: tuple[str, ...] | None, size: int
) -> tuple[int, ...] | None:
    name, dim, wanted = fitted.name, fitted.feature_dim, fitted.keys or fitted.labels
    if found is None:
        if fitted.keys is not None:
            raise InvalidDataError(
                f"Feature variable {name!r} has no labels along {dim!r}, but the fit had {listed(wanted)}; "
                f"give them with assign_coords({dim}=...)."
            )
        if size != len(wanted):
            raise InvalidDataError(
                f"Feature variable {name!r} has {size} columns along {dim!r}, expected {len(wanted)}."
            )
        return None
    check_unique(found, f"the columns of {name!r} along {dim!r}")
    where = {label: position for position, label in enumerate(found)}
    if missing := [label for label in wanted if label not in where]:
        raise InvalidDataError(
            f"Feature variable {name!r} misses the labels {listed(missing)} along {dim!r}."
        )
    if unknown := sorted(set(found) - set(wanted)):
        raise InvalidDataError(
            f"Feature variable {name!r} has labels along {dim!r} that the model does not know: "
            f"{listed(unknown)}; drop them with sel({dim}=...)."
        )
    positions = tuple(where[label] for label in wanted)
    return None if positions == tuple(range(size)) else positions

"""Choosing the rows of a fit: which variables and terms are its features, how they are coded and labelled."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import reduce

import xarray as xr

from daskmoe.errors import InvalidDataError, InvalidOptionError
from daskmoe.features import Term
from daskmoe.rows.codings import Coding, Harmonics, Indicator, Powers, Splines, declared_levels
from daskmoe.rows.learning import Categories, Learned, learn, learn_classes, number_from, variable_of
from daskmoe.rows.schema import FeatureVariable, RowSchema
from daskmoe.rows.values import ValueKind, kind_of
from daskmoe.rows.variables import (
    UNREADABLE,
    check_offset,
    check_unique,
    check_weight,
    column_keys,
    feature_dim_of,
    find_variable,
    listed,
    output_labels,
    sample_part,
    target_dims,
    units_of,
    wrong_dtype,
)

logger = logging.getLogger(__name__)

Features = str | Term | Sequence[str | Term]

_KEPT_ATTRS = ("units", "long_name", "standard_name")


def describe_rows(
    ds: xr.Dataset,
    target: str,
    features: Features | None = None,
    sample_weight: str | None = None,
    categories: Categories | None = None,
    gate_features: Features | None = None,
    offset: str | None = None,
    *,
    labels: bool = False,
    output_dim: str | None = None,
) -> RowSchema:
    """Choose the variables of `ds` that make its rows.

    No data are read but feature labels, and the variables of which levels or knots are to be found.

    Parameters
    ----------
    ds : xr.Dataset
        The data, in memory or lazy.
    target : str
        The response variable; its dimensions are the sample dimensions.
    features : str, Term, sequence of them, or None
        The feature variables and terms, in column order. None takes every other data variable that fits, by
        name: numbers over some of the sample dimensions and at most one other dimension, and text or
        categories over sample dimensions.
    sample_weight : str or None
        The variable of row weights.
    categories : mapping of str to sequence, optional
        Levels of features, the reference first; None for those that are in the data, sorted. Those of the
        target, where it is labels, are its classes.
    gate_features : str, Term, sequence of them, or None
        Those of the gates, if other than the experts'; none at all makes them constant.
    offset : str or None
        The variable that is a part of every linear predictor.
    labels : bool
        Whether the target is labels of classes; else it is numbers.
    output_dim : str or None
        The dimension of the target along which it has several outputs; it is no sample dimension.

    Returns
    -------
    RowSchema
        Column labels are variable names, coordinate labels along the other dimension, or ``name_i`` where it
        has no coordinate. Where several variables share a labelled dimension they are ``name_label``, as
        those of levels are.

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
    >>> ds = xr.Dataset({"wind": ("row", ["N", "W", "N", "S"]), "y": ("row", np.ones(4))})
    >>> describe_rows(ds, "y").feature_labels
    ('wind_S', 'wind_W')
    """
    sample_dims = target_dims(ds, target, labels=labels, output_dim=output_dim)
    if sample_weight is not None:
        check_weight(ds, sample_weight, sample_dims)
    used = {target} if sample_weight is None else {target, sample_weight}
    if offset is not None:
        check_offset(ds, offset, sample_dims)
        if offset == target:
            raise InvalidDataError(f"{offset!r} cannot be the offset: it is the target.")
    left_out: dict[str, str] = {}
    declared: Sequence[str | Term]
    of_gates = None if gate_features is None else _asked(gate_features, used, "gate_features")
    if features is None:
        # A store lists its variables in any order; the same data must give the same columns.
        taken = used if offset is None else {*used, offset}
        declared, left_out = _fitting_names(ds, taken, sample_dims)
    else:
        declared = _asked(features, used, "features")
        if not declared and of_gates is None:
            raise InvalidOptionError(
                "Expected at least one name in features, got none. Experts that are constants need "
                "gate_features=, [] for constant gates."
            )
        _check_fit(ds, declared, sample_dims)
    _check_fit(ds, of_gates or (), sample_dims)
    asked = [*declared, *(each for each in of_gates or () if each not in declared)]
    levels = dict(categories or {})
    classes = learn_classes(ds, target, levels.pop(target, None)) if labels else None
    learned = learn(ds, asked, levels)
    if features is None:
        left_out |= {
            name: why
            for name, why in (learned.refused | learned.doubtful).items()
            if of_gates is None or name not in _variables_of(of_gates)
        }
        declared = [name for name in declared if name not in left_out]
        _tell_taken(ds, declared, left_out, used, sample_dims)
    elif learned.refused:
        name, why = next(iter(learned.refused.items()))
        raise InvalidDataError(f"Feature variable {name!r} {why}.")
    shared = Counter(
        feature_dim_of(ds.variables[name], sample_dims) for name in asked if isinstance(name, str)
    )

    def describe(some: Sequence[str | Term]) -> tuple[FeatureVariable, ...]:
        found = tuple(_describe(ds, each, sample_dims, shared, learned) for each in some)
        return _without_twice(found, {name for name in some if isinstance(name, str)})

    variables = describe(declared)
    gate_columns = expert_columns = None
    if of_gates is not None:
        variables, gate_columns, expert_columns = _joined(variables, describe(of_gates))
    offset_column = None
    if offset is not None:
        offset_column = sum(len(each.labels) for each in variables)
        everything = tuple(range(offset_column))
        gate_columns = everything if gate_columns is None else gate_columns
        expert_columns = everything if expert_columns is None else expert_columns
        variables = (*variables, _offset_variable(ds.variables[offset], offset, sample_dims))
    attrs = ds.variables[target].attrs
    kept = {key: attrs[key] for key in _KEPT_ATTRS if isinstance(attrs.get(key), str)}
    schema = RowSchema(
        target,
        sample_dims,
        variables,
        sample_weight,
        kept,
        left_out,
        gate_columns=gate_columns,
        expert_columns=expert_columns,
        offset_column=offset_column,
        classes=classes,
        output_dim=output_dim,
        outputs=() if output_dim is None else output_labels(ds, target, output_dim),
    )
    check_unique(schema.feature_labels, "feature columns")
    return schema


def _check_fit(ds: xr.Dataset, declared: Iterable[str | Term], sample_dims: tuple[str, ...]) -> None:
    for name in _variables_of(declared):
        if misfit := _misfit(find_variable(ds, name, "feature"), sample_dims):
            raise InvalidDataError(f"Feature variable {name!r} {misfit}.")


def _offset_variable(variable: xr.Variable, name: str, sample_dims: tuple[str, ...]) -> FeatureVariable:
    """The offset as a column behind the features; its label is not that of a feature made of it."""
    dims = sample_part(variable, sample_dims)
    return FeatureVariable(name, dims, None, (f"offset({name})",), units_of(variable))


_Positions = tuple[int, ...] | None


def _joined(
    experts: tuple[FeatureVariable, ...], gates: tuple[FeatureVariable, ...]
) -> tuple[tuple[FeatureVariable, ...], _Positions, _Positions]:
    """All variables, the experts' first, and the positions of the gates' and the experts' columns."""
    variables = list(experts)
    labels = [label for each in experts for label in each.labels]
    for each in gates:
        if each in variables:
            continue
        if isinstance(each.coding, Powers):
            # Powers that the experts have are not made again.
            known = sum(label in labels for label in each.labels)
            first = each.coding.first + known
            each = replace(each, coding=replace(each.coding, first=first), labels=each.labels[known:])
        elif each.is_plain and set(each.labels) <= set(labels):
            continue
        if each.labels:
            variables.append(each)
    whole = [label for each in variables for label in each.labels]
    check_unique(whole, "feature columns")
    place = {label: position for position, label in enumerate(whole)}
    of_gates = tuple(place[label] for each in gates for label in each.labels)
    everything = tuple(range(len(whole)))
    of_experts = everything[: len(labels)]
    # In another order they are the same features.
    return (
        tuple(variables),
        None if tuple(sorted(of_gates)) == everything else of_gates,
        None if of_experts == everything else of_experts,
    )


def _asked(features: Features, used: set[str], option: str) -> tuple[str | Term, ...]:
    declared = (features,) if isinstance(features, str | Term) else tuple(features)
    if taken := [name for name in _variables_of(declared) if name in used]:
        raise InvalidDataError(f"{listed(taken)} cannot be a feature: it is the target or the weight.")
    check_unique(tuple(map(str, declared)), option)
    return declared


def _variables_of(declared: Iterable[str | Term]) -> list[str]:
    """Names of the variables of names and terms, each once, in order."""
    found: dict[str, None] = {}
    for each in declared:
        found |= {each: None} if isinstance(each, str) else dict.fromkeys(_variables_of(each.of))
    return list(found)


def _fitting_names(
    ds: xr.Dataset, used: set[str], sample_dims: tuple[str, ...]
) -> tuple[list[str], dict[str, str]]:
    """The data variables that could be features, sorted, and why the others could not."""
    # The cell bounds of CF coordinates are data variables to xarray but never covariates.
    bounds = {variable.attrs.get("bounds") for variable in ds.variables.values()}
    left_out = {}
    for name in map(str, ds.data_vars):
        if name in used:
            continue
        if name in bounds:
            left_out[name] = "holds the bounds of a coordinate"
        elif misfit := _misfit(ds.variables[name], sample_dims):
            left_out[name] = misfit
    for name, why in ds.encoding.get(UNREADABLE, {}).items():
        left_out[name] = f"cannot be read: {why}"
    return sorted({*map(str, ds.data_vars)} - used - {*left_out}), left_out


def _tell_taken(
    ds: xr.Dataset,
    taken: Sequence[str | Term],
    left_out: Mapping[str, str],
    used: set[str],
    sample_dims: tuple[str, ...],
) -> None:
    """Log what is a feature where nobody said it; `InvalidDataError` if nothing is."""
    reasons = "; ".join(f"{name!r} {why}" for name, why in left_out.items())
    if not taken:
        raise InvalidDataError(
            f"No feature left: besides {listed(sorted(used))}, none of {listed(ds.data_vars)} holds numbers "
            f"or text over the sample dimensions {sample_dims} and at most one more"
            + (f": {reasons}." if reasons else ".")
        )
    logger.info("features: took %s%s", listed(taken), f"; left out: {reasons}" if reasons else "")


def _misfit(variable: xr.Variable, sample_dims: tuple[str, ...]) -> str | None:
    """Why a variable cannot be a feature, as the end of a sentence; None if it may be one."""
    others = [dim for dim in variable.dims if dim not in sample_dims]
    if len(others) > 1 or len(others) == variable.ndim:
        return (
            f"has dimensions {variable.dims}, expected one or more of the sample dimensions {sample_dims} "
            "and at most one other"
        )
    if any(variable.sizes[dim] == 0 for dim in others):
        return f"has no column along {others[0]!r}, expected at least one"
    if others and kind_of(variable) is not ValueKind.NUMBER:
        return f"has dtype {variable.dtype}, expected numbers along {others[0]!r}"
    return wrong_dtype(variable) if kind_of(variable) is ValueKind.OTHER else None


def _describe(
    ds: xr.Dataset,
    declared: str | Term,
    sample_dims: tuple[str, ...],
    shared: Counter[str | None],
    learned: Learned,
) -> FeatureVariable:
    if isinstance(declared, str):
        return _describe_variable(ds, declared, sample_dims, shared, learned.levels.get(declared))
    if declared.function == "interaction":
        parts = tuple(_describe(ds, part, sample_dims, shared, learned) for part in declared.of)
        dims = tuple(dim for dim in sample_dims if any(dim in part.dims for part in parts))
        labels = reduce(_product_labels, (part.labels for part in parts))
        return FeatureVariable(str(declared), dims, None, labels, None, parts=parts)
    variable = ds.variables[variable_of(declared)]
    if feature_dim_of(variable, sample_dims) is not None:
        raise InvalidDataError(
            f"{declared}: variable {variable_of(declared)!r} has dimensions {variable.dims}, expected some "
            f"of the sample dimensions {sample_dims}."
        )
    coding = _coding_of(declared, learned, variable)
    if misfit := coding.misfit(variable):
        raise InvalidDataError(f"{declared}: variable {variable_of(declared)!r} {misfit}.")
    return _describe_variable(ds, variable_of(declared), sample_dims, shared, coding)


def _coding_of(term: Term, learned: Learned, variable: xr.Variable) -> Coding:
    if term.function == "harmonics":
        return Harmonics(term.argument("periods"))
    if term.function == "powers":
        return Powers(1, term.argument("degree"))
    if term.function == "splines":
        return Splines(learned.knots[str(term)], term.argument("degree"))
    equals = term.argument("equals")
    known = declared_levels(variable)
    if known is not None and equals in known.names:
        # Flags are called by their meanings.
        equals = known.levels[known.names.index(equals)]
    elif isinstance(equals, str) and kind_of(variable) is ValueKind.NUMBER:
        equals = number_from(equals)
    return Indicator(equals, term.argument("above"), term.argument("below"))


def _product_labels(first: tuple[str, ...], second: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(f"{one}:{other}" for one in first for other in second)


def _without_twice(variables: tuple[FeatureVariable, ...], names: set[str]) -> tuple[FeatureVariable, ...]:
    """The first power is left to the variable itself where that is a feature."""
    return tuple(
        replace(each, coding=replace(each.coding, first=2), labels=each.labels[1:])
        if isinstance(each.coding, Powers) and each.name in names
        else each
        for each in variables
    )


def _describe_variable(
    ds: xr.Dataset,
    name: str,
    sample_dims: tuple[str, ...],
    shared: Counter[str | None],
    coding: Coding | None,
) -> FeatureVariable:
    variable = ds.variables[name]
    dims, dim = sample_part(variable, sample_dims), feature_dim_of(variable, sample_dims)
    if coding is not None:
        return FeatureVariable(name, dims, None, coding.labels(name), units_of(variable), coding=coding)
    if dim is None:
        return FeatureVariable(name, dims, None, (name,), units_of(variable))
    keys = column_keys(ds, dim)
    if keys is None:
        labels = tuple(f"{name}_{i}" for i in range(variable.sizes[dim]))
    else:
        labels = tuple(f"{name}_{key}" for key in keys) if shared[dim] > 1 else keys
    return FeatureVariable(name, dims, dim, labels, units_of(variable), keys)

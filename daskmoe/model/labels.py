"""Arrays of parameters to labelled datasets, and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from daskmoe.errors import InvalidDataError, SchemaError
from daskmoe.numerics.base.parameters import Columns, FloatArray, LargeMoE, Mixture, MoEParameters
from daskmoe.numerics.families import Family
from daskmoe.rows import RowSchema
from daskmoe.rows.names import (
    COEF,
    EXPERT,
    FEATURE,
    GATE_COEF,
    GATE_FEATURE,
    GATE_INTERCEPT,
    GROUP,
    GROUP_WEIGHT,
    INTERCEPT,
    LOCAL_EXPERT,
    PARAMETERS,
    PARTITION,
)

LONG_NAMES = {
    GATE_INTERCEPT: "intercept of the gating network",
    GATE_COEF: "coefficients of the gating network",
    INTERCEPT: "intercept of the expert's regression",
    COEF: "coefficients of the expert's regression",
    GROUP: "number of the local estimator that the expert belongs to",
    GROUP_WEIGHT: "weight of that local estimator",
}


def parameter_variables(family: Family) -> dict[str, bool]:
    """Names of the variables of a model's parameters -> whether they have the feature dimension."""
    return PARAMETERS | {nuisance.name: False for nuisance in family.nuisances}


def columns_of(params: xr.Dataset) -> Columns:
    """Which features are the gates' and which the experts', as labelled; the experts' come first of all."""
    if GATE_FEATURE not in params.dims:
        return Columns()
    own, gates = params[FEATURE].values.tolist(), params[GATE_FEATURE].values.tolist()
    whole = list(dict.fromkeys([*own, *gates]))
    of_gates = tuple(whole.index(label) for label in gates)
    everything = tuple(range(len(whole)))
    return Columns(
        None if tuple(sorted(of_gates)) == everything else of_gates,
        None if len(own) == len(whole) else everything[: len(own)],
    )


def feature_dim(name: str, columns: Columns) -> str | None:
    """The dimension that a variable has for its features, if it has one."""
    if not PARAMETERS.get(name):
        return None
    return GATE_FEATURE if name == GATE_COEF and not columns.shared else FEATURE


def _feature_coords(rows: RowSchema) -> dict[str, NDArray[np.str_]]:
    coords = {FEATURE: _labels(rows.expert_labels)}
    return coords if rows.columns.shared else coords | {GATE_FEATURE: _labels(rows.gate_labels)}


def label_parameters(
    parameters: Mixture, rows: RowSchema, family: Family, experts: NDArray[np.str_] | None = None
) -> xr.Dataset:
    """The parameters of one model as a dataset.

    Parameters
    ----------
    parameters : MoEParameters or LargeMoE
        K experts, and as many features as ``rows`` has labels.
    rows : RowSchema
        Gives the feature labels and the units of the target.
    family : Family
        Names the nuisances.
    experts : ndarray of str, optional
        Names of the experts; else they are numbered.

    Returns
    -------
    xr.Dataset
        ``gate_intercept``, ``intercept`` and the family's nuisances with dimension ``expert``; ``gate_coef``
        and ``coef`` with dimensions ``expert`` and ``feature``, that of the former being ``gate_feature``
        where the gates have features of their own. The large MoE also has ``group`` and
        ``group_weight`` with dimension ``expert``: the number of the local estimator that an expert belongs
        to, within which its gate is normalized, and that estimator's weight.

    Raises
    ------
    InvalidDataError
        If the number of features differs.
    """
    _check_features(parameters, rows)
    numbers: NDArray[Any] = np.arange(parameters.n_experts)
    coords = {EXPERT: numbers if experts is None else experts, **_feature_coords(rows)}
    labelled = _dataset(parameter_arrays(parameters, family, rows.columns), (EXPERT,), coords, rows, family)
    if not isinstance(parameters, LargeMoE):
        return labelled
    weights = parameters.weights[parameters.partition]
    return labelled.assign(
        {
            GROUP: (EXPERT, parameters.partition.astype(np.int64), {"long_name": LONG_NAMES[GROUP]}),
            GROUP_WEIGHT: (EXPERT, weights, {"long_name": LONG_NAMES[GROUP_WEIGHT], "units": "1"}),
        }
    )


def expert_names(params: xr.Dataset) -> list[str]:
    """What experts are called in texts: their own names, or ``expert`` and the number."""
    named = has_names(params)
    return [str(label) if named else f"expert {label}" for label in params[EXPERT].values]


def has_names(params: xr.Dataset) -> bool:
    """Whether experts are labelled by names, not numbers."""
    return params[EXPERT].dtype.kind in "UTO"


def label_local_estimates(
    parameters: Sequence[MoEParameters | None], labels: Sequence[str], rows: RowSchema, family: Family
) -> xr.Dataset:
    """The local estimators of all partitions as one dataset.

    Parameters
    ----------
    parameters : sequence of MoEParameters or None
        One local estimator a partition, in partition order; None where the partition was left out.
    labels : sequence of str
        Labels of the partitions, in the same order.
    rows : RowSchema
        Gives the feature labels and the units of the target.
    family : Family

    Returns
    -------
    xr.Dataset
        The variables of `label_parameters` with the dimensions ``partition``, ``local_expert`` (and
        ``feature``); NaN where a partition was left out or has fewer experts than another.

    Raises
    ------
    InvalidDataError
        If the numbers of estimators and labels, or of features, differ.
    """
    if len(parameters) != len(labels):
        raise InvalidDataError(
            f"local estimates: expected one label a partition, got {len(parameters)} partitions and "
            f"{len(labels)} labels."
        )
    n_experts = max((p.n_experts for p in parameters if p is not None), default=0)
    shape = (len(parameters), n_experts)
    feature_coords = _feature_coords(rows)
    wide = {dim: (*shape, len(labels)) for dim, labels in feature_coords.items()}
    arrays = {
        name: np.full(shape if dim is None else wide[dim], np.nan)
        for name in parameter_variables(family)
        for dim in [feature_dim(name, rows.columns)]
    }
    for m, local in enumerate(parameters):
        if local is None:
            continue
        _check_features(local, rows)
        for name, values in parameter_arrays(local, family, rows.columns).items():
            arrays[name][m, : local.n_experts] = values
    coords = {
        PARTITION: _labels(labels),
        LOCAL_EXPERT: np.arange(n_experts),
        **feature_coords,
    }
    return _dataset(arrays, (PARTITION, LOCAL_EXPERT), coords, rows, family)


def parameters_from(params: xr.Dataset, rows: RowSchema, family: Family) -> Mixture:
    """The arrays of a dataset that `label_parameters` made; the inverse of it."""
    gate, coef, nuisance = linear_from(params, family)
    if rows.offset_column is not None:
        gate = np.concatenate([gate, np.zeros((len(gate), 1))], axis=1)
        coef = np.concatenate([coef, np.ones((*coef.shape[:2], 1))], axis=2)
    for d, label in enumerate(family.nuisances):
        if label.reciprocal:
            nuisance[:, d] = 1.0 / nuisance[:, d]
    if GROUP not in params:
        return MoEParameters(gate, coef, nuisance)
    group = params[GROUP].values.astype(np.intp)
    weights = params[GROUP_WEIGHT].values[np.flatnonzero(np.diff(group, prepend=-1))]
    return LargeMoE(gate, coef, nuisance, group, weights)


def linear_from(params: xr.Dataset, family: Family) -> MoEParameters:
    """Numbers shaped like ``params`` as arrays; the inverse of `linear_arrays`."""
    columns = columns_of(params)
    gate = _among_all(params, GATE_INTERCEPT, GATE_COEF, columns.gates, columns)
    coef = _among_all(params, INTERCEPT, COEF, columns.experts, columns)[:, None]
    nuisance = np.empty((len(gate), family.n_nuisances))
    for d, label in enumerate(family.nuisances):
        nuisance[:, d] = _values(params, label.name)
    return MoEParameters(gate, coef, nuisance)


def _among_all(
    params: xr.Dataset, intercept: str, name: str, own: tuple[int, ...] | None, columns: Columns
) -> FloatArray:
    """Weights (K, p + 1) with zeros for features that are not theirs."""
    found = np.column_stack([_values(params, intercept), _values(params, name)])
    if own is None:
        return found
    p = params.sizes[FEATURE if columns.experts is None else GATE_FEATURE]
    if columns.gates is not None and columns.experts is not None:
        p = len({*columns.gates, *columns.experts})
    out = np.zeros((len(found), p + 1))
    out[:, [0, *(column + 1 for column in own)]] = found
    return out


def check_params(params: xr.Dataset, rows: RowSchema, family: Family) -> None:
    """Raise `SchemaError` unless ``params`` has all variables and dimensions and the features of ``rows``."""
    variables = parameter_variables(family)
    for name in variables:
        if name not in params:
            raise SchemaError(
                f"model: expected the variables {list(variables)}, got "
                f"{sorted(map(str, params.data_vars))}; {name!r} is missing."
            )
        dim = feature_dim(name, rows.columns)
        dims = (EXPERT,) if dim is None else (EXPERT, dim)
        if set(params[name].dims) != set(dims):
            raise SchemaError(
                f"model: expected variable {name!r} to have the dimensions {dims}, got {params[name].dims}."
            )
    if GROUP in params:
        _check_groups(params)
    for dim, known in _feature_coords(rows).items():
        if dim not in params.coords:
            raise SchemaError(
                f"model: expected a coordinate {dim!r} with the labels of the features, got none."
            )
        labels, expected = params[dim].values.tolist(), known.tolist()
        if list(map(str, labels)) != expected:
            raise SchemaError(f"model: expected the features {expected} of its rows schema, got {labels}.")


def _check_groups(params: xr.Dataset) -> None:
    """Raise `SchemaError` unless experts of a group follow each other and share one weight."""
    if GROUP_WEIGHT not in params:
        raise SchemaError(f"model: expected the variable {GROUP_WEIGHT!r} beside {GROUP!r}, got none.")
    group, weight = params[GROUP].values, params[GROUP_WEIGHT].values
    steps = np.diff(group, prepend=-1)
    if not np.isin(steps, (0, 1)).all() or not (np.diff(weight)[steps[1:] == 0] == 0).all():
        raise SchemaError(
            f"model: expected {GROUP!r} to number the groups of experts from 0 on, in order, and one "
            f"{GROUP_WEIGHT!r} a group, got other values; the model is damaged."
        )


def _values(params: xr.Dataset, name: str) -> FloatArray:
    return np.asarray(params[name].transpose(EXPERT, ...).values, dtype=np.float64)


def parameter_arrays(parameters: Mixture, family: Family, columns: Columns) -> dict[str, FloatArray]:
    """The arrays of the parameters by the names of their variables, of their own features."""
    shown = linear_arrays(parameters, family, columns)
    for label in family.nuisances:
        if label.reciprocal:
            shown[label.name] = 1.0 / shown[label.name]
    return shown


def linear_arrays(parameters: Mixture, family: Family, columns: Columns) -> dict[str, FloatArray]:
    """Arrays that are arranged as parameters, such as derivatives in them, by the same names."""
    of_gates, of_experts = (
        slice(1, None) if own is None else [column + 1 for column in own]
        for own in (columns.gates, columns.experts)
    )
    # The one linear predictor that families have so far needs no dimension.
    coef = parameters.coef[:, 0]
    nuisances = {label.name: parameters.nuisance[:, d] for d, label in enumerate(family.nuisances)}
    return {
        GATE_INTERCEPT: parameters.gate[:, 0],
        GATE_COEF: parameters.gate[:, of_gates],
        INTERCEPT: coef[:, 0],
        COEF: coef[:, of_experts],
        **nuisances,
    }


def _dataset(
    arrays: dict[str, FloatArray],
    dims: tuple[str, ...],
    coords: dict[str, NDArray[Any]],
    rows: RowSchema,
    family: Family,
) -> xr.Dataset:
    texts = LONG_NAMES | {label.name: label.long_name for label in family.nuisances}
    units = _units(rows.target_attrs.get("units"), family)
    variables = {}
    for name, values in arrays.items():
        attrs = {"long_name": texts[name]}
        if name in units:
            attrs["units"] = units[name]
        dim = feature_dim(name, rows.columns)
        variables[name] = (dims if dim is None else (*dims, dim), np.array(values), attrs)
    return xr.Dataset(variables, coords)


def _units(target: str | None, family: Family) -> dict[str, str]:
    """Units of the parameters that have any, from those of the target."""
    patterns = {GATE_INTERCEPT: "1", INTERCEPT: family.predictor_units}
    patterns |= {label.name: label.units for label in family.nuisances}
    return {
        name: pattern.format(target)
        for name, pattern in patterns.items()
        if target is not None or "{}" not in pattern
    }


def _labels(labels: Sequence[str]) -> NDArray[np.str_]:
    return np.array(labels, dtype=np.str_)


def _check_features(parameters: Mixture, rows: RowSchema) -> None:
    if parameters.n_features != len(rows.feature_labels):
        raise InvalidDataError(
            f"parameters: expected {len(rows.feature_labels)} features {list(rows.feature_labels)}, "
            f"got {parameters.n_features}."
        )

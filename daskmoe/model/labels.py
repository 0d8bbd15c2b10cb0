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
    CLASS,
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
    OUTPUT,
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


def parameter_variables(family: Family, columns: Columns) -> dict[str, tuple[str, ...]]:
    """Names of the variables of a model's parameters -> the dimensions that they have after the experts'."""
    outputs = (OUTPUT,) if family.by_predictor else ()
    own, gates = (CLASS,) if family.nominal else outputs, FEATURE if columns.shared else GATE_FEATURE
    linear = {GATE_INTERCEPT: (), GATE_COEF: (gates,), INTERCEPT: own, COEF: (*own, FEATURE)}
    return linear | {nuisance.name: outputs for nuisance in family.nuisances}


def nuisance_columns(family: Family) -> dict[str, int | slice]:
    """Names of the nuisances -> where they are among the columns of arrays: one, or one for each output."""
    everyone = slice(None)
    return {label.name: everyone if family.by_predictor else d for d, label in enumerate(family.nuisances)}


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
        where the gates have features of their own; where the target is labels, ``intercept`` and ``coef``
        have a dimension ``class`` too, zero for the first, the reference; of several outputs these and the
        nuisances have ``output``. The large MoE also has
        ``group`` and ``group_weight`` with dimension ``expert``: the number of the local estimator that an
        expert belongs to, within which its gate is normalized, and that estimator's weight.

    Raises
    ------
    InvalidDataError
        If the number of features differs.
    """
    _check_features(parameters, rows)
    numbers: NDArray[Any] = np.arange(parameters.n_experts)
    coords = {EXPERT: numbers if experts is None else experts, **_coordinates(rows)}
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
    coords = {PARTITION: _labels(labels), LOCAL_EXPERT: np.arange(n_experts), **_coordinates(rows)}
    arrays = {
        name: np.full((len(parameters), n_experts, *(len(coords[dim]) for dim in dims)), np.nan)
        for name, dims in parameter_variables(family, rows.columns).items()
    }
    for m, local in enumerate(parameters):
        if local is None:
            continue
        _check_features(local, rows)
        for name, values in parameter_arrays(local, family, rows.columns).items():
            arrays[name][m, : local.n_experts] = values
    return _dataset(arrays, (PARTITION, LOCAL_EXPERT), coords, rows, family)


def parameters_from(params: xr.Dataset, rows: RowSchema, family: Family) -> Mixture:
    """The arrays of a dataset that `label_parameters` made; the inverse of it."""
    gate, coef, nuisance = linear_from(params, family)
    if rows.offset_column is not None:
        gate = np.concatenate([gate, np.zeros((len(gate), 1))], axis=1)
        coef = np.concatenate([coef, np.ones((*coef.shape[:2], 1))], axis=2)
    for label, d in zip(family.nuisances, nuisance_columns(family).values(), strict=True):
        nuisance[:, d] = label.seen.nuisance(nuisance[:, d])
    if GROUP not in params:
        return MoEParameters(gate, coef, nuisance)
    group = params[GROUP].values.astype(np.intp)
    weights = params[GROUP_WEIGHT].values[np.flatnonzero(np.diff(group, prepend=-1))]
    return LargeMoE(gate, coef, nuisance, group, weights)


def linear_from(params: xr.Dataset, family: Family) -> MoEParameters:
    """Numbers shaped like ``params`` as arrays; the inverse of `linear_arrays`."""
    columns = columns_of(params)
    gate = _among_all(params, GATE_INTERCEPT, GATE_COEF, columns.gates, columns)
    coef = _among_all(params, INTERCEPT, COEF, columns.experts, columns)
    # Without the reference class, whose own are zero.
    coef = coef[:, 1:] if family.nominal else coef if family.by_predictor else coef[:, None]
    nuisance = np.empty((len(gate), family.n_nuisances))
    for name, d in nuisance_columns(family).items():
        nuisance[:, d] = _values(params, name)
    return MoEParameters(gate, coef, nuisance)


def _among_all(
    params: xr.Dataset, intercept: str, name: str, own: tuple[int, ...] | None, columns: Columns
) -> FloatArray:
    """Weights (K, p + 1) with zeros for features that are not theirs."""
    found = np.concatenate([_values(params, intercept)[..., None], _values(params, name)], axis=-1)
    if own is None:
        return found
    p = params.sizes[FEATURE if columns.experts is None else GATE_FEATURE]
    if columns.gates is not None and columns.experts is not None:
        p = len({*columns.gates, *columns.experts})
    out = np.zeros((*found.shape[:-1], p + 1))
    out[..., [0, *(column + 1 for column in own)]] = found
    return out


def check_params(params: xr.Dataset, rows: RowSchema, family: Family) -> None:
    """Raise `SchemaError` unless ``params`` has all variables and dimensions and the features of ``rows``."""
    variables = parameter_variables(family, rows.columns)
    for name, trailing in variables.items():
        if name not in params:
            raise SchemaError(
                f"model: expected the variables {list(variables)}, got "
                f"{sorted(map(str, params.data_vars))}; {name!r} is missing."
            )
        dims = (EXPERT, *trailing)
        if set(params[name].dims) != set(dims):
            raise SchemaError(
                f"model: expected variable {name!r} to have the dimensions {dims}, got {params[name].dims}."
            )
    if GROUP in params:
        _check_groups(params)
    if family.nominal and params.sizes[CLASS] != rows.n_classes:
        raise SchemaError(
            f"model: expected the {rows.n_classes} classes of its rows schema, got {params.sizes[CLASS]}."
        )
    if rows.output_dim is not None and params.sizes[OUTPUT] != len(rows.outputs):
        raise SchemaError(
            f"model: expected the {len(rows.outputs)} outputs of its rows schema, got {params.sizes[OUTPUT]}."
        )
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
    order = [dim for dim in (EXPERT, CLASS, OUTPUT, FEATURE, GATE_FEATURE) if dim in params[name].dims]
    return np.asarray(params[name].transpose(*order).values, dtype=np.float64)


def parameter_arrays(parameters: Mixture, family: Family, columns: Columns) -> dict[str, FloatArray]:
    """The arrays of the parameters by the names of their variables, of their own features."""
    shown = linear_arrays(parameters, family, columns)
    for label in family.nuisances:
        shown[label.name] = np.asarray(label.seen.value(shown[label.name]), np.float64)
    return shown


def linear_arrays(
    parameters: Mixture, family: Family, columns: Columns, reference: float = 0.0
) -> dict[str, FloatArray]:
    """Arrays that are arranged as parameters, such as derivatives in them, by the same names.

    The reference class, which has no predictor, has ``reference``.
    """
    of_gates, of_experts = (
        slice(1, None) if own is None else [column + 1 for column in own]
        for own in (columns.gates, columns.experts)
    )
    coef = parameters.coef
    if family.nominal:
        coef = np.concatenate([np.full_like(coef[:, :1], reference), coef], axis=1)
        intercept, slopes = coef[:, :, 0], coef[:, :, of_experts]
    elif family.by_predictor:
        intercept, slopes = coef[:, :, 0], coef[:, :, of_experts]
    else:
        # The one linear predictor needs no dimension.
        intercept, slopes = coef[:, 0, 0], coef[:, 0][:, of_experts]
    nuisances = {name: parameters.nuisance[:, d] for name, d in nuisance_columns(family).items()}
    return {
        GATE_INTERCEPT: parameters.gate[:, 0],
        GATE_COEF: parameters.gate[:, of_gates],
        INTERCEPT: intercept,
        COEF: slopes,
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
    units, trailing = (
        _units(rows.target_attrs.get("units"), family),
        parameter_variables(family, rows.columns),
    )
    variables = {}
    for name, values in arrays.items():
        attrs = {"long_name": texts[name]}
        if name in units:
            attrs["units"] = units[name]
        variables[name] = ((*dims, *trailing[name]), np.array(values), attrs)
    return xr.Dataset(variables, coords)


def _coordinates(rows: RowSchema) -> dict[str, NDArray[Any]]:
    """Labels of the dimensions after the experts': the features, and classes or outputs if there are any."""
    features: dict[str, NDArray[Any]] = dict(_feature_coords(rows))
    if rows.output_dim is not None:
        return {OUTPUT: np.asarray(rows.outputs), **features}
    return features if rows.classes is None else {CLASS: rows.classes.as_labels(), **features}


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

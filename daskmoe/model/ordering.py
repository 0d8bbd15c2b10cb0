"""The experts of a model in another order, or under other names."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from daskmoe.errors import InvalidDataError, InvalidOptionError
from daskmoe.model.covariances import covariance_variables, stack_arrays, unstack
from daskmoe.model.labels import columns_of, has_names, label_parameters, linear_from, parameters_from
from daskmoe.model.moments import moments_from
from daskmoe.model.store import ModelParts
from daskmoe.numerics.base.parameters import FloatArray, Mixture, MoEParameters, Moments, SupportSample
from daskmoe.numerics.families import Family
from daskmoe.numerics.transport.alignment import match_experts
from daskmoe.rows import RowSchema
from daskmoe.rows.names import (
    COVARIANCE,
    EXPERT,
    GATE_COEF,
    GATE_INTERCEPT,
    IDENTIFIED,
    KIND,
    OLD_STANDARD_ERROR,
    PARAMETER,
    STANDARD_ERROR,
    Kind,
)

Order = NDArray[np.intp]


def check_order(order: Sequence[int | str], params: xr.Dataset) -> Order:
    """Positions of experts, each once, from positions or names; `InvalidOptionError` else."""
    asked, labels = list(order), params[EXPERT].values.tolist()
    found = [labels.index(each) if each in labels and isinstance(each, str) else each for each in asked]
    if any(isinstance(each, str) for each in found) or sorted(found) != list(range(len(labels))):
        raise InvalidOptionError(
            f"order: expected every expert of {labels} once, by position or name, got {asked}."
        )
    return np.array(found, dtype=np.intp)


def check_names(names: Sequence[str], n_experts: int) -> list[str]:
    """Names of experts; `InvalidOptionError` unless there are as many, all different."""
    found = [names] if isinstance(names, str) else list(names)
    different = {name for name in found if str(name).strip()}
    if len(found) != n_experts or len(different) != n_experts or not all(type(n) is str for n in found):
        raise InvalidOptionError(f"names: expected {n_experts} different names, one an expert, got {found}.")
    return found


def renamed(parts: ModelParts, names: list[str]) -> ModelParts:
    """The same model with names as labels of its experts."""
    params = parts.params.assign_coords({EXPERT: np.array(names, dtype=np.str_)})
    diagnostics = parts.diagnostics
    if diagnostics is not None:
        # Labels are those of the parameters.
        diagnostics = diagnostics.drop_vars(EXPERT, errors="ignore")
    return parts._replace(params=params, diagnostics=diagnostics)


def permuted(parts: ModelParts, parameters: MoEParameters, order: Order) -> ModelParts:
    """The same model, its experts in another order, the last of them the new reference of the gates.

    Names go along with the experts; numbers count anew.
    """
    family = parts.densities
    names = parts.params[EXPERT].values[order] if has_names(parts.params) else None
    params = label_parameters(parameters.take(order), parts.rows, family, names)
    for name, values in parts.params.data_vars.items():
        params[name].attrs = dict(values.attrs)
    diagnostics = parts.diagnostics
    if diagnostics is not None:
        moved = _errors_in_order(parts.params, diagnostics, order, family)
        diagnostics = diagnostics.drop_vars(list(moved.data_vars)).merge(moved, combine_attrs="override")
        if EXPERT in diagnostics.dims:
            diagnostics = diagnostics.isel({EXPERT: order}).drop_vars(EXPERT, errors="ignore")
    information = None if parts.information is None else parts.information.isel({EXPERT: order})
    return parts._replace(params=params, diagnostics=diagnostics, information=information)


def order_as(parts: ModelParts, parameters: MoEParameters, other: ModelParts) -> Order:
    """The order in which the experts of a model agree best with those of another.

    Distances are expected over the rows of either model, of which the means and covariances are enough: the
    points of `_support_from` have these.
    """
    alike = (
        parts.family == other.family
        and set(parts.rows.expert_labels) == set(other.rows.expert_labels)
        and set(parts.rows.gate_labels) == set(other.rows.gate_labels)
        and parts.rows.offset == other.rows.offset
    )
    if not alike:
        raise InvalidDataError(
            f"other: expected a model of {parts.family} experts of the features "
            f"{list(parts.rows.feature_labels)}, got one of {other.family} experts of "
            f"{list(other.rows.feature_labels)}."
        )
    if parts.rows.codings != other.rows.codings:
        raise InvalidDataError(
            "other: expected a model with the same levels, knots and other codings of the features, got "
            f"{other.rows.codings} for {parts.rows.codings}. Fit both with the same categories= and knots=."
        )
    if parts.rows.classes != other.rows.classes:
        raise InvalidDataError(
            f"other: expected a model with the same classes of {parts.rows.target!r}, in the same order, got "
            f"{other.rows.classes} for {parts.rows.classes}. Fit both with the same categories=."
        )
    if parts.rows.outputs != other.rows.outputs:
        raise InvalidDataError(
            f"other: expected a model with the outputs {list(parts.rows.outputs)} of {parts.rows.target!r}, "
            f"in the same order, got {list(other.rows.outputs)}."
        )
    family = parts.densities
    theirs = _with_features_as(other, parts.rows, family)
    if not isinstance(theirs, MoEParameters):
        raise InvalidDataError("other: expected a model with one gating network, got a weighted average.")
    support = _support(parts, other)
    if parameters.n_experts <= theirs.n_experts:
        return np.argsort(match_experts(parameters, theirs, support, family))
    first = match_experts(theirs, parameters, support, family)
    return np.concatenate([first, np.setdiff1d(np.arange(parameters.n_experts), first)])


def _with_features_as(other: ModelParts, rows: RowSchema, family: Family) -> Mixture:
    """The parameters of a model with the features in the order of another's rows."""
    found = parameters_from(other.params, other.rows, family)
    theirs = list(other.rows.feature_labels)
    index = [0, *(theirs.index(label) + 1 for label in rows.feature_labels)]
    return found._replace(gate=found.gate[:, index], coef=found.coef[..., index])


def _support(parts: ModelParts, other: ModelParts) -> SupportSample:
    known = moments_from(parts.diagnostics)
    labels = list(parts.rows.feature_labels)
    if known is not None:
        return _support_from(known, np.arange(len(labels)))
    known = moments_from(other.diagnostics)
    if known is None:
        raise InvalidDataError(
            "Expected a model that knows the means and covariances of its rows, here or as other, got two "
            "that do not: fit one, or use daskmoe.refine(model, data, rounds=1), which finds them."
        )
    theirs = list(other.rows.feature_labels)
    return _support_from(known, np.array([theirs.index(label) for label in labels], dtype=np.intp))


def _support_from(moments: Moments, columns: NDArray[np.intp]) -> SupportSample:
    """2 p points of equal weight that have the means and covariances of the features."""
    size = len(columns)
    covariance = moments.scatter[np.ix_(columns, columns)] / moments.weight
    values, vectors = np.linalg.eigh(covariance)
    steps = np.sqrt(size * values.clip(0.0))[:, np.newaxis] * vectors.T
    points = moments.mean[columns] + np.concatenate([steps, -steps, np.zeros((int(size == 0), size))])
    return SupportSample(points, None, np.full(len(points), 1.0 / len(points)))


def _errors_in_order(params: xr.Dataset, diagnostics: xr.Dataset, order: Order, family: Family) -> xr.Dataset:
    """The covariances, flags and errors of the same model with its experts in another order.

    Those by expert, as version 0.1.0 kept them, stay in their order.
    """
    same_reference = bool(order[-1] == len(order) - 1)
    gates = (GATE_INTERCEPT, GATE_COEF)
    if STANDARD_ERROR not in diagnostics:
        old = [f"{OLD_STANDARD_ERROR}{name}" for name in gates]
        lost = [name for name in old if name in diagnostics and not same_reference]
        return diagnostics[lost] * np.nan if lost else xr.Dataset()
    change, from_old = _change_of_order(params, order, family)
    unknown = diagnostics[IDENTIFIED].values == 0
    identified = ~((np.abs(from_old) @ unknown.astype(np.float64)) > 0.0)
    kinds = [Kind(kind) for kind in diagnostics[KIND].values.tolist()]
    if COVARIANCE in diagnostics:
        found = {kind: change @ diagnostics[COVARIANCE].sel({KIND: kind}).values @ change.T for kind in kinds}
        return covariance_variables(found, identified)
    errors = np.abs(change) @ diagnostics[STANDARD_ERROR].transpose(PARAMETER, KIND).values
    # Of a difference of two gates the errors alone say nothing.
    several = np.count_nonzero(from_old, axis=1) > 1
    errors[several] = np.nan
    return xr.Dataset(
        {
            IDENTIFIED: (PARAMETER, identified.astype(np.int64), diagnostics[IDENTIFIED].attrs),
            STANDARD_ERROR: ((KIND, PARAMETER), errors.T, diagnostics[STANDARD_ERROR].attrs),
        },
        {KIND: diagnostics[KIND].values},
    )


def _change_of_order(params: xr.Dataset, order: Order, family: Family) -> tuple[FloatArray, FloatArray]:
    """The linear map of the stacked parameters to those in another order, and which ones each is made of."""
    n_parameters = sum(values.size for values in params.data_vars.values())
    positions = linear_from(unstack(np.arange(n_parameters, dtype=np.float64), params, family), family)
    basis = np.eye(n_parameters)
    reference = basis[positions.gate[-1].astype(np.intp)].copy()
    # It is zero, whatever the others are.
    basis[positions.gate[-1].astype(np.intp)] = 0.0
    gate, coef, nuisance = (basis[array.astype(np.intp)][order] for array in positions[:3])
    gate = gate - gate[-1]
    columns = columns_of(params)
    change = stack_arrays(MoEParameters(gate, coef, nuisance), family, columns, 1)
    # The new reference is what it is by convention, as the old one was.
    made_of = np.concatenate([gate[:-1], reference[np.newaxis]])
    return change, stack_arrays(MoEParameters(made_of, coef, nuisance), family, columns, 1)

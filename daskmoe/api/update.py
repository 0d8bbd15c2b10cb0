"""`update`: new rows for a model that remembers what the old ones said."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import numpy as np
import xarray as xr

from daskmoe.api.caller import short_errors, warn
from daskmoe.api.hooks import HOOKS
from daskmoe.api.labelling import (
    label_covariances,
    label_expert_weights,
    label_target_range,
    parameter_count,
)
from daskmoe.engine import FitRequest, Update, plan_passes, run_update
from daskmoe.errors import DataWarning, InvalidDataError, InvalidOptionError
from daskmoe.model import MixtureOfExperts, MixtureWithAtoms, any_model_at
from daskmoe.model.labels import has_names
from daskmoe.model.memory import label_memory
from daskmoe.model.moments import label_moments, target_range
from daskmoe.numerics.base.parameters import FloatArray, order_by_share
from daskmoe.numerics.base.policies import MEMORY
from daskmoe.numerics.combine.memory import Memory
from daskmoe.numerics.likelihood.inference import is_definite
from daskmoe.options import FitOptions, OnError, OnMissingChunks, Progress
from daskmoe.rows import Data
from daskmoe.rows.names import (
    EXPERT,
    EXPERT_WEIGHT,
    TARGET_RANGE,
    UPDATE,
    UPDATE_DRIFT,
    UPDATE_DRIFT_LIMIT,
    UPDATE_DRIFT_NATS,
    UPDATE_ROWS,
    Kind,
)

_STORY = {
    UPDATE_ROWS: "rows of the update",
    "update_dropped_rows": "rows that the update left out: missing values or no weight",
    "update_weight": "sum of the weights of the rows of the update",
    "update_forget": "share of the past that the update discounted",
    "update_passes": "expansions of the rows of the update",
    "update_log_likelihood": "log-likelihood of the rows of the update under the updated model, in nats",
    "update_step": "the step that was taken",
    UPDATE_DRIFT: "squared distance of the new rows' optimum, a parameter: about one where nothing changed",
    UPDATE_DRIFT_LIMIT: "the largest drift that chance explains",
    UPDATE_DRIFT_NATS: "what the new rows would gain by their optimum beyond chance, in nats a row",
}


@short_errors
def update(
    model: MixtureOfExperts | str | os.PathLike[str],
    data: Data,
    *,
    forget: float = 0.0,
    partitions: int | str | None = None,
    on_error: OnError = "raise",
    missing_chunks: OnMissingChunks = "warn",
    progress: Progress = "auto",
) -> MixtureOfExperts:
    """Add new rows to a model, without those that it was fitted to.

    A model keeps the information of its rows (`MixtureOfExperts.information`). The new partitions are
    expanded around it, as `fit` expands partitions around its shared start, and the maximum of the sum of old
    and new is the updated model, which keeps the sum. A step is taken only if the new rows' log-likelihood
    and the old quadratic together do not fall.

    Parameters
    ----------
    model : MixtureOfExperts, MixtureWithAtoms or path
        Of `fit`, `refine`, `update`, or of `aggregate` by information; or where it was saved.
    data : xr.Dataset or path
        New rows, labelled as in the fit. Rows that the model knows already would count twice.
    forget : float
        Share of the past to discount, from 0 to less than 1: old information and moments count for
        ``1 - forget`` times as much.
    partitions : int, str or None
        As in `fit`.
    on_error : {"raise", "skip"}
        As in `fit`.
    missing_chunks : {"warn", "raise", "fill"}
        As in `fit`.
    progress : {"auto", "bar", "log", "off"} or callable
        As in `fit`.

    Returns
    -------
    MixtureOfExperts
        With its experts by their shares of old and new rows (``updated.match(model)`` has them as they were),
        and approximate `standard_errors`. ``diagnostics`` say of every ``update`` how many rows it had and
        how far the model had drifted: ``update_drift``, about one where nothing changed, and
        ``update_drift_nats``, what the new rows by themselves would gain.

    Raises
    ------
    InvalidDataError
        If the model keeps no information, or the data do not fit it.
    InvalidOptionError, SchemaError, StoreError
        For options that cannot be, or a model or store that cannot be opened.
    PartitionError
        If a partition cannot be read; with ``on_error="skip"`` if none can.

    Warns
    -----
    DataWarning
        If the new rows' optimum is far from the model, so that one model may not do for old and new.

    References
    ----------
    arXiv:2312.09877, section 2 (the global estimator).

    Examples
    --------
    >>> import daskmoe
    >>> data, truth = daskmoe.simulate(4000, n_features=3, n_experts=2, chunks=500, random_state=0)
    >>> before = data.isel(row=slice(0, 3500))
    >>> model = daskmoe.fit(before, "y", n_experts=2, random_state=0)
    >>> updated = daskmoe.update(model, data.isel(row=slice(3500, None)))
    >>> updated.weight
    4000.0
    """
    options: dict[str, Any] = {
        "forget": forget,
        "partitions": partitions,
        "on_error": on_error,
        "missing_chunks": missing_chunks,
        "progress": progress,
    }
    return cast(MixtureOfExperts, updated_by(plan_updates(model, data, **options)))


def plan_updates(
    model: MixtureOfExperts | MixtureWithAtoms | str | os.PathLike[str], data: Data, **options: Any
) -> list[UpdatePlan]:
    """The updates of a model, or of the two of one with atoms, whose likelihoods multiply."""
    found = any_model_at(model, "model")
    parts = (found.atom_gates, found.experts) if isinstance(found, MixtureWithAtoms) else (found,)
    return [_plan_update(each, data, **options) for each in parts]


def updated_by(plans: Sequence[UpdatePlan]) -> MixtureOfExperts | MixtureWithAtoms:
    """The model with the new rows of `plan_updates`; warns where these are far from it."""
    first, *others = map(_updated_by, plans)
    return MixtureWithAtoms(first, *others) if others else first


class UpdatePlan(NamedTuple):
    """An update with everything validated that can be before rows are read."""

    model: MixtureOfExperts
    memory: Memory
    request: FitRequest
    forget: float


def _plan_update(model: MixtureOfExperts, data: Data, *, forget: float, **options: Any) -> UpdatePlan:
    share, memory = _check_forget(forget), _memory_of(model)
    labelled = model.options.get("support", "labelled") == "labelled"
    known = FitOptions(
        n_experts=model.n_experts,
        family=model.family,
        prior_strength=model.options.get("prior_strength", 1.0),
        min_scale=model.options.get("min_scale"),
        random_state=0,
        weight_kind=model.options.get("weight_kind", "frequency"),
        # What no response left in the fit tells none in the updates.
        support="labelled" if labelled else "features",
        **options,
    )
    return UpdatePlan(model, memory, plan_passes(data, model.rows, known), share)


def _updated_by(plan: UpdatePlan) -> MixtureOfExperts:
    """The model with the new rows; warns where these are far from it."""
    found = run_update(plan.request, HOOKS, plan.memory, plan.forget)
    if found.drift.is_far:
        warn(
            f"Expected new rows that the model fits, got {found.rows} whose own optimum is far from it: "
            f"{found.drift.ratio:.3g} times as far as chance explains, and {found.drift.nats:.2g} nats a row "
            "better by themselves. If the past no longer holds, discount it: daskmoe.update(model, data, "
            "forget=0.5); else fit old and new rows together with more experts or features.",
            DataWarning,
        )
    return _labelled(plan.model, found, plan.forget)


def _check_forget(forget: Any) -> float:
    if isinstance(forget, int | float) and not isinstance(forget, bool) and 0.0 <= forget < 1.0:
        return float(forget)
    raise InvalidOptionError(f"forget: expected a share from 0 to less than 1, got {forget!r}.")


def _memory_of(model: MixtureOfExperts) -> Memory:
    """What a model remembers; `InvalidDataError` says what gives it something to remember."""
    known = model.memory
    if known is not None:
        return known
    if model.n_parameters > MEMORY.most_parameters:
        raise InvalidDataError(
            f"model: expected one with at most {MEMORY.most_parameters} parameters, of which it keeps the "
            f"information, got {model.n_parameters}. Fit old and new rows together: daskmoe.fit(data, ...)."
        )
    raise InvalidDataError(
        "model: expected one that keeps the information of its rows, got one that has none, as of another "
        "aggregation, of an older version, or saved with keep_information=False. Refine it on the rows that "
        "it was fitted to: daskmoe.refine(model, data, rounds=1); or fit them again: daskmoe.fit(data, ...)."
    )


def _labelled(model: MixtureOfExperts, found: Update, forget: float) -> MixtureOfExperts:
    """The updated model, with the story of its updates."""
    choice, rows, family = found.choice, model.rows, model.densities
    pooled, known = choice.memory.moments, model.diagnostics
    mass: FloatArray | None = None
    order = np.arange(model.n_experts)
    if known is not None and EXPERT_WEIGHT in known:
        mass = (1.0 - forget) * known[EXPERT_WEIGHT].values + found.told.mass
        order = order_by_share(choice.memory.model, mass)
    parameters = choice.memory.model.take(order)
    near = choice.curvature._replace(order=choice.curvature.order[order])
    diagnostics = _story(model.diagnostics, found, forget)
    diagnostics = diagnostics.merge(label_moments(pooled, rows), combine_attrs="override")
    diagnostics = diagnostics.assign(parameter_count(parameters, choice.memory.coordinates))
    if mass is not None:
        diagnostics = diagnostics.assign(label_expert_weights(mass[order]))
    if known is not None and TARGET_RANGE in known and found.told.extremes is not None:
        both = np.stack([*target_range(known), *np.moveaxis(found.told.extremes.values[-1], -1, 0)])
        diagnostics = diagnostics.assign(
            label_target_range(np.stack([both.min(axis=0), both.max(axis=0)], axis=-1), rows)
        )
    if is_definite(near.information):
        kinds = {Kind.APPROXIMATE: None}
        errors = label_covariances(near, kinds, family, rows.columns)
        diagnostics = diagnostics.merge(errors, combine_attrs="override")
    return MixtureOfExperts.from_parameters(
        parameters,
        family=model.family,
        rows=rows,
        options=model.options,
        diagnostics=diagnostics,
        weight=pooled.weight,
        experts=model.params[EXPERT].values[order] if has_names(model.params) else None,
        information=label_memory(near, rows),
    )


def _story(known: xr.Dataset | None, found: Update, forget: float) -> xr.Dataset:
    """What there is to say of this update, behind those before it."""
    values: dict[str, Any] = {
        UPDATE_ROWS: found.rows,
        "update_dropped_rows": found.dropped,
        "update_weight": found.weight,
        "update_forget": forget,
        "update_passes": found.passes,
        "update_log_likelihood": found.log_likelihood,
        "update_step": found.choice.candidate.kind,
        UPDATE_DRIFT: found.drift.ratio,
        UPDATE_DRIFT_LIMIT: found.drift.limit,
        UPDATE_DRIFT_NATS: found.drift.nats,
    }
    variables = {}
    past = 0 if known is None else known.sizes.get(UPDATE, 0)
    for name, value in values.items():
        # Older versions did not keep the limit.
        missing = [np.nan] * past
        before = known[name].values.tolist() if known is not None and name in known else missing
        variables[name] = (UPDATE, np.array([*before, value]), {"long_name": _STORY[name]})
    return xr.Dataset(variables, attrs={"converged": 1, "aggregation": "update"})

"""`aggregate`: one model from models that were fitted and saved elsewhere."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from functools import reduce
from typing import cast

import numpy as np
import xarray as xr

from daskmoe.api.caller import short_errors
from daskmoe.api.comparable import check_models, support_sample
from daskmoe.api.labelling import label_aggregate, label_covariances, label_expert_weights
from daskmoe.api.reporting import report_identification
from daskmoe.engine.threads import single_threaded_blas
from daskmoe.errors import InvalidDataError
from daskmoe.model import MixtureOfExperts, MixtureWithAtoms, any_model_at
from daskmoe.model.labels import label_local_estimates
from daskmoe.model.memory import label_memory
from daskmoe.model.moments import label_moments, moments_from
from daskmoe.numerics.base.observations import merge_moments
from daskmoe.numerics.base.parameters import (
    FloatArray,
    LargeMoE,
    MoEParameters,
    Moments,
    SupportSample,
    order_by_share,
)
from daskmoe.numerics.base.policies import Regularization
from daskmoe.numerics.combine.choice import Sent, propose_independent, settle
from daskmoe.numerics.combine.registry import Aggregate, aggregate_estimates
from daskmoe.numerics.likelihood.inference import is_definite
from daskmoe.options import (
    AGGREGATIONS,
    Aggregation,
    FitOptions,
    RandomState,
    check_choice,
    check_integer,
    entropy_of,
)
from daskmoe.rows.names import Kind

logger = logging.getLogger(__name__)


@short_errors
def aggregate(
    models: Sequence[MixtureOfExperts | str | os.PathLike[str]],
    support: xr.Dataset | str | os.PathLike[str],
    *,
    n_experts: int | None = None,
    method: Aggregation = "reduction",
    random_state: RandomState = None,
) -> MixtureOfExperts:
    """Aggregate fitted models into one, from the models alone and a sample of features.

    The large MoE is the average of the models weighted by their row counts: at each row of those models that
    know it, as one fitted to rows without a level does not know rows that have it. The reduction minimizes
    E_x sum_lk P_lk(x) KL(phi_l(.|x), phi_k(.|x)) over K-expert models, where P is the optimal transport plan.

    Parameters
    ----------
    models : sequence of MixtureOfExperts, MixtureWithAtoms or path
        Fitted models, or where they were saved; the same features, target and family, any numbers of experts.
        A weighted average counts as the models it is made of.
    support : xr.Dataset or path
        Rows at which the expectation over x is taken; the target is not needed. Of more than 40,000
        rows, 40,000 spread over the data are looked at; of more than 10,000 complete ones of these, a random
        10,000 are used.
    n_experts : int, optional
        K of the result, more or fewer than a model has; by default that of the models.
    method : {"auto", "reduction", "whole", "greedy", "weighted", "middle", "aligned"}
        As ``aggregation`` in `fit`. ``"auto"`` averages models by their `MixtureOfExperts.information`, each
        for what its rows tell, which loses least where sites differ in their features; the result keeps the
        sum. Without information in all of them it is the reduction, and says so.
    random_state : int, SeedSequence, Generator or None
        Draws the support rows.

    Returns
    -------
    MixtureOfExperts

    Warns
    -----
    IdentificationWarning
        If a model is taken as it is with zeros for what its rows do not identify (methods "middle" and
        "weighted"), or if no model knows some rows of the support.

    Raises
    ------
    InvalidDataError
        If the models differ in features, target, units or family, if only some of them say how many rows they
        were fitted to, or if the support has other labels or no complete rows.
    InvalidOptionError
        If the method is unknown or K cannot be had.
    SchemaError, StoreError
        If a model or the support cannot be opened.

    References
    ----------
    arXiv:2312.09877, sections 3 and 4.

    Examples
    --------
    >>> import daskmoe
    >>> data, truth = daskmoe.simulate(2000, n_features=3, n_experts=2, random_state=0)
    >>> halves = [data.isel(row=slice(0, 1000)), data.isel(row=slice(1000, None))]
    >>> models = [daskmoe.fit_local(half, "y", n_experts=2, random_state=0) for half in halves]
    >>> daskmoe.aggregate(models, data).n_experts
    2
    """
    check_choice("method", method, AGGREGATIONS)
    if isinstance(models, MixtureOfExperts | MixtureWithAtoms | str | os.PathLike):
        raise InvalidDataError(f"models: expected a sequence of models, got one {type(models).__name__}.")
    opened = [any_model_at(model, f"models[{m}]") for m, model in enumerate(models)]
    beside = [model for model in opened if isinstance(model, MixtureWithAtoms)]
    if not beside:
        mixtures = [model for model in opened if isinstance(model, MixtureOfExperts)]
        return _joined(mixtures, support, n_experts, method, random_state)
    if len(beside) < len(opened):
        raise InvalidDataError(
            f"models: expected all of them with atoms, or none, got {len(beside)} of {len(opened)} with. Fit "
            f"all with atoms={list(beside[0].atoms)}."
        )
    seed = entropy_of(random_state)
    gates = _joined([model.atom_gates for model in beside], support, None, method, seed)
    experts = _joined([model.experts for model in beside], support, n_experts, method, seed)
    return cast(MixtureOfExperts, MixtureWithAtoms(gates, experts))


def _joined(
    opened: Sequence[MixtureOfExperts],
    support: xr.Dataset | str | os.PathLike[str],
    n_experts: int | None,
    method: Aggregation,
    random_state: RandomState,
) -> MixtureOfExperts:
    check_models(opened)
    locals_, weights, labels, moments = _local_estimators(opened)
    size = _common_size(locals_) if n_experts is None else check_integer("n_experts", n_experts, 1)
    first = opened[0]
    sample = support_sample(support, first.rows, entropy_of(random_state))
    with single_threaded_blas():
        sent = _sent(opened, sample) if method == "auto" else None
        if sent is None:
            known_as = "reduction" if method == "auto" else method
            result = aggregate_estimates(known_as, locals_, weights, sample, size, first.densities, moments)
        else:
            proposal = propose_independent(sent, size, first.densities, _regularization(first))
            result, _ = settle(proposal, None, choose=False)
    result = _by_share(result)
    diagnostics = label_aggregate(result, [p.n_experts for p in locals_], labels, first.rows).assign(
        weight=("partition", weights, {"long_name": "sum of the row weights"})
    )
    known = [part for part in moments if part is not None]
    if len(known) == len(moments):
        pooled = label_moments(reduce(merge_moments, known), first.rows)
        diagnostics = diagnostics.merge(pooled, combine_attrs="override")
    if isinstance(result.parameters, MoEParameters):
        diagnostics = diagnostics.assign(label_expert_weights(weights.sum() * result.flow.sum(axis=0)))
    near = result.curvature
    if near is not None and is_definite(near.information):
        errors = label_covariances(near, {Kind.APPROXIMATE: None}, first.densities, first.rows.columns)
        diagnostics = diagnostics.merge(errors, combine_attrs="override")
    model = MixtureOfExperts.from_parameters(
        result.parameters,
        family=first.family,
        rows=first.rows,
        options={"aggregation": method, "models": len(opened), "n_experts": size},
        diagnostics=diagnostics,
        local=label_local_estimates(locals_, labels, first.rows, first.densities),
        weight=float(weights.sum()),
        information=label_memory(near, first.rows),
    )
    report_identification(model)
    return model


def _by_share(found: Aggregate) -> Aggregate:
    """The result with its experts by their shares of the support, as the plan has it."""
    if not isinstance(found.parameters, MoEParameters):
        return found
    return found.in_order(order_by_share(found.parameters, found.flow.sum(axis=0)))


def _sent(models: Sequence[MixtureOfExperts], support: SupportSample) -> Sent | None:
    """The models as partitions that send their information; None, which is logged, if some have none."""
    memories = [model.memory for model in models]
    known = [memory for memory in memories if memory is not None]
    if len(known) < len(models):
        logger.warning(
            "method='auto': models[%d] keeps no information, so that the models are joined by the reduction. "
            "Refine it on its rows, daskmoe.refine(model, data, rounds=1), and save it again.",
            next(m for m, memory in enumerate(memories) if memory is None),
        )
        return None
    return Sent(
        [model.parameters for model in models],
        np.array([memory.moments.weight for memory in known]),
        [memory.moments for memory in known],
        [memory.expansion() for memory in known],
        support,
        [memory.coordinates for memory in known],
    )


def _regularization(model: MixtureOfExperts) -> Regularization:
    known = {name: model.options[name] for name in ("prior_strength", "min_scale") if name in model.options}
    return FitOptions(n_experts=model.n_experts, family=model.family, **known).regularization


def _local_estimators(
    models: Sequence[MixtureOfExperts],
) -> tuple[list[MoEParameters], FloatArray, list[str], list[Moments | None]]:
    """The models' parameters, weights, labels and moments of their rows, weighted averages taken apart."""
    parameters: list[MoEParameters] = []
    weights: list[float] = []
    labels: list[str] = []
    moments: list[Moments | None] = []
    for m, (model, weight) in enumerate(zip(models, _row_weights(models), strict=True)):
        mixture = model.mixture
        if isinstance(mixture, LargeMoE):
            parts = mixture.local_parameters()
            parameters += parts
            weights += list(weight * mixture.weights)
            labels += [f"{m}.{part}" for part in range(len(parts))]
            # A weighted average keeps the moments of all its rows together.
            moments += [None] * len(parts)
        else:
            parameters.append(mixture)
            weights.append(weight)
            labels.append(str(m))
            moments.append(moments_from(model.diagnostics, model.rows.columns))
    return parameters, np.array(weights), labels, moments


def _common_size(locals_: Sequence[MoEParameters]) -> int:
    sizes = sorted({local.n_experts for local in locals_})
    if len(sizes) > 1:
        raise InvalidDataError(
            f"n_experts: expected models of one size where n_experts is not given, got sizes {sizes}."
        )
    return sizes[0]


def _row_weights(models: Sequence[MixtureOfExperts]) -> list[float]:
    """What each model counts for: the summed row weights of its last fit; one each where none says."""
    known = [model.weight for model in models]
    silent = [m for m, weight in enumerate(known) if weight is None]
    if silent and len(silent) < len(models):
        raise InvalidDataError(
            "models: expected all of them, or none, to say how many rows they were fitted to, got nothing "
            f"from model {silent[0]}. Leave it out, or fit it with daskmoe.fit or fit_local."
        )
    return [1.0 if weight is None else weight for weight in known]

"""From the plain results of the engine to a labelled model with its diagnostics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce
from typing import Any, Final

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from daskmoe.engine import FitResult, PartitionResult
from daskmoe.engine.rounds import Refinement
from daskmoe.model import MixtureOfExperts
from daskmoe.model.covariances import covariance_variables, stack_arrays, stack_derivatives
from daskmoe.model.labels import has_names, label_local_estimates
from daskmoe.model.memory import label_memory
from daskmoe.model.moments import label_moments
from daskmoe.numerics.base.coordinates import Coordinates, coordinates_from
from daskmoe.numerics.base.extremes import Extremes
from daskmoe.numerics.base.layout import count_parameters
from daskmoe.numerics.base.observations import merge_moments
from daskmoe.numerics.base.parameters import Columns, FloatArray, Mixture, MoEParameters, order_by_share
from daskmoe.numerics.combine.candidates import Told
from daskmoe.numerics.combine.gaps import Gaps
from daskmoe.numerics.combine.refinement import left_by_feature
from daskmoe.numerics.combine.registry import Aggregate
from daskmoe.numerics.families import Family, get_family
from daskmoe.numerics.likelihood.inference import (
    Curvature,
    covariance,
    curvature,
    is_definite,
    is_near,
    jacobian,
    told_apart,
    told_by_rows,
)
from daskmoe.rows import RowSchema
from daskmoe.rows.names import (
    ABSENT_ROWS,
    BOUND,
    CLUSTERS,
    COLUMN,
    EXPERT,
    EXPERT_WEIGHT,
    FEATURE,
    FROM_SAMPLE,
    KIND,
    LEFT,
    LEFT_IN,
    N_CLUSTERS,
    N_PARAMETERS,
    OUTCOME,
    OUTPUT,
    PARAMETER,
    PARTITION,
    PREDICTION_PARTITION,
    PREDICTION_RANGE,
    PREDICTION_ROW,
    ROW_WEIGHT,
    STATUS,
    TAKEN_WHOLE,
    TARGET_RANGE,
    TRAINING_ENTROPY,
    TRAINING_LOG_LIKELIHOOD,
    UNIDENTIFIED,
    UNKNOWN_SUPPORT,
    Kind,
    Outcome,
)

# Features that are named as what a refinement is held up by.
_FEW: Final = 5


def label_fit(
    result: FitResult, rows: RowSchema, family: str, options: Mapping[str, Any]
) -> MixtureOfExperts:
    """The model of a fit, with ``diagnostics`` and ``local_estimates``, its experts by share."""
    result = result.by_share()
    parts = result.partitions
    known = [r.moments for r in parts if r.moments is not None]
    diagnostics = _diagnostics(result, rows).merge(
        label_moments(reduce(merge_moments, known), rows), combine_attrs="override"
    )
    local = label_local_estimates(
        [r.estimate.parameters for r in parts],
        [r.label for r in parts],
        rows,
        get_family(family, rows.response_size),
    )
    diagnostics = diagnostics.assign(_of_fit(result, get_family(family, rows.response_size), rows))
    near = result.aggregate.curvature
    if near is not None and is_definite(near.information):
        kinds: dict[Kind, FloatArray | None] = {Kind.APPROXIMATE: None}
        errors = label_covariances(near, kinds, get_family(family, rows.response_size), rows.columns)
        diagnostics = diagnostics.merge(errors, combine_attrs="override")
    return MixtureOfExperts.from_parameters(
        result.aggregate.parameters,
        family=family,
        rows=rows,
        options=options,
        diagnostics=diagnostics,
        local=local,
        weight=float(np.sum([r.estimate.weight for r in parts])),
        information=label_memory(near, rows),
    )


def label_aggregate(
    aggregate: Aggregate, sizes: Sequence[int], labels: Sequence[str], rows: RowSchema
) -> xr.Dataset:
    """How an aggregate came about, with the plan's mass by (partition, local expert, expert).

    Parameters
    ----------
    aggregate : Aggregate
    sizes : sequence of int
        Experts of every partition's estimate, 0 where it was left out.
    labels : sequence of str
        Of the partitions.
    rows : RowSchema
        Names the features.
    """
    variables: dict[str, Any] = {
        "objective": ("iteration", aggregate.objectives, {"long_name": "transportation divergence"}),
        "start_objective": (
            "start",
            aggregate.start_objectives,
            {"long_name": "transportation divergence that each start of the aggregation reached"},
        ),
    }
    if aggregate.flow.shape[1]:
        text = {"long_name": "mass that the transport plan moves from a local expert to an expert"}
        dims = ("partition", "local_expert", "expert")
        variables["plan_mass"] = (dims, _plan_mass(aggregate.flow, sizes), text)
    coords = {"partition": np.array(labels, dtype=np.str_)}
    if aggregate.candidates:
        for field, name in (
            (
                "log_likelihood",
                "log-likelihood a row: of all rows where there is a choice, or of the support",
            ),
            ("objective", "penalized log-likelihood a row, by which the best one is taken"),
        ):
            scores = np.array([getattr(score, field) for score in aggregate.candidates.values()])
            attrs = {"long_name": name, "units": "nats"}
            variables[f"candidate_{field}"] = ("candidate", scores, attrs)
        coords["candidate"] = np.array(list(aggregate.candidates), dtype=np.str_)
    story: dict[str, Any] = {"converged": int(aggregate.converged), "aggregation": aggregate.chosen}
    if aggregate.from_sample:
        story[FROM_SAMPLE] = 1
    labelled = xr.Dataset(variables, coords, story)
    if aggregate.gaps is None:
        return labelled
    return labelled.assign(_label_gaps(aggregate.gaps, np.array(sizes) > 0)).assign_coords(
        {FEATURE: np.array(rows.feature_labels, dtype=np.str_)}
    )


def _label_gaps(gaps: Gaps, fitted: NDArray[np.bool_]) -> dict[str, Any]:
    """What the local estimators do not know, by partition; those that were left out say nothing of it."""
    features = np.zeros((len(fitted), gaps.features.shape[1]), dtype=np.int64)
    taken = np.zeros(len(fitted), dtype=np.int64)
    features[fitted], taken[fitted] = gaps.features, gaps.taken_whole
    texts = {
        UNIDENTIFIED: "1 where a partition's rows say nothing of a feature's slope, alone or beside others",
        TAKEN_WHOLE: "1 where a local estimate is taken as it is, with zeros for what it does not know",
        UNKNOWN_SUPPORT: "share of the support that no local estimate knows",
    }
    return {
        UNIDENTIFIED: ((PARTITION, FEATURE), features, {"long_name": texts[UNIDENTIFIED]}),
        TAKEN_WHOLE: (PARTITION, taken, {"long_name": texts[TAKEN_WHOLE]}),
        UNKNOWN_SUPPORT: ((), gaps.unknown_support, {"long_name": texts[UNKNOWN_SUPPORT]}),
    }


def _diagnostics(result: FitResult, rows: RowSchema) -> xr.Dataset:
    parts = result.partitions
    sizes = [0 if (p := r.estimate.parameters) is None else p.n_experts for r in parts]
    labelled = label_aggregate(result.aggregate, sizes, [r.label for r in parts], rows)
    if len(parts) == 1:
        # The local fit is the model, and its ascent the only one.
        labelled.attrs["converged"] *= int(parts[0].ending.outcome is not Outcome.NOT_CONVERGED)
    variables = _per_partition(parts)
    mass = _padded([r.estimate.expert_weights for r in parts])
    if mass.size:
        text = {"long_name": "sum of the responsibilities of each local expert: the rows that speak for it"}
        variables["local_expert_weight"] = (("partition", "local_expert"), mass, text)
    starts = _padded([r.estimate.start_log_likelihoods for r in parts])
    if starts.size:
        text = {"long_name": "log-likelihood a row that each start reached on the subsample", "units": "nats"}
        variables["start_log_likelihood"] = (("partition", "init"), starts, text)
    return labelled.assign(variables)


def _of_fit(result: FitResult, family: Family, rows: RowSchema) -> dict[str, Any]:
    """What a fit knows of all its rows: of one local fit that is the model, the log-likelihood too."""
    fitted = [r for r in result.partitions if r.moments is not None]
    pooled = reduce(merge_moments, [r.moments for r in fitted if r.moments is not None])
    coordinates = coordinates_from(pooled, family.scaling(pooled))
    found = parameter_count(result.aggregate.parameters, coordinates)
    if result.aggregate.chosen == "local":
        (only,) = (r.estimate for r in fitted)
        found |= _training(only.log_likelihood, only.entropy)
    elif result.aggregate.log_likelihood is not None:
        told = result.aggregate.told
        found |= _training(result.aggregate.log_likelihood, None if told is None else told.entropy)
    return found | _told(result, [str(r.label) for r in result.partitions], rows)


def _told(result: FitResult, labels: Sequence[str], rows: RowSchema) -> dict[str, Any]:
    """What the rows, or those of the support, say of the model: the rows of each expert, how far it goes."""
    aggregate, told = result.aggregate, result.aggregate.told
    named = [_partition(label) for label in labels]
    if aggregate.chosen == "local":
        number, only = next((i, r.estimate) for i, r in enumerate(result.partitions) if r.moments is not None)
        extremes = None if only.extremes is None else only.extremes.within(number)
        told = Told(only.expert_weights, extremes)
    elif aggregate.told_by_support:
        named = ["the support"]
    if told is None:
        return _target_range(result, rows) if aggregate.parameters.n_experts == 1 else {}
    found = {} if told.extremes is None else _ranges(told.extremes, named, rows)
    if isinstance(aggregate.parameters, MoEParameters):
        found |= label_expert_weights(told.mass)
    return found


def _target_range(result: FitResult, rows: RowSchema) -> dict[str, Any]:
    """The range of the response, as the partitions tell it of their own fits; nothing if one does not."""
    extremes = [r.estimate.extremes for r in result.partitions if r.moments is not None]
    if not all(extremes):
        return {}
    each = np.array([found.values[-1] for found in extremes if found is not None])
    return label_target_range(np.stack([each[..., 0].min(axis=0), each[..., 1].max(axis=0)], axis=-1), rows)


def _partition(label: str) -> str:
    return f"partition {label!r}"


def label_target_range(found: FloatArray, rows: RowSchema) -> dict[str, Any]:
    """The lowest and the highest response, (2,), or of each output, (O, 2), as variables."""
    return _by_bound({TARGET_RANGE: (found, "lowest and highest response of the rows")}, rows)


def _ranges(extremes: Extremes, named: Sequence[str], rows: RowSchema) -> dict[str, Any]:
    """How far predictions and responses go, and where; ``named`` are the partitions."""
    (predicted, target), (places, _), (numbers, _) = extremes
    bounds = {
        PREDICTION_RANGE: (predicted, "lowest and highest E[y|x] over the rows"),
        PREDICTION_ROW: (places, "where these E[y|x] are: number of the row among the complete ones"),
        PREDICTION_PARTITION: (
            np.array(named)[numbers],
            "where these E[y|x] are: the partition",
        ),
    }
    return _by_bound(bounds, rows) | label_target_range(target, rows)


def _by_bound(found: dict[str, tuple[NDArray[Any], str]], rows: RowSchema) -> dict[str, Any]:
    """Variables by bound, of several outputs by output too, from their values and descriptions."""
    coords = {} if rows.output_dim is None else {OUTPUT: np.asarray(rows.outputs)}
    return {
        name: xr.DataArray(values, coords, (*coords, BOUND), attrs={"long_name": text})
        for name, (values, text) in found.items()
    }


def label_expert_weights(mass: FloatArray) -> dict[str, Any]:
    """The rows of each expert, as a variable of the diagnostics."""
    text = {"long_name": "sum of the responsibilities of each expert: the rows that speak for it"}
    return {EXPERT_WEIGHT: (EXPERT, mass, text)}


def parameter_count(parameters: Mixture, coordinates: Coordinates) -> dict[str, Any]:
    """How many parameters rows with these coordinates tell apart, as a variable of the diagnostics."""
    text = {"long_name": "free parameters that the rows can tell apart"}
    return {N_PARAMETERS: ((), count_parameters(parameters, coordinates.gates.size, coordinates.size), text)}


def _training(log_likelihood: float, entropy: float | None = None) -> dict[str, Any]:
    texts = {
        TRAINING_LOG_LIKELIHOOD: (log_likelihood, "log-likelihood of the model's own rows"),
        TRAINING_ENTROPY: (entropy, "entropy of the responsibilities, summed over the model's own rows"),
    }
    return {
        name: ((), value, {"long_name": text, "units": "nats"})
        for name, (value, text) in texts.items()
        if value is not None
    }


def _per_partition(parts: Sequence[PartitionResult]) -> dict[str, Any]:
    columns = {
        "rows": ("rows used", [r.estimate.rows for r in parts]),
        "dropped_rows": (
            "rows left out: missing values or no weight",
            [r.estimate.dropped_rows for r in parts],
        ),
        "weight": ("sum of the row weights", [r.estimate.weight for r in parts]),
        "log_likelihood": ("sum of log f(y|x) in nats", [r.estimate.log_likelihood for r in parts]),
        "penalized_log_likelihood": ("maximized objective in nats", [r.estimate.objective for r in parts]),
        "passes": ("passes over all rows", [r.estimate.passes for r in parts]),
        "converged": ("1 where the local fit converged", [int(r.estimate.converged) for r in parts]),
        "seconds": ("time of the local fit in seconds", [r.estimate.seconds for r in parts]),
        "data_bytes": ("size of the rows in bytes", [r.data_bytes for r in parts]),
        "sent_bytes": ("size of what the partition sent in bytes", [r.sent_bytes for r in parts]),
    }
    out: dict[str, Any] = {
        name: ("partition", np.asarray(values), {"long_name": text})
        for name, (text, values) in columns.items()
    }
    absent = np.array([r.absent_rows for r in parts])
    if absent.any():
        known = {"long_name": "rows that are not there: target and features are missing"}
        out[ABSENT_ROWS] = ("partition", absent, known)
    for name, text, values in (
        (OUTCOME, "how the partition ended", [r.ending.outcome for r in parts]),
        (STATUS, "ok, or what went wrong", [r.ending.status for r in parts]),
    ):
        out[name] = ("partition", np.array(values, dtype=np.str_), {"long_name": text})
    return out


def _plan_mass(flow: FloatArray, sizes: Sequence[int]) -> FloatArray:
    """The plan's flow by (partition, local expert, expert), zero where a partition has no such expert."""
    out = np.zeros((len(sizes), max(sizes), flow.shape[1]))
    stop = 0
    for m, size in enumerate(sizes):
        out[m, :size] = flow[stop : stop + size]
        stop += size
    return out


def _padded(rows: Sequence[FloatArray]) -> FloatArray:
    out = np.full((len(rows), max(len(row) for row in rows)), np.nan)
    for m, row in enumerate(rows):
        out[m, : len(row)] = row
    return out


def label_refinement(model: MixtureOfExperts, refinement: Refinement) -> MixtureOfExperts:
    """The model with refined parameters, the story of the rounds, and standard errors if there are any.

    Its experts are by share, as after a fit.
    """
    assert refinement.state.accepted is not None
    mass = refinement.state.accepted.statistics.mass
    shares = np.ones(refinement.parameters.n_experts) if mass is None else mass
    order = order_by_share(refinement.parameters, shares)
    infos = refinement.infos
    columns = {
        "round_log_likelihood": ("log-likelihood where the round evaluated it, in nats", "log_likelihood"),
        "round_objective": ("penalized log-likelihood there, in nats", "objective"),
        "round_damping": ("damping of the step after it: 0 Newton", "damping"),
        "round_step": ("largest change of a whitened parameter in that step", "step"),
        "round_accepted": ("1 where the objective did not fall", "accepted"),
    }
    added: dict[str, Any] = {
        name: ("round", np.array([float(getattr(info, field)) for info in infos]), {"long_name": text})
        for name, (text, field) in columns.items()
    }
    weight = refinement.state.accepted.statistics.weight
    added["refined_weight"] = ((), weight, {"long_name": "sum of the row weights of the refinement"})
    if refinement.dropped is not None:
        text = "rows that the refinement left out: missing values or no weight"
        added["refined_dropped_rows"] = ((), refinement.dropped, {"long_name": text})
    added["round_seconds"] = ("round", np.array(refinement.seconds), {"long_name": "seconds of the round"})
    reached = infos[int(np.flatnonzero([info.accepted for info in infos])[-1])]
    added |= _training(reached.log_likelihood, refinement.state.accepted.statistics.entropy)
    added |= parameter_count(refinement.parameters, refinement.coordinates)
    added |= {} if mass is None else label_expert_weights(mass[order])
    if (extremes := refinement.state.accepted.statistics.extremes) is not None:
        location, scale, _ = refinement.coordinates.response
        named = [_partition(label) for label in refinement.labels]
        added |= _ranges(extremes.moved(location, scale), named, model.rows)
    known = xr.Dataset() if model.diagnostics is None else model.diagnostics
    # A model may be refined more than once: its last rounds are told.
    last = ("round", KIND, PARAMETER, COLUMN)
    known = known.drop_dims([dim for dim in last if dim in known.dims])
    stale = (
        ROW_WEIGHT,
        "refined_dropped_rows",
        PREDICTION_RANGE,
        PREDICTION_ROW,
        PREDICTION_PARTITION,
        TARGET_RANGE,
    )
    known = known.drop_vars(stale, errors="ignore")
    if EXPERT in known.dims:
        known = known.isel({EXPERT: order}).drop_vars(EXPERT, errors="ignore")
    diagnostics = known.assign(added).assign_attrs(
        refinement_converged=int(refinement.converged),
    )
    diagnostics.attrs |= {
        LEFT: float(refinement.state.left),
        LEFT_IN: _left_in(refinement, model.rows.feature_labels),
    }
    diagnostics = diagnostics.merge(label_moments(refinement.moments, model.rows), combine_attrs="override")
    errors = _refined_covariances(refinement, order, model.densities, model.rows.columns)
    diagnostics = diagnostics.merge(errors).assign_attrs(errors.attrs)
    return MixtureOfExperts.from_parameters(
        refinement.parameters.take(order),
        family=model.family,
        rows=model.rows,
        options={**model.options, "refine": len(infos)},
        diagnostics=diagnostics,
        local=model.local_estimates,
        weight=weight,
        experts=model.params[EXPERT].values[order] if has_names(model.params) else None,
        information=label_memory(_refined_curvature(refinement, order), model.rows),
    )


def _left_in(refinement: Refinement, names: Sequence[str]) -> str:
    """The features that half of what is left to gain is in, where they are few."""
    shares = left_by_feature(refinement.state, refinement.coordinates)
    order = np.argsort(-shares)
    count = int(np.searchsorted(np.cumsum(shares[order]), 0.5)) + 1
    if refinement.converged or count > min(_FEW, len(names) // 2):
        return ""
    return ", ".join(repr(str(names[j])) for j in order[:count])


def _refined_covariances(
    refinement: Refinement, order: NDArray[np.intp], family: Family, columns: Columns
) -> xr.Dataset:
    """At the maximum, exact ones of the kinds whose scores were found; near it, approximate ones."""
    state = refinement.state
    assert state.accepted is not None
    statistics = state.accepted.statistics
    if not is_definite(statistics.information):
        return xr.Dataset()
    known = _refined_curvature(refinement, order)
    if not refinement.converged:
        near = is_near(state.left, len(statistics.gradient))
        return label_covariances(known, {Kind.APPROXIMATE: None}, family, columns) if near else xr.Dataset()
    kinds: dict[Kind, FloatArray | None] = {Kind.MODEL: None}
    found, attrs = refinement.scores, {}
    if found is not None:
        kinds[Kind.ROBUST] = found.rows
        if found.n_clusters > 1:
            kinds[Kind.CLUSTER] = found.n_clusters / (found.n_clusters - 1) * found.clusters
            attrs = {CLUSTERS: refinement.cluster or "partitions", N_CLUSTERS: found.n_clusters}
    return label_covariances(known, kinds, family, columns).assign_attrs(attrs)


def _refined_curvature(refinement: Refinement, order: NDArray[np.intp]) -> Curvature:
    """The information where the rounds ended, with the gradient of the rows there."""
    accepted = refinement.state.accepted
    assert accepted is not None
    at, statistics = accepted.parameters, accepted.statistics
    known = curvature(at, statistics.information, refinement.prior, refinement.coordinates, order)
    return known._replace(gradient=known.gradient + statistics.gradient)


def label_covariances(
    known: Curvature, kinds: Mapping[Kind, FloatArray | None], family: Family, columns: Columns
) -> xr.Dataset:
    """Covariances by kind, of which those with score products are sandwiches."""
    nuisance = (known.parameters.nuisance * known.coordinates.response.nuisance)[known.order]
    own = jacobian(known.parameters, known.coordinates, known.order)
    derivatives = stack_derivatives(own, nuisance, family, columns)
    found = {kind: covariance(known.information, scores, derivatives) for kind, scores in kinds.items()}
    apart = told_apart(known)
    apart = apart._replace(nuisance=apart.nuisance * family.told(nuisance))
    # The reference class is what it is by convention.
    told = (stack_arrays(apart, family, columns, reference=1.0) > 0.0) & told_by_rows(known, derivatives)
    return covariance_variables(found, told)

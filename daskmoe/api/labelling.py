"""From the plain results of the engine to a labelled model with its diagnostics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from daskmoe.engine import FitResult, PartitionResult
from daskmoe.engine.rounds import Refinement
from daskmoe.model import MixtureOfExperts
from daskmoe.model.labels import label_local_estimates, label_parameters
from daskmoe.model.moments import label_moments
from daskmoe.numerics.base.observations import merge_moments
from daskmoe.numerics.base.parameters import FloatArray, canonical_indices
from daskmoe.numerics.combine.gaps import Gaps
from daskmoe.numerics.combine.registry import Aggregate
from daskmoe.numerics.families import get_family
from daskmoe.numerics.likelihood.inference import jacobian, standard_errors
from daskmoe.rows import RowSchema
from daskmoe.rows.names import (
    COLUMN,
    EXPERT,
    FEATURE,
    OUTCOME,
    PARTITION,
    ROW_WEIGHT,
    STATUS,
    TAKEN_WHOLE,
    UNIDENTIFIED,
    UNKNOWN_SUPPORT,
    Outcome,
)


def label_fit(
    result: FitResult, rows: RowSchema, family: str, options: Mapping[str, Any]
) -> MixtureOfExperts:
    """The model of a fit, with ``diagnostics`` and ``local_estimates``."""
    parts = result.partitions
    known = [r.moments for r in parts if r.moments is not None]
    diagnostics = _diagnostics(result, rows).merge(
        label_moments(reduce(merge_moments, known), rows), combine_attrs="override"
    )
    local = label_local_estimates(
        [r.estimate.parameters for r in parts], [r.label for r in parts], rows, get_family(family)
    )
    return MixtureOfExperts.from_parameters(
        result.aggregate.parameters,
        family=family,
        rows=rows,
        options=options,
        diagnostics=diagnostics,
        local=local,
        weight=float(np.sum([r.estimate.weight for r in parts])),
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
        scores = np.array(list(aggregate.candidates.values()))
        text = {
            "long_name": "log-likelihood a row on the support, labelled or with drawn responses",
            "units": "nats",
        }
        variables["candidate_log_likelihood"] = ("candidate", scores, text)
        coords["candidate"] = np.array(list(aggregate.candidates), dtype=np.str_)
    attrs = {"converged": int(aggregate.converged), "aggregation": aggregate.chosen}
    labelled = xr.Dataset(variables, coords, attrs)
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
    """The model with refined parameters, the story of the rounds, and standard errors if there are any."""
    order = canonical_indices(refinement.parameters)
    infos = refinement.infos
    columns = {
        "round_log_likelihood": ("log-likelihood where the round evaluated it, in nats", "log_likelihood"),
        "round_objective": ("penalized log-likelihood there, in nats", "objective"),
        "round_damping": ("damping of the step after it: 0 Newton, 1 EM", "damping"),
        "round_step": ("largest change of a whitened parameter in that step", "step"),
        "round_accepted": ("1 where the objective did not fall", "accepted"),
    }
    added: dict[str, Any] = {
        name: ("round", np.array([float(getattr(info, field)) for info in infos]), {"long_name": text})
        for name, (text, field) in columns.items()
    }
    assert refinement.state.accepted is not None
    weight = refinement.state.accepted.statistics.weight
    added["refined_weight"] = ((), weight, {"long_name": "sum of the row weights of the refinement"})
    added["round_seconds"] = ("round", np.array(refinement.seconds), {"long_name": "seconds of the round"})
    known = xr.Dataset() if model.diagnostics is None else model.diagnostics
    # A model may be refined more than once: its last rounds are told.
    known = known.drop_dims([dim for dim in ("round", "kind", COLUMN) if dim in known.dims])
    known = known.drop_vars(ROW_WEIGHT, errors="ignore")
    if EXPERT in known.dims:
        known = known.isel({EXPERT: order}).drop_vars(EXPERT, errors="ignore")
    diagnostics = known.assign(added).assign_attrs(refinement_converged=int(refinement.converged))
    diagnostics = diagnostics.merge(label_moments(refinement.moments, model.rows), combine_attrs="override")
    if refinement.converged:
        diagnostics = diagnostics.merge(_errors(model, refinement, order), combine_attrs="override")
    return MixtureOfExperts.from_parameters(
        refinement.parameters.take(order),
        family=model.family,
        rows=model.rows,
        options={**model.options, "refine": len(infos)},
        diagnostics=diagnostics,
        local=model.local_estimates,
        weight=weight,
    )


def _errors(model: MixtureOfExperts, refinement: Refinement, order: np.ndarray[Any, Any]) -> xr.Dataset:
    """Standard errors ``standard_error_...`` by ``kind``: robust ones where there are scores."""
    assert refinement.state.accepted is not None
    accepted = refinement.state.accepted
    derivative = jacobian(accepted.parameters, refinement.coordinates, order)
    kinds: dict[str, FloatArray | None] = {"model": None}
    if refinement.scores is not None:
        kinds["robust"] = refinement.scores
    labelled = [
        label_parameters(
            standard_errors(accepted.statistics.information, scores, derivative),
            model.rows,
            get_family(model.family),
        )
        for scores in kinds.values()
    ]
    both = xr.concat(labelled, xr.DataArray(list(kinds), dims="kind", name="kind"))
    return both.rename({name: f"standard_error_{name}" for name in both.data_vars})

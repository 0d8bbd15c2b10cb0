"""Refinement over all partitions: one graph a round, sums in a tree in partition order, steps in the caller.

Every round reads the partitions once and sends kilobytes: M tasks ``moe-refine`` and a tree of
``moe-refine-sum``.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, cast

import numpy as np
import xarray as xr
from dask.base import tokenize
from dask.delayed import Delayed, delayed

from daskmoe.engine.graph import FitRequest, piece_of, task_plan
from daskmoe.engine.tasks import TaskPlan, attempt, read_rows
from daskmoe.errors import DaskMoEError, PartitionError
from daskmoe.numerics.coordinates import Coordinates, Observations, coordinates_from, merge_moments, moments
from daskmoe.numerics.parameters import FloatArray, MoEParameters, Moments
from daskmoe.numerics.priors import prior_from
from daskmoe.numerics.refinement import (
    PackedStatistics,
    RefinementState,
    RoundInfo,
    add_statistics,
    advance,
    first_state,
    partition_scores,
    round_statistics,
)
from daskmoe.rows import Partition

logger = logging.getLogger(__name__)

_FAN_IN = 16
_MOST_ROUNDS = 100
# In nats a row: a Newton step that gains less leads to the maximum or next to it.
_NEAR = 1e-3


class Refinement(NamedTuple):
    """What refinement found.

    Attributes
    ----------
    parameters : MoEParameters
        In the data's units; expert order as it was.
    infos : list of RoundInfo
    seconds : list of float
        Time of each round, in seconds.
    converged : bool
    state : RefinementState
    coordinates : Coordinates
    scores : ndarray of shape (P, P) or None
        Sum of outer products of the rows' scores at the optimum; None where it was not reached or no round
        was left for the pass that finds them.
    """

    parameters: MoEParameters
    infos: list[RoundInfo]
    seconds: list[float]
    converged: bool
    state: RefinementState
    coordinates: Coordinates
    scores: FloatArray | None


def refine_rounds(
    request: FitRequest, start: MoEParameters, rounds: int | None, known: Moments | None
) -> Refinement:
    """Ascend the global penalized log-likelihood from ``start``.

    Parameters
    ----------
    request : FitRequest
        Names the data and the partitions.
    start : MoEParameters
        In the data's units.
    rounds : int or None
        Most rounds; None goes on to convergence. Rounds that would gain nothing are not run.
    known : Moments or None
        Of all rows; one pass finds them where they are not known.

    Raises
    ------
    PartitionError
        If no partition could be read.
    """
    pooled = known if known is not None else _run(request, "moe-moments", moments, merge_moments)
    coordinates = coordinates_from(pooled)
    prior = prior_from(pooled, coordinates, start.n_experts)
    state = first_state(start, coordinates)
    infos: list[RoundInfo] = []
    seconds: list[float] = []
    most = _MOST_ROUNDS if rounds is None else rounds
    while len(infos) < most and not state.stopped:
        began = time.perf_counter()
        evaluate = partial(
            round_statistics,
            parameters=coordinates.to_data(state.trial),
            coordinates=coordinates,
            scores=_may_be_last(state),
        )
        packed: PackedStatistics = _run(request, "moe-refine", evaluate, add_statistics)
        _check_weight(packed.weight, pooled.weight)
        state, info = advance(state, packed, prior)
        offset = packed.weight * float(np.log(coordinates.scale))
        infos.append(
            info._replace(log_likelihood=info.log_likelihood - offset, objective=info.objective - offset)
        )
        seconds.append(time.perf_counter() - began)
        logger.info(
            "round %d: log-likelihood %.6f, damping %.2g", len(infos), infos[-1].log_likelihood, info.damping
        )
    assert state.accepted is not None
    reached = coordinates.to_data(state.accepted.parameters)
    scores = state.accepted.statistics.scores if state.converged else None
    if state.converged and scores is None and (rounds is None or len(infos) < rounds):
        scores = _run(
            request,
            "moe-scores",
            partial(partition_scores, parameters=reached, coordinates=coordinates),
            _add,
        )
    return Refinement(reached, infos, seconds, state.converged, state, coordinates, scores)


def _may_be_last(state: RefinementState) -> bool:
    """Whether the trial is so near that its round finds the scores too, which spares a pass for them."""
    if state.accepted is None:
        return False
    return state.damping == 0.0 and state.predicted <= _NEAR * state.accepted.statistics.weight


def _check_weight(weight: float, expected: float) -> None:
    """Raise `PartitionError` unless a round saw the rows of the fit, or of the pass before it."""
    if abs(weight - expected) > 1e-9 * expected:
        raise PartitionError(
            f"Expected the same rows in every pass, got a total weight of {expected:.10g} in one and "
            f"{weight:.10g} in the next: a partition failed in one of them, or the data changed. The log "
            "names partitions that are left out; refine again when all can be read."
        )


def _run(
    request: FitRequest,
    name: str,
    function: Callable[[Observations], Any],
    add: Callable[[Any, Any], Any],
) -> Any:
    """One pass: ``function`` of every partition's rows, summed by ``add`` in partition order."""
    total = build_sum(request, name, function, add).compute()
    if total is None:
        raise PartitionError("Expected at least one partition with complete rows, got none.")
    return total


def build_sum(
    request: FitRequest,
    name: str,
    function: Callable[[Observations], Any],
    add: Callable[[Any, Any], Any],
) -> Delayed:
    """The graph of one pass; building it computes nothing."""
    token = tokenize(request.token, name, function)
    plan = delayed(task_plan(request), name=f"moe-plan-{token}", traverse=False)
    shared = delayed(function, name=f"{name}-point-{token}", traverse=False, pure=False)
    evaluate = delayed(_evaluate, pure=False, traverse=False)
    parts = [
        evaluate(
            plan, shared, partition, piece_of(request, partition),
            dask_key_name=f"{name}-{token}-{partition.index}",
        )
        for partition in request.partitions
    ]  # fmt: skip
    combine = delayed(_sum, pure=False)
    level = 0
    while len(parts) > 1 or level == 0:
        parts = [
            combine(add, parts[i : i + _FAN_IN], dask_key_name=f"{name}-sum-{token}-{level}-{i // _FAN_IN}")
            for i in range(0, len(parts), _FAN_IN)
        ]
        level += 1
    return cast(Delayed, parts[0])


def _evaluate(
    plan: TaskPlan, function: Callable[[Observations], Any], partition: Partition, piece: xr.Dataset | None
) -> Any:
    """The function of one partition's rows; None for a partition that is left out."""

    def work() -> Any:
        rows = read_rows(plan, partition, piece, plan.on_error)
        return function(rows) if rows.n_rows and rows.total_weight > 0 else None

    outcome = attempt(plan, partition, work)
    return None if isinstance(outcome, DaskMoEError) else outcome


def _sum(add: Callable[[Any, Any], Any], parts: Sequence[Any]) -> Any:
    """Sum in order, without what was left out."""
    total = None
    for part in parts:
        if part is not None:
            total = part if total is None else add(total, part)
    return total


def _add(first: FloatArray, second: FloatArray) -> FloatArray:
    return first + second

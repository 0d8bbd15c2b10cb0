"""Refinement over all partitions: one graph a round, sums of `passes`, steps in the caller.

Every round reads the partitions once and sends kilobytes: M tasks ``moe-refine`` and a tree of
``moe-refine-sum``.
"""

from __future__ import annotations

import logging
import time
from functools import partial
from typing import NamedTuple

from daskmoe.engine.passes import run_counted_sum, run_sum
from daskmoe.engine.request import FitRequest
from daskmoe.errors import PartitionError
from daskmoe.numerics.base.coordinates import Coordinates, coordinates_from
from daskmoe.numerics.base.layout import Layout
from daskmoe.numerics.base.observations import merge_moments, moments
from daskmoe.numerics.base.parameters import MoEParameters, Moments
from daskmoe.numerics.combine.refinement import RefinementState, RoundInfo, advance, first_state
from daskmoe.numerics.combine.round_sums import (
    PackedStatistics,
    ScoreProducts,
    add_scores,
    add_statistics,
    partition_scores,
    round_statistics,
    scores_of,
    unpack_scores,
)
from daskmoe.numerics.families import Family
from daskmoe.numerics.likelihood.priors import Prior, prior_from

logger = logging.getLogger(__name__)

_MOST_ROUNDS = 100
# In nats a row: a Newton step that gains less leads to the maximum or next to it.
_NEAR = 1e-3


class Refinement(NamedTuple):
    """What refinement found."""

    # In the data's units; expert order as it was.
    parameters: MoEParameters
    infos: list[RoundInfo]
    # Time of each round.
    seconds: list[float]
    converged: bool
    state: RefinementState
    coordinates: Coordinates
    prior: Prior
    # Products of scores at the optimum; None where it was not reached or no round was left for the pass that
    # finds them.
    scores: ScoreProducts | None
    # What a cluster is: a coordinate, or a partition where it is None.
    cluster: str | None
    # Of all rows.
    moments: Moments
    # Of the partitions.
    labels: list[str]
    # Rows that are in no round, if a pass of its own has counted them.
    dropped: int | None


def refine_rounds(
    request: FitRequest, start: MoEParameters, rounds: int | None, known: Moments | None
) -> Refinement:
    """Ascend the global penalized log-likelihood from ``start``, in the data's units.

    At most ``rounds``, or to convergence with None; rounds that would gain nothing are not run. One pass
    finds the moments of all rows where they are not ``known``. `PartitionError` if none could be read.
    """
    pooled, dropped = known, None
    if pooled is None:
        pooled, dropped = run_counted_sum(request, "moe-moments", moments, merge_moments)
    family = request.family
    coordinates = coordinates_from(pooled, family.scaling(pooled))
    regularization = request.options.regularization
    prior = prior_from(pooled, coordinates, start.n_experts, family, regularization)
    state = first_state(start, coordinates)
    infos: list[RoundInfo] = []
    seconds: list[float] = []
    most = _MOST_ROUNDS if rounds is None else rounds
    while len(infos) < most and not state.stopped:
        began = time.perf_counter()
        with_scores = _may_be_last(state)
        evaluate = partial(
            round_statistics,
            parameters=coordinates.to_data(state.trial),
            coordinates=coordinates,
            family=family,
            scores=with_scores,
            extremes=request.sends.responses,
            others=[coordinates.to_data(other.parameters) for other in state.others],
            careful=state.careful,
        )
        packed: PackedStatistics = run_sum(
            request, "moe-refine", evaluate, add_statistics, clusters=with_scores
        )
        _check_weight(packed.weight, pooled.weight)
        state, info = advance(state, packed, prior, family)
        offset = packed.weight * coordinates.log_jacobian
        infos.append(
            info._replace(log_likelihood=info.log_likelihood - offset, objective=info.objective - offset)
        )
        seconds.append(time.perf_counter() - began)
        logger.info(
            "round %d: log-likelihood %.6f, damping %.2g", len(infos), infos[-1].log_likelihood, info.damping
        )
    assert state.accepted is not None
    reached = coordinates.to_data(state.accepted.parameters)
    scores = scores_of(state.accepted.statistics) if state.converged else None
    if state.converged and scores is None and (rounds is None or len(infos) < rounds):
        scores = _scores_at(request, reached, coordinates, family)
    return Refinement(
        reached,
        infos,
        seconds,
        state.converged,
        state,
        coordinates,
        prior,
        scores,
        request.cluster,
        pooled,
        [part.label for part in request.partitions],
        dropped,
    )


def _scores_at(
    request: FitRequest, parameters: MoEParameters, coordinates: Coordinates, family: Family
) -> ScoreProducts:
    """Products of scores by a pass of their own, at parameters in the data's units."""
    evaluate = partial(partition_scores, parameters=parameters, coordinates=coordinates, family=family)
    sums = run_sum(request, "moe-scores", evaluate, add_scores, clusters=True)
    return unpack_scores(sums, Layout.of(coordinates.from_data(parameters)))


def _may_be_last(state: RefinementState) -> bool:
    """Whether the trial is so near that its round finds the scores too, which spares a pass for them."""
    if state.accepted is None:
        return False
    return not state.others and state.left <= _NEAR * state.accepted.statistics.weight


def _check_weight(weight: float, expected: float) -> None:
    """Raise `PartitionError` unless a round saw the rows of the fit, or of the pass before it."""
    if abs(weight - expected) > 1e-9 * expected:
        raise PartitionError(
            f"Expected the same rows in every pass, got a total weight of {expected:.10g} in one and "
            f"{weight:.10g} in the next: a partition failed in one of them, or the data changed. The log "
            "names partitions that are left out; refine again when all can be read."
        )

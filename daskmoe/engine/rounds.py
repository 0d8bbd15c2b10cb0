"""Refinement over all partitions: sums of `passes` and steps between them.

Every round reads the partitions once and sends kilobytes: M tasks ``moe-refine`` and a tree of
``moe-refine-sum``. Steps are made in the caller, with one graph a round, or in tasks of one graph.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, cast

from dask.base import tokenize
from dask.delayed import Delayed, delayed

from daskmoe.engine.passes import build_sum, found, run_counted_sum
from daskmoe.engine.progress import Watch
from daskmoe.engine.request import FitRequest
from daskmoe.engine.results import Counted
from daskmoe.errors import PartitionError
from daskmoe.numerics.base.coordinates import Coordinates, coordinates_from
from daskmoe.numerics.base.layout import Layout
from daskmoe.numerics.base.observations import Observations, merge_moments, moments
from daskmoe.numerics.base.parameters import MoEParameters, Moments
from daskmoe.numerics.base.policies import Regularization
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


class RoundSettings(NamedTuple):
    """What all rounds share."""

    family: Family
    regularization: Regularization
    # Whether rounds may tell the lowest and the highest response.
    extremes: bool
    # Most rounds; None for as many as it takes.
    rounds: int | None


class Ascent(NamedTuple):
    """Where a refinement is between two rounds."""

    settings: RoundSettings
    state: RefinementState
    coordinates: Coordinates
    prior: Prior
    # Of all rows.
    pooled: Moments
    # Rows that are in no round, if a pass of its own has counted them.
    dropped: int | None
    infos: tuple[RoundInfo, ...] = ()
    seconds: tuple[float, ...] = ()
    # When the round that is going on began, by the clock of the caller or of the worker that has the sums.
    began: float = 0.0

    @property
    def ended(self) -> bool:
        """Whether no round is left, or would gain anything."""
        most = _MOST_ROUNDS if self.settings.rounds is None else self.settings.rounds
        return len(self.infos) >= most or self.state.stopped

    @property
    def reached(self) -> MoEParameters:
        """The best parameters so far, in the data's units."""
        assert self.state.accepted is not None
        return self.coordinates.to_data(self.state.accepted.parameters)


def refine_rounds(
    request: FitRequest, start: MoEParameters, known: Moments | None, watch: Watch
) -> Refinement:
    """Ascend the global penalized log-likelihood from ``start``, in the data's units.

    By the rounds of the request's options; those that would gain nothing are not run. One pass finds the
    moments of all rows where they are not ``known``. `PartitionError` if none could be read.
    """
    pooled = None
    if known is None:
        pooled = run_counted_sum(request, "moe-moments", moments, merge_moments, watch=watch)
    ascent = _begin(settings_of(request), (start, known), pooled)
    while (evaluate := _next_evaluation(ascent)) is not None:
        said = f"round {len(ascent.infos) + 1}"
        if ascent.infos:
            said += f", log-likelihood {ascent.infos[-1].log_likelihood:.6g}"
        counted = run_counted_sum(
            request, "moe-refine", evaluate, add_statistics, clusters=_may_be_last(ascent.state),
            watch=watch, note=said,
        )  # fmt: skip
        ascent = _advanced(ascent, counted)
    products = None
    if (score := _score_evaluation(ascent)) is not None:
        products = run_counted_sum(request, "moe-scores", score, add_scores, clusters=True, watch=watch)
    return _refinement(ascent, products, request.cluster, [part.label for part in request.partitions])


def build_rounds(request: FitRequest, start: Delayed) -> Delayed:
    """The delayed `Refinement` from a delayed start and the moments of all rows, or None in their place.

    All rounds that there may be are in the graph; those that would gain nothing open no partition.
    """
    rounds = request.options.refine
    assert isinstance(rounds, int)
    name = tokenize(start.key, rounds)

    def task(function: Callable[..., Any], key: str, *arguments: Any) -> Delayed:
        call = delayed(function, pure=False, traverse=False)
        return cast(Delayed, call(*arguments, dask_key_name=f"moe-{key}-{name}"))

    pooled = None
    if request.options.on_error == "skip":
        find = task(_moments_if_unknown, "moments-point", start)
        pooled = build_sum(request, "moe-moments", find, merge_moments)
    ascent = task(_begin, "ascent", settings_of(request), start, pooled)
    for index in range(rounds):
        evaluate = task(_next_evaluation, f"refine-point-{index}", ascent)
        counted = build_sum(request, "moe-refine", evaluate, add_statistics, clusters=True)
        ascent = task(_advanced, f"ascent-{index}", ascent, counted)
    score = task(_score_evaluation, "scores-point", ascent)
    products = build_sum(request, "moe-scores", score, add_scores, clusters=True)
    labels = [part.label for part in request.partitions]
    return task(_refinement, "refinement", ascent, products, request.cluster, labels)


def settings_of(request: FitRequest) -> RoundSettings:
    """What all rounds of a request share."""
    options = request.options
    return RoundSettings(request.family, options.regularization, request.sends.responses, options.most_rounds)


def _moments_if_unknown(
    start: tuple[MoEParameters, Moments | None],
) -> Callable[[Observations], Moments] | None:
    return moments if start[1] is None else None


def _begin(
    settings: RoundSettings, start: tuple[MoEParameters, Moments | None], counted: Counted | None
) -> Ascent:
    """Before the first round; from parameters in the data's units, and moments known or found."""
    parameters, pooled = start
    dropped = None
    if pooled is None:
        assert counted is not None
        pooled, dropped = found(counted)[:2]
    family = settings.family
    coordinates = coordinates_from(pooled, family.scaling(pooled))
    regularization = settings.regularization.of_all_rows(parameters.n_experts, nominal=family.nominal)
    prior = prior_from(pooled, coordinates, parameters.n_experts, family, regularization)
    state = first_state(parameters, coordinates)
    return Ascent(settings, state, coordinates, prior, pooled, dropped, began=time.time())


def _next_evaluation(ascent: Ascent) -> Callable[[Observations], PackedStatistics] | None:
    """What the next round finds of a partition; None where there is no next."""
    if ascent.ended:
        return None
    state, coordinates = ascent.state, ascent.coordinates
    return partial(
        round_statistics,
        parameters=coordinates.to_data(state.trial),
        coordinates=coordinates,
        family=ascent.settings.family,
        scores=_may_be_last(state),
        extremes=ascent.settings.extremes,
        others=[coordinates.to_data(other.parameters) for other in state.others],
        careful=state.careful,
    )


def _advanced(ascent: Ascent, counted: Counted) -> Ascent:
    """After a round that found the sums, or after one that was not run as there was no next."""
    if ascent.ended:
        return ascent
    packed: PackedStatistics = found(counted).value
    _check_weight(packed.weight, ascent.pooled.weight)
    state, info = advance(ascent.state, packed, ascent.prior, ascent.settings.family)
    offset = packed.weight * ascent.coordinates.log_jacobian
    info = info._replace(log_likelihood=info.log_likelihood - offset, objective=info.objective - offset)
    infos, now = (*ascent.infos, info), time.time()
    logger.info("round %d: log-likelihood %.6f, damping %.2g", len(infos), info.log_likelihood, info.damping)
    seconds = (*ascent.seconds, now - ascent.began)
    return ascent._replace(state=state, infos=infos, seconds=seconds, began=now)


def _score_evaluation(ascent: Ascent) -> Callable[[Observations], Any] | None:
    """What a pass of its own finds of the scores; None where a round did, or none is left for it."""
    state, most = ascent.state, ascent.settings.rounds
    assert state.accepted is not None
    to_spare = most is None or len(ascent.infos) < most
    if not state.converged or not to_spare or scores_of(state.accepted.statistics) is not None:
        return None
    family = ascent.settings.family
    return partial(partition_scores, parameters=ascent.reached, coordinates=ascent.coordinates, family=family)


def _refinement(
    ascent: Ascent, products: Counted | None, cluster: str | None, labels: list[str]
) -> Refinement:
    """The end of an ascent; ``products`` are the sums of a pass for scores, if there was one."""
    state = ascent.state
    assert state.accepted is not None
    scores = scores_of(state.accepted.statistics) if state.converged else None
    if _score_evaluation(ascent) is not None:
        assert products is not None
        layout = Layout.of(ascent.coordinates.from_data(ascent.reached))
        scores = unpack_scores(found(products).value, layout)
    return Refinement(
        ascent.reached,
        list(ascent.infos),
        list(ascent.seconds),
        state.converged,
        state,
        ascent.coordinates,
        ascent.prior,
        scores,
        cluster,
        ascent.pooled,
        labels,
        ascent.dropped,
    )


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

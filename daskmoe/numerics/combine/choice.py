"""The best estimators of one communication step: from a shared start, or from independent fits alone.

Pure NumPy. Both average by information; see `expansion` and `information`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from daskmoe.numerics.base.hulls import Hulls, affine_hulls
from daskmoe.numerics.base.linalg import spread_evenly
from daskmoe.numerics.base.observations import merge_moments
from daskmoe.numerics.base.parameters import (
    FloatArray,
    LargeMoE,
    MoEParameters,
    Moments,
    SupportSample,
    canonical_indices,
    canonical_order,
)
from daskmoe.numerics.base.policies import CHOICE
from daskmoe.numerics.combine.expansion import Expansion, Pilot, one_shot
from daskmoe.numerics.combine.information import information_average
from daskmoe.numerics.combine.registry import Aggregate, aggregate_estimates
from daskmoe.numerics.families import Family
from daskmoe.numerics.predictive.draws import sample_response
from daskmoe.numerics.predictive.mixture import log_density
from daskmoe.numerics.transport.plan import Experts, pointwise_plan
from daskmoe.numerics.transport.reduction import reduce_mixture, reduction_problem

# What the best estimator from a shared start may be.
FROM_PILOT = ("one-shot", "pilot")


class Sent(NamedTuple):
    """What the partitions sent that could be fitted, in their order."""

    estimates: list[MoEParameters]
    # (M,)
    weights: FloatArray
    moments: list[Moments]
    # Of all of them or of none.
    expansions: list[Expansion]
    support: SupportSample
    # (S,),: Position of the partition that a row of the support is of, where that is known.
    origin: NDArray[np.intp] | None

    def aggregate(self, method: str, n_experts: int, family: Family) -> Aggregate:
        """One model from the estimates alone, by a method of `registry.AGGREGATORS`."""
        return aggregate_estimates(
            method, self.estimates, self.weights, self.support, n_experts, family, self.moments
        )


def best_estimator(
    sent: Sent, pilot: Pilot | None, n_experts: int, family: Family, rng: np.random.Generator
) -> Aggregate:
    """The best estimator that what was sent allows: from a shared start, by information, or the reduction."""
    if pilot is not None:
        return one_shot_estimator(sent, pilot, family)
    if sent.expansions:
        return independent_estimator(sent, n_experts, family, rng)
    return sent.aggregate("reduction", n_experts, family)


def one_shot_estimator(sent: Sent, pilot: Pilot, family: Family) -> Aggregate:
    """The best estimator of one communication step: information-weighted, from a shared start.

    The maximum of the summed expansions, unless another candidate (the reduction of the local estimates, the
    pilot itself) is better on the labelled support by more than twice the standard error of the difference.
    The moments of all rows make the prior.
    """
    pooled = reduce(merge_moments, sent.moments)
    n_experts = pilot.parameters.n_experts
    averaged = family.from_moments(pooled) if n_experts == 1 else None
    if averaged is None:
        averaged = one_shot(sent.expansions, pilot, pooled, family)
    start = pilot.parameters if averaged is None else averaged
    large = LargeMoE.from_estimates(sent.estimates, sent.weights)
    reduced = reduce_mixture(large, sent.support, [start], family, hulls=_hulls_with(pilot, sent))
    candidates = {"one-shot": averaged, "reduction": reduced.parameters, "pilot": pilot.parameters}
    known = {name: p for name, p in candidates.items() if p is not None}
    chosen, scores = _choose(known, sent.support, family)
    order = canonical_indices(known[chosen])
    return Aggregate(
        known[chosen].take(order),
        reduced.objectives,
        reduced.start_objectives,
        reduced.flow[:, order],
        reduced.converged,
        scores,
        chosen,
    )


def _hulls_with(pilot: Pilot, sent: Sent) -> Hulls | None:
    """What estimates from a shared start know: what its sample or their own rows identify."""
    if not len(pilot.unseen.transform):
        return None
    return affine_hulls([merge_moments(pilot.moments, own) for own in sent.moments], sent.support)


def _choose(
    candidates: dict[str, MoEParameters], support: SupportSample, family: Family, margin: float = 0.0
) -> tuple[str, dict[str, float]]:
    """The first candidate, unless another is significantly, and by more than ``margin``, better."""
    assert support.response is not None
    values = {
        name: log_density(parameters, family, support.features, support.response)
        for name, parameters in candidates.items()
    }
    scores = {name: float(support.weight @ value) for name, value in values.items()}
    chosen = next(iter(candidates))
    for name, value in values.items():
        difference = value - values[chosen]
        gain = float(support.weight @ difference)
        deviation = float(np.sqrt(support.weight**2 @ (difference - gain) ** 2))
        if gain > max(CHOICE.deviations * deviation, margin) or not np.isfinite(scores[chosen]):
            chosen = name
    return chosen, scores


def independent_estimator(sent: Sent, n_experts: int, family: Family, rng: np.random.Generator) -> Aggregate:
    """The best estimator from independent local fits where no response may leave a partition.

    The local estimates averaged by their information, their experts matched by transport; unless another
    candidate (the reduction with the plan that moves experts whole, the middle estimator) is significantly
    better on responses drawn from the partitions' own estimates at their own rows.
    """
    locals_, support = sent.estimates, sent.support
    whole = sent.aggregate("whole", n_experts, family)
    if whole.chosen == "local" or max(p.n_experts for p in locals_) > n_experts:
        return whole
    candidates = [whole]
    fitting = sorted(
        (p for p in locals_ if p.n_experts == n_experts), key=lambda p: p.coef[0].ravel().tolist()
    )
    if fitting:
        candidates.append(sent.aggregate("middle", n_experts, family))
    references = [_plain(candidate) for candidate in candidates]
    references += [fitting[m] for m in spread_evenly(len(fitting), CHOICE.references) if fitting]
    averaged = information_average(locals_, sent.moments, sent.expansions, references, support, family)
    if averaged is not None:
        candidates.insert(0, _as_aggregate(averaged, whole, sent, family))
    if sent.origin is None:
        return candidates[0]
    labelled = _with_drawn_responses(support, sent.origin, locals_, family, rng)
    known = {candidate.chosen: _plain(candidate) for candidate in candidates}
    chosen, scores = _choose(known, labelled, family, CHOICE.drawn_margin)
    return next(c for c in candidates if c.chosen == chosen)._replace(candidates=scores)


def _plain(aggregate: Aggregate) -> MoEParameters:
    assert isinstance(aggregate.parameters, MoEParameters)
    return aggregate.parameters


def _as_aggregate(averaged: MoEParameters, whole: Aggregate, sent: Sent, family: Family) -> Aggregate:
    """The average by information, with the plan that moves the large MoE to it."""
    parameters = canonical_order(averaged)
    large = LargeMoE.from_estimates(sent.estimates, sent.weights)
    hulls = affine_hulls(sent.moments, sent.support)
    coordinates, problem = reduction_problem(large, sent.support, family, hulls)
    inner = coordinates.from_data(parameters)
    plan = pointwise_plan(problem, Experts(inner.coef, inner.nuisance))
    return whole._replace(parameters=parameters, flow=plan.flow, chosen="information")


def _with_drawn_responses(
    support: SupportSample,
    origin: NDArray[np.intp],
    locals_: Sequence[MoEParameters],
    family: Family,
    rng: np.random.Generator,
) -> SupportSample:
    """The support, some times over, with responses drawn from the estimate of each row's own partition."""
    features = np.tile(support.features, (CHOICE.draws, 1))
    response = np.empty(len(features))
    own = np.tile(origin, CHOICE.draws)
    for m in np.unique(origin):
        rows = np.flatnonzero(own == m)
        response[rows] = sample_response(locals_[m], family, features[rows], rng)
    return SupportSample(features, response, np.tile(support.weight / CHOICE.draws, CHOICE.draws))

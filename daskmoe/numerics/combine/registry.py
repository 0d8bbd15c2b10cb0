"""From the local estimators of all partitions to one model: the paper's estimators, and the usual others.

Pure NumPy. Partitions that were left out carry no weight. With one local estimator of the right size there is
nothing to aggregate and it is returned as it is. Local estimators are put in an order of their own first, so
that the order of the partitions changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from daskmoe.errors import InvalidOptionError
from daskmoe.numerics.base.coordinates import Coordinates, without_offset
from daskmoe.numerics.base.hulls import Hulls, affine_hulls
from daskmoe.numerics.base.linalg import spread_evenly
from daskmoe.numerics.base.parameters import (
    FloatArray,
    LargeMoE,
    MoEParameters,
    Moments,
    SupportSample,
    canonical_indices,
)
from daskmoe.numerics.base.policies import REDUCTION
from daskmoe.numerics.combine.candidates import Score, Told
from daskmoe.numerics.combine.gaps import Gaps, gaps_of
from daskmoe.numerics.families import Family
from daskmoe.numerics.likelihood.inference import Curvature
from daskmoe.numerics.transport.alignment import match_experts
from daskmoe.numerics.transport.merging import clustered_experts, greedy_experts
from daskmoe.numerics.transport.plan import Experts, ReductionProblem, pointwise_plan
from daskmoe.numerics.transport.reduction import (
    PlanKind,
    fit_to_plan,
    minimize_from,
    reduction_problem,
    with_unseen,
)


class Aggregate(NamedTuple):
    """The aggregated model and how it came about."""

    # In canonical order, those of results by share (`in_order`); the large MoE for the weighted average.
    parameters: MoEParameters | LargeMoE
    # (iterations,): Transportation divergence at each MM iteration; of the result where there are none.
    objectives: FloatArray
    # (starts,)
    start_objectives: FloatArray
    # (L, K): Mass moved from every component of the large MoE to every expert; no column for the weighted
    # average.
    flow: FloatArray
    converged: bool
    # Of every candidate, on all rows; empty where there was no choice.
    candidates: dict[str, Score]
    # The method that gave ``parameters``.
    chosen: str
    # Near ``parameters``, for approximate errors; None where nobody knows it.
    curvature: Curvature | None = None
    # Of all rows, where these were asked.
    log_likelihood: float | None = None
    # What all rows say of ``parameters``, or the support where it is labelled; None where nobody asked.
    told: Told | None = None
    told_by_support: bool = False
    # Whether ``parameters`` are a shared start that was fitted to some of the rows only.
    from_sample: bool = False
    # What the local estimators do not know; None where each knows everything.
    gaps: Gaps | None = None

    def in_order(self, order: NDArray[np.intp]) -> Aggregate:
        """The same with the experts of its one model in another order."""
        assert isinstance(self.parameters, MoEParameters)
        near, told = self.curvature, self.told
        return self._replace(
            parameters=self.parameters.take(order),
            flow=self.flow[:, order],
            curvature=None if near is None else near._replace(order=near.order[order]),
            told=None if told is None else told._replace(mass=told.mass[order]),
        )


class _Locals(NamedTuple):
    """The local estimators that count, in their own order, on the support."""

    parameters: list[MoEParameters]
    large: LargeMoE
    support: SupportSample
    family: Family
    # What each of them knows; None where each knows everything.
    hulls: Hulls | None
    coordinates: Coordinates
    problem: ReductionProblem

    def with_experts(self, n_experts: int) -> list[MoEParameters]:
        """Those with as many experts; `InvalidOptionError` where there is none."""
        fitting = [p for p in self.parameters if p.n_experts == n_experts]
        if not fitting:
            sizes = sorted({p.n_experts for p in self.parameters})
            raise InvalidOptionError(
                f"n_experts: expected the size of a local estimator, {sizes}, got {n_experts}."
            )
        return fitting

    def experts(self, parameters: MoEParameters) -> Experts:
        """The experts of a model in the coordinates of the problem."""
        inner = self.coordinates.from_data(parameters)
        return Experts(inner.coef, inner.nuisance)


def aggregate_estimates(
    method: str,
    locals_: Sequence[MoEParameters],
    weights: FloatArray,
    support: SupportSample,
    n_experts: int,
    family: Family,
    moments: Sequence[Moments | None] = (),
) -> Aggregate:
    """One model from local estimators.

    Parameters
    ----------
    method : {"reduction", "whole", "greedy", "weighted", "middle", "aligned"}
        The reduction estimator of arXiv:2312.09877; the same with the plan that moves every expert whole;
        greedy pairwise merging (Runnalls, 2007); the large MoE itself; the local estimator at the least
        transportation divergence from all; the average of the local estimators, their experts matched to
        those of the middle one.
    locals_ : sequence of MoEParameters
        M local estimators, of any sizes.
    weights : ndarray of shape (M,)
        Row weights N_m; lambda_m is proportional to them.
    support : SupportSample
    n_experts : int
        K of the result; of no meaning for the weighted average.
    family : Family
    moments : sequence of Moments or None
        Of the rows that each was fitted to: beside their affine hull it knows nothing. Without them each is
        taken to know everything.

    Raises
    ------
    InvalidOptionError
        If K cannot be had.
    """
    if len(locals_) == 1 and locals_[0].n_experts == n_experts:
        return Aggregate(locals_[0], np.zeros(1), np.zeros(1), np.eye(n_experts), True, {}, "local")
    used = [m for m in range(len(locals_)) if weights[m] > 0]
    used.sort(key=lambda m: (locals_[m].coef[0].ravel().tolist(), locals_[m].gate[0].tolist(), weights[m]))
    ordered = [locals_[m] for m in used]
    large = LargeMoE.from_estimates(ordered, weights[used])
    _check_size(large, n_experts)
    hulls = affine_hulls([moments[m] for m in used], support) if moments else None
    known = _Locals(ordered, large, support, family, hulls, *reduction_problem(large, support, family, hulls))
    found = AGGREGATORS[method].estimate(known, n_experts)
    if hulls is not None:
        taken = [found.parameters is large or found.parameters is local for local in ordered]
        found = found._replace(gaps=gaps_of(hulls, support, taken).of_all(used, len(locals_)))
    return _in_order(found, [p.n_experts for p in locals_], used)


def _check_size(large: LargeMoE, n_experts: int) -> None:
    if n_experts > large.n_experts:
        raise InvalidOptionError(
            f"n_experts: expected at most {large.n_experts}, the experts of all local estimators together, "
            f"got {n_experts}."
        )


def _reduction(known: _Locals, n_experts: int, plan: PlanKind = "pointwise") -> Aggregate:
    result = minimize_from(known.coordinates, known.problem, _starts(known, n_experts), plan)
    name = "reduction" if plan == "pointwise" else "whole"
    parameters = with_unseen(result.parameters, result.flow, known.large, known.coordinates, known.hulls)
    return Aggregate(
        parameters, result.objectives, result.start_objectives, result.flow, result.converged, {}, name
    )


def _whole(known: _Locals, n_experts: int) -> Aggregate:
    return _reduction(known, n_experts, "whole")


def _greedy(known: _Locals, n_experts: int) -> Aggregate:
    experts = greedy_experts(known.problem, n_experts)
    gate, statistics = fit_to_plan(known.problem, experts, "whole")
    parameters = known.coordinates.to_data(MoEParameters(gate, experts.coef, experts.nuisance))
    parameters = with_unseen(parameters, statistics.flow, known.large, known.coordinates, known.hulls)
    objective = np.array([statistics.objective])
    return Aggregate(parameters, objective, objective, statistics.flow, True, {}, "greedy")


def _weighted(known: _Locals, n_experts: int) -> Aggregate:
    flow = np.zeros((known.large.n_experts, 0))
    return Aggregate(known.large, np.zeros(1), np.zeros(1), flow, True, {}, "weighted")


def _middle(known: _Locals, n_experts: int) -> Aggregate:
    return _moved_to(known, _middle_of(known, known.with_experts(n_experts)), "middle")


def _aligned(known: _Locals, n_experts: int) -> Aggregate:
    sizes = sorted({p.n_experts for p in known.parameters})
    if sizes != [n_experts]:
        raise InvalidOptionError(
            f"n_experts: expected {n_experts} experts in every local estimator to average them, got sizes "
            f"{sizes}. Use the method 'reduction' or 'greedy'."
        )
    if known.hulls is not None:
        return _moved_to(known, _aligned_as_known(known, known.hulls), "aligned")
    reference = _middle_of(known, known.parameters)
    total = MoEParameters(*(np.zeros_like(array) for array in reference))
    for parameters, weight in zip(known.parameters, known.large.weights, strict=True):
        match = match_experts(parameters, reference, known.support, known.family)
        matched = parameters.take(np.argsort(match))
        total = MoEParameters(*(s + weight * array for s, array in zip(total, matched, strict=True)))
    return _moved_to(known, total, "aligned")


def _aligned_as_known(known: _Locals, hulls: Hulls) -> MoEParameters:
    """The average of the local estimators as far as each knows them, its experts matched where it does.

    No local estimator need know the rows of another: the reference is the reduction of all.
    """
    reference = _whole(known, known.parameters[0].n_experts).parameters
    assert isinstance(reference, MoEParameters)
    matched = []
    for parameters, holds in zip(known.parameters, hulls.holding(known.support.features), strict=True):
        rows = known.support.where(holds)
        match = match_experts(parameters, reference, rows, known.family)
        matched.append(parameters.take(np.argsort(match)))
    weights, partition = known.large.weights, np.arange(len(matched))
    gate = hulls.gates.average(np.stack([m.gate for m in matched]), weights, partition)
    offset = known.coordinates.offset
    coef = np.stack([without_offset(m.coef, offset) for m in matched])
    coef = hulls.experts.average(coef, weights, partition)
    if offset is not None:
        coef[..., offset + 1] = 1.0
    nuisance = np.tensordot(weights, np.stack([m.nuisance for m in matched]), (0, 0))
    return MoEParameters(gate - gate[-1], coef, nuisance)


class Aggregator(NamedTuple):
    """An estimator that is made of local ones."""

    # From the local estimators and K.
    estimate: Callable[[_Locals, int], Aggregate]
    # Whether each of them must have K experts.
    same_size: bool = False
    # Whether the result has the experts of all of them, and a gating network for each.
    nested: bool = False
    # Whether it may end before it converged.
    iterates: bool = False


AGGREGATORS: dict[str, Aggregator] = {
    "reduction": Aggregator(_reduction, iterates=True),
    "whole": Aggregator(_whole, iterates=True),
    "greedy": Aggregator(_greedy),
    "weighted": Aggregator(_weighted, nested=True),
    "middle": Aggregator(_middle, same_size=True),
    "aligned": Aggregator(_aligned, same_size=True),
}


def _middle_of(known: _Locals, candidates: Sequence[MoEParameters]) -> MoEParameters:
    """The candidate at the least weighted divergence from all local estimators."""
    compared = spread_evenly(len(candidates), REDUCTION.candidates)
    n_rows = known.problem.design.shape[1]
    cells = len(compared) * known.large.n_experts * candidates[0].n_experts
    kept = min(n_rows, max(REDUCTION.fewest_rows, int(REDUCTION.compared_cells / cells)))
    fewer = known.problem.at_rows(spread_evenly(n_rows, kept))
    divergences = [
        pointwise_plan(fewer, known.experts(candidates[m]), with_flow=False).objective for m in compared
    ]
    return candidates[int(compared[int(np.argmin(divergences))])]


def _moved_to(known: _Locals, parameters: MoEParameters, name: str) -> Aggregate:
    """A given model, with the plan that moves the large MoE to it."""
    plan = pointwise_plan(known.problem, known.experts(parameters))
    objective = np.array([plan.objective])
    return Aggregate(parameters, objective, objective, plan.flow, True, {}, name)


def _starts(known: _Locals, n_experts: int) -> list[Experts]:
    """A few local estimators, for one in a bad optimum must not decide; greedy merging; k-means."""
    fitting = [p for p in known.parameters if p.n_experts == n_experts]
    chosen = spread_evenly(len(fitting), REDUCTION.local_starts)
    starts = [known.experts(fitting[m]) for m in chosen if fitting]
    return [
        *starts,
        greedy_experts(known.problem, n_experts),
        clustered_experts(known.problem, n_experts),
    ]


def _in_order(found: Aggregate, sizes: list[int], used: list[int]) -> Aggregate:
    """The result in canonical order, its flow by the components as they were handed in."""
    flow = np.zeros((sum(sizes), found.flow.shape[1]))
    stops = np.cumsum(sizes)
    rows = np.concatenate([np.arange(stops[m] - sizes[m], stops[m]) for m in used])
    flow[rows] = found.flow
    if isinstance(found.parameters, LargeMoE):
        back: NDArray[np.intp] = np.argsort(used)
        return found._replace(parameters=found.parameters.take(back), flow=flow)
    order = canonical_indices(found.parameters)
    return found._replace(parameters=found.parameters.take(order), flow=flow[:, order])

"""The reduction estimator: K experts at the least transportation divergence from the large MoE, by MM.

Pure NumPy. Majorize: the transport plan at the current experts. Minimize: each expert is the barycentre of
the mass it receives, as its family says. For gaussian experts, with W = sum_l P_lk(s), m = sum_l P_lk(s)
E_l[y|x_s] and M2 = sum_l P_lk(s) E_l[y^2|x_s],

    beta_k = argmin_b sum_s (W b'u_s - 2 m) b'u_s = (U' W U)^-1 U' m,
    sigma_k^2 = sum_s (M2 - 2 m yhat + W yhat^2) / sum_s W,

the spread between the components included, so that the objective never rises (arXiv:2312.09877, section 4,
with the exact variance). Last, the gating network is fitted to the plan's marginals (`gating.fit_gating`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from daskmoe.numerics.base.coordinates import Coordinates, Scaling, coordinates_from, without_offset
from daskmoe.numerics.base.hulls import Hulls
from daskmoe.numerics.base.linalg import spread_evenly
from daskmoe.numerics.base.observations import Observations, moments
from daskmoe.numerics.base.parameters import FloatArray, LargeMoE, MoEParameters, SupportSample
from daskmoe.numerics.base.policies import REDUCTION
from daskmoe.numerics.families import Family
from daskmoe.numerics.transport.gating import fit_gating, fit_partial_gating
from daskmoe.numerics.transport.plan import (
    Experts,
    PlanStatistics,
    ReductionProblem,
    pointwise_plan,
    tiles,
    whole_plan,
)

PlanKind = Literal["pointwise", "whole"]


class ReductionResult(NamedTuple):
    """The reduction estimator and how it was found."""

    parameters: MoEParameters
    # (iterations,): Transportation divergence at every MM iteration, never rising.
    objectives: FloatArray
    # (L, K): Mass that the plan moves from each component to each expert.
    flow: FloatArray
    converged: bool
    # (starts,): The lowest objective that each start reached; that of the race for those that lost one.
    start_objectives: FloatArray


class _Run(NamedTuple):
    """Where MM from one start ended."""

    experts: Experts
    objectives: list[float]
    converged: bool


def reduce_mixture(
    large: LargeMoE,
    support: SupportSample,
    starts: Sequence[MoEParameters],
    family: Family,
    plan: PlanKind = "pointwise",
    hulls: Hulls | None = None,
) -> ReductionResult:
    """Reduce the large MoE to as many experts as the starts have; the best start's result is kept.

    Parameters
    ----------
    large : LargeMoE
        L components over p features.
    support : SupportSample
        S rows; responses are not used.
    starts : sequence of MoEParameters
        Starting experts, each with K experts; their gates are not used.
    family : Family
    plan : {"pointwise", "whole"}
        The paper's plan, or the one that moves every component whole.
    hulls : Hulls or None
        What the local estimators know; None where each knows everything.
    """
    coordinates, problem = reduction_problem(large, support, family, hulls)
    inner = [coordinates.from_data(start) for start in starts]
    found = minimize_from(coordinates, problem, [Experts(s.coef, s.nuisance) for s in inner], plan)
    return found._replace(parameters=with_unseen(found.parameters, found.flow, large, coordinates, hulls))


def minimize_from(
    coordinates: Coordinates, problem: ReductionProblem, starts: Sequence[Experts], plan: PlanKind
) -> ReductionResult:
    """The reduction in its own coordinates: experts from the best start, then the gating network.

    Where there are many partitions, the starts race on some of them and only the best goes on to all.
    """
    if len(problem.large.weights) > REDUCTION.racing_partitions and len(starts) > 1:
        kept = spread_evenly(len(problem.large.weights), REDUCTION.racing_partitions)
        thinned = problem.of_partitions(kept)
        raced = [_minimize(thinned, start, plan).experts for start in starts]
        reached = np.array([_plan(plan)(problem, e, with_flow=False).objective for e in raced])
        best = _minimize(problem, raced[int(np.argmin(reached))], plan)
        reached[np.argmin(reached)] = best.objectives[-1]
    else:
        runs = [_minimize(problem, start, plan) for start in starts]
        reached = np.array([run.objectives[-1] for run in runs])
        best = runs[int(np.argmin(reached))]
    gate, statistics = fit_to_plan(problem, best.experts, plan)
    reduced = MoEParameters(gate, best.experts.coef, best.experts.nuisance)
    return ReductionResult(
        coordinates.to_data(reduced), np.array(best.objectives), statistics.flow, best.converged, reached
    )


def fit_to_plan(
    problem: ReductionProblem, experts: Experts, plan: PlanKind
) -> tuple[FloatArray, PlanStatistics]:
    """The gating network of given experts, from the plan to them."""
    statistics = _plan(plan)(problem, experts)
    return _gating(problem, statistics), statistics


def with_unseen(
    parameters: MoEParameters,
    flow: FloatArray,
    large: LargeMoE,
    coordinates: Coordinates,
    hulls: Hulls | None = None,
) -> MoEParameters:
    """Parameters with the part of the linear predictors that vanishes on the support.

    Such is the slope of a feature that is constant there: the divergence knows nothing of it. An expert's is
    the mean of its components', weighted by the mass that the plan moves, of those that know it.

    Parameters
    ----------
    parameters : MoEParameters
        What was found in the ``coordinates`` of the support.
    flow : ndarray of shape (L, K)
    large : LargeMoE
        In the data's coordinates.
    coordinates : Coordinates
    hulls : Hulls or None
        What the local estimators know; None where each knows everything.
    """
    every = large.n_features - (coordinates.offset is not None)
    if coordinates.gating is None and len(coordinates.transform) == every:
        return parameters
    share = flow / np.maximum(flow.sum(axis=0), np.finfo(float).tiny)
    of_gates, of_experts = (None, None) if hulls is None else (hulls.gates, hulls.experts)
    gate = _mean_beside(large.gate, share, large.partition, coordinates.gates, of_gates)
    own = without_offset(large.coef, coordinates.offset)
    coef = _mean_beside(own, share, large.partition, coordinates, of_experts)
    moved = parameters.gate + gate
    return parameters._replace(gate=moved - moved[-1], coef=parameters.coef + coef)


def _mean_beside(
    linear: FloatArray,
    share: FloatArray,
    partition: NDArray[np.intp],
    coordinates: Coordinates,
    hulls: Hulls | None,
) -> FloatArray:
    """The part beside the support of linear predictors (L, ..., p + 1), averaged by columns of ``share``."""

    def beside(whole: FloatArray) -> FloatArray:
        return whole - coordinates.linear_to_data(coordinates.linear_from_data(whole))

    if hulls is None:
        return np.tensordot(share, beside(linear), (0, 0))
    return beside(np.stack([hulls.average(linear, weights, partition) for weights in share.T]))


def _gating(problem: ReductionProblem, statistics: PlanStatistics) -> FloatArray:
    """The gating network from the plan's marginals; from whole components where partitions know few experts.

    A partition with fewer components than there are experts has never seen some of them. Its gates say how
    likely its own experts are relative to each other, and nothing about the others.
    """
    n_experts, large = len(statistics.mass), problem.large
    if (large.sizes >= n_experts).all():
        return fit_gating(problem.gate_design, statistics.mass)
    target = np.argmax(statistics.flow, axis=1)
    known = np.ones((len(large.weights), n_experts), dtype=bool)
    known[large.sizes < n_experts] = False
    known[large.partition, target] = True
    groups, group = np.unique(known, axis=0, return_inverse=True)
    targets = np.zeros((len(groups), n_experts, problem.design.shape[1]))
    for tile in tiles(problem):
        place = group.reshape(-1)[large.partition[tile.components]]
        np.add.at(targets, (place, target[tile.components]), tile.mass)
    return fit_partial_gating(problem.gate_design, targets, groups)


def _plan(kind: PlanKind) -> Callable[..., PlanStatistics]:
    return pointwise_plan if kind == "pointwise" else whole_plan


def reduction_problem(
    large: LargeMoE, support: SupportSample, family: Family, hulls: Hulls | None = None
) -> tuple[Coordinates, ReductionProblem]:
    """The large MoE in whitened coordinates of the support, where weighted least squares is well posed.

    At each row it has the local estimators that know the row, as their ``hulls`` say.
    """
    response = np.zeros(len(support.features))
    rows = Observations(support.features, response, support.weight, columns=support.columns)
    coordinates = coordinates_from(moments(rows), Scaling.none(family.n_nuisances))
    design = _whole_design(rows, coordinates)
    gating = None if coordinates.gating is None else _whole_design(rows, coordinates.gating)
    inner = coordinates.from_data(MoEParameters(large.gate, large.coef, large.nuisance))
    # `from_data` moves the gating reference, which a softmax within each partition does not feel.
    moved = large._replace(gate=inner.gate, coef=inner.coef, nuisance=inner.nuisance)
    known = None if hulls is None else hulls.holding(support.features)
    offset = None if coordinates.offset is None else support.features[:, coordinates.offset]
    return coordinates, ReductionProblem(moved, design, support.weight, family, known, gating, offset)


def _whole_design(rows: Observations, coordinates: Coordinates) -> FloatArray:
    return np.concatenate([block.design.copy() for block in rows.blocks(coordinates)], axis=1)


def _minimize(problem: ReductionProblem, experts: Experts, kind: PlanKind) -> _Run:
    """MM from given experts until the objective stands still."""
    plan = _plan(kind)
    statistics = plan(problem, experts, with_flow=False)
    objectives = [statistics.objective]
    for _ in range(REDUCTION.max_iterations):
        trial = barycentres(problem, statistics, experts)
        trial_statistics = plan(problem, trial, with_flow=False)
        gain = statistics.objective - trial_statistics.objective
        # Below rounding, a step could raise the objective: keep the better end.
        if gain <= 0:
            return _Run(experts, objectives, True)
        experts, statistics = trial, trial_statistics
        objectives.append(statistics.objective)
        if gain <= REDUCTION.tolerance * abs(statistics.objective):
            return _Run(experts, objectives, True)
    return _Run(experts, objectives, False)


def barycentres(problem: ReductionProblem, plan: PlanStatistics, previous: Experts) -> Experts:
    """The minimization step: each expert the KL barycentre of its mass; an expert without mass stays."""
    coef, nuisance = previous.coef.copy(), previous.nuisance.copy()
    floor = REDUCTION.nuisance_floor * problem.large.nuisance.mean(axis=0)
    for k in np.flatnonzero(plan.mass.sum(axis=1) > np.finfo(float).eps):
        mass, moved = plan.mass[k], plan.moments[k]
        if problem.offset is not None:
            mass, moved = problem.family.without_offset(problem.offset, mass, moved)
        coef[k], nuisance[k] = problem.family.barycentre(problem.design, mass, moved, coef[k], floor)
    return Experts(coef, nuisance)

"""Newton's ascents from several candidates, and what becomes of their results.

Pure NumPy, on the rows of one problem.
"""

from __future__ import annotations

import math

import numpy as np

from daskmoe.numerics.base.layout import Layout
from daskmoe.numerics.base.observations import deviation_of_sum
from daskmoe.numerics.base.parameters import MoEParameters
from daskmoe.numerics.base.policies import QUASI_NEWTON, SEARCH
from daskmoe.numerics.likelihood.statistics import scaled
from daskmoe.numerics.local.newton import NewtonResult, jump, maximize, standard_deviations
from daskmoe.numerics.local.problem import Problem
from daskmoe.numerics.local.quasi_newton import climb
from daskmoe.numerics.local.race import Candidate


def polish(
    problem: Problem,
    candidates: list[Candidate],
    tolerance: float,
    max_passes: int,
    least: float = -np.inf,
) -> list[NewtonResult]:
    """Newton from every candidate, best objective first; one that would end under ``least`` is given up."""
    results = [_polished(problem, candidate, tolerance, max_passes, least) for candidate in candidates]
    return sorted(results, key=lambda r: -r.objective)


def _polished(
    problem: Problem, candidate: Candidate, tolerance: float, max_passes: int, least: float
) -> NewtonResult:
    """Newton from a candidate, or where parameters are many quasi-Newton steps."""
    weight = problem.rows.total_weight
    if of_many(candidate.parameters):
        return climb(
            candidate.parameters,
            problem.gradient,
            problem.complete_blocks,
            tolerance=tolerance * weight,
            max_passes=QUASI_NEWTON.passes * max_passes,
            least=least,
        )
    return maximize(
        candidate.parameters,
        problem.statistics,
        problem.objective,
        problem.slope,
        tolerance=tolerance * weight,
        max_passes=max_passes,
        nearby=None if candidate.nearby is None else scaled(candidate.nearby, weight),
        least=least,
    )


def of_many(parameters: MoEParameters) -> bool:
    """Whether a model has so many parameters that ascents form no information."""
    return Layout.of(parameters).size > QUASI_NEWTON.many


def newton_passes(result: NewtonResult) -> int:
    """The passes of an ascent by what they cost, in those of Newton's."""
    return math.ceil(result.passes / QUASI_NEWTON.passes) if of_many(result.parameters) else result.passes


def ascend(
    problem: Problem, candidates: list[Candidate], tolerance: float, max_passes: int
) -> list[NewtonResult]:
    """Newton from the candidate that is best on these rows, and from those that may still pass it.

    What the first gains tells what another may gain: all come from races or samples of the same rows.
    """
    if len(candidates) == 1:
        return polish(problem, candidates, tolerance, max_passes)
    reached = np.array([problem.objective(candidate.parameters) for candidate in candidates])
    order = np.argsort(-reached, kind="stable")
    first = polish(problem, [candidates[order[0]]], tolerance, max_passes)
    least = first[0].objective - SEARCH.reach * (first[0].objective - reached[order[0]])
    others = [candidates[k] for k in order[1:] if reached[k] >= least]
    # A rival that is slower than the leader was seldom passes it; the search takes one that does to its end.
    most = max(newton_passes(first[0]), SEARCH.rival_passes)
    # Quasi-Newton's gains say early where one is bound, and there are many of its steps.
    worth = first[0].objective if of_many(first[0].parameters) else -np.inf
    rivals = polish(problem, others, tolerance, most, worth)
    return sorted([*first, *rivals], key=lambda result: -result.objective)


def advance(stage: Problem, candidates: list[Candidate], kept: int) -> list[Candidate]:
    """At most ``kept`` candidates after a few Newton passes on the rows of ``stage``, all in the running."""
    results = ascend(stage, candidates, SEARCH.tolerance, SEARCH.passes)
    close = SEARCH.tolerance * stage.rows.total_weight
    running = in_the_running(stage, distinct(results, close)[:kept])
    return [candidate_of(result, stage) for result in running]


def candidate_of(result: NewtonResult, stage: Problem) -> Candidate:
    """Where an ascent on more rows starts."""
    nearby = None if of_many(result.parameters) else result.statistics
    return Candidate(result.parameters, nearby, result.objective / stage.rows.total_weight)


def in_the_running(stage: Problem, results: list[NewtonResult]) -> list[NewtonResult]:
    """The best result and those that the rows of ``stage`` do not tell apart from it."""
    if len(results) == 1:
        return results
    best, *others = stage.log_densities([result.parameters for result in results])
    kept = results[:1]
    for result, own in zip(results[1:], others, strict=True):
        deviation = deviation_of_sum(best - own, stage.rows.weight)
        if results[0].objective - result.objective <= SEARCH.deviations * deviation:
            kept.append(result)
    return kept


def distinct(results: list[NewtonResult], close: float) -> list[NewtonResult]:
    """Results, best first, without those that ended where a better one did, told by their objective."""
    kept: list[NewtonResult] = []
    for result in results:
        if all(other.objective - result.objective > close for other in kept):
            kept.append(result)
    return kept


def times_found(problem: Problem, results: list[NewtonResult]) -> int:
    """How many of the results, the best first, are where the best one is."""
    close = SEARCH.met * problem.rows.total_weight
    return sum(results[0].objective - result.objective <= close for result in results)


def explore(
    problem: Problem, best: NewtonResult, tolerance: float, jumps: int, rng: np.random.Generator
) -> NewtonResult:
    """Newton from random points a few standard errors around the best optimum so far.

    The optima of a rugged likelihood lie in clusters, and starts seldom tell the members of one apart.
    """
    scale = standard_deviations(problem.statistics(best.parameters))
    in_vain = 0
    for _ in range(jumps):
        if scale is None or in_vain == SEARCH.patience:
            break
        start = jump(best.parameters, scale, rng)
        found = polish(problem, [Candidate(start)], tolerance, SEARCH.jump_passes)[0]
        in_vain += 1
        if found.objective > best.objective + tolerance * problem.rows.total_weight:
            in_vain = 0
            scale = standard_deviations(problem.statistics(found.parameters))
            best = found
    return best

"""The local estimator: the penalized maximum-likelihood mixture of experts of one partition.

Pure NumPy. `search` finds the optimum in whitened coordinates (`coordinates`) with weak priors (`priors`); a
single expert is weighted least squares.
"""

from __future__ import annotations

import time

import numpy as np

from daskmoe.numerics.base.coordinates import coordinates_from
from daskmoe.numerics.base.observations import Observations, moments
from daskmoe.numerics.base.parameters import (
    FloatArray,
    LocalEstimate,
    MoEParameters,
    Moments,
    canonical_indices,
)
from daskmoe.numerics.base.policies import LocalFit
from daskmoe.numerics.families import get_family
from daskmoe.numerics.families.protocol import Change
from daskmoe.numerics.likelihood.e_step import Runs
from daskmoe.numerics.likelihood.priors import prior_from
from daskmoe.numerics.likelihood.statistics import entropy_and_extremes
from daskmoe.numerics.local.ascents import polish
from daskmoe.numerics.local.em import em_statistics, m_step
from daskmoe.numerics.local.newton import NewtonResult
from daskmoe.numerics.local.problem import Problem
from daskmoe.numerics.local.race import Candidate
from daskmoe.numerics.local.relearning import with_levels_relearned
from daskmoe.numerics.local.search import search


def fit_local_estimate(
    rows: Observations,
    options: LocalFit,
    rng: np.random.Generator,
    row_moments: Moments | None = None,
) -> LocalEstimate:
    """Fit one partition: the best of `fit_local_optima`, whose parameters these are."""
    return fit_local_optima(rows, options, rng, row_moments)[0]


def fit_local_optima(
    rows: Observations,
    options: LocalFit,
    rng: np.random.Generator,
    row_moments: Moments | None = None,
) -> list[LocalEstimate]:
    """The optima of one partition that the search followed to their end, the best first.

    Parameters
    ----------
    rows : Observations
        n rows, n > 0; finite values, weights not negative with a positive sum.
    options : LocalFit
    rng : numpy.random.Generator
        Draws subsamples and starts.
    row_moments : Moments, optional
        Moments of ``rows`` where they are known already.

    Returns
    -------
    list of LocalEstimate
        ``log_likelihood`` is the plain one, ``objective`` the maximized penalized one (see `priors`).
    """
    began = time.perf_counter()
    family = get_family(options.family, options.response_size)
    known = moments(rows) if row_moments is None else row_moments
    coordinates = coordinates_from(known, family.scaling(known))
    prior = prior_from(known, coordinates, options.n_experts, family, options.regularization)
    problem = Problem(rows, coordinates, prior, family)
    if options.n_experts == 1:
        results, starts = [_single_expert(problem, options)], np.empty(0)
    else:
        results, starts = search(problem, options, rng)
        results = _with_levels_relearned(problem, results, options)
    seconds = time.perf_counter() - began
    return [_estimate(problem, known, result, starts, seconds) for result in results]


def _with_levels_relearned(
    problem: Problem, results: list[NewtonResult], options: LocalFit
) -> list[NewtonResult]:
    """The results, the first of them from where rare levels are learned again (`relearning`), if better."""
    coordinates, best = problem.coordinates, results[0]
    start = with_levels_relearned(problem.rows, coordinates.to_data(best.parameters), problem.family)
    if start is None:
        return results
    candidate = Candidate(coordinates.from_data(start))
    found = polish(problem, [candidate], options.tolerance, options.max_passes)[0]
    if not found.objective > best.objective:
        return results
    return [found._replace(passes=best.passes + found.passes), *results[1:]]


def _estimate(
    problem: Problem, known: Moments, result: NewtonResult, starts: FloatArray, seconds: float
) -> LocalEstimate:
    """An optimum in the data's units, its experts in canonical order."""
    rows, coordinates, prior = problem.rows, problem.coordinates, problem.prior
    offset = known.weight * coordinates.log_jacobian
    objective = result.objective - offset
    parameters = coordinates.to_data(result.parameters)
    order = canonical_indices(parameters)
    blocks = rows.blocks(coordinates)
    entropy, extremes = entropy_and_extremes(result.parameters, blocks, problem.family)
    mass = np.array([known.weight]) if result.statistics is None else result.statistics.mass
    assert mass is not None
    return LocalEstimate(
        parameters=parameters.take(order),
        rows=rows.n_rows,
        dropped_rows=0,
        weight=known.weight,
        log_likelihood=objective + float(prior.penalty(*result.parameters)),
        objective=objective,
        entropy=entropy,
        passes=result.passes,
        converged=result.converged,
        start_log_likelihoods=starts - coordinates.log_jacobian,
        expert_weights=mass[order],
        seconds=seconds,
        extremes=None if extremes is None else extremes.moved(*coordinates.response[:2]),
    )


def _single_expert(problem: Problem, options: LocalFit) -> NewtonResult:
    """K = 1: maximum likelihood without a search.

    Least squares, minimum-norm in whitened coordinates, where the family's M-step is exact; else Newton from
    a constant.
    """
    family, q, q_gate = problem.family, problem.coordinates.size, problem.coordinates.gates.size
    exact = family.exact_m_step
    coef = np.zeros((1, 1, family.n_predictors, q))
    if not exact:
        coef[..., 0] = problem.prior.location
    fitted = Runs(np.zeros((1, 1, q_gate)), coef, np.ones((1, 1, family.n_nuisances)))
    # A solve removes what the rounding of the single-precision Gram matrix has left in the one before.
    for _ in range(3 if exact else 1):
        before = fitted
        statistics = em_statistics(before, problem.rows.blocks(problem.coordinates), family)
        if exact:
            fitted = m_step(before, statistics, problem.prior, np.zeros(1), family)
    # These sums are at the coefficients before the last solve, which moved them by rounding only.
    shape = (1, 1, family.n_predictors) if family.by_predictor else (1, 1)
    nothing = Change(np.zeros(shape), np.zeros(shape))
    nuisance = family.update_nuisance(
        before.nuisance, statistics.mass, statistics.nuisance, nothing, problem.prior
    )
    parameters = MoEParameters(fitted.gate[0], fitted.coef[0], nuisance[0])
    if exact:
        return NewtonResult(parameters, problem.objective(parameters), 4, True)
    return polish(problem, [Candidate(parameters)], options.tolerance, options.max_passes)[0]

"""The local estimator: the penalized maximum-likelihood mixture of experts of one partition.

Pure NumPy. `search` finds the optimum in whitened coordinates (`coordinates`) with weak priors (`priors`); a
single expert is weighted least squares.
"""

from __future__ import annotations

import time

import numpy as np

from daskmoe.numerics.base.coordinates import coordinates_from
from daskmoe.numerics.base.observations import Observations, moments
from daskmoe.numerics.base.parameters import LocalEstimate, MoEParameters, Moments, canonical_indices
from daskmoe.numerics.base.policies import LocalFit
from daskmoe.numerics.likelihood.e_step import VARIANCE_FLOOR, Runs
from daskmoe.numerics.likelihood.priors import prior_from
from daskmoe.numerics.local.em import em_statistics, m_step
from daskmoe.numerics.local.newton import NewtonResult
from daskmoe.numerics.local.problem import Problem
from daskmoe.numerics.local.search import search


def fit_local_estimate(
    rows: Observations,
    options: LocalFit,
    rng: np.random.Generator,
    row_moments: Moments | None = None,
) -> LocalEstimate:
    """Fit one partition.

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
    LocalEstimate
        ``log_likelihood`` is the plain one, ``objective`` the maximized penalized one (see `priors`).
    """
    began = time.perf_counter()
    known = moments(rows) if row_moments is None else row_moments
    coordinates = coordinates_from(known)
    prior = prior_from(known, coordinates, options.n_experts)
    problem = Problem(rows, coordinates, prior)
    if options.n_experts == 1:
        result, starts = _single_expert(problem), np.empty(0)
    else:
        result, starts = search(problem, options, rng)
    offset = known.weight * np.log(coordinates.scale)
    objective = result.objective - offset
    parameters = coordinates.to_data(result.parameters)
    order = canonical_indices(parameters)
    mass = np.array([known.weight]) if result.statistics is None else result.statistics.mass
    assert mass is not None
    return LocalEstimate(
        parameters=parameters.take(order),
        rows=rows.n_rows,
        dropped_rows=0,
        weight=known.weight,
        log_likelihood=objective + float(prior.penalty(*result.parameters)),
        objective=objective,
        passes=result.passes,
        converged=result.converged,
        start_log_likelihoods=starts - np.log(coordinates.scale),
        expert_weights=mass[order],
        seconds=time.perf_counter() - began,
    )


def _single_expert(problem: Problem) -> NewtonResult:
    """K = 1: weighted least squares, minimum-norm in whitened coordinates, maximum-likelihood variance."""
    q = problem.coordinates.size
    start = Runs(np.zeros((1, 1, q)), np.zeros((1, 1, q)), np.ones((1, 1)))
    fitted = start
    # A solve removes what the rounding of the single-precision Gram matrix has left in the one before.
    for _ in range(3):
        statistics = em_statistics(fitted, problem.rows.blocks(problem.coordinates))
        fitted = m_step(fitted, statistics, problem.prior, np.zeros(1))
    variance = (statistics.squares / statistics.mass).clip(VARIANCE_FLOOR)
    parameters = MoEParameters(fitted.gate[0], fitted.coef[0], variance[0])
    return NewtonResult(parameters, problem.objective(parameters), 4, True)

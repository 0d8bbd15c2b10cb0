"""The local estimator: the penalized maximum-likelihood mixture of experts of one partition.

Pure NumPy. Several starts race on a subsample by EM, all at once, the slower half leaving twice; the leaders
are polished by damped Newton steps; the best goes on to subsamples eight times larger and at last to all
rows, where a few Newton passes suffice because the start is already as close as the smaller sample allows.
Where all rows are few they race themselves, and random jumps from the best optimum look for better ones near.
"""

from __future__ import annotations

import math
import time
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from daskmoe.config import LocalFitOptions
from daskmoe.numerics.alignment import canonical_indices
from daskmoe.numerics.coordinates import (
    Block,
    Coordinates,
    Observations,
    coordinates_from,
    moments,
)
from daskmoe.numerics.em import VARIANCE_FLOOR, Runs, em, em_statistics, m_step, start_em
from daskmoe.numerics.initialization import starting_runs
from daskmoe.numerics.likelihood import (
    LikelihoodStatistics,
    likelihood_statistics,
    log_likelihood_of,
    penalized,
    scaled,
)
from daskmoe.numerics.newton import NewtonResult, jump, maximize, standard_deviations
from daskmoe.numerics.parameters import FloatArray, LocalEstimate, MoEParameters, Moments
from daskmoe.numerics.priors import Prior, prior_from

Array = NDArray[np.floating[Any]]

# EM passes before each halving of the field, and how many candidates go on to each larger subsample.
_RACE = (8, 8, 16)
_POLISHED = (4, 4, 2)
# Where all rows are few, the likelihood is rugged and passes are cheap: up to four times the starts, raced
# for longer, and more of them polished.
_SMALL_RACE = (16, 16, 32)
_SMALL_POLISHED = 12
_SMALL_STARTS = 4
# From the best of them, random jumps a start, and the passes that each is given.
_JUMPS = 2
_JUMP_PASSES = 60
# Subsamples are copies: together with their share of the rows this bounds the memory of a fit.
_GROWTH = 8
_LARGEST_SHARE = 1 / 8
# In nats a row. On a subsample, precision beyond its own sampling error is wasted.
_SUBSAMPLE_TOLERANCE = 2e-4
_SUBSAMPLE_PASSES = 24


class Problem(NamedTuple):
    """Rows, the coordinates they are fitted in, and the prior."""

    rows: Observations
    coordinates: Coordinates
    prior: Prior

    def statistics(self, parameters: MoEParameters) -> LikelihoodStatistics:
        """Penalized log-likelihood with derivatives, one pass."""
        blocks = self.rows.blocks(self.coordinates)
        raw = likelihood_statistics(parameters, blocks, precision=np.float32)
        return penalized(raw, parameters, self.prior)

    def slope(self, parameters: MoEParameters) -> LikelihoodStatistics:
        """The same without the matrices, a quarter of the work."""
        blocks = self.rows.blocks(self.coordinates)
        raw = likelihood_statistics(parameters, blocks, second_order=False)
        return penalized(raw, parameters, self.prior)

    def objective(self, parameters: MoEParameters) -> float:
        """Penalized log-likelihood alone."""
        value = log_likelihood_of(parameters, self.rows.blocks(self.coordinates))
        return value - float(self.prior.penalty(*parameters))

    def subsample(self, index: NDArray[np.intp]) -> Problem:
        """The same problem on some of the rows."""
        return self._replace(rows=self.rows.take(index))


class Candidate(NamedTuple):
    """Where an ascent may start, with statistics of a sample of the rows ``nearby``, if there are."""

    parameters: MoEParameters
    nearby: LikelihoodStatistics | None = None


def fit_local_estimate(
    rows: Observations,
    options: LocalFitOptions,
    rng: np.random.Generator,
    row_moments: Moments | None = None,
) -> LocalEstimate:
    """Fit one partition.

    Parameters
    ----------
    rows : Observations
        n rows, n > 0; finite values, weights not negative with a positive sum.
    options : LocalFitOptions
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
        result, starts = _search(problem, options, rng)
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
        iterations=result.passes,
        converged=result.converged,
        start_log_likelihoods=starts - np.log(coordinates.scale),
        expert_weights=mass[order],
        seconds=time.perf_counter() - began,
        status="ok" if result.converged else "not converged",
    )


def _single_expert(problem: Problem) -> NewtonResult:
    """K = 1: weighted least squares, minimum-norm in whitened coordinates, maximum-likelihood variance."""
    q = problem.coordinates.size
    start = Runs(np.zeros((1, 1, q)), np.zeros((1, 1, q)), np.ones((1, 1)))
    fitted = start
    # The second solve removes the rounding of the single-precision Gram matrix of the first.
    for _ in range(3):
        statistics = em_statistics(fitted, problem.rows.blocks(problem.coordinates))
        fitted = m_step(fitted, statistics, problem.prior, np.zeros(1))
    variance = (statistics.squares / statistics.mass).clip(VARIANCE_FLOOR)
    parameters = MoEParameters(fitted.gate[0], fitted.coef[0], variance[0])
    return NewtonResult(parameters, problem.objective(parameters), 4, True)


def _search(
    problem: Problem, options: LocalFitOptions, rng: np.random.Generator
) -> tuple[NewtonResult, FloatArray]:
    """Race, polish and grow; returns the optimum on all rows and what each start reached on the subsample."""
    n = problem.rows.n_rows
    sizes = _sample_sizes(n, options.start_rows)
    if len(sizes) == 1:
        first = problem
        n_init = options.n_init * min(max(round(2 * options.start_rows / n), 1), _SMALL_STARTS)
        candidates, reached = _race(problem, options.n_experts, n_init, _SMALL_RACE, _SMALL_POLISHED, rng)
    else:
        first = problem.subsample(_draw(rng, n, sizes[0]))
        candidates, reached = _race(first, options.n_experts, options.n_init, _RACE, _POLISHED[0], rng)
    for level, size in enumerate(sizes[:-1]):
        stage = first if level == 0 else problem.subsample(_draw(rng, n, size))
        candidates = _advance(stage, candidates, _POLISHED[min(level + 1, 2)])
    best = _polish(problem, candidates, options.tolerance, options.max_passes)[0]
    if len(sizes) == 1:
        best = _explore(problem, best, options, rng)
    return best, reached / first.rows.total_weight


def _advance(stage: Problem, candidates: list[Candidate], kept: int) -> list[Candidate]:
    """The best ``kept`` distinct candidates after a few Newton passes on the rows of ``stage``."""
    results = _polish(stage, candidates, _SUBSAMPLE_TOLERANCE, _SUBSAMPLE_PASSES)
    close = _SUBSAMPLE_TOLERANCE * stage.rows.total_weight
    return [Candidate(result.parameters, result.statistics) for result in _distinct(results, close)[:kept]]


def _explore(
    problem: Problem, best: NewtonResult, options: LocalFitOptions, rng: np.random.Generator
) -> NewtonResult:
    """Newton from random points a few standard errors around the best optimum so far.

    The optima of a small sample lie in clusters, and starts seldom tell the members of one apart.
    """
    scale = standard_deviations(problem.statistics(best.parameters))
    for _ in range(_JUMPS * options.n_init):
        if scale is None:
            break
        start = jump(best.parameters, scale, rng)
        found = _polish(problem, [Candidate(start)], options.tolerance, _JUMP_PASSES)[0]
        if found.objective > best.objective:
            scale = standard_deviations(problem.statistics(found.parameters))
            best = found
    return best


def _sample_sizes(n: int, start_rows: int) -> list[int]:
    """Growing subsample sizes, the last one all rows."""
    if 2 * start_rows >= n:
        return [n]
    largest = int(_LARGEST_SHARE * n)
    if largest <= start_rows:
        return [start_rows, n]
    levels = math.ceil(math.log(largest / start_rows) / math.log(_GROWTH))
    growing = np.geomspace(start_rows, largest, levels + 1).round().astype(int).tolist()
    return [*growing, n]


def _draw(rng: np.random.Generator, n: int, size: int) -> NDArray[np.intp]:
    return np.sort(rng.choice(n, size, replace=False, shuffle=False))


def _distinct(results: list[NewtonResult], close: float) -> list[NewtonResult]:
    """Results, best first, without those that ended where a better one did, told by their objective."""
    kept: list[NewtonResult] = []
    for result in results:
        if all(other.objective - result.objective > close for other in kept):
            kept.append(result)
    return kept


def _polish(
    problem: Problem, candidates: list[Candidate], tolerance: float, max_passes: int
) -> list[NewtonResult]:
    """Newton from every candidate, best objective first."""
    weight = problem.rows.total_weight
    results = [
        maximize(
            candidate.parameters,
            problem.statistics,
            problem.objective,
            problem.slope,
            tolerance=tolerance * weight,
            max_passes=max_passes,
            nearby=None if candidate.nearby is None else scaled(candidate.nearby, weight),
        )
        for candidate in candidates
    ]
    return sorted(results, key=lambda r: -r.objective)


def _race(
    problem: Problem,
    n_experts: int,
    n_init: int,
    race: tuple[int, ...],
    kept: int,
    rng: np.random.Generator,
) -> tuple[list[Candidate], FloatArray]:
    """EM on the subsample from all starts at once: the survivors, best first, and all log-likelihoods."""
    blocks = [Block(b.design.copy(), b.response, b.weight) for b in problem.rows.blocks(problem.coordinates)]
    design = np.concatenate([b.design for b in blocks], axis=1)
    response = np.concatenate([b.response for b in blocks])
    weight = None if problem.rows.weight is None else problem.rows.weight.astype(np.float64)
    runs = starting_runs(design, response, weight, n_experts, n_init, problem.prior, rng)
    state = start_em(runs, blocks, problem.prior)
    reached = np.empty(n_init)
    alive = np.arange(n_init)
    close = _SUBSAMPLE_TOLERANCE * problem.rows.total_weight
    for passes in race:
        state = em(state, blocks, problem.prior, passes)
        reached[alive] = state.statistics.log_likelihood
        best = np.argsort(-state.objective, kind="stable")
        best = best[: max(kept, (len(best) + 1) // 2)]
        best = best[np.append(True, np.diff(-state.objective[best]) > close)]
        state, alive = state.take(best), alive[best]
    runs = state.runs.take(slice(kept))
    return [Candidate(MoEParameters(*(a[i] for a in runs))) for i in range(len(runs.gate))], reached

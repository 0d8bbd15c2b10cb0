"""Refinement rounds: likelihood statistics of a partition, and the global step made from their sum.

Pure NumPy/SciPy. A round evaluates the log-likelihood, gradient and observed information of all rows at a
trial point; the statistics of an accepted trial are those of the next step, so a round is one pass. Steps are
those of `newton`, with the prior of all rows, so the optimum does not depend on how the rows are partitioned.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import solve_triangular

from daskmoe.numerics.base.coordinates import Coordinates
from daskmoe.numerics.base.observations import Observations
from daskmoe.numerics.base.parameters import FloatArray, MoEParameters
from daskmoe.numerics.likelihood.priors import Prior
from daskmoe.numerics.likelihood.statistics import LikelihoodStatistics, likelihood_statistics, penalized
from daskmoe.numerics.local.newton import NewtonState, bounded, damped_step, next_damping, shift

# Converged when the next step would gain less: in nats a row, and in all (an error of 0.014 standard errors).
_GAIN_PER_ROW = 1e-9
_GAIN = 1e-4
# At a saddle: the step along the direction of most negative curvature, and what counts as negative, both in
# the scale in which the complete-data information of a row has a unit diagonal.
_SADDLE_STEP = 0.5
_SADDLE_CURVATURE = 1e-6
# Of the complete data's, the least curvature that a step trusts where the objective is not concave.
_LEAST_CURVATURE = 0.03
# In nats a row: where more is to be gained, the eigenvalues' signs say little about the way.
_NEAR = 1e-2


class PackedStatistics(NamedTuple):
    """`LikelihoodStatistics` without what symmetry and structure repeat: under (P + 1)^2 numbers.

    Attributes
    ----------
    value, weight : float
    gradient : ndarray of shape (P,)
    information : ndarray of shape (P (P + 1) / 2,)
    complete : ndarray
        The entries of the complete-data information that are not zero by structure.
    scores : ndarray of shape (P (P + 1) / 2,) or None
        Of the score products; in single precision from a partition, as their terms are.
    """

    value: float
    weight: float
    gradient: FloatArray
    information: FloatArray
    complete: FloatArray
    scores: NDArray[np.floating[Any]] | None


class RoundInfo(NamedTuple):
    """What a human wants to know of a round.

    Attributes
    ----------
    log_likelihood, objective : float
        At the trial point: plain and penalized.
    damping : float
        0 for a Newton step, 1 for a step of EM.
    step : float
        Largest change of a parameter, in the whitened coordinates.
    accepted : bool
    """

    log_likelihood: float
    objective: float
    damping: float
    step: float
    accepted: bool


class RefinementState(NamedTuple):
    """Accepted parameters (whitened) with their statistics, and the trial that the next round evaluates.

    Attributes
    ----------
    accepted : NewtonState or None
        None before the first round.
    trial : MoEParameters
    damping, predicted : float
        Of the step that led to the trial.
    floor : float
        Least curvature of that step, if it was free of saddles (`damping` is what it would have needed
        otherwise); else 0.
    converged : bool
        The accepted parameters are at a maximum.
    stopped : bool
        No further round would gain anything: converged, or held up by rounding.
    """

    accepted: NewtonState | None
    trial: MoEParameters
    damping: float
    predicted: float
    floor: float
    converged: bool
    stopped: bool


def round_statistics(
    rows: Observations, parameters: MoEParameters, coordinates: Coordinates, *, scores: bool = False
) -> PackedStatistics:
    """A partition's part of a round, at parameters in the data's units."""
    inner = coordinates.from_data(parameters)
    # The information only scales steps and, to a relative 1e-5, standard errors, not the optimum.
    full = likelihood_statistics(inner, rows.blocks(coordinates), precision=np.float32, scores=scores)
    upper, structure = _positions(parameters.n_experts, coordinates.size)
    return PackedStatistics(
        full.value,
        full.weight,
        full.gradient,
        full.information[upper],
        full.complete[structure],
        None if full.scores is None else full.scores[upper].astype(np.float32),
    )


def partition_scores(rows: Observations, parameters: MoEParameters, coordinates: Coordinates) -> FloatArray:
    """A partition's part of the score products alone, at parameters in the data's units."""
    blocks = rows.blocks(coordinates)
    inner = coordinates.from_data(parameters)
    sums = likelihood_statistics(inner, blocks, precision=np.float32, second_order=False, scores=True)
    assert sums.scores is not None
    return sums.scores


def add_statistics(first: PackedStatistics, second: PackedStatistics) -> PackedStatistics:
    """Statistics of the union of two sets of rows."""
    scores = None
    if first.scores is not None and second.scores is not None:
        scores = np.add(first.scores, second.scores, dtype=np.float64)
    return PackedStatistics(
        first.value + second.value,
        first.weight + second.weight,
        first.gradient + second.gradient,
        first.information + second.information,
        first.complete + second.complete,
        scores,
    )


def unpack_statistics(packed: PackedStatistics, n_experts: int, q: int) -> LikelihoodStatistics:
    """The matrices again."""
    size = len(packed.gradient)
    information, complete = np.zeros((2, size, size))
    upper, structure = _positions(n_experts, q)
    information[upper] = packed.information
    information.T[upper] = packed.information
    complete[structure] = packed.complete
    complete.T[structure] = packed.complete
    scores = None if packed.scores is None else np.zeros((size, size))
    if scores is not None:
        scores[upper] = packed.scores
        scores.T[upper] = packed.scores
    return LikelihoodStatistics(
        packed.value, packed.gradient, information, complete, packed.weight, scores=scores
    )


@lru_cache(maxsize=32)
def _positions(n_experts: int, q: int) -> tuple[tuple[NDArray[np.intp], ...], tuple[NDArray[np.intp], ...]]:
    """Upper triangle, and its part where the complete-data information is not zero by structure."""
    gates, size = (n_experts - 1) * q, (2 * n_experts - 1) * q
    block = np.concatenate(
        [np.zeros(gates), 1 + np.repeat(np.arange(n_experts), q), 1 + n_experts + np.arange(n_experts)]
    )
    upper = np.triu(np.ones((size + n_experts, size + n_experts), dtype=bool))
    return np.nonzero(upper), np.nonzero(upper & (block[:, None] == block))


def first_state(parameters: MoEParameters, coordinates: Coordinates) -> RefinementState:
    """The state whose first trial is ``parameters``, in the data's units."""
    return RefinementState(None, coordinates.from_data(parameters), 0.0, 0.0, 0.0, False, False)


def advance(
    state: RefinementState, packed: PackedStatistics, prior: Prior
) -> tuple[RefinementState, RoundInfo]:
    """The state after a round that evaluated ``state.trial``; the objective never falls."""
    n_experts, q = state.trial.gate.shape
    raw = unpack_statistics(packed, n_experts, q)
    statistics = penalized(raw, state.trial, prior)
    before = state.accepted
    damping, floor = state.damping, _LEAST_CURVATURE
    accepted = before is None or statistics.value >= before.statistics.value
    if before is not None:
        actual = statistics.value - before.statistics.value
        # A step that was free of saddles leaves no damping behind where it went well.
        damping = next_damping(0.0 if state.floor and accepted else damping, actual, state.predicted)
        if state.floor and actual > 0.7 * state.predicted:
            floor = 0.3 * state.floor
    if before is None or accepted:
        current = NewtonState(state.trial, statistics, damping)
    else:
        current = before._replace(damping=damping)
    limit = min(_GAIN_PER_ROW * raw.weight, _GAIN)
    stalled = not accepted and state.predicted <= limit
    step, predicted, used = damped_step(current)
    way = _saddle_free_step(current, floor) if used > 0.0 == current.damping else None
    if way is not None and limit < way[1] <= _NEAR * raw.weight:
        step, predicted = way
    elif used > 0.0 and 0.5 * float(current.statistics.gradient @ step) <= limit:
        # So small by damping, or by what called for it: only Newton's own tells which.
        step, predicted, used = damped_step(current._replace(damping=0.0))
    elif used >= 1.0 or predicted <= 0.0:
        # A residual far beyond its variance has more information than the complete data are expected to have.
        used = max(used, 1.0)
        step, predicted = _em_step(current, prior, used)
    converged = predicted <= limit and used == 0.0
    if predicted <= limit and not converged:
        step, predicted = _escape(current, step, predicted)
    if way is None or step is not way[0]:
        floor = 0.0
    info = RoundInfo(raw.value, statistics.value, used, float(np.abs(step).max()), accepted)
    trial = shift(current.parameters, step)
    stopped = converged or stalled or not predicted > limit
    return RefinementState(current, trial, used, predicted, floor, converged, stopped), info


def _saddle_free_step(state: NewtonState, floor: float) -> tuple[FloatArray, float] | None:
    """Newton's step with the absolute values of the information's eigenvalues, and the gain it predicts.

    In the metric of the complete-data information, where all are at most one (Dauphin et al., 2014, equation
    7). Damping would shorten the step in all directions for the sake of the few that are not concave. None
    where that metric, of fewer rows than parameters, is singular.
    """
    _, gradient, observed, complete, *_ = state.statistics
    try:
        root = np.linalg.cholesky(_ridged(complete))
    except np.linalg.LinAlgError:
        return None
    half = solve_triangular(root, observed, lower=True)
    values, vectors = np.linalg.eigh(solve_triangular(root, half.T, lower=True))
    along = vectors.T @ solve_triangular(root, gradient, lower=True)
    along /= np.maximum(np.abs(values), floor)
    step = bounded(solve_triangular(root, vectors @ along, lower=True, trans=1), state.parameters.n_experts)
    return step, float(gradient @ step - 0.5 * step @ observed @ step)


def _em_step(state: NewtonState, prior: Prior, damping: float) -> tuple[FloatArray, float]:
    """A step of EM with the gain of its lower bound; the gates' own step is divided by ``damping``.

    Coefficients and variances are exact conditional maxima, however far they are: the quadratic model of a
    log-variance holds for a change of one or so.
    """
    parameters, (_, gradient, _, complete, *_), _ = state
    n_experts, q = parameters.gate.shape
    free, size = n_experts - 1, (2 * n_experts - 1) * q
    step = np.zeros(len(gradient))
    gates = slice(0, free * q)
    if free:
        step[gates] = _solve(complete[gates, gates], gradient[gates]) / damping
    gain = float(gradient[gates] @ step[gates] - 0.5 * step[gates] @ complete[gates, gates] @ step[gates])
    shrinkage = prior.coef_gradient(parameters.coef)
    for k, variance in enumerate(parameters.dispersion):
        rows, own = slice((free + k) * q, (free + k + 1) * q), size + k
        move = step[rows] = _solve(complete[rows, rows], gradient[rows])
        # In units of the variance: the sum of tau r^2 and of tau, with the prior's pseudo-rows.
        mass = max(2.0 * complete[own, own] - prior.variance * (prior.spread / variance - 1.0), 1e-300)
        squares = max(2.0 * gradient[own] + mass, 1e-300)
        gram = complete[rows, rows] - prior.coef_hessian()
        left = squares - 2.0 * move @ (gradient[rows] + shrinkage[k]) + move @ gram @ move
        left = max(float(left), 1e-12 * squares)
        step[own] = np.log(left / mass)
        gain += 0.5 * float(squares - mass - mass * step[own])
    return step, gain


def _solve(matrix: FloatArray, right: FloatArray) -> FloatArray:
    """Solve a symmetric semi-definite system, with a ridge at rounding level."""
    return np.asarray(np.linalg.solve(_ridged(matrix), right))


def _ridged(matrix: FloatArray) -> FloatArray:
    diagonal = np.diag(matrix)
    return matrix + np.diag(1e-10 * diagonal + 1e-14 * diagonal.max() + 1e-300)


def _escape(state: NewtonState, step: FloatArray, predicted: float) -> tuple[FloatArray, float]:
    """A step off a saddle with the gain it predicts; the ``step`` as it is where none is found.

    The gradient vanishes there, as it does where experts are equal, so that neither Newton nor EM moves.
    """
    _, gradient, observed, complete, weight, *_ = state.statistics
    diagonal = np.diag(complete)
    scale = np.sqrt(np.maximum(diagonal, 1e-10 * diagonal.max() + 1e-300))
    values, vectors = np.linalg.eigh(observed / np.outer(scale, scale))
    if values[0] >= -_SADDLE_CURVATURE:
        return step, predicted
    direction = vectors[:, 0] / scale
    size = _SADDLE_STEP * np.sqrt(weight) / (1.0 + 10.0 * state.damping)
    away = size * (direction if gradient @ direction >= 0 else -direction)
    return away, float(gradient @ away - 0.5 * away @ observed @ away)

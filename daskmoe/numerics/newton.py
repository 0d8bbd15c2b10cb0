"""Damped Newton ascent of the penalized log-likelihood.

Pure NumPy. A step solves

    ((1 - d) I_observed + d I_complete) step = gradient,    0 <= d <= 1,

between Newton's step (d = 0) and, in the same parameters, that of EM (d = 1), whose matrix is positive
definite and whose step raises the objective; d > 1 shortens the latter. The damping d grows until the matrix
is positive definite and shrinks while the quadratic model predicts well, as a trust region would (Nocedal and
Wright 2006, section 4.1). A trial is kept only if the objective does not fall, and its statistics are those
of the next step, so an accepted step costs one pass.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy.linalg import LinAlgError, cho_factor, cho_solve

from daskmoe.numerics.likelihood import LikelihoodStatistics, pack_parameters, unpack_parameters
from daskmoe.numerics.parameters import FloatArray, MoEParameters

Evaluate = Callable[[MoEParameters], LikelihoodStatistics]
Value = Callable[[MoEParameters], float]
Slope = Callable[[MoEParameters], tuple[float, FloatArray]]

_LARGEST_LOG_VARIANCE_STEP = 2.0
_FIRST_DAMPING = 0.05
_JUMP = 3.0
# Products in single precision can leave a semi-definite matrix this far below zero.
_RIDGE = 1e-5
_SMALLEST_DAMPING = 1e-3
# Predicted gain a row, in nats, below which an earlier point's information will do; the share of a gain that
# the next one may have left; and the error that the last step may leave, in units of the tolerance.
_NEAR = 1e-4
_CONTRACTION = 1e-2
_REMAINDER = 1e-6
# EM's step gaining less than this share of the tolerance is as stationary as rounding lets a point be.
_NEGLIGIBLE = 1e-3


class NewtonState(NamedTuple):
    """What the next step needs: parameters, penalized statistics there, damping."""

    parameters: MoEParameters
    statistics: LikelihoodStatistics
    damping: float


class NewtonResult(NamedTuple):
    """Final ``state``, the ``objective`` reached, ``passes`` over the rows, and whether it ``converged``."""

    parameters: MoEParameters
    objective: float
    passes: int
    converged: bool


def damped_step(state: NewtonState) -> tuple[FloatArray, float, float]:
    """Step (P,), the gain that the quadratic model predicts, and the damping that made it well defined."""
    _, gradient, observed, complete, _ = state.statistics
    diagonal = np.diag(complete)
    scale = np.sqrt(np.maximum(diagonal, 1e-10 * diagonal.max() + 1e-300))
    outer = np.outer(scale, scale)
    observed_scaled, complete_scaled = observed / outer, complete / outer
    damping = state.damping
    while True:
        matrix = max(1.0 - damping, 0.0) * observed_scaled + damping * complete_scaled
        try:
            factor = cho_factor(matrix, lower=True)
            break
        except LinAlgError:
            if damping > 0.5:
                complete_scaled[np.diag_indices_from(complete)] += _RIDGE
            damping = max(2.0 * damping, _FIRST_DAMPING)
    step = cho_solve(factor, gradient / scale) / scale
    step = _bounded(step, state.parameters.n_experts)
    predicted = float(gradient @ step - 0.5 * step @ observed @ step)
    return step, predicted, damping


def _bounded(step: FloatArray, n_experts: int) -> FloatArray:
    largest = float(np.abs(step[-n_experts:]).max())
    return step * min(1.0, _LARGEST_LOG_VARIANCE_STEP / max(largest, 1e-300))


def standard_deviations(statistics: LikelihoodStatistics) -> FloatArray | None:
    """Root (P, P) of the inverse information; None where that is not positive definite."""
    try:
        return np.asarray(np.linalg.inv(np.linalg.cholesky(statistics.information)).T)
    except np.linalg.LinAlgError:
        return None


def jump(parameters: MoEParameters, deviations: FloatArray, rng: np.random.Generator) -> MoEParameters:
    """A random point `_JUMP` standard errors away in every direction."""
    step = deviations @ (_JUMP * rng.standard_normal(len(deviations)))
    return shift(parameters, _bounded(step, parameters.n_experts))


def shift(parameters: MoEParameters, step: FloatArray) -> MoEParameters:
    """Parameters moved by a step of the packed vector."""
    return unpack_parameters(pack_parameters(parameters) + step, parameters.n_experts)


def next_damping(damping: float, actual: float, predicted: float) -> float:
    """Less damping after a well predicted gain, more after a poor one."""
    if not actual >= 0:
        return max(3.0 * damping, _FIRST_DAMPING)
    ratio = actual / predicted if predicted > 0 else 0.0
    if ratio < 0.25:
        return max(1.5 * damping, _FIRST_DAMPING)
    if ratio > 0.7:
        damping *= 0.3
    return damping if damping > _SMALLEST_DAMPING else 0.0


def maximize(
    parameters: MoEParameters,
    evaluate: Evaluate,
    value: Value,
    *,
    tolerance: float,
    max_passes: int,
    slope: Slope | None = None,
) -> NewtonResult:
    """Ascend from ``parameters`` until the predicted gain falls under ``tolerance`` (log-likelihood units).

    The last step, whose gain is already negligible, is only checked by ``value``: no derivatives are needed
    after it. Where ``slope`` is given, steps near the optimum keep the information of an earlier point for as
    long as each leaves a hundredth of the gain before it or less.
    """
    state = NewtonState(parameters, evaluate(parameters), 0.0)
    passes, stale, before = 1, False, np.inf
    while passes < max_passes:
        step, predicted, damping = damped_step(state)
        trial = shift(state.parameters, step)
        # What a step leaves of the predicted gain: next to nothing if the information is that of its start.
        share = predicted / before if stale else 0.0
        if predicted <= tolerance and damping == 0.0 and share * predicted <= _REMAINDER * tolerance:
            return _finish(state, trial, value, passes + 1)
        if damping >= 1.0 and 0 <= damping * predicted <= _NEGLIGIBLE * tolerance:
            return NewtonResult(state.parameters, state.statistics.value, passes, True)
        near = damping == 0.0 and predicted <= _NEAR * state.statistics.weight and share <= _CONTRACTION
        if slope is not None and near:
            objective, gradient = slope(trial)
            statistics = state.statistics._replace(value=objective, gradient=gradient)
        else:
            statistics = evaluate(trial)
        passes += 1
        actual = statistics.value - state.statistics.value
        damping = next_damping(damping, actual, predicted)
        if actual >= 0:
            state = NewtonState(trial, statistics, damping)
            stale, before = slope is not None and near, predicted
        elif predicted <= tolerance:
            # Steps shorter than EM's gain little anywhere: that says nothing about the gradient.
            return NewtonResult(state.parameters, state.statistics.value, passes, damping <= 1.0)
        else:
            state = state._replace(damping=damping)
    return NewtonResult(state.parameters, state.statistics.value, passes, False)


def _finish(state: NewtonState, trial: MoEParameters, value: Value, passes: int) -> NewtonResult:
    objective = value(trial)
    if objective >= state.statistics.value:
        return NewtonResult(trial, objective, passes, True)
    return NewtonResult(state.parameters, state.statistics.value, passes, True)

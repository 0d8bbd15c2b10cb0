"""Damped Newton ascent of the penalized log-likelihood.

Pure NumPy. A step solves (information + damping D) step = gradient with a positive diagonal D, the damping
grown until the matrix is positive definite and shrunk while the quadratic model predicts well
(Levenberg-Marquardt as a trust region, Nocedal and Wright 2006, section 4.3). A trial is kept only if the
objective does not fall, and its statistics are those of the next step, so an accepted step costs one pass.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy.linalg import LinAlgError, cho_factor, cho_solve, eigvalsh

from daskmoe.numerics.likelihood import LikelihoodStatistics, pack_parameters, unpack_parameters
from daskmoe.numerics.parameters import FloatArray, MoEParameters

Evaluate = Callable[[MoEParameters], LikelihoodStatistics]
Value = Callable[[MoEParameters], float]

_LARGEST_LOG_VARIANCE_STEP = 2.0
_SMALLEST_DAMPING = 1e-6


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
    gradient, information = state.statistics.gradient, state.statistics.information
    diagonal = np.abs(np.diag(information))
    scale = np.sqrt(np.maximum(diagonal, 1e-6 * diagonal.mean() + 1e-300))
    scaled = information / np.outer(scale, scale)
    damping = state.damping
    while True:
        try:
            factor = cho_factor(scaled + damping * np.eye(len(scaled)), lower=True)
            break
        except LinAlgError:
            lowest = float(eigvalsh(scaled, subset_by_index=[0, 0])[0])
            damping = max(10.0 * damping, 1e-3, -1.2 * lowest)
    step = cho_solve(factor, gradient / scale) / scale
    largest = float(np.abs(step[-state.parameters.n_experts :]).max())
    step *= min(1.0, _LARGEST_LOG_VARIANCE_STEP / max(largest, 1e-300))
    predicted = float(gradient @ step - 0.5 * step @ information @ step)
    return step, predicted, damping


def shift(parameters: MoEParameters, step: FloatArray) -> MoEParameters:
    """Parameters moved by a step of the packed vector."""
    return unpack_parameters(pack_parameters(parameters) + step, parameters.n_experts)


def next_damping(damping: float, actual: float, predicted: float) -> float:
    """Less damping after a well predicted gain, more after a poor one."""
    ratio = actual / predicted if predicted > 0 else -1.0
    if actual < 0 or not np.isfinite(actual):
        return max(8.0 * damping, 1e-2)
    if ratio < 0.25:
        return max(4.0 * damping, 1e-3)
    if ratio > 0.7:
        damping *= 0.1
    return damping if damping > _SMALLEST_DAMPING else 0.0


def maximize(
    parameters: MoEParameters, evaluate: Evaluate, value: Value, *, tolerance: float, max_passes: int
) -> NewtonResult:
    """Ascend from ``parameters`` until the predicted gain falls under ``tolerance`` (log-likelihood units).

    The last step, whose gain is already negligible, is only checked by ``value``: no derivatives are needed
    after it.
    """
    state = NewtonState(parameters, evaluate(parameters), 0.0)
    passes = 1
    while passes < max_passes:
        step, predicted, damping = damped_step(state)
        trial = shift(state.parameters, step)
        if predicted <= tolerance and damping <= _SMALLEST_DAMPING:
            objective = value(trial)
            if objective >= state.statistics.value:
                return NewtonResult(trial, objective, passes + 1, True)
            return NewtonResult(state.parameters, state.statistics.value, passes + 1, True)
        statistics = evaluate(trial)
        passes += 1
        actual = statistics.value - state.statistics.value
        damping = next_damping(damping, actual, predicted)
        if actual >= 0:
            state = NewtonState(trial, statistics, damping)
        elif predicted <= tolerance:
            return NewtonResult(state.parameters, state.statistics.value, passes, True)
        else:
            state = state._replace(damping=damping)
    return NewtonResult(state.parameters, state.statistics.value, passes, False)

"""The softmax gating network and its fit to soft targets.

Pure NumPy/SciPy. With u = [1, x], gating weights A_k and targets T that sum to one, the fit is the convex
problem

    maximize  sum_s sum_k T_k(s) log pi_k(x_s) - (c / 2) sum_k E[(u'(A_k - mean A))^2],     pi = softmax(A u),

solved by damped Newton from zero: started elsewhere it can stop at once on saturated probabilities. The
penalty's expectation is over the targets' mass. It keeps the network of separable targets finite, is too weak
for any other to feel, and knows neither units nor the order of the experts.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import scipy
from numpy.typing import NDArray

from daskmoe.numerics.base.parameters import FloatArray
from daskmoe.numerics.base.policies import GATING
from daskmoe.numerics.predictive.mixture import log_softmax


def fit_gating(design: FloatArray, targets: FloatArray) -> FloatArray:
    """Softmax regression of soft targets on the rows of a design.

    Parameters
    ----------
    design : ndarray of shape (q, S)
        Rows [1, u], best whitened.
    targets : ndarray of shape (K, S)
        T_k(s) >= 0; rows weigh by their sums over k.

    Returns
    -------
    ndarray of shape (K, q)
        Gating weights, the last row zero.
    """
    return fit_partial_gating(design, targets[None], np.ones((1, len(targets)), dtype=bool))


def fit_partial_gating(design: FloatArray, targets: FloatArray, known: NDArray[np.bool_]) -> FloatArray:
    """Softmax regression of soft targets of several groups, each of which knows some of the experts only.

    A group g says how its mass divides among the experts it knows and nothing about the others: its part of
    the objective is sum_s sum_k T_gk(s) log (pi_k(x_s) / sum_j known_gj pi_j(x_s)).

    Parameters
    ----------
    design : ndarray of shape (q, S)
    targets : ndarray of shape (G, K, S)
        Zero for experts that are not known.
    known : ndarray of bool, shape (G, K)

    Returns
    -------
    ndarray of shape (K, q)
        Gating weights, the last row zero.
    """
    n_experts, q = known.shape[1], len(design)
    gate = np.zeros((n_experts, q))
    if n_experts == 1:
        return gate
    problem = _problem(design, targets, known)
    value, damping = problem.value(gate), 0.0
    for _ in range(GATING.max_steps):
        gradient, information = problem.slopes(gate)
        step, damping = _step(information, gradient, damping)
        trial = gate.copy()
        trial[:-1] += step.reshape(n_experts - 1, q)
        trial_value = problem.value(trial)
        if not trial_value >= value:
            if gradient @ step < GATING.tolerance:
                break
            damping = GATING.damping.after(damping, -1.0, 0.0)
            continue
        gain, value, gate = trial_value - value, trial_value, trial
        damping = GATING.damping.after(damping, gain, gain)
        if gain < GATING.tolerance and gradient @ step < GATING.tolerance:
            break
    return gate


class _Problem(NamedTuple):
    """What is maximized: targets of unit mass, their rows, and the penalty's matrix."""

    # (q, S)
    design: FloatArray
    # (G, K, S), and their sums over k (G, S).
    targets: FloatArray
    mass: FloatArray
    # (G, K)
    known: NDArray[np.bool_]
    # (q, q): The penalty's strength times the second moment of [1, u].
    metric: FloatArray

    def value(self, gate: FloatArray) -> float:
        """The objective."""
        logits = gate @ self.design
        fit = sum(
            float(np.sum(target[part] * _log_gates(logits, part)[part]))
            for target, part in zip(self.targets, self.known, strict=True)
        )
        centred = gate - gate.mean(axis=0)
        return fit - 0.5 * float(np.sum((centred @ self.metric) * centred))

    def slopes(self, gate: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Its gradient and information, of the weights of all experts but the last."""
        free = len(gate) - 1
        gradient = (gate.mean(axis=0) - gate) @ self.metric
        information = np.kron(np.eye(free) - 1.0 / len(gate), self.metric)
        for part, target, weight in zip(self.known, self.targets, self.mass, strict=True):
            gates = np.exp(_log_gates(gate @ self.design, part))
            gradient += (target - weight * gates) @ self.design.T
            information += gating_information(gates * np.sqrt(weight), np.sqrt(weight), self.design)
        return gradient[:-1].ravel(), np.asarray(information, dtype=np.float64)


def _problem(design: FloatArray, targets: FloatArray, known: NDArray[np.bool_]) -> _Problem:
    targets = targets / targets.sum()
    mass = targets.sum(axis=1)
    return _Problem(design, targets, mass, known, GATING.penalty * (design * mass.sum(axis=0)) @ design.T)


def gating_information(root_gates: FloatArray, root_mass: FloatArray, design: FloatArray) -> FloatArray:
    """sum_s mass_s pi_k (1[k = l] - pi_l) u u' for k, l < K, as a matrix of size (K - 1) q.

    ``root_gates`` is pi times the square root of the mass, ``root_mass`` that square root.
    """
    free, q = len(root_gates) - 1, len(design)
    out = np.empty((free, q, free, q))
    for k in range(free):
        for m in range(k, free):
            weight = -root_gates[k] * root_gates[m]
            if k == m:
                weight = weight + root_gates[k] * root_mass
            block = (design * weight) @ design.T
            out[k, :, m, :] = block
            out[m, :, k, :] = block
    return out.reshape(free * q, free * q)


def _log_gates(logits: FloatArray, known: NDArray[np.bool_]) -> FloatArray:
    """Log-probabilities among the known experts, minus infinity for the others."""
    return log_softmax(np.where(known[:, None], logits, -np.inf))


def _step(information: FloatArray, gradient: FloatArray, damping: float) -> tuple[FloatArray, float]:
    """Damped Newton step; the tiny ridge only matters where all probabilities are saturated."""
    scale = np.diag(information).mean() + np.finfo(float).tiny
    while True:
        try:
            matrix = information + (damping + GATING.ridge) * scale * np.eye(len(information))
            return scipy.linalg.cho_solve(scipy.linalg.cho_factor(matrix, lower=True), gradient), damping
        except np.linalg.LinAlgError:
            damping = max(GATING.damping.falls * damping, 1e-8)

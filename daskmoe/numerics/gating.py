"""The softmax gating network and its fit to soft targets.

Pure NumPy. The fit is the convex problem

    maximize  sum_s sum_k T_k(s) log pi_k(x_s),     pi(x) = softmax(gate @ [1, x]),

solved by damped Newton from zero: started elsewhere it can stop at once on saturated probabilities.
"""

from __future__ import annotations

import numpy as np
from scipy.linalg import LinAlgError, cho_factor, cho_solve

from daskmoe.numerics.mixture import log_softmax
from daskmoe.numerics.parameters import FloatArray

_RIDGE = 1e-10
_TOLERANCE = 1e-13
_MAX_STEPS = 200


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
    n_experts, q = len(targets), len(design)
    gate = np.zeros((n_experts, q))
    if n_experts == 1:
        return gate
    mass = targets.sum(axis=0)
    targets, mass = targets / mass.sum(), mass / mass.sum()
    value, damping = _objective(gate, design, targets), 0.0
    for _ in range(_MAX_STEPS):
        gates = np.exp(log_softmax(gate @ design))
        gradient = ((targets - mass * gates) @ design.T)[:-1].ravel()
        information = gating_information(gates * np.sqrt(mass), np.sqrt(mass), design)
        step, damping = _step(information, gradient, damping)
        trial = gate.copy()
        trial[:-1] += step.reshape(n_experts - 1, q)
        trial_value = _objective(trial, design, targets)
        if not trial_value >= value:
            if gradient @ step < _TOLERANCE:
                break
            damping = max(8.0 * damping, 1e-4)
            continue
        gain, value, gate = trial_value - value, trial_value, trial
        damping = damping / 8.0 if damping > 1e-12 else 0.0
        if gain < _TOLERANCE and gradient @ step < _TOLERANCE:
            break
    return gate


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


def _objective(gate: FloatArray, design: FloatArray, targets: FloatArray) -> float:
    return float(np.sum(targets * log_softmax(gate @ design)))


def _step(information: FloatArray, gradient: FloatArray, damping: float) -> tuple[FloatArray, float]:
    """Damped Newton step; the tiny ridge only matters where all probabilities are saturated."""
    scale = np.diag(information).mean() + np.finfo(float).tiny
    while True:
        try:
            matrix = information + (damping + _RIDGE) * scale * np.eye(len(information))
            return cho_solve(cho_factor(matrix, lower=True), gradient), damping
        except LinAlgError:
            damping = max(8.0 * damping, 1e-8)

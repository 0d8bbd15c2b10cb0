"""The softmax gating network and its fit to soft targets.

Pure NumPy/SciPy. The fit is the convex problem

    maximize  sum_s sum_k T_k(s) log pi_k(x_s),     pi(x) = softmax(gate @ [1, x]),

solved by damped Newton from zero: started elsewhere it can stop at once on saturated probabilities.
"""

from __future__ import annotations

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
    targets = targets / targets.sum()
    mass = targets.sum(axis=1)
    value, damping = _objective(gate, design, targets, known), 0.0
    for _ in range(GATING.max_steps):
        gradient, information = np.zeros((n_experts, q)), np.zeros(((n_experts - 1) * q,) * 2)
        for part, target, weight in zip(known, targets, mass, strict=True):
            gates = np.exp(_log_gates(gate @ design, part))
            gradient += (target - weight * gates) @ design.T
            information += gating_information(gates * np.sqrt(weight), np.sqrt(weight), design)
        free = gradient[:-1].ravel()
        step, damping = _step(information, free, damping)
        trial = gate.copy()
        trial[:-1] += step.reshape(n_experts - 1, q)
        trial_value = _objective(trial, design, targets, known)
        if not trial_value >= value:
            if free @ step < GATING.tolerance:
                break
            damping = GATING.damping.after(damping, -1.0, 0.0)
            continue
        gain, value, gate = trial_value - value, trial_value, trial
        damping = GATING.damping.after(damping, gain, gain)
        if gain < GATING.tolerance and free @ step < GATING.tolerance:
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


def _log_gates(logits: FloatArray, known: NDArray[np.bool_]) -> FloatArray:
    """Log-probabilities among the known experts, minus infinity for the others."""
    return log_softmax(np.where(known[:, None], logits, -np.inf))


def _objective(gate: FloatArray, design: FloatArray, targets: FloatArray, known: NDArray[np.bool_]) -> float:
    logits = gate @ design
    return sum(
        float(np.sum(target[part] * _log_gates(logits, part)[part]))
        for target, part in zip(targets, known, strict=True)
    )


def _step(information: FloatArray, gradient: FloatArray, damping: float) -> tuple[FloatArray, float]:
    """Damped Newton step; the tiny ridge only matters where all probabilities are saturated."""
    scale = np.diag(information).mean() + np.finfo(float).tiny
    while True:
        try:
            matrix = information + (damping + GATING.ridge) * scale * np.eye(len(information))
            return scipy.linalg.cho_solve(scipy.linalg.cho_factor(matrix, lower=True), gradient), damping
        except np.linalg.LinAlgError:
            damping = max(GATING.damping.falls * damping, 1e-8)

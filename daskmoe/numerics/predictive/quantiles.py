"""Quantiles of the predictive mixture f(y|x) = sum_k pi_k(x) N(y; mu_k(x), sigma_k^2).

Pure NumPy/SciPy. Rows come as ``features`` of shape (n, p); arrays over experts are (K, n).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.special import ndtr, ndtri

from daskmoe.numerics.base.parameters import FloatArray, Mixture
from daskmoe.numerics.predictive.mixture import Features, linear_predictor, log_gating

# Each step halves the bracket or the step before; fewer than ten are usual.
MAX_STEPS = 200
TOLERANCE = 1e-13


def mixture_quantiles(parameters: Mixture, features: Features, probabilities: Sequence[float]) -> FloatArray:
    """Solve F(y|x) = P for y for every probability P and every row, shape (len(probabilities), n).

    F(y|x) = sum_k pi_k(x) Phi((y - mu_k(x)) / sigma_k). The smallest and the largest of the experts' own
    quantiles at P enclose the solution: below the first no expert has reached P, above the second all have.
    Newton steps are taken where they stay inside and at least halve, else the bracket is bisected. A row's
    result does not depend on the rows beside it.

    Parameters
    ----------
    parameters : MoEParameters or LargeMoE
        A mixture of gaussian experts; ``dispersion`` holds variances.
    features : ndarray of shape (n, p)
    probabilities : sequence of float
        Each strictly between 0 and 1.

    Examples
    --------
    >>> from daskmoe.numerics.parameters import MoEParameters
    >>> model = MoEParameters(np.zeros((1, 1)), np.array([[3.0]]), np.array([4.0]))
    >>> mixture_quantiles(model, np.empty((2, 0)), [0.5])
    array([[3., 3.]])
    """
    gates = np.exp(log_gating(parameters, features))
    means = linear_predictor(parameters.coef, features)
    scale = np.sqrt(parameters.dispersion)
    return np.stack([_solve(gates, means, scale[:, None], probability) for probability in probabilities])


def _solve(gates: FloatArray, means: FloatArray, scale: FloatArray, probability: float) -> FloatArray:
    own = means + scale * ndtri(probability)
    low, high = own.min(axis=0), own.max(axis=0)
    y = low + 0.5 * (high - low)
    last = 0.5 * (high - low)
    for _ in range(MAX_STEPS):
        # Relative to y itself: an expert far away that no row speaks for may have set the bracket.
        tolerance = TOLERANCE * (scale.min() + np.abs(y))
        rows = np.flatnonzero(last > tolerance)
        if rows.size == 0:
            break
        z = (y[rows] - means[:, rows]) / scale
        excess = np.sum(gates[:, rows] * ndtr(z), axis=0) - probability
        low[rows] = np.where(excess < 0, y[rows], low[rows])
        high[rows] = np.where(excess < 0, high[rows], y[rows])
        newton = _newton_step(gates[:, rows], z, scale, excess)
        bisection = low[rows] + 0.5 * (high[rows] - low[rows]) - y[rows]
        inside = (y[rows] + newton > low[rows]) & (y[rows] + newton < high[rows])
        # A step below the rounding of y ends on the bracket itself.
        usable = (inside & (np.abs(newton) <= 0.5 * last[rows])) | (np.abs(newton) <= tolerance[rows])
        step = np.where(usable, newton, bisection)
        y[rows] += step
        last[rows] = np.abs(step)
    return np.asarray(y)


def _newton_step(gates: FloatArray, z: FloatArray, scale: FloatArray, excess: FloatArray) -> FloatArray:
    density = np.sum(gates / scale * np.exp(-0.5 * z * z), axis=0) / np.sqrt(2 * np.pi)
    # Where no expert has any density the step is infinite, and not taken.
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        step: FloatArray = -excess / density
    return step

"""Quantiles of the predictive mixture f(y|x) = sum_k pi_k(x) phi_k(y|x).

Pure NumPy. Rows come as ``features`` of shape (n, p); arrays over experts are (K, ..., n).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from daskmoe.numerics.base.parameters import FloatArray, Mixture
from daskmoe.numerics.families import Family
from daskmoe.numerics.predictive.mixture import Features, linear_predictor, log_gating

# Each step halves the bracket or the step before; fewer than ten are usual.
MAX_STEPS = 200
TOLERANCE = 1e-13


def mixture_quantiles(
    parameters: Mixture, family: Family, features: Features, probabilities: Sequence[float]
) -> FloatArray:
    """Solve F(y|x) = P for y for every probability P and every row, shape (len(probabilities), n).

    F(y|x) = sum_k pi_k(x) F_k(y|x). The smallest and the largest of the experts' own quantiles at P enclose
    the solution: below the first no expert has reached P, above the second all have. Newton steps are taken
    where they stay inside and at least halve, else the bracket is bisected. A row's result does not depend on
    the rows beside it.

    Parameters
    ----------
    parameters : MoEParameters or LargeMoE
    family : Family
    features : ndarray of shape (n, p)
    probabilities : sequence of float
        Each strictly between 0 and 1.

    Examples
    --------
    >>> from daskmoe.numerics.base.parameters import MoEParameters
    >>> from daskmoe.numerics.families import get_family
    >>> model = MoEParameters(np.zeros((1, 1)), np.array([[[3.0]]]), np.array([[4.0]]))
    >>> mixture_quantiles(model, get_family("gaussian"), np.empty((2, 0)), [0.5])
    array([[3., 3.]])
    """
    gates = np.exp(log_gating(parameters, features))
    eta = linear_predictor(parameters.coef, features)
    solve = _solve_counts if family.discrete else _solve
    return np.stack([solve(family, gates, eta, parameters.nuisance, p) for p in probabilities])


def row_quantiles(
    parameters: Mixture, family: Family, features: Features, probability: FloatArray
) -> FloatArray:
    """The same for a probability of every row's own, shape (n,), of a family of densities."""
    gates = np.exp(log_gating(parameters, features))
    eta = linear_predictor(parameters.coef, features)
    return _solve(family, gates, eta, parameters.nuisance, probability)


def _solve(
    family: Family,
    gates: FloatArray,
    eta: FloatArray,
    nuisance: FloatArray,
    probability: float | FloatArray,
) -> FloatArray:
    wanted = np.broadcast_to(probability, eta.shape[-1:])
    own = family.quantile(probability, eta, nuisance)
    scale = family.width(eta, nuisance).min(axis=0)
    low, high = own.min(axis=0), own.max(axis=0)
    y = low + 0.5 * (high - low)
    last = 0.5 * (high - low)
    for _ in range(MAX_STEPS):
        # Relative to y itself: an expert far away that no row speaks for may have set the bracket.
        tolerance = TOLERANCE * (scale + np.abs(y))
        rows = np.flatnonzero(last > tolerance)
        if rows.size == 0:
            break
        there, weights = eta[..., rows], gates[:, rows]
        excess = np.sum(weights * family.cdf(y[rows], there, nuisance), axis=0) - wanted[rows]
        low[rows] = np.where(excess < 0, y[rows], low[rows])
        high[rows] = np.where(excess < 0, high[rows], y[rows])
        newton = _newton_step(weights, np.exp(family.log_density(y[rows], there, nuisance)), excess)
        bisection = low[rows] + 0.5 * (high[rows] - low[rows]) - y[rows]
        inside = (y[rows] + newton > low[rows]) & (y[rows] + newton < high[rows])
        # A step below the rounding of y ends on the bracket itself.
        usable = (inside & (np.abs(newton) <= 0.5 * last[rows])) | (np.abs(newton) <= tolerance[rows])
        step = np.where(usable, newton, bisection)
        y[rows] += step
        last[rows] = np.abs(step)
    return np.asarray(y)


def _solve_counts(
    family: Family, gates: FloatArray, eta: FloatArray, nuisance: FloatArray, probability: float
) -> FloatArray:
    """The least whole number y with F(y|x) >= P, by bisection between the experts' own quantiles."""
    own = family.quantile(probability, eta, nuisance)
    low, high = own.min(axis=0), own.max(axis=0)
    for _ in range(MAX_STEPS):
        rows = np.flatnonzero(low < high)
        if rows.size == 0:
            break
        middle = np.floor(low[rows] + 0.5 * (high[rows] - low[rows]))
        reached = np.sum(gates[:, rows] * family.cdf(middle, eta[..., rows], nuisance), axis=0)
        enough = reached >= probability
        high[rows] = np.where(enough, middle, high[rows])
        low[rows] = np.where(enough, low[rows], middle + 1.0)
    return np.asarray(high)


def _newton_step(gates: FloatArray, densities: FloatArray, excess: FloatArray) -> FloatArray:
    # Where no expert has any density the step is infinite, and not taken.
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        step: FloatArray = -excess / np.sum(gates * densities, axis=0)
    return step

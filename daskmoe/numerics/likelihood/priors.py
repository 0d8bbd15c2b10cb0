"""Weak priors that keep the likelihood bounded: a penalty that does not grow with the rows.

With gating weights A_k, expert coefficients B_k and variances sigma_k^2, the penalty is

    (a / 2) sum_k E[(u'(A_k - mean A))^2] + (b / 2 s^2) sum_k E[(u'B_k - m)^2]
        + (c / 2) sum_k (log sigma_k^2 + s0 / sigma_k^2)

where the expectation runs over all rows, m and s^2 are the mean and variance of the response, and s0 is a
share of the variance that one linear regression leaves. Each term weighs a pseudo-row or less, whatever n is.
It is a function of the data's moments only, so affine changes of features or response change nothing, the
experts' order and the gating reference do not matter, and partitions that add up to the same rows have the
same prior. The last term keeps sigma_k^2 above c s0 / (n_k + c), a floor relative to the data. A single
expert needs no prior and has none: K = 1 is weighted least squares.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from daskmoe.numerics.base.coordinates import Coordinates, response_scale
from daskmoe.numerics.base.parameters import FloatArray, Moments

Array = NDArray[np.floating[Any]]

GATE_STRENGTH = 0.1
COEF_STRENGTH = 0.1
VARIANCE_STRENGTH = 1.0

_SPREAD_SHARE = 1e-3
_SPREAD_MINIMUM = 1e-6


class Prior(NamedTuple):
    """The penalty in one set of coordinates.

    Attributes
    ----------
    gate, coef, variance : float
        Strengths a, b / s^2 and c.
    spread : float
        s0, in squared units of the response.
    metric : ndarray of shape (q, q)
        Second moment of [1, u] over all rows: the identity in the coordinates of the same rows.
    location : float
        m, the mean response.
    """

    gate: float
    coef: float
    variance: float
    spread: float
    metric: FloatArray
    location: float

    def penalty(self, gate: Array, coef: Array, variance: Array) -> FloatArray:
        """The penalty of models stacked along leading axes: (..., K, q), (..., K, q), (..., K) give (...)."""
        centered = gate - gate.mean(axis=-2, keepdims=True)
        shifted = self._shifted(coef)
        gates = np.sum((centered @ self.metric) * centered, axis=(-2, -1))
        coefs = np.sum((shifted @ self.metric) * shifted, axis=(-2, -1))
        variances = np.sum(np.log(variance) + self.spread / variance, axis=-1)
        out: FloatArray = 0.5 * (self.gate * gates + self.coef * coefs + self.variance * variances)
        return out

    def gate_gradient(self, gate: Array) -> FloatArray:
        """Gradient of the penalty in the gating weights, shaped like ``gate``."""
        out: FloatArray = self.gate * (gate - gate.mean(axis=-2, keepdims=True)) @ self.metric
        return out

    def coef_gradient(self, coef: Array) -> FloatArray:
        """Gradient of the penalty in the expert coefficients, shaped like ``coef``."""
        out: FloatArray = self.coef * self._shifted(coef) @ self.metric
        return out

    def gate_hessian(self, n_experts: int) -> FloatArray:
        """Hessian in the K - 1 free gating weights, shape (K - 1, K - 1, q, q)."""
        free = np.eye(n_experts - 1) - 1.0 / n_experts
        out: FloatArray = self.gate * free[:, :, None, None] * self.metric
        return out

    def coef_hessian(self) -> FloatArray:
        """Hessian in one expert's coefficients, shape (q, q)."""
        return self.coef * self.metric

    def _shifted(self, coef: Array) -> FloatArray:
        shifted = coef.astype(np.float64)
        shifted[..., 0] -= self.location
        return shifted


def prior_from(moments: Moments, coordinates: Coordinates, n_experts: int) -> Prior:
    """The prior of K experts for all rows with these moments, expressed in ``coordinates``."""
    q = coordinates.size
    total = max(moments.weight, np.finfo(float).tiny)
    covariance = moments.scatter[:-1, :-1] / total
    shift = np.append(1.0, coordinates.transform @ (moments.mean[:-1] - coordinates.center))
    metric = np.outer(shift, shift)
    metric[1:, 1:] += coordinates.transform @ covariance @ coordinates.transform.T
    scale = response_scale(moments) / coordinates.scale
    spread = max(_SPREAD_SHARE * _linear_residual_share(moments), _SPREAD_MINIMUM) * scale**2
    location = (float(moments.mean[-1]) - coordinates.location) / coordinates.scale
    on = float(n_experts > 1)
    return Prior(
        on * GATE_STRENGTH,
        on * COEF_STRENGTH / scale**2,
        on * VARIANCE_STRENGTH,
        spread,
        metric if q > 1 else np.ones((1, 1)),
        location,
    )


def _linear_residual_share(moments: Moments) -> float:
    """Share of the response's variance that one linear regression on all features leaves."""
    variance = moments.scatter[-1, -1]
    if variance <= 0:
        return 0.0
    scale = np.sqrt(np.diag(moments.scatter))
    scale[scale == 0] = 1.0
    correlation = moments.scatter / np.outer(scale, scale)
    fitted = correlation[-1, :-1] @ np.linalg.pinv(correlation[:-1, :-1], rcond=1e-10, hermitian=True)
    return float(np.clip(1.0 - fitted @ correlation[:-1, -1], 0.0, 1.0))

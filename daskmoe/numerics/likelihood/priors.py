"""Weak priors that keep the likelihood bounded: a penalty that does not grow with the rows.

With gating weights A_k, expert coefficients B_kc and nuisances nu_kd, the penalty is

    (a / 2) sum_k E[(u'(A_k - mean A))^2] + (b / 2) sum_kc E[(u'B_kc - m)^2]
        + sum_kd (c_d / 2) (log nu_kd + s_d / nu_kd)

where the expectation runs over all rows. The family gives b, m, c_d and s_d; for gaussian experts b is a
strength over the variance of the response, m its mean, and s_d a share of the variance that one linear
regression leaves. Each term weighs a pseudo-row or less, whatever n is. It is a function of the data's
moments only, so affine changes of features or response change nothing, the experts' order and the gating
reference do not matter, and partitions that add up to the same rows have the same prior. The last term keeps
nu_kd above c s / (n_k + c), a floor relative to the data. A single expert needs no prior and has none: K = 1
is maximum likelihood.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from daskmoe.numerics.base.coordinates import Coordinates
from daskmoe.numerics.base.layout import Layout
from daskmoe.numerics.base.parameters import FloatArray, Moments
from daskmoe.numerics.base.policies import PRIOR
from daskmoe.numerics.families import Family

Array = NDArray[np.floating[Any]]


class Prior(NamedTuple):
    """The penalty in one set of coordinates."""

    # Strengths a and b.
    gate: float
    coef: float
    # (D,): Strengths c and values s.
    nuisance: FloatArray
    spread: FloatArray
    # (q, q): Second moment of [1, u] over all rows: the identity in the coordinates of the same rows.
    metric: FloatArray
    # m.
    location: float

    def penalty(self, gate: Array, coef: Array, nuisance: Array) -> FloatArray:
        """The penalty of models stacked along leading axes: (..., K, q), (..., K, C, q), (..., K, D)."""
        centered = gate - gate.mean(axis=-2, keepdims=True)
        shifted = self._shifted(coef)
        gates = np.sum((centered @ self.metric) * centered, axis=(-2, -1))
        coefs = np.sum((shifted @ self.metric) * shifted, axis=(-2, -1))
        pulls = self.nuisance * (np.log(nuisance) + self.spread / nuisance)
        out: FloatArray = 0.5 * (self.gate * gates + self.coef * coefs + np.sum(pulls, axis=(-2, -1)))
        return out

    def gate_gradient(self, gate: Array) -> FloatArray:
        """Gradient of the penalty in the gating weights, shaped like ``gate``."""
        out: FloatArray = self.gate * (gate - gate.mean(axis=-2, keepdims=True)) @ self.metric
        return out

    def coef_gradient(self, coef: Array) -> FloatArray:
        """Gradient of the penalty in the expert coefficients, shaped like ``coef``."""
        out: FloatArray = self.coef * self._shifted(coef) @ self.metric
        return out.reshape(coef.shape)

    def nuisance_gradient(self, nuisance: Array) -> FloatArray:
        """Gradient of the penalty in the log-nuisances, shaped like ``nuisance``."""
        return np.asarray(0.5 * self.nuisance * (1.0 - self.spread / nuisance), dtype=np.float64)

    def gate_hessian(self, n_experts: int) -> FloatArray:
        """Hessian in the K - 1 free gating weights, shape (K - 1, K - 1, q, q)."""
        free = np.eye(n_experts - 1) - 1.0 / n_experts
        out: FloatArray = self.gate * free[:, :, None, None] * self.metric
        return out

    def coef_hessian(self, n_predictors: int) -> FloatArray:
        """Hessian in one expert's coefficients, shape (C q, C q)."""
        block = self.coef * self.metric
        if n_predictors == 1:
            return block
        return np.asarray(np.kron(np.eye(n_predictors), block), dtype=np.float64)

    def hessian(self, layout: Layout, nuisance: FloatArray) -> FloatArray:
        """Hessian in all packed parameters, shape (P, P)."""
        out = np.zeros((layout.size, layout.size))
        width = layout.gates.stop
        gates = self.gate_hessian(layout.n_experts).transpose(0, 2, 1, 3)
        out[layout.gates, layout.gates] = gates.reshape(width, width)
        own = self.coef_hessian(layout.n_predictors)
        for k in range(layout.n_experts):
            out[layout.coef(k), layout.coef(k)] = own
        diagonal = np.arange(layout.size)[layout.nuisances]
        out[diagonal, diagonal] = (0.5 * self.nuisance * self.spread / nuisance).ravel()
        return out

    def gradient(self, layout: Layout, gate: Array, coef: Array, nuisance: Array) -> FloatArray:
        """Gradient in all packed parameters, shape (P,)."""
        out = np.empty(layout.size)
        out[layout.gates] = self.gate_gradient(gate)[:-1].ravel()
        out[layout.coefs] = self.coef_gradient(coef).ravel()
        out[layout.nuisances] = self.nuisance_gradient(nuisance).ravel()
        return out

    def _shifted(self, coef: Array) -> FloatArray:
        """The coefficients less the location, all predictors under each other: (..., K C, q)."""
        shifted = coef.reshape(*coef.shape[:-3], -1, coef.shape[-1]).astype(np.float64)
        shifted[..., 0] -= self.location
        return shifted


def prior_from(moments: Moments, coordinates: Coordinates, n_experts: int, family: Family) -> Prior:
    """The prior of K experts for all rows with these moments, expressed in ``coordinates``."""
    total = max(moments.weight, np.finfo(float).tiny)
    covariance = moments.scatter[:-1, :-1] / total
    shift = np.append(1.0, coordinates.transform @ (moments.mean[:-1] - coordinates.center))
    metric = np.outer(shift, shift)
    metric[1:, 1:] += coordinates.transform @ covariance @ coordinates.transform.T
    on = float(n_experts > 1)
    own = family.prior(moments, coordinates)
    return Prior(
        on * PRIOR.gate,
        on * own.coef,
        on * own.nuisance,
        own.spread,
        metric if coordinates.size > 1 else np.ones((1, 1)),
        own.location,
    )

"""The penalties that keep the likelihood bounded: weak priors, and a floor for the experts' nuisances.

With gating weights A_k, expert coefficients B_kc and nuisances nu_kd, the penalty is

    (a / 2) sum_k log(1 + E[(u'(A_k - mean A))^2] / w) + (b / 2) sum_kc E[(u'B_kc - m)^2]
        + sum_kd (c_d / 2) (log nu_kd + s_d / nu_kd) + (n / 4) sum_kd (f_d / nu_kd)^2

where the expectation runs over all rows and n is their weight. The family gives b, m, c_d, s_d and the floor
f_d; for gaussian experts b is a strength over the variance of the response, m its mean, and s_d a share of
the variance that one linear regression leaves. The first three terms are priors: each weighs a pseudo-row or
less, whatever n is. That of the gates has the heavy tails of a multivariate Student density: a and w are
proportional to the number of slopes. It stays finite where experts separate and leaves steep gates alone. The
last term grows with the rows, as does what an expert gains by collapsing on a value that the response
repeats: the nuisance of such an expert ends near f, however many rows there are, while one ten times the
floor moves by a hundredth.

All are functions of the data's moments only, so affine changes of features or response change nothing, the
experts' order and the gating reference do not matter, and partitions that add up to the same rows have the
same penalty. A single expert needs none and has none: K = 1 is maximum likelihood. Of labels it has that of
the coefficients, as there is no maximum where features separate the classes.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from daskmoe.numerics.base.coordinates import Coordinates
from daskmoe.numerics.base.layout import Layout
from daskmoe.numerics.base.parameters import FloatArray, MoEParameters, Moments
from daskmoe.numerics.base.policies import DEFAULTS, PRIOR, Regularization
from daskmoe.numerics.families import Family

Array = NDArray[np.floating[Any]]


class Prior(NamedTuple):
    """The penalty in one set of coordinates."""

    # Strengths a and b.
    gate: float
    # Or (C,), of several outputs.
    coef: float | FloatArray
    # (D,): Strengths c, values s and floors f.
    nuisance: FloatArray
    spread: FloatArray
    floor: FloatArray
    # (q, q): Second moment of the experts' [1, u] over all rows: the identity in the coordinates of the same
    # rows.
    metric: FloatArray
    # m; or (C,).
    location: float | FloatArray
    # n.
    weight: float
    # w.
    gate_width: float
    # (q_gate, q_gate): That of the gates' [1, u] where they have other features than the experts.
    gating: FloatArray | None = None

    @property
    def gate_metric(self) -> FloatArray:
        """Second moment of the gates' [1, u], shape (q_gate, q_gate)."""
        return self.metric if self.gating is None else self.gating

    def for_weight(self, weight: float) -> Prior:
        """The penalty of as many rows of the same data."""
        return self._replace(weight=weight)

    def floor_alone(self, weight: float, layout: Layout) -> Prior:
        """The part that grows with the rows, for as many of them, in coordinates with this layout."""
        metric, gating = (np.zeros((size, size)) for size in (layout.q_expert, layout.q_gate))
        nothing = np.zeros_like(self.nuisance)
        return self._replace(
            gate=0.0, coef=0.0, nuisance=nothing, metric=metric, gating=gating, weight=weight
        )

    @property
    def barrier(self) -> FloatArray:
        """n f^2, shape (D,)."""
        return self.weight * self.floor**2

    def penalty(self, gate: Array, coef: Array, nuisance: Array) -> FloatArray:
        """The penalty of models stacked along leading axes: (..., K, q), (..., K, C, q), (..., K, D)."""
        gates = np.sum(np.log1p(self._gate_moments(gate).second / self.gate_width), axis=-1)
        shifted = self._shifted(coef)
        products = (shifted @ self.metric) * shifted
        if np.ndim(self.coef):
            coefs = np.sum(self._strengths(coef) * products, axis=(-2, -1))
        else:
            coefs = self.coef * np.sum(products, axis=(-2, -1))
        pulls = self.nuisance * (np.log(nuisance) + self.spread / nuisance)
        pulls += 0.5 * self.barrier / nuisance**2
        out: FloatArray = 0.5 * (self.gate * gates + coefs + np.sum(pulls, axis=(-2, -1)))
        return out

    def gate_gradient(self, gate: Array) -> FloatArray:
        """Gradient of the penalty in the gating weights, shaped like ``gate``."""
        known = self._gate_moments(gate)
        pulls = self._gate_weights(known)[..., None] * known.image
        out: FloatArray = pulls - pulls.mean(axis=-2, keepdims=True)
        return out

    def coef_gradient(self, coef: Array) -> FloatArray:
        """Gradient of the penalty in the expert coefficients, shaped like ``coef``."""
        out: FloatArray = self._strengths(coef) * self._shifted(coef) @ self.metric
        return out.reshape(coef.shape)

    def nuisance_gradient(self, nuisance: Array) -> FloatArray:
        """Gradient of the penalty in the log-nuisances, shaped like ``nuisance``."""
        pulls = self.nuisance * (1.0 - self.spread / nuisance) - self.barrier / nuisance**2
        return np.asarray(0.5 * pulls, dtype=np.float64)

    def gate_majorizer(self, gate: Array) -> FloatArray:
        """Of the Hessian in the K - 1 free gating weights, shape (..., K - 1, K - 1, q, q).

        The logarithm is concave, so that the quadratic with this curvature lies above the penalty.
        """
        spread = _centering(gate.shape[-2])
        weights = (spread * self._gate_weights(self._gate_moments(gate))[..., None, :]) @ spread.T
        return np.asarray(weights[..., None, None] * self.gate_metric)

    def gate_hessian(self, gate: Array) -> FloatArray:
        """Hessian in the K - 1 free gating weights of one model, shape (K - 1, K - 1, q, q)."""
        known = self._gate_moments(gate)
        falls = 2.0 * self.gate / (self.gate_width + known.second) ** 2
        images = _centering(len(gate))[..., None] * known.image
        out: FloatArray = self.gate_majorizer(gate) - np.einsum("j,kja,ljb->klab", falls, images, images)
        return out

    def coef_hessian(self, n_predictors: int) -> FloatArray:
        """Hessian in one expert's coefficients, shape (C q, C q)."""
        if n_predictors == 1:
            return np.asarray(self.coef * self.metric, dtype=np.float64)
        strengths = np.diag(np.broadcast_to(self.coef, n_predictors))
        return np.asarray(np.kron(strengths, self.metric), dtype=np.float64)

    def nuisance_curvature(self, nuisance: Array) -> FloatArray:
        """Second derivatives in the log-nuisances, each by itself, shaped like ``nuisance``."""
        pulls = 0.5 * self.nuisance * self.spread / nuisance
        return np.asarray(pulls + self.barrier / nuisance**2)

    def hessians(self, parameters: MoEParameters) -> tuple[FloatArray, FloatArray]:
        """Hessian in all packed parameters, and a majorizer that is nowhere negative, shapes (P, P)."""
        layout = Layout.of(parameters)
        out = np.zeros((layout.size, layout.size))
        own = self.coef_hessian(layout.n_predictors)
        for k in range(layout.n_experts):
            out[layout.coef(k), layout.coef(k)] = own
        diagonal = np.arange(layout.size)[layout.nuisances]
        out[diagonal, diagonal] = self.nuisance_curvature(parameters.nuisance).ravel()
        majorizer = out.copy()
        width = layout.gates.stop
        for matrix, gates in ((out, self.gate_hessian), (majorizer, self.gate_majorizer)):
            blocks = gates(parameters.gate).transpose(0, 2, 1, 3)
            matrix[layout.gates, layout.gates] = blocks.reshape(width, width)
        return out, majorizer

    def gradient(self, layout: Layout, gate: Array, coef: Array, nuisance: Array) -> FloatArray:
        """Gradient in all packed parameters, shape (P,)."""
        out = np.empty(layout.size)
        out[layout.gates] = self.gate_gradient(gate)[:-1].ravel()
        out[layout.coefs] = self.coef_gradient(coef).ravel()
        out[layout.nuisances] = self.nuisance_gradient(nuisance).ravel()
        return out

    def _gate_moments(self, gate: Array) -> _GateMoments:
        centered = gate - gate.mean(axis=-2, keepdims=True)
        image = centered @ self.gate_metric
        return _GateMoments(image, np.sum(image * centered, axis=-1))

    def _gate_weights(self, known: _GateMoments) -> FloatArray:
        return np.asarray(self.gate / (self.gate_width + known.second))

    def _strengths(self, coef: Array) -> float | FloatArray:
        """b of all predictors of coefficients (..., K, C, q) under each other, (K C, 1), or one for all."""
        return np.tile(self.coef, coef.shape[-3])[:, None] if np.ndim(self.coef) else self.coef

    def _shifted(self, coef: Array) -> FloatArray:
        """The coefficients less the location, all predictors under each other: (..., K C, q)."""
        shifted = coef.astype(np.float64)
        shifted[..., 0] -= self.location
        return shifted.reshape(*coef.shape[:-3], -1, coef.shape[-1])


class _GateMoments(NamedTuple):
    """Of the centred gates a_k: metric a_k (..., K, q), and a_k' metric a_k (..., K), a mean square."""

    image: FloatArray
    second: FloatArray


def _centering(n_experts: int) -> FloatArray:
    """Derivatives of the K centred gates in the free ones, shape (K - 1, K)."""
    return np.eye(n_experts)[:-1] - 1.0 / n_experts


def prior_from(
    moments: Moments,
    coordinates: Coordinates,
    n_experts: int,
    family: Family,
    regularization: Regularization = DEFAULTS,
) -> Prior:
    """The prior of K experts for all rows with these moments, expressed in ``coordinates``."""
    total = max(moments.weight, np.finfo(float).tiny)
    p = moments.n_features
    covariance = moments.scatter[:p, :p] / total
    metric = _second_moment(coordinates, moments.mean[:p], covariance)
    gates = coordinates.gates
    on = float(n_experts > 1 or family.nominal)
    own = family.prior(moments, coordinates, regularization.min_scale)
    strength = on * regularization.strength
    slopes = max(gates.size - 1, 1)
    return Prior(
        strength * PRIOR.gate * slopes,
        strength * own.coef,
        strength * own.nuisance,
        own.spread,
        on * own.floor,
        metric,
        own.location - _mean_offset(moments, coordinates),
        moments.weight,
        PRIOR.gate_width * slopes,
        None if coordinates.gating is None else _second_moment(gates, moments.mean[:p], covariance),
    )


def _mean_offset(moments: Moments, coordinates: Coordinates) -> float:
    """What predictors have from the offset alone."""
    if coordinates.offset is None:
        return 0.0
    return float(moments.mean[coordinates.offset] / coordinates.response.scale)


def _second_moment(coordinates: Coordinates, mean: FloatArray, covariance: FloatArray) -> FloatArray:
    """E[[1, u] [1, u]'] of rows with such features."""
    shift = np.append(1.0, coordinates.transform @ (mean - coordinates.center))
    metric = np.outer(shift, shift)
    metric[1:, 1:] += coordinates.transform @ covariance @ coordinates.transform.T
    return metric

"""The affine maps between the data and the coordinates that the optimizers work in.

Pure NumPy. The optimizers work in coordinates u = [1, T (x - mean)] in which the features of the partition
are uncorrelated with unit variance, and v = (y - location) / scale for the response. Affine changes of the
data therefore change nothing but these maps; constant and collinear features drop out of T, so the rank r <=
p. Shapes: p features, q = r + 1.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from daskmoe.numerics.base.parameters import FloatArray, MoEParameters, Moments

Array = NDArray[np.floating[Any]]

# Directions with less than this share of the largest variance may be rounding errors of single precision.
_RANK_TOLERANCE = 1e-13


class Coordinates(NamedTuple):
    """The affine maps between the data and the coordinates of the optimizers.

    Attributes
    ----------
    center : ndarray of shape (p,)
    transform : ndarray of shape (r, p)
        u = transform @ (x - center).
    inverse : ndarray of shape (p, r)
        x - center = inverse @ u on the directions that were kept.
    location, scale : float
        v = (y - location) / scale.
    """

    center: FloatArray
    transform: FloatArray
    inverse: FloatArray
    location: float
    scale: float

    @property
    def size(self) -> int:
        """q, the length of [1, u]."""
        return len(self.transform) + 1

    def to_data(self, parameters: MoEParameters) -> MoEParameters:
        """Parameters for (x, y) from those for (u, v)."""
        gate = self.linear_to_data(parameters.gate)
        coef = self.linear_to_data(parameters.coef) * self.scale
        coef[:, 0] += self.location
        return MoEParameters(gate - gate[-1], coef, parameters.dispersion * self.scale**2)

    def from_data(self, parameters: MoEParameters) -> MoEParameters:
        """Parameters for (u, v) from those for (x, y)."""
        coef = parameters.coef.copy()
        coef[:, 0] -= self.location
        coef = self.linear_from_data(coef) / self.scale
        gate = self.linear_from_data(parameters.gate)
        return MoEParameters(gate - gate[-1], coef, parameters.dispersion / self.scale**2)

    def linear_to_data(self, weights: FloatArray) -> FloatArray:
        """Weights (K, p + 1) of [1, x] from weights (K, q) of [1, u]."""
        slopes = weights[:, 1:] @ self.transform
        return np.concatenate([(weights[:, 0] - slopes @ self.center)[:, None], slopes], axis=1)

    def linear_from_data(self, weights: FloatArray) -> FloatArray:
        """Weights (K, q) of [1, u] from weights (K, p + 1) of [1, x]."""
        intercept = weights[:, 0] + weights[:, 1:] @ self.center
        return np.concatenate([intercept[:, None], weights[:, 1:] @ self.inverse], axis=1)


def coordinates_from(moments: Moments) -> Coordinates:
    """Whitening coordinates of the rows with these moments.

    Features are scaled to unit variance first, so that units do not decide what counts as collinear.
    """
    p = len(moments.mean) - 1
    covariance = moments.scatter[:p, :p] / max(moments.weight, np.finfo(float).tiny)
    magnitude = np.abs(moments.mean[:p])
    deviation = np.sqrt(np.diag(covariance).clip(0.0))
    varies = deviation > 1e-13 * magnitude
    scale = np.where(varies, deviation, 1.0)
    correlation = np.where(np.outer(varies, varies), covariance / np.outer(scale, scale), 0.0)
    values, vectors = np.linalg.eigh(correlation)
    keep = values > _RANK_TOLERANCE * max(float(values[-1]) if p else 0.0, 1e-300)
    root = np.sqrt(values[keep])
    transform = (vectors[:, keep] / root).T / scale
    inverse = (vectors[:, keep] * root) * scale[:, None]
    location, spread = float(moments.mean[p]), response_scale(moments)
    return Coordinates(moments.mean[:p].copy(), transform, inverse, location, spread)


def response_scale(moments: Moments) -> float:
    """Standard deviation of the response; its magnitude (or one) where it is constant."""
    magnitude = abs(float(moments.mean[-1]))
    deviation = float(np.sqrt(max(moments.scatter[-1, -1], 0.0) / max(moments.weight, 1e-300)))
    if deviation > 1e-13 * magnitude:
        return deviation
    return magnitude if magnitude > 0 else 1.0

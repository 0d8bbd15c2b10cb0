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
from daskmoe.numerics.base.policies import IDENTIFICATION, INFERENCE

Array = NDArray[np.floating[Any]]

# In units of its magnitude, the deviation below which a variable does not vary.
CONSTANT = 1e-13
# Directions with less than this share of the largest variance may be rounding errors of single precision.
_RANK_TOLERANCE = 1e-13


class Scaling(NamedTuple):
    """The affine map of a response, as its family has one or none."""

    # v = (y - location) / scale.
    location: float
    scale: float
    # (D,): What every nuisance is multiplied with on the way back to the data's units.
    nuisance: FloatArray

    @classmethod
    def none(cls, n_nuisances: int) -> Scaling:
        """The response as it is."""
        return cls(0.0, 1.0, np.ones(n_nuisances))


class Coordinates(NamedTuple):
    """The affine maps between the data and the coordinates of the optimizers."""

    # (p,)
    center: FloatArray
    # (r, p): u = transform @ (x - center).
    transform: FloatArray
    # (p, r): x - center = inverse @ u on the directions that were kept.
    inverse: FloatArray
    response: Scaling

    @property
    def size(self) -> int:
        """q, the length of [1, u]."""
        return len(self.transform) + 1

    @property
    def log_jacobian(self) -> float:
        """What log f(v|u) is above log f(y|x), in nats a row."""
        return float(np.log(self.response.scale))

    def told_apart(self) -> NDArray[np.bool_]:
        """Whether the rows tell each weight of [1, x] from those of the other columns: (p + 1,).

        A weight is told apart where its unit vector is orthogonal to all combinations of columns that do not
        vary. A constant column counts as left out, not as another intercept.
        """
        varies = self.transform.any(axis=0)
        own = np.einsum("rp,pr->p", self.transform, self.inverse)
        slopes = varies & (1.0 - own <= INFERENCE.collinear_share)
        # In deviations: the part of the origin that lies outside the plane of the rows.
        deviation = np.where(varies, np.sqrt(np.sum(self.inverse**2, axis=1)), 1.0)
        origin = np.where(varies, self.center, 0.0)
        outside = np.sum(((origin - self.inverse @ (self.transform @ origin)) / deviation) ** 2)
        least = INFERENCE.collinear_share * max(1.0, float(np.sum((origin / deviation) ** 2)))
        return np.append(outside <= least, slopes)

    def to_data(self, parameters: MoEParameters) -> MoEParameters:
        """Parameters for (x, y) from those for (u, v)."""
        location, scale, nuisance = self.response
        gate = self.linear_to_data(parameters.gate)
        coef = self.linear_to_data(parameters.coef) * scale
        coef[..., 0] += location
        return MoEParameters(gate - gate[-1], coef, parameters.nuisance * nuisance)

    def from_data(self, parameters: MoEParameters) -> MoEParameters:
        """Parameters for (u, v) from those for (x, y)."""
        location, scale, nuisance = self.response
        coef = parameters.coef.copy()
        coef[..., 0] -= location
        coef = self.linear_from_data(coef) / scale
        gate = self.linear_from_data(parameters.gate)
        return MoEParameters(gate - gate[-1], coef, parameters.nuisance / nuisance)

    def linear_to_data(self, weights: FloatArray) -> FloatArray:
        """Weights (..., p + 1) of [1, x] from weights (..., q) of [1, u]."""
        flat = weights.reshape(-1, weights.shape[-1])
        slopes = flat[:, 1:] @ self.transform
        out = np.concatenate([(flat[:, 0] - slopes @ self.center)[:, None], slopes], axis=1)
        return out.reshape(*weights.shape[:-1], out.shape[1])

    def linear_from_data(self, weights: FloatArray) -> FloatArray:
        """Weights (..., q) of [1, u] from weights (..., p + 1) of [1, x]."""
        flat = weights.reshape(-1, weights.shape[-1])
        intercept = flat[:, 0] + flat[:, 1:] @ self.center
        out = np.concatenate([intercept[:, None], flat[:, 1:] @ self.inverse], axis=1)
        return out.reshape(*weights.shape[:-1], out.shape[1])


def coordinates_from(moments: Moments, response: Scaling) -> Coordinates:
    """Whitening coordinates of the rows with these moments, and with this map of the response.

    Features are scaled to unit variance first, so that units do not decide what counts as collinear.
    """
    p = len(moments.mean) - 1
    covariance = moments.scatter[:p, :p] / max(moments.weight, np.finfo(float).tiny)
    magnitude = np.abs(moments.mean[:p])
    deviation = np.sqrt(np.diag(covariance).clip(0.0))
    varies = deviation > CONSTANT * magnitude
    scale = np.where(varies, deviation, 1.0)
    correlation = np.where(np.outer(varies, varies), covariance / np.outer(scale, scale), 0.0)
    values, vectors = np.linalg.eigh(correlation)
    keep = values > _RANK_TOLERANCE * max(float(values[-1]) if p else 0.0, 1e-300)
    root = np.sqrt(values[keep])
    transform = (vectors[:, keep] / root).T / scale
    inverse = (vectors[:, keep] * root) * scale[:, None]
    return Coordinates(moments.mean[:p].copy(), transform, inverse, response)


class Directions(NamedTuple):
    """Directions in which some rows do not vary: beside the coordinates of these rows, all there are."""

    # (d, p): e = transform @ (x - center), with the center of the coordinates.
    transform: FloatArray
    # (p, d)
    inverse: FloatArray
    # (d,): The second moment of e up to which other rows do not vary either.
    least: FloatArray


def unseen_directions(moments: Moments, coordinates: Coordinates) -> Directions:
    """What `coordinates_from` has left out of the coordinates of the rows with these moments.

    A constant feature is a direction of its own, in units of its magnitude or, where it is zero, of the data;
    collinear features share directions, in units of their deviations.
    """
    p = len(moments.mean) - 1
    variance = np.diag(moments.scatter)[:p].clip(0.0) / max(moments.weight, np.finfo(float).tiny)
    magnitude, deviation = np.abs(moments.mean[:p]), np.sqrt(variance)
    varies = deviation > CONSTANT * magnitude
    scale = np.where(varies, deviation, np.where(magnitude > 0, magnitude, 1.0))
    constant = np.eye(p)[:, ~varies]
    kept = coordinates.inverse[varies] / scale[varies, None]
    whole = np.linalg.qr(kept / np.linalg.norm(kept, axis=0), mode="complete")[0]
    collinear = np.zeros((p, len(kept) - kept.shape[1]))
    collinear[varies] = whole[:, kept.shape[1] :]
    vectors = np.concatenate([constant, collinear], axis=1)
    least = np.where(np.arange(vectors.shape[1]) < constant.shape[1], 0.0, IDENTIFICATION.varies)
    least[: constant.shape[1]] = (CONSTANT * magnitude / scale)[~varies] ** 2
    return Directions(vectors.T / scale, vectors * scale[:, None], least)

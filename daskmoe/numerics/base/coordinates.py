"""The affine maps between the data and the coordinates that the optimizers work in.

Pure NumPy. The optimizers work in coordinates u = [1, T (x - mean)] in which the features of the partition
are uncorrelated with unit variance, and v = (y - location) / scale for the response. Affine changes of the
data therefore change nothing but these maps; constant and collinear features drop out of T, so the rank r <=
p. Where gates and experts have different features each have coordinates of their own, in which they are
white, and neither mixes with a feature that is not theirs. Shapes: p features, q = r + 1.
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

    # v = (y - location) / scale; of several outputs (O,).
    location: float | FloatArray
    scale: float | FloatArray
    # (D,): What every nuisance is multiplied with on the way back to the data's units.
    nuisance: FloatArray

    @classmethod
    def none(cls, n_nuisances: int) -> Scaling:
        """The response as it is."""
        return cls(0.0, 1.0, np.ones(n_nuisances))

    @property
    def coef(self) -> FloatArray:
        """What coefficients (..., C, q) are multiplied with on that way."""
        return np.reshape(self.scale, (-1, 1))


class Coordinates(NamedTuple):
    """The affine maps between the data and the coordinates of the optimizers."""

    # (p,)
    center: FloatArray
    # (r, p): u = transform @ (x - center).
    transform: FloatArray
    # (p, r): x - center = inverse @ u on the directions that were kept.
    inverse: FloatArray
    response: Scaling
    # Those of the gates where they have other features than the experts, whose the above are then.
    gating: Coordinates | None = None
    # Position of the offset among the features, if there is one; it is not centred.
    offset: int | None = None

    @property
    def size(self) -> int:
        """q, the length of [1, u] of the experts."""
        return len(self.transform) + 1

    @property
    def gates(self) -> Coordinates:
        """Those of the gates' linear predictors."""
        return self if self.gating is None else self.gating

    def affine(self) -> FloatArray:
        """[1, u] as one linear map (q, p + 1) of [1, x].

        Centring inside the product rounds no more than the data are.
        """
        out = np.zeros((self.size, len(self.center) + 1))
        out[0, 0] = 1.0
        out[1:, 0] = -self.transform @ self.center
        out[1:, 1:] = self.transform
        return out

    @property
    def log_jacobian(self) -> float:
        """What log f(v|u) is above log f(y|x), in nats a row."""
        return float(np.sum(np.log(self.response.scale)))

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
        location, _, nuisance = self.response
        gate = self.gates.linear_to_data(parameters.gate)
        coef = self.linear_to_data(parameters.coef) * self.response.coef
        coef[..., 0] += location
        if self.offset is not None:
            coef[..., self.offset + 1] = 1.0
        return MoEParameters(gate - gate[-1], coef, parameters.nuisance * nuisance)

    def from_data(self, parameters: MoEParameters) -> MoEParameters:
        """Parameters for (u, v) from those for (x, y)."""
        location, _, nuisance = self.response
        coef = parameters.coef.copy()
        coef[..., 0] -= location
        coef = self.linear_from_data(coef) / self.response.coef
        gate = self.gates.linear_from_data(parameters.gate)
        return MoEParameters(gate - gate[-1], coef, parameters.nuisance / nuisance)

    def linear_to_centred(self, weights: FloatArray) -> FloatArray:
        """Weights (..., p + 1) of [1, x - center] from weights (..., q) of [1, u]."""
        return np.concatenate([weights[..., :1], weights[..., 1:] @ self.transform], axis=-1)

    def slopes_from_centred(self, slopes: FloatArray) -> FloatArray:
        """Derivatives in weights (..., q) of [1, u] from those in weights (..., p + 1) of [1, x - center]."""
        return np.concatenate([slopes[..., :1], slopes[..., 1:] @ self.transform.T], axis=-1)

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
    """Whitening coordinates of the rows with these moments, and with this map of the response."""
    columns = moments.columns
    experts = _whitening_of(columns.experts, moments, response)._replace(offset=columns.offset)
    if columns.offset is not None:
        experts.center[columns.offset] = 0.0
    if columns.shared:
        return experts
    gating = _whitening_of(columns.gates, moments, response)._replace(center=experts.center)
    return experts._replace(gating=gating)


def _whitening_of(columns: tuple[int, ...] | None, moments: Moments, response: Scaling) -> Coordinates:
    """The coordinates of some of the features, among all."""
    if columns is None:
        return _whitening(moments, response)
    own = _whitening(of_columns(moments, columns), response)
    p, r, index = moments.n_features, len(own.transform), list(columns)
    transform, inverse = np.zeros((r, p)), np.zeros((p, r))
    transform[:, index], inverse[index] = own.transform, own.inverse
    return Coordinates(moments.mean[:p].copy(), transform, inverse, response)


def of_columns(moments: Moments, columns: tuple[int, ...] | None) -> Moments:
    """The moments of some of the features and the response."""
    if columns is None:
        return moments.of_all_columns
    return _at(moments, [*columns, *range(moments.n_features, len(moments.mean))])


def of_output(moments: Moments, output: int) -> Moments:
    """The moments of the features and one of the outputs."""
    p = moments.n_features
    return _at(moments, [*range(p), p + output])._replace(columns=moments.columns, n_outputs=1)


def _at(moments: Moments, index: list[int]) -> Moments:
    """Those of some columns, which are everybody's."""
    found = moments.mean[index], moments.scatter[np.ix_(index, index)]
    return Moments(moments.weight, *found, n_outputs=moments.n_outputs)


def _whitening(moments: Moments, response: Scaling) -> Coordinates:
    """Features are scaled to unit variance first, so that units do not decide what counts as collinear."""
    p = moments.n_features
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


def without_offset(coef: FloatArray, offset: int | None) -> FloatArray:
    """Coefficients in the data's units (..., p + 1) without the weight that the offset has in each."""
    if offset is None:
        return coef
    out = coef.copy()
    out[..., offset + 1] = 0.0
    return out


class Directions(NamedTuple):
    """Directions in which some rows do not vary: beside the coordinates of these rows, all there are."""

    # (d, p): e = transform @ (x - center), with the center of the coordinates.
    transform: FloatArray
    # (p, d)
    inverse: FloatArray
    # (d,): The second moment of e up to which other rows do not vary either.
    least: FloatArray
    # Those of the gates' features where these are not the experts', whose the above are then.
    gating: Directions | None = None

    @property
    def gates(self) -> Directions:
        """Those of the gates' features."""
        return self if self.gating is None else self.gating

    @property
    def none(self) -> bool:
        """Whether the rows vary in all directions."""
        return not len(self.transform) and not len(self.gates.transform)


def unseen_directions(moments: Moments, coordinates: Coordinates) -> Directions:
    """What `coordinates_from` has left out of the coordinates of the rows with these moments.

    A constant feature is a direction of its own, in units of its magnitude or, where it is zero, of the data;
    collinear features share directions, in units of their deviations.
    """
    columns = moments.columns
    experts = _unseen_of(columns.experts, moments, coordinates)
    if columns.shared:
        return experts
    return experts._replace(gating=_unseen_of(columns.gates, moments, coordinates.gates))


def _unseen_of(columns: tuple[int, ...] | None, moments: Moments, coordinates: Coordinates) -> Directions:
    """The directions of some of the features, among all."""
    if columns is None:
        return _unseen(moments, coordinates)
    index = list(columns)
    part = coordinates._replace(inverse=coordinates.inverse[index])
    own = _unseen(of_columns(moments, columns), part)
    transform = np.zeros((len(own.transform), len(coordinates.center)))
    inverse = np.zeros(transform.shape[::-1])
    transform[:, index], inverse[index] = own.transform, own.inverse
    return Directions(transform, inverse, own.least)


def _unseen(moments: Moments, coordinates: Coordinates) -> Directions:
    p = moments.n_features
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

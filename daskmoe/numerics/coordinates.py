"""Observations as the optimizers see them: standardized, whitened, transposed and in blocks.

Pure NumPy. The optimizers work in coordinates u = [1, T (x - mean)] in which the features of the partition
are uncorrelated with unit variance, and v = (y - location) / scale for the response. Affine changes of the
data therefore change nothing but these maps; constant and collinear features drop out of T, so the rank r <=
p. Working memory is one block, never the size of the data. Shapes: n rows, p features, q = r + 1, B rows a
block.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from daskmoe.numerics.buffers import empty
from daskmoe.numerics.parameters import FloatArray, MoEParameters, Moments

BLOCK_ROWS = 2048

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


class Block(NamedTuple):
    """One block of rows: ``design`` (q, B) with first row one, ``response`` (B,), ``weight`` (B,) or None."""

    design: Array
    response: Array
    weight: Array | None


class Observations(NamedTuple):
    """All rows of a partition: ``features`` (n, p), ``response`` (n,), ``weight`` (n,) or None.

    The arrays are used where they are: any float dtype, any memory order.
    """

    features: Array
    response: Array
    weight: Array | None = None

    @property
    def n_rows(self) -> int:
        """n, the number of rows."""
        return len(self.response)

    @property
    def total_weight(self) -> float:
        """Sum of the row weights; the row count where there are none."""
        return float(self.n_rows if self.weight is None else self.weight.sum(dtype=np.float64))

    def take(self, index: NDArray[np.intp]) -> Observations:
        """The rows at ``index``, copied."""
        weight = None if self.weight is None else self.weight[index]
        return Observations(self.features[index], self.response[index], weight)

    def blocks(self, coordinates: Coordinates) -> Iterator[Block]:
        """Blocks of at most `BLOCK_ROWS` rows in the optimizers' coordinates; buffers are reused."""
        p, size = self.features.shape[1], min(BLOCK_ROWS, self.n_rows)
        # [1, u] as one linear map of [1, x]: centring inside the product rounds no more than the data are.
        whitening = np.zeros((coordinates.size, p + 1))
        whitening[0, 0] = 1.0
        whitening[1:, 0] = -coordinates.transform @ coordinates.center
        whitening[1:, 1:] = coordinates.transform
        raw, design = empty((p + 1, size)), empty((coordinates.size, size))
        raw[0] = 1.0
        for start in range(0, self.n_rows, size):
            rows = slice(start, min(start + size, self.n_rows))
            width = rows.stop - start
            raw[1:, :width] = self.features[rows].T
            np.matmul(whitening, raw[:, :width], out=design[:, :width])
            response = (self.response[rows].astype(np.float64) - coordinates.location) / coordinates.scale
            weight = None if self.weight is None else self.weight[rows].astype(np.float64)
            yield Block(design[:, :width], response, weight)


def moments(rows: Observations) -> Moments:
    """Weighted means and centred scatter of (features, response), one pass in blocks.

    Blocks are merged by the update of Chan, Golub and LeVeque (1983), stable under large offsets.
    """
    p = rows.features.shape[1]
    total, mean, scatter = 0.0, np.zeros(p + 1), np.zeros((p + 1, p + 1))
    for start in range(0, rows.n_rows, BLOCK_ROWS):
        part = slice(start, start + BLOCK_ROWS)
        joint = np.empty((len(rows.response[part]), p + 1))
        joint[:, :p], joint[:, p] = rows.features[part], rows.response[part]
        block = _block_moments(joint, None if rows.weight is None else rows.weight[part].astype(np.float64))
        if block.weight > 0:
            total, mean, scatter = merge_moments(Moments(total, mean, scatter), block)
    return Moments(total, mean, scatter)


def _block_moments(joint: FloatArray, weight: FloatArray | None) -> Moments:
    """Moments of the rows ``joint``, which are overwritten."""
    if weight is None:
        mean = np.ones(len(joint)) @ joint / len(joint)
        joint -= mean
        return Moments(float(len(joint)), mean, joint.T @ joint)
    total = float(weight.sum())
    if total == 0:
        return Moments(0.0, np.zeros(joint.shape[1]), np.zeros((joint.shape[1], joint.shape[1])))
    mean = weight @ joint / total
    joint -= mean
    return Moments(total, mean, (joint * weight[:, None]).T @ joint)


def merge_moments(first: Moments, second: Moments) -> Moments:
    """Moments of the union of two sets of rows."""
    total = first.weight + second.weight
    if total == 0:
        return first
    shift = second.mean - first.mean
    mean = first.mean + shift * (second.weight / total)
    scatter = first.scatter + second.scatter
    scatter = scatter + np.outer(shift, shift) * (first.weight * second.weight / total)
    return Moments(total, mean, scatter)


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

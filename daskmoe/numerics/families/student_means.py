"""Means of the logarithm and of the weights of one Student t density under another, by quadrature.

Pure NumPy. With y of location zero, scale one and f degrees of freedom in units of sqrt(f), so that its
density is (1 + y^2)^(-(f + 1) / 2) up to a constant, and v = (y - c) / w, all that divergences and
barycentres of t densities need are

    E log(1 + v^2),    E 1 / (1 + v^2) = w Im G,    E v / (1 + v^2) = w Re G,    G(z) = E 1 / (y - z)

at z = c + i w, where the first falls by 2 Re G with c. G is analytic above the real line, so that the path of
integration may run below it: along y = sinh(x - i a), every z is at least a away from it, however narrow or
far the other density is, and the trapezoidal rule in x converges geometrically, as fast for all of them.

Along rows c alone changes. As functions of asinh(c / (w + sin a)) the means are smooth at all distances, so
that many rows are interpolated from few: polynomials through Chebyshev points, and cubics through a table of
those.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.polynomial import chebyshev
from numpy.typing import NDArray

from daskmoe.numerics.base.parameters import FloatArray

_Complex = NDArray[np.complex128]

# Nodes of the path, the logarithm of the weight where it ends, and its shift: up to _SHIFT, less where the
# density is so narrow that its values on the path would cancel.
_NODES = 128
_END = 28.0
_SHIFT = np.pi / 4
_CANCELLING = 2.0
# The path's points are as good as evenly spaced up to here.
_EVEN = 3.0
# Chebyshev points: a constant, and a unit of asinh; intervals of the table a unit, and at least.
_POINTS, _POINTS_PER_UNIT = 24, 14
_INTERVALS_PER_UNIT, _INTERVALS = 96, 128
# Of asinh: a range that is none has no table.
_LEAST_RANGE = 1e-3
# Numbers of a complex array that stay in the cache of a processor.
_BLOCK = 65_536


class _Path(NamedTuple):
    """Points below the real line and the weights of a density there, shapes (n, nodes)."""

    points: _Complex
    weights: _Complex
    # (n,): sin a.
    depth: FloatArray


def log_means(df: FloatArray, center: FloatArray, width: FloatArray) -> FloatArray:
    """E log(1 + v^2) of others at ``center`` (n, B), of ``width`` (n,), under densities with ``df`` (n,).

    Both in units of the first one's scale times the root of its ``df``. The mean has the shape (n, B).
    """
    path = _path(df)
    return _log_means(path, _table(path, center, width), center, width)


def weight_means(df: FloatArray, center: FloatArray, width: FloatArray) -> tuple[FloatArray, FloatArray]:
    """E 1 / (1 + v^2) and E v / (1 + v^2), with arguments and shapes as of `log_means`."""
    path = _path(df)
    return _weight_means(path, _table(path, center, width), center, width)


def all_means(
    df: FloatArray, center: FloatArray, width: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """The mean of `log_means` and both of `weight_means`, from one table: most of the work of either."""
    path = _path(df)
    table = _table(path, center, width)
    return _log_means(path, table, center, width), *_weight_means(path, table, center, width)


def _log_means(path: _Path, table: _Table | None, center: FloatArray, width: FloatArray) -> FloatArray:
    if table is None:
        return _direct_log_means(path, center, width)
    falls = -2.0 * np.real(table.transform) * table.stretch
    zero = _direct_log_means(path, np.zeros((len(center), 1)), width)
    value, slope = zero + falls @ table.basis.integral * table.unit, falls @ table.basis.value
    return table.cubic(value, slope * table.unit)


def _weight_means(
    path: _Path, table: _Table | None, center: FloatArray, width: FloatArray
) -> tuple[FloatArray, FloatArray]:
    if table is None:
        transform = width[:, None] * _transform(path, center, width)
        return np.asarray(transform.imag), np.asarray(transform.real)
    own = width[:, None] * table.transform
    weight, moment = (
        table.cubic(part @ table.basis.value, part @ table.basis.slope) for part in (own.imag, own.real)
    )
    return weight, np.copysign(moment, -center)


def _path(df: FloatArray) -> _Path:
    """The path of each density: longer where it has heavier tails, with points that go apart along them."""
    shift = np.minimum(_SHIFT, np.sqrt(_CANCELLING / df))[:, None]
    end = _END / df[:, None]
    # arcosh(exp(end)).
    end = end + np.log1p(np.sqrt(-np.expm1(-2.0 * end)))
    bend = np.minimum(_EVEN, np.maximum(end / 3.0, 0.2))
    step, grid = np.arcsinh(end / bend), np.linspace(-1.0, 1.0, _NODES)
    along = bend * np.sinh(step * grid) - 1j * shift
    # Of 1 + y^2 = cosh(x - i a)^2, times dy.
    weights = np.cosh(along) ** (-df[:, None]) * np.cosh(step * grid)
    return _Path(np.sinh(along), weights / weights.sum(axis=1, keepdims=True), np.sin(shift[:, 0]))


def _direct_log_means(path: _Path, center: FloatArray, width: FloatArray) -> FloatArray:
    """By the path's sums at every row."""
    out = np.empty(center.shape)
    for own in _blocks(center):
        z = (center[own] + 1j * width[own, None])[:, :, None]
        logs = np.log((z - path.points[own, None]) / width[own, None, None])
        out[own] = 2.0 * np.real(np.einsum("nbj,nj->nb", logs, path.weights[own]))
    return out


def _transform(path: _Path, center: FloatArray, width: FloatArray) -> _Complex:
    """G at c + i w, shape (n, B)."""
    out = np.empty(center.shape, np.complex128)
    for own in _blocks(center):
        z = (center[own] + 1j * width[own, None])[:, :, None]
        out[own] = np.einsum("nbj,nj->nb", 1.0 / (path.points[own, None] - z), path.weights[own])
    return out


def _blocks(center: FloatArray) -> Iterator[slice]:
    """Densities whose sums along the path stay in the cache."""
    size = max(1, _BLOCK // (_NODES * max(center.shape[1], 1)))
    for start in range(0, len(center), size):
        yield slice(start, start + size)


class _Table(NamedTuple):
    """What rows are interpolated from: G at Chebyshev points of asinh(c / s), and where rows are."""

    basis: _Basis
    # (n, points): G, and the slope of c in asinh(c / s).
    transform: _Complex
    stretch: FloatArray
    # Half the range of asinh(c / s): the basis has [-1, 1].
    unit: float
    # (n, B): The interval of every row, in all tables one after the other, and its share of the interval.
    left: NDArray[np.intp]
    share: FloatArray

    def cubic(self, value: FloatArray, slope: FloatArray) -> FloatArray:
        """The cubics through values and slopes (n, intervals + 1), at the rows."""
        t, slope = self.share, slope * (2.0 / (value.shape[1] - 1))
        first, rise, fall = value.ravel()[self.left], slope.ravel()[self.left], slope.ravel()[self.left + 1]
        apart = value.ravel()[self.left + 1] - first
        bend = rise + fall - 2.0 * apart
        return np.asarray(first + t * (rise + t * (apart - rise - bend + t * bend)))


def _table(path: _Path, center: FloatArray, width: FloatArray) -> _Table | None:
    """A table for the rows; None for so few that their own sums are less work."""
    scale = (width + path.depth)[:, None]
    places = np.arcsinh(np.abs(center) / scale)
    end = max(float(places.max(initial=0.0)), _LEAST_RANGE)
    n_intervals = max(int(np.ceil(_INTERVALS_PER_UNIT * end)), _INTERVALS)
    if center.shape[1] <= n_intervals:
        return None
    basis = _basis(_POINTS + int(np.ceil(_POINTS_PER_UNIT * end)), n_intervals)
    points = 0.5 * end * (basis.points + 1.0)
    places *= n_intervals / end
    left = np.minimum(places.astype(np.intp), n_intervals - 1)
    places -= left
    left += np.arange(len(center))[:, None] * (n_intervals + 1)
    transform = _transform(path, scale * np.sinh(points), width)
    return _Table(basis, transform, scale * np.cosh(points), 0.5 * end, left, places)


class _Basis(NamedTuple):
    """From values at Chebyshev points to a table on [-1, 1]: matrices (points, intervals + 1)."""

    points: FloatArray
    value: FloatArray
    slope: FloatArray
    # From -1.
    integral: FloatArray


@lru_cache(maxsize=64)
def _basis(n_points: int, n_intervals: int) -> _Basis:
    points = chebyshev.chebpts1(n_points)
    table = np.linspace(-1.0, 1.0, n_intervals + 1)
    # Columns: coefficients of the polynomial that is one at one point.
    coefs = chebyshev.chebvander(points, n_points - 1).T * (2.0 / n_points)
    coefs[0] *= 0.5
    return _Basis(
        points,
        *(
            np.ascontiguousarray(chebyshev.chebval(table, made))
            for made in (coefs, chebyshev.chebder(coefs), chebyshev.chebint(coefs, lbnd=-1.0))
        ),
    )

"""Weighted Gram matrices of a block for many weightings at once.

All statistics of an EM pass and of a Newton step are sums over rows of w_j u u' for several weights j.
Forming the products u_a u_b once and multiplying by all weights is half the flops of J separate Gram matrices
and one large matrix product. Where J is small against q, the products themselves cost more than they save,
and every weight has a matrix product of its own. Packed order is that of ``np.triu_indices(q)``.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from daskmoe.numerics.base.buffers import Buffers, empty
from daskmoe.numerics.base.parameters import FloatArray

Array = NDArray[np.floating[Any]]

# The products of a part of a block should stay in the cache from being formed to being summed; in shorter
# parts the cost of a call shows.
_PART_BYTES = 2**19
_PARTS = (256, 512, 1024, 2048)
# Matrix products run at half their speed where the narrow side is no multiple of the kernels' width.
_WEIGHTS_MULTIPLE = 16
# Of q, the share of weights up to which separate matrix products are quicker.
_SEPARATE_SHARE = 1 / 8


class GramSums:
    """sum over rows of w_j u u' for j < J, added block by block.

    Parameters
    ----------
    size : int
        q, the length of u.
    n_weights : int
        J.
    precision : type
        Of the products; the sums over blocks are in double precision.
    """

    def __init__(self, size: int, n_weights: int, precision: type = np.float32) -> None:
        self.n_weights, self._precision = n_weights, precision
        self._padded = -(-n_weights // _WEIGHTS_MULTIPLE) * _WEIGHTS_MULTIPLE
        self._buffers = Buffers()
        separate = n_weights <= _SEPARATE_SHARE * size
        self._sums: _Separate | _Joint = (
            _Separate(size, n_weights, precision) if separate else _Joint(size, self._padded, precision)
        )

    def empty_weights(self, width: int) -> Array:
        """An array for the weights of a block of ``width`` rows: J of them and, behind, rows of zeros.

        It is the same one for every block of that width, and the sums' own: `add` takes it back.
        """
        weights = self._buffers.get("weights", (self._padded, width), self._precision)
        weights[self.n_weights :] = 0.0
        return weights

    def add(self, design: Array, weights: Array) -> None:
        """Add the rows ``design`` (q, width) with their ``weights``, an array of `empty_weights`, filled."""
        self._sums.add(design, weights)

    @property
    def packed(self) -> FloatArray:
        """The sums, packed: (J, q (q + 1) / 2)."""
        return np.asarray(self._sums.packed()[: self.n_weights])


class _Separate:
    """A matrix product a weight."""

    def __init__(self, size: int, n_weights: int, precision: type) -> None:
        self._sums = np.zeros((n_weights, size, size))
        self._precision, self._buffers = precision, Buffers()

    def add(self, design: Array, weights: Array) -> None:
        rows = self._buffers.get("rows", design.shape, self._precision)
        weighted = self._buffers.get("weighted", design.shape, self._precision)
        rows[:] = design
        for total, weight in zip(self._sums, weights, strict=False):
            total += np.multiply(rows, weight, out=weighted) @ rows.T

    def packed(self) -> FloatArray:
        a, b = upper_pairs(self._sums.shape[1])
        return np.asarray(self._sums[:, a, b])


class _Joint:
    """One matrix product of the products of all pairs of rows with all weights."""

    def __init__(self, size: int, n_weights: int, precision: type) -> None:
        self._size = size
        self._sums = np.zeros((_cycle_size(size), n_weights))
        self._cycle = _Cycle(size, _part_rows(size, precision), precision)

    def add(self, design: Array, weights: Array) -> None:
        width, most = design.shape[1], self._cycle.rows
        for start in range(0, width, most):
            part = slice(start, min(start + most, width))
            self._sums += self._cycle.products(design[:, part]) @ weights[:, part].T

    def packed(self) -> FloatArray:
        a, b = upper_pairs(self._size)
        distance = b - a
        # The pair (a, b) stands where its distance around the cycle is at most half of it.
        around = distance > self._size // 2
        start, distance = np.where(around, b, a), np.where(around, self._size - distance, distance)
        return np.asarray(self._sums[distance * self._size + start].T)


class _Cycle:
    """The products of all pairs of rows by one multiplication of long contiguous runs.

    Row a times row a + d modulo q, for all a and 0 <= d <= q / 2, is every pair once; an even q's
    pairs at d = q / 2 stand twice.
    """

    def __init__(self, size: int, rows: int, precision: type) -> None:
        self.rows, self._size = rows, size
        half = size // 2
        self._twice = empty((size + half, rows), precision)
        self._out = empty((half + 1, size, rows), precision)
        row, column = self._twice.strides
        # Entry (d, a) is row a + d.
        self._later = as_strided(self._twice, self._out.shape, (row, row, column), writeable=False)

    def products(self, design: Array) -> Array:
        """Products of ``design`` (q, B), shape ((q // 2 + 1) q, B)."""
        width = design.shape[1]
        twice, out = self._twice[:, :width], self._out[..., :width]
        twice[: self._size] = design
        twice[self._size :] = twice[: self._size // 2]
        np.multiply(twice[: self._size], self._later[..., :width], out=out)
        return out.reshape(-1, width)


def _cycle_size(size: int) -> int:
    return (size // 2 + 1) * size


def _part_rows(size: int, precision: type) -> int:
    fitting = _PART_BYTES // (np.dtype(precision).itemsize * packed_size(size))
    return max((rows for rows in _PARTS if rows <= fitting), default=_PARTS[0])


def pairwise_products(rows: Array, out: Array) -> Array:
    """out[(a, b)] = rows[a] * rows[b] for a <= b: (q, B) gives (q (q + 1) / 2, B)."""
    start = 0
    for a in range(len(rows)):
        stop = start + len(rows) - a
        np.multiply(rows[a], rows[a:], out=out[start:stop])
        start = stop
    return out


def packed_size(size: int) -> int:
    """Number of entries of a packed symmetric matrix."""
    return size * (size + 1) // 2


@lru_cache(maxsize=64)
def upper_pairs(size: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """``np.triu_indices``, which costs more than the sums of few rows: found once, not to be written to."""
    first, second = np.triu_indices(size)
    first.flags.writeable = second.flags.writeable = False
    return first, second


@lru_cache(maxsize=64)
def packed_rows(size: int) -> tuple[slice, ...]:
    """Where every row of a packed symmetric matrix stands, from its diagonal entry on."""
    starts = [a * size - a * (a - 1) // 2 for a in range(size + 1)]
    return tuple(map(slice, starts, starts[1:]))


@lru_cache(maxsize=64)
def _unpacking(size: int) -> NDArray[np.intp]:
    index = np.empty((size, size), dtype=np.intp)
    upper = upper_pairs(size)
    index[upper] = np.arange(packed_size(size))
    index.T[upper] = index[upper]
    return index


def unpack(packed: Array) -> Array:
    """Symmetric matrices (..., q, q) from packed ones (..., q (q + 1) / 2)."""
    size = int((np.sqrt(8 * packed.shape[-1] + 1) - 1) / 2)
    out: Array = packed[..., _unpacking(size)]
    return out

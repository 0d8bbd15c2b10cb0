"""Weighted Gram matrices of a block for many weightings at once.

All statistics of an EM pass and of a Newton step are sums over rows of w_j u u' for several weights j.
Forming the products u_a u_b (a <= b) once and multiplying by all weights is half the flops of J separate Gram
matrices and one large matrix product. Packed order is that of ``np.triu_indices(q)``.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskmoe.numerics.parameters import FloatArray

Array = NDArray[np.floating[Any]]

# The products of a part of a block should stay in the cache from being formed to being summed; in shorter
# parts the cost of a call shows.
_PART_BYTES = 2**21
_PARTS = (256, 512, 1024, 2048)
# Matrix products run at half their speed where the narrow side is no multiple of the kernels' width.
_WEIGHTS_MULTIPLE = 16


class Buffers:
    """Arrays kept from one block to the next; a smaller last block gets a contiguous one of its own."""

    def __init__(self) -> None:
        self._arrays: dict[str, Array] = {}

    def get(self, name: str, shape: tuple[int, ...], dtype: type = np.float64) -> Array:
        """An array of this shape, its values undefined when it is new."""
        array = self._arrays.get(name)
        if array is None or array.shape != shape:
            array = self._arrays[name] = np.empty(shape, dtype=dtype)
        return array


class GramSums:
    """sum over rows of w_j u u' for j < J, added block by block.

    Parameters
    ----------
    size : int
        q, the length of u; its first entry is one.
    n_weights : int
        J.
    precision : type
        Of the products; the sums over blocks are in double precision.
    """

    def __init__(self, size: int, n_weights: int, precision: type = np.float32) -> None:
        self._size, self._n_weights, self._precision = size, n_weights, precision
        self._padded = -(-n_weights // _WEIGHTS_MULTIPLE) * _WEIGHTS_MULTIPLE
        self._sums = np.zeros((packed_size(size), self._padded))
        self._buffers = Buffers()
        self._products: Array = np.empty((packed_size(size), _part_rows(size, precision)), dtype=precision)

    def weights(self, width: int) -> Array:
        """Where the caller writes the weights (J, width) of the next block."""
        padded = self._buffers.get("weights", (self._padded, width), self._precision)
        padded[self._n_weights :] = 0.0
        return padded[: self._n_weights]

    def add(self, design: Array) -> None:
        """Add the rows ``design`` (q, width) with the weights that were written for them."""
        width, most = design.shape[1], self._products.shape[1]
        weights = self._buffers.get("weights", (self._padded, width), self._precision)
        for start in range(0, width, most):
            part = slice(start, min(start + most, width))
            products = _design_products(design[:, part], self._products[:, : part.stop - start])
            self._sums += products @ weights[:, part].T

    @property
    def packed(self) -> FloatArray:
        """The sums, packed: (J, q (q + 1) / 2)."""
        return self._sums.T[: self._n_weights]


def _part_rows(size: int, precision: type) -> int:
    fitting = _PART_BYTES // (np.dtype(precision).itemsize * packed_size(size))
    return max((rows for rows in _PARTS if rows <= fitting), default=_PARTS[0])


def _design_products(rows: Array, out: Array) -> Array:
    """`pairwise_products` of rows of which the first is one."""
    size = len(rows)
    out[:size] = rows
    return _remaining_products(out[:size], 1, out)


def pairwise_products(rows: Array, out: Array) -> Array:
    """out[(a, b)] = rows[a] * rows[b] for a <= b: (q, B) gives (q (q + 1) / 2, B)."""
    return _remaining_products(rows, 0, out)


def _remaining_products(rows: Array, first: int, out: Array) -> Array:
    """The products with ``a`` from ``first`` on."""
    start = first * len(rows) - first * (first - 1) // 2
    for a in range(first, len(rows)):
        stop = start + len(rows) - a
        np.multiply(rows[a], rows[a:], out=out[start:stop])
        start = stop
    return out


def packed_size(size: int) -> int:
    """Number of entries of a packed symmetric matrix."""
    return size * (size + 1) // 2


@lru_cache(maxsize=64)
def _unpacking(size: int) -> NDArray[np.intp]:
    index = np.empty((size, size), dtype=np.intp)
    upper = np.triu_indices(size)
    index[upper] = np.arange(packed_size(size))
    index.T[upper] = index[upper]
    return index


def unpack(packed: Array) -> Array:
    """Symmetric matrices (..., q, q) from packed ones (..., q (q + 1) / 2)."""
    size = int((np.sqrt(8 * packed.shape[-1] + 1) - 1) / 2)
    out: Array = packed[..., _unpacking(size)]
    return out

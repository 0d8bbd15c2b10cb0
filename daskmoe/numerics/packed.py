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

Array = NDArray[np.floating[Any]]


def packed_size(size: int) -> int:
    """Number of entries of a packed symmetric matrix."""
    return size * (size + 1) // 2


def pairwise_products(rows: Array, out: Array) -> Array:
    """out[(a, b)] = rows[a] * rows[b] for a <= b: (q, B) gives (q (q + 1) / 2, B)."""
    start = 0
    for a in range(len(rows)):
        stop = start + len(rows) - a
        np.multiply(rows[a], rows[a:], out=out[start:stop])
        start = stop
    return out


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

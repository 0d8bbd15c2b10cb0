"""Symmetric systems that rounding can leave short of definite: one ridge, one scaling. Pure NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskmoe.numerics.base.parameters import FloatArray

Array = NDArray[np.floating[Any]]

_TINY = 1e-300


def ridged(matrices: Array, share: float, own: float = 0.0) -> FloatArray:
    """Copies of symmetric matrices (..., n, n) with a ridge at rounding level.

    A ``share`` of the diagonal's mean, as every entry of a sum in single precision is off by; where
    parameters of several kinds stand side by side, of each entry's ``own``, and a share of the largest.
    """
    out = np.array(matrices, dtype=np.float64)
    diagonal = np.einsum("...ii->...i", out)
    level = np.max if own else np.mean
    diagonal += own * diagonal + share * level(diagonal, axis=-1, keepdims=True) + _TINY
    return out


def solve(matrices: Array, right: Array, share: float, own: float = 0.0) -> FloatArray:
    """Solve symmetric systems (..., n, n) for right sides (..., n), with `ridged` matrices."""
    return np.asarray(np.linalg.solve(ridged(matrices, share, own), right[..., None])[..., 0])


def diagonal_scale(matrix: FloatArray) -> FloatArray:
    """Roots of a diagonal, its smallest entries raised: parameters of all kinds count alike in this scale."""
    diagonal = np.abs(np.diag(matrix))
    return np.asarray(np.sqrt(np.maximum(diagonal, 1e-10 * diagonal.max() + _TINY)))


def spread_evenly(n: int, most: int) -> NDArray[np.intp]:
    """At most ``most`` positions spread evenly over ``range(n)``, the first and the last among them."""
    return np.unique(np.linspace(0, max(n - 1, 0), most).round().astype(np.intp))

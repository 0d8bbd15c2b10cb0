"""Working arrays that start on a cache line and are kept from block to block.

Vector instructions that store across cache lines take twice the time, and NumPy's own arrays start anywhere.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating[Any]]

# In bytes: the width of a cache line and of the widest vector registers.
_LINE = 64


def empty(shape: tuple[int, ...], dtype: type = np.float64) -> Array:
    """``numpy.empty``, starting on a cache line."""
    itemsize = np.dtype(dtype).itemsize
    raw = np.empty(math.prod(shape) * itemsize + _LINE, dtype=np.uint8)
    start = -raw.ctypes.data % _LINE
    array: Array = raw[start : start + math.prod(shape) * itemsize].view(dtype).reshape(shape)
    return array


class Buffers:
    """Arrays kept from one block to the next; a smaller last block gets a contiguous one of its own."""

    def __init__(self) -> None:
        self._arrays: dict[str, Array] = {}

    def get(self, name: str, shape: tuple[int, ...], dtype: type = np.float64) -> Array:
        """An array of this shape, its values undefined when it is new."""
        array = self._arrays.get(name)
        if array is None or array.shape != shape:
            array = self._arrays[name] = empty(shape, dtype)
        return array

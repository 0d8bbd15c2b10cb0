"""Atoms: values that a response takes with positive probability. Pure NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def at_value(values: NDArray[Any], value: float) -> NDArray[np.bool_]:
    """Where an array has a value, in its own precision: 0.1 is another number in single precision."""
    return np.asarray(values == rounded(value, values.dtype), np.bool_)


def rounded(value: float, dtype: np.dtype[Any]) -> float:
    """A number as values of a floating type are, or of integers, as it is."""
    return float(dtype.type(value)) if dtype.kind == "f" else value

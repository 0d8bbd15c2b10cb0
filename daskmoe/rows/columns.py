"""From the values of variables to the matrix of features: one code for fits and for predictions.

Works on NumPy arrays of a block of rows: in a task that reads a partition, and in one that predicts a chunk.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskmoe.errors import InvalidDataError
from daskmoe.rows.codings import UnknownLevels
from daskmoe.rows.schema import FeatureVariable

FloatArray = NDArray[np.float64]
FeatureArray = NDArray[np.float64] | NDArray[np.float32]

# Elements handled at a time: a block of features and its temporaries stay in cache.
BLOCK_ELEMENTS = 1 << 17


def stack_features(
    values: Mapping[str, NDArray[Any]],
    variables: tuple[FeatureVariable, ...],
    shape: tuple[int, ...],
    *,
    unknown_is_missing: bool = False,
) -> FeatureArray:
    """The features of all rows of a box.

    Parameters
    ----------
    values : mapping of str to ndarray
        Of each source, with all sample dimensions in order, of length 1 where it has none, and its feature
        dimension, if any, last.
    variables : tuple of FeatureVariable
        What the columns are.
    shape : tuple of int
        Of the box, along the sample dimensions.
    unknown_is_missing : bool
        Whether a level that is not known is a missing value; else it is an error.

    Returns
    -------
    ndarray, shape (n, p)
        C-contiguous, in C order of the sample dimensions; float32 if all of it is, else float64.

    Raises
    ------
    InvalidDataError
        For a level that is not known.
    """
    single = all(_is_single(values, variable) for variable in variables)
    dtype = np.dtype(np.float32 if single else np.float64)
    width = sum(len(variable.labels) for variable in variables)
    if len(variables) == 1 and variables[0].coding is None and not variables[0].parts:
        only = _columns(values, variables[0], slice(None), unknown_is_missing)
        if only.shape[:-1] == shape:
            return np.ascontiguousarray(only, dtype).reshape(-1, width)
    out = np.empty((*shape, width), dtype)
    # By blocks of the first dimension: written column by column, every column would pull all of `out`
    # through the cache once more.
    step = max(1, BLOCK_ELEMENTS // max(1, width * math.prod(shape[1:])))
    for start in range(0, shape[0] if shape else 1, step):
        block = slice(start, start + step)
        column = 0
        for variable in variables:
            stop = column + len(variable.labels)
            target = out[block] if shape else out
            target[..., column:stop] = _columns(values, variable, block, unknown_is_missing)
            column = stop
    return out.reshape(-1, width)


def _is_single(values: Mapping[str, NDArray[Any]], variable: FeatureVariable) -> bool:
    """Whether columns are numbers of single precision, of any byte order, as they are."""
    if variable.coding is not None or variable.parts:
        return False
    dtype = values[variable.name].dtype
    return bool(dtype.kind == "f" and dtype.itemsize == 4)


def _columns(
    values: Mapping[str, NDArray[Any]], variable: FeatureVariable, block: slice, unknown_is_missing: bool
) -> NDArray[Any]:
    """The columns of a block along the first dimension, which may be of length 1 for all of it."""
    if variable.parts:
        factors = (_columns(values, part, block, unknown_is_missing) for part in variable.parts)
        return reduce(_products, factors)
    found = values[variable.name]
    if found.ndim and found.shape[0] != 1:
        found = found[block]
    if variable.coding is not None:
        try:
            return variable.coding.columns(found, unknown_is_missing=unknown_is_missing)
        except UnknownLevels as error:
            raise InvalidDataError(_unknown_text(variable, error.levels)) from None
    if variable.feature_dim is None:
        return found[..., np.newaxis]
    return found if variable.positions is None else np.take(found, variable.positions, axis=-1)


def _products(first: NDArray[Any], second: NDArray[Any]) -> NDArray[Any]:
    """Every column of the first times every column of the second, the second's fastest."""
    product = first[..., :, np.newaxis] * second[..., np.newaxis, :]
    return np.asarray(product.reshape(*product.shape[:-2], -1))


def _unknown_text(variable: FeatureVariable, levels: list[Any]) -> str:
    shown = ", ".join(repr(level) for level in levels[:5]) + (", ..." if len(levels) > 5 else "")
    return (
        f"Feature variable {variable.name!r} has levels that the model does not know: {shown}. In a fit name "
        f"all of them (categories={{{variable.name!r}: [...]}}); on_error='skip' takes them as missing."
    )

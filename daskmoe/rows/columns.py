"""From the values of variables to the matrix of features: one code for fits and for predictions.

Works on NumPy arrays of a block of rows: in a task that reads a partition, and in one that predicts a chunk.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import reduce
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskmoe.errors import InvalidDataError
from daskmoe.rows.codings import UnknownLevels
from daskmoe.rows.schema import FeatureVariable, RowSchema

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
    dtype = feature_dtype(variables, {name: array.dtype for name, array in values.items()})
    width = sum(len(variable.labels) for variable in variables)
    if len(variables) == 1 and variables[0].is_plain:
        only = plain_columns(values, variables[0])
        if only.shape[:-1] == shape:
            return np.ascontiguousarray(only, dtype).reshape(-1, width)
    out = np.empty((*shape, width), dtype)
    for block in row_blocks(out):
        for variable, place in column_places(variables).items():
            target = out[block][..., place]
            fill_columns(target, values, variable, block, unknown_is_missing=unknown_is_missing)
    return out.reshape(math.prod(shape), width)


def feature_dtype(variables: tuple[FeatureVariable, ...], dtypes: Mapping[str, Any]) -> np.dtype[Any]:
    """Single precision if all columns are numbers of it, of any byte order, as they are; else double."""
    single = all(
        each.is_plain and dtypes[each.name].kind == "f" and dtypes[each.name].itemsize == 4
        for each in variables
    )
    return np.dtype(np.float32 if single else np.float64)


def column_places(variables: tuple[FeatureVariable, ...]) -> dict[FeatureVariable, slice]:
    """Where the columns of each variable are."""
    stops = list(accumulate(len(variable.labels) for variable in variables))
    starts = [0, *stops][: len(stops)]
    return {
        variable: slice(start, stop) for variable, start, stop in zip(variables, starts, stops, strict=True)
    }


def row_blocks(out: FeatureArray) -> Iterator[slice]:
    """Blocks of the first dimension of features (..., p) to be filled.

    Written column by column, every column would pull all of them through the cache once more.
    """
    if out.ndim == 1:
        yield slice(None)
        return
    step = max(1, BLOCK_ELEMENTS // max(1, math.prod(out.shape[1:])))
    for start in range(0, len(out), step):
        yield slice(start, start + step)


def fill_columns(
    out: FeatureArray,
    values: Mapping[str, NDArray[Any]],
    variable: FeatureVariable,
    block: slice,
    *,
    unknown_is_missing: bool = False,
) -> None:
    """Write the columns of a block of rows, from the values of all rows, to ``out``."""
    out[...] = _columns(values, variable, block, unknown_is_missing)


def plain_columns(values: Mapping[str, NDArray[Any]], variable: FeatureVariable) -> NDArray[Any]:
    """The columns of a variable that are its values, along a last axis."""
    found = values[variable.name]
    if variable.feature_dim is None:
        return found[..., np.newaxis]
    return found if variable.positions is None else np.take(found, variable.positions, axis=-1)


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
    if variable.coding is None:
        return plain_columns({variable.name: found}, variable)
    try:
        return variable.coding.columns(found, unknown_is_missing=unknown_is_missing)
    except UnknownLevels as error:
        raise InvalidDataError(_unknown_text(variable, error.levels)) from None


def _products(first: NDArray[Any], second: NDArray[Any]) -> NDArray[Any]:
    """Every column of the first times every column of the second, the second's fastest."""
    product = first[..., :, np.newaxis] * second[..., np.newaxis, :]
    return np.asarray(product.reshape(*product.shape[:-2], -1))


def class_codes(values: NDArray[Any], schema: RowSchema, *, unknown_is_missing: bool = False) -> FloatArray:
    """The target's labels as codes of the classes, NaN where there is none.

    `InvalidDataError` names labels that are no class, unless these are missing values too.
    """
    assert schema.classes is not None
    try:
        return schema.classes.codes(values, unknown_is_missing=unknown_is_missing)
    except UnknownLevels as error:
        raise InvalidDataError(
            f"Target {schema.target!r} has labels that are none of the classes "
            f"{_shown(schema.classes.levels)}: {_shown(error.levels)}. In a fit name all of them "
            f"(categories={{{schema.target!r}: [...]}}); on_error='skip' takes them as missing."
        ) from None


def _shown(levels: Sequence[Any]) -> str:
    return ", ".join(repr(level) for level in levels[:5]) + (", ..." if len(levels) > 5 else "")


def _unknown_text(variable: FeatureVariable, levels: list[Any]) -> str:
    return (
        f"Feature variable {variable.name!r} has levels that the model does not know: {_shown(levels)}. In a "
        f"fit name all of them (categories={{{variable.name!r}: [...]}}); on_error='skip' takes them as "
        "missing."
    )

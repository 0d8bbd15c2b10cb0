"""Row functions of the numerics applied to labelled data: lazy data stay lazy, chunk for chunk.

A row function takes features (n, p), and where it needs one a value a row (n,), and gives (n,) or, with a
leading dimension, (K, n). It runs on blocks of rows, so a chunk needs little more memory than it holds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final, Literal, NamedTuple, Self, get_args

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from daskmoe.numerics.base.atoms import at_value
from daskmoe.numerics.base.parameters import FloatArray
from daskmoe.numerics.predictive.mixture import BLOCK_ROWS, row_blocks
from daskmoe.options import ON_ERROR, OnError, check_choice
from daskmoe.rows import FeatureVariable, RowSchema
from daskmoe.rows.columns import class_codes, stack_features
from daskmoe.rows.lazily import apply_in_blocks
from daskmoe.rows.values import plain

RowFunction = Callable[..., FloatArray]
FloatType = Literal["float64", "float32"]
FLOAT_TYPES: tuple[str, ...] = get_args(FloatType)

# What a coordinate's encoding says of its values. The rest is how the store that it comes from is laid out:
# its chunks, shards and codecs, which fit neither another format nor other chunks.
_OF_VALUES = ("units", "calendar", "dtype", "scale_factor", "add_offset", "_FillValue", "missing_value")


class Evaluation(NamedTuple):
    """How rows are evaluated."""

    # Whether a level that the model does not know is an error or a missing input.
    on_error: OnError = "raise"
    # Of the result, which is found in double precision.
    dtype: FloatType = "float64"

    def checked(self) -> Self:
        """Itself; `InvalidOptionError` for what cannot be."""
        check_choice("on_error", self.on_error, ON_ERROR)
        check_choice("dtype", self.dtype, FLOAT_TYPES)
        return self


PLAIN: Final = Evaluation()
# Stands for the source of the features where there is none.
_NOWHERE: Final = "no feature"


def input_key(name: str) -> str:
    """Name of a variable among the inputs: never that of a dimension, which would make an index of it."""
    return f"{name} values"


def gather_inputs(
    data: xr.Dataset, rows: RowSchema, *, with_target: bool = False, unknown_is_missing: bool = False
) -> xr.Dataset:
    """The variables that an evaluation reads, on one grid of chunks, without coordinates.

    The grid is the target's where the data hold a chunked target, else the features' own grids unified. A
    feature dimension becomes one chunk. Nothing is computed; data in memory stay in memory.

    Parameters
    ----------
    data : xr.Dataset
    rows : RowSchema
        Matched to ``data``.
    with_target : bool
        Whether the target is read too; of labels their codes.
    unknown_is_missing : bool
        Whether a label that is no class is a missing value; else it is an error.

    Returns
    -------
    xr.Dataset
        What the features are made of (and the target), with dtypes of NumPy, named by `input_key`. Together
        they have all sample dimensions.
    """
    variables = {input_key(name): plain(data.variables[name]) for name in rows.sources}
    if not variables:
        # A model without features predicts the same everywhere, and needs to know where.
        shape = tuple(data.sizes[dim] for dim in rows.sample_dims)
        everywhere = np.broadcast_to(np.zeros(1, dtype=np.int8), shape)
        variables[input_key(_NOWHERE)] = xr.Variable(rows.sample_dims, everywhere)
    if with_target:
        target = plain(data.variables[rows.target])
        if rows.classes is not None:
            target = _codes(target, rows, unknown_is_missing=unknown_is_missing)
        elif rows.atoms:
            target = off_atoms(target, rows.atoms)
        variables[input_key(rows.target)] = target
    inputs = xr.Dataset(variables).drop_attrs()
    absent = {dim: data.sizes[dim] for dim in rows.sample_dims if dim not in inputs.sizes}
    if absent:
        first = input_key(next(iter(rows.sources)))
        inputs[first] = inputs[first].expand_dims(absent)
    grid = _target_grid(data, rows)
    if not grid and all(variable.chunks is None for variable in variables.values()):
        return inputs
    undivided = [*rows.sources.values(), rows.output_dim if with_target else None]
    whole: dict[Any, Any] = {dim: -1 for dim in undivided if dim is not None}
    return inputs.chunk(whole | grid) if grid else inputs.chunk(whole).unify_chunks()


def _codes(labels: xr.Variable, rows: RowSchema, *, unknown_is_missing: bool) -> xr.Variable:
    """Labels as codes of the classes, lazy where they are."""
    found: xr.Variable = apply_in_blocks(
        class_codes, labels, dtype=np.float64, schema=rows, unknown_is_missing=unknown_is_missing
    )
    return found


def off_atoms(values: xr.Variable, atoms: tuple[float, ...]) -> xr.Variable:
    """The target with nothing at atoms, where a density says nothing; lazy where it is."""

    def outside(block: NDArray[Any]) -> FloatArray:
        at = np.logical_or.reduce([at_value(block, atom) for atom in atoms])
        return np.where(at, np.nan, block.astype(np.float64))

    found: xr.Variable = apply_in_blocks(outside, values, dtype=np.float64)
    return found


def apply_to_rows(
    function: RowFunction,
    inputs: xr.Dataset,
    rows: RowSchema,
    *,
    per_row: xr.Variable | None = None,
    leading: tuple[str, int] | None = None,
    block_size: int = BLOCK_ROWS,
    how: Evaluation = PLAIN,
) -> xr.Variable:
    """Evaluate ``function`` on all rows; rows with a missing or infinite input give NaN.

    Parameters
    ----------
    function : callable
        ``function(features)`` or, with ``per_row``, ``function(features, values)``.
    inputs : xr.Dataset
        From `gather_inputs`.
    rows : RowSchema
    per_row : xr.Variable, optional
        One value a row, over the sample dimensions: the response, or the row numbers. Of several outputs the
        response has their dimension too.
    leading : (str, int), optional
        Name and length of the dimension that the results of ``function`` have in front.
    block_size : int
        Rows that ``function`` gets at once.
    how : Evaluation
        What a level is that the model does not know, and the result's dtype.

    Returns
    -------
    xr.Variable
        Dimensions: the leading one, then the sample dimensions in the target's order.
    """
    sources = rows.sources or {_NOWHERE: None}
    core_dims: list[tuple[str, ...]] = [() if dim is None else (dim,) for dim in sources.values()]
    arguments = [inputs.variables[input_key(name)] for name in sources]
    if per_row is not None:
        arguments.append(per_row)
        core_dims.append(tuple(str(dim) for dim in per_row.dims if dim == rows.output_dim))
    evaluate = partial(
        _evaluate_block,
        function=function,
        sources=sources,
        value_dims=len(core_dims[-1]) if per_row is not None else 0,
        variables=rows.variables,
        unknown_is_missing=how.on_error != "raise",
        width=None if leading is None else leading[1],
        block_size=block_size,
        dtype=np.dtype(how.dtype),
    )
    result = apply_in_blocks(evaluate, *arguments, dtype=how.dtype, core_dims=core_dims, leading=leading)
    out: xr.Variable = result.transpose(*(() if leading is None else leading[:1]), *rows.sample_dims)
    return out


def row_numbers(inputs: xr.Dataset, rows: RowSchema) -> xr.Variable:
    """The number of every row, in C order of the sample dimensions; lazy where the inputs are."""
    total, stride = xr.Variable((), 0), 1
    for dim in reversed(rows.sample_dims):
        size = inputs.sizes[dim]
        total = xr.Variable(dim, _arange(size, inputs.chunksizes.get(dim))) * stride + total
        stride *= size
    return total.transpose(*rows.sample_dims)


def label_result(
    result: xr.Variable, data: xr.Dataset, rows: RowSchema, *, name: str, attrs: Mapping[str, Any]
) -> xr.DataArray:
    """A result with the coordinates that the target has, or would have, in ``data``; none is loaded.

    It can be written as it is: chunks that differ become chunks of the largest of them, and of the encodings
    of coordinates those of their values are kept.
    """
    kept = [
        key for key, coord in data.coords.items() if set(coord.dims) <= set(rows.sample_dims) and key != name
    ]
    coords = data.coords.to_dataset()
    coords = coords.drop_vars([key for key in coords.variables if key not in kept])
    coords = _writable(coords)
    result = _regular(result)
    leading = [dim for dim in result.dims if dim not in rows.sample_dims]
    coords = coords.assign_coords({dim: np.arange(result.sizes[dim]) for dim in leading})
    # A Coordinates object goes as it is; from a plain mapping xarray would load values to build indexes.
    return xr.DataArray(result, coords=coords.coords, name=name, attrs=dict(attrs))


def _writable(coords: xr.Dataset) -> xr.Dataset:
    """Coordinates in chunks that a store can have, with what their encodings say of values."""
    lazy = {name: _regular(v) for name, v in coords.variables.items() if v.chunks is not None}
    # A copy, as the caller's data keep their encodings.
    out = coords.assign_coords(xr.Coordinates(lazy, {})).copy(deep=False)
    for coordinate in out.variables.values():
        kept = _OF_VALUES if coordinate.dtype.kind in "biufmM" else ()
        coordinate.encoding = {key: value for key, value in coordinate.encoding.items() if key in kept}
    return out


def _regular(variable: xr.Variable) -> xr.Variable:
    """Lazy values in chunks of one size, but for the last, along every dimension."""
    uneven = {
        dim: max(sizes)
        for dim, sizes in variable.chunksizes.items()
        if len({*sizes[:-1]}) > 1 or sizes[-1] > sizes[0]
    }
    chunked: xr.Variable = variable.chunk(uneven) if uneven else variable
    return chunked


def _target_grid(data: xr.Dataset, rows: RowSchema) -> dict[Any, tuple[int, ...]]:
    if rows.target not in data.variables:
        return {}
    chunks = data.variables[rows.target].chunksizes
    return {dim: sizes for dim, sizes in chunks.items() if dim in rows.sample_dims}


def _arange(size: int, chunks: tuple[int, ...] | None) -> Any:
    if chunks is None:
        return np.arange(size)
    import dask.array as da

    return da.arange(size, chunks=(chunks,))


def _evaluate_block(
    *arrays: NDArray[Any],
    function: RowFunction,
    sources: dict[str, str | None],
    value_dims: int,
    variables: tuple[FeatureVariable, ...],
    unknown_is_missing: bool,
    width: int | None,
    block_size: int,
    dtype: np.dtype[Any],
) -> NDArray[np.floating[Any]]:
    """Stack the arrays of one chunk to rows, evaluate them in blocks, restore the chunk's shape."""
    values = arrays[len(sources) :]
    wide = [dim is not None for dim in sources.values()]
    leading = [a.shape[:-1] if w else a.shape for a, w in zip(arrays, wide, strict=False)]
    shape = np.broadcast_shapes(*leading, *(v.shape[: v.ndim - value_dims] for v in values))
    # Dimensions that an array lacks are the first ones.
    aligned = {
        name: array.reshape((1,) * (len(shape) - len(own)) + array.shape)
        for name, array, own in zip(sources, arrays, leading, strict=False)
    }
    features = stack_features(aligned, variables, shape, unknown_is_missing=unknown_is_missing)
    tails = [v.shape[v.ndim - value_dims :] for v in values]
    flat_values = [
        np.broadcast_to(v, (*shape, *tail)).reshape(len(features), *tail)
        for v, tail in zip(values, tails, strict=True)
    ]
    out = np.full((1 if width is None else width, len(features)), np.nan, dtype)
    for block in row_blocks(len(features), block_size):
        arguments = [features[block], *(v[block] for v in flat_values)]
        used = np.isfinite(arguments[0]).all(axis=1)
        for v in arguments[1:]:
            used &= np.isfinite(v).all(axis=tuple(range(1, v.ndim)))
        if used.any():
            out[:, block][:, used] = function(*(argument[used] for argument in arguments))
    if width is None:
        return out.reshape(shape)
    return np.moveaxis(out.reshape(width, *shape), 0, -1)

"""Planning partitions: which rows of a dataset belong together.

A partition is a box of index ranges along the sample dimensions, and within it either all rows, a range of
them in C order, or those where a coordinate has one value. Plans hold no data, so they cost a graph nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate, pairwise, product
from typing import Any

import numpy as np
import scipy
import xarray as xr
from numpy.typing import NDArray

from daskmoe.errors import InvalidDataError, InvalidOptionError
from daskmoe.rows.schema import RowSchema
from daskmoe.rows.values import plain_values
from daskmoe.rows.variables import listed

Range = tuple[int, int]


@dataclass(frozen=True)
class Partition:
    """Rows that are fitted together."""

    # Its number, from 0.
    index: int
    # The number, or the coordinate value that all its rows have, as text; empty for rows of a sample, which
    # are no partition.
    label: str
    # Index range (dim, start, stop) along every sample dimension.
    box: tuple[tuple[str, int, int], ...]
    # Range of the box's rows in C order; None for all.
    rows: tuple[int, int] | None
    # (name, value): only the rows of the box where this variable has this value; None for all.
    where: tuple[str, Any] | None
    # Number of its rows, those with missing values included.
    n_rows: int

    @property
    def extent(self) -> str:
        """The box as text."""
        return ", ".join(f"{dim} {start}:{stop}" for dim, start, stop in self.box)

    @property
    def name(self) -> str:
        """What messages call it."""
        return f"partition {self.label!r}" if self.label else f"the sample's rows in {self.extent}"


def plan_partitions(
    ds: xr.Dataset, schema: RowSchema, partitions: int | str | None = None
) -> tuple[Partition, ...]:
    """Divide the rows of a dataset; only a coordinate named in `partitions` is read.

    Parameters
    ----------
    ds : xr.Dataset
        The data.
    schema : RowSchema
        Its rows; the target must be in `ds`.
    partitions : int, str or None
        None: one partition a Dask chunk of the target (one in all if it has none). An integer P: P ranges of
        the rows in C order, as equal as can be. The name of a variable over sample dimensions: one partition
        a value, in sorted order.

    Returns
    -------
    tuple of Partition
        Every row of the target is in exactly one of them.

    Raises
    ------
    InvalidDataError
        If there are no rows, or values of the named variable are missing or cannot be sorted.
    InvalidOptionError
        If `partitions` is not one of the above, or not between 1 and the number of rows.

    Examples
    --------
    >>> import numpy as np
    >>> import xarray as xr
    >>> from daskmoe.rows import describe_rows
    >>> ds = xr.Dataset({"x": ("row", np.ones(5)), "y": ("row", np.ones(5))})
    >>> [part.box for part in plan_partitions(ds, describe_rows(ds, "y"), 2)]
    [(('row', 0, 2),), (('row', 2, 5),)]
    """
    dims = schema.sample_dims
    shape = tuple(ds.sizes[dim] for dim in dims)
    if math.prod(shape) == 0:
        raise InvalidDataError(
            f"Target {schema.target!r} has no rows: {dict(zip(dims, shape, strict=True))}."
        )
    if partitions is None:
        return tuple(_by_chunk(ds.variables[schema.target], dims, shape))
    if isinstance(partitions, str):
        return tuple(_by_value(ds, schema, partitions))
    if isinstance(partitions, bool) or not isinstance(partitions, int | np.integer):
        raise InvalidOptionError(
            f"Expected partitions to be None, an integer or the name of a coordinate, got {partitions!r}."
        )
    if not 1 <= partitions <= math.prod(shape):
        raise InvalidOptionError(
            f"Expected partitions between 1 and the {math.prod(shape)} rows of {schema.target!r}, "
            f"got {partitions}."
        )
    return tuple(_by_range(dims, shape, int(partitions)))


def comparable(values: NDArray[Any], name: str, use: str = "partition") -> NDArray[Any]:
    """Partition values in a form that sorts and compares: any kind of text becomes NumPy text."""
    # NumPy's text of variable length casts to that of fixed length by way of objects only.
    values = values.astype(object) if values.dtype.kind == "T" else values
    kind = values.dtype.kind
    if kind == "O" and not all(isinstance(value, str) for value in values.flat):
        raise InvalidDataError(
            f"Expected text, numbers or dates in {name!r} to {use} by, got missing values or objects; "
            "fill them or drop these rows."
        )
    if kind == "S":
        return np.char.decode(values, "utf-8")
    return values.astype(str) if kind == "O" else values


def _box(dims: tuple[str, ...], ranges: tuple[Range, ...]) -> tuple[tuple[str, int, int], ...]:
    return tuple((dim, *bounds) for dim, bounds in zip(dims, ranges, strict=True))


def _volume(ranges: tuple[Range, ...]) -> int:
    return math.prod(stop - start for start, stop in ranges)


def _by_chunk(target: xr.Variable, dims: tuple[str, ...], shape: tuple[int, ...]) -> Iterator[Partition]:
    chunks = [target.chunksizes.get(dim, (size,)) for dim, size in zip(dims, shape, strict=True)]
    edges = [pairwise(accumulate(sizes, initial=0)) for sizes in chunks]
    boxes = product(*[[(start, stop) for start, stop in pairs if stop > start] for pairs in edges])
    for index, ranges in enumerate(boxes):
        yield Partition(index, str(index), _box(dims, ranges), None, None, _volume(ranges))


def _by_range(dims: tuple[str, ...], shape: tuple[int, ...], count: int) -> Iterator[Partition]:
    n_rows = math.prod(shape)
    edges = (i * n_rows // count for i in range(count + 1))
    for index, (start, stop) in enumerate(pairwise(edges)):
        yield range_partition(dims, shape, index, start, stop)


def range_partition(
    dims: tuple[str, ...], shape: tuple[int, ...], index: int, start: int, stop: int
) -> Partition:
    """The partition of the rows from ``start`` to ``stop`` in C order."""
    ranges, skipped = _smallest_box(shape, start, stop)
    size = stop - start
    rows = None if size == _volume(ranges) else (skipped, skipped + size)
    return Partition(index, str(index), _box(dims, ranges), rows, None, size)


def _smallest_box(shape: tuple[int, ...], start: int, stop: int) -> tuple[tuple[Range, ...], int]:
    """The box whose rows in C order are one range around [start, stop), and how many of them come before."""
    first = [int(i) for i in np.unravel_index(start, shape)]
    last = [int(i) for i in np.unravel_index(stop - 1, shape)]
    split = next((d for d in range(len(shape)) if first[d] != last[d]), len(shape) - 1)
    ranges = [(i, j + 1) for i, j in zip(first[: split + 1], last[: split + 1], strict=True)]
    inner = math.prod(shape[split + 1 :])
    return (*ranges, *((0, size) for size in shape[split + 1 :])), start % inner


def _by_value(ds: xr.Dataset, schema: RowSchema, name: str) -> Iterator[Partition]:
    dims = schema.sample_dims
    coordinate = _variable_of_rows(ds, schema, name, "partitions")
    values, codes = _coded(comparable(plain_values(coordinate), name), name)
    counts = np.bincount(codes.ravel())
    repeats = math.prod(ds.sizes[dim] for dim in dims if dim not in coordinate.dims)
    boxes = scipy.ndimage.find_objects(codes + 1)
    for index, (value, slices) in enumerate(zip(values, boxes, strict=True)):
        found = {
            dim: (int(part.start), int(part.stop)) for dim, part in zip(coordinate.dims, slices, strict=True)
        }
        ranges = tuple(found.get(dim, (0, ds.sizes[dim])) for dim in dims)
        n_rows = int(counts[index]) * repeats
        plain = value if isinstance(value, np.datetime64 | np.timedelta64) else value.item()
        where = None if n_rows == _volume(ranges) else (name, plain)
        yield Partition(index, str(plain), _box(dims, ranges), None, where, n_rows)


def cluster_variable(ds: xr.Dataset, schema: RowSchema, name: str) -> str:
    """The name of a variable of clusters, which lies over sample dimensions."""
    if not isinstance(name, str):
        raise InvalidOptionError(f"cluster: expected the name of a coordinate, got {name!r}.")
    _variable_of_rows(ds, schema, name, "cluster")
    return name


def _variable_of_rows(ds: xr.Dataset, schema: RowSchema, name: str, option: str) -> xr.Variable:
    dims = set(schema.sample_dims)
    variable = ds.variables.get(name)
    if variable is None or not variable.dims or not set(variable.dims) <= dims:
        usable = [key for key, found in ds.variables.items() if found.dims and set(found.dims) <= dims]
        raise InvalidOptionError(
            f"Expected {option} to name a coordinate over the sample dimensions {schema.sample_dims}, "
            f"got {name!r}; the dataset has {listed(usable)}."
        )
    return variable


def _coded(values: NDArray[Any], name: str) -> tuple[NDArray[Any], NDArray[np.intp]]:
    """The sorted unique values, and for every element which of them it has."""
    flat = values.ravel()
    if missing := count_missing(flat):
        raise InvalidDataError(
            f"Expected a value of {name!r} for every row to partition by it, got {missing} missing of "
            f"{flat.size}; fill them or drop these rows."
        )
    # Sorting only the heads of runs: rows of one value are mostly stored together.
    heads = np.flatnonzero(np.concatenate([[True], flat[1:] != flat[:-1]]))
    unique, inverse = np.unique(flat[heads], return_inverse=True)
    codes = np.repeat(inverse, np.diff(heads, append=flat.size))
    return unique, codes.reshape(values.shape)


def count_missing(flat: NDArray[Any]) -> int:
    """How many of the values, as `comparable` gives them, are no value."""
    kind = flat.dtype.kind
    if kind == "U":
        return int(np.count_nonzero(flat == ""))
    if kind in "mM":
        return int(np.count_nonzero(np.isnat(flat)))
    return int(np.count_nonzero(flat != flat)) if kind == "f" else 0

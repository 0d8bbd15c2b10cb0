"""Stacking a partition: from a box of labelled arrays to features (n, p), response (n,) and weight (n,).

Arrays pass through without a copy where they are laid out as rows already, so rows may share memory with the
data they come from: they are read, never written to.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal, NamedTuple

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from daskmoe.errors import InvalidDataError
from daskmoe.numerics.base.atoms import rounded
from daskmoe.rows.columns import (
    BLOCK_ELEMENTS,
    FeatureArray,
    FloatArray,
    class_codes,
    column_places,
    feature_dtype,
    fill_columns,
    plain_columns,
    row_blocks,
)
from daskmoe.rows.partitions import Partition, comparable, count_missing
from daskmoe.rows.schema import FeatureVariable, RowSchema
from daskmoe.rows.stores import STORED, load_together
from daskmoe.rows.values import plain_values

Selection = slice | NDArray[np.intp]
Flags = NDArray[np.bool_]
OnError = Literal["raise", "skip", "drop"]

# A store is read in so many parts of the rows, where it has chunks enough, and of the columns, where they are
# in several variables. More would need less memory, and more time: each part passes over the result.
_SLABS = 4
_GROUPS = 4
# Bytes up to which a box is read at once: every call of a store waits for it.
_SMALL_BOX = 2**22


class Rows(NamedTuple):
    """Rows of a partition."""

    # (n, p): C-contiguous; float32 if all feature variables are, else float64.
    features: FeatureArray
    # (n,): The target, as float64.
    response: FloatArray | None
    # (n,): Row weights, if the schema has any.
    weight: FloatArray | None
    # Number of rows left out because a value was missing or infinite.
    dropped: int
    # (name, count): in how many of these rows it was this variable.
    reasons: tuple[tuple[str, int], ...] = ()
    # Where the first of them are.
    places: str = ""
    # Number of rows that are not there: neither target nor features have a value, as over the sea; or that
    # are at an atom.
    absent: int = 0
    # (n,): Labels of their clusters, where these are asked for.
    cluster: NDArray[Any] | None = None


def extract_rows(
    box: xr.Dataset,
    schema: RowSchema,
    partition: Partition,
    *,
    on_error: OnError = "raise",
    need_target: bool = True,
    positions: NDArray[np.intp] | None = None,
    cluster: str | None = None,
    unknown_is_missing: bool | None = None,
) -> Rows:
    """Stack the rows of a partition, loading them if they are lazy.

    Rows whose target and features are all missing are not there: they are counted and left out without a
    word. Features that lack a sample dimension, as a season does, cannot be masked and are not asked.

    Parameters
    ----------
    box : xr.Dataset
        The partition's piece of the data, as `read_box` gives it.
    schema : RowSchema
        The columns.
    partition : Partition
        Which rows of the box.
    on_error : {"raise", "skip", "drop"}
        What to do about rows with a NaN or infinite feature or response: raise, or drop and count them.
        So does "skip" with rows whose weight is NaN, and "drop" with rows of any wrong weight.
    need_target : bool
        Whether to give the response.
    positions : ndarray of int, optional
        Only these of the partition's rows, which is a range of rows then.
    cluster : str, optional
        The variable of the labels of clusters.
    unknown_is_missing : bool, optional
        Whether a level that is not known is a missing value, else an error; by default unless errors are.

    Returns
    -------
    Rows
        In C order of the sample dimensions.

    Raises
    ------
    InvalidDataError
        If a weight is negative or not finite, unless `on_error` lets it pass; if another value is not finite
        and `on_error` is "raise"; if the cluster of a row is missing.

    Examples
    --------
    >>> import numpy as np
    >>> import xarray as xr
    >>> from daskmoe.rows import describe_rows, plan_partitions
    >>> ds = xr.Dataset({"x": ("row", [1.0, 2.0, 3.0]), "y": ("row", [4.0, 5.0, np.nan])})
    >>> schema = describe_rows(ds, "y")
    >>> rows = extract_rows(ds, schema, *plan_partitions(ds, schema), on_error="skip")
    >>> rows.response.tolist(), rows.dropped
    ([4.0, 5.0], 1)
    """
    shape = tuple(stop - start for _, start, stop in partition.box)
    if STORED in box.encoding and box.nbytes <= _SMALL_BOX:
        box = load_together(box, [str(name) for name in box.variables])
    selection = _selection(box, schema, partition, shape)
    if positions is not None:
        assert isinstance(selection, slice)
        selection = positions + selection.start
    lenient = on_error != "raise" if unknown_is_missing is None else unknown_is_missing
    features = _features(box, schema, partition, shape, unknown_is_missing=lenient)[selection]
    response: FloatArray | None = None
    if need_target:
        response = _response(box, schema, partition, shape, selection, unknown_is_missing=lenient)
    aside = None if response is None else _at_atoms(response, box.variables[schema.target].dtype, schema)
    if response is not None and aside is not None:
        response = np.where(aside, np.nan, response)
    bad = _bad_rows(features, response)
    absent = None if bad is None or response is None else _absent_rows(features, response, bad, schema)
    absent = _either(absent, aside)
    weight = wrong = None
    if schema.weight is not None:
        weight = _column(box, schema.weight, schema, shape)[selection]
        weight = weight if schema.weight_factor == 1.0 else weight * schema.weight_factor
        wrong = _wrong_weights(weight, absent)
        # A weight that is missing is a missing value; a negative one is wrong whatever is left out.
        passes = on_error == "drop" or (on_error == "skip" and wrong is not None and _is_nan(weight[wrong]))
        if wrong is not None and not passes:
            raise InvalidDataError(_wrong_text(wrong, schema.weight, partition, selection))
    bad = _either(bad, wrong)
    if bad is not None and weight is not None:
        # A row of weight zero is masked, and may hold anything.
        bad &= weight != 0
    labels = None if cluster is None else _labels(box, cluster, schema, shape)[selection]
    if bad is None or not bad.any():
        return _with_clusters(Rows(features, response, weight, 0), labels, cluster, partition)
    good = ~bad
    if absent is not None:
        bad &= ~absent
    reasons: tuple[tuple[str, int], ...] = ()
    places = ""
    if bad.any():
        reasons = _reasons(features, response, wrong, bad, schema)
        places = _places(bad, partition, selection)
        if on_error == "raise":
            raise InvalidDataError(_bad_text(reasons, bad, partition, places))
    dropped = int(np.count_nonzero(bad))
    kept = Rows(
        features[good],
        None if response is None else response[good],
        None if weight is None else weight[good],
        dropped,
        reasons,
        places,
        len(good) - int(np.count_nonzero(good)) - dropped,
    )
    return _with_clusters(kept, None if labels is None else labels[good], cluster, partition)


def _labels(box: xr.Dataset, name: str, schema: RowSchema, shape: tuple[int, ...]) -> NDArray[Any]:
    """The labels of the clusters of all rows of a box."""
    values = comparable(_aligned(box.variables[name], schema.sample_dims, None), name, "cluster")
    return np.broadcast_to(values, shape).reshape(-1)


def _with_clusters(rows: Rows, labels: NDArray[Any] | None, name: str | None, partition: Partition) -> Rows:
    """The rows with these labels, none of which may be missing."""
    if labels is None:
        return rows
    if missing := count_missing(labels):
        raise InvalidDataError(
            f"Expected a value of {name!r} for every row to cluster by it, got {missing} missing of "
            f"{labels.size} in {partition.name}; fill them or drop these rows."
        )
    return rows._replace(cluster=labels)


def _aligned(variable: xr.Variable, sample_dims: tuple[str, ...], feature_dim: str | None) -> NDArray[Any]:
    """Values with the sample dimensions in order (length 1 where it has none), the feature dimension last."""
    # Loaded before it is transposed: lazy arrays pay for a transposition with scattered reads.
    values = plain_values(variable)
    order = [*sample_dims, feature_dim] if feature_dim else [*sample_dims]
    values = values.transpose([variable.dims.index(dim) for dim in order if dim in variable.dims])
    return values[tuple(slice(None) if dim in variable.dims else np.newaxis for dim in order)]


def _column(box: xr.Dataset, name: str, schema: RowSchema, shape: tuple[int, ...]) -> FloatArray:
    values = _aligned(box.variables[name], schema.sample_dims, None).astype(np.float64, copy=False)
    return np.broadcast_to(values, shape).reshape(-1)


def _response(
    box: xr.Dataset,
    schema: RowSchema,
    partition: Partition,
    shape: tuple[int, ...],
    selection: Selection,
    *,
    unknown_is_missing: bool,
) -> FloatArray:
    """The target of the selected rows, codes where it is labels."""
    if schema.output_dim is not None:
        values = _aligned(box.variables[schema.target], schema.sample_dims, schema.output_dim)
        whole = np.broadcast_to(values.astype(np.float64, copy=False), (*shape, values.shape[-1]))
        return whole.reshape(math.prod(shape), -1)[selection]
    if schema.classes is None:
        return _column(box, schema.target, schema, shape)[selection]
    values = _aligned(box.variables[schema.target], schema.sample_dims, None)
    labels = np.broadcast_to(values, shape).reshape(-1)[selection]
    try:
        return class_codes(labels, schema, unknown_is_missing=unknown_is_missing)
    except InvalidDataError as error:
        raise InvalidDataError(f"In {partition.name}: {error}") from None


def _at_atoms(response: FloatArray, dtype: np.dtype[Any], schema: RowSchema) -> Flags | None:
    """Which responses, that were of this dtype, are at an atom; None if none is."""
    levels = [rounded(value, dtype) for value in schema.atoms]
    at: Flags = np.isin(response, levels)
    return at if levels and at.any() else None


def _features(
    box: xr.Dataset,
    schema: RowSchema,
    partition: Partition,
    shape: tuple[int, ...],
    *,
    unknown_is_missing: bool,
) -> FeatureArray:
    """The features of all rows of a box, (n, p).

    What is read and not yet in place is kept small beside the result: a store is read a part of the rows and
    a few variables at a time.
    """
    dtype = feature_dtype(schema.variables, {name: box.variables[name].dtype for name in schema.sources})
    width = len(schema.feature_labels)
    stored = STORED in box.encoding
    groups = _groups(schema.variables, stored)
    # Several variables are few at a time already, and parts of the rows too would cost their calls again.
    slabs = _slabs(box, schema, shape) if stored and len(groups) < _GROUPS else [slice(0, shape[0])]
    if len(schema.variables) == len(slabs) == 1 and schema.variables[0].is_plain:
        part = plain_columns(_values(box, schema, schema.variables), schema.variables[0])
        if part.shape[:-1] == shape:
            return np.ascontiguousarray(part, dtype).reshape(-1, width)
    out = np.empty((*shape, width), dtype)
    places = column_places(schema.variables)
    for slab in slabs:
        piece = box if len(slabs) == 1 else box.isel({schema.sample_dims[0]: slab}, missing_dims="ignore")
        for group in groups:
            names = list(dict.fromkeys(leaf.name for each in group for leaf in each.leaves))
            some = load_together(piece, names) if stored and len(names) > 1 else piece
            values = _values(some, schema, group)
            try:
                for block in row_blocks(out[slab]):
                    for each in group:
                        target = out[slab][block][..., places[each]]
                        fill_columns(target, values, each, block, unknown_is_missing=unknown_is_missing)
            except InvalidDataError as error:
                raise InvalidDataError(f"In {partition.name}: {error}") from None
            # Not to be held while the next are read.
            del values, some
    return out.reshape(math.prod(shape), width)


def _values(
    box: xr.Dataset, schema: RowSchema, variables: Sequence[FeatureVariable]
) -> dict[str, NDArray[Any]]:
    """What some variables are made of, loaded and aligned."""
    sources = {leaf.name: leaf.feature_dim for each in variables for leaf in each.leaves}
    return {name: _aligned(box.variables[name], schema.sample_dims, dim) for name, dim in sources.items()}


def _slabs(box: xr.Dataset, schema: RowSchema, shape: tuple[int, ...]) -> list[slice]:
    """Ranges of the first dimension that are read in turn: of a store a few, each of whole chunks."""
    chunks = [
        each.encoding.get("shards") or each.encoding.get("chunks") or each.shape
        for each in box.variables.values()
    ]
    dim = schema.sample_dims[0]
    sizes = {
        int(sizes[each.dims.index(dim)])
        for each, sizes in zip(box.variables.values(), chunks, strict=True)
        if dim in each.dims
    }
    if len(sizes) != 1:
        return [slice(0, shape[0])]
    (size,) = sizes
    start = box.encoding[STORED].get(dim, 0)
    step = max(1, shape[0] // _SLABS // size) * size
    edges = [0, *range(step - start % size, shape[0], step), shape[0]]
    return [slice(low, high) for low, high in pairwise(edges)]


def _groups(variables: tuple[FeatureVariable, ...], stored: bool) -> list[tuple[FeatureVariable, ...]]:
    """Variables that are read before they are put in place: of a store a quarter of the columns.

    What is made of the same variables is made at once.
    """
    most = sum(len(variable.labels) for variable in variables) // _GROUPS if stored else math.inf
    groups: list[list[FeatureVariable]] = [[]]
    for together in _sharing(variables):
        held = sum(len(each.labels) for each in groups[-1])
        if held and held + sum(len(each.labels) for each in together) > most:
            groups.append([])
        groups[-1].extend(together)
    return [tuple(group) for group in groups]


def _sharing(variables: tuple[FeatureVariable, ...]) -> list[list[FeatureVariable]]:
    """The variables, those with a source in common together."""
    out: list[tuple[set[str], list[FeatureVariable]]] = []
    for variable in variables:
        names = {leaf.name for leaf in variable.leaves}
        joined = [entry for entry in out if entry[0] & names]
        first = joined[0] if joined else (set(), [])
        for other in joined[1:]:
            first[0].update(other[0])
            first[1].extend(other[1])
            out.remove(other)
        first[0].update(names)
        first[1].append(variable)
        if not joined:
            out.append(first)
    return [members for _, members in out]


def _selection(box: xr.Dataset, schema: RowSchema, partition: Partition, shape: tuple[int, ...]) -> Selection:
    if partition.where is None:
        return slice(*partition.rows) if partition.rows is not None else slice(0, math.prod(shape))
    name, value = partition.where
    values = comparable(_aligned(box.variables[name], schema.sample_dims, None), name)
    return np.flatnonzero(np.broadcast_to(values == value, shape))


def _wrong_weights(weight: FloatArray, absent: Flags | None) -> Flags | None:
    """Which weights of rows that are there are negative or not finite; None if none is."""
    if not weight.size or (weight.min() >= 0 and weight.max() < math.inf):
        return None
    wrong: Flags = ~((weight >= 0) & (weight < math.inf))
    if absent is not None:
        wrong &= ~absent
    return wrong if wrong.any() else None


def _is_nan(weight: FloatArray) -> bool:
    return bool(np.isnan(weight).all())


def _wrong_text(wrong: Flags, name: str, partition: Partition, selection: Selection) -> str:
    return (
        f"Expected weights of zero or more, got {np.count_nonzero(wrong)} negative, infinite or NaN of "
        f"{wrong.size} in variable {name!r} of {partition.name} ({_places(wrong, partition, selection)})."
    )


def _as_columns(response: FloatArray) -> FloatArray:
    """A response as (n, 1), several outputs as they are."""
    return response if response.ndim == 2 else response[:, np.newaxis]


def _bad_rows(features: FeatureArray, response: FloatArray | None) -> Flags | None:
    return _either(_not_finite(features), None if response is None else _not_finite(_as_columns(response)))


def _absent_rows(features: FeatureArray, response: FloatArray, bad: Flags, schema: RowSchema) -> Flags | None:
    """Which of the bad rows are not there; None if none can be."""
    maskable = np.array([schema.can_mask(v) for v in schema.variables for _ in v.labels], np.bool_)
    if not maskable.any():
        return None
    absent = np.zeros(len(bad), np.bool_)
    candidates = np.flatnonzero(bad & np.isnan(_as_columns(response)).all(axis=1))
    absent[candidates] = np.isnan(features[candidates][:, maskable]).all(axis=1)
    return absent


def _either(first: Flags | None, second: Flags | None) -> Flags | None:
    if first is None or second is None:
        return second if first is None else first
    return first | second


def _not_finite(values: FeatureArray) -> Flags | None:
    """Which rows have a NaN or infinity; None if no row has."""
    with np.errstate(all="ignore"):
        # A finite sum has finite terms, and needs no temporary.
        if math.isfinite(values.sum()):
            return None
    bad = np.empty(len(values), np.bool_)
    step = max(1, BLOCK_ELEMENTS // values.shape[1])
    for start in range(0, len(values), step):
        block = slice(start, start + step)
        np.logical_not(np.isfinite(values[block]).all(axis=1), out=bad[block])
    return bad if bad.any() else None


def _reasons(
    features: FeatureArray, response: FloatArray | None, wrong: Flags | None, bad: Flags, schema: RowSchema
) -> tuple[tuple[str, int], ...]:
    """How many of the bad rows are bad by each variable."""
    missing = ~np.isfinite(features[bad])
    counts = []
    column = 0
    for variable in schema.variables:
        stop = column + len(variable.labels)
        counts.append((variable.name, int(np.count_nonzero(missing[:, column:stop].any(axis=1)))))
        column = stop
    if response is not None:
        wrong_target = ~np.isfinite(_as_columns(response)[bad]).all(axis=1)
        counts.append((schema.target, int(np.count_nonzero(wrong_target))))
    if wrong is not None and schema.weight is not None:
        counts.append((schema.weight, int(np.count_nonzero(wrong))))
    return tuple((name, count) for name, count in counts if count)


def _bad_text(reasons: tuple[tuple[str, int], ...], bad: Flags, partition: Partition, places: str) -> str:
    return (
        f"Expected finite values, got NaN or infinity in {np.count_nonzero(bad)} of {bad.size} rows of "
        f"{partition.name} (by variable: "
        + ", ".join(f"{name!r} {count}" for name, count in reasons)
        + f"; {places}). on_error='skip' drops such rows and counts them."
    )


def _places(bad: Flags, partition: Partition, selection: Selection, limit: int = 3) -> str:
    """The first bad rows, as positions along the sample dimensions of the whole dataset."""
    first = np.flatnonzero(bad)[:limit]
    inside = selection.start + first if isinstance(selection, slice) else selection[first]
    shape = tuple(stop - start for _, start, stop in partition.box)
    places = zip(*np.unravel_index(inside, shape), strict=True)
    texts = [
        ", ".join(f"{dim}[{start + int(i)}]" for (dim, start, _), i in zip(partition.box, place, strict=True))
        for place in places
    ]
    return "first at " + "; ".join(texts)

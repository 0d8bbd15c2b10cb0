"""Some rows of the data behind a picture, in memory, and the features along one of them."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from daskmoe.errors import InvalidDataError, InvalidOptionError
from daskmoe.model import MixtureOfExperts
from daskmoe.model.prediction import match_data
from daskmoe.numerics.base.parameters import FloatArray
from daskmoe.rows import Data, RowSchema
from daskmoe.rows.codings import Levels
from daskmoe.rows.columns import stack_features
from daskmoe.rows.values import plain_values

# Rows that a picture shows, in so many runs along each dimension: of a store few chunks are read.
MOST_ROWS: Final = 20_000
_RUNS: Final = 24
# Points along a feature.
_POINTS: Final = 240


class Sample(NamedTuple):
    """Complete rows."""

    # Matched to the data.
    rows: RowSchema
    # The values of each variable that features are made of: (n,), or (n, columns).
    sources: dict[str, NDArray[Any]]
    # (n, p)
    features: FloatArray
    # (n,); None where the data have no target.
    response: FloatArray | None
    # The data's attributes.
    data: xr.Dataset


class Sweep(NamedTuple):
    """Rows along one feature, all others as is typical of them."""

    # (m,): Positions on an axis, or dates.
    along: NDArray[Any]
    # Texts of the positions where these are levels; None where they are values.
    levels: list[str] | None
    # (m, p)
    features: FloatArray
    # (n,): The feature's values of the sample, where they are on the axis.
    seen: NDArray[Any]
    # Name of the variable, and of its column where it has several.
    name: str
    column: str


def take_sample(model: MixtureOfExperts, data: Data, *, need_target: bool = False) -> Sample:
    """At most `MOST_ROWS` complete rows, the same in every call.

    Parameters
    ----------
    model : MixtureOfExperts
    data : xr.Dataset, str or path
    need_target : bool
        Whether data without the target are an error.

    Raises
    ------
    InvalidDataError
        If a variable is missing, or no row is complete.
    """
    dataset, rows = match_data(data, model.rows, with_target=need_target)
    with_target = model.target in dataset.variables
    if with_target and not need_target:
        dataset, rows = match_data(dataset, model.rows, with_target=True)
    wanted = [*rows.sources, *([rows.target] if with_target else [])]
    some = dataset[wanted].isel(_runs({dim: dataset.sizes[dim] for dim in rows.sample_dims})).load()
    shape = tuple(some.sizes[dim] for dim in rows.sample_dims)
    sources = {name: _flat(some[name], rows.sample_dims, dim, shape) for name, dim in rows.sources.items()}
    features = np.asarray(
        stack_features(sources, rows.variables, (int(np.prod(shape)),), unknown_is_missing=True), np.float64
    )
    response = (
        _flat(some[rows.target], rows.sample_dims, None, shape).astype(np.float64) if with_target else None
    )
    complete = np.isfinite(features).all(axis=1)
    if response is not None:
        complete &= np.isfinite(response)
    if not complete.any():
        raise InvalidDataError("data: expected rows without missing values, got none among those looked at.")
    return Sample(
        rows,
        {name: values[complete] for name, values in sources.items()},
        features[complete],
        None if response is None else response[complete],
        some,
    )


def sweep(sample: Sample, feature: str, n_points: int = _POINTS) -> Sweep:
    """The features along ``feature``, a variable or a column of one; others are at means or usual levels."""
    name, position = _find(sample, feature)
    values = sample.sources[name] if position is None else sample.sources[name][:, position]
    coding = next(
        (v.coding for each in sample.rows.variables for v in each.leaves if v.name == name and v.coding), None
    )
    levels: list[str] | None = None
    if isinstance(coding, Levels):
        grid: NDArray[Any] = np.array(coding.levels, dtype=object)
        levels = list(coding.names)
        along: NDArray[Any] = np.arange(len(grid))
        seen = pd.Index(grid).get_indexer(pd.Index(values.astype(object)))
    else:
        seen, along = values, _grid(values, n_points)
        grid = along
    features = _stack(sample, {name: (grid, position)}, len(grid))
    return Sweep(along, levels, features, seen, name, feature)


def sweep_two(sample: Sample, first: str, second: str, n_points: int) -> tuple[Sweep, Sweep, FloatArray]:
    """Two sweeps, and the features on their grid, (m_second, m_first, p)."""
    one, two = (sweep(sample, feature, n_points) for feature in (first, second))
    (name, position), (other, place) = _find(sample, first), _find(sample, second)
    if name == other and position == place:
        raise InvalidOptionError(f"other: expected another feature than {first!r}, got the same.")
    if one.levels is not None or two.levels is not None:
        raise InvalidOptionError("other: expected two features of numbers or dates, got one of levels.")
    x = np.tile(one.along, len(two.along))
    y = np.repeat(two.along, len(one.along))
    changed = {name: (x, position)}
    if name == other:
        joined = np.stack([_typical(sample.sources[name])] * len(x))
        joined[:, position], joined[:, place] = x, y
        changed = {name: (joined, None)}
    else:
        changed[other] = (y, place)
    features = _stack(sample, changed, len(x))
    return one, two, features.reshape(len(two.along), len(one.along), -1)


def _find(sample: Sample, feature: str) -> tuple[str, int | None]:
    """The variable that is meant, and its column where it has several."""
    columns: dict[str, tuple[str, int | None]] = {}
    for each in sample.rows.variables:
        for variable in each.leaves:
            if variable.feature_dim is None:
                columns[variable.name] = (variable.name, None)
                continue
            for j, label in enumerate(variable.labels):
                position = j if variable.positions is None else variable.positions[j]
                columns[label] = (variable.name, position)
    if feature not in columns:
        raise InvalidOptionError(f"feature: expected one of {list(columns)}, got {feature!r}.")
    return columns[feature]


def _stack(sample: Sample, changed: dict[str, tuple[NDArray[Any], int | None]], n_rows: int) -> FloatArray:
    values = {}
    for name, seen in sample.sources.items():
        usual = _typical(seen)
        filled = np.stack([usual] * n_rows) if usual.ndim else np.full(n_rows, usual, dtype=usual.dtype)
        if name in changed:
            given, position = changed[name]
            if position is None:
                filled = given
            else:
                filled[:, position] = given
        values[name] = filled
    return np.asarray(stack_features(values, sample.rows.variables, (n_rows,)), np.float64)


def _typical(values: NDArray[Any]) -> NDArray[Any]:
    """The mean of numbers, the middle of dates, the most frequent of all else."""
    if values.dtype.kind in "iuf":
        return np.asarray(values.astype(np.float64).mean(axis=0))
    if values.dtype.kind in "mM":
        return np.asarray(np.sort(values)[len(values) // 2])
    return np.asarray(pd.Series(values).mode().iloc[0], dtype=values.dtype)


def _grid(values: NDArray[Any], n_points: int) -> NDArray[Any]:
    """Between the least and the largest value, of which the outermost thousandth is left out."""
    if values.dtype.kind in "mM":
        numbers = values.astype(np.int64)
        return np.linspace(numbers.min(), numbers.max(), n_points).astype(np.int64).astype(values.dtype)
    if values.dtype.kind == "b":
        return np.array([False, True])
    low, high = np.quantile(values.astype(np.float64), [0.001, 0.999])
    return np.linspace(low, high, n_points)


def _flat(
    values: xr.DataArray, sample_dims: tuple[str, ...], feature_dim: str | None, shape: tuple[int, ...]
) -> NDArray[Any]:
    """Values of all rows, (n,) or (n, columns)."""
    variable = xr.Variable(values.dims, plain_values(values.variable))
    sizes = dict(zip(sample_dims, shape, strict=True))
    wide = {} if feature_dim is None else {feature_dim: variable.sizes[feature_dim]}
    full = variable.set_dims(sizes | wide)  # type: ignore[no-untyped-call]
    ordered = full.transpose(*sample_dims, *([] if feature_dim is None else [feature_dim]))
    return np.ascontiguousarray(ordered.values).reshape(int(np.prod(shape)), *ordered.shape[len(shape) :])


def _runs(sizes: dict[str, int]) -> dict[str, NDArray[np.intp]]:
    """Positions to keep along each dimension: a few runs, so that rows of all of the data are seen."""
    rng = np.random.default_rng(0)
    share = (MOST_ROWS / max(1, int(np.prod(list(sizes.values()))))) ** (1.0 / max(1, len(sizes)))
    if share >= 1.0:
        return {}
    kept = {}
    for dim, size in sizes.items():
        count = max(1, int(size * share))
        n_runs = min(_RUNS, count)
        starts = np.linspace(0, size, n_runs, endpoint=False)
        length, room = count // n_runs, size // n_runs
        shift = rng.integers(0, max(1, room - length + 1), n_runs)
        positions = (starts.astype(int) + shift)[:, None] + np.arange(length)
        kept[dim] = np.unique(positions.clip(0, size - 1))
    return kept

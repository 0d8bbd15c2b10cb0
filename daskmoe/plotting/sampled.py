"""Some rows of the data behind a picture, in memory, and the features along one of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from daskmoe.errors import InvalidDataError, InvalidOptionError
from daskmoe.model import MixtureWithAtoms
from daskmoe.model.prediction import match_data
from daskmoe.numerics.base.atoms import at_value
from daskmoe.numerics.base.parameters import FloatArray
from daskmoe.plotting.shown import Shown
from daskmoe.rows import Data, RowSchema
from daskmoe.rows.codings import Levels
from daskmoe.rows.columns import class_codes, stack_features
from daskmoe.rows.computing import computed
from daskmoe.rows.values import as_objects, plain_values

# Rows that a picture shows, in so many runs along each dimension: of a store few chunks are read.
MOST_ROWS: Final = 20_000
_RUNS: Final = 24
# Of the values, left out at each end of an axis.
_OUTER: Final = 0.001


class Sample(NamedTuple):
    """Complete rows."""

    # Matched to the data.
    rows: RowSchema
    # The values of each variable that features are made of: (n,), or (n, columns).
    sources: dict[str, NDArray[Any]]
    # (n, p)
    features: FloatArray
    # (n,): Codes of labels; of several outputs the one that is shown, else (n, O); None without a target.
    response: FloatArray | None
    # The data's attributes.
    data: xr.Dataset


@dataclass(frozen=True)
class Axis:
    """A feature, a variable or a column of one, as the axis of a picture."""

    # The variable, its column where it has several, and where that is.
    name: str
    column: str
    position: int | None
    # (n,): The values of the sample; positions of the levels where it has such.
    seen: NDArray[Any]
    # What levels are called, and are in the data; None for numbers and dates.
    levels: list[str] | None = None
    values_of_levels: tuple[Any, ...] = ()

    def within(self) -> FloatArray:
        """The values as numbers, (n,); NaN for the outermost thousandths, for which no axis is to be long."""
        values = as_numbers(self.seen)
        if self.levels is not None or self.seen.dtype.kind in "mM":
            return values
        low, high = np.quantile(values, [_OUTER, 1.0 - _OUTER])
        return np.where((values >= low) & (values <= high), values, np.nan)

    def placed(self, numbers: FloatArray) -> NDArray[Any]:
        """Numbers back as values of the axis."""
        return numbers.astype(np.int64).astype(self.seen.dtype) if self.seen.dtype.kind in "mM" else numbers

    def grid(self, n_points: int) -> NDArray[Any]:
        """Values from end to end, or the positions of all levels."""
        if self.levels is not None:
            return np.arange(len(self.levels))
        values = self.within()
        return self.placed(np.linspace(np.nanmin(values), np.nanmax(values), n_points))

    def edges(self, n_cells: int) -> FloatArray:
        """Edges of cells of one width as numbers, or halfway between the values where these are few."""
        values = self.within()
        found = np.unique(values[np.isfinite(values)])
        if len(found) > n_cells or len(found) < 2:
            return np.linspace(found[0], found[-1], n_cells + 1)
        halves = 0.5 * (found[1:] + found[:-1])
        return np.concatenate([[2 * found[0] - halves[0]], halves, [2 * found[-1] - halves[-1]]])

    def middles(self, n_bins: int) -> NDArray[Any]:
        """The mean value of the rows of each bin, or the positions of all levels."""
        if self.levels is not None:
            return np.arange(len(self.levels))
        values = as_numbers(self.seen)
        return self.placed(np.array([values[rows].mean() for rows in self._bins(n_bins)]))

    def average(self, of: FloatArray, n_bins: int) -> FloatArray:
        """Means over the rows of bins of equally many, or over those of each level; zero where is none."""
        if self.levels is not None:
            kept = self.seen >= 0
            count = np.bincount(self.seen[kept], minlength=len(self.levels))
            sums = np.bincount(self.seen[kept], of[kept], minlength=len(self.levels))
            return np.asarray(sums / np.maximum(count, 1))
        return np.array([of[rows].mean() for rows in self._bins(n_bins)])

    def _bins(self, n_bins: int) -> list[NDArray[np.intp]]:
        """Rows by value; rows of the same value are never in two bins."""
        values, bin_of = np.unique(as_numbers(self.seen), return_inverse=True)
        if len(values) > n_bins:
            order = np.argsort(bin_of, kind="stable")
            cut = np.unique(bin_of[order[:: -(-len(order) // n_bins)]])
            bin_of = np.searchsorted(cut, bin_of, side="right") - 1
        order = np.argsort(bin_of, kind="stable")
        return np.split(order, np.flatnonzero(np.diff(bin_of[order])) + 1)


def take_sample(shown: Shown, data: Data, *, need_target: bool = False) -> Sample:
    """At most `MOST_ROWS` complete rows, the same in every call.

    Of experts beside atoms alone they are those at no atom, where the target is known.

    Parameters
    ----------
    shown : Shown
    data : xr.Dataset, str or path
    need_target : bool
        Whether data without the target are an error.

    Raises
    ------
    InvalidDataError
        If a variable is missing, or no row is complete.
    """
    dataset, rows = match_data(data, shown.rows, with_target=need_target)
    with_target = rows.target in dataset.variables
    if with_target and not need_target:
        dataset, rows = match_data(dataset, shown.rows, with_target=True)
    wanted = [*rows.sources, *([rows.target] if with_target else [])]
    some = computed(dataset[wanted].isel(_runs({dim: dataset.sizes[dim] for dim in rows.sample_dims})))
    shape = tuple(some.sizes[dim] for dim in rows.sample_dims)
    sources = {name: _flat(some[name], rows.sample_dims, dim, shape) for name, dim in rows.sources.items()}
    features = np.asarray(
        stack_features(sources, rows.variables, (int(np.prod(shape)),), unknown_is_missing=True), np.float64
    )
    response = None
    if with_target:
        values = _flat(some[rows.target], rows.sample_dims, rows.output_dim, shape)
        response = _response(values, rows, shown)
    complete = np.isfinite(features).all(axis=1)
    if response is not None:
        complete &= np.isfinite(response.reshape(len(response), -1)).all(axis=1)
    if not complete.any():
        raise InvalidDataError("data: expected rows without missing values, got none among those looked at.")
    return Sample(
        rows,
        {name: values[complete] for name, values in sources.items()},
        features[complete],
        None if response is None else response[complete],
        some,
    )


def _response(values: NDArray[Any], rows: RowSchema, shown: Shown) -> FloatArray:
    """The target as numbers, of one output where one is shown."""
    if rows.classes is not None:
        return class_codes(values, rows, unknown_is_missing=True)
    found = values.astype(np.float64)
    for atom in rows.atoms:
        # In its own precision a value may be next to the atom only.
        found[at_value(values, atom)] = atom if isinstance(shown.model, MixtureWithAtoms) else np.nan
    return found if shown.output is None else found[:, shown.output]


def axis_of(sample: Sample, feature: str | None) -> Axis:
    """The axis along ``feature``, a variable or a column of one, the first one for None.

    `InvalidOptionError` if it is none.
    """
    columns = _columns(sample)
    if feature is None:
        feature = next(iter(columns), "none")
    if feature not in columns:
        raise InvalidOptionError(f"feature: expected one of {list(columns)}, got {feature!r}.")
    name, position = columns[feature]
    values = sample.sources[name] if position is None else sample.sources[name][:, position]
    codings = (leaf.coding for each in sample.rows.variables for leaf in each.leaves if leaf.name == name)
    coding = next((coding for coding in codings if coding is not None), None)
    if isinstance(coding, Levels):
        known = pd.Index(np.array(coding.levels, dtype=object))
        seen = known.get_indexer(pd.Index(as_objects(values)))
        return Axis(name, feature, position, seen, list(coding.names), coding.levels)
    if values.dtype.kind == "b":
        return Axis(name, feature, position, values.astype(np.intp), ["False", "True"], (False, True))
    return Axis(name, feature, position, values)


def different_axis(sample: Sample, first: Axis, other: str) -> Axis:
    """A second axis of numbers or dates beside a first one."""
    second = axis_of(sample, other)
    if (first.name, first.position) == (second.name, second.position):
        raise InvalidOptionError(f"other: expected another feature than {other!r}, got the same.")
    if first.levels is not None or second.levels is not None:
        raise InvalidOptionError("other: expected two features of numbers or dates, got one of levels.")
    return second


def features_along(sample: Sample, axis: Axis, grid: NDArray[Any], weight: FloatArray) -> FloatArray:
    """Features along a grid of an axis, all others as is typical of the weighted rows, (m, p)."""
    values = {}
    for name, seen in sample.sources.items():
        usual = _typical(seen, weight)
        filled = np.stack([usual] * len(grid)) if usual.ndim else np.full(len(grid), usual, usual.dtype)
        if name == axis.name:
            wanted = grid if axis.levels is None else np.array(axis.values_of_levels, dtype=object)
            if axis.position is None:
                filled = wanted
            else:
                filled[:, axis.position] = wanted
        values[name] = filled
    return np.asarray(stack_features(values, sample.rows.variables, (len(grid),)), np.float64)


def _columns(sample: Sample) -> dict[str, tuple[str, int | None]]:
    """The variable that a name means, and its column where it has several."""
    columns: dict[str, tuple[str, int | None]] = {}
    for each in sample.rows.variables:
        for variable in each.leaves:
            if variable.feature_dim is None:
                columns[variable.name] = (variable.name, None)
                continue
            for j, label in enumerate(variable.labels):
                position = j if variable.positions is None else variable.positions[j]
                columns[label] = (variable.name, position)
    return columns


def _typical(values: NDArray[Any], weight: FloatArray) -> NDArray[Any]:
    """The mean of numbers, the middle of dates, the most frequent of all else, by weight."""
    if values.dtype.kind in "iuf":
        return np.asarray(np.average(values.astype(np.float64), axis=0, weights=weight))
    if values.dtype.kind in "mM":
        order = np.argsort(values, kind="stable")
        mass = np.cumsum(weight[order])
        return np.asarray(values[order[np.searchsorted(mass, 0.5 * mass[-1])]])
    found, inverse = np.unique(values, return_inverse=True)
    return np.asarray(found[np.bincount(inverse.ravel(), weight).argmax()], dtype=values.dtype)


def as_numbers(values: NDArray[Any]) -> FloatArray:
    """Dates as numbers too."""
    return np.asarray(values.astype(np.int64) if values.dtype.kind in "mM" else values, dtype=np.float64)


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

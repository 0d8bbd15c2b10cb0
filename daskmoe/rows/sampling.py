"""Choosing the rows of a small sample that is read before the fit, stratified over the data."""

from __future__ import annotations

import math
from itertools import groupby, pairwise
from typing import NamedTuple

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from daskmoe.rows.partitions import Partition, range_partition
from daskmoe.rows.schema import RowSchema

# Fewer are a poor picture of ordered data, whose neighbours are alike; each costs a chunk that is read.
_RUNS = 512


class SampleWindow(NamedTuple):
    """Rows that are read at once, ``window``, and the ``runs`` of them that are in the sample.

    Runs are ranges (start, stop) of positions in the window.
    """

    window: Partition
    runs: tuple[tuple[int, int], ...]

    @property
    def positions(self) -> NDArray[np.intp]:
        """Positions of the sample's rows in the window."""
        return np.concatenate([np.arange(*run, dtype=np.intp) for run in self.runs])


def plan_sample(
    ds: xr.Dataset, schema: RowSchema, n_rows: int, rng: np.random.Generator
) -> tuple[SampleWindow, ...]:
    """Spread a sample over the data: 512 runs of rows, one at a random place of every stratum.

    Random places keep periodic data from being sampled in phase. Which rows are drawn does not depend on the
    chunks, so neither does a fit that starts from them; what is read at once does: runs in the same chunk
    share a window.

    Parameters
    ----------
    ds : xr.Dataset
    schema : RowSchema
    n_rows : int
        Size of the sample, rows with missing values included; all rows where there are no more.
    rng : numpy.random.Generator

    Returns
    -------
    tuple of SampleWindow
        In the order of the rows.
    """
    dims = schema.sample_dims
    shape = tuple(ds.sizes[dim] for dim in dims)
    total = math.prod(shape)
    if n_rows >= total:
        return (SampleWindow(range_partition(dims, shape, 0, 0, total), ((0, total),)),)
    runs = []
    bounds = np.linspace(0, total, min(_RUNS, n_rows) + 1).astype(np.int64)
    sizes = np.diff(np.linspace(0, n_rows, len(bounds)).astype(np.int64))
    for (low, high), size in zip(pairwise(bounds.tolist()), sizes.tolist(), strict=True):
        start = int(rng.integers(low, high - size + 1))
        runs.append((start, start + size))
    volume = _rows_of_a_chunk(ds.variables[schema.target], shape)
    out = []
    for index, (_, group) in enumerate(groupby(runs, lambda run: run[0] // volume)):
        together = list(group)
        first, last = together[0][0], together[-1][1]
        window = range_partition(dims, shape, index, first, last)
        out.append(SampleWindow(window, tuple((start - first, stop - first) for start, stop in together)))
    return tuple(out)


def _rows_of_a_chunk(target: xr.Variable, shape: tuple[int, ...]) -> int:
    """How many rows a chunk holds; one where they are no range in C order, or the data are in memory."""
    if target.chunks is None:
        return 1
    sizes = [max(lengths) for lengths in target.chunks]
    split = next((d for d, size in enumerate(sizes) if size > 1), len(sizes) - 1)
    whole = sizes[split + 1 :] == list(shape[split + 1 :])
    return math.prod(sizes) if whole else 1

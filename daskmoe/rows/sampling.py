"""Choosing the rows of a small sample that is read before the fit, stratified over the data."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import xarray as xr

from daskmoe.rows.partitions import Partition, range_partition
from daskmoe.rows.schema import RowSchema

# Each costs a read of the chunks it lies in; fewer are a poor picture of ordered data.
_RUNS = 128
# Neighbouring rows are alike: a run is read so many times longer than the rows that are drawn from it.
_THINNING = 4


class SampleRun(NamedTuple):
    """Rows to read, ``window``, and how many of the complete ones to draw, ``n_rows``."""

    window: Partition
    n_rows: int


def plan_sample(
    ds: xr.Dataset, schema: RowSchema, n_rows: int, rng: np.random.Generator
) -> tuple[SampleRun, ...]:
    """Spread a sample over the data: 128 runs of rows, one at a random place of every stratum.

    Runs keep the chunks that have to be read few, and random places keep periodic data from being sampled in
    phase. Nothing depends on the chunks, so neither does a fit that starts from the sample.

    Parameters
    ----------
    ds : xr.Dataset
    schema : RowSchema
    n_rows : int
        Size of the sample; all rows where there are no more.
    rng : numpy.random.Generator

    Returns
    -------
    tuple of SampleRun
        In the order of the rows.
    """
    dims = schema.sample_dims
    shape = tuple(ds.sizes[dim] for dim in dims)
    total = math.prod(shape)
    if n_rows >= total:
        return (SampleRun(range_partition(dims, shape, 0, 0, total), total),)
    runs = min(_RUNS, n_rows)
    strata = np.linspace(0, total, runs + 1).astype(np.int64)
    drawn = np.diff(np.linspace(0, n_rows, runs + 1).astype(np.int64))
    out = []
    for index, (low, high, size) in enumerate(zip(strata[:-1], strata[1:], drawn, strict=True)):
        length = min(_THINNING * size, high - low)
        start = int(rng.integers(low, high - length + 1))
        window = range_partition(dims, shape, index, start, start + int(length))
        out.append(SampleRun(window, int(size)))
    return tuple(out)

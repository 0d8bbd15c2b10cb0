"""Choosing the rows of a small sample that is read before the fit, stratified over the data."""

from __future__ import annotations

import math

import numpy as np
import xarray as xr

from daskmoe.rows.partitions import Partition, range_partition
from daskmoe.rows.schema import RowSchema

# Each costs a read of the chunk it lies in; fewer are a poor picture of ordered data.
_RUNS = 64


def plan_sample(
    ds: xr.Dataset, schema: RowSchema, n_rows: int, rng: np.random.Generator
) -> tuple[Partition, ...]:
    """Spread a sample over the data: 64 runs of consecutive rows, one at a random place of every stratum.

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
    tuple of Partition
        The runs, in the order of the rows.
    """
    dims = schema.sample_dims
    shape = tuple(ds.sizes[dim] for dim in dims)
    total = math.prod(shape)
    if n_rows >= total:
        return (range_partition(dims, shape, 0, 0, total),)
    runs = min(_RUNS, n_rows)
    strata = np.linspace(0, total, runs + 1).astype(np.int64)
    lengths = np.diff(np.linspace(0, n_rows, runs + 1).astype(np.int64))
    starts = [
        int(rng.integers(low, high - length + 1))
        for low, high, length in zip(strata[:-1], strata[1:], lengths, strict=True)
    ]
    return tuple(
        range_partition(dims, shape, index, start, start + int(length))
        for index, (start, length) in enumerate(zip(starts, lengths, strict=True))
    )

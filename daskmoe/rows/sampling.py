"""Choosing the rows of a small sample that is read before the fit, stratified over the data."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from daskmoe.rows.partitions import Partition, range_partition
from daskmoe.rows.schema import RowSchema

# Fewer are a poor picture of ordered data, whose neighbours are alike; each costs a chunk that is read.
_RUNS = 512
# Neighbours in a run are alike too: of so many rows in a run's span one is drawn. A chunk is read as a whole.
_STEP = 16
# Of data that are a sample as a whole: a window that cannot be read leaves most of them.
_PARTS = 16
# Rows between the first and the last of those read at once.
_LARGEST_WINDOW = 250_000
# Rows of one step of an outer dimension that a run may cross into.
_LARGEST_STEP = 5_000

Run = tuple[int, int]


class SampleWindow(NamedTuple):
    """Rows that are read at once, ``window``, and the ``runs`` of them that are in the sample.

    Runs are ranges (start, stop) of positions in the window, of which every ``step``-th is.
    """

    window: Partition
    runs: tuple[Run, ...]
    step: int = 1

    @property
    def positions(self) -> NDArray[np.intp]:
        """Positions of the sample's rows in the window."""
        return np.concatenate([np.arange(*run, self.step, dtype=np.intp) for run in self.runs])


def plan_sample(
    ds: xr.Dataset, schema: RowSchema, n_rows: int, rng: np.random.Generator, *, apart: bool = False
) -> tuple[SampleWindow, ...]:
    """Spread a sample over the data: 512 runs of rows, one at a random place of every stratum.

    Where there are rows enough, a run is of every sixteenth row.
    Random places keep periodic data from being sampled in phase. Which rows are drawn does not depend on the
    chunks, so neither does a fit that starts from them; what is read at once does: runs in the same chunk
    share a window.

    Parameters
    ----------
    ds : xr.Dataset
    schema : RowSchema
    n_rows : int
        Size of the sample, rows with missing values included; all rows where there are hardly more.
    rng : numpy.random.Generator
    apart : bool
        Whether every run is a window of its own, even in the same chunk.

    Returns
    -------
    tuple of SampleWindow
        In the order of the rows.
    """
    dims = schema.sample_dims
    shape = tuple(ds.sizes[dim] for dim in dims)
    total = math.prod(shape)
    sizes = None if apart else _chunk_sizes(ds, schema)
    chunks = _Chunks.of(sizes, shape)
    # A stratum must be a row longer than its run.
    step = 1
    if n_rows + _RUNS >= total:
        runs = [(0, total)] if sizes is None else chunks.parts(total)
    else:
        step = max(1, min(_STEP, (total - _RUNS) // n_rows))
        whole = _draw(n_rows, total, step, rng)
        runs = [part for run in whole for piece in _split(run, shape) for part in chunks.cut(piece)]
    out = []
    for index, together in enumerate(_groups(runs, chunks)):
        first, last = together[0][0], together[-1][1]
        window = replace(range_partition(dims, shape, index, first, last), label="")
        inside = tuple((start - first, stop - first) for start, stop in together)
        out.append(SampleWindow(window, inside, step))
    return tuple(out)


def _chunk_sizes(ds: xr.Dataset, schema: RowSchema) -> list[int] | None:
    """Of the target, or else of a feature that has all sample dimensions; None for data in memory."""
    for name in (schema.target, *schema.sources):
        found = ds.variables.get(name)
        if found is not None and found.chunks is not None and {*schema.sample_dims} <= {*found.dims}:
            return [max(found.chunksizes[dim]) for dim in schema.sample_dims]
    return None


def _draw(n_rows: int, total: int, step: int, rng: np.random.Generator) -> list[Run]:
    """A run of every stratum, of which every ``step``-th row is in the sample."""
    bounds = np.linspace(0, total, min(_RUNS, n_rows) + 1).astype(np.int64)
    sizes = np.diff(np.linspace(0, n_rows, len(bounds)).astype(np.int64)).tolist()
    strata = pairwise(bounds.tolist())
    spans = [(size - 1) * step + 1 for size in sizes]
    starts = [
        int(rng.integers(low, high - span + 1)) for (low, high), span in zip(strata, spans, strict=True)
    ]
    return [(start, start + span) for start, span in zip(starts, spans, strict=True)]


def _split(run: Run, shape: tuple[int, ...]) -> list[Run]:
    """The run, cut where an outer dimension moves on whose every step holds many rows: its box holds both."""
    steps = (math.prod(shape[d:]) for d in range(len(shape) - 1, 0, -1))
    inner = next((rows for rows in steps if rows > _LARGEST_STEP), None)
    start, stop = run
    edge = start if inner is None else (stop - 1) // inner * inner
    return [(start, edge), (edge, stop)] if start < edge else [run]


def _groups(runs: list[Run], chunks: _Chunks) -> list[list[Run]]:
    """Consecutive runs in one chunk, as long as they span no more than a window may hold."""
    out: list[list[Run]] = []
    for run in runs:
        together = out[-1] if out else []
        same = bool(together) and chunks.place_of(together[0][0]) == chunks.place_of(run[0])
        if same and run[1] - together[0][0] <= _LARGEST_WINDOW:
            together.append(run)
        else:
            out.append([run])
    return out


class _Chunks(NamedTuple):
    """Chunks that are ranges of ``rows`` in C order, the grid of which starts anew every ``period`` rows."""

    rows: int
    period: int

    @classmethod
    def of(cls, sizes: list[int] | None, shape: tuple[int, ...]) -> _Chunks:
        """One row a chunk where chunks are no ranges of rows, or there are none."""
        if sizes is None:
            return cls(1, 1)
        split = next((d for d, size in enumerate(sizes) if size > 1), len(sizes) - 1)
        if sizes[split + 1 :] != list(shape[split + 1 :]):
            return cls(1, 1)
        return cls(math.prod(sizes), math.prod(shape[split:]))

    def parts(self, total: int) -> list[Run]:
        """All rows, in a few runs that end where chunks do."""
        starts = [
            row
            for base in range(0, total, self.period)
            for row in range(base, min(base + self.period, total), self.rows)
        ]
        return list(pairwise([*starts[:: math.ceil(len(starts) / _PARTS)], total]))

    def cut(self, run: Run) -> list[Run]:
        """The run, cut where it crosses into another chunk, unless chunks are shorter than runs."""
        start, stop = run
        base = start - start % self.period
        edge = min(start - (start - base) % self.rows + self.rows, base + self.period)
        return [(start, edge), (edge, stop)] if edge < stop <= start + self.rows else [run]

    def place_of(self, row: int) -> tuple[int, int]:
        """Which chunk a row is in."""
        return row // self.period, row % self.period // self.rows


def without_partitions(windows: Sequence[SampleWindow], held: Sequence[Partition]) -> list[SampleWindow]:
    """A sample without the rows of some partitions.

    Rows along one dimension are cut out; along several, windows go that overlap with a partition's box. Those
    of partitions by the values of a coordinate are left: they may be anywhere.
    """
    boxes = [part.box for part in held if part.where is None]
    out: list[SampleWindow] = []
    for each in windows:
        near = [box for box in boxes if _overlap(each.window.box, box)]
        if not near:
            out.append(each)
        elif len(each.window.box) == 1:
            out += _cut_out(each, [(start, stop) for ((_, start, stop),) in near])
    return [each._replace(window=replace(each.window, index=i)) for i, each in enumerate(out)]


def _cut_out(each: SampleWindow, held: Sequence[Run]) -> Iterator[SampleWindow]:
    """What is left of a window along one dimension, run by run."""
    ((dim, first, _),) = each.window.box
    left = [(first + start, first + stop) for start, stop in each.runs]
    for low, high in held:
        pieces = [part for a, b in left for part in ((a, min(b, low)), (max(a, high), b))]
        left = [(a, b) for a, b in pieces if a < b]
    for start, stop in left:
        window = replace(each.window, box=((dim, start, stop),), n_rows=stop - start)
        yield each._replace(window=window, runs=((0, stop - start),))


def _overlap(first: Sequence[tuple[str, int, int]], second: Sequence[tuple[str, int, int]]) -> bool:
    return all(a < d and c < b for (_, a, b), (_, c, d) in zip(first, second, strict=True))

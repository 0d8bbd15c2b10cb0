"""What a fit will hold in memory, from what is known before anything is read.

The figures are held to measured peaks of real processes by a test; `docs/user_guide/jobs.md` (Memory) says
what they are made of.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import numpy as np
import xarray as xr

from daskmoe.engine.mapping import FAN_IN
from daskmoe.engine.request import FitRequest, support_shares
from daskmoe.rows import Partition, open_store
from daskmoe.rows.columns import feature_dtype

# Python and the libraries in a worker or driver that has fitted something.
PROCESS_BYTES: Final = 220 * 2**20
# Beside its rows a task holds so many matrices of its parameters: sums, products, steps and what it sends.
_TASK_MATRICES: Final = 14
# The aggregation holds what it is sent so many times: as it came, joined, and on its way to the next task;
_COPIES: Final = 3
# and so many matrices of its parameters.
_AGGREGATE_MATRICES: Final = 14
# A task of the graph, on the client and the scheduler, with what each remembers of it.
_GRAPH_TASK_BYTES: Final = 2_500
# Of a chunk, at most what is still compressed beside what is not.
_COMPRESSED: Final = 0.9
# In so many parts a partition is read where it has chunks enough.
_SLABS: Final = 4


class VariableChunks(NamedTuple):
    """How a variable is stored and read."""

    name: str
    # By dimension.
    chunks: dict[str, int]
    # Empty where chunks are files of their own.
    shards: dict[str, int]
    n_chunks: int
    # Reads of a chunk by local fits: more than there are chunks where partitions cut them.
    n_reads: int


class Budget(NamedTuple):
    """Bytes of a fit."""

    # Rows of the smallest, the middle and the largest partition.
    rows: tuple[int, int, int]
    # Of a row as it is fitted.
    row_bytes: int
    # That the largest partition is in memory, and while it is read.
    partition_bytes: int
    read_bytes: int
    # That a partition sends to the aggregation.
    sent_bytes: int
    # Peaks of a local fit, of the aggregation and of the client, beside their processes.
    task_bytes: int
    aggregate_bytes: int
    driver_bytes: int

    @property
    def worker(self) -> int:
        """Peak of a worker process of one thread."""
        return PROCESS_BYTES + self.task_bytes

    @property
    def aggregate(self) -> int:
        """Peak of the worker process that aggregates."""
        return PROCESS_BYTES + self.aggregate_bytes

    @property
    def driver(self) -> int:
        """Peak of the client's process."""
        return PROCESS_BYTES + self.driver_bytes


def dataset_of(request: FitRequest) -> xr.Dataset:
    """The request's data, lazily: of a store only metadata are read."""
    return open_store(request.source) if isinstance(request.source, str) else request.source


def budget_of(request: FitRequest, dataset: xr.Dataset, n_tasks: int) -> Budget:
    """What a request will hold; ``n_tasks`` are in its graph."""
    counts = np.sort([part.n_rows for part in request.partitions])
    rows = int(counts[0]), int(counts[len(counts) // 2]), int(counts[-1])
    row_bytes = _row_bytes(request, dataset)
    partition = rows[-1] * row_bytes
    largest = max(request.partitions, key=lambda part: part.n_rows)
    read = round(partition * _read_factor(request, dataset, largest))
    size = request.n_parameters
    # All matrices of all shared starts are alike; a task has those of one start, and what it sends of others.
    matrix = 8 * size**2
    sent = _sent_bytes(request, size)
    task = max(read, partition + _TASK_MATRICES * matrix + sent)
    partitions = len(request.partitions)
    kept = partitions * _kept_bytes(request, size)
    handed = kept if request.sample else partitions * sent
    return Budget(
        rows,
        row_bytes,
        partition,
        read,
        sent,
        task,
        max(FAN_IN * sent, _COPIES * handed + _AGGREGATE_MATRICES * matrix),
        n_tasks * _GRAPH_TASK_BYTES + 2 * kept,
    )


def _row_bytes(request: FitRequest, dataset: xr.Dataset) -> int:
    schema = request.schema
    dtypes: Mapping[str, Any] = {name: dataset.variables[name].dtype for name in schema.sources}
    feature = feature_dtype(schema.variables, dtypes).itemsize
    return len(schema.feature_labels) * feature + 8 * (1 + (schema.weight is not None))


def _kept_bytes(request: FitRequest, size: int) -> int:
    """What the aggregation keeps of a partition: estimate, moments, its share of the support."""
    q = len(request.schema.feature_labels) + 1
    rows = support_shares(request)[0] if request.sends.rows else 0
    return 8 * (size + q**2 + rows * (q + 1)) + 1_000


def _sent_bytes(request: FitRequest, size: int) -> int:
    """What a partition sends: with expansions where these are asked for, from a shared start three more."""
    packed = 4 * size * (size + 1) // 2
    matrices = 1 + 2 * bool(request.sample) if request.sample or request.sends.information else 0
    return _kept_bytes(request, size) + matrices * packed


def _read_factor(request: FitRequest, dataset: xr.Dataset, part: Partition) -> float:
    """The peak while a partition is read, over its bytes as rows."""
    sources = [*request.schema.sources]
    stored = [_chunks_of(request, dataset.variables[name]) for name in sources]
    touched = min(_touched(part, dims) for dims in stored)
    if len(sources) > 1 or touched > 1:
        return 1.0 + (1.0 + _COMPRESSED) / max(min(_SLABS, max(touched, len(sources))), 1)
    return 1.0 + _COMPRESSED


def _chunks_of(request: FitRequest, variable: xr.Variable) -> dict[str, int]:
    """The chunks of a variable as a store has them, or as a dataset at hand does, by dimension."""
    sizes = variable.encoding.get("chunks") if isinstance(request.source, str) else None
    if sizes is None:
        sizes = variable.shape if variable.chunks is None else [max(each) for each in variable.chunks]
    return {str(dim): max(int(size), 1) for dim, size in zip(variable.dims, sizes, strict=True)}


def _touched(part: Partition, chunks: Mapping[str, int]) -> int:
    """Chunks that the box of a partition has a part of."""
    ranges = {dim: (start, stop) for dim, start, stop in part.box}
    spans = [(ranges[dim], size) for dim, size in chunks.items() if dim in ranges]
    return math.prod(-(-stop // size) - start // size for (start, stop), size in spans)


def variable_chunks(request: FitRequest, dataset: xr.Dataset) -> list[VariableChunks]:
    """How the used variables are stored and read."""
    found = []
    for name in sorted(request.used):
        variable = dataset.variables[name]
        chunks = _chunks_of(request, variable)
        shards = variable.encoding.get("shards") or ()
        grid = [-(-size // chunks[str(dim)]) for dim, size in zip(variable.dims, variable.shape, strict=True)]
        along = {dim for dim, _, _ in request.partitions[0].box}
        others = math.prod(n for dim, n in zip(variable.dims, grid, strict=True) if str(dim) not in along)
        reads = others * sum(_touched(part, chunks) for part in request.partitions)
        named = dict(zip(map(str, variable.dims), map(int, shards), strict=False))
        found.append(VariableChunks(name, chunks, named, math.prod(grid), reads))
    return found

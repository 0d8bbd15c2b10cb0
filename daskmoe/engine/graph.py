"""The graph of a fit: M local tasks, one aggregate task, and a constant number of others.

Building computes nothing. With a store, tasks open their own row ranges and the graph holds no data; with a
dataset, each task depends on its own piece of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, cast

import numpy as np
import xarray as xr
from dask.base import tokenize
from dask.delayed import Delayed, delayed

from daskmoe.config import LocalFitOptions
from daskmoe.engine.checkpoint import store_fingerprint
from daskmoe.engine.results import FitResult
from daskmoe.engine.tasks import TaskPlan, aggregate_partitions, fit_partition, fit_pilot, read_sample
from daskmoe.rows import Partition, RowSchema, SampleRun, read_box

_SAMPLE_TASKS = 16


@dataclass(frozen=True)
class FitRequest:
    """A validated request to fit.

    Attributes
    ----------
    source : str or xr.Dataset
        Path or URL of a Zarr store, or a dataset, lazy or in memory.
    schema : RowSchema
    partitions : tuple of Partition
    options : LocalFitOptions
    support_size : int
        S, rows of the support sample over all partitions.
    seed : int
    on_error : {"raise", "skip"}
    checkpoint : str or None
    sample : tuple of SampleRun
        Runs of rows of the pilot's sample; none where there is no shared start.
    """

    source: str | xr.Dataset
    schema: RowSchema
    partitions: tuple[Partition, ...]
    options: LocalFitOptions
    support_size: int
    seed: int
    on_error: Literal["raise", "skip"]
    checkpoint: str | None
    sample: tuple[SampleRun, ...] = ()

    @cached_property
    def token(self) -> str:
        """Names the request: the same for the same data, options and seed."""
        source: Any = self.source
        if isinstance(source, str) and self.checkpoint is not None:
            source = (source, store_fingerprint(source))
        if isinstance(self.source, xr.Dataset):
            used = [*(v.name for v in self.schema.variables), self.schema.target, self.schema.weight]
            source = self.source[[name for name in used if name is not None]]
        return str(
            tokenize(
                source, self.schema.to_json(), self.partitions, self.options, self.support_size, self.seed,
                self.on_error, self.sample,
            )
        )  # fmt: skip


def build_fit(request: FitRequest) -> Delayed:
    """The delayed `FitResult` of a request."""
    token = request.token
    shared = delayed(task_plan(request), name=f"moe-plan-{token}", traverse=False)
    pilot = _build_pilot(request, shared) if request.sample else None
    local_fit = delayed(fit_partition, pure=False, traverse=False)
    results = [
        local_fit(
            shared, partition, share, piece_of(request, partition), pilot,
            dask_key_name=f"moe-local-fit-{token}-{partition.index}",
        )
        for partition, share in _shares(request)
    ]  # fmt: skip
    aggregate = delayed(aggregate_partitions, pure=False)
    return cast(Delayed, aggregate(shared, results, pilot, dask_key_name=f"moe-aggregate-{token}"))


def _build_pilot(request: FitRequest, shared: Delayed) -> Delayed:
    """The tasks of a shared start: at most `_SAMPLE_TASKS` that read, one that fits."""
    read = delayed(read_sample, pure=False, traverse=False)
    samples = [
        read(
            shared, runs, [piece_of(request, run.window) for run in runs],
            dask_key_name=f"moe-sample-{request.token}-{index}",
        )
        for index, runs in enumerate(_sample_groups(request))
    ]  # fmt: skip
    fit = delayed(fit_pilot, pure=False)
    return cast(Delayed, fit(shared, samples, dask_key_name=f"moe-pilot-{request.token}"))


def fit_directly(request: FitRequest) -> FitResult:
    """The result of a request without a graph, in this thread."""
    plan = task_plan(request)
    groups = _sample_groups(request)
    samples = [read_sample(plan, runs, [piece_of(request, run.window) for run in runs]) for runs in groups]
    pilot = fit_pilot(plan, samples) if samples else None
    results = [
        fit_partition(plan, partition, share, piece_of(request, partition), pilot)
        for partition, share in _shares(request)
    ]
    return aggregate_partitions(plan, results, pilot)


def task_plan(request: FitRequest) -> TaskPlan:
    """What all tasks of a request share."""
    path = request.source if isinstance(request.source, str) else None
    return TaskPlan(
        path, request.schema, request.options, request.seed, request.on_error, request.checkpoint,
        request.token if request.checkpoint else "", bool(request.sample),
    )  # fmt: skip


def _sample_groups(request: FitRequest) -> list[tuple[SampleRun, ...]]:
    tasks = min(len(request.sample), _SAMPLE_TASKS)
    return [request.sample[i::tasks] for i in range(tasks)]


def _shares(request: FitRequest) -> list[tuple[Partition, int]]:
    shares = support_shares([p.n_rows for p in request.partitions], request.support_size)
    return list(zip(request.partitions, shares, strict=True))


def support_shares(rows: list[int], support_size: int) -> list[int]:
    """Support rows of each partition, in proportion to its rows, at least one each."""
    cumulative = np.cumsum(np.asarray(rows, dtype=np.int64))
    total = int(cumulative[-1])
    size = min(support_size, total)
    # Differences of rounded cumulative quotas add up to the size exactly.
    bounds = np.concatenate([[0], np.rint(cumulative * (size / total)).astype(np.int64)])
    return [int(share) for share in np.maximum(np.diff(bounds), 1)]


def piece_of(request: FitRequest, partition: Partition) -> xr.Dataset | None:
    """A partition's piece of a dataset; None where tasks open a store."""
    if isinstance(request.source, str):
        return None
    return read_box(request.source, request.schema, partition)

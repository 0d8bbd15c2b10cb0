"""The graph of a fit: M local tasks, one aggregate task, and a constant number of others.

Building computes nothing. With a store, tasks open their own row ranges and the graph holds no data; with a
dataset, each task depends on its own piece of it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from typing import Literal, NamedTuple, cast

import numpy as np
import xarray as xr
from dask.base import tokenize
from dask.delayed import Delayed, delayed

from daskmoe.config import LocalFitOptions
from daskmoe.engine.aggregating import AggregationPlan, aggregate_partitions
from daskmoe.engine.identity import content_of, nonce_of
from daskmoe.engine.pilot import fit_pilot, read_sample
from daskmoe.engine.results import FitResult
from daskmoe.engine.support import plan_support, read_support, support_pieces
from daskmoe.engine.tasks import Sends, TaskPlan, fit_partition
from daskmoe.rows import Partition, RowSchema, SampleWindow, read_box

_SAMPLE_TASKS = 16
# Where a sample is spread unevenly, parts of it may send so many times what they would otherwise.
_MOST_SHARES = 4
# A task has all its pieces of a dataset in memory at once.
_MOST_HELD_ROWS = 250_000


class GivenSupport(NamedTuple):
    """Rows of the caller's own at which expectations over x are taken.

    Attributes
    ----------
    data : str or xr.Dataset
    schema : RowSchema
        The fit's, matched to ``data``.
    """

    data: str | xr.Dataset
    schema: RowSchema


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
    sample : tuple of SampleWindow
        Rows of the pilot's sample; none where there is no shared start.
    sample_rows : int
        How many of these rows that are complete the pilot is fitted to.
    method : str
        ``"auto"`` or one of `daskmoe.config.METHODS`.
    n_experts : int or None
        K of the result; None for that of the local fits.
    support : str or GivenSupport
        One of `daskmoe.config.SUPPORTS`, or the caller's own rows.
    """

    source: str | xr.Dataset
    schema: RowSchema
    partitions: tuple[Partition, ...]
    options: LocalFitOptions
    support_size: int
    seed: int
    on_error: Literal["raise", "skip"]
    checkpoint: str | None
    sample: tuple[SampleWindow, ...] = ()
    sample_rows: int = 0
    method: str = "reduction"
    n_experts: int | None = None
    support: str | GivenSupport = "labelled"

    @property
    def sends(self) -> Sends:
        """What a partition sends: rows if the support is made of them, responses if there is a pilot."""
        alone = self.method == "auto" and not self.sample and len(self.partitions) > 1
        rows = self.support in ("labelled", "features")
        return Sends(rows, rows and bool(self.sample), alone)

    @cached_property
    def token(self) -> str:
        """Names the tasks: the same for the same data, options and seed, unless the data are behind a URL."""
        nonce = nonce_of(self.source)
        return str(tokenize(self.kept_token, nonce)) if nonce else self.kept_token

    @cached_property
    def kept_token(self) -> str:
        """Names the checkpoints, which go on even where a change of the data cannot be seen."""
        used = {*(v.name for v in self.schema.variables), self.schema.target, self.schema.weight}
        used |= {part.where[0] for part in self.partitions if part.where is not None}
        source = content_of(self.source, {name for name in used if name is not None})
        return str(
            tokenize(
                # Another version may fit the same request in another way.
                version("daskmoe"), source, self.schema.to_json(), self.partitions, self.options,
                self.support_size, self.seed, self.on_error, self.sample, self.sends,
            )
        )  # fmt: skip

    @property
    def aggregation(self) -> AggregationPlan:
        """How the local estimators become one model."""
        shares = tuple(share for _, share in _shares(self))
        size = self.options.n_experts if self.n_experts is None else self.n_experts
        synthetic = self.support == "synthetic"
        return AggregationPlan(self.method, size, self.options.family, synthetic, shares, self.seed)


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
    given, plan = _build_support(request), request.aggregation
    key = f"moe-aggregate-{tokenize(token, plan, given)}"
    return cast(Delayed, aggregate(plan, results, pilot, given, dask_key_name=key))


def _build_support(request: FitRequest) -> Delayed | None:
    """The task that reads the caller's own support, if there is one."""
    if not isinstance(request.support, GivenSupport):
        return None
    data, schema = request.support
    content = content_of(data, [variable.name for variable in schema.variables])
    key = f"moe-support-{tokenize(content, nonce_of(data), schema.to_json(), request.seed)}"
    windows = plan_support(data, schema, request.seed)
    pieces = support_pieces(data, schema, windows)
    path = data if isinstance(data, str) else None
    read = delayed(read_support, pure=False, traverse=False)
    return cast(Delayed, read(path, schema, request.seed, windows, pieces, dask_key_name=key))


def _build_pilot(request: FitRequest, shared: Delayed) -> Delayed:
    """The tasks of a shared start: a few that read, one that fits."""
    read = delayed(read_sample, pure=False, traverse=False)
    share = _most_share(request)
    samples = [
        read(
            shared, windows, [piece_of(request, part.window) for part in windows], share,
            dask_key_name=f"moe-sample-{request.token}-{index}",
        )
        for index, windows in enumerate(_sample_groups(request))
    ]  # fmt: skip
    fit = delayed(fit_pilot, pure=False)
    return cast(Delayed, fit(shared, samples, dask_key_name=f"moe-pilot-{request.token}"))


def fit_directly(request: FitRequest) -> FitResult:
    """The result of a request without a graph, in this thread."""
    plan = task_plan(request)
    share = _most_share(request)
    samples = [
        read_sample(plan, parts, [piece_of(request, p.window) for p in parts], share)
        for parts in _sample_groups(request)
    ]
    pilot = fit_pilot(plan, samples) if samples else None
    results = [
        fit_partition(plan, partition, share, piece_of(request, partition), pilot)
        for partition, share in _shares(request)
    ]
    return aggregate_partitions(request.aggregation, results, pilot, None)


def task_plan(request: FitRequest) -> TaskPlan:
    """What all tasks of a request share."""
    path = request.source if isinstance(request.source, str) else None
    return TaskPlan(
        path, request.schema, request.options, request.seed, request.on_error, request.checkpoint,
        request.kept_token if request.checkpoint else "", request.sends, request.sample_rows,
    )  # fmt: skip


def _sample_groups(request: FitRequest) -> list[tuple[SampleWindow, ...]]:
    """The windows of each task, which opens a store for one after the other."""
    most = math.ceil(len(request.sample) / _SAMPLE_TASKS)
    groups: list[list[SampleWindow]] = []
    held = 0
    for part in request.sample:
        rows = 0 if isinstance(request.source, str) else part.window.n_rows
        held += rows
        if not groups or len(groups[-1]) == most or held > _MOST_HELD_ROWS:
            groups.append([])
            held = rows
        groups[-1].append(part)
    return [tuple(group) for group in groups]


def _most_share(request: FitRequest) -> float:
    """The most of its rows that a window sends: more than are used, as others may have masked rows only."""
    drawn = sum(part.positions.size for part in request.sample)
    return min(1.0, _MOST_SHARES * request.sample_rows / max(drawn, 1))


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

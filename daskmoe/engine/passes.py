"""One pass over all partitions: a function of the rows of each, summed in a tree in partition order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial, reduce
from typing import Any, Protocol, runtime_checkable

import xarray as xr
from dask.base import tokenize
from dask.delayed import Delayed

from daskmoe.engine.keeping import find_contents, keep_of_rows
from daskmoe.engine.kept_sums import Known, find_sum, keep_sum, kept_part, part_name
from daskmoe.engine.mapping import FAN_IN, Ref, Tasks
from daskmoe.engine.progress import Watch
from daskmoe.engine.request import FitRequest, piece_of, task_plan
from daskmoe.engine.results import Counted
from daskmoe.engine.task_plan import TaskPlan
from daskmoe.engine.tasks import attempt, read_counted
from daskmoe.errors import DaskMoEError, PartitionError
from daskmoe.numerics.base.observations import Observations
from daskmoe.rows import Partition
from daskmoe.rows.contents import Content


@runtime_checkable
class _Placed(Protocol):
    """What a pass finds that says where rows are."""

    def within(self, partition: int) -> Any:
        """The same, of rows of a partition."""


def shared_plan(tasks: Tasks, request: FitRequest, token: str, *, clusters: bool = False) -> Ref:
    """What all tasks of a request share, as a task of its own."""
    plan = task_plan(request)
    if clusters:
        plan = plan._replace(cluster=request.cluster)
    return tasks.put(f"moe-plan-{token}", plan)


def partition_tasks(
    tasks: Tasks,
    request: FitRequest,
    key: str,
    function: Callable[..., Any],
    plan: Ref,
    *shared: Ref | None,
    own: Sequence[tuple[Any, ...]],
    clusters: bool = False,
) -> list[Ref]:
    """One task a partition, which opens its rows or is handed its piece of a dataset.

    ``function`` is called with the plan, the partition, its piece, what is ``shared`` and, where each is
    handed things of its ``own``, those; a piece has the labels of ``clusters`` where they are asked for. Keys
    are ``key`` with the partition's number behind.
    """
    return [
        tasks.call(
            f"{key}-{part.index}",
            function,
            plan,
            part,
            piece_of(request, part, clusters=clusters),
            *shared,
            *more,
        )
        for part, more in zip(request.partitions, own, strict=True)
    ]


def run_sum(
    request: FitRequest,
    name: str,
    function: Callable[[Observations], Any],
    add: Callable[[Any, Any], Any],
    *,
    clusters: bool = False,
    watch: Watch | None = None,
    note: str = "",
) -> Any:
    """The sum of ``function`` over all partitions, computed; `PartitionError` if none could be read.

    Rows have the labels of their ``clusters`` where these are asked for and the request names them.
    """
    return run_counted_sum(request, name, function, add, clusters=clusters, watch=watch, note=note).value


def run_counted_sum(
    request: FitRequest,
    name: str,
    function: Callable[[Observations], Any],
    add: Callable[[Any, Any], Any],
    *,
    clusters: bool = False,
    watch: Watch | None = None,
    note: str = "",
) -> Counted:
    """The same, and how many rows it is without."""
    graph = build_sum(request, name, function, add, clusters=clusters)
    return found((watch or Watch(request.token)).compute(graph, note))


def found(total: Counted) -> Counted:
    """A sum over partitions; `PartitionError` if none could be read."""
    if total.value is None:
        raise PartitionError("Expected at least one partition with complete rows, got none.")
    return total


def build_sum(
    request: FitRequest,
    name: str,
    function: Callable[[Observations], Any] | Delayed,
    add: Callable[[Any, Any], Any],
    *,
    clusters: bool = False,
) -> Delayed:
    """The graph of one pass, which gives a `Counted`; building it computes nothing."""
    tasks, token = Tasks(), str(tokenize(request.token, name, function, clusters))
    if isinstance(function, Delayed):
        point = tasks.include(function)
    else:
        point = tasks.put(f"{name}-point-{token}", function)
    plan = shared_plan(tasks, request, token, clusters=clusters)
    keys = name, f"{name}-sum", token
    return tasks.result(sum_tasks(tasks, request, keys, point, add, plan, clusters=clusters))


def sum_tasks(
    tasks: Tasks,
    request: FitRequest,
    keys: tuple[str, str, str],
    function: Ref,
    add: Callable[[Any, Any], Any],
    plan: Ref,
    *,
    contents: list[Any] | None = None,
    clusters: bool = False,
) -> Ref:
    """The tasks of one pass, which give a `Counted`; ``keys`` are those of parts, of sums, and their token.

    With a checkpoint parts are kept until their sum is; ``contents`` are looked for where they are not given.
    """
    part, joint, token = keys
    keeps = request.options.checkpoint is not None
    contents = find_contents(tasks, request, plan) if contents is None else contents
    asked = function
    if keeps:
        asked = tasks.call(f"{part}-known-{token}", find_sum, plan, function, _all(request), contents)
    own = [(content,) for content in contents]
    parts = partition_tasks(
        tasks, request, f"{part}-{token}", count_partition, plan, asked, own=own, clusters=clusters
    )
    total = sum_tree(tasks, f"{joint}-{token}", partial(_add_counted, add), parts)
    if keeps:
        total = tasks.call(f"{part}-kept-{token}", keep_sum, plan, asked, total, _all(request), contents)
    return total


def _all(request: FitRequest) -> list[Partition]:
    return list(request.partitions)


def sum_tree(tasks: Tasks, key: str, add: Callable[[Any, Any], Any], parts: list[Ref]) -> Ref:
    """The sum of ``parts`` in their order, a few in a task."""
    return tree(tasks, key, partial(_sum, add), parts)


def tree(tasks: Tasks, key: str, join: Callable[[list[Any]], Any], parts: list[Ref]) -> Ref:
    """What ``join`` makes of a few parts, and of a few of these, in their order, until one is left."""
    level = 0
    while len(parts) > 1 or level == 0:
        parts = [
            tasks.call(f"{key}-{level}-{i // FAN_IN}", join, parts[i : i + FAN_IN])
            for i in range(0, len(parts), FAN_IN)
        ]
        level += 1
    return parts[0]


def joined(join: Callable[[list[Any]], Any], parts: list[Any]) -> Any:
    """What the tasks of `tree` come to, without a graph."""
    level = 0
    while len(parts) > 1 or level == 0:
        parts = [join(parts[i : i + FAN_IN]) for i in range(0, len(parts), FAN_IN)]
        level += 1
    return parts[0]


def count_partition(
    plan: TaskPlan,
    partition: Partition,
    piece: xr.Dataset | None,
    asked: Callable[[Observations], Any] | Known | None,
    content: Content | None = None,
) -> Counted:
    """What is asked of one partition's rows, None for one that is left out, and how many it is without.

    Where nothing is asked the partition is not read.
    """
    function = asked.function if isinstance(asked, Known) else asked
    if function is None:
        return Counted(None, 0)
    name = part_name(plan, asked, partition, content) if isinstance(asked, Known) else None
    if name is not None and (kept := kept_part(plan, name)) is not None:
        return kept

    def work() -> Counted:
        rows, absent = read_counted(plan, partition, piece)
        dropped = partition.n_rows - absent - rows.n_rows
        if not rows.n_rows or not rows.total_weight > 0:
            return Counted(None, dropped)
        value = function(rows)
        return Counted(value.within(partition.index) if isinstance(value, _Placed) else value, dropped)

    outcome = attempt(plan, partition, work)
    if isinstance(outcome, DaskMoEError):
        return Counted(None, partition.n_rows, whole=False)
    if name is not None and content is not None:
        keep_of_rows(plan, partition, piece, content, name, outcome)
    return outcome


def _add_counted(add: Callable[[Any, Any], Any], first: Counted, second: Counted) -> Counted:
    """The sum, of which either value may be none."""
    parts = [part.value for part in (first, second) if part.value is not None]
    dropped, whole = first.dropped + second.dropped, first.whole and second.whole
    return Counted(reduce(add, parts) if parts else None, dropped, whole)


def _sum(add: Callable[[Any, Any], Any], parts: Sequence[Any]) -> Any:
    """Sum in order, without what was left out."""
    total = None
    for part in parts:
        if part is not None:
            total = part if total is None else add(total, part)
    return total

"""One pass over all partitions: a function of the rows of each, summed in a tree in partition order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial, reduce
from typing import Any, NamedTuple, Protocol, cast, runtime_checkable

import xarray as xr
from dask.base import tokenize
from dask.delayed import Delayed

from daskmoe.engine.mapping import FAN_IN, Ref, Tasks
from daskmoe.engine.request import FitRequest, piece_of, task_plan
from daskmoe.engine.tasks import TaskPlan, attempt, read_counted
from daskmoe.engine.waiting import awaited
from daskmoe.errors import DaskMoEError, PartitionError
from daskmoe.numerics.base.observations import Observations
from daskmoe.numerics.combine.candidates import Ballot, Tally, score_rows
from daskmoe.rows import Partition


@runtime_checkable
class _Placed(Protocol):
    """What a pass finds that says where rows are."""

    def within(self, partition: int) -> Any:
        """The same, of rows of a partition."""


class Counted(NamedTuple):
    """What a pass finds, and how many rows it leaves out."""

    value: Any
    # Incomplete rows, and those without weight.
    dropped: int


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
    own: Sequence[Any] | None = None,
    clusters: bool = False,
) -> list[Ref]:
    """One task a partition, which opens its rows or is handed its piece of a dataset.

    ``function`` is called with the plan, the partition, its piece, what is ``shared`` and, where each is
    handed something of its ``own``, that; a piece has the labels of ``clusters`` where they are asked for.
    Keys are ``key`` with the partition's number behind.
    """
    last = [()] * len(request.partitions) if own is None else [(value,) for value in own]
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
        for part, more in zip(request.partitions, last, strict=True)
    ]


def run_sum(
    request: FitRequest,
    name: str,
    function: Callable[[Observations], Any],
    add: Callable[[Any, Any], Any],
    *,
    clusters: bool = False,
) -> Any:
    """The sum of ``function`` over all partitions, computed; `PartitionError` if none could be read.

    Rows have the labels of their ``clusters`` where these are asked for and the request names them.
    """
    return run_counted_sum(request, name, function, add, clusters=clusters).value


def run_counted_sum(
    request: FitRequest,
    name: str,
    function: Callable[[Observations], Any],
    add: Callable[[Any, Any], Any],
    *,
    clusters: bool = False,
) -> Counted:
    """The same, and how many rows it is without."""
    total = cast(Counted, awaited(build_sum(request, name, function, add, clusters=clusters)))
    if total.value is None:
        raise PartitionError("Expected at least one partition with complete rows, got none.")
    return total


def build_sum(
    request: FitRequest,
    name: str,
    function: Callable[[Observations], Any],
    add: Callable[[Any, Any], Any],
    *,
    clusters: bool = False,
) -> Delayed:
    """The graph of one pass, which gives a `Counted`; building it computes nothing."""
    tasks, token = Tasks(), tokenize(request.token, name, function, clusters)
    point = tasks.put(f"{name}-point-{token}", function)
    plan = shared_plan(tasks, request, token, clusters=clusters)
    parts = partition_tasks(
        tasks, request, f"{name}-{token}", count_partition, plan, point, clusters=clusters
    )
    return tasks.result(sum_tree(tasks, f"{name}-sum-{token}", partial(_add_counted, add), parts))


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


def score_partition(
    plan: TaskPlan, partition: Partition, piece: xr.Dataset | None, ballot: Ballot
) -> Tally | None:
    """What a partition says of the candidates; None for a partition that is left out."""
    return cast(Tally | None, evaluate_partition(plan, partition, piece, partial(score_rows, ballot=ballot)))


def evaluate_partition(
    plan: TaskPlan, partition: Partition, piece: xr.Dataset | None, function: Callable[[Observations], Any]
) -> Any:
    """The function of one partition's rows; None for a partition that is left out."""
    return count_partition(plan, partition, piece, function).value


def count_partition(
    plan: TaskPlan, partition: Partition, piece: xr.Dataset | None, function: Callable[[Observations], Any]
) -> Counted:
    """The function of one partition's rows, None for one that is left out, and how many it is without."""

    def work() -> Counted:
        rows, absent = read_counted(plan, partition, piece)
        dropped = partition.n_rows - absent - rows.n_rows
        if not rows.n_rows or not rows.total_weight > 0:
            return Counted(None, dropped)
        found = function(rows)
        return Counted(found.within(partition.index) if isinstance(found, _Placed) else found, dropped)

    outcome = attempt(plan, partition, work)
    return Counted(None, partition.n_rows) if isinstance(outcome, DaskMoEError) else outcome


def _add_counted(add: Callable[[Any, Any], Any], first: Counted, second: Counted) -> Counted:
    """The sum, of which either value may be none."""
    parts = [part.value for part in (first, second) if part.value is not None]
    return Counted(reduce(add, parts) if parts else None, first.dropped + second.dropped)


def _sum(add: Callable[[Any, Any], Any], parts: Sequence[Any]) -> Any:
    """Sum in order, without what was left out."""
    total = None
    for part in parts:
        if part is not None:
            total = part if total is None else add(total, part)
    return total

"""The tasks of one computation, written down as the mapping that Dask runs.

A task costs microseconds to add, however many there are: calls of `dask.delayed` on lists of results walk
through all of them, and merge their graphs, for every task.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import Any, Final, TypeAlias

import xarray as xr
from dask._task_spec import DataNode, List, Task, TaskRef
from dask.array.core import finalize
from dask.array.optimization import optimize
from dask.base import tokenize
from dask.core import flatten
from dask.delayed import Delayed
from dask.highlevelgraph import HighLevelGraph
from dask.optimization import cull

# Parts that a task of a sum holds at once, whatever the number of partitions.
FAN_IN: Final = 16
# What stands for a task's result among the arguments of another.
Ref: TypeAlias = TaskRef


class Tasks:
    """A graph that grows; keys are the caller's."""

    def __init__(self) -> None:
        self._tasks: dict[Any, Any] = {}
        # Lazy data whose chunks are not tasks of this graph yet.
        self._pieces: list[xr.Dataset] = []

    def put(self, key: str, value: Any) -> Ref:
        """A value that several tasks share, which travels once."""
        self._tasks[key] = DataNode(key, value)
        return TaskRef(key)

    def call(self, key: str, function: Callable[..., Any], *arguments: Any) -> Ref:
        """A task: ``function`` of arguments, which are values, results, datasets or lists of these."""
        self._tasks[key] = Task(key, function, *map(self._argument, arguments))
        return TaskRef(key)

    def include(self, lazy: Delayed) -> Ref:
        """The result of another graph, whose tasks become tasks of this one."""
        self._tasks.update(cull(lazy.__dask_graph__(), [lazy.key])[0])
        return TaskRef(lazy.key)

    def result(self, ref: Ref) -> Delayed:
        """The result of a task, delayed."""
        return self.results([ref], str(ref.key))[0]

    def results(self, refs: list[Ref], name: str) -> list[Delayed]:
        """The results of several tasks, which share one graph, which has a name."""
        self._tasks.update(_chunk_tasks(self._pieces))
        self._pieces = []
        layers: dict[str, Mapping[Any, Any]] = {name: self._tasks}
        graph = HighLevelGraph(layers, {name: set()})
        return [Delayed(ref.key, graph, layer=name) for ref in refs]

    def _argument(self, value: Any) -> Any:
        if isinstance(value, list):
            items = [self._argument(item) for item in value]
            return List(*items) if any(isinstance(item, TaskRef) for item in items) else value
        return self._piece(value) if isinstance(value, xr.Dataset) and is_lazy(value) else value

    def _piece(self, piece: xr.Dataset) -> Ref:
        """The task that has a lazy piece in memory.

        What xarray would have it do holds the graph of all pieces, and would travel with every one of them.
        """
        key = f"moe-rows-{tokenize(piece)}"
        if key not in self._tasks:
            self._pieces.append(piece)
            chunks = {name: found for name, found in piece.variables.items() if found.chunks is not None}
            empty = {name: (found.dims, found.attrs, found.encoding) for name, found in chunks.items()}
            parts = [_refs(found.data.__dask_keys__()) for found in chunks.values()]
            others = {name: found for name, found in piece.variables.items() if name not in chunks}
            self._tasks[key] = Task(key, _put_together, empty, others, List(*parts))
        return TaskRef(key)


def is_lazy(piece: xr.Dataset) -> bool:
    """Whether a piece has variables that are not in memory."""
    return any(found.chunks is not None for found in piece.variables.values())


def _refs(keys: Any) -> Any:
    return List(*map(_refs, keys)) if isinstance(keys, list) else TaskRef(keys)


def _put_together(
    empty: Mapping[Hashable, tuple[Any, ...]], others: Mapping[Hashable, xr.Variable], parts: list[Any]
) -> xr.Dataset:
    """A dataset of variables at hand and of chunks that are computed, those of a variable in nested lists."""
    found = {
        name: xr.Variable(dims, finalize(chunks), attrs, encoding)
        for (name, (dims, attrs, encoding)), chunks in zip(empty.items(), parts, strict=True)
    }
    return xr.Dataset({**others, **found})


def _chunk_tasks(pieces: list[xr.Dataset]) -> Mapping[Any, Any]:
    """The tasks of the chunks of all pieces, optimized together: they have most layers in common."""
    if not pieces:
        return {}
    arrays = [
        found.data for piece in pieces for found in piece.variables.values() if found.chunks is not None
    ]
    graph = HighLevelGraph.merge(*(array.__dask_graph__() for array in arrays))
    return dict(optimize(graph, list(flatten([array.__dask_keys__() for array in arrays]))))

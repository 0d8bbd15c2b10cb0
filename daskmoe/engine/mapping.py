"""The tasks of one computation, written down as the mapping that Dask runs.

A task costs microseconds to add, however many there are: calls of `dask.delayed` on lists of results walk
through all of them, and merge their graphs, for every task.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias

from dask._task_spec import DataNode, List, Task, TaskRef
from dask.base import is_dask_collection
from dask.delayed import Delayed, unpack_collections
from dask.highlevelgraph import HighLevelGraph
from dask.optimization import cull

# Parts that a task of a sum holds at once, whatever the number of partitions.
FAN_IN: Final = 16
# What stands for a task's result among the arguments of another.
Ref: TypeAlias = TaskRef


class Tasks:
    """A graph that grows; keys are the caller's."""

    def __init__(self) -> None:
        self._tasks: dict[str, Any] = {}

    def put(self, key: str, value: Any) -> Ref:
        """A value that several tasks share, which travels once."""
        self._tasks[key] = DataNode(key, value)
        return TaskRef(key)

    def call(self, key: str, function: Callable[..., Any], *arguments: Any) -> Ref:
        """A task: ``function`` of arguments, which are values, results, lazy data or lists of these."""
        self._tasks[key] = Task(key, function, *map(self._argument, arguments))
        return TaskRef(key)

    def result(self, ref: Ref) -> Delayed:
        """The result of a task, delayed."""
        return self.results([ref], str(ref.key))[0]

    def results(self, refs: list[Ref], name: str) -> list[Delayed]:
        """The results of several tasks, which share one graph, which has a name."""
        layers: dict[str, Mapping[Any, Any]] = {name: self._tasks}
        graph = HighLevelGraph(layers, {name: set()})
        return [Delayed(ref.key, graph, layer=name) for ref in refs]

    def _argument(self, value: Any) -> Any:
        if isinstance(value, list):
            items = [self._argument(item) for item in value]
            return List(*items) if any(isinstance(item, TaskRef) for item in items) else value
        if is_dask_collection(value):
            task, (lazy,) = unpack_collections(value)
            # A piece comes with the tasks of all others.
            self._tasks.update(cull(lazy.__dask_graph__(), [lazy.key])[0])
            return task
        return value

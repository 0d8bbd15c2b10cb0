"""Work that ends when nobody waits for it: rows that ask, block by block, whether their task still counts.

Dask forgets what an interrupted caller asked for, but a task that has begun goes on to its end, for minutes
where partitions are large. Every pass of an optimizer goes over the blocks of its rows, so these ask.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from daskmoe.numerics.base.coordinates import Coordinates
from daskmoe.numerics.base.observations import Block, Observations

_counts: ContextVar[Callable[[], bool] | None] = ContextVar("counts", default=None)
_lock = threading.Lock()
# When jobs of this process were interrupted.
_interrupted: dict[str, float] = {}


class TaskStopped(BaseException):
    """Nobody waits for this task; no `Exception`, so that nothing takes it for a partition that failed."""


class StoppableRows(Observations):
    """Observations whose passes end where their task no longer counts."""

    __slots__ = ()

    def blocks(self, coordinates: Coordinates) -> Iterator[Block]:
        """As of `Observations`; `TaskStopped` between two of them."""
        return _while_it_counts(super().blocks(coordinates))

    def centred_blocks(self, coordinates: Coordinates) -> Iterator[Block]:
        """As of `Observations`; `TaskStopped` between two of them."""
        return _while_it_counts(super().centred_blocks(coordinates))


def _while_it_counts(blocks: Iterator[Block]) -> Iterator[Block]:
    counts = _counts.get()
    for block in blocks:
        if counts is not None and not counts():
            raise TaskStopped
        yield block


@contextmanager
def stoppable(job: str) -> Iterator[None]:
    """Have the passes of a task of a job, which begins here, end with the job."""
    token = _counts.set(_wanted_on_worker() or _wanted_here(job))
    try:
        yield
    finally:
        _counts.reset(token)


def interrupt(job: str) -> None:
    """End the tasks of a job that run in this process; those that begin later are of another try."""
    with _lock:
        _interrupted[job] = time.monotonic()


def _wanted_here(job: str) -> Callable[[], bool]:
    began = time.monotonic()
    return lambda: _interrupted.get(job, -1.0) < began


def _wanted_on_worker() -> Callable[[], bool] | None:
    """Whether the scheduler still wants what this thread works on; None where it is not a worker's."""
    if "distributed.worker" not in sys.modules:
        return None
    from distributed import get_worker

    try:
        worker = get_worker()
        key = worker.get_current_task()
    except (ValueError, AttributeError):
        return None

    def wanted() -> bool:
        task = worker.state.tasks.get(key)
        return task is not None and task.state != "cancelled"

    return wanted

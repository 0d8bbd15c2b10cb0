"""Waiting for a cluster: it says when nothing can happen, and ends where somebody said after how long.

``dask.config.set({"daskmoe.timeout": 600})`` ends a wait after ten minutes without a worker that takes tasks.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import dask
from dask.delayed import Delayed
from distributed import Client, Future, get_worker, wait
from distributed.scheduler import KilledWorker

from daskmoe.engine.limits import ask_scheduler, current_client, worker_states
from daskmoe.errors import ClusterError
from daskmoe.rows.computing import computed, short_errors

logger = logging.getLogger(__name__)

TIMEOUT_SETTING = "daskmoe.timeout"
_POLL_SECONDS = 2.0
# Workers that start or restart are no matter for the log.
_QUIET_SECONDS = 5.0
_AGAIN_SECONDS = 60.0
_MB = 2**20
_NAMED = 10
_LOST = (asyncio.CancelledError, concurrent.futures.CancelledError)


def awaited(job: Delayed) -> Any:
    """What a job comes to, on the current client, or on Dask's other schedulers.

    Raises
    ------
    ClusterError
        If workers die of a task, the scheduler is lost, or no worker takes tasks for as long as the setting
        ``daskmoe.timeout`` allows.
    """
    client = current_client()
    if client is None or _in_a_task():
        # There the client gives up the thread that waits, for others to work in.
        return computed(job)
    future: Future[Any] = client.compute(job)
    try:
        _watch(client, future, job)
        with short_errors():
            return future.result()
    except KilledWorker as error:
        raise ClusterError(
            f"Workers died in the task {error.task!r}, {error.allowed_failures + 1} of them, the last "
            f"at {error.last_worker.address}: most likely of memory ({_figures(client)}). Use smaller "
            "partitions (partitions=...), fewer threads a worker or workers with more memory; with a "
            "checkpoint (checkpoint=...) the same call goes on."
        ) from error
    except _LOST as error:
        raise ClusterError(
            "The scheduler is lost, and with it what was not kept. Start it again; with a checkpoint "
            "(checkpoint=...) the same call goes on."
        ) from error
    finally:
        future.release()


def _in_a_task() -> bool:
    try:
        get_worker()
    except ValueError:
        return False
    return True


def _watch(client: Client, future: Future[Any], job: Delayed) -> None:
    """Wait until a future is done; say when nothing can happen."""
    stalled = _Stalled(job)
    while True:
        try:
            wait(future, timeout=_POLL_SECONDS)
            return
        except TimeoutError:
            # A scheduler that is lost has the future end; one that comes back goes on.
            with suppress(OSError):
                if client.status == "running":
                    stalled.look(client)


class _Stalled:
    """For how long no worker took tasks, and what was said of it."""

    def __init__(self, job: Delayed, clock: Callable[[], float] = time.monotonic) -> None:
        self._job, self._clock = job, clock
        self._since: float | None = None
        self._told: float | None = None

    def look(self, client: Client) -> None:
        """Log where no worker takes tasks; `ClusterError` after the time that is set."""
        if any(each["status"] == "running" for each in worker_states(client)):
            if self._told is not None:
                logger.info("workers take tasks again")
            self._since = self._told = None
            return
        now = self._clock()
        self._since = now if self._since is None else self._since
        standing = now - self._since
        timeout = dask.config.get(TIMEOUT_SETTING, None)
        if timeout is not None and standing >= float(timeout):
            raise ClusterError(
                f"No worker took tasks for {standing:.0f} s: {_figures(client)}; {self._missing(client)}. "
                "Start workers, or give them more memory; with a checkpoint (checkpoint=...) the same call "
                "goes on."
            )
        due = _QUIET_SECONDS if self._told is None else self._told + _AGAIN_SECONDS - self._since
        if standing >= due:
            self._told = now
            logger.warning(
                "no worker takes tasks for %.0f s: %s; %s", standing, _figures(client), self._missing(client)
            )

    def _missing(self, client: Client) -> str:
        """Which partitions are not fitted yet."""
        keys = [str(key) for key in self._job.__dask_graph__() if str(key).startswith("moe-local-fit")]

        # Nested, so that it travels by value.
        def unfinished(dask_scheduler: Any) -> list[str]:
            open_ = ("waiting", "no-worker", "queued", "processing")
            known = dask_scheduler.tasks
            return [key for key in keys if key in known and known[key].state in open_]

        left = [key.rpartition("-")[2] for key in ask_scheduler(client, unfinished)]
        more = f" and {len(left) - _NAMED} more" if len(left) > _NAMED else ""
        return f"{len(left)} of {len(keys)} partitions are not fitted ({', '.join(left[:_NAMED])}{more})"


def _figures(client: Client) -> str:
    """The workers as they are."""
    states = worker_states(client)
    if not states:
        return "there is none"
    each = [
        f"{state['status']} with {state['memory'] / _MB:,.0f} of {state['memory_limit'] / _MB:,.0f} MB"
        for state in states[:_NAMED]
    ]
    more = f", and {len(states) - _NAMED} more" if len(states) > _NAMED else ""
    return f"{len(states)} worker{'s' if len(states) > 1 else ''}, {', '.join(each)}{more}"

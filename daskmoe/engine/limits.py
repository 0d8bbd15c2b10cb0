"""The workers of the client that is current, and whether a fit can run on them."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, NamedTuple

from dask.base import get_scheduler
from distributed import Client

from daskmoe.engine.budget import PROCESS_BYTES, Budget, budget_of, dataset_of
from daskmoe.engine.request import FitRequest
from daskmoe.errors import InvalidOptionError

logger = logging.getLogger(__name__)

# Estimates are that good: what needs more than a limit by as much cannot run.
_MARGIN = 1.25
# Dask pauses a worker there.
_PAUSED = 0.8
_MB = 2**20


class Workers(NamedTuple):
    """Worker processes."""

    number: int
    # Most of all.
    threads: int
    # The smallest of all, in bytes; zero where there is none.
    memory_limit: int


def current_client() -> Client | None:
    """The client that computations go to, if it is a synchronous one."""
    try:
        client = getattr(get_scheduler(), "__self__", None)
    except (RuntimeError, ValueError):
        # An asynchronous client refuses by itself, and better.
        return None
    return client if isinstance(client, Client) and not client.asynchronous else None


def current_workers() -> Workers | None:
    """The workers of the current client; None without one."""
    client = current_client()
    if client is None:
        return None
    known = worker_states(client)
    limits = [each["memory_limit"] for each in known if each["memory_limit"]]
    return Workers(len(known), max((each["nthreads"] for each in known), default=1), min(limits, default=0))


def worker_states(client: Client) -> list[dict[str, Any]]:
    """What the scheduler says of each worker: status, threads, memory limit and memory used."""

    # Nested, so that it travels by value: a scheduler elsewhere may not have daskmoe.
    def states(dask_scheduler: Any) -> list[dict[str, Any]]:
        return [
            {
                "status": str(getattr(worker.status, "name", worker.status)),
                "nthreads": int(worker.nthreads),
                "memory_limit": int(worker.memory_limit or 0),
                "memory": int(worker.metrics.get("memory", 0)),
            }
            for worker in dask_scheduler.workers.values()
        ]

    found: list[dict[str, Any]] = ask_scheduler(client, states)
    return found


def ask_scheduler(client: Any, question: Callable[[Any], Any]) -> Any:
    """The answer of a function that the scheduler calls with itself; `ConnectionError` where it is lost."""
    try:
        return client.run_on_scheduler(question)
    except AttributeError as error:
        # A client that has lost its scheduler asks None.
        if client.scheduler is None:
            raise ConnectionError("the scheduler is lost") from error
        raise


def require_room(request: FitRequest, n_tasks: int) -> None:
    """Raise `InvalidOptionError` for a request that the current workers cannot hold."""
    workers = current_workers()
    if workers is not None and workers.memory_limit:
        check_limits(budget_of(request, dataset_of(request), n_tasks), workers)


def check_limits(budget: Budget, workers: Workers) -> None:
    """Raise `InvalidOptionError` for a fit that no worker can hold; log one for which a worker is narrow."""
    worker = PROCESS_BYTES + workers.threads * budget.task_bytes
    limit = workers.memory_limit
    threads = f"{workers.threads} thread{'s' if workers.threads > 1 else ''}"
    figures = (
        f"a partition of {budget.rows[2]:,} rows of {budget.row_bytes} bytes takes "
        f"{_mb(budget.partition_bytes)}, and {_mb(budget.task_bytes)} while it is read and fitted; with "
        f"{threads} a worker needs about {_mb(worker)}, the one that aggregates {_mb(budget.aggregate)}"
    )
    need = max(worker, budget.aggregate)
    if need > _MARGIN * limit:
        raise InvalidOptionError(
            f"partitions: expected a fit that workers with {_mb(limit)} of memory can hold, got one that "
            f"they cannot: {figures}. Use smaller partitions (partitions=...), fewer threads a worker, or "
            "workers with more memory; daskmoe.preview says what is needed."
        )
    if need > _PAUSED * limit:
        logger.warning("workers have %s of memory each, and may be paused or killed: %s", _mb(limit), figures)


def _mb(size: float) -> str:
    return f"{size / _MB:,.0f} MB"

"""The Dask cluster of a job of the command line: started here or reached by address, with its progress shown.

Library calls never come here: they use whatever Dask scheduler is current.
"""

from __future__ import annotations

import importlib.util
import logging
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import dask
import dask.system
from distributed import Client, LocalCluster

logger = logging.getLogger(__name__)

_POLL_SECONDS = 1.0
_WORKERS_TIMEOUT = 120
# Dask's own 64 KiB makes workers return every temporary array to the system: local fits take twice as long.
_MALLOC = {"distributed.nanny.pre-spawn-environ.MALLOC_TRIM_THRESHOLD_": 128 * 2**20}


class ClusterChoice(NamedTuple):
    """Where a job runs; at most one of the three is given.

    Attributes
    ----------
    workers : int or None
        Worker processes to start on this machine.
    scheduler : str or None
        Address of a scheduler that runs already.
    scheduler_file : str or None
        Its scheduler file.
    """

    workers: int | None = None
    scheduler: str | None = None
    scheduler_file: str | None = None


class TaskCounts(NamedTuple):
    """How many of the tasks of one name are done."""

    done: int
    total: int


@contextmanager
def connect(choice: ClusterChoice) -> Iterator[Client]:
    """Client of the chosen cluster, Dask's default scheduler until the block ends.

    Without a choice, worker processes on this machine, one a core, each with one thread.

    Raises
    ------
    TimeoutError
        If the scheduler does not answer or has no worker.
    """
    if choice.scheduler or choice.scheduler_file:
        with Client(choice.scheduler, scheduler_file=choice.scheduler_file) as client:
            client.wait_for_workers(1, timeout=_WORKERS_TIMEOUT)
            logger.info("Dashboard: %s", client.dashboard_link)
            yield client
        return
    with (
        dask.config.set(_MALLOC),
        LocalCluster(
            n_workers=choice.workers or dask.system.CPU_COUNT,
            threads_per_worker=1,
            processes=True,
            host="127.0.0.1",
            dashboard_address="127.0.0.1:8787",
        ) as cluster,
        Client(cluster) as client,
    ):
        logger.info("%d worker processes started.", len(cluster.workers))
        _log_dashboard(client.dashboard_link)
        yield client


def _log_dashboard(link: str) -> None:
    logger.info("Dashboard: %s", link)
    if importlib.util.find_spec("bokeh") is None:
        logger.info("It is empty until bokeh is installed: pip install 'daskmoe[dashboard]'")


def count_tasks(client: Client, prefix: str) -> TaskCounts:
    """Tasks on the scheduler whose key starts with ``prefix``."""

    # Nested, so that it travels by value: a scheduler elsewhere may not have daskmoe.
    def count(dask_scheduler: Any) -> tuple[int, int]:
        done = total = 0
        for name, group in dask_scheduler.task_groups.items():
            if str(name).startswith(prefix):
                done += sum(group.states[state] for state in ("memory", "released", "forgotten", "erred"))
                total += sum(group.states.values())
        return done, total

    return TaskCounts(*client.run_on_scheduler(count))


@contextmanager
def show_progress(client: Client, prefix: str, label: str) -> Iterator[None]:
    """Report on stderr, while the block runs, how many tasks of a name are done.

    Parameters
    ----------
    client : Client
    prefix : str
        Start of the keys of the tasks.
    label : str
        What a task is, in the plural.
    """
    reporter = _Reporter(client, prefix, label)
    stop = threading.Event()
    thread = threading.Thread(target=reporter.watch, args=(stop,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
    reporter.finish()


class _Reporter:
    def __init__(self, client: Client, prefix: str, label: str) -> None:
        self._client, self._prefix, self._label = client, prefix, label
        # A terminal shows a bar; a log gets a line for every tenth.
        self._draw, self._steps = (_draw_bar, 200) if sys.stderr.isatty() else (_log_line, 10)
        self._shown, self._total = -1, 0

    def watch(self, stop: threading.Event) -> None:
        """Show the counts every second until told to stop."""
        while not stop.wait(_POLL_SECONDS):
            try:
                counts = count_tasks(self._client, self._prefix)
            except (OSError, ValueError, TimeoutError):
                # The cluster is gone; whatever waits for the result says why.
                return
            self._total = max(self._total, counts.total)
            self._show(counts)

    def finish(self) -> None:
        """Show that all are done: by now the scheduler may have forgotten the tasks."""
        self._show(TaskCounts(self._total, self._total))

    def _show(self, counts: TaskCounts) -> None:
        step = self._steps * counts.done // max(counts.total, 1)
        if counts.total and step != self._shown:
            self._shown = step
            self._draw(counts, self._label)


def _log_line(counts: TaskCounts, label: str) -> None:
    logger.info("%s: %d of %d", label, counts.done, counts.total)


def _draw_bar(counts: TaskCounts, label: str) -> None:
    filled = 40 * counts.done // counts.total
    end = "\n" if counts.done == counts.total else ""
    bar = "█" * filled + "·" * (40 - filled)
    sys.stderr.write(f"\r{label} {bar} {counts.done} of {counts.total}{end}")
    sys.stderr.flush()

"""The Dask cluster of a job of the command line: started here or reached by address, with its progress shown.

Library calls never come here: they use whatever Dask scheduler is current.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import dask
import dask.system
from dask.delayed import Delayed
from distributed import Client, LocalCluster
from distributed.comm.addressing import get_address_host_port

from daskmoe.cli.stopping import Stopped
from daskmoe.engine.waiting import TIMEOUT_SETTING
from daskmoe.errors import InvalidOptionError

logger = logging.getLogger(__name__)

_POLL_SECONDS = 0.5
# A question to a scheduler that is gone may never be answered.
_LAST_POLL_SECONDS = 5.0
_WORKERS_TIMEOUT = 120
# Dask's own 64 KiB makes workers return every temporary array to the system: local fits take twice as long.
_MALLOC = {"distributed.nanny.pre-spawn-environ.MALLOC_TRIM_THRESHOLD_": 128 * 2**20}


class ClusterChoice(NamedTuple):
    """Where a job runs; at most one of the three is given."""

    # Worker processes to start on this machine.
    workers: int | None = None
    # Address of a scheduler that runs already.
    scheduler: str | None = None
    # Its scheduler file.
    scheduler_file: str | None = None
    # How many of its workers to wait for before any work.
    wait_workers: int = 1
    # Seconds to wait for them, and for any while none takes tasks; None for two minutes and for ever.
    timeout: float | None = None


@contextmanager
def connect(choice: ClusterChoice) -> Iterator[Client]:
    """Client of the chosen cluster, Dask's default scheduler until the block ends.

    Without a choice, worker processes on this machine, one a core, each with one thread.

    Raises
    ------
    InvalidOptionError
        If the address or the scheduler file cannot be one.
    TimeoutError
        If the scheduler does not answer or has no worker.
    """
    logging.getLogger("asyncio").addFilter(_is_no_exit)
    with dask.config.set({TIMEOUT_SETTING: choice.timeout}), _connect(choice) as client:
        yield client


@contextmanager
def _connect(choice: ClusterChoice) -> Iterator[Client]:
    if choice.scheduler is not None or choice.scheduler_file is not None:
        with _reach(choice) as client:
            yield client
        return
    with (
        dask.config.set(_MALLOC),
        _start_workers(choice.workers) as cluster,
        Client(cluster, set_as_default=False) as client,
        client.as_current(),
    ):
        logger.info("%d worker processes started.", len(cluster.workers))
        _log_dashboard(client.dashboard_link)
        try:
            yield client
        except KeyboardInterrupt:
            # The workers are about to end in the middle of their tasks, and would say so at length.
            client.run(logging.disable, logging.CRITICAL, on_error="ignore")
            logging.getLogger("distributed.nanny").setLevel(logging.CRITICAL)
            raise


@contextmanager
def _reach(choice: ClusterChoice) -> Iterator[Client]:
    address = _address_in(choice.scheduler_file) if choice.scheduler is None else choice.scheduler
    logger.info("Connecting to %s", address)
    try:
        # A client that is made for what is no address waits a minute when it is thrown away.
        get_address_host_port(address)
    except ValueError as error:
        raise InvalidOptionError(
            f"Expected the address of a scheduler, such as tcp://10.0.0.1:8786, got {address!r}: {error}"
        ) from error
    if str(address).startswith("tls://") and not dask.config.get("distributed.comm.tls.client.cert"):
        raise InvalidOptionError(
            f"Expected certificates for the address {address}, got none: set distributed.comm.tls.ca-file, "
            "distributed.comm.tls.client.cert and distributed.comm.tls.client.key in Dask's configuration."
        )
    try:
        # As the default, a client that cannot start would stay it for whatever the process does next.
        client = Client(address, set_as_default=False)
    except OSError as error:
        raise TimeoutError(
            f"The scheduler at {address} does not answer. Check that it runs, that the address (or the "
            "scheduler file) is not that of an older one, and that a firewall lets this machine through."
        ) from error
    with client, client.as_current():
        logger.info("Dashboard: %s", client.dashboard_link)
        _wait_for_workers(client, str(address), choice)
        yield client


def _address_in(scheduler_file: str | None) -> str:
    try:
        return str(json.loads(Path(str(scheduler_file)).read_text(encoding="utf-8"))["address"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InvalidOptionError(
            f"{scheduler_file}: expected the file that `dask scheduler --scheduler-file` writes, with an "
            f"address; it cannot be read as one: {error!r}"
        ) from error


def _wait_for_workers(client: Client, address: str, choice: ClusterChoice) -> None:
    number, seconds = choice.wait_workers, choice.timeout or _WORKERS_TIMEOUT
    if len(client.nthreads()) >= number:
        return
    named = "a worker" if number == 1 else f"{number} workers"
    logger.info("Waiting up to %g s for %s", seconds, named)
    try:
        client.wait_for_workers(number, timeout=seconds)
    except TimeoutError as error:
        there = len(client.nthreads())
        found = f"{there} of {number} workers" if there else "no worker"
        raise TimeoutError(
            f"The scheduler at {address} has {found} after {seconds:g} s. Start some with "
            f"`dask worker {address}`, or look into their logs."
        ) from error


@contextmanager
def _start_workers(number: int | None) -> Iterator[LocalCluster]:
    with _deaf_to_interrupts():
        cluster = LocalCluster(
            n_workers=number or dask.system.CPU_COUNT,
            threads_per_worker=1,
            processes=True,
            host="127.0.0.1",
            dashboard_address="127.0.0.1:8787",
        )
    with cluster:
        yield cluster


@contextmanager
def _deaf_to_interrupts() -> Iterator[None]:
    """Let processes that start in the block ignore Ctrl-C, which a terminal sends to them too."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        # None is a handler that Python did not set and cannot put back.
        if before is not None:
            signal.signal(signal.SIGINT, before)


def _is_no_exit(record: logging.LogRecord) -> bool:
    # Distributed ends the wait of an interrupted client by an exception that nobody catches.
    kind = record.exc_info[0] if record.exc_info else None
    return kind is None or kind.__name__ != "AllExit"


@contextmanager
def resumable(checkpoint: str | None) -> Iterator[None]:
    """Have an interrupt say how the work that is done can be used."""
    try:
        yield
    except KeyboardInterrupt as error:
        if checkpoint is not None:
            advice = f"The same command goes on from the partitions that are finished in {checkpoint}."
            error.args = (*error.args, advice)
            if isinstance(error, Stopped):
                error.resumable = True
        raise


def _log_dashboard(link: str) -> None:
    logger.info("Dashboard: %s", link)
    if importlib.util.find_spec("bokeh") is None:
        logger.info("It is empty until bokeh is installed: pip install 'daskmoe[dashboard]'")


def count_done(client: Client, prefix: str) -> int:
    """Tasks on the scheduler whose key starts with ``prefix`` and that are done."""

    # Nested, so that it travels by value: a scheduler elsewhere may not have daskmoe.
    def count(dask_scheduler: Any) -> int:
        done = ("memory", "released", "erred")
        return sum(
            task.state in done for key, task in dask_scheduler.tasks.items() if str(key).startswith(prefix)
        )

    return int(client.run_on_scheduler(count))


@contextmanager
def show_progress(client: Client, job: Delayed, kind: str, label: str) -> Iterator[None]:
    """Report on stderr, while the block runs, how many tasks of a job are done.

    Parameters
    ----------
    client : Client
    job : Delayed
        What the block computes; a scheduler may have other jobs too.
    kind : str
        Start of the keys of the tasks that count.
    label : str
        What such a task is, in the plural.
    """
    keys = [key for key in map(str, job.__dask_graph__()) if key.startswith(kind)]
    prefix = keys[0].rpartition("-")[0] if keys else kind
    reporter = _Reporter(client, prefix, len(keys), label)
    stop = threading.Event()
    thread = threading.Thread(target=reporter.watch, args=(stop,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(_LAST_POLL_SECONDS)
    reporter.show(len(keys))


class _Reporter:
    def __init__(self, client: Client, prefix: str, total: int, label: str) -> None:
        self._client, self._prefix, self._total, self._label = client, prefix, total, label
        # A terminal shows a bar; a log gets a line for every tenth.
        self._draw, self._steps = (_draw_bar, 200) if sys.stderr.isatty() else (_log_line, 10)
        self._shown = -1

    def watch(self, stop: threading.Event) -> None:
        """Show the count twice a second until told to stop."""
        while not stop.wait(_POLL_SECONDS):
            try:
                done = count_done(self._client, self._prefix)
            except (OSError, ValueError, TimeoutError):
                # The cluster is gone; whatever waits for the result says why.
                return
            self.show(done)

    def show(self, done: int) -> None:
        """Show the count where it is a step on."""
        step = self._steps * done // max(self._total, 1)
        # Results that were used are forgotten, which is no step back.
        if step > self._shown and self._total:
            self._shown = step
            self._draw(done, self._total, self._label)


def _log_line(done: int, total: int, label: str) -> None:
    logger.info("%s: %d of %d", label, done, total)


def _draw_bar(done: int, total: int, label: str) -> None:
    filled = 40 * done // total
    end = "\n" if done == total else ""
    bar = "█" * filled + "·" * (40 - filled)
    sys.stderr.write(f"\r{label} {bar} {done} of {total}{end}")
    sys.stderr.flush()

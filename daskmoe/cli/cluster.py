"""The Dask cluster of a job of the command line: started here or reached by address.

Library calls never come here: they use whatever Dask scheduler is current.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import dask
import dask.system
from distributed import Client, LocalCluster
from distributed.comm.addressing import get_address_host_port
from distributed.security import Security

from daskmoe.cli.stopping import Stopped
from daskmoe.engine.waiting import TIMEOUT_SETTING
from daskmoe.errors import InvalidOptionError

logger = logging.getLogger(__name__)

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
    # Files of certificates and of a key for a scheduler at a tls:// address.
    tls_ca_file: str | None = None
    tls_cert: str | None = None
    tls_key: str | None = None


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
        count = len(cluster.workers)
        logger.info("%d worker process%s started.", count, "es" if count > 1 else "")
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
    security = _security(choice, str(address))
    try:
        # As the default, a client that cannot start would stay it for whatever the process does next.
        client = Client(address, set_as_default=False, security=security)
    except OSError as error:
        raise TimeoutError(
            f"The scheduler at {address} does not answer. Check that it runs, that the address (or the "
            "scheduler file) is not that of an older one, that a firewall lets this machine through, and "
            "of a tls:// address that both sides trust the same authority."
        ) from error
    with client, client.as_current():
        logger.info("Dashboard: %s", client.dashboard_link)
        _wait_for_workers(client, str(address), choice)
        yield client


def _security(choice: ClusterChoice, address: str) -> Security:
    """The certificates of the options, or of Dask's configuration.

    Raises
    ------
    InvalidOptionError
        If the address asks for some and there are none, if it takes none, or if they cannot be read.
    """
    given = {"tls_client_cert": choice.tls_cert, "tls_client_key": choice.tls_key or choice.tls_cert}
    named = choice.tls_cert is not None
    security = Security(tls_ca_file=choice.tls_ca_file, **given) if named else Security()
    if not address.startswith("tls://"):
        if named:
            raise InvalidOptionError(
                f"tls_cert: expected a scheduler at a tls:// address, got {address}. Start it with "
                "`dask scheduler --tls-ca-file ... --tls-cert ... --tls-key ...`."
            )
        return security
    files = security.get_tls_config_for_role("client")
    if not files["cert"]:
        raise InvalidOptionError(
            f"Expected certificates for the address {address}, got none: name them with tls_ca_file, "
            "tls_cert and tls_key, or in Dask's configuration (distributed.comm.tls)."
        )
    try:
        security.get_connection_args("client")
    except OSError as error:
        raise InvalidOptionError(
            f"tls_cert: expected files of certificates and a key, in PEM, got {files['ca_file']}, "
            f"{files['cert']} and {files['key']}: {error}"
        ) from error
    return security


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

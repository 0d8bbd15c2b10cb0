"""Clusters of worker processes for tests, which leave this process as they found it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import dask
from distributed import Client, LocalCluster

CLUSTER_TIMEOUT = 60


@contextmanager
def unchanged_environment() -> Iterator[None]:
    """What starts in the block leaves no trace in this process's environment, where Dask puts settings."""
    before = dict(os.environ)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextmanager
def start_workers(number: int, threads_per_worker: int = 1, **options: Any) -> Iterator[LocalCluster]:
    """Worker processes on this machine, with time to start on a slow one."""
    settings = {
        "distributed.comm.timeouts.connect": f"{CLUSTER_TIMEOUT}s",
        "distributed.deploy.lost-worker-timeout": f"{CLUSTER_TIMEOUT}s",
    }
    with dask.config.set(settings):
        with unchanged_environment():
            started = LocalCluster(
                n_workers=number,
                threads_per_worker=threads_per_worker,
                processes=True,
                dashboard_address="127.0.0.1:0",
                host="127.0.0.1",
                **options,
            )
        with started:
            yield started


@contextmanager
def connect_to(cluster: LocalCluster, number: int) -> Iterator[Client]:
    """A client of a cluster with its workers there, Dask's default scheduler until the block ends."""
    # One that cannot start must not be the default of the tests after it.
    with Client(cluster, timeout=CLUSTER_TIMEOUT, set_as_default=False) as client, client.as_current():
        client.wait_for_workers(number, timeout=CLUSTER_TIMEOUT)
        yield client

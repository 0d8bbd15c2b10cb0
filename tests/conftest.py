"""Fixtures for all tests: worker processes, a scheduler that counts, real data where there is some."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import dask
import hypothesis
import pytest
from clusters import connect_to, start_workers
from distributed import Client, LocalCluster
from distributed.client import _global_clients

from daskmoe.engine import threads

ROOT = Path(__file__).resolve().parent.parent
TASKS_TIMEOUT = 60

# How fast a machine draws is no matter of health.
_SLOW = (hypothesis.HealthCheck.too_slow,)
hypothesis.settings.register_profile("default", max_examples=25, deadline=None, suppress_health_check=_SLOW)
# CI draws the same examples on every run, so that a failure there belongs to the change that it names.
hypothesis.settings.register_profile(
    "ci", max_examples=50, deadline=None, derandomize=True, suppress_health_check=_SLOW
)
hypothesis.settings.load_profile("ci" if "CI" in os.environ else "default")


@pytest.fixture(scope="session")
def cluster() -> Iterator[LocalCluster]:
    """Two worker processes with one thread each, started once for the session."""
    with start_workers(2) as started:
        yield started


@pytest.fixture
def client(cluster: LocalCluster) -> Iterator[Client]:
    """A client of the session's cluster, Dask's default scheduler for the length of one test."""
    with connect_to(cluster, 2) as connected:
        yield connected


@pytest.fixture(autouse=True)
def nothing_is_left_behind() -> Iterator[None]:
    """A test that leaves a default scheduler or a client fails, and not those that come after it."""
    before = dask.config.get("scheduler", None)
    yield
    left = [client for client in list(_global_clients.values()) if client.status != "closed"]
    for client in left:
        client.close()
    after = dask.config.get("scheduler", None)
    if after != before:
        dask.config.set(scheduler=before)
    _wait_for_tasks()
    assert after == before
    assert not left


def _wait_for_tasks() -> None:
    """Dask's threads do not wait for each other after an error, and would log into the next test."""
    end = time.monotonic() + TASKS_TIMEOUT
    while threads.single_threaded_blas.inside and time.monotonic() < end:
        time.sleep(0.01)


@pytest.fixture
def raise_if_dask_computes() -> Callable[..., AbstractContextManager[None]]:
    """Context manager: fails when Dask computes more than ``max_computes`` (default 0) times inside it."""

    @contextmanager
    def guard(max_computes: int = 0) -> Iterator[None]:
        computes = 0

        def count(dsk: Any, keys: Any, **kwargs: Any) -> Any:
            nonlocal computes
            computes += 1
            if computes > max_computes:
                raise AssertionError(f"Dask computed {computes} times; at most {max_computes} allowed.")
            return dask.get(dsk, keys, **kwargs)

        with dask.config.set(scheduler=count):
            yield

    return guard


@pytest.fixture(scope="session")
def data_path() -> Callable[[str], Path]:
    """Path of a file or folder of the real data; the test is skipped where they are not there.

    The data are looked for in the folder that the environment variable DASKMOE_DATA names, else in
    ``shared/data`` beside the folder of this project.
    """
    folder = Path(os.environ.get("DASKMOE_DATA") or ROOT.parent / "shared" / "data")

    def find(name: str) -> Path:
        path = folder / name
        if not path.exists():
            pytest.skip(f"real data {name!r} not found: set DASKMOE_DATA to the folder that holds it")
        return path

    return find

"""Fixtures for all tests: worker processes, a scheduler that counts, real data where there is some."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import dask
import hypothesis
import pytest
from distributed import Client, LocalCluster

ROOT = Path(__file__).resolve().parent.parent
CLUSTER_TIMEOUT = 60

hypothesis.settings.register_profile("default", max_examples=25, deadline=None)
# CI draws the same examples on every run, so that a failure there belongs to the change that it names.
hypothesis.settings.register_profile("ci", max_examples=50, deadline=None, derandomize=True)
hypothesis.settings.load_profile("ci" if "CI" in os.environ else "default")


@pytest.fixture(scope="session")
def cluster() -> Iterator[LocalCluster]:
    """Two worker processes with one thread each, started once for the session."""
    with (
        dask.config.set({"distributed.comm.timeouts.connect": f"{CLUSTER_TIMEOUT}s"}),
        LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            processes=True,
            dashboard_address="127.0.0.1:0",
            host="127.0.0.1",
        ) as started,
    ):
        yield started


@pytest.fixture
def client(cluster: LocalCluster) -> Iterator[Client]:
    """A client of the session's cluster, Dask's default scheduler for the length of one test."""
    with Client(cluster, timeout=CLUSTER_TIMEOUT) as connected:
        connected.wait_for_workers(2, timeout=CLUSTER_TIMEOUT)
        yield connected


@pytest.fixture(autouse=True)
def no_scheduler_is_left_behind() -> Iterator[None]:
    """Fail the test that leaves another default scheduler than it found, not all that come after it."""
    before = dask.config.get("scheduler", None)
    yield
    assert dask.config.get("scheduler", None) == before


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

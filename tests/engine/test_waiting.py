"""Waiting for a cluster on which nothing can happen: told within seconds, ended if asked for."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import dask
import pytest
import xarray as xr
from dask.delayed import Delayed, delayed
from distributed import Client, LocalCluster

import daskmoe
from daskmoe import ClusterError
from daskmoe.engine import waiting

OPTIONS: dict[str, Any] = {"n_experts": 2, "n_init": 2, "random_state": 0, "aggregation": "reduction"}


@pytest.fixture(scope="module")
def data() -> xr.Dataset:
    return daskmoe.simulate(200, n_features=2, n_experts=2, random_state=0)[0].compute()


class FakeClient:
    """A client of workers with these states, and of a job of which one of two partitions is fitted."""

    def __init__(self) -> None:
        self.statuses = ["paused", "paused"]

    def run_on_scheduler(self, function: Any) -> Any:
        workers = {
            i: SimpleNamespace(
                status=SimpleNamespace(name=status),
                nthreads=1,
                memory_limit=250 * 2**20,
                metrics={"memory": 240 * 2**20},
            )
            for i, status in enumerate(self.statuses)
        }
        tasks = {
            "moe-local-fit-a-0": SimpleNamespace(state="memory"),
            "moe-local-fit-a-1": SimpleNamespace(state="queued"),
        }
        return function(SimpleNamespace(workers=workers, tasks=tasks))


def job() -> Delayed:
    parts = [delayed(int)(i, dask_key_name=f"moe-local-fit-a-{i}") for i in range(2)]
    return delayed(sum)(parts)


def test_it_tells_of_workers_that_take_no_tasks_and_of_those_that_do_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    now, client = [0.0], FakeClient()
    stalled = waiting._Stalled(job(), lambda: now[0])
    with caplog.at_level(logging.INFO, logger="daskmoe"):
        for seconds in (0, 2, 4, 6, 8, 60, 68, 70):
            now[0] = float(seconds)
            stalled.look(client)  # type: ignore[arg-type]
        client.statuses[0] = "running"
        stalled.look(client)  # type: ignore[arg-type]
    told = [record.getMessage() for record in caplog.records]
    state = "2 workers, paused with 240 of 250 MB, paused with 240 of 250 MB"
    left = "1 of 2 partitions are not fitted (1)"
    assert told == [
        f"no worker takes tasks for 6 s: {state}; {left}",
        f"no worker takes tasks for 68 s: {state}; {left}",
        "workers take tasks again",
    ]


@pytest.fixture
def nobody(monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalCluster]:
    """A cluster without a worker, as the default."""
    monkeypatch.setattr(waiting, "_POLL_SECONDS", 0.1)
    with (
        LocalCluster(
            n_workers=0, processes=False, dashboard_address="127.0.0.1:0", protocol="tcp", host="127.0.0.1"
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
        client.as_current(),
    ):
        yield cluster


@pytest.mark.cluster
def test_a_fit_without_workers_ends_after_the_time_that_is_set(
    nobody: LocalCluster, data: xr.Dataset
) -> None:
    began = time.monotonic()
    with (
        dask.config.set({waiting.TIMEOUT_SETTING: 0.5}),
        pytest.raises(ClusterError, match=r"No worker took tasks for \d s: there is none; 2 of 2 partitions"),
    ):
        daskmoe.fit(data, "y", partitions=2, **OPTIONS)
    assert time.monotonic() - began < 30


@pytest.mark.cluster
def test_a_scheduler_that_is_lost_ends_the_fit(nobody: LocalCluster, data: xr.Dataset) -> None:
    timer = threading.Timer(0.5, nobody.close)
    timer.start()
    with (
        dask.config.set({"distributed.comm.timeouts.connect": "1s"}),
        pytest.raises(ClusterError, match="The scheduler is lost"),
    ):
        daskmoe.fit(data, "y", partitions=2, **OPTIONS)
    timer.join()

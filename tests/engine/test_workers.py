"""`fit` on worker processes: the same bits for any number of them, within their memory, and when one dies."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
import zarr
from clusters import connect_to, start_workers
from distributed import Client

import daskmoe
from daskmoe import InvalidDataError, MixtureOfExperts
from daskmoe.engine.progress import count_done

pytestmark = pytest.mark.cluster

OPTIONS: dict[str, Any] = {"n_experts": 2, "n_init": 3, "random_state": 0, "aggregation": "reduction"}
WAIT = 120


@contextmanager
def workers(number: int, **options: Any) -> Iterator[Client]:
    """A client of worker processes of its own."""
    with start_workers(number, **options) as cluster, connect_to(cluster, number) as client:
        yield client


def assert_same_bits(first: MixtureOfExperts, second: MixtureOfExperts) -> None:
    """Everything but the clock."""
    assert first.diagnostics is not None
    assert second.diagnostics is not None
    xr.testing.assert_identical(first.params, second.params)
    xr.testing.assert_identical(first.local_estimates, second.local_estimates)
    xr.testing.assert_identical(
        first.diagnostics.drop_vars("seconds"), second.diagnostics.drop_vars("seconds")
    )


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data, _ = daskmoe.simulate(3_000, n_features=3, n_experts=2, design="overlap", chunks=300, random_state=0)
    path = tmp_path_factory.mktemp("cluster") / "rows.zarr"
    data.to_zarr(path, zarr_format=2, compute=False).compute(scheduler="synchronous")
    return path


@pytest.fixture(scope="module")
def expected(store: Path) -> MixtureOfExperts:
    model = daskmoe.fit(store, "y", compute=False, **OPTIONS)
    return model.compute(scheduler="synchronous")


def result(client: Client, *args: Any, **options: Any) -> MixtureOfExperts:
    """A fit on the cluster that does not wait forever."""
    future = client.compute(daskmoe.fit(*args, compute=False, **options))
    found: MixtureOfExperts = future.result(timeout=WAIT)
    return found


def test_two_workers(client: Client, store: Path, expected: MixtureOfExperts) -> None:
    assert_same_bits(result(client, store, "y", **OPTIONS), expected)
    assert_same_bits(daskmoe.fit(store, "y", **OPTIONS), expected)
    auto = OPTIONS | {"aggregation": "auto"}
    by_default = daskmoe.fit(store, "y", compute=False, **auto).compute(scheduler="synchronous")
    assert_same_bits(result(client, store, "y", **auto), by_default)
    with xr.open_zarr(store, consolidated=True) as lazy:
        assert_same_bits(result(client, lazy, "y", **OPTIONS), expected)
        assert_same_bits(result(client, lazy.load(), "y", partitions=10, **OPTIONS), expected)


def test_a_store_written_again_is_fitted_again(client: Client, tmp_path: Path) -> None:
    """While a future of the first fit is held, whose results the cluster would hand out for the same keys."""
    path = tmp_path / "rows.zarr"
    data, _ = daskmoe.simulate(600, n_features=2, n_experts=2, design="overlap", chunks=300, random_state=0)
    data.load(scheduler="synchronous").to_zarr(path, zarr_format=2)
    held = client.compute(daskmoe.fit(path, "y", compute=False, **OPTIONS))
    first = held.result(timeout=WAIT)
    data.assign(y=data["y"] + 100.0).to_zarr(path, zarr_format=2, mode="w")
    second = result(client, path, "y", **OPTIONS)
    assert float(abs(second.predict(data) - first.predict(data) - 100.0).max()) < 1.0


@pytest.mark.slow
@pytest.mark.parametrize("number", [1, 4])
def test_any_number_of_workers(number: int, store: Path, expected: MixtureOfExperts) -> None:
    with workers(number) as client:
        assert_same_bits(result(client, store, "y", **OPTIONS), expected)


@pytest.mark.slow
def test_workers_with_threads(store: Path, expected: MixtureOfExperts) -> None:
    with workers(2, threads_per_worker=3) as client:
        assert_same_bits(result(client, store, "y", **OPTIONS), expected)


def test_predictions_are_made_on_the_workers(client: Client, store: Path, expected: MixtureOfExperts) -> None:
    predicted = expected.predict(store)
    on_cluster = client.compute(predicted).result(timeout=WAIT)
    xr.testing.assert_identical(on_cluster, predicted.compute(scheduler="synchronous"))


def test_a_fit_within_a_task_leaves_its_thread_to_others(
    client: Client, store: Path, expected: MixtureOfExperts
) -> None:
    def work() -> MixtureOfExperts:
        return daskmoe.fit(store, "y", **OPTIONS)

    found = [client.submit(work, pure=False) for _ in range(2)]
    for future in found:
        assert_same_bits(future.result(timeout=WAIT), expected)


def test_the_error_of_a_partition_arrives(client: Client, store: Path, tmp_path: Path) -> None:
    with xr.open_zarr(store, consolidated=True) as lazy:
        data = lazy.load().chunk(row=300)
    values = data["y"].values.copy()
    values[[1_000, 1_001, 1_100]] = np.nan
    path = tmp_path / "rows.zarr"
    data.assign(y=("row", values)).chunk(row=300).drop_encoding().to_zarr(path, zarr_format=2)
    for source in (path, data.assign(y=("row", values)).chunk(row=300)):
        with pytest.raises(InvalidDataError, match="in 3 of 300 rows of partition '3'") as caught:
            result(client, source, "y", **OPTIONS)
        assert "'y' 3; first at row[1000]" in str(caught.value)
        assert "on_error='skip' drops such rows" in str(caught.value)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store whose fit takes some seconds."""
    data, _ = daskmoe.simulate(
        400_000, n_features=10, n_experts=4, design="overlap", chunks=20_000, random_state=0
    )
    path = tmp_path_factory.mktemp("work") / "rows.zarr"
    data.to_zarr(path, zarr_format=2)
    return path


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < end, "timed out"
        time.sleep(0.02)


@pytest.mark.slow
def test_a_worker_dies_in_the_middle(work: Path) -> None:
    options: dict[str, Any] = {"n_experts": 4, "random_state": 0}
    with workers(2) as client:
        undisturbed = result(client, work, "y", **options)
        before = client.run(os.getpid)
        model = daskmoe.fit(work, "y", compute=False, **options)
        fits = next(str(key) for key in model.__dask_graph__() if str(key).startswith("moe-local-fit"))
        group = fits.rpartition("-")[0]
        future = client.compute(model)
        until(lambda: count_done(client, [group])[group] >= 6)
        holders = client.has_what()
        victim = max(holders, key=lambda worker: len(holders[worker]))
        lost = [key for key in holders[victim] if str(key).startswith("moe-local-fit")]
        assert future.status == "pending"
        os.kill(before[victim], signal.SIGKILL)
        assert_same_bits(future.result(timeout=WAIT), undisturbed)
        # It held finished partitions, and another process took its place.
        assert lost
        until(lambda: len(client.run(os.getpid)) == 2)
        assert set(client.run(os.getpid).values()) != set(before.values())


def write_large(path: Path, n_rows: int, chunk: int, n_features: int) -> None:
    """A store of incompressible rows, written chunk by chunk."""
    group = zarr.create_group(path, zarr_format=2)
    named = {"X": ((n_rows, n_features), (chunk, n_features)), "y": ((n_rows,), (chunk,))}
    arrays = {}
    for name, (shape, chunks) in named.items():
        arrays[name] = group.create_array(name, shape=shape, chunks=chunks, dtype="f8", compressors=None)
        arrays[name].attrs["_ARRAY_DIMENSIONS"] = ["row", "feature"][: len(shape)]
    rng = np.random.default_rng(0)
    slopes = rng.normal(size=(2, n_features))
    for start in range(0, n_rows, chunk):
        features = rng.normal(size=(chunk, n_features))
        expert = (features[:, 0] > 0).astype(int)
        means = np.sum(features * slopes[expert], axis=1)
        arrays["X"][start : start + chunk] = features
        arrays["y"][start : start + chunk] = means + rng.normal(size=chunk)


def spilled(dask_worker: Any) -> int:
    """Bytes that a worker has ever written to disk."""
    counts = dask_worker.data.cumulative_metrics
    return int(sum(value for key, value in counts.items() if key[0] == "disk-write" and key[-1] == "bytes"))


MEGABYTE = 2**20


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_store_larger_than_memory_does_not_spill(tmp_path: Path) -> None:
    limit, n_workers, n_features = 450 * MEGABYTE, 1, 20
    chunk = 50_000
    n_rows = 3 * n_workers * limit // (8 * (n_features + 1)) // chunk * chunk + chunk
    path = tmp_path / "large.zarr"
    write_large(path, n_rows, chunk, n_features)
    stored = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    assert stored > 3 * n_workers * limit
    with workers(n_workers, memory_limit=limit) as client:
        before = client.run(os.getpid)
        future = client.compute(
            daskmoe.fit(path, "y", n_experts=2, n_init=2, start_rows=500, compute=False, random_state=0)
        )
        model = future.result(timeout=500)
        assert model.diagnostics is not None
        assert int(model.diagnostics["rows"].sum()) == n_rows
        assert set(client.run(spilled).values()) == {0}
        assert client.run(os.getpid) == before
        # The counter counts: four arrays of a third of the limit each do not fit on one worker.
        (victim, *_) = before
        arrays = client.map(np.ones, [limit // 24] * 4, workers=[victim], pure=False)
        until(lambda: client.run(spilled, workers=[victim])[victim] > 0)
        del arrays


def count_spans(client: Client) -> int:
    """Spans of calls that the scheduler knows."""

    def names(dask_scheduler: Any) -> list[tuple[str, ...]]:
        return [each.name for each in dask_scheduler.extensions["spans"].spans.values()]

    return sum(name[0] == "daskmoe" and len(name) == 2 for name in client.run_on_scheduler(names))


def test_every_partition_tells_how_it_ended(client: Client, store: Path, tmp_path: Path) -> None:
    """On a topic that a caller may subscribe to, whatever the displays listen to."""
    heard: list[dict[str, Any]] = []
    before = count_spans(client)
    client.subscribe_topic("daskmoe", lambda event: heard.append(event[1]))
    options = OPTIONS | {"checkpoint": tmp_path, "on_error": "skip", "progress": lambda status: None}
    with xr.open_zarr(store, consolidated=True) as lazy:
        data = lazy.load(scheduler="synchronous")
    data["y"][:300] = np.nan
    data["X"][:300] = 0.0
    for _ in range(2):
        daskmoe.fit(data, "y", partitions=10, **options)
    deadline = time.monotonic() + WAIT
    while len(heard) < 20 and time.monotonic() < deadline:
        time.sleep(0.05)
    client.unsubscribe_topic("daskmoe")
    assert sorted(int(event["partition"]) for event in heard) == sorted([*range(10)] * 2)
    fitted = [event for event in heard if event["partition"] != "0"]
    assert {(event["outcome"], event["n_experts"], event["rows"]) for event in fitted} == {("fitted", 2, 300)}
    assert sum(event["kept"] for event in fitted) == 9
    assert all(event["log_likelihood"] < 0 < event["seconds"] for event in fitted)
    lost = [event for event in heard if event["partition"] == "0"]
    assert {(event["outcome"], event["log_likelihood"]) for event in lost} == {("left out", None)}
    assert "got 0 of 300" in lost[0]["reason"]
    # A span a call.
    assert count_spans(client) == before + 2


def test_a_store_that_grows_costs_workers_what_is_new(client: Client, tmp_path: Path) -> None:
    data, _ = daskmoe.simulate(2_100, n_features=2, n_experts=2, design="overlap", random_state=0)
    store, kept = tmp_path / "rows.zarr", tmp_path / "kept"
    first, last = data.isel(row=slice(1_800)).chunk(row=300), data.isel(row=slice(1_800, None)).chunk(row=300)
    first.load(scheduler="synchronous").chunk(row=300).to_zarr(store, zarr_format=2)
    options: dict[str, Any] = {"n_experts": 2, "n_init": 2, "random_state": 0, "refine": 2}
    expected = result(client, store, "y", **options)
    for _ in range(2):
        found = result(client, store, "y", checkpoint=kept, **options)
        xr.testing.assert_identical(found.params, expected.params)
    # One call that computes goes the same way.
    found = daskmoe.fit(store, "y", checkpoint=kept, **options)
    xr.testing.assert_identical(found.params, expected.params)
    entries = {path.name for path in kept.glob("moe-local-fit-*")}
    last.load(scheduler="synchronous").chunk(row=300).to_zarr(store, append_dim="row", zarr_format=2)
    grown = daskmoe.fit(store, "y", checkpoint=kept, **options)
    assert grown.local_estimates.sizes["partition"] == 7
    assert len({path.name for path in kept.glob("moe-local-fit-*")} - entries) == 1

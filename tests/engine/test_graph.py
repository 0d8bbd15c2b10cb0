"""The graph of a fit: what is in it, what building it does (nothing), and how often it is computed (once)."""

from __future__ import annotations

import gc
import pickle
import shutil
import sys
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cloudpickle
import dask
import dask.array
import numpy as np
import pytest
import xarray as xr
from dask.delayed import Delayed

import daskmoe
from daskmoe.engine import tasks

FAST: dict[str, Any] = {"n_experts": 2, "n_init": 2, "random_state": 0, "aggregation": "reduction"}
MEGABYTE = 1_000_000


def test_no_task_holds_more_than_a_fan_in_of_matrices() -> None:
    """Bytes that the aggregation is handed, and that any task of the sums is."""
    n_features, partitions = 24, 40
    data, _ = daskmoe.simulate(partitions * 50, n_features=n_features, n_experts=3, random_state=0)
    options = {"n_experts": 3, "partitions": partitions, "support_size": 100, "random_state": 0}
    job = daskmoe.fit(data, "y", compute=False, **options)
    graph = dict(job.__dask_graph__())
    results = dask.get(graph, list(graph))
    sizes = {key: len(pickle.dumps(found)) for key, found in zip(graph, results, strict=True)}
    handed = {key: sum(sizes[needed] for needed in task.dependencies) for key, task in graph.items()}
    of_fits = sum(size for key, size in sizes.items() if key.startswith("moe-local-fit"))
    for kind in ("moe-propose", "moe-aggregate", "moe-model"):
        (size,) = (size for key, size in handed.items() if key.startswith(kind))
        assert size < of_fits / 5
    assert max(handed.values()) < of_fits / partitions * 16 * 2.2


@contextmanager
def counted() -> Iterator[list[list[str]]]:
    """The keys of every graph that Dask computes inside the block."""
    graphs: list[list[str]] = []

    def scheduler(dsk: Any, keys: Any, **kwargs: Any) -> Any:
        # What Dask hands over is a graph or, of late, an expression of one.
        graph = dsk.__dask_graph__() if hasattr(dsk, "__dask_graph__") else dsk
        graphs.append([str(key) for key in dict(graph)])
        return dask.get(dsk, keys, **kwargs)

    with dask.config.set(scheduler=scheduler):
        yield graphs


def rows(n_rows: int) -> xr.Dataset:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(n_rows, 2))
    response = np.where(features[:, 0] > 0, 3.0, -3.0) * features[:, 1] + rng.normal(size=n_rows)
    return xr.Dataset(
        {"X": (("row", "feature"), features), "y": ("row", response)},
        {"row": np.arange(n_rows).astype("datetime64[m]").astype("datetime64[ns]")},
    )


def write(data: xr.Dataset, path: Path, chunk: int) -> Path:
    data.to_zarr(path, zarr_format=2, encoding={"X": {"chunks": (chunk, 2)}, "y": {"chunks": (chunk,)}})
    return path


@pytest.fixture(scope="module")
def thousand(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of 1,000 chunks with a coordinate along the rows."""
    return write(rows(5_000), tmp_path_factory.mktemp("graph") / "thousand.zarr", 5)


def kinds(keys: list[str]) -> Counter[str]:
    """How many keys there are of the tasks that the contract names, and of others."""
    starts = ("moe-local-fit", "moe-aggregate", "moe-sample", "moe-pilot", "moe-score", "moe-combine")
    return Counter(next((start for start in starts if key.startswith(start)), "other") for key in keys)


def keys_of(model: Delayed) -> list[str]:
    return [str(key) for key in dict(model.__dask_graph__())]


@pytest.mark.parametrize("aggregation", ["auto", "reduction"])
def test_one_local_fit_a_partition_one_aggregate_few_others(thousand: Path, aggregation: str) -> None:
    options = FAST | {"aggregation": aggregation, "compute": False}
    others = set()
    for partitions, expected in ((2, 2), (7, 7), (1_000, 1_000), (None, 1_000)):
        found = kinds(keys_of(daskmoe.fit(thousand, "y", partitions=partitions, **options)))
        assert found["moe-local-fit"] == expected
        assert found["moe-aggregate"] == 1
        # A shared start: some tasks that sample and one pilot, or neither.
        assert found["moe-pilot"] == (1 if found["moe-sample"] else 0)
        # Where there is a choice, expansions and numbers of every partition, added up in trees.
        assert found["moe-score"] == (expected if aggregation == "auto" else 0)
        assert found["moe-combine"] <= 2 * (found["moe-score"] // 15 + 3)
        if aggregation == "reduction":
            assert found["moe-sample"] == 0
        others.add(found["other"])
    assert len(others) == 1
    assert others.pop() <= 5


def test_tasks_of_a_lazy_dataset_are_in_proportion_to_the_partitions() -> None:
    """Pieces do not come with the chunks of each other."""
    few, many = (
        len(keys_of(daskmoe.fit(rows(n).chunk(row=20), "y", compute=False, **FAST))) for n in (400, 1_600)
    )
    assert many < 4.2 * few


def test_no_task_of_a_lazy_dataset_is_handed_more_than_a_chunk_of_the_sample() -> None:
    n, chunk = 4_000_000, 200_000
    features = dask.array.zeros((n, 2), chunks=(chunk, 2))
    lazy = xr.Dataset({"X": (("row", "feature"), features), "y": ("row", features[:, 0])})
    options = FAST | {"aggregation": "auto", "compute": False}
    assert kinds(keys_of(daskmoe.fit(lazy, "y", **options)))["moe-sample"] == n // chunk
    # What is in memory already is handed over as views of a few rows.
    small = kinds(keys_of(daskmoe.fit(rows(50_000), "y", partitions=2, **options)))
    assert small["moe-sample"] == 16


@pytest.mark.parametrize("aggregation", ["auto", "reduction"])
@pytest.mark.parametrize("partitions", [None, 1_000])
def test_a_thousand_partitions_pickle_to_less_than_a_megabyte(
    thousand: Path, partitions: int | None, aggregation: str
) -> None:
    options = FAST | {"aggregation": aggregation, "compute": False}
    model = daskmoe.fit(thousand, "y", partitions=partitions, **options)
    assert kinds(keys_of(model))["moe-local-fit"] == 1_000
    for dump in (pickle.dumps, cloudpickle.dumps):
        assert len(dump(model.__dask_graph__())) < MEGABYTE
        assert len(dump(dict(model.__dask_graph__()))) < MEGABYTE


def test_partitions_by_name_pickle_small_too(tmp_path: Path) -> None:
    data = rows(5_000).assign_coords(
        station=("row", np.array([f"station {i % 1_000:04}" for i in range(5_000)]))
    )
    path = write(data, tmp_path / "rows.zarr", 500)
    model = daskmoe.fit(path, "y", partitions="station", compute=False, **FAST)
    assert kinds(keys_of(model))["moe-local-fit"] == 1_000
    assert len(cloudpickle.dumps(dict(model.__dask_graph__()))) < MEGABYTE


@pytest.mark.parametrize("aggregation", ["auto", "reduction"])
def test_building_computes_nothing(tmp_path: Path, aggregation: str) -> None:
    path = write(rows(300), tmp_path / "rows.zarr", 100)
    options = FAST | {"aggregation": aggregation, "compute": False}
    with counted() as graphs, xr.open_zarr(path, consolidated=True) as lazy:
        for source in (path, str(path), lazy, rows(300)):
            for partitions in (None, 2):
                assert isinstance(daskmoe.fit(source, "y", partitions=partitions, **options), Delayed)
        assert graphs == []


def test_fit_computes_once(tmp_path: Path) -> None:
    path = write(rows(300), tmp_path / "rows.zarr", 100)
    for source in (path, rows(300).chunk(row=100), rows(300)):
        with counted() as graphs:
            daskmoe.fit(source, "y", **FAST)
        assert len(graphs) == 1
        (keys,) = graphs
        found = kinds(keys)
        assert found["moe-local-fit"] == (1 if source is not path and not source.chunks else 3)
        assert found["moe-aggregate"] == 1


def test_fit_local_needs_no_scheduler(tmp_path: Path) -> None:
    path = write(rows(300), tmp_path / "rows.zarr", 100)
    with counted() as graphs:
        daskmoe.fit_local(path, "y", n_experts=2, n_init=2)
        daskmoe.fit_local(rows(300), "y", n_experts=2, n_init=2)
    assert graphs == []


def test_every_chunk_is_read_once_and_only_by_its_partition() -> None:
    data = rows(400)
    reads: list[tuple[str, int]] = []

    def read(values: np.ndarray, name: str, block_info: Any = None) -> np.ndarray:
        reads.append((name, block_info[0]["array-location"][0][0]))
        return values

    lazy = data.chunk(row=100)
    watched = lazy
    for name in ("X", "y"):
        blocks = lazy[name].data.map_blocks(
            read, name, dtype=np.float64, meta=np.empty((0,) * lazy[name].ndim)
        )
        watched = watched.assign({name: lazy[name].copy(data=blocks)})
    model = daskmoe.fit(watched, "y", compute=False, **FAST)
    assert reads == []
    model.compute(scheduler="synchronous")
    assert sorted(reads) == [(name, start) for name in ("X", "y") for start in (0, 100, 200, 300)]


def calls_of(work: Callable[[], Any]) -> int:
    """How many functions of Python are called, which no other load of the machine changes."""
    count = 0

    def watch(frame: Any, event: str, argument: Any) -> None:
        nonlocal count
        count += event == "call"

    sys.setprofile(watch)
    try:
        work()
    finally:
        sys.setprofile(None)
    return count


def test_work_of_building_is_in_proportion_to_the_partitions(thousand: Path) -> None:
    options = FAST | {"aggregation": "auto", "compute": False}
    few, many = (
        calls_of(lambda m=m: dict(daskmoe.fit(thousand, "y", partitions=m, **options).__dask_graph__()))
        for m in (250, 1_000)
    )
    assert many < 4.2 * few


@pytest.mark.parametrize("aggregation", ["auto", "reduction"])
@pytest.mark.parametrize("consolidated", [True, False])
def test_rows_are_let_go_when_their_task_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, consolidated: bool, aggregation: str
) -> None:
    """Rows that only the collector of cycles frees fill a worker's memory until it comes by."""
    path = tmp_path / "rows.zarr"
    rows(300).chunk(row=100).to_zarr(path, zarr_format=2, consolidated=consolidated)
    kept: list[weakref.ref[np.ndarray]] = []
    alive: list[int] = []
    original = tasks.extract_rows

    def watched(*args: Any, **kwargs: Any) -> Any:
        alive.append(sum(reference() is not None for reference in kept))
        found = original(*args, **kwargs)
        kept.append(weakref.ref(found.features))
        return found

    monkeypatch.setattr(tasks, "extract_rows", watched)
    model = daskmoe.fit(path, "y", compute=False, **(FAST | {"aggregation": aggregation}))
    gc.collect()
    gc.disable()
    try:
        fits = [key for key in keys_of(model) if key.startswith("moe-local-fit")]
        results = dask.get(dict(model.__dask_graph__()), fits)
    finally:
        gc.enable()
    assert len(results) == 3
    assert len(alive) >= 3
    # A local fit lets go of its rows; what the sample tasks read goes on to the pilot.
    assert alive[-3:] == [0] * 3


def test_keys_name_the_request(tmp_path: Path) -> None:
    """Equal requests share keys; requests that give different models never do."""
    path = write(rows(300), tmp_path / "rows.zarr", 100)
    weighted = rows(300).assign(w=("row", np.ones(300))).chunk(row=100)
    changed = rows(300).assign(y=rows(300)["y"] + 1).chunk(row=100)
    base: dict[str, Any] = {"data": path, "target": "y", "features": "X", **FAST}
    requests = [
        base,
        base | {"random_state": 1},
        base | {"n_experts": 3},
        base | {"n_init": 3},
        base | {"start_rows": 50},
        base | {"support_size": 100},
        base | {"partitions": 2},
        base | {"on_error": "skip"},
        base | {"data": rows(300).chunk(row=100)},
        base | {"data": changed},
        base | {"data": weighted, "sample_weight": "w"},
        base | {"target": "X", "features": "y"},
    ]
    keys = [daskmoe.fit(compute=False, **request).key for request in requests]
    assert len(set(keys)) == len(keys)
    assert [daskmoe.fit(compute=False, **request).key for request in requests] == keys
    assert daskmoe.fit(compute=False, **(base | {"data": str(path)})).key == keys[0]


@pytest.mark.parametrize("what", ["data", "support"])
def test_keys_tell_apart_stores_written_again(tmp_path: Path, what: str) -> None:
    """Another content under the same path, as of a job that runs every night."""
    kept, path = write(rows(300), tmp_path / "kept.zarr", 100), tmp_path / "rows.zarr"
    write(rows(300), path, 100)
    options = {"data": kept, "support": "features", "compute": False} | FAST | {what: path}
    before = daskmoe.fit(target="y", **options)
    assert daskmoe.fit(target="y", **options).key == before.key
    shutil.rmtree(path)
    write(rows(300) + 1.0, path, 100)
    after = daskmoe.fit(target="y", **options)
    starts = ("moe-local-fit", "moe-support", "moe-aggregate", "moe-model")
    named = [{key for key in keys_of(model) if key.startswith(starts)} for model in (before, after)]
    changed = {"data": named[0], "support": {key for key in named[0] if "local-fit" not in key}}[what]
    assert named[0] - named[1] == changed


def test_keys_of_a_url_are_never_shared(tmp_path: Path) -> None:
    """Nothing tells cheaply whether what is behind it has changed."""
    url = f"file://{write(rows(300), tmp_path / 'rows.zarr', 100)}"
    first, second = (daskmoe.fit(url, "y", compute=False, **FAST) for _ in range(2))
    assert not {*keys_of(first)} & {*keys_of(second)}
    assert first.compute(scheduler="synchronous").params.identical(
        second.compute(scheduler="synchronous").params
    )


@pytest.mark.parametrize("partitions", [None, 1])
def test_keys_tell_apart_models_with_other_recorded_options(tmp_path: Path, partitions: int | None) -> None:
    """Computed together, as Dask merges tasks of one key."""
    path = write(rows(300), tmp_path / "rows.zarr", 100)
    names = ("auto", "reduction")
    delayed = [
        daskmoe.fit(path, "y", partitions=partitions, compute=False, **(FAST | {"aggregation": name}))
        for name in names
    ]
    models = dask.compute(*delayed, scheduler="synchronous")
    assert tuple(model.options["aggregation"] for model in models) == names


def test_results_are_kilobytes(tmp_path: Path) -> None:
    path = write(rows(20_000), tmp_path / "rows.zarr", 10_000)
    model = daskmoe.fit(path, "y", compute=False, **FAST)
    fits = [key for key in keys_of(model) if key.startswith("moe-local-fit")]
    results = dask.get(dict(model.__dask_graph__()), fits)
    for result in results:
        size = len(pickle.dumps(result))
        # A share of 1,000 support rows, two features, a response and a weight each, and the rest.
        assert 1_000 * 4 * 8 < size < 1_000 * 4 * 8 + 4_000
        assert result.data_bytes == 10_000 * 3 * 8


def test_tasks_of_a_lazy_dataset_do_not_carry_its_graph() -> None:
    data, sizes = rows(400), []
    for size in (100, 10):
        graph = daskmoe.fit(data.chunk(row=size), "y", compute=False, **FAST).__dask_graph__()
        pieces = [pickle.dumps(task) for key, task in dict(graph).items() if str(key).startswith("moe-rows")]
        sizes.append(max(map(len, pieces)))
    assert sizes[1] <= sizes[0]

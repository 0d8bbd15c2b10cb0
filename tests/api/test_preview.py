"""`preview`: what a fit will do is known before it does it, and held to what it does."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pytest
import xarray as xr
import zarr
from clusters import connect_to, start_workers
from dask.array import from_delayed

import daskmoe
from daskmoe import InvalidOptionError
from daskmoe.engine import limits
from daskmoe.engine.limits import Workers

MEGABYTE = 2**20


def unread(n_rows: int, n_features: int, chunk: int) -> xr.Dataset:
    """Data of which no chunk can be read."""

    def fail() -> None:
        raise AssertionError("a chunk was read")

    block = dask.delayed(fail)()
    parts = [from_delayed(block, (chunk, n_features), float) for _ in range(n_rows // chunk)]
    features = dask.array.concatenate(parts)
    return xr.Dataset({"X": (("row", "feature"), features), "y": ("row", features[:, 0])})


def test_it_says_what_the_graph_and_the_options_do_and_reads_nothing() -> None:
    data = unread(4_000, 3, 1_000)
    found = daskmoe.preview(data, "y", n_experts=2, random_state=0)
    assert (found.partitions, found.rows, found.n_rows) == (4, (1_000, 1_000, 1_000), 4_000)
    assert found.partition_bytes == 1_000 * 4 * 8
    graph = daskmoe.fit(data, "y", n_experts=2, random_state=0, compute=False).__dask_graph__()
    # One more labels the model.
    assert sum(found.tasks.values()) == len(graph) - 1
    for start in ("moe-local-fit", "moe-score", "moe-aggregate", "moe-pilot"):
        assert found.tasks[start] == Counter(str(key).startswith(start) for key in graph)[True]
    text = str(found)
    for said in ("4 of 1,000 rows", "moe-local-fit 4", "peak of a worker", "reads of 'X'"):
        assert said in text
        assert said.replace("'", "&#x27;") in found._repr_html_()


def test_chunks_that_partitions_cut_are_read_more_often(tmp_path: Path) -> None:
    data, _ = daskmoe.simulate(1_200, n_features=2, n_experts=2, random_state=0)
    path = tmp_path / "rows.zarr"
    encoding = {"X": {"chunks": (200, 2), "shards": (600, 2)}, "y": {"chunks": (300,)}}
    plain = data[["X", "y"]].drop_vars(["feature"], errors="ignore").drop_encoding()
    plain.to_zarr(path, zarr_format=3, encoding=encoding, consolidated=False)
    found = {each.name: each for each in daskmoe.preview(path, "y", n_experts=2, partitions=4).variables}
    assert (found["X"].n_chunks, found["X"].n_reads) == (6, 8)
    assert found["X"].shards == {"row": 600, "feature": 2}
    assert (found["y"].n_chunks, found["y"].n_reads) == (4, 4)


def test_a_fit_that_no_worker_can_hold_is_refused_with_its_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "current_workers", lambda: Workers(2, 1, 300 * MEGABYTE))
    data = unread(8_000_000, 3, 4_000_000)
    with pytest.raises(InvalidOptionError, match=r"300 MB .* 4,000,000 rows of 32 bytes takes 122 MB"):
        daskmoe.fit(data, "y", n_experts=2, random_state=0)


def write_noise(path: Path, n_rows: int, chunk: int, n_features: int) -> None:
    group = zarr.create_group(path, zarr_format=2)
    rng = np.random.default_rng(0)
    for name, shape in (("X", (n_rows, n_features)), ("y", (n_rows,))):
        chunks = (chunk, *shape[1:])
        array = group.create_array(name, shape=shape, chunks=chunks, dtype="f8")
        array.attrs["_ARRAY_DIMENSIONS"] = ["row", "feature"][: len(shape)]
        for start in range(0, n_rows, chunk):
            array[start : start + chunk] = rng.normal(size=chunks)


def peak() -> int:
    """Of this process, in bytes; that of `resource` begins at the peak of the process that started it."""
    (line,) = (row for row in Path("/proc/self/status").read_text().splitlines() if row.startswith("VmHWM"))
    return 1024 * int(line.split()[1])


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.cluster
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peaks are read from /proc")
@pytest.mark.parametrize(
    ("n_rows", "chunk", "n_features", "options"),
    [
        (800_000, 400_000, 20, {"n_experts": 2}),
        (800_000, 100_000, 20, {"n_experts": 2, "partitions": 2}),
        (4_000, 500, 60, {"n_experts": 6, "n_init": 2}),
    ],
    ids=["one chunk", "four chunks", "many parameters"],
)
def test_estimates_are_held_to_the_peaks_of_a_real_worker(
    tmp_path: Path, n_rows: int, chunk: int, n_features: int, options: dict[str, Any]
) -> None:
    path = tmp_path / "rows.zarr"
    write_noise(path, n_rows, chunk, n_features)
    found = daskmoe.preview(path, "y", random_state=0, **options)
    with start_workers(1, memory_limit=0) as cluster, connect_to(cluster, 1) as client:
        daskmoe.fit(path, "y", random_state=0, **options)
        (measured,) = client.run(peak).values()
    assert max(found.worker_bytes, found.aggregate_bytes) == pytest.approx(measured, rel=0.25)

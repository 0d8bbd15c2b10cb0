"""Reading from stores: the same rows however few are read at a time, and little beside them."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
import zarr

from daskmoe.rows import describe_rows, extract_rows, open_store, plan_partitions, read_box
from daskmoe.rows.buffers import AdoptingBuffer

ROWS = 50_000


@pytest.fixture(scope="module")
def values() -> np.ndarray[Any, Any]:
    """Features that compress to a quarter, and a target."""
    return np.random.default_rng(0).normal(size=(ROWS, 21)).round(1)


def as_columns(values: np.ndarray[Any, Any]) -> xr.Dataset:
    return xr.Dataset({f"x{i:02}": ("row", values[:, i]) for i in range(20)} | {"y": ("row", values[:, 20])})


def as_one(values: np.ndarray[Any, Any]) -> xr.Dataset:
    return xr.Dataset({"X": (("row", "feature"), values[:, :20]), "y": ("row", values[:, 20])})


@pytest.mark.parametrize("layout", [as_columns, as_one])
@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("chunk", [ROWS, ROWS // 8, 7_001])
def test_rows_are_what_was_stored_and_little_is_held_beside(
    values: Any, layout: Any, zarr_format: int, chunk: int, tmp_path: Path
) -> None:
    path = tmp_path / "s.zarr"
    layout(values).chunk(row=chunk).to_zarr(path, zarr_format=zarr_format, consolidated=False)
    ds = open_store(path)
    schema = describe_rows(ds, "y")
    (whole,) = plan_partitions(ds, schema, 1)
    extract_rows(read_box(path, schema, whole), schema, whole)
    tracemalloc.start()
    rows = extract_rows(read_box(path, schema, whole), schema, whole)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    np.testing.assert_array_equal(rows.features, values[:, :20])
    np.testing.assert_array_equal(rows.response, values[:, 20])
    # Older Zarr copies what it reads.
    if hasattr(zarr.Array, "async_array"):
        assert peak <= 1.6 * (rows.features.nbytes + rows.response.nbytes)
    for part in plan_partitions(ds, schema, 3):
        start, stop = part.box[0][1:]
        found = extract_rows(read_box(path, schema, part), schema, part)
        np.testing.assert_array_equal(found.features, values[start:stop, :20])


def test_grids_in_parts(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    dims, shape = ("time", "lat", "lon"), (16, 6, 5)
    ds = xr.Dataset({"y": (dims, rng.normal(size=shape)), "season": ("time", np.arange(16.0))})
    ds["X"] = (("feature", "lat", "time", "lon"), rng.normal(size=(3, 6, 16, 5)))
    ds.chunk(time=2, lat=3).to_zarr(tmp_path / "s.zarr", zarr_format=2)
    schema = describe_rows(ds, "y")
    for part in plan_partitions(ds, schema, 3):
        expected = extract_rows(read_box(ds, schema, part), schema, part)
        found = extract_rows(read_box(tmp_path / "s.zarr", schema, part), schema, part)
        np.testing.assert_array_equal(found.features, expected.features)


def test_a_small_piece_of_a_chunk_does_not_hold_it() -> None:
    chunk = np.arange(1000.0)
    for size, adopted in ((1000, True), (500, True), (499, False)):
        buffer = AdoptingBuffer.empty((size,), "f8")
        buffer[(slice(0, size),)] = AdoptingBuffer(chunk)[(slice(0, size),)]
        assert np.shares_memory(buffer.as_numpy_array(), chunk) == adopted
        np.testing.assert_array_equal(buffer.as_numpy_array(), chunk[:size])


def test_a_result_of_several_parts() -> None:
    buffer = AdoptingBuffer.empty((4, 2), "f4", order="F")
    for start in (0, 2):
        buffer[slice(start, start + 2), slice(0, 2)] = AdoptingBuffer(np.full((2, 2), start, "f4"))
    assert buffer.as_numpy_array().tolist() == [[0.0, 0.0]] * 2 + [[2.0, 2.0]] * 2
    whole = AdoptingBuffer.empty((3,), "f8")
    whole[...] = 7.0
    assert whole.as_numpy_array().tolist() == [7.0] * 3

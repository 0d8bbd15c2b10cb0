"""Chunks that were never written are counted, by variable and partition, in stores of every layout."""

from __future__ import annotations

import math
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
import zarr

from daskmoe.rows import describe_rows, open_store, plan_partitions
from daskmoe.rows.chunks import MissingChunks, find_missing_chunks, fingerprint

ROWS = 80


def count(path: str, names: str = "ay") -> dict[str, MissingChunks]:
    ds = open_store(path)
    found = find_missing_chunks(path, list(names), plan_partitions(ds, describe_rows(ds, "y", ["a"])))
    return {each.variable: each for each in found}


def table(**options: Any) -> xr.Dataset:
    values = np.arange(1.0, ROWS + 1)
    return xr.Dataset({"a": ("row", values), "y": ("row", 2 * values)}).chunk(row=10)


def lose(path: str, name: str, *chunks: int) -> None:
    """Remove chunks of one dimension."""
    for chunk in chunks:
        (found,) = (
            p for p in (Path(path, name, f"{chunk}"), Path(path, name, "c", f"{chunk}")) if p.exists()
        )
        found.unlink()


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("consolidated", [False, True])
@pytest.mark.filterwarnings("ignore:Consolidated metadata")
def test_chunks_that_are_gone(tmp_path: Path, zarr_format: int, consolidated: bool) -> None:
    path = str(tmp_path / "s.zarr")
    table().to_zarr(path, zarr_format=zarr_format, consolidated=consolidated)
    assert count(path) == {}
    lose(path, "a", 2, 5)
    lose(path, "y", 5)
    found = count(path)
    assert found["a"][:3] == ("a", 2, 8)
    assert found["a"].partitions == ("2", "5")
    assert found["y"].partitions == ("5",)
    assert math.isnan(found["a"].value)
    assert str(found["a"]) == "2 of 8 of 'a' (read as missing values)"
    zipped = shutil.make_archive(path, "zip", path)
    assert str(count(zipped)) == str(found)


@pytest.mark.filterwarnings("ignore:saving variable")
@pytest.mark.parametrize(
    ("zarr_format", "fill", "read"), [(2, None, "0"), (2, -7, "missing values"), (3, None, "0"), (3, -7, "0")]
)
def test_integers_are_read_as_what_their_store_declares(
    tmp_path: Path, zarr_format: int, fill: int | None, read: str
) -> None:
    """A store of format 3 has a fill value of its own beside the attribute ``_FillValue``."""
    path = str(tmp_path / "s.zarr")
    encoding = {"dtype": "i2"} if fill is None else {"dtype": "i2", "_FillValue": fill}
    packed = dict.fromkeys(("a", "y"), encoding)
    table().to_zarr(path, zarr_format=zarr_format, encoding=packed, consolidated=False)
    lose(path, "y", 0)
    assert str(count(path)["y"]) == f"1 of 8 of 'y' (read as {read})"


@pytest.mark.filterwarnings("ignore:saving variable")
def test_packed_fill_values_are_decoded(tmp_path: Path) -> None:
    path = str(tmp_path / "s.zarr")
    encoding = {"y": {"dtype": "i2", "scale_factor": 0.5, "add_offset": 3.0}}
    table().to_zarr(path, zarr_format=3, encoding=encoding, consolidated=False)
    lose(path, "y", 7)
    assert count(path)["y"].value == 3.0


def test_inner_chunks_of_shards(tmp_path: Path) -> None:
    # Rows 0 to 69 of 75 in shards of 20 and chunks of 5: the last shard reaches beyond the array.
    path = str(tmp_path / "s.zarr")
    group = zarr.open_group(path, mode="w", zarr_format=3)
    for name in ("a", "y"):
        array = group.create_array(
            name, shape=(75,), chunks=(5,), shards=(20,), dtype="f8", dimension_names=["row"]
        )
        array[:] = np.arange(1.0, 76)
    assert count(path) == {}
    array = group["y"]
    assert isinstance(array, zarr.Array)
    array[5:10] = 0.0
    array[60:65] = 0.0
    lose(path, "a", 1)
    found = count(path)
    assert found["y"][:3] == ("y", 2, 15)
    assert found["y"].partitions == ("0", "3")
    assert found["a"][:3] == ("a", 4, 15)
    assert found["a"].partitions == ("1",)


def test_an_index_at_the_start_of_shards(tmp_path: Path) -> None:
    path = str(tmp_path / "s.zarr")
    codec = zarr.codecs.ShardingCodec(chunk_shape=(5,), index_location="start")
    group = zarr.open_group(path, mode="w", zarr_format=3)
    for name in ("a", "y"):
        array = zarr.create(
            store=group.store, path=name, shape=(40,), chunks=(20,), dtype="f8", codecs=[codec],
            dimension_names=["row"], zarr_format=3,
        )  # fmt: skip
        array[:20] = np.r_[np.ones(10), np.zeros(5), np.ones(5)]
        array[20:] = 1.0
    assert count(path)["y"][:3] == ("y", 1, 8)


def test_grids_of_several_dimensions_and_variables_of_some(tmp_path: Path) -> None:
    path = str(tmp_path / "s.zarr")
    values = np.arange(1.0, 1 + 6 * 8).reshape(6, 8)
    ds = xr.Dataset({"y": (("time", "lat"), values), "a": ("lat", np.arange(1.0, 9))})
    ds.chunk(time=2, lat=4).to_zarr(path, zarr_format=2, consolidated=False)
    os.remove(os.path.join(path, "y", "1.1"))
    os.remove(os.path.join(path, "a", "0"))
    found = count(path)
    # Partitions are the chunks of y, in C order.
    assert found["y"].partitions == ("3",)
    assert found["a"].partitions == ("0", "2", "4")


def test_a_url_that_lists_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table().to_zarr("memory://lists.zarr", zarr_format=3, mode="w", consolidated=False)
    assert count("memory://lists.zarr") == {}
    import fsspec

    fsspec.filesystem("memory").rm("/lists.zarr/y/c/4")
    assert count("memory://lists.zarr")["y"].partitions == ("4",)
    monkeypatch.setattr("daskmoe.rows.chunks._listed", lambda *arguments: None)
    assert count("memory://lists.zarr")["y"].partitions == ("4",)
    monkeypatch.setattr("daskmoe.rows.chunks._MOST_ASKED", 7)
    assert count("memory://lists.zarr") == {}


@pytest.mark.parametrize("where", ["folder", "zip", "memory"])
def test_the_fingerprint_is_of_the_variables_that_are_named(tmp_path: Path, where: str) -> None:
    path = "memory://print.zarr" if where == "memory" else str(tmp_path / "s.zarr")

    def write(ds: xr.Dataset) -> str:
        ds.to_zarr(path, zarr_format=2, mode="w", consolidated=False)
        return shutil.make_archive(path, "zip", path) if where == "zip" else path

    location = write(table())
    before = fingerprint(location, ["y"])
    assert before == fingerprint(location, ["y"])
    if where == "folder":
        table()[["a"]].assign(a=("row", np.zeros(ROWS))).to_zarr(path, zarr_format=2, mode="a")
        assert before == fingerprint(location, ["y"])
    write(table() + 1)
    assert before != fingerprint(location, ["y"])

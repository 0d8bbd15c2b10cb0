"""What rows are known by: the bytes of their own chunks, wherever and whenever they were written."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import xarray as xr
import zarr
from fsspec.implementations.memory import MemoryFileSystem

from daskmoe.rows import Partition, describe_rows, plan_partitions
from daskmoe.rows.contents import content_of_box, content_of_stored, mark_of_stored, stored_arrays
from daskmoe.rows.stores import open_store, read_box

N = 40
DATA = xr.Dataset(
    {"x": ("row", np.arange(1.0 * N)), "y": ("row", np.arange(1.0 * N) ** 2), "other": ("row", np.ones(N))}
).chunk(row=10)


def partitions_of(path: str) -> tuple[Partition, ...]:
    opened = open_store(path)
    return plan_partitions(opened, describe_rows(opened, "y", ["x"]))


def digests(path: Path | str) -> list[str]:
    """Of every partition, of what a fit of y on x reads."""
    arrays = stored_arrays(str(path), ["x", "y"])
    return [content_of_stored(str(path), arrays, part).digest for part in partitions_of(str(path))]


@pytest.fixture
def store(tmp_path: Path) -> Path:
    path = tmp_path / "rows.zarr"
    DATA.to_zarr(path, zarr_format=2)
    return path


@pytest.mark.filterwarnings("ignore:Consolidated metadata")
@pytest.mark.parametrize("kind", ["2", "3", "sharded"])
def test_content_is_that_of_the_rows_alone(tmp_path: Path, kind: str) -> None:
    path, copy = tmp_path / "rows.zarr", tmp_path / "elsewhere" / "copy.zarr"
    encoding = {name: {"chunks": (5,), "shards": (10,)} for name in DATA} if kind == "sharded" else None
    options: dict[str, Any] = {"zarr_format": 2 if kind == "2" else 3, "consolidated": False}
    DATA.to_zarr(path, encoding=encoding, **options)
    first = digests(path)
    assert len({*first}) == 4
    shutil.copytree(path, copy, copy_function=shutil.copyfile)
    zarr.consolidate_metadata(str(copy))
    DATA[["other"]].rename(other="more", row="place").to_zarr(copy, mode="a", **options)
    DATA.to_zarr(copy, append_dim="row", **options)
    assert digests(copy)[:4] == first == digests(f"file://{path}")
    xr.Dataset({"y": ("row", np.zeros(10))}).to_zarr(copy, region={"row": slice(10, 20)}, **options)
    assert [a == b for a, b in zip(digests(copy), first, strict=False)] == [True, False, True, True]


def test_what_bytes_mean_is_a_part_of_them(store: Path) -> None:
    before = digests(store)
    attributes = store / "y" / ".zattrs"
    attributes.write_text(json.dumps(json.loads(attributes.read_text()) | {"scale_factor": 2.0}))
    zarr.consolidate_metadata(str(store))
    assert not {*digests(store)} & {*before}


def test_a_zip_file_holds_the_same(store: Path) -> None:
    shutil.make_archive(str(store), "zip", store)
    assert digests(f"{store}.zip") == digests(store)


class Tagged(MemoryFileSystem):  # type: ignore[misc]
    """A server that has tags of its files."""

    protocol = "tagged"
    cachable = False
    tag = ""
    reads = 0

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return str(super()._strip_protocol(path.replace("tagged://", "memory://")))

    def info(self, path: str, **kwargs: Any) -> dict[str, Any]:
        known: dict[str, Any] = super().info(path, **kwargs)
        return known | ({"ETag": self.tag} if self.tag else {})

    def cat_file(self, path: str, *args: Any, **kwargs: Any) -> Any:
        type(self).reads += "/y/" in path and path[-1].isdecimal()
        return super().cat_file(path, *args, **kwargs)


@pytest.fixture
def served(store: Path) -> Iterator[str]:
    fsspec.register_implementation("tagged", Tagged, clobber=True)
    files = MemoryFileSystem()
    for file in store.rglob("*"):
        if file.is_file():
            files.pipe_file(f"/served/{file.relative_to(store)}", file.read_bytes())
    yield "tagged://served"
    files.rm("/served", recursive=True)


@pytest.mark.parametrize(("tag", "read"), [("", True), ("abc", False), ('W/"abc"', True)])
def test_bytes_are_read_where_a_server_has_no_checksum(
    served: str, monkeypatch: pytest.MonkeyPatch, tag: str, read: bool
) -> None:
    monkeypatch.setattr(Tagged, "tag", tag)
    arrays, (part, *_) = stored_arrays(served, ["y"]), partitions_of(served)
    first = content_of_stored(served, arrays, part)
    Tagged.reads = 0
    assert content_of_stored(served, arrays, part) == first
    assert (Tagged.reads > 0) == read
    MemoryFileSystem().pipe_file("/served/y/0", b"others")
    monkeypatch.setattr(Tagged, "tag", tag and tag.replace("abc", "abd"))
    changed = content_of_stored(served, arrays, part)
    assert changed.digest != first.digest
    assert changed.mark != first.mark


def test_a_mark_tells_that_a_file_was_written_since(store: Path) -> None:
    arrays, parts = stored_arrays(str(store), ["x", "y"]), partitions_of(str(store))
    before = [mark_of_stored(str(store), arrays, part) for part in parts]
    os.utime(store / "x" / "2", ns=(1, 1))
    after = [mark_of_stored(str(store), arrays, part) for part in parts]
    assert [a == b for a, b in zip(before, after, strict=True)] == [True, True, False, True]


@pytest.mark.parametrize(
    "values",
    [np.array(["a", "b"]), np.array(["a", None], dtype=object), np.array([1, 2], "M8[ns]"), np.ones(0)],
)
def test_content_of_data_at_hand_is_its_values(values: np.ndarray[Any, Any]) -> None:
    box = xr.Dataset({"v": ("row", values), "w": ("row", np.arange(1.0 * len(values)))})
    assert content_of_box(box) == content_of_box(box.copy(deep=True))
    others = {content_of_box(box.assign(w=box["w"] + 1)), content_of_box(box.isel(row=slice(None, None, -1)))}
    assert (content_of_box(box) in others) == (len(values) == 0)


def test_a_box_of_a_store_is_what_was_written(store: Path) -> None:
    schema = describe_rows(DATA, "y", ["x"])
    part = plan_partitions(DATA, schema)[1]
    boxes = [read_box(source, schema, part).load() for source in (DATA, str(store))]
    assert content_of_box(boxes[0]) == content_of_box(boxes[1])

"""Stores as people have them: only what is used is opened; zip files, groups, memory, web servers."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import pickle
import shutil
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
import zarr

import daskmoe
from daskmoe.errors import InvalidDataError, StoreError
from daskmoe.rows import describe_rows, open_store, read_box, source_of, stores
from daskmoe.rows.partitions import range_partition

FAST: dict[str, Any] = {"n_experts": 2, "random_state": 0, "n_init": 1, "effort": 0.1}
ROWS = 400


@pytest.fixture
def data() -> xr.Dataset:
    """Two regressions, four chunks."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(ROWS, 2))
    y = np.where(x[:, 0] > 0, 3 * x[:, 1], -x[:, 1]) + 0.1 * rng.normal(size=ROWS)
    return xr.Dataset({"a": ("row", x[:, 0]), "b": ("row", x[:, 1]), "y": ("row", y)}).chunk(row=100)


def write(ds: xr.Dataset, path: Path, zarr_format: int, **options: Any) -> str:
    ds.to_zarr(path, zarr_format=zarr_format, consolidated=False, **options)
    return str(path)


def edit(file: Path, change: Callable[[dict[str, Any]], None]) -> None:
    document = json.loads(file.read_text())
    change(document)
    file.write_text(json.dumps(document))


# --- only what is used


def in_months(ds: xr.Dataset, where: str) -> xr.Dataset:
    months = ("row", np.arange(ROWS, dtype=float), {"units": "months since 1955-01-01"})
    return ds.assign_coords(other=months) if where == "coordinate" else ds.assign(other=months)


def with_unknown_codec(path: str, zarr_format: int) -> None:
    if zarr_format == 2:
        edit(Path(path, "other/.zarray"), lambda d: d.update(compressor={"id": "fancycodec"}))
    else:
        codec = {"name": "fancycodec", "configuration": {}}
        edit(Path(path, "other/zarr.json"), lambda d: d["codecs"].append(codec))


@pytest.fixture(params=["variable", "coordinate", "calendar", "codec 2", "codec 3", "codec 3 consolidated"])
def with_a_broken_one(request: pytest.FixtureRequest, data: xr.Dataset, tmp_path: Path) -> str:
    """A store of the data and a variable ``other`` that cannot be read."""
    kind, path = request.param, tmp_path / "broken.zarr"
    if kind in ("variable", "coordinate"):
        return write(in_months(data, kind), path, 2)
    if kind == "calendar":
        attrs = {"units": "days since 0001-01-01", "calendar": "mayan"}
        return write(data.assign_coords(other=((), 0.0, attrs)), path, 2)
    zarr_format = int(kind.split()[1])
    write(data.assign(other=("row", np.arange(ROWS, dtype=float))), path, zarr_format)
    with_unknown_codec(str(path), zarr_format)
    if kind.endswith("consolidated"):
        found = {n: json.loads((path / n / "zarr.json").read_text()) for n in ("a", "b", "y", "other")}
        inline = {"kind": "inline", "must_understand": False, "metadata": found}
        edit(path / "zarr.json", lambda d: d.update(consolidated_metadata=inline))
    return str(path)


def test_what_is_not_used_need_not_be_read(
    with_a_broken_one: str, data: xr.Dataset, caplog: pytest.LogCaptureFixture
) -> None:
    expected = daskmoe.fit_local(data, "y", **FAST)
    with caplog.at_level(logging.INFO, "daskmoe.rows"):
        model = daskmoe.fit_local(with_a_broken_one, "y", **FAST)
    assert "variable 'other' of" in caplog.text
    assert "is left out, as it cannot be read" in caplog.text
    xr.testing.assert_identical(model.params, expected.params)
    predicted = model.predict(with_a_broken_one)
    np.testing.assert_array_equal(predicted, expected.predict(data))


def test_what_is_used_and_cannot_be_read_is_named(with_a_broken_one: str) -> None:
    for options in ({"features": ["a", "other"]}, {"sample_weight": "other"}):
        with pytest.raises(ValueError, match="'other'"):
            daskmoe.fit_local(with_a_broken_one, "y", **{**FAST, **options})
    with pytest.raises(InvalidDataError, match="feature variable 'other' of the store cannot be read"):
        daskmoe.fit_local(with_a_broken_one, "y", features=["a", "other"], **FAST)


def test_a_variable_that_breaks_later_is_named(data: xr.Dataset, tmp_path: Path) -> None:
    path = write(data.assign(other=("row", np.arange(ROWS, dtype=float))), tmp_path / "s.zarr", 3)
    job = daskmoe.fit(path, "y", compute=False, aggregation="reduction", **FAST)
    with_unknown_codec(path, 3)
    with pytest.raises(StoreError, match=r"variable 'other' of the Zarr store .* cannot be read"):
        job.compute(scheduler="sync")


# --- where stores are


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("way", ["{}", "zip::{}", "zip://::{}", "zip://::file://{}"])
def test_a_zip_file(data: xr.Dataset, tmp_path: Path, zarr_format: int, way: str) -> None:
    path = write(data, tmp_path / "s.zarr", zarr_format)
    zipped = way.format(shutil.make_archive(path, "zip", path))
    model = daskmoe.fit_local(zipped, "y", **FAST)
    xr.testing.assert_identical(model.params, daskmoe.fit_local(data, "y", **FAST).params)
    assert model.score(zipped) == model.score(data)


def test_a_relative_path_in_a_chain(
    data: xr.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(data, tmp_path / "s.zarr", 2)
    shutil.make_archive(path, "zip", path)
    monkeypatch.chdir(tmp_path)
    _, source = source_of("zip::s.zarr.zip")
    monkeypatch.chdir("/")
    assert isinstance(source, str)
    assert open_store(source).sizes == {"row": ROWS}


@pytest.mark.parametrize(("zarr_format", "consolidated"), [(2, True), (2, False), (3, False)])
def test_a_process_opens_a_store_once_until_its_metadata_change(
    data: xr.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, zarr_format: Any, consolidated: bool
) -> None:
    opened: list[str] = []
    original = stores._open

    def counted(location: str, only: Any) -> xr.Dataset:
        opened.append(location)
        return original(location, only)

    monkeypatch.setattr(stores, "_open", counted)
    some = data[["a", "y"]]
    options: dict[str, Any] = {"zarr_format": zarr_format, "consolidated": consolidated}
    some.to_zarr(tmp_path / "rows.zarr", **options)
    whole = range_partition(("row",), (ROWS,), 0, 0, ROWS)
    read = partial(read_box, tmp_path / "rows.zarr", describe_rows(some, "y", "a"), whole)
    for _ in range(2):
        xr.testing.assert_equal(read().load(), some)
    assert len(opened) == 1
    # The same sizes, and another meaning of what is stored.
    some.assign(y=some["y"].assign_attrs(scale_factor=2.0)).to_zarr(
        tmp_path / "rows.zarr", mode="w", **options
    )
    xr.testing.assert_equal(read().load()["y"], 2 * some["y"])
    assert len(opened) == 2


def test_a_store_at_hand(data: xr.Dataset, tmp_path: Path) -> None:
    expected = daskmoe.fit_local(data, "y", **FAST).params
    path = write(data, tmp_path / "s.zarr", 3)
    memory = zarr.storage.MemoryStore()
    data.to_zarr(memory, zarr_format=3, consolidated=False)
    zipped = shutil.make_archive(path, "zip", path)
    for store in (memory, zarr.storage.LocalStore(path), zarr.storage.ZipStore(zipped, mode="r")):
        model = daskmoe.fit_local(store, "y", **FAST)
        xr.testing.assert_identical(model.params, expected)
        assert model.predict(store).chunksizes["row"] == (100, 100, 100, 100)


def test_what_a_store_at_hand_misses_is_said(data: xr.Dataset) -> None:
    memory = zarr.storage.MemoryStore()
    data.to_zarr(memory, zarr_format=2)
    asyncio.run(memory.delete("y/1"))
    with pytest.raises(InvalidDataError, match="1 of 4 of 'y'"):
        daskmoe.fit_local(memory, "y", missing_chunks="raise", **FAST)


def test_a_url_of_memory(data: xr.Dataset) -> None:
    data.to_zarr("memory://rows.zarr", zarr_format=2, mode="w")
    model = daskmoe.fit_local("memory://rows.zarr", "y", **FAST)
    xr.testing.assert_identical(model.params, daskmoe.fit_local(data, "y", **FAST).params)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[str]:
    """The URL of a folder on a web server of this machine."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("consolidated", [True, False])
@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.filterwarnings("ignore:Consolidated metadata")
def test_a_web_server(
    data: xr.Dataset, tmp_path: Path, served: str, zarr_format: int, consolidated: bool
) -> None:
    pytest.importorskip("aiohttp")
    data.to_zarr(tmp_path / "s.zarr", zarr_format=zarr_format, consolidated=consolidated)
    model = daskmoe.fit_local(f"{served}/s.zarr", "y", **FAST)
    xr.testing.assert_identical(model.params, daskmoe.fit_local(data, "y", **FAST).params)


def test_a_file_system_that_is_not_installed() -> None:
    with pytest.raises(StoreError, match=r"'nosuch://rows.zarr' cannot be opened: ValueError: .*nosuch"):
        open_store("nosuch://rows.zarr")


@pytest.mark.parametrize("zipped", [False, True])
def test_a_root_of_groups_names_them(data: xr.Dataset, tmp_path: Path, zipped: bool) -> None:
    path = str(tmp_path / "g.zarr")
    data.to_zarr(path, group="north", zarr_format=2)
    data.to_zarr(path, group="south", zarr_format=2, mode="a")
    path = shutil.make_archive(path, "zip", path) if zipped else path
    with pytest.raises(StoreError, match="holds the groups 'north', 'south'") as caught:
        daskmoe.fit_local(path, "y", **FAST)
    # What the message says to pass can be passed.
    said = str(caught.value).rsplit(" as ", 1)[1].rstrip(".").strip("'")
    xr.testing.assert_equal(open_store(said).compute(), data.compute())


def test_a_group_without_anything_and_an_array(data: xr.Dataset, tmp_path: Path) -> None:
    path = write(data, tmp_path / "s.zarr", 3)
    with pytest.raises(StoreError, match=f"pass the group that it is in, '{path}'"):
        open_store(os.path.join(path, "y"))
    zarr.open_group(tmp_path / "empty.zarr", mode="w")
    with pytest.raises(StoreError, match="Expected variables in the Zarr store"):
        open_store(tmp_path / "empty.zarr")


def test_lazy_data_of_a_store_travel(with_a_broken_one: str, data: xr.Dataset) -> None:
    again = pickle.loads(pickle.dumps(open_store(with_a_broken_one)))
    xr.testing.assert_equal(
        again[["a", "b", "y"]].compute().drop_vars("other", errors="ignore"), data.compute()
    )

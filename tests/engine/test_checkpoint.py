"""Checkpoints: a rerun goes on where it stopped, with the same bits, and never from what is not its own."""

from __future__ import annotations

import logging
import shutil
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pytest
import xarray as xr

import daskmoe
from daskmoe import MixtureOfExperts
from daskmoe.engine import checkpoint, request, tasks

OPTIONS: dict[str, Any] = {"n_experts": 2, "n_init": 2, "random_state": 0, "aggregation": "reduction"}


@pytest.fixture(autouse=True)
def synchronous() -> Any:
    with dask.config.set(scheduler="synchronous"):
        yield


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data, _ = daskmoe.simulate(600, n_features=2, n_experts=2, design="overlap", random_state=0)
    path = tmp_path_factory.mktemp("checkpoint") / "rows.zarr"
    data.assign(w=("row", np.arange(600.0) % 3 + 1)).chunk(row=150).to_zarr(path, zarr_format=2)
    return path


def fit(store: Path | str | xr.Dataset, folder: Path | None, **more: Any) -> MixtureOfExperts:
    return daskmoe.fit(store, "y", checkpoint=folder, **({"features": "X"} | OPTIONS | more))


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
def fresh(store: Path) -> MixtureOfExperts:
    """The fit without a checkpoint."""
    return fit(store, None)


@pytest.fixture
def fits(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A list that grows by one for every local fit, the number of its rows."""
    made: list[int] = []
    original = tasks.fit_local_estimate

    def counted(rows: Any, *args: Any, **kwargs: Any) -> Any:
        made.append(rows.n_rows)
        return original(rows, *args, **kwargs)

    monkeypatch.setattr(tasks, "fit_local_estimate", counted)
    return made


def files_of(folder: Path) -> list[Path]:
    return sorted(folder.iterdir())


def test_rerun_fits_nothing_and_gives_the_same_bits(
    store: Path, fresh: MixtureOfExperts, tmp_path: Path, fits: list[int]
) -> None:
    folder = tmp_path / "new" / "folder"
    assert_same_bits(fit(store, folder), fresh)
    assert fits == [150] * 4
    kept = {path: path.read_bytes() for path in files_of(folder)}
    assert len(kept) == 4
    # Others may read what they may read otherwise.
    plain = tmp_path / "plain"
    plain.touch()
    assert {path.stat().st_mode for path in kept} == {plain.stat().st_mode}
    again = fit(store, folder)
    assert fits == [150] * 4
    assert_same_bits(again, fresh)
    # The time that the kept fits took belongs to them.
    assert (again.diagnostics["seconds"] > 0).all()
    assert {path: path.read_bytes() for path in files_of(folder)} == kept


def test_only_missing_partitions_are_fitted(
    store: Path, fresh: MixtureOfExperts, tmp_path: Path, fits: list[int]
) -> None:
    fit(store, tmp_path)
    files = files_of(tmp_path)
    files[1].unlink()
    files[3].unlink()
    fits.clear()
    assert_same_bits(fit(store, tmp_path), fresh)
    assert len(fits) == 2
    assert files_of(tmp_path) == files


def test_a_job_that_died_goes_on(
    store: Path, fresh: MixtureOfExperts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fits: list[int]
) -> None:
    counted = tasks.fit_local_estimate

    def die(*args: Any, **kwargs: Any) -> Any:
        if len(fits) == 2:
            raise KeyboardInterrupt
        return counted(*args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(tasks, "fit_local_estimate", die)
        with pytest.raises(KeyboardInterrupt):
            fit(store, tmp_path)
    assert len(files_of(tmp_path)) == 2
    assert_same_bits(fit(store, tmp_path), fresh)
    assert len(fits) == 4


def test_a_url_has_checkpoints_too(store: Path, tmp_path: Path, fits: list[int]) -> None:
    first, second = (fit(f"file://{store}", tmp_path) for _ in range(2))
    assert_same_bits(first, second)
    assert len(fits) == 4


def test_a_dataset_in_memory_has_checkpoints_too(store: Path, tmp_path: Path, fits: list[int]) -> None:
    with xr.open_zarr(store, consolidated=True) as lazy:
        data = lazy.load().drop_encoding()
    expected = fit(data, None, partitions=4)
    fits.clear()
    for _ in range(2):
        assert_same_bits(fit(data, tmp_path, partitions=4), expected)
    assert len(fits) == 4


@pytest.mark.parametrize(
    "more",
    [
        {"random_state": 1},
        {"n_experts": 3},
        {"n_init": 3},
        {"start_rows": 50},
        {"support_size": 100},
        {"partitions": 2},
        {"features": ["X", "w"]},
        {"sample_weight": "w"},
    ],
    ids=lambda more: next(iter(more)),
)
def test_checkpoints_of_other_options_are_not_used(
    store: Path, tmp_path: Path, fits: list[int], more: dict[str, Any]
) -> None:
    fit(store, tmp_path)
    fits.clear()
    found = fit(store, tmp_path, **more)
    partitions = 2 if "partitions" in more else 4
    assert len(fits) == partitions
    assert len(files_of(tmp_path)) == 4 + partitions
    assert_same_bits(found, fit(store, None, **more))


@pytest.mark.parametrize("way", ["dataset", "path"])
def test_checkpoints_of_other_data_are_not_used(store: Path, tmp_path: Path, way: str) -> None:
    """The same shape and names, other values: at the same path, the store of a job that runs every night."""
    folder, path = tmp_path / "kept", tmp_path / "rows.zarr"
    shutil.copytree(store, path)
    with xr.open_zarr(path, consolidated=True) as lazy:
        data = lazy.load().chunk(row=150)
    changed = data.assign(y=data["y"] * 2 + 1)
    if way == "dataset":
        fit(data, folder)
        found = fit(changed, folder)
    else:
        fit(path, folder)
        changed.drop_encoding().to_zarr(path, zarr_format=2, mode="w")
        found = fit(path, folder)
    assert_same_bits(found, fit(changed if way == "dataset" else path, None))


@pytest.mark.parametrize("kind", ["variable", "coordinate"])
@pytest.mark.parametrize("chunked", [False, True])
def test_checkpoints_of_other_partitions_are_not_used(
    store: Path, tmp_path: Path, fits: list[int], kind: str, chunked: bool
) -> None:
    """Stations that change rows: as many of each, in the same boxes."""
    with xr.open_zarr(store, consolidated=True) as lazy:
        data = lazy.load().drop_encoding()
    stations = np.arange(600) % 2
    swapped = stations.copy()
    swapped[[100, 101]] = swapped[[101, 100]]
    for station in (stations, swapped):
        named = data.assign(station=("row", station))
        named = named.set_coords("station") if kind == "coordinate" else named
        named = named.chunk(row=150) if chunked else named
        fits.clear()
        found = fit(named, tmp_path, partitions="station")
        assert fits == [300, 300]
        assert_same_bits(found, fit(named, None, partitions="station"))


def test_checkpoints_of_another_version_are_not_used(
    store: Path, tmp_path: Path, fits: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    fit(store, tmp_path)
    monkeypatch.setattr(request, "version", lambda name: f"another {name}")
    fit(store, tmp_path)
    assert fits == [150] * 8
    assert len(files_of(tmp_path)) == 8


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def garble(path: Path) -> None:
    path.write_bytes(b"not an archive" * 100)


def strip(path: Path) -> None:
    with np.load(path) as arrays:
        kept = {name: values for name, values in arrays.items() if name != "structure"}
    with path.open("wb") as file:
        np.savez(file, **kept)


@pytest.mark.parametrize("spoil", [truncate, empty, garble, strip])
def test_a_spoiled_file_is_made_anew(
    store: Path,
    fresh: MixtureOfExperts,
    tmp_path: Path,
    fits: list[int],
    caplog: pytest.LogCaptureFixture,
    spoil: Callable[[Path], None],
) -> None:
    fit(store, tmp_path)
    files = files_of(tmp_path)
    spoil(files[2])
    fits.clear()
    with caplog.at_level(logging.WARNING):
        assert_same_bits(fit(store, tmp_path), fresh)
    assert len(fits) == 1
    (message,) = caplog.messages
    assert str(files[2]) in message
    assert "is made anew" in message
    assert files_of(tmp_path) == files
    fit(store, tmp_path)
    assert len(fits) == 1


@pytest.fixture(scope="module")
def intact(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One good checkpoint."""
    folder = tmp_path_factory.mktemp("intact")
    with dask.config.set(scheduler="synchronous"):
        fit(store, folder)
    return files_of(folder)[0]


def test_a_cut_file_is_not_read(intact: Path, tmp_path: Path) -> None:
    path, whole = tmp_path / intact.name, intact.read_bytes()
    for length in [*range(0, len(whole), 97), len(whole) - 1]:
        path.write_bytes(whole[:length])
        assert checkpoint.load(str(path.parent), path.stem) is None


def test_a_changed_byte_is_never_read_as_another_result(intact: Path, tmp_path: Path) -> None:
    """Contents have checksums, the directory at the end of the archive has none."""
    path, whole = tmp_path / intact.name, intact.read_bytes()
    expected = checkpoint.load(str(intact.parent), intact.stem)
    assert expected is not None
    directory = whole.index(b"PK\x01\x02")
    for place in [*range(0, directory, 53), *range(directory, len(whole))]:
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 255]) + whole[place + 1 :])
        found = checkpoint.load(str(path.parent), path.stem)
        if found is not None:
            np.testing.assert_equal(found._asdict(), expected._asdict())


def test_an_interrupted_write_leaves_nothing(
    store: Path, fresh: MixtureOfExperts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write_half(file: Any, **arrays: Any) -> None:
        file.write(b"half")
        raise OSError("No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(np, "savez", write_half)
        # What cannot be kept is told, and no fault of the fit.
        assert_same_bits(fit(store, tmp_path), fresh)
    assert files_of(tmp_path) == []
    assert_same_bits(fit(store, tmp_path), fresh)


def test_checkpoints_are_arrays_never_pickles(store: Path, tmp_path: Path) -> None:
    fit(store, tmp_path)
    for path in files_of(tmp_path):
        assert path.suffix == ".npz"
        with np.load(path, allow_pickle=False) as arrays:
            assert {values.dtype.kind for values in arrays.values()} <= set("fiuU")


def test_partitions_that_were_left_out_are_tried_again(store: Path, tmp_path: Path, fits: list[int]) -> None:
    with xr.open_zarr(store, consolidated=True) as lazy:
        data = lazy.load()
    data["y"][150:300] = np.nan
    lazy = data.chunk(row=150)
    expected = fit(lazy, None, on_error="skip")
    fits.clear()
    for _ in range(2):
        assert_same_bits(fit(lazy, tmp_path, on_error="skip"), expected)
    assert len(files_of(tmp_path)) == 3
    assert len(fits) == 3


def test_an_archive_that_unpacks_to_more_than_it_holds_is_made_anew(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "moe-local-fit-x-0.npz"
    np.savez_compressed(path, structure=np.zeros(20_000_000))
    tracemalloc.start()
    assert checkpoint.load(str(path.parent), path.stem) is None
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20e6
    assert "declares more than it holds" in caplog.text

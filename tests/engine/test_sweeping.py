"""Sweeps of a checkpoint: what runs use stays, and what they do not goes, but for files of others."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask
import pytest
import xarray as xr

import daskmoe
from daskmoe import InvalidOptionError, StoreError
from daskmoe.engine import tasks

OPTIONS: dict[str, Any] = {"n_experts": 2, "random_state": 0, "progress": False}
DAY = 86_400.0


@pytest.fixture(autouse=True)
def synchronous() -> Iterator[None]:
    with dask.config.set(scheduler="synchronous"):
        yield


@pytest.fixture(scope="module")
def data() -> xr.Dataset:
    return daskmoe.simulate(600, n_features=2, n_experts=2, design="overlap", chunks=100, random_state=0)[0]


def grow_old(folder: Path, days: float) -> None:
    """Date all files of a folder some days back."""
    then = time.time() - days * DAY
    for path in folder.iterdir():
        os.utime(path, (then, then))


def kinds(folder: Path) -> list[str]:
    """What a folder's entries are of."""
    return sorted(re.sub("moe-|-[0-9a-f]{32}|[.]npz", "", path.name) for path in folder.iterdir())


def test_what_the_last_run_used_stays(data: xr.Dataset, tmp_path: Path) -> None:
    for first, last in ((0, 400), (0, 500), (100, 500)):
        daskmoe.fit(data.isel(row=slice(first, last)), "y", checkpoint=tmp_path, **OPTIONS)
    grow_old(tmp_path, 8)
    wanted = data.isel(row=slice(500))
    expected = daskmoe.fit(wanted, "y", checkpoint=tmp_path, **OPTIONS)
    before = kinds(tmp_path)
    assert len(before) > 7
    counted = daskmoe.sweep_checkpoint(tmp_path, unused_days=7, dry_run=True)
    assert kinds(tmp_path) == before
    assert daskmoe.sweep_checkpoint(tmp_path, unused_days=7) == counted
    # The start, the fits of five partitions from it, the sum of their scores.
    assert kinds(tmp_path) == [*(f"local-fit-{index}" for index in range(5)), "start", "sum"]
    assert (counted.removed, counted.left) == (len(before) - 7, 7)
    assert counted.left_bytes == sum(path.stat().st_size for path in tmp_path.iterdir())
    again = daskmoe.fit(wanted, "y", checkpoint=tmp_path, **OPTIONS)
    xr.testing.assert_identical(again.params, expected.params)


def test_a_run_in_between_ends_at_the_same_bits(
    data: xr.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = daskmoe.fit(data, "y", checkpoint=tmp_path, **OPTIONS)
    original = tasks.kept_fit

    def swept(*args: Any) -> Any:
        grow_old(tmp_path, 2)
        daskmoe.sweep_checkpoint(tmp_path, unused_days=1)
        return original(*args)

    monkeypatch.setattr(tasks, "kept_fit", swept)
    again = daskmoe.fit(data, "y", checkpoint=tmp_path, **OPTIONS)
    xr.testing.assert_identical(again.params, expected.params)


def test_files_of_others_stay(tmp_path: Path) -> None:
    hexadecimal = 32 * "a"
    own = [f"moe-part-3-{hexadecimal}.npz", f".moe-start-{hexadecimal}-{hexadecimal}.part"]
    others = ["moe.npz.txt", "notes.npz", "moe-model.zarr", ".part"]
    for name in (*own, *others):
        (tmp_path / name).write_bytes(b"12")
    (tmp_path / "moe-folder.npz").mkdir()
    (tmp_path / "moe-link.npz").symlink_to(tmp_path / "notes.npz")
    grow_old(tmp_path, 3)
    found = daskmoe.sweep_checkpoint(tmp_path, unused_days=2)
    assert found == daskmoe.Swept(removed=2, removed_bytes=4, left=0, left_bytes=0)
    assert {path.name for path in tmp_path.iterdir()} == {*others, "moe-folder.npz", "moe-link.npz"}


@pytest.mark.parametrize("days", [0, -1, float("nan"), "7", True])
def test_days_are_a_positive_number(tmp_path: Path, days: Any) -> None:
    with pytest.raises(InvalidOptionError, match="unused_days: expected a positive number of days, got"):
        daskmoe.sweep_checkpoint(tmp_path, unused_days=days)


@pytest.mark.parametrize("folder", ["memory://kept", "nowhere/kept"])
def test_a_folder_that_cannot_be_swept_is_named(folder: str) -> None:
    with pytest.raises(StoreError, match=rf"checkpoint: expected a folder .* got '{folder}'"):
        daskmoe.sweep_checkpoint(folder, unused_days=1)

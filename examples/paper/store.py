"""The store of the study: a Zarr group for each part, with the cells that are done."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import xarray as xr

# Labels are text of fixed width, which the third format of Zarr does not have.
FORMAT: dict[str, Any] = {"zarr_format": 2, "consolidated": False}
# Groups on their way in and out.
NEW, BEFORE = "-new", "-before"


def read_group(path: Path, group: str) -> xr.Dataset | None:
    """A part of the study in memory, None where nothing of it is done."""
    for name in (group, group + BEFORE):
        if (path / name).is_dir():
            with xr.open_zarr(path, group=name, consolidated=False, chunks=None) as found:
                loaded: xr.Dataset = found.load()
                return loaded
    return None


def append(path: Path, group: str, found: xr.Dataset) -> None:
    """Add cells to a part of the study, of which the whole is written anew: it is small.

    What is in its place is always complete, so that a study can be stopped at any time.
    """
    known = read_group(path, group)
    everything = found if known is None else xr.concat([known, found], "cell", data_vars="minimal")
    # Written as they are, not as they were read.
    everything = everything.drop_encoding()
    now, new, before = (path / (group + ending) for ending in ("", NEW, BEFORE))
    everything.to_zarr(path, group=new.name, mode="w", **FORMAT)
    if now.is_dir():
        shutil.rmtree(before, ignore_errors=True)
        now.rename(before)
    new.rename(now)


def settle(path: Path, settings: dict[str, str | int]) -> None:
    """Note what the study is of; results of another size or seed are not mixed with it."""
    if path.is_dir():
        with xr.open_zarr(path, consolidated=False) as known:
            before = {name: known.attrs.get(name) for name in settings}
        if before != settings:
            raise SystemExit(
                f"{path}: expected an own store of {settings}, got one of {before}. Choose another --output."
            )
    else:
        xr.Dataset(attrs=settings).to_zarr(path, mode="w", **FORMAT)

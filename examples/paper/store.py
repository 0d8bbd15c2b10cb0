"""The store of the study: a Zarr group for each part, rows appended as they are done."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import xarray as xr

# Labels are text of fixed width, which the third format of Zarr does not have.
FORMAT: dict[str, Any] = {"zarr_format": 2, "consolidated": False}


def read_group(path: Path, group: str) -> xr.Dataset | None:
    """A part of the study in memory, None where nothing of it is done."""
    if not (path / group).is_dir():
        return None
    with xr.open_zarr(path, group=group, consolidated=False) as found:
        loaded: xr.Dataset = found.load()
        return loaded


def append(path: Path, group: str, found: xr.Dataset, dim: str) -> None:
    """Add what was found to a part of the study."""
    if (path / group).is_dir():
        found.to_zarr(path, group=group, append_dim=dim, **FORMAT)
    else:
        found.to_zarr(path, group=group, mode="w", **FORMAT)


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

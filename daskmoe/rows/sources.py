"""What a caller passes as data, and what tasks read from."""

from __future__ import annotations

import os

import xarray as xr
import zarr.storage
from zarr.abc.store import Store

from daskmoe.errors import InvalidDataError
from daskmoe.rows.locations import absolute
from daskmoe.rows.stores import open_store, open_zarr_object

Data = xr.Dataset | str | os.PathLike[str] | Store


def source_of(data: Data, name: str = "data") -> tuple[xr.Dataset, str | xr.Dataset]:
    """The dataset to plan with, and what tasks read from: an absolute path or URL, or the dataset.

    Parameters
    ----------
    data : xr.Dataset or path
        Or a `zarr.abc.store.Store`, such as one in memory.
    name : str
        Of the caller's option, for the error message.

    Raises
    ------
    InvalidDataError
        If it is neither a dataset nor a path.
    StoreError
        If the store cannot be opened.
    """
    if isinstance(data, xr.Dataset):
        return data, data
    if isinstance(data, zarr.storage.LocalStore):
        data = data.root
    elif isinstance(data, zarr.storage.ZipStore):
        data = data.path
    elif isinstance(data, Store):
        opened = open_zarr_object(data)
        return opened, opened
    if not isinstance(data, str | os.PathLike):
        raise InvalidDataError(
            f"{name}: expected an xarray.Dataset or the path of a Zarr store, got {type(data).__name__}."
        )
    path = absolute(data)
    return open_store(path), path

"""What a caller passes as data, and what tasks read from."""

from __future__ import annotations

import os

import xarray as xr

from daskmoe.errors import InvalidDataError
from daskmoe.rows.stores import open_store

Data = xr.Dataset | str | os.PathLike[str]


def source_of(data: Data, name: str = "data") -> tuple[xr.Dataset, str | xr.Dataset]:
    """The dataset to plan with, and what tasks read from: an absolute path or URL, or the dataset.

    Parameters
    ----------
    data : xr.Dataset or path
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
    if not isinstance(data, str | os.PathLike):
        raise InvalidDataError(
            f"{name}: expected an xarray.Dataset or the path of a Zarr store, got {type(data).__name__}."
        )
    path = os.fspath(data)
    # Absolute, as chunks that a worker does not find are fill values to it.
    path = path if "://" in path else os.path.abspath(path)
    return open_store(path), path

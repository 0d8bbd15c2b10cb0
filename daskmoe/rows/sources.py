"""What a caller passes as data, and what tasks read from."""

from __future__ import annotations

import os
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
import xarray as xr
import zarr.storage
from zarr.abc.store import Store

from daskmoe.errors import InvalidDataError
from daskmoe.rows.locations import absolute
from daskmoe.rows.stores import open_store, open_zarr_object

Data: TypeAlias = xr.Dataset | pd.DataFrame | str | os.PathLike[str] | Store


def source_of(data: Data, name: str = "data", dim: str | None = None) -> tuple[xr.Dataset, str | xr.Dataset]:
    """The dataset to plan with, and what tasks read from: an absolute path or URL, or the dataset.

    Parameters
    ----------
    data : xr.Dataset, pd.DataFrame or path
        A table becomes a dataset, its index the dimension. A `zarr.abc.store.Store` will do for a path.
    name : str
        Of the caller's option, for the error message.
    dim : str, optional
        What the index of a table is called; by default as it is.

    Raises
    ------
    InvalidDataError
        If it is none of these, or a variable's name is no text.
    StoreError
        If the store cannot be opened.
    """
    if isinstance(data, pd.DataFrame):
        data = data if dim is None else data.rename_axis(dim)
        _check_table(data, name)
        data = xr.Dataset.from_dataframe(booleans_of(data))
    if isinstance(data, xr.Dataset):
        _check_names(data, name)
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
            f"{name}: expected an xarray.Dataset, a pandas.DataFrame or the path of a Zarr store, got "
            f"{_kind_of(data)}{_advice(data)}."
        )
    path = absolute(data)
    return open_store(path), path


def _check_table(table: pd.DataFrame, name: str) -> None:
    """Refuse what xarray would take in another sense."""
    if isinstance(table.index, pd.MultiIndex) or isinstance(table.columns, pd.MultiIndex):
        raise InvalidDataError(
            f"{name}: expected a table with one level of index and of columns, got a MultiIndex; use "
            "reset_index(), or to_xarray() for a grid."
        )
    if not table.columns.is_unique:
        twice = sorted({str(column) for column in table.columns[table.columns.duplicated()]})
        raise InvalidDataError(f"{name}: expected columns of different names, got {twice} more than once.")
    index = "index" if table.index.name is None else table.index.name
    if not isinstance(index, str) or index in table.columns:
        raise InvalidDataError(
            f"{name}: expected an index whose name is text and no column's, got {index!r}; name it with "
            "data.rename_axis('row')."
        )
    if strange := [column for column in table.columns if not isinstance(column, str)]:
        raise InvalidDataError(
            f"{name}: expected columns whose names are text, got {strange[:5]}; rename them: "
            "data.rename(columns=str)."
        )


def booleans_of(table: pd.DataFrame) -> pd.DataFrame:
    """The table, columns of objects that are yes, no or missing as what they are."""
    objects = [name for name, dtype in table.dtypes.items() if dtype == np.dtype(object)]
    found = [name for name in objects if pd.api.types.infer_dtype(table[name], skipna=True) == "boolean"]
    return table.astype(dict.fromkeys(found, "boolean")) if found else table


def _check_names(dataset: xr.Dataset, name: str) -> None:
    if strange := [each for each in (*dataset.variables, *dataset.dims) if not isinstance(each, str)]:
        raise InvalidDataError(
            f"{name}: expected variables and dimensions whose names are text, got {strange[:5]}; rename "
            "them: data.rename({name: str(name) for name in data.variables})."
        )


def _kind_of(data: Any) -> str:
    return f"{type(data).__module__.partition('.')[0]}.{type(data).__name__}"


def _advice(data: Any) -> str:
    """The line that makes a dataset of it, behind a semicolon."""
    if isinstance(data, xr.DataArray):
        if "variable" in data.dims:
            return "; its variables are a dimension: data.to_dataset(dim='variable')"
        line = "data.to_dataset(name='x')" if data.name is None else "data.to_dataset()"
        return f"; make a dataset of it: {line}, and add the other variables with assign"
    if hasattr(data, "to_dask_array"):
        return (
            "; label its columns: xr.Dataset({c: ('row', data[c].to_dask_array(lengths=True)) for c in data})"
        )
    if hasattr(data, "__array__") and hasattr(data, "ndim"):
        return "; label it: xr.Dataset({'X': (('row', 'feature'), X), 'y': ('row', y)})"
    if hasattr(data, "to_pandas"):
        return "; use data.to_pandas()"
    return ""

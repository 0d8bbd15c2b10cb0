"""Opening Zarr stores: lazily for planning and prediction, and for one partition inside a task."""

from __future__ import annotations

import os
import traceback
from collections.abc import Collection

import xarray as xr
from xarray.backends import ZarrStore

from daskmoe.errors import InvalidDataError, StoreError
from daskmoe.rows.partitions import Partition
from daskmoe.rows.schema import RowSchema
from daskmoe.rows.variables import listed

# Coordinates up to this many elements stay out of Dask, so that labels can be read without a scheduler.
_SMALL_COORDINATE = 10_000_000


def open_store(path: str | os.PathLike[str]) -> xr.Dataset:
    """Open a Zarr store lazily: data variables as Dask arrays, one chunk a stored chunk (or shard).

    Coordinates get no index and stay on disk until they are asked for.

    Parameters
    ----------
    path : str or path
        A folder or URL.

    Returns
    -------
    xr.Dataset

    Raises
    ------
    StoreError
        If there is nothing, or something that is not a Zarr group.
    """
    ds = _open(path, None)
    large = {name: found for name, found in ds.coords.variables.items() if found.size > _SMALL_COORDINATE}
    coords = {name: found.chunk(_stored_chunks(found)) for name, found in large.items()}
    data = {name: found.chunk(_stored_chunks(found)) for name, found in ds.data_vars.variables.items()}
    return ds.assign(data).assign_coords(xr.Coordinates(coords, indexes={}))


def read_box(
    source: str | os.PathLike[str] | xr.Dataset,
    schema: RowSchema,
    partition: Partition,
    *,
    need_target: bool = True,
    cluster: str | None = None,
) -> xr.Dataset:
    """The piece of the data that holds a partition, with only the variables that its rows are made of.

    Parameters
    ----------
    source : str, path or xr.Dataset
        A store, or data at hand.
    schema : RowSchema
        The rows; names the variables that are read.
    partition : Partition
        The partition; its box is cut out.
    need_target : bool
        Whether the response is read too.
    cluster : str, optional
        A variable that tells rows apart which depend on each other.

    Returns
    -------
    xr.Dataset
        Lazy as far as `source` is; no other coordinates.

    Raises
    ------
    StoreError
        If the store cannot be opened.
    InvalidDataError
        If a variable is not there.
    """
    names = {*schema.used(with_target=need_target)}
    names |= {cluster} if cluster is not None else set()
    names |= {partition.where[0]} if partition.where is not None else set()
    ds = source if isinstance(source, xr.Dataset) else _open(source, names)
    if missing := sorted(name for name in names if name not in ds.variables):
        raise InvalidDataError(
            f"Expected the variables {listed(missing)} for {partition.name}, got a dataset that has "
            f"{listed(ds.data_vars)}."
        )
    ranges = {dim: slice(start, stop) for dim, start, stop in partition.box}
    return xr.Dataset(
        {name: ds.variables[name].isel(ranges, missing_dims="ignore") for name in sorted(names)}
    )


def _stored_chunks(variable: xr.Variable) -> dict[str, int]:
    sizes = variable.encoding.get("shards") or variable.encoding.get("chunks") or variable.shape
    return {str(dim): max(int(size), 1) for dim, size in zip(variable.dims, sizes, strict=True)}


def _open(path: str | os.PathLike[str], only: Collection[str] | None) -> xr.Dataset:
    location = os.fspath(path)
    try:
        group = _open_group(location)
        others = [] if only is None else [name for name in group.array_keys() if name not in only]
        # Decoding a dropped variable would cost reads: times are decoded from their first and last element.
        return xr.open_dataset(
            group, chunks=None, cache=False, create_default_indexes=False, drop_variables=others
        )
    except FileNotFoundError as error:
        there = "is not a Zarr group" if os.path.exists(location) else "does not exist"
        raise StoreError(
            f"Expected a Zarr store, but {location!r} {there}. Open other formats with xarray and pass the "
            "Dataset."
        ) from error
    except (OSError, ValueError, TypeError, KeyError, ImportError) as error:
        raise StoreError(f"The Zarr store {location!r} cannot be opened: {error}") from error


def _open_group(location: str) -> ZarrStore:
    # Asking for consolidated metadata outright is silent where letting xarray look for them warns.
    group: ZarrStore
    try:
        group = ZarrStore.open_group(location, mode="r", consolidated=True)
    except ValueError as error:
        # Zarr leaves a cycle of frames and with it whoever called, rows included, until the collector comes.
        traceback.clear_frames(error.__traceback__)
        group = ZarrStore.open_group(location, mode="r", consolidated=False)
    return group

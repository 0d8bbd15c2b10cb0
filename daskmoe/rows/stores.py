"""Opening Zarr stores: lazily for planning and prediction, and for one partition inside a task.

Only what is used is opened and decoded: a variable that nobody asks for may have a codec, units or a calendar
that nobody here knows.
"""

from __future__ import annotations

import logging
import os
import traceback
from collections.abc import Collection
from functools import lru_cache
from typing import Any

import xarray as xr
import zarr
from xarray.backends import ZarrStore
from zarr.abc.store import Store
from zarr.core.sync import sync

from daskmoe.errors import InvalidDataError, StoreError
from daskmoe.rows.buffers import LeanStore
from daskmoe.rows.locations import SelectedStore, absolute, group_inside, is_url, names_in, zarr_store
from daskmoe.rows.partitions import Partition
from daskmoe.rows.retrying import retrying
from daskmoe.rows.schema import RowSchema
from daskmoe.rows.variables import UNREADABLE, listed

logger = logging.getLogger(__name__)

# Coordinates up to this many elements stay out of Dask, so that labels can be read without a scheduler.
_SMALL_COORDINATE = 10_000_000
# Stores that a process holds open, which is their metadata.
_MOST_OPEN = 8
# Files that have the metadata of a group or of a variable, of either format.
_METADATA = (".zmetadata", ".zgroup", ".zarray", ".zattrs", "zarr.json")
# In the encoding of a box that is read from a store: where it starts.
STORED = "stored"
# The store that a dataset was opened from, where it is an object.
OBJECT = "store"


def open_store(path: str | os.PathLike[str]) -> xr.Dataset:
    """Open a Zarr store lazily: data variables as Dask arrays, one chunk a stored chunk (or shard).

    Coordinates get no index and stay on disk until they are asked for. Variables that cannot be read are left
    out: the log names them, and `find_variable` says why one that is asked for is not there.

    Parameters
    ----------
    path : str or path
        A folder, a group in one, a zip file, or a URL that fsspec opens.

    Returns
    -------
    xr.Dataset

    Raises
    ------
    StoreError
        If there is nothing, something that is not a Zarr group, or a group of groups only.
    """
    location = absolute(path)
    ds = retrying(lambda: _open(location, None), f"opening {location!r}")
    if not ds.variables:
        _refuse_empty(location)
    return _with_stored_chunks(ds)


def open_zarr_object(store: Store) -> xr.Dataset:
    """Open a store that is at hand as an object, such as one in memory, as `open_store` does."""
    ds = _with_stored_chunks(_open_selected(store, None, f"{store!r}"))
    ds.encoding[OBJECT] = store
    return ds


def open_variable(store: Store, name: str) -> xr.Variable:
    """One variable, which reads its elements when they are asked for, without Dask."""
    return _open_selected(store, (name,), f"{store!r}").variables[name]


def load_together(box: xr.Dataset, names: Collection[str]) -> xr.Dataset:
    """Some variables of a box from a store in memory, read at once: one after the other each would wait."""
    # A copy, as the box stays lazy; made anew it would be checked and aligned, which takes ten times as long.
    some = box[list(names)].copy(deep=False)
    try:
        return sync(some.load_async())
    # Not every kind of lazy array can; what is wrong with the data is said again.
    except Exception:
        return some.load()


def _with_stored_chunks(ds: xr.Dataset) -> xr.Dataset:
    large = {name: found for name, found in ds.coords.variables.items() if found.size > _SMALL_COORDINATE}
    coords = {name: found.chunk(_stored_chunks(found)) for name, found in large.items()}
    data = {name: found.chunk(_stored_chunks(found)) for name, found in ds.data_vars.variables.items()}
    chunked = ds.assign(data).assign_coords(xr.Coordinates(coords, indexes={}))
    chunked.encoding = ds.encoding
    return chunked


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
    ds = source if isinstance(source, xr.Dataset) else _open_again(absolute(source), frozenset(names))
    if missing := sorted(name for name in names if name not in ds.variables):
        raise InvalidDataError(
            f"Expected the variables {listed(missing)} for {partition.name}, got a dataset that has "
            f"{listed(ds.data_vars)}."
        )
    ranges = {dim: slice(start, stop) for dim, start, stop in partition.box}
    box = xr.Dataset({name: ds.variables[name].isel(ranges, missing_dims="ignore") for name in sorted(names)})
    if not isinstance(source, xr.Dataset):
        box.encoding[STORED] = {dim: start for dim, start, _ in partition.box}
    return box


def _open_again(location: str, names: frozenset[str]) -> xr.Dataset:
    """Variables of a store, opened once by a process while the metadata on its disk stay as they are.

    Opening costs more than the rows of a small partition, which several tasks read.
    """
    if is_url(location) or not os.path.isdir(location):
        return _open(location, names)
    files = [*_METADATA, *(f"{name}/{file}" for name in sorted(names) for file in _METADATA)]
    # Found before it is opened: what is written in between is another state.
    return _open_as_it_is(location, names, tuple(_state_of(os.path.join(location, file)) for file in files))


@lru_cache(maxsize=_MOST_OPEN)
def _open_as_it_is(location: str, names: frozenset[str], state: tuple[Any, ...]) -> xr.Dataset:
    return _open(location, names)


def _state_of(path: str) -> tuple[int, ...] | None:
    """What changes when a file is written or replaced; None where there is none."""
    try:
        found = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return found.st_size, found.st_mtime_ns, found.st_ino, found.st_ctime_ns


def _stored_chunks(variable: xr.Variable) -> dict[str, int]:
    sizes = variable.encoding.get("shards") or variable.encoding.get("chunks") or variable.shape
    return {str(dim): max(int(size), 1) for dim, size in zip(variable.dims, sizes, strict=True)}


def _open(location: str, only: Collection[str] | None) -> xr.Dataset:
    try:
        return _open_selected(zarr_store(location), only, location)
    except StoreError:
        raise
    # Every kind of store has errors of its own.
    except Exception as error:
        raise StoreError(_not_opened(location, error)) from error


def _not_opened(location: str, error: Exception) -> str:
    if _is_array(location):
        return (
            f"Expected a Zarr group, but {location!r} is an array: pass the group that it is in, "
            f"{os.path.dirname(location)!r}, and name it."
        )
    if not isinstance(error, FileNotFoundError):
        return f"The Zarr store {location!r} cannot be opened: {type(error).__name__}: {error}"
    if not os.path.exists(location):
        return f"Expected a Zarr store, but {location!r} does not exist."
    return (
        f"Expected a Zarr store, but {location!r} is not a Zarr group. Open other formats with xarray and "
        f"pass the Dataset: xarray.open_dataset({location!r}, chunks={{}}); its to_zarr makes a store of it."
    )


def _open_selected(store: Store, only: Collection[str] | None, location: str) -> xr.Dataset:
    """The variables named in ``only``, or all that can be read."""
    try:
        return _decode(_open_group(store, only, ()))
    except FileNotFoundError:
        raise
    except Exception as error:
        traceback.clear_frames(error.__traceback__)
        broken = _find_broken(store, only)
        if not broken:
            raise
    if only is not None:
        name, reason = next(iter(broken.items()))
        raise StoreError(f"The variable {name!r} of the Zarr store {location!r} cannot be read: {reason}.")
    for name, reason in broken.items():
        logger.info("variable %r of %s is left out, as it cannot be read: %s", name, location, reason)
    ds = _decode(_open_group(store, None, broken))
    ds.encoding[UNREADABLE] = broken
    return ds


def _open_group(store: Store, only: Collection[str] | None, hidden: Collection[str]) -> ZarrStore:
    """The group of the variables to show; no metadata of others are parsed."""
    selected = SelectedStore(store, only, hidden)
    # What tasks read is theirs; what else is read may come into the hands of a caller, who may write to it.
    kind = ZarrStore if only is None else LeanStore
    # Asking for consolidated metadata outright is silent where letting xarray look for them warns.
    group: ZarrStore
    try:
        group = kind.open_group(selected, mode="r", consolidated=True)
    except ValueError as error:
        # Zarr leaves a cycle of frames and with it whoever called, rows included, until the collector comes.
        traceback.clear_frames(error.__traceback__)
        group = kind.open_group(selected, mode="r", consolidated=False)
    return group


def _decode(group: ZarrStore) -> xr.Dataset:
    return xr.open_dataset(group, chunks=None, cache=False, create_default_indexes=False)


def _find_broken(store: Store, only: Collection[str] | None) -> dict[str, str]:
    """The variables that cannot be read by themselves, and why."""
    broken: dict[str, str] = {}
    for name in names_in(store) if only is None else sorted(only):
        try:
            _decode(_open_group(store, (name,), ()))
        except Exception as error:
            traceback.clear_frames(error.__traceback__)
            broken[name] = f"{type(error).__name__}: {error}".rstrip(".")
    return broken


def _refuse_empty(location: str) -> None:
    """`StoreError` for a store that has no variables: it may have groups that have."""
    names = names_in(zarr_store(location))
    groups = [name for name in names if _is_group(location, name)]
    if not groups:
        raise StoreError(
            f"Expected variables in the Zarr store {location!r}, got none. Where a server lists no folders, "
            "consolidate the metadata: zarr.consolidate_metadata(store)."
        )
    raise StoreError(
        f"Expected a Zarr group with variables, but {location!r} holds the groups {listed(groups)}. Pass one "
        f"of them, as {group_inside(location, groups[0])!r}."
    )


def _is_group(location: str, name: str) -> bool:
    try:
        return isinstance(zarr.open(zarr_store(location), path=name, mode="r"), zarr.Group)
    except Exception:
        return False


def _is_array(location: str) -> bool:
    try:
        zarr.open_array(zarr_store(location), mode="r")
    except Exception:
        return False
    return True

"""Where a store is: a folder, a zip file or a URL, and the Zarr store behind it."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import AsyncIterator, Callable, Collection
from typing import Any

import zarr.storage
from zarr.abc.store import ByteRequest, Store
from zarr.core.buffer import Buffer, BufferPrototype, default_buffer_prototype
from zarr.core.sync import sync

# Documents that hold the metadata of a whole group, by the format that has them.
_CONSOLIDATED = (".zmetadata", "zarr.json")


def is_url(location: str) -> bool:
    """Whether fsspec is to open it; ``zip::path`` chains have no slashes."""
    return "://" in location or "::" in location


def absolute(path: str | os.PathLike[str]) -> str:
    """The location as any process finds it: chunks that a worker does not find are fill values to it."""
    location = os.fspath(path)
    if not is_url(location):
        return os.path.abspath(location)
    *chain, last = location.split("::")
    # "zip::path" is short for "zip://::path", which fsspec reads.
    chain = [link if "://" in link else f"{link}://" for link in chain]
    return "::".join([*chain, last if "://" in last else os.path.abspath(last)])


def is_zip(location: str) -> bool:
    """Whether it is the path of a zip file on this machine."""
    return not is_url(location) and os.path.isfile(location) and zipfile.is_zipfile(location)


def group_inside(location: str, group: str) -> str:
    """The location of a group in the store at a location."""
    if is_zip(location):
        return f"zip://{group}::{location}"
    first, *chain = location.split("::")
    return "::".join([first + ("" if first.endswith("/") else "/") + group, *chain])


def zarr_store(location: str) -> Store:
    """The store at a location, for reading; nothing is read but the directory of a zip file."""
    if is_zip(location):
        # Where nothing but a group is opened in it, nobody else would open the file.
        return sync(zarr.storage.ZipStore.open(location, mode="r"))
    if is_url(location):
        return zarr.storage.FsspecStore.from_url(location, read_only=True)
    return zarr.storage.LocalStore(location, read_only=True)


class SelectedStore(zarr.storage.WrapperStore[Store]):
    """A store of which some variables are out of sight, so that nobody parses their metadata.

    Parameters
    ----------
    store : Store
    only : collection of str or None
        The names of variables and groups that are shown; None shows all.
    hidden : collection of str
        Those that are not.
    """

    def __init__(self, store: Store, only: Collection[str] | None, hidden: Collection[str] = ()) -> None:
        super().__init__(store)
        self._only = only
        self._hidden = hidden

    def _with_store(self, store: Store) -> SelectedStore:
        return type(self)(store, self._only, self._hidden)

    def with_read_only(self, read_only: bool = False) -> SelectedStore:
        """The same store, to be read only or not."""
        return self._with_store(self._store.with_read_only(read_only))

    def _shown(self, name: str) -> bool:
        return name not in self._hidden and (self._only is None or name in self._only)

    def _shows(self, key: str) -> bool:
        """Whether a key of the store, a path, is one of the root or of a variable that is shown."""
        name, *inside = key.split("/")
        return not inside or self._shown(name)

    async def get(
        self, key: str, prototype: BufferPrototype | None = None, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """The value, without what is said in it of hidden variables."""
        if not self._shows(key):
            return None
        prototype = prototype or default_buffer_prototype()
        value = await self._store.get(key, prototype, byte_range)
        if value is None or key not in _CONSOLIDATED:
            return value
        document = json.loads(value.to_bytes())
        _filter(document, self._shows)
        return prototype.buffer.from_bytes(json.dumps(document).encode())

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        """The names in a folder, of the root those that are shown."""
        async for found in self._store.list_dir(prefix):
            # A web server marks folders.
            name = found.rstrip("/")
            if prefix.strip("/") or self._shown(name):
                yield name


def _filter(document: dict[str, Any], shows: Callable[[str], bool]) -> None:
    """Take what is hidden out of consolidated metadata, those of format 2 or in a root of format 3."""
    holder = document.get("consolidated_metadata") or document
    if isinstance(held := holder.get("metadata"), dict):
        # A name alone is a variable of format 3, or the root's own document in format 2.
        kept = {key for key in held if key.startswith(".z") or shows(f"{key}/")}
        holder["metadata"] = {key: value for key, value in held.items() if key in kept}


def names_in(store: Store) -> list[str]:
    """The variables and groups of a store's root, whether they can be read or not."""
    return sync(_names_in(store))


async def _names_in(store: Store) -> list[str]:
    for key in _CONSOLIDATED:
        value = await store.get(key, default_buffer_prototype())
        document = {} if value is None else json.loads(value.to_bytes())
        holder = document.get("consolidated_metadata") or document
        if held := holder.get("metadata"):
            return sorted({key.split("/")[0] for key in held if not key.startswith(".z")})
    found = {name.rstrip("/") async for name in store.list_dir("")}
    return sorted(name for name in found if not name.startswith(".z") and name != "zarr.json")

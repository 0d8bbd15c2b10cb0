"""What a partition's rows are made of, as a digest: rows are known by it, wherever their store is.

Of a store the bytes of the chunks that a partition touches are digested, or the checksums that its file
system has of them; nothing is decompressed. Of a dataset at hand it is the values.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection
from itertools import product
from typing import Any, NamedTuple, Protocol

import fsspec
import numpy as np
import xarray as xr
import zarr
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync

from daskmoe.rows.chunks import MARKS, chunks_of, grid_of
from daskmoe.rows.locations import SelectedStore, is_url, is_zip, zarr_store
from daskmoe.rows.partitions import Partition

# What file systems call a checksum of a file's bytes, or a tag of which a server promises as much.
_CHECKSUMS = ("ETag", "etag", "md5Hash", "content_md5", "Content-MD5", "crc32c", "checksum")
# What is digested where a chunk was never written.
_ABSENT = b"absent"


class StoredArray(NamedTuple):
    """A variable of a store: what its chunks are called, and how they are to be read."""

    name: str
    dims: tuple[str, ...]
    # Of its files, shards or chunks.
    chunks: tuple[int, ...]
    # Zarr's own.
    metadata: Any
    # All that says what bytes mean, as text: data type, codecs, fill value and attributes, but no lengths.
    meaning: str

    def keys(self, partition: Partition) -> list[str]:
        """The files that have rows of a partition."""
        grid = grid_of(self.metadata.shape, self.chunks)
        places = chunks_of(partition, self.dims, self.chunks)
        ranges = [range(*place.indices(size)) for place, size in zip(places, grid, strict=True)]
        return [f"{self.name}/{self.metadata.encode_chunk_key(place)}" for place in product(*ranges)]


class Content(NamedTuple):
    """What is known of a partition's rows."""

    digest: str
    # Another one if files were written since, found at less cost; empty for data at hand.
    mark: str = ""


def stored_arrays(location: str, names: Collection[str]) -> tuple[StoredArray, ...]:
    """Some variables of a store, by name; opens their metadata."""
    group = zarr.open_group(SelectedStore(zarr_store(location), names), mode="r")
    arrays = []
    for name in sorted(names):
        array = group[name]
        assert isinstance(array, zarr.Array)
        meaning = array.metadata.to_dict() | {"attributes": dict(array.attrs)}
        del meaning["shape"]
        dims: Any = meaning.get("dimension_names") or array.attrs.get("_ARRAY_DIMENSIONS") or ()
        text = json.dumps(meaning, sort_keys=True, default=str)
        outer = array.shards or array.chunks
        arrays.append(StoredArray(name, tuple(map(str, dims)), tuple(outer), array.metadata, text))
    return tuple(arrays)


def content_of_stored(location: str, arrays: Collection[StoredArray], partition: Partition) -> Content:
    """The content of a partition's rows in a store."""
    # The mark comes first: what is written in between changes it.
    mark, files, digest = mark_of_stored(location, arrays, partition), _files_of(location), hashlib.sha256()
    for array in arrays:
        digest.update(array.meaning.encode())
        for key in array.keys(partition):
            digest.update(f"\n{key} ".encode())
            digest.update(files.digest(key))
    return Content(digest.hexdigest(), mark)


def mark_of_stored(location: str, arrays: Collection[StoredArray], partition: Partition) -> str:
    """What tells whether the files that have rows of a partition were written since."""
    files, digest = _files_of(location), hashlib.sha256()
    for array in arrays:
        for key in array.keys(partition):
            digest.update(files.state(key))
    return digest.hexdigest()


def content_of_box(box: xr.Dataset) -> Content:
    """The content of a partition's rows in a dataset, which is loaded."""
    digest = hashlib.sha256()
    for name in sorted(map(str, box.variables)):
        variable = box.variables[name]
        values = np.asarray(variable.values)
        digest.update(f"{name} {variable.dims} {values.shape} {values.dtype}\n".encode())
        if values.dtype.kind in "biufc":
            digest.update(np.ascontiguousarray(values).data)
        elif values.dtype.kind in "mM":
            digest.update(np.ascontiguousarray(values).view(np.int64).data)
        else:
            digest.update(repr(values.ravel().tolist()).encode())
    return Content(digest.hexdigest())


class _Files(Protocol):
    """The files of a store."""

    def digest(self, key: str) -> bytes:
        """Of a file's bytes."""

    def state(self, key: str) -> bytes:
        """What changes when a file is written."""


def _files_of(location: str) -> _Files:
    if is_url(location):
        return _RemoteFiles(location)
    return _ZippedFiles(location) if is_zip(location) else _LocalFiles(location)


class _LocalFiles:
    """Those of a folder on this machine."""

    def __init__(self, location: str) -> None:
        self._location = location

    def digest(self, key: str) -> bytes:
        try:
            with open(os.path.join(self._location, key), "rb") as file:
                return hashlib.file_digest(file, "sha256").digest()
        except FileNotFoundError:
            return _ABSENT

    def state(self, key: str) -> bytes:
        try:
            return _status(os.path.join(self._location, key))
        except FileNotFoundError:
            return _ABSENT


class _ZippedFiles:
    """Those of a zip file on this machine."""

    def __init__(self, location: str) -> None:
        self._location, self._store = location, zarr_store(location)

    def digest(self, key: str) -> bytes:
        value = sync(self._store.get(key, default_buffer_prototype()))
        return _ABSENT if value is None else hashlib.sha256(value.to_bytes()).digest()

    def state(self, key: str) -> bytes:
        return _status(self._location)


class _RemoteFiles:
    """Those of any other file system."""

    def __init__(self, location: str) -> None:
        # A file system inside another, as a zip file's, keeps what it once read of it.
        self._files, root = fsspec.url_to_fs(location, skip_instance_cache="::" in location)
        self._files.invalidate_cache()
        self._root = root.rstrip("/")

    def digest(self, key: str) -> bytes:
        known = self._info(key)
        if known is None:
            return _ABSENT
        for name in _CHECKSUMS:
            # A weak tag is of what bytes mean, by somebody's leave.
            if (value := known.get(name)) and not str(value).startswith("W/"):
                return f"{name} {value} {known.get('size')}".encode()
        return self._digest_bytes(key)

    def state(self, key: str) -> bytes:
        known = self._info(key)
        if known is None:
            return _ABSENT
        marks = [str(known[mark]) for mark in MARKS if mark != "size" and known.get(mark) is not None]
        return f"{known.get('size')} {marks}".encode() if marks else self._digest_bytes(key)

    def _info(self, key: str) -> dict[str, Any] | None:
        try:
            known: dict[str, Any] = self._files.info(f"{self._root}/{key}")
        except FileNotFoundError:
            return None
        return known

    def _digest_bytes(self, key: str) -> bytes:
        return hashlib.sha256(self._files.cat_file(f"{self._root}/{key}")).digest()


def _status(path: str) -> bytes:
    status = os.stat(path)
    return f"{status.st_size} {status.st_mtime_ns}".encode()

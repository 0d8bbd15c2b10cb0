"""Which chunks of a store are there: those that were never written are read as fill values, in silence."""

from __future__ import annotations

import asyncio
import hashlib
import math
import os
from collections.abc import AsyncIterator, Collection, Iterator, Sequence
from typing import Any, NamedTuple

import fsspec
import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.abc.store import RangeByteRequest, Store, SuffixByteRequest
from zarr.codecs import ShardingCodec
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync

from daskmoe.rows.locations import is_url, zarr_store
from daskmoe.rows.partitions import Partition
from daskmoe.rows.stores import open_variable

Flags = NDArray[np.bool_]

_METADATA = (".zarray", ".zattrs", "zarr.json")
# Where a server lists no folders, chunks are asked for one by one, up to so many.
_MOST_ASKED = 10_000
_ASKED_AT_ONCE = 64
# What tells two states of a remote file apart, under the names that file systems have for it.
MARKS = ("size", "ETag", "etag", "LastModified", "last_modified", "mtime", "created", "CRC", "md5Hash")
# Of an index entry: a chunk that is not there has offset and length of all ones.
_ABSENT = np.iinfo(np.uint64).max


class MissingChunks(NamedTuple):
    """Chunks of a variable that were never written, or are lost."""

    variable: str
    missing: int
    # Of the whole variable.
    total: int
    # What is read there: a fill value as the store declares it, decoded; NaN where that is a missing value.
    value: Any
    # Labels of the partitions that they are in.
    partitions: tuple[str, ...]

    def __str__(self) -> str:
        number = isinstance(self.value, int | float | np.number | np.bool_)
        read = f"{self.value:g}" if number else repr(str(self.value))
        read = "missing values" if self.value != self.value else read
        return f"{self.missing} of {self.total} of {self.variable!r} (read as {read})"


def find_missing_chunks(
    source: str | Store, names: Collection[str], partitions: Sequence[Partition]
) -> list[MissingChunks]:
    """Count the chunks of some variables against their grids, inner chunks of shards too.

    One listing of each variable, and the index of each shard; no chunk is read.

    Parameters
    ----------
    source : str or zarr.abc.store.Store
        The store, or where it is, as `rows.locations` has it.
    names : collection of str
        The variables.
    partitions : sequence of Partition
        Told apart by their boxes: of rows that share one, all are named.

    Returns
    -------
    list of MissingChunks
        Of the variables that miss some; nothing of those whose chunks cannot be listed.
    """
    store = zarr_store(source) if isinstance(source, str) else source
    found = []
    for name in sorted(names):
        array = zarr.open_array(store, path=name, mode="r")
        gone = _gone(store, source, name, array)
        if gone is None or not gone.any():
            continue
        variable = open_variable(store, name)
        dims = [str(dim) for dim in variable.dims]
        first = np.argwhere(gone)[0] * np.array(array.chunks, dtype=int)
        value = variable[tuple(first.tolist())].values[()]
        labels = tuple(part.label for part in partitions if gone[chunks_of(part, dims, array.chunks)].any())
        found.append(MissingChunks(name, int(gone.sum()), gone.size, _plain(value), labels))
    return [each for each in found if each.partitions]


def fingerprint(location: str, names: Collection[str]) -> str:
    """Of the names, sizes and times of the files of some variables; one listing, microseconds a file.

    A store that was written again under the same path must not be taken for the one before. Behind a URL it
    is as good as what the server tells of its files, and empty where it tells nothing.
    """
    digest = hashlib.sha256()
    try:
        for line in _marks(location, names):
            digest.update(f"{line}\n".encode())
    except Exception:
        if is_url(location):
            return ""
        raise
    return digest.hexdigest()


def _marks(location: str, names: Collection[str]) -> Iterator[str]:
    if is_url(location):
        # A file system that was used before would tell what it has in its cache.
        files, root = fsspec.url_to_fs(location, skip_instance_cache=True)
        for name in sorted(names):
            listed: dict[str, dict[str, Any]] = files.find(f"{root.rstrip('/')}/{name}", detail=True)
            for path, known in sorted(listed.items()):
                yield f"{path} {[str(known.get(mark)) for mark in MARKS]}"
    elif os.path.isfile(location):
        status = os.stat(location)
        yield f"{status.st_size} {status.st_mtime_ns}"
    else:
        for name in sorted(names):
            for path in _files_below(os.path.join(location, name)):
                status = os.stat(path)
                yield f"{path} {status.st_size} {status.st_mtime_ns}"


def _files_below(folder: str) -> Iterator[str]:
    for inside, folders, files in os.walk(folder):
        folders.sort()
        yield from (os.path.join(inside, name) for name in sorted(files))


def _plain(value: Any) -> Any:
    """A number as it is, for the message; of a missing time or text no more than that."""
    return float(value) if np.asarray(value).dtype.kind in "biuf" else math.nan


def chunks_of(part: Partition, dims: Sequence[str], chunks: Sequence[int]) -> tuple[slice, ...]:
    """The chunks of a variable that a partition's box touches."""
    ranges = {dim: (start, stop) for dim, start, stop in part.box}
    return tuple(
        slice(ranges[dim][0] // size, -(-ranges[dim][1] // size)) if dim in ranges else slice(None)
        for dim, size in zip(dims, chunks, strict=True)
    )


def _gone(store: Store, source: str | Store, name: str, array: zarr.Array[Any]) -> Flags | None:
    """Which chunks of an array are not there, on the grid of its (inner) chunks; None where none can tell."""
    outer = array.shards or array.chunks
    grid = grid_of(array.shape, outer)
    keys = _listed(store, source, name)
    if keys is None and math.prod(grid) > _MOST_ASKED:
        return None
    at = [f"{name}/{array.metadata.encode_chunk_key(place)}" for place in np.ndindex(*grid)]
    if keys is None:
        keys = sync(_asked(store, at))
    gone = np.array([key not in keys for key in at], np.bool_).reshape(grid)
    return gone if array.shards is None else _inner_gone(store, array, gone, np.array(at).reshape(grid))


def grid_of(shape: Sequence[int], chunks: Sequence[int]) -> tuple[int, ...]:
    """How many chunks there are along each dimension."""
    return tuple(-(-size // chunk) for size, chunk in zip(shape, chunks, strict=True))


def _listed(store: Store, source: str | Store, name: str) -> set[str] | None:
    """The keys of an array; None where the store does not list even its metadata."""
    if isinstance(source, str) and not is_url(source) and os.path.isdir(source):
        skipped = len(source.rstrip(os.sep)) + 1
        keys = {path[skipped:].replace(os.sep, "/") for path in _files_below(os.path.join(source, name))}
    else:
        try:
            keys = sync(_collected(store.list_prefix(f"{name}/")))
        # Of a server that refuses, each kind of store has its own.
        except Exception:
            return None
    return keys if any(f"{name}/{file}" in keys for file in _METADATA) else None


async def _collected(keys: AsyncIterator[str]) -> set[str]:
    return {key async for key in keys}


async def _asked(store: Store, keys: Sequence[str]) -> set[str]:
    there: set[str] = set()
    for first in range(0, len(keys), _ASKED_AT_ONCE):
        some = keys[first : first + _ASKED_AT_ONCE]
        answers = await asyncio.gather(*(store.exists(key) for key in some))
        there |= {key for key, answer in zip(some, answers, strict=True) if answer}
    return there


def _inner_gone(store: Store, array: zarr.Array[Any], gone: Flags, keys: NDArray[np.str_]) -> Flags | None:
    """The same on the grid of inner chunks, by the index of every shard that is there."""
    codecs = getattr(array.metadata, "codecs", ())
    (codec,) = (each for each in codecs if isinstance(each, ShardingCodec))
    shards = array.shards
    assert shards is not None
    inside = tuple(outer // inner for outer, inner in zip(shards, array.chunks, strict=True))
    out = np.ones(tuple(n * k for n, k in zip(gone.shape, inside, strict=True)), np.bool_)
    for place in zip(*np.nonzero(~gone), strict=True):
        index = sync(_shard_index(store, str(keys[place]), codec, math.prod(inside)))
        if index is None:
            return None
        part = tuple(slice(int(i) * k, (int(i) + 1) * k) for i, k in zip(place, inside, strict=True))
        out[part] = (index == _ABSENT).all(axis=1).reshape(inside)
    # The last shards reach beyond the array.
    return out[tuple(slice(size) for size in grid_of(array.shape, array.chunks))]


async def _shard_index(store: Store, key: str, codec: ShardingCodec, n_chunks: int) -> NDArray[Any] | None:
    """Offset and length of every inner chunk in C order; None where the index is stored in another way."""
    names = [type(each).__name__ for each in codec.index_codecs]
    if names not in (["BytesCodec"], ["BytesCodec", "Crc32cCodec"]):
        return None
    size = 16 * n_chunks + 4 * (len(names) - 1)
    at_end = str(codec.index_location.value) == "end"
    where = SuffixByteRequest(size) if at_end else RangeByteRequest(0, size)
    value = await store.get(key, default_buffer_prototype(), where)
    order = getattr(codec.index_codecs[0], "endian", None)
    big = order is not None and order.value == "big"
    if value is None or len(value) != size:
        return None
    dtype = np.dtype(">u8" if big else "<u8")
    return np.frombuffer(value.to_bytes()[: 16 * n_chunks], dtype).reshape(n_chunks, 2)

"""What a saved model may ask of whoever opens it: to read arrays of numbers and text, as large as it holds.

A store may come from anybody. Its metadata are looked at before a byte of its arrays is decoded, as a codec
can run code and a shape can ask for more memory than there is.
"""

from __future__ import annotations

import math
import os
from typing import Any, Final

import zarr

from daskmoe.errors import SchemaError, StoreError
from daskmoe.rows.names import ATTR_SCHEMA_VERSION

# Codecs that decode bytes to bytes, numbers or text, and run nothing.
_CODECS: Final = {
    *("blosc", "bytes", "bz2", "crc32c", "gzip", "lz4", "lzma", "sharding_indexed", "shuffle", "transpose"),
    *("vlen-utf8", "zlib", "zstd"),
}
# Numbers, flags and text; times are none of a model's.
_KINDS: Final = "biufUTS"
# Bytes that any model may have, and how many a stored byte may become: tables of zeros compress well.
_FREE: Final = 1 << 26
_MOST_EXPANSION: Final = 250
# Of a text of variable length, beside its letters.
_TEXT_BYTES: Final = 64


def check_store(path: str) -> None:
    """Look at the metadata of a Zarr store that should be a model.

    Raises
    ------
    SchemaError
        If it is no model, holds something else than numbers and text, or declares far more than it stores.
    StoreError
        If it is no Zarr group.
    """
    try:
        group = zarr.open_group(path, mode="r", use_consolidated=False)
        attrs = dict(group.attrs)
        arrays = dict(group.arrays())
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreError(
            f"{path}: expected a saved model, a Zarr store or netCDF file; it cannot be read as one: {error}"
        ) from error
    if ATTR_SCHEMA_VERSION not in attrs:
        raise SchemaError(
            f"{path}: not a daskmoe model: expected the attribute {ATTR_SCHEMA_VERSION!r}, got "
            f"{sorted(map(str, attrs))}."
        )
    for name, array in arrays.items():
        if strange := [codec for codec in _codecs_of(array) if codec not in _CODECS]:
            raise SchemaError(
                f"{path}: expected codecs of numbers and text, got {strange[0]!r} for {name!r}: no model "
                "that daskmoe saved has it, and it could run code. Do not open this store."
            )
        if array.dtype.kind not in _KINDS:
            raise SchemaError(f"{path}: expected numbers and text, got {array.dtype} for {name!r}.")
    declared = sum(math.prod(a.shape) * _item_bytes(a) for a in arrays.values())
    if declared > _FREE and declared > _FREE + _MOST_EXPANSION * _stored_bytes(path, arrays):
        raise SchemaError(
            f"{path}: expected a model, got arrays that declare {declared / 1e9:.1f} GB, far more than the "
            "store holds; it is damaged, or made to fill the memory."
        )


def _codecs_of(array: Any) -> list[str]:
    """Names of all codecs of an array, of either format."""
    metadata = array.metadata.to_dict()
    if array.metadata.zarr_format == 2:
        found = [*(metadata.get("filters") or ()), metadata.get("compressor")]
        return [str(each["id"]) for each in found if each is not None]
    return [str(each["name"]) for each in _nested(metadata["codecs"])]


def _nested(codecs: Any) -> list[Any]:
    """The codecs, those inside shards too."""
    out = []
    for codec in codecs:
        out.append(codec)
        inside = (codec.get("configuration") or {}) if isinstance(codec, dict) else {}
        for key in ("codecs", "index_codecs"):
            out.extend(_nested(inside.get(key, ())))
    return out


def _item_bytes(array: Any) -> int:
    return _TEXT_BYTES if array.dtype.kind == "T" else int(array.dtype.itemsize)


def _stored_bytes(path: str, arrays: dict[str, Any]) -> int:
    if os.path.isdir(path):
        return sum(
            os.path.getsize(os.path.join(folder, name))
            for folder, _, names in os.walk(path)
            for name in names
        )
    return sum(int(array.nbytes_stored()) for array in arrays.values())

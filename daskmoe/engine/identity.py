"""What tells data apart in the names of tasks: for an equal name a cluster hands out a result it holds."""

from __future__ import annotations

import hashlib
import os
import uuid
from collections.abc import Collection
from typing import Any

import xarray as xr


def content_of(source: str | xr.Dataset, names: Collection[str]) -> Any:
    """What to make a token of: the store's path and fingerprint, or those variables of the dataset."""
    if isinstance(source, str):
        return source, store_fingerprint(source)
    return source[sorted(names)]


def nonce_of(source: str | xr.Dataset) -> str:
    """Of data whose content cannot be told cheaply, as behind a URL: another one every time; else empty."""
    return uuid.uuid4().hex if isinstance(source, str) and not os.path.isdir(source) else ""


def store_fingerprint(path: str) -> str:
    """Of the names, sizes and times of all files of a store on this machine; empty for a URL.

    A store that was written again under the same path must not be taken for the one before. One listing:
    microseconds a file.
    """
    digest = hashlib.sha256()
    for folder, folders, files in os.walk(path):
        folders.sort()
        for name in sorted(files):
            status = os.stat(os.path.join(folder, name))
            digest.update(f"{folder}/{name} {status.st_size} {status.st_mtime_ns}\n".encode())
    return digest.hexdigest() if os.path.isdir(path) else ""

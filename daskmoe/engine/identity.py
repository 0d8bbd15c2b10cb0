"""What tells data apart in the names of tasks: for an equal name a cluster hands out a result it holds."""

from __future__ import annotations

import os
import uuid
from collections.abc import Collection
from typing import Any

import xarray as xr

from daskmoe.rows.chunks import fingerprint


def content_of(source: str | xr.Dataset, names: Collection[str]) -> Any:
    """What to make a token of: the store's path and fingerprint, or those variables of the dataset."""
    if isinstance(source, str):
        return source, store_fingerprint(source, names)
    return source[sorted(names)]


def nonce_of(source: str | xr.Dataset) -> str:
    """Of data whose content cannot be told cheaply, as behind a URL: another one every time; else empty."""
    return uuid.uuid4().hex if isinstance(source, str) and not os.path.exists(source) else ""


def store_fingerprint(path: str, names: Collection[str]) -> str:
    """Of the files of some variables of a store on this machine; empty for a URL."""
    return fingerprint(path, names) if os.path.exists(path) else ""

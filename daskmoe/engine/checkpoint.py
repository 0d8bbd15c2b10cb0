"""The folder of a checkpoint: finished work on disk, so that a job that died goes on where it stopped.

One archive an entry, which is there whole or not at all. The name carries a token of everything that the
entry depends on. A folder is one of this machine or of any file system that fsspec opens.
"""

from __future__ import annotations

import logging
import os
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any

import fsspec

from daskmoe.engine.archive import from_bytes, to_bytes
from daskmoe.errors import StoreError
from daskmoe.rows.locations import is_url

logger = logging.getLogger(__name__)

_SUFFIX = ".npz"
# Folders that could not be written, of which this process has told.
_told: set[str] = set()


def require_folder(folder: str | os.PathLike[str] | None) -> None:
    """Make a folder of checkpoints if it is not there; `StoreError` for one that cannot be written."""
    if folder is None:
        return
    name = f".probe-{uuid.uuid4().hex}"
    try:
        _write(str(folder), name, b"")
        _remove(str(folder), name)
    # Every file system that fsspec opens has errors of its own.
    except Exception as error:
        if isinstance(error, OSError) or is_url(str(folder)):
            raise StoreError(
                f"checkpoint: expected a folder that can be written, got {str(folder)!r}: {error}. Name "
                "another (checkpoint=...), or none."
            ) from error
        raise


def load(folder: str, name: str, *, use: bool = True) -> Any:
    """What is kept under a name; None if there is nothing, or what is there cannot be read.

    The entry counts as used, unless it is only looked at.
    """
    try:
        value = from_bytes(_read(folder, name + _SUFFIX), name)
    except FileNotFoundError:
        return None
    # A spoiled archive can fail in any way, and whatever it is the work is done again.
    except Exception as error:
        logger.warning("checkpoint %s cannot be read and is made anew: %s", place_of(folder, name), error)
        return None
    if use:
        mark_used(folder, name)
    return value


def mark_used(folder: str, name: str) -> None:
    """Date an entry of this machine now, so that a sweep leaves it, as far as that may be done."""
    if not is_url(folder):
        with suppress(OSError):
            os.utime(Path(folder, name + _SUFFIX))


def keep(folder: str, name: str, value: Any) -> str:
    """Keep a value; why that was not possible, else nothing: a full disk is no fault of a fit."""
    try:
        _write(folder, name + _SUFFIX, to_bytes(value, name))
    except Exception as error:
        if not isinstance(error, OSError) and not is_url(folder):
            raise
        reason = f"{type(error).__name__}: {error}"
        if folder not in _told:
            _told.add(folder)
            logger.warning("%s is not kept, and others may not be: %s", name, reason)
        return reason
    return ""


def forget(folder: str, names: list[str]) -> None:
    """Remove entries, as far as they are there and may be removed."""
    for name in names:
        try:
            _remove(folder, name + _SUFFIX)
        except Exception as error:
            logger.debug("checkpoint %s stays: %s", place_of(folder, name), error)


def names_in(folder: str, start: str) -> list[str]:
    """The names of the entries that begin so, sorted."""
    try:
        if is_url(folder):
            files, root = fsspec.url_to_fs(folder)
            files.invalidate_cache()
            found = [os.path.basename(path.rstrip("/")) for path in files.ls(root, detail=False)]
        else:
            found = os.listdir(folder)
    except FileNotFoundError:
        return []
    kept = [name for name in found if name.startswith(start) and name.endswith(_SUFFIX)]
    return sorted(name.removesuffix(_SUFFIX) for name in kept)


def place_of(folder: str, name: str) -> str:
    """Where an entry is, for messages."""
    return f"{folder.rstrip('/')}/{name}{_SUFFIX}"


def _read(folder: str, file: str) -> bytes:
    if not is_url(folder):
        return Path(folder, file).read_bytes()
    files, root = fsspec.url_to_fs(folder)
    data: bytes = files.cat_file(f"{root.rstrip('/')}/{file}")
    return data


def _write(folder: str, file: str, data: bytes) -> None:
    """Write a file; an interrupted write leaves nothing under its name."""
    if is_url(folder):
        files, root = fsspec.url_to_fs(folder)
        files.makedirs(root, exist_ok=True)
        # Object stores show an object once it is whole; of other file systems a reader sees that it is not.
        files.pipe_file(f"{root.rstrip('/')}/{file}", data)
        return
    path = Path(folder, file)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Readable to whom the folder's owner lets read, unlike files of `tempfile`.
    temporary = path.with_name(f".{path.stem}-{uuid.uuid4().hex}.part")
    try:
        with temporary.open("xb") as opened:
            opened.write(data)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _remove(folder: str, file: str) -> None:
    if is_url(folder):
        files, root = fsspec.url_to_fs(folder)
        files.rm_file(f"{root.rstrip('/')}/{file}")
    else:
        Path(folder, file).unlink(missing_ok=True)

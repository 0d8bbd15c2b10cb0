"""Entries of a checkpoint that no run has used for long are removed, on request only.

An entry was used when its file was last written or read: reading marks it (`checkpoint.load`). The clock is
that of the folder's disk, which may not be this machine's.
"""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

# Entries, and what a process that was killed left of one, or of a folder's check.
_OWN: Final = re.compile(r"moe-[\w-]+\.npz|\.moe-[\w-]+-[0-9a-f]{32}\.part|\.probe-[0-9a-f]{32}.*")
_DAY: Final = 86_400.0


class Swept(NamedTuple):
    """What a sweep of a checkpoint removed, or would remove, and what it left."""

    removed: int
    removed_bytes: int
    left: int
    left_bytes: int


def sweep_folder(folder: Path, unused_days: float, *, dry_run: bool) -> Swept:
    """Remove the entries that were not used for so many days, and count them.

    Jobs may use the folder meanwhile: one that looks for an entry that is gone does its work again, and
    entries are read whole, so that none is removed under a reader's hands.
    """
    now = _time_of(folder)
    sizes: dict[bool, list[int]] = {True: [], False: []}
    for entry in _own_files(folder):
        try:
            status = entry.stat(follow_symlinks=False)
            old = now - status.st_mtime > unused_days * _DAY
            if old and not dry_run:
                os.unlink(entry.path)
        except FileNotFoundError:
            # Another job replaced or removed it.
            continue
        sizes[old].append(status.st_size)
    removed, left = sizes[True], sizes[False]
    return Swept(len(removed), sum(removed), len(left), sum(left))


def _own_files(folder: Path) -> Iterator[os.DirEntry[str]]:
    """The files of a folder that a checkpoint made; others are never touched."""
    with os.scandir(folder) as entries:
        yield from (e for e in entries if _OWN.fullmatch(e.name) and e.is_file(follow_symlinks=False))


def _time_of(folder: Path) -> float:
    """What the clock says that dates the files of a folder."""
    probe = folder / f".probe-{uuid.uuid4().hex}"
    try:
        probe.touch()
        return probe.stat().st_mtime
    finally:
        probe.unlink(missing_ok=True)

"""Working memory that is used again from pass to pass, where the process was told to give it back at once.

Dask starts workers with ``MALLOC_TRIM_THRESHOLD_=65536``, so that they hold no memory that they do not use.
That ends the C library's adaptation to a program's arrays as well: from 128 kB every one is mapped anew,
filled with zeros by the system, page by page, and unmapped, and the passes of a local fit, which allocate the
same arrays over and over, take up to twice the time (docs/design/architecture.md: Memory of workers).
"""

from __future__ import annotations

import ctypes
import os
import sys
from functools import cache

from daskmoe.engine.while_any import WhileAny

_TRIM, _MMAP = "MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_"
# The parameters of mallopt(3), and glibc's value of the second in a process that sets the first.
_PARAMETERS = {_TRIM: -1, _MMAP: -3}
_DEFAULT_MMAP = 128 * 2**10
# In bytes. Arrays of a block of rows and of parameters are smaller than the second; those of all rows of a
# partition are not, and are still given back at once.
_KEPT = {_TRIM: 32 * 2**20, _MMAP: 4 * 2**20}


@cache
def _told() -> dict[str, int]:
    """What the environment says; empty where it is silent, and the C library finds out by itself."""
    try:
        return {_TRIM: int(os.environ[_TRIM]), _MMAP: int(os.environ.get(_MMAP, _DEFAULT_MMAP))}
    except (KeyError, ValueError):
        return {}


def _set(sizes: dict[str, int]) -> None:
    if not _told() or not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for name, size in sizes.items():
            mallopt(_PARAMETERS[name], size)


#: Keeps up to 32 MB of freed memory while any task of this process is inside, where little is kept else.
#: Nothing is done where the environment does not say when to give memory back, or the C library is another.
reused_memory = WhileAny(lambda: _set(_KEPT), lambda: _set(_told()))

"""One BLAS thread a task: Dask's workers are the parallelism, and sums keep their order on any machine."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

from threadpoolctl import LibController, ThreadpoolController

_lock = threading.Lock()
_active = 0
_lifted: list[tuple[LibController, int]] = []


@contextmanager
def single_threaded_blas() -> Iterator[None]:
    """Limit BLAS to one thread while any task of this process is inside.

    The limit belongs to the process: with tasks in several threads the first one sets it and the last one
    lifts it, so that none sees it lifted early.
    """
    global _active
    with _lock:
        _active += 1
        if _active == 1:
            _limit()
    try:
        yield
    finally:
        with _lock:
            _active -= 1
            if _active == 0:
                _lift()


@cache
def _libraries() -> tuple[LibController, ...]:
    """The BLAS of NumPy and SciPy, which are loaded by now; finding them takes milliseconds."""
    return tuple(ThreadpoolController().select(user_api="blas").lib_controllers)


def _limit() -> None:
    for library in _libraries():
        _lifted.append((library, library.num_threads))
        _set_threads(library, 1)


def _lift() -> None:
    while _lifted:
        _set_threads(*_lifted.pop())


def _set_threads(library: LibController, number: int) -> None:
    # OpenBLAS limits answer only to the Python thread that set one first, and another task may end last.
    release = getattr(library, "clear_controlling_thread", None)
    if release is not None:
        release(force=True)
    library.set_num_threads(number)
    if release is not None:
        release(force=True)

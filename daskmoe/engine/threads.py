"""One BLAS thread a task: Dask's workers are the parallelism, and sums keep their order on any machine."""

from __future__ import annotations

from functools import cache

from threadpoolctl import LibController, ThreadpoolController

from daskmoe.engine.while_any import WhileAny

_lifted: list[tuple[LibController, int]] = []


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


#: Limits BLAS to one thread while any task of this process is inside; the limit belongs to the process.
single_threaded_blas = WhileAny(_limit, _lift)

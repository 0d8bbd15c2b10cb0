"""Asking Dask for a result from code that waits for it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from daskmoe.errors import DaskMoEError, InvalidOptionError

logger = logging.getLogger(__name__)


@contextmanager
def short_errors() -> Iterator[None]:
    """Errors of ours without the way to them.

    Their messages name the partition; where in the code its task was helps nobody who looks at data.
    """
    try:
        yield
    except DaskMoEError as error:
        logger.debug("A task failed.", exc_info=True)
        raise error.with_traceback(None) from None


def computed(lazy: Any) -> Any:
    """What a Dask collection comes to.

    Raises
    ------
    InvalidOptionError
        Under an asynchronous client, whose event loop would wait for itself.
    """
    try:
        with short_errors():
            return lazy.compute()
    except RuntimeError as error:
        if "asynchronous Client" not in str(error):
            raise
        raise InvalidOptionError(
            "Expected no client or a synchronous one, got an asynchronous Client, for which nothing "
            "may wait: use `await client.compute(daskmoe.fit(..., compute=False))`; for refine and sums over "
            "data run the call in a thread that has its own: `await asyncio.to_thread(work)`, with "
            "`with distributed.Client(client.scheduler.address): ...` in `work`."
        ) from None

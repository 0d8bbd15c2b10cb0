"""Asking Dask for a result from code that waits for it."""

from __future__ import annotations

import logging
from typing import Any

from daskmoe.errors import DaskMoEError, InvalidOptionError

logger = logging.getLogger(__name__)


def computed(lazy: Any) -> Any:
    """What a Dask collection comes to.

    Raises
    ------
    InvalidOptionError
        Under an asynchronous client, whose event loop would wait for itself.
    """
    try:
        return lazy.compute()
    except DaskMoEError as error:
        # Its message names the partition; where in the code the task was helps nobody who looks at data.
        logger.debug("A task failed.", exc_info=True)
        raise error.with_traceback(None) from None
    except RuntimeError as error:
        if "asynchronous Client" not in str(error):
            raise
        raise InvalidOptionError(
            "Expected no client or a synchronous one, got an asynchronous Client, for which nothing "
            "may wait: use `await client.compute(daskmoe.fit(..., compute=False))`; for refine and sums over "
            "data run the call in a thread that has its own: `await asyncio.to_thread(work)`, with "
            "`with distributed.Client(client.scheduler.address): ...` in `work`."
        ) from None

"""Asking Dask for a result from code that waits for it."""

from __future__ import annotations

from typing import Any

from daskmoe.errors import InvalidOptionError


def computed(lazy: Any) -> Any:
    """What a Dask collection comes to.

    Raises
    ------
    InvalidOptionError
        Under an asynchronous client, whose event loop would wait for itself.
    """
    try:
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

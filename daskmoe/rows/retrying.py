"""Reads that failed for a moment are tried again; whatever will fail again is not."""

from __future__ import annotations

import errno
import logging
import time
from collections.abc import Callable, Iterator
from typing import Any, Final, TypeVar

logger = logging.getLogger(__name__)

T = TypeVar("T")

# Seconds before each attempt after the first: a server that restarts is back by then.
WAITS: Final = (0.5, 2.0, 8.0)
_LASTING: Final = (FileNotFoundError, FileExistsError, IsADirectoryError, NotADirectoryError, PermissionError)
_LASTING_CODES: Final = (errno.ENOSPC, errno.EROFS, errno.EINVAL, errno.ENAMETOOLONG, errno.ELOOP)
_TOO_MANY_REQUESTS: Final = 429


def retrying(read: Callable[[], T], what: str) -> T:
    """What ``read`` gives, called again a few times if it fails for a moment; ``what`` is for the log."""
    for wait in WAITS:
        try:
            return read()
        except Exception as error:
            if not is_transient(error):
                raise
            logger.warning("%s: %s: %s; tried again in %g s", what, type(error).__name__, error, wait)
        time.sleep(wait)
    return read()


def is_transient(error: BaseException) -> bool:
    """Whether an error of input or output, or its cause, may be gone the next time.

    A lost connection, a time that ran out, a server that is busy or broken; nothing that is missing or
    forbidden.
    """
    return any(_is_transient(each) for each in _chain(error)) and not any(
        isinstance(each, _LASTING) for each in _chain(error)
    )


def _chain(error: BaseException) -> Iterator[BaseException]:
    found: BaseException | None = error
    while found is not None:
        yield found
        found = found.__cause__


def _is_transient(error: BaseException) -> bool:
    status = _status(error)
    if status is not None:
        return status >= 500 or status == _TOO_MANY_REQUESTS
    if isinstance(error, OSError):
        # Those of the package have no number and say in their cause what happened.
        named = type(error).__module__.startswith("daskmoe")
        return not named and error.errno not in _LASTING_CODES
    # Clients of servers have trees of errors of their own, which are not imported here.
    return any(
        kind.__name__ in ("ClientConnectionError", "ClientPayloadError", "HTTPClientError", "TransportError")
        for kind in type(error).__mro__
    )


def _status(error: BaseException) -> int | None:
    """The code that a server answered with, under the names that clients have for it."""
    response: Any = getattr(error, "response", None)
    if isinstance(response, dict):
        # botocore's.
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    else:
        status = next(
            (found for name in ("status", "status_code", "code") if (found := getattr(error, name, None))),
            getattr(response, "status_code", None),
        )
    return status if isinstance(status, int) and 100 <= status < 600 else None

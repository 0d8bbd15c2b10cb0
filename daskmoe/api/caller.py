"""Warnings and errors at the line that called the package."""

from __future__ import annotations

import inspect
import logging
import warnings
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

from daskmoe.errors import DaskMoEError

logger = logging.getLogger(__name__)

P = ParamSpec("P")
Result = TypeVar("Result")


def short_errors(verb: Callable[P, Result]) -> Callable[P, Result]:
    """Have a verb's own errors end at the line that called it: their message says what to do.

    Sixty lines of a traceback would hide it in a notebook. They go to the log, at level DEBUG.
    """

    @wraps(verb)
    def called(*args: P.args, **options: P.kwargs) -> Result:
        # IPython and pytest leave out frames that say so.
        __tracebackhide__ = True
        try:
            return verb(*args, **options)
        except DaskMoEError as error:
            logger.debug("%s failed.", verb.__name__, exc_info=True)
            raise error.with_traceback(None) from None

    return called


def warn(message: str, category: type[UserWarning]) -> None:
    """A warning at the line that called the package, however deep in it this is."""
    frame, level = inspect.currentframe(), 1
    while frame is not None and str(frame.f_globals.get("__name__")).split(".")[0] == "daskmoe":
        frame, level = frame.f_back, level + 1
    warnings.warn(message, category, stacklevel=level)

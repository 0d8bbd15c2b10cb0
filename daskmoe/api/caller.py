"""Warnings at the line that called the package."""

from __future__ import annotations

import inspect
import warnings


def warn(message: str, category: type[UserWarning]) -> None:
    """A warning at the line that called the package, however deep in it this is."""
    frame, level = inspect.currentframe(), 1
    while frame is not None and str(frame.f_globals.get("__name__")).split(".")[0] == "daskmoe":
        frame, level = frame.f_back, level + 1
    warnings.warn(message, category, stacklevel=level)

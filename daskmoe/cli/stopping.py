"""Stopping in time: SIGTERM and a time budget end a job as Ctrl-C does; its code says that it can go on."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Stopped(KeyboardInterrupt):
    """The job was told to stop, by a signal or its budget."""

    # Whether the same command goes on from what was done.
    resumable = False


@contextmanager
def stoppable() -> Iterator[None]:
    """Let SIGTERM stop what runs in the block; it is what schedulers send before they kill."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: Any) -> None:
        raise Stopped("Stopped by SIGTERM.")

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)


@contextmanager
def within(seconds: float | None) -> Iterator[None]:
    """Stop what runs in the block after so many seconds; None lets it run."""
    if seconds is None or threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: Any) -> None:
        raise Stopped(f"Stopped: the time budget of {seconds:g} s is used up.")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, signal.SIG_DFL if before is None else before)

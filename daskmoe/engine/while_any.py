"""Settings of a process that hold while any of its tasks needs them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class WhileAny:
    """A context that the first task of a process sets up and the last one that leaves takes down.

    With tasks in several threads none sees it taken down early.

    Parameters
    ----------
    set_up, take_down : callable

    Attributes
    ----------
    inside : int
        How many tasks need it now.
    """

    def __init__(self, set_up: Callable[[], None], take_down: Callable[[], None]) -> None:
        self._set_up, self._take_down = set_up, take_down
        self._lock = threading.Lock()
        self.inside = 0

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """Hold the settings."""
        with self._lock:
            self.inside += 1
            if self.inside == 1:
                self._set_up()
        try:
            yield
        finally:
            with self._lock:
                self.inside -= 1
                if self.inside == 0:
                    self._take_down()

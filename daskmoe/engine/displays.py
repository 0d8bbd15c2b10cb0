"""Where progress is shown: a bar in a notebook, a line in a terminal, lines in a log, a caller's function."""

from __future__ import annotations

import html
import logging
import shutil
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from daskmoe.options import Progress

logger = logging.getLogger(__name__)

# Sooner a terminal shows nothing: what is done at once needs no line.
QUIET_SECONDS = 0.5
_LOG_STEPS = 10
_BAR_CELLS = 30
_CELL = "text-align:left;padding:0 .6em;white-space:"


class Status(NamedTuple):
    """How far a stage of a job is."""

    # What is counted, as ``"Partitions fitted"``.
    stage: str
    done: int
    total: int
    # Since the stage began.
    seconds: float
    # What else is known, as the best and the worst log-likelihood a row.
    note: str = ""

    @property
    def rate(self) -> float:
        """Tasks a second."""
        return self.done / self.seconds if self.seconds > 0 else 0.0

    @property
    def seconds_left(self) -> float | None:
        """At the rate so far; None before the first task is done."""
        return (self.total - self.done) / self.rate if self.rate > 0 else None

    @property
    def text(self) -> str:
        """One line."""
        told = [f"{self.done} of {self.total}"]
        if self.done < self.total and self.seconds_left is not None:
            told += [f"{self.rate:.2g}/s", f"{_spelled(self.seconds_left)} left"]
        return ", ".join(told) + (f"; {self.note}" if self.note else "")


def _spelled(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"


class Display(Protocol):
    """Where statuses go."""

    def show(self, status: Status) -> None:
        """Take in a status."""

    def close(self) -> None:
        """The job is over, in whatever way."""


def display_for(progress: Progress) -> Display | None:
    """The display that an option asks for; None for silence."""
    if progress is False:
        return None
    if callable(progress):
        return Told(progress)
    if (shell := _notebook()) is not None:
        return Notebook(shell)
    return Line() if sys.stderr.isatty() else Log()


def _notebook() -> Any:
    """IPython's display functions, in the kernel of a notebook."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if shell is None or not hasattr(shell, "kernel"):
        return None
    from IPython import display

    return display


class Told:
    """A caller's function; where it fails it is not called again, as no fit may end for that."""

    def __init__(self, function: Callable[[Status], object]) -> None:
        self._function: Callable[[Status], object] | None = function
        self._last: Status | None = None

    def show(self, status: Status) -> None:
        """Call it where there is more to tell than the time."""
        same = self._last is not None and status._replace(seconds=self._last.seconds) == self._last
        if self._function is None or same:
            return
        self._last = status
        try:
            self._function(status)
        except Exception:
            logger.warning("progress: the function failed and is not called again.", exc_info=True)
            self._function = None

    def close(self) -> None:
        """Nothing is open."""


class Log:
    """A line in the log for every tenth of a stage."""

    def __init__(self) -> None:
        self._steps: dict[str, int] = {}

    def show(self, status: Status) -> None:
        """Log where it is a step on, of a stage that began anew too, as the next round does."""
        step = _LOG_STEPS * status.done // status.total
        before = self._steps.get(status.stage, 0) % _LOG_STEPS
        if step > before:
            logger.info("%s: %s", status.stage, status.text)
        self._steps[status.stage] = step

    def close(self) -> None:
        """Nothing is open."""


class Line:
    """One line of a terminal, written over."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._stage = ""

    def show(self, status: Status) -> None:
        """Write over the line; a stage that is done keeps it."""
        if time.monotonic() - self._began < QUIET_SECONDS:
            return
        if self._stage not in ("", status.stage):
            sys.stderr.write("\n")
        self._stage = status.stage
        filled = _BAR_CELLS * status.done // status.total
        bar = "█" * filled + "·" * (_BAR_CELLS - filled)
        line = f"{status.stage} {bar} {status.text}"
        # A line that is wrapped cannot be written over.
        sys.stderr.write("\r\x1b[K" + line[: shutil.get_terminal_size().columns - 1])
        sys.stderr.flush()

    def close(self) -> None:
        """End the line."""
        if self._stage:
            sys.stderr.write("\n")
            sys.stderr.flush()


class Notebook:
    """Bars below a cell, one a stage: plain HTML, which a saved notebook keeps."""

    def __init__(self, display: Any) -> None:
        self._statuses: dict[str, Status] = {}
        self._handle = display.display(self._shown(), raw=True, display_id=True)

    def show(self, status: Status) -> None:
        """Draw all bars anew."""
        self._statuses[status.stage] = status
        self._handle.update(self._shown(), raw=True)

    def _shown(self) -> dict[str, str]:
        statuses = list(self._statuses.values())
        text = "\n".join(f"{each.stage}: {each.text}" for each in statuses)
        return {"text/plain": text, "text/html": bars(statuses)}

    def close(self) -> None:
        """The bars stay as they are."""


def bars(statuses: list[Status]) -> str:
    """HTML of stages, readable on light and on dark."""
    rows = "".join(
        "<tr>"
        f"<td style='{_CELL}nowrap'>{html.escape(each.stage)}</td>"
        f"<td><progress style='width:14em' max='{each.total}' value='{each.done}'></progress></td>"
        # It goes on below where a column is narrow, as that of the documentation.
        f"<td style='{_CELL}normal'>{html.escape(each.text)}</td>"
        "</tr>"
        for each in statuses
    )
    return f"<table class='daskmoe-progress'>{rows}</table>"

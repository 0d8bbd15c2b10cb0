"""How far a job is, told while it is computed: by whatever scheduler, on whatever display.

A `Watch` belongs to one job, a fit with its rounds, and computes its graphs. On a local scheduler it is told
of every task; of a cluster it asks the scheduler twice a second.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Protocol

from dask.base import get_scheduler
from dask.callbacks import Callback
from dask.delayed import Delayed
from distributed import span

from daskmoe.engine.announcing import TOPIC, LocalFit, told_by
from daskmoe.engine.displays import Display, Status, display_for
from daskmoe.engine.interrupts import interrupt
from daskmoe.engine.limits import current_client
from daskmoe.engine.results import PartitionResult
from daskmoe.engine.waiting import awaited
from daskmoe.options import Progress

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.5
# A question to a scheduler that is gone may never be answered.
_LAST_POLL_SECONDS = 5.0
_LOCAL_FIT = "moe-local-fit"
# Of a job's token, as many as tell it from others on a dashboard.
_SPAN_LETTERS = 8
# By the start of their keys, the tasks that count, in the order in which they are done.
_STAGES: Mapping[str, str] = {
    "moe-content": "Partitions looked up",
    "moe-sample": "Samples read",
    "moe-pilot": "Shared starts",
    _LOCAL_FIT: "Partitions fitted",
    "moe-score": "Partitions scored",
    "moe-held-out": "Partitions held out",
    "moe-moments": "Partitions read",
    "moe-refine": "Partitions in a round",
    "moe-scores": "Partitions for errors",
}


class Watch:
    """Computes the graphs of a job and tells how far they are."""

    def __init__(self, job: str, display: Display | None = None) -> None:
        self._job, self._display = job, display

    def compute(self, graph: Delayed, note: str = "") -> Any:
        """What a graph comes to; ``note`` is said with its progress."""
        try:
            with nullcontext() if self._display is None else _shown(graph, self._display, note):
                return awaited(graph)
        except KeyboardInterrupt:
            interrupt(self._job)
            raise


@contextmanager
def watching(job: str, progress: Progress) -> Iterator[Watch]:
    """The watch of a job, on the display that the option asks for; on a cluster its tasks are a span."""
    display = display_for(progress)
    try:
        with nullcontext() if current_client() is None else span("daskmoe", job[:_SPAN_LETTERS]):
            yield Watch(job, display)
    finally:
        if display is not None:
            display.close()


class _Tally:
    """The tasks of a graph that count, how many are done, and what local fits told."""

    def __init__(self, graph: Delayed, note: str) -> None:
        self.note = note
        kinds = {str(key): kind for key in graph.__dask_graph__() if (kind := _kind_of(str(key))) is not None}
        self.totals = Counter(kinds.values())
        self._kinds = kinds
        self._done: Counter[str] = Counter()
        self._best: LocalFit | None = None
        self._worst: LocalFit | None = None
        self._began = dict.fromkeys(self.totals, time.monotonic())
        self._said: set[str] = set()

    def finished(self, key: str, result: Any) -> None:
        """Count a task that is done."""
        if (kind := self._kinds.get(key)) is not None:
            self.count({kind: self._done[kind] + 1})
            if isinstance(result, PartitionResult) and result.estimate.weight > 0:
                self.told(key, told_by(result))

    def count(self, done: Mapping[str, int]) -> None:
        """Take in counts; results that were used are forgotten, which is no step back."""
        for kind, number in done.items():
            self._done[kind] = max(self._done[kind], number)
        ended = True
        for kind in self.stages:
            if ended and self._done[kind] == 0:
                self._began[kind] = time.monotonic()
            ended = ended and self._done[kind] >= self.totals[kind]

    def told(self, key: str, fit: LocalFit) -> None:
        """Take in what a local fit reached."""
        if key in self._kinds:
            self._best = fit if self._best is None or fit.nats > self._best.nats else self._best
            self._worst = fit if self._worst is None or fit.nats < self._worst.nats else self._worst

    def end(self) -> None:
        """Everything is done."""
        self.count(self.totals)

    @property
    def groups(self) -> dict[str, str]:
        """Of a key, or of the start that several keys share, what is counted."""
        return {(key if self.totals[kind] == 1 else _start(key)): kind for key, kind in self._kinds.items()}

    @property
    def stages(self) -> list[str]:
        """What there is to do, in order."""
        return [kind for kind in _STAGES if kind in self.totals]

    def statuses(self) -> Iterator[Status]:
        """How far the stages are, up to the one that is going on; one that is done is said once."""
        for kind in self.stages:
            done, total = self._done[kind], self.totals[kind]
            if kind not in self._said:
                seconds = time.monotonic() - self._began[kind]
                yield Status(_STAGES[kind], done, total, seconds, self._note(kind))
            if done < total:
                return
            self._said.add(kind)

    def _note(self, kind: str) -> str:
        if kind != _LOCAL_FIT or self._best is None or self._worst is None:
            return self.note
        worst, best = self._worst, self._best
        return (
            f"log-likelihood a row {worst.nats:.4g} (partition {worst.partition}) to {best.nats:.4g} "
            f"(partition {best.partition})"
        )


def _kind_of(key: str) -> str | None:
    """Which of the tasks that count a key is of: of ``moe-refine-TOKEN-3``, not of a sum's."""
    name, _, last = key.rpartition("-")
    if name not in _STAGES and last.isdecimal():
        name = _start(name)
    return name if name in _STAGES else None


def _start(key: str) -> str:
    return key.rpartition("-")[0]


@contextmanager
def _shown(graph: Delayed, display: Display, note: str) -> Iterator[None]:
    """Show the progress of a graph that is computed in the block."""
    tally = _Tally(graph, note)
    source = _source_of(graph, tally)
    stop = threading.Event()
    thread = threading.Thread(target=_watch, args=(tally, source, display, stop), daemon=True)
    with source:
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join(_LAST_POLL_SECONDS)
    tally.end()
    _show(tally, display)


def _watch(tally: _Tally, source: _Source, display: Display, stop: threading.Event) -> None:
    """Show the counts twice a second until told to stop."""
    while not stop.wait(POLL_SECONDS):
        try:
            source.poll()
        except (OSError, ValueError, TimeoutError):
            # The cluster is gone; whatever waits for the result says why.
            return
        _show(tally, display)


def _show(tally: _Tally, display: Display) -> None:
    for status in tally.statuses():
        display.show(status)


class _Source(AbstractContextManager[Any], Protocol):
    """Where counts come from."""

    def poll(self) -> None:
        """Have the tally take in how many tasks are done."""


def _source_of(graph: Delayed, tally: _Tally) -> _Source:
    try:
        client = getattr(get_scheduler(collections=[graph]), "__self__", None)
    except RuntimeError:
        # Of an asynchronous client, for which nothing is computed here: that is said next.
        client = None
    return _Cluster(client, tally) if hasattr(client, "run_on_scheduler") else _Here(tally)


class _Here(Callback):
    """Counts of a scheduler of this process, which tells of every task."""

    def __init__(self, tally: _Tally) -> None:
        self._tally = tally

    def _posttask(self, key: Any, result: Any, dsk: Any, state: Any, worker_id: Any) -> None:
        self._tally.finished(str(key), result)

    def poll(self) -> None:
        """Nothing to ask."""


class _Cluster:
    """Counts of the scheduler of a cluster, and what local fits tell on their topic."""

    def __init__(self, client: Any, tally: _Tally) -> None:
        self._client, self._tally, self._groups = client, tally, tally.groups

    def __enter__(self) -> None:
        self._client.subscribe_topic(TOPIC, self._heard)

    def __exit__(self, *error: object) -> None:
        # A client that is closed, as by an interrupt, has no topics.
        if self._client.status == "running":
            self._client.unsubscribe_topic(TOPIC)

    def _heard(self, event: tuple[float, Any]) -> None:
        key, *told = event[1]
        self._tally.told(key, LocalFit(*told))

    def poll(self) -> None:
        """Ask the scheduler."""
        counts: Counter[str] = Counter()
        for group, number in count_done(self._client, list(self._groups)).items():
            counts[self._groups[group]] += number
        self._tally.count(counts)


def count_done(client: Any, groups: list[str]) -> dict[str, int]:
    """Tasks on the scheduler that are done, by their key or by the start of it before the last hyphen."""

    # Nested, so that it travels by value: a scheduler elsewhere may not have daskmoe.
    def count(dask_scheduler: Any) -> dict[str, int]:
        found = dict.fromkeys(groups, 0)
        for key, task in dask_scheduler.tasks.items():
            name = str(key)
            group = name if name in found else name.rpartition("-")[0]
            if group in found and task.state in ("memory", "released", "erred"):
                found[group] += 1
        return found

    counts: dict[str, int] = client.run_on_scheduler(count)
    return counts

"""How far a job is: what is counted, on which display, and that an interrupt ends what has begun."""

from __future__ import annotations

import io
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pytest
import xarray as xr
from distributed import Client

import daskmoe
from daskmoe.engine import threads
from daskmoe.engine.displays import Line, Log, Notebook, Status, bars, display_for
from daskmoe.engine.interrupts import StoppableRows, TaskStopped, interrupt, stoppable
from daskmoe.engine.progress import Watch, count_done
from daskmoe.numerics.base.coordinates import coordinates_from
from daskmoe.numerics.base.observations import Block, moments
from daskmoe.numerics.families import get_family

STAGES = ["Samples read", "Shared starts", "Partitions fitted", "Partitions scored", "Partitions in a round"]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data, _ = daskmoe.simulate(800, n_features=2, n_experts=2, design="overlap", chunks=200, random_state=0)
    path = tmp_path_factory.mktemp("progress") / "rows.zarr"
    data.to_zarr(path, zarr_format=2, compute=False).compute(scheduler="synchronous")
    return path


def fit(store: Path, **options: Any) -> list[Status]:
    """What a fit told."""
    told: list[Status] = []
    daskmoe.fit(store, "y", n_experts=2, refine=2, random_state=0, progress=told.append, **options)
    return told


def check(told: list[Status]) -> None:
    last = {status.stage: status for status in told}
    # A pass for robust errors may follow.
    assert list(last)[:5] == STAGES
    assert all(status.done == status.total for status in last.values())
    assert last["Partitions fitted"].total == last["Partitions in a round"].total == 4
    assert "log-likelihood a row" in last["Partitions fitted"].note
    assert last["Partitions in a round"].note.startswith("round ")


@pytest.mark.parametrize("scheduler", ["threads", "synchronous"])
def test_every_stage_of_a_fit_is_told_by_local_schedulers(store: Path, scheduler: str) -> None:
    with dask.config.set(scheduler=scheduler):
        check(fit(store))


@pytest.mark.cluster
def test_every_stage_of_a_fit_is_told_on_a_cluster(
    store: Path, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("daskmoe.engine.progress.POLL_SECONDS", 0.1)
    # Tasks of another job on the cluster do not count.
    held = client.compute(daskmoe.fit(store, "y", n_experts=2, random_state=1, compute=False))
    held.result(timeout=60)
    check(fit(store))
    keys = [str(key) for key in client.run_on_scheduler(lambda dask_scheduler: list(dask_scheduler.tasks))]
    assert count_done(client, keys) == dict.fromkeys(keys, 1)


def test_silence_and_a_function_that_fails(store: Path, caplog: pytest.LogCaptureFixture) -> None:
    def fails(status: Status) -> None:
        raise ValueError("no room")

    def said() -> list[str]:
        return [record.levelname for record in caplog.records if record.name == "daskmoe.engine.displays"]

    with caplog.at_level(logging.INFO, "daskmoe"):
        silent = daskmoe.fit(store, "y", n_experts=2, random_state=0, progress=False)
        assert said() == []
        told = daskmoe.fit(store, "y", n_experts=2, random_state=0, progress=fails)
    assert said() == ["WARNING"]
    xr.testing.assert_identical(silent.params, told.params)
    with pytest.raises(daskmoe.InvalidOptionError, match="expected 'auto', False for silence or a function"):
        daskmoe.fit(store, "y", n_experts=2, progress="bar")


def test_selection_and_refinement_tell_too(store: Path) -> None:
    told: list[Status] = []
    model = daskmoe.select_n_experts(
        store, "y", n_experts=[2], held_out=0.25, random_state=0, progress=told.append
    ).model
    assert "Partitions held out" in {status.stage for status in told}
    told.clear()
    daskmoe.refine(model, store, rounds=1, progress=told.append)
    assert [status.stage for status in told if status.done] == ["Partitions read", "Partitions in a round"]


def status_of(done: int, stage: str = "Partitions fitted") -> Status:
    return Status(stage, done, 40, 10.0 * done)


def test_a_log_has_a_line_for_every_tenth(caplog: pytest.LogCaptureFixture) -> None:
    display = Log()
    with caplog.at_level(logging.INFO, "daskmoe"):
        for done in range(41):
            display.show(status_of(done))
        # The next round has the same stage.
        display.show(status_of(0))
        display.show(status_of(40))
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 11
    assert lines[0] == "Partitions fitted: 4 of 40, 0.1/s, 6 min 00 s left"
    assert lines[-1] == "Partitions fitted: 40 of 40"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_has_one_line_a_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    written = Terminal()
    monkeypatch.setattr(sys, "stderr", written)
    monkeypatch.setenv("COLUMNS", "60")
    display = display_for("auto")
    assert isinstance(display, Line)
    # What is done at once needs no line.
    display.show(status_of(1))
    assert written.getvalue() == ""
    display._began = -1e9
    display.show(status_of(20))
    display.show(status_of(40))
    display.show(status_of(1, "Partitions scored"))
    display.close()
    ends = [line.split("\r\x1b[K")[-1] for line in written.getvalue().split("\n")]
    assert [end.partition(" ")[2][:6] for end in ends] == ["fitted", "scored", ""]
    assert "40 of 40" in ends[0]
    assert max(len(line.strip()) for line in written.getvalue().split("\r\x1b[K")) == 59


def test_a_log_is_what_a_file_gets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    assert isinstance(display_for("auto"), Log)
    assert display_for(False) is None


class FakeDisplay:
    """IPython's display functions."""

    def __init__(self) -> None:
        self.shown: list[dict[str, str]] = []

    def display(self, shown: dict[str, str], **how: Any) -> FakeDisplay:
        assert how == {"raw": True, "display_id": True}
        self.shown.append(shown)
        return self

    def update(self, shown: dict[str, str], **how: Any) -> None:
        self.shown.append(shown)


def test_a_notebook_has_a_bar_a_stage() -> None:
    fake = FakeDisplay()
    display = Notebook(fake)
    for status in (status_of(3), status_of(40), status_of(1, "Partitions <b> scored")):
        display.show(status)
    assert fake.shown[0]["text/html"] == bars([])
    assert fake.shown[-1]["text/html"].count("<progress") == 2
    # Names stand in one line, what is told of a stage fits a narrow column.
    assert fake.shown[-1]["text/html"].count("white-space:normal") == 2
    assert "max='40' value='1'" in fake.shown[-1]["text/html"]
    assert "<b>" not in fake.shown[-1]["text/html"]
    assert fake.shown[-1]["text/plain"].splitlines()[0] == "Partitions fitted: 40 of 40"


# Interrupts.


@pytest.mark.parametrize("passes", [StoppableRows.blocks, StoppableRows.centred_blocks])
def test_rows_of_an_interrupted_job_end_between_blocks(passes: Callable[..., Iterator[Block]]) -> None:
    rng = np.random.default_rng(0)
    rows = StoppableRows(rng.normal(size=(5_000, 1)), rng.normal(size=5_000))
    known = moments(rows)
    coordinates = coordinates_from(known, get_family("gaussian").scaling(known))
    taken = rows.take(np.arange(4_500))
    with stoppable("mine"):
        blocks = passes(taken, coordinates)
        next(blocks)
        interrupt("another")
        next(blocks)
        interrupt("mine")
        with pytest.raises(TaskStopped):
            next(blocks)
    # The next try of the same job is another.
    with stoppable("mine"):
        assert len(list(passes(taken, coordinates))) == 3
    assert len(list(passes(taken, coordinates))) == 3


LARGE: dict[str, Any] = {"n_experts": 4, "aggregation": "reduction", "random_state": 0, "partitions": 4}


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows whose local fits take many seconds but for the first, which has a checkpoint soon."""
    data, _ = daskmoe.simulate(400_000, n_features=6, n_experts=4, design="overlap", random_state=0)
    data = data.chunk(row=100_000)
    path = tmp_path_factory.mktemp("large") / "rows.zarr"
    data.to_zarr(path, zarr_format=2, compute=False).compute(scheduler="synchronous")
    return path


def interrupt_a_fit(path: Path, kept: Path) -> float:
    """Interrupt once there is a checkpoint; when that was."""
    at: list[float] = []
    over = threading.Event()

    def wait() -> None:
        while not list(kept.glob("*.npz")) and not over.wait(0.02):
            pass
        at.append(time.monotonic())
        # A real signal, as of Ctrl-C, which wakes whatever waits.
        os.kill(os.getpid(), signal.SIGINT)

    # A process in the background may have been started with the signal ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    threading.Thread(target=wait, daemon=True).start()
    try:
        with pytest.raises(KeyboardInterrupt):
            daskmoe.fit(path, "y", checkpoint=kept, progress=False, **LARGE)
    finally:
        over.set()
        signal.signal(signal.SIGINT, before)
    return at[0]


def seconds_until_idle(since: float, busy: Any) -> float:
    while busy():
        assert time.monotonic() < since + 60
        time.sleep(0.02)
    return time.monotonic() - since


def test_an_interrupt_ends_local_tasks_and_leaves_checkpoints(large: Path, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    with dask.config.set(scheduler="threads", num_workers=2):
        at = interrupt_a_fit(large, kept)
        assert seconds_until_idle(at, lambda: threads.single_threaded_blas.inside) < 2.0
    assert 1 <= len(list(kept.glob("*.npz"))) < 4


@pytest.mark.cluster
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_interrupt_ends_the_tasks_of_a_cluster(large: Path, tmp_path: Path, client: Client) -> None:
    kept = tmp_path / "kept"

    def active() -> int:
        # A worker that had no task yet has not imported it.
        module = sys.modules.get("daskmoe.engine.threads")
        return module.single_threaded_blas.inside if module is not None else 0

    def busy() -> bool:
        return any(client.run(active).values())

    at = interrupt_a_fit(large, kept)
    assert seconds_until_idle(at, busy) < 2.0
    assert 1 <= len(list(kept.glob("*.npz"))) < 4


def test_a_watch_without_a_display_computes() -> None:
    assert Watch("job").compute(dask.delayed(1)) == 1

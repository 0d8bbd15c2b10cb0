"""Stores that grow, move and change: what is kept is used for the rows that it is of, and for no others."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pytest
import xarray as xr
import zarr
from dask.tokenize import TokenizationError
from fsspec.implementations.memory import MemoryFileSystem

import daskmoe
from daskmoe import MixtureOfExperts
from daskmoe.engine import graph, kept_starts, kept_sums, passes, tasks
from daskmoe.numerics.combine import choice

OPTIONS: dict[str, Any] = {"n_experts": 2, "n_init": 2, "random_state": 0, "features": "X"}
ROWS = 100


@pytest.fixture(autouse=True)
def synchronous() -> Iterator[None]:
    with dask.config.set(scheduler="synchronous"):
        yield


@pytest.fixture(scope="module")
def data() -> xr.Dataset:
    return daskmoe.simulate(20 * ROWS, n_features=2, n_experts=2, design="overlap", random_state=0)[
        0
    ].compute()


@pytest.fixture
def write(data: xr.Dataset, tmp_path: Path) -> Callable[..., Path]:
    """Write some chunks to a store, or append them."""

    def written(first: int, last: int, name: str = "rows.zarr", **more: Any) -> Path:
        part = data.isel(row=slice(ROWS * first, ROWS * last)).drop_encoding()
        options = {"append_dim": "row"} if first else {"mode": "w"}
        part.chunk(row=ROWS).to_zarr(tmp_path / name, zarr_format=2, **(options | more))
        return tmp_path / name

    return written


class Work:
    """What was done."""

    def __init__(self) -> None:
        self._fitted: list[int] = []
        self.pilots = self.reads = 0

    @property
    def fitted(self) -> list[int]:
        """Numbers of the partitions that were fitted."""
        return sorted(self._fitted)

    def begin(self) -> None:
        """Forget it."""
        self.__init__()  # type: ignore[misc]


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> Work:
    done = Work()

    def watch(module: Any, name: str, note: Callable[..., None]) -> None:
        original = getattr(module, name)

        def noted(*args: Any, **kwargs: Any) -> Any:
            note(*args)
            return original(*args, **kwargs)

        monkeypatch.setattr(module, name, noted)

    def count(name: str) -> Callable[..., None]:
        return lambda *args: setattr(done, name, getattr(done, name) + 1)

    watch(tasks, "_fit", lambda plan, partition, *others: done._fitted.append(partition.index))
    watch(kept_starts, "fit_sample", count("pilots"))
    watch(passes, "read_counted", count("reads"))
    return done


def fit(store: Any, folder: Path | str | None, **more: Any) -> MixtureOfExperts:
    return daskmoe.fit(store, "y", checkpoint=folder, **(OPTIONS | more))


def same_bytes_elsewhere(store: Path) -> Path:
    return Path(shutil.copytree(store, store.with_name("moved.zarr")))


def another_variable(store: Path) -> Path:
    xr.Dataset({"more": ("place", np.ones(3))}).to_zarr(store, mode="a", zarr_format=2)
    return store


def consolidated_again(store: Path) -> Path:
    zarr.consolidate_metadata(str(store))
    return store


def at_a_url(store: Path) -> str:
    return f"file://{store}"


def test_rows_that_are_the_same_are_not_even_read(
    write: Callable[..., Path], tmp_path: Path, work: Work
) -> None:
    store = write(0, 4)
    fresh = fit(store, None)
    models = [fit(store, tmp_path / "kept")]
    for change in (same_bytes_elsewhere, another_variable, consolidated_again, at_a_url):
        work.begin()
        models.append(fit(change(store), tmp_path / "kept"))
        assert (work.fitted, work.pilots, work.reads) == ([], 0, 0), change.__name__
    for model in models:
        xr.testing.assert_identical(model.params, fresh.params)
        xr.testing.assert_identical(
            model.diagnostics.drop_vars("seconds"), fresh.diagnostics.drop_vars("seconds")
        )


@pytest.mark.parametrize("aggregation", ["auto", "reduction"])
def test_a_store_that_grew_costs_what_is_new(
    write: Callable[..., Path], tmp_path: Path, work: Work, caplog: pytest.LogCaptureFixture, aggregation: str
) -> None:
    options = {"aggregation": aggregation, "support_size": 90}
    fit(write(0, 4), tmp_path / "kept", **options)
    work.begin()
    with caplog.at_level(logging.INFO, logger="daskmoe"):
        grown = fit(write(4, 6), tmp_path / "kept", **options)
    assert (work.fitted, work.pilots) == ([4, 5], 0)
    told = "the shared start is kept, which was made for 400 of 600 rows"
    assert (told in caplog.messages) == (aggregation == "auto")
    assert "4 of 6 partitions were taken from their checkpoints" in caplog.messages
    assert grown.diagnostics.sizes["partition"] == 6
    fresh = fit(write(0, 6, "at_once.zarr"), None, **options)
    # Of other rows of the support, or from another start.
    np.testing.assert_allclose(grown.match(fresh).params["coef"], fresh.params["coef"], rtol=0.05)


def test_a_store_that_doubled_has_a_new_start(write: Callable[..., Path], tmp_path: Path, work: Work) -> None:
    fit(write(0, 4), tmp_path / "kept")
    work.begin()
    found = fit(write(4, 9), tmp_path / "kept")
    assert (work.fitted, work.pilots) == (list(range(9)), 1)
    xr.testing.assert_identical(found.params, fit(write(0, 9, "at_once.zarr"), None).params)


def test_a_chunk_that_changed_costs_its_partition(
    write: Callable[..., Path], tmp_path: Path, work: Work
) -> None:
    store = write(0, 4)
    fit(store, tmp_path / "kept")
    work.begin()
    changed = xr.Dataset({"y": ("row", np.zeros(1))})
    changed.to_zarr(store, region={"row": slice(250, 251)}, zarr_format=2)
    fit(store, tmp_path / "kept")
    assert (work.fitted, work.pilots) == ([2], 0)


def test_what_changes_meanwhile_is_not_kept(
    write: Callable[..., Path], tmp_path: Path, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, original = write(0, 4), tasks.read_box
    before = Path(shutil.copytree(store, tmp_path / "before.zarr"))
    expected = fit(before, None, aggregation="reduction")

    def late(source: Any, schema: Any, partition: Any, **more: Any) -> Any:
        if partition.index == 1:
            xr.Dataset({"y": ("row", np.zeros(1))}).to_zarr(
                store, region={"row": slice(150, 151)}, zarr_format=2
            )
        return original(source, schema, partition, **more)

    with monkeypatch.context() as patched:
        patched.setattr(tasks, "read_box", late)
        with pytest.warns(daskmoe.DataWarning):
            fit(store, tmp_path / "kept", aggregation="reduction")
    work.begin()
    # The rows as they were are somewhere still.
    found = fit(before, tmp_path / "kept", aggregation="reduction")
    assert work.fitted == [1]
    xr.testing.assert_identical(found.params, expected.params)


def test_an_entry_under_another_name_is_not_used(
    write: Callable[..., Path], tmp_path: Path, work: Work, caplog: pytest.LogCaptureFixture
) -> None:
    store, kept = write(0, 4), tmp_path / "kept"
    expected = fit(store, kept)
    work.begin()
    entries = {name: next(kept.glob(f"moe-local-fit-{name}-*")) for name in (0, 1)}
    shutil.copy(entries[0], entries[1])
    next(kept.glob("moe-sum-*")).unlink()
    found = fit(store, kept)
    assert work.fitted == [1]
    assert "is made anew: it is the entry" in caplog.text
    xr.testing.assert_identical(found.params, expected.params)


def test_a_lazy_dataset_is_known_by_its_values(
    write: Callable[..., Path], tmp_path: Path, work: Work
) -> None:
    """What Dask calls its chunks may stay the same where the store behind them was written again."""
    store = write(0, 4)

    def again() -> list[int]:
        work.begin()
        with xr.open_zarr(store, consolidated=True) as lazy:
            fit(lazy, tmp_path / "kept", aggregation="reduction")
        return work.fitted

    assert again() == [0, 1, 2, 3]
    assert again() == []
    xr.Dataset({"y": ("row", np.zeros(1))}).to_zarr(store, region={"row": slice(0, 1)}, zarr_format=2)
    assert again() == [0]
    write(4, 5)
    assert again() == [4]


def test_rounds_go_on_where_they_stopped(
    write: Callable[..., Path], tmp_path: Path, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, kept = write(0, 4), tmp_path / "kept"
    options = {"aggregation": "reduction", "refine": "converged"}
    expected = fit(store, None, **options)
    original, reads = passes.read_counted, work.reads

    def interrupted(*args: Any) -> Any:
        if work.reads == reads + 6:
            raise KeyboardInterrupt
        return original(*args)

    with monkeypatch.context() as patched:
        patched.setattr(passes, "read_counted", interrupted)
        with pytest.raises(KeyboardInterrupt):
            fit(store, kept, **options)
    assert len([*kept.glob("moe-part-*")]) == 2
    work.begin()
    found = fit(store, kept, **options)
    assert (work.fitted, work.reads) == ([], reads - 6)
    xr.testing.assert_identical(found.params, expected.params)
    assert not [*kept.glob("moe-part-*")]


def test_a_checkpoint_may_be_on_any_file_system(write: Callable[..., Path], work: Work) -> None:
    store = write(0, 4)
    try:
        first = fit(store, "memory://kept/here", refine=1)
        work.begin()
        assert fit(store, "memory://kept/here", refine=1).params.identical(first.params)
        assert (work.fitted, work.reads) == ([], 0)
    finally:
        MemoryFileSystem().rm("/kept", recursive=True)


@pytest.mark.filterwarnings("ignore:By bic")
def test_fits_of_some_partitions_share_no_start_with_those_of_all(
    write: Callable[..., Path], tmp_path: Path
) -> None:
    """Where partitions are held out, the start is of the others alone, most of all as they are."""
    options = {"n_experts": [1, 2], "held_out": 0.1, "random_state": 0, "n_init": 2}
    store = write(0, 12)
    expected, found = (
        daskmoe.select_n_experts(store, "y", checkpoint=folder, **options)  # type: ignore[arg-type]
        for folder in (None, tmp_path / "kept")
    )
    xr.testing.assert_identical(expected.model.params, found.model.params)


def test_what_nothing_can_tell_from_others_is_not_kept(
    write: Callable[..., Path], tmp_path: Path, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pass whose function has no name that another process would give it again."""

    def nameless(*args: Any, **kwargs: Any) -> str:
        raise TokenizationError

    monkeypatch.setattr(kept_sums, "tokenize", nameless)
    store = write(0, 4)
    fit(store, tmp_path)
    work.begin()
    fit(store, tmp_path)
    assert (work.fitted, work.pilots, work.reads) == ([], 0, 4)


def test_what_all_partitions_share_is_done_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mark of the shared start, and the reduction from the first candidate where that is chosen."""
    calls = []

    def noted(name: str, whole: Callable[..., Any], *args: Any, **more: Any) -> Any:
        calls.append(name)
        return whole(*args, **more)

    for module, name in ((graph, "mark_of_start"), (tasks, "mark_of_start"), (choice, "reduce_mixture")):
        monkeypatch.setattr(module, name, partial(noted, name, getattr(module, name)))
    data, _ = daskmoe.simulate(20_000, n_features=2, n_experts=2, design="overlap", random_state=0)
    model = fit(data.chunk(row=4000), tmp_path / "kept", start_rows=1000, random_state=1)
    assert model.diagnostics.attrs["aggregation"] == "one-shot"
    assert sorted(calls) == ["mark_of_start", "reduce_mixture"]

"""Fits of several sizes in one graph: what each would be alone, for one reading of every partition."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pytest
import xarray as xr

import daskmoe
from daskmoe import InvalidOptionError
from daskmoe.api.hooks import HOOKS
from daskmoe.engine import (
    FitRequest,
    hold_out,
    log_likelihoods_by_partition,
    plan_request,
    run_sizes,
    tasks,
    with_size,
)
from daskmoe.engine.sizes import build_sizes
from daskmoe.options import FitOptions

SIZES = (1, 2, 3)


@pytest.fixture(scope="module")
def data() -> xr.Dataset:
    found, _ = daskmoe.simulate(1200, n_features=2, n_experts=2, design="overlap", random_state=0)
    return found


@pytest.fixture
def store(data: xr.Dataset, tmp_path: Path) -> str:
    path = tmp_path / "rows.zarr"
    data.chunk(row=300).to_zarr(path, zarr_format=2)
    return str(path)


def requests(data: Any, **more: Any) -> list[FitRequest]:
    options = {"random_state": 0, "n_init": 2, "effort": 0.5, "partitions": 4} | more
    first = plan_request(data, "y", FitOptions(n_experts=SIZES[0], **options))
    return [first, *(with_size(first, size) for size in SIZES[1:])]


@pytest.mark.parametrize(
    "options",
    [{}, {"aggregation": "reduction"}, {"support": "features"}, {"partitions": 1}, {"refine": 1}],
    ids=str,
)
def test_every_size_ends_as_it_would_alone(data: xr.Dataset, options: dict[str, Any]) -> None:
    shared = {"random_state": 0, "n_init": 2, "effort": 0.5, "partitions": 4} | options
    for model, _ in run_sizes(requests(data, **options), HOOKS):
        alone = daskmoe.fit(data, "y", n_experts=model.n_experts, **shared)
        xr.testing.assert_identical(model.params, alone.params)
        assert model.options == alone.options


def test_a_partition_is_read_as_often_as_for_one_size(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[str] = []
    read = tasks.read_box

    def counted(*arguments: Any, **more: Any) -> xr.Dataset:
        reads.append(arguments[2].label)
        return read(*arguments, **more)

    monkeypatch.setattr(tasks, "read_box", counted)
    with dask.config.set(scheduler="synchronous"):
        run_sizes(requests(store), HOOKS)
        for_all = reads.copy()
        reads.clear()
        daskmoe.fit(store, "y", n_experts=2, random_state=0, n_init=2, partitions=4)
    # Once to be fitted, once to score the candidates, and the sample.
    assert sorted(for_all) == sorted(reads)
    assert [for_all.count(label) for label in "0123"] == [2, 2, 2, 2]


def test_the_graph_has_a_task_a_partition(data: xr.Dataset) -> None:
    keys = [str(key) for each in build_sizes(requests(data)) for key in each.__dask_graph__()]
    counted = {
        kind: len({key for key in keys if key.startswith(kind)}) for kind in ("moe-local", "moe-score")
    }
    assert counted == {"moe-local": 4, "moe-score": 4}


def test_checkpoints_are_those_of_single_fits(
    store: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kept = {"checkpoint": tmp_path / "kept", "effort": 0.5}
    run_sizes(requests(store, **kept), HOOKS)
    assert len(list((tmp_path / "kept").glob("moe-local-fit-*"))) == 12
    with caplog.at_level(logging.INFO, "daskmoe"):
        daskmoe.fit(store, "y", n_experts=2, random_state=0, n_init=2, partitions=4, **kept)
    assert "4 of 4 partitions were taken from their checkpoints" in caplog.text


def test_a_partition_that_fails_is_left_out_of_all(data: xr.Dataset) -> None:
    holed = data.copy(deep=True)
    holed["y"][:300] = np.nan
    for model, endings in run_sizes(requests(holed, on_error="skip"), HOOKS):
        assert [ending.outcome.value for ending in endings].count("left out") == 1
        assert model.log_likelihood() == pytest.approx(model.log_likelihood(data.isel(row=slice(300, None))))


def test_models_know_their_criteria(data: xr.Dataset) -> None:
    for model, _ in run_sizes(requests(data), HOOKS):
        for name in ("log_likelihood", "aic", "bic", "icl"):
            own = getattr(model, name)
            assert own() == pytest.approx(own(data), rel=1e-10), name


# Held out.


def held_rows(request: FitRequest) -> set[int]:
    return {i for part in request.partitions for i in range(part.box[0][1], part.box[0][2])}


@pytest.mark.parametrize("rows", [1200, 30_000])
def test_fits_see_nothing_of_what_is_held_out(rows: int) -> None:
    values = np.random.default_rng(0).normal(size=(2, rows))
    data = xr.Dataset({"x": ("row", values[0]), "y": ("row", values[1])})
    request = plan_request(data, "y", FitOptions(n_experts=2, partitions=20, random_state=0))
    training, held = hold_out(request, 0.25)
    assert (len(training.partitions), len(held.partitions)) == (15, 5)
    assert not held_rows(training) & held_rows(held)
    assert len(held_rows(training) | held_rows(held)) == rows
    # Evenly spread: one in every fifth.
    assert [int(part.label) // 4 for part in held.partitions] == [0, 1, 2, 3, 4]
    sampled = {int(i) + each.window.box[0][1] for each in training.sample for i in each.positions}
    drawn = {int(i) + each.window.box[0][1] for each in request.sample for i in each.positions}
    assert sampled
    assert sampled <= drawn - held_rows(held) or rows > 10_000
    assert not sampled & held_rows(held)


def test_held_out_windows_of_grids_go_whole() -> None:
    values = np.random.default_rng(0).normal(size=(2, 40, 500))
    data = xr.Dataset({"x": (("t", "s"), values[0]), "y": (("t", "s"), values[1])}).chunk(t=4)
    request = plan_request(data, "y", FitOptions(n_experts=2, random_state=0))
    training, held = hold_out(request, 0.3)
    steps = {i for part in held.partitions for i in range(part.box[0][1], part.box[0][2])}
    assert training.sample
    assert not steps & {i for w in training.sample for i in range(w.window.box[0][1], w.window.box[0][2])}


def test_holding_out_takes_four_partitions(data: xr.Dataset) -> None:
    with pytest.raises(InvalidOptionError, match="two partitions to fit and two to hold out, got 3 in all"):
        hold_out(requests(data, partitions=3)[0], 0.25)


def test_log_likelihoods_of_partitions(data: xr.Dataset) -> None:
    request = requests(data)[1]
    models = [daskmoe.fit_local(data, "y", n_experts=k, random_state=0, n_init=2) for k in (1, 2)]
    weights, values = log_likelihoods_by_partition(request, [model.parameters for model in models])
    parts = [data.isel(row=slice(start, start + 300)) for start in range(0, 1200, 300)]
    assert weights.tolist() == [300.0] * 4
    expected = [[model.log_likelihood(part) for model in models] for part in parts]
    np.testing.assert_allclose(values, expected, rtol=1e-10)

"""What a model holds of its fit, its weight and how partitions ended; saved now or by version 0.1.0."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

import daskmoe
from daskmoe import MixtureOfExperts
from daskmoe.api.reporting import left_out
from daskmoe.model.history import distances_of_rivals, outcomes_of
from daskmoe.model.store import save_zarr
from daskmoe.rows.names import Outcome

# Rounds in a number are to be looked at, wherever they end.
pytestmark = pytest.mark.filterwarnings("ignore:The refinement ended short:daskmoe.errors.ConvergenceWarning")

FAST: dict[str, Any] = {"n_experts": 2, "n_init": 2, "random_state": 0}


@pytest.fixture(scope="module")
def data() -> xr.Dataset:
    found, _ = daskmoe.simulate(800, n_features=2, n_experts=2, design="overlap", random_state=0)
    return found.assign(w=("row", np.arange(800.0) % 3))


@pytest.fixture(scope="module")
def gap_model(data: xr.Dataset) -> MixtureOfExperts:
    gap = data.copy(deep=True)
    gap["y"][:200] = np.nan
    return daskmoe.fit(gap, "y", features="X", partitions=4, on_error="skip", aggregation="reduction", **FAST)


def as_saved_before(model: MixtureOfExperts, path: Path) -> Path:
    """The model as version 0.1.0 stored it."""
    flat = model.to_dataset().drop_vars("diagnostics.outcome")
    del flat.attrs["weight"]
    save_zarr(flat, path)
    return path


def test_models_know_the_weight_of_their_fit(data: xr.Dataset) -> None:
    rows = {"features": "X", **FAST}
    whole = daskmoe.fit_local(data, "y", **rows)
    assert whole.weight == 800.0
    assert daskmoe.fit(data, "y", partitions=4, sample_weight="w", **rows).weight == float(data["w"].sum())
    half = data.isel(row=slice(0, 400))
    assert daskmoe.refine(whole, half, rounds=1).weight == 400.0
    assert daskmoe.aggregate([whole, daskmoe.fit_local(half, "y", **rows)], data).weight == 1_200.0
    assert daskmoe.simulate(10, n_features=1, n_experts=1, random_state=0)[1].weight is None


@pytest.mark.parametrize("save", [MixtureOfExperts.to_zarr, MixtureOfExperts.to_netcdf])
def test_the_weight_is_saved(
    gap_model: MixtureOfExperts, tmp_path: Path, save: Callable[[MixtureOfExperts, Path], None]
) -> None:
    save(gap_model, tmp_path / "model")
    assert daskmoe.open_model(tmp_path / "model").weight == gap_model.weight == 600.0


def test_a_model_without_diagnostics_counts_by_its_weight(data: xr.Dataset) -> None:
    model = daskmoe.fit_local(data.isel(row=slice(0, 200)), "y", features="X", **FAST)
    bare = MixtureOfExperts(
        model.params, None, None, family="gaussian", rows=model.rows, options={}, weight=model.weight
    )
    joined = daskmoe.aggregate([model, bare], data, random_state=0)
    assert joined.diagnostics is not None
    assert joined.diagnostics["weight"].values.tolist() == [200.0, 200.0]


def test_a_model_of_before_opens_tells_and_joins(gap_model: MixtureOfExperts, tmp_path: Path) -> None:
    found = daskmoe.open_model(as_saved_before(gap_model, tmp_path / "model.zarr"))
    assert found.weight == gap_model.weight
    assert found.summary() == gap_model.summary()
    assert left_out(found) == left_out(gap_model) != {}


def test_the_last_fit_of_a_model_of_before_is_its_refinement(
    data: xr.Dataset, gap_model: MixtureOfExperts, tmp_path: Path
) -> None:
    refined = daskmoe.refine(gap_model, data.isel(row=slice(0, 700)), rounds=1)
    assert daskmoe.open_model(as_saved_before(refined, tmp_path / "model.zarr")).weight == 700.0


@pytest.mark.parametrize("diagnostics", [None, xr.Dataset({"objective": ("iteration", [1.0])})])
def test_nothing_is_known_where_nothing_is_said(diagnostics: xr.Dataset | None) -> None:
    assert outcomes_of(diagnostics) == []


def test_the_texts_of_before_are_outcomes() -> None:
    status = np.array(["ok", "not converged", "left out: no rows"])
    expected = [Outcome.FITTED, Outcome.NOT_CONVERGED, Outcome.LEFT_OUT]
    assert outcomes_of(xr.Dataset({"status": ("partition", status)})) == expected


def test_rivals_are_other_starts_by_the_best_that_came_of_each() -> None:
    names = ["one-shot", "pilot", "least squares", "one-shot 2", "EM step 2", "one-shot 3"]
    scores = [-1.0, -1.5, -9.0, -1.3, -1.25, -1.1]
    found = xr.Dataset({"candidate_objective": ("candidate", scores)}, {"candidate": names})
    np.testing.assert_allclose(distances_of_rivals(found), [0.1, 0.25])
    assert distances_of_rivals(found.isel(candidate=slice(0, 3))) == []
    assert distances_of_rivals(xr.Dataset()) == []

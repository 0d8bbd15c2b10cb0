"""`update`: a model and new rows come to what a fit to all would be, and old rows are not asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

import daskmoe
from daskmoe import DataWarning, InvalidDataError, InvalidOptionError, MixtureOfExperts

OPTIONS: dict[str, Any] = {"n_experts": 2, "n_init": 3, "random_state": 0}
ROWS, BEFORE = 10_000, 9_000


@pytest.fixture(scope="module")
def data() -> xr.Dataset:
    drawn, _ = daskmoe.simulate(ROWS, n_features=3, n_experts=2, design="overlap", random_state=3)
    return drawn


@pytest.fixture(scope="module")
def model(data: xr.Dataset) -> MixtureOfExperts:
    return daskmoe.fit(before(data), "y", partitions=9, **OPTIONS)


@pytest.fixture(scope="module")
def updated(model: MixtureOfExperts, data: xr.Dataset) -> MixtureOfExperts:
    return daskmoe.update(model, after(data))


def before(data: xr.Dataset) -> xr.Dataset:
    return data.isel(row=slice(None, BEFORE))


def after(data: xr.Dataset) -> xr.Dataset:
    return data.isel(row=slice(BEFORE, None))


def short_of(model: MixtureOfExperts, best: MixtureOfExperts, data: xr.Dataset) -> float:
    """Nats a row that a model is below another."""
    return float(best.log_likelihood(data) - model.log_likelihood(data)) / data.sizes["row"]


def of_counts(rng: np.random.Generator, n: int) -> xr.Dataset:
    x, z = rng.normal(size=(2, n))
    on = rng.random(n) < 1.0 / (1.0 + np.exp(-2.0 * z))
    mean = np.exp(np.where(on, 2.0 + 0.4 * x, 0.3 - 0.3 * x))
    return xr.Dataset({"x": ("row", x), "z": ("row", z), "y": ("row", rng.poisson(mean).astype(float))})


def of_labels(rng: np.random.Generator, n: int) -> xr.Dataset:
    x, z = rng.normal(size=(2, n))
    slope = np.where(rng.random(n) < 1.0 / (1.0 + np.exp(-2.0 * z)), 2.5, -2.5)
    on = rng.random(n) < 1.0 / (1.0 + np.exp(-slope * x))
    return xr.Dataset({"x": ("row", x), "z": ("row", z), "y": ("row", np.where(on, "yes", "no"))})


def of_heavy_tails(rng: np.random.Generator, n: int) -> xr.Dataset:
    x, z = rng.normal(size=(2, n))
    mean = np.where(rng.random(n) < 1.0 / (1.0 + np.exp(-2.0 * z)), 4.0 + x, -4.0 - x)
    return xr.Dataset({"x": ("row", x), "z": ("row", z), "y": ("row", mean + rng.standard_t(4, size=n))})


@pytest.mark.parametrize(
    ("draw", "options"),
    [
        (of_counts, {"family": "poisson", "gate_features": ["z"], "features": ["x"]}),
        (of_labels, {"family": "categorical", "features": ["x", "z"]}),
        (of_heavy_tails, {"family": "student_t", "gate_features": [], "features": ["x"]}),
    ],
)
def test_an_update_is_nearly_the_fit_to_all(draw: Any, options: dict[str, Any]) -> None:
    rows = draw(np.random.default_rng(0), 6_000)
    old = rows.isel(row=slice(None, 5_000))
    model = daskmoe.fit(old, "y", partitions=5, **OPTIONS, **options)
    updated = daskmoe.update(model, rows.isel(row=slice(5_000, None)))
    best = daskmoe.refine(updated, rows, rounds="converged")
    assert short_of(updated, best, rows) < min(1e-4, short_of(model, best, rows))
    assert updated.weight == 6_000.0
    assert updated.diagnostics is not None
    assert updated.diagnostics["update_rows"].values.tolist() == [1_000]


def test_updates_in_a_row_do_not_lose_the_way(data: xr.Dataset) -> None:
    model = daskmoe.fit(data.isel(row=slice(None, 5_000)), "y", partitions=5, **OPTIONS)
    for start in range(5_000, ROWS, 1_000):
        model = daskmoe.update(model, data.isel(row=slice(start, start + 1_000)))
    best = daskmoe.refine(model, data, rounds="converged")
    assert short_of(model, best, data) < 1e-4
    assert model.diagnostics is not None
    assert model.diagnostics.sizes["update"] == 5
    # Where nothing changed, the distance of the new rows' optimum is what chance lets expect.
    assert 0.5 < float(model.diagnostics["update_drift"].mean()) < 2.0
    assert "5 updates" in str(model.summary())


def test_partitions_of_the_new_rows_change_little(model: MixtureOfExperts, data: xr.Dataset) -> None:
    one, several = (daskmoe.update(model, after(data), partitions=count) for count in (1, 4))
    assert abs(short_of(one, several, data)) < 1e-5


def test_errors_are_those_of_all_rows(updated: MixtureOfExperts, data: xr.Dataset) -> None:
    exact = daskmoe.refine(updated, data, rounds="converged").standard_errors()
    assert updated.standard_errors().attrs["kind"] == "approximate"
    np.testing.assert_allclose(updated.standard_errors()["coef"], exact["coef"], rtol=0.05)


@pytest.mark.parametrize("name", ["model.zarr", "model.nc"])
def test_what_is_remembered_is_saved(
    model: MixtureOfExperts, updated: MixtureOfExperts, data: xr.Dataset, tmp_path: Path, name: str
) -> None:
    save = model.to_zarr if name.endswith("zarr") else model.to_netcdf
    save(tmp_path / name)
    again = daskmoe.update(tmp_path / name, after(data))
    xr.testing.assert_allclose(again.params, updated.params, rtol=1e-12)
    save(tmp_path / name, overwrite=True, keep_information=False)
    assert daskmoe.open_model(tmp_path / name).information is None


def test_experts_are_by_share_and_keep_their_names(
    model: MixtureOfExperts, updated: MixtureOfExperts, data: xr.Dataset
) -> None:
    turned = daskmoe.update(model.permute([1, 0]).rename_experts(["b", "a"]), after(data))
    assert turned.params["expert"].values.tolist() == ["a", "b"]
    back = turned.match(updated)
    for name in ("coef", "gate_coef", "variance"):
        np.testing.assert_allclose(back.params[name], updated.params[name], rtol=1e-8)


def test_the_information_is_that_of_the_rows(model: MixtureOfExperts, data: xr.Dataset) -> None:
    at_maximum = daskmoe.refine(model, before(data), rounds="converged")
    found = at_maximum.information
    assert found is not None
    # At the maximum its inverse is the model-based covariance, but for the priors and the coordinates.
    covariance = np.linalg.inv(found["information"].values)
    place = found["variable"].values.tolist().index("log variance")
    variance = float(at_maximum.params["variance"][0])
    error = float(at_maximum.standard_errors()["variance"][0])
    assert np.sqrt(covariance[place, place]) * variance == pytest.approx(error, rel=0.01)
    # And what is left of the gradient is that of the priors.
    assert float(abs(found["gradient"]).max()) < 5.0


def test_forgetting_discounts_the_past(model: MixtureOfExperts, data: xr.Dataset) -> None:
    half = daskmoe.update(model, after(data), forget=0.5)
    assert half.weight == BEFORE / 2 + ROWS - BEFORE
    weights = np.where(np.arange(ROWS) < BEFORE, 0.5, 1.0)
    weighed = data.assign(w=("row", weights))
    best = daskmoe.fit(weighed, "y", sample_weight="w", partitions=1, **OPTIONS).match(half)
    np.testing.assert_allclose(half.params["coef"], best.params["coef"], atol=0.02)


def test_drift_is_told_and_followed(model: MixtureOfExperts, data: xr.Dataset) -> None:
    changed = after(data).assign(y=after(data)["y"] + 2.0 * after(data)["X"].isel(feature=0))
    with pytest.warns(DataWarning, match="own optimum is far from it: .* times as far as chance"):
        found = daskmoe.update(model, changed, forget=0.99)
    assert found.diagnostics is not None
    assert float(found.diagnostics["update_drift"][0]) > 10.0
    assert float(found.log_likelihood(changed)) > float(model.log_likelihood(changed))


def test_levels_that_the_old_rows_lack_are_learnt_of_the_new(data: xr.Dataset) -> None:
    rng = np.random.default_rng(0)
    where = np.where(
        np.arange(ROWS) < BEFORE, rng.choice(["a", "b"], ROWS), rng.choice(["a", "b", "c"], ROWS)
    )
    shifted = data.assign(site=("row", where), y=data["y"] + 5.0 * (where == "c"))
    options = {"categories": {"site": ["a", "b", "c"]}, "features": ["X", "site"]}
    model = daskmoe.fit(before(shifted), "y", partitions=9, **OPTIONS, **options)
    found = daskmoe.update(model, after(shifted))
    effect = found.params["coef"].sel(feature="site_c")
    np.testing.assert_allclose(effect, 5.0, atol=1.0)
    unknown = after(shifted).assign(site=("row", np.full(ROWS - BEFORE, "d")))
    with pytest.raises((InvalidDataError, daskmoe.PartitionError), match="'d'"):
        daskmoe.update(model, unknown)


def test_what_cannot_be_updated_is_said(model: MixtureOfExperts, data: xr.Dataset, tmp_path: Path) -> None:
    reduced = daskmoe.fit(before(data), "y", **OPTIONS, partitions=4, aggregation="reduction")
    with pytest.raises(InvalidDataError, match=r"keeps the information .* daskmoe.refine\(model, data"):
        daskmoe.update(reduced, after(data))
    mended = daskmoe.update(daskmoe.refine(reduced, before(data), rounds="converged"), after(data))
    assert mended.weight == ROWS
    with pytest.raises(InvalidOptionError, match=r"forget: expected a share from 0 to less than 1, got 1\.0"):
        daskmoe.update(model, after(data), forget=1.0)
    with pytest.raises(InvalidDataError, match="x2"):
        daskmoe.update(model, after(data).isel(feature=[0, 1]))


def test_sites_that_never_meet(model: MixtureOfExperts, data: xr.Dataset, tmp_path: Path) -> None:
    order = np.argsort(data["X"].isel(feature=0).values)
    paths = [tmp_path / f"{site}.nc" for site in range(4)]
    for site, rows in enumerate(np.array_split(order, 4)):
        turned = model.permute([site % 2, 1 - site % 2])
        daskmoe.refine(turned, data.isel(row=rows), rounds="converged").to_netcdf(paths[site])
    joined = daskmoe.aggregate(paths, data.isel(row=slice(None, 500)), method="auto", random_state=0)
    best = daskmoe.refine(joined, data, rounds="converged")
    assert joined.options["aggregation"] == "auto"
    assert joined.diagnostics is not None
    assert joined.diagnostics.attrs["aggregation"] == "information"
    assert short_of(joined, best, data) < 0.002
    # It keeps the sum, so that it can be updated.
    assert joined.information is not None
    assert daskmoe.update(joined, after(data)).weight == 2 * ROWS - BEFORE


def test_models_without_information_are_reduced(
    model: MixtureOfExperts, data: xr.Dataset, caplog: pytest.LogCaptureFixture
) -> None:
    reduced = daskmoe.fit(after(data), "y", **OPTIONS, partitions=2, aggregation="reduction")
    joined = daskmoe.aggregate(
        [model, reduced], data.isel(row=slice(None, 500)), method="auto", random_state=0
    )
    assert joined.diagnostics is not None
    assert joined.diagnostics.attrs["aggregation"] == "reduction"
    assert "models[1] keeps no information" in caplog.text


def test_fits_to_one_partition_keep_their_information(model: MixtureOfExperts, data: xr.Dataset) -> None:
    """So that they are updated, and joined, as others are."""
    local = daskmoe.fit_local(before(data), "y", **OPTIONS)
    one = daskmoe.fit(before(data), "y", **OPTIONS, partitions=1)
    for found in (local, one):
        exact = daskmoe.refine(found, before(data), rounds="converged")
        assert found.information is not None
        assert exact.information is not None
        errors, expected = found.standard_errors("approximate"), exact.standard_errors("model")
        for name in ("gate_coef", "coef", "variance"):
            np.testing.assert_allclose(errors[name], expected[name], rtol=1e-3)
        updated = daskmoe.update(found, after(data))
        best = daskmoe.refine(updated, data, rounds="converged")
        assert short_of(updated, best, data) < 1e-4
    new = daskmoe.fit_local(after(data), "y", **OPTIONS)
    joined = daskmoe.aggregate([local, new], data.isel(row=slice(None, 500)), method="auto", random_state=0)
    assert joined.diagnostics is not None
    assert joined.diagnostics.attrs["aggregation"] == "information"
    assert short_of(joined, best, data) < 5e-4

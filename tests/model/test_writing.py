"""Results of a model can be written as they are, to both formats, whatever the data came from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

import daskmoe
from daskmoe import MixtureOfExperts
from daskmoe.errors import InvalidDataError, InvalidOptionError

pytestmark = pytest.mark.filterwarnings("ignore:Consolidated metadata", "ignore:The data type")

METHODS: dict[str, Callable[..., Any]] = {
    "predict": lambda m, data, **how: m.predict(data, **how).to_dataset(),
    "predict_interval": lambda m, data, **how: m.predict_interval(data, **how),
    "sample": lambda m, data, **how: m.sample(data, 0, **how).to_dataset(),
    "gating_probabilities": lambda m, data, **how: m.gating_probabilities(data, **how).to_dataset(),
    "responsibilities": lambda m, data, **how: m.responsibilities(data, **how).to_dataset(),
    "log_density": lambda m, data, **how: m.log_density(data, **how).to_dataset(),
}


@pytest.fixture(scope="module")
def grid() -> xr.Dataset:
    """Every kind of coordinate: times, numbers, text, two dimensions, a scalar."""
    rng = np.random.default_rng(0)
    dims, x = ("time", "lat", "lon"), rng.normal(size=(6, 10, 10))
    return xr.Dataset(
        {"x": (dims, x), "y": (dims, 2 * x + rng.normal(size=x.shape), {"units": "K"})},
        {
            "time": np.arange("2001-01-01", "2001-01-07", dtype="datetime64[D]").astype("datetime64[ns]"),
            "lat": np.arange(10.0),
            "lon": np.arange(10.0),
            "name": ("lat", list("abcdefghij")),
            "land": (("lat", "lon"), np.ones((10, 10))),
            "height": ((), 2.0),
        },
    )


@pytest.fixture(scope="module")
def model(grid: xr.Dataset) -> MixtureOfExperts:
    return daskmoe.fit_local(grid, "y", n_experts=2, random_state=0, n_init=1, effort=0.1)


@pytest.fixture(scope="module", params=["2", "3", "sharded", "packed"])
def stored(request: pytest.FixtureRequest, grid: xr.Dataset, tmp_path_factory: Any) -> str:
    path = str(tmp_path_factory.mktemp("stores") / "grid.zarr")
    if request.param == "sharded":
        encoding: dict[str, Any] = {v: {"chunks": (1, 5, 5), "shards": (2, 10, 10)} for v in "xy"}
        encoding["land"] = {"chunks": (5, 5), "shards": (10, 10)}
        grid.chunk(time=2).to_zarr(path, zarr_format=3, encoding=encoding)
    elif request.param == "packed":
        packed = {"dtype": "i2", "scale_factor": 0.5, "_FillValue": -9}
        grid.chunk(time=2).to_zarr(path, zarr_format=2, encoding={"lat": packed, "y": packed})
    else:
        grid.chunk(time=2, lat=5).to_zarr(path, zarr_format=int(request.param))
    return path


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("way", ["path", "dataset", "sliced", "ragged"])
def test_results_are_written(
    model: MixtureOfExperts, stored: str, way: str, zarr_format: int, tmp_path: Path
) -> None:
    opened = xr.open_zarr(stored)
    data = {
        "path": stored,
        "dataset": opened,
        "sliced": opened.isel(time=slice(1, None), lat=slice(3, None)),
        "ragged": opened.chunk(time=(2, 1, 3), lat=(3, 4, 3)),
    }[way]
    for name in ("predict", "predict_interval", "gating_probabilities"):
        result = METHODS[name](model, data)
        path = tmp_path / f"{name}.zarr"
        result.to_zarr(path, zarr_format=zarr_format)
        xr.testing.assert_equal(xr.open_zarr(path).compute(), result.compute())


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("name", ["sample", "responsibilities", "log_density"])
def test_others_are_written_too(
    model: MixtureOfExperts, stored: str, name: str, zarr_format: int, tmp_path: Path
) -> None:
    sliced = xr.open_zarr(stored).isel(time=slice(1, None))
    METHODS[name](model, sliced).to_zarr(tmp_path / "out.zarr", zarr_format=zarr_format)
    assert set(xr.open_zarr(tmp_path / "out.zarr").coords) >= {"time", "lat", "lon", "name", "land", "height"}


def test_data_keep_their_encodings_and_results_their_indexes(model: MixtureOfExperts, stored: str) -> None:
    data = xr.open_zarr(stored)
    before = {name: dict(v.encoding) for name, v in data.variables.items()}
    result = model.predict(data)
    assert {name: dict(v.encoding) for name, v in data.variables.items()} == before
    assert result.sel(lat=3.0, time="2001-01-02").sizes == {"lon": 10}
    assert result["time"].encoding["units"].startswith("days since 2001")


@pytest.mark.parametrize("name", METHODS)
def test_single_precision_by_choice(model: MixtureOfExperts, grid: xr.Dataset, name: str) -> None:
    single = grid.astype("float32")
    for data in (single, single.chunk(time=2)):
        double = METHODS[name](model, data)
        assert {v.dtype for v in double.values()} == {np.dtype("float64")}
        found = METHODS[name](model, data, dtype="float32")
        assert {v.dtype for v in found.values()} == {np.dtype("float32")}
        assert {v.dtype for v in found.compute().values()} == {np.dtype("float32")}
        xr.testing.assert_allclose(found.astype("float64"), double, rtol=1e-5)
    with pytest.raises(
        InvalidOptionError, match=r"dtype: expected one of \['float64', 'float32'\], got 'i4'"
    ):
        METHODS[name](model, grid, dtype="i4")


def test_predictions_within_the_range_of_the_target(model: MixtureOfExperts, grid: xr.Dataset) -> None:
    far = grid.assign(x=grid["x"] * 100)
    for data in (far, far.chunk(time=2)):
        clipped = model.predict(data, clip=True)
        assert float(clipped.min()) == float(grid["y"].min())
        assert float(clipped.max()) == float(grid["y"].max())
        xr.testing.assert_equal(
            clipped, model.predict(data).clip(float(grid["y"].min()), float(grid["y"].max()))
        )
    assert float(model.predict(far).max()) > 100
    refined = daskmoe.refine(model, grid, rounds="converged")
    assert float(refined.predict(far, clip=True).max()) == float(grid["y"].max())
    given = MixtureOfExperts.from_parameters(model.parameters, family="gaussian", rows=model.rows)
    with pytest.raises(InvalidDataError, match="clip: expected a model that knows the range of its target"):
        given.predict(far, clip=True)


def test_how_far_rows_are(grid: xr.Dataset) -> None:
    rng = np.random.default_rng(1)
    features = rng.normal(size=(500, 3)) @ rng.normal(size=(3, 3)) + 5.0
    ds = xr.Dataset({"x": (("row", "feature"), features), "one": ("row", np.full(500, 0.1))})
    ds["sum"] = ds["x"].sum("feature")
    ds["y"] = ds["x"][:, 0] + rng.normal(size=500)
    model = daskmoe.fit_local(ds, "y", n_experts=1, random_state=0)
    found = model.extrapolation(ds)
    away = features - features.mean(axis=0)
    inverse = np.linalg.inv(np.cov(features.T, bias=True))
    np.testing.assert_allclose(found, np.sqrt(np.einsum("ni,ij,nj->n", away, inverse, away)), rtol=1e-6)
    assert found.attrs["root_mean_square"] == pytest.approx(float(np.sqrt((found**2).mean())))
    single = ds.drop_vars("y").astype("float32").chunk(row=100)
    lazy = model.extrapolation(single)
    assert lazy.chunks == ((100,) * 5,)
    np.testing.assert_allclose(lazy, found, rtol=1e-3)
    assert np.isinf(model.extrapolation(ds.assign(one=ds["one"] + 1))).all()
    assert np.isinf(model.extrapolation(ds.assign(sum=ds["sum"] + 1))).all()
    given = MixtureOfExperts.from_parameters(model.parameters, family="gaussian", rows=model.rows)
    with pytest.raises(InvalidDataError, match="extrapolation: expected a model that knows the moments"):
        given.extrapolation(ds)

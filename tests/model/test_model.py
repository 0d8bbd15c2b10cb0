"""The model: labels, laziness, every data layout, wrong input, and what comes back from disk.

The oracle for every prediction is the numerics on the stacked rows of the data in memory.
"""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pytest
import xarray as xr
import zarr
from distributed import Client
from hypothesis import example, given
from hypothesis import strategies as st
from numerics.oracles import GAUSSIAN, gaussian_model
from scipy.stats import norm

from daskmoe import errors
from daskmoe.errors import InvalidDataError, InvalidOptionError, OutputExistsError, SchemaError, StoreError
from daskmoe.model import MixtureOfExperts, open_model
from daskmoe.model.labels import label_local_estimates
from daskmoe.model.store import save_zarr
from daskmoe.numerics.base.parameters import MoEParameters
from daskmoe.numerics.predictive import mixture
from daskmoe.numerics.predictive.quantiles import mixture_quantiles
from daskmoe.rows import RowSchema, describe_rows

Guard = Callable[..., AbstractContextManager[None]]


def random_parameters(n_experts: int, n_features: int, seed: int = 0) -> MoEParameters:
    rng = np.random.default_rng(seed)
    gate, coef = rng.normal(size=(2, n_experts, n_features + 1))
    gate[-1] = 0
    return gaussian_model(gate, coef, rng.uniform(0.5, 2, size=n_experts))


def flat_data() -> xr.Dataset:
    """One 2-D feature variable, text labels on both dimensions."""
    rng = np.random.default_rng(1)
    return xr.Dataset(
        {
            "X": (("time", "feature"), rng.normal(size=(50, 3)), {"units": "m", "long_name": "features"}),
            "y": ("time", rng.normal(size=50), {"units": "K", "long_name": "temperature", "comment": "no"}),
        },
        {
            "time": np.arange(50) * 10,
            "feature": ["a", "b", "c"],
            "station": ("time", np.array([f"s{i % 3}" for i in range(50)])),
            "run": 7,
        },
    )


def gridded_data() -> xr.Dataset:
    """(time, lat, lon) features of several dtypes, covariates that broadcast, one of them transposed."""
    rng = np.random.default_rng(2)
    shape = (6, 4, 5)
    return xr.Dataset(
        {
            "wind": (("lat", "time", "lon"), rng.normal(size=(4, 6, 5)).astype(np.float32)),
            "land": (("lat", "lon"), rng.random((4, 5)) > 0.5),
            "season": ("time", np.arange(6)),
            "bands": (("lon", "band", "lat"), rng.normal(size=(5, 2, 4))),
            "t": (("time", "lat", "lon"), rng.normal(size=shape), {"units": "K"}),
        },
        {
            "time": np.arange(6).astype("datetime64[D]").astype("datetime64[ns]"),
            "lat": [1.0, 2, 3, 4],
            "lon": np.arange(5.0),
            "band": [10, 20],
            "area": (("lat", "lon"), np.ones((4, 5))),
        },
    )


LAYOUTS = {"flat": (flat_data, "y"), "gridded": (gridded_data, "t")}


def make_model(data: xr.Dataset, target: str, n_experts: int = 3, **options: Any) -> MixtureOfExperts:
    rows = describe_rows(data, target)
    parameters = random_parameters(n_experts, len(rows.feature_labels))
    return MixtureOfExperts.from_parameters(parameters, family="gaussian", rows=rows, **options)


def stacked(data: xr.Dataset, rows: RowSchema) -> np.ndarray:
    """Features (n, p) by xarray's own broadcasting and stacking."""
    columns = []
    template = data[rows.target].astype(float)
    for variable in rows.variables:
        values = data[variable.name].astype(float)
        parts = (
            [values] if variable.feature_dim is None else list(values.transpose(variable.feature_dim, ...))
        )
        for part in parts:
            full = part.reset_coords(drop=True).broadcast_like(template).transpose(*rows.sample_dims)
            columns.append(full.values.ravel())
    return np.stack(columns, axis=1)


@pytest.fixture(params=LAYOUTS)
def layout(request: pytest.FixtureRequest) -> tuple[xr.Dataset, MixtureOfExperts]:
    make, target = LAYOUTS[request.param]
    data = make()
    return data, make_model(data, target)


def chunked(data: xr.Dataset, target: str) -> xr.Dataset:
    """Features and target each on a grid of their own, feature dimensions in several chunks."""
    grids = [2, 3, 4]
    return data.assign(
        {
            name: values.chunk({dim: grids[(i + j) % 3] for j, dim in enumerate(values.dims)})
            for i, (name, values) in enumerate(data.items())
        }
    )


METHODS: dict[str, Callable[[MixtureOfExperts, Any], Any]] = {
    "predict": lambda model, data: model.predict(data),
    "gating_probabilities": lambda model, data: model.gating_probabilities(data),
    "responsibilities": lambda model, data: model.responsibilities(data),
    "log_density": lambda model, data: model.log_density(data),
    "predict_interval": lambda model, data: model.predict_interval(data, 0.8),
    "quantile": lambda model, data: model.quantile(data, 0.2),
    "quantiles": lambda model, data: model.quantile(data, [0.2, 0.7]),
    "cdf": lambda model, data: model.cdf(data),
    "cdf of values": lambda model, data: model.cdf(data, [0.0, 1.0]),
    "sample": lambda model, data: model.sample(data, 1),
}


def test_values_are_those_of_the_numerics(layout: tuple[xr.Dataset, MixtureOfExperts]) -> None:
    data, model = layout
    features, response = stacked(data, model.rows), data[model.target].values
    flat = response.ravel()
    shape, parameters = response.shape, model.parameters
    np.testing.assert_allclose(
        model.predict(data), mixture.mixture_mean(parameters, GAUSSIAN, features).reshape(shape), rtol=1e-12
    )
    np.testing.assert_allclose(
        model.gating_probabilities(data),
        np.exp(mixture.log_gating(parameters, features)).reshape(3, *shape),
        rtol=1e-12,
    )
    np.testing.assert_allclose(
        model.responsibilities(data),
        mixture.responsibilities(parameters, GAUSSIAN, features, flat).reshape(3, *shape),
        rtol=1e-12,
    )
    expected = mixture.log_density(parameters, GAUSSIAN, features, flat)
    np.testing.assert_allclose(model.log_density(data), expected.reshape(shape), rtol=1e-12)
    assert model.log_likelihood(data) == pytest.approx(expected.sum(), rel=1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_lazy_twin(
    layout: tuple[xr.Dataset, MixtureOfExperts], method: str, raise_if_dask_computes: Guard
) -> None:
    data, model = layout
    lazy = chunked(data, model.target)
    with raise_if_dask_computes():
        result = METHODS[method](model, lazy)
    for name, chunks in lazy[model.target].chunksizes.items():
        assert result.chunksizes[name] == chunks
    in_memory = METHODS[method](model, data)
    for found in [in_memory] if isinstance(in_memory, xr.DataArray) else in_memory.values():
        assert found.chunks is None
        assert isinstance(found.variable._data, np.ndarray)
    computed = result.compute(scheduler="synchronous")
    if method == "sample":
        xr.testing.assert_identical(computed.coords.to_dataset(), in_memory.coords.to_dataset())
    else:
        xr.testing.assert_allclose(computed, in_memory, rtol=1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_labels(layout: tuple[xr.Dataset, MixtureOfExperts], method: str) -> None:
    data, model = layout
    target = data[model.target]
    result = METHODS[method](model, data)
    if method in ("gating_probabilities", "responsibilities"):
        assert result.dims == ("expert", *target.dims)
        assert result["expert"].values.tolist() == [0, 1, 2]
        np.testing.assert_allclose(result.sum("expert"), 1.0)
        assert result.attrs["units"] == "1"
        result = result.isel(expert=0, drop=True)
    elif method == "predict_interval":
        assert set(result) == {"lower", "upper"}
        assert result.attrs == {"level": 0.8}
        result = result["lower"]
    elif method in ("quantiles", "cdf of values"):
        dim, labels = ("quantile", [0.2, 0.7]) if method == "quantiles" else ("value", [0.0, 1.0])
        assert result.dims == (dim, *target.dims)
        assert result[dim].values.tolist() == labels
        result = result.isel({dim: 0}, drop=True)
    if method in ("predict", "sample", "quantile", "quantiles"):
        assert result.name == model.target
    if method in ("predict", "sample", "predict_interval", "quantile", "quantiles"):
        assert result.attrs == {k: v for k, v in target.attrs.items() if k != "comment"}
    assert result.dims == target.dims
    xr.testing.assert_identical(result.coords.to_dataset(), target.coords.to_dataset())


@pytest.mark.parametrize(
    "method", ["predict", "gating_probabilities", "predict_interval", "quantiles", "cdf of values", "sample"]
)
def test_target_is_not_needed(layout: tuple[xr.Dataset, MixtureOfExperts], method: str) -> None:
    data, model = layout
    xr.testing.assert_identical(
        METHODS[method](model, data.drop_vars(model.target)), METHODS[method](model, data)
    )


def test_different_chunks_without_the_target_are_unified(raise_if_dask_computes: Guard) -> None:
    data = gridded_data()
    model = make_model(data, "t")
    lazy = data.drop_vars("t")
    lazy["wind"] = lazy["wind"].chunk(time=4)
    lazy["season"] = lazy["season"].chunk(time=3)
    with raise_if_dask_computes():
        result = model.predict(lazy)
    assert result.chunksizes == {"time": (3, 3), "lat": (4,), "lon": (5,)}
    xr.testing.assert_allclose(result.compute(), model.predict(data))


def test_features_that_miss_a_sample_dimension() -> None:
    data = gridded_data()[["land", "t"]]
    model = make_model(data, "t")
    result = model.predict(data)
    assert result.dims == ("time", "lat", "lon")
    assert result.std("time").max() == 0
    lazy = model.predict(data.chunk(time=2, lat=3))
    assert lazy.chunksizes == {"time": (2, 2, 2), "lat": (3, 1), "lon": (5,)}
    xr.testing.assert_identical(lazy.compute(), result)


def test_coordinates_as_features(raise_if_dask_computes: Guard) -> None:
    data = gridded_data()
    rows = describe_rows(data, "t", ["lat", "area", "wind"])
    model = MixtureOfExperts.from_parameters(random_parameters(2, 3), family="gaussian", rows=rows)
    expected = mixture.mixture_mean(model.parameters, GAUSSIAN, stacked(data, rows))
    np.testing.assert_allclose(model.predict(data).values.ravel(), expected)
    with raise_if_dask_computes():
        lazy = model.predict(data.chunk(time=2, lat=3))
    assert lazy.chunksizes == {"time": (2, 2, 2), "lat": (3, 1), "lon": (5,)}
    xr.testing.assert_allclose(lazy.compute(), model.predict(data))


def test_completion_offers_what_users_want(layout: tuple[xr.Dataset, MixtureOfExperts]) -> None:
    offered = set(dir(layout[1]))
    assert {"predict", "params", "table", "to_zarr", "rows"} <= offered
    assert not offered & {"from_parameters", "memory", "mixture", "parameters", "densities"}


def test_no_rows() -> None:
    data = flat_data().isel(time=slice(0))
    model = make_model(flat_data(), "y")
    for method in METHODS.values():
        assert method(model, data).sizes["time"] == 0
    for total in (model.log_likelihood, model.score):
        with pytest.raises(InvalidDataError, match="at least one row"):
            total(data)


def test_one_time_step_of_a_grid() -> None:
    data = gridded_data()
    model = make_model(data, "t")
    xr.testing.assert_allclose(model.predict(data.isel(time=2)), model.predict(data).isel(time=2))
    everywhere = model.predict(data)
    xr.testing.assert_allclose(
        model.predict(data.isel(time=2, lat=1, lon=0)), everywhere.isel(time=2, lat=1, lon=0)
    )


def test_features_are_matched_by_label() -> None:
    data = flat_data()
    model = make_model(data, "y")
    xr.testing.assert_identical(model.predict(data.isel(feature=[2, 0, 1])), model.predict(data))
    lazy = data.isel(feature=[2, 0, 1]).chunk(feature=1, time=20)
    xr.testing.assert_identical(model.predict(lazy).compute(), model.predict(data))


def test_wrong_data_are_refused() -> None:
    data = flat_data()
    model = make_model(data, "y")
    with pytest.raises(InvalidDataError, match="'c'"):
        model.predict(data.isel(feature=[0, 1]))
    with pytest.raises(InvalidDataError, match="'X'"):
        model.predict(data.drop_vars("X"))
    with pytest.raises(InvalidDataError, match="'y'"):
        model.responsibilities(data.drop_vars("y"))
    with pytest.raises(InvalidDataError, match=r"got numpy.ndarray; label it: xr.Dataset"):
        model.predict(data["X"].values)  # type: ignore[arg-type]
    for level in (0, 1, -0.5, float("nan"), "a", None):
        with pytest.raises(InvalidOptionError, match="level"):
            model.predict_interval(data, level)  # type: ignore[arg-type]


def test_missing_values_give_nan_and_no_sum() -> None:
    data = flat_data()
    model = make_model(data, "y")
    whole = model.predict(data)
    data["X"][3, 1] = np.nan
    data["X"][4, 0] = np.inf
    data["y"][5] = np.nan
    result = model.predict(data)
    assert np.flatnonzero(result.isnull()).tolist() == [3, 4]
    np.testing.assert_array_equal(result[5:], whole[5:])
    assert np.flatnonzero(model.responsibilities(data).isnull().all("expert")).tolist() == [3, 4, 5]
    for holed in (data, data.chunk(time=7)):
        for total in (model.log_likelihood, model.score):
            with pytest.raises(InvalidDataError, match=r"3 of 50 rows .*\{'X': 2, 'y': 1\}"):
                total(holed)


def test_totals_of_the_complete_rows() -> None:
    data = flat_data()
    model = make_model(data, "y")
    complete = data.isel(time=[*range(3), *range(6, 50)])
    data["X"][3, 1] = np.nan
    data["X"][4, 0] = np.inf
    data["y"][5] = np.nan
    for holed in (data, data.chunk(time=7)):
        for name in ("log_likelihood", "score"):
            found = getattr(model, name)(holed, on_error="skip")
            assert found == pytest.approx(getattr(model, name)(complete), rel=1e-12)


# Dask divides nothing by nothing on the way to the error.
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning", "ignore:Degrees of freedom:RuntimeWarning")
def test_totals_need_a_complete_row() -> None:
    data = flat_data()
    model, empty = make_model(data, "y"), data * np.nan
    for lazy in (empty, empty.chunk(time=7)):
        with pytest.raises(InvalidDataError, match="50 of 50 rows"):
            model.score(lazy, on_error="skip")


@pytest.mark.slow
@pytest.mark.cluster
def test_worker_processes_give_the_same(client: Client) -> None:
    data = gridded_data()
    model = make_model(data, "t")
    lazy = chunked(data, "t")
    for method in METHODS.values():
        result = method(model, lazy)
        xr.testing.assert_identical(result.compute(), result.compute(scheduler="synchronous"))


def test_totals_compute_once(
    layout: tuple[xr.Dataset, MixtureOfExperts], raise_if_dask_computes: Guard
) -> None:
    data, model = layout
    lazy = chunked(data, model.target)
    with raise_if_dask_computes(max_computes=1):
        assert model.log_likelihood(lazy) == pytest.approx(model.log_likelihood(data), rel=1e-12)
    with raise_if_dask_computes(max_computes=1):
        assert model.score(lazy) == pytest.approx(model.score(data), rel=1e-12)


def test_score_is_r_squared() -> None:
    data = flat_data()
    model = make_model(data, "y")
    y, predicted = data["y"].values, model.predict(data).values
    expected = 1 - np.sum((y - predicted) ** 2) / np.sum((y - y.mean()) ** 2)
    assert model.score(data) == pytest.approx(expected, rel=1e-12)
    assert model.score(data.assign(y=model.predict(data))) == 1.0
    assert model.score(data.assign(y=data["y"] * 0 + 1)) == 0.0


def test_quantiles_solve_the_mixture_cdf() -> None:
    parameters = random_parameters(4, 2)
    features = np.random.default_rng(3).normal(scale=3, size=(200, 2))
    gates = np.exp(mixture.log_gating(parameters, features))
    means = mixture.linear_predictor(parameters.coef[:, 0], features)
    for probability in (1e-4, 0.3, 0.975):
        (found,) = mixture_quantiles(parameters, GAUSSIAN, features, [probability])
        scale = np.sqrt(parameters.nuisance)
        reached = np.sum(gates * norm.cdf(found, means, scale), axis=0)
        np.testing.assert_allclose(reached, probability, rtol=1e-9)


@given(
    seed=st.integers(0, 2**32 - 1),
    n_experts=st.integers(1, 5),
    spread=st.sampled_from([0.0, 1.0, 1e4]),
    scales=st.sampled_from([0.0, 3.0]),
    probability=st.floats(1e-6, 1 - 1e-6),
)
# The median is next to zero, the experts that do not count are at 1e4.
@example(seed=323, n_experts=3, spread=1e4, scales=0.0, probability=0.5)
def test_quantiles_of_any_mixture(
    seed: int, n_experts: int, spread: float, scales: float, probability: float
) -> None:
    rng = np.random.default_rng(seed)
    gate, coef = spread * rng.normal(size=(2, n_experts, 2))
    parameters = gaussian_model(gate, coef, 10.0 ** rng.uniform(-scales, scales, size=n_experts))
    features = rng.normal(size=(20, 1))
    (found,) = mixture_quantiles(parameters, GAUSSIAN, features, [probability])
    scale = np.sqrt(parameters.nuisance)
    near = 1e-10 * (np.abs(found) + scale.min())

    def reached(y: np.ndarray) -> np.ndarray:
        gates = np.exp(mixture.log_gating(parameters, features))
        below = norm.cdf(y, mixture.linear_predictor(coef, features), scale)
        return np.asarray(np.sum(gates * below, axis=0))

    assert (reached(found - near) <= probability + 1e-15).all()
    assert (reached(found + near) >= probability - 1e-15).all()


@pytest.mark.parametrize("name", ["lower", "upper", "bound"])
def test_interval_leaves_no_coordinate_out(name: str) -> None:
    data = flat_data()
    model = make_model(data, "y")
    with pytest.raises(InvalidDataError, match=f"no coordinate '{name}'"):
        model.predict_interval(data.assign_coords({name: ("time", np.arange(50))}))


def test_relative_paths_are_those_of_the_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = flat_data()
    model, expected = make_model(data, "y"), make_model(data, "y").predict(data).values
    data.chunk(time=20).to_zarr(tmp_path / "rows.zarr", zarr_format=2)
    monkeypatch.chdir(tmp_path)
    prediction = model.predict("rows.zarr")
    monkeypatch.chdir(tmp_path.parent)
    np.testing.assert_allclose(prediction.values, expected)


def test_interval_of_one_expert_is_normal() -> None:
    data = flat_data()
    model = make_model(data, "y", n_experts=1)
    interval = model.predict_interval(data, 0.9)
    half = norm.ppf(0.95) * np.sqrt(float(model.params["variance"][0]))
    np.testing.assert_allclose(interval["upper"] - model.predict(data), half)
    np.testing.assert_allclose(model.predict(data) - interval["lower"], half)


def test_draws_follow_the_model_and_the_seed() -> None:
    rng = np.random.default_rng(5)
    data = xr.Dataset(
        {"x": (("row", "f"), np.tile(rng.normal(size=2), (40_000, 1))), "y": ("row", np.zeros(40_000))}
    )
    model = make_model(data, "y")
    drawn = model.sample(data, 11)
    interval = model.predict_interval(data, 0.5)
    inside = ((drawn > interval["lower"]) & (drawn < interval["upper"])).mean()
    assert float(inside) == pytest.approx(0.5, abs=0.02)
    lazy = data.chunk(row=9_000)
    first = model.sample(lazy, 11)
    by_scheduler = [first.compute(scheduler=name).values for name in ("synchronous", "threads")]
    np.testing.assert_array_equal(by_scheduler[0], by_scheduler[1])
    assert len(np.unique(by_scheduler[0])) == 40_000
    assert not np.array_equal(model.sample(data, 12), drawn)
    np.testing.assert_array_equal(
        model.sample(data, np.random.default_rng(1)), model.sample(data, np.random.default_rng(1))
    )
    assert not np.array_equal(model.sample(data), model.sample(data))


def fitted_model() -> MixtureOfExperts:
    """A model with diagnostics of every dtype and local estimates with holes."""
    data = flat_data()
    rows = describe_rows(data, "y")
    local = label_local_estimates(
        [random_parameters(2, 3, 1), None, random_parameters(3, 3, 2)],
        ["Ö-1", "b", "long label"],
        rows,
        GAUSSIAN,
    )
    diagnostics = xr.Dataset(
        {
            "objective": ("iteration", [3.0, 2.0, 1.5]),
            "rows": ("partition", np.array([10, 0, 40])),
            "seconds": ("partition", [0.1, 0.2, np.nan], {"units": "s"}),
            "status": ("partition", np.array(["ok", "left out: no rows", "ok"])),
            "converged": ("partition", np.array([True, False, True])),
            "trace": ("round", np.empty(0)),
            "candidate_log_likelihood": ("candidate", [1.0, 2.0]),
        },
        {"partition": ["Ö-1", "b", "long label"], "candidate": ["reduction", "aligned"]},
        {"method": "reduction", "n": 3},
    )
    return make_model(
        data,
        "y",
        diagnostics=diagnostics,
        local=local,
        options={"seed": 2**63 + 1, "refine": 0, "name": None},
    )


def assert_same_model(found: MixtureOfExperts, expected: MixtureOfExperts) -> None:
    for part in ("params", "diagnostics", "local_estimates"):
        a, b = getattr(found, part), getattr(expected, part)
        assert (a is None) == (b is None)
        if b is not None:
            xr.testing.assert_identical(a, b)
            assert {n: v.dtype.kind for n, v in a.variables.items()} == {
                n: v.dtype.kind for n, v in b.variables.items()
            }
            assert set(a.xindexes) == set(b.xindexes)
    assert found.rows == expected.rows
    assert found.options == expected.options
    assert found.family == expected.family


FORMATS = {"zarr": MixtureOfExperts.to_zarr, "netcdf": MixtureOfExperts.to_netcdf}


@pytest.fixture(params=FORMATS)
def save(request: pytest.FixtureRequest) -> Callable[[MixtureOfExperts, Path], None]:
    return FORMATS[request.param]


def test_round_trip(save: Callable[[MixtureOfExperts, Path], None], tmp_path: Path) -> None:
    model = fitted_model()
    save(model, tmp_path / "new" / "model")
    found = open_model(tmp_path / "new" / "model")
    assert_same_model(found, model)
    xr.testing.assert_identical(found.predict(flat_data()), model.predict(flat_data()))
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["model"]


def test_round_trip_of_parameters_alone(
    save: Callable[[MixtureOfExperts, Path], None], tmp_path: Path
) -> None:
    model = make_model(gridded_data(), "t", n_experts=1)
    save(model, tmp_path / "model")
    assert_same_model(open_model(str(tmp_path / "model")), model)


def test_all_attributes_of_a_saved_model_are_texts(tmp_path: Path) -> None:
    model = fitted_model()
    assert "created" not in model.to_dataset().attrs
    model.to_zarr(tmp_path / "model")
    attrs = xr.load_dataset(tmp_path / "model", engine="zarr", consolidated=False, decode_times=False).attrs
    assert all(isinstance(value, str) for value in attrs.values())
    assert {"created", "daskmoe_version", "daskmoe_schema", "family", "rows", "options"} <= set(attrs)
    assert json.loads(attrs["options"])["seed"] == 2**63 + 1


def test_netcdf_holds_large_integers(tmp_path: Path) -> None:
    diagnostics = xr.Dataset({"data_bytes": ("partition", np.array([1, 2**40]))})
    make_model(flat_data(), "y", diagnostics=diagnostics).to_netcdf(tmp_path / "model.nc")
    found = open_model(tmp_path / "model.nc").diagnostics
    assert found is not None
    assert found["data_bytes"].values.tolist() == [1, 2**40]


def test_netcdf4_copy_of_a_model_opens(tmp_path: Path) -> None:
    pytest.importorskip("netCDF4")
    model = fitted_model()
    model.to_dataset().to_netcdf(tmp_path / "model.nc", engine="netcdf4")
    assert_same_model(open_model(tmp_path / "model.nc"), model)


def test_xarray_opens_what_was_saved_without_a_warning(tmp_path: Path) -> None:
    model = fitted_model()
    model.to_zarr(tmp_path / "model.zarr")
    save_zarr(model.predict(flat_data()).to_dataset(), tmp_path / "predictions.zarr")
    for name in ("model.zarr", "predictions.zarr"):
        with xr.open_zarr(tmp_path / name) as found:
            assert found.sizes
    model.to_zarr("memory://consolidated.zarr")
    with xr.open_zarr("memory://consolidated.zarr") as found:
        assert found.sizes
    assert_same_model(open_model("memory://consolidated.zarr"), model)


def test_nothing_is_overwritten(save: Callable[[MixtureOfExperts, Path], None], tmp_path: Path) -> None:
    path = tmp_path / "model"
    path.write_text("precious")
    with pytest.raises(OutputExistsError, match="model"):
        save(fitted_model(), path)
    assert path.read_text() == "precious"


def test_a_failed_save_leaves_nothing(
    save: Callable[[MixtureOfExperts, Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: xr.Dataset, path: Path, **kwargs: Any) -> None:
        path.write_text("half")
        raise OSError("disk full")

    monkeypatch.setattr(xr.Dataset, "to_zarr", fail)
    monkeypatch.setattr(xr.Dataset, "to_netcdf", fail)
    with pytest.raises(OSError, match="disk full"):
        save(fitted_model(), tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="does not exist"):
        open_model(tmp_path / "nothing")
    (tmp_path / "folder").mkdir()
    (tmp_path / "text").write_text("no model")
    for name in ("folder", "text"):
        with pytest.raises(StoreError, match=name):
            open_model(tmp_path / name)
    save_zarr(flat_data(), tmp_path / "data")
    with pytest.raises(SchemaError, match="not a daskmoe model"):
        open_model(tmp_path / "data")


def test_other_schemas_are_refused(tmp_path: Path) -> None:
    flat = fitted_model().to_dataset()
    save_zarr(flat.assign_attrs(daskmoe_schema="99"), tmp_path / "version")
    with pytest.raises(SchemaError, match="version 1, got version 99"):
        open_model(tmp_path / "version")
    save_zarr(flat.drop_vars("gate_coef"), tmp_path / "variable")
    with pytest.raises(SchemaError, match="'gate_coef' is missing"):
        open_model(tmp_path / "variable")
    save_zarr(flat.assign_coords(feature=["a", "b", "z"]), tmp_path / "label")
    with pytest.raises(SchemaError, match="'z'"):
        open_model(tmp_path / "label")
    save_zarr(flat.assign_attrs(rows="{}"), tmp_path / "rows")
    with pytest.raises(SchemaError, match="damaged"):
        open_model(tmp_path / "rows")


def test_predicting_from_a_store_and_to_a_store(tmp_path: Path, raise_if_dask_computes: Guard) -> None:
    data = flat_data()
    save_zarr(data.chunk(time=20), tmp_path / "data")
    model = make_model(data, "y")
    with raise_if_dask_computes():
        predicted = model.predict(tmp_path / "data")
    assert predicted.chunksizes["time"] == (20, 20, 10)
    save_zarr(predicted.to_dataset(), tmp_path / "predicted")
    assert zarr.open_array(tmp_path / "predicted", path="y").chunks == (20,)
    written = xr.load_dataset(tmp_path / "predicted", engine="zarr", consolidated=False)
    np.testing.assert_array_equal(written["y"], model.predict(data))
    assert list(map(str, written["station"].values)) == data["station"].values.tolist()
    assert model.log_likelihood(str(tmp_path / "data")) == pytest.approx(model.log_likelihood(data))


def test_ragged_predictions_are_written(tmp_path: Path) -> None:
    data = flat_data().drop_vars("y")
    ragged = make_model(flat_data(), "y").predict(data.chunk(time=(20, 13, 17)))
    save_zarr(ragged.to_dataset(), tmp_path / "predicted")
    written = xr.load_dataset(tmp_path / "predicted", engine="zarr", consolidated=False)
    np.testing.assert_array_equal(written["y"], ragged)


def test_a_large_lazy_coordinate_is_not_read(raise_if_dask_computes: Guard) -> None:
    data = flat_data().drop_vars("time").chunk(time=10)
    time = xr.Variable("time", np.arange(50)).chunk(time=10)
    data = data.assign_coords(xr.Coordinates({"time": time}, indexes={}))
    model = make_model(flat_data(), "y")
    with raise_if_dask_computes():
        results = [METHODS[name](model, data) for name in METHODS]
    assert all(result["time"].chunks is not None for result in results)


def test_no_dask_is_needed_for_data_in_memory(tmp_path: Path) -> None:
    fitted_model().to_zarr(tmp_path / "model")
    folder = Path(errors.__file__).parent
    flat_data().to_netcdf(tmp_path / "data.nc", engine="scipy", format="NETCDF3_64BIT")
    # The package's front door imports Dask for `fit`; a model alone goes without it.
    code = """
import sys, types
package = types.ModuleType("daskmoe")
package.__path__ = [sys.argv[3]]
sys.modules["daskmoe"] = package
sys.modules["dask"] = sys.modules["distributed"] = None
import xarray as xr
from daskmoe.model import open_model
model, data = open_model(sys.argv[1]), xr.load_dataset(sys.argv[2])
data = data.assign_coords(feature=data["feature"].astype(str))
print(model.predict(data).shape, model.sample(data, 1).shape, model.log_likelihood(data) < 0)
"""
    printed = subprocess.check_output(
        [sys.executable, "-c", code, str(tmp_path / "model"), str(tmp_path / "data.nc"), str(folder)],
        text=True,
        timeout=120,
    )
    assert printed.strip() == "(50,) (50,) True"


def test_params_are_labelled() -> None:
    model = make_model(flat_data(), "y")
    assert {name: v.dims for name, v in model.params.items()} == {
        "gate_intercept": ("expert",),
        "gate_coef": ("expert", "feature"),
        "intercept": ("expert",),
        "coef": ("expert", "feature"),
        "variance": ("expert",),
    }
    assert model.params["feature"].values.tolist() == ["a", "b", "c"]
    assert model.params["intercept"].attrs["units"] == "K"
    assert model.params["variance"].attrs["units"] == "(K)^2"
    for found, expected in zip(model.parameters, random_parameters(3, 3), strict=True):
        np.testing.assert_array_equal(found, expected)
    assert (model.n_experts, model.feature_names, model.target) == (3, ("a", "b", "c"), "y")
    assert_same_model(pickle.loads(pickle.dumps(model)), model)


def test_wrong_parameters_are_refused() -> None:
    rows = describe_rows(flat_data(), "y")
    with pytest.raises(InvalidDataError, match="expected 3 features"):
        MixtureOfExperts.from_parameters(random_parameters(2, 4), family="gaussian", rows=rows)
    with pytest.raises(InvalidOptionError, match="family"):
        MixtureOfExperts.from_parameters(random_parameters(2, 3), family="gauss", rows=rows)
    params = make_model(flat_data(), "y").params
    for wrong in (params.drop_vars("feature"), params.rename(expert="k"), params.isel(feature=[1, 0, 2])):
        with pytest.raises(SchemaError, match="model: expected"):
            MixtureOfExperts(wrong, None, None, family="gaussian", rows=rows, options={})


def test_local_estimates_are_padded() -> None:
    rows = describe_rows(flat_data(), "y")
    small, large = random_parameters(2, 3, 1), random_parameters(4, 3, 2)
    local = label_local_estimates([small, None, large], ["p", "q", "r"], rows, GAUSSIAN)
    assert local["coef"].dims == ("partition", "local_expert", "feature")
    assert local["variance"].dims == ("partition", "local_expert")
    np.testing.assert_array_equal(local["coef"].sel(partition="p")[:2], small.coef[:, 0, 1:])
    np.testing.assert_array_equal(local["gate_intercept"].sel(partition="r"), large.gate[:, 0])
    assert local.sel(partition="q").isnull().all().to_array().all()
    assert local["variance"].isnull().sum("local_expert").values.tolist() == [2, 4, 0]
    with pytest.raises(InvalidDataError, match="3 partitions and 2 labels"):
        label_local_estimates([small, None, large], ["p", "q"], rows, GAUSSIAN)


def test_summary_and_representations() -> None:
    model = fitted_model()
    text = model.summary()
    for part in (
        "3 gaussian experts",
        "y [K]",
        "3, 1 not ok (first: partition b, left out",
        "50",
        "variance",
    ):
        assert part in text
    assert all(len(line) < 100 for line in text.splitlines())
    assert repr(model) == "<MixtureOfExperts: 3 gaussian experts of 'y' given 3 features>"
    assert "gate_coef" in model._repr_html_()
    assert "partition" not in make_model(flat_data(), "y").summary()


def test_a_model_in_a_large_graph_is_not_copied() -> None:
    rng = np.random.default_rng(0)
    data = xr.Dataset(
        {"X": (("row", "f"), rng.normal(size=(2_000, 3))), "y": ("row", rng.normal(size=2_000))}
    )
    model = make_model(data, "y")
    lazy = data.chunk(row=10)
    with dask.config.set(scheduler="synchronous"):
        assert model.predict(lazy).data.npartitions == 200
        np.testing.assert_allclose(model.predict(lazy), model.predict(data))


@pytest.mark.parametrize(
    ("save", "name"), [(MixtureOfExperts.to_zarr, "m.zarr"), (MixtureOfExperts.to_netcdf, "m.nc")]
)
def test_a_model_takes_the_place_of_one_where_asked(
    tmp_path: Path, save: Callable[..., None], name: str
) -> None:
    first, second = make_model(flat_data(), "y", n_experts=2), make_model(flat_data(), "y", n_experts=3)
    path = tmp_path / name
    save(first, path)
    with pytest.raises(OutputExistsError, match="overwrite=True"):
        save(second, path)
    save(second, path, overwrite=True)
    assert open_model(path) == second
    assert [each.name for each in tmp_path.iterdir()] == [name]
    save(first, tmp_path / "new", overwrite=True)
    assert open_model(tmp_path / "new") == first


@pytest.mark.parametrize("save", [MixtureOfExperts.to_zarr, MixtureOfExperts.to_netcdf])
@pytest.mark.parametrize("kind", ["folder", "file"])
def test_nothing_else_makes_way(tmp_path: Path, save: Callable[..., None], kind: str) -> None:
    path = tmp_path / "thing"
    kept = path / "letter" if kind == "folder" else path
    kept.parent.mkdir(exist_ok=True)
    kept.write_text("keep")
    with pytest.raises(OutputExistsError, match="something else"):
        save(make_model(flat_data(), "y"), path, overwrite=True)
    assert kept.read_text() == "keep"

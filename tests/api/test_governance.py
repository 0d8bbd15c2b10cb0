"""What leaves a partition in each mode, and that the estimators without rows or responses still work."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import dask
import dask.array
import numpy as np
import pytest
import xarray as xr
from dask.delayed import Delayed

import daskmoe
from daskmoe import InvalidDataError, InvalidOptionError, MixtureOfExperts
from daskmoe.api.comparable import support_sample
from daskmoe.engine import PartitionResult, build_fit, plan_request
from daskmoe.options import METHODS, FitOptions

FAST: dict[str, Any] = {"n_init": 3, "random_state": 0}
K, P = 2, 3
Q = P + 1
SIZE = (2 * K - 1) * Q + K


@pytest.fixture(scope="module")
def data() -> xr.Dataset:
    data, _ = daskmoe.simulate(
        4_000, n_features=P, n_experts=K, design="overlap", chunks=1_000, random_state=3
    )
    return data.persist(scheduler="synchronous")


@pytest.fixture(scope="module")
def best(data: xr.Dataset) -> float:
    return daskmoe.fit_local(data.compute(), "y", n_experts=K, **FAST).log_likelihood(data)


def sent(data: xr.Dataset, support: Any) -> list[PartitionResult]:
    options = FitOptions(n_experts=K, support=support, support_size=400, **FAST)
    graph = dict(build_fit(plan_request(data, "y", options)).__dask_graph__())
    fits = [key for key in graph if str(key).startswith("moe-local-fit")]
    return list(dask.get(graph, fits))


@pytest.mark.parametrize("support", ["features", "synthetic", "given"])
def test_no_response_and_only_the_rows_that_may_leave(data: xr.Dataset, support: str) -> None:
    for part in sent(data, data if support == "given" else support):
        assert part.support.response is None
        assert len(part.support.features) == (100 if support == "features" else 0)
        assert part.expansion is not None
        assert part.expansion.information.nbytes == 4 * SIZE * (SIZE + 1) // 2


@pytest.mark.parametrize("support", ["labelled", "features", "given"])
def test_the_responses_range_is_told_where_responses_may_leave(data: xr.Dataset, support: str) -> None:
    chosen = data[["X"]].isel(row=slice(0, 500)) if support == "given" else support
    model = daskmoe.fit(data, "y", n_experts=K, support=chosen, **FAST)
    for each in (model, daskmoe.refine(model, data, rounds=1)):
        assert each.diagnostics is not None
        assert ("target_range" in each.diagnostics) == (support == "labelled")
        assert "expert_weight" in each.diagnostics


@pytest.mark.parametrize("support", ["labelled", "features", "synthetic"])
def test_bytes_are_those_of_the_documented_formula(data: xr.Dataset, support: str) -> None:
    model = daskmoe.fit(data, "y", n_experts=K, support=support, support_size=400, **FAST)
    assert model.diagnostics is not None
    rows = {"labelled": 100 * (P + 2), "features": 100 * (P + 1), "synthetic": 0}[support]
    estimate = 8 * (2 * K * Q + K)
    moments = 8 * (2 + (P + 1) + (P + 1) ** 2)
    expansion = 4 * SIZE * (SIZE + 1) // 2 + 8 * SIZE
    expected = np.full(4, 8 * rows + estimate + moments + expansion + 8 * K)
    if support == "labelled":
        gates = (K - 1) * Q
        complete = gates * (gates + 1) // 2 + K * Q * (Q + 1) // 2 + K
        expected += 16 + 24 * SIZE + 4 * SIZE * (SIZE + 1) // 2 + 8 * complete
    if support != "labelled":
        # A search that widens reports more starts.
        expected += 8 * model.diagnostics["start_log_likelihood"].notnull().sum("init").values
    assert model.diagnostics["sent_bytes"].values.tolist() == expected.tolist()


@pytest.mark.parametrize("support", ["features", "synthetic", "given"])
def test_information_is_near_the_global_fit(data: xr.Dataset, best: float, support: str) -> None:
    chosen = data[["X"]].isel(row=slice(0, 500)) if support == "given" else support
    model = daskmoe.fit(data, "y", n_experts=K, support=chosen, **FAST)
    assert model.diagnostics is not None
    scores = model.diagnostics["candidate_objective"].to_series()
    assert list(scores.index) == ["information", "whole", "middle", "least squares"]
    # The reduction with the plan that moves experts whole is as good as the average here, to 2e-5.
    assert model.diagnostics.attrs["aggregation"] == scores.idxmax()
    assert scores["information"] > scores.max() - 1e-4
    assert model.options["support"] == support
    assert best - model.log_likelihood(data) < 0.002 * 4_000


def test_the_callers_rows_by_path_and_in_memory_are_the_same(data: xr.Dataset, tmp_path: Path) -> None:
    rows = data[["X"]].isel(row=slice(0, 500))
    rows.drop_encoding().to_zarr(tmp_path / "rows.zarr", zarr_format=2)
    models = [
        daskmoe.fit(data, "y", n_experts=K, aggregation="reduction", support=support, **FAST)
        for support in (rows, rows.compute(), tmp_path / "rows.zarr", str(tmp_path / "rows.zarr"))
    ]
    for model in models[1:]:
        xr.testing.assert_identical(model.params, models[0].params)


def test_building_with_the_callers_rows_computes_nothing(
    data: xr.Dataset, raise_if_dask_computes: Any
) -> None:
    lazy = data.chunk(row=500)
    with raise_if_dask_computes():
        job = daskmoe.fit(lazy, "y", n_experts=K, support=lazy[["X"]], compute=False, **FAST)
    assert isinstance(job, Delayed)
    assert sum(str(key).startswith("moe-support") for key in job.__dask_graph__()) == 1


def large_support(n_rows: int = 60_000) -> xr.Dataset:
    """More rows than are looked at, a few of them complete, and a variable that nobody can read."""
    rng = np.random.default_rng(3)
    features = rng.normal(size=(n_rows, P))
    features[rng.random(n_rows) < 0.1] = np.nan
    support = xr.Dataset({"X": (("row", "feature"), features)}).assign_coords(
        feature=[f"x{i}" for i in range(P)]
    )
    broken = dask.array.from_delayed(dask.delayed(_fail)(), (n_rows,), float)
    return support.chunk(row=7_000).assign(unused=("row", broken))


def _fail() -> None:
    raise OSError("read what nobody needs")


def test_of_a_large_support_only_a_sample_is_handed_over(data: xr.Dataset, tmp_path: Path) -> None:
    support = large_support()
    path = tmp_path / "support.zarr"
    support.drop_vars("unused").to_zarr(path, zarr_format=2)
    options: dict[str, Any] = {"n_experts": K, "aggregation": "reduction", **FAST}
    jobs = [
        daskmoe.fit(data, "y", support=given, compute=False, **options)
        for given in (support, support.drop_vars("unused").compute(), path)
    ]
    models = [job.compute(scheduler="synchronous") for job in jobs]
    for model in models[1:]:
        xr.testing.assert_identical(model.params, models[0].params)
    # What the task of rows in memory carries.
    assert len(pickle.dumps(dict(jobs[1].__dask_graph__()))) < 60_000 * P * 8 + data.nbytes
    assert models[0].options["support"] == "given"


def test_a_large_support_is_used_up_to_ten_thousand_rows(data: xr.Dataset) -> None:
    model = daskmoe.fit_local(data.isel(row=slice(0, 1_000)), "y", n_experts=1)
    support = large_support()
    sample = support_sample(support, model.rows, 0)
    assert sample.features.shape == (10_000, P)
    assert np.isfinite(sample.features).all()
    assert not np.array_equal(sample.features, support_sample(support, model.rows, 1).features)
    known = {row.tobytes() for row in support["X"].values}
    assert {row.tobytes() for row in sample.features} <= known
    assert len({row.tobytes() for row in sample.features}) == 10_000


@pytest.mark.parametrize("aggregation", METHODS)
def test_every_aggregation_fits_predicts_and_is_saved(
    data: xr.Dataset, aggregation: str, tmp_path: Path
) -> None:
    model = daskmoe.fit(data, "y", n_experts=K, aggregation=aggregation, **FAST)
    assert model.n_experts == (8 if aggregation == "weighted" else K)
    assert model.score(data) > 0.7
    np.testing.assert_allclose(model.gating_probabilities(data).sum("expert"), 1.0, rtol=1e-10)
    for name, save in (("m.zarr", model.to_zarr), ("m.nc", model.to_netcdf)):
        save(tmp_path / name)
        again = daskmoe.open_model(tmp_path / name)
        xr.testing.assert_identical(again.params, model.params)
        xr.testing.assert_identical(again.predict(data), model.predict(data))


def test_the_weighted_average_is_a_model_like_any_other(data: xr.Dataset) -> None:
    model = daskmoe.fit(data, "y", n_experts=K, aggregation="weighted", **FAST)
    assert model.local_estimates is not None
    parts = [
        MixtureOfExperts.from_parameters(local, family="gaussian", rows=model.rows)
        for local in model.mixture.local_parameters()  # type: ignore[union-attr]
    ]
    expected = sum(part.predict(data) for part in parts) / 4
    np.testing.assert_allclose(model.predict(data), expected, rtol=1e-9)
    density = sum(np.exp(part.log_density(data)) for part in parts) / 4
    np.testing.assert_allclose(np.exp(model.log_density(data)), density, rtol=1e-9)
    interval = model.predict_interval(data)
    inside = (interval["lower"] <= data["y"]) & (data["y"] <= interval["upper"])
    assert 0.92 < float(inside.mean()) < 0.98
    assert model.sample(data, random_state=0).std() == pytest.approx(float(data["y"].std()), rel=0.05)
    assert "group" in model.params
    assert "8 gaussian experts" in model.summary()
    with pytest.raises(InvalidDataError, match="one gating network, got a weighted average of 4 models"):
        _ = model.parameters


def test_weighted_averages_of_sites_are_taken_apart(data: xr.Dataset) -> None:
    halves = [data.isel(row=slice(0, 2_000)), data.isel(row=slice(2_000, None))]
    sites = [daskmoe.fit(half, "y", n_experts=K, aggregation="weighted", **FAST) for half in halves]
    joined = daskmoe.aggregate(sites, data, n_experts=K)
    assert joined.diagnostics is not None
    assert joined.diagnostics["partition"].values.tolist() == ["0.0", "0.1", "1.0", "1.1"]
    assert joined.diagnostics["weight"].values.tolist() == [1_000.0] * 4
    together = daskmoe.aggregate(sites, data, method="weighted", n_experts=1)
    assert together.n_experts == 8


@pytest.mark.parametrize("n_local_experts", [1, 3])
def test_local_fits_of_another_size(data: xr.Dataset, n_local_experts: int) -> None:
    for aggregation in ("reduction", "greedy"):
        model = daskmoe.fit(
            data, "y", n_experts=K, n_local_experts=n_local_experts, aggregation=aggregation, **FAST
        )
        assert model.n_experts == K
        assert model.local_estimates is not None
        assert model.local_estimates.sizes["local_expert"] == n_local_experts
        assert model.diagnostics is not None
        assert model.diagnostics["plan_mass"].shape == (4, n_local_experts, K)
        assert float(model.diagnostics["plan_mass"].sum()) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"support": "nothing"}, r"support: expected one of \['labelled', 'features', 'synthetic'\]"),
        ({"n_local_experts": 3}, "n_local_experts: expected 2, as the shared start has, got 3"),
        ({"n_local_experts": 0}, "n_local_experts: expected an integer of at least 1"),
        ({"aggregation": "weighted", "refine": 1}, "refine: expected 0 with aggregation='weighted'"),
        ({"aggregation": "mean"}, "aggregation: expected one of"),
    ],
)
def test_unknown_options(data: xr.Dataset, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidOptionError, match=message):
        daskmoe.fit(data, "y", n_experts=K, **options)


def test_a_support_with_other_labels(data: xr.Dataset) -> None:
    with pytest.raises(InvalidDataError, match=r"misses the labels 'x2'"):
        daskmoe.fit(data, "y", n_experts=K, support=data[["X"]].isel(feature=[0, 1]))
    with pytest.raises(InvalidDataError, match="at least one row without missing features"):
        daskmoe.fit(data, "y", n_experts=K, support=data[["X"]] * np.nan, **FAST)


def test_the_divergence_of_models_is_public(data: xr.Dataset, tmp_path: Path) -> None:
    first, second = (
        daskmoe.fit_local(data.isel(row=rows).compute(), "y", n_experts=K, **FAST)
        for rows in (slice(0, 1_000), slice(1_000, 2_000))
    )
    relaxed = daskmoe.transportation_divergence(first, second, data)
    assert 0 < relaxed < daskmoe.transportation_divergence(first, second, data, kind="exact")
    first.to_zarr(tmp_path / "m.zarr")
    assert daskmoe.transportation_divergence(tmp_path / "m.zarr", second, data) == relaxed
    with pytest.raises(InvalidOptionError, match="kind: expected one of"):
        daskmoe.transportation_divergence(first, second, data, kind="both")


# Three experts of rows that count for little are one line.
@pytest.mark.filterwarnings("ignore::daskmoe.errors.FitWarning")
def test_weights_of_many_orders_of_magnitude_give_a_model() -> None:
    # Averages of expansions far from each other can have log-variances of no number.
    rows, _ = daskmoe.simulate(6_000, n_features=3, n_experts=2, random_state=1)
    weight = np.exp(3 * np.random.default_rng(1).normal(size=6_000))
    model = daskmoe.fit(
        rows.assign(w=("row", weight)).chunk(row=600), "y", n_experts=3, random_state=0, sample_weight="w",
        support="features", n_init=3,
    )  # fmt: skip
    assert np.isfinite(model.log_likelihood(rows))

"""Covariances, what they say of contrasts, and which parameters have no error."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from numerics.oracles import GAUSSIAN

import daskmoe
from daskmoe import InvalidDataError, InvalidOptionError, MixtureOfExperts, NotAtOptimumError
from daskmoe.engine import planning
from daskmoe.model import covariances
from daskmoe.numerics.base.observations import Observations, moments
from daskmoe.numerics.base.policies import INFERENCE
from daskmoe.numerics.combine.expansion import expand_estimate, make_pilot
from daskmoe.numerics.combine.one_step import summed_curvature

# Rounds in a number are to be looked at, wherever they end.
pytestmark = pytest.mark.filterwarnings("ignore:The refinement ended short:daskmoe.errors.ConvergenceWarning")

ROWS = 1_500


@pytest.fixture(scope="module")
def data() -> xr.Dataset:
    """Two experts, columns ``a`` and ``b`` with offsets, partitions with other weights each."""
    rng = np.random.default_rng(0)
    a, b = rng.normal([[1.0], [4.0]], 1.0, (2, ROWS))
    first = rng.random(ROWS) < 1.0 / (1.0 + np.exp(b - 4.0))
    y = np.where(first, 3.0 + a, -3.0 + 2.0 * b) + rng.standard_normal(ROWS)
    columns = {"a": ("row", a), "b": ("row", b), "y": ("row", y)}
    return xr.Dataset(columns).chunk(row=300).load()


@pytest.fixture(scope="module")
def plain(data: xr.Dataset) -> MixtureOfExperts:
    return refined(data)


def refined(data: xr.Dataset) -> MixtureOfExperts:
    start = daskmoe.fit_local(data, "y", n_experts=2, n_init=2, random_state=0)
    return daskmoe.refine(start, data, rounds="converged")


def variance_of(model: MixtureOfExperts, weights: dict[str, float], kind: str = "model") -> float:
    """Variance of a contrast, by the labels of its parameters."""
    names, values = list(weights), np.array(list(weights.values()))
    found = model.covariance(kind).sel(parameter=names, other_parameter=names).values
    return float(values @ found @ values)


@pytest.mark.parametrize("kind", ["model", "robust"])
def test_errors_are_the_roots_of_the_diagonal(plain: MixtureOfExperts, kind: str) -> None:
    covariance, errors = plain.covariance(kind), plain.standard_errors(kind)
    assert covariance.dims == ("parameter", "other_parameter")
    assert covariance.attrs["kind"] == errors.attrs["kind"] == kind
    np.testing.assert_array_equal(covariance.values, covariance.values.T)
    roots = np.sqrt(np.diag(covariance.values))
    for label, root in zip(covariance["parameter"].values, roots, strict=True):
        name, _, inside = str(label).removesuffix("]").partition("[")
        expert, _, feature = inside.partition(", ")
        error = errors[name].sel(expert=int(expert))
        assert float(error.sel(feature=feature) if feature else error) == root
    assert covariance.sizes["parameter"] == sum(v.size for v in plain.params.data_vars.values())
    assert set(covariance.coords) >= {"variable", "expert", "feature", "identified"}
    chosen = covariance["parameter"][(covariance["variable"] == "coef") & (covariance["expert"] == "1")]
    assert chosen.values.tolist() == ["coef[1, a]", "coef[1, b]"]
    assert bool(covariance["identified"].all())


def test_the_error_of_a_contrast_is_that_of_the_parameter_it_is_elsewhere(
    data: xr.Dataset, plain: MixtureOfExperts
) -> None:
    """The line at a = 1, b = 4 is the intercept where these are the origin."""
    moved = refined(data.assign(a=data["a"] - 1.0, b=data["b"] - 4.0))
    # The order of the experts follows their intercepts.
    apart = [abs(moved.params["coef"] - plain.params["coef"][k]).sum("feature") for k in (0, 1)]
    there = [int(distance.argmin("expert")) for distance in apart]
    for kind in ("model", "robust"):
        for k in (0, 1):
            found = variance_of(
                plain, {f"intercept[{k}]": 1.0, f"coef[{k}, a]": 1.0, f"coef[{k}, b]": 4.0}, kind
            )
            expected = float(moved.standard_errors(kind)["intercept"][there[k]]) ** 2
            assert found == pytest.approx(expected, rel=1e-3)


def test_what_the_columns_do_not_tell_apart_has_no_error(data: xr.Dataset, plain: MixtureOfExperts) -> None:
    more = data.assign(c=xr.full_like(data["a"], 3.0), b2=data["b"])
    model = refined(more)
    assert model.feature_names == ("a", "b", "b2", "c")
    for kind in ("model", "robust"):
        errors, expected = model.standard_errors(kind), plain.standard_errors(kind)
        for name in ("coef", "gate_coef"):
            assert bool(errors[name].sel(feature=["b", "b2", "c"]).isnull().all())
            xr.testing.assert_allclose(
                errors[name].sel(feature="a"), expected[name].sel(feature="a"), rtol=1e-4
            )
        for name in ("intercept", "gate_intercept", "variance"):
            xr.testing.assert_allclose(errors[name], expected[name], rtol=1e-4)
        interval = model.confidence_interval(kind=kind)["coef"]
        assert (
            interval.isnull().any("bound").sel(feature=["a", "b", "b2", "c"]).values.tolist()
            == [[False, True, True, True]] * 2
        )
        # The sum over equal columns is identified, and is the coefficient of one of them.
        total = variance_of(model, {"coef[0, b]": 1.0, "coef[0, b2]": 1.0}, kind)
        assert total == pytest.approx(float(expected["coef"].sel(expert=0, feature="b")) ** 2, rel=1e-4)
    text = model.summary()
    assert "no errors   of 12 parameters that the rows do not identify: coef[0, b], " in text
    assert "no errors" not in plain.summary()
    assert "errors      model, robust" in plain.summary()


def test_what_one_expert_sees_constant_has_no_error_there(data: xr.Dataset) -> None:
    """A column that varies for one expert only: the priors alone hold the other's coefficient."""
    rng = np.random.default_rng(1)
    x = np.repeat([-1.0, 1.0], ROWS // 2) * rng.uniform(1.0, 2.0, ROWS)
    seen = np.where(x > 0, rng.standard_normal(ROWS), 0.0)
    y = 10.0 + 40.0 * np.abs(x) + 5.0 * (x > 0) + seen + rng.standard_normal(ROWS)
    model = refined(xr.Dataset({"x": ("row", x), "seen": ("row", seen), "y": ("row", y)}))
    errors = model.standard_errors()["coef"].sel(feature="seen")
    assert errors.isnull().values.tolist() == [True, False]
    assert float(errors[1]) == pytest.approx(1 / np.sqrt(ROWS / 2), rel=0.1)


@pytest.mark.parametrize("save", [MixtureOfExperts.to_zarr, MixtureOfExperts.to_netcdf])
def test_covariances_are_saved(
    plain: MixtureOfExperts, tmp_path: Path, save: Callable[[MixtureOfExperts, Path], None]
) -> None:
    save(plain, tmp_path / "model")
    opened = daskmoe.open_model(tmp_path / "model")
    xr.testing.assert_identical(opened.covariance("robust"), plain.covariance("robust"))
    assert opened.summary() == plain.summary()


def test_of_many_parameters_only_errors_are_kept(
    data: xr.Dataset, plain: MixtureOfExperts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(covariances, "INFERENCE", replace(INFERENCE, most_parameters=13))
    model = daskmoe.refine(plain, data, rounds="converged")
    xr.testing.assert_allclose(model.standard_errors("robust"), plain.standard_errors("robust"), rtol=1e-5)
    with pytest.raises(NotAtOptimumError, match="standard errors alone"):
        model.covariance()


# Clusters.


def clustered(rng: np.random.Generator, n_clusters: int, size: int) -> xr.Dataset:
    """Rows of a day share a part of their noise and of their features; ``day`` is in no order."""
    day = np.repeat(np.arange(n_clusters), size)
    shared = rng.standard_normal((2, n_clusters))[:, day]
    x = 0.8 * shared[0] + 0.6 * rng.standard_normal(day.size)
    noise = 0.8 * shared[1] + 0.6 * rng.standard_normal(day.size)
    first = rng.random(day.size) < 0.5
    y = np.where(first, 6.0 + x, -6.0 - x) + noise
    order = rng.permutation(day.size)
    rows = xr.Dataset({"x": ("row", x[order]), "y": ("row", y[order])})
    return rows.assign_coords(day=("row", np.datetime64("2020-01-01") + day[order]))


def test_cluster_errors_are_as_large_as_estimates_differ() -> None:
    """Over draws; the errors of the model alone are half of that."""
    rng = np.random.default_rng(0)
    estimates, errors = [], {kind: [] for kind in ("model", "robust", "cluster")}
    start: MixtureOfExperts | None = None
    for _ in range(15):
        data = clustered(rng, 60, 10)
        if start is None:
            start = daskmoe.fit_local(data, "y", n_experts=2, n_init=2, random_state=0)
        found_here = daskmoe.refine(start, data, rounds="converged", partitions=2, cluster="day")
        # Experts are by share, which is another one in other draws.
        model = found_here.match(start)
        for kind, found in errors.items():
            found.append(model.standard_errors(kind)["coef"].values)
        estimates.append(model.params["coef"].values)
    spread = np.std(estimates, axis=0, ddof=1)
    size = {kind: float(np.mean(np.mean(found, axis=0) / spread)) for kind, found in errors.items()}
    # The spread of four coefficients over 15 draws is known to 1 / sqrt(2 * 14 * 4): 28 % is three times it.
    assert 1 / 1.28 < size["cluster"] < 1 / 0.72
    assert size["model"] < 1 / 1.28
    assert size["robust"] < 1 / 1.28


def test_one_expert_has_the_cluster_errors_of_least_squares() -> None:
    """Liang and Zeger's for the normal model: G / (G - 1) of the sandwich."""
    data = clustered(np.random.default_rng(0), 20, 15)
    model = daskmoe.refine(
        daskmoe.fit_local(data, "y", n_experts=1), data, rounds="converged", partitions=3, cluster="day"
    )
    design = np.column_stack([np.ones(300), data["x"].values])
    bread = np.linalg.inv(design.T @ design)
    residual = data["y"].values - design @ (bread @ design.T @ data["y"].values)
    days = data["day"].values
    scores = [(design * residual[:, None])[days == day].sum(axis=0) for day in np.unique(days)]
    expected = 20 / 19 * bread @ sum(np.outer(score, score) for score in scores) @ bread
    names = ["intercept[0]", "coef[0, x]"]
    found = model.covariance("cluster").sel(parameter=names, other_parameter=names)
    np.testing.assert_allclose(found.values, expected, rtol=1e-5)


def test_partitions_are_the_clusters_by_default(data: xr.Dataset, plain: MixtureOfExperts) -> None:
    rows = data.assign_coords(part=("row", np.arange(ROWS) // 300))
    by_default = daskmoe.refine(plain, rows, rounds="converged", partitions=5)
    by_name = daskmoe.refine(plain, rows, rounds="converged", partitions=3, cluster="part")
    assert by_default.covariance("cluster").attrs == {
        "kind": "cluster",
        "clusters": "partitions",
        "n_clusters": 5,
    }
    assert by_name.covariance("cluster").attrs == {"kind": "cluster", "clusters": "part", "n_clusters": 5}
    xr.testing.assert_allclose(
        by_name.standard_errors("cluster"), by_default.standard_errors("cluster"), rtol=1e-6
    )
    assert "errors      model, robust, cluster (5 partitions)" in by_default.summary()
    # Student's t with four degrees of freedom, and half of five clusters left.
    interval = by_default.confidence_interval(kind="cluster")["coef"]
    half = 0.5 * (interval.sel(bound="upper") - interval.sel(bound="lower"))
    np.testing.assert_allclose(
        half / by_default.standard_errors("cluster")["coef"], 2.7764451 * np.sqrt(4 / 2.5), rtol=1e-6
    )


def test_every_row_its_own_cluster_is_robust_but_for_the_correction(
    data: xr.Dataset, plain: MixtureOfExperts
) -> None:
    rows = data.assign_coords(row=np.arange(ROWS))
    model = daskmoe.refine(plain, rows, rounds="converged", cluster="row")
    np.testing.assert_allclose(
        model.covariance("cluster") * (ROWS - 1) / ROWS, model.covariance("robust"), rtol=1e-4, atol=1e-9
    )


@pytest.mark.parametrize("stored", [False, True])
def test_clusters_of_a_grid(stored: bool, tmp_path: Path) -> None:
    """A coordinate over one of two sample dimensions, rows left out, lazy or in a store."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((40, 12))
    y = np.where(rng.random((40, 12)) < 0.5, 5.0 + x, -5.0) + rng.standard_normal((40, 12))
    y[3, 4] = np.nan
    grid = xr.Dataset({"x": (("time", "station"), x), "y": (("time", "station"), y)})
    grid = grid.assign_coords(region=("station", np.array(list("abcd"))[np.arange(12) % 4]))
    flat = grid.stack(row=("time", "station"), create_index=False).dropna("row")
    start = daskmoe.fit_local(flat, "y", features="x", n_experts=2, n_init=2, random_state=0)
    expected = daskmoe.refine(start, flat, rounds="converged", cluster="region")
    lazy = grid.chunk(time=10, station=5)
    start = daskmoe.fit_local(grid, "y", n_experts=2, n_init=2, random_state=0, on_error="skip")
    source: xr.Dataset | Path = lazy
    if stored:
        source = tmp_path / "grid.zarr"
        lazy.to_zarr(source, zarr_format=2)
    found = daskmoe.refine(start, source, rounds="converged", on_error="skip", cluster="region")
    assert found.covariance("cluster").attrs["n_clusters"] == 4
    xr.testing.assert_allclose(
        found.standard_errors("cluster"), expected.standard_errors("cluster"), rtol=1e-4
    )


def test_unknown_cluster_errors_come_with_the_line_that_mends_it(
    data: xr.Dataset, plain: MixtureOfExperts
) -> None:
    line = r"daskmoe\.refine\(model, data, rounds='converged', cluster='day'\)"
    short = daskmoe.refine(plain, data, rounds=1)
    for model in (plain, short):
        with pytest.raises(NotAtOptimumError, match=line):
            model.standard_errors("cluster")


def test_clusters_that_cannot_be(data: xr.Dataset, plain: MixtureOfExperts) -> None:
    rows = data.assign_coords(day=("row", np.r_[np.nan, np.ones(ROWS - 1)]))
    with pytest.raises(InvalidOptionError, match="Expected cluster to name a coordinate over the sample"):
        daskmoe.refine(plain, data, cluster="day")
    with pytest.raises(InvalidOptionError, match="cluster: expected the name of a coordinate, got 3"):
        daskmoe.refine(plain, data, cluster=3)  # type: ignore[arg-type]
    with pytest.raises(InvalidDataError, match="'day' for every row to cluster by it, got 1 missing"):
        daskmoe.refine(plain, rows, rounds="converged", cluster="day")


# Near the maximum.


def test_one_step_has_approximate_errors(
    data: xr.Dataset, plain: MixtureOfExperts, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A shared start of all rows would be the model.
    monkeypatch.setattr(planning, "_PILOT_ROWS", ROWS // 3)
    model = daskmoe.fit(data, "y", n_experts=2, n_init=2, partitions=4, random_state=0)
    assert model.diagnostics is not None
    assert model.diagnostics.attrs["aggregation"] == "one-shot"
    errors = model.standard_errors()
    assert errors.attrs["kind"] == "approximate"
    xr.testing.assert_identical(errors, model.standard_errors("approximate"))
    # Its information is that of four pieces, each where its own few steps ended.
    for name, exact in plain.standard_errors().items():
        np.testing.assert_allclose(errors[name], exact, rtol=0.05, err_msg=str(name))
    assert model.confidence_interval().attrs["kind"] == "approximate"
    assert "errors      approximate" in model.summary()
    for kind in ("robust", "cluster"):
        with pytest.raises(NotAtOptimumError, match=r"near the maximum, not at it.*rounds='converged'"):
            model.standard_errors(kind)
    refined = daskmoe.refine(model, data, rounds="converged")
    assert refined.standard_errors().attrs["kind"] == "model"
    with pytest.raises(NotAtOptimumError, match="its errors are exact"):
        refined.standard_errors("approximate")


def test_the_pilot_has_the_errors_of_its_sample(data: xr.Dataset) -> None:
    """They are those of so many rows, whatever the partitions know."""
    rows = Observations(np.column_stack([data["a"], data["b"]]), data["y"].values)
    model = daskmoe.fit_local(data, "y", n_experts=2, n_init=2, random_state=0).parameters
    sample = rows.take(np.arange(ROWS // 3))
    pilot = make_pilot(model, sample, GAUSSIAN)
    known = moments(rows)
    order = np.arange(2)
    expansions = [expand_estimate(rows, pilot, GAUSSIAN)[1]]
    of_all = summed_curvature(expansions, pilot, known, model, order, GAUSSIAN)
    of_sample = summed_curvature([], pilot, known, model, order, GAUSSIAN)
    assert of_all is not None
    assert of_sample is not None
    ratio = np.trace(of_all.information) / np.trace(of_sample.information)
    assert 2.5 < ratio < 3.5


def test_a_few_rounds_have_approximate_errors_where_they_end_near(
    data: xr.Dataset, plain: MixtureOfExperts
) -> None:
    coef = plain.params["coef"] + 0.1 * plain.standard_errors()["coef"]
    near = MixtureOfExperts(
        plain.params.assign(coef=coef), None, None, family="gaussian", rows=plain.rows, options={}
    )
    model = daskmoe.refine(near, data, rounds=1)
    assert model.diagnostics is not None
    assert not model.diagnostics.attrs["refinement_converged"]
    assert model.standard_errors().attrs["kind"] == "approximate"

"""`aggregate`: models fitted elsewhere, from memory or disk, become one; those that do not fit are not."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

import daskmoe
from daskmoe import InvalidDataError, InvalidOptionError, MixtureOfExperts

# Rounds in a number are to be looked at, wherever they end.
pytestmark = pytest.mark.filterwarnings("ignore:The refinement ended short:daskmoe.errors.ConvergenceWarning")

Guard = Callable[..., AbstractContextManager[None]]
FAST: dict[str, Any] = {"n_init": 3, "random_state": 0}


@pytest.fixture(scope="module")
def data() -> xr.Dataset:
    data, _ = daskmoe.simulate(3_000, n_features=3, n_experts=2, design="overlap", random_state=0)
    data["y"].attrs["units"] = "K"
    return data


@pytest.fixture(scope="module")
def models(data: xr.Dataset) -> list[MixtureOfExperts]:
    """Three models of 500, 1,000 and 1,500 rows."""
    pieces = (slice(0, 500), slice(500, 1_500), slice(1_500, 3_000))
    return [daskmoe.fit_local(data.isel(row=piece), "y", n_experts=2, **FAST) for piece in pieces]


def assert_same_model(first: MixtureOfExperts, second: MixtureOfExperts) -> None:
    xr.testing.assert_identical(first.params, second.params)


def renamed(model: MixtureOfExperts, data: xr.Dataset) -> MixtureOfExperts:
    """The parameters of a model with the labels of a fit to other data."""
    return MixtureOfExperts.from_parameters(
        model.parameters, family="gaussian", rows=daskmoe.fit_local(data, "y", n_experts=1).rows
    )


# What the numbers must be.


def test_fit_is_the_local_fits_aggregated(data: xr.Dataset) -> None:
    """The local estimates and support sample of a fit, handed to `aggregate`, give the same model."""
    fitted = daskmoe.fit(
        data.chunk(row=1_000), "y", n_experts=2, support_size=3_000, aggregation="reduction", **FAST
    )
    assert fitted.local_estimates is not None
    local = [
        MixtureOfExperts(
            fitted.local_estimates.isel(partition=m, drop=True)
            .rename(local_expert="expert")
            .drop_vars("expert"),
            fitted.diagnostics.isel(partition=[m]),
            None,
            family="gaussian",
            rows=fitted.rows,
            options={},
        )
        for m in range(3)
    ]
    joined = daskmoe.aggregate(local, data)
    for one, other in zip(joined.parameters, fitted.parameters, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-12)


def test_one_expert_each_is_the_weighted_average(data: xr.Dataset) -> None:
    pieces = [data.isel(row=slice(0, 200)), data.isel(row=slice(200, 1_000))]
    models = [daskmoe.fit_local(piece, "y", n_experts=1) for piece in pieces]
    joined = daskmoe.aggregate(models, data)
    coefs = np.concatenate([model.parameters.coef[:, 0] for model in models])
    share = np.array([0.2, 0.8])
    np.testing.assert_allclose(joined.parameters.coef[0, 0], share @ coefs, rtol=1e-9)
    design = np.column_stack([np.ones(3_000), data["X"]])
    spread = np.mean((design @ (coefs - share @ coefs).T) ** 2, axis=0)
    variances = np.concatenate([model.parameters.nuisance[:, 0] for model in models])
    np.testing.assert_allclose(joined.parameters.nuisance[:, 0], share @ (variances + spread), rtol=1e-9)


def test_one_model_is_itself(models: list[MixtureOfExperts], data: xr.Dataset) -> None:
    assert_same_model(daskmoe.aggregate(models[:1], data), models[0])


@pytest.mark.parametrize("copies", [2, 7])
def test_copies_of_one_model_are_a_fixed_point(
    models: list[MixtureOfExperts], data: xr.Dataset, copies: int
) -> None:
    model = models[2]
    joined = daskmoe.aggregate([model] * copies, data)
    for one, other in zip(joined.parameters, model.parameters, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-7, atol=1e-9)
    assert joined.diagnostics is not None
    assert float(joined.diagnostics["objective"][-1]) == pytest.approx(0.0, abs=1e-12)


def test_a_refined_model_counts_by_the_rows_of_its_refinement(
    models: list[MixtureOfExperts], data: xr.Dataset
) -> None:
    refined = daskmoe.refine(models[0], data, rounds=1)
    joined = daskmoe.aggregate([refined, models[1]], data)
    assert joined.diagnostics is not None
    assert joined.diagnostics["weight"].values.tolist() == [3_000, 1_000]


def test_a_split_in_two_copies_counts_twice(models: list[MixtureOfExperts], data: xr.Dataset) -> None:
    """Weights are those of the fits: models of 500, 500 and 1,000 rows, two of them the same, are two."""
    first, second = models[0], models[1]
    joined = daskmoe.aggregate([first, first, second], data)
    one_expert_rows = joined.diagnostics
    assert one_expert_rows is not None
    assert one_expert_rows["weight"].values.tolist() == [500.0, 500.0, 1_000.0]
    half = daskmoe.aggregate([first, second, second, first], data)
    doubled = daskmoe.aggregate([first, second], data)
    for one, other in zip(half.parameters, doubled.parameters, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-7, atol=1e-9)


def test_the_order_of_models_changes_nothing(models: list[MixtureOfExperts], data: xr.Dataset) -> None:
    expected = daskmoe.aggregate(models, data)
    for order in itertools.permutations(models):
        joined = daskmoe.aggregate(order, data)
        for one, other in zip(joined.parameters, expected.parameters, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-7, atol=1e-9)


def test_the_order_of_many_models_changes_nothing(data: xr.Dataset) -> None:
    models = [
        daskmoe.fit_local(data.isel(row=slice(start, start + 250)), "y", n_experts=2, **FAST)
        for start in range(0, 3_000, 250)
    ]
    expected = daskmoe.aggregate(models, data)
    for seed in range(5):
        order = np.random.default_rng(seed).permutation(12)
        joined = daskmoe.aggregate([models[m] for m in order], data)
        for one, other in zip(joined.parameters, expected.parameters, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-7, atol=1e-9)


def test_the_divergence_never_rises_and_is_reported(models: list[MixtureOfExperts], data: xr.Dataset) -> None:
    joined = daskmoe.aggregate(models, data)
    assert joined.diagnostics is not None
    objective = joined.diagnostics["objective"].values
    assert len(objective) > 1
    assert (np.diff(objective) <= 0).all()
    assert objective[-1] == joined.diagnostics["start_objective"].values.min()
    assert joined.diagnostics["weight"].values.tolist() == [500.0, 1_000.0, 1_500.0]
    assert joined.local_estimates is not None
    for m, model in enumerate(models):
        np.testing.assert_array_equal(joined.local_estimates["coef"].isel(partition=m), model.params["coef"])


def test_a_model_can_be_aggregated_again(models: list[MixtureOfExperts], data: xr.Dataset) -> None:
    joined = daskmoe.aggregate(models[:2], data)
    again = daskmoe.aggregate([joined, models[2]], data)
    assert again.diagnostics is not None
    assert again.diagnostics["weight"].values.tolist() == [1_500.0, 1_500.0]


# Where models and support come from.


def test_saved_models_are_as_good_as_those_in_memory(
    models: list[MixtureOfExperts], data: xr.Dataset, tmp_path: Path
) -> None:
    expected = daskmoe.aggregate(models, data)
    models[0].to_zarr(tmp_path / "first.zarr")
    models[1].to_netcdf(tmp_path / "second.nc")
    saved = [tmp_path / "first.zarr", str(tmp_path / "second.nc"), models[2]]
    joined = daskmoe.aggregate(saved, data)
    assert_same_model(joined, expected)
    xr.testing.assert_identical(joined.diagnostics, expected.diagnostics)
    joined.to_zarr(tmp_path / "joined.zarr")
    assert_same_model(daskmoe.open_model(tmp_path / "joined.zarr"), expected)


def test_support_lazy_by_path_without_target_and_in_another_order(
    models: list[MixtureOfExperts], data: xr.Dataset, tmp_path: Path
) -> None:
    expected = daskmoe.aggregate(models, data)
    path = tmp_path / "support.zarr"
    features = data[["X"]]
    features.chunk(row=700).to_zarr(path, zarr_format=2)
    turned = features.isel(feature=[2, 0, 1])
    for support in (features, features.chunk(row=700), path, turned, turned.chunk(feature=1)):
        assert_same_model(daskmoe.aggregate(models, support), expected)


def test_incomplete_support_rows_are_left_out_and_said(
    models: list[MixtureOfExperts], data: xr.Dataset, caplog: pytest.LogCaptureFixture
) -> None:
    support = data[["X"]].copy(deep=True)
    support["X"][::3, 1] = np.nan
    support["X"][1::3, 0] = np.inf
    complete = data[["X"]].isel(row=slice(2, None, 3))
    with caplog.at_level("WARNING", "daskmoe"):
        found = daskmoe.aggregate(models, support)
    assert "sampled rows are left out for values that are missing or levels" in caplog.text
    assert_same_model(found, daskmoe.aggregate(models, complete))


def test_a_large_support_is_sampled_by_the_seed(models: list[MixtureOfExperts]) -> None:
    large, _ = daskmoe.simulate(12_000, n_features=3, n_experts=2, design="overlap", random_state=1)
    first, same, other = (daskmoe.aggregate(models, large, random_state=seed) for seed in (0, 0, 1))
    assert_same_model(first, same)
    assert not first.params.identical(other.params)


# Sizes.


def test_sizes_that_differ_need_a_size(data: xr.Dataset, models: list[MixtureOfExperts]) -> None:
    large = daskmoe.fit_local(data, "y", n_experts=3, **FAST)
    with pytest.raises(InvalidDataError) as caught:
        daskmoe.aggregate([models[0], large], data)
    for part in ("n_experts: expected models of one size where n_experts is not given", "[2, 3]"):
        assert part in str(caught.value)
    for size in (2, 3):
        joined = daskmoe.aggregate([models[0], large], data, n_experts=size)
        assert joined.n_experts == size
        assert np.isfinite(joined.parameters.gate).all()
        np.testing.assert_allclose(joined.gating_probabilities(data).sum("expert"), 1.0)
    assert joined.local_estimates is not None
    assert joined.local_estimates.sizes["local_expert"] == 3
    assert joined.local_estimates["variance"].isel(partition=0, local_expert=2).isnull()


# Bad input.


def test_no_models(data: xr.Dataset) -> None:
    with pytest.raises(InvalidDataError, match="expected at least one fitted model, got none"):
        daskmoe.aggregate([], data)


def test_one_model_is_no_sequence(models: list[MixtureOfExperts], data: xr.Dataset) -> None:
    for one in (models[0], "model.zarr"):
        with pytest.raises(InvalidDataError, match="models: expected a sequence"):
            daskmoe.aggregate(one, data)  # type: ignore[arg-type]


def test_a_model_that_is_none(models: list[MixtureOfExperts], data: xr.Dataset) -> None:
    with pytest.raises(InvalidDataError, match=r"models\[1\]: expected a fitted model .*got int\."):
        daskmoe.aggregate([models[0], 3], data)  # type: ignore[list-item]


def test_a_support_of_one_row_without_its_dimension(models: list[MixtureOfExperts], data: xr.Dataset) -> None:
    with pytest.raises(InvalidDataError, match="support: expected a sample dimension"):
        daskmoe.aggregate(models, data.isel(row=0))


def test_a_model_that_does_not_say_its_rows(models: list[MixtureOfExperts], data: xr.Dataset) -> None:
    bare = renamed(models[0], data)
    with pytest.raises(InvalidDataError, match="nothing from model 1"):
        daskmoe.aggregate([models[0], bare], data)
    daskmoe.aggregate([bare, bare], data)


def test_other_features(models: list[MixtureOfExperts], data: xr.Dataset) -> None:
    others = [
        data.isel(feature=[0, 1]),
        data.isel(feature=[2, 1, 0]),
        data.assign_coords(feature=["a", "b", "c"]),
    ]
    for other in others:
        model = daskmoe.fit_local(other, "y", n_experts=2, **FAST)
        with pytest.raises(InvalidDataError) as caught:
            daskmoe.aggregate([models[0], model], data)
        for part in ("expected the same features in all", "'x0', 'x1', 'x2'", "model 1", "labelled alike"):
            assert part in str(caught.value)


def test_other_targets(models: list[MixtureOfExperts], data: xr.Dataset) -> None:
    model = daskmoe.fit_local(data.rename(y="z"), "z", n_experts=2, **FAST)
    with pytest.raises(InvalidDataError, match="expected the same target in all, got 'y' in model 0 and 'z'"):
        daskmoe.aggregate([models[0], models[1], model], data)


def test_other_units_of_the_target(models: list[MixtureOfExperts], data: xr.Dataset) -> None:
    other = data.assign(y=data["y"].assign_attrs(units="degC"))
    with pytest.raises(InvalidDataError) as caught:
        daskmoe.aggregate([models[0], renamed(models[1], other)], data)
    for part in ("units", "'K' in model 0", "'degC' in model 1"):
        assert part in str(caught.value)


def test_other_units_of_a_feature(models: list[MixtureOfExperts], data: xr.Dataset) -> None:
    metres, feet = (data.assign(X=data["X"].assign_attrs(units=units)) for units in ("m", "ft"))
    pair = [renamed(models[0], metres), renamed(models[1], feet)]
    with pytest.raises(InvalidDataError) as caught:
        daskmoe.aggregate(pair, data)
    for part in ("units", "'m' in model 0", "'ft' in model 1"):
        assert part in str(caught.value)


def test_other_families(models: list[MixtureOfExperts], data: xr.Dataset) -> None:
    class Counts(MixtureOfExperts):
        family = "poisson"  # type: ignore[assignment]

    first = models[0]
    other = Counts(first.params, None, None, family="gaussian", rows=first.rows, options={})
    with pytest.raises(InvalidDataError, match="same family in all, got 'gaussian' in model 0 and 'poisson'"):
        daskmoe.aggregate([first, other], data)


def test_empty_support(
    models: list[MixtureOfExperts], data: xr.Dataset, raise_if_dask_computes: Guard
) -> None:
    missing = data.assign(X=data["X"] * np.nan)
    for support in (data.isel(row=slice(0)), missing):
        with pytest.raises(InvalidDataError, match=r"support|no rows"):
            daskmoe.aggregate(models, support)
    with pytest.raises(InvalidDataError, match="at least one row without missing features, got none"):
        daskmoe.aggregate(models, missing)


def test_a_support_with_other_labels(models: list[MixtureOfExperts], data: xr.Dataset) -> None:
    with pytest.raises(InvalidDataError, match=r"misses the labels 'x2'"):
        daskmoe.aggregate(models, data.isel(feature=[0, 1]))
    more = xr.concat([data, data.assign_coords(feature=["u", "v", "w"])], "feature", data_vars=["X"])
    with pytest.raises(InvalidDataError, match=r"labels along 'feature' that the model does not know: 'u'"):
        daskmoe.aggregate(models, more)
    with pytest.raises(InvalidDataError, match="'X'"):
        daskmoe.aggregate(models, data[["y"]])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "average"}, r"method: expected one of \['auto', .*'aligned'\], got 'average'"),
        ({"n_experts": 0}, "n_experts: expected an integer of at least 1, got 0"),
        ({"n_experts": 2.0}, "n_experts: expected an integer of at least 1, got 2.0"),
        (
            {"n_experts": 7},
            "n_experts: expected at most 6, the experts of all local estimators together, got 7",
        ),
        (
            {"n_experts": 3, "method": "middle"},
            r"n_experts: expected the size of a local estimator, \[2\], got 3",
        ),
        (
            {"n_experts": 3, "method": "aligned"},
            r"expected 3 experts in every local estimator to average them, got sizes \[2\]",
        ),
        ({"random_state": -1}, "random_state: expected an integer of at least 0, got -1"),
    ],
)
def test_unknown_options(
    models: list[MixtureOfExperts], data: xr.Dataset, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidOptionError, match=message):
        daskmoe.aggregate(models, data, **options)


def test_models_that_do_not_exist(models: list[MixtureOfExperts], data: xr.Dataset, tmp_path: Path) -> None:
    with pytest.raises(daskmoe.StoreError, match=r"nowhere\.zarr"):
        daskmoe.aggregate([models[0], tmp_path / "nowhere.zarr"], data)
    with pytest.raises(daskmoe.StoreError, match=r"nothing\.zarr"):
        daskmoe.aggregate(models, tmp_path / "nothing.zarr")


# What a model's rows do not identify.


def site(rng: np.random.Generator, *, urban: bool = True) -> xr.Dataset:
    """Rows of which those of a rural site never have the dummy."""
    x = rng.normal(size=(800, 3))
    x[:, 2] = (rng.random(800) < 0.5) & urban
    right = rng.random(800) < 1 / (1 + np.exp(-4 * x[:, 0]))
    y = np.where(right, 2 + 3 * x[:, 1], -2 - x[:, 1]) + 2 * x[:, 2] + 0.3 * rng.normal(size=800)
    features = xr.DataArray(x, dims=("row", "feature"), coords={"feature": ["f0", "f1", "urban"]})
    return xr.Dataset({"x": features, "y": ("row", y)})


@pytest.fixture(scope="module")
def sites() -> list[xr.Dataset]:
    rng = np.random.default_rng(0)
    return [site(rng, urban=m != 1) for m in range(4)]


@pytest.fixture(scope="module")
def site_models(sites: list[xr.Dataset]) -> list[MixtureOfExperts]:
    return [daskmoe.fit_local(rows, "y", n_experts=2, **FAST) for rows in sites]


@pytest.mark.parametrize(
    ("method", "saved"), [("reduction", "zarr"), ("whole", "nc"), ("greedy", "nc"), ("aligned", "nc")]
)
def test_a_site_without_a_level_says_nothing_of_it(
    method: Any, saved: str, sites: list[xr.Dataset], site_models: list[MixtureOfExperts], tmp_path: Path
) -> None:
    paths = [tmp_path / f"{m}.{saved}" for m in range(4)]
    for model, path in zip(site_models, paths, strict=True):
        (model.to_zarr if saved == "zarr" else model.to_netcdf)(path)
    joint = daskmoe.aggregate(paths, xr.concat(sites, "row"), method=method, random_state=0)
    np.testing.assert_allclose(joint.params["coef"].sel(feature="urban"), 2.0, atol=0.05)
    assert joint.diagnostics is not None
    found = joint.diagnostics["unidentified"]
    assert int(found.sum()) == int(found.sel(partition="1", feature="urban")) == 1


def test_models_of_0_1_0_are_taken_to_know_everything(
    sites: list[xr.Dataset], site_models: list[MixtureOfExperts]
) -> None:
    """They did not save the moments of their rows."""
    old = []
    for model in site_models:
        assert model.diagnostics is not None
        diagnostics = model.diagnostics.drop_dims("column").drop_vars("row_weight")
        old.append(
            MixtureOfExperts(
                model.params, diagnostics, None, family=model.family, rows=model.rows, options=model.options
            )
        )
    joint = daskmoe.aggregate(old, xr.concat(sites, "row"), random_state=0)
    assert joint.diagnostics is not None
    assert "unidentified" not in joint.diagnostics
    assert (joint.params["coef"].sel(feature="urban") < 1.9).all()


def test_the_weighted_average_warns_of_its_zeros(
    sites: list[xr.Dataset], site_models: list[MixtureOfExperts]
) -> None:
    with pytest.warns(daskmoe.IdentificationWarning, match=r"nothing of: 'urban' in partition '1'"):
        daskmoe.aggregate(site_models, sites[0], method="weighted", random_state=0)


def test_a_support_that_no_model_knows_is_a_warning(
    sites: list[xr.Dataset], site_models: list[MixtureOfExperts]
) -> None:
    with pytest.warns(daskmoe.IdentificationWarning, match="knows 50.9% of the support.*'urban'"):
        daskmoe.aggregate([site_models[1]] * 2, xr.concat(sites[:1], "row"), random_state=0)


def test_an_aggregate_knows_what_its_models_knew(
    sites: list[xr.Dataset], site_models: list[MixtureOfExperts]
) -> None:
    """Joined again with the site that lacks a level, it still says what that level is worth."""
    joint = daskmoe.aggregate(site_models[2:], xr.concat(sites[2:], "row"), random_state=0)
    again = daskmoe.aggregate([joint, site_models[1]], xr.concat(sites[1:], "row"), random_state=0)
    np.testing.assert_allclose(again.params["coef"].sel(feature="urban"), 2.0, atol=0.07)


@pytest.mark.parametrize(
    "options",
    [
        {"support": "features"},
        {"support": "synthetic"},
        {"aggregation": "reduction"},
        {"aggregation": "aligned"},
    ],
    ids=str,
)
def test_partitions_that_are_categories(options: dict[str, Any]) -> None:
    """Partitions by site, with dummies of the sites: each knows its own rows only."""
    rng = np.random.default_rng(0)
    n, n_sites = 3_200, 4
    site, x = np.repeat(np.arange(n_sites), n // n_sites), rng.normal(size=(n, 2))
    right = rng.random(n) < 1 / (1 + np.exp(-2 * x[:, 0]))
    y = np.linspace(-4, 4, n_sites)[site] + np.where(right, 2 + 1.5 * x[:, 1], -1 - x[:, 1])
    y += 0.4 * rng.normal(size=n)
    features = np.column_stack([x, np.eye(n_sites)[site]])
    data = xr.Dataset({"x": (("row", "feature"), features), "y": ("row", y)}, {"site": ("row", site)})
    best = daskmoe.fit_local(data, "y", n_experts=2, **FAST)
    found = daskmoe.fit(data, "y", n_experts=2, partitions="site", **options, **FAST)
    errors = [float(np.sqrt(((data["y"] - m.predict(data)) ** 2).mean())) for m in (best, found)]
    assert errors[1] < 1.01 * errors[0]

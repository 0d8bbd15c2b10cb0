"""Covariances, what they say of contrasts, and which parameters have no error."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import daskmoe
from daskmoe import MixtureOfExperts

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
    assert "no errors   of 12 parameters that the rows do not identify: gate_coef[0, b], " in text
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

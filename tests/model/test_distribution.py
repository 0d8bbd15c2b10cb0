"""Quantiles and P(Y <= y) of rows, of every kind of model."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import xarray as xr
from numpy.testing import assert_allclose, assert_array_equal
from scipy import stats

import daskmoe
from daskmoe import InvalidDataError, InvalidOptionError

N = 600
FROZEN: dict[str, Callable[[np.ndarray, xr.Dataset], Any]] = {
    "gaussian": lambda eta, p: stats.norm(eta, p["variance"].values ** 0.5),
    "student_t": lambda eta, p: stats.t(p["df"].values, eta, p["scale"].values),
    "gamma": lambda eta, p: stats.gamma(p["shape"].values, scale=np.exp(eta) / p["shape"].values),
    "poisson": lambda eta, p: stats.poisson(np.exp(eta)),
}


@pytest.fixture(scope="module")
def data() -> xr.Dataset:
    rng = np.random.default_rng(0)
    x = rng.normal(size=N)
    y = np.exp(0.3 * x + 1)
    return xr.Dataset(
        {
            "x": ("row", x),
            "gaussian": ("row", y + rng.normal(size=N), {"units": "K"}),
            "student_t": ("row", y + rng.standard_t(4, N)),
            "gamma": ("row", rng.gamma(2, y / 2)),
            "poisson": ("row", rng.poisson(y)),
            "rain": ("row", np.where(rng.random(N) < 0.4, 0.7, rng.gamma(2, y / 2)).astype(np.float32)),
            "wind": (("row", "level"), np.stack([y, -y]).T + rng.normal(size=(N, 2))),
            "sky": ("row", np.where(x > rng.normal(size=N), "clear", "cloud")),
        },
        {"level": [10, 500]},
    )


def fitted(data: xr.Dataset, target: str, **options: Any) -> Any:
    return daskmoe.fit_local(data, target, features="x", **{"n_experts": 1, "random_state": 0} | options)


@pytest.mark.parametrize("family", FROZEN)
def test_one_expert_is_the_distribution_of_scipy(data: xr.Dataset, family: str) -> None:
    model = fitted(data, family, family=family)
    params = model.params.isel(expert=0)
    own = FROZEN[family]((params["intercept"] + params["coef"].values[0] * data["x"]).values, params)
    assert_allclose(model.quantile(data, 0.3), own.ppf(0.3), rtol=1e-8)
    assert_allclose(model.quantile(data), own.ppf(0.5), rtol=1e-8)
    assert_allclose(model.quantile(data, [0.01, 0.99]), [own.ppf(0.01), own.ppf(0.99)], rtol=1e-8)
    assert_allclose(model.cdf(data), own.cdf(data[family].values), rtol=1e-8)
    # Outside of what the family can have, and between counts, too.
    assert_allclose(model.cdf(data, [-1.0, 1.5]), [own.cdf(-1.0), own.cdf(1.5)], rtol=1e-8)
    assert model.quantile(data.chunk(row=100)).chunks == ((100,) * 6,)


def test_values_may_be_given_by_row_or_for_some_dimensions(data: xr.Dataset) -> None:
    model = fitted(data, "gaussian", n_experts=2)
    assert_allclose(model.cdf(data[["x"]], data["gaussian"]), model.cdf(data))
    grid = xr.Dataset(
        {name: (("time", "cell"), data[name].values.reshape(60, 10)) for name in ("x", "gamma")}
    )
    model = fitted(grid, "gamma", n_experts=2)
    limits = xr.DataArray(np.linspace(0.0, 4.0, 10), dims="cell")
    each = [model.cdf(grid.isel(cell=i), float(limits[i])) for i in range(10)]
    found = model.cdf(grid, limits)
    assert found.dims == ("time", "cell")
    assert_allclose(found, xr.concat(each, "cell").T)
    with pytest.raises(InvalidDataError, match=r"y: expected sizes among .*'cell': 10.*, got \{'cell': 9\}"):
        model.cdf(grid, limits[1:])


def test_atoms_have_their_mass(data: xr.Dataset) -> None:
    model = fitted(data, "rain", family="gamma", atoms=[0.7])
    before, at = model.cdf(data, [np.nextafter(0.7, 0), 0.7])
    chance = model.gating_probabilities(data).isel(expert=-1)
    assert_allclose(at - before, chance, rtol=1e-8)
    # 0.7 in single precision is less than 0.7.
    is_atom = (data["rain"] == np.float32(0.7)).values
    assert_allclose(model.cdf(data)[is_atom], at[is_atom])
    middle = model.quantile(data, 0.5)
    assert_array_equal((middle == 0.7).values, ((before < 0.5) & (at >= 0.5)).values)
    interval = model.predict_interval(data, 0.8)
    assert_allclose(model.quantile(data, [0.1, 0.9]), [interval["lower"], interval["upper"]])


def test_several_outputs_have_one_each(data: xr.Dataset) -> None:
    model = fitted(data, "wind", n_experts=2, output_dim="level")
    interval = model.predict_interval(data, 0.8)
    both = model.quantile(data.chunk(row=200), [0.1, 0.9])
    assert both.dims == ("quantile", "row", "level")
    assert both["level"].values.tolist() == [10, 500]
    assert_allclose(both, [interval["lower"], interval["upper"]])
    assert_allclose(model.cdf(data, interval["lower"]), np.full((N, 2), 0.1), rtol=1e-8)
    assert_allclose(model.cdf(data, 1.0), model.cdf(data, xr.full_like(data["wind"], 1.0)))
    assert model.cdf(data).dims == ("row", "level")


def test_what_cannot_be_asked_is_refused(data: xr.Dataset) -> None:
    model = fitted(data, "gaussian")
    for wrong in (0.0, 1.0, [0.5, 2.0], [], "0.5", [[0.5]]):
        with pytest.raises(InvalidOptionError, match=r"^q: expected a number"):
            model.quantile(data, wrong)
    with pytest.raises(InvalidOptionError, match=r"^y: expected a number"):
        model.cdf(data, "warm")
    classes = fitted(data, "sky", family="categorical")
    for ask in (classes.quantile, classes.cdf):
        with pytest.raises(InvalidDataError, match=r"which have no order; use model\.predict_proba\(data\)"):
            ask(data)

"""Offsets: a variable that is a part of every expert's linear predictor."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import scipy.optimize
import xarray as xr

import daskmoe
from daskmoe import DaskMoEError, InvalidDataError, InvalidOptionError
from daskmoe.options import OnError

N = 800


def simulated(family: str, seed: int = 0) -> xr.Dataset:
    """Two experts along x, a gate along z, exposures over a range of fifty."""
    rng = np.random.default_rng(seed)
    x, z = rng.normal(size=(2, N))
    exposure = np.log(rng.uniform(1, 50, N))
    first = rng.random(N) < 1 / (1 + np.exp(-(0.5 + 2 * z)))
    mean = np.exp(exposure + np.where(first, 1 + 0.5 * x, -1 - 0.3 * x))
    y = rng.poisson(mean).astype(float) if family == "poisson" else rng.gamma(4.0, mean / 4.0)
    names = {"x": x, "z": z, "exposure": exposure, "y": y}
    return xr.Dataset({name: ("row", values) for name, values in names.items()})


def own(family: str) -> dict[str, object]:
    return {"family": family, "offset": "exposure", "n_experts": 2, "random_state": 0}


@pytest.mark.parametrize("family", ["poisson", "gamma"])
def test_one_expert_is_the_regression_with_an_offset(family: str) -> None:
    data = simulated(family)
    model = daskmoe.fit(data, "y", partitions=3, refine="converged", **(own(family) | {"n_experts": 1}))
    design = np.column_stack([np.ones(N), data["x"], data["z"]])
    y, offset = data["y"].values, data["exposure"].values

    def score(coef: np.ndarray) -> np.ndarray:
        mean = np.exp(design @ coef + offset)
        return design.T @ (y - mean if family == "poisson" else y / mean - 1.0)

    exact = scipy.optimize.root(score, np.zeros(3), tol=1e-13).x
    np.testing.assert_allclose(model.params["intercept"], exact[:1], rtol=1e-6)
    np.testing.assert_allclose(model.params["coef"][0], exact[1:], rtol=1e-6)
    assert model.feature_names == ("x", "z")


@pytest.mark.parametrize(
    ("aggregation", "support"),
    [("auto", "labelled"), ("auto", "features"), ("reduction", "synthetic")],
)
def test_an_offset_of_gamma_experts_is_a_unit_of_the_target(aggregation: str, support: str) -> None:
    data = simulated("gamma")
    plain = data.assign(y=data["y"] / np.exp(data["exposure"])).drop_vars("exposure")
    options = {"partitions": 3, "aggregation": aggregation, "support": support}
    model = daskmoe.fit(data, "y", **options, **own("gamma"))
    expected = daskmoe.fit(plain, "y", **options, **(own("gamma") | {"offset": None}))
    lost = expected.log_likelihood(plain) - float(data["exposure"].sum()) - model.log_likelihood(data)
    assert abs(lost) < (1e-3 if aggregation == "auto" and support == "labelled" else 5e-3) * N
    coef = model.params["coef"].sortby(model.params["intercept"])
    np.testing.assert_allclose(coef, expected.params["coef"].sortby(expected.params["intercept"]), atol=0.03)
    predicted = model.predict(data) / np.exp(data["exposure"])
    np.testing.assert_allclose(predicted, expected.predict(plain), rtol=0.1)


def test_an_offset_goes_through_every_verb(tmp_path: Path) -> None:
    data = simulated("poisson")
    model = daskmoe.fit(
        data, "y", features="x", gate_features="z", partitions=3, refine="converged", **own("poisson")
    )
    order = np.argsort(model.params["intercept"].values)
    np.testing.assert_allclose(model.params["intercept"][order], [-1.0, 1.0], atol=0.1)
    assert (model.standard_errors()["coef"] > 0).all()
    assert model.n_parameters == 2 + 4
    assert model.rows.offset == "exposure"
    model.to_zarr(tmp_path / "m.zarr")
    again = daskmoe.open_model(tmp_path / "m.zarr")
    for ask in ("predict", "sample", "predict_interval", "extrapolation", "responsibilities"):
        options = {"random_state": 0} if ask == "sample" else {}
        found, expected = (getattr(each, ask)(data, **options) for each in (again, model))
        xr.testing.assert_identical(found, expected)
    doubled = data.assign(exposure=data["exposure"] + np.log(2.0))
    np.testing.assert_allclose(model.predict(doubled), 2 * model.predict(data))
    joined = daskmoe.aggregate([model, again], data)
    assert joined.log_likelihood(data) == pytest.approx(model.log_likelihood(data), abs=0.01)
    assert model.permute([1, 0]).log_likelihood(data) == pytest.approx(model.log_likelihood(data))
    table = data.to_dataframe()
    estimator = daskmoe.MoERegressor(**own("poisson")).fit(table[["x", "z", "exposure"]], table["y"])
    assert estimator.model_.feature_names == ("x", "z")
    with pytest.raises(InvalidDataError, match="offset variable 'exposure'"):
        model.predict(data.drop_vars("exposure"))


def test_what_cannot_have_an_offset_is_refused() -> None:
    data = simulated("poisson")
    with pytest.raises(InvalidOptionError, match="family='poisson' or 'gamma'"):
        daskmoe.fit_local(data, "y", offset="exposure", n_experts=2)
    with pytest.raises(InvalidOptionError, match="name of a variable"):
        daskmoe.fit_local(data, "y", offset=1.0, family="poisson", n_experts=2)  # type: ignore[arg-type]
    with pytest.raises(InvalidDataError, match="offset variable 'time'"):
        daskmoe.fit_local(data, "y", offset="time", family="poisson", n_experts=2)
    with pytest.raises(InvalidDataError, match="'y' cannot be the offset: it is the target"):
        daskmoe.fit_local(data, "y", offset="y", family="poisson", n_experts=2)
    # Log-odds of labels have no offset, and labels nothing that could be taken off them.
    with pytest.raises(InvalidOptionError, match="or make it a feature"):
        daskmoe.fit_local(data, "y", offset="exposure", family="categorical", n_experts=2)


@pytest.mark.parametrize("on_error", ["raise", "skip"])
def test_an_exposure_is_no_offset(on_error: OnError) -> None:
    data = simulated("poisson")
    data["people"] = 1000.0 * np.exp(data["exposure"])
    options = own("poisson") | {"offset": "people", "partitions": 2, "on_error": on_error}
    with pytest.raises(DaskMoEError, match=r"the logarithm of an exposure.*offset='log_exposure'"):
        daskmoe.fit(data, "y", features=["x"], **options)

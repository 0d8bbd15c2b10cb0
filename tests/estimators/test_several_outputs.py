"""Targets of several outputs: the model of `fit`, and answers of the kind that was given."""

from __future__ import annotations

from typing import Any

import dask.array as da
import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from numpy.typing import NDArray
from sklearn.metrics import r2_score

import daskmoe
from daskmoe import InvalidDataError, InvalidOptionError, MoEClassifier, MoERegressor

N = 400


def regressor(**options: Any) -> MoERegressor:
    return MoERegressor(2, **({"random_state": 0, "n_init": 3} | options))


@pytest.fixture(scope="module")
def X() -> NDArray[Any]:
    return np.random.default_rng(0).normal(size=(N, 2))


@pytest.fixture(scope="module")
def Y(X: NDArray[Any]) -> NDArray[Any]:
    mean = np.where(X[:, 0] > 0, 3.0, -1.0) * X[:, 1]
    noise = np.random.default_rng(1).normal(size=(N, 3)) * [0.1, 5.0, 0.1]
    return np.column_stack([mean, 50.0 * mean, X[:, 0]]) + noise


@pytest.fixture(scope="module")
def fitted(X: NDArray[Any], Y: NDArray[Any]) -> MoERegressor:
    return regressor().fit(X, Y)


def test_arrays(X: NDArray[Any], Y: NDArray[Any], fitted: MoERegressor) -> None:
    data = xr.Dataset({"X": (("row", "feature"), X), "y": (("row", "output"), Y)})
    data = data.assign_coords(feature=["x0", "x1"])
    model = daskmoe.fit(data, "y", features="X", n_experts=2, output_dim="output", n_init=3, random_state=0)
    predicted = fitted.predict(X)
    np.testing.assert_array_equal(predicted, model.predict(data))
    interval = fitted.predict_interval(X, 0.9)
    assert interval.shape == (N, 3, 2)
    inside = ((Y - interval[..., 0]) * (interval[..., 1] - Y) > 0).mean(axis=0)
    assert inside.min() > 0.85
    assert inside.max() < 0.96
    assert fitted.sample(X, random_state=0).shape == Y.shape
    weight = np.random.default_rng(2).uniform(size=N)
    assert fitted.score(X, Y, weight) == pytest.approx(r2_score(Y, predicted, sample_weight=weight))


def test_tables(X: NDArray[Any], Y: NDArray[Any], fitted: MoERegressor) -> None:
    index = pd.date_range("2024", periods=N)
    rows = pd.DataFrame(X, columns=["a", "b"], index=index)
    targets = pd.DataFrame(Y, columns=["u", "v", "w"], index=index)
    known = regressor().fit(rows, targets)
    predicted = known.predict(rows)
    pd.testing.assert_frame_equal(predicted, pd.DataFrame(fitted.predict(X), index, ["u", "v", "w"]))
    assert known.model_.rows.outputs == ("u", "v", "w")
    interval = known.predict_interval(rows)
    assert (interval["v", "lower"] < predicted["v"]).all()
    assert (predicted["v"] < interval["v", "upper"]).all()
    lazy = dd.from_pandas(rows, npartitions=2)
    answers = known.predict(lazy)
    assert isinstance(answers, dd.DataFrame)
    pd.testing.assert_frame_equal(answers.compute(), predicted, check_freq=False)
    model = regressor().fit(lazy, dd.from_pandas(targets, npartitions=2)).model_
    assert model.rows.outputs == ("u", "v", "w")


def test_lazy_arrays_and_labelled_ones(X: NDArray[Any], Y: NDArray[Any]) -> None:
    chunked = da.from_array(X, chunks=(200, 2))
    known = regressor(refine="converged").fit(chunked, da.from_array(Y, chunks=(130, 2)))
    answers = known.predict(chunked)
    assert isinstance(answers, da.Array)
    assert known.predict_interval(chunked).shape == (N, 3, 2)
    rows = xr.DataArray(X, dims=("time", "band"), name="X")
    targets = xr.DataArray(Y, dims=("time", "gas"), coords={"gas": ["u", "v", "w"]}, name="emissions")
    labelled = regressor(refine="converged").fit(rows, targets)
    predicted = labelled.predict(rows)
    assert predicted.dims == ("time", "gas")
    assert predicted["gas"].values.tolist() == ["u", "v", "w"]
    np.testing.assert_allclose(predicted, answers.compute(), rtol=1e-4, atol=1e-4)
    assert labelled.score(rows, targets.transpose("gas", "time")) == pytest.approx(r2_score(Y, predicted))


def test_what_is_refused(X: NDArray[Any], Y: NDArray[Any], fitted: MoERegressor) -> None:
    with pytest.raises(InvalidDataError, match="y should be a 1d array"):
        regressor().fit(X, Y[:, :, None])
    with pytest.raises(InvalidDataError, match="y should be a 1d array"):
        MoEClassifier(2).fit(X, (Y > 0).astype(int))
    with pytest.raises(InvalidOptionError, match="output_dim"):
        regressor(family="poisson").fit(X, np.abs(Y))
    holes = X.copy()
    holes[3, 0] = np.nan
    with pytest.raises(InvalidDataError, match="NaN or infinity in 1 of 400 rows"):
        fitted.predict(holes)

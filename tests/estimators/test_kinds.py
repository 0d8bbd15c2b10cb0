"""What holds the rows: the same model of each, and answers of the kind that was given."""

from __future__ import annotations

from typing import Any

import dask.array as da
import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from numpy.typing import NDArray
from sklearn.model_selection import cross_val_score

import daskmoe
from daskmoe import InvalidDataError, MoEClassifier, MoERegressor, features

N = 600


def regressor(**options: Any) -> MoERegressor:
    return MoERegressor(2, **({"random_state": 0, "n_init": 3} | options))


@pytest.fixture(scope="module")
def X() -> NDArray[Any]:
    return np.random.default_rng(0).normal(size=(N, 2))


@pytest.fixture(scope="module")
def y(X: NDArray[Any]) -> NDArray[Any]:
    return np.where(X[:, 0] > 0, 3.0, -1.0) * X[:, 1] + 0.1 * np.random.default_rng(1).normal(size=N)


@pytest.fixture(scope="module")
def known(X: NDArray[Any], y: NDArray[Any]) -> NDArray[Any]:
    """Predictions of the model of all rows at once."""
    predicted: NDArray[Any] = regressor(refine="converged").fit(X, y).predict(X)
    return predicted


def test_numpy(X: NDArray[Any], y: NDArray[Any]) -> None:
    fitted = regressor().fit(X.tolist(), y.tolist())
    assert isinstance(fitted.predict(X), np.ndarray)
    interval = fitted.predict_interval(X, 0.9)
    inside = (interval[:, 0] < y) & (y < interval[:, 1])
    assert interval.shape == (N, 2)
    assert 0.85 < inside.mean() < 0.95
    drawn = fitted.sample(X, random_state=0)
    np.testing.assert_array_equal(drawn, fitted.sample(X, random_state=0))
    assert np.std(drawn - fitted.predict(X)) > 0.05
    assert fitted.model_.feature_names == ("x0", "x1")
    assert fitted.n_features_in_ == 2
    assert not hasattr(fitted, "feature_names_in_")


def test_tables(X: NDArray[Any], y: NDArray[Any]) -> None:
    table = pd.DataFrame(X, columns=["row", "y"], index=pd.date_range("2024", periods=N))
    table["site"] = pd.Categorical(np.where(X[:, 1] > 0, "N", "S"))
    table["wind"] = np.where(X[:, 0] > 1, "W", "E")
    fitted = regressor().fit(table, pd.Series(y, name="load"))
    assert fitted.model_.feature_names == ("row", "site_S", "wind_W", "y")
    assert fitted.feature_names_in_.tolist() == ["row", "y", "site", "wind"]
    predicted, interval = fitted.predict(table), fitted.predict_interval(table)
    assert isinstance(predicted, pd.Series)
    assert predicted.name == "load"
    assert predicted.index.equals(table.index)
    assert list(interval.columns) == ["lower", "upper"]
    assert fitted.score(table, y) > 0.98
    # What was an array is taken by position, and said.
    with pytest.warns(UserWarning, match="X does not have valid feature names, but MoERegressor was fitted"):
        np.testing.assert_allclose(fitted.predict(table.to_numpy()), predicted)


@pytest.mark.parametrize("name", ["row", "X", "feature", "sample_weight", "x0", None, 3])
def test_targets_of_any_name(X: NDArray[Any], y: NDArray[Any], name: Any) -> None:
    weight = np.ones(N)
    plain = regressor().fit(X, y, weight).predict(X)
    for rows in (X, pd.DataFrame(X), pd.DataFrame(X, columns=["row", "sample_weight"])):
        fitted = regressor().fit(rows, pd.Series(y, name=name), weight)
        np.testing.assert_allclose(fitted.predict(rows), plain, atol=1e-6)


def test_terms_of_columns(X: NDArray[Any], y: NDArray[Any]) -> None:
    table = pd.DataFrame(X, columns=["a", "b"])
    fitted = regressor(features=["b", features.powers("a", 2)]).fit(table, y)
    assert fitted.model_.feature_names == ("b", "a", "a^2")
    assert fitted.score(table, y) > 0.9


def test_terms_of_the_index(X: NDArray[Any], y: NDArray[Any]) -> None:
    when = pd.date_range("2024", periods=N, freq="h", name="time")
    table = pd.DataFrame(X, columns=["a", "b"], index=when)
    fitted = regressor(features=["b", features.harmonics("time", "1D")]).fit(table, y)
    assert fitted.model_.feature_names == ("b", "time_sin_1D", "time_cos_1D")
    assert fitted.predict(table).index.equals(when)


def test_columns_that_are_numbered(X: NDArray[Any], y: NDArray[Any]) -> None:
    table = pd.DataFrame(X)
    fitted = regressor().fit(table, y)
    assert not hasattr(fitted, "feature_names_in_")
    np.testing.assert_allclose(fitted.predict(table).to_numpy(), fitted.predict(X))


def test_dask_arrays(X: NDArray[Any], y: NDArray[Any], known: NDArray[Any]) -> None:
    lazy = da.from_array(X, chunks=(200, 1))
    fitted = regressor(refine="converged").fit(lazy, da.from_array(y, chunks=300))
    assert fitted.model_.diagnostics is not None
    assert fitted.model_.diagnostics.sizes["partition"] == 3
    predicted = fitted.predict(lazy)
    assert isinstance(predicted, da.Array)
    assert predicted.chunks == ((200, 200, 200),)
    np.testing.assert_allclose(predicted.compute(), known, atol=1e-5)
    assert fitted.predict_interval(lazy).shape == (N, 2)
    assert fitted.sample(lazy, 0).compute().std() > 0
    assert fitted.score(lazy, y) > 0.99
    unknown = lazy[lazy[:, 0] > 0]
    with pytest.raises(InvalidDataError, match=r"use X\.compute_chunk_sizes\(\)"):
        fitted.predict(unknown)


def test_dask_tables(X: NDArray[Any], y: NDArray[Any]) -> None:
    table = pd.DataFrame(X, columns=["a", "b"])
    table["site"] = pd.Categorical(np.where(X[:, 1] > 0, "N", "S"), categories=["S", "N"])
    table["wind"] = np.where(X[:, 0] > 1, "W", "E")
    lazy = dd.from_pandas(table, npartitions=3)
    fitted = regressor().fit(lazy, dd.from_pandas(pd.Series(y, name="load"), npartitions=3))
    assert fitted.model_.diagnostics is not None
    assert fitted.model_.diagnostics.sizes["partition"] == 3
    assert fitted.model_.feature_names == ("a", "b", "site_N", "wind_W")
    predicted = fitted.predict(lazy)
    assert isinstance(predicted, dd.Series)
    pd.testing.assert_series_equal(predicted.compute(), fitted.predict(table))
    assert list(fitted.predict_interval(lazy).columns) == ["lower", "upper"]
    assert fitted.score(lazy, y) > 0.98
    # Every part draws for itself.
    same = dd.concat([dd.from_pandas(table.iloc[:5], npartitions=1)] * 2)
    drawn = fitted.sample(same, random_state=0)
    first, second = drawn.compute().to_numpy().reshape(2, 5)
    assert not np.any(first == second)


def test_arrays_with_labels(X: NDArray[Any], y: NDArray[Any], known: NDArray[Any]) -> None:
    labelled = xr.DataArray(X, dims=("time", "f"), coords={"f": ["u", "v"], "time": np.arange(N)}, name="met")
    target = xr.DataArray(y, dims="time", coords={"time": np.arange(N)}, name="load", attrs={"units": "kW"})
    fitted = regressor(refine="converged").fit(labelled, target)
    predicted = fitted.predict(labelled)
    assert (predicted.name, predicted.dims, predicted.attrs["units"]) == ("load", ("time",), "kW")
    np.testing.assert_allclose(predicted.values, known, atol=1e-5)
    assert fitted.feature_names_in_.tolist() == ["u", "v"]
    assert set(fitted.predict_interval(labelled).data_vars) == {"lower", "upper"}
    assert fitted.score(labelled, target) == pytest.approx(fitted.model_.score(xr.merge([labelled, target])))
    with pytest.raises(InvalidDataError, match=r"y: expected an xarray\.DataArray, as X is labelled, or 600"):
        regressor().fit(labelled, y[:-1])


def test_lazy_grids(X: NDArray[Any], y: NDArray[Any]) -> None:
    grid = {name: (("lat", "time"), X[:, j].reshape(20, 30)) for j, name in enumerate("uv")}
    data = xr.Dataset(grid).chunk(lat=10)
    target = xr.DataArray(y.reshape(20, 30), dims=("lat", "time"), name="load").chunk(lat=10)
    weight = xr.DataArray(np.ones((20, 30)), dims=("lat", "time")).chunk(lat=10)
    fitted = regressor().fit(data, target, weight)
    assert fitted.predict(data).chunks == ((10, 10), (30,))
    assert fitted.feature_names_in_.tolist() == ["u", "v"]
    assert fitted.score(data, target.transpose("time", "lat")) > 0.99


def test_missing_values(X: NDArray[Any], y: NDArray[Any]) -> None:
    holed = X.copy()
    holed[3, 1] = np.nan
    with pytest.raises(InvalidDataError, match="NaN or infinity in 1 of 600 rows"):
        regressor().fit(holed, y)
    fitted = regressor().fit(X, y)
    with pytest.raises(
        InvalidDataError, match="X: expected finite values, got NaN or infinity in 1 of 600 rows"
    ):
        fitted.predict(holed)
    skipping = regressor(on_error="skip").fit(holed, y)
    assert np.flatnonzero(np.isnan(skipping.predict(holed))).tolist() == [3]
    assert skipping.score(holed, y) > 0.99
    # Lazy rows cannot be refused before they are read.
    assert np.isnan(fitted.predict(da.from_array(holed)).compute()).sum() == 1


def test_weights_of_zero_leave_rows_out(X: NDArray[Any], y: NDArray[Any]) -> None:
    weight = (np.arange(N) < 300).astype(float)
    weighted = regressor(refine="converged").fit(X, y, weight)
    alone = regressor(refine="converged").fit(X[:300], y[:300])
    np.testing.assert_allclose(weighted.predict(X), alone.predict(X), atol=1e-6)
    assert weighted.model_.rows.weight == "sample_weight"


@pytest.mark.parametrize(
    ("X", "y", "message"),
    [
        ([1.0, 2.0], [1.0, 2.0], "Expected 2D array, got 1D array instead. Reshape your data"),
        (
            np.array([["a"], ["b"]], object),
            [1.0, 2.0],
            r"X: expected real numbers.*'a'.*set_output\(transform=",
        ),
        (np.ones((4, 0)), np.ones(4), "Found array with 0 feature"),
        (np.ones((4, 1), complex), np.ones(4), "Complex data not supported"),
        (np.ones((4, 1)), None, "MoERegressor requires y to be passed, but the target y is None"),
        (np.ones((4, 1)), np.ones((4, 2, 2)), "y should be a 1d array, got an array of shape \\(4, 2, 2\\)"),
        (np.ones((4, 1)), np.full(4, np.nan), "y: expected finite values, got only NaN or infinity"),
        (np.ones((4, 1)), np.ones(3), "inconsistent numbers of samples: 4 in X and 3 in y"),
        (
            pd.DataFrame({"a": [1.0, 2.0], 1: [2.0, 3.0]}),
            [1.0, 2.0],
            "all input features have string names",
        ),
    ],
)
def test_what_is_refused(X: Any, y: Any, message: str) -> None:
    with pytest.raises(daskmoe.InvalidDataError, match=message):
        MoERegressor().fit(X, y)


# Labels.


@pytest.fixture(scope="module")
def labels(y: NDArray[Any]) -> NDArray[Any]:
    return np.where(y + np.random.default_rng(2).logistic(size=N) > 0, "rain", "dry")


def classifier(**options: Any) -> MoEClassifier:
    return MoEClassifier(2, **({"random_state": 0, "n_init": 3} | options))


def test_labels_of_arrays(X: NDArray[Any], labels: NDArray[Any]) -> None:
    fitted = classifier().fit(X, labels)
    assert fitted.classes_.tolist() == ["dry", "rain"]
    chances = fitted.predict_proba(X)
    assert chances.shape == (N, 2)
    np.testing.assert_allclose(chances.sum(axis=1), 1.0, atol=1e-12)
    np.testing.assert_array_equal(fitted.predict(X), fitted.classes_[chances.argmax(axis=1)])
    np.testing.assert_allclose(fitted.predict_log_proba(X), np.log(chances))
    assert fitted.score(X, labels) == pytest.approx(float((fitted.predict(X) == labels).mean()))
    weight = np.arange(N) % 3
    assert fitted.score(X, labels, weight) == pytest.approx(
        float(np.average(fitted.predict(X) == labels, weights=weight))
    )
    assert {*fitted.sample(X, random_state=0)} == {"dry", "rain"}
    with pytest.raises(InvalidDataError, match="NaN or infinity in 1 of 600 rows"):
        fitted.predict(np.where(np.arange(N)[:, None] == 3, np.nan, X))


@pytest.mark.parametrize("values", [[False, True], [3, 7], [-1.0, 1.0]])
def test_labels_keep_their_dtype(X: NDArray[Any], labels: NDArray[Any], values: list[Any]) -> None:
    y = np.array(values)[(labels == "rain").astype(int)]
    fitted = classifier(n_init=1).fit(X, y)
    assert fitted.classes_.tolist() == values
    assert fitted.predict(X).dtype == y.dtype
    assert fitted.sample(X, 0).dtype == y.dtype
    assert fitted.score(X, y) > 0.6
    lazy = fitted.predict(da.from_array(X, chunks=(200, 2)))
    assert lazy.dtype == y.dtype
    np.testing.assert_array_equal(lazy.compute(), fitted.predict(X))
    holed = np.where(np.arange(N)[:, None] == 3, np.nan, X)
    if y.dtype.kind != "f":
        # No label says that there is none.
        with pytest.raises(InvalidDataError, match="NaN or infinity in 1 of"):
            fitted.predict(da.from_array(holed)).compute()
    skipping = classifier(n_init=1, on_error="skip").fit(holed, y)
    assert np.isnan(skipping.predict(holed)).sum() == 1
    assert skipping.score(holed, y) > 0.6


def test_labels_of_tables(X: NDArray[Any], labels: NDArray[Any]) -> None:
    table = pd.DataFrame(X, columns=["a", "b"], index=pd.date_range("2024", periods=N))
    target = pd.Series(labels, name="weather").astype("category")
    fitted = classifier().fit(table, target)
    predicted, chances = fitted.predict(table), fitted.predict_proba(table)
    assert isinstance(predicted, pd.Series)
    assert predicted.name == "weather"
    assert predicted.index.equals(table.index)
    assert list(chances.columns) == ["dry", "rain"]
    # As scorers of scikit-learn take the columns of an array.
    np.testing.assert_array_equal(chances[:, 1], chances["rain"])
    scores = cross_val_score(classifier(n_init=1), table, target, cv=2, scoring="neg_log_loss")
    assert (scores > -0.69).all()
    pd.testing.assert_frame_equal(
        chances.copy(), pd.DataFrame(chances.to_numpy(), chances.index, chances.columns)
    )
    lazy = dd.from_pandas(table, npartitions=3)
    on_parts = classifier().fit(lazy, dd.from_pandas(target.astype(str), npartitions=3))
    assert on_parts.model_.local_estimates is not None
    assert on_parts.model_.local_estimates.sizes["partition"] == 3
    assert isinstance(on_parts.predict_proba(lazy), dd.DataFrame)
    pd.testing.assert_series_equal(
        on_parts.predict(lazy).compute(), on_parts.predict(table), check_dtype=False, check_freq=False
    )
    assert on_parts.score(lazy, target.to_numpy()) > 0.6


def test_labels_with_labels(X: NDArray[Any], labels: NDArray[Any]) -> None:
    rows = xr.DataArray(X, dims=("time", "f"), coords={"f": ["u", "v"]}, name="met").chunk(time=200)
    target = xr.DataArray(labels, dims="time", name="weather").chunk(time=200)
    fitted = classifier().fit(rows, target)
    predicted, chances = fitted.predict(rows), fitted.predict_proba(rows)
    assert (predicted.name, predicted.dims, predicted.chunks) == ("weather", ("time",), ((200, 200, 200),))
    assert chances.dims == ("class", "time")
    assert chances["class"].values.tolist() == ["dry", "rain"]
    assert fitted.score(rows, target) == pytest.approx(fitted.model_.score(xr.merge([rows, target])))


@pytest.mark.parametrize(
    ("y", "message"),
    [
        ([0.5, 1.5, 2.0, 1.0], "Unknown label type: continuous"),
        ([0.0, 1.0, np.nan, 1.0], "Input y contains NaN"),
        (["a", "a", "a", "a"], "expected 2 to 100 classes, got 1"),
    ],
)
def test_labels_that_are_refused(y: Any, message: str) -> None:
    with pytest.raises(InvalidDataError, match=message):
        MoEClassifier().fit(np.arange(4.0)[:, None], y)

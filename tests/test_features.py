"""Declarations: what they say, what they refuse, and that models keep and apply them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import dask
import numpy as np
import pandas as pd
import pytest
import xarray as xr

import daskmoe
from daskmoe import InvalidDataError, InvalidOptionError, features
from daskmoe.features import Term, parse_features
from daskmoe.rows import describe_rows


@pytest.fixture(scope="module")
def data() -> xr.Dataset:
    rng = np.random.default_rng(0)
    n = 1200
    x = rng.normal(size=n)
    time = np.datetime64("2021-03-01", "ns") + np.arange(n) * np.timedelta64(1, "h")
    wind = rng.choice(list("NES"), n)
    y = np.where(x > 0, 3, -1) * x + (wind == "N") + np.sin(2 * np.pi * np.arange(n) / 24)
    ds = xr.Dataset({"x": ("time", x), "wind": ("time", wind), "y": ("time", y + 0.1 * rng.normal(size=n))})
    return ds.assign_coords(time=time)


DECLARED: list[str | Term] = [
    "x",
    features.powers("x", 3),
    features.harmonics("time", periods=["1D"]),
    features.splines("x", df=4),
    features.interaction("wind", features.powers("x", 2)),
    features.indicator("x", above=0.0),
]
LABELS = (
    *("x", "x^2", "x^3", "time_sin_1D", "time_cos_1D"),
    *("x_spline_1", "x_spline_2", "x_spline_3", "x_spline_4"),
    *("wind_N:x", "wind_N:x^2", "wind_S:x", "wind_S:x^2", "x>0"),
)


def test_terms_name_their_columns(data: xr.Dataset) -> None:
    assert describe_rows(data, "y", DECLARED).feature_labels == LABELS
    # Without the variable itself the first power is there.
    assert describe_rows(data, "y", features.powers("x", 2)).feature_labels == ("x", "x^2")


@pytest.mark.parametrize("chunks", [None, 100])
def test_models_keep_terms_and_apply_them_again(data: xr.Dataset, chunks: int | None, tmp_path: Path) -> None:
    declared = [each for each in DECLARED if "splines" not in str(each)]
    ds = data if chunks is None else data.chunk(time=chunks)
    model = daskmoe.fit(ds, "y", features=declared, n_experts=2, partitions=3, random_state=0)
    assert model.feature_names == tuple(label for label in LABELS if "spline" not in label)
    assert model.score(ds) > 0.95
    model.to_zarr(tmp_path / "model.zarr")
    opened = daskmoe.open_model(tmp_path / "model.zarr")
    np.testing.assert_array_equal(opened.predict(data).values, model.predict(ds).values)
    # One time step, in another order of variables, is enough.
    step = data[["wind", "x"]].isel(time=[7])
    np.testing.assert_allclose(opened.predict(step).values, model.predict(data).values[[7]], rtol=1e-12)


def test_terms_are_lazy(data: xr.Dataset) -> None:
    schema = describe_rows(data, "y", DECLARED)
    truth = daskmoe.MixtureOfExperts.from_parameters(
        daskmoe.simulate(10, n_features=len(LABELS), n_experts=2, random_state=0)[1].parameters,
        family="gaussian",
        rows=schema,
    )
    lazy = data.chunk(time=100)

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("Dask computed.")

    with dask.config.set(scheduler=refuse):
        prediction = truth.predict(lazy)
    assert prediction.chunksizes["time"] == (100,) * 12
    np.testing.assert_allclose(prediction.values, truth.predict(data).values, rtol=1e-12)


def test_knots_do_not_depend_on_chunks(data: xr.Dataset) -> None:
    declared = [features.splines("x", df=6)]
    schemas = {describe_rows(ds, "y", declared) for ds in (data, data.chunk(time=7), data.chunk(time=500))}
    assert len(schemas) == 1
    (variable,) = schemas.pop().variables
    quantiles = np.quantile(data["x"], [0.25, 0.5, 0.75])
    np.testing.assert_allclose(variable.coding.knots[1:-1], quantiles)  # type: ignore[union-attr]


def test_the_same_declarations_on_the_command_line() -> None:
    text = (
        "x,powers(x,3),harmonics(time,1D,365.25D),splines(x,df=4),splines(x,knots=0|1|2),"
        "interaction(wind,powers(x,2)),indicator(x,above=0),indicator(wind,N)"
    )
    assert parse_features(text) == [
        "x",
        features.powers("x", 3),
        features.harmonics("time", ["1D", "365.25D"]),
        features.splines("x", df=4),
        features.splines("x", knots=[0, 1, 2]),
        features.interaction("wind", features.powers("x", 2)),
        features.indicator("x", above=0),
        features.indicator("wind", "N"),
    ]


def test_values_on_the_command_line_have_the_type_of_their_variable(data: xr.Dataset) -> None:
    n = data.sizes["time"]
    flags = {"flag_values": [0, 1], "flag_meanings": "dry wet"}
    ds = data.assign(
        wet=("time", np.arange(n) % 2 == 0),
        code=("time", np.array(["01", "02"] * (n // 2))),
        month=("time", np.arange(n) % 4),
        state=("time", np.arange(n) % 2, flags),
    )
    terms = parse_features("indicator(wet,True),indicator(code,01),indicator(month,3),indicator(state,wet)")
    schema = describe_rows(ds, "y", terms)
    values = [variable.coding.equals for variable in schema.variables]  # type: ignore[union-attr]
    assert values == [True, "01", 3, 1]
    for term in (features.indicator("month", "a"), features.indicator("wind", 1)):
        with pytest.raises(InvalidDataError, match="expected a value that is"):
            describe_rows(ds, "y", [term])


@pytest.mark.parametrize(
    ("declare", "message"),
    [
        (lambda: features.powers("x", 1), "degree to be an integer of at least 2, got 1"),
        (lambda: features.powers(3, 2), "the name of a variable, got 3"),  # type: ignore[arg-type]
        (lambda: features.harmonics("time", []), "at least one period"),
        (lambda: features.harmonics("time", "1 fortnight"), "periods as '1D'"),
        (lambda: features.harmonics("x", 0), "periods as '1D'"),
        (lambda: features.splines("x", 2), "df to be an integer of at least 3, got 2"),
        (lambda: features.splines("x", knots=[1, 1]), "in increasing order"),
        (lambda: features.splines("x", 9, knots=[0, 1]), "expected df=3 with these 2 knots, got 9"),
        (lambda: features.interaction("x"), "at least two variables or terms, got 1"),
        (lambda: features.indicator("x"), "either a value or above= or below="),
        (lambda: features.indicator("x", 1, above=2), "either a value or above= or below="),
        (lambda: features.indicator("x", float("nan")), "expected a value, or above= less than below="),
        (lambda: features.indicator("x", above=2, below=1), "above= less than below="),
        (lambda: features.harmonics("x", "inf"), "periods as '1D'"),
        (lambda: parse_features("powers(x,2"), r"as many '\(' as '\)'"),
        (lambda: parse_features("cube(x)"), r"expected one of .* before '\(', got 'cube'"),
        (lambda: parse_features("powers(x)"), r"'powers\(x\)' is not understood"),
    ],
)
def test_what_cannot_be_declared_is_refused(declare: Callable[[], object], message: str) -> None:
    with pytest.raises(InvalidOptionError, match=message):
        declare()


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ([features.harmonics("x", "1D")], "'x' has dtype float64, expected periods that are numbers"),
        ([features.harmonics("time", 24)], "expected periods with a unit, as '1D', got 24"),
        ([features.harmonics("wind", 24)], "'wind' has dtype <U1, expected dates or numbers"),
        ([features.powers("wind", 2)], "'wind' has dtype <U1, expected numbers"),
        ([features.splines("wind")], "'wind' has dtype <U1"),
        ([features.indicator("wind", above=1)], "expected numbers for bounds"),
        ([features.powers("nope", 2)], "Expected a feature variable 'nope'"),
        ([features.powers("y", 2)], "'y' cannot be a feature: it is the target"),
        ([features.powers("X", 2)], r"'X' has dimensions \('time', 'feature'\)"),
        ([features.splines("one")], "expected values that differ, got 1.0 only"),
        ([features.splines("zeros", df=6)], "quantiles that differ"),
        (["time"], "'time' holds dates"),
    ],
)
def test_terms_that_do_not_fit_are_refused(
    data: xr.Dataset, declared: list[str | Term], message: str
) -> None:
    n = data.sizes["time"]
    ds = data.assign(
        X=(("time", "feature"), np.ones((n, 2))),
        one=("time", np.ones(n)),
        zeros=("time", np.where(np.arange(n) % 10 == 0, np.arange(n), 0)),
    )
    with pytest.raises(InvalidDataError, match=message):
        describe_rows(ds, "y", declared)


def test_features_that_are_no_names_are_refused(data: xr.Dataset) -> None:
    with pytest.raises(InvalidOptionError, match=r"names of variables, which are text, .* got 0.*rename"):
        daskmoe.fit(data, "y", features=[0, 1], n_experts=2)  # type: ignore[list-item]


def test_dates_of_another_calendar_are_told_how(data: xr.Dataset) -> None:
    times = xr.date_range("2001-01-01", periods=6, calendar="noleap", use_cftime=True)
    ds = xr.Dataset({"y": ("time", np.ones(6))}, {"time": times})
    with pytest.raises(InvalidDataError, match="convert_calendar"):
        describe_rows(ds, "y", [features.harmonics("time", "1D")])


def test_periods_of_any_kind() -> None:
    assert features.harmonics("x", np.int64(4)) == features.harmonics("x", 4)
    assert features.harmonics("x", np.array([4.0, 6.0])) == features.harmonics("x", [4.0, 6.0])  # type: ignore[arg-type]
    assert features.harmonics("t", pd.Timedelta("1D")).argument("periods") == ("86400s",)  # type: ignore[arg-type]

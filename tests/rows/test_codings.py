"""Columns of codings are those of NumPy, SciPy, pandas and scikit-learn."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from scipy.interpolate import BSpline

from daskmoe.rows.codings import (
    Coding,
    Harmonics,
    Indicator,
    Levels,
    Powers,
    Splines,
    UnknownLevels,
    coding_from,
    declared_levels,
)

LEVELS = Levels.of(("N", "E", "S"))


@pytest.mark.parametrize("dtype", ["U1", "S1", object, np.dtypes.StringDType()])
def test_levels_are_treatment_coded(dtype: Any) -> None:
    values = np.array(["S", "N", "E", "S"], dtype)
    expected = pd.get_dummies(
        pd.Categorical(["S", "N", "E", "S"], categories=["N", "E", "S"]), drop_first=True
    )
    np.testing.assert_array_equal(LEVELS.columns(values), expected.to_numpy(float))
    assert LEVELS.labels("wind") == ("wind_E", "wind_S")


@pytest.mark.parametrize("missing", [None, np.nan, pd.NA, ""])
def test_a_missing_level_is_missing(missing: Any) -> None:
    columns = LEVELS.columns(np.array(["N", missing], object))
    np.testing.assert_array_equal(columns, [[0, 0], [np.nan, np.nan]])


def test_levels_may_be_numbers() -> None:
    coding = Levels((0, 1, 4), ("ok", "bad", "ugly"))
    np.testing.assert_array_equal(coding.columns(np.array([4.0, np.nan, 0.0, 1.0]))[:, 1], [1, np.nan, 0, 0])
    assert coding.labels("flag") == ("flag_bad", "flag_ugly")


def test_levels_of_single_precision_are_as_spelled() -> None:
    values = np.array([0.1, 0.3, np.nan, 0.2], np.float32)
    np.testing.assert_array_equal(Levels.of((0.1, 0.2, 0.3)).columns(values)[:, 1], [0, 1, np.nan, 0])


def test_a_yes_or_no_is_one_column_of_its_name() -> None:
    coding = Levels.of((False, True))
    assert coding.labels("wet") == ("wet",)
    np.testing.assert_array_equal(coding.columns(np.array([True, None, False], object))[:, 0], [1, np.nan, 0])


def test_unknown_levels_are_named_or_missing() -> None:
    values = np.array(["N", "W", "X", None], object)
    with pytest.raises(UnknownLevels) as caught:
        LEVELS.columns(values)
    assert caught.value.levels == ["W", "X"]
    np.testing.assert_array_equal(
        np.isnan(LEVELS.columns(values, unknown_is_missing=True)).all(axis=1), [False, True, True, True]
    )


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns", "m", "h"])
def test_harmonics_of_times_are_those_of_numpy(unit: str) -> None:
    times = np.arange("2020-01-01", "2020-03-01", np.timedelta64(7, "h"), dtype="datetime64[s]")
    coding = Harmonics(("1D", "365.25D"))
    found = coding.columns(times.astype(f"datetime64[{unit}]"))
    # Whole periods are taken away in integers, as their multiples would cost digits.
    hours = (times - np.datetime64("1970-01-01T00", "s")) // np.timedelta64(1, "h")
    for j, period in enumerate((24, 8766)):
        angle = 2 * np.pi * (hours.astype(int) % period) / period
        np.testing.assert_allclose(found[:, 2 * j], np.sin(angle), rtol=0, atol=1e-12)
        np.testing.assert_allclose(found[:, 2 * j + 1], np.cos(angle), rtol=0, atol=1e-12)
    assert coding.labels("time")[:2] == ("time_sin_1D", "time_cos_1D")


def test_harmonics_of_far_and_missing_times() -> None:
    found = Harmonics(("1D",)).columns(np.array(["9000-06-01T06", "NaT"], "datetime64[s]"))
    np.testing.assert_allclose(found, [[1.0, 0.0], [np.nan, np.nan]], atol=1e-12)


def test_harmonics_of_numbers_and_durations() -> None:
    hours = np.array([0.0, 6.0, 18.0, -6.0, np.nan])
    found = Harmonics((24.0,)).columns(hours)
    np.testing.assert_allclose(found[:, 0], np.sin(2 * np.pi * hours / 24), atol=1e-12)
    durations = (hours[:4] * 3600).astype("timedelta64[s]")
    np.testing.assert_allclose(Harmonics(("24h",)).columns(durations), found[:4], atol=1e-12)


def test_powers() -> None:
    x = np.array([2.0, -1.0, np.nan])
    np.testing.assert_array_equal(Powers(2, 3).columns(x), np.column_stack([x**2, x**3]))
    assert Powers(1, 3).labels("x") == ("x", "x^2", "x^3")


@pytest.mark.parametrize("degree", [1, 2, 3, 4])
def test_splines_are_those_of_scipy_and_scikit_learn(degree: int) -> None:
    x = np.random.default_rng(0).normal(size=200)
    inner = np.quantile(x, [0.2, 0.5, 0.7])
    knots = (float(x.min()), *map(float, inner), float(x.max()))
    coding = Splines(knots, degree)
    found = coding.columns(x)
    padded = np.r_[[knots[0]] * degree, knots, [knots[-1]] * degree]
    for j in range(found.shape[1]):
        basis = BSpline(padded, np.eye(found.shape[1] + 1)[j + 1], degree)(x)
        np.testing.assert_allclose(found[:, j], basis, atol=1e-12)
    assert found.shape[1] == len(coding.labels("x")) == len(knots) + degree - 2
    # Functions of another basis of the same space: what is fitted is the same.
    preprocessing = pytest.importorskip("sklearn.preprocessing")
    theirs = preprocessing.SplineTransformer(degree=degree, knots=np.array(knots)[:, None]).fit_transform(
        x[:, None]
    )
    y = np.sin(3 * x)
    ours = np.column_stack([np.ones(len(x)), found])
    fits = [design @ np.linalg.lstsq(design, y)[0] for design in (ours, theirs)]
    np.testing.assert_allclose(*fits, atol=1e-9)


def test_splines_are_constant_beyond_their_knots() -> None:
    found = Splines((0.0, 1.0, 2.0), 3).columns(np.array([-5.0, 0.0, 2.0, 9.0, np.nan]))
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[2], found[3])
    assert np.isnan(found[4]).all()


@pytest.mark.parametrize(
    ("coding", "label", "expected"),
    [
        (Indicator(0.0, None, None), "x==0.0", [1, 0, 0, np.nan]),
        (Indicator(None, 1.0, None), "x>1", [0, 0, 1, np.nan]),
        (Indicator(None, None, 2.0), "x<2", [1, 1, 0, np.nan]),
        (Indicator(None, 0.5, 2.0), "0.5<x<2", [0, 1, 0, np.nan]),
    ],
)
def test_indicators(coding: Indicator, label: str, expected: list[float]) -> None:
    np.testing.assert_array_equal(coding.columns(np.array([0.0, 1.0, 2.0, np.nan]))[:, 0], expected)
    assert coding.labels("x") == (label,)


def test_an_indicator_of_text() -> None:
    found = Indicator("N", None, None).columns(np.array(["N", "S", None], object))
    np.testing.assert_array_equal(found[:, 0], [1, 0, np.nan])


@pytest.mark.parametrize(
    "coding",
    [
        LEVELS,
        Levels((0, 1), ("no", "yes")),
        Harmonics(("1D", 24.0)),
        Powers(2, 3),
        Splines((0.0, 1.0), 3),
        Indicator("N", None, None),
    ],
)
def test_what_json_holds_is_the_coding(coding: Coding) -> None:
    plain = {key: list(v) if isinstance(v, tuple) else v for key, v in coding.to_plain().items()}
    assert coding_from(plain) == coding


def test_levels_that_variables_declare() -> None:
    flags = {"flag_values": np.array([1, 2], "i1"), "flag_meanings": "dry wet"}
    assert declared_levels(xr.Variable("row", np.array([1, 2, 2]), flags)) == Levels((1, 2), ("dry", "wet"))
    assert declared_levels(xr.Variable("row", np.array([1, 2, 2]))) is None
    masks = flags | {"flag_masks": np.array([1, 2], "i1")}
    assert declared_levels(xr.Variable("row", np.array([1, 2, 2]), masks)) is None
    table = pd.DataFrame({"c": pd.Categorical(["b", "a"], categories=["b", "a", "z"])})
    assert declared_levels(table.to_xarray()["c"].variable) == Levels.of(("b", "a", "z"))


def test_levels_that_hash_alike_are_told_apart() -> None:
    numbers, flags = Levels.of((0, 1)), Levels.of((False, True))
    for _ in range(2):
        np.testing.assert_array_equal(numbers.columns(np.array([0, 1, 1]))[:, 0], [0, 1, 1])
        np.testing.assert_array_equal(
            flags.columns(np.array([False, True, None], object))[:, 0], [0, 1, np.nan]
        )


def test_a_reversed_yes_or_no_is_called_by_its_level() -> None:
    assert Levels.of((True, False)).labels("wet") == ("wet_False",)


def test_splines_of_nothing_are_missing() -> None:
    assert np.isnan(Splines((0.0, 1.0), 3).columns(np.array([np.nan, np.nan]))).all()


def test_text_of_another_encoding_is_text() -> None:
    with pytest.raises(UnknownLevels):
        LEVELS.columns(np.array(["é".encode("latin-1"), b"N"]))

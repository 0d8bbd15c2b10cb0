"""Data that nobody meant: what is wrong is one sentence with the line that mends it, or a warning."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import daskmoe
from daskmoe import DataWarning, InvalidDataError

N = 240
FAST: dict[str, Any] = {"n_experts": 1, "partitions": 2, "random_state": 0}


def table() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    x = rng.normal(size=N)
    return pd.DataFrame({"x": x, "y": 3 * x + 0.1 * rng.normal(size=N)})


@pytest.mark.parametrize(("name", "verb"), [("x", daskmoe.fit), ("y", daskmoe.fit), ("x", daskmoe.fit_local)])
def test_numbers_that_cannot_be_squared_are_named(name: str, verb: Any) -> None:
    frame = table().assign(**{name: lambda t: t[name].mask(t.index == 3, -1e200)})
    with pytest.raises(
        InvalidDataError, match=rf"1e\+200 in '{name}'.*where\(abs\(data\['{name}'\]\) < 1e30\)"
    ):
        verb(frame, "y", n_experts=1, random_state=0)
    # A row without weight may hold anything.
    weighted = frame.assign(w=1.0 * (frame.index != 3))
    assert daskmoe.fit(weighted, "y", features=["x"], sample_weight="w", **FAST).weight == N - 1


@pytest.mark.parametrize(
    ("dtype", "change", "line"),
    [
        ("numbers as objects", lambda y: y.astype(object), "data['y'].astype(float), or fit labels"),
        ("dates", lambda y: pd.date_range("2000", periods=N), "data['y'].min()) / np.timedelta64(1, 'D')"),
        ("durations", lambda y: pd.to_timedelta(y, unit="D"), "data['y'] / np.timedelta64(1, 'D')"),
        ("complex numbers", lambda y: y + 1j, "abs(data['y'])"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_line_that_makes_numbers_of_a_target_works(dtype: str, change: Any, line: str) -> None:
    data = table().assign(y=lambda t: change(t.y))
    with pytest.raises(
        InvalidDataError, match="expected real numbers or booleans; make numbers of it"
    ) as caught:
        daskmoe.fit(data, "y", **FAST)
    assert line in str(caught.value)
    made = str(caught.value).partition("make numbers of it: ")[2].partition(", or fit labels")[0].rstrip(".")
    exec(made, {"data": data, "np": np})
    assert daskmoe.fit(data, "y", **FAST).weight == N


def test_values_that_are_still_packed_are_said() -> None:
    data = table().to_xarray()
    packed = data.assign(
        x=data["x"].copy(data=(data["x"] * 100).astype("i2")).assign_attrs(scale_factor=0.01)
    )
    with pytest.warns(
        DataWarning, match=r"'scale_factor' of 'x'.*data = xarray\.decode_cf\(data\)"
    ) as caught:
        daskmoe.fit(packed, "y", **FAST)
    assert caught[0].filename == __file__
    daskmoe.fit(xr.decode_cf(packed), "y", **FAST)

"""Rows of which target and features are all missing are not there; where some are missing it is an error."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

import daskmoe
from daskmoe.errors import InvalidDataError

FAST: dict[str, Any] = {"n_experts": 2, "random_state": 0, "n_init": 1, "effort": 0.1}
SEA = np.zeros((10, 12), dtype=bool)
SEA[:, 8:] = True
SEA[3, 2] = True


@pytest.fixture
def whole() -> xr.Dataset:
    """A grid in six chunks, two of them all sea; the season has no place, the height no time."""
    rng = np.random.default_rng(0)
    dims, shape = ("time", "lat", "lon"), (20, 10, 12)
    wind, heat = rng.normal(size=(2, *shape))
    runoff = np.where(wind > 0, 3 * heat, -heat) + 0.1 * rng.normal(size=shape)
    ds = xr.Dataset({"wind": (dims, wind), "heat": (dims, heat), "runoff": (dims, runoff)})
    ds["season"] = ("time", np.sin(np.arange(20.0)))
    ds["height"] = (("lat", "lon"), rng.normal(size=(10, 12)))
    return ds


def mask(ds: xr.Dataset, *names: str) -> xr.Dataset:
    land = xr.DataArray(~SEA, dims=("lat", "lon"))
    masked = ds.assign({name: ds[name].where(land) for name in names})
    return masked.chunk(time=10, lon=4)


def only_land(ds: xr.Dataset) -> xr.Dataset:
    """The rows that are there, in one dimension."""
    rows = ds.stack(cell=("lat", "lon"), create_index=False).reset_coords(drop=True)
    rows = rows.isel(cell=np.flatnonzero(~SEA.ravel())).transpose("time", "cell", ...)
    return rows.compute()


@pytest.mark.parametrize("on_error", ["raise", "skip"])
def test_a_sea_mask_needs_no_word(whole: xr.Dataset, on_error: Any, caplog: pytest.LogCaptureFixture) -> None:
    data = mask(whole, "runoff", "wind", "heat")
    expected = daskmoe.fit_local(only_land(whole), "runoff", **FAST)
    with caplog.at_level(logging.INFO, "daskmoe"):
        model = daskmoe.fit_local(data, "runoff", on_error=on_error, **FAST)
    np.testing.assert_allclose(model.params.coef, expected.params.coef, atol=1e-9)
    gone = 20 * SEA.sum()
    assert int(model.diagnostics["absent_rows"].sum()) == gone
    assert int(model.diagnostics["dropped_rows"].sum()) == 0
    assert f"{gone} of 2400 rows are not there" in caplog.text
    assert not [r for r in caplog.records if r.levelno > logging.INFO]
    assert f"({gone} not there: all values missing)" in model.summary()
    assert model.score(data, on_error=on_error) == pytest.approx(expected.score(only_land(whole)))
    assert model.log_likelihood(data) == pytest.approx(expected.log_likelihood(only_land(whole)))
    assert model.bic(data) == pytest.approx(expected.bic(only_land(whole)))


@pytest.mark.parametrize("aggregation", ["auto", "reduction"])
def test_a_partition_of_the_sea_has_no_rows(whole: xr.Dataset, aggregation: Any, tmp_path: Path) -> None:
    data = mask(whole, "runoff", "wind", "heat")
    options = FAST | {"aggregation": aggregation, "checkpoint": tmp_path}
    model = daskmoe.fit(data, "runoff", **options)
    assert (
        model.diagnostics["status"].values.tolist()
        == ["ok", "ok", "no rows: target and features are all missing"] * 2
    )
    assert model.diagnostics["outcome"].values.tolist()[2] == "no rows"
    assert int(model.diagnostics["rows"].sum()) == 20 * (~SEA).sum()
    xr.testing.assert_identical(daskmoe.fit(data, "runoff", **options).params, model.params)
    refined = daskmoe.refine(model, data, rounds="converged")
    assert refined.diagnostics.attrs["refinement_converged"]


@pytest.mark.parametrize(
    ("names", "count"), [(("runoff",), 820), (("wind", "heat"), 820), (("runoff", "wind"), 820)]
)
def test_some_values_missing_are_an_error(whole: xr.Dataset, names: tuple[str, ...], count: int) -> None:
    data = mask(whole, *names)
    with pytest.raises(InvalidDataError, match="Expected finite values"):
        daskmoe.fit_local(data, "runoff", **FAST)
    model = daskmoe.fit_local(data, "runoff", on_error="skip", **FAST)
    assert int(model.diagnostics["dropped_rows"].sum()) == count
    assert "absent_rows" not in model.diagnostics
    with pytest.raises(InvalidDataError, match=r"820 of 2400 rows .* on_error='skip'"):
        model.score(data)


def test_infinity_is_a_value_that_is_wrong(whole: xr.Dataset) -> None:
    data = mask(whole, "runoff", "wind", "heat").compute()
    data["wind"][0, 3, 2] = np.inf
    with pytest.raises(InvalidDataError, match=r"in 1 of 2400 rows .*'wind' 1.*first at time\[0\], lat\[3\]"):
        daskmoe.fit_local(data, "runoff", **FAST)
    with pytest.raises(InvalidDataError, match="in 1 of 2400 rows"):
        daskmoe.fit_local(mask(whole, "runoff", "wind", "heat"), "runoff", **FAST).score(data)


def test_weights_of_rows_that_are_not_there_are_not_looked_at(whole: xr.Dataset) -> None:
    weighted = mask(whole.assign(w=whole["wind"] * 0 + 2.0), "runoff", "wind", "heat", "w")
    model = daskmoe.fit_local(weighted, "runoff", sample_weight="w", features=["wind", "heat"], **FAST)
    assert float(model.diagnostics["weight"].sum()) == 2 * 20 * (~SEA).sum()


def test_missing_values_are_found_before_the_pilot_is_fitted(
    whole: xr.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = mask(whole, "runoff")
    monkeypatch.setattr("daskmoe.engine.pilot.fit_pilots", lambda *arguments: pytest.fail("fitted"))
    with pytest.raises(InvalidDataError) as caught:
        daskmoe.fit(data, "runoff", **FAST)
    assert "sampled rows, which are read first (by variable: 'runoff' 820; first at time[0]" in str(
        caught.value
    )
    assert "on_error='skip'" in str(caught.value)


@pytest.mark.parametrize("offset_at_sea", [True, False])
def test_an_offset_does_not_say_whether_a_row_is_there(whole: xr.Dataset, offset_at_sea: bool) -> None:
    whole["runoff"] = np.exp(0.1 * whole["runoff"])
    whole["area"] = 0.1 * whole["height"] + 0.0 * whole["season"]
    options = FAST | {"features": ["wind", "heat"], "family": "gamma", "offset": "area"}
    data = mask(whole, "runoff", "wind", "heat", *(() if offset_at_sea else ("area",)))
    expected = daskmoe.fit_local(only_land(whole), "runoff", **options)
    model = daskmoe.fit_local(data, "runoff", **options)
    np.testing.assert_allclose(model.params.coef, expected.params.coef, atol=1e-9)
    assert model.log_likelihood(data) == pytest.approx(expected.log_likelihood(only_land(whole)))


def test_rows_without_features_are_left_out_by_their_target(whole: xr.Dataset) -> None:
    data = mask(whole, "runoff")[["runoff"]]
    options = FAST | {"features": [], "gate_features": []}
    with pytest.raises(InvalidDataError, match="Expected finite values"):
        daskmoe.fit_local(data, "runoff", **options)
    model = daskmoe.fit_local(data, "runoff", on_error="skip", **options)
    assert int(model.diagnostics["dropped_rows"].sum()) == 20 * SEA.sum()


def test_a_word_that_is_none(whole: xr.Dataset) -> None:
    model = daskmoe.fit_local(whole, "runoff", **FAST)
    with pytest.raises(ValueError, match=r"on_error: expected one of \['raise', 'skip'\], got 'drop'"):
        model.score(whole, on_error="drop")  # type: ignore[arg-type]

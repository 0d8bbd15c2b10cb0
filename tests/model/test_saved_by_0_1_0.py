"""Models that daskmoe 0.1.0 saved open, and say what they said there.

The files were written by that version from the rows of `rows`; the numbers beside them are what it printed.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import xarray as xr

import daskmoe
from daskmoe import InvalidDataError, NotAtOptimumError

FOLDER = Path(__file__).parent / "saved_by_0_1_0"


@pytest.fixture(scope="module")
def rows() -> xr.Dataset:
    data, _ = daskmoe.simulate(400, n_features=2, n_experts=2, random_state=0)
    return data


def test_a_refined_model(rows: xr.Dataset) -> None:
    model = daskmoe.open_model(FOLDER / "refined.nc")
    assert model.log_likelihood(rows) == pytest.approx(-1015.4915278006131, rel=1e-12)
    assert float(model.predict(rows).sum()) == pytest.approx(140.0180989558361, rel=1e-12)
    assert float(model.standard_errors("robust")["coef"].sum()) == pytest.approx(1.0854369694803605)
    assert model.params["variance"].attrs["units"] == "(K)^2"
    assert model.weight == 400.0
    assert "partitions  4, all ok" in model.summary()
    assert "refinement  converged" in model.summary()


def test_a_weighted_average(rows: xr.Dataset) -> None:
    model = daskmoe.open_model(FOLDER / "weighted.nc")
    assert model.n_experts == 8
    assert model.log_likelihood(rows) == pytest.approx(-1014.4323869259416, rel=1e-12)


def test_a_model_of_a_fit_that_left_a_partition_out() -> None:
    model = daskmoe.open_model(FOLDER / "skipped.nc")
    assert model.weight == 300.0
    assert "4, 1 not ok (first: partition 1, left out: Partition '1': expected" in model.summary()
    assert "300 (100 dropped)" in model.summary()


def test_they_are_aggregated(rows: xr.Dataset) -> None:
    joined = daskmoe.aggregate([FOLDER / "refined.nc", FOLDER / "skipped.nc"], rows, random_state=0)
    assert joined.log_likelihood(rows) == pytest.approx(-1015.7896261634519, rel=1e-10)
    assert joined.weight == 700.0


def test_they_are_refined_on(rows: xr.Dataset) -> None:
    data = rows.assign(y=rows["y"].assign_attrs(units="K"))
    model = daskmoe.refine(FOLDER / "skipped.nc", data, rounds="converged")
    # The maximum of today's penalty, which draws gates back less than theirs did (-1015.4915).
    assert model.log_likelihood(rows) == pytest.approx(-1015.4914529994084, abs=1e-4)


def test_their_criteria(rows: xr.Dataset) -> None:
    refined = daskmoe.open_model(FOLDER / "refined.nc")
    assert refined.n_parameters == 11
    assert refined.bic() == pytest.approx(refined.bic(rows), rel=1e-9)
    with pytest.raises(InvalidDataError, match=r"model\.icl\(data\)"):
        refined.icl()
    with pytest.raises(InvalidDataError, match=r"model\.log_likelihood\(data\)"):
        daskmoe.open_model(FOLDER / "weighted.nc").bic()


def test_their_errors_without_covariances() -> None:
    model = daskmoe.open_model(FOLDER / "refined.nc")
    assert model.confidence_interval().attrs["kind"] == "model"
    with pytest.raises(NotAtOptimumError, match=r"daskmoe\.refine"):
        model.covariance()

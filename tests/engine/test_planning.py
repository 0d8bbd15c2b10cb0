"""Requests: put together in one place, and refused before any data are read or a cluster is started."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import xarray as xr

import daskmoe
from daskmoe import InvalidDataError, InvalidOptionError
from daskmoe.engine import GivenSupport, plan_passes, plan_request
from daskmoe.options import FitOptions


@pytest.fixture
def data() -> xr.Dataset:
    found, _ = daskmoe.simulate(400, n_features=2, n_experts=2, chunks=100, random_state=0)
    return found


def test_requests_are_put_together_in_one_place() -> None:
    folder = Path(daskmoe.__file__).parent
    found = [
        path.name
        for path in sorted(folder.rglob("*.py"))
        for _ in re.findall(r"\bFitRequest\(", path.read_text(encoding="utf-8"))
    ]
    assert found == ["planning.py"]


@pytest.mark.parametrize("support", ["labelled", "features"])
def test_a_shared_start_has_a_sample(data: xr.Dataset, support: str) -> None:
    request = plan_request(data, "y", FitOptions(n_experts=2, support=support))
    assert bool(request.sample) == bool(request.sample_rows) == request.sends.responses
    assert request.sends.responses == (support == "labelled")


def test_a_support_of_no_rows_is_refused_while_planning(data: xr.Dataset) -> None:
    with pytest.raises(InvalidDataError, match="support: expected at least one row, got no rows"):
        plan_request(data, "y", FitOptions(n_experts=2, support=data.isel(row=slice(0, 0))))


def test_the_rows_to_read_of_a_given_support_are_planned(data: xr.Dataset) -> None:
    support = plan_request(data, "y", FitOptions(n_experts=2, support=data[["X"]])).support
    assert isinstance(support, GivenSupport)
    assert sum(window.positions.size for window in support.windows) == 400


def test_passes_match_the_rows_of_a_model_by_label(data: xr.Dataset) -> None:
    rows = plan_request(data, "y", FitOptions(n_experts=2)).schema
    turned = data.isel(feature=[1, 0])
    request = plan_passes(turned, rows, FitOptions(n_experts=2, partitions=3, refine=1))
    assert request.schema.feature_labels == rows.feature_labels
    assert len(request.partitions) == 3
    with pytest.raises(InvalidDataError, match="x1"):
        plan_passes(data.isel(feature=[0]), rows, FitOptions(n_experts=2))


def test_a_target_is_a_name(data: xr.Dataset) -> None:
    with pytest.raises(
        InvalidOptionError, match=r"target: expected the name of .* which is text, got int.*rename"
    ):
        plan_request(data, 3, FitOptions(n_experts=2))  # type: ignore[arg-type]

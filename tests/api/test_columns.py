"""Columns that a user hardly meant are told of."""

from __future__ import annotations

import logging
import warnings

import numpy as np
import pytest
import xarray as xr

import daskmoe
from daskmoe import FitWarning

N = 300


def data() -> xr.Dataset:
    rng = np.random.default_rng(0)
    x = rng.normal(size=N)
    y = np.where(x > 0, 3, -1) * x + 0.2 * rng.normal(size=N)
    return xr.Dataset({"x": ("row", x), "y": ("row", y)})


# Of lazy data only running numbers are known, by their moments.
@pytest.mark.parametrize(
    ("name", "chunks"),
    [("running", None), ("running", 100), ("shuffled", None), ("shuffled", 100), ("scattered", None)],
)
def test_identifiers_are_told_of(name: str, chunks: int | None) -> None:
    rng = np.random.default_rng(1)
    numbers = {
        "running": np.arange(N),
        "shuffled": 1000 + rng.permutation(N),
        "scattered": rng.choice(10**6, N, replace=False),
    }
    ds = data().assign({name: ("row", numbers[name])})
    ds = ds if chunks is None else ds.chunk(row=chunks)
    with pytest.warns(FitWarning, match=f"Feature '{name}' has a different integer in every row") as caught:
        daskmoe.fit(ds, "y", n_experts=2, partitions=3, random_state=0)
    assert len(caught) == 1


@pytest.mark.parametrize("factor", [1.0, -2.5])
def test_copies_of_the_target_are_told_of(factor: float) -> None:
    ds = data().assign(z=lambda d: factor * d.y)
    with pytest.warns(FitWarning) as caught:
        daskmoe.fit_local(ds, "y", n_experts=1)
    assert any("'z' tells the target 'y' exactly" in str(warning.message) for warning in caught)


def test_counts_and_codes_are_no_identifiers() -> None:
    ds = data().assign(count=("row", np.arange(N) // 2), number=("row", np.arange(N) * 1.5))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        daskmoe.fit(ds, "y", n_experts=2, partitions=3, random_state=0)


def test_what_was_taken_and_left_is_logged_and_summarized(caplog: pytest.LogCaptureFixture) -> None:
    ds = data().assign(
        when=("row", np.arange(N).astype("datetime64[s]")), site=("row", ["a", "b", "c"] * 100)
    )
    with caplog.at_level(logging.INFO, logger="daskmoe"):
        model = daskmoe.fit(ds, "y", n_experts=2, partitions=3, random_state=0)
    assert "features: took 'site', 'x'; left out: 'when' holds dates" in caplog.text
    assert "left out    when (holds dates)" in model.summary()

"""Simulated data: the same rows whatever the chunks, lazy, and drawn from the model that comes with them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

import daskmoe
from daskmoe import InvalidOptionError

Guard = Callable[..., AbstractContextManager[None]]
SIZES: dict[str, Any] = {"n_features": 3, "n_experts": 2}


@settings(max_examples=20)
@given(
    n_rows=st.integers(1, 20_000),
    chunks=st.integers(1, 20) | st.integers(1_000, 30_000) | st.sampled_from([8_191, 8_192, 8_193, 16_384]),
    seed=st.integers(0, 2**64),
    design=st.sampled_from(["paper", "overlap"]),
)
def test_chunks_do_not_change_the_data(n_rows: int, chunks: int, seed: int, design: str) -> None:
    # Many small chunks of many rows say no more than of a few.
    n_rows = min(n_rows, 40 * chunks)
    options = {**SIZES, "design": design, "random_state": seed}
    expected, truth = daskmoe.simulate(n_rows, **options)
    lazy, same_truth = daskmoe.simulate(n_rows, chunks=chunks, **options)
    xr.testing.assert_identical(lazy.compute(scheduler="synchronous"), expected)
    xr.testing.assert_identical(same_truth.params, truth.params)
    full, rest = divmod(n_rows, chunks)
    assert lazy.chunksizes["row"] == (chunks,) * full + ((rest,) if rest else ())


def test_building_draws_no_rows(raise_if_dask_computes: Guard) -> None:
    with raise_if_dask_computes():
        data, _ = daskmoe.simulate(10**9, chunks=10**6, **SIZES)
    assert data.sizes == {"row": 10**9, "feature": 3}
    assert data["X"].data.numblocks == (1_000, 1)
    assert data["y"].data.numblocks == (1_000,)


def test_labels() -> None:
    for chunks in (None, 30):
        data, truth = daskmoe.simulate(100, chunks=chunks, random_state=0, **SIZES)
        assert data["X"].dims == ("row", "feature")
        assert data["y"].dims == ("row",)
        assert data["feature"].values.tolist() == ["x0", "x1", "x2"]
        assert truth.target == "y"
        assert truth.feature_names == ("x0", "x1", "x2")
        assert truth.n_experts == 2
        assert (data["X"].chunks is None) == (chunks is None)


def test_seeds() -> None:
    def draw(random_state: Any) -> xr.Dataset:
        return daskmoe.simulate(50, random_state=random_state, **SIZES)[0]

    for make in (lambda: 5, lambda: np.random.SeedSequence(5), lambda: np.random.default_rng(5)):
        xr.testing.assert_identical(draw(make()), draw(make()))
    assert not draw(5).equals(draw(6))
    assert not draw(None).equals(draw(None))


@pytest.mark.parametrize("design", ["paper", "overlap"])
def test_rows_follow_the_model(design: str) -> None:
    n_rows, n_experts = 50_000, 3
    data, truth = daskmoe.simulate(n_rows, n_features=4, n_experts=n_experts, design=design, random_state=2)
    # Five standard errors of a mean of n_rows independent draws.
    five = 5 / np.sqrt(n_rows)
    gates, owners = truth.gating_probabilities(data), truth.responsibilities(data)
    difference = owners - gates
    assert (abs(difference.mean("row")) < five * difference.std("row")).all()
    interval = truth.predict_interval(data, 0.9)
    inside = (data["y"] > interval["lower"]) & (data["y"] < interval["upper"])
    assert abs(float(inside.mean()) - 0.9) < five * np.sqrt(0.9 * 0.1)
    # The score of the truth is zero on average, in each of its parameters; here that of the regressions.
    design_matrix = np.column_stack([np.ones(n_rows), data["X"]])
    parameters = truth.parameters
    for k in range(n_experts):
        residual = data["y"].values - design_matrix @ parameters.coef[k, 0]
        score = (owners.isel(expert=k).values * residual)[:, None] * design_matrix / parameters.nuisance[k]
        assert (np.abs(score.mean(axis=0)) < five * score.std(axis=0)).all()
        squares = owners.isel(expert=k).values * (residual**2 / parameters.nuisance[k] - 1)
        assert abs(squares.mean()) < five * squares.std()
    assert float(gates.mean("row").min()) > 0.1 / n_experts


def test_blocks_are_independent() -> None:
    """Rows are drawn in blocks of their own seeds: no two are the same."""
    data, _ = daskmoe.simulate(40_000, random_state=0, **SIZES)
    assert len(np.unique(data["y"].values)) == 40_000
    assert len(np.unique(data["X"].values)) == 120_000


@pytest.mark.parametrize("name", ["n_rows", "n_features", "n_experts", "chunks"])
@pytest.mark.parametrize("value", [0, -1, 2.5, True, "3"])
def test_sizes_below_one_are_refused(name: str, value: Any) -> None:
    options = {"n_rows": 10, **SIZES, name: value}
    with pytest.raises(InvalidOptionError, match=rf"^{name}: expected an integer of at least 1, got "):
        daskmoe.simulate(**options)


def test_an_unknown_design_is_refused() -> None:
    with pytest.raises(InvalidOptionError, match=r"design: expected one of \['overlap', 'paper'\], got 'x'"):
        daskmoe.simulate(10, design="x", **SIZES)

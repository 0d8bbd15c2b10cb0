"""Starting points: finite, different, reproducible, on the smallest and oddest samples too."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given
from numpy.typing import NDArray

from daskmoe.numerics.base.observations import Observations, moments
from daskmoe.numerics.base.parameters import FloatArray
from daskmoe.numerics.likelihood.e_step import Runs
from daskmoe.numerics.likelihood.priors import Prior, prior_from
from daskmoe.numerics.local.starts import (
    _KINDS,
    _directions,
    _far_rows,
    _feature_cells,
    _Kind,
    _local_planes,
    _residual_size,
    starting_runs,
)
from numerics.oracles import GAUSSIAN, coordinates_of, random_rows


def whitened(rows: Observations, n_experts: int) -> tuple[FloatArray, FloatArray, Prior]:
    known = moments(rows)
    coordinates = coordinates_of(known)
    blocks = list(rows.blocks(coordinates))
    assert len(blocks) == 1
    return blocks[0].design, blocks[0].response, prior_from(known, coordinates, n_experts, GAUSSIAN)


def runs_for(rows: Observations, n_experts: int, n_init: int, seed: int) -> Runs:
    design, response, prior = whitened(rows, n_experts)
    rng = np.random.default_rng(seed)
    return starting_runs(design, response, rows.weight, n_experts, n_init, prior, rng, GAUSSIAN)


@given(
    st.integers(2, 4),
    st.integers(0, 40),
    st.integers(0, 5),
    st.integers(1, 9),
    st.booleans(),
    st.integers(0, 2**32 - 1),
)
def test_starts_are_models_on_any_rows(
    n_experts: int, extra: int, p: int, n_init: int, weighted: bool, seed: int
) -> None:
    rows = random_rows(np.random.default_rng(seed), n_experts + extra, p, weighted=weighted)
    runs = runs_for(rows, n_experts, n_init, seed)
    q = whitened(rows, n_experts)[0].shape[0]
    assert runs.gate.shape == (n_init, n_experts, q)
    assert runs.coef.shape == (n_init, n_experts, 1, q)
    assert runs.nuisance.shape == (n_init, n_experts, 1)
    assert not runs.gate.any()
    assert np.isfinite(runs.coef).all()
    assert (runs.nuisance > 0).all()
    # The response has unit variance: no start explains it worse than a few units.
    assert (runs.nuisance < 20).all()


def test_starts_differ_and_are_reproducible(rng: np.random.Generator) -> None:
    rows = random_rows(rng, 200, 3)
    first, again, other = (runs_for(rows, 3, 8, seed) for seed in (1, 1, 2))
    for one, two in zip(first, again, strict=True):
        np.testing.assert_array_equal(one, two)
    assert not np.allclose(first.coef, other.coef)
    coefs = np.sort(first.coef[..., 0, 0], axis=1)
    assert len(np.unique(coefs.round(6), axis=0)) == 8


@pytest.mark.parametrize("kind", _KINDS)
@pytest.mark.parametrize("n_experts", [2, 3])
def test_every_kind_labels_every_row(kind: _Kind, n_experts: int, rng: np.random.Generator) -> None:
    design, response, _ = whitened(random_rows(rng, 300, 3), n_experts)
    labels = [kind(design, response, n_experts, rng) for _ in range(10)]
    assert all(found.shape == (300,) for found in labels)
    assert all(((found >= 0) & (found < n_experts)).all() for found in labels)
    # Kinds that always gave one cell would start nowhere.
    assert np.mean([len(np.unique(found)) for found in labels]) > n_experts - 0.5


@pytest.mark.parametrize("n_experts", [2, 3, 39, 40])
def test_far_rows_start_apart(n_experts: int, rng: np.random.Generator) -> None:
    rows = random_rows(rng, 40, 2)
    rows.response[[3, 8]] = -1e6
    design, response, prior = whitened(rows, n_experts)
    found = _far_rows(design, response, n_experts)
    runs = starting_runs(design, response, None, n_experts, 6, prior, rng, GAUSSIAN)
    assert np.isfinite(runs.coef).all()
    if n_experts > 38:
        # Too few others to share them out among the other experts.
        assert not found.any()
        return
    assert np.flatnonzero(found).tolist() == [3, 8]
    # A twentieth of them would be a variance of a tenth of the response's.
    assert runs.nuisance[0, :-1].max() < 1e-3


def test_no_row_is_far_from_a_line_without_noise(rng: np.random.Generator) -> None:
    features = rng.standard_normal((200, 2))
    rows = Observations(features, (features @ [1.0, 2.0]).astype(np.float32))
    assert not _far_rows(*whitened(rows, 2)[:2], 2).any()


def test_starts_see_the_weights(rng: np.random.Generator) -> None:
    rows = random_rows(rng, 80, 2)
    weight = np.append(np.ones(40), np.zeros(40))
    design, response, prior = whitened(rows, 2)
    spoiled = response.copy()
    spoiled[40:] = 1e6
    labels_rng = [np.random.default_rng(5) for _ in range(2)]
    # Feature cells do not look at the response, so only the weights can keep the spoiled rows out.
    clean = starting_runs(design, response, weight, 2, 1, prior, labels_rng[0], GAUSSIAN)
    found = starting_runs(design, spoiled, weight, 2, 1, prior, labels_rng[1], GAUSSIAN)
    for one, two in zip(clean, found, strict=True):
        np.testing.assert_array_equal(one, two)


def agreement(labels: NDArray[np.intp], groups: NDArray[np.intp]) -> float:
    """Share of rows in the majority cell of their group."""
    table = np.zeros((labels.max() + 1, groups.max() + 1))
    np.add.at(table, (labels, groups), 1)
    return float(table.max(axis=1).sum() / len(labels))


def best_agreement(kind: _Kind, rows: Observations, groups: NDArray[np.intp]) -> float:
    design, response, _ = whitened(rows, 2)
    drawn = (kind(design, response, 2, np.random.default_rng(seed)) for seed in range(20))
    return max(agreement(labels, groups) for labels in drawn)


def test_groups_of_features_are_cells(rng: np.random.Generator) -> None:
    groups = np.repeat([0, 1], 100)
    features = np.where(groups, 3.0, -3.0)[:, None] + rng.standard_normal((200, 2))
    rows = Observations(features, rng.standard_normal(200))
    assert best_agreement(_feature_cells, rows, groups) == 1.0
    assert best_agreement(_directions, rows, groups) > 0.95


def test_bands_of_residuals_follow_the_noise(rng: np.random.Generator) -> None:
    groups = np.repeat([0, 1], 100)
    features = rng.standard_normal((200, 1))
    noise = np.where(groups, 5.0, 0.01) * (1 + rng.random(200)) * rng.choice([-1, 1], 200)
    rows = Observations(features, features[:, 0] + noise)
    assert best_agreement(_residual_size, rows, groups) > 0.95


def test_planes_of_neighbourhoods_are_found(rng: np.random.Generator) -> None:
    features = rng.standard_normal((200, 1))
    groups = (features[:, 0] > 0).astype(np.intp)
    rows = Observations(features, 10 * np.abs(features[:, 0]))
    assert best_agreement(_local_planes, rows, groups) > 0.95

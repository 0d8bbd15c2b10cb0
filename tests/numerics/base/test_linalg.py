"""Ridges, scales and even spacing: exact where there is nothing to mend, harmless where there is."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from daskmoe.numerics.base.linalg import diagonal_scale, ridged, solve, spread_evenly


@pytest.mark.parametrize("own", [0.0, 0.01])
def test_a_ridge_is_a_share_of_the_mean_or_of_each_entry(own: float, rng: np.random.Generator) -> None:
    matrices = rng.standard_normal((2, 3, 4, 4))
    kept = matrices.copy()
    found = ridged(matrices, 0.1, own)
    np.testing.assert_array_equal(matrices, kept)
    for index in np.ndindex(2, 3):
        diagonal = np.diag(matrices[index])
        level = diagonal.max() if own else diagonal.mean()
        expected = matrices[index] + np.diag(0.1 * level + own * diagonal)
        np.testing.assert_allclose(found[index], expected, rtol=1e-13, atol=1e-15)


def test_single_precision_is_mended_in_double() -> None:
    matrix = np.eye(2, dtype=np.float32)
    found = ridged(matrix, 1e-12)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found - np.eye(2), 1e-12 * np.eye(2), rtol=1e-3)


@pytest.mark.parametrize("own", [0.0, 1e-10])
def test_well_posed_systems_are_solved(own: float, rng: np.random.Generator) -> None:
    root, right = rng.standard_normal((3, 5, 5)), rng.standard_normal((3, 5))
    matrices = root @ root.swapaxes(1, 2) + np.eye(5)
    found = solve(matrices, right, 1e-14, own)
    expected = [np.linalg.solve(a, b) for a, b in zip(matrices, right, strict=True)]
    np.testing.assert_allclose(found, expected, rtol=1e-7, atol=1e-9)


def test_singular_systems_are_solved_where_they_can_be() -> None:
    u = np.array([1.0, 2.0])
    found = solve(np.outer(u, u), u, 1e-9)
    assert found @ u == pytest.approx(1.0, rel=1e-6)
    assert not solve(np.zeros((2, 2)), np.zeros(2), 1e-9).any()


def test_scale_is_the_root_of_the_diagonal_not_too_small() -> None:
    found = diagonal_scale(np.diag([4.0, -9.0, 0.0, 1e-30]) + 0.5 * np.eye(4)[::-1])
    np.testing.assert_allclose(found, [2.0, 3.0, 3e-5, 3e-5], rtol=1e-12)
    assert (diagonal_scale(np.zeros((3, 3))) > 0).all()


@given(st.integers(1, 300), st.integers(2, 50))
def test_positions_are_spread_evenly(n: int, most: int) -> None:
    found = spread_evenly(n, most)
    assert len(found) == min(n, most)
    assert (found[0], found[-1]) == (0, n - 1)
    steps = np.diff(found)
    assert (steps >= 1).all()
    if len(steps):
        assert steps.max() - steps.min() <= 1


def test_no_position_of_none_is_not_asked_for() -> None:
    assert spread_evenly(1, 5).tolist() == [0]

"""Synthetic support rows have the partitions' moments and nothing of their rows."""

from __future__ import annotations

import numpy as np

from daskmoe.numerics.base.observations import Observations, moments
from daskmoe.numerics.combine.supports import synthetic_support


def test_drawn_rows_have_the_moments_of_their_partition(rng: np.random.Generator) -> None:
    parts = [
        rng.standard_normal((500, 3)) @ rng.standard_normal((3, 3)) + rng.standard_normal(3) for _ in range(2)
    ]
    known = [moments(Observations(part, rng.standard_normal(500))) for part in parts]
    found = synthetic_support(known, [40_000, 10_000], rng)
    assert found.response is None
    assert found.features.shape == (50_000, 3)
    for part, rows in zip(parts, (slice(0, 40_000), slice(40_000, None)), strict=True):
        drawn = found.features[rows]
        np.testing.assert_allclose(drawn.mean(axis=0), part.mean(axis=0), atol=0.1)
        np.testing.assert_allclose(np.cov(drawn.T), np.cov(part.T), atol=0.3)
        np.testing.assert_allclose(found.weight[rows].sum(), 0.5, rtol=1e-12)


def test_constant_and_collinear_features_stay_so(rng: np.random.Generator) -> None:
    x = rng.standard_normal(100)
    part = np.column_stack([x, 2 * x + 1, np.full(100, 5.0)])
    (drawn,) = (synthetic_support([moments(Observations(part, x))], [50], rng).features,)
    np.testing.assert_allclose(drawn[:, 1], 2 * drawn[:, 0] + 1, atol=1e-6)
    np.testing.assert_allclose(drawn[:, 2], 5.0, atol=1e-6)

"""What rows say of a sum over them, held to the spread of such sums over samples."""

from __future__ import annotations

import numpy as np
import pytest

from daskmoe.numerics.base.observations import deviation_of_sum


def test_deviation_of_a_sum_is_its_spread_over_samples(rng: np.random.Generator) -> None:
    samples = rng.exponential(2.0, (4_000, 200)) - 1.5
    found = np.mean([deviation_of_sum(sample, None) for sample in samples[:200]])
    # The spread of 4,000 sums is known to about a hundredth.
    assert found == pytest.approx(samples.sum(axis=1).std(), rel=0.04)


def test_weights_scale_it_and_a_shift_does_not(rng: np.random.Generator) -> None:
    differences, weight = rng.standard_normal(50), np.full(50, 3.0)
    plain = deviation_of_sum(differences, None)
    assert plain == pytest.approx(np.sqrt(50) * differences.std())
    assert deviation_of_sum(differences + 7.0, weight) == pytest.approx(3.0 * plain)

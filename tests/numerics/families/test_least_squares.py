"""One expert from moments: against `numpy.linalg.lstsq` on the rows."""

from __future__ import annotations

import numpy as np
import pytest

from daskmoe.numerics.base.observations import Observations, merge_moments, moments
from numerics.oracles import GAUSSIAN


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("shift", [0.0, 1e6])
def test_summed_moments_give_weighted_least_squares(
    rng: np.random.Generator, weighted: bool, shift: float
) -> None:
    features = rng.standard_normal((90, 3)) * [1.0, 100.0, 1e-3] + shift * np.array([0.0, 1.0, 0.0])
    response = features @ [2.0, -0.1, 50.0] + rng.standard_normal(90) + 7.0
    weight = rng.random(90) + 0.1 if weighted else None
    parts = [
        Observations(features[i::3], response[i::3], None if weight is None else weight[i::3])
        for i in range(3)
    ]
    pooled = merge_moments(merge_moments(moments(parts[0]), moments(parts[1])), moments(parts[2]))
    found = GAUSSIAN.from_moments(pooled)
    assert found is not None
    root = np.ones(90) if weight is None else np.sqrt(weight)
    centered = features - features.mean(axis=0)
    design = np.column_stack([np.ones(90), centered]) * root[:, None]
    slopes = np.linalg.lstsq(design, response * root, rcond=None)[0]
    fitted = np.column_stack([np.ones(90), centered]) @ slopes
    predicted = found.coef[0, 0, 0] + features @ found.coef[0, 0, 1:]
    np.testing.assert_allclose(predicted, fitted, rtol=1e-8)
    mean_square = np.average((response - fitted) ** 2, weights=weight)
    np.testing.assert_allclose(found.nuisance[:, 0], [mean_square], rtol=1e-8)
    np.testing.assert_array_equal(found.gate, np.zeros((1, 4)))

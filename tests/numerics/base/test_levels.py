"""Features that nearly all rows have one value of."""

from __future__ import annotations

import numpy as np

from daskmoe.numerics.base.levels import rare_levels


def test_rare_levels_are_those_that_few_rows_have(rng: np.random.Generator) -> None:
    n_rows = 5_000
    features = np.column_stack(
        [
            rng.standard_normal(n_rows),
            (np.arange(n_rows) == 7) * 2.0 + 3.0,
            np.full(n_rows, 4.0),
            (np.arange(n_rows) % 1_000 == 0).astype(float),
            (rng.random(n_rows) < 0.05).astype(float),
        ]
    )
    found = rare_levels(features)
    assert [(level.feature, level.usual) for level in found] == [(1, 3.0), (3, 0.0)]
    assert [level.rows.tolist() for level in found] == [[7], [0, 1_000, 2_000, 3_000, 4_000]]


def test_no_rows_of_features_have_no_levels() -> None:
    assert rare_levels(np.zeros((10, 0))) == []

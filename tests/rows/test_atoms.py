"""Values that a target repeats beyond chance."""

from __future__ import annotations

import numpy as np
import pytest

from daskmoe.rows.atoms import repeated

RNG = np.random.default_rng(0)
WET = RNG.gamma(2.0, size=10_000)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (WET, []),
        (np.where(RNG.random(10_000) < 0.5, 0.0, WET), [0.0]),
        # Rounded values repeat too, each as often as its neighbours.
        (np.round(RNG.normal(size=10_000), 1), []),
        (np.where(RNG.random(10_000) < 0.7, 0.0, np.round(WET, 1)), [0.0]),
        (np.clip(WET, 0.5, 3.0), [0.5, 3.0]),
        (np.ones(10), []),
        (np.empty(0), []),
    ],
)
def test_atoms_stand_out_among_the_values_beside_them(values: np.ndarray, expected: list[float]) -> None:
    assert [value for value, _ in repeated(values)] == expected

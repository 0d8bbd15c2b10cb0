"""Containers of parameters."""

from __future__ import annotations

import numpy as np

from daskmoe.numerics.base.parameters import LargeMoE
from numerics.oracles import assert_same_model, random_model


def test_another_order_is_the_same_model_with_another_reference(rng: np.random.Generator) -> None:
    model, features = random_model(rng, 3, 2), rng.standard_normal((20, 2))
    order = np.array([2, 0, 1])
    taken = model.take(order)
    assert taken.gate[-1].tolist() == [0.0, 0.0, 0.0]
    np.testing.assert_array_equal(taken.coef, model.coef[order])
    back = taken.take(np.argsort(order))
    assert_same_model(back, model, features, 1e-13)


def test_local_estimators_of_any_size_stack_and_come_back(rng: np.random.Generator) -> None:
    local = [random_model(rng, k, 2) for k in (2, 1, 4)]
    large = LargeMoE.from_estimates(local, np.array([10.0, 30.0, 60.0]))
    assert large.partition.tolist() == [0, 0, 1, 2, 2, 2, 2]
    assert large.sizes.tolist() == [2, 1, 4]
    np.testing.assert_allclose(large.weights, [0.1, 0.3, 0.6], rtol=1e-15)
    for found, model in zip(large.local_parameters(), local, strict=True):
        for array, expected in zip(found, model, strict=True):
            np.testing.assert_array_equal(array, expected)


def test_sizes_are_read_off_the_arrays(rng: np.random.Generator) -> None:
    model = random_model(rng, 3, 5)
    assert (model.n_experts, model.n_features) == (3, 5)

"""From local estimators to one model: the reduction estimator as the engine calls it, and pooled supports."""

from __future__ import annotations

import re

import numpy as np
import pytest

from daskmoe.errors import InvalidOptionError
from daskmoe.numerics.aggregation import pool_support, reduction_estimator
from daskmoe.numerics.alignment import canonical_order
from daskmoe.numerics.parameters import LargeMoE, MoEParameters, SupportSample
from daskmoe.numerics.reduction import reduce_mixture
from numerics.oracles import GAUSSIAN, assert_same_model, random_model


def some_support(rng: np.random.Generator, n: int = 100) -> SupportSample:
    return SupportSample(rng.standard_normal((n, 2)), None, np.full(n, 1 / n))


def test_one_local_estimator_is_returned_as_it_is(rng: np.random.Generator) -> None:
    model = canonical_order(random_model(rng, 3, 2))
    found = reduction_estimator([model], np.array([7.0]), some_support(rng), 3, GAUSSIAN)
    for array, expected in zip(found.parameters, model, strict=True):
        np.testing.assert_array_equal(array, expected)
    assert found.converged
    assert found.flow.shape == (3, 3)


@pytest.mark.parametrize("n_copies", [2, 7])
def test_copies_of_one_estimator_are_a_fixed_point(n_copies: int, rng: np.random.Generator) -> None:
    model, support = canonical_order(random_model(rng, 3, 2)), some_support(rng)
    found = reduction_estimator([model] * n_copies, rng.uniform(1, 9, n_copies), support, 3, GAUSSIAN)
    assert_same_model(found.parameters, model, support.features, 1e-6)


def test_weightless_partitions_do_not_count(rng: np.random.Generator) -> None:
    models, support = [random_model(rng, 2, 2) for _ in range(3)], some_support(rng)
    found = reduction_estimator(models, np.array([3.0, 0.0, 5.0]), support, 2, GAUSSIAN)
    expected = reduction_estimator([models[0], models[2]], np.array([3.0, 5.0]), support, 2, GAUSSIAN)
    assert_same_model(found.parameters, expected.parameters, support.features, 1e-9)
    np.testing.assert_allclose(found.flow[[0, 1, 4, 5]], expected.flow, rtol=1e-9)
    assert not found.flow[2:4].any()


def test_result_is_in_canonical_order_with_its_flow(rng: np.random.Generator) -> None:
    models, support = [random_model(rng, 3, 2) for _ in range(3)], some_support(rng)
    weights = np.array([1.0, 2.0, 1.0])
    found = reduction_estimator(models, weights, support, 3, GAUSSIAN)
    assert (np.diff(found.parameters.coef[:, 0]) > 0).all()
    plain = reduce_mixture(LargeMoE.from_estimates(models, weights), support, models, GAUSSIAN)
    assert_same_model(found.parameters, canonical_order(plain.parameters), support.features, 1e-9)
    order = [int(np.argmin(np.abs(plain.parameters.coef[:, 0] - b))) for b in found.parameters.coef[:, 0]]
    np.testing.assert_allclose(found.flow, plain.flow[:, order], rtol=1e-9)
    assert found.start_objectives.min() == found.objectives[-1]


def test_one_bad_partition_does_not_choose_the_optimum(rng: np.random.Generator) -> None:
    truth = random_model(rng, 3, 2)
    good = [truth._replace(coef=truth.coef + 0.01 * rng.standard_normal(truth.coef.shape)) for _ in range(7)]
    lost = np.stack([truth.coef.mean(axis=0), np.full(3, 1e3), np.full(3, -1e3)])
    bad = MoEParameters(np.array([[0.0] * 3, [-50.0, 0, 0], [-50.0, 0, 0]]), lost, np.full(3, 10.0)).take(
        np.array([2, 1, 0])
    )
    support = some_support(rng)
    found = reduction_estimator([bad, *good], np.ones(8), support, 3, GAUSSIAN)
    alone = reduce_mixture(LargeMoE.from_estimates([bad, *good], np.ones(8)), support, [bad], GAUSSIAN)
    assert found.objectives[-1] < 0.9 * alone.objectives[-1]


def test_a_size_that_no_local_estimator_has_is_an_error(rng: np.random.Generator) -> None:
    models = [random_model(rng, 3, 2), random_model(rng, 2, 2)]
    message = "n_experts: expected the size of a local estimator, [2, 3], got 4."
    with pytest.raises(InvalidOptionError, match=re.escape(message)):
        reduction_estimator(models, np.ones(2), some_support(rng), 4, GAUSSIAN)


def test_partitions_share_the_support_by_their_weight(rng: np.random.Generator) -> None:
    shares = [
        SupportSample(rng.standard_normal((n, 2)), np.full(n, float(n)), np.full(n, 1 / n)) for n in (2, 5)
    ]
    pooled = pool_support(shares, np.array([30.0, 10.0]))
    np.testing.assert_array_equal(pooled.features, np.concatenate([s.features for s in shares]))
    np.testing.assert_allclose(pooled.weight, [0.375] * 2 + [0.05] * 5, rtol=1e-14)
    assert pooled.response is not None
    assert pooled.response.tolist() == [2.0] * 2 + [5.0] * 5


def test_empty_and_weightless_shares_are_left_out(rng: np.random.Generator) -> None:
    shares = [
        SupportSample(np.zeros((0, 2)), None, np.zeros(0)),
        SupportSample(np.full((2, 2), 1.0), None, np.full(2, 0.5)),
        SupportSample(np.full((3, 2), 2.0), None, np.full(3, 1 / 3)),
    ]
    pooled = pool_support(shares, np.array([5.0, 2.0, 0.0]))
    assert pooled.features.tolist() == [[1.0, 1.0], [1.0, 1.0]]
    assert pooled.weight.tolist() == [0.5, 0.5]


def test_responses_stay_home_unless_all_partitions_send_them() -> None:
    shares = [
        SupportSample(np.zeros((1, 1)), np.zeros(1), np.ones(1)),
        SupportSample(np.zeros((1, 1)), None, np.ones(1)),
    ]
    assert pool_support(shares, np.ones(2)).response is None

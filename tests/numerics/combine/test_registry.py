"""From local estimators to one model: the reduction estimator as the engine calls it, and pooled supports."""

from __future__ import annotations

import itertools
import re
from typing import Any

import numpy as np
import pytest

from daskmoe.errors import InvalidOptionError
from daskmoe.numerics.base.observations import Observations, moments
from daskmoe.numerics.base.parameters import LargeMoE, MoEParameters, SupportSample, canonical_order
from daskmoe.numerics.combine import registry
from daskmoe.numerics.combine.registry import aggregate_estimates
from daskmoe.numerics.combine.supports import pool_support
from daskmoe.numerics.predictive.mixture import log_density, mixture_mean
from daskmoe.numerics.transport.cost import relaxed_divergence
from daskmoe.numerics.transport.reduction import reduce_mixture
from daskmoe.options import METHODS
from numerics.oracles import GAUSSIAN, assert_same_model, gaussian_model, random_model


def some_support(rng: np.random.Generator, n: int = 100) -> SupportSample:
    return SupportSample(rng.standard_normal((n, 2)), None, np.full(n, 1 / n))


def test_one_local_estimator_is_returned_as_it_is(rng: np.random.Generator) -> None:
    model = canonical_order(random_model(rng, 3, 2))
    found = aggregate_estimates("reduction", [model], np.array([7.0]), some_support(rng), 3, GAUSSIAN)
    for array, expected in zip(found.parameters, model, strict=True):
        np.testing.assert_array_equal(array, expected)
    assert found.converged
    assert found.flow.shape == (3, 3)


@pytest.mark.parametrize("n_copies", [2, 7])
def test_copies_of_one_estimator_are_a_fixed_point(n_copies: int, rng: np.random.Generator) -> None:
    model, support = canonical_order(random_model(rng, 3, 2)), some_support(rng)
    found = aggregate_estimates(
        "reduction", [model] * n_copies, rng.uniform(1, 9, n_copies), support, 3, GAUSSIAN
    )
    assert_same_model(found.parameters, model, support.features, 1e-6)


@pytest.mark.parametrize("method", ["reduction", "whole", "greedy"])
def test_experts_that_the_support_does_not_see_are_kept(method: str, rng: np.random.Generator) -> None:
    model = random_model(rng, 3, 2)
    hidden = model._replace(gate=np.array([[0.0] * 3, [0.0] * 3, [-900.0, 0.0, 0.0]]))
    support = SupportSample(rng.standard_normal((60, 2)), None, np.full(60, 1 / 60))
    found = aggregate_estimates(method, [hidden, hidden], np.ones(2), support, 4, GAUSSIAN)
    assert isinstance(found.parameters, MoEParameters)
    assert found.parameters.n_experts == 4
    assert all(np.isfinite(array).all() for array in found.parameters)


def test_weightless_partitions_do_not_count(rng: np.random.Generator) -> None:
    models, support = [random_model(rng, 2, 2) for _ in range(3)], some_support(rng)
    found = aggregate_estimates("reduction", models, np.array([3.0, 0.0, 5.0]), support, 2, GAUSSIAN)
    expected = aggregate_estimates(
        "reduction", [models[0], models[2]], np.array([3.0, 5.0]), support, 2, GAUSSIAN
    )
    assert_same_model(found.parameters, expected.parameters, support.features, 1e-9)
    np.testing.assert_allclose(found.flow[[0, 1, 4, 5]], expected.flow, rtol=1e-9)
    assert not found.flow[2:4].any()


def test_result_is_in_canonical_order_with_its_flow(rng: np.random.Generator) -> None:
    models, support = [random_model(rng, 3, 2) for _ in range(3)], some_support(rng)
    weights = np.array([1.0, 2.0, 1.0])
    found = aggregate_estimates("reduction", models, weights, support, 3, GAUSSIAN)
    assert (np.diff(found.parameters.coef[:, 0, 0]) > 0).all()
    large = LargeMoE.from_estimates(models, weights)
    assert found.objectives[-1] <= reduce_mixture(large, support, models, GAUSSIAN).objectives[-1]
    assert isinstance(found.parameters, MoEParameters)
    again = reduce_mixture(large, support, [found.parameters], GAUSSIAN)
    assert_same_model(found.parameters, again.parameters, support.features, 1e-6)
    np.testing.assert_allclose(found.flow, again.flow, rtol=1e-6, atol=1e-9)
    assert found.start_objectives.min() == found.objectives[-1]


def test_one_bad_partition_does_not_choose_the_optimum(rng: np.random.Generator) -> None:
    truth = random_model(rng, 3, 2)
    good = [truth._replace(coef=truth.coef + 0.01 * rng.standard_normal(truth.coef.shape)) for _ in range(7)]
    lost = np.stack([truth.coef[:, 0].mean(axis=0), np.full(3, 1e3), np.full(3, -1e3)])
    bad = gaussian_model(np.array([[0.0] * 3, [-50.0, 0, 0], [-50.0, 0, 0]]), lost, np.full(3, 10.0)).take(
        np.array([2, 1, 0])
    )
    support = some_support(rng)
    found = aggregate_estimates("reduction", [bad, *good], np.ones(8), support, 3, GAUSSIAN)
    alone = reduce_mixture(LargeMoE.from_estimates([bad, *good], np.ones(8)), support, [bad], GAUSSIAN)
    assert found.objectives[-1] < 0.9 * alone.objectives[-1]


def test_more_experts_than_there_are_is_an_error(rng: np.random.Generator) -> None:
    models = [random_model(rng, 3, 2), random_model(rng, 2, 2)]
    message = "n_experts: expected at most 5, the experts of all local estimators together, got 6."
    for method in METHODS:
        with pytest.raises(InvalidOptionError, match=re.escape(message)):
            aggregate_estimates(method, models, np.ones(2), some_support(rng), 6, GAUSSIAN)


@pytest.mark.parametrize("method", ["middle", "aligned"])
def test_a_size_that_no_local_estimator_has_is_an_error(method: str, rng: np.random.Generator) -> None:
    models = [random_model(rng, 3, 2), random_model(rng, 2, 2)]
    with pytest.raises(InvalidOptionError, match=r"n_experts: expected .*sizes? .*\[2, 3\]"):
        aggregate_estimates(method, models, np.ones(2), some_support(rng), 4, GAUSSIAN)


def noisy_copies(
    rng: np.random.Generator, truth: MoEParameters, n_copies: int, noise: float
) -> list[MoEParameters]:
    """A model with noise in all parameters, its experts in random order."""
    copies = []
    for _ in range(n_copies):
        gate = truth.gate + noise * rng.standard_normal(truth.gate.shape)
        coef = truth.coef + noise * rng.standard_normal(truth.coef.shape)
        variance = truth.nuisance * np.exp(noise * rng.standard_normal((len(coef), 1)))
        noisy = MoEParameters(gate, coef, variance)
        copies.append(noisy.take(rng.permutation(len(coef))))
    return copies


@pytest.mark.parametrize("method", METHODS)
def test_the_order_of_partitions_and_experts_changes_nothing(method: str, rng: np.random.Generator) -> None:
    support = some_support(rng)
    models = noisy_copies(rng, random_model(rng, 3, 2), 6, 0.1)
    weights = rng.uniform(1, 3, 6)
    expected = aggregate_estimates(method, models, weights, support, 3, GAUSSIAN)
    order = rng.permutation(6)
    moved = [models[m].take(rng.permutation(3)) for m in order]
    found = aggregate_estimates(method, moved, weights[order], support, 3, GAUSSIAN)
    response = rng.standard_normal(len(support.features))
    np.testing.assert_allclose(
        log_density(found.parameters, GAUSSIAN, support.features, response),
        log_density(expected.parameters, GAUSSIAN, support.features, response),
        rtol=1e-6,
    )


@pytest.mark.parametrize("method", ["reduction", "whole", "greedy", "middle", "aligned"])
def test_every_method_finds_what_all_partitions_say(method: str, rng: np.random.Generator) -> None:
    truth, support = random_model(rng, 3, 2), some_support(rng, 400)
    models = noisy_copies(rng, truth, 8, 0.02)
    found = aggregate_estimates(method, models, np.ones(8), support, 3, GAUSSIAN)
    assert found.chosen == method
    assert isinstance(found.parameters, MoEParameters)
    tolerance = 0.3 if method == "reduction" else 0.1
    assert_same_model(found.parameters, canonical_order(truth), support.features, tolerance)
    assert (np.diff(found.objectives) <= 0).all()
    np.testing.assert_allclose(found.flow.sum(), 1.0, rtol=1e-9)


def test_the_weighted_average_is_the_average_of_densities(rng: np.random.Generator) -> None:
    models = [random_model(rng, k, 2) for k in (2, 4, 3)]
    support, weights = some_support(rng), np.array([5.0, 1.0, 2.0])
    found = aggregate_estimates("weighted", models, weights, support, 1, GAUSSIAN)
    assert isinstance(found.parameters, LargeMoE)
    y = rng.standard_normal(100)
    densities = [np.exp(log_density(model, GAUSSIAN, support.features, y)) for model in models]
    np.testing.assert_allclose(
        np.exp(log_density(found.parameters, GAUSSIAN, support.features, y)),
        weights @ densities / weights.sum(),
        rtol=1e-10,
    )
    means = [mixture_mean(model, GAUSSIAN, support.features) for model in models]
    np.testing.assert_allclose(
        mixture_mean(found.parameters, GAUSSIAN, support.features), weights @ means / weights.sum(), rtol=1e-9
    )


def test_the_middle_is_nearest_to_all_by_the_definition(rng: np.random.Generator) -> None:
    models, support = [random_model(rng, 3, 2) for _ in range(5)], some_support(rng, 60)
    weights = rng.uniform(1, 4, 5)
    totals = [
        sum(
            w * relaxed_divergence(other, model, support, GAUSSIAN)
            for w, other in zip(weights, models, strict=True)
        )
        for model in models
    ]
    found = aggregate_estimates("middle", models, weights, support, 3, GAUSSIAN)
    expected = canonical_order(models[int(np.argmin(totals))])
    for array, other in zip(found.parameters, expected, strict=True):
        np.testing.assert_array_equal(array, other)
    np.testing.assert_allclose(found.objectives[-1], min(totals) / weights.sum(), rtol=1e-9)


@pytest.mark.parametrize("method", ["reduction", "whole", "greedy"])
def test_partitions_that_know_some_experts_only(method: str, rng: np.random.Generator) -> None:
    """Partitions of exact submodels with two of four experts give the whole model back."""
    truth, support = random_model(rng, 4, 2), some_support(rng, 500)
    models = []
    for known in itertools.combinations(range(4), 2):
        models.append(truth.take(np.array(known)))
    found = aggregate_estimates(method, models, np.ones(6), support, 4, GAUSSIAN)
    assert isinstance(found.parameters, MoEParameters)
    assert_same_model(found.parameters, canonical_order(truth), support.features, 1e-5)


@pytest.mark.parametrize("method", ["reduction", "greedy"])
def test_partitions_with_more_experts_than_the_result(method: str, rng: np.random.Generator) -> None:
    """An expert that every partition has twice, with the gate shared out, is one expert."""
    truth, support = random_model(rng, 2, 2), some_support(rng, 300)
    gate = truth.gate[[0, 0, 1]]
    gate[:2, 0] -= np.log(2)
    split = MoEParameters(gate, truth.coef[[0, 0, 1]], truth.nuisance[[0, 0, 1]])
    found = aggregate_estimates(method, [split, split], np.ones(2), support, 2, GAUSSIAN)
    assert isinstance(found.parameters, MoEParameters)
    assert_same_model(found.parameters, canonical_order(truth), support.features, 1e-5)


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


def heaviest(known: Any, n_experts: int) -> registry.Aggregate:
    """The local estimator of most rows: a function such as somebody may add."""
    chosen = known.parameters[int(np.argmax(known.large.weights))]
    return registry._moved_to(known, chosen, "heaviest")


def test_another_aggregation_is_a_function_and_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry.AGGREGATORS, "heaviest", registry.Aggregator(heaviest, same_size=True))
    rng = np.random.default_rng(0)
    locals_ = [random_model(rng, 3, 2) for _ in range(4)]
    features = rng.standard_normal((50, 2))
    support = SupportSample(features, None, np.full(50, 0.02))
    weights = np.array([1.0, 5.0, 2.0, 3.0])
    found = registry.aggregate_estimates("heaviest", locals_, weights, support, 3, GAUSSIAN)
    assert found.chosen == "heaviest"
    assert_same_model(found.parameters, canonical_order(locals_[1]), features, 1e-12)
    assert found.flow.shape == (12, 3)


def sites_that_lack(rng: np.random.Generator, column: Any) -> tuple[list[MoEParameters], Any, SupportSample]:
    """Four local estimators of one truth; the third column of the second site's rows is ``column`` of them.

    Its estimate is that of least norm: what it does not know has moved into what it does.
    """
    truth = gaussian_model(
        np.array([[0.0, 3.0, 0.0, 0.5], [0.0] * 4]),
        np.array([[2.0, 0.0, 3.0, 2.0], [-2.0, 0.0, -1.0, 4.0]]),
        np.array([0.3, 0.2]),
    )
    models, known, features = [], [], []
    for m in range(4):
        x = rng.standard_normal((400, 3))
        x[:, 2] = x[:, 2] > 0
        model = truth
        if m == 1:
            x[:, 2] = column(x)
            # Predictors are the same on the hull of the rows: by least squares of least norm.
            design = np.column_stack([np.ones(400), x])
            same = np.linalg.pinv(design) @ design
            model = truth._replace(gate=truth.gate @ same.T, coef=truth.coef @ same.T)
        models.append(model)
        known.append(moments(Observations(x, np.zeros(400))))
        features.append(x)
    rows = np.concatenate(features)
    return [truth, *models], known, SupportSample(rows, None, np.full(len(rows), 1 / len(rows)))


LACKING = {"level": lambda x: np.zeros(len(x)), "copy": lambda x: x[:, 1], "full": lambda x: np.ones(len(x))}


@pytest.mark.parametrize("lacking", LACKING)
@pytest.mark.parametrize("method", ["reduction", "whole", "greedy", "aligned"])
def test_what_a_partition_does_not_know_is_no_zero(
    method: str, lacking: str, rng: np.random.Generator
) -> None:
    (truth, *models), known, support = sites_that_lack(rng, LACKING[lacking])
    found = aggregate_estimates(method, models, np.ones(4), support, 2, GAUSSIAN, known)
    assert_same_model(found.parameters, canonical_order(truth), support.features, 1e-5)
    assert found.gaps is not None
    named = [False, lacking == "copy", True]
    np.testing.assert_array_equal(found.gaps.features, [[False] * 3, named, [False] * 3, [False] * 3])
    assert not found.gaps.taken_whole.any()
    assert found.gaps.unknown_support == 0.0


def test_slopes_that_the_support_does_not_see_come_from_those_that_know_them(
    rng: np.random.Generator,
) -> None:
    (truth, *models), known, support = sites_that_lack(rng, LACKING["level"])
    without = SupportSample(support.features * np.array([1.0, 1.0, 0.0]), None, support.weight)
    found = aggregate_estimates("reduction", models, np.ones(4), without, 2, GAUSSIAN, known)
    assert_same_model(found.parameters, canonical_order(truth), support.features, 1e-5)


@pytest.mark.parametrize("method", ["weighted", "middle"])
def test_estimates_taken_as_they_are_say_so(method: str, rng: np.random.Generator) -> None:
    (_, *models), known, support = sites_that_lack(rng, LACKING["level"])
    if method == "middle":
        models, known = [models[1]] * 4, [known[1]] * 4
    found = aggregate_estimates(method, models, np.ones(4), support, 2, GAUSSIAN, known)
    assert found.gaps is not None
    expected = [True] * 4 if method == "middle" else [False, True, False, False]
    np.testing.assert_array_equal(found.gaps.taken_whole, expected)


def test_rows_that_no_estimator_knows_are_counted(rng: np.random.Generator) -> None:
    (_, *models), known, support = sites_that_lack(rng, LACKING["level"])
    found = aggregate_estimates(
        "reduction", [models[1]] * 2, np.ones(2), support, 2, GAUSSIAN, [known[1]] * 2
    )
    assert found.gaps is not None
    assert found.gaps.unknown_support == pytest.approx(np.mean(support.features[:, 2] != 0))

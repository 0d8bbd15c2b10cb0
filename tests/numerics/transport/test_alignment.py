"""Matching of experts, held to a search over all permutations; the canonical order of a model."""

from __future__ import annotations

import itertools

import hypothesis.strategies as st
import numpy as np
from hypothesis import given

from daskmoe.numerics.base.parameters import SupportSample, canonical_order
from daskmoe.numerics.transport.alignment import divergence_matrix, match_experts
from numerics.oracles import GAUSSIAN, assert_same_model, gaussian_model, random_model


def some_support(rng: np.random.Generator, n: int = 15) -> SupportSample:
    return SupportSample(rng.standard_normal((n, 2)), None, rng.dirichlet(np.ones(n)))


def test_divergences_are_expectations_over_the_support(rng: np.random.Generator) -> None:
    first, second, support = random_model(rng, 2, 2), random_model(rng, 3, 2), some_support(rng)
    expected = np.zeros((2, 3))
    for j, k in np.ndindex(2, 3):
        for x, w in zip(support.features, support.weight, strict=True):
            a, b = first.coef[j, 0] @ np.append(1.0, x), second.coef[k, 0] @ np.append(1.0, x)
            s, t = first.nuisance[j, 0], second.nuisance[k, 0]
            expected[j, k] += w * 0.5 * (np.log(t / s) + (s + (a - b) ** 2) / t - 1)
    np.testing.assert_allclose(divergence_matrix(first, second, support, GAUSSIAN), expected, rtol=1e-11)


@given(st.integers(1, 5), st.integers(0, 2**32 - 1))
def test_matching_is_the_best_permutation(n_experts: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    model, reference = random_model(rng, n_experts, 2), random_model(rng, n_experts, 2)
    support = some_support(rng)
    match = match_experts(model, reference, support, GAUSSIAN)
    divergences = divergence_matrix(model, reference, support, GAUSSIAN)

    def cost(permutation: tuple[int, ...]) -> float:
        return float(np.log1p(divergences[np.arange(n_experts), list(permutation)]).sum())

    best = min(itertools.permutations(range(n_experts)), key=cost)
    assert tuple(match.tolist()) == best


def test_one_hopeless_expert_leaves_the_others_their_places(rng: np.random.Generator) -> None:
    """It is nearest to another's, by more nats than all the others have to lose."""
    reference = gaussian_model(np.zeros((3, 3)), np.diag([1.0, 2.0, 3.0]) + 4 * np.eye(3), np.ones(3))
    lost = reference.coef.copy()
    lost[2] = 1e3 * reference.coef[0]
    model, support = reference._replace(coef=lost), some_support(rng)
    divergences = divergence_matrix(model, reference, support, GAUSSIAN)
    assert divergences[2, 0] + divergences[0, 2] < divergences[2, 2] + divergences[0, 0]
    np.testing.assert_array_equal(match_experts(model, reference, support, GAUSSIAN), [0, 1, 2])


@given(st.permutations(range(4)), st.integers(0, 2**32 - 1))
def test_a_shuffled_model_is_matched_back(order: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    model, support = random_model(rng, 4, 2), some_support(rng)
    shuffled = model.take(np.array(order))
    again = shuffled.take(np.argsort(match_experts(shuffled, model, support, GAUSSIAN)))
    assert_same_model(again, model, support.features, 1e-11)


@given(st.permutations(range(4)), st.integers(0, 2**32 - 1))
def test_canonical_order_forgets_the_order_it_came_in(order: list[int], seed: int) -> None:
    model = random_model(np.random.default_rng(seed), 4, 2)
    expected = canonical_order(model)
    found = canonical_order(model.take(np.array(order)))
    np.testing.assert_array_equal(found.coef, expected.coef)
    np.testing.assert_array_equal(found.nuisance, expected.nuisance)
    np.testing.assert_allclose(found.gate, expected.gate, atol=1e-12)
    assert (np.diff(expected.coef[:, 0, 0]) > 0).all()
    for again, once in zip(canonical_order(expected), expected, strict=True):
        np.testing.assert_array_equal(again, once)


def test_equal_intercepts_are_ordered_by_slopes() -> None:
    coef = np.array([[1.0, 2.0, 0.0], [1.0, -1.0, 5.0], [1.0, 2.0, -3.0]])
    model = gaussian_model(np.zeros((3, 3)), coef, np.array([1.0, 2.0, 3.0]))
    assert canonical_order(model).nuisance[:, 0].tolist() == [2.0, 3.0, 1.0]

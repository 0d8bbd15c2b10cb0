"""The transportation divergence of two models, against one linear program a row and closed forms."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given
from scipy.optimize import linprog

from daskmoe.numerics.base.parameters import LargeMoE, MoEParameters, SupportSample
from daskmoe.numerics.transport.cost import _PROGRAM_CELLS, exact_divergence, relaxed_divergence
from numerics.oracles import GAUSSIAN, random_model, softmax_gates


def some_support(rng: np.random.Generator, n: int) -> SupportSample:
    return SupportSample(rng.standard_normal((n, 2)), None, rng.dirichlet(np.ones(n)))


def cost_matrix(first: MoEParameters, second: MoEParameters, x: np.ndarray) -> np.ndarray:
    u = np.append(1.0, x)
    return np.array(
        [
            [
                GAUSSIAN.divergence(
                    first.coef[j] @ u[:, None],
                    first.nuisance[j],
                    second.coef[k] @ u[:, None],
                    second.nuisance[k],
                )[0]
                for k in range(second.n_experts)
            ]
            for j in range(first.n_experts)
        ]
    )


@given(st.integers(1, 4), st.integers(1, 4), st.sampled_from([1.0, 30.0]), st.integers(0, 2**32 - 1))
def test_exact_divergence_is_that_of_dense_programs(
    n_from: int, n_to: int, steepness: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    first = random_model(rng, n_from, 2, steepness=steepness)
    second = random_model(rng, n_to, 2, steepness=steepness)
    support = some_support(rng, 5)
    total = relaxed = 0.0
    for x, weight in zip(support.features, support.weight, strict=True):
        cost, mass, arrives = (
            cost_matrix(first, second, x),
            softmax_gates(first.gate, x),
            softmax_gates(second.gate, x),
        )
        constraints = np.vstack(
            [np.kron(np.eye(n_from), np.ones(n_to)), np.kron(np.ones(n_from), np.eye(n_to))[:-1]]
        )
        solved = linprog(
            cost.ravel(), A_eq=constraints, b_eq=np.append(mass, arrives[:-1]), method="highs",
            options={"presolve": False},
        )  # fmt: skip
        total += weight * solved.fun
        relaxed += weight * mass @ cost.min(axis=1)
    assert exact_divergence(first, second, support, GAUSSIAN) == pytest.approx(total, rel=1e-5, abs=1e-6)
    assert relaxed_divergence(first, second, support, GAUSSIAN) == pytest.approx(relaxed, rel=1e-9, abs=1e-12)


def test_two_experts_have_a_closed_form(rng: np.random.Generator) -> None:
    first, second, support = random_model(rng, 2, 2), random_model(rng, 2, 2), some_support(rng, 40)
    total = 0.0
    for x, weight in zip(support.features, support.weight, strict=True):
        cost, mass, arrives = (
            cost_matrix(first, second, x),
            softmax_gates(first.gate, x),
            softmax_gates(second.gate, x),
        )
        # All plans lie on a segment: the mass from the first to the first.
        ends = [max(0.0, mass[0] - arrives[1]), min(mass[0], arrives[0])]
        values = [np.sum(cost * [[t, mass[0] - t], [arrives[0] - t, arrives[1] - mass[0] + t]]) for t in ends]
        total += weight * min(values)
    assert exact_divergence(first, second, support, GAUSSIAN) == pytest.approx(total, rel=1e-6)


def test_a_model_is_at_no_distance_from_itself_and_its_reordering(rng: np.random.Generator) -> None:
    model, support = random_model(rng, 3, 2), some_support(rng, 20)
    for divergence in (relaxed_divergence, exact_divergence):
        assert divergence(model, model, support, GAUSSIAN) == pytest.approx(0, abs=1e-9)
        turned = model.take(np.array([2, 0, 1]))
        assert divergence(model, turned, support, GAUSSIAN) == pytest.approx(0, abs=1e-7)


def test_marginals_can_only_cost(rng: np.random.Generator) -> None:
    first, second, support = random_model(rng, 3, 2), random_model(rng, 4, 2), some_support(rng, 50)
    relaxed = relaxed_divergence(first, second, support, GAUSSIAN)
    assert 0 < relaxed <= exact_divergence(first, second, support, GAUSSIAN)


def test_the_large_moe_is_the_weighted_sum_of_its_parts(rng: np.random.Generator) -> None:
    parts, target = [random_model(rng, k, 2) for k in (2, 3)], random_model(rng, 2, 2)
    large, support = LargeMoE.from_estimates(parts, np.array([1.0, 3.0])), some_support(rng, 30)
    expected = [relaxed_divergence(part, target, support, GAUSSIAN) for part in parts]
    found = relaxed_divergence(large, target, support, GAUSSIAN)
    assert found == pytest.approx(0.25 * expected[0] + 0.75 * expected[1], rel=1e-9)


def test_many_rows_are_many_programs(rng: np.random.Generator) -> None:
    first, second = random_model(rng, 3, 2), random_model(rng, 3, 2)
    n = 2 * _PROGRAM_CELLS // 9 + 7
    support = some_support(rng, n)
    halves = [slice(0, n // 2), slice(n // 2, n)]
    expected = sum(
        exact_divergence(first, second, SupportSample(support.features[h], None, support.weight[h]), GAUSSIAN)
        for h in halves
    )
    assert exact_divergence(first, second, support, GAUSSIAN) == pytest.approx(expected, rel=1e-6)

"""Transport plans, held to linear programming and to enumeration; their sums to plain loops."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given
from scipy.optimize import linprog

from daskmoe.numerics.base.parameters import FloatArray, LargeMoE
from daskmoe.numerics.transport.plan import (
    _TILE_CELLS,
    Experts,
    PlanStatistics,
    ReductionProblem,
    pointwise_plan,
    tiles,
    whole_plan,
)
from numerics.oracles import GAUSSIAN, random_model, softmax_gates

Plan = Callable[[ReductionProblem, Experts], PlanStatistics]


def make_problem(
    rng: np.random.Generator, sizes: tuple[int, ...], n_rows: int, n_experts: int, n_features: int = 1
) -> tuple[ReductionProblem, Experts]:
    large = LargeMoE.from_estimates(
        [random_model(rng, k, n_features) for k in sizes], rng.uniform(1, 3, len(sizes))
    )
    design = np.concatenate([np.ones((1, n_rows)), rng.standard_normal((n_features, n_rows))])
    target = random_model(rng, n_experts, n_features)
    weight = rng.dirichlet(np.ones(n_rows))
    return ReductionProblem(large, design, weight, GAUSSIAN), Experts(target.coef, target.nuisance)


def component_mass(problem: ReductionProblem) -> FloatArray:
    """w_s lambda_m pi_l^(m)(x_s), shape (L, S), by the definition."""
    columns = []
    for w, u in zip(problem.weight, problem.design.T, strict=True):
        parts = [
            weight * softmax_gates(local.gate, u[1:])
            for weight, local in zip(problem.large.weights, problem.large.local_parameters(), strict=True)
        ]
        columns.append(w * np.concatenate(parts))
    return np.stack(columns, axis=1)


def costs(problem: ReductionProblem, experts: Experts) -> FloatArray:
    """KL(phi_l, phi_k) at every row, shape (L, K, S)."""
    large = problem.large
    return GAUSSIAN.divergence(
        (large.coef @ problem.design)[:, None],
        large.nuisance[:, None],
        (experts.coef @ problem.design)[None],
        experts.nuisance[None],
    )


def assert_statistics(found: PlanStatistics, problem: ReductionProblem, plan: FloatArray) -> None:
    """The sums of an explicit plan (L, K, S)."""
    mean = problem.large.coef @ problem.design
    second = mean**2 + problem.large.nuisance[:, :, None]
    np.testing.assert_allclose(found.mass, plan.sum(axis=0), rtol=1e-10, atol=1e-14)
    assert found.moments.shape[:2] == (plan.shape[1], 2)
    np.testing.assert_allclose(found.moments[:, 0], (plan * mean).sum(axis=0), rtol=1e-10, atol=1e-13)
    np.testing.assert_allclose(found.moments[:, 1], (plan * second).sum(axis=0), rtol=1e-10, atol=1e-13)
    np.testing.assert_allclose(found.flow, plan.sum(axis=2), rtol=1e-10, atol=1e-14)


problems = given(
    st.lists(st.integers(1, 3), min_size=1, max_size=3).map(tuple),
    st.integers(1, 4),
    st.integers(1, 3),
    st.integers(0, 2**32 - 1),
)


@problems
def test_pointwise_plan_is_the_linear_programs(
    sizes: tuple[int, ...], n_rows: int, n_experts: int, seed: int
) -> None:
    problem, experts = make_problem(np.random.default_rng(seed), sizes, n_rows, n_experts)
    mass, cost = component_mass(problem), costs(problem, experts)
    # Every component's mass leaves at every row; where it arrives is free.
    leaving = np.kron(np.eye(mass.size), np.ones((1, n_experts)))
    result = linprog(cost.transpose(0, 2, 1).ravel(), A_eq=leaving, b_eq=mass.ravel(), method="highs")
    found = pointwise_plan(problem, experts)
    assert found.objective == pytest.approx(result.fun, rel=1e-6, abs=1e-9)
    plan = np.zeros_like(cost)
    for part, s in np.ndindex(mass.shape):
        plan[part, np.argmin(cost[part, :, s]), s] = mass[part, s]
    assert found.objective == pytest.approx(np.sum(plan * cost), rel=1e-10)
    assert_statistics(found, problem, plan)


@problems
def test_whole_plan_is_the_best_of_all_assignments(
    sizes: tuple[int, ...], n_rows: int, n_experts: int, seed: int
) -> None:
    problem, experts = make_problem(np.random.default_rng(seed), sizes[:2], n_rows, n_experts)
    mass, cost = component_mass(problem), costs(problem, experts)
    parts = np.arange(len(mass))
    totals = {
        target: np.sum(mass * cost[parts, list(target)])
        for target in itertools.product(range(n_experts), repeat=len(mass))
    }
    best = min(totals, key=totals.__getitem__)
    found = whole_plan(problem, experts)
    assert found.objective == pytest.approx(totals[best], rel=1e-10)
    plan = np.zeros_like(cost)
    plan[parts, list(best)] = mass
    assert_statistics(found, problem, plan)


@pytest.mark.parametrize("plan", [pointwise_plan, whole_plan])
@problems
def test_marginals_are_exact(
    plan: Plan, sizes: tuple[int, ...], n_rows: int, n_experts: int, seed: int
) -> None:
    problem, experts = make_problem(np.random.default_rng(seed), sizes, n_rows, n_experts)
    found = plan(problem, experts)
    np.testing.assert_allclose(found.mass.sum(axis=0), problem.weight, rtol=1e-12)
    np.testing.assert_allclose(found.flow.sum(axis=1), component_mass(problem).sum(axis=1), rtol=1e-11)
    np.testing.assert_allclose(found.flow.sum(axis=0), found.mass.sum(axis=1), rtol=1e-11, atol=1e-15)
    assert (found.mass >= 0).all()


@problems
def test_freedom_row_by_row_costs_no_more(
    sizes: tuple[int, ...], n_rows: int, n_experts: int, seed: int
) -> None:
    problem, experts = make_problem(np.random.default_rng(seed), sizes, n_rows, n_experts)
    pointwise, whole = pointwise_plan(problem, experts), whole_plan(problem, experts)
    assert 0 <= pointwise.objective <= whole.objective * (1 + 1e-12)


@pytest.mark.parametrize("plan", [pointwise_plan, whole_plan])
def test_components_among_the_experts_move_for_nothing(plan: Plan, rng: np.random.Generator) -> None:
    problem, _ = make_problem(rng, (3,), 20, 3)
    found = plan(problem, Experts(problem.large.coef, problem.large.nuisance))
    assert found.objective == 0
    np.testing.assert_allclose(found.mass, component_mass(problem), rtol=1e-12)
    assert (found.flow[~np.eye(3, dtype=bool)] == 0).all()


def test_tiles_hold_whole_partitions_and_every_component_once(rng: np.random.Generator) -> None:
    sizes = (2, 3, 1, 4, 2)
    for n_rows in (1, _TILE_CELLS // 6, _TILE_CELLS // 4, 2 * _TILE_CELLS):
        problem, _ = make_problem(rng, sizes, n_rows, 2)
        pieces = list(tiles(problem))
        covered = np.concatenate([np.arange(12)[tile.components] for tile in pieces])
        assert covered.tolist() == list(range(12))
        starts = {tile.components.start for tile in pieces}
        assert starts <= {0, 2, 5, 6, 10}
        for tile in pieces:
            # More than one partition only where they fit.
            assert (
                len(tile.mass) * n_rows <= _TILE_CELLS
                or len(set(problem.large.partition[tile.components])) == 1
            )
        if n_rows == 1:
            assert len(pieces) == 1


@pytest.mark.parametrize("plan", [pointwise_plan, whole_plan])
def test_tiles_add_up(plan: Plan, rng: np.random.Generator) -> None:
    problem, experts = make_problem(rng, (2, 3, 1, 4), _TILE_CELLS // 4, 3)
    assert len(list(tiles(problem))) == 3
    mass, cost = component_mass(problem), costs(problem, experts)
    chosen = np.zeros_like(cost, dtype=bool)
    price = (
        cost
        if plan is pointwise_plan
        else np.broadcast_to(np.einsum("ls,lks->lk", mass, cost)[..., None], cost.shape)
    )
    np.put_along_axis(chosen, np.argmin(price, axis=1)[:, None], True, axis=1)
    assert_statistics(plan(problem, experts), problem, chosen * mass[:, None])


@pytest.mark.parametrize("plan", [pointwise_plan, whole_plan])
def test_rows_are_told_by_those_that_know_them(plan: Plan, rng: np.random.Generator) -> None:
    """As the sum of problems, one for each set of local estimators that knows some rows."""
    problem, experts = make_problem(rng, (2, 3, 1), 12, 2)
    known = np.array([[True] * 8 + [False] * 4, [True] * 4 + [False] * 8, [True] * 8 + [False] * 4])
    problem = problem._replace(known=known)
    np.testing.assert_allclose(problem.shares().sum(axis=0), 1.0)
    # The last rows, which none of them knows, are told by all.
    weights = np.repeat(problem.large.weights[:, None], 12, axis=1)
    weights[1, 4:8] = 0.0
    weights /= weights.sum(axis=0)
    moved = component_mass(problem) * (weights / problem.large.weights[:, None])[problem.large.partition]
    cost = costs(problem, experts)
    found = plan(problem, experts)
    np.testing.assert_allclose(found.mass.sum(axis=0), problem.weight)
    if plan is pointwise_plan:
        np.testing.assert_allclose(found.objective, np.sum(moved * cost.min(axis=1)))
    else:
        np.testing.assert_allclose(found.objective, np.sum((moved[:, None] * cost).sum(axis=2).min(axis=1)))


def test_a_problem_of_some_rows_and_partitions_knows_what_it_did(rng: np.random.Generator) -> None:
    problem, _ = make_problem(rng, (2, 2, 2), 9, 2)
    known = rng.random((3, 9)) < 0.5
    fewer = problem._replace(known=known).at_rows(np.array([1, 4, 8])).of_partitions(np.array([0, 2]))
    assert fewer.known is not None
    np.testing.assert_array_equal(fewer.known, known[[0, 2]][:, [1, 4, 8]])
    np.testing.assert_allclose([fewer.weight.sum(), fewer.large.weights.sum()], 1.0)

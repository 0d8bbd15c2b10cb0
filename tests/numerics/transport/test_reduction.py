"""The reduction estimator: a falling objective, barycentres held to scipy.optimize, fixed points."""

from __future__ import annotations

from typing import Literal

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given
from scipy.optimize import minimize

from daskmoe.numerics.base.parameters import (
    FloatArray,
    LargeMoE,
    MoEParameters,
    SupportSample,
    canonical_order,
)
from daskmoe.numerics.base.policies import REDUCTION
from daskmoe.numerics.transport.plan import Experts, PlanStatistics, pointwise_plan, whole_plan
from daskmoe.numerics.transport.reduction import (
    barycentres,
    reduce_mixture,
    reduction_problem,
)
from numerics.oracles import GAUSSIAN, assert_same_model, central_gradient, gaussian_model, random_model

Kind = Literal["pointwise", "whole"]
KINDS: tuple[Kind, ...] = ("pointwise", "whole")


def some_support(rng: np.random.Generator, n: int = 120, p: int = 2) -> SupportSample:
    features = rng.standard_normal((n, p)) * [3.0, 0.2][:p] + 5
    return SupportSample(features, None, rng.dirichlet(np.full(n, 5.0)))


def near(model: MoEParameters, rng: np.random.Generator, size: float) -> MoEParameters:
    """A local estimator of ``model``: every parameter off by about ``size``."""
    gate = model.gate + size * rng.standard_normal(model.gate.shape)
    coef = model.coef + size * rng.standard_normal(model.coef.shape)
    return MoEParameters(gate - gate[-1], coef, model.nuisance * np.exp(size * rng.standard_normal()))


def locals_of(rng: np.random.Generator, n_partitions: int, size: float = 0.1) -> list[MoEParameters]:
    truth = random_model(rng, 3, 2, steepness=0.3)
    found = [near(truth, rng, size) for _ in range(n_partitions)]
    return [model.take(rng.permutation(3)) for model in found]


def explicit_plan(rng: np.random.Generator, n_components: int, n_experts: int, n: int) -> FloatArray:
    return rng.dirichlet(np.ones(n_components * n_experts * n)).reshape(n_components, n_experts, n)


def plan_sums(plan: FloatArray, large: LargeMoE, design: FloatArray) -> PlanStatistics:
    mean = large.coef @ design
    second = mean**2 + large.nuisance[:, :, None]
    moments = np.stack([(plan * mean).sum(axis=0), (plan * second).sum(axis=0)], axis=1)
    return PlanStatistics(0.0, plan.sum(axis=0), moments, plan.sum(axis=2))


def test_barycentres_minimize_the_divergence_of_their_mass(rng: np.random.Generator) -> None:
    local = [random_model(rng, 2, 2), random_model(rng, 3, 2)]
    large = LargeMoE.from_estimates(local, np.ones(2))
    _, problem = reduction_problem(large, some_support(rng, 12), GAUSSIAN)
    plan = explicit_plan(rng, 5, 2, 12)
    start = Experts(rng.standard_normal((2, 1, 3)), np.ones((2, 1)))
    found = barycentres(problem, plan_sums(plan, problem.large, problem.design), start)
    eta = problem.large.coef @ problem.design
    for k in range(2):

        def cost(theta: FloatArray, k: int = k) -> float:
            divergence = GAUSSIAN.divergence(
                eta, problem.large.nuisance, theta[None, :-1] @ problem.design, np.exp(theta[-1:])
            )
            return float(np.sum(plan[:, k] * divergence))

        best = minimize(
            cost,
            np.zeros(4),
            jac=lambda at, cost=cost: central_gradient(cost, at, 1e-3),
            method="BFGS",
            options={"gtol": 1e-10},
        )
        theta = np.append(found.coef[k, 0], np.log(found.nuisance[k]))
        np.testing.assert_allclose(theta, best.x, rtol=1e-5, atol=1e-6)
        assert cost(theta) <= best.fun + 1e-12


def test_an_expert_without_mass_stays(rng: np.random.Generator) -> None:
    large = LargeMoE.from_estimates([random_model(rng, 2, 2)], np.ones(1))
    _, problem = reduction_problem(large, some_support(rng, 12), GAUSSIAN)
    plan = explicit_plan(rng, 2, 3, 12)
    plan[:, 1] = 0.0
    start = Experts(rng.standard_normal((3, 1, 3)), np.array([[1.0], [2.0], [3.0]]))
    found = barycentres(problem, plan_sums(plan, problem.large, problem.design), start)
    np.testing.assert_array_equal(found.coef[1], start.coef[1])
    assert found.nuisance[1, 0] == 2.0
    assert (found.coef[[0, 2]] != start.coef[[0, 2]]).all()


@pytest.mark.parametrize("kind", KINDS)
@given(st.integers(1, 4), st.integers(1, 4), st.integers(0, 2**32 - 1))
def test_objective_never_rises(kind: Kind, n_partitions: int, n_experts: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    local = [random_model(rng, int(rng.integers(1, 4)), 2) for _ in range(n_partitions)]
    large, support = LargeMoE.from_estimates(local, rng.uniform(1, 3, n_partitions)), some_support(rng, 40)
    result = reduce_mixture(large, support, [random_model(rng, n_experts, 2)], GAUSSIAN, kind)
    assert (np.diff(result.objectives) < 0).all()
    assert result.objectives[-1] >= 0
    assert result.start_objectives.tolist() == [result.objectives[-1]]
    assert all(np.isfinite(array).all() for array in result.parameters)
    assert (result.parameters.nuisance > 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_every_step_lowers_plan_and_experts_in_turn(kind: Kind, rng: np.random.Generator) -> None:
    """The minimization step lowers the cost of the old plan, the new plan that of the new experts."""
    plan = pointwise_plan if kind == "pointwise" else whole_plan
    large = LargeMoE.from_estimates(locals_of(rng, 4, 0.5), np.ones(4))
    _, problem = reduction_problem(large, some_support(rng), GAUSSIAN)
    start = random_model(rng, 3, 2)
    experts = Experts(start.coef, start.nuisance)
    statistics = plan(problem, experts)

    def majorizer(at: Experts) -> float:
        fitted = at.coef[:, 0] @ problem.design
        first, second = statistics.moments[:, 0], statistics.moments[:, 1]
        spread = second - 2 * first * fitted + statistics.mass * fitted**2
        total = statistics.mass.sum(axis=1)
        return float(np.sum(spread.sum(axis=1) / at.nuisance[:, 0] + total * np.log(at.nuisance[:, 0])) / 2)

    for _ in range(5):
        trial = barycentres(problem, statistics, experts)
        gain = majorizer(experts) - majorizer(trial)
        new = plan(problem, trial)
        assert gain >= -1e-12
        assert statistics.objective - new.objective >= gain - 1e-10
        experts, statistics = trial, new


@pytest.mark.parametrize("kind", KINDS)
def test_stops_where_another_run_gains_nothing(kind: Kind, rng: np.random.Generator) -> None:
    large, support = LargeMoE.from_estimates(locals_of(rng, 6, 0.7), np.ones(6)), some_support(rng)
    first = reduce_mixture(large, support, [random_model(rng, 3, 2)], GAUSSIAN, kind)
    again = reduce_mixture(large, support, [first.parameters], GAUSSIAN, kind)
    assert first.converged
    assert len(first.objectives) > 1
    assert again.objectives[-1] == pytest.approx(first.objectives[-1], rel=1e-7)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n_copies", [1, 5])
def test_copies_of_one_estimator_are_a_fixed_point(
    kind: Kind, n_copies: int, rng: np.random.Generator
) -> None:
    model, support = random_model(rng, 3, 2, steepness=0.5), some_support(rng)
    large = LargeMoE.from_estimates([model] * n_copies, rng.uniform(1, 3, n_copies))
    result = reduce_mixture(large, support, [model], GAUSSIAN, kind)
    assert result.converged
    assert result.objectives[-1] == pytest.approx(0.0, abs=1e-12)
    assert_same_model(result.parameters, model, support.features, 1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_order_of_partitions_and_experts_does_not_matter(kind: Kind, rng: np.random.Generator) -> None:
    local, support, weights = locals_of(rng, 4), some_support(rng), np.array([1.0, 2.0, 3.0, 4.0])
    start = local[0]
    expected = reduce_mixture(LargeMoE.from_estimates(local, weights), support, [start], GAUSSIAN, kind)
    order = np.array([2, 0, 3, 1])
    shuffled = [local[m].take(rng.permutation(3)) for m in order]
    large = LargeMoE.from_estimates(shuffled, weights[order])
    found = reduce_mixture(large, support, [start.take(np.array([1, 2, 0]))], GAUSSIAN, kind)
    assert_same_model(
        canonical_order(found.parameters), canonical_order(expected.parameters), support.features, 1e-6
    )
    assert found.objectives[-1] == pytest.approx(expected.objectives[-1], rel=1e-8)


@pytest.mark.parametrize("kind", KINDS)
def test_affine_change_of_the_features_changes_nothing(kind: Kind, rng: np.random.Generator) -> None:
    local, support = locals_of(rng, 3), some_support(rng)
    mixing, offset = np.array([[2.0, 1.0], [-300.0, 500.0]]), np.array([1e4, -7.0])

    def moved(model: MoEParameters) -> MoEParameters:
        def change(weights: FloatArray) -> FloatArray:
            slopes = weights[:, 1:] @ np.linalg.inv(mixing)
            return np.column_stack([weights[:, 0] - slopes @ offset, slopes])

        return gaussian_model(change(model.gate), change(model.coef[:, 0]), model.nuisance[:, 0])

    expected = reduce_mixture(
        LargeMoE.from_estimates(local, np.ones(3)), support, local[:1], GAUSSIAN, kind
    ).parameters
    features = support.features @ mixing.T + offset
    changed = [moved(model) for model in local]
    found = reduce_mixture(
        LargeMoE.from_estimates(changed, np.ones(3)),
        support._replace(features=features),
        changed[:1],
        GAUSSIAN,
        kind,
    ).parameters
    assert_same_model(found, moved(expected), features, 1e-6)


def test_the_best_start_is_kept(rng: np.random.Generator) -> None:
    local, support = locals_of(rng, 4), some_support(rng)
    large = LargeMoE.from_estimates(local, np.ones(4))
    starts = [random_model(np.random.default_rng(seed), 3, 2) for seed in range(6)]
    alone = [reduce_mixture(large, support, [start], GAUSSIAN) for start in starts]
    together = reduce_mixture(large, support, starts, GAUSSIAN)
    np.testing.assert_allclose(together.start_objectives, [run.objectives[-1] for run in alone], rtol=1e-12)
    assert len(set(together.start_objectives.round(9))) > 1
    best = alone[int(np.argmin(together.start_objectives))]
    for array, expected in zip(together.parameters, best.parameters, strict=True):
        np.testing.assert_allclose(array, expected, rtol=1e-10, atol=1e-12)


def test_whole_plan_averages_well_separated_experts(rng: np.random.Generator) -> None:
    """Each target expert is the barycentre of its own copies: linear in coefficients, by hand."""
    truth = gaussian_model(
        np.array([[1.0, 0.5, 0.0], [0.0, 0.0, 0.0]]),
        np.array([[40.0, 1.0, 0.0], [-40.0, 0.0, 1.0]]),
        np.array([1.0, 2.0]),
    )
    local = [near(truth, rng, 0.05)._replace(gate=truth.gate) for _ in range(4)]
    weights, support = np.array([0.1, 0.2, 0.3, 0.4]), some_support(rng)
    result = reduce_mixture(LargeMoE.from_estimates(local, weights), support, local[:1], GAUSSIAN, "whole")
    # Equal gates: every copy has the same share of the mass wherever it is.
    coef = np.einsum("m,mkcq->kcq", weights, np.stack([m.coef for m in local]))
    np.testing.assert_allclose(result.parameters.coef, coef, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(result.parameters.gate, truth.gate, atol=1e-5)
    # The spread between the copies is part of the variance.
    inner = sum(w * m.nuisance[:, 0] for w, m in zip(weights, local, strict=True))
    assert (result.parameters.nuisance[:, 0] > inner).all()


def test_collinear_support_is_survived(rng: np.random.Generator) -> None:
    base = rng.standard_normal((50, 1))
    support = SupportSample(np.column_stack([base, 2 * base + 1]), None, np.full(50, 0.02))
    model = random_model(rng, 2, 2)
    result = reduce_mixture(LargeMoE.from_estimates([model], np.ones(1)), support, [model], GAUSSIAN)
    assert_same_model(result.parameters, model, support.features, 1e-6)


def test_what_the_support_does_not_vary_in_is_carried_by_the_plan(rng: np.random.Generator) -> None:
    # Its second feature is constant, so the divergence is the same whatever the slopes there are.
    support = SupportSample(
        np.column_stack([rng.standard_normal(200), np.full(200, 3.0)]), None, np.full(200, 1 / 200)
    )
    truth = gaussian_model(
        np.array([[0.5, 2.0, 1.0], [0.0, 0.0, 0.0]]),
        np.array([[-40.0, 1.0, 2.0], [50.0, -1.0, -4.0]]),
        np.array([1.0, 2.0]),
    )
    other = truth._replace(coef=np.array([[[-41.5, 1.0, 2.5]], [[53.0, -1.0, -5.0]]]))
    large = LargeMoE.from_estimates([truth, other], np.array([3.0, 1.0]))
    result = reduce_mixture(large, support, [truth], GAUSSIAN, "whole")
    # The other's predictors are the same where the second feature is three.
    np.testing.assert_allclose(result.parameters.coef[:, 0, 2], [2.125, -4.25], rtol=1e-6)
    np.testing.assert_allclose(result.parameters.gate[0, 2], 1.0, rtol=1e-6)
    assert_same_model(result.parameters, truth, support.features, 1e-5)


def test_starts_race_on_some_of_many_partitions(rng: np.random.Generator) -> None:
    truth = random_model(rng, 2, 1)
    copies = [
        truth._replace(coef=truth.coef + 0.05 * rng.standard_normal(truth.coef.shape))
        for _ in range(REDUCTION.racing_partitions + 44)
    ]
    large = LargeMoE.from_estimates(copies, np.ones(len(copies)))
    support = SupportSample(rng.standard_normal((40, 1)), None, np.full(40, 1 / 40))
    starts = [random_model(rng, 2, 1), truth, copies[0]]
    found = reduce_mixture(large, support, starts, GAUSSIAN)
    alone = reduce_mixture(large, support, [truth], GAUSSIAN)
    assert (np.diff(found.objectives) <= 0).all()
    assert len(found.start_objectives) == 3
    assert found.start_objectives.min() == found.objectives[-1]
    np.testing.assert_allclose(found.objectives[-1], alone.objectives[-1], rtol=1e-6)
    assert found.flow.shape == (2 * len(copies), 2)

"""EM passes, held to plain sums over rows, and M-steps to scipy.optimize on the expected objective."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given
from scipy.optimize import minimize

from daskmoe.numerics.base.observations import Block, Observations
from daskmoe.numerics.base.parameters import FloatArray, MoEParameters
from daskmoe.numerics.likelihood.e_step import EStep, Runs
from daskmoe.numerics.likelihood.priors import Prior
from daskmoe.numerics.local.em import EMStatistics, em, em_statistics, m_step, start_em
from daskmoe.numerics.predictive.mixture import log_density, log_gating, log_softmax, responsibilities
from numerics.oracles import (
    GAUSSIAN,
    central_gradient,
    enumerate_assignments,
    gaussian_model,
    random_model,
    random_rows,
)

# Gram matrices are sums of single-precision products: their error is relative to the sum of all |u u'|.
GRAM = 1e-6


class Case(NamedTuple):
    model: MoEParameters
    rows: Observations
    prior: Prior

    @property
    def weight(self) -> FloatArray:
        return np.ones(self.rows.n_rows) if self.rows.weight is None else self.rows.weight

    @property
    def design(self) -> FloatArray:
        return np.column_stack([np.ones(self.rows.n_rows), self.rows.features]).T

    def blocks(self, size: int | None = None) -> list[Block]:
        size = size or self.rows.n_rows
        return [
            Block(
                self.design[:, start : start + size],
                self.rows.response[start : start + size],
                None if self.rows.weight is None else self.rows.weight[start : start + size],
            )
            for start in range(0, self.rows.n_rows, size)
        ]


def make_case(seed: int, n: int, n_experts: int, p: int, weighted: bool) -> Case:
    rng = np.random.default_rng(seed)
    prior = Prior(0.2, 0.1, np.array([1.0]), np.array([0.05]), np.array([0.02]), np.eye(p + 1), 0.3, n, 10.0)
    return Case(random_model(rng, n_experts, p), random_rows(rng, n, p, weighted=weighted), prior)


def runs_of(*models: MoEParameters) -> Runs:
    return Runs(*(np.stack(arrays) for arrays in zip(*models, strict=True)))


def objective(case: Case, runs: Runs) -> float:
    model = MoEParameters(*(array[0] for array in runs))
    density = log_density(model, GAUSSIAN, case.rows.features, case.rows.response)
    return float(case.weight @ density - case.prior.penalty(*model))


def expected_objective(case: Case, tau: FloatArray, model: MoEParameters) -> float:
    """The penalized complete-data log-likelihood, expected under responsibilities ``tau`` (K, n)."""
    eta = (model.coef[:, 0] @ case.design)[:, None]
    density = GAUSSIAN.log_density(case.rows.response, eta, model.nuisance)
    gates = log_softmax(model.gate @ case.design)
    return float(np.sum(case.weight * tau * (density + gates)) - case.prior.penalty(*model))


def test_e_step_is_enumeration(rng: np.random.Generator) -> None:
    case = make_case(1, 5, 3, 2, False)
    total, marginals = enumerate_assignments(case.model, case.rows)
    posterior = EStep(runs_of(case.model), GAUSSIAN)(case.blocks()[0])
    np.testing.assert_allclose(posterior.log_density[0].sum(), total, rtol=1e-12)
    np.testing.assert_allclose(posterior.responsibilities[0], marginals, rtol=1e-10, atol=1e-13)


def test_e_step_survives_saturated_gates_and_far_responses() -> None:
    model = gaussian_model(np.array([[1e5], [0.0]]), np.array([[0.0], [1e4]]), np.array([1e-6, 1e-6]))
    runs = Runs.one(model)
    posterior = EStep(runs, GAUSSIAN)(Block(np.ones((1, 2)), np.array([0.0, 1e4]), None))
    assert all(np.isfinite(array).all() for array in posterior)
    np.testing.assert_allclose(posterior.responsibilities.sum(axis=1), 1.0)
    # The second row is the second expert's, whatever the gates say.
    assert posterior.responsibilities[0].round(6).tolist() == [[1.0, 0.0], [0.0, 1.0]]


def test_no_probability_is_denormal(rng: np.random.Generator) -> None:
    # Their products in single precision would be: some processors then need a hundred times as long.
    rows = random_rows(rng, 500, 3)
    model = random_model(rng, 4, 3, steepness=30)._replace(nuisance=np.full((4, 1), 1e-3))
    case = Case(model, rows, make_case(0, 5, 4, 3, False).prior)
    posterior = EStep(runs_of(model), GAUSSIAN)(case.blocks()[0])
    tau = responsibilities(model, GAUSSIAN, rows.features, rows.response)
    for found in (posterior.responsibilities[0], posterior.gates[0]):
        assert (found == 0).any()
        assert found[found > 0].min() >= 0.2e-16
        np.testing.assert_allclose(found.sum(axis=0), 1.0)
    np.testing.assert_allclose(posterior.responsibilities[0], tau, rtol=1e-9, atol=1e-16)


def test_an_e_step_reuses_its_buffers() -> None:
    case = make_case(2, 40, 3, 2, False)
    e_step = EStep(runs_of(case.model), GAUSSIAN)
    whole = EStep(runs_of(case.model), GAUSSIAN)(case.blocks()[0])
    for start, block in zip(range(0, 40, 13), case.blocks(13), strict=True):
        for found, expected in zip(e_step(block), whole, strict=True):
            np.testing.assert_allclose(found, expected[..., start : start + 13], rtol=1e-12, atol=1e-15)


def brute_statistics(case: Case) -> dict[str, FloatArray]:
    model, design, weight = case.model, case.design, case.weight
    n_experts, q = model.gate.shape
    tau = responsibilities(model, GAUSSIAN, case.rows.features, case.rows.response)
    gates = np.exp(log_gating(model, case.rows.features))
    residuals = case.rows.response - model.coef[:, 0] @ design
    out = {
        "log_likelihood": np.array(
            weight @ log_density(model, GAUSSIAN, case.rows.features, case.rows.response)
        ),
        "mass": np.zeros(n_experts),
        "nuisance": np.zeros((n_experts, 1)),
        "expert_moment": np.zeros((n_experts, 1, q)),
        "gate_gradient": np.zeros((n_experts, q)),
        "expert_gram": np.zeros((n_experts, q, q)),
        "gate_information": np.zeros((n_experts - 1, n_experts - 1, q, q)),
    }
    for i, u in enumerate(design.T):
        for k in range(n_experts):
            t, r, g = weight[i] * tau[k, i], residuals[k, i], gates[:, i]
            out["mass"][k] += t
            out["nuisance"][k, 0] += t * r**2
            out["expert_moment"][k, 0] += t * r * u
            out["gate_gradient"][k] += (t - weight[i] * g[k]) * u
            out["expert_gram"][k] += t * np.outer(u, u)
            for m in range(n_experts - 1):
                if k < n_experts - 1:
                    share = weight[i] * g[k] * ((k == m) - g[m])
                    out["gate_information"][k, m] += share * np.outer(u, u)
    return out


def assert_statistics(found: EMStatistics, case: Case, index: int, tolerance: float) -> None:
    magnitude = float((np.abs(case.design) * case.weight @ np.abs(case.design).T).max())
    for name, value in brute_statistics(case).items():
        atol = tolerance * np.abs(value).max(initial=0.0) + 1e-12
        if name in ("expert_gram", "gate_information"):
            atol = max(GRAM, tolerance) * magnitude
        actual = getattr(found, name)[index]
        np.testing.assert_allclose(actual, value, rtol=0, atol=atol, err_msg=name)


@given(st.integers(1, 30), st.integers(1, 4), st.integers(0, 3), st.booleans(), st.integers(0, 2**32 - 1))
def test_statistics_are_plain_sums(n: int, n_experts: int, p: int, weighted: bool, seed: int) -> None:
    case = make_case(seed, n, n_experts, p, weighted)
    found = em_statistics(runs_of(case.model), case.blocks(size=7), GAUSSIAN)
    assert_statistics(found, case, 0, 1e-10)


def test_runs_do_not_feel_each_other() -> None:
    case, other = make_case(4, 60, 3, 2, True), make_case(5, 60, 3, 2, False)
    both = em_statistics(runs_of(other.model, case.model), case.blocks(size=25), GAUSSIAN)
    assert_statistics(both, case, 1, 1e-10)
    assert_statistics(both, case._replace(model=other.model), 0, 1e-10)
    runs = runs_of(other.model, case.model)
    alone = m_step(
        runs_of(case.model),
        em_statistics(runs_of(case.model), case.blocks(), GAUSSIAN),
        case.prior,
        np.ones(1),
        GAUSSIAN,
    )
    together = m_step(
        runs, em_statistics(runs, case.blocks(), GAUSSIAN), case.prior, np.array([5.0, 1.0]), GAUSSIAN
    )
    for one, two in zip(alone, together, strict=True):
        np.testing.assert_allclose(two[1], one[0], rtol=1e-5, atol=1e-7)


def test_caller_keeps_its_blocks() -> None:
    case = make_case(6, 40, 3, 2, True)
    blocks = case.blocks()
    em_statistics(runs_of(case.model), blocks, GAUSSIAN)
    for block, kept in zip(blocks, case.blocks(), strict=True):
        for array, expected in zip(block, kept, strict=True):
            np.testing.assert_array_equal(array, expected)


def test_weights_are_repeated_rows(rng: np.random.Generator) -> None:
    case = make_case(7, 40, 3, 2, False)
    times = rng.integers(0, 3, 40)
    weighted = case._replace(rows=case.rows._replace(weight=times.astype(float)))
    repeated = case._replace(rows=case.rows.take(np.repeat(np.arange(40), times)))
    found = em_statistics(runs_of(case.model), weighted.blocks(), GAUSSIAN)
    assert_statistics(found, repeated, 0, 1e-10)


def maximizer(function: Callable[[FloatArray], float], start: FloatArray) -> FloatArray:
    result = minimize(
        lambda at: -function(at),
        start,
        jac=lambda at: -central_gradient(function, at, 1e-3),
        method="BFGS",
        options={"gtol": 1e-8},
    )
    assert np.abs(result.jac).max() < 1e-6
    return np.asarray(result.x)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("n_experts", [1, 3])
def test_experts_maximize_the_expected_objective(n_experts: int, weighted: bool) -> None:
    case = make_case(8, 80, n_experts, 2, weighted)
    runs = runs_of(case.model)
    found = m_step(runs, em_statistics(runs, case.blocks(), GAUSSIAN), case.prior, np.zeros(1), GAUSSIAN)
    tau = responsibilities(case.model, GAUSSIAN, case.rows.features, case.rows.response)
    size = case.model.coef.size

    # Coefficients maximize at the old variances, then the variances at the new coefficients.
    def of_coef(theta: FloatArray) -> float:
        return expected_objective(case, tau, case.model._replace(coef=theta.reshape(case.model.coef.shape)))

    best = maximizer(of_coef, np.zeros(size))
    np.testing.assert_allclose(found.coef[0].ravel(), best, rtol=0, atol=2e-6)

    def of_variance(psi: FloatArray) -> float:
        model = MoEParameters(case.model.gate, found.coef[0], np.exp(psi)[:, None])
        return expected_objective(case, tau, model)

    psi = maximizer(of_variance, np.zeros(n_experts))
    np.testing.assert_allclose(found.nuisance[0, :, 0], np.exp(psi), rtol=2e-6)


def test_gate_step_is_newton_on_the_expected_objective() -> None:
    """But for the penalty, whose quadratic majorizer it goes by: without one it is Newton's."""
    case = make_case(9, 120, 3, 2, True)
    case = case._replace(prior=case.prior._replace(gate=0.0))
    runs, shape = runs_of(case.model), (2, 3)
    statistics = em_statistics(runs, case.blocks(), GAUSSIAN)
    tau = responsibilities(case.model, GAUSSIAN, case.rows.features, case.rows.response)

    def value(theta: FloatArray) -> float:
        gate = np.concatenate([theta.reshape(shape), np.zeros((1, 3))])
        return expected_objective(case, tau, case.model._replace(gate=gate))

    def gradient_at(theta: FloatArray) -> FloatArray:
        return central_gradient(value, theta, 1e-3)

    start = case.model.gate[:-1].ravel()
    gradient = gradient_at(start)
    newton = np.linalg.solve(-central_gradient(gradient_at, start, 1e-3), gradient)
    step = (m_step(runs, statistics, case.prior, np.zeros(1), GAUSSIAN).gate[0] - case.model.gate)[
        :-1
    ].ravel()
    np.testing.assert_allclose(step, newton, rtol=1e-4, atol=1e-4 * np.abs(newton).max())
    damped = m_step(runs, statistics, case.prior, np.full(1, 1e3), GAUSSIAN)
    short = (damped.gate[0] - case.model.gate)[:-1].ravel()
    assert 0 < short @ gradient < step @ gradient
    assert np.abs(short).max() < 0.1 * np.abs(step).max()
    assert value(start + short) > value(start)
    assert not (damped.gate[0] - case.model.gate)[-1].any()


@given(st.integers(5, 60), st.integers(1, 4), st.integers(0, 3), st.booleans(), st.integers(0, 2**32 - 1))
def test_a_pass_without_gate_step_never_lowers_the_objective(
    n: int, n_experts: int, p: int, weighted: bool, seed: int
) -> None:
    # With fewer rows than features the Gram matrix's single precision shows, which `em` is safe against.
    case = make_case(seed, n, n_experts, p, weighted)
    runs = runs_of(case.model)
    before = objective(case, runs)
    for _ in range(6):
        runs = m_step(
            runs, em_statistics(runs, case.blocks(), GAUSSIAN), case.prior, np.full(1, 1e12), GAUSSIAN
        )
        after = objective(case, runs)
        assert after >= before - 1e-9 * (1 + abs(before))
        before = after


@given(st.integers(2, 60), st.integers(1, 4), st.integers(0, 3), st.booleans(), st.integers(0, 2**32 - 1))
def test_em_never_lowers_the_objective(n: int, n_experts: int, p: int, weighted: bool, seed: int) -> None:
    case = make_case(seed, n, n_experts, p, weighted)
    runs = runs_of(case.model, random_model(np.random.default_rng(seed + 1), n_experts, p))
    values = start = np.array([objective(case, runs.take([i])) for i in range(2)])
    for passes in (1, 2, 3, 5, 12):
        state = em(
            start_em(runs, case.blocks(), case.prior, GAUSSIAN), case.blocks(), case.prior, passes, GAUSSIAN
        )
        found, reached, likelihood = state.runs, state.objective, state.statistics.log_likelihood
        assert (reached >= values - 1e-11 * (1 + np.abs(values))).all()
        np.testing.assert_allclose(reached, [objective(case, found.take([i])) for i in range(2)], rtol=1e-9)
        np.testing.assert_allclose(likelihood - case.prior.penalty(*found), reached, rtol=1e-12, atol=1e-10)
        values = reached
    assert (values > start).all()


def test_em_gets_to_a_stationary_point() -> None:
    case = make_case(11, 300, 2, 1, False)
    runs = em(
        start_em(runs_of(case.model), case.blocks(), case.prior, GAUSSIAN),
        case.blocks(),
        case.prior,
        400,
        GAUSSIAN,
    ).runs

    def value(theta: FloatArray) -> float:
        gate = np.stack([theta[:2], np.zeros(2)])
        return objective(case, Runs.one(gaussian_model(gate, theta[2:6].reshape(2, 2), np.exp(theta[6:]))))

    at = np.concatenate([runs.gate[0, 0], runs.coef[0].ravel(), np.log(runs.nuisance[0, :, 0])])
    np.testing.assert_allclose(central_gradient(value, at), 0.0, atol=1e-2)
    assert np.abs(central_gradient(value, at + 0.05)).max() > 0.5


def test_an_expert_without_support_goes_to_its_prior() -> None:
    case = make_case(12, 50, 2, 1, False)
    case = case._replace(prior=case.prior.for_weight(0.0))
    lost = case.model._replace(gate=np.array([[-1e4, 0.0], [0.0, 0.0]]))
    runs = runs_of(lost)
    found = m_step(runs, em_statistics(runs, case.blocks(), GAUSSIAN), case.prior, np.zeros(1), GAUSSIAN)
    assert all(np.isfinite(array).all() for array in found)
    np.testing.assert_allclose(found.coef[0, 0, 0], [case.prior.location, 0.0], atol=1e-6)
    np.testing.assert_allclose(found.nuisance[0, 0], case.prior.spread, rtol=1e-6)

"""The softmax regression to soft targets, held to scipy.optimize and to targets a network fits exactly."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given
from scipy.optimize import minimize
from scipy.stats import norm

from daskmoe.numerics.base.parameters import FloatArray
from daskmoe.numerics.base.policies import GATING
from daskmoe.numerics.predictive.mixture import log_softmax
from daskmoe.numerics.transport.gating import fit_gating, gating_information
from numerics.oracles import central_gradient


def some_design(rng: np.random.Generator, q: int, n: int) -> FloatArray:
    return np.concatenate([np.ones((1, n)), rng.standard_normal((q - 1, n))])


def loss(theta: FloatArray, design: FloatArray, targets: FloatArray) -> tuple[float, FloatArray]:
    gate = np.concatenate([theta.reshape(len(targets) - 1, -1), np.zeros((1, len(design)))])
    log_gates = log_softmax(gate @ design)
    gradient = (targets - targets.sum(axis=0) * np.exp(log_gates)) @ design.T
    return -float(np.sum(targets * log_gates)), -gradient[:-1].ravel()


@given(st.integers(2, 4), st.integers(1, 4), st.integers(0, 2**32 - 1))
def test_fit_is_the_optimum_of_scipy(n_experts: int, q: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    design = some_design(rng, q, 60)
    targets = rng.dirichlet(np.full(n_experts, 0.7), 60).T * rng.uniform(0, 2, 60) + 1e-3
    targets /= targets.sum()
    found = fit_gating(design, targets)
    start = np.zeros((n_experts - 1) * q)
    best = minimize(loss, start, (design, targets), jac=True, method="BFGS", options={"gtol": 1e-9})
    assert loss(found[:-1].ravel(), design, targets)[0] <= best.fun + 1e-13
    np.testing.assert_allclose(found[:-1].ravel(), best.x, rtol=0, atol=1e-5 * (1 + np.abs(best.x).max()))
    assert not found[-1].any()


@given(st.integers(1, 4), st.integers(1, 4), st.floats(0, 4), st.integers(0, 2**32 - 1))
def test_targets_of_a_network_give_it_back(n_experts: int, q: int, steepness: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    design = some_design(rng, q, 200)
    gate = steepness * rng.standard_normal((n_experts, q))
    gate -= gate[-1]
    mass = rng.uniform(0.5, 1.5, 200)
    gates = np.exp(log_softmax(gate @ design))
    found = fit_gating(design, mass * gates)
    np.testing.assert_allclose(np.exp(log_softmax(found @ design)), gates, rtol=0, atol=1e-6)


def test_steep_network_comes_back_from_zero(rng: np.random.Generator) -> None:
    design = some_design(rng, 3, 500)
    gate = 12 * rng.standard_normal((3, 3))
    gate -= gate[-1]
    found = fit_gating(design, np.exp(log_softmax(gate @ design)))
    np.testing.assert_allclose(found, gate, rtol=0, atol=1e-3 * np.abs(gate).max())


def test_only_relative_mass_counts(rng: np.random.Generator) -> None:
    design, targets = some_design(rng, 3, 50), rng.uniform(0.1, 1, (3, 50))
    expected = fit_gating(design, targets)
    np.testing.assert_allclose(fit_gating(design, 1e9 * targets), expected, rtol=1e-6, atol=1e-8)
    repeated = fit_gating(np.repeat(design, 2, axis=1), np.repeat(targets, 2, axis=1))
    np.testing.assert_allclose(repeated, expected, rtol=1e-6, atol=1e-8)


def test_order_of_the_experts_does_not_matter(rng: np.random.Generator) -> None:
    design, targets = some_design(rng, 3, 50), rng.uniform(0.1, 1, (3, 50))
    order = np.array([2, 0, 1])
    expected = fit_gating(design, targets)[order]
    found = fit_gating(design, targets[order])
    np.testing.assert_allclose(found, expected - expected[-1], rtol=1e-6, atol=1e-8)


def test_separable_targets_give_a_finite_network_that_separates(rng: np.random.Generator) -> None:
    design = some_design(rng, 2, 100)
    targets = np.stack([design[1] > 0.3, design[1] <= 0.3]).astype(float)
    found = fit_gating(design, targets)
    assert np.isfinite(found).all()
    assert (np.exp(log_softmax(found @ design))[0].round() == targets[0]).all()


def switch(n_rows: int) -> tuple[FloatArray, FloatArray]:
    """Normal features of which the sign is the expert: the steeper the network, the better it fits."""
    x = norm.ppf((np.arange(n_rows) + 0.5) / n_rows)
    return np.stack([np.ones(n_rows), x]), np.stack([x > 0, x <= 0]).astype(float)


def test_the_slope_of_separable_targets_is_where_fit_and_penalty_balance() -> None:
    """A slope s leaves phi(0) pi^2 / (6 s) nats of cross-entropy and costs penalty s^2 / 4."""
    found = fit_gating(*switch(20_000))
    expected = np.cbrt(norm.pdf(0) * np.pi**2 / 3 / GATING.penalty)
    assert found[0, 1] == pytest.approx(expected, rel=0.02)
    assert abs(found[0, 0]) < 1e-3 * expected


def test_separable_targets_have_one_network_in_any_units_and_order(rng: np.random.Generator) -> None:
    design = some_design(rng, 3, 300)
    targets = np.eye(3)[np.argmax(rng.standard_normal((3, 3)) @ design, axis=0)].T
    expected = log_softmax(fit_gating(design, targets) @ design)
    change = np.array([[1.0, 0.0, 0.0], [0.3, 2.0, -1.0], [-0.4, 0.7, 0.5]])
    order = np.array([2, 0, 1])
    moved = log_softmax(fit_gating(change @ design, targets) @ change @ design)
    turned = log_softmax(fit_gating(design, targets[order]) @ design)
    scale = np.abs(expected).max()
    assert 20.0 < scale < 1e4
    np.testing.assert_allclose(moved, expected, rtol=0, atol=1e-3 * scale)
    np.testing.assert_allclose(turned, expected[order], rtol=0, atol=1e-3 * scale)


def test_ordinary_targets_do_not_feel_the_penalty(rng: np.random.Generator) -> None:
    design = some_design(rng, 3, 400)
    gates = np.exp(log_softmax(3 * rng.standard_normal((4, 3)) @ design))
    targets = np.stack([rng.multinomial(20, g / g.sum()) for g in gates.T]).T / (20 * 400)
    found = fit_gating(design, targets)
    # What a Newton step of the fit without it moves.
    fitted = np.exp(log_softmax(found @ design))
    slope = ((targets - targets.sum(axis=0) * fitted) @ design.T)[:-1].ravel()
    root = np.sqrt(targets.sum(axis=0))
    moves = np.linalg.solve(gating_information(fitted * root, root, design), slope)
    moved = np.append(moves.reshape(3, 3), np.zeros((1, 3)), axis=0)
    np.testing.assert_allclose(np.exp(log_softmax((found + moved) @ design)), fitted, rtol=0, atol=1e-6)


def test_an_expert_without_mass_gets_none(rng: np.random.Generator) -> None:
    design, targets = some_design(rng, 3, 100), rng.uniform(0.1, 1, (3, 100))
    for empty in range(3):
        less = targets.copy()
        less[empty] = 0.0
        found = fit_gating(design, less)
        gates = np.exp(log_softmax(found @ design))
        assert np.isfinite(found).all()
        assert gates[empty].max() < 1e-6
        others = np.delete(np.arange(3), empty)
        expected = np.exp(log_softmax(fit_gating(design, less[others]) @ design))
        np.testing.assert_allclose(gates[others], expected, rtol=0, atol=1e-4)


def test_rows_without_mass_do_not_count(rng: np.random.Generator) -> None:
    design, targets = some_design(rng, 3, 100), rng.uniform(0.1, 1, (3, 100))
    targets[:, 60:] = 0.0
    found = fit_gating(design, targets)
    np.testing.assert_allclose(found, fit_gating(design[:, :60], targets[:, :60]), rtol=1e-6, atol=1e-8)


def test_dependent_columns_are_survived(rng: np.random.Generator) -> None:
    design, targets = some_design(rng, 3, 80), rng.uniform(0.1, 1, (3, 80))
    doubled = np.concatenate([design, design[1:2]])
    found = np.exp(log_softmax(fit_gating(doubled, targets) @ doubled))
    np.testing.assert_allclose(found, np.exp(log_softmax(fit_gating(design, targets) @ design)), atol=1e-6)


def test_one_expert_needs_no_network() -> None:
    assert fit_gating(np.ones((2, 3)), np.ones((1, 3))).tolist() == [[0.0, 0.0]]


@pytest.mark.parametrize("n_experts", [2, 4])
def test_information_is_the_hessian(n_experts: int, rng: np.random.Generator) -> None:
    design, mass = some_design(rng, 3, 30), rng.uniform(0.1, 1, 30)
    gate = np.concatenate([rng.standard_normal((n_experts - 1, 3)), np.zeros((1, 3))])
    gates = np.exp(log_softmax(gate @ design))
    found = gating_information(gates * np.sqrt(mass), np.sqrt(mass), design)
    # Targets move the gradient, not the Hessian.
    targets = mass * rng.dirichlet(np.ones(n_experts), 30).T
    expected = central_gradient(lambda theta: loss(theta, design, targets)[1], gate[:-1].ravel(), 1e-3)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-8)

"""Evaluation of a model, held to enumeration over all assignments of rows to experts and to quadrature."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given
from scipy.integrate import quad

from daskmoe.numerics.base.parameters import LargeMoE
from daskmoe.numerics.predictive.mixture import (
    BLOCK_ROWS,
    expert_means,
    large_as_mixture,
    linear_predictor,
    log_density,
    log_gating,
    log_likelihood,
    log_softmax,
    mixture_mean,
    responsibilities,
    row_blocks,
)
from numerics.oracles import (
    GAUSSIAN,
    enumerate_assignments,
    gaussian_model,
    joint_density,
    random_model,
    random_rows,
    softmax_gates,
)


@given(st.integers(1, 6), st.integers(1, 3), st.integers(0, 2), st.integers(0, 2**32 - 1))
def test_likelihood_and_responsibilities_are_sums_over_all_assignments(
    n: int, n_experts: int, n_features: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    model, rows = random_model(rng, n_experts, n_features), random_rows(rng, n, n_features)
    expected, marginals = enumerate_assignments(model, rows)
    found = log_likelihood(model, GAUSSIAN, rows.features, rows.response)
    np.testing.assert_allclose(found, expected, rtol=1e-11, atol=1e-11)
    tau = responsibilities(model, GAUSSIAN, rows.features, rows.response)
    np.testing.assert_allclose(tau, marginals, rtol=1e-9, atol=1e-13)


def test_density_integrates_to_one_and_has_the_mixture_mean(rng: np.random.Generator) -> None:
    model, x = random_model(rng, 3, 2), rng.standard_normal((1, 2))

    def density(y: float) -> float:
        return float(np.exp(log_density(model, GAUSSIAN, x, np.array([y])))[0])

    total = quad(density, -60, 60, limit=500, epsabs=1e-10)[0]
    mean = quad(lambda y: y * density(y), -60, 60, limit=500, epsabs=1e-10)[0]
    assert total == pytest.approx(1.0, abs=1e-8)
    assert mixture_mean(model, GAUSSIAN, x)[0] == pytest.approx(mean, abs=1e-7)


def test_gates_and_means_row_by_row(rng: np.random.Generator) -> None:
    model, features = random_model(rng, 3, 2), rng.standard_normal((5, 2))
    gates = np.exp(log_gating(model, features))
    means = expert_means(model, GAUSSIAN, features)
    for s, x in enumerate(features):
        np.testing.assert_allclose(gates[:, s], softmax_gates(model.gate, x), rtol=1e-13)
        np.testing.assert_allclose(means[:, s], model.coef[:, 0] @ np.append(1.0, x), rtol=1e-13)


def test_saturated_gates_stay_finite_and_normalized() -> None:
    logits = np.array([[1e5, -1e5, 0.0], [0.0, 0.0, 0.0], [-1e5, 1e5, 0.0]])
    out = log_softmax(logits)
    assert np.isfinite(out).all()
    np.testing.assert_allclose(np.exp(out).sum(axis=0), 1.0, rtol=1e-14)
    assert out[2, 0] == -2e5


def test_density_far_in_the_tail_is_finite() -> None:
    model = gaussian_model(np.zeros((2, 2)), np.zeros((2, 2)), np.array([1e-6, 1e-6]))
    value = log_density(model, GAUSSIAN, np.zeros((1, 1)), np.array([1e3]))
    np.testing.assert_allclose(value, [-0.5 * 1e12 - 0.5 * np.log(2 * np.pi * 1e-6)], rtol=1e-14)


def test_likelihood_streams_and_weighs_rows(rng: np.random.Generator) -> None:
    model, rows = random_model(rng, 2, 2), random_rows(rng, 2 * BLOCK_ROWS + 17, 2)
    values = log_density(model, GAUSSIAN, rows.features, rows.response)
    weight = rng.integers(0, 3, rows.n_rows).astype(float)
    plain = log_likelihood(model, GAUSSIAN, rows.features, rows.response)
    weighted = log_likelihood(model, GAUSSIAN, rows.features, rows.response, weight)
    np.testing.assert_allclose(plain, values.sum(), rtol=1e-13)
    np.testing.assert_allclose(weighted, np.repeat(values, weight.astype(int)).sum(), rtol=1e-13)


@given(st.integers(0, 50), st.integers(1, 12))
def test_row_blocks_cover_every_row_once(n: int, size: int) -> None:
    index = np.arange(n)
    blocks = [index[part] for part in row_blocks(n, size)]
    assert all(0 < len(block) <= size for block in blocks)
    assert [i for block in blocks for i in block] == index.tolist()


def test_single_precision_features_are_evaluated_in_double(rng: np.random.Generator) -> None:
    model, features = random_model(rng, 2, 3), rng.standard_normal((9, 3)).astype(np.float32)
    found = linear_predictor(model.coef, features)
    assert found.dtype == np.float64
    np.testing.assert_array_equal(found, linear_predictor(model.coef, features.astype(np.float64)))


def test_large_mixture_is_the_weighted_average_of_the_local_densities(rng: np.random.Generator) -> None:
    local = [random_model(rng, k, 2) for k in (2, 3, 1)]
    weights = np.array([0.2, 0.5, 0.3])
    large = LargeMoE.from_estimates(local, 40 * weights)
    features, y = rng.standard_normal((6, 2)), 0.7
    gates = np.exp(large_as_mixture(large, features))
    np.testing.assert_allclose(gates.sum(axis=0), 1.0, rtol=1e-13)
    for s, x in enumerate(features):
        parts = [w * joint_density(m, x, y) for m, w in zip(local, weights, strict=True)]
        eta = large.coef @ np.append(1.0, x)[:, None]
        joint = gates[:, s] * np.exp(GAUSSIAN.log_density(np.array([y]), eta, large.nuisance))[:, 0]
        np.testing.assert_allclose(joint, np.concatenate(parts), rtol=1e-12)

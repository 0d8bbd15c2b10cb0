"""Log-likelihood, gradient and information, held to finite differences and to Louis' identity row by row."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from daskmoe.numerics.base.layout import Layout
from daskmoe.numerics.base.observations import Block, Observations
from daskmoe.numerics.base.parameters import FloatArray, MoEParameters
from daskmoe.numerics.likelihood.priors import Prior
from daskmoe.numerics.likelihood.statistics import (
    LikelihoodStatistics,
    likelihood_statistics,
    log_likelihood_of,
    penalized,
)
from daskmoe.numerics.predictive.mixture import log_likelihood
from numerics.oracles import (
    GAUSSIAN,
    central_gradient,
    gaussian_model,
    joint_density,
    posterior,
    random_model,
    random_rows,
    softmax_gates,
    vector_of,
)


def blocks_of(rows: Observations, size: int = 7) -> list[Block]:
    design = np.column_stack([np.ones(rows.n_rows), rows.features]).T
    parts = [slice(start, start + size) for start in range(0, rows.n_rows, size)]
    return [
        Block(design[:, s], rows.response[s], None if rows.weight is None else rows.weight[s]) for s in parts
    ]


def complete_derivatives(
    model: MoEParameters, x: FloatArray, y: float, k: int
) -> tuple[FloatArray, FloatArray]:
    """Gradient and Hessian (P,), (P, P) of log pi_k + log phi_k for one row whose expert is known."""
    n_experts, q = model.gate.shape
    free, u, gates = n_experts - 1, np.append(1.0, x), softmax_gates(model.gate, x)
    size = (2 * n_experts - 1) * q + n_experts
    gradient, hessian = np.zeros(size), np.zeros((size, size))
    for j in range(free):
        gradient[j * q : (j + 1) * q] = ((j == k) - gates[j]) * u
        for m in range(free):
            share = gates[j] * ((j == m) - gates[m])
            hessian[j * q : (j + 1) * q, m * q : (m + 1) * q] = -share * np.outer(u, u)
    variance, residual = model.nuisance[k, 0], y - model.coef[k, 0] @ u
    coef, psi = slice((free + k) * q, (free + k + 1) * q), size - n_experts + k
    gradient[coef] = residual / variance * u
    gradient[psi] = 0.5 * (residual**2 / variance - 1)
    hessian[coef, coef] = -np.outer(u, u) / variance
    hessian[coef, psi] = hessian[psi, coef] = -residual / variance * u
    hessian[psi, psi] = -0.5 * residual**2 / variance
    return gradient, hessian


def louis(model: MoEParameters, rows: Observations) -> tuple[FloatArray, FloatArray]:
    """Gradient and observed information: E[-H | y] - Var[gradient | y] of the complete data, summed."""
    size = len(vector_of(model))
    total, information = np.zeros(size), np.zeros((size, size))
    weight = np.ones(rows.n_rows) if rows.weight is None else rows.weight
    for x, y, w in zip(rows.features, rows.response, weight, strict=True):
        tau = posterior(model, x, y)
        pairs = [complete_derivatives(model, x, y, k) for k in range(model.n_experts)]
        mean = sum(t * g for t, (g, _) in zip(tau, pairs, strict=True))
        second = sum(t * np.outer(g, g) for t, (g, _) in zip(tau, pairs, strict=True))
        expected = sum(t * -h for t, (_, h) in zip(tau, pairs, strict=True))
        total += w * mean
        information += w * (expected - second + np.outer(mean, mean))
    return total, information


cases = given(
    st.integers(1, 20), st.integers(1, 3), st.integers(0, 2), st.booleans(), st.integers(0, 2**32 - 1)
)


@cases
def test_derivatives_are_louis_identity(n: int, n_experts: int, p: int, weighted: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    model, rows = random_model(rng, n_experts, p), random_rows(rng, n, p, weighted=weighted)
    gradient, information = louis(model, rows)
    found = likelihood_statistics(model, blocks_of(rows), GAUSSIAN)
    np.testing.assert_allclose(
        found.gradient, gradient, rtol=1e-10, atol=1e-11 * np.abs(gradient).max() + 1e-12
    )
    np.testing.assert_allclose(
        found.information, information, rtol=1e-9, atol=1e-11 * np.abs(information).max() + 1e-12
    )
    assert found.weight == pytest.approx(n if rows.weight is None else rows.weight.sum())


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("n_experts", [1, 2, 4])
def test_derivatives_are_finite_differences(n_experts: int, weighted: bool, rng: np.random.Generator) -> None:
    model, rows = random_model(rng, n_experts, 2), random_rows(rng, 40, 2, weighted=weighted)
    blocks, theta, layout = blocks_of(rows), vector_of(model), Layout.of(model)
    found = likelihood_statistics(model, blocks, GAUSSIAN)

    def value(at: FloatArray) -> float:
        return log_likelihood_of(layout.unpack(at), blocks, GAUSSIAN)

    def gradient(at: FloatArray) -> FloatArray:
        return likelihood_statistics(layout.unpack(at), blocks, GAUSSIAN).gradient

    assert found.value == pytest.approx(value(theta), rel=1e-13)
    expected = log_likelihood(model, GAUSSIAN, rows.features, rows.response, rows.weight)
    assert found.value == pytest.approx(expected, rel=1e-12)
    scale = np.abs(found.gradient).max()
    np.testing.assert_allclose(
        found.gradient, central_gradient(value, theta, 1e-4), rtol=0, atol=1e-7 * scale
    )
    scale = np.abs(found.information).max()
    np.testing.assert_allclose(
        found.information, -central_gradient(gradient, theta, 1e-4), rtol=0, atol=1e-8 * scale
    )


def test_information_is_symmetric(rng: np.random.Generator) -> None:
    found = likelihood_statistics(random_model(rng, 3, 2), blocks_of(random_rows(rng, 30, 2)), GAUSSIAN)
    np.testing.assert_array_equal(found.information, found.information.T)
    np.testing.assert_array_equal(found.complete, found.complete.T)


@pytest.mark.parametrize("weighted", [False, True])
def test_complete_information_is_that_of_known_experts(weighted: bool, rng: np.random.Generator) -> None:
    model, rows = random_model(rng, 3, 2), random_rows(rng, 25, 2, weighted=weighted)
    weight = np.ones(25) if rows.weight is None else rows.weight
    size = len(vector_of(model))
    expected = np.zeros((size, size))
    for x, y, w in zip(rows.features, rows.response, weight, strict=True):
        joint = joint_density(model, x, y)
        for k, t in enumerate(joint / joint.sum()):
            # The Hessian is quadratic in y: two points give its expectation under a known expert.
            deviation, center = np.sqrt(model.nuisance[k, 0]), model.coef[k, 0] @ np.append(1.0, x)
            for drawn in (center - deviation, center + deviation):
                expected -= 0.5 * w * t * complete_derivatives(model, x, drawn, k)[1]
    found = likelihood_statistics(model, blocks_of(rows), GAUSSIAN).complete
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-11 * np.abs(expected).max())
    assert np.linalg.eigvalsh(found)[0] > 0


def test_at_the_truth_the_informations_order_and_the_score_vanishes(rng: np.random.Generator) -> None:
    """Unknown experts cost information: observed <= complete; the score has the observed one as variance."""
    model = gaussian_model(
        np.array([[0.3, 1.0], [0.0, 0.0]]), np.array([[1.0, 1.0], [-1.0, 0.5]]), np.array([0.5, 1.5])
    )
    n = 40_000
    features = rng.standard_normal((n, 1))
    first = rng.random(n) < 1 / (1 + np.exp(-0.3 - features[:, 0]))
    eta = np.where(first, 1 + features[:, 0], -1 + 0.5 * features[:, 0])
    response = eta + np.sqrt(np.where(first, 0.5, 1.5)) * rng.standard_normal(n)
    found = likelihood_statistics(model, blocks_of(Observations(features, response), 1000), GAUSSIAN)
    root = np.linalg.cholesky(found.information)
    # The standardized score is close to a standard normal vector of length 8.
    score = np.linalg.solve(root, found.gradient)
    assert 0.5 < score @ score < 30
    shares = np.linalg.eigvalsh(np.linalg.solve(root, np.linalg.solve(root, found.complete).T))
    assert shares.min() > 0.97
    assert shares.max() > 1.5


def assert_close(found: LikelihoodStatistics, expected: LikelihoodStatistics, rtol: float) -> None:
    for name in ("information", "complete"):
        scale = np.sqrt(np.diag(expected.complete))
        error = (getattr(found, name) - getattr(expected, name)) / np.outer(scale, scale)
        np.testing.assert_allclose(error, 0.0, rtol=0, atol=rtol, err_msg=name)
    np.testing.assert_allclose(found.gradient, expected.gradient, rtol=1e-12, atol=1e-12)
    assert found.value == expected.value


def test_single_precision_is_close_where_it_only_scales(rng: np.random.Generator) -> None:
    model, rows = random_model(rng, 3, 4), random_rows(rng, 3000, 4, weighted=True)
    single = likelihood_statistics(model, blocks_of(rows, 1000), GAUSSIAN, precision=np.float32)
    assert_close(single, likelihood_statistics(model, blocks_of(rows, 1000), GAUSSIAN), 1e-4)


def test_weights_are_repeated_rows(rng: np.random.Generator) -> None:
    model, rows, times = random_model(rng, 3, 2), random_rows(rng, 30, 2), rng.integers(0, 4, 30)
    by_weight = rows._replace(weight=times.astype(float))
    weighted = likelihood_statistics(model, blocks_of(by_weight), GAUSSIAN, scores=True, metric=True)
    repeated = likelihood_statistics(
        model, blocks_of(rows.take(np.repeat(np.arange(30), times))), GAUSSIAN, scores=True, metric=True
    )
    assert weighted.clusters is repeated.clusters is None
    assert weighted.extremes is repeated.extremes is None
    sums = [[part for part in found if part is not None] for found in (weighted, repeated)]
    assert len(sums[0]) == len(weighted) - 2
    for found, expected in zip(*sums, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-10)


def test_penalized_objective_has_the_priors_derivatives(rng: np.random.Generator) -> None:
    model, rows, root = random_model(rng, 3, 2), random_rows(rng, 30, 2), rng.standard_normal((3, 3))
    metric, floor = root @ root.T + np.eye(3), np.array([0.1])
    prior = Prior(2.0, 3.0, np.array([4.0]), np.array([0.7]), floor, metric, 0.6, 30.0, 10.0)
    blocks, theta, layout = blocks_of(rows), vector_of(model), Layout.of(model)

    def statistics(at: FloatArray) -> LikelihoodStatistics:
        parameters = layout.unpack(at)
        return penalized(likelihood_statistics(parameters, blocks, GAUSSIAN), parameters, prior)

    found = statistics(theta)
    plain = likelihood_statistics(model, blocks, GAUSSIAN)
    assert found.value == pytest.approx(plain.value - prior.penalty(*model), rel=1e-13)
    gradient = central_gradient(lambda at: statistics(at).value, theta, 1e-4)
    np.testing.assert_allclose(found.gradient, gradient, rtol=0, atol=1e-7 * np.abs(gradient).max())
    information = -central_gradient(lambda at: statistics(at).gradient, theta, 1e-4)
    np.testing.assert_allclose(found.information, information, rtol=0, atol=1e-8 * np.abs(information).max())
    hessian, majorizer = prior.hessians(model)
    np.testing.assert_allclose(found.information - plain.information, hessian, rtol=0, atol=1e-10)
    np.testing.assert_allclose(found.complete - plain.complete, majorizer, rtol=0, atol=1e-10)

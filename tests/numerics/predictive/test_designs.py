"""Simulated data, held to the laws that the designs promise."""

from __future__ import annotations

import re

import numpy as np
import pytest
from scipy.special import ndtr
from scipy.stats import chi2, kstest, multivariate_normal

from daskmoe.errors import InvalidOptionError
from daskmoe.numerics.predictive.designs import DESIGNS, draw_design, sample_features, sample_rows
from daskmoe.numerics.predictive.draws import sample_response
from daskmoe.numerics.predictive.mixture import (
    linear_predictor,
    log_gating,
    log_likelihood,
    log_softmax,
    mixture_mean,
)
from numerics.oracles import GAUSSIAN, gaussian_model, random_model

N = 40_000


@pytest.mark.parametrize("design", DESIGNS)
@pytest.mark.parametrize(("p", "n_experts"), [(20, 4), (5, 5), (3, 2), (1, 1), (2, 4)])
def test_designs_have_the_size_asked_for(design: str, p: int, n_experts: int) -> None:
    drawn = draw_design(design, p, n_experts, np.random.default_rng(0))
    assert drawn.parameters.gate.shape == (n_experts, p + 1)
    assert drawn.parameters.coef.shape == (n_experts, 1, p + 1)
    assert drawn.parameters.nuisance.shape == (n_experts, 1)
    assert not drawn.parameters.gate[-1].any()
    features, response = sample_rows(drawn, 7, np.random.default_rng(1))
    assert (features.shape, response.shape) == ((7, p), (7,))


@pytest.mark.parametrize("design", DESIGNS)
def test_a_seed_gives_the_same_data(design: str) -> None:
    def draw(seed: int) -> list[np.ndarray]:
        rng = np.random.default_rng(seed)
        drawn = draw_design(design, 3, 2, rng)
        return [*drawn.parameters, *sample_rows(drawn, 50, rng)]

    for one, two in zip(draw(5), draw(5), strict=True):
        np.testing.assert_array_equal(one, two)
    assert not np.array_equal(draw(5)[-1], draw(6)[-1])


@pytest.mark.parametrize("design", DESIGNS)
def test_features_have_the_moments_of_their_groups(design: str, rng: np.random.Generator) -> None:
    drawn = draw_design(design, 4, 3, rng)
    features = sample_features(drawn, N, rng)
    mean = drawn.centers.mean(axis=0)
    between = (drawn.centers - mean).T @ (drawn.centers - mean) / 3
    covariance = drawn.factor @ drawn.factor.T + between
    distance = (features.mean(axis=0) - mean) @ np.linalg.solve(covariance / N, features.mean(axis=0) - mean)
    assert distance < chi2(4).ppf(0.9999)
    scale = np.sqrt(np.outer(np.diag(covariance), np.diag(covariance)))
    # Five standard errors of a correlation-like entry.
    np.testing.assert_allclose((np.cov(features.T) - covariance) / scale, 0.0, atol=5 * np.sqrt(3 / N))


def test_paper_design_is_the_papers(rng: np.random.Generator) -> None:
    for _ in range(10):
        drawn = draw_design("paper", 6, 4, rng)
        gate, coef, variance = drawn.parameters
        for integers, limit in ((gate, 5), (coef[:, 0, 1:], 5)):
            np.testing.assert_array_equal(integers, integers.round())
            assert np.abs(integers).max() <= limit
        assert set(variance[:, 0]) <= {4.0, 5.0}
        covariance = drawn.factor @ drawn.factor.T
        deviation = np.sqrt(np.diag(covariance))
        lag = np.abs(np.subtract.outer(np.arange(6), np.arange(6)))
        np.testing.assert_allclose(covariance / np.outer(deviation, deviation), 0.25**lag, atol=1e-12)
        # Features are standardized over the groups.
        np.testing.assert_allclose(deviation**2 + drawn.centers.var(axis=0), 1.0, rtol=1e-12)
        np.testing.assert_allclose(drawn.centers.mean(axis=0), 0.0, atol=1e-12)


def test_paper_design_has_no_rare_expert(rng: np.random.Generator) -> None:
    for _ in range(10):
        drawn = draw_design("paper", 20, 4, rng)
        gates = np.exp(log_gating(drawn.parameters, sample_features(drawn, 20_000, rng)))
        assert gates.mean(axis=1).min() > 0.07


def test_overlap_design_is_the_papers_counterpart(rng: np.random.Generator) -> None:
    drawn = draw_design("overlap", 6, 5, rng)
    _, coef, variance = drawn.parameters
    assert not coef[:, 0, 0].any()
    np.testing.assert_array_equal(coef, coef.round())
    assert 5 < np.abs(coef).max() <= 10
    assert variance.tolist() == [[3.0]] * 5
    for j in range(5):
        for k in range(j):
            assert np.linalg.norm(drawn.centers[j] - drawn.centers[k]) == pytest.approx(2.5)


@pytest.mark.parametrize("p", [1, 3, 6])
def test_overlap_gates_are_those_of_the_gaussian_class_model(p: int, rng: np.random.Generator) -> None:
    drawn = draw_design("overlap", p, 5, rng)
    features = sample_features(drawn, 200, rng)
    logs = np.stack([multivariate_normal(center, np.eye(p)).logpdf(features) for center in drawn.centers])
    np.testing.assert_allclose(log_gating(drawn.parameters, features), log_softmax(logs), atol=1e-9)


def test_overlap_experts_are_balanced(rng: np.random.Generator) -> None:
    drawn = draw_design("overlap", 6, 5, rng)
    gates = np.exp(log_gating(drawn.parameters, sample_features(drawn, N, rng)))
    np.testing.assert_allclose(gates.mean(axis=1), 0.2, atol=5 * 0.4 / np.sqrt(N))


@pytest.mark.parametrize("n_features", [1, 2, 3])
def test_overlap_experts_keep_apart_with_few_features(n_features: int) -> None:
    for seed in range(10):
        drawn = draw_design("overlap", n_features, 4, np.random.default_rng(seed))
        distances = [np.linalg.norm(drawn.centers[j] - drawn.centers[k]) for j in range(4) for k in range(j)]
        assert min(distances) == pytest.approx(2.5)


def test_experts_are_drawn_with_the_gating_probabilities(rng: np.random.Generator) -> None:
    model = gaussian_model(
        np.array([[1.0, 2.0], [-1.0, 0.5], [0.0, 0.0]]), np.array([[0.0, 0], [100, 0], [200, 0]]), np.ones(3)
    )
    features = np.repeat([[-0.4], [0.7]], N, axis=0)
    expert = (sample_response(model, GAUSSIAN, features, rng) / 100).round().astype(int)
    gates = np.exp(log_gating(model, np.array([[-0.4], [0.7]])))
    for s, part in enumerate((expert[:N], expert[N:])):
        counts, expected = np.bincount(part, minlength=3), N * gates[:, s]
        assert np.sum((counts - expected) ** 2 / expected) < chi2(2).ppf(0.9999)


def test_response_has_the_law_of_the_model(rng: np.random.Generator) -> None:
    model, features = random_model(rng, 3, 2), rng.standard_normal((N, 2))
    response = sample_response(model, GAUSSIAN, features, rng)
    # F(y|x) is uniform under the truth.
    gates = np.exp(log_gating(model, features))
    z = (response - linear_predictor(model.coef[:, 0], features)) / np.sqrt(model.nuisance)
    uniform = np.sum(gates * ndtr(z), axis=0)
    assert kstest(uniform, "uniform").pvalue > 1e-4
    residual = response - mixture_mean(model, GAUSSIAN, features)
    assert abs(residual.mean()) < 5 * residual.std() / np.sqrt(N)


@pytest.mark.parametrize("design", DESIGNS)
def test_truth_explains_its_data_better_than_its_neighbours(design: str, rng: np.random.Generator) -> None:
    drawn = draw_design(design, 5, 3, rng)
    features, response = sample_rows(drawn, N, rng)
    truth = log_likelihood(drawn.parameters, GAUSSIAN, features, response)
    gate, coef, variance = drawn.parameters
    coef, variance = coef[:, 0], variance[:, 0]
    for k in range(3):
        shifted, slope, wide, narrow = coef.copy(), coef.copy(), variance.copy(), variance.copy()
        shifted[k, 0] += 0.2
        slope[k, 2] -= 0.2
        wide[k] *= 1.15
        narrow[k] /= 1.15
        others = [
            gaussian_model(gate, shifted, variance),
            gaussian_model(gate, slope, variance),
            gaussian_model(gate, coef, wide),
            gaussian_model(gate, coef, narrow),
        ]
        if k < 2:
            steeper = gate.copy()
            steeper[k] *= 1.3
            others.append(gaussian_model(steeper, coef, variance))
        for other in others:
            assert log_likelihood(other, GAUSSIAN, features, response) < truth


def test_unknown_design_is_an_error(rng: np.random.Generator) -> None:
    message = "design: expected one of ['overlap', 'paper'], got 'easy'."
    with pytest.raises(InvalidOptionError, match=re.escape(message)):
        draw_design("easy", 2, 2, rng)


@pytest.mark.parametrize(("p", "n_experts"), [(0, 2), (2, 0)])
def test_sizes_below_one_are_an_error(p: int, n_experts: int, rng: np.random.Generator) -> None:
    message = f"n_features and n_experts: expected at least 1, got {p} and {n_experts}."
    with pytest.raises(InvalidOptionError, match=re.escape(message)):
        draw_design("paper", p, n_experts, rng)

"""Expert densities, held to scipy.stats and to quadrature."""

from __future__ import annotations

from collections.abc import Callable

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given
from scipy.integrate import quad
from scipy.stats import kstest, norm

from daskmoe.errors import InvalidOptionError
from daskmoe.numerics.base.buffers import Buffers
from daskmoe.numerics.base.parameters import FloatArray
from daskmoe.numerics.families import FAMILIES, get_family
from numerics.oracles import GAUSSIAN, central_gradient

means = st.floats(-5, 5)
variances = st.floats(0.05, 20)


def test_log_density_is_that_of_the_normal_distribution(rng: np.random.Generator) -> None:
    y, eta = rng.standard_normal(7), rng.standard_normal((3, 7))
    variance = np.array([1e-4, 1.0, 1e4])[:, None]
    expected = norm.logpdf(y, eta, np.sqrt(variance))
    np.testing.assert_allclose(GAUSSIAN.log_density(y, eta[:, None], variance), expected, rtol=1e-13)


def test_log_density_leaves_its_arguments_alone(rng: np.random.Generator) -> None:
    y, eta, variance = rng.standard_normal(5), rng.standard_normal((2, 1, 5)), np.array([[1.0], [2.0]])
    before = y.copy(), eta.copy(), variance.copy()
    GAUSSIAN.log_density(y, eta, variance)
    for array, kept in zip((y, eta, variance), before, strict=True):
        np.testing.assert_array_equal(array, kept)


def test_leading_axes_are_kept(rng: np.random.Generator) -> None:
    y, eta = rng.standard_normal(5), rng.standard_normal((4, 2, 1, 5))
    variance = rng.uniform(1, 2, (4, 2, 1))
    stacked = GAUSSIAN.log_density(y, eta, variance)
    assert stacked.shape == (4, 2, 5)
    for i in range(4):
        np.testing.assert_array_equal(stacked[i], GAUSSIAN.log_density(y, eta[i], variance[i]))


def test_log_density_adds_and_writes_where_it_is_told(rng: np.random.Generator) -> None:
    y, eta, variance = rng.standard_normal(5), rng.standard_normal((3, 1, 5)), rng.uniform(1, 2, (3, 1))
    plus, out = rng.standard_normal((3, 5)), np.full((3, 5), np.nan)
    expected = plus + GAUSSIAN.log_density(y, eta, variance)
    found = GAUSSIAN.log_density(y, eta, variance, out=out, plus=plus)
    assert found is out
    np.testing.assert_allclose(out, expected, rtol=1e-13, atol=1e-13)


def test_derivatives_are_those_of_the_log_density(rng: np.random.Generator) -> None:
    """In the predictor and in the log-variance, by differences, row by row."""
    y, eta, variance = rng.standard_normal(4), rng.standard_normal((2, 1, 4)), rng.uniform(0.5, 2, (2, 1))
    found = GAUSSIAN.derivatives(y, eta, variance, Buffers(), second_order=True)
    for k, i in np.ndindex(2, 4):

        def value(at: FloatArray, k: int = k, i: int = i) -> float:
            return float(GAUSSIAN.log_density(y[[i]], at[:1, None], np.exp(at[1:]))[0])

        def gradient(at: FloatArray, value: Callable[[FloatArray], float] = value) -> FloatArray:
            return central_gradient(value, at, 1e-3)

        at = np.array([eta[k, 0, i], np.log(variance[k, 0])])
        score = [found.score[k, 0, i], found.nuisance_score[k, 0, i]]
        np.testing.assert_allclose(score, gradient(at), rtol=0, atol=1e-9)
        cross = found.cross[k, 0, 0, i]
        curvature = [
            [found.curvature[k, 0, 0], cross],
            [cross, found.nuisance_curvature[k, 0, i]],
        ]
        np.testing.assert_allclose(curvature, -central_gradient(gradient, at, 1e-3), rtol=0, atol=1e-6)
    # The curvature in the predictor does not depend on the response: it is its own expectation.
    assert found.expected is None
    assert GAUSSIAN.nuisance_information(variance).tolist() == [[0.5], [0.5]]


def test_quantiles_invert_the_distribution_function(rng: np.random.Generator) -> None:
    eta, variance = rng.standard_normal((3, 1, 5)), rng.uniform(0.5, 2, (3, 1))
    y = GAUSSIAN.quantile(0.3, eta, variance)
    np.testing.assert_allclose(y, norm.ppf(0.3, eta[:, 0], np.sqrt(variance)), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(GAUSSIAN.cdf(y, eta, variance), 0.3, rtol=1e-12)


@given(means, variances, means, variances)
def test_divergence_is_the_integral_of_its_definition(a: float, s: float, b: float, t: float) -> None:
    first, second = norm(a, np.sqrt(s)), norm(b, np.sqrt(t))

    def integrand(y: float) -> float:
        return float(first.pdf(y) * (first.logpdf(y) - second.logpdf(y)))

    spread = np.sqrt(s)
    expected = quad(integrand, a - 12 * spread, a + 12 * spread, epsabs=1e-10, epsrel=1e-10, limit=200)[0]
    found = GAUSSIAN.divergence(np.array([[a]]), np.array([s]), np.array([[b]]), np.array([t]))[0]
    np.testing.assert_allclose(found, expected, rtol=1e-7, atol=1e-8)


@given(means, variances)
def test_divergence_vanishes_for_the_same_density_only(eta: float, s: float) -> None:
    same = np.array([[eta]]), np.array([s])
    assert GAUSSIAN.divergence(*same, *same) == 0
    assert GAUSSIAN.divergence(*same, same[0] + 0.1, same[1]) > 0
    assert GAUSSIAN.divergence(*same, same[0], 1.1 * same[1]) > 0


def test_sample_mean_and_variance_have_the_law_of_the_density(rng: np.random.Generator) -> None:
    eta, variance = np.full((1, 20_000), -2.0), np.full((20_000, 1), 9.0)
    drawn = GAUSSIAN.sample(rng, eta, variance)
    assert kstest(drawn, norm(-2.0, 3.0).cdf).pvalue > 1e-4
    assert kstest(drawn, norm(-2.0, 3.3).cdf).pvalue < 1e-4
    np.testing.assert_array_equal(GAUSSIAN.mean(eta, variance), eta[0])
    assert GAUSSIAN.variance(np.zeros((2, 1, 3)), np.array([[1.0], [4.0]])).tolist() == [[1.0] * 3, [4.0] * 3]


def test_families_are_found_by_name() -> None:
    names = ["gaussian", "student_t", "gamma", "poisson", "categorical"]
    assert [*FAMILIES] == [family.name for family in FAMILIES.values()] == names
    with pytest.raises(
        InvalidOptionError,
        match=r"family: expected one of \['categorical', 'gamma', .*'student_t'\], got 'cauchy'\.",
    ):
        get_family("cauchy")

"""Expert densities, held to scipy.stats and to quadrature."""

from __future__ import annotations

import re

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given
from scipy.integrate import quad
from scipy.stats import kstest, norm

from daskmoe.errors import InvalidOptionError
from daskmoe.numerics.families import FAMILIES, get_family
from numerics.oracles import GAUSSIAN

means = st.floats(-5, 5)
variances = st.floats(0.05, 20)


def test_log_density_is_that_of_the_normal_distribution(rng: np.random.Generator) -> None:
    y, eta = rng.standard_normal(7), rng.standard_normal((3, 7))
    dispersion = np.array([1e-4, 1.0, 1e4])
    expected = norm.logpdf(y, eta, np.sqrt(dispersion)[:, None])
    np.testing.assert_allclose(GAUSSIAN.log_density(y, eta, dispersion), expected, rtol=1e-13)


def test_log_density_leaves_its_arguments_alone(rng: np.random.Generator) -> None:
    y, eta, dispersion = rng.standard_normal(5), rng.standard_normal((2, 5)), np.array([1.0, 2.0])
    before = y.copy(), eta.copy(), dispersion.copy()
    GAUSSIAN.log_density(y, eta, dispersion)
    for array, kept in zip((y, eta, dispersion), before, strict=True):
        np.testing.assert_array_equal(array, kept)


def test_leading_axes_are_kept(rng: np.random.Generator) -> None:
    y, eta, dispersion = rng.standard_normal(5), rng.standard_normal((4, 2, 5)), rng.uniform(1, 2, (4, 2))
    stacked = GAUSSIAN.log_density(y, eta, dispersion)
    for i in range(4):
        np.testing.assert_array_equal(stacked[i], GAUSSIAN.log_density(y, eta[i], dispersion[i]))


@given(means, variances, means, variances)
def test_divergence_is_the_integral_of_its_definition(a: float, s: float, b: float, t: float) -> None:
    first, second = norm(a, np.sqrt(s)), norm(b, np.sqrt(t))

    def integrand(y: float) -> float:
        return float(first.pdf(y) * (first.logpdf(y) - second.logpdf(y)))

    spread = np.sqrt(s)
    expected = quad(integrand, a - 12 * spread, a + 12 * spread, epsabs=1e-10, epsrel=1e-10, limit=200)[0]
    found = GAUSSIAN.divergence(np.array(a), np.array(s), np.array(b), np.array(t))
    np.testing.assert_allclose(found, expected, rtol=1e-7, atol=1e-8)


@given(means, variances)
def test_divergence_vanishes_for_the_same_density_only(eta: float, s: float) -> None:
    same = np.array(eta), np.array(s)
    assert GAUSSIAN.divergence(*same, *same) == 0
    assert GAUSSIAN.divergence(*same, same[0] + 0.1, same[1]) > 0
    assert GAUSSIAN.divergence(*same, same[0], 1.1 * same[1]) > 0


def test_sample_mean_and_variance_have_the_law_of_the_density(rng: np.random.Generator) -> None:
    eta, dispersion = np.full(20_000, -2.0), np.full(20_000, 9.0)
    drawn = GAUSSIAN.sample(rng, eta, dispersion)
    assert kstest(drawn, norm(-2.0, 3.0).cdf).pvalue > 1e-4
    assert kstest(drawn, norm(-2.0, 3.3).cdf).pvalue < 1e-4
    np.testing.assert_array_equal(GAUSSIAN.mean(eta), eta)
    assert GAUSSIAN.variance(np.zeros((2, 3)), np.array([1.0, 4.0])).tolist() == [[1.0] * 3, [4.0] * 3]


def test_families_are_found_by_name() -> None:
    assert {name: family.name for name, family in FAMILIES.items()} == {"gaussian": "gaussian"}
    with pytest.raises(
        InvalidOptionError, match=re.escape("family: expected one of ['gaussian'], got 'cauchy'.")
    ):
        get_family("cauchy")

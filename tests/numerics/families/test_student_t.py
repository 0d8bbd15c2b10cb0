"""Student t experts: quadrature, ends of the degrees of freedom, outliers, one expert by itself."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from scipy import stats
from scipy.integrate import quad
from scipy.optimize import minimize
from scipy.special import betaln

from daskmoe.numerics.base.observations import Observations
from daskmoe.numerics.base.parameters import FloatArray
from daskmoe.numerics.base.policies import TAILS, LocalFit
from daskmoe.numerics.families import get_family
from daskmoe.numerics.families.student_means import all_means, log_means, weight_means
from daskmoe.numerics.local.fit import fit_local_estimate

STUDENT = get_family("student_t")
SEEN = STUDENT.nuisances[1].seen


def integral(df: float, center: float, width: float) -> FloatArray:
    """The three means of `student_means`, at one row, by adaptive quadrature around both densities."""
    constant = math.exp(-betaln(0.5, 0.5 * df))
    edges = {0.0, center, *(s * t for s in (-1, 1) for t in (0.1, 1.0, 10.0, 1e3))}
    edges |= {center + s * width for s in (-10, -1, 1, 10)}
    ends = [-np.inf, *sorted(edges), np.inf]
    out = np.zeros(3)
    for i in range(3):

        def value(y: float, i: int = i) -> float:
            v = (y - center) / width
            mean = (math.log1p(v * v), 1 / (1 + v * v), v / (1 + v * v))[i]
            return mean * constant * math.exp(-0.5 * (df + 1) * math.log1p(y * y))

        for low, high in pairwise(ends):
            out[i] += quad(value, low, high, epsabs=1e-11, epsrel=1e-9, limit=200)[0]
    return out


@pytest.mark.parametrize("df", [1.05, 3.0, 200.0])
def test_means_are_integrals(df: float) -> None:
    for center, width in ((0.4, 0.02), (3.0, 0.3), (-2.0, 20.0)):
        at = np.array([df]), np.array([[center]]), np.array([width])
        found = [log_means(*at), *weight_means(*at)]
        np.testing.assert_allclose(np.ravel(found), integral(df, center, width), rtol=0, atol=1e-8)


def test_many_rows_are_interpolated_from_few(rng: np.random.Generator) -> None:
    df, width = np.array([1.1, 4.0, 150.0]), np.array([0.03, 1.0, 8.0])
    center = rng.standard_t(1.5, (3, 3_000))
    few = [slice(start, start + 30) for start in (0, 1_500, 2_970)]
    for means in (lambda *at: [log_means(*at)], weight_means):
        for found in range(len(means(df, center[:, :1], width))):
            many = means(df, center, width)[found]
            for rows in few:
                direct = means(df, center[:, rows], width)[found]
                np.testing.assert_allclose(many[:, rows], direct, rtol=0, atol=3e-9)


def test_a_density_is_at_no_divergence_from_itself() -> None:
    eta, nuisance = np.linspace(-9, 9, 7)[None, None], np.array([[0.3, 40.0], [2.0, 0.1]])
    assert STUDENT.divergence(eta, nuisance, eta, nuisance).max() < 1e-8


def test_degrees_of_freedom_are_a_function_of_the_nuisance() -> None:
    df = np.array([1.01, 4.0, 150.0, 199.9])
    np.testing.assert_allclose(SEEN.value(SEEN.nuisance(df)), df, rtol=1e-12)
    # The ends themselves have no logarithm.
    assert np.isfinite(np.log(SEEN.nuisance(np.array([1.0, 200.0])))).all()
    odds, small = np.array([0.01, 1.0, 50.0]), 1e-6
    slope = (SEEN.value(odds + small) - SEEN.value(odds - small)) / (2 * small)
    np.testing.assert_allclose(SEEN.slope(odds), slope, rtol=1e-6)
    assert STUDENT.told(np.array([[1.0, SEEN.nuisance(np.array(199.0))]])).tolist() == [[True, False]]


def test_variances_are_infinite_where_there_are_none() -> None:
    nuisance = np.column_stack([np.full(3, 2.0), SEEN.nuisance(np.array([1.5, 2.5, 10.0]))])
    variance = STUDENT.variance(np.zeros((3, 1, 1)), nuisance)[:, 0]
    assert variance[0] == np.inf
    np.testing.assert_allclose(variance[1:], [10.0, 2.5])
    np.testing.assert_allclose(STUDENT.width(np.zeros((3, 1, 1)), nuisance)[:, 0], np.sqrt(2))


@pytest.mark.parametrize("outliers", [False, True])
def test_one_expert_is_maximum_likelihood(outliers: bool) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2_000, 2))
    y = 1 + x @ [2.0, -1.0] + 0.7 * rng.standard_t(4, 2_000)
    if outliers:
        y[:100] += 30.0
    found = fit_local_estimate(Observations(x, y), LocalFit(n_experts=1, family="student_t"), rng).parameters
    assert found is not None

    def loss(at: FloatArray) -> float:
        density = stats.t.logpdf(y, np.exp(at[4]) + 1.0, at[0] + x @ at[1:3], np.exp(at[3]))
        return -float(np.sum(density))

    df = float(SEEN.value(found.nuisance[0, 1]))
    at = np.array([*found.coef[0, 0], 0.5 * np.log(found.nuisance[0, 0]), np.log(df - 1.0)])
    best = minimize(loss, [1.0, 2.0, -1.0, 0.0, 1.0], method="BFGS", options={"gtol": 1e-5})
    assert loss(at) <= best.fun + 1e-7
    np.testing.assert_allclose(at, best.x, atol=1e-5)


@pytest.mark.parametrize("n_experts", [1, 2])
def test_light_tails_end_within_the_range(n_experts: int) -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(3_000, 1))
    y = np.where(x[:, 0] > 0, 3.0, -3.0) + rng.uniform(-1, 1, 3_000)
    options = LocalFit(n_experts=n_experts, family="student_t")
    found = fit_local_estimate(Observations(x, y), options, rng)
    assert found.converged
    assert found.passes < 60
    assert found.parameters is not None
    df = SEEN.value(found.parameters.nuisance[:, 1])
    assert (df > TAILS.told_df).all()
    assert not STUDENT.told(found.parameters.nuisance)[:, 1].any()
    assert (df < TAILS.most_df).all()


def test_outliers_hardly_move_an_expert() -> None:
    rng = np.random.default_rng(2)
    x = rng.normal(size=(4_000, 1))
    second = x[:, 0] + 0.2 * rng.normal(size=4_000) > 0
    y = np.where(second, 3 + x[:, 0], -3 - 2 * x[:, 0]) + 0.5 * rng.normal(size=4_000)
    y[:200] += rng.choice([-1, 1], 200) * rng.uniform(15, 30, 200)
    for family, near in (("student_t", True), ("gaussian", False)):
        options = LocalFit(n_experts=2, family=family)
        found = fit_local_estimate(Observations(x, y), options, rng).parameters
        assert found is not None
        coef = found.coef[np.argsort(found.coef[:, 0, 0]), 0]
        assert (np.abs(coef - [[-3, -2], [3, 1]]).max() < 0.1) == near


@pytest.mark.parametrize("n_rows", [20, 400])
def test_means_made_at_once_are_those_made_one_by_one(rng: np.random.Generator, n_rows: int) -> None:
    df, width = rng.uniform(1, 50, 5), rng.uniform(0.2, 3, 5)
    center = 3 * rng.normal(size=(5, n_rows))
    expected = (log_means(df, center, width), *weight_means(df, center, width))
    np.testing.assert_array_equal(all_means(df, center, width), expected)

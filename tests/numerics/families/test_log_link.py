"""Families besides the gaussian, held to scipy.stats, differences, enumeration and quadrature."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import numpy as np
import pytest
from scipy import stats
from scipy.integrate import quad
from scipy.optimize import minimize

from daskmoe.numerics.base.buffers import Buffers
from daskmoe.numerics.base.coordinates import coordinates_from
from daskmoe.numerics.base.layout import Layout
from daskmoe.numerics.base.observations import Observations, moments
from daskmoe.numerics.base.packed import unpack
from daskmoe.numerics.base.parameters import FloatArray, MoEParameters
from daskmoe.numerics.base.policies import LocalFit
from daskmoe.numerics.families import Family, get_family
from daskmoe.numerics.families.protocol import Targets
from daskmoe.numerics.likelihood.e_step import Runs
from daskmoe.numerics.likelihood.priors import prior_from
from daskmoe.numerics.likelihood.statistics import likelihood_statistics, log_likelihood_of, penalized
from daskmoe.numerics.local.em import em, start_em
from daskmoe.numerics.local.fit import fit_local_estimate
from daskmoe.numerics.predictive.quantiles import mixture_quantiles
from numerics.oracles import central_gradient


class Case(NamedTuple):
    family: Family
    # (D,)
    nuisance: FloatArray

    def frozen(self, eta: float) -> Any:
        """The distribution of SciPy."""
        if self.family.name == "poisson":
            return stats.poisson(np.exp(eta))
        if self.family.name == "student_t":
            df = self.family.nuisances[1].seen.value(self.nuisance[1])
            return stats.t(df, eta, np.sqrt(self.nuisance[0]))
        return stats.gamma(1 / self.nuisance[0], scale=self.nuisance[0] * np.exp(eta))

    def draw(self, rng: np.random.Generator, eta: FloatArray) -> FloatArray:
        nuisance = np.broadcast_to(self.nuisance, (eta.size, self.nuisance.size))
        return np.asarray(self.family.sample(rng, eta[None], nuisance))


CASES = {
    "poisson": Case(get_family("poisson"), np.zeros(0)),
    "gamma": Case(get_family("gamma"), np.array([0.4])),
    # Of 4.3 degrees of freedom.
    "student_t": Case(get_family("student_t"), np.array([0.4, 59.0])),
}


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


ETA = np.array([[[-1.0, 0.0, 0.5, 2.0, 3.0]]])


def test_densities_and_distributions_are_those_of_scipy(case: Case, rng: np.random.Generator) -> None:
    y = case.draw(rng, ETA[0, 0])
    nuisance = case.nuisance[None]
    frozen = [case.frozen(eta) for eta in ETA[0, 0]]
    density = [(f.logpmf if case.family.discrete else f.logpdf)(v) for f, v in zip(frozen, y, strict=True)]
    np.testing.assert_allclose(case.family.log_density(y, ETA, nuisance)[0], density, rtol=1e-11)
    cdf = [f.cdf(v) for f, v in zip(frozen, y, strict=True)]
    np.testing.assert_allclose(case.family.cdf(y, ETA, nuisance)[0], cdf, rtol=1e-10)
    for p in (1e-6, 0.05, 0.5, 0.95, 1 - 1e-9):
        expected = [f.ppf(p) for f in frozen]
        np.testing.assert_allclose(case.family.quantile(p, ETA, nuisance)[0], expected, rtol=1e-9)
    np.testing.assert_allclose(case.family.mean(ETA, nuisance)[0], [f.mean() for f in frozen], rtol=1e-12)
    variances = np.broadcast_to(case.family.variance(ETA, nuisance)[0], 5)
    np.testing.assert_allclose(variances, [f.var() for f in frozen], rtol=1e-12)


def test_log_density_adds_and_writes_where_it_is_told(case: Case, rng: np.random.Generator) -> None:
    y, nuisance = case.draw(rng, ETA[0, 0]), case.nuisance[None]
    plus, out = rng.normal(size=(1, 5)), np.full((1, 5), np.nan)
    assert case.family.log_density(y, ETA, nuisance, out=out, plus=plus) is out
    np.testing.assert_allclose(out, case.family.log_density(y, ETA, nuisance) + plus, rtol=1e-12)


def test_derivatives_are_those_of_the_log_density(case: Case, rng: np.random.Generator) -> None:
    y, size = case.draw(rng, ETA[0, 0]), len(case.nuisance)
    found = case.family.derivatives(y, ETA, case.nuisance[None], Buffers(), second_order=True)
    for i in range(5):

        def value(at: FloatArray, i: int = i) -> float:
            return float(case.family.log_density(y[[i]], at[:1, None], np.exp(at[1:]))[0])

        def gradient(at: FloatArray, value: Any = value) -> FloatArray:
            return central_gradient(value, at, 1e-3)

        at = np.append(ETA[0, 0, i], np.log(case.nuisance))
        scores = [found.score[0, 0, i], *found.nuisance_score[0, :, i]]
        np.testing.assert_allclose(scores, gradient(at), rtol=1e-7, atol=1e-7)
        curvature = np.empty((1 + size, 1 + size))
        curvature[0, 0] = found.curvature[0, 0, i]
        curvature[1:, 0] = curvature[0, 1:] = found.cross[0, :, 0, i]
        if size:
            curvature[1:, 1:] = unpack(found.nuisance_curvature[0, :, i])
        np.testing.assert_allclose(curvature, -central_gradient(gradient, at, 1e-3), rtol=1e-5, atol=1e-5)


def test_expected_curvatures_are_means_over_the_density(case: Case) -> None:
    eta = np.full((1, 1, 200_000), 0.7)
    y = case.draw(np.random.default_rng(0), eta[0, 0])
    found = case.family.derivatives(y, eta, case.nuisance[None], Buffers(), second_order=True)
    expected = found.curvature if found.expected is None else found.expected
    assert float(found.curvature.mean()) == pytest.approx(float(expected.mean()), rel=0.01)
    residual = np.empty_like(eta)
    weight = case.family.working(y, eta, case.nuisance[None], residual)
    dispersion = float(case.family.dispersion(case.nuisance[None])[0])
    np.testing.assert_allclose(residual / dispersion, found.score, rtol=1e-10)
    weight = np.ones(1) if weight is None else weight
    if case.family.name != "student_t":
        # Its weights are those of EM, which knows how precise a row is.
        assert float(weight.mean()) / dispersion == pytest.approx(float(expected.mean()), rel=1e-9)
    own = case.family.nuisance_information(case.nuisance[None])
    np.testing.assert_allclose(own[0], found.nuisance_curvature[0].mean(axis=1), rtol=0.02)


def test_divergence_is_the_integral_of_its_definition(case: Case) -> None:
    for eta, other in ((0.3, 1.0), (2.0, 1.5), (1.0, 1.0)):
        far = case.nuisance * 1.7
        second = Case(case.family, far)
        p, q = case.frozen(eta), second.frozen(other)
        if case.family.discrete:
            y = np.arange(200)
            expected = float(np.sum(p.pmf(y) * (p.logpmf(y) - q.logpmf(y))))
        else:
            ends = p.ppf([1e-13, 0.5, 1 - 1e-13])

            def density(v: float, p: Any = p, q: Any = q) -> float:
                return float(p.pdf(v) * (p.logpdf(v) - q.logpdf(v)))

            expected = sum(quad(density, *ends[i : i + 2], limit=200)[0] for i in (0, 1))
        found = case.family.divergence(np.array([[eta]]), case.nuisance, np.array([[other]]), far)
        assert float(found[0]) == pytest.approx(expected, rel=1e-6, abs=1e-9)


def test_the_barycentre_is_the_least_divergence(case: Case, rng: np.random.Generator) -> None:
    """Of what a plan sends, summed over three components, against `scipy.optimize`."""
    family, size = case.family, len(case.nuisance)
    design = np.vstack([np.ones(40), rng.normal(size=(2, 40))])
    eta = 0.5 * rng.normal(size=(3, 3)) @ design
    nuisance = case.nuisance * rng.uniform(0.5, 1.5, (3, size))
    mass = rng.uniform(0.1, 1.0, (3, 40))
    coef, own = np.zeros((1, 3)), np.ones(size)
    for _ in range(100):
        targets = Targets(np.zeros((3, 40), np.intp), (coef @ design)[None], own[None])
        sent = family.plan_moments(eta[:, None], nuisance, mass, targets, np.empty((3, 40)))
        moved = np.stack([moment.sum(axis=0) for moment in sent])
        coef, own = family.barycentre(design, mass.sum(axis=0), moved, (coef, own), np.full(size, 1e-9))

    def loss(at: FloatArray) -> float:
        to = np.broadcast_to(at[:3] @ design, (3, 1, 40))
        return float(np.sum(mass * family.divergence(eta[:, None], nuisance, to, np.exp(at[3:])[None])))

    found = np.append(coef[0], np.log(own))
    best = minimize(
        loss, np.append(np.zeros(3), np.log(case.nuisance)), method="BFGS", options={"gtol": 1e-9}
    )
    assert loss(found) <= best.fun + 1e-8
    np.testing.assert_allclose(found, best.x, atol=1e-4)


def simulated(case: Case, n: int, seed: int = 0) -> Observations:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 2))
    second = rng.random(n) < 1 / (1 + np.exp(-2 * x[:, 0]))
    eta = np.where(second, 2.0 + 0.5 * x[:, 1], 0.5 - 0.7 * x[:, 1])
    return Observations(x, case.draw(rng, eta))


def random_parameters(case: Case, rng: np.random.Generator) -> MoEParameters:
    gate = rng.normal(size=(3, 3))
    nuisance = rng.uniform(0.3, 1.0, (3, len(case.nuisance)))
    return MoEParameters(gate - gate[-1], 0.5 * rng.normal(size=(3, 1, 3)), nuisance)


def test_penalized_statistics_are_the_derivatives_of_the_objective(case: Case) -> None:
    rng, rows = np.random.default_rng(1), simulated(case, 60)
    known = moments(rows)
    coordinates = coordinates_from(known, case.family.scaling(known))
    prior = prior_from(known, coordinates, 3, case.family)
    parameters = random_parameters(case, rng)
    layout = Layout.of(parameters)

    def value(theta: FloatArray) -> float:
        at = layout.unpack(theta)
        return log_likelihood_of(at, rows.blocks(coordinates), case.family) - float(prior.penalty(*at))

    def gradient(theta: FloatArray) -> FloatArray:
        return central_gradient(value, theta, 1e-3)

    found = penalized(
        likelihood_statistics(parameters, rows.blocks(coordinates), case.family), parameters, prior
    )
    theta = layout.pack(parameters)
    np.testing.assert_allclose(found.gradient, gradient(theta), rtol=1e-5, atol=1e-4)
    information = -central_gradient(gradient, theta, 1e-3)
    np.testing.assert_allclose(found.information, information, rtol=1e-3, atol=2e-2)


def test_em_never_falls(case: Case) -> None:
    rows = simulated(case, 400, 2)
    known = moments(rows)
    coordinates = coordinates_from(known, case.family.scaling(known))
    prior = prior_from(known, coordinates, 3, case.family)
    runs = Runs.one(random_parameters(case, np.random.default_rng(3)))
    blocks = list(rows.blocks(coordinates))
    state = start_em(runs, blocks, prior, case.family)
    values = [float(state.objective[0])]
    for _ in range(25):
        state = em(state, blocks, prior, 1, case.family)
        values.append(float(state.objective[0]))
    assert (np.diff(values) >= 0).all()
    assert values[-1] > values[0] + 1


def test_a_local_fit_finds_the_experts(case: Case) -> None:
    rows = simulated(case, 6_000)
    found = fit_local_estimate(rows, LocalFit(n_experts=2, family=case.family.name), np.random.default_rng(0))
    assert found.converged
    assert found.parameters is not None
    coef = found.parameters.coef[np.argsort(found.parameters.coef[:, 0, 0]), 0]
    np.testing.assert_allclose(coef, [[0.5, 0.0, -0.7], [2.0, 0.0, 0.5]], atol=0.12)
    np.testing.assert_allclose(found.parameters.nuisance, np.tile(case.nuisance, (2, 1)), rtol=0.15)


def test_quantiles_of_mixtures_are_those_of_their_distribution(case: Case) -> None:
    rng = np.random.default_rng(5)
    parameters, x = random_parameters(case, rng), rng.normal(size=(30, 2))
    gates = np.exp(np.column_stack([np.ones(30), x]) @ parameters.gate.T)
    gates /= gates.sum(axis=1, keepdims=True)
    eta = np.column_stack([np.ones(30), x]) @ parameters.coef[:, 0].T

    def cdf(y: FloatArray) -> FloatArray:
        each = case.family.cdf(y, eta.T[:, None], parameters.nuisance)
        return np.asarray((gates.T * each).sum(axis=0))

    for p in (0.05, 0.5, 0.9):
        (found,) = mixture_quantiles(parameters, case.family, x, [p])
        if case.family.discrete:
            assert (found == np.floor(found)).all()
            assert (cdf(found) >= p).all()
            assert (cdf(found - 1) < p).all()
        else:
            np.testing.assert_allclose(cdf(found), p, rtol=1e-9)


@pytest.mark.parametrize(
    ("name", "wrong", "said"),
    [
        ("poisson", [1.0, -1.0], r"counts \(0, 1, 2, \.\.\.\), got -1"),
        ("poisson", [0.5], r"counts \(0, 1, 2, \.\.\.\), got 0\.5"),
        ("gamma", [1.0, 0.0], r"numbers above zero \(1e-20 to 1e20\), got 0"),
    ],
)
def test_responses_that_do_not_fit(name: str, wrong: list[float], said: str) -> None:
    family = get_family(name)
    assert family.misfit(np.array([1.0, 2.0])) is None
    text = family.misfit(np.array(wrong))
    assert text is not None
    assert re.search(said, text)

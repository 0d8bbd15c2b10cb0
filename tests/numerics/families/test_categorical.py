"""Categorical experts, held to enumeration, differences, `scipy.optimize` and scikit-learn."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import log_softmax
from sklearn.linear_model import LogisticRegression

from daskmoe.numerics.base.buffers import Buffers
from daskmoe.numerics.base.coordinates import coordinates_from, unseen_directions
from daskmoe.numerics.base.layout import Layout
from daskmoe.numerics.base.observations import Observations, moments
from daskmoe.numerics.base.packed import unpack
from daskmoe.numerics.base.parameters import FloatArray, MoEParameters
from daskmoe.numerics.base.policies import LocalFit, Regularization
from daskmoe.numerics.combine.frames import frame_of, shifted_to_residuals
from daskmoe.numerics.families import Family, get_family
from daskmoe.numerics.families.protocol import Targets
from daskmoe.numerics.likelihood.e_step import Runs
from daskmoe.numerics.likelihood.priors import prior_from
from daskmoe.numerics.likelihood.statistics import likelihood_statistics, log_likelihood_of, penalized
from daskmoe.numerics.local.em import em, start_em
from daskmoe.numerics.local.fit import fit_local_estimate
from daskmoe.numerics.predictive.draws import sample_response
from numerics.oracles import central_gradient

CLASSES = (2, 4)


@pytest.fixture(params=CLASSES, ids=lambda n: f"{n} classes")
def family(request: pytest.FixtureRequest) -> Family:
    return get_family("categorical", request.param)


def log_probabilities(eta: FloatArray) -> FloatArray:
    """Of all classes, the first with a predictor of zero, (..., J, B)."""
    zero = np.zeros_like(eta[..., :1, :])
    return np.asarray(log_softmax(np.concatenate([zero, eta], axis=-2), axis=-2))


def cases(family: Family, rng: np.random.Generator) -> tuple[FloatArray, FloatArray]:
    """Codes (B,) and predictors (3, C, B), some of them extreme."""
    y = np.arange(40.0) % (family.n_predictors + 1)
    eta = 2 * rng.standard_normal((3, family.n_predictors, 40))
    eta[:, :, :8] *= 400
    return y, eta


def test_densities_and_moments_are_those_of_the_softmax(family: Family, rng: np.random.Generator) -> None:
    y, eta = cases(family, rng)
    none, every = np.zeros((3, 0)), log_probabilities(eta)
    expected = np.take_along_axis(every, np.broadcast_to(y.astype(int), (3, 1, 40)), axis=1)[:, 0]
    np.testing.assert_allclose(family.log_density(y, eta, none), expected, rtol=1e-12, atol=1e-14)
    plus, out = rng.normal(size=(3, 40)), np.empty((3, 40))
    assert family.log_density(y, eta, none, out=out, plus=plus) is out
    np.testing.assert_allclose(out, expected + plus, rtol=1e-12, atol=1e-12)
    chances, codes = np.exp(every), np.arange(family.n_predictors + 1.0)[:, None]
    np.testing.assert_allclose(family.class_probabilities(eta), chances, atol=1e-14)
    mean = (chances * codes).sum(axis=1)
    np.testing.assert_allclose(family.mean(eta, none), mean, atol=1e-13)
    np.testing.assert_allclose(
        family.variance(eta, none), (chances * codes**2).sum(axis=1) - mean**2, atol=1e-12
    )
    below = (chances * (codes <= 0.5)).sum(axis=1)
    np.testing.assert_allclose(family.cdf(np.full(40, 0.5), eta, none), below, atol=1e-14)
    found = family.quantile(0.3, eta, none)
    assert (family.cdf(found, eta, none) >= 0.3 - 1e-12).all()
    assert ((found == 0) | (family.cdf(found - 1, eta, none) < 0.3)).all()


def test_derivatives_are_those_of_the_log_density(family: Family, rng: np.random.Generator) -> None:
    y, eta = cases(family, rng)
    y, eta = y[8:20], eta[:, :, 8:20]
    found = family.derivatives(y, eta, np.zeros((3, 0)), Buffers(), second_order=True)
    residual = np.empty_like(eta)
    weight = family.working(y, eta, np.zeros((3, 0)), residual)
    np.testing.assert_allclose(residual, found.score, atol=1e-14)
    np.testing.assert_allclose(weight, found.curvature, atol=1e-14)
    assert found.expected is None

    def value(shift: FloatArray) -> FloatArray:
        return family.log_density(y, eta + shift[:, None], np.zeros((3, 0)))

    def slopes(shift: FloatArray) -> FloatArray:
        return central_gradient(value, shift, 1e-3)

    at = np.zeros(family.n_predictors)
    np.testing.assert_allclose(np.moveaxis(found.score, 1, -1), slopes(at), rtol=1e-6, atol=1e-6)
    second = -central_gradient(slopes, at, 1e-3)
    np.testing.assert_allclose(unpack(np.moveaxis(found.curvature, 1, -1)), second, rtol=1e-4, atol=1e-5)


def test_divergence_is_the_sum_of_its_definition(family: Family, rng: np.random.Generator) -> None:
    _, eta = cases(family, rng)
    first, second = log_probabilities(eta), log_probabilities(0.3 * eta[::-1])
    expected = np.sum(np.exp(first) * (first - second), axis=1)
    none, out = np.zeros((3, 0)), np.empty((3, 40))
    found = family.divergence(eta, none, 0.3 * eta[::-1], none, out=out)
    assert found is out
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(family.divergence(eta, none, eta, none), 0.0, atol=1e-12)


def test_the_barycentre_is_the_least_divergence(family: Family, rng: np.random.Generator) -> None:
    """Of what a plan sends, summed over three components, against `scipy.optimize`."""
    size = family.n_predictors
    design = np.vstack([np.ones(40), rng.normal(size=(2, 40))])
    eta, none = rng.normal(size=(3, size, 3)) @ design, np.zeros((3, 0))
    mass = rng.uniform(0.1, 1.0, (3, 40))
    targets = Targets(np.zeros((3, 40), np.intp), np.zeros((1, size, 40)), none[:1])
    sent = family.plan_moments(eta, none, mass, targets, np.empty((3, 40)))
    moved = np.stack([moment.sum(axis=0) for moment in sent])
    assert len(moved) == family.n_plan_moments
    start = np.zeros((size, 3)), np.zeros(0)
    coef, nuisance = family.barycentre(design, mass.sum(axis=0), moved, start, np.zeros(0))
    assert nuisance.size == 0

    def loss(at: FloatArray) -> float:
        to = at.reshape(size, 3) @ design
        return float(np.sum(mass * family.divergence(eta, none, to[None], none)))

    best = minimize(loss, np.zeros(3 * size), method="BFGS", options={"gtol": 1e-8})
    assert loss(coef.ravel()) <= best.fun + 1e-9
    np.testing.assert_allclose(coef.ravel(), best.x, atol=1e-4)


def truth(family: Family) -> MoEParameters:
    """Two experts whose classes follow the second feature in other directions, a gate along the first."""
    size = family.n_predictors
    gate = np.array([[0.0, 2.0, 0.0], [0.0, 0.0, 0.0]])
    coef = np.zeros((2, size, 3))
    coef[0, :, 0], coef[0, :, 2] = 1.0, np.linspace(3.0, 1.0, size)
    coef[1, :, 0], coef[1, :, 2] = -0.5, np.linspace(-2.0, 2.0, size + 1)[:-1]
    return MoEParameters(gate, coef, np.zeros((2, 0)))


def simulated(family: Family, n: int, seed: int = 0) -> Observations:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 2))
    return Observations(x, sample_response(truth(family), family, x, rng))


def random_parameters(family: Family, rng: np.random.Generator) -> MoEParameters:
    gate = rng.normal(size=(3, 3))
    return MoEParameters(gate - gate[-1], rng.normal(size=(3, family.n_predictors, 3)), np.zeros((3, 0)))


def test_penalized_statistics_are_the_derivatives_of_the_objective(family: Family) -> None:
    rng, rows = np.random.default_rng(1), simulated(family, 60)
    known = moments(rows)
    coordinates = coordinates_from(known, family.scaling(known))
    prior = prior_from(known, coordinates, 3, family)
    parameters = random_parameters(family, rng)
    layout = Layout.of(parameters)

    def value(theta: FloatArray) -> float:
        at = layout.unpack(theta)
        return log_likelihood_of(at, rows.blocks(coordinates), family) - float(prior.penalty(*at))

    def statistics(theta: FloatArray) -> Any:
        at = layout.unpack(theta)
        return penalized(likelihood_statistics(at, rows.blocks(coordinates), family), at, prior)

    theta = layout.pack(parameters)
    found = statistics(theta)
    np.testing.assert_allclose(found.gradient, central_gradient(value, theta), rtol=1e-6, atol=1e-6)
    information = -central_gradient(lambda at: statistics(at).gradient, theta)
    np.testing.assert_allclose(found.information, information, rtol=1e-6, atol=1e-5)


def test_em_never_falls(family: Family) -> None:
    rows = simulated(family, 400, 2)
    known = moments(rows)
    coordinates = coordinates_from(known, family.scaling(known))
    prior = prior_from(known, coordinates, 3, family)
    blocks = list(rows.blocks(coordinates))
    state = start_em(Runs.one(random_parameters(family, np.random.default_rng(3))), blocks, prior, family)
    values = [float(state.objective[0])]
    for _ in range(25):
        state = em(state, blocks, prior, 1, family)
        values.append(float(state.objective[0]))
    assert (np.diff(values) >= 0).all()
    assert values[-1] > values[0] + 1


def fit(rows: Observations, family: Family, n_experts: int, strength: float = 1.0) -> Any:
    options = LocalFit(
        n_experts=n_experts,
        family=family.name,
        response_size=family.n_predictors + 1,
        regularization=Regularization(strength),
    )
    return fit_local_estimate(rows, options, np.random.default_rng(0))


def test_a_local_fit_is_as_likely_as_the_truth(family: Family) -> None:
    rows = simulated(family, 6_000)
    found = fit(rows, family, 2)
    assert found.converged
    coordinates = coordinates_from(moments(rows), family.scaling(moments(rows)))
    true = coordinates.from_data(truth(family))
    assert found.log_likelihood > log_likelihood_of(true, rows.blocks(coordinates), family)


def test_one_expert_is_the_regression_of_scikit_learn(family: Family) -> None:
    rows = simulated(family, 3_000)
    expected = LogisticRegression(C=np.inf, tol=1e-12, max_iter=10_000).fit(rows.features, rows.response)
    coef = fit(rows, family, 1, 1e-8).parameters.coef[0]
    slopes, levels = expected.coef_, expected.intercept_
    if len(levels) > 1:
        # Its softmax has no reference.
        slopes, levels = slopes[1:] - slopes[0], levels[1:] - levels[0]
    np.testing.assert_allclose(coef[:, 1:], slopes, atol=1e-6)
    np.testing.assert_allclose(coef[:, 0], levels, atol=1e-6)


def test_separated_classes_have_a_finite_fit(family: Family, rng: np.random.Generator) -> None:
    features = rng.normal(size=(500, 1))
    response = np.digitize(features[:, 0], np.linspace(-1, 1, family.n_predictors)).astype(float)
    for n_experts in (1, 2):
        found = fit(Observations(features, response), family, n_experts).parameters
        assert all(np.isfinite(array).all() for array in found)
        assert np.abs(found.coef).max() < 1e4


def test_directions_a_pilot_did_not_see_are_learned(family: Family, rng: np.random.Generator) -> None:
    """Slopes of all predictors along a feature that was constant in the sample."""
    seen = Observations(np.column_stack([rng.normal(size=200), np.zeros(200)]), np.zeros(200))
    known = moments(seen)
    coordinates = coordinates_from(known, family.scaling(known))
    x = rng.normal(size=(4_000, 2))
    parameters = truth(family)
    rows = Observations(x, sample_response(parameters, family, x, rng))
    frame = frame_of(coordinates, unseen_directions(known, coordinates), moments(rows))
    without = parameters._replace(coef=parameters.coef * np.array([1.0, 1.0, 0.0]))
    found = shifted_to_residuals(rows, frame.coordinates.from_data(without), frame, family)
    before, after = (
        log_likelihood_of(model, rows.blocks(frame.coordinates), family)
        for model in (frame.coordinates.from_data(without), found)
    )
    assert after > before
    assert np.ptp(found.coef[..., -1], axis=0).max() < 1e-12


def test_responses_that_do_not_fit() -> None:
    family = get_family("categorical", 3)
    assert family.misfit(np.array([0.0, 2.0])) is None
    assert "codes of 3 classes" in str(family.misfit(np.array([3.0])))

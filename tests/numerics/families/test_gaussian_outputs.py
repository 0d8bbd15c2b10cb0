"""Gaussian experts of several outputs, held to differences, quadrature and scipy.optimize."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.stats import multivariate_normal

from daskmoe.numerics.base.buffers import Buffers
from daskmoe.numerics.base.coordinates import coordinates_from
from daskmoe.numerics.base.layout import Layout
from daskmoe.numerics.base.observations import Observations, moments
from daskmoe.numerics.base.parameters import FloatArray, LargeMoE, MoEParameters, SupportSample
from daskmoe.numerics.base.policies import LocalFit
from daskmoe.numerics.combine.em_step import em_step
from daskmoe.numerics.families import get_family
from daskmoe.numerics.families.gaussian_outputs import GaussianOutputs
from daskmoe.numerics.families.protocol import Targets
from daskmoe.numerics.likelihood.e_step import Runs
from daskmoe.numerics.likelihood.priors import Prior, prior_from
from daskmoe.numerics.likelihood.statistics import likelihood_statistics, log_likelihood_of, penalized
from daskmoe.numerics.local.em import em, start_em
from daskmoe.numerics.local.fit import fit_local_estimate
from daskmoe.numerics.local.newton import NewtonState
from daskmoe.numerics.transport.merging import clustered_experts, greedy_experts
from daskmoe.numerics.transport.reduction import reduction_problem
from numerics.oracles import central_gradient

FAMILY = GaussianOutputs(2)
# Outputs of very different sizes.
UNITS = np.array([1.0, 300.0])


def random_rows(rng: np.random.Generator, n: int = 60) -> Observations:
    response = (2.0 * rng.standard_normal((n, 2)) + [1.0, -3.0]) * UNITS
    return Observations(rng.standard_normal((n, 2)), response, rng.uniform(0.5, 2.0, n))


def random_model(rng: np.random.Generator, n_experts: int = 3) -> MoEParameters:
    gate, coef = rng.standard_normal((n_experts, 3)), rng.standard_normal((n_experts, 2, 3))
    return MoEParameters(gate - gate[-1], coef, rng.uniform(0.5, 2.0, (n_experts, 2)))


def in_coordinates(rows: Observations, n_experts: int = 3) -> tuple[list, Prior]:
    known = moments(rows)
    coordinates = coordinates_from(known, FAMILY.scaling(known))
    prior = prior_from(known, coordinates, n_experts, FAMILY)
    return [block._replace(design=block.design.copy()) for block in rows.blocks(coordinates)], prior


def test_a_density_is_the_normal_one_with_a_diagonal_covariance(rng: np.random.Generator) -> None:
    y, eta, variance = rng.standard_normal((2, 5)), rng.standard_normal((3, 2, 5)), rng.uniform(1, 3, (3, 2))
    plus = rng.standard_normal((3, 5))
    found = FAMILY.log_density(y, eta, variance, out=np.empty((3, 5)), plus=plus)
    for k, i in np.ndindex(3, 5):
        exact = multivariate_normal.logpdf(y[:, i], eta[k, :, i], np.diag(variance[k]))
        assert found[k, i] == pytest.approx(exact + plus[k, i], rel=1e-13)
    np.testing.assert_allclose(
        FAMILY.cdf(FAMILY.quantile(0.3, eta[0], variance[0]), eta[0], variance[0]), 0.3
    )


def test_derivatives_are_those_of_the_log_density(rng: np.random.Generator) -> None:
    y, eta, variance = (
        rng.standard_normal((2, 3)),
        rng.standard_normal((2, 2, 3)),
        rng.uniform(0.5, 2, (2, 2)),
    )
    found = FAMILY.derivatives(y, eta, variance, Buffers(), second_order=True)
    upper = np.triu_indices(2)
    for k, i in np.ndindex(2, 3):

        def value(at: FloatArray, i: int = i) -> float:
            return float(FAMILY.log_density(y[:, [i]], at[:2, None], np.exp(at[2:]))[0])

        def gradient(at: FloatArray) -> FloatArray:
            return central_gradient(value, at, 1e-3)

        at = np.concatenate([eta[k, :, i], np.log(variance[k])])
        score = np.concatenate([found.score[k, :, i], found.nuisance_score[k, :, i]])
        np.testing.assert_allclose(score, gradient(at), rtol=0, atol=1e-9)
        curvature = -central_gradient(gradient, at, 1e-3)
        np.testing.assert_allclose(found.curvature[k, :, i], curvature[:2, :2][upper], atol=1e-6)
        np.testing.assert_allclose(found.cross[k, :, :, i], curvature[2:, :2], atol=1e-6)
        np.testing.assert_allclose(found.nuisance_curvature[k, :, i], curvature[2:, 2:][upper], atol=1e-6)


def test_statistics_and_penalty_are_derivatives_of_the_objective(rng: np.random.Generator) -> None:
    rows, parameters = random_rows(rng), random_model(rng)
    blocks, prior = in_coordinates(rows)
    # Of other rows: its strengths and locations differ between outputs.
    prior = prior._replace(coef=np.array([0.5, 2.0]), location=np.array([0.3, -0.2]))
    layout = Layout.of(parameters)

    def value(theta: FloatArray) -> float:
        at = layout.unpack(theta)
        return log_likelihood_of(at, blocks, FAMILY) - float(prior.penalty(*at))

    def gradient(theta: FloatArray) -> FloatArray:
        at = layout.unpack(theta)
        return penalized(likelihood_statistics(at, blocks, FAMILY), at, prior).gradient

    theta = layout.pack(parameters)
    found = penalized(likelihood_statistics(parameters, blocks, FAMILY), parameters, prior)
    np.testing.assert_allclose(found.gradient, central_gradient(value, theta), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(found.information, -central_gradient(gradient, theta), rtol=1e-6, atol=1e-5)
    # What EM's step promises is what its bound gains, which the objective gains at least.
    step, gain = em_step(NewtonState(parameters, found, 0.0), prior, 1.0, FAMILY)
    assert 0 < gain <= value(theta + step) - found.value


def test_em_never_falls_and_ends_at_a_maximum(rng: np.random.Generator) -> None:
    rows = random_rows(rng, 300)
    blocks, prior = in_coordinates(rows, 2)
    state = start_em(Runs.one(random_model(rng, 2)), blocks, prior, FAMILY)
    reached = [float(state.objective[0])]
    for _ in range(8):
        state = em(state, blocks, prior, 40, FAMILY)
        reached.append(float(state.objective[0]))
    assert (np.diff(reached) >= 0).all()
    at = MoEParameters(*(array[0] for array in state.runs))
    found = penalized(likelihood_statistics(at, blocks, FAMILY), at, prior)
    assert np.abs(found.gradient).max() < 0.05


def test_one_expert_is_least_squares_of_every_output(rng: np.random.Generator) -> None:
    features, unit = rng.standard_normal((500, 3)), np.array([1e-3, 1.0, 1e4])
    response = (features @ rng.standard_normal((3, 3)) + rng.standard_normal((500, 3)) + 5.0) * unit
    design = np.column_stack([np.ones(500), features])
    exact, squares, *_ = np.linalg.lstsq(design, response, rcond=None)
    rows = Observations(features, response)
    options = LocalFit(n_experts=1, response_size=3)
    found = fit_local_estimate(rows, options, rng)
    assert found.parameters is not None
    np.testing.assert_allclose(found.parameters.coef[0].T / unit, exact / unit, rtol=0, atol=1e-11)
    np.testing.assert_allclose(found.parameters.nuisance[0], squares / 500, rtol=1e-11)
    family = get_family("gaussian", 3)
    from_moments = family.from_moments(moments(rows))
    assert from_moments is not None
    np.testing.assert_allclose(from_moments.coef[0].T / unit, exact / unit, rtol=0, atol=1e-11)
    assert family.log_likelihood_from(moments(rows)) == pytest.approx(found.log_likelihood, rel=1e-12)


def test_one_output_is_the_plain_family(rng: np.random.Generator) -> None:
    features = rng.standard_normal((800, 2))
    noise = rng.standard_normal(800)
    response = np.where(features[:, 0] > 0, 3.0, -1.0) * features[:, 1] + noise
    found = [
        fit_local_estimate(
            Observations(features, own), LocalFit(n_experts=2, response_size=size), np.random.default_rng(0)
        )
        for own, size in ((response, None), (response[:, None], 1))
    ]
    plain, single = found
    assert plain.parameters is not None
    assert single.parameters is not None
    assert single.log_likelihood == pytest.approx(plain.log_likelihood, rel=1e-10)
    for ours, theirs in zip(single.parameters, plain.parameters, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-6)


def test_units_of_the_outputs_change_nothing_else(rng: np.random.Generator) -> None:
    features = rng.standard_normal((600, 2))
    lines = np.where(features[:, :1] > 0, features[:, 1:] * [3.0, -1.0], [0.0, 4.0])
    response = lines + rng.standard_normal((600, 2))
    scale, place = np.array([1e-3, 500.0]), np.array([7.0, -1e4])
    options = LocalFit(n_experts=2, response_size=2)
    found = [
        fit_local_estimate(Observations(features, own), options, np.random.default_rng(0)).parameters
        for own in (response, response * scale + place)
    ]
    plain, scaled = found
    assert plain is not None
    assert scaled is not None
    order = np.argsort(plain.nuisance[:, 0]), np.argsort(scaled.nuisance[:, 0])
    np.testing.assert_allclose(scaled.nuisance[order[1]] / scale**2, plain.nuisance[order[0]], rtol=1e-5)
    np.testing.assert_allclose(
        scaled.coef[order[1]][:, :, 1:] / scale[:, None], plain.coef[order[0]][:, :, 1:], atol=1e-5
    )


def test_a_divergence_is_the_expected_log_ratio(rng: np.random.Generator) -> None:
    eta, to = rng.standard_normal((2, 1)), rng.standard_normal((2, 1))
    variance, variance_to = rng.uniform(0.5, 2.0, (2, 2))
    nodes, weights = np.polynomial.hermite_e.hermegauss(20)
    grid = np.stack(np.meshgrid(nodes, nodes)).reshape(2, -1)
    y = eta + np.sqrt(variance)[:, None] * grid
    ratio = FAMILY.log_density(y, eta, variance) - FAMILY.log_density(y, to, variance_to)
    exact = float(np.outer(weights, weights).ravel() @ ratio) / (2.0 * np.pi)
    assert FAMILY.divergence(eta, variance, to, variance_to)[0] == pytest.approx(exact, rel=1e-10)
    out = np.empty(1)
    assert FAMILY.divergence(eta, variance, to, variance_to, out=out) is out


def test_a_barycentre_has_the_least_divergence(rng: np.random.Generator) -> None:
    design = np.vstack([np.ones(30), rng.standard_normal(30)])
    eta, variance = rng.standard_normal((4, 2, 30)), rng.uniform(0.5, 2.0, (4, 2))
    mass = rng.uniform(0.1, 1.0, (4, 30))
    start = rng.standard_normal((2, 2)), np.ones(2)
    targets = Targets(np.zeros((4, 30), np.intp), (start[0] @ design)[None], start[1][None])
    moved = FAMILY.plan_moments(eta, variance, mass, targets, np.empty((4, 30)))
    sums = np.stack([values.sum(axis=0) for values in moved])
    coef, found = FAMILY.barycentre(design, mass.sum(axis=0), sums, start, np.zeros(2))

    def loss(theta: FloatArray) -> float:
        each = FAMILY.divergence(eta, variance, theta[:4].reshape(2, 2) @ design, np.exp(theta[4:]))
        return float(np.sum(mass * each))

    at = np.concatenate([coef.ravel(), np.log(found)])
    assert np.abs(central_gradient(loss, at)).max() < 1e-7
    assert minimize(loss, at).fun >= loss(at) - 1e-9


@pytest.mark.parametrize("start", [greedy_experts, clustered_experts])
def test_merging_finds_experts_that_partitions_share(start: object, rng: np.random.Generator) -> None:
    """Whatever the sizes of the outputs, of which only one tells the experts apart."""
    own = MoEParameters(
        np.array([[0.0, 1.0], [0.0, 0.0]]),
        np.array([[[0.0, 1.0], [0.0, 0.0]], [[3.0, -1.0], [0.0, 0.0]]]) * UNITS[:, None],
        np.array([[0.5, 1.0], [1.0, 1.0]]) * UNITS**2,
    )
    large = LargeMoE.from_estimates([own] * 3, np.ones(3))
    support = SupportSample(rng.standard_normal((50, 1)), None, np.full(50, 0.02))
    coordinates, problem = reduction_problem(large, support, FAMILY)
    experts = start(problem, 2)  # type: ignore[operator]
    found = coordinates.to_data(MoEParameters(np.zeros((2, 2)), experts.coef, experts.nuisance))
    order = np.argsort(found.nuisance[:, 0])
    np.testing.assert_allclose(found.coef[order], own.coef, atol=1e-6)
    np.testing.assert_allclose(found.nuisance[order], own.nuisance, rtol=1e-6)

"""The penalty, held to its definition as expectations over rows, its derivatives to finite differences."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from daskmoe.numerics.base.layout import Layout
from daskmoe.numerics.base.observations import Observations, merge_moments, moments
from daskmoe.numerics.base.parameters import FloatArray
from daskmoe.numerics.base.policies import PRIOR, Regularization
from daskmoe.numerics.likelihood.priors import Prior, prior_from
from numerics.oracles import (
    GAUSSIAN,
    central_gradient,
    coordinates_of,
    gaussian_model,
    identity_coordinates,
    random_model,
    random_rows,
)


def some_prior(rng: np.random.Generator, q: int) -> Prior:
    root = rng.standard_normal((q, q))
    return Prior(0.3, 0.7, np.array([1.1]), np.array([0.4]), np.array([0.2]), root @ root.T, 0.6, 30.0, 10.0)


def linear_residual_share(rows: Observations, weight: FloatArray) -> float:
    design = np.column_stack([np.ones(rows.n_rows), rows.features]) * np.sqrt(weight)[:, None]
    response = rows.response * np.sqrt(weight)
    residual = response - design @ np.linalg.lstsq(design, response, rcond=None)[0]
    mean = weight @ rows.response / weight.sum()
    return float(residual @ residual / (weight @ (rows.response - mean) ** 2))


@pytest.mark.parametrize("weighted", [False, True])
def test_penalty_is_its_definition(weighted: bool, rng: np.random.Generator) -> None:
    rows, model = random_rows(rng, 60, 3, weighted=weighted), random_model(rng, 3, 3)
    weight = np.ones(60) if rows.weight is None else rows.weight
    share = weight / weight.sum()
    design = np.column_stack([np.ones(60), rows.features])
    mean = share @ rows.response
    variance = share @ (rows.response - mean) ** 2
    centered = design @ (model.gate - model.gate.mean(axis=0)).T
    # In proportion to the three slopes.
    gates = 3 * np.sum(np.log1p(share @ centered**2 / (3 * PRIOR.gate_width)))
    coefs = np.sum(share @ (design @ model.coef[:, 0].T - mean) ** 2) / variance
    spread = PRIOR.spread_share * linear_residual_share(rows, weight) * variance
    variances = np.sum(np.log(model.nuisance[:, 0]) + spread / model.nuisance[:, 0])
    floor = PRIOR.floor_share * variance
    barrier = 0.25 * weight.sum() * np.sum((floor / model.nuisance) ** 2)
    expected = 0.5 * (PRIOR.gate * gates + PRIOR.coef * coefs + PRIOR.nuisance * variances) + barrier
    found = prior_from(moments(rows), identity_coordinates(3), 3, GAUSSIAN).penalty(*model)
    np.testing.assert_allclose(found, expected, rtol=1e-10)


def test_spread_keeps_a_minimum_where_a_line_leaves_nothing(rng: np.random.Generator) -> None:
    features = rng.standard_normal((40, 2))
    rows = Observations(features, features @ [1.0, 2.0] + 3)
    prior = prior_from(moments(rows), identity_coordinates(2), 2, GAUSSIAN)
    assert prior.spread[0] == pytest.approx(1e-6 * rows.response.var(), rel=1e-6)


@pytest.mark.parametrize("n_experts", [2, 4])
def test_derivatives_are_those_of_the_penalty(n_experts: int, rng: np.random.Generator) -> None:
    model, prior = random_model(rng, n_experts, 2), some_prior(rng, 3)
    shape = model.gate.shape

    def of_gate(theta: FloatArray) -> float:
        return float(prior.penalty(theta.reshape(shape), model.coef, model.nuisance))

    def of_coef(theta: FloatArray) -> float:
        return float(prior.penalty(model.gate, theta.reshape(model.coef.shape), model.nuisance))

    def gradient_of_free_gates(theta: FloatArray) -> FloatArray:
        gate = np.concatenate([theta, np.zeros(3)]).reshape(shape)
        return prior.gate_gradient(gate)[:-1].ravel()

    gate_gradient = central_gradient(of_gate, model.gate.ravel())
    coef_gradient = central_gradient(of_coef, model.coef.ravel())
    np.testing.assert_allclose(prior.gate_gradient(model.gate).ravel(), gate_gradient, rtol=1e-7, atol=1e-8)
    np.testing.assert_allclose(prior.coef_gradient(model.coef).ravel(), coef_gradient, rtol=1e-7, atol=1e-8)
    free = model.gate[:-1].ravel()
    hessian = prior.gate_hessian(model.gate).transpose(0, 2, 1, 3).reshape(free.size, free.size)
    np.testing.assert_allclose(central_gradient(gradient_of_free_gates, free), hessian, atol=1e-8)
    expected = central_gradient(lambda b: prior.coef_gradient(b[None, None])[0, 0], model.coef[0, 0])
    np.testing.assert_allclose(prior.coef_hessian(1), expected, atol=1e-8)


@pytest.mark.parametrize("n_nuisances", [0, 1, 2])
@pytest.mark.parametrize("n_predictors", [1, 2])
@pytest.mark.parametrize("n_experts", [1, 3])
def test_packed_derivatives_are_those_of_the_penalty(
    n_experts: int, n_predictors: int, n_nuisances: int, rng: np.random.Generator
) -> None:
    layout = Layout(n_experts, 3, 3, n_predictors, n_nuisances)
    strengths, spreads, floors = rng.uniform(0.5, 2, (3, n_nuisances))
    prior = some_prior(rng, 3)._replace(nuisance=strengths, spread=spreads, floor=floors)

    def penalty(theta: FloatArray) -> float:
        return float(prior.penalty(*layout.unpack(theta)))

    def gradient(theta: FloatArray) -> FloatArray:
        return prior.gradient(layout, *layout.unpack(theta))

    theta = rng.standard_normal(layout.size)
    # Of barriers that grow by e^2 a unit of a log-nuisance, differences lose digits.
    expected = central_gradient(penalty, theta, 1e-3)
    np.testing.assert_allclose(gradient(theta), expected, rtol=1e-9, atol=1e-8)
    found, majorizer = prior.hessians(layout.unpack(theta))
    np.testing.assert_allclose(found, central_gradient(gradient, theta, 1e-3), rtol=1e-9, atol=1e-8)
    assert np.linalg.eigvalsh(majorizer - found)[0] >= -1e-10 * np.abs(majorizer).max()


@given(st.integers(0, 2**32 - 1), st.integers(2, 4), st.floats(0.01, 100.0))
def test_majorizer_of_the_gates_lies_above_the_penalty(seed: int, n_experts: int, size: float) -> None:
    rng = np.random.default_rng(seed)
    model, prior = random_model(rng, n_experts, 2), some_prior(rng, 3)
    step = np.zeros_like(model.gate)
    step[:-1] = size * rng.standard_normal(step[:-1].shape)
    moved = prior.penalty(model.gate + step, model.coef, model.nuisance)
    curvature = prior.gate_majorizer(model.gate)
    bound = prior.penalty(*model) + np.sum(prior.gate_gradient(model.gate) * step)
    bound += 0.5 * np.einsum("ka,klab,lb", step[:-1], curvature, step[:-1])
    assert moved <= bound * (1 + 1e-12)


def test_gates_are_penalized_without_bound_but_slower_than_any_slope(rng: np.random.Generator) -> None:
    model, prior = random_model(rng, 2, 2), some_prior(rng, 3)
    steep = [float(prior.penalty(size * model.gate, model.coef, model.nuisance)) for size in (1e4, 1e8)]
    # Two experts; log(1 + m / w) / 2 each.
    assert steep[1] - steep[0] == pytest.approx(prior.gate * 2 * np.log(1e4), rel=1e-3)


def test_floor_weighs_as_the_rows_do(rng: np.random.Generator) -> None:
    model, prior = random_model(rng, 3, 2), some_prior(rng, 3)

    def floor(weight: float) -> float:
        return float(prior.floor_alone(weight, Layout.of(model)).penalty(*model))

    assert floor(90.0) == pytest.approx(3 * floor(30.0))
    whole = float(prior.for_weight(90.0).penalty(*model))
    assert whole == pytest.approx(float(prior.penalty(*model)) + 2 * floor(30.0))


def test_least_scale_is_in_the_units_of_the_response(rng: np.random.Generator) -> None:
    rows = random_rows(rng, 40, 2)
    known = moments(rows)
    coordinates = coordinates_of(known)
    prior = prior_from(known, coordinates, 2, GAUSSIAN, Regularization(min_scale=0.03))
    assert np.sqrt(prior.floor[0]) * coordinates.response.scale == pytest.approx(0.03)


def test_strength_multiplies_the_priors_and_not_the_floor(rng: np.random.Generator) -> None:
    rows, model = random_rows(rng, 40, 2), random_model(rng, 3, 2)
    known = moments(rows)

    def penalty(strength: float) -> float:
        prior = prior_from(known, identity_coordinates(2), 3, GAUSSIAN, Regularization(strength))
        floor = prior.floor_alone(known.weight, Layout.of(model))
        return float(prior.penalty(*model) - floor.penalty(*model))

    assert penalty(0.25) == pytest.approx(0.25 * penalty(1.0))


def test_models_side_by_side(rng: np.random.Generator) -> None:
    prior, models = some_prior(rng, 3), [random_model(rng, 2, 2) for _ in range(4)]
    stacked = [np.stack(arrays) for arrays in zip(*models, strict=True)]
    expected = [prior.penalty(*model) for model in models]
    np.testing.assert_allclose(prior.penalty(*stacked), expected, rtol=1e-13)


@given(st.permutations(range(4)), st.integers(0, 2**32 - 1))
def test_order_and_reference_of_the_experts_do_not_matter(order: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    model, prior = random_model(rng, 4, 2), some_prior(rng, 3)
    penalty = prior.penalty(*model)
    np.testing.assert_allclose(prior.penalty(*model.take(np.array(order))), penalty, rtol=1e-11)
    moved = model.gate + rng.standard_normal(3)
    np.testing.assert_allclose(prior.penalty(moved, model.coef, model.nuisance), penalty, rtol=1e-11)


@given(st.integers(0, 2**32 - 1), st.floats(1e-4, 1e4), st.floats(-1e3, 1e3))
def test_penalty_is_the_same_in_any_coordinates(seed: int, scale: float, shift: float) -> None:
    rng = np.random.default_rng(seed)
    rows, model = random_rows(rng, 40, 3), random_model(rng, 3, 3)
    plain = prior_from(moments(rows), identity_coordinates(3), 3, GAUSSIAN).penalty(*model)
    mixing, offset = rng.standard_normal((3, 3)) + 3 * np.eye(3), rng.standard_normal(3)
    changed = Observations(rows.features @ mixing.T + offset, rows.response * scale + shift)
    coordinates = coordinates_of(moments(changed))
    slopes = model.coef[:, 0, 1:] @ np.linalg.inv(mixing)
    gates = model.gate[:, 1:] @ np.linalg.inv(mixing)
    coef = np.column_stack([model.coef[:, 0, 0] - slopes @ offset, slopes]) * scale
    coef[:, 0] += shift
    gate = np.column_stack([model.gate[:, 0] - gates @ offset, gates])
    inner = coordinates.from_data(gaussian_model(gate, coef, model.nuisance[:, 0] * scale**2))
    found = prior_from(moments(changed), coordinates, 3, GAUSSIAN).penalty(*inner)
    # The log-variances move by the units of the response.
    units = 0.5 * PRIOR.nuisance * 3 * np.log(coordinates.response.scale**2 / scale**2)
    np.testing.assert_allclose(found + units, plain, rtol=1e-6)


def test_metric_of_its_own_coordinates_is_the_identity(rng: np.random.Generator) -> None:
    rows = random_rows(rng, 100, 4, weighted=True)
    known = moments(rows)
    prior = prior_from(known, coordinates_of(known), 2, GAUSSIAN)
    np.testing.assert_allclose(prior.metric, np.eye(5), atol=1e-10)
    assert prior.location == pytest.approx(0.0, abs=1e-12)


def test_prior_depends_on_all_rows_only_through_their_union(rng: np.random.Generator) -> None:
    rows = random_rows(rng, 50, 2)
    parts = [moments(rows.take(np.arange(20))), moments(rows.take(np.arange(20, 50)))]
    coordinates = coordinates_of(parts[0])
    merged = prior_from(merge_moments(*parts), coordinates, 3, GAUSSIAN)
    whole = prior_from(moments(rows), coordinates, 3, GAUSSIAN)
    for found, expected in zip(merged[:-1], whole[:-1], strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-12)


def test_one_expert_has_no_prior(rng: np.random.Generator) -> None:
    rows, model = random_rows(rng, 50, 2), random_model(rng, 1, 2)
    assert prior_from(moments(rows), identity_coordinates(2), 1, GAUSSIAN).penalty(*model) == 0


def test_no_feature_is_left(rng: np.random.Generator) -> None:
    rows = random_rows(rng, 20, 0)
    prior = prior_from(moments(rows), identity_coordinates(0), 2, GAUSSIAN)
    assert prior.metric.tolist() == [[1.0]]
    assert prior.spread[0] == pytest.approx(PRIOR.spread_share * rows.response.var())

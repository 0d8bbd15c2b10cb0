"""Standard errors: scores row by row, the Jacobian by differences, least squares for one expert."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.linalg import LinAlgError

from daskmoe.numerics.base.coordinates import Coordinates, Scaling, coordinates_from
from daskmoe.numerics.base.layout import Layout
from daskmoe.numerics.base.observations import Observations, moments
from daskmoe.numerics.base.parameters import FloatArray, MoEParameters
from daskmoe.numerics.combine.round_sums import partition_scores, round_statistics, unpack_scores
from daskmoe.numerics.likelihood.inference import covariance, curvature, jacobian, told_apart, told_by_rows
from daskmoe.numerics.likelihood.priors import prior_from
from daskmoe.numerics.likelihood.statistics import likelihood_statistics, log_likelihood_of, penalized
from daskmoe.numerics.local.newton import maximize
from daskmoe.numerics.local.problem import Problem
from numerics.oracles import (
    GAUSSIAN,
    central_gradient,
    coordinates_of,
    gaussian_model,
    identity_coordinates,
    other_model,
    random_model,
    random_rows,
    vector_of,
)


def row_scores(model: MoEParameters, rows: Observations) -> FloatArray:
    """Score of every row by differences of its own log-likelihood, weights aside: (n, P)."""
    coordinates = identity_coordinates(rows.features.shape[1])
    layout = Layout.of(model)

    def values(theta: FloatArray) -> FloatArray:
        at = layout.unpack(theta)
        single = [rows._replace(weight=None).take(np.array([i])) for i in range(rows.n_rows)]
        return np.array([log_likelihood_of(at, row.blocks(coordinates), GAUSSIAN) for row in single])

    return central_gradient(values, vector_of(model), 1e-4)


def products_at(rows: Observations, model: MoEParameters, coordinates: Coordinates) -> FloatArray:
    """The score products of a pass over these rows alone."""
    sums = partition_scores(rows, model, coordinates, GAUSSIAN)
    return unpack_scores(sums, Layout.of(coordinates.from_data(model))).rows


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("n_experts", "p"), [(1, 0), (1, 2), (2, 0), (3, 2), (4, 1)])
def test_score_products_are_those_of_the_rows(
    n_experts: int, p: int, weighted: bool, rng: np.random.Generator
) -> None:
    model, rows = random_model(rng, n_experts, p), random_rows(rng, 15, p, weighted=weighted)
    scores = row_scores(model, rows)
    weight = np.ones(15) if rows.weight is None else rows.weight
    expected = (scores * weight[:, None]).T @ scores
    found = likelihood_statistics(model, rows.blocks(identity_coordinates(p)), GAUSSIAN, scores=True).scores
    assert found is not None
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6 * np.abs(expected).max())
    np.testing.assert_array_equal(found, found.T)


def test_a_weight_counts_as_repeated_rows_and_partitions_add_up(rng: np.random.Generator) -> None:
    model, rows = random_model(rng, 3, 2), random_rows(rng, 30, 2)
    times = rng.integers(0, 4, 30)
    coordinates = coordinates_of(moments(rows))
    weighted = products_at(rows._replace(weight=times.astype(float)), model, coordinates)
    repeated = rows.take(np.repeat(np.arange(30), times))
    halves = [repeated.take(np.arange(0, 10)), repeated.take(np.arange(10, repeated.n_rows))]
    total = sum(products_at(half, model, coordinates) for half in halves)
    np.testing.assert_allclose(weighted, total, rtol=0, atol=1e-5 * np.abs(total).max())


def test_scores_of_a_round_are_those_of_a_pass_of_their_own(rng: np.random.Generator) -> None:
    model, rows = random_model(rng, 3, 2), random_rows(rng, 400, 2, weighted=True)
    coordinates = coordinates_of(moments(rows))
    alone, without = (round_statistics(rows, model, coordinates, GAUSSIAN, scores=s) for s in (True, False))
    assert alone.scores is not None
    assert without.scores is None
    np.testing.assert_array_equal(alone.information, without.information)
    expected = partition_scores(rows, model, coordinates, GAUSSIAN).scores
    np.testing.assert_allclose(alone.scores, expected, rtol=0, atol=1e-6 * np.abs(expected).max())


@pytest.mark.parametrize("n_experts", [1, 2, 4])
@pytest.mark.parametrize("collinear", [False, True])
def test_jacobian_is_the_derivative_of_the_change_of_coordinates(
    n_experts: int, collinear: bool, rng: np.random.Generator
) -> None:
    rows = random_rows(rng, 50, 3)
    if collinear:
        features = np.column_stack([rows.features, rows.features[:, 0] - 2 * rows.features[:, 1]])
        rows = rows._replace(features=features)
    coordinates = coordinates_of(moments(rows))
    inner = random_model(rng, n_experts, coordinates.size - 1)
    order, layout = rng.permutation(n_experts), Layout.of(inner)

    def to_data(theta: FloatArray) -> FloatArray:
        model = coordinates.to_data(layout.unpack(theta)).take(order)
        return np.concatenate([array.ravel() for array in model])

    expected = central_gradient(to_data, vector_of(inner), 1e-4)
    derivatives = jacobian(inner, coordinates, order)
    for derivative, array in zip(derivatives, coordinates.to_data(inner), strict=True):
        assert derivative.shape == (*array.shape, layout.size)
    found = np.concatenate([derivative.reshape(-1, layout.size) for derivative in derivatives])
    np.testing.assert_allclose(found, expected, rtol=1e-7, atol=1e-8 * np.abs(expected).max())


@pytest.mark.parametrize(("n_experts", "n_predictors", "n_nuisances"), [(1, 1, 0), (3, 2, 0), (2, 2, 2)])
def test_jacobian_of_any_predictors_and_nuisances(
    n_experts: int, n_predictors: int, n_nuisances: int, rng: np.random.Generator
) -> None:
    scaling = Scaling(0.7, 1.9, rng.uniform(0.5, 2, n_nuisances))
    coordinates = coordinates_from(moments(random_rows(rng, 50, 2)), scaling)
    layout = Layout(n_experts, 3, 3, n_predictors, n_nuisances)
    inner, order = other_model(rng, layout), rng.permutation(n_experts)

    def to_data(theta: FloatArray) -> FloatArray:
        model = coordinates.to_data(layout.unpack(theta)).take(order)
        return np.concatenate([array.ravel() for array in model])

    expected = central_gradient(to_data, vector_of(inner), 1e-4)
    found = [derivative.reshape(-1, layout.size) for derivative in jacobian(inner, coordinates, order)]
    np.testing.assert_allclose(np.concatenate(found), expected, rtol=0, atol=1e-8)


def stacked(derivatives: MoEParameters) -> FloatArray:
    return np.concatenate([array.reshape(-1, array.shape[-1]) for array in derivatives])


def arranged(values: FloatArray, derivatives: MoEParameters) -> MoEParameters:
    """Values of the stacked parameters, arranged as they are."""
    shapes = [array.shape[:-1] for array in derivatives]
    stops = np.cumsum([math.prod(shape) for shape in shapes])[:-1]
    parts = np.split(values, stops)
    return MoEParameters(*(part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)))


def errors_of(rows: Observations, model: MoEParameters, kind: str) -> MoEParameters:
    coordinates = coordinates_of(moments(rows))
    inner = coordinates.from_data(model)
    information = likelihood_statistics(inner, rows.blocks(coordinates), GAUSSIAN).information
    scores = products_at(rows, model, coordinates) if kind == "robust" else None
    derivatives = jacobian(inner, coordinates, np.arange(model.n_experts))
    found = np.sqrt(np.diag(covariance(information, scores, stacked(derivatives))))
    return arranged(found, derivatives)


def test_one_expert_has_the_errors_of_least_squares(rng: np.random.Generator) -> None:
    """Model errors are s^2 (X'X)^-1 with the ML variance, robust ones those of White (1980), HC0."""
    n = 300
    features = rng.standard_normal((n, 2)) * [1.0, 20.0] + [3.0, 100.0]
    design = np.column_stack([np.ones(n), features])
    response = design @ [5.0, 1.0, -0.3] + (0.5 + np.abs(features[:, 0])) * rng.standard_normal(n)
    coef = np.linalg.lstsq(design, response)[0]
    residual = response - design @ coef
    variance = residual @ residual / n
    model = gaussian_model(np.zeros((1, 3)), coef[None], np.array([variance]))
    rows = Observations(features, response)
    bread = np.linalg.inv(design.T @ design)
    meat = (design * residual[:, None] ** 2).T @ design
    found = errors_of(rows, model, "model")
    np.testing.assert_allclose(found.coef[0, 0], np.sqrt(variance * np.diag(bread)), rtol=1e-8)
    np.testing.assert_allclose(found.nuisance[:, 0], variance * np.sqrt(2 / n), rtol=1e-8)
    np.testing.assert_array_equal(found.gate, np.zeros((1, 3)))
    robust = errors_of(rows, model, "robust")
    np.testing.assert_allclose(robust.coef[0, 0], np.sqrt(np.diag(bread @ meat @ bread)), rtol=1e-6)
    np.testing.assert_allclose(robust.nuisance[:, 0], np.std(residual**2) / np.sqrt(n), rtol=1e-6)


def test_the_reference_has_no_gating_errors_and_units_scale_the_others(rng: np.random.Generator) -> None:
    features = rng.standard_normal((4_000, 1))
    first = rng.random(4_000) < 1 / (1 + np.exp(-features[:, 0]))
    response = np.where(first, 2 + features[:, 0], -2.0) + rng.standard_normal(4_000)
    model = gaussian_model(np.array([[0.0, 1], [0, 0]]), np.array([[2.0, 1], [-2, 0]]), np.ones(2))
    found = errors_of(Observations(features, response), model, "model")
    np.testing.assert_array_equal(found.gate[-1], 0.0)
    # The same rows in other units: y in hundredths, x in thousands.
    scaled = MoEParameters(model.gate / [1, 1000], model.coef * 100 / [1, 1000], model.nuisance * 1e4)
    other = errors_of(Observations(1000 * features, 100 * response), scaled, "model")
    np.testing.assert_allclose(other.gate, found.gate / [1, 1000], rtol=1e-6)
    np.testing.assert_allclose(other.coef, found.coef * 100 / [1, 1000], rtol=1e-6)
    np.testing.assert_allclose(other.nuisance, found.nuisance * 1e4, rtol=1e-6)


def test_no_errors_where_the_information_is_not_definite() -> None:
    with pytest.raises(LinAlgError):
        covariance(np.diag([1.0, -1.0]), None, np.eye(2))


# What has none.


def test_columns_that_are_combinations_are_not_told_apart(rng: np.random.Generator) -> None:
    x = rng.standard_normal((60, 2)) * [1.0, 1e4] + [3.0, 2e6]
    columns = {
        "told": x,
        "constant": np.full((60, 1), 7.0),
        "twice": rng.standard_normal((60, 1)) @ np.ones((1, 2)),
    }
    features = np.column_stack(list(columns.values()))
    rows = Observations(features, rng.standard_normal(60))
    apart = coordinates_of(moments(rows)).told_apart()
    np.testing.assert_array_equal(apart, [True, True, True, False, False, False])
    # x2 = x0 - x1 takes all three, and leaves the intercept, as the origin fulfils it too.
    rows = rows._replace(features=np.column_stack([x, x[:, 0] - x[:, 1], rng.standard_normal(60)]))
    np.testing.assert_array_equal(
        coordinates_of(moments(rows)).told_apart(), [True, False, False, False, True]
    )


def test_indicators_of_all_levels_take_the_intercept(rng: np.random.Generator) -> None:
    indicators = np.eye(3)[rng.integers(0, 3, 90)]
    rows = Observations(np.column_stack([indicators, rng.standard_normal(90)]), rng.standard_normal(90))
    np.testing.assert_array_equal(
        coordinates_of(moments(rows)).told_apart(), [False, False, False, False, True]
    )


def test_nearly_collinear_columns_are_told_apart(rng: np.random.Generator) -> None:
    x = rng.standard_normal(500)
    features = np.column_stack([x, x + 1e-4 * rng.standard_normal(500)])
    assert coordinates_of(moments(Observations(features, x))).told_apart().all()


def test_what_only_the_priors_say_has_no_errors(rng: np.random.Generator) -> None:
    """An expert without rows, and a column that does not vary among the rows of one."""
    n = 600
    features = np.column_stack([np.repeat([-1.0, 1.0], n // 2), rng.standard_normal((n, 2))])
    features[: n // 2, 2] = 0.5
    response = 20.0 * features[:, 0] + features[:, 1] + rng.standard_normal(n)
    gate = np.array([[0.0, -40.0, 0, 0], [-90.0, 0, 0, 0], [0, 0, 0, 0]])
    coef = np.array([[-20.0, 0, 1, 0], [900.0, 0, 0, 0], [20.0, 0, 1, 0]])
    model, rows = gaussian_model(gate, coef, np.ones(3)), Observations(features, response)
    known = moments(rows)
    coordinates = coordinates_of(known)
    prior = prior_from(known, coordinates, 3, GAUSSIAN)
    problem, start = Problem(rows, coordinates, prior, GAUSSIAN), coordinates.from_data(model)
    ascent = problem.statistics, problem.objective, problem.slope
    inner = maximize(start, *ascent, tolerance=1e-9, max_passes=200).parameters
    statistics = penalized(likelihood_statistics(inner, rows.blocks(coordinates), GAUSSIAN), inner, prior)
    curved = curvature(inner, statistics.information, prior, coordinates, np.arange(3))
    derivatives = jacobian(inner, coordinates, curved.order)
    told = arranged(told_by_rows(curved, stacked(derivatives)), derivatives)
    # Column 0 is constant among the rows of either expert, so their intercepts at 0 are not known either.
    np.testing.assert_array_equal(told.coef[0, 0], [False, False, True, False])
    np.testing.assert_array_equal(told.coef[1, 0], [False] * 4)
    np.testing.assert_array_equal(told.coef[2, 0], [False, False, True, True])
    np.testing.assert_array_equal(told.nuisance[:, 0], [True, False, True])
    np.testing.assert_array_equal(told.gate[2], [True] * 4)
    assert all(array.all() for array in told_apart(curved))

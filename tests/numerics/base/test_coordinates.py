"""The optimizers' coordinates: whitening, round trips of parameters, blocks of any input layout, moments."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from daskmoe.numerics.base.coordinates import Coordinates
from daskmoe.numerics.base.observations import BLOCK_ROWS, Observations, merge_moments, moments
from daskmoe.numerics.base.parameters import FloatArray, Moments
from daskmoe.numerics.predictive.mixture import log_density, mixture_mean
from numerics.oracles import GAUSSIAN, assert_same_model, coordinates_of, random_model, random_rows


def whole_design(rows: Observations, coordinates: Coordinates) -> FloatArray:
    return np.concatenate([block.design.copy() for block in rows.blocks(coordinates)], axis=1)


def whole_response(rows: Observations, coordinates: Coordinates) -> FloatArray:
    return np.concatenate([block.response for block in rows.blocks(coordinates)])


def assert_same_moments(actual: Moments, expected: Moments, rtol: float) -> None:
    np.testing.assert_allclose(actual.weight, expected.weight, rtol=rtol)
    deviation = np.sqrt(np.diag(expected.scatter) / max(expected.weight, 1e-300))
    np.testing.assert_allclose(actual.mean, expected.mean, rtol=rtol, atol=rtol * deviation.max())
    scale = np.sqrt(np.diag(expected.scatter))
    np.testing.assert_allclose(
        actual.scatter, expected.scatter, rtol=0, atol=rtol * np.outer(scale, scale).max()
    )


@given(st.integers(1, 2 * BLOCK_ROWS + 5), st.integers(0, 4), st.booleans(), st.integers(0, 2**32 - 1))
def test_moments_are_weighted_mean_and_covariance(n: int, p: int, weighted: bool, seed: int) -> None:
    rows = random_rows(np.random.default_rng(seed), n, p, weighted=weighted)
    joint = np.column_stack([rows.features, rows.response])
    weight = np.ones(n) if rows.weight is None else rows.weight
    scatter = np.atleast_2d(np.cov(joint.T, aweights=weight, ddof=0)) * weight.sum()
    expected = Moments(float(weight.sum()), np.average(joint, axis=0, weights=weight), scatter)
    assert_same_moments(moments(rows), expected, 1e-11)


def test_weights_are_repeated_rows(rng: np.random.Generator) -> None:
    rows = random_rows(rng, 3000, 2)
    times = rng.integers(0, 4, rows.n_rows)
    repeated = rows.take(np.repeat(np.arange(rows.n_rows), times))
    assert_same_moments(moments(rows._replace(weight=times)), moments(repeated), 1e-12)


@given(st.integers(0, 40), st.integers(0, 40), st.booleans(), st.integers(0, 2**32 - 1))
def test_merged_moments_are_those_of_the_union(first: int, second: int, weighted: bool, seed: int) -> None:
    rows = random_rows(np.random.default_rng(seed), first + second, 2, weighted=weighted)
    parts = [rows.take(np.arange(first)), rows.take(np.arange(first, first + second))]
    merged = merge_moments(moments(parts[0]), moments(parts[1]))
    assert_same_moments(merged, moments(rows), 1e-11)


def test_moments_are_stable_under_a_large_offset(rng: np.random.Generator) -> None:
    rows = random_rows(rng, 3 * BLOCK_ROWS, 3)
    shifted = Observations(rows.features + 1e6, rows.response - 1e6)
    # Exact: both have the same exponent.
    exact = Observations(shifted.features - 1e6, shifted.response + 1e6)
    expected = moments(exact).scatter
    scale = np.sqrt(np.diag(expected))
    error = (moments(shifted).scatter - expected) / np.outer(scale, scale)
    np.testing.assert_allclose(error, 0.0, rtol=0, atol=1e-9)


def test_rows_of_no_weight_do_not_count(rng: np.random.Generator) -> None:
    rows = random_rows(rng, 2 * BLOCK_ROWS, 2)
    weight = np.zeros(rows.n_rows)
    weight[BLOCK_ROWS:] = 1.0
    found = moments(rows._replace(weight=weight))
    assert_same_moments(found, moments(rows.take(np.arange(BLOCK_ROWS, 2 * BLOCK_ROWS))), 1e-12)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("shift", [0.0, 1e6])
def test_coordinates_whiten(weighted: bool, shift: float, rng: np.random.Generator) -> None:
    rows = random_rows(rng, 1500, 4, weighted=weighted)
    mixed = rows.features @ rng.standard_normal((4, 4)) * np.array([1e-6, 1.0, 1e6, 1e12])
    rows = rows._replace(features=mixed + shift * np.array([1e-6, 1.0, 1e6, 1e12]))
    coordinates = coordinates_of(moments(rows))
    design, response = whole_design(rows, coordinates), whole_response(rows, coordinates)
    weight = np.ones(rows.n_rows) if rows.weight is None else rows.weight
    tolerance = 1e-10 if shift == 0 else 1e-7
    np.testing.assert_allclose((design * weight) @ design.T / weight.sum(), np.eye(5), rtol=0, atol=tolerance)
    assert abs(weight @ response) / weight.sum() < 1e-10
    assert weight @ response**2 / weight.sum() == pytest.approx(1.0, abs=1e-10)


def test_collinear_and_constant_features_drop_out(rng: np.random.Generator) -> None:
    base = rng.standard_normal((200, 2))
    features = np.column_stack([base, base @ [2.0, -3.0], np.full(200, 7.5), np.zeros(200), 1e9 * base[:, 0]])
    coordinates = coordinates_of(moments(Observations(features, base[:, 0])))
    assert coordinates.transform.shape == (2, 6)
    assert coordinates.size == 3
    centered = features - features.mean(axis=0)
    recovered = centered @ coordinates.transform.T @ coordinates.inverse.T
    np.testing.assert_allclose(recovered, centered, rtol=1e-8, atol=1e-8)


def test_fewer_rows_than_features_span_their_own_rank(rng: np.random.Generator) -> None:
    rows = random_rows(rng, 4, 9)
    assert coordinates_of(moments(rows)).size == 4


@pytest.mark.parametrize("case", ["no features", "one row", "all constant"])
def test_nothing_but_an_intercept_is_left(case: str, rng: np.random.Generator) -> None:
    shape = {"no features": (8, 0), "one row": (1, 3), "all constant": (8, 3)}[case]
    rows = Observations(np.full(shape, 1 / 3), rng.standard_normal(shape[0]))
    coordinates = coordinates_of(moments(rows))
    assert whole_design(rows, coordinates).tolist() == [[1.0] * shape[0]]


@pytest.mark.parametrize("constant", [0.0, 1 / 3, -1e8])
def test_a_constant_response_is_zero_in_its_coordinates(constant: float, rng: np.random.Generator) -> None:
    rows = Observations(rng.standard_normal((2500, 2)), np.full(2500, constant))
    coordinates = coordinates_of(moments(rows))
    assert coordinates.response.scale == pytest.approx(abs(constant) or 1.0, rel=1e-12)
    np.testing.assert_allclose(whole_response(rows, coordinates), 0.0, rtol=0, atol=1e-12)


@given(st.integers(1, 3), st.integers(0, 4), st.integers(0, 2**32 - 1))
def test_parameters_there_and_back(n_experts: int, p: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows, model = random_rows(rng, 30, p), random_model(rng, n_experts, p)
    coordinates = coordinates_of(moments(rows))
    inner = coordinates.from_data(model)
    assert_same_model(coordinates.to_data(inner), model, rows.features, 1e-9)
    design, response = whole_design(rows, coordinates), whole_response(rows, coordinates)
    features = design[1:].T
    inner_density = log_density(inner, GAUSSIAN, features, response) - coordinates.log_jacobian
    outer_density = log_density(model, GAUSSIAN, rows.features, rows.response)
    np.testing.assert_allclose(inner_density, outer_density, rtol=1e-8, atol=1e-8)
    location, scale, _ = coordinates.response
    assert coordinates.log_jacobian == np.log(scale)
    predicted = mixture_mean(inner, GAUSSIAN, features) * scale + location
    np.testing.assert_allclose(predicted, mixture_mean(model, GAUSSIAN, rows.features), rtol=1e-9, atol=1e-9)


def test_parameters_of_collinear_features_predict_the_same(rng: np.random.Generator) -> None:
    base = rng.standard_normal((50, 2))
    features = np.column_stack([base, base.sum(axis=1), np.full(50, 4.0)])
    model = random_model(rng, 3, 4)
    coordinates = coordinates_of(moments(Observations(features, base[:, 0])))
    inner = coordinates.from_data(model)
    assert inner.coef.shape == (3, 1, 3)
    assert_same_model(coordinates.to_data(inner), model, features, 1e-9)


def layouts(features: FloatArray) -> dict[str, FloatArray]:
    wide = np.repeat(features, 2, axis=1)
    tall = np.repeat(features, 3, axis=0)
    return {
        "fortran": np.asfortranarray(features),
        "columns": wide[:, ::2],
        "rows": tall[::3],
        "reversed": features[::-1].copy()[::-1],
    }


def test_memory_order_changes_no_bit(rng: np.random.Generator) -> None:
    rows = random_rows(rng, BLOCK_ROWS + 100, 3)
    coordinates = coordinates_of(moments(rows))
    expected, design = moments(rows), whole_design(rows, coordinates)
    for name, features in layouts(rows.features).items():
        again = rows._replace(features=features)
        np.testing.assert_array_equal(moments(again).scatter, expected.scatter, err_msg=name)
        np.testing.assert_array_equal(whole_design(again, coordinates), design, err_msg=name)


@pytest.mark.parametrize("dtype", ["float32", "int16", "int64", "bool", ">f4"])
def test_other_types_are_read_at_their_value(dtype: str, rng: np.random.Generator) -> None:
    features = (rng.standard_normal((1500, 3)) * 10).astype(dtype)
    response = (rng.standard_normal(1500) * 100 + 1e4).astype("float32" if dtype == "bool" else dtype)
    rows = Observations(features, response)
    doubled = Observations(features.astype(np.float64), response.astype(np.float64))
    coordinates = coordinates_of(moments(doubled))
    np.testing.assert_array_equal(moments(rows).scatter, moments(doubled).scatter)
    np.testing.assert_array_equal(whole_design(rows, coordinates), whole_design(doubled, coordinates))
    np.testing.assert_array_equal(whole_response(rows, coordinates), whole_response(doubled, coordinates))


def test_blocks_are_no_larger_than_they_say_and_keep_the_weights(rng: np.random.Generator) -> None:
    rows = random_rows(rng, 2 * BLOCK_ROWS + 3, 2, weighted=True)
    blocks = [
        (b.design.shape, b.response.copy(), b.weight) for b in rows.blocks(coordinates_of(moments(rows)))
    ]
    assert [shape for shape, _, _ in blocks] == [(3, BLOCK_ROWS), (3, BLOCK_ROWS), (3, 3)]
    assert all(response.dtype == np.float64 for _, response, _ in blocks)
    assert rows.weight is not None
    np.testing.assert_array_equal(np.concatenate([w for _, _, w in blocks if w is not None]), rows.weight)
    assert rows.total_weight == pytest.approx(rows.weight.sum())
    assert rows._replace(weight=None).total_weight == rows.n_rows

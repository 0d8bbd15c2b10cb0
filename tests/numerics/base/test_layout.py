"""Where parameters stand in the packed vector: there and back, and every named block in its place."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from daskmoe.numerics.base.layout import Layout
from daskmoe.numerics.likelihood.statistics import likelihood_statistics
from numerics.oracles import GAUSSIAN, identity_coordinates, other_model, random_model, random_rows

layouts = st.builds(
    Layout,
    n_experts=st.integers(1, 5),
    q_gate=st.integers(1, 5),
    q_expert=st.integers(1, 5),
    n_predictors=st.integers(1, 3),
    n_nuisances=st.integers(0, 3),
)
seeds = st.integers(0, 2**32 - 1)


@given(layouts, seeds)
def test_parameters_there_and_back(layout: Layout, seed: int) -> None:
    model = other_model(np.random.default_rng(seed), layout)
    assert Layout.of(model) == layout
    theta = layout.pack(model)
    n_experts, q_gate, q_expert, n_predictors, n_nuisances = layout
    assert theta.shape == (layout.size,)
    assert layout.size == (n_experts - 1) * q_gate + n_experts * (n_predictors * q_expert + n_nuisances)
    assert layout.vectors == n_experts - 1 + n_experts * n_predictors
    for found, expected in zip(layout.unpack(theta), model, strict=True):
        assert found.shape == expected.shape
        np.testing.assert_allclose(found, expected, rtol=1e-14)
    np.testing.assert_allclose(layout.pack(layout.unpack(theta + 1)), theta + 1, rtol=1e-13, atol=1e-14)


@given(layouts, seeds)
def test_unpacked_parameters_are_copies(layout: Layout, seed: int) -> None:
    theta = np.random.default_rng(seed).standard_normal(layout.size)
    kept = theta.copy()
    for array in layout.unpack(theta):
        array += 1.0
    np.testing.assert_array_equal(theta, kept)


@given(layouts)
def test_named_blocks_tile_the_vector(layout: Layout) -> None:
    experts, free = range(layout.n_experts), range(layout.n_experts - 1)
    groups = {
        "gates": (layout.gates, [layout.gate(k) for k in free]),
        "coefs": (layout.coefs, [layout.coef(k) for k in experts]),
        "nuisances": (layout.nuisances, [layout.nuisance(k) for k in experts]),
    }
    positions = np.arange(layout.size)
    for name, (whole, parts) in groups.items():
        together = [i for part in parts for i in positions[part]]
        assert together == positions[whole].tolist(), name
    together = [i for whole, _ in groups.values() for i in positions[whole]]
    assert together == positions.tolist()


@given(layouts, seeds)
def test_named_blocks_hold_what_they_say(layout: Layout, seed: int) -> None:
    model = other_model(np.random.default_rng(seed), layout)
    theta = layout.pack(model)
    for k in range(layout.n_experts):
        if k < layout.n_experts - 1:
            np.testing.assert_array_equal(theta[layout.gate(k)], model.gate[k])
        np.testing.assert_array_equal(theta[layout.coef(k)], model.coef[k].ravel())
        np.testing.assert_array_equal(theta[layout.nuisance(k)], np.log(model.nuisance[k]))


@given(layouts, seeds)
def test_a_shift_moves_the_vector(layout: Layout, seed: int) -> None:
    rng = np.random.default_rng(seed)
    model, step = other_model(rng, layout), rng.standard_normal(layout.size)
    found = layout.pack(layout.shift(model, step))
    np.testing.assert_allclose(found, layout.pack(model) + step, rtol=1e-12, atol=1e-12)


@given(layouts, seeds, st.floats(0.01, 1e6))
def test_a_bounded_step_is_the_step_shortened(layout: Layout, seed: int, size: float) -> None:
    step = size * np.random.default_rng(seed).standard_normal(layout.size)
    found = layout.bounded(step)
    largest = np.abs(step[layout.nuisances]).max(initial=0.0)
    if largest <= 2.0:
        # Gates and coefficients may go as far as they like.
        np.testing.assert_array_equal(found, step)
    else:
        np.testing.assert_allclose(found, step * (2.0 / largest), rtol=1e-12)
        assert np.abs(found[layout.nuisances]).max() == pytest.approx(2.0)


@given(layouts.filter(lambda layout: layout.size > 0), seeds)
def test_vectors_of_no_model_are_told(layout: Layout, seed: int) -> None:
    rng = np.random.default_rng(seed)
    theta = layout.pack(other_model(rng, layout))
    assert layout.is_model(theta)
    for value in (np.nan, np.inf, -np.inf):
        broken = theta.copy()
        broken[rng.integers(layout.size)] = value
        assert not layout.is_model(broken)
    for value in (800.0, -800.0):
        extreme = np.full(layout.size, value)
        # Beyond the range of numbers as a nuisance, and nothing special elsewhere.
        assert layout.is_model(extreme) == (layout.n_nuisances == 0)


@given(layouts)
def test_positions_of_the_upper_triangle(layout: Layout) -> None:
    for found, expected in zip(layout.upper(), np.triu_indices(layout.size), strict=True):
        np.testing.assert_array_equal(found, expected)


@given(layouts)
def test_complete_information_is_in_blocks(layout: Layout) -> None:
    pattern = np.zeros((layout.size, layout.size), dtype=bool)
    blocks = [layout.gates]
    for k in range(layout.n_experts):
        blocks += [layout.coef(k), layout.nuisance(k)]
    for block in blocks:
        pattern[block, block] = True
    found = np.zeros_like(pattern)
    found[layout.complete()] = True
    np.testing.assert_array_equal(found, np.triu(pattern))
    assert len(layout.complete()[0]) == np.count_nonzero(found)


@pytest.mark.parametrize("p", [0, 2])
@pytest.mark.parametrize("n_experts", [1, 2, 4])
def test_complete_information_is_zero_elsewhere(n_experts: int, p: int, rng: np.random.Generator) -> None:
    model, rows = random_model(rng, n_experts, p), random_rows(rng, 50, p)
    blocks = rows.blocks(identity_coordinates(p))
    complete = likelihood_statistics(model, blocks, GAUSSIAN).complete
    for found, expected in zip(Layout.of(model).complete(), np.nonzero(np.triu(complete)), strict=True):
        np.testing.assert_array_equal(found, expected)

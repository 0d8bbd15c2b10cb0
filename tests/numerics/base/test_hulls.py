"""Affine hulls: which rows and which part of a linear predictor the rows of a partition identify."""

from __future__ import annotations

import numpy as np
import pytest

from daskmoe.numerics.base.hulls import Hulls, affine_hulls, unidentified
from daskmoe.numerics.base.observations import Observations, moments
from daskmoe.numerics.base.parameters import FloatArray, SupportSample


def hulls_of(*parts: FloatArray) -> Hulls | None:
    known = [moments(Observations(part, np.zeros(len(part)))) for part in parts]
    return affine_hulls(known, support_of(np.concatenate(parts)))


def support_of(features: FloatArray) -> SupportSample:
    return SupportSample(features, None, np.full(len(features), 1 / len(features)))


def with_dummy(rng: np.random.Generator, values: FloatArray | float) -> FloatArray:
    return np.column_stack([rng.standard_normal((200, 2)), np.broadcast_to(values, 200)])


def test_rows_that_vary_in_all_directions_know_everything(rng: np.random.Generator) -> None:
    assert hulls_of(rng.standard_normal((50, 3)), rng.standard_normal((50, 3)) + 5) is None


def test_a_column_that_never_varies_is_nobodys_gap(rng: np.random.Generator) -> None:
    assert hulls_of(with_dummy(rng, 3.0), with_dummy(rng, 3.0)) is None


def test_a_collinear_column_in_all_rows_is_nobodys_gap(rng: np.random.Generator) -> None:
    x = rng.standard_normal((300, 2))
    copies = np.column_stack([x, x[:, 1] - 2 * x[:, 0]])
    assert hulls_of(copies[:100], copies[100:]) is None


@pytest.mark.parametrize("shift", [0.0, 1e6])
@pytest.mark.parametrize("scale", [1e-8, 1.0, 1e8])
def test_rows_of_a_level_are_known_where_it_was_seen(
    shift: float, scale: float, rng: np.random.Generator
) -> None:
    """Units and offsets of the features decide nothing."""
    level = (rng.random(200) < 0.1).astype(float)
    parts = [with_dummy(rng, level), with_dummy(rng, 0.0), with_dummy(rng, 1.0)]
    moved = [part * np.array([scale, 1.0, scale]) + np.array([0.0, shift, shift * scale]) for part in parts]
    hulls = hulls_of(*moved)
    assert hulls is not None
    found = hulls.holding(moved[0])
    np.testing.assert_array_equal(found, [np.ones(200, bool), level == 0, level == 1])
    np.testing.assert_array_equal(hulls.columns(), [[False] * 3, [False, False, True], [False, False, True]])


def test_a_copy_names_both_columns(rng: np.random.Generator) -> None:
    copied = rng.standard_normal((100, 2))
    hulls = hulls_of(rng.standard_normal((100, 3)), np.column_stack([copied, copied[:, 1]]))
    assert hulls is not None
    np.testing.assert_array_equal(hulls.columns(), [[False] * 3, [False, True, True]])


def test_without_moments_everything_is_known(rng: np.random.Generator) -> None:
    known = moments(Observations(with_dummy(rng, 0.0), np.zeros(200)))
    features = with_dummy(rng, 1.0)
    hulls = affine_hulls([None, known], support_of(features))
    assert hulls is not None
    np.testing.assert_array_equal(hulls.holding(features).all(axis=1), [True, False])
    assert affine_hulls([None, None], support_of(features)) is None


def test_an_average_leaves_out_what_is_not_known(rng: np.random.Generator) -> None:
    """The slope of the dummy is that of those that saw it vary."""
    hulls = hulls_of(with_dummy(rng, (rng.random(200) < 0.5).astype(float)), with_dummy(rng, 0.0))
    assert hulls is not None
    linear = np.array([[1.0, 2.0, 3.0, 7.0], [1.0, 2.0, 3.0, 0.0]])
    found = hulls.average(linear, np.array([1.0, 3.0]), np.arange(2))
    np.testing.assert_allclose(found, [1.0, 2.0, 3.0, 7.0], atol=1e-9)


def test_what_all_know_is_averaged_by_weight(rng: np.random.Generator) -> None:
    hulls = hulls_of(with_dummy(rng, (rng.random(200) < 0.5).astype(float)), with_dummy(rng, 0.0))
    assert hulls is not None
    linear = np.array([[1.0, 2.0, 3.0, 7.0], [3.0, 6.0, 1.0, 0.0]])
    found = hulls.average(linear, np.array([1.0, 3.0]), np.arange(2))
    np.testing.assert_allclose(found[:3], [2.5, 5.0, 1.5], atol=1e-9)


def test_an_average_of_sites_has_the_offset_of_each(rng: np.random.Generator) -> None:
    """Partitions that are the levels of dummies: each tells its own, none of them the others'."""
    parts = [
        np.column_stack([rng.standard_normal((80, 1)), np.tile(np.eye(3)[m], (80, 1))]) for m in range(3)
    ]
    hulls = hulls_of(*parts)
    assert hulls is not None
    offsets = np.array([5.0, -1.0, 2.0])
    # As a fit of one site has it: the offset is the intercept, and its dummy has no slope.
    linear = np.column_stack([offsets, [1.0, 1.3, 1.6], np.zeros((3, 3))])
    found = hulls.average(linear, np.ones(3), np.arange(3))
    np.testing.assert_allclose(found[0] + found[2:], offsets, atol=0.05)
    assert 1.0 < found[1] < 1.6


def test_features_that_no_rows_identify(rng: np.random.Generator) -> None:
    x = rng.standard_normal((100, 4))
    x[:, 1], x[:, 3] = 4.0, x[:, 0] - 3.0
    known = moments(Observations(x, np.zeros(100)))
    np.testing.assert_array_equal(unidentified(known), [True, True, False, True])
    assert not unidentified(moments(Observations(rng.standard_normal((100, 4)), np.zeros(100)))).any()

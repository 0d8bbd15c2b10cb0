"""Averaging by information: exact for quadratics, indifferent to labels, deaf to fits in bad optima."""

from __future__ import annotations

from functools import reduce

import numpy as np
import pytest

from daskmoe.numerics.base.coordinates import Scaling, coordinates_from
from daskmoe.numerics.base.layout import Layout
from daskmoe.numerics.base.observations import Observations, merge_moments, moments
from daskmoe.numerics.base.packed import unpack
from daskmoe.numerics.base.parameters import FloatArray, MoEParameters, SupportSample, canonical_order
from daskmoe.numerics.base.policies import LocalFit
from daskmoe.numerics.combine.expansion import Expansion, expand_at
from daskmoe.numerics.combine.information import LocalInformation, definite, information_average, transfer
from daskmoe.numerics.local.fit import fit_local_estimate
from daskmoe.numerics.predictive.designs import draw_design, sample_rows
from daskmoe.numerics.predictive.mixture import log_likelihood
from numerics.oracles import GAUSSIAN, coordinates_of, other_model, random_model, random_rows, vector_of

# Where experts would be compared, in tests that compare none.
NO_ROWS = SupportSample(np.zeros((0, 3)), None, np.zeros(0))


def partitions(rng: np.random.Generator, n_partitions: int, n_rows: int) -> list[Observations]:
    design = draw_design("overlap", 3, 2, rng)
    return [Observations(*sample_rows(design, n_rows, rng)) for _ in range(n_partitions)]


def averaged(
    parts: list[Observations], estimates: list[MoEParameters], reference: MoEParameters
) -> MoEParameters:
    known = [moments(part) for part in parts]
    expansions = [expand_at(*each, GAUSSIAN) for each in zip(parts, estimates, known, strict=True)]
    support = SupportSample(parts[0].features, None, np.full(parts[0].n_rows, 1 / parts[0].n_rows))
    found = information_average(estimates, known, expansions, [reference], support, GAUSSIAN)
    assert found is not None
    return found.parameters


def fit(rows: Observations, n_experts: int, seed: int = 0) -> MoEParameters:
    options = LocalFit(n_experts=n_experts, n_init=4)
    found = fit_local_estimate(rows, options, np.random.default_rng(seed)).parameters
    assert found is not None
    return found


@pytest.mark.parametrize("n_local", [2, 3, 4])
def test_transfer_maps_parameters_as_the_model_changes(n_local: int, rng: np.random.Generator) -> None:
    """A model restricted to some of its experts, in another order and other coordinates."""
    whole = random_model(rng, 4, 3)
    common = coordinates_of(moments(random_rows(rng, 60, 3)))
    own = coordinates_of(moments(random_rows(rng, 50, 3)))
    match = rng.permutation(4)[:n_local]
    local = whole.take(match)
    rows = random_rows(rng, 50, 3)
    part = LocalInformation(local, own, expand_at(rows, local, moments(rows), GAUSSIAN), NO_ROWS)
    matrix, offset = transfer(part, match, 4, common)
    theta = vector_of(common.from_data(whole))
    np.testing.assert_allclose(matrix @ theta + offset, vector_of(own.from_data(local)), atol=1e-10)


@pytest.mark.parametrize(("n_predictors", "n_nuisances"), [(1, 0), (2, 0), (2, 2)])
def test_transfer_of_any_predictors_and_nuisances(
    n_predictors: int, n_nuisances: int, rng: np.random.Generator
) -> None:
    common, own = (
        coordinates_from(moments(random_rows(rng, 60, 3)), Scaling(location, scale, nuisance))
        for location, scale, nuisance in zip(
            (0.7, -2.0), (1.9, 0.3), rng.uniform(0.5, 2, (2, n_nuisances)), strict=True
        )
    )
    whole = other_model(rng, Layout(4, 4, 4, n_predictors, n_nuisances))
    match = rng.permutation(4)[:3]
    local = whole.take(match)
    nothing = Expansion(np.zeros(0, np.float32), np.zeros(0))
    matrix, offset = transfer(LocalInformation(local, own, nothing, NO_ROWS), match, 4, common)
    found = matrix @ vector_of(common.from_data(whole)) + offset
    np.testing.assert_allclose(found, vector_of(own.from_data(local)), atol=1e-10)


def test_one_partition_gives_its_own_optimum(rng: np.random.Generator) -> None:
    (rows,) = partitions(rng, 1, 2_000)
    estimate = fit(rows, 2)
    found = averaged([rows], [estimate], estimate)
    for array, expected in zip(found, estimate, strict=True):
        np.testing.assert_allclose(array, expected, rtol=1e-3, atol=1e-3)


def test_a_single_expert_is_least_squares_on_all_rows(rng: np.random.Generator) -> None:
    """With one expert the coefficients' expansions are exact: normal equations, weighted by the variances."""
    parts = [random_rows(rng, n, 2) for n in (40, 60, 80)]
    estimates = [fit(part, 1) for part in parts]
    found = averaged(parts, estimates, estimates[0])
    gram, moment = np.zeros((3, 3)), np.zeros(3)
    for part, estimate in zip(parts, estimates, strict=True):
        design = np.column_stack([np.ones(part.n_rows), part.features]) / np.sqrt(estimate.nuisance[:, 0])
        gram += design.T @ design
        moment += design.T @ (part.response / np.sqrt(estimate.nuisance[:, 0]))
    np.testing.assert_allclose(found.coef[0, 0], np.linalg.solve(gram, moment), rtol=1e-5)


def test_expansion_is_the_observed_information_at_the_estimate(rng: np.random.Generator) -> None:
    (rows,) = partitions(rng, 1, 500)
    estimate, known = fit(rows, 2), moments(rows)
    expansion = expand_at(rows, estimate, known, GAUSSIAN)
    information = unpack(expansion.information)
    inner = coordinates_of(known).from_data(estimate)
    # At an optimum the gradient is that of the weak prior, small beside the information.
    np.testing.assert_allclose(expansion.vector, information @ vector_of(inner), atol=2.0)
    assert np.linalg.eigvalsh(information)[0] > 0


def test_experts_in_any_order_and_one_lost_fit(rng: np.random.Generator) -> None:
    parts = partitions(rng, 6, 2_000)
    estimates = [fit(part, 2, seed) for seed, part in enumerate(parts)]
    rows = Observations(
        *(np.concatenate([getattr(p, name) for p in parts]) for name in ("features", "response"))
    )
    best = log_likelihood(fit(rows, 2), GAUSSIAN, rows.features, rows.response)
    expected = averaged(parts, estimates, estimates[0])
    assert best - log_likelihood(expected, GAUSSIAN, rows.features, rows.response) < 1e-3 * rows.n_rows
    turned = [p.take(np.array([1, 0])) if m % 2 else p for m, p in enumerate(estimates)]
    found = averaged(parts, turned, turned[1])
    for array, other in zip(canonical_order(found), canonical_order(expected), strict=True):
        np.testing.assert_allclose(array, other, rtol=1e-3, atol=1e-3)
    lost = estimates[2]
    estimates[2] = lost._replace(coef=lost.coef[::-1] + 2.0, nuisance=lost.nuisance * 3)
    found = averaged(parts, estimates, estimates[0])
    assert best - log_likelihood(found, GAUSSIAN, rows.features, rows.response) < 2e-3 * rows.n_rows


def test_partitions_that_know_some_experts_only(rng: np.random.Generator) -> None:
    """Estimates of two of three experts each say nothing about the third."""
    design = draw_design("overlap", 3, 3, rng)
    features, response = sample_rows(design, 6_000, rng)
    truth = design.parameters
    parts, estimates = [], []
    for m, known in enumerate(([0, 1], [1, 2], [0, 2])):
        piece = slice(2_000 * m, 2_000 * (m + 1))
        parts.append(Observations(features[piece], response[piece]))
        estimates.append(truth.take(np.array(known)))
    known_moments = [moments(part) for part in parts]
    common = coordinates_of(reduce(merge_moments, known_moments))
    found = []
    for part, estimate, known in zip(parts, estimates, ([0, 1], [1, 2], [0, 2]), strict=True):
        expansion = expand_at(part, estimate, moments(part), GAUSSIAN)
        local = LocalInformation(estimate, coordinates_of(moments(part)), expansion, NO_ROWS)
        matrix, _ = transfer(local, np.array(known), 3, common)
        found.append(np.flatnonzero(np.abs(matrix).sum(axis=0)))
    layout = Layout.of(common.from_data(truth))
    missing = [2, 0, 1]
    for columns, expert in zip(found, missing, strict=True):
        own = np.arange(layout.size)[layout.coef(expert)]
        assert len(own) == common.size
        assert not set(own.tolist()) & set(columns.tolist())


def own_slopes(
    rng: np.random.Generator, sizes: list[int], spread: float, moved: dict[int, float]
) -> list[Observations]:
    """Partitions whose slopes vary as those of sites do, some of them moved farther."""
    parts = []
    for m, n_rows in enumerate(sizes):
        x = rng.standard_normal((n_rows, 2))
        slopes = spread * rng.standard_normal(2) + [1.0 + moved.get(m, 0.0), -1.0]
        parts.append(Observations(x, x @ slopes + rng.standard_normal(n_rows)))
    return parts


def pooled_line(parts: list[Observations]) -> FloatArray:
    x = np.concatenate([part.features for part in parts])
    y = np.concatenate([part.response for part in parts])
    return np.linalg.lstsq(np.column_stack([np.ones(len(y)), x]), y)[0]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("big", [0, 9])
def test_the_largest_partition_counts_where_partitions_differ(seed: int, big: int) -> None:
    """A distance grows with the rows of a partition where their optima are not the same."""
    rng = np.random.default_rng(seed)
    sizes = [1_000] * 10
    sizes[big] = 50_000
    parts = own_slopes(rng, sizes, 0.1, {})
    estimates = [fit(part, 1) for part in parts]
    for reference in (estimates[1], estimates[big]):
        found = averaged(parts, estimates, reference)
        np.testing.assert_allclose(found.coef[0, 0], pooled_line(parts), rtol=0, atol=0.01)


@pytest.mark.parametrize("odd_rows", [300, 1_000, 50_000])
@pytest.mark.parametrize("spread", [0.0, 0.1])
def test_a_partition_of_another_regime_is_left_out(
    odd_rows: int, spread: float, rng: np.random.Generator
) -> None:
    parts = own_slopes(rng, [1_000] * 9 + [odd_rows], spread, {9: 3.0})
    estimates = [fit(part, 1) for part in parts]
    known = [moments(part) for part in parts]
    expansions = [expand_at(*each, GAUSSIAN) for each in zip(parts, estimates, known, strict=True)]
    support = SupportSample(parts[0].features, None, np.full(1_000, 1e-3))
    found = information_average(estimates, known, expansions, estimates, support, GAUSSIAN)
    assert found is not None
    np.testing.assert_allclose(found.parameters.coef[0, 0], pooled_line(parts[:9]), rtol=0, atol=0.01)


def test_distances_are_of_a_definite_metric(rng: np.random.Generator) -> None:
    """At a saddle the two signs of an observed information can cancel: what is far must not look near."""
    root = rng.standard_normal((6, 6))
    vectors = np.linalg.qr(root)[0]
    indefinite = (vectors * [3.0, 2.0, 1.0, 1.0, -1.0, -3.0]) @ vectors.T
    packed = indefinite[np.triu_indices(6)].astype(np.float32)
    found = unpack(definite(packed)).astype(float)
    assert np.linalg.eigvalsh(found)[0] > 0.0
    for _ in range(20):
        direction = rng.standard_normal(6)
        assert direction @ found @ direction >= abs(direction @ indefinite @ direction) * (1 - 1e-5)
    positive = (root @ root.T)[np.triu_indices(6)].astype(np.float32)
    np.testing.assert_array_equal(definite(positive), positive)


def test_a_partition_says_nothing_of_a_level_that_it_lacks(rng: np.random.Generator) -> None:
    """The average is the fit to all rows; zeros of least norm would halve the slope."""
    parts = []
    for m in range(4):
        x = rng.standard_normal((900, 3))
        x[:, 2] = (x[:, 2] > 0) & (m > 1)
        right = rng.random(900) < 1 / (1 + np.exp(-4 * x[:, 0]))
        y = np.where(right, 2 + 3 * x[:, 1], -2 - x[:, 1]) + 2 * x[:, 2] + 0.3 * rng.standard_normal(900)
        parts.append(Observations(x, y))
    locals_ = [fit(part, 2) for part in parts]
    together = Observations(
        np.concatenate([part.features for part in parts]), np.concatenate([part.response for part in parts])
    )
    best = canonical_order(fit(together, 2))
    found = canonical_order(averaged(parts, locals_, locals_[3]))
    # Some 450 rows of each expert are of partitions that know the level.
    error = 0.3 / np.sqrt(900 / 4)
    assert (np.abs(found.coef[:, 0, 3] - best.coef[:, 0, 3]) < 0.2 * error).all()

"""The local estimator: exact where it can be, at a stationary point, equivariant, finite at every edge."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from daskmoe.numerics.base.observations import Observations, moments
from daskmoe.numerics.base.parameters import FloatArray, LocalEstimate, MoEParameters
from daskmoe.numerics.base.policies import LocalFit
from daskmoe.numerics.likelihood.priors import prior_from
from daskmoe.numerics.likelihood.statistics import likelihood_statistics, penalized
from daskmoe.numerics.local.ascents import polish
from daskmoe.numerics.local.fit import fit_local_estimate
from daskmoe.numerics.local.problem import Problem
from daskmoe.numerics.local.race import Candidate
from daskmoe.numerics.local.search import sample_sizes
from daskmoe.numerics.predictive.designs import draw_design, sample_rows
from daskmoe.numerics.predictive.mixture import log_likelihood, responsibilities
from numerics.oracles import (
    GAUSSIAN,
    assert_same_model,
    coordinates_of,
    gates_and_means,
    gaussian_model,
    random_model,
    random_rows,
)

TRUTH = gaussian_model(
    np.array([[0.5, 3.0, 0.0], [0.0, -1.0, 2.0], [0.0, 0.0, 0.0]]),
    np.array([[6.0, 2.0, -1.0], [0.0, -3.0, 1.0], [-6.0, 1.0, 2.0]]),
    np.array([0.5, 1.0, 0.3]),
)


def draw(rng: np.random.Generator, n: int, model: MoEParameters = TRUTH) -> Observations:
    features = rng.standard_normal((n, model.n_features))
    gates, means = gates_and_means(model, features)
    expert = (rng.random(n) > np.cumsum(gates, axis=0)).sum(axis=0)
    noise = np.sqrt(model.nuisance[expert, 0]) * rng.standard_normal(n)
    return Observations(features, means[expert, np.arange(n)] + noise)


def fit(rows: Observations, n_experts: int = 3, seed: int = 0, **options: int) -> LocalEstimate:
    chosen = LocalFit(n_experts=n_experts, **options)
    return fit_local_estimate(rows, chosen, np.random.default_rng(seed))


def parameters_of(estimate: LocalEstimate) -> MoEParameters:
    assert estimate.parameters is not None
    return estimate.parameters


def assert_sound(estimate: LocalEstimate, rows: Observations) -> None:
    """Finite, in canonical order, and its figures are those of its parameters."""
    model = parameters_of(estimate)
    assert all(np.isfinite(array).all() for array in model)
    assert (model.nuisance > 0).all()
    assert (np.diff(model.coef[:, 0, 0]) >= 0).all()
    assert not model.gate[-1].any()
    assert np.isfinite([estimate.log_likelihood, estimate.objective]).all()
    assert np.isfinite(estimate.start_log_likelihoods).all()
    assert estimate.rows == rows.n_rows
    assert estimate.weight == pytest.approx(rows.total_weight)
    assert estimate.expert_weights.shape == (model.n_experts,)
    assert (estimate.expert_weights >= 0).all()
    assert estimate.expert_weights.sum() == pytest.approx(rows.total_weight)


def assert_reported(estimate: LocalEstimate, rows: Observations) -> None:
    """The plain log-likelihood is that of the parameters in the units of the data."""
    model, weight = parameters_of(estimate), rows.weight
    features, response = rows.features.astype(np.float64), rows.response.astype(np.float64)
    found = log_likelihood(model, GAUSSIAN, features, response, weight)
    assert estimate.log_likelihood == pytest.approx(found, rel=1e-7, abs=1e-6 * rows.n_rows)


def least_squares(rows: Observations) -> tuple[FloatArray, float]:
    """Weighted least squares and maximum-likelihood variance from a QR decomposition."""
    weight = np.ones(rows.n_rows) if rows.weight is None else rows.weight
    design = np.column_stack([np.ones(rows.n_rows), rows.features])
    root = np.sqrt(weight)
    coef = np.linalg.lstsq(design * root[:, None], rows.response * root)[0]
    return coef, float(weight @ (rows.response - design @ coef) ** 2 / weight.sum())


class TestSingleExpert:
    @given(st.integers(8, 60), st.integers(0, 5), st.booleans(), st.integers(0, 2**32 - 1))
    def test_is_weighted_least_squares(self, n: int, p: int, weighted: bool, seed: int) -> None:
        rows = random_rows(np.random.default_rng(seed), n, p, weighted=weighted)
        estimate = fit(rows, 1)
        coef, variance = least_squares(rows)
        model = parameters_of(estimate)
        np.testing.assert_allclose(model.coef[0, 0], coef, rtol=1e-8, atol=1e-9)
        np.testing.assert_allclose(model.nuisance[:, 0], variance, rtol=1e-8)
        assert estimate.objective == pytest.approx(estimate.log_likelihood, rel=1e-12)
        assert (estimate.converged, estimate.start_log_likelihoods.size) == (True, 0)
        assert_sound(estimate, rows)
        assert_reported(estimate, rows)

    def test_an_almost_exact_line_keeps_its_small_variance(self, rng: np.random.Generator) -> None:
        features = rng.standard_normal((500, 2))
        rows = Observations(features, features @ [3.0, -2.0] + 1 + 1e-5 * rng.standard_normal(500))
        model = parameters_of(fit(rows, 1))
        coef, variance = least_squares(rows)
        np.testing.assert_allclose(model.coef[0, 0], coef, rtol=1e-9)
        np.testing.assert_allclose(model.nuisance[:, 0], variance, rtol=1e-6)

    def test_fewer_rows_than_features_interpolate_at_the_smallest_slopes(
        self, rng: np.random.Generator
    ) -> None:
        rows = random_rows(rng, 5, 9)
        model = parameters_of(fit(rows, 1))
        deviation = rows.features.std(axis=0)
        centered = (rows.features - rows.features.mean(axis=0)) / deviation
        # Among all interpolations, the smallest in standardized features.
        slopes = np.linalg.lstsq(centered, rows.response - rows.response.mean())[0] / deviation
        np.testing.assert_allclose(model.coef[0, 0, 1:], slopes, rtol=1e-6, atol=1e-8)
        fitted = model.coef[0, 0, 0] + rows.features @ model.coef[0, 0, 1:]
        np.testing.assert_allclose(fitted, rows.response, rtol=1e-7, atol=1e-7)
        assert 0 < model.nuisance[0, 0] < 1e-10 * rows.response.var()

    @pytest.mark.parametrize("constant", [0.0, -3.0, 1e8])
    def test_a_constant_target_is_its_constant(self, constant: float, rng: np.random.Generator) -> None:
        rows = Observations(rng.standard_normal((100, 3)), np.full(100, constant))
        model = parameters_of(fit(rows, 1))
        np.testing.assert_allclose(model.coef[0, 0], [constant, 0, 0, 0], atol=1e-10 * max(1, abs(constant)))
        assert 0 < model.nuisance[0, 0] < 1e-10 * max(1, constant**2)


@pytest.fixture(scope="module")
def base() -> tuple[Observations, LocalEstimate]:
    rows = draw(np.random.default_rng(7), 600)
    return rows, fit(rows)


class TestOptimum:
    def test_finds_the_truth(self) -> None:
        rows = draw(np.random.default_rng(1), 4000)
        estimate = fit(rows)
        assert estimate.converged
        assert_sound(estimate, rows)
        assert_reported(estimate, rows)
        # Gates have standard errors of about a tenth, coefficients of a few hundredths.
        order = np.argsort(TRUTH.coef[:, 0, 0])
        expected, found = TRUTH.take(order), parameters_of(estimate)
        np.testing.assert_allclose(found.coef, expected.coef, atol=0.25)
        np.testing.assert_allclose(found.nuisance, expected.nuisance, rtol=0.25)
        np.testing.assert_allclose(found.gate, expected.gate, atol=0.8)
        # Wilks: twice the gain over the truth is about chi-squared with 18 degrees of freedom.
        gain = estimate.log_likelihood - log_likelihood(TRUTH, GAUSSIAN, rows.features, rows.response)
        assert 0 < gain < 30

    def test_is_stationary_and_a_maximum(self, base: tuple[Observations, LocalEstimate]) -> None:
        rows, estimate = base
        known = moments(rows)
        coordinates = coordinates_of(known)
        inner = coordinates.from_data(parameters_of(estimate))
        prior = prior_from(known, coordinates, 3, GAUSSIAN)
        found = penalized(likelihood_statistics(inner, rows.blocks(coordinates), GAUSSIAN), inner, prior)
        # The Newton decrement is the gain still to be had.
        assert found.gradient @ np.linalg.solve(found.information, found.gradient) < 1e-8
        assert np.linalg.eigvalsh(found.information)[0] > 0
        offset = rows.n_rows * coordinates.log_jacobian
        assert estimate.objective == pytest.approx(found.value - offset, rel=1e-11)

    def test_objective_is_the_log_likelihood_less_the_penalty(
        self, base: tuple[Observations, LocalEstimate]
    ) -> None:
        rows, estimate = base
        known = moments(rows)
        coordinates = coordinates_of(known)
        prior = prior_from(known, coordinates, 3, GAUSSIAN)
        penalty = float(prior.penalty(*coordinates.from_data(parameters_of(estimate))))
        assert estimate.log_likelihood - estimate.objective == pytest.approx(penalty, rel=1e-8)
        assert_reported(estimate, rows)

    def test_weights_of_experts_are_sums_of_responsibilities(
        self, base: tuple[Observations, LocalEstimate]
    ) -> None:
        rows, estimate = base
        tau = responsibilities(parameters_of(estimate), GAUSSIAN, rows.features, rows.response)
        np.testing.assert_allclose(estimate.expert_weights, tau.sum(axis=1), rtol=1e-5)

    @pytest.mark.parametrize("design", ["overlap", "paper"])
    def test_beats_the_truth_on_its_own_rows(self, design: str) -> None:
        rng = np.random.default_rng(3)
        drawn = draw_design(design, 4, 3, rng)
        rows = Observations(*sample_rows(drawn, 3000, rng))
        estimate = fit(rows)
        truth = log_likelihood(drawn.parameters, GAUSSIAN, rows.features, rows.response)
        assert estimate.converged
        # 26 parameters gain about half a nat each.
        assert 0 < estimate.log_likelihood - truth < 40

    def test_any_seed_finds_the_same_optimum(self, base: tuple[Observations, LocalEstimate]) -> None:
        rows, expected = base
        for seed in range(1, 6):
            found = fit(rows, seed=seed)
            assert found.objective == pytest.approx(expected.objective, abs=1e-4)
            assert_same_model(parameters_of(found), parameters_of(expected), rows.features, 1e-5)

    def test_grown_subsamples_reach_the_optimum_of_all_rows(self) -> None:
        rows = draw(np.random.default_rng(5), 3000)
        whole, grown = fit(rows, start_rows=3000), fit(rows, start_rows=100)
        assert grown.objective == pytest.approx(whole.objective, abs=1e-4)
        assert_same_model(parameters_of(grown), parameters_of(whole), rows.features, 1e-5)
        assert grown.converged

    def test_a_seed_gives_the_same_bits(self) -> None:
        rows = draw(np.random.default_rng(6), 700)
        first, again = fit(rows, seed=4, start_rows=200), fit(rows, seed=4, start_rows=200)
        for one, two in zip(parameters_of(first), parameters_of(again), strict=True):
            np.testing.assert_array_equal(one, two)
        np.testing.assert_array_equal(first.start_log_likelihoods, again.start_log_likelihoods)
        assert first[2:9] != fit(rows, seed=5, start_rows=200)[2:9]

    @pytest.mark.parametrize("n_init", [1, 5])
    def test_every_start_is_reported(self, n_init: int) -> None:
        rows = draw(np.random.default_rng(8), 2000)
        estimate = fit(rows, n_init=n_init, start_rows=500)
        assert estimate.start_log_likelihoods.shape == (n_init,)
        # Log-likelihoods a row of a subsample, in the units of the data.
        best = estimate.log_likelihood / rows.n_rows
        assert estimate.start_log_likelihoods.max() == pytest.approx(best, abs=0.3)

    def test_says_when_it_did_not_converge(self) -> None:
        rng = np.random.default_rng(3)
        drawn = draw_design("overlap", 4, 3, rng)
        rows = Observations(*sample_rows(drawn, 3000, rng))
        short, long = (fit(rows, max_passes=passes, start_rows=200) for passes in (2, 100))
        assert (short.converged, short.passes) == (False, 4)
        assert long.converged
        assert short.objective < long.objective
        assert_sound(short, rows)

    def test_starts_that_meet_are_enough_and_effort_scales_them(self) -> None:
        rng = np.random.default_rng(3)
        rows = Observations(*sample_rows(draw_design("overlap", 12, 3, rng), 1000, rng))
        assert fit(rows).start_log_likelihoods.size == 24
        assert fit(rows, effort=0.5).start_log_likelihoods.size == 12

    def test_seeds_agree_where_gates_are_switches(self) -> None:
        # Counts that are mostly zero, as steps a second: a subsample says little of all rows.
        rng = np.random.default_rng(0)
        n = 8000
        steps = np.exp(1.5 * rng.standard_normal((n, 3))) * 10
        counts = np.where(rng.random((n, 3)) < 0.8, 0, steps).round()
        person = rng.integers(0, 12, n)
        level, slope = rng.standard_normal(12), rng.random(12)
        noise = rng.standard_normal(n) * (1 + (counts[:, 0] > 0))
        response = 0.15 * level[person] - 0.1 * np.log1p(counts.sum(axis=1)) * slope[person] + 0.1 * noise
        rows = Observations(counts, response)
        objectives = np.array([fit(rows, seed=seed).objective for seed in range(2)]) / n
        assert np.ptp(objectives) < 1e-4

    def test_polished_candidates_come_best_first(self, rng: np.random.Generator) -> None:
        rows = random_rows(rng, 200, 2)
        known = moments(rows)
        coordinates = coordinates_of(known)
        problem = Problem(rows, coordinates, prior_from(known, coordinates, 3, GAUSSIAN), GAUSSIAN)
        results = polish(problem, [Candidate(random_model(rng, 3, 2)) for _ in range(8)], 1e-9, 100)
        objectives = [result.objective for result in results]
        assert objectives == sorted(objectives, reverse=True)
        assert objectives[0] - objectives[-1] > 0.1
        assert fit(rows).objective + rows.n_rows * coordinates.log_jacobian >= objectives[0] - 1e-6

    @given(st.integers(20, 10**7), st.integers(10, 5000))
    def test_subsamples_grow_to_all_rows(self, n: int, start_rows: int) -> None:
        sizes = sample_sizes(n, start_rows)
        assert sizes[-1] == n
        assert sizes == sorted(set(sizes))
        assert all(size >= min(n, start_rows) for size in sizes)
        assert all(2 * size < n for size in sizes[:-1])
        # Subsamples are copies, which the memory of a fit on many rows cannot afford.
        assert all(8 * size <= n for size in sizes[1:-1])


Base = tuple[Observations, LocalEstimate]


class TestEquivariance:
    def test_affine_features(self, base: Base) -> None:
        rows, estimate = base
        mixing, offset = np.array([[3.0, 1.0], [-200.0, 500.0]]), np.array([1e3, -7.0])
        features = rows.features @ mixing.T + offset
        found = fit(rows._replace(features=features))
        assert found.objective == pytest.approx(estimate.objective, abs=1e-6)
        model, expected = parameters_of(found), parameters_of(estimate)
        order = np.argsort(model.coef[:, 0, 0] + model.coef[:, 0, 1:] @ offset)
        inside = model.take(order)
        gates, means = gates_and_means(inside, features)
        expected_gates, expected_means = gates_and_means(expected, rows.features)
        np.testing.assert_allclose(gates, expected_gates, atol=1e-6)
        np.testing.assert_allclose(means, expected_means, atol=1e-6 * rows.response.std())
        np.testing.assert_allclose(inside.nuisance, expected.nuisance, rtol=1e-6)

    @pytest.mark.parametrize(("scale", "shift"), [(1e8, 0.0), (1e-8, 0.0), (2.0, 1e4), (-3.0, 1.0)])
    def test_affine_target(self, scale: float, shift: float, base: Base) -> None:
        rows, estimate = base
        moved = rows._replace(response=rows.response * scale + shift)
        found, expected = parameters_of(fit(moved)), parameters_of(estimate)
        coef = expected.coef[:, 0] * scale
        coef[:, 0] += shift
        target = gaussian_model(expected.gate, coef, expected.nuisance[:, 0] * scale**2)
        order = np.argsort(coef[:, 0])
        assert_same_model(found, target.take(order), rows.features, 1e-6)

    def test_order_of_rows(self, base: Base, rng: np.random.Generator) -> None:
        rows, estimate = base
        found = fit(rows.take(rng.permutation(rows.n_rows)))
        assert_same_model(parameters_of(found), parameters_of(estimate), rows.features, 1e-6)

    def test_order_of_features(self, base: Base) -> None:
        rows, estimate = base
        found = parameters_of(fit(rows._replace(features=rows.features[:, ::-1])))
        expected = parameters_of(estimate)
        np.testing.assert_allclose(found.coef[:, :, [0, 2, 1]], expected.coef, rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(found.gate[:, [0, 2, 1]], expected.gate, rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(found.nuisance, expected.nuisance, rtol=1e-6)

    @pytest.mark.parametrize("n_experts", [1, 3])
    def test_doubled_rows_are_doubled_weights(self, n_experts: int, base: Base) -> None:
        rows, estimate = base
        doubled = fit(rows.take(np.repeat(np.arange(rows.n_rows), 2)), n_experts)
        weighted = fit(rows._replace(weight=np.full(rows.n_rows, 2.0)), n_experts)
        assert_same_model(parameters_of(doubled), parameters_of(weighted), rows.features, 1e-6)
        assert doubled.objective == pytest.approx(weighted.objective, rel=1e-9)
        assert doubled.weight == weighted.weight == 2 * rows.n_rows
        if n_experts == 3:
            # The priors weigh half as much now.
            assert doubled.log_likelihood > 2 * estimate.log_likelihood

    def test_rows_of_no_weight_do_not_count(self, base: Base, rng: np.random.Generator) -> None:
        rows, estimate = base
        # Spoiled rows, at the front.
        spoiled = random_rows(rng, 300, 2)
        padded = Observations(
            np.concatenate([spoiled.features * 50, rows.features]),
            np.concatenate([spoiled.response * 1e4, rows.response]),
            np.concatenate([np.zeros(300), np.ones(rows.n_rows)]),
        )
        found = fit(padded)
        assert_same_model(parameters_of(found), parameters_of(estimate), rows.features, 1e-6)
        assert found.log_likelihood == pytest.approx(estimate.log_likelihood, rel=1e-8)

    def test_unequal_weights_are_repeated_rows(self, base: Base, rng: np.random.Generator) -> None:
        rows, _ = base
        times = rng.integers(0, 4, rows.n_rows)
        repeated = fit(rows.take(np.repeat(np.arange(rows.n_rows), times)))
        for dtype in (np.float64, np.float32, np.int64):
            weighted = fit(rows._replace(weight=times.astype(dtype)))
            assert_same_model(parameters_of(weighted), parameters_of(repeated), rows.features, 1e-6)


class TestLayouts:
    def test_memory_order_changes_no_bit(self, base: Base) -> None:
        rows, estimate = base
        wide = np.repeat(rows.features, 2, axis=1)
        tall = np.repeat(rows.features, 3, axis=0)
        layouts = {"fortran": np.asfortranarray(rows.features), "columns": wide[:, ::2], "rows": tall[::3]}
        for name, features in layouts.items():
            response = np.repeat(rows.response, 2)[::2]
            found = fit(Observations(features, response))
            for one, two in zip(parameters_of(found), parameters_of(estimate), strict=True):
                np.testing.assert_array_equal(one, two, err_msg=name)

    @pytest.mark.parametrize("n_experts", [1, 3])
    @pytest.mark.parametrize("dtype", ["float32", "int16"])
    def test_types_are_their_values(self, dtype: str, n_experts: int, base: Base) -> None:
        rows, _ = base
        features = (rows.features * 100).astype(dtype)
        response = (rows.response * 100 + 1e4).astype(dtype)
        found = fit(Observations(features, response), n_experts)
        expected = fit(Observations(features.astype(np.float64), response.astype(np.float64)), n_experts)
        assert_same_model(parameters_of(found), parameters_of(expected), features.astype(np.float64), 1e-7)

    def test_inputs_are_left_alone(self, base: Base) -> None:
        rows, _ = base
        weighted = rows._replace(weight=np.ones(rows.n_rows))
        kept = [np.array(array) for array in weighted]
        fit(weighted)
        for array, before in zip(weighted, kept, strict=True):
            np.testing.assert_array_equal(array, before)


class TestEdges:
    @pytest.mark.parametrize("seed", range(3))
    def test_fill_values_get_an_expert_of_their_own(self, seed: int, rng: np.random.Generator) -> None:
        features = rng.standard_normal((1500, 2))
        side = np.where(rng.random(1500) < 0.5, 3.0, -3.0)
        response = features @ [1.0, -1.0] + side + 0.5 * rng.standard_normal(1500)
        response[:3] = -9999.0
        estimate = fit(Observations(features, response), 3, seed)
        others = estimate.expert_weights > 100
        assert estimate.expert_weights[~others] == pytest.approx([3.0], abs=0.1)
        intercepts = parameters_of(estimate).coef[others, 0, 0]
        np.testing.assert_allclose(np.sort(intercepts), [-3.0, 3.0], atol=0.15)

    @pytest.mark.parametrize("seed", range(3))
    def test_a_few_rows_with_most_of_the_weight(self, seed: int, rng: np.random.Generator) -> None:
        n = 20_000
        features = rng.standard_normal((n, 3))
        heavy = np.zeros(n, dtype=bool)
        heavy[rng.choice(n, 200, replace=False)] = True
        first = rng.random(n) < 0.5
        response = features.sum(axis=1) + rng.standard_normal(n)
        lines = np.where(first, features @ [5.0, -2.0, 0.0] + 8, features @ [-5.0, 2.0, 0.0] - 8)
        response[heavy] = (lines + 0.5 * rng.standard_normal(n))[heavy]
        weight = np.where(heavy, 1e3, 1.0)
        rows = Observations(features, response, weight * n / weight.sum())
        # Told by the fit from a subsample of half the rows.
        known = fit(rows, 2, start_rows=n // 2).objective
        assert fit(rows, 2, seed).objective > known - 1e-4 * n

    def test_rows_without_weight_do_not_race(self, rng: np.random.Generator) -> None:
        rows = random_rows(rng, 200, 2)
        n = 20_000
        index = np.sort(rng.choice(n, 200, replace=False))
        features, response, weight = rng.standard_normal((n, 2)), np.full(n, 7.0), np.zeros(n)
        features[index], response[index], weight[index] = rows.features, rows.response, 1.0
        found = fit(Observations(features, response, weight), 2)
        assert found.objective == pytest.approx(fit(rows, 2).objective, rel=1e-9)
        weight[index[5:]] = 0.0
        few = Observations(features, response, weight)
        assert_sound(fit(few, 2), few)

    @pytest.mark.parametrize("n_experts", [1, 2])
    def test_powers_of_a_year_are_not_collinear(self, n_experts: int, rng: np.random.Generator) -> None:
        year = rng.uniform(1990, 2024, 500)
        short = (year - 2007) / 17
        side = np.where(rng.random(500) < 0.5, 1.0, 1.0 if n_experts == 1 else -1.0)
        response = side * (1 + short + short**2 + short**3) + 0.1 * rng.standard_normal(500)
        raw, centred = (
            fit(Observations(np.column_stack([t, t**2, t**3]), response), n_experts) for t in (year, short)
        )
        assert raw.log_likelihood == pytest.approx(centred.log_likelihood, rel=1e-6)

    @pytest.mark.parametrize("n_experts", [2, 3])
    def test_fewer_rows_than_features(self, n_experts: int, rng: np.random.Generator) -> None:
        rows = random_rows(rng, 6, 10)
        assert_sound(fit(rows, n_experts), rows)

    @pytest.mark.parametrize("extra", [0, 1, 3])
    def test_barely_more_rows_than_parameters(self, extra: int, rng: np.random.Generator) -> None:
        rows = random_rows(rng, 3 * 5 + extra, 4)
        estimate = fit(rows)
        assert_sound(estimate, rows)
        assert_reported(estimate, rows)

    @pytest.mark.parametrize("n_experts", [2, 4])
    def test_as_many_rows_as_experts(self, n_experts: int, rng: np.random.Generator) -> None:
        rows = random_rows(rng, n_experts, 2)
        assert_sound(fit(rows, n_experts), rows)

    def test_separable_gates_stay_bounded(self, rng: np.random.Generator) -> None:
        features = rng.standard_normal((500, 2))
        side = features[:, 0] > 0.2
        response = np.where(side, 20 + features[:, 1], -20 - features[:, 1])
        rows = Observations(features, response + 0.1 * rng.standard_normal(500))
        estimate = fit(rows, 2)
        assert_sound(estimate, rows)
        assert estimate.converged
        model = parameters_of(estimate)
        assert np.abs(model.gate).max() < 1e3
        gates, means = gates_and_means(model, features)
        # The boundary is known to a row or two.
        assert np.sum(gates[1].round() != side) <= 3
        np.testing.assert_allclose(means[0, ~side], response[~side], atol=0.1)

    def test_experts_far_apart_keep_their_small_variances(self, rng: np.random.Generator) -> None:
        features = rng.standard_normal((500, 2))
        side = features[:, 0] > 0.2
        response = np.where(side, 20 + features[:, 1], -20 - features[:, 1])
        rows = Observations(features, response + 0.1 * rng.standard_normal(500))
        # Those that two regressions leave; a weak prior moves them by a standard error at most.
        left = [fit(rows.take(np.flatnonzero(side == half)), 1) for half in (False, True)]
        expected = [parameters_of(each).nuisance[0, 0] for each in left]
        np.testing.assert_allclose(parameters_of(fit(rows, 2)).nuisance[:, 0], expected, rtol=0.1)

    def test_more_experts_than_the_data_have(self, rng: np.random.Generator) -> None:
        features = rng.standard_normal((300, 2))
        rows = Observations(features, features @ [1.0, 2.0] + rng.standard_normal(300))
        estimate = fit(rows, 4)
        assert_sound(estimate, rows)
        assert_reported(estimate, rows)
        # Not worse than one regression: all experts could be that one.
        assert estimate.log_likelihood > fit(rows, 1).log_likelihood

    def test_an_expert_of_a_handful_of_rows_has_a_floor(self, rng: np.random.Generator) -> None:
        features = rng.standard_normal((400, 1))
        response = features[:, 0] + rng.standard_normal(400)
        # Two rows far out that one expert could run through at a likelihood without bound.
        features[:2, 0], response[:2] = 12.0, 100.0
        rows = Observations(features, response)
        estimate = fit(rows, 2)
        assert_sound(estimate, rows)
        spread = prior_from(moments(rows), coordinates_of(moments(rows)), 2, GAUSSIAN).spread
        floor = spread * coordinates_of(moments(rows)).response.nuisance / (402 + 1)
        assert parameters_of(estimate).nuisance.min() > floor

    def test_one_row_many_times(self, rng: np.random.Generator) -> None:
        rows = Observations(np.repeat([[1.0, 2.0]], 50, axis=0), np.full(50, 3.0))
        for n_experts in (1, 3):
            estimate = fit(rows, n_experts)
            assert_sound(estimate, rows)
            gates, means = gates_and_means(parameters_of(estimate), rows.features)
            np.testing.assert_allclose((gates * means).sum(axis=0), 3.0, rtol=1e-3)

    def test_few_distinct_rows(self, rng: np.random.Generator) -> None:
        rows = random_rows(rng, 4, 2)
        repeated = rows.take(np.repeat(np.arange(4), 100))
        assert_sound(fit(repeated), repeated)

    @pytest.mark.parametrize("constant", [0.0, 5.0, -1e8, 1e-8])
    def test_a_constant_target(self, constant: float, rng: np.random.Generator) -> None:
        rows = Observations(rng.standard_normal((200, 2)), np.full(200, constant))
        estimate = fit(rows)
        assert_sound(estimate, rows)
        gates, means = gates_and_means(parameters_of(estimate), rows.features)
        unit = abs(constant) or 1.0
        np.testing.assert_allclose((gates * means).sum(axis=0), constant, rtol=0, atol=1e-3 * unit)

    def test_an_exact_piecewise_line(self, rng: np.random.Generator) -> None:
        features = rng.standard_normal((400, 1))
        rows = Observations(features, np.abs(features[:, 0]))
        estimate = fit(rows, 2)
        assert_sound(estimate, rows)
        assert_reported(estimate, rows)
        np.testing.assert_allclose(np.sort(parameters_of(estimate).coef[:, 0, 1]), [-1.0, 1.0], atol=0.02)

    def test_features_far_from_zero(self, base: Base) -> None:
        rows, estimate = base
        features = rows.features + 1e6
        found = fit(rows._replace(features=features))
        assert found.objective == pytest.approx(estimate.objective, abs=1e-5)
        model, expected = parameters_of(found), parameters_of(estimate)
        # Canonical order looks at intercepts, which the shift moves.
        order = [int(np.argmin(np.abs(model.nuisance[:, 0] - s))) for s in expected.nuisance[:, 0]]
        assert sorted(order) == [0, 1, 2]
        gates, means = gates_and_means(model.take(np.array(order)), features)
        expected_gates, expected_means = gates_and_means(expected, rows.features)
        np.testing.assert_allclose(gates, expected_gates, atol=1e-6)
        np.testing.assert_allclose(means, expected_means, atol=1e-6 * rows.response.std())

    def test_collinear_and_constant_features(self, base: Base) -> None:
        rows, estimate = base
        extra = [rows.features, rows.features.sum(axis=1, keepdims=True), np.full((rows.n_rows, 1), 4.0)]
        features = np.concatenate(extra, axis=1)
        found = fit(rows._replace(features=features))
        assert_sound(found, rows)
        assert found.objective == pytest.approx(estimate.objective, abs=1e-6)
        gates, means = gates_and_means(parameters_of(found), features)
        expected_gates, expected_means = gates_and_means(parameters_of(estimate), rows.features)
        np.testing.assert_allclose(
            (gates * means).sum(axis=0), (expected_gates * expected_means).sum(axis=0), atol=1e-5
        )

    def test_no_features(self, rng: np.random.Generator) -> None:
        response = np.concatenate([rng.normal(-5, 1, 300), rng.normal(5, 2, 100)])
        rows = Observations(np.empty((400, 0)), response)
        estimate = fit(rows, 2)
        assert_sound(estimate, rows)
        model = parameters_of(estimate)
        np.testing.assert_allclose(model.coef[:, 0, 0], [-5, 5], atol=0.8)
        assert np.exp(model.gate[0, 0]) == pytest.approx(3.0, rel=0.15)

    def test_outliers_of_the_response(self, rng: np.random.Generator) -> None:
        rows = draw(rng, 400)
        rows.response[:3] = [1e6, -1e6, 1e9]
        estimate = fit(rows)
        assert_sound(estimate, rows)

    @settings(max_examples=15)
    @given(
        st.integers(2, 40),
        st.integers(0, 6),
        st.integers(1, 4),
        st.sampled_from(["plain", "rounded", "repeated", "sparse weights", "heavy tails"]),
        st.integers(0, 2**32 - 1),
    )
    def test_anything_small_gives_a_sound_model(
        self, n: int, p: int, n_experts: int, kind: str, seed: int
    ) -> None:
        rng = np.random.default_rng(seed)
        rows = random_rows(rng, max(n, n_experts), p)
        if kind == "rounded":
            rows = Observations(rows.features.round(), rows.response.round())
        elif kind == "repeated":
            rows = rows.take(rng.integers(0, max(1, n // 3), rows.n_rows))
        elif kind == "sparse weights":
            weight = rng.uniform(0, 1, rows.n_rows) * (rng.random(rows.n_rows) < 0.3)
            weight[0] = 1.0
            rows = rows._replace(weight=weight)
        elif kind == "heavy tails":
            rows = rows._replace(response=rng.standard_cauchy(rows.n_rows) ** 3)
        assert_sound(fit(rows, n_experts, n_init=4), rows)

"""Damped Newton ascent: monotone, at scipy.optimize's optimum, safe where the information is indefinite."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import minimize

from daskmoe.numerics.base.layout import Layout
from daskmoe.numerics.base.observations import Observations, moments
from daskmoe.numerics.base.parameters import FloatArray, MoEParameters
from daskmoe.numerics.base.policies import NEWTON
from daskmoe.numerics.likelihood.priors import prior_from
from daskmoe.numerics.likelihood.statistics import LikelihoodStatistics, scaled
from daskmoe.numerics.local import newton
from daskmoe.numerics.local.newton import (
    NewtonState,
    damped_step,
    escape,
    jump,
    maximize,
    standard_deviations,
)
from daskmoe.numerics.local.problem import Problem
from numerics.oracles import GAUSSIAN, coordinates_of, gaussian_model, random_model, random_rows, vector_of


def problem_of(rows: Observations, n_experts: int) -> Problem:
    known = moments(rows)
    coordinates = coordinates_of(known)
    return Problem(rows, coordinates, prior_from(known, coordinates, n_experts, GAUSSIAN), GAUSSIAN)


def shift(model: MoEParameters, step: FloatArray) -> MoEParameters:
    return Layout.of(model).shift(model, step)


def two_experts(rng: np.random.Generator, n: int) -> Observations:
    features = rng.standard_normal((n, 2))
    first = rng.random(n) < 1 / (1 + np.exp(-2 * features[:, 0]))
    eta = np.where(first, 2 + features @ [1.0, -1.0], -1 - features @ [2.0, 0.5])
    return Observations(features, eta + 0.7 * rng.standard_normal(n), rng.uniform(0.5, 2, n))


class Recorder:
    """A problem that keeps the objective of every evaluation."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.values: list[float] = []

    def evaluate(self, parameters: MoEParameters) -> LikelihoodStatistics:
        found = self.problem.statistics(parameters)
        self.values.append(found.value)
        return found


@pytest.mark.parametrize("seed", range(6))
def test_reaches_the_optimum_of_scipy(seed: int) -> None:
    rng = np.random.default_rng(seed)
    problem, start = problem_of(two_experts(rng, 400), 2), random_model(rng, 2, 2)
    recorder = Recorder(problem)
    result = maximize(
        start, recorder.evaluate, problem.objective, problem.slope, tolerance=1e-8, max_passes=200
    )
    assert result.converged
    assert result.passes <= 200
    assert result.objective == pytest.approx(problem.objective(result.parameters), rel=1e-12)
    assert result.objective >= max(recorder.values) - 1e-9 * abs(result.objective)

    def negative(theta: FloatArray) -> tuple[float, FloatArray]:
        found = problem.statistics(Layout.of(start).unpack(theta))
        return -found.value, -found.gradient

    theta = vector_of(result.parameters)
    best = minimize(negative, theta + 0.02, jac=True, method="BFGS", options={"gtol": 1e-6})
    assert np.abs(best.jac).max() < 1e-3
    np.testing.assert_allclose(theta, best.x, rtol=0, atol=1e-4)
    assert result.objective >= -best.fun - 1e-7
    np.testing.assert_allclose(problem.statistics(result.parameters).gradient, 0.0, rtol=0, atol=1e-4)


@pytest.mark.parametrize("n_experts", [2, 3])
@pytest.mark.parametrize("seed", range(4))
def test_no_ascent_ends_at_a_saddle(seed: int, n_experts: int) -> None:
    """From equal experts neither Newton nor EM moves them apart: the negative curvature does."""
    rng = np.random.default_rng(seed)
    rows = two_experts(rng, 400)
    problem = problem_of(rows, n_experts)
    one = GAUSSIAN.from_moments(moments(rows))
    assert one is not None
    line = problem.coordinates.from_data(one).take(np.zeros(n_experts, dtype=np.intp))
    zero = gaussian_model(np.zeros((n_experts, 3)), np.zeros((n_experts, 3)), np.ones(n_experts))
    elsewhere = problem.statistics(random_model(rng, n_experts, 2))
    for start, nearby in ((line, None), (zero, None), (line, elsewhere)):
        recorder = Recorder(problem)
        result = maximize(
            start,
            recorder.evaluate,
            problem.objective,
            problem.slope,
            tolerance=1e-7,
            max_passes=100,
            nearby=nearby,
        )
        assert result.converged
        assert np.linalg.eigvalsh(problem.statistics(result.parameters).information)[0] > 0.0
        assert result.objective >= max(recorder.values) - 1e-9 * abs(result.objective)


def test_there_is_no_way_off_a_maximum(rng: np.random.Generator) -> None:
    problem, start = problem_of(two_experts(rng, 400), 2), random_model(rng, 2, 2)
    best = maximize(
        start, problem.statistics, problem.objective, problem.slope, tolerance=1e-9, max_passes=200
    )
    assert escape(NewtonState(best.parameters, problem.statistics(best.parameters), 0.0)) is None


def test_no_way_off_a_saddle_is_too_long_for_a_nuisance(rng: np.random.Generator) -> None:
    problem, model = problem_of(two_experts(rng, 400), 2), random_model(rng, 2, 2)
    known = problem.statistics(model)
    information, complete = known.complete.copy(), known.complete.copy()
    # The rows say nothing of the last variance, but that they bend the wrong way.
    for matrix, own in ((information, -1e-9), (complete, 1e-9)):
        matrix[-1], matrix[:, -1] = 0.0, 0.0
        matrix[-1, -1] = own
    way = escape(NewtonState(model, known._replace(information=information, complete=complete), 0.0))
    assert way is not None
    assert np.abs(way[0][-1]) <= NEWTON.largest_log_step


def test_more_passes_never_lower_the_objective(rng: np.random.Generator) -> None:
    problem, start = problem_of(two_experts(rng, 200), 3), random_model(rng, 3, 2, steepness=3)
    reached = [
        maximize(
            start, problem.statistics, problem.objective, problem.slope, tolerance=1e-9, max_passes=passes
        ).objective
        for passes in range(2, 30)
    ]
    assert reached[0] >= problem.objective(start)
    assert (np.diff(reached) >= 0).all()
    assert reached[-1] > reached[0]


def test_the_last_predicted_gain_is_taken(rng: np.random.Generator) -> None:
    problem, start = problem_of(two_experts(rng, 400), 2), random_model(rng, 2, 2)
    best = maximize(
        start, problem.statistics, problem.objective, problem.slope, tolerance=1e-9, max_passes=200
    )
    beside = shift(best.parameters, np.full(11, 0.01))
    found = maximize(
        beside, problem.statistics, problem.objective, problem.slope, tolerance=10.0, max_passes=200
    )
    assert (found.converged, found.passes) == (True, 2)
    lost = best.objective - problem.objective(beside)
    assert 1e-3 < lost < 10
    assert 0 <= best.objective - found.objective < 0.01 * lost


def test_says_when_it_did_not_converge(rng: np.random.Generator) -> None:
    problem, start = problem_of(two_experts(rng, 200), 2), random_model(rng, 2, 2)
    result = maximize(
        start, problem.statistics, problem.objective, problem.slope, tolerance=1e-9, max_passes=2
    )
    assert (result.converged, result.passes) == (False, 2)


def test_at_the_optimum_it_stays(rng: np.random.Generator) -> None:
    problem = problem_of(two_experts(rng, 300), 2)
    start = random_model(rng, 2, 2)
    first = maximize(
        start, problem.statistics, problem.objective, problem.slope, tolerance=1e-9, max_passes=200
    )
    again = maximize(
        first.parameters, problem.statistics, problem.objective, problem.slope, tolerance=1e-9, max_passes=200
    )
    assert again.passes == 2
    assert first.objective <= again.objective <= first.objective + 1e-9


# Of two experts with one feature: eight parameters.
TWO_LINES = Layout(2, 2, 2, 1, 1)


def state_with(
    observed: FloatArray, complete: FloatArray, gradient: FloatArray, damping: float = 0.0
) -> NewtonState:
    statistics = LikelihoodStatistics(0.0, gradient, observed, complete, 1.0)
    return NewtonState(TWO_LINES.unpack(np.zeros(TWO_LINES.size)), statistics, damping)


@pytest.mark.parametrize("curvature", [-1e-3, -1.0, -1e6])
def test_indefinite_information_is_damped_to_an_ascent_step(
    curvature: float, rng: np.random.Generator
) -> None:
    basis = np.linalg.qr(rng.standard_normal((8, 8)))[0]
    complete = (basis * np.linspace(1, 3, 8)) @ basis.T
    observed = (basis * np.append(curvature, np.linspace(0.5, 2, 7))) @ basis.T
    gradient = rng.standard_normal(8)
    step, predicted, damping = damped_step(state_with(observed, complete, gradient))
    assert damping > 0
    assert gradient @ step > 0
    assert predicted == pytest.approx(gradient @ step - 0.5 * step @ observed @ step)
    assert np.isfinite(step).all()


def test_undamped_step_is_newtons_and_full_damping_is_the_step_of_em(rng: np.random.Generator) -> None:
    root = rng.standard_normal((8, 8))
    observed, complete = root @ root.T + 5 * np.eye(8), np.diag(np.linspace(20, 30, 8))
    gradient = 0.1 * rng.standard_normal(8)
    for damping, matrix in ((0.0, observed), (1.0, complete), (4.0, 4 * complete)):
        step, predicted, used = damped_step(state_with(observed, complete, gradient, damping))
        assert used == damping
        np.testing.assert_allclose(step, np.linalg.solve(matrix, gradient), rtol=1e-9)
        assert predicted > 0


def test_log_variances_move_two_units_at_most() -> None:
    gradient = np.append(np.zeros(7), 50.0)
    step, _, _ = damped_step(state_with(np.eye(8), np.eye(8), gradient))
    np.testing.assert_allclose(step, np.append(np.zeros(7), 2.0))


@pytest.mark.parametrize(
    ("damping", "actual", "predicted", "lowest", "highest"),
    [
        (0.0, -1.0, 1.0, 1e-3, 1.0),
        (0.2, -1.0, 1.0, 0.4, 1.0),
        (0.2, float("nan"), 1.0, 0.4, 1.0),
        (0.2, 0.1, 1.0, 0.2 + 1e-9, 1.0),
        (0.2, 0.5, 1.0, 0.2, 0.2),
        (0.2, 0.95, 1.0, 0.0, 0.1),
        (0.002, 0.95, 1.0, 0.0, 0.0),
        (0.2, 0.5, -1.0, 0.2 + 1e-9, 1.0),
    ],
)
def test_damping_follows_the_quality_of_the_prediction(
    damping: float, actual: float, predicted: float, lowest: float, highest: float
) -> None:
    assert lowest <= NEWTON.damping.after(damping, actual, predicted) <= highest


def test_a_step_to_nowhere_is_refused(rng: np.random.Generator) -> None:
    problem, start = problem_of(two_experts(rng, 100), 2), random_model(rng, 2, 2)
    at_start = problem.statistics(start)
    theta = vector_of(start)

    def evaluate(parameters: MoEParameters) -> LikelihoodStatistics:
        return at_start if (vector_of(parameters) == theta).all() else at_start._replace(value=np.nan)

    def slope(parameters: MoEParameters) -> LikelihoodStatistics:
        return at_start._replace(value=np.nan)

    result = maximize(start, evaluate, problem.objective, slope, tolerance=1e-9, max_passes=50)
    assert result.objective == at_start.value
    np.testing.assert_array_equal(vector_of(result.parameters), theta)
    # Steps that damping made too short to gain anything say nothing about the gradient.
    assert not result.converged


def test_one_expert_takes_one_step_to_least_squares(rng: np.random.Generator) -> None:
    rows = random_rows(rng, 50, 2)
    problem = problem_of(rows, 1)
    start = gaussian_model(np.zeros((1, 3)), np.zeros((1, 3)), np.ones(1))
    result = maximize(
        start, problem.statistics, problem.objective, problem.slope, tolerance=1e-10, max_passes=50
    )
    found = problem.coordinates.to_data(result.parameters)
    design = np.column_stack([np.ones(50), rows.features])
    np.testing.assert_allclose(found.coef[0, 0], np.linalg.lstsq(design, rows.response)[0], rtol=1e-6)


@pytest.mark.parametrize("seed", range(4))
def test_gradients_alone_finish_at_the_same_optimum(seed: int) -> None:
    rng = np.random.default_rng(seed)
    problem, start = problem_of(two_experts(rng, 2000), 2), random_model(rng, 2, 2)
    counts = {"information": 0, "slope": 0}

    def evaluate(parameters: MoEParameters) -> LikelihoodStatistics:
        counts["information"] += 1
        return problem.statistics(parameters)

    def slope(parameters: MoEParameters) -> LikelihoodStatistics:
        counts["slope"] += 1
        return problem.slope(parameters)

    full = maximize(
        start, problem.statistics, problem.objective, problem.slope, tolerance=1e-8, max_passes=200
    )
    beside = shift(full.parameters, np.full(11, 0.002))
    found = maximize(beside, evaluate, problem.objective, slope, tolerance=1e-8, max_passes=200)
    assert found.converged
    assert counts["information"] == 1
    assert counts["slope"] == found.passes - 2 > 0
    assert found.objective == pytest.approx(full.objective, abs=1e-9)
    np.testing.assert_allclose(vector_of(found.parameters), vector_of(full.parameters), rtol=0, atol=1e-6)


@pytest.mark.parametrize("seed", range(4))
def test_information_of_a_sample_is_enough(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = two_experts(rng, 16_000)
    problem, start = problem_of(rows, 2), random_model(rng, 2, 2)
    sample = problem.subsample(np.arange(0, 16_000, 4))
    first = maximize(start, sample.statistics, sample.objective, sample.slope, tolerance=1e-4, max_passes=200)
    assert first.statistics is not None

    def evaluate(parameters: MoEParameters) -> LikelihoodStatistics:
        raise AssertionError("no information of all rows is needed")

    nearby = scaled(first.statistics, problem.rows.total_weight)
    found = maximize(
        first.parameters, evaluate, problem.objective, problem.slope,
        tolerance=1e-8, max_passes=30, nearby=nearby,
    )  # fmt: skip
    full = maximize(
        start, problem.statistics, problem.objective, problem.slope, tolerance=1e-8, max_passes=200
    )
    assert found.converged
    assert found.objective == pytest.approx(full.objective, abs=1e-8)
    np.testing.assert_allclose(vector_of(found.parameters), vector_of(full.parameters), rtol=0, atol=1e-6)


def test_an_ascent_that_would_end_too_low_is_given_up(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(newton, "NEWTON", replace(NEWTON, pace=3))
    problem, start = problem_of(two_experts(rng, 2000), 2), random_model(rng, 2, 2)
    sums = problem.statistics, problem.objective, problem.slope
    best = maximize(start, *sums, tolerance=1e-8, max_passes=200)
    assert best.passes > 8
    # Near the top the gains are small, and what is left is known.
    same = maximize(start, *sums, tolerance=1e-8, max_passes=200, least=best.objective - 200.0)
    assert same.objective == best.objective
    found = maximize(start, *sums, tolerance=1e-8, max_passes=200, least=best.objective + 1e4)
    assert found.passes < best.passes
    assert not found.converged


def test_a_step_too_long_is_cut_along_its_line(rng: np.random.Generator) -> None:
    problem, start = problem_of(two_experts(rng, 1000), 2), random_model(rng, 2, 2)
    best = maximize(
        start, problem.statistics, problem.objective, problem.slope, tolerance=1e-8, max_passes=200
    )
    beside = shift(best.parameters, np.full(11, 0.05))
    there = problem.statistics(beside)
    # Half the information makes a step twice as long, which leads as far off on the other side.
    long = there._replace(information=0.45 * there.information)
    values = []

    def slope(parameters: MoEParameters) -> LikelihoodStatistics:
        found = problem.slope(parameters)
        values.append(found.value)
        return found

    found = maximize(
        beside, problem.statistics, problem.objective, slope, tolerance=1e-8, max_passes=30, nearby=long
    )
    assert values[0] == there.value
    assert values[1] < there.value < values[2]
    assert best.objective - values[2] < 0.2 * (best.objective - there.value)
    assert found.objective == pytest.approx(best.objective, abs=1e-8)


def test_slope_is_all_but_the_matrices(rng: np.random.Generator) -> None:
    problem, at = problem_of(two_experts(rng, 300), 3), random_model(rng, 3, 2)
    found, full = problem.slope(at), problem.statistics(at)
    assert (found.value, found.weight) == (full.value, full.weight)
    assert found.mass is not None
    assert full.mass is not None
    np.testing.assert_array_equal(found.gradient, full.gradient)
    np.testing.assert_array_equal(found.mass, full.mass)
    assert found.mass.sum() == pytest.approx(found.weight)


def test_jumps_are_standard_errors_long(rng: np.random.Generator) -> None:
    problem = problem_of(two_experts(rng, 1500), 2)
    start = random_model(rng, 2, 2)
    best = maximize(
        start, problem.statistics, problem.objective, problem.slope, tolerance=1e-8, max_passes=200
    )
    statistics = problem.statistics(best.parameters)
    deviations = standard_deviations(statistics)
    assert deviations is not None
    np.testing.assert_allclose(deviations @ deviations.T @ statistics.information, np.eye(11), atol=1e-4)
    steps = np.stack(
        [vector_of(jump(best.parameters, deviations, rng)) - vector_of(best.parameters) for _ in range(400)]
    )
    expected = np.sqrt(np.diag(deviations @ deviations.T))
    np.testing.assert_allclose(steps.std(axis=0), 3 * expected, rtol=0.2)
    assert standard_deviations(statistics._replace(information=-np.eye(11))) is None
    wild = jump(best.parameters, 1e6 * np.eye(11), rng)
    assert np.abs(np.log(wild.nuisance / best.parameters.nuisance)).max() <= 2.0 + 1e-9


def test_stops_at_an_optimum_that_damped_steps_reached() -> None:
    # The information is nearly indefinite on the way, so that the last steps are damped ones.
    rng = np.random.default_rng(0)
    for _ in range(20):
        rows = Observations(np.empty((20, 0)), rng.standard_normal(20))
        problem = problem_of(rows, 2)
        found = maximize(
            random_model(rng, 2, 0), problem.statistics, problem.objective, problem.slope,
            tolerance=2e-8, max_passes=100,
        )  # fmt: skip
        assert found.converged

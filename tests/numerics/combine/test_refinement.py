"""Rounds: the sums of partitions are those of all rows, and the steps made from them climb from anywhere."""

from __future__ import annotations

import itertools
from functools import reduce

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given
from scipy.stats import norm

from daskmoe.numerics.base.coordinates import Coordinates
from daskmoe.numerics.base.layout import Layout
from daskmoe.numerics.base.observations import Observations, moments
from daskmoe.numerics.base.parameters import MoEParameters
from daskmoe.numerics.base.policies import REFINEMENT
from daskmoe.numerics.combine.em_step import em_step
from daskmoe.numerics.combine.refinement import RefinementState, RoundInfo, advance, first_state
from daskmoe.numerics.combine.round_sums import (
    PackedStatistics,
    add_statistics,
    round_statistics,
    unpack_statistics,
)
from daskmoe.numerics.likelihood.priors import Prior, prior_from
from daskmoe.numerics.likelihood.statistics import likelihood_statistics, log_likelihood_of, penalized
from daskmoe.numerics.local.levenberg import LevenbergSteps
from daskmoe.numerics.local.newton import NewtonState, damped_step
from daskmoe.numerics.predictive.designs import draw_design, sample_rows
from numerics.oracles import GAUSSIAN, coordinates_of, gaussian_model, posterior, random_model, random_rows


def setting(rows: Observations, n_experts: int) -> tuple[Coordinates, Prior]:
    known = moments(rows)
    coordinates = coordinates_of(known)
    return coordinates, prior_from(known, coordinates, n_experts, GAUSSIAN)


def simulated(n_rows: int, n_experts: int, seed: int) -> tuple[Observations, MoEParameters]:
    rng = np.random.default_rng(seed)
    design = draw_design("overlap", 3, n_experts, rng)
    return Observations(*sample_rows(design, n_rows, rng)), design.parameters


def round_of(rows: Observations, state: RefinementState, coordinates: Coordinates) -> PackedStatistics:
    """What a pass over all rows returns for the next step."""
    return round_statistics(
        rows,
        coordinates.to_data(state.trial),
        coordinates,
        GAUSSIAN,
        others=[coordinates.to_data(other.parameters) for other in state.others],
        careful=state.careful,
    )


def ascend(
    rows: Observations, start: MoEParameters, most: int = 60
) -> tuple[RefinementState, list[RoundInfo]]:
    coordinates, prior = setting(rows, start.n_experts)
    state, infos = first_state(start, coordinates), []
    while len(infos) < most and not state.stopped:
        state, info = advance(state, round_of(rows, state, coordinates), prior, GAUSSIAN)
        infos.append(info)
    return state, infos


def objective_of(rows: Observations, state: RefinementState) -> float:
    """The penalized log-likelihood by a plain E-step."""
    assert state.accepted is not None
    inner = state.accepted.parameters
    return objective_at(rows, inner, *setting(rows, inner.n_experts))


def objective_at(rows: Observations, inner: MoEParameters, coordinates: Coordinates, prior: Prior) -> float:
    return log_likelihood_of(inner, rows.blocks(coordinates), GAUSSIAN) - float(prior.penalty(*inner))


# The statistics of a round.


@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=5),
    st.integers(1, 3),
    st.integers(0, 3),
    st.booleans(),
    st.integers(0, 2**32 - 1),
)
def test_sums_of_partitions_are_those_of_all_rows(
    sizes: list[int], n_experts: int, p: int, weighted: bool, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    rows = random_rows(rng, sum(sizes), p, weighted=weighted)
    model = random_model(rng, n_experts, p)
    coordinates, _ = setting(rows, n_experts)
    stops = np.cumsum(sizes)
    parts = [rows.take(np.arange(stop - size, stop)) for size, stop in zip(sizes, stops, strict=True)]
    packed = reduce(add_statistics, [round_statistics(part, model, coordinates, GAUSSIAN) for part in parts])
    found = unpack_statistics(packed, Layout.of(coordinates.from_data(model)))
    expected = likelihood_statistics(coordinates.from_data(model), rows.blocks(coordinates), GAUSSIAN)
    scale = np.abs(expected.complete).max() + 1.0
    assert found.value == pytest.approx(expected.value, rel=1e-10)
    assert found.weight == pytest.approx(expected.weight, rel=1e-13)
    np.testing.assert_allclose(found.gradient, expected.gradient, rtol=0, atol=1e-9 * scale)
    # Products are in single precision.
    for name in ("information", "complete"):
        a, b = getattr(found, name), getattr(expected, name)
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-4 * max(np.abs(b).max(), scale))
        np.testing.assert_array_equal(a, a.T)


@pytest.mark.parametrize("q", range(1, 31))
@pytest.mark.parametrize("n_experts", range(2, 7))
def test_a_partition_sends_fewer_than_p_plus_one_squared_numbers(n_experts: int, q: int) -> None:
    rng = np.random.default_rng(0)
    rows, model = random_rows(rng, 40, q - 1), random_model(rng, n_experts, q - 1)
    coordinates, _ = setting(rows, n_experts)
    assert coordinates.size == q
    packed = round_statistics(rows, model, coordinates, GAUSSIAN)
    free = (2 * n_experts - 1) * q + n_experts
    assert len(packed.gradient) == free
    assert packed.mass is not None
    assert packed.extremes is not None
    assert (packed.mass.size, sum(part.size for part in packed.extremes)) == (n_experts, 12)
    packed = packed._replace(mass=None, extremes=None)
    assert sum(np.size(part) for part in packed if part is not None) < (free + 1) ** 2
    # Score products are in single precision, so that a round with them sends no more than that in bytes.
    more = round_statistics(rows, model, coordinates, GAUSSIAN, scores=True)
    more = more._replace(mass=None, extremes=None)
    assert sum(np.asarray(part).nbytes for part in more if part is not None) < 8 * (free + 1) ** 2


# The steps.


@pytest.mark.parametrize("seed", range(6))
def test_from_random_models_the_objective_rises_to_a_maximum(seed: int) -> None:
    rows, _ = simulated(3_000, 3, 1)
    state, infos = ascend(rows, random_model(np.random.default_rng(seed), 3, 3))
    kept = [info.objective for info in infos if info.accepted]
    assert infos[0].accepted
    assert all(b >= a for a, b in itertools.pairwise(kept))
    assert state.converged
    assert state.accepted is not None
    assert objective_of(rows, state) == pytest.approx(state.accepted.statistics.value, rel=1e-10)
    _, gradient, information, *_ = state.accepted.statistics
    assert np.linalg.eigvalsh(information)[0] > 0
    assert gradient @ np.linalg.solve(information, gradient) < 2e-4


def test_a_step_free_of_saddles_is_newtons_where_the_objective_is_concave() -> None:
    rows, truth = simulated(3_000, 3, 1)
    coordinates, prior = setting(rows, 3)
    inner = coordinates.from_data(truth)
    raw = unpack_statistics(round_statistics(rows, truth, coordinates, GAUSSIAN), Layout.of(inner))
    state = NewtonState(inner, penalized(raw, inner, prior), 0.0)
    step, predicted = LevenbergSteps(state.statistics, Layout.of(inner)).step(0.0)
    newton, gain, damping = damped_step(state)
    assert damping == 0.0
    np.testing.assert_allclose(step, newton, rtol=1e-5, atol=1e-7)
    assert predicted == pytest.approx(gain, rel=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_a_step_free_of_saddles_ascends_where_the_objective_is_not_concave(seed: int) -> None:
    rows, _ = simulated(3_000, 3, 1)
    coordinates, prior = setting(rows, 3)
    model = random_model(np.random.default_rng(seed), 3, 3)
    inner = coordinates.from_data(model)
    raw = unpack_statistics(round_statistics(rows, model, coordinates, GAUSSIAN), Layout.of(inner))
    statistics = penalized(raw, inner, prior)
    assert np.linalg.eigvalsh(statistics.information)[0] < 0
    step, predicted = LevenbergSteps(statistics, Layout.of(inner)).step(0.03)
    assert predicted > 0
    assert statistics.gradient @ step > 0
    small = 1e-4 / max(1.0, float(np.abs(step).max()))
    moved = Layout.of(inner).shift(inner, small * step)
    assert objective_at(rows, moved, coordinates, prior) > statistics.value


@pytest.mark.parametrize("weighted", [False, True])
def test_the_gain_of_an_em_step_is_that_of_its_bound(weighted: bool, rng: np.random.Generator) -> None:
    """Expected complete log-likelihood less the whole penalty, with few rows, where the prior is heard."""
    rows, model = random_rows(rng, 12, 2, weighted=weighted), random_model(rng, 3, 2)
    coordinates, prior = setting(rows, 3)
    inner = coordinates.from_data(model)
    raw = likelihood_statistics(inner, rows.blocks(coordinates), GAUSSIAN)
    # So much damping leaves the gates where they are: their bound is no parabola.
    step, gain = em_step(NewtonState(inner, penalized(raw, inner, prior), 0.0), prior, 1e12, GAUSSIAN)
    moved = Layout.of(inner).shift(inner, step)
    block = next(iter(rows.blocks(coordinates)))
    tau = np.stack([posterior(inner, u[1:], v) for u, v in zip(block.design.T, block.response, strict=True)])
    weight = np.ones(12) if rows.weight is None else rows.weight

    def bound(parameters: MoEParameters) -> float:
        means, scales = parameters.coef[:, 0] @ block.design, np.sqrt(parameters.nuisance)
        expected = np.sum(weight * tau.T * norm.logpdf(block.response, means, scales))
        return float(expected - prior.penalty(*parameters))

    assert gain > 1.0
    assert gain == pytest.approx(bound(moved) - bound(inner), rel=1e-6)


@pytest.mark.parametrize("seed", range(4))
def test_a_bounded_step_of_em_never_falls(seed: int) -> None:
    """Nor does one with a row so far out that its gates are switches, where Newton's step of them is wild."""
    rng = np.random.default_rng(seed)
    rows = random_rows(rng, 400, 2, weighted=False)
    rows.features[0] *= 300.0
    coordinates, prior = setting(rows, 3)
    inner = coordinates.from_data(random_model(rng, 3, 2))
    for _ in range(5):
        raw = likelihood_statistics(inner, rows.blocks(coordinates), GAUSSIAN)
        state = NewtonState(inner, penalized(raw, inner, prior), 0.0)
        step, gain = em_step(state, prior, 1.0, GAUSSIAN, bounded=True)
        inner = Layout.of(inner).shift(inner, step)
        assert gain >= 0.0
        assert objective_at(rows, inner, coordinates, prior) >= state.statistics.value + gain - 1e-6


def test_where_ems_step_is_the_better_one_it_leads() -> None:
    """It is the next trial and those after it, damped steps of all lengths beside it."""
    rows = with_rare_levels(0)
    coordinates, prior = setting(rows, 3)
    state = first_state(random_model(np.random.default_rng(3), 3, 13), coordinates)
    led = 0
    for _ in range(40):
        before = state
        state, info = advance(state, round_of(rows, state, coordinates), prior, GAUSSIAN)
        if before.by_em and state.by_em and info.accepted:
            assert [other.damping for other in state.others][: len(REFINEMENT.ladder)] == [*REFINEMENT.ladder]
            led += 1
        if state.stopped:
            break
    assert state.converged
    assert led > 0


def hopeless_starts() -> dict[str, MoEParameters]:
    zero, one = np.zeros((3, 4)), np.ones((3, 4))
    _, truth = simulated(10, 3, 1)
    twins = truth.take(np.array([0, 1, 1]))
    return {
        "all experts equal": gaussian_model(zero, zero, np.full(3, 50.0)),
        "two experts equal": twins,
        "means far off, no variance": gaussian_model(zero, 1e3 * one, np.full(3, 1e-3)),
        "an expert that has no rows": truth._replace(gate=truth.gate - np.array([[60.0], [0], [0]])),
        "variances far too large": truth._replace(nuisance=np.full((3, 1), 1e8)),
    }


@pytest.mark.parametrize("name", list(hopeless_starts()))
def test_saddles_and_starts_far_away_are_left_in_a_few_rounds(name: str) -> None:
    """Where neither Newton nor a quadratic model of the variances moves: curvature and EM do."""
    rows, truth = simulated(3_000, 3, 1)
    best = objective_of(rows, ascend(rows, truth)[0])
    state, infos = ascend(rows, hopeless_starts()[name])
    kept = [info.objective for info in infos if info.accepted]
    assert all(b >= a for a, b in itertools.pairwise(kept))
    assert state.converged
    assert len(infos) <= 50
    assert objective_of(rows, state) == pytest.approx(best, rel=0, abs=1e-4)


def test_a_round_at_the_optimum_is_the_last() -> None:
    rows, truth = simulated(3_000, 2, 3)
    state, infos = ascend(rows, truth)
    assert state.converged
    assert len(infos) <= 4
    assert state.accepted is not None
    coordinates, _ = setting(rows, 2)
    _, again = ascend(rows, coordinates.to_data(state.accepted.parameters))
    assert len(again) == 1


def test_a_trial_that_falls_is_not_kept() -> None:
    rows, truth = simulated(500, 2, 3)
    coordinates, prior = setting(rows, 2)
    state, _ = advance(
        first_state(truth, coordinates), round_statistics(rows, truth, coordinates, GAUSSIAN), prior, GAUSSIAN
    )
    assert state.accepted is not None
    bad = state.trial._replace(coef=state.trial.coef + 5.0)
    packed = round_statistics(rows, coordinates.to_data(bad), coordinates, GAUSSIAN)
    after, info = advance(state._replace(trial=bad), packed, prior, GAUSSIAN)
    assert not info.accepted
    assert after.accepted is not None
    assert after.damping > state.damping
    np.testing.assert_array_equal(after.accepted.parameters.coef, state.accepted.parameters.coef)
    lost, info = advance(state, packed._replace(value=np.nan), prior, GAUSSIAN)
    assert not info.accepted
    assert lost.accepted is not None
    np.testing.assert_array_equal(lost.accepted.parameters.coef, state.accepted.parameters.coef)


def test_one_expert_is_least_squares_in_one_step(rng: np.random.Generator) -> None:
    rows = random_rows(rng, 400, 3, weighted=True)
    state, infos = ascend(rows, gaussian_model(np.zeros((1, 4)), np.zeros((1, 4)), np.ones(1)))
    assert state.converged
    assert len(infos) <= 10
    coordinates, _ = setting(rows, 1)
    assert state.accepted is not None
    found = coordinates.to_data(state.accepted.parameters)
    assert rows.weight is not None
    root = np.sqrt(rows.weight)
    design = np.column_stack([np.ones(400), rows.features])
    coef, residual, *_ = np.linalg.lstsq(design * root[:, None], rows.response * root)
    np.testing.assert_allclose(found.coef[0, 0], coef, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(found.nuisance[:, 0], residual / rows.weight.sum(), rtol=2e-3)


def with_rare_levels(seed: int) -> Observations:
    """Experts with small variances, and ten dummies that one to five rows of 2,000 have."""
    rng = np.random.default_rng(seed)
    design = draw_design("overlap", 3, 3, rng)
    features, response = sample_rows(design, 2_000, rng)
    levels = np.zeros((2_000, 10))
    for j in range(10):
        levels[rng.choice(2_000, 1 + j % 5, replace=False), j] = 1.0
    return Observations(np.hstack([features, levels]), response)


@pytest.mark.parametrize("seed", range(2))
def test_rare_levels_do_not_hold_up_convergence(seed: int) -> None:
    rows = with_rare_levels(seed)
    truth = draw_design("overlap", 3, 3, np.random.default_rng(seed)).parameters
    none = np.zeros((3, 10))
    start = gaussian_model(
        np.hstack([truth.gate, none]), np.hstack([truth.coef[:, 0], none]), truth.nuisance[:, 0]
    )
    state, infos = ascend(rows, start, 31)
    kept = [info.objective for info in infos if info.accepted]
    assert all(b >= a for a, b in itertools.pairwise(kept))
    assert state.converged
    assert len(infos) <= 30


def test_after_a_fall_the_next_point_is_one_that_is_known_to_rise() -> None:
    """What a round finds of the other points makes the next one's success certain."""
    rows = with_rare_levels(0)
    coordinates, prior = setting(rows, 3)
    state = first_state(random_model(np.random.default_rng(3), 3, 13), coordinates)
    seen = 0
    for _ in range(40):
        before = state
        state, info = advance(state, round_of(rows, state, coordinates), prior, GAUSSIAN)
        if before.accepted is not None and before.others and not info.accepted and not state.others:
            at = state.trial
            assert objective_at(rows, at, coordinates, prior) > before.accepted.statistics.value
            state, info = advance(state, round_of(rows, state, coordinates), prior, GAUSSIAN)
            assert info.accepted
            seen += 1
        if state.stopped:
            break
    assert seen > 0


def test_the_metric_is_above_the_complete_information() -> None:
    rows = with_rare_levels(0)
    coordinates, _ = setting(rows, 3)
    inner = coordinates.from_data(random_model(np.random.default_rng(1), 3, 13))
    found = likelihood_statistics(inner, rows.blocks(coordinates), GAUSSIAN, metric=True)
    assert found.metric is not None
    gap = np.linalg.eigvalsh(found.metric - found.complete)
    assert gap[0] >= -1e-9 * np.abs(found.metric).max()

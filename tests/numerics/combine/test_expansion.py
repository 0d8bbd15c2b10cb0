"""Expansions of partitions around a shared start: the step made from their sum, whatever the partitioning."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from daskmoe.numerics.base.layout import Layout
from daskmoe.numerics.base.observations import Observations, moments
from daskmoe.numerics.base.packed import unpack
from daskmoe.numerics.base.parameters import MoEParameters
from daskmoe.numerics.base.policies import EXPANSION
from daskmoe.numerics.combine import expansion
from daskmoe.numerics.combine.expansion import Expansion, Pilot, expand_estimate, expand_estimates, make_pilot
from daskmoe.numerics.combine.one_step import combine_expansions
from daskmoe.numerics.combine.refinement import advance, first_state
from daskmoe.numerics.combine.round_sums import round_statistics
from daskmoe.numerics.likelihood.priors import Prior, prior_from
from daskmoe.numerics.likelihood.statistics import LikelihoodStatistics, likelihood_statistics
from daskmoe.numerics.predictive.designs import draw_design, sample_rows
from daskmoe.numerics.predictive.draws import sample_response
from numerics.oracles import GAUSSIAN, coordinates_of, gaussian_model, vector_of


@pytest.fixture(scope="module")
def rows() -> Observations:
    rng = np.random.default_rng(0)
    return Observations(*sample_rows(draw_design("overlap", 3, 3, rng), 6_000, rng))


@pytest.fixture(scope="module")
def optimum(rows: Observations) -> MoEParameters:
    rng = np.random.default_rng(0)
    start = draw_design("overlap", 3, 3, rng).parameters
    known = moments(rows)
    coordinates = coordinates_of(known)
    prior, state = prior_from(known, coordinates, 3, GAUSSIAN), first_state(start, coordinates)
    while not state.stopped:
        packed = round_statistics(rows, coordinates.to_data(state.trial), coordinates, GAUSSIAN)
        state, _ = advance(state, packed, prior, GAUSSIAN)
    assert state.converged
    assert state.accepted is not None
    return coordinates.to_data(state.accepted.parameters)


@pytest.fixture(scope="module")
def pilot(rows: Observations, optimum: MoEParameters) -> Pilot:
    """One standard error of 600 rows away from the optimum, in a random direction."""
    rng = np.random.default_rng(1)
    made = make_pilot(optimum, rows.take(np.arange(0, 6_000, 10)), GAUSSIAN)
    inner = made.coordinates.from_data(optimum)
    noise = np.linalg.solve(
        np.linalg.cholesky(made.information).T, rng.standard_normal(len(made.information))
    )
    moved = Layout.of(inner).shift(inner, noise)
    return make_pilot(made.coordinates.to_data(moved), rows.take(np.arange(0, 6_000, 10)), GAUSSIAN)


def combined_of(expansions: list[Expansion], pilot: Pilot, prior: Prior) -> MoEParameters:
    combined = combine_expansions(expansions, pilot, prior)
    assert combined is not None
    return combined.parameters


def test_no_variance_moves_by_orders_of_magnitude(rows: Observations, pilot: Pilot) -> None:
    prior = prior_from(moments(rows), pilot.coordinates, 3, GAUSSIAN)
    origin = vector_of(pilot.coordinates.from_data(pilot.parameters))
    information = np.eye(len(origin), dtype=np.float32)
    target = origin.copy()
    target[-1] -= 90.0
    packed = information[np.triu_indices(len(origin))]
    combined = combine_expansions([Expansion(1e6 * packed, 1e6 * target)], pilot, prior)
    assert combined is not None
    found = combined.parameters
    moved = vector_of(pilot.coordinates.from_data(found)) - origin
    assert moved[-1] == pytest.approx(-2.0)
    np.testing.assert_allclose(moved[:-1], 0.0, atol=1e-3)


def test_the_weight_of_a_pilot_is_never_negative(rows: Observations, optimum: MoEParameters) -> None:
    # Away from an optimum the observed information has no definite sign.
    few = rows.take(np.arange(40))
    away = optimum._replace(coef=optimum.coef[::-1])
    coordinates = coordinates_of(moments(few))
    plain = likelihood_statistics(coordinates.from_data(away), few.blocks(coordinates), GAUSSIAN).information
    scale = np.sqrt(np.abs(np.diag(plain)))
    values = np.linalg.eigvalsh(plain / np.outer(scale, scale))
    assert values[0] < -0.01
    added = (make_pilot(away, few, GAUSSIAN).information - plain) / np.outer(scale, scale)
    # All that it adds is the negative part, in the scale of the diagonal.
    np.testing.assert_allclose(np.linalg.eigvalsh(added)[::-1], -values.clip(None, 0.0), atol=1e-9)


def parts(rows: Observations, number: int, *, by_feature: bool) -> list[Observations]:
    order = np.argsort(rows.features[:, 0]) if by_feature else np.arange(rows.n_rows)
    return [rows.take(index) for index in np.array_split(order, number)]


def excess(rows: Observations, model: MoEParameters | None, optimum: MoEParameters) -> float:
    assert model is not None
    coordinates = coordinates_of(moments(rows))
    values = [
        likelihood_statistics(coordinates.from_data(m), rows.blocks(coordinates), GAUSSIAN).value
        for m in (optimum, model)
    ]
    return (values[0] - values[1]) / rows.n_rows


@pytest.mark.parametrize("by_feature", [False, True])
@pytest.mark.parametrize("number", [1, 6, 60])
def test_the_sum_leads_close_to_the_optimum_however_rows_are_partitioned(
    rows: Observations, optimum: MoEParameters, pilot: Pilot, number: int, by_feature: bool
) -> None:
    prior = prior_from(moments(rows), pilot.coordinates, 3, GAUSSIAN)
    expansions = [
        expand_estimate(part, pilot, GAUSSIAN)[1] for part in parts(rows, number, by_feature=by_feature)
    ]
    combined = combine_expansions(expansions, pilot, prior)
    assert combined is not None
    found = combined.parameters
    assert excess(rows, pilot.parameters, optimum) > 1e-3
    assert excess(rows, found, optimum) < 1e-3


def test_an_expansion_is_the_statistics_where_the_partition_stopped(rows: Observations, pilot: Pilot) -> None:
    part = rows.take(np.arange(1_000))
    estimate, expansion = expand_estimate(part, pilot, GAUSSIAN)
    assert estimate.parameters is not None
    assert estimate.rows == 1_000
    inner = pilot.coordinates.from_data(estimate.parameters)
    there = likelihood_statistics(inner, part.blocks(pilot.coordinates), GAUSSIAN)
    information = unpack(expansion.information)
    scale = np.abs(there.information).max()
    np.testing.assert_allclose(information, there.information, rtol=0, atol=1e-5 * scale)
    theta = vector_of(inner)
    np.testing.assert_allclose(expansion.vector - information @ theta, there.gradient, rtol=0, atol=1e-4)
    offset = part.n_rows * pilot.coordinates.log_jacobian
    assert estimate.log_likelihood == pytest.approx(there.value - offset, rel=1e-10)


def test_an_estimate_says_whether_its_steps_converged(rows: Observations, pilot: Pilot) -> None:
    near, _ = expand_estimate(rows, pilot, GAUSSIAN)
    assert near.converged
    away = pilot.parameters._replace(coef=-3.0 * pilot.parameters.coef)
    weak = pilot._replace(parameters=away, information=1e-6 * pilot.information)
    far, _ = expand_estimate(rows, weak, GAUSSIAN)
    # A damped step that promises little is no maximum.
    assert not far.converged


def test_a_start_that_is_clearly_behind_takes_fewer_passes(rows: Observations, pilot: Pilot) -> None:
    part = rows.take(np.arange(1_000))
    # With little to hold it the way is longer.
    far = pilot._replace(
        parameters=pilot.parameters._replace(coef=-3.0 * pilot.parameters.coef),
        information=1e-6 * pilot.information,
    )
    (best, _), (behind, expansion) = expand_estimates(part, [pilot, far], GAUSSIAN)
    assert best.converged
    assert behind.passes == EXPANSION.passes_behind
    assert expansion.start is not None
    inner = far.coordinates.from_data(far.parameters)
    there = likelihood_statistics(inner, part.blocks(far.coordinates), GAUSSIAN)
    offset = part.n_rows * far.coordinates.log_jacobian
    assert expansion.start.log_likelihood == pytest.approx(there.value - offset, rel=1e-10)
    # Where it comes first nothing is known to be better.
    assert expand_estimate(part, far, GAUSSIAN)[0].passes > EXPANSION.passes_behind


def test_a_partition_with_few_rows_stays_near_the_start(rows: Observations, pilot: Pilot) -> None:
    estimate, _ = expand_estimate(rows.take(np.arange(5)), pilot, GAUSSIAN)
    assert estimate.parameters is not None
    inner = pilot.coordinates.from_data(estimate.parameters)
    moved = vector_of(inner) - vector_of(pilot.coordinates.from_data(pilot.parameters))
    assert np.all(np.isfinite(moved))
    assert moved @ pilot.information @ moved < 50


def test_no_sum_has_no_maximum_where_the_information_is_not_definite(
    pilot: Pilot, rows: Observations
) -> None:
    _, expansion = expand_estimate(rows.take(np.arange(500)), pilot, GAUSSIAN)
    prior = prior_from(moments(rows), pilot.coordinates, 3, GAUSSIAN)
    negative = expansion._replace(information=-1e3 * expansion.information)
    assert combine_expansions([negative], pilot, prior) is None


def test_a_sum_without_maximum_leans_on_the_pilot(
    pilot: Pilot, rows: Observations, optimum: MoEParameters
) -> None:
    prior = prior_from(moments(rows), pilot.coordinates, 3, GAUSSIAN)
    expansions = [expand_estimate(part, pilot, GAUSSIAN)[1] for part in parts(rows, 4, by_feature=False)]
    # One partition curves the other way in the direction that is known least.
    values, vectors = np.linalg.eigh(sum(unpack(e.information).astype(np.float64) for e in expansions))
    less = 1.1 * values[0] * np.outer(vectors[:, 0], vectors[:, 0])
    upper = np.triu_indices(len(less))
    start = vector_of(pilot.coordinates.from_data(pilot.parameters))
    expansions[0] = Expansion(
        (unpack(expansions[0].information) - less)[upper].astype(np.float32),
        expansions[0].vector - less @ start,
    )
    with pytest.raises(np.linalg.LinAlgError):
        np.linalg.cholesky(sum(unpack(e.information).astype(np.float64) for e in expansions))
    combined = combine_expansions(expansions, pilot, prior)
    assert combined is not None
    found = combined.parameters
    assert excess(rows, found, optimum) < excess(rows, pilot.parameters, optimum)


@pytest.mark.parametrize("width", [1e-2, 1e-3])
def test_narrow_sorted_chunks_in_single_precision_agree_with_double(
    width: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A change of regime within narrow chunks: what is known of it is what varies around their place."""
    rng = np.random.default_rng(0)
    x = np.sort(np.append(rng.uniform(-1.7, 1.7, 1_000), 1 + width * rng.uniform(-1, 1, 2_000)))
    features = np.column_stack([x, rng.standard_normal(x.size)])
    gate = np.array([[-4.0, 4.0, 0.0], [0.0, 0.0, 0.0]]) / width
    model = gaussian_model(gate, np.array([[2.0, 1.0, -1.0], [-1.0, -2.0, 0.5]]), np.full(2, 0.25))
    rows = Observations(features, sample_response(model, GAUSSIAN, features, rng))
    pilot = make_pilot(model, rows.take(np.arange(0, x.size, 4)), GAUSSIAN)
    chunks = [rows.take(np.arange(first, first + 50)) for first in range(0, x.size, 50)]
    prior = prior_from(moments(rows), pilot.coordinates, 2, GAUSSIAN)
    single = [expand_estimate(chunk, pilot, GAUSSIAN) for chunk in chunks]

    def in_double(*args: Any, precision: type, metric: bool) -> LikelihoodStatistics:
        return likelihood_statistics(*args, precision=np.float64, metric=metric)

    monkeypatch.setattr(expansion, "likelihood_statistics", in_double)
    double = [expand_estimate(chunk, pilot, GAUSSIAN) for chunk in chunks]
    assert [estimate.converged for estimate, _ in single] == [estimate.converged for estimate, _ in double]
    found, expected = (
        vector_of(
            pilot.coordinates.from_data(
                combine_expansions([sent for _, sent in each], pilot, prior).parameters
            )
        )
        for each in (single, double)
    )
    information = sum(unpack(sent.information).astype(float) for _, sent in double)
    # A hundredth of a standard error, in any direction.
    assert (found - expected) @ information @ (found - expected) < 1e-4

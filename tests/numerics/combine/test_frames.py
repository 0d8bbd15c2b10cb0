"""Directions that a pilot's sample did not see vary: added by the partitions that see them, by no other."""

from __future__ import annotations

import numpy as np
import pytest

from daskmoe.numerics.base.coordinates import unseen_directions
from daskmoe.numerics.base.layout import Layout
from daskmoe.numerics.base.observations import Observations, moments
from daskmoe.numerics.base.packed import unpack
from daskmoe.numerics.base.parameters import FloatArray
from daskmoe.numerics.combine.expansion import Expansion, Pilot, expand_estimate, make_pilot
from daskmoe.numerics.combine.frames import frame_of, no_frame, without_rare_levels
from daskmoe.numerics.combine.one_step import one_shots
from daskmoe.numerics.likelihood.statistics import likelihood_statistics
from numerics.oracles import GAUSSIAN, coordinates_of, gaussian_model

EFFECT = 20.0


def rows_with(rng: np.random.Generator, level: FloatArray) -> Observations:
    """Two experts on either side of zero in the first feature; the level of the third adds to both."""
    x = np.column_stack([rng.standard_normal((len(level), 2)), level])
    y = np.where(x[:, 0] > 0, 3 * x[:, 1], -x[:, 1]) + EFFECT * level
    return Observations(x, y + 0.1 * rng.standard_normal(len(level)))


def ones(n_rows: int, number: int) -> FloatArray:
    return (np.arange(n_rows) < number).astype(float)


@pytest.fixture
def pilot(rng: np.random.Generator) -> Pilot:
    """From rows without the level, where the truth has a slope of zero for it."""
    gate, coef = np.array([[0.0, 30.0, 0.0, 0.0], [0.0] * 4]), np.array([[0.0, 0, 3, 0], [0, 0, -1, 0]])
    return make_pilot(
        gaussian_model(gate, coef, np.array([0.01, 0.01])), rows_with(rng, np.zeros(800)), GAUSSIAN
    )


def test_seen_and_unseen_directions_are_all_there_are(rng: np.random.Generator) -> None:
    x = rng.standard_normal((100, 6)) * np.array([1.0, 1e6, 1e-6, 1.0, 1.0, 1.0])
    x[:, 1], x[:, 3], x[:, 5] = 3e5, 2 * x[:, 0] - x[:, 4] + 1e3, 0.0
    known = moments(Observations(x, np.zeros(100)))
    seen = coordinates_of(known)
    unseen = unseen_directions(known, seen)
    assert (len(seen.transform), len(unseen.transform)) == (3, 3)
    transform = np.concatenate([seen.transform, unseen.transform])
    inverse = np.concatenate([seen.inverse, unseen.inverse], axis=1)
    np.testing.assert_allclose(transform @ inverse, np.eye(6), atol=1e-7)
    assert frame_of(seen, unseen, known).coordinates is seen


@pytest.mark.parametrize("case", ["no features", "all constant", "one row"])
def test_degenerate_samples(case: str, rng: np.random.Generator) -> None:
    shape = {"no features": (8, 0), "one row": (1, 3), "all constant": (8, 3)}[case]
    rows = Observations(np.ones(shape), rng.standard_normal(shape[0]))
    known = moments(without_rare_levels(rows))
    unseen = unseen_directions(known, coordinates_of(known))
    np.testing.assert_allclose(unseen.transform @ unseen.inverse, np.eye(shape[1]), atol=1e-12)


def test_a_frame_has_what_its_rows_see(pilot: Pilot, rng: np.random.Generator) -> None:
    rows = rows_with(rng, ones(300, 4))
    frame = frame_of(pilot.coordinates, pilot.unseen, moments(rows))
    assert frame.added == 1
    added = np.concatenate([block.design[-1] for block in rows.blocks(frame.coordinates)])
    assert np.mean(added**2) == pytest.approx(1.0)
    inner = frame.coordinates.from_data(pilot.parameters)
    layout = Layout.of(inner)
    both = frame.from_whole(layout) @ frame.to_whole(layout)
    np.testing.assert_allclose(both.toarray(), np.eye(layout.size), atol=1e-12)
    assert frame.whole(layout).size == layout.size == pilot.information.shape[0] + 3
    assert np.flatnonzero(frame.is_added(layout)).tolist() == [3, 7, 11]
    held = frame.from_pilot(pilot.information, layout)
    np.testing.assert_array_equal(held[[3, 7, 11]], 0.0)
    np.testing.assert_array_equal(np.delete(np.delete(held, [3, 7, 11], 0), [3, 7, 11], 1), pilot.information)


@pytest.mark.parametrize(("n_predictors", "n_nuisances"), [(1, 0), (2, 0), (2, 2)])
def test_frames_of_any_predictors_and_nuisances(
    n_predictors: int, n_nuisances: int, pilot: Pilot, rng: np.random.Generator
) -> None:
    frame = frame_of(pilot.coordinates, pilot.unseen, moments(rows_with(rng, ones(300, 4))))
    layout = Layout(3, 4, 4, n_predictors, n_nuisances)
    both = frame.from_whole(layout) @ frame.to_whole(layout)
    np.testing.assert_allclose(both.toarray(), np.eye(layout.size), atol=1e-12)
    assert np.count_nonzero(frame.is_added(layout)) == layout.vectors


def test_rows_that_all_have_another_value_see_the_direction(pilot: Pilot, rng: np.random.Generator) -> None:
    frame = frame_of(pilot.coordinates, pilot.unseen, moments(rows_with(rng, np.ones(50))))
    assert frame.added == 1


def test_an_expansion_is_in_whole_parameters(pilot: Pilot, rng: np.random.Generator) -> None:
    """The quadratic form of whole parameters is that of the frame at what the frame sees of them."""
    rows = rows_with(rng, ones(400, 12))
    estimate, expansion = expand_estimate(rows, pilot, GAUSSIAN)
    assert estimate.parameters is not None
    frame = frame_of(pilot.coordinates, pilot.unseen, moments(rows))
    inner = frame.coordinates.from_data(estimate.parameters)
    there = likelihood_statistics(inner, rows.blocks(frame.coordinates), GAUSSIAN)
    layout = Layout.of(inner)
    whole = rng.standard_normal(frame.whole(layout).size)
    seen = frame.from_whole(layout) @ whole
    form = whole @ unpack(expansion.information).astype(float) @ whole
    assert form == pytest.approx(seen @ there.information @ seen, rel=1e-5)


def test_a_partition_says_nothing_of_what_it_does_not_see(pilot: Pilot, rng: np.random.Generator) -> None:
    estimate, expansion = expand_estimate(rows_with(rng, np.zeros(300)), pilot, GAUSSIAN)
    assert estimate.parameters is not None
    np.testing.assert_array_equal(estimate.parameters.coef[..., 3], 0.0)
    information = unpack(expansion.information)
    np.testing.assert_array_equal(information[[3, 7, 11]], 0.0)
    np.testing.assert_array_equal(expansion.vector[[3, 7, 11]], 0.0)


def test_a_level_that_few_partitions_have(pilot: Pilot, rng: np.random.Generator) -> None:
    """Its rows are hundreds of deviations from both experts; each of these finds its own."""
    parts = [rows_with(rng, ones(500, number)) for number in (0, 8, 0, 5, 9)]
    expansions = [expand_estimate(part, pilot, GAUSSIAN)[1] for part in parts]
    together = Observations(
        np.concatenate([part.features for part in parts]), np.concatenate([part.response for part in parts])
    )
    found, *_ = one_shots(expansions, pilot, moments(together), GAUSSIAN)
    # Least squares of each expert's rows, which next to no row leaves in doubt.
    for k, side in enumerate((1, -1)):
        own = np.flatnonzero(side * together.features[:, 0] > 0)
        design = np.column_stack([np.ones(len(own)), together.features[own]])
        expected = np.linalg.lstsq(design, together.response[own])[0][3]
        error = 0.1 * np.sqrt(np.linalg.inv(design.T @ design)[3, 3])
        assert abs(found.coef[k, 0, 3] - expected) < 0.2 * error


def test_what_no_rows_see_has_a_slope_of_zero(pilot: Pilot, rng: np.random.Generator) -> None:
    parts = [rows_with(rng, np.zeros(500)) for _ in range(2)]
    expansions = [expand_estimate(part, pilot, GAUSSIAN)[1] for part in parts]
    pooled = moments(Observations(np.concatenate([p.features for p in parts]), np.zeros(1000)))
    found, *_ = one_shots(expansions, pilot, pooled, GAUSSIAN)
    np.testing.assert_array_equal(found.coef[..., 3], 0.0)
    np.testing.assert_array_equal(found.gate[:, 3], 0.0)


def test_without_a_maximum_in_the_direction_the_others_stand(pilot: Pilot, rng: np.random.Generator) -> None:
    rows = rows_with(rng, ones(400, 12))
    _, expansion = expand_estimate(rows, pilot, GAUSSIAN)
    information = unpack(expansion.information)
    information[7, 7] = -1e9
    negative = Expansion(information[np.triu_indices(len(information))], expansion.vector)
    found, *_ = one_shots([negative], pilot, moments(rows), GAUSSIAN)
    np.testing.assert_array_equal(found.coef[..., 3], 0.0)
    assert no_frame(pilot.coordinates, pilot.unseen).added == 0


def test_without_a_maximum_in_the_direction_its_rows_still_tell(
    pilot: Pilot, rng: np.random.Generator
) -> None:
    """Gates of a level that one expert has are steep: the observed information is not definite there."""
    rows = rows_with(rng, ones(400, 12))
    _, expansion = expand_estimate(rows, pilot, GAUSSIAN)
    information = unpack(expansion.information)
    assert expansion.start is not None
    own = np.abs(unpack_complete(expansion)[3, 3])
    less = information[3, 3] + 0.5 * own
    information[3, 3] -= less
    vector = expansion.vector.copy()
    origin = np.linalg.solve(unpack(expansion.start.information).astype(np.float64), expansion.start.pulled)
    vector[3] -= less * origin[3]
    negative = expansion._replace(information=information[np.triu_indices(len(information))], vector=vector)
    found, *_ = one_shots([negative], pilot, moments(rows), GAUSSIAN)
    np.testing.assert_allclose(found.coef[..., 3], EFFECT, atol=0.3)


def unpack_complete(expansion: Expansion) -> FloatArray:
    """The complete data's information where a partition with two experts and four columns started."""
    assert expansion.start is not None
    layout = Layout(2, 4, 4, 1, 1)
    out = np.zeros((layout.size, layout.size))
    out[layout.complete()] = expansion.start.complete
    return out


def test_rows_of_rare_levels_are_no_part_of_a_sample(rng: np.random.Generator) -> None:
    level, usual = ones(1_000, 1)[::-1], (rng.random(1_000) < 0.1).astype(float)
    rows = Observations(np.column_stack([rng.standard_normal(1_000), level, usual]), np.zeros(1_000))
    found = without_rare_levels(rows)
    assert found.n_rows == 999
    assert not found.features[:, 1].any()
    plain = Observations(np.column_stack([rng.standard_normal(1_000), usual]), np.zeros(1_000))
    assert without_rare_levels(plain) is plain


def test_many_rare_levels_leave_most_of_a_sample() -> None:
    features = np.eye(2_000)[:, :400] * 3.0
    found = without_rare_levels(Observations(features, np.zeros(2_000)))
    assert found.n_rows == 1_900

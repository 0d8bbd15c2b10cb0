"""Steps from the shared start: exact sums there, with slopes of what it does not know beside it."""

from __future__ import annotations

import numpy as np
import pytest

from daskmoe.numerics.base.layout import Layout
from daskmoe.numerics.base.observations import Observations, moments
from daskmoe.numerics.base.parameters import FloatArray, MoEParameters
from daskmoe.numerics.combine.expansion import Pilot, expand_estimate, make_pilot
from daskmoe.numerics.combine.first_step import AtStart, StartSums, first_steps
from daskmoe.numerics.combine.frames import Frame
from daskmoe.numerics.combine.one_step import frames_of
from daskmoe.numerics.likelihood.priors import Prior, prior_from
from daskmoe.numerics.likelihood.statistics import likelihood_statistics, log_likelihood_of
from numerics.oracles import GAUSSIAN, gaussian_model

EFFECT = 20.0
KINDS = ["Newton step", "damped step", "short step", "EM step", "sure step"]


def rows_with(rng: np.random.Generator, level: FloatArray) -> Observations:
    """Two experts on either side of zero in the first feature; the level of the third adds to both."""
    x = np.column_stack([rng.standard_normal((len(level), 2)), level])
    second = rng.random(len(level)) < 1.0 / (1.0 + np.exp(-4.0 * x[:, 0]))
    y = np.where(second, 3 * x[:, 1], -x[:, 1]) + EFFECT * level
    return Observations(x, y + 0.3 * rng.standard_normal(len(level)))


@pytest.fixture
def pilot(rng: np.random.Generator) -> Pilot:
    """Near the truth, from rows without the level."""
    gate, coef = np.array([[0.0, 3.0, 0.0, 0.0], [0.0] * 4]), np.array([[0.02, 0, 2.98, 0], [0, 0, -1, 0]])
    return make_pilot(
        gaussian_model(gate, coef, np.array([0.1, 0.1])), rows_with(rng, np.zeros(800)), GAUSSIAN
    )


def sent(parts: list[Observations], pilot: Pilot) -> list[AtStart]:
    found = [expand_estimate(part, pilot, GAUSSIAN)[1].start for part in parts]
    return [start for start in found if start is not None]


def together(parts: list[Observations]) -> Observations:
    return Observations(
        np.concatenate([part.features for part in parts]), np.concatenate([part.response for part in parts])
    )


def setting(rows: Observations, pilot: Pilot) -> tuple[Frame, Layout, Prior]:
    frame = frames_of(pilot, moments(rows))[0]
    layout = Layout.of(frame.coordinates.from_data(pilot.parameters))
    return frame, layout, prior_from(moments(rows), frame.coordinates, 2, GAUSSIAN)


def parts_with(rng: np.random.Generator, counts: tuple[int, ...]) -> list[Observations]:
    return [rows_with(rng, (np.arange(500) < count).astype(float)) for count in counts]


@pytest.mark.parametrize("counts", [(0, 0, 0), (9,)])
def test_sums_are_those_of_all_rows_where_partitions_start_in_one_point(
    counts: tuple[int, ...], pilot: Pilot, rng: np.random.Generator
) -> None:
    parts = parts_with(rng, counts)
    rows = together(parts)
    frame, layout, _ = setting(rows, pilot)
    assert frame.added == (max(counts) > 0)
    sums = StartSums.of(sent(parts, pilot), pilot.parameters, frame)
    there = likelihood_statistics(
        layout.unpack(sums.origin), rows.blocks(frame.coordinates), GAUSSIAN, metric=True
    )
    scale = np.abs(there.complete).max()
    for name in ("information", "complete", "metric"):
        np.testing.assert_allclose(getattr(sums, name), getattr(there, name), rtol=0, atol=1e-5 * scale)
    for gradient in (sums.gradient, sums.bound):
        np.testing.assert_allclose(gradient, there.gradient, rtol=0, atol=1e-5 * scale)


@pytest.mark.parametrize("counts", [(0, 0, 0), (0, 8, 0, 5, 9)])
def test_every_step_rises(counts: tuple[int, ...], pilot: Pilot, rng: np.random.Generator) -> None:
    parts = parts_with(rng, counts)
    rows = together(parts)
    frame, layout, prior = setting(rows, pilot)
    sums = StartSums.of(sent(parts, pilot), pilot.parameters, frame)
    steps = first_steps(sums, layout, frame.coordinates, prior, GAUSSIAN)
    assert list(steps) == KINDS

    def objective(parameters: MoEParameters) -> float:
        inner = frame.coordinates.from_data(parameters)
        return log_likelihood_of(inner, rows.blocks(frame.coordinates), GAUSSIAN) - float(
            prior.penalty(*inner)
        )

    for parameters in steps.values():
        assert objective(parameters) > objective(pilot.parameters)


def test_steps_know_a_level_that_few_partitions_have(pilot: Pilot, rng: np.random.Generator) -> None:
    """Its rows are sixty deviations from every expert of the shared start."""
    parts = parts_with(rng, (0, 8, 0, 5, 9))
    rows = together(parts)
    frame, layout, prior = setting(rows, pilot)
    sums = StartSums.of(sent(parts, pilot), pilot.parameters, frame)
    steps = first_steps(sums, layout, frame.coordinates, prior, GAUSSIAN)
    for kind in ("Newton step", "EM step"):
        np.testing.assert_allclose(steps[kind].coef[..., 3], EFFECT, atol=0.5)


def test_one_step_rises_whatever_a_row_says(pilot: Pilot, rng: np.random.Generator) -> None:
    """A row far from all others is most of the gradient, and the quadratic model of it is wrong."""
    parts = parts_with(rng, (0, 0))
    parts[0].features[0, 1] = 200.0
    rows = together(parts)
    frame, layout, prior = setting(rows, pilot)
    sums = StartSums.of(sent(parts, pilot), pilot.parameters, frame)
    step = first_steps(sums, layout, frame.coordinates, prior, GAUSSIAN)["sure step"]
    before, after = (
        log_likelihood_of(inner, rows.blocks(frame.coordinates), GAUSSIAN) - float(prior.penalty(*inner))
        for inner in map(frame.coordinates.from_data, (pilot.parameters, step))
    )
    assert after > before

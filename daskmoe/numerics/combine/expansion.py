"""Second-order aggregation: what a partition says about shared parameters (`one_step` takes the step).

Pure NumPy/SciPy. All partitions work in one set of coordinates, so labels never switch. A partition that
starts at the shared point theta_0 with the weak prior (theta - theta_0)' J (theta - theta_0) / 2, J the
information of the sample that theta_0 was fitted to, moves to its own optimum theta_m and returns its
log-likelihood's expansion there: information I_m and I_m theta_m + gradient_m.
Directions that the pilot's sample did not see vary are added for the rows that do (`frames`); the sample's
information says nothing of them.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from daskmoe.numerics.base.coordinates import Coordinates, Directions, coordinates_from, unseen_directions
from daskmoe.numerics.base.layout import Layout
from daskmoe.numerics.base.linalg import diagonal_scale
from daskmoe.numerics.base.observations import Observations, moments
from daskmoe.numerics.base.packed import unpack
from daskmoe.numerics.base.parameters import FloatArray, LocalEstimate, MoEParameters, Moments
from daskmoe.numerics.base.policies import DEFAULTS, EXPANSION, NEWTON, QUASI_NEWTON, Regularization
from daskmoe.numerics.combine.first_step import AtStart, Packed, add_starts, at_start
from daskmoe.numerics.combine.frames import Frame, frame_of, no_frame, shifted_to_residuals
from daskmoe.numerics.families import Family
from daskmoe.numerics.likelihood.inference import Curvature, curvature, is_definite
from daskmoe.numerics.likelihood.priors import Prior, prior_from
from daskmoe.numerics.likelihood.statistics import (
    LikelihoodStatistics,
    likelihood_statistics,
    penalized,
    slopes_of,
)
from daskmoe.numerics.local.ascents import of_many
from daskmoe.numerics.local.newton import NewtonState, damped_step
from daskmoe.numerics.local.quasi_newton import climb


class Pilot(NamedTuple):
    """A shared start."""

    # In the data's coordinates.
    parameters: MoEParameters
    # Those in which every partition works.
    coordinates: Coordinates
    # (P, P): Observed information of the pilot's sample, without its negative part if it has one.
    information: FloatArray
    # Size of that sample.
    rows: int
    # The penalty of that sample, in these coordinates: partitions share its floor.
    prior: Prior
    # Those that the sample did not see vary.
    unseen: Directions
    # Of the sample.
    moments: Moments


class Expansion(NamedTuple):
    """A partition's log-likelihood to second order, in whole parameters, with all directions of features.

    From a shared start those of partitions add up.
    """

    # (P (P + 1) / 2,): Packed I_m. It only weighs ``vector``, which is formed from the same rounded numbers.
    information: Packed
    # (P,): I_m theta_m + gradient_m.
    vector: FloatArray
    # Where it started, if that is a shared start.
    start: AtStart | None = None


def add_expansions(first: Expansion, second: Expansion) -> Expansion:
    """Of the union of two sets of rows that started in one point, in double precision."""
    start = None
    if first.start is not None and second.start is not None:
        start = add_starts(first.start, second.start)
    information = np.asarray(first.information, dtype=np.float64) + second.information
    return Expansion(information, first.vector + second.vector, start)


def make_pilot(
    parameters: MoEParameters,
    sample: Observations,
    family: Family,
    regularization: Regularization = DEFAULTS,
) -> Pilot:
    """The shared start from a model fitted to ``sample``."""
    known = moments(sample)
    coordinates = coordinates_from(known, family.scaling(known))
    inner = coordinates.from_data(parameters)
    # It weighs deviations from the start; of many parameters its products are what a pilot costs.
    precision = np.float32 if of_many(inner) else np.float64
    blocks = sample.blocks(coordinates)
    information = likelihood_statistics(inner, blocks, family, precision=precision).information
    unseen = unseen_directions(known, coordinates)
    prior = prior_from(known, coordinates, parameters.n_experts, family, regularization)
    held = semidefinite(information)
    return Pilot(parameters, coordinates, held, sample.n_rows, prior, unseen, known)


def semidefinite(matrix: FloatArray) -> FloatArray:
    """The matrix without its negative part: what weighs deviations from a start must not reward any."""
    if is_definite(matrix):
        return matrix
    scale = diagonal_scale(matrix)
    outer = np.outer(scale, scale)
    values, vectors = np.linalg.eigh(matrix / outer)
    if values[0] >= 0.0:
        return matrix
    return np.asarray((vectors * values.clip(0.0)) @ vectors.T * outer)


class _Start(NamedTuple):
    """Where a partition starts, and the quadratic prior around it."""

    parameters: MoEParameters
    frame: Frame
    # (P, P): Information of the prior.
    weight: FloatArray


def expand_estimates(
    rows: Observations, pilots: Sequence[Pilot], family: Family, row_moments: Moments | None = None
) -> list[tuple[LocalEstimate, Expansion]]:
    """A partition's estimate from each shared start, and its expansion there.

    One that is clearly worse on these rows than one before it takes fewer passes: it is seldom the best of
    all rows, and where it is, other partitions know the way from there. ``row_moments`` are those of
    ``rows``, where they are known already.
    """
    known = moments(rows) if row_moments is None else row_moments
    answers, best = [], -np.inf
    for pilot in pilots:
        found = _expand(rows, pilot, family, known, best - EXPANSION.behind * known.weight)
        answers.append(found[:2])
        best = max(best, found.at_start)
    return answers


def expand_estimate(
    rows: Observations, pilot: Pilot, family: Family, row_moments: Moments | None = None
) -> tuple[LocalEstimate, Expansion]:
    """`expand_estimates` of a single start."""
    return expand_estimates(rows, [pilot], family, row_moments)[0]


class _Expanded(NamedTuple):
    """A partition's estimate from a shared start, its expansion, and its log-likelihood at the start."""

    estimate: LocalEstimate
    expansion: Expansion
    at_start: float


def _expand(rows: Observations, pilot: Pilot, family: Family, known: Moments, least: float) -> _Expanded:
    """From a start, with few passes where the log-likelihood there is under ``least``.

    The estimate's objective is the log-likelihood less the quadratic prior around the start and the floor.
    """
    began = time.perf_counter()
    start = _start(rows, pilot, family, known)
    coordinates = start.frame.coordinates
    own = _OwnRows.of(rows, coordinates, known, family)
    first = own.statistics(start.parameters, metric=True)
    known_there = at_start(first, start.parameters, start.frame)
    reached = known_there.log_likelihood
    most = EXPANSION.passes if reached >= least else EXPANSION.passes_behind
    ascend = _climb if of_many(start.parameters) else _ascend
    raw, state, passes, converged = ascend(own, first, start, pilot.prior, most)
    assert raw.mass is not None
    offset = raw.weight * coordinates.log_jacobian
    estimate = LocalEstimate(
        parameters=coordinates.to_data(state.parameters),
        rows=rows.n_rows,
        dropped_rows=0,
        weight=raw.weight,
        log_likelihood=raw.value - offset,
        objective=state.statistics.value - offset,
        entropy=float("nan"),
        passes=passes,
        converged=converged,
        start_log_likelihoods=np.empty(0),
        expert_weights=raw.mass,
        seconds=time.perf_counter() - began,
    )
    expansion = expansion_of(raw, state.parameters, start.frame)
    return _Expanded(estimate, expansion._replace(start=known_there), reached)


def expansion_of(
    raw: LikelihoodStatistics,
    parameters: MoEParameters,
    frame: Frame | None = None,
    precision: type = np.float32,
) -> Expansion:
    """The expansion around parameters with these statistics; of a frame, in whole parameters."""
    layout = Layout.of(parameters)
    theta, information, gradient = layout.pack(parameters), raw.information, raw.gradient
    if frame is not None and frame.n_unseen:
        back = frame.from_whole(layout)
        theta, gradient = frame.to_whole(layout) @ theta, back.T @ gradient
        information, layout = back.T @ information @ back, frame.whole(layout)
    packed: Packed = information[layout.upper()].astype(precision)
    return Expansion(packed, unpack(packed).astype(np.float64) @ theta + gradient)


def _start(rows: Observations, pilot: Pilot, family: Family, known: Moments) -> _Start:
    """The pilot, in the frame of a partition's rows."""
    if pilot.unseen.none:
        frame = no_frame(pilot.coordinates, pilot.unseen)
        return _Start(pilot.coordinates.from_data(pilot.parameters), frame, pilot.information)
    frame = frame_of(pilot.coordinates, pilot.unseen, known)
    parameters = frame.coordinates.from_data(pilot.parameters)
    if frame.added == 0:
        return _Start(parameters, frame, pilot.information)
    layout = Layout.of(parameters)
    weight = frame.from_pilot(pilot.information, layout)
    # The sample says nothing of these directions, and few rows may leave them open: a pseudo-row holds them.
    added = frame.is_added(layout)
    prior = prior_from(known, frame.coordinates, layout.n_experts, family)
    weight += np.where(np.outer(added, added), prior.hessians(parameters)[1], 0.0)
    return _Start(shifted_to_residuals(rows, parameters, frame, family), frame, weight)


class _OwnRows(NamedTuple):
    """A partition whose sums are formed in whitened coordinates of its own.

    In single precision, what varies within a narrow piece of sorted rows would be lost in coordinates in
    which all rows have unit variance: next to its place, and to the features that vary there as elsewhere.
    """

    rows: Observations
    # Those in which sums are formed, with the shared map of the response.
    own: Coordinates
    # (q_own, q): The experts' weights of [1, u_own] from those of the shared [1, u]; and the gates'.
    linear: FloatArray
    gate_linear: FloatArray
    family: Family

    @classmethod
    def of(cls, rows: Observations, shared: Coordinates, known: Moments, family: Family) -> _OwnRows:
        """The rows with these moments."""
        own = coordinates_from(known, shared.response)
        linear = _carried(shared, own)
        gate_linear = linear if shared.gating is None else _carried(shared.gates, own.gates)
        return cls(rows, own, linear, gate_linear, family)

    def statistics(self, parameters: MoEParameters, *, metric: bool = False) -> LikelihoodStatistics:
        """Value, gradient and information at, and in, parameters of the shared coordinates.

        ``metric`` asks for that of steps, too.
        """
        gate, coef, nuisance = parameters
        inner = MoEParameters(gate @ self.gate_linear.T, coef @ self.linear.T, nuisance)
        blocks = self.rows.blocks(self.own)
        found = likelihood_statistics(inner, blocks, self.family, precision=np.float32, metric=metric)
        back = partial(_pulled_back, layout=Layout.of(inner), linear=self.linear, gates=self.gate_linear)
        return found._replace(
            gradient=back(found.gradient[:, None])[:, 0],
            information=back(back(found.information).T),
            complete=back(back(found.complete).T),
            metric=None if found.metric is None else back(back(found.metric).T),
        )


def _carried(shared: Coordinates, own: Coordinates) -> FloatArray:
    """The map of weights of [1, u] in shared coordinates to those of a partition's own."""
    return np.asarray(own.linear_from_data(shared.linear_to_data(np.eye(shared.size))).T)


def _pulled_back(
    derivatives: FloatArray, layout: Layout, linear: FloatArray, gates: FloatArray
) -> FloatArray:
    """Derivatives (P_own, n) in the shared parameters, (P, n): those in nuisances, the last, stay."""
    width = derivatives.shape[1]
    moved = [
        (back.T @ derivatives[part].reshape(-1, len(back), width)).reshape(-1, width)
        for part, back in ((layout.gates, gates), (layout.coefs, linear))
    ]
    return np.concatenate([*moved, derivatives[layout.nuisances]])


def _ascend(
    rows: _OwnRows, first: LikelihoodStatistics, start: _Start, prior: Prior, most: int
) -> tuple[LikelihoodStatistics, NewtonState, int, bool]:
    """Plain statistics and the state where the steps end, their passes, and whether they converged.

    ``first`` are the statistics at the start, and ``most`` the passes that there may be.
    """
    layout = Layout.of(start.parameters)
    origin = layout.pack(start.parameters)
    raw = first
    floor = prior.floor_alone(raw.weight, layout)
    state = NewtonState(start.parameters, _held(raw, origin, start.parameters, start.weight, floor), 0.0)
    passes = 1
    while True:
        step, predicted, damping = damped_step(state)
        ends = predicted <= EXPANSION.tolerance * raw.weight
        if ends or passes == most:
            # Damping shortens a step too: only an undamped one with little to gain means a maximum.
            return raw, state, passes, ends and damping == 0.0
        trial = layout.shift(state.parameters, step)
        trial_raw = rows.statistics(trial)
        passes += 1
        statistics = _held(trial_raw, origin, trial, start.weight, floor)
        actual = statistics.value - state.statistics.value
        damping = NEWTON.damping.after(damping, actual, predicted)
        if actual >= 0:
            raw, state = trial_raw, NewtonState(trial, statistics, damping)
        else:
            state = state._replace(damping=damping)


def _climb(
    rows: _OwnRows, first: LikelihoodStatistics, start: _Start, prior: Prior, most: int
) -> tuple[LikelihoodStatistics, NewtonState, int, bool]:
    """`_ascend` of many parameters: by gradients, with the information of the start and of the end alone."""
    layout = Layout.of(start.parameters)
    origin, floor = layout.pack(start.parameters), prior.floor_alone(first.weight, layout)

    def slope(parameters: MoEParameters) -> LikelihoodStatistics:
        raw = slopes_of(parameters, rows.rows, start.frame.coordinates, rows.family)
        offset = layout.pack(parameters) - origin
        pull = start.weight @ offset
        return raw._replace(
            value=raw.value - 0.5 * float(offset @ pull) - float(floor.penalty(*parameters)),
            gradient=raw.gradient - pull - floor.gradient(layout, *parameters),
        )

    held = _held(first, origin, start.parameters, start.weight, floor)
    metric = held.information if is_definite(held.information) else held.complete
    found = climb(
        start.parameters,
        slope,
        lambda _: [metric],
        tolerance=EXPANSION.tolerance * first.weight,
        max_passes=QUASI_NEWTON.passes * most,
    )
    raw = rows.statistics(found.parameters)
    statistics = _held(raw, origin, found.parameters, start.weight, floor)
    return raw, NewtonState(found.parameters, statistics, 0.0), found.passes + 2, found.converged


def expand_at(
    rows: Observations, parameters: MoEParameters, row_moments: Moments, family: Family
) -> Expansion:
    """A partition's log-likelihood to second order around its own estimate, in its own coordinates."""
    coordinates = coordinates_from(row_moments, family.scaling(row_moments))
    inner = coordinates.from_data(parameters)
    blocks = rows.blocks(coordinates)
    return expansion_of(likelihood_statistics(inner, blocks, family, precision=np.float32), inner)


def own_curvature(
    expansion: Expansion, parameters: MoEParameters, coordinates: Coordinates, prior: Prior
) -> Curvature:
    """What `expand_at` found around an estimate, in the data's units, and the prior of its rows."""
    inner = coordinates.from_data(parameters)
    theta = Layout.of(inner).pack(inner)
    information = unpack(expansion.information).astype(np.float64)
    order = np.arange(parameters.n_experts)
    own = curvature(inner, information, prior, coordinates, order)
    gradient = expansion.vector - information @ theta
    return own._replace(information=information + own.prior, gradient=gradient)


def _held(
    raw: LikelihoodStatistics,
    origin: FloatArray,
    parameters: MoEParameters,
    weight: FloatArray,
    floor: Prior,
) -> LikelihoodStatistics:
    """Statistics less the floor and the quadratic prior around ``origin``."""
    offset = Layout.of(parameters).pack(parameters) - origin
    pull = weight @ offset
    held = raw._replace(
        value=raw.value - 0.5 * float(offset @ pull),
        gradient=raw.gradient - pull,
        information=raw.information + weight,
        complete=raw.complete + weight,
    )
    return penalized(held, parameters, floor)

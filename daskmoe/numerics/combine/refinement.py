"""Refinement: the global step made from the sums of a round (`round_sums`).

Pure NumPy/SciPy. The statistics of an accepted trial are those of the next step, so a round is one pass.
Steps are those of `newton`, `levenberg` and `em_step`, with the prior of all rows, so the optimum does not
depend on how the rows are partitioned.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from daskmoe.numerics.base.coordinates import Coordinates
from daskmoe.numerics.base.layout import Layout
from daskmoe.numerics.base.parameters import FloatArray, MoEParameters
from daskmoe.numerics.base.policies import NEWTON, REFINEMENT
from daskmoe.numerics.combine.em_step import em_step
from daskmoe.numerics.combine.round_sums import PackedStatistics, unpack_statistics
from daskmoe.numerics.families import Family
from daskmoe.numerics.likelihood.priors import Prior
from daskmoe.numerics.likelihood.statistics import LikelihoodStatistics, penalized
from daskmoe.numerics.local.levenberg import LevenbergSteps
from daskmoe.numerics.local.newton import NewtonState, damped_step


class RoundInfo(NamedTuple):
    """What a human wants to know of a round."""

    # At the trial point: plain and penalized.
    log_likelihood: float
    objective: float
    # Of the step after it: 0 for Newton's.
    damping: float
    # Largest change of a parameter, in the whitened coordinates.
    step: float
    accepted: bool


class OtherTrial(NamedTuple):
    """A point of which a round finds the objective alone."""

    parameters: MoEParameters
    # Of the step that leads there, by which the next ones go on; None for a step of EM, or far off.
    damping: float | None


class RefinementState(NamedTuple):
    """Accepted parameters (whitened) with their statistics, and the trial that the next round evaluates."""

    # None before the first round.
    accepted: NewtonState | None
    trial: MoEParameters
    # Points beside it, where an undamped step is not to be trusted.
    others: tuple[OtherTrial, ...]
    # Of the step that led to the trial, or of the last one before it that was not EM's.
    damping: float
    predicted: float
    # What there is to gain from the accepted parameters by the quadratic model, in nats.
    left: float
    # The next round takes double precision, and sums the metric of steps.
    careful: bool
    # So much is left that the step is a blend with EM's, which is what ``damping`` says then.
    far: bool
    # EM's steps are the better ones here, so that the trial is one and the damped ones are beside it.
    by_em: bool
    # The accepted parameters are at a maximum.
    converged: bool
    # No further round would gain anything: converged, or held up by rounding.
    stopped: bool


def left_by_feature(state: RefinementState, coordinates: Coordinates) -> FloatArray:
    """Shares of the gain that the next step is to bring, by the features of the data: (p,)."""
    if state.accepted is None:
        return np.zeros(coordinates.transform.shape[1])
    at, gradient = state.accepted.parameters, state.accepted.statistics.gradient
    layout = Layout.of(at)
    step = layout.pack(state.trial) - layout.pack(at)
    shares = np.zeros(coordinates.transform.shape[1])
    for part, own, q in (
        (layout.gates, coordinates.gates, layout.q_gate),
        (layout.coefs, coordinates, layout.q_expert),
    ):
        rows, slopes = step[part].reshape(-1, q)[:, 1:], gradient[part].reshape(-1, q)[:, 1:]
        shares += np.sum((rows @ own.transform) * (slopes @ own.inverse.T), axis=0)
    shares = shares.clip(0.0)
    return np.asarray(shares / max(float(shares.sum()), 1e-300))


def first_state(parameters: MoEParameters, coordinates: Coordinates) -> RefinementState:
    """The state whose first trial is ``parameters``, in the data's units."""
    trial = coordinates.from_data(parameters)
    return RefinementState(None, trial, (), 0.0, 0.0, np.inf, False, False, False, False, False)


def advance(
    state: RefinementState, packed: PackedStatistics, prior: Prior, family: Family
) -> tuple[RefinementState, RoundInfo]:
    """The state after a round that evaluated ``state.trial``; the objective never falls."""
    layout = Layout.of(state.trial)
    raw = unpack_statistics(packed, layout)
    statistics = penalized(raw, state.trial, prior)
    before = state.accepted
    base = -np.inf if before is None else before.statistics.value
    gain = statistics.value - base
    accepted = gain >= 0.0
    best, best_gain = _best_other(state.others, packed.values, prior, base)
    limit = min(REFINEMENT.gain_per_row * raw.weight, REFINEMENT.gain)
    # Far from a maximum the largest gain need not lead the best way: there others only spare a fall.
    asked = not (state.far and accepted)
    if before is not None and best is not None and asked and best_gain > max(REFINEMENT.better * gain, limit):
        # That it rises is known, so the round that looks at it in full cannot fail.
        step = float(np.abs(layout.pack(best.parameters) - layout.pack(before.parameters)).max())
        by_em = best.damping is None and not state.far
        damping = _more_damping(state) if best.damping is None else best.damping
        info = RoundInfo(raw.value, statistics.value, damping, step, False)
        return state._replace(
            trial=best.parameters, others=(), damping=damping, predicted=best_gain, careful=True, by_em=by_em
        ), info
    damping = _next_damping(state, gain, best, best_gain)
    if before is None or accepted:
        accepted, current = True, NewtonState(state.trial, statistics, damping)
    else:
        current = before._replace(damping=damping)
    by_em = accepted and state.by_em and not best_gain > gain
    after = _next_trial(current, state.far, prior, family, limit, rejected=not accepted, by_em=by_em)
    idle = max(gain, best_gain) <= limit and (state.predicted <= limit or damping > REFINEMENT.largest)
    if before is not None and idle and (not accepted or state.others):
        # Nothing comes of what is left, in directions that hardly matter.
        after = after._replace(stopped=True, converged=after.converged or after.left <= REFINEMENT.gain)
    moved = float(np.abs(layout.pack(after.trial) - layout.pack(current.parameters)).max())
    return after, RoundInfo(raw.value, statistics.value, after.damping, moved, accepted)


def _best_other(
    others: tuple[OtherTrial, ...], values: FloatArray, prior: Prior, base: float
) -> tuple[OtherTrial | None, float]:
    """Of the other points of a round the best, with what it gains."""
    found, most = None, -np.inf
    for other, value in zip(others, values, strict=True):
        gain = float(value) - float(prior.penalty(*other.parameters)) - base
        # What overflows is not a number, and never the best.
        if gain > most:
            found, most = other, gain
    return found, most


def _more_damping(state: RefinementState) -> float:
    """Damping where a step of EM is better than the damped one: far off that was too long."""
    if state.far:
        return NEWTON.damping.after(state.damping, -1.0, state.predicted)
    return state.damping


def _next_damping(state: RefinementState, gain: float, best: OtherTrial | None, best_gain: float) -> float:
    """Damping after a trial that is kept, or falls with all others."""
    damping = state.damping
    if state.accepted is None:
        return 0.0
    if state.far:
        return NEWTON.damping.after(damping, gain, state.predicted)
    if not gain >= 0.0:
        return max(damping, REFINEMENT.first) * (REFINEMENT.falls if state.others else 1.0)
    if best is not None and best.damping is not None and best_gain > gain:
        return best.damping
    if damping == 0.0 and not state.others and gain < REFINEMENT.poor_share * state.predicted:
        return REFINEMENT.first
    return damping


def _next_trial(
    current: NewtonState,
    far: bool,
    prior: Prior,
    family: Family,
    limit: float,
    *,
    rejected: bool,
    by_em: bool,
) -> RefinementState:
    """The way on from an accepted point: Newton's where that is known to lead to a maximum."""
    layout = Layout.of(current.parameters)
    precise = current.statistics.metric is not None or _is_precise(current.statistics, layout)
    if current.damping == 0.0 and precise:
        step, predicted, used = damped_step(current)
        if used == 0.0:
            return _towards(current, step, predicted, predicted, limit)
    steps = LevenbergSteps(current.statistics, layout)
    left = steps.left()
    still_far = left > REFINEMENT.near * current.statistics.weight
    if still_far != far:
        # The two kinds of damping have nothing to do with each other.
        first = NEWTON.damping.first if still_far else REFINEMENT.first
        current = current._replace(damping=first if rejected else 0.0)
    if still_far:
        return _far_trial(current, steps, prior, family, limit)
    step, predicted = steps.step(current.damping)
    after = _towards(current, step, predicted, left, limit)._replace(careful=True)
    if not precise:
        # Rounding errors of single precision are no proof of a maximum.
        after = after._replace(converged=False, stopped=False)
    if after.stopped or (current.damping == 0.0 and steps.concave and not rejected and precise):
        return after
    if by_em:
        return _led_by_em(after, current, steps, prior, family)
    return after._replace(others=tuple(_other_trials(current, steps, prior, family)))


def _far_trial(
    current: NewtonState, steps: LevenbergSteps, prior: Prior, family: Family, limit: float
) -> RefinementState:
    """The way on where much is left: a blend with EM's step; beside it steps that spare a fall."""
    layout = Layout.of(current.parameters)
    step, predicted, used = damped_step(current)
    if used >= 1.0 or predicted <= 0.0:
        # With residuals far beyond their variance the observed information exceeds the complete data's, and
        # no blend of the two is a metric: an EM step rises all the same.
        used = max(used, 1.0)
        step, predicted = em_step(current, prior, used, family)
    shifts = [steps.step(damping)[0] for damping in REFINEMENT.far]
    shifts.append(em_step(current, prior, 1.0, family, bounded=True)[0])
    others = tuple(OtherTrial(layout.shift(current.parameters, shift), None) for shift in shifts)
    after = _towards(current._replace(damping=used), step, predicted, steps.left(), limit)
    return after._replace(far=True, careful=True, others=others)


def _led_by_em(
    state: RefinementState, current: NewtonState, steps: LevenbergSteps, prior: Prior, family: Family
) -> RefinementState:
    """The state whose trial is a step of EM; longer ones, and damped ones of all lengths, are beside it."""
    layout = Layout.of(current.parameters)

    def at(step: FloatArray, damping: float | None) -> OtherTrial:
        return OtherTrial(layout.shift(current.parameters, step), damping)

    step = em_step(current, prior, 1.0, family)[0]
    others = [at(steps.step(damping)[0], damping) for damping in REFINEMENT.ladder]
    others += [at(layout.bounded(times * step), None) for times in REFINEMENT.longer]
    return state._replace(trial=at(step, None).parameters, others=tuple(others), by_em=True)


def _towards(
    current: NewtonState, step: FloatArray, predicted: float, left: float, limit: float
) -> RefinementState:
    """The state whose trial is a step away, where ``left`` is what there is to gain in all."""
    trial = Layout.of(current.parameters).shift(current.parameters, step)
    converged = left <= limit
    # Where the metric was once needed the information of the next point may be just as hard to tell.
    careful = current.statistics.metric is not None
    return RefinementState(
        current, trial, (), current.damping, predicted, left, careful, False, False, converged, converged
    )


def _other_trials(
    current: NewtonState, steps: LevenbergSteps, prior: Prior, family: Family
) -> Iterator[OtherTrial]:
    """Points beside the trial, of which the round finds the objective alone: other dampings, and EM's."""
    layout = Layout.of(current.parameters)

    def at(step: FloatArray, damping: float | None) -> OtherTrial:
        return OtherTrial(layout.shift(current.parameters, step), damping)

    base = current.damping or REFINEMENT.first
    for factor in REFINEMENT.others:
        damping = factor * base if factor * base >= REFINEMENT.smallest else 0.0
        if damping != current.damping:
            yield at(steps.step(damping)[0], damping)
    yield at(em_step(current, prior, 1.0, family)[0], None)
    if not steps.concave:
        yield at(steps.step(current.damping, steps.longest)[0], current.damping)


def _is_precise(statistics: LikelihoodStatistics, layout: Layout) -> bool:
    """Whether rounding in single precision leaves the curvature of every expert's coefficients as it is.

    It does not where an expert with a small variance has no row of a level that a feature has in a few.
    """
    for k in range(layout.n_experts):
        own = statistics.complete[layout.coef(k), layout.coef(k)]
        if not np.linalg.eigvalsh(own)[0] > REFINEMENT.precise * np.diag(own).max():
            return False
    return True

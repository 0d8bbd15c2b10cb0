"""Damped Newton ascent of the penalized log-likelihood.

Pure NumPy/SciPy. A step solves

    ((1 - d) I_observed + d I_complete) step = gradient,    0 <= d <= 1,

between Newton's step (d = 0) and, in the same parameters, that of EM (d = 1), whose matrix is positive
definite and whose step raises the objective; d > 1 shortens the latter. The damping d grows until the matrix
is positive definite and shrinks while the quadratic model predicts well, as a trust region would (Nocedal and
Wright 2006, section 4.1). A trial is kept only if the objective does not fall, and its statistics are those
of the next step, so an accepted step costs one pass.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np
import scipy

from daskmoe.numerics.base.layout import Layout
from daskmoe.numerics.base.linalg import diagonal_scale
from daskmoe.numerics.base.parameters import FloatArray, MoEParameters
from daskmoe.numerics.base.policies import NEWTON
from daskmoe.numerics.likelihood.statistics import LikelihoodStatistics

Evaluate = Callable[[MoEParameters], LikelihoodStatistics]
Value = Callable[[MoEParameters], float]
Slope = Callable[[MoEParameters], LikelihoodStatistics]


class NewtonState(NamedTuple):
    """What the next step needs: parameters, penalized statistics there, damping."""

    parameters: MoEParameters
    statistics: LikelihoodStatistics
    damping: float


class NewtonResult(NamedTuple):
    """Where an ascent ended."""

    parameters: MoEParameters
    # The penalized log-likelihood there.
    objective: float
    # Passes over the rows.
    passes: int
    converged: bool
    # Those that the last step was made from; None where no step was made.
    statistics: LikelihoodStatistics | None = None


def damped_step(state: NewtonState) -> tuple[FloatArray, float, float]:
    """Step (P,), the gain that the quadratic model predicts, and the damping that made it well defined."""
    gradient, observed = state.statistics.gradient, state.statistics.information
    scale = diagonal_scale(state.statistics.complete)
    outer = np.outer(scale, scale)
    observed_scaled, complete_scaled = observed / outer, state.statistics.complete / outer
    damping, ridge = state.damping, NEWTON.ridge
    while True:
        matrix = max(1.0 - damping, 0.0) * observed_scaled + damping * complete_scaled
        try:
            factor = scipy.linalg.cho_factor(matrix, lower=True)
            break
        except np.linalg.LinAlgError:
            if damping > 0.5:
                complete_scaled[np.diag_indices_from(complete_scaled)] += ridge
                ridge *= NEWTON.more_ridge
            damping = max(2.0 * damping, NEWTON.damping.first)
    step = scipy.linalg.cho_solve(factor, gradient / scale) / scale
    step = Layout.of(state.parameters).bounded(step)
    predicted = float(gradient @ step - 0.5 * step @ observed @ step)
    return step, predicted, damping


def escape(state: NewtonState) -> tuple[FloatArray, float] | None:
    """A step off a saddle with the gain that it predicts; None where no curvature is negative.

    The gradient vanishes there, as it does where experts are equal, so that neither Newton nor EM moves.
    """
    gradient, observed = state.statistics.gradient, state.statistics.information
    scale = diagonal_scale(state.statistics.complete)
    values, vectors = np.linalg.eigh(observed / np.outer(scale, scale))
    if not values[0] < -NEWTON.saddle_curvature:
        return None
    direction = vectors[:, 0] / scale
    size = NEWTON.saddle_step * np.sqrt(state.statistics.weight) / (1.0 + 10.0 * state.damping)
    # Along a nuisance that the rows hardly know, a step of this size has no end.
    way = size * (direction if gradient @ direction >= 0 else -direction)
    away = Layout.of(state.parameters).bounded(way)
    return away, float(gradient @ away - 0.5 * away @ observed @ away)


def standard_deviations(statistics: LikelihoodStatistics) -> FloatArray | None:
    """Root (P, P) of the inverse information; None where that is not positive definite."""
    try:
        return np.asarray(np.linalg.inv(np.linalg.cholesky(statistics.information)).T)
    except np.linalg.LinAlgError:
        return None


def jump(parameters: MoEParameters, deviations: FloatArray, rng: np.random.Generator) -> MoEParameters:
    """A random point `NewtonPolicy.jump` standard errors away in every direction."""
    step = deviations @ (NEWTON.jump * rng.standard_normal(len(deviations)))
    layout = Layout.of(parameters)
    return layout.shift(parameters, layout.bounded(step))


class _Point(NamedTuple):
    """A state, whether its information is its own, and the gain that was predicted one step ``before``."""

    state: NewtonState
    exact: bool
    before: float


def maximize(
    parameters: MoEParameters,
    evaluate: Evaluate,
    value: Value,
    slope: Slope,
    *,
    tolerance: float,
    max_passes: int,
    nearby: LikelihoodStatistics | None = None,
    least: float = -np.inf,
) -> NewtonResult:
    """Ascend from ``parameters`` until the predicted gain falls under ``tolerance`` (log-likelihood units).

    ``evaluate`` gives all statistics, ``slope`` those without the matrices and ``value`` the objective alone,
    at a quarter and a sixth of the work. Steps keep the information of an earlier point, corrected by what
    the gradient did since, for as long as each leaves a small share of the gain before it. ``nearby`` are
    statistics whose information is about that at ``parameters``, such as those of a sample of the rows: then
    none may have to be formed at all. The last step, whose gain is already negligible, is only checked. An
    ascent that at its pace would end under ``least`` is given up.
    """
    layout = Layout.of(parameters)
    point = _first_point(parameters, evaluate, slope, nearby)
    passes = 1
    pace = _Pace(0, -np.inf)
    while passes < max_passes:
        state = point.state
        if passes >= pace.passes + NEWTON.pace:
            now = state.statistics.value
            if now + NEWTON.hope * (now - pace.value) < least:
                break
            pace = _Pace(passes, now)
        step, predicted, damping, kind = _telling_step(point, tolerance)
        if kind == "unknown":
            own = state._replace(statistics=evaluate(state.parameters))
            point, passes = _Point(own, True, point.before), passes + 1
            continue
        leaves = kind == "escape"
        # The share of the gain that a step leaves to the next: none if its information is that of its start.
        share = 0.0 if point.exact else predicted / max(point.before, 1e-300)
        certain = damping == 0.0 and (point.exact or point.before < np.inf)
        if certain and predicted <= tolerance and share * predicted <= NEWTON.remainder * tolerance:
            return _finish(state, layout.shift(state.parameters, step), value, passes + 1)
        if damping >= 1.0 and 0 <= damping * predicted <= NEWTON.negligible * tolerance:
            return _ended(state, passes, True)
        near = not point.exact or predicted <= NEWTON.near * state.statistics.weight
        keep = damping == 0.0 and near and share <= NEWTON.contraction and not leaves
        fully = leaves or (damping == 0.0 and not keep and share <= NEWTON.uncertain)
        most = min(NEWTON.line_points, max_passes - passes)
        found, used = _search_line(state, step, evaluate, slope, fully, most)
        passes += used
        if found is None:
            if predicted <= tolerance:
                # A step damped beyond EM's predicts little gain anywhere, so it proves no maximum.
                return _ended(state, passes, damping <= 1.0)
            point = point._replace(
                state=state._replace(damping=NEWTON.damping.after(damping, -1.0, predicted))
            )
            if not point.exact and passes < max_passes:
                # Information from elsewhere misled the whole line.
                there = evaluate(state.parameters)
                point, passes = _Point(point.state._replace(statistics=there), True, point.before), passes + 1
            continue
        trial, statistics, length, exact = found
        # A poor undamped step was only too long, and the line search has shortened it.
        if damping > 0.0:
            damping = NEWTON.damping.after(damping, statistics.value - state.statistics.value, predicted)
        if not exact and keep and length == 1.0:
            statistics = _corrected(state.statistics, step, statistics)
        elif not exact and passes < max_passes:
            statistics, exact, passes = evaluate(trial), True, passes + 1
        point = _Point(NewtonState(trial, statistics, damping), exact, predicted)
    return _ended(point.state, passes, False)


def _first_point(
    parameters: MoEParameters, evaluate: Evaluate, slope: Slope, nearby: LikelihoodStatistics | None
) -> _Point:
    """The start, with its own information or that of the statistics ``nearby``."""
    if nearby is None:
        return _Point(NewtonState(parameters, evaluate(parameters), 0.0), True, np.inf)
    known = _with_matrices(slope(parameters), nearby)
    return _Point(NewtonState(parameters, known, 0.0), False, np.inf)


class _Pace(NamedTuple):
    """When an ascent was looked at, and where it was."""

    passes: int
    value: float


class _Step(NamedTuple):
    """A step, the gain it predicts, the damping that made it, and what it is for."""

    vector: FloatArray
    predicted: float
    damping: float
    # "unknown" where the point may be a saddle: the information that is known is not its own.
    kind: Literal["ascent", "escape", "unknown"]


def _telling_step(point: _Point, tolerance: float) -> _Step:
    """`damped_step`, of which a small predicted gain says that the point is at a maximum; or off a saddle."""
    state = point.state
    step, predicted, damping = damped_step(state)
    if damping > 0.0 and predicted <= tolerance:
        # Damping makes predicted gains small: only an undamped step tells whether this is a maximum.
        step, predicted, damping = damped_step(state._replace(damping=0.0))
    rise = float(state.statistics.gradient @ step)
    if damping > 0.0 and max(damping, 1.0) * rise <= tolerance:
        way = escape(state) if point.exact else None
        if way is not None and way[1] > tolerance:
            return _Step(*way, state.damping, "escape")
        return _Step(step, predicted, damping, "ascent" if point.exact else "unknown")
    return _Step(step, predicted, damping, "ascent")


class _Found(NamedTuple):
    """A point along a step, the share of the step, and whether the information was formed there."""

    parameters: MoEParameters
    statistics: LikelihoodStatistics
    length: float
    exact: bool


def _search_line(
    state: NewtonState, step: FloatArray, evaluate: Evaluate, slope: Slope, fully: bool, most: int
) -> tuple[_Found | None, int]:
    """A point along ``step`` where the objective does not fall, and how many of ``most`` were looked at.

    The first is the whole step, evaluated ``fully`` or for its slope only; the next ones are where the
    parabola through what is known has its top. Where no information was formed it is that of ``state``.
    """
    start, layout = state.statistics, Layout.of(state.parameters)
    rise = float(start.gradient @ step)
    length = 1.0
    for looked in range(1, most + 1):
        trial = layout.shift(state.parameters, length * step)
        whole = fully and looked == 1
        statistics = evaluate(trial) if whole else _with_matrices(slope(trial), start)
        if statistics.value >= start.value:
            return _Found(trial, statistics, length, whole), looked
        bend = length * rise - (statistics.value - start.value)
        top = 0.5 * length * length * rise / bend if np.isfinite(bend) else 0.0
        length = min(max(top, NEWTON.shortest * length), 0.5 * length)
    return None, most


def _with_matrices(found: LikelihoodStatistics, of: LikelihoodStatistics) -> LikelihoodStatistics:
    return found._replace(information=of.information, complete=of.complete)


def _corrected(
    before: LikelihoodStatistics, step: FloatArray, after: LikelihoodStatistics
) -> LikelihoodStatistics:
    """Statistics after a step with the information before it, updated by BFGS (Nocedal and Wright, 6.19)."""
    change = before.gradient - after.gradient
    curvature = float(change @ step)
    if curvature <= 0.0:
        return after
    image = before.information @ step
    information = before.information + np.outer(change, change / curvature)
    information -= np.outer(image, image / float(image @ step))
    return after._replace(information=information)


def _finish(state: NewtonState, trial: MoEParameters, value: Value, passes: int) -> NewtonResult:
    objective = value(trial)
    if objective >= state.statistics.value:
        return NewtonResult(trial, objective, passes, True, state.statistics)
    return _ended(state, passes, True)


def _ended(state: NewtonState, passes: int, converged: bool) -> NewtonResult:
    return NewtonResult(state.parameters, state.statistics.value, passes, converged, state.statistics)

"""Refinement rounds: likelihood statistics of a partition, and the global step made from their sum.

Pure NumPy/SciPy. A round evaluates the log-likelihood, gradient and observed information of all rows at a
trial point; the statistics of an accepted trial are those of the next step, so a round is one pass. Steps are
those of `newton`, with the prior of all rows, so the optimum does not depend on how the rows are partitioned.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import scipy
from numpy.typing import NDArray

from daskmoe.numerics.base.coordinates import Coordinates
from daskmoe.numerics.base.extremes import Extremes, merge_extremes
from daskmoe.numerics.base.layout import Layout
from daskmoe.numerics.base.linalg import ridged, solve
from daskmoe.numerics.base.observations import Observations
from daskmoe.numerics.base.parameters import FloatArray, MoEParameters
from daskmoe.numerics.base.policies import NEWTON, REFINEMENT
from daskmoe.numerics.families import Family
from daskmoe.numerics.families.protocol import Change
from daskmoe.numerics.likelihood.priors import Prior
from daskmoe.numerics.likelihood.scores import (
    ClusterScores,
    add_clusters,
    of_labels,
    of_partition,
    products_of,
)
from daskmoe.numerics.likelihood.statistics import LikelihoodStatistics, likelihood_statistics, penalized
from daskmoe.numerics.local.newton import NewtonState, damped_step, escape

# Shares of the largest and of each entry's own: gates, coefficients and nuisances stand side by side.
_RIDGE = (1e-14, 1e-10)


class PackedStatistics(NamedTuple):
    """`LikelihoodStatistics` without what symmetry and structure repeat: under (P + 1)^2 numbers.

    Beside them K masses and the twelve numbers of extremes.
    """

    value: float
    weight: float
    entropy: float
    # (P,)
    gradient: FloatArray
    # (P (P + 1) / 2,)
    information: FloatArray
    # The entries of the complete-data information that are not zero by structure.
    complete: FloatArray
    # (P (P + 1) / 2,): Of the score products; in single precision from a partition, as their terms are.
    scores: NDArray[np.floating[Any]] | None
    # Beside them; None from a partition that is a cluster, of which the gradient tells.
    clusters: ClusterScores | None = None
    # (K,): Sums of the responsibilities.
    mass: FloatArray | None = None
    # Of E[y|x] and of y.
    extremes: Extremes | None = None

    def within(self, partition: int) -> PackedStatistics:
        """The same, of rows of a partition."""
        return self._replace(extremes=None if self.extremes is None else self.extremes.within(partition))


class ScoreSums(NamedTuple):
    """What a pass for scores alone gives, at the maximum."""

    # (P,)
    gradient: FloatArray
    # (P (P + 1) / 2,): Products of the rows' scores.
    scores: NDArray[np.floating[Any]]
    # As of `PackedStatistics`.
    clusters: ClusterScores | None


class ScoreProducts(NamedTuple):
    """Sums of outer products of scores over all rows, and over all clusters of them; (P, P) each."""

    rows: FloatArray
    clusters: FloatArray
    n_clusters: int


class RoundInfo(NamedTuple):
    """What a human wants to know of a round."""

    # At the trial point: plain and penalized.
    log_likelihood: float
    objective: float
    # 0 for a Newton step, 1 for a step of EM.
    damping: float
    # Largest change of a parameter, in the whitened coordinates.
    step: float
    accepted: bool


class RefinementState(NamedTuple):
    """Accepted parameters (whitened) with their statistics, and the trial that the next round evaluates."""

    # None before the first round.
    accepted: NewtonState | None
    trial: MoEParameters
    # Of the step that led to the trial.
    damping: float
    predicted: float
    # Least curvature of that step, if it was free of saddles (`damping` is what it would have needed
    # otherwise); else 0.
    floor: float
    # The accepted parameters are at a maximum.
    converged: bool
    # No further round would gain anything: converged, or held up by rounding.
    stopped: bool


def round_statistics(
    rows: Observations,
    parameters: MoEParameters,
    coordinates: Coordinates,
    family: Family,
    *,
    scores: bool = False,
    extremes: bool = True,
) -> PackedStatistics:
    """A partition's part of a round, at parameters in the data's units; ``extremes`` if they may leave."""
    inner = coordinates.from_data(parameters)
    # The information only scales steps and, to a relative 1e-5, standard errors, not the optimum.
    blocks = rows.blocks(coordinates)
    full = likelihood_statistics(inner, blocks, family, precision=np.float32, scores=scores, story=True)
    layout = Layout.of(inner)
    return PackedStatistics(
        full.value,
        full.weight,
        full.entropy,
        full.gradient,
        full.information[layout.upper()],
        full.complete[layout.complete()],
        None if full.scores is None else full.scores[layout.upper()].astype(np.float32),
        of_labels(rows, inner, coordinates, family) if scores and rows.cluster is not None else None,
        full.mass,
        full.extremes if extremes else None,
    )


def partition_scores(
    rows: Observations, parameters: MoEParameters, coordinates: Coordinates, family: Family
) -> ScoreSums:
    """A partition's part of the score products alone, at parameters in the data's units."""
    inner = coordinates.from_data(parameters)
    sums = likelihood_statistics(
        inner, rows.blocks(coordinates), family, precision=np.float32, second_order=False, scores=True
    )
    assert sums.scores is not None
    clusters = None if rows.cluster is None else of_labels(rows, inner, coordinates, family)
    packed = sums.scores[Layout.of(inner).upper()].astype(np.float32)
    return ScoreSums(sums.gradient, packed, clusters)


def add_scores(first: ScoreSums, second: ScoreSums) -> ScoreSums:
    """Scores of the union of two sets of rows."""
    return ScoreSums(
        first.gradient + second.gradient,
        np.add(first.scores, second.scores, dtype=np.float64),
        add_clusters(_clusters(first), _clusters(second)),
    )


def _clusters(sums: ScoreSums | PackedStatistics) -> ClusterScores:
    return of_partition(sums.gradient) if sums.clusters is None else sums.clusters


def unpack_scores(sums: ScoreSums, layout: Layout) -> ScoreProducts:
    """The matrices of a pass over all rows."""
    rows = _symmetric(sums.scores, layout.upper(), layout.size)
    return ScoreProducts(rows, *products_of(_clusters(sums)))


def scores_of(statistics: LikelihoodStatistics) -> ScoreProducts | None:
    """The matrices of a round over all rows; None where it did not look for scores."""
    if statistics.scores is None or statistics.clusters is None:
        return None
    return ScoreProducts(statistics.scores, *products_of(statistics.clusters))


def add_statistics(first: PackedStatistics, second: PackedStatistics) -> PackedStatistics:
    """Statistics of the union of two sets of rows."""
    scores = clusters = None
    if first.scores is not None and second.scores is not None:
        scores = np.add(first.scores, second.scores, dtype=np.float64)
        clusters = add_clusters(_clusters(first), _clusters(second))
    return PackedStatistics(
        first.value + second.value,
        first.weight + second.weight,
        first.entropy + second.entropy,
        first.gradient + second.gradient,
        first.information + second.information,
        first.complete + second.complete,
        scores,
        clusters,
        None if first.mass is None or second.mass is None else first.mass + second.mass,
        first.extremes if second.extremes is None else merge_extremes(first.extremes, second.extremes),
    )


def unpack_statistics(packed: PackedStatistics, layout: Layout) -> LikelihoodStatistics:
    """The matrices again."""
    return LikelihoodStatistics(
        packed.value,
        packed.gradient,
        _symmetric(packed.information, layout.upper(), layout.size),
        _symmetric(packed.complete, layout.complete(), layout.size),
        packed.weight,
        packed.mass,
        packed.entropy,
        scores=None if packed.scores is None else _symmetric(packed.scores, layout.upper(), layout.size),
        clusters=None if packed.scores is None else _clusters(packed),
        extremes=packed.extremes,
    )


def _symmetric(
    values: NDArray[np.floating[Any]], where: tuple[NDArray[np.intp], ...], size: int
) -> FloatArray:
    """The symmetric matrix with these values in its upper triangle."""
    out = np.zeros((size, size))
    out[where] = values
    out.T[where] = values
    return out


def first_state(parameters: MoEParameters, coordinates: Coordinates) -> RefinementState:
    """The state whose first trial is ``parameters``, in the data's units."""
    return RefinementState(None, coordinates.from_data(parameters), 0.0, 0.0, 0.0, False, False)


def advance(
    state: RefinementState, packed: PackedStatistics, prior: Prior, family: Family
) -> tuple[RefinementState, RoundInfo]:
    """The state after a round that evaluated ``state.trial``; the objective never falls."""
    layout = Layout.of(state.trial)
    raw = unpack_statistics(packed, layout)
    statistics = penalized(raw, state.trial, prior)
    before = state.accepted
    damping, floor = state.damping, REFINEMENT.least_curvature
    accepted = before is None or statistics.value >= before.statistics.value
    if before is not None:
        actual = statistics.value - before.statistics.value
        # After a saddle-free step that was accepted the next one starts undamped.
        damping = NEWTON.damping.after(0.0 if state.floor and accepted else damping, actual, state.predicted)
        if state.floor and actual > NEWTON.damping.good_share * state.predicted:
            floor = 0.3 * state.floor
    if before is None or accepted:
        current = NewtonState(state.trial, statistics, damping)
    else:
        current = before._replace(damping=damping)
    limit = min(REFINEMENT.gain_per_row * raw.weight, REFINEMENT.gain)
    stalled = not accepted and state.predicted <= limit
    step, predicted, used = damped_step(current)
    way = _saddle_free_step(current, floor) if used > 0.0 == current.damping else None
    free_of_saddles = way is not None and limit < way[1] <= REFINEMENT.near * raw.weight
    if way is not None and free_of_saddles:
        step, predicted = way
    elif used > 0.0 and 0.5 * float(current.statistics.gradient @ step) <= limit:
        # Damping makes predicted gains small: only an undamped step tells whether this is a maximum.
        step, predicted, used = damped_step(current._replace(damping=0.0))
    elif used >= 1.0 or predicted <= 0.0:
        # With residuals far beyond their variance the observed information exceeds the complete data's, and
        # no blend of the two is a metric: an EM step rises all the same.
        used = max(used, 1.0)
        step, predicted = _em_step(current, prior, used, family)
    converged = predicted <= limit and used == 0.0
    if predicted <= limit and not converged:
        step, predicted = escape(current) or (step, predicted)
    if not free_of_saddles:
        floor = 0.0
    info = RoundInfo(raw.value, statistics.value, used, float(np.abs(step).max()), accepted)
    trial = layout.shift(current.parameters, step)
    stopped = converged or stalled or not predicted > limit
    return RefinementState(current, trial, used, predicted, floor, converged, stopped), info


def _saddle_free_step(state: NewtonState, floor: float) -> tuple[FloatArray, float] | None:
    """Newton's step with the absolute values of the information's eigenvalues, and the gain it predicts.

    In the metric of the complete-data information, where all are at most one (Dauphin et al., 2014, equation
    7). Damping would shorten the step in all directions for the sake of the few that are not concave. None
    where that metric, of fewer rows than parameters, is singular.
    """
    gradient, observed = state.statistics.gradient, state.statistics.information
    try:
        root = np.linalg.cholesky(ridged(state.statistics.complete, *_RIDGE))
    except np.linalg.LinAlgError:
        return None
    half = scipy.linalg.solve_triangular(root, observed, lower=True)
    values, vectors = np.linalg.eigh(scipy.linalg.solve_triangular(root, half.T, lower=True))
    along = vectors.T @ scipy.linalg.solve_triangular(root, gradient, lower=True)
    along /= np.maximum(np.abs(values), floor)
    whole = scipy.linalg.solve_triangular(root, vectors @ along, lower=True, trans=1)
    step = Layout.of(state.parameters).bounded(whole)
    return step, float(gradient @ step - 0.5 * step @ observed @ step)


def _em_step(state: NewtonState, prior: Prior, damping: float, family: Family) -> tuple[FloatArray, float]:
    """A step of EM with the gain of its lower bound; the gates' own step is divided by ``damping``.

    Coefficients and nuisances are conditional maxima, however far they are, where the family's are exact.
    """
    parameters, layout = state.parameters, Layout.of(state.parameters)
    gradient, complete = state.statistics.gradient, state.statistics.complete
    step = np.zeros(layout.size)
    gates = layout.gates
    if gates.stop:
        step[gates] = solve(complete[gates, gates], gradient[gates], *_RIDGE) / damping
    gain = float(gradient[gates] @ step[gates] - 0.5 * step[gates] @ complete[gates, gates] @ step[gates])
    shrinkage, stiffness = prior.coef_gradient(parameters.coef), prior.coef_hessian(layout.n_predictors)
    for k in range(layout.n_experts):
        rows, own = layout.coef(k), layout.nuisance(k)
        move = step[rows] = solve(complete[rows, rows], gradient[rows], *_RIDGE)
        gram = complete[rows, rows] - stiffness
        pull = shrinkage[k].ravel()
        falls = np.asarray(2.0 * move @ (gradient[rows] + pull))
        change = Change(falls, np.asarray(move @ gram @ move))
        found = family.expert_step(gradient[own], complete[own, own], change, parameters.nuisance[k], prior)
        step[own] = found.nuisance
        # The family's gain is that of the rows and of the nuisances' prior.
        gain += found.gain - float(pull @ move + 0.5 * move @ stiffness @ move)
    return step, gain

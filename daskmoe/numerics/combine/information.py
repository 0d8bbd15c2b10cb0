"""The best estimator from independent local fits without any response: averaging by information.

Pure NumPy/SciPy. A partition sends its local estimate theta_m and observed information I_m in its own
whitened coordinates, which its moments give. With T_m the linear map from the parameters of the result, in
coordinates common to all, to those of the partition (features, response scale, order of experts, gating
reference), the result maximizes the sum of the partitions' quadratic expansions and the prior,

    -1/2 sum_m (T_m theta + t_m - theta_m)' I_m (T_m theta + t_m - theta_m) + gradient terms.

A partition weighs by what it knows, an expert that it does not hold is no column of T_m, and a fit in a bad
optimum gives itself away by its distance d_m^2 from the others in its own metric: it is left out. Otherwise
that follows chi^2_P, or grows with the rows n_m where optima differ from partition to partition, as they do
under any model that is not the truth: its unit is P or, if more, n_m times the middle partition's d^2 / n.
Experts are matched by optimal assignment (`alignment`).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import NamedTuple

import numpy as np
import scipy
from numpy.typing import NDArray

from daskmoe.numerics.base.coordinates import Coordinates, coordinates_from
from daskmoe.numerics.base.hulls import affine_hulls
from daskmoe.numerics.base.layout import Layout
from daskmoe.numerics.base.linalg import diagonal_scale, spread_evenly
from daskmoe.numerics.base.observations import merge_moments
from daskmoe.numerics.base.packed import unpack
from daskmoe.numerics.base.parameters import (
    FloatArray,
    MoEParameters,
    Moments,
    SupportSample,
    canonical_indices,
)
from daskmoe.numerics.base.policies import AVERAGING, DEFAULTS, Regularization
from daskmoe.numerics.combine.expansion import Expansion
from daskmoe.numerics.families import Family
from daskmoe.numerics.likelihood.inference import Curvature, curvature
from daskmoe.numerics.likelihood.priors import Prior, prior_from
from daskmoe.numerics.likelihood.statistics import (
    LikelihoodStatistics,
    penalized,
)
from daskmoe.numerics.transport.alignment import match_experts


class LocalInformation(NamedTuple):
    """What one partition says: its estimate in its own ``coordinates`` and the expansion there.

    They have only directions in which its rows vary, so that it says nothing about others.
    """

    parameters: MoEParameters
    coordinates: Coordinates
    expansion: Expansion
    # Where its experts are compared with others: rows that it knows.
    support: SupportSample


class _State(NamedTuple):
    """An estimate in the common coordinates and the distances d_m^2 of the partitions from it."""

    theta: FloatArray
    distance: FloatArray
    # Of the partitions that are in it, without the prior.
    information: FloatArray


def information_average(
    locals_: Sequence[MoEParameters],
    moments: Sequence[Moments],
    expansions: Sequence[Expansion],
    references: Sequence[MoEParameters],
    support: SupportSample,
    family: Family,
    regularization: Regularization = DEFAULTS,
    coordinates: Sequence[Coordinates] = (),
) -> Averaged | None:
    """The average of local estimates by their information, whatever the order of their experts.

    Parameters
    ----------
    locals_ : sequence of MoEParameters
        With K experts or fewer each.
    moments, expansions : sequences of Moments and of Expansion
        Of the same partitions.
    references : sequence of MoEParameters
        Models with K experts to start the matching from; the one whose average the partitions fit best wins.
    support : SupportSample
        Where experts are compared.
    family : Family
    regularization : Regularization
    coordinates : sequence of Coordinates, optional
        Those that the expansions are in; by default those of the moments.

    Returns
    -------
    Averaged or None
        None where the information of all partitions has no maximum.
    """
    pooled = reduce(merge_moments, moments)
    coordinates = coordinates or [coordinates_from(m, family.scaling(m)) for m in moments]
    compared = _compared_rows(moments, _some_rows(support))
    common = coordinates_from(pooled, family.scaling(pooled))
    problem = _Problem(
        [
            LocalInformation(p, own, e, rows)
            for p, own, e, rows in zip(locals_, coordinates, expansions, compared, strict=True)
        ],
        [definite(e.information) for e in expansions],
        np.array([m.weight for m in moments]),
        common,
        family,
        _layout(references[0], references[0].n_experts, common),
    )
    prior = prior_from(pooled, common, problem.layout.n_experts, family, regularization)
    starts = list(references)
    if len(locals_) > AVERAGING.racing_partitions:
        kept = spread_evenly(len(locals_), AVERAGING.racing_partitions)
        raced = _best(problem.take(kept), starts, prior)
        starts = starts if raced is None else [problem.to_data(raced.theta)]
    best = _best(problem, starts, prior)
    return None if best is None else _averaged(problem, best, prior)


class Averaged(NamedTuple):
    """The average, in the data's units, and the summed information of what is in it."""

    parameters: MoEParameters
    curvature: Curvature


class _Problem(NamedTuple):
    """The partitions and the common coordinates."""

    parts: Sequence[LocalInformation]
    # Of each, the packed metric in which its distance is taken.
    metrics: Sequence[NDArray[np.float32]]
    # (M,): Rows of each, by their weights.
    rows: FloatArray
    common: Coordinates
    family: Family
    layout: Layout

    def take(self, index: NDArray[np.intp]) -> _Problem:
        """The same with some of the partitions."""
        return self._replace(
            parts=[self.parts[m] for m in index],
            metrics=[self.metrics[m] for m in index],
            rows=self.rows[index],
        )

    def to_data(self, theta: FloatArray) -> MoEParameters:
        """Parameters in the data's coordinates."""
        return self.common.to_data(self.layout.unpack(theta))


def _best(problem: _Problem, references: Sequence[MoEParameters], prior: Prior) -> _State | None:
    """The average from the reference that leaves the least distance, each partition's capped."""
    states = [_iterate(problem, reference, prior) for reference in references]
    known = [state for state in states if state is not None]
    if not known:
        return None
    # One for all: that of the average on which partitions agree best.
    units = np.min([_units(state.distance, problem) for state in known], axis=0)
    return min(known, key=lambda state: np.minimum(state.distance / units, AVERAGING.cap).sum())


def _iterate(problem: _Problem, reference: MoEParameters, prior: Prior) -> _State | None:
    """Match, leave out what is far, average; until neither changes."""
    theta = problem.layout.pack(problem.common.from_data(reference))
    state: _State | None = None
    last: tuple[bytes, ...] = ()
    for _ in range(AVERAGING.rounds):
        matches = _matches(problem, problem.to_data(theta))
        kept = _near(_distances(problem, matches, theta), problem, first=not last)
        seen = (kept.tobytes(), *(match.tobytes() for match in matches))
        if seen == last:
            break
        last = seen
        solved = _average(problem, matches, kept, theta, prior)
        if solved is None:
            break
        theta = solved.theta
        state = _State(theta, _distances(problem, matches, theta), solved.information)
    return state


def _near(distance: FloatArray, problem: _Problem, *, first: bool) -> NDArray[np.bool_]:
    """Which partitions count; a reference says nothing but which are the nearer half."""
    if first:
        each = distance / problem.rows
        return np.asarray(each <= np.median(each))
    limit = max(AVERAGING.units, 1.0 + AVERAGING.deviations * np.sqrt(2.0 / problem.layout.size))
    return np.asarray(distance <= limit * _units(distance, problem))


def _units(distance: FloatArray, problem: _Problem) -> FloatArray:
    """The distance of every partition that its parameters and its rows let expect."""
    return np.maximum(problem.layout.size, problem.rows * np.median(distance / problem.rows))


def _some_rows(support: SupportSample) -> SupportSample:
    kept = spread_evenly(len(support.features), AVERAGING.matching_rows)
    weight = support.weight[kept]
    return SupportSample(support.features[kept], None, weight / weight.sum(), support.columns)


def _compared_rows(moments: Sequence[Moments], support: SupportSample) -> list[SupportSample]:
    """The rows of the support that each partition knows."""
    hulls = affine_hulls(moments, support)
    if hulls is None:
        return [support] * len(moments)
    return [support.where(holds) for holds in hulls.holding(support.features)]


def _matches(problem: _Problem, current: MoEParameters) -> list[NDArray[np.intp]]:
    """For every partition, which expert each of its own is."""
    return [match_experts(part.parameters, current, part.support, problem.family) for part in problem.parts]


def definite(information: NDArray[np.float32]) -> NDArray[np.float32]:
    """Packed information with the absolute values of its eigenvalues, in the scale of its diagonal.

    Observed information is indefinite where a fit is no maximum, and a form of which the signs cancel calls
    near what is far.
    """
    matrix = unpack(information).astype(np.float64)
    try:
        np.linalg.cholesky(matrix)
    except np.linalg.LinAlgError:
        scale = diagonal_scale(matrix)
        values, vectors = np.linalg.eigh(matrix / np.outer(scale, scale))
        matrix = (vectors * np.abs(values)) @ vectors.T * np.outer(scale, scale)
        return np.asarray(matrix[np.triu_indices(len(matrix))], dtype=np.float32)
    return information


def _distances(problem: _Problem, matches: list[NDArray[np.intp]], theta: FloatArray) -> FloatArray:
    """d_m^2 of every partition."""
    out = np.empty(len(matches))
    for m, (part, match) in enumerate(zip(problem.parts, matches, strict=True)):
        matrix, offset = transfer(part, match, problem.layout.n_experts, problem.common)
        inner = part.coordinates.from_data(part.parameters)
        own = Layout.of(inner).pack(inner)
        difference = matrix @ theta + offset - own
        out[m] = difference @ unpack(problem.metrics[m]) @ difference
    return out


def _average(
    problem: _Problem,
    matches: list[NDArray[np.intp]],
    kept: NDArray[np.bool_],
    theta: FloatArray,
    prior: Prior,
) -> _Maximum | None:
    """The maximum of the summed expansions of the partitions that are kept, and the prior."""
    size = len(theta)
    information, vector = np.zeros((size, size)), np.zeros(size)
    for m in np.flatnonzero(kept).tolist():
        part = problem.parts[m]
        matrix, offset = transfer(part, matches[m], problem.layout.n_experts, problem.common)
        own = unpack(part.expansion.information).astype(np.float64)
        information += matrix.T @ own @ matrix
        vector += matrix.T @ (part.expansion.vector - own @ offset)
    penalty = penalized(LikelihoodStatistics.none(size), problem.layout.unpack(theta), prior)
    vector += penalty.gradient + penalty.information @ theta
    try:
        factor = scipy.linalg.cho_factor(information + penalty.information, lower=True)
        found = np.asarray(scipy.linalg.cho_solve(factor, vector))
    except np.linalg.LinAlgError:
        return None
    # Far from all expansions a nuisance can be no number.
    return _Maximum(found, information) if problem.layout.is_model(found) else None


class _Maximum(NamedTuple):
    """Where a sum has its maximum, and its information without the prior."""

    theta: FloatArray
    information: FloatArray


def _averaged(problem: _Problem, state: _State, prior: Prior) -> Averaged:
    inner = problem.layout.unpack(state.theta)
    order = canonical_indices(problem.to_data(state.theta))
    own = curvature(inner, state.information, prior, problem.common, order)
    return Averaged(problem.to_data(state.theta), own._replace(information=state.information + own.prior))


def transfer(
    part: LocalInformation, match: NDArray[np.intp], n_experts: int, common: Coordinates
) -> tuple[FloatArray, FloatArray]:
    """The map of packed parameters, theta_m = matrix @ theta + offset.

    ``match`` says for every local expert which expert of the result it is.
    """
    here, there = part.coordinates, common.response
    own, q_own = here.response, here.size
    whole = _layout(part.parameters, n_experts, common)
    local = _layout(part.parameters, part.parameters.n_experts, here)
    linear = _carried(common, here)
    gate_linear = linear if common.gating is None else _carried(common.gates, here.gates)
    ratio = np.diag(np.broadcast_to(there.scale / own.scale, local.n_predictors))
    matrix, offset = np.zeros((local.size, whole.size)), np.zeros(local.size)
    for j, k in enumerate(match[:-1]):
        for expert, sign in ((k, 1.0), (match[-1], -1.0)):
            # The last expert is the reference, whose gating weights are zero.
            if expert < n_experts - 1:
                matrix[local.gate(j), whole.gate(expert)] += sign * gate_linear
    for j, k in enumerate(match):
        rows = local.coef(j)
        matrix[rows, whole.coef(k)] = np.kron(ratio, linear)
        offset[rows.start : rows.stop : q_own] = (there.location - own.location) / own.scale
        matrix[local.nuisance(j), whole.nuisance(k)] = np.eye(local.n_nuisances)
        offset[local.nuisance(j)] = np.log(there.nuisance / own.nuisance)
    return matrix, offset


def _layout(parameters: MoEParameters, n_experts: int, coordinates: Coordinates) -> Layout:
    """The layout of so many experts of the same kind in other coordinates."""
    return Layout.of(parameters)._replace(
        n_experts=n_experts, q_gate=coordinates.gates.size, q_expert=coordinates.size
    )


def _carried(common: Coordinates, here: Coordinates) -> FloatArray:
    """The map of weights of [1, u] in common coordinates to those of a partition's own."""
    return np.asarray(here.linear_from_data(common.linear_to_data(np.eye(common.size))).T)

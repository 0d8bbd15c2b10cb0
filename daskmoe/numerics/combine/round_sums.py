"""What a round of refinement sums over all rows: likelihood statistics of a partition, packed and added up.

Pure NumPy. A round evaluates the log-likelihood, gradient and observed information of all rows at a trial
point, and the log-likelihood alone at some others; `refinement` makes the step.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from daskmoe.numerics.base.coordinates import Coordinates
from daskmoe.numerics.base.extremes import Extremes, merge_extremes
from daskmoe.numerics.base.layout import Layout
from daskmoe.numerics.base.observations import Observations
from daskmoe.numerics.base.parameters import FloatArray, MoEParameters
from daskmoe.numerics.families import Family
from daskmoe.numerics.likelihood.scores import (
    ClusterScores,
    add_clusters,
    of_labels,
    of_partition,
    products_of,
)
from daskmoe.numerics.likelihood.statistics import (
    LikelihoodStatistics,
    likelihood_statistics,
    log_likelihood_of,
)


class PackedStatistics(NamedTuple):
    """`LikelihoodStatistics` without what symmetry and structure repeat: under (P + 1)^2 numbers.

    Beside them K masses and the twelve numbers of an output's extremes.
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
    # The entries of the metric of steps; None where nobody asks.
    metric: FloatArray | None = None
    # Log-likelihoods at the other points of the round.
    values: FloatArray = np.empty(0)

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


def round_statistics(
    rows: Observations,
    parameters: MoEParameters,
    coordinates: Coordinates,
    family: Family,
    *,
    scores: bool = False,
    extremes: bool = True,
    others: Sequence[MoEParameters] = (),
    careful: bool = False,
) -> PackedStatistics:
    """A partition's part of a round, at parameters in the data's units; ``extremes`` if they may leave.

    At ``others`` the log-likelihood alone. A ``careful`` round is in double precision, with the metric.
    """
    inner = coordinates.from_data(parameters)
    # The information only scales steps and, to a relative 1e-5, standard errors, not the optimum.
    full = likelihood_statistics(
        inner,
        rows.blocks(coordinates),
        family,
        precision=np.float64 if careful else np.float32,
        scores=scores,
        story=True,
        metric=careful,
    )
    layout = Layout.of(inner)
    beside = [coordinates.from_data(other) for other in others]
    values = [log_likelihood_of(other, rows.blocks(coordinates), family) for other in beside]
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
        None if full.metric is None else full.metric[layout.complete()],
        np.array(values),
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
        None if first.metric is None or second.metric is None else first.metric + second.metric,
        first.values + second.values,
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
        metric=None if packed.metric is None else _symmetric(packed.metric, layout.complete(), layout.size),
    )


def _symmetric(
    values: NDArray[np.floating[Any]], where: tuple[NDArray[np.intp], ...], size: int
) -> FloatArray:
    """The symmetric matrix with these values in its upper triangle."""
    out = np.zeros((size, size))
    out[where] = values
    out.T[where] = values
    return out

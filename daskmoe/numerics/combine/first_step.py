"""Steps from the shared start, made of what the partitions know at the start itself.

Pure NumPy/SciPy. Where partitions differ as sites do, or gates are switches, the optima of single partitions
lie far from that of all, and the sum of their expansions around these is no picture of the whole. At the
start the sums are exact: gradient and observed information of all rows there, for one step. In directions
that the shared start knows nothing of each partition starts at slopes of its own, and the sums are those of
expansions around these.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from daskmoe.numerics.base.coordinates import Coordinates
from daskmoe.numerics.base.layout import Layout
from daskmoe.numerics.base.linalg import solve
from daskmoe.numerics.base.packed import unpack
from daskmoe.numerics.base.parameters import FloatArray, MoEParameters
from daskmoe.numerics.base.policies import CHOICE
from daskmoe.numerics.combine.em_step import em_step
from daskmoe.numerics.combine.frames import Frame
from daskmoe.numerics.families import Family
from daskmoe.numerics.likelihood.priors import Prior
from daskmoe.numerics.likelihood.statistics import LikelihoodStatistics, penalized
from daskmoe.numerics.local.levenberg import RIDGE, LevenbergSteps
from daskmoe.numerics.local.newton import NewtonState, damped_step

# Entries of a symmetric matrix: in single precision of a partition, in double precision of a sum.
Packed: TypeAlias = NDArray[np.floating[Any]]


class AtStart(NamedTuple):
    """A partition's statistics where it started, in whole parameters (`frames`); those of partitions add up.

    A partition sends single precision, sums are in double precision.
    """

    weight: float
    # Of the rows, in the units of their response.
    log_likelihood: float
    # (P,)
    gradient: FloatArray
    # (P (P + 1) / 2,)
    information: Packed
    # The entries of the complete data's information, and of the metric of steps, not zero by structure.
    complete: Packed
    metric: Packed
    # (P,): Information and complete information times the point where the partition started.
    pulled: FloatArray
    bound: FloatArray


def add_starts(first: AtStart, second: AtStart) -> AtStart:
    """Of the union of two sets of rows."""
    arrays = zip(first[2:], second[2:], strict=True)
    sums = [np.asarray(a, dtype=np.float64) + b for a, b in arrays]
    return AtStart(first.weight + second.weight, first.log_likelihood + second.log_likelihood, *sums)


def at_start(statistics: LikelihoodStatistics, parameters: MoEParameters, frame: Frame) -> AtStart:
    """What a partition sends of its statistics, those of steps among them, at parameters in its frame."""
    assert statistics.metric is not None
    layout = Layout.of(parameters)
    origin, gradient = layout.pack(parameters), statistics.gradient
    matrices = [statistics.information, statistics.complete, statistics.metric]
    if frame.n_unseen:
        back = frame.from_whole(layout)
        origin, gradient = frame.to_whole(layout) @ origin, back.T @ gradient
        matrices = [np.asarray(back.T @ matrix @ back) for matrix in matrices]
        layout = frame.whole(layout)
    information, complete, metric = (matrix.astype(np.float32) for matrix in matrices)
    upper, places = layout.upper(), layout.complete()
    # What sums weigh these by is formed from the same rounded numbers.
    pulled = unpack(information[upper]).astype(np.float64) @ origin
    bound = _spread(complete[places], layout) @ origin
    return AtStart(
        statistics.weight,
        statistics.value - statistics.weight * frame.coordinates.log_jacobian,
        gradient,
        information[upper],
        complete[places],
        metric[places],
        pulled,
        bound,
    )


def _spread(entries: Packed, layout: Layout) -> FloatArray:
    """The symmetric matrix (P, P) of the entries that are not zero by structure."""
    places = layout.complete()
    out = np.zeros((layout.size, layout.size))
    out[places] = out.T[places] = entries
    return out


class StartSums(NamedTuple):
    """What all partitions know where they started, as forms in the parameters of one frame.

    With x the way from ``origin`` the log-likelihood gains about gradient' x - x' information x / 2, and at
    least, up to the third order, bound' x - x' complete x / 2, which EM maximizes. Where all started in one
    point both gradients are the same.
    """

    weight: float
    # (P,): The shared start, with slopes between those that partitions started from.
    origin: FloatArray
    # (P,)
    gradient: FloatArray
    bound: FloatArray
    # (P, P) each.
    information: FloatArray
    complete: FloatArray
    metric: FloatArray

    @classmethod
    def of(cls, known: Sequence[AtStart], pilot: MoEParameters, frame: Frame) -> StartSums:
        """From what partitions sent; ``pilot`` is the shared start, in the data's units."""
        start = frame.coordinates.from_data(pilot)
        layout = Layout.of(start)
        total, whole = reduce(add_starts, known), frame.whole(layout)
        to_whole = frame.to_whole(layout)
        vectors = total.gradient, total.pulled, total.bound
        gradient, pulled, bound = (np.asarray(to_whole.T @ vector) for vector in vectors)
        information, complete, metric = (
            np.asarray(to_whole.T @ matrix @ to_whole)
            for matrix in (
                unpack(total.information).astype(np.float64),
                _spread(total.complete, whole),
                _spread(total.metric, whole),
            )
        )
        origin, added = layout.pack(start), frame.is_added(layout)
        if added.any():
            own = np.ix_(added, added)
            origin[added] += solve(complete[own], (bound - complete @ origin)[added], *RIDGE)
        gradient, bound = gradient + pulled - information @ origin, gradient + bound - complete @ origin
        return cls(total.weight, origin, gradient, bound, information, complete, metric)


def first_steps(
    sums: StartSums, layout: Layout, coordinates: Coordinates, prior: Prior, family: Family
) -> dict[str, MoEParameters]:
    """Where steps lead, in the data's units, by kind; without those that lead to no model.

    Newton's, two that are shorter (`levenberg`), and for where the quadratic model of these is wrong, as
    beside a row that is far from all others, that in EM's metric and a step of EM that cannot fall
    if all started in one point.
    """
    start = layout.unpack(sums.origin)
    observed = LikelihoodStatistics(
        0.0, sums.gradient, sums.information, sums.complete, sums.weight, metric=sums.metric
    )
    observed = penalized(observed, start, prior)
    expected = penalized(
        LikelihoodStatistics(0.0, sums.bound, sums.complete, sums.complete, sums.weight), start, prior
    )
    steps = {"Newton step": damped_step(NewtonState(start, observed, 0.0))[0]}
    levenberg = LevenbergSteps(observed, layout)
    for kind, damping in zip(("damped step", "short step"), CHOICE.dampings, strict=True):
        steps[kind] = levenberg.step(damping)[0]
    at_start = NewtonState(start, expected, 0.0)
    steps["EM step"] = damped_step(at_start)[0]
    steps["sure step"] = em_step(at_start, prior, 1.0, family, bounded=True)[0]
    ends = {kind: sums.origin + step for kind, step in steps.items()}
    return {
        kind: coordinates.to_data(layout.unpack(end)) for kind, end in ends.items() if layout.is_model(end)
    }

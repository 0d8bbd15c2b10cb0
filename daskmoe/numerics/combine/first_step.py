"""Steps from the shared start, made of what the partitions know at the start itself.

Pure NumPy/SciPy. Where partitions differ as sites do, or gates are switches, the optima of single partitions
lie far from that of all, and the sum of their expansions around these is no picture of the whole. At the
start the sums are exact: gradient and observed information of all rows there, for one damped Newton step.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from daskmoe.numerics.base.coordinates import Coordinates
from daskmoe.numerics.base.layout import Layout
from daskmoe.numerics.base.packed import unpack
from daskmoe.numerics.base.parameters import FloatArray, MoEParameters
from daskmoe.numerics.base.policies import CHOICE
from daskmoe.numerics.likelihood.priors import Prior
from daskmoe.numerics.likelihood.statistics import LikelihoodStatistics, penalized
from daskmoe.numerics.local.newton import NewtonState, damped_step


class AtStart(NamedTuple):
    """A partition's statistics at the shared start."""

    weight: float
    # (P,)
    gradient: FloatArray
    # (P (P + 1) / 2,)
    information: NDArray[np.float32]
    # The entries of the complete data's information that are not zero by structure.
    complete: NDArray[np.float32]


def at_start(statistics: LikelihoodStatistics, layout: Layout) -> AtStart:
    """What a partition sends of its statistics."""
    return AtStart(
        statistics.weight,
        statistics.gradient,
        statistics.information[layout.upper()].astype(np.float32),
        statistics.complete[layout.complete()].astype(np.float32),
    )


def first_steps(
    known: Sequence[AtStart], parameters: MoEParameters, coordinates: Coordinates, prior: Prior
) -> list[MoEParameters | None]:
    """Where the steps of `ChoicePolicy.dampings` lead, in the data's units; None for one that is no model.

    The last of them is in EM's metric, for where the quadratic model of the others is wrong.
    """
    start = coordinates.from_data(parameters)
    layout = Layout.of(start)
    information, complete = np.zeros((2, layout.size, layout.size))
    gradient, places = np.zeros(layout.size), layout.complete()
    for each in known:
        gradient += each.gradient
        information += unpack(each.information)
        complete[places] += each.complete
    complete.T[places] = complete[places]
    weight = sum(each.weight for each in known)
    sums = LikelihoodStatistics(0.0, gradient, information, complete, weight)
    statistics = penalized(sums, start, prior)
    found: list[MoEParameters | None] = []
    for damping in CHOICE.dampings:
        step, _, _ = damped_step(NewtonState(start, statistics, damping))
        trial = layout.pack(start) + step
        found.append(coordinates.to_data(layout.unpack(trial)) if layout.is_model(trial) else None)
    return found

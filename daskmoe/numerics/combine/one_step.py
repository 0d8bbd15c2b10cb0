"""The step made from partitions' summed expansions.

Pure NumPy/SciPy. The sum of expansions from a shared start (`expansion`) is maximized by solving

    (sum_m I_m + prior) theta = sum_m (I_m theta_m + gradient_m) + prior terms,

one Newton step of the global penalized log-likelihood, expanded where each partition is near its optimum.
A partition that says nothing about an expert carries no weight for it, however the rows were partitioned.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import scipy
from numpy.typing import NDArray

from daskmoe.numerics.base.layout import Layout
from daskmoe.numerics.base.packed import unpack
from daskmoe.numerics.base.parameters import FloatArray, MoEParameters, Moments
from daskmoe.numerics.base.policies import DEFAULTS, EXPANSION, Regularization
from daskmoe.numerics.combine.expansion import Expansion, Pilot
from daskmoe.numerics.combine.first_step import StartSums
from daskmoe.numerics.combine.frames import Frame, frame_of, no_frame
from daskmoe.numerics.families import Family
from daskmoe.numerics.likelihood.inference import Curvature, curvature, is_definite
from daskmoe.numerics.likelihood.priors import Prior, prior_from
from daskmoe.numerics.likelihood.statistics import LikelihoodStatistics, penalized


class Combined(NamedTuple):
    """The maximum of summed expansions."""

    parameters: MoEParameters
    # Whether there is one only with what is known at the start.
    held: bool


def one_shots(
    expansions: Sequence[Expansion],
    pilot: Pilot,
    pooled: Moments,
    family: Family,
    regularization: Regularization = DEFAULTS,
) -> list[MoEParameters]:
    """The maximum of the summed expansions and the prior of all rows, whose moments are ``pooled``.

    With all directions that any rows see; where that sum has no maximum of its own, behind what holds it
    there is that with the directions of the pilot's sample. None at all if no sum has a maximum.
    """
    out = []
    for frame in frames_of(pilot, pooled):
        n_experts = pilot.parameters.n_experts
        prior = prior_from(pooled, frame.coordinates, n_experts, family, regularization)
        found = combine_expansions(expansions, pilot, prior, frame)
        if found is not None:
            out.append(found.parameters)
            if not found.held:
                break
    return out


def frames_of(pilot: Pilot, pooled: Moments) -> list[Frame]:
    """That of all rows, and that of the pilot alone."""
    alone = no_frame(pilot.coordinates, pilot.unseen)
    if pilot.unseen.none:
        return [alone]
    whole = frame_of(pilot.coordinates, pilot.unseen, pooled)
    return [whole, alone] if whole.added else [alone]


def combine_expansions(
    expansions: Sequence[Expansion], pilot: Pilot, prior: Prior, frame: Frame | None = None
) -> Combined | None:
    """The maximum of the summed expansions and the prior, in a frame; by default that of the pilot alone.

    Where the sum has no maximum, as if what is known at the start came with it, once or a few times; None if
    that does not help.
    """
    frame = no_frame(pilot.coordinates, pilot.unseen) if frame is None else frame
    start = frame.coordinates.from_data(pilot.parameters)
    layout = Layout.of(start)
    origin = layout.pack(start)
    information, vector = summed(expansions, layout, frame)
    penalty = penalized(LikelihoodStatistics.none(layout.size), start, prior)
    information += penalty.information
    vector += penalty.gradient + penalty.information @ origin
    known = _known_at_start(expansions, pilot, frame)
    for times in EXPANSION.pilot_weights:
        try:
            factor = scipy.linalg.cho_factor(information + times * known.information, lower=True)
        except np.linalg.LinAlgError:
            continue
        theta = scipy.linalg.cho_solve(factor, vector + times * known.vector)
        # A quadratic says nothing of a nuisance that changes by orders of magnitude, as beside an outlier.
        found = origin + layout.bounded(theta - origin)
        if layout.is_model(found):
            return Combined(frame.coordinates.to_data(layout.unpack(found)), times > 0)
    return None


class _Quadratic(NamedTuple):
    """theta' vector - theta' information theta / 2."""

    # (P, P)
    information: FloatArray
    # (P,)
    vector: FloatArray


def _known_at_start(expansions: Sequence[Expansion], pilot: Pilot, frame: Frame) -> _Quadratic:
    """What is known where partitions start, which is nowhere negative, to lean on.

    The pilot's sample; and in directions that it did not see vary, where the observed information of few rows
    need not be definite, EM's bound of all rows.
    """
    start = frame.coordinates.from_data(pilot.parameters)
    layout = Layout.of(start)
    information, origin = frame.from_pilot(pilot.information, layout), layout.pack(start)
    vector = information @ origin
    at_start = [each.start for each in expansions if each.start is not None]
    if frame.added and at_start:
        sums = StartSums.of(at_start, pilot.parameters, frame)
        added = frame.is_added(layout)
        both = np.outer(added, added)
        information = np.where(both, sums.complete, information)
        vector = np.where(added, sums.bound + np.where(both, sums.complete, 0.0) @ sums.origin, vector)
    return _Quadratic(information, vector)


def summed_curvature(
    expansions: Sequence[Expansion],
    pilot: Pilot,
    pooled: Moments,
    parameters: MoEParameters,
    order: NDArray[np.intp],
    family: Family,
    regularization: Regularization = DEFAULTS,
) -> Curvature | None:
    """The information of all expansions and the prior, for a model that is made of them.

    Without any, that of the pilot's sample. ``parameters`` are in the data's units with the pilot's experts,
    which are taken in an ``order`` later. As in `combine_expansions` what is known at the start joins a sum
    that has no maximum; None if that does not help.
    """
    frame = frames_of(pilot, pooled)[0 if expansions else -1]
    prior = prior_from(pooled, frame.coordinates, parameters.n_experts, family, regularization)
    inner = frame.coordinates.from_data(parameters)
    layout = Layout.of(inner)
    information, _ = summed(expansions, layout, frame)
    own = curvature(inner, information, prior, frame.coordinates, order)
    known = _known_at_start(expansions, pilot, frame)
    for times in EXPANSION.pilot_weights if expansions else (1.0,):
        total = information + own.prior + times * known.information
        if is_definite(total):
            return own._replace(information=total)
    return None


def summed(expansions: Sequence[Expansion], layout: Layout, frame: Frame) -> tuple[FloatArray, FloatArray]:
    """Information and vector of all partitions, in a frame."""
    size = frame.whole(layout).size
    information, vector = np.zeros((size, size)), np.zeros(size)
    for expansion in expansions:
        information += unpack(expansion.information)
        vector += expansion.vector
    if not frame.n_unseen:
        return information, vector
    whole = frame.to_whole(layout)
    return np.asarray(whole.T @ information @ whole), np.asarray(whole.T @ vector)

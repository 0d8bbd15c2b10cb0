"""What a model remembers of its rows, and what new rows make of it without the old ones.

Pure NumPy. A model keeps the second-order expansion of its rows' log-likelihood around itself, and their
moments. It is a shared start then, and its information the prior with which new partitions move to
optima of their own (`expansion`): the maximum of the old expansion, the new ones and the prior of all rows is
the updated model, which remembers their sum. Of the old rows the quadratic is all there is, of the new ones
their log-likelihood can be had: the sum of both decides which step is taken. Directions that the old rows did
not see vary carry no information, as for a pilot whose sample did not see them (`frames`).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from daskmoe.numerics.base.coordinates import Coordinates, unseen_directions
from daskmoe.numerics.base.layout import Layout
from daskmoe.numerics.base.linalg import diagonal_scale, solve
from daskmoe.numerics.base.observations import Observations, merge_moments, moments
from daskmoe.numerics.base.parameters import FloatArray, MoEParameters, Moments
from daskmoe.numerics.base.policies import DEFAULTS, MEMORY, Regularization
from daskmoe.numerics.combine.candidates import Ballot, Candidate, Tally
from daskmoe.numerics.combine.expansion import (
    Expansion,
    Pilot,
    add_expansions,
    expand_estimate,
    expansion_of,
    semidefinite,
)
from daskmoe.numerics.combine.frames import Frame, no_frame
from daskmoe.numerics.combine.one_step import frames_of, one_shots, summed
from daskmoe.numerics.families import Family
from daskmoe.numerics.likelihood.inference import Curvature
from daskmoe.numerics.likelihood.priors import Prior, prior_from
from daskmoe.numerics.likelihood.statistics import LikelihoodStatistics
from daskmoe.numerics.local.levenberg import RIDGE

UNCHANGED = "unchanged"
NEWTON_STEP = "Newton step"


class Memory(NamedTuple):
    """The expansion of the log-likelihood of some rows around a model, and their moments."""

    # Whitened.
    parameters: MoEParameters
    # Those in which it is, as other whitenings of the same rows differ by a rotation.
    coordinates: Coordinates
    # (P, P) and (P,): Of the rows alone, without the priors.
    information: FloatArray
    gradient: FloatArray
    moments: Moments

    @property
    def model(self) -> MoEParameters:
        """The parameters in the data's units."""
        return self.coordinates.to_data(self.parameters)

    def take(self, order: NDArray[np.intp]) -> Memory:
        """The same with the experts in another order, the last of them the new gating reference."""
        if (order == np.arange(len(order))).all():
            return self
        layout, inverse = Layout.of(self.parameters), np.argsort(order)
        basis = [layout.pack(layout.unpack(unit).take(inverse)) for unit in np.eye(layout.size)]
        back = np.array(basis).T
        return self._replace(
            parameters=self.parameters.take(order),
            information=back.T @ self.information @ back,
            gradient=back.T @ self.gradient,
        )

    def discounted(self, forget: float) -> Memory:
        """As if the rows weighed less by that share."""
        kept = 1.0 - forget
        weight, scatter = kept * self.moments.weight, kept * self.moments.scatter
        return self._replace(
            information=kept * self.information,
            gradient=kept * self.gradient,
            moments=self.moments._replace(weight=weight, scatter=scatter),
        )

    def gain(self, parameters: MoEParameters) -> float:
        """What the log-likelihood gains by a model in the data's units, to second order."""
        layout = Layout.of(self.parameters)
        step = layout.pack(self.coordinates.from_data(parameters)) - layout.pack(self.parameters)
        return float(step @ self.gradient - 0.5 * step @ self.information @ step)

    def expansion(self) -> Expansion:
        """The same in its own coordinates, as a partition sends it."""
        return expansion_of(self._statistics, self.parameters, precision=np.float64)

    def beside(self, pilot: Pilot) -> Expansion:
        """The same with all directions of a pilot in these coordinates: nothing in those it has not seen."""
        frame = no_frame(pilot.coordinates, pilot.unseen)
        return expansion_of(self._statistics, self.parameters, frame, np.float64)

    @property
    def _statistics(self) -> LikelihoodStatistics:
        nothing = LikelihoodStatistics.none(len(self.gradient))
        return nothing._replace(gradient=self.gradient, information=self.information)


def memory_of(known: Curvature, rows: Moments) -> Memory:
    """What a model remembers that was fitted to rows with these moments."""
    information = known.information - known.prior
    return Memory(known.parameters, known.coordinates, information, known.gradient, rows)


def pilot_of(
    memory: Memory,
    parameters: MoEParameters,
    family: Family,
    regularization: Regularization = DEFAULTS,
) -> Pilot:
    """A model, in the data's units, as the shared start of new rows, held by what is remembered."""
    coordinates, known = memory.coordinates, memory.moments
    prior = prior_from(known, coordinates, parameters.n_experts, family, regularization)
    unseen = unseen_directions(known, coordinates)
    information = semidefinite(memory.information)
    return Pilot(parameters, coordinates, information, int(known.weight), prior, unseen, known)


class News(NamedTuple):
    """What new rows say from a shared start; of partitions it adds up."""

    expansion: Expansion
    moments: Moments
    rows: int


def news_of(rows: Observations, pilot: Pilot, family: Family) -> News:
    """What a partition of new rows says."""
    known = moments(rows)
    _, expansion = expand_estimate(rows, pilot, family, known)
    return News(expansion, known, rows.n_rows)


def add_news(first: News, second: News) -> News:
    """Of the union of two sets of rows."""
    return News(
        add_expansions(first.expansion, second.expansion),
        merge_moments(first.moments, second.moments),
        first.rows + second.rows,
    )


class Proposal(NamedTuple):
    """Where the sum of old and new may have its maximum."""

    candidates: list[Candidate]
    # In the data's units.
    models: list[MoEParameters]
    memory: Memory
    pilot: Pilot
    news: News
    # Of old and new rows.
    pooled: Moments
    family: Family

    @property
    def ballot(self) -> Ballot:
        """What new partitions need to score the candidates."""
        coordinates = frames_of(self.pilot, self.pooled)[0].coordinates
        return Ballot([*self.models], coordinates, self.family)

    def expansions(self, candidate: Candidate) -> list[Expansion]:
        """The sum that a candidate is the maximum of, or next to it."""
        new = self.news.expansion
        return [
            _around_start(new) if candidate.kind == "Newton step" else new,
            self.memory.beside(self.pilot),
        ]


def propose_update(
    memory: Memory,
    pilot: Pilot,
    news: News,
    family: Family,
    regularization: Regularization = DEFAULTS,
) -> Proposal:
    """The maximum of the summed expansions, of those around the start, parts of the way, and the start."""
    pooled = merge_moments(memory.moments, news.moments)
    frame = frames_of(pilot, pooled)[0]
    n_experts = pilot.parameters.n_experts
    prior = prior_from(pooled, frame.coordinates, n_experts, family, regularization)
    past = memory.beside(pilot)
    found: dict[str, MoEParameters] = {}
    maxima = one_shots([news.expansion, past], pilot, pooled, family, regularization)
    found |= dict(zip(("one-shot", "narrow one-shot"), maxima, strict=False))
    steps = one_shots([_around_start(news.expansion), past], pilot, pooled, family, regularization)
    if steps:
        found[NEWTON_STEP] = steps[0]
    for share in MEMORY.shares if maxima else ():
        found[f"{share:g} of the step"] = _part_of_way(pilot.parameters, maxima[0], share, frame)
    found[UNCHANGED] = pilot.parameters
    candidates = [_candidate(kind, parameters, prior, frame) for kind, parameters in found.items()]
    return Proposal(candidates, list(found.values()), memory, pilot, news, pooled, family)


def _around_start(new: Expansion) -> Expansion:
    """What new rows say where they started."""
    start = new.start
    assert start is not None
    return Expansion(start.information, start.pulled + start.gradient, start)


def _part_of_way(start: MoEParameters, end: MoEParameters, share: float, frame: Frame) -> MoEParameters:
    inner = frame.coordinates.from_data(start)
    layout = Layout.of(inner)
    way = layout.pack(frame.coordinates.from_data(end)) - layout.pack(inner)
    return frame.coordinates.to_data(layout.shift(inner, share * way))


def _candidate(kind: str, parameters: MoEParameters, prior: Prior, frame: Frame) -> Candidate:
    return Candidate(kind, parameters, float(prior.penalty(*frame.coordinates.from_data(parameters))))


class Choice(NamedTuple):
    """The best candidate, which remembers old and new rows."""

    candidate: Candidate
    place: int
    # Above the start, in nats.
    gain: float
    curvature: Curvature
    memory: Memory


def settle_update(proposal: Proposal, tally: Tally, regularization: Regularization = DEFAULTS) -> Choice:
    """The candidate with the largest sum of the new rows' log-likelihood, the old quadratic and the prior."""
    objectives = np.array(
        [
            total + proposal.memory.gain(model) - candidate.penalty
            for candidate, model, total in zip(
                proposal.candidates, proposal.models, tally.totals[:-1], strict=True
            )
        ]
    )
    place = int(np.nanargmax(np.where(np.isfinite(objectives), objectives, -np.inf)))
    chosen = proposal.candidates[place]
    curvature = _curvature(proposal, chosen, regularization)
    memory = memory_of(curvature, proposal.pooled)
    return Choice(chosen, place, float(objectives[place] - objectives[-1]), curvature, memory)


def _curvature(proposal: Proposal, chosen: Candidate, regularization: Regularization) -> Curvature:
    """The summed information, with the gradient of the sum where the model is."""
    frames = frames_of(proposal.pilot, proposal.pooled)
    frame = frames[-1 if chosen.kind == "narrow one-shot" else 0]
    assert isinstance(chosen.parameters, MoEParameters)
    inner = frame.coordinates.from_data(chosen.parameters)
    layout, n_experts = Layout.of(inner), inner.n_experts
    information, vector = summed(proposal.expansions(chosen), layout, frame)
    prior = prior_from(proposal.pooled, frame.coordinates, n_experts, proposal.family, regularization)
    held = prior.hessians(inner)[0]
    gradient = vector - information @ layout.pack(inner)
    return Curvature(inner, information + held, held, frame.coordinates, np.arange(n_experts), gradient)


class Drift(NamedTuple):
    """How far new rows' optimum is from a model."""

    # In the metric of both, a parameter that they tell of: about one where nothing changed.
    ratio: float
    # What the new rows would gain by it, a row, in nats, above what chance lets expect.
    nats: float
    # Parameters that they tell of.
    size: int

    @property
    def is_far(self) -> bool:
        """Whether neither chance nor a model that is a little wrong explains it."""
        return self.ratio > self.limit and self.nats > MEMORY.drift

    @property
    def limit(self) -> float:
        """The largest ratio that chance explains."""
        return max(MEMORY.units, 1.0 + MEMORY.deviations * float(np.sqrt(2.0 / max(self.size, 1))))


def drift_of(memory: Memory, pilot: Pilot, news: News) -> Drift:
    """From what new rows say at the model itself, whatever is made of directions that old rows did not see.

    With the old information the identity and the new one diagonal, l, the variance of the new score is
    l + l^2 where nothing changed: the old estimate has its own error. The observed l of few rows may be next
    to nothing where their score is not: it counts for no less than the share of the rows.
    """
    score, information = _seen_before(memory, pilot, news)
    scale = diagonal_scale(pilot.information)
    values, vectors = np.linalg.eigh(pilot.information / np.outer(scale, scale))
    told = values > MEMORY.told * values[-1]
    back = vectors[:, told] / np.sqrt(values[told]) / scale[:, None]
    own, turned = np.linalg.eigh(back.T @ information @ back)
    strength = np.maximum(np.abs(own), news.moments.weight / memory.moments.weight)
    squares = (turned.T @ (back.T @ score)) ** 2
    size = len(strength)
    ratio = float(np.sum(squares / (strength + strength**2))) / max(size, 1)
    gain = 0.5 * float(np.sum(squares / strength - 1.0 - strength))
    return Drift(ratio, gain / news.moments.weight, size)


def _seen_before(memory: Memory, pilot: Pilot, news: News) -> tuple[FloatArray, FloatArray]:
    """Score and information of the new rows at a model, at the best slopes in directions that it lacks."""
    frame = frames_of(pilot, merge_moments(memory.moments, news.moments))[0]
    inner = frame.coordinates.from_data(pilot.parameters)
    layout = Layout.of(inner)
    information, vector = summed([_around_start(news.expansion)], layout, frame)
    score = vector - information @ layout.pack(inner)
    added = frame.is_added(layout)
    if not added.any():
        return score, information
    known = ~added
    across = information[np.ix_(known, added)]
    explained = solve(information[np.ix_(added, added)], np.column_stack([score[added], across.T]).T, *RIDGE)
    return score[known] - across @ explained[0], information[np.ix_(known, known)] - across @ explained[1:].T

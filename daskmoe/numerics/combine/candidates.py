"""Candidates for the model of a fit, compared by what is maximized: the objective on all rows.

Pure NumPy. Every partition adds up the log-likelihood of its rows under each candidate, and says how far
predictions go; what comes back is a few numbers a candidate, and the prior of all rows does the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import scipy

from daskmoe.numerics.base.coordinates import Coordinates
from daskmoe.numerics.base.extremes import Extremes, merge_extremes
from daskmoe.numerics.base.observations import Observations
from daskmoe.numerics.base.parameters import FloatArray, LargeMoE, Mixture, MoEParameters
from daskmoe.numerics.families import Family
from daskmoe.numerics.likelihood.e_step import EStep, Runs
from daskmoe.numerics.predictive.mixture import block_rows, log_likelihood, mixture_mean, row_blocks
from daskmoe.numerics.predictive.outputs import output_means


class Candidate(NamedTuple):
    """A model that may be the result."""

    # What it is.
    kind: str
    parameters: Mixture
    # That of the prior of all rows; zero for the weighted average, which has none.
    penalty: float = 0.0
    # Number of the shared start that it comes from.
    start: int = 0

    @property
    def name(self) -> str:
        """What it is called in diagnostics: by the shared start too, where that is not the first."""
        return f"{self.kind} {self.start + 1}" if self.start else self.kind


class Score(NamedTuple):
    """Of a candidate on all rows, in nats a row."""

    log_likelihood: float
    # The log-likelihood less the penalty.
    objective: float


class Tally(NamedTuple):
    """What rows say of C candidates; those of partitions add up."""

    # (C + 1,): Log-likelihoods and, last, the weight of the rows.
    totals: FloatArray
    # (C, K): Sums of the responsibilities; none of the weighted average.
    mass: FloatArray
    # Of E[y|x] under every candidate and, last, of y; None where no response may be told.
    extremes: Extremes | None
    # (C,): Sums of the entropies of the responsibilities, NaN of the weighted average; None where not asked.
    entropies: FloatArray | None = None

    def within(self, partition: int) -> Tally:
        """The same, of rows of a partition."""
        return self._replace(extremes=None if self.extremes is None else self.extremes.within(partition))

    def of(self, place: int) -> Told:
        """What the rows say of one candidate."""
        extremes = None if self.extremes is None else self.extremes.take([place, -1])
        return Told(
            self.mass[place], extremes, None if self.entropies is None else float(self.entropies[place])
        )


class Told(NamedTuple):
    """What rows say of a model beside its score."""

    # (K,): Sums of the responsibilities; none of the weighted average.
    mass: FloatArray
    # Of E[y|x] and of y; None where no response may be told.
    extremes: Extremes | None
    # Sum of the entropies of the responsibilities; None where nobody asked.
    entropy: float | None = None


def add_tallies(first: Tally, second: Tally) -> Tally:
    """Of the union of two sets of rows."""
    extremes = None if second.extremes is None else merge_extremes(first.extremes, second.extremes)
    entropies = None
    if first.entropies is not None and second.entropies is not None:
        entropies = first.entropies + second.entropies
    return Tally(first.totals + second.totals, first.mass + second.mass, extremes, entropies)


class Ballot(NamedTuple):
    """What a partition needs to score candidates."""

    parameters: list[Mixture]
    # Those that rows are read in.
    coordinates: Coordinates
    family: Family
    # Whether the lowest and the highest response may be told.
    responses: bool = True
    # Whether the entropies of the responsibilities are asked for, which cost a logarithm a row and expert.
    entropies: bool = False


def score_rows(rows: Observations, ballot: Ballot) -> Tally:
    """What the rows say of every candidate."""
    plain = [i for i, p in enumerate(ballot.parameters) if isinstance(p, MoEParameters)]
    n_candidates = len(ballot.parameters)
    n_experts = ballot.parameters[plain[0]].n_experts if plain else 0
    totals, mass = np.zeros(n_candidates + 1), np.zeros((n_candidates, n_experts))
    values = np.zeros((n_candidates + 1, *rows.response.shape[1:], 2))
    places = np.zeros(values.shape, dtype=np.intp)
    totals[-1] = rows.total_weight
    entropies = np.full(n_candidates, np.nan) if ballot.entropies else None
    extremes = Extremes(values, places, places.copy())
    if plain:
        found = _side_by_side(rows, [ballot.parameters[i] for i in plain], ballot)
        totals[plain], mass[plain] = found.totals[:-1], found.mass
        if entropies is not None:
            entropies[plain] = found.entropies
        if found.extremes is not None:
            extremes.put([*plain, n_candidates], found.extremes)
    for i, parameters in enumerate(ballot.parameters):
        if isinstance(parameters, LargeMoE):
            totals[i], own = _large(rows, parameters, ballot.family)
            if own is not None:
                extremes.put([i, n_candidates], own)
    return Tally(totals, mass, extremes if ballot.responses else None, entropies)


# A candidate may be wild; what overflows is not chosen.
@np.errstate(over="ignore", invalid="ignore")
def _side_by_side(rows: Observations, models: Sequence[Mixture], ballot: Ballot) -> Tally:
    """Of models of one size, which share the pass over the rows."""
    shift = ballot.coordinates
    inner = [shift.from_data(m) for m in models if isinstance(m, MoEParameters)]
    runs = Runs(*(np.stack(arrays) for arrays in zip(*inner, strict=True)))
    e_step = EStep(runs, ballot.family)
    totals, mass = np.zeros(len(models)), np.zeros(runs.gate.shape[:2])
    entropies = np.zeros(len(models)) if ballot.entropies else None
    extremes, n_rows = None, 0
    for block in rows.blocks(shift):
        found = e_step(block)
        weight = np.ones(block.width) if block.weight is None else block.weight
        totals += found.log_density @ weight
        mass += found.responsibilities @ weight
        if entropies is not None:
            entropies += scipy.special.entr(found.responsibilities).sum(axis=1) @ weight
        each = np.concatenate([e_step.means(found), block.response[np.newaxis]])
        extremes = merge_extremes(extremes, Extremes.of(each, n_rows))
        n_rows += block.width
    totals -= rows.total_weight * shift.log_jacobian
    if extremes is not None:
        extremes = extremes.moved(*shift.response[:2])
    return Tally(np.append(totals, rows.total_weight), mass, extremes, entropies)


def _large(rows: Observations, parameters: LargeMoE, family: Family) -> tuple[float, Extremes | None]:
    """Log-likelihood under a weighted average, extremes of its E[y|x] and of y."""
    response = np.asarray(rows.response, dtype=np.float64)
    weight = None if rows.weight is None else rows.weight.astype(np.float64)
    value = log_likelihood(parameters, family, rows.features, response, weight)
    extremes, mean = None, output_means if family.by_predictor else mixture_mean
    for part in row_blocks(rows.n_rows, block_rows(parameters.n_experts)):
        both = np.stack([mean(parameters, family, rows.features[part]), response[part].T])
        extremes = merge_extremes(extremes, Extremes.of(both, part.start))
    return value, extremes


def scores_of(candidates: Sequence[Candidate], totals: FloatArray) -> dict[str, Score]:
    """The scores of all candidates from the totals of a `Tally`."""
    weight = totals[-1]
    return {
        candidate.name: Score(float(value / weight), float((value - candidate.penalty) / weight))
        for candidate, value in zip(candidates, totals, strict=False)
    }


def best_of(candidates: Sequence[Candidate], scores: dict[str, Score]) -> Candidate:
    """The candidate of the highest objective, the first of equal ones; the first where none has one."""
    finite = [c for c in candidates if np.isfinite(scores[c.name].objective)]
    return max(finite, key=lambda c: scores[c.name].objective) if finite else candidates[0]


def equal_experts(single: MoEParameters, n_experts: int) -> MoEParameters:
    """A model of one expert as one of K: all of them equal, so that the density is the same."""
    return MoEParameters(*(np.repeat(array, n_experts, axis=0) for array in single))

"""Candidates for the model of a fit, compared by what is maximized: the objective on all rows.

Pure NumPy. Every partition adds up the log-likelihood of its rows under each candidate; what comes back is a
number a candidate, and the prior of all rows does the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from daskmoe.numerics.base.coordinates import Coordinates
from daskmoe.numerics.base.observations import Observations
from daskmoe.numerics.base.parameters import FloatArray, LargeMoE, Mixture, MoEParameters
from daskmoe.numerics.families import Family
from daskmoe.numerics.likelihood.e_step import EStep, Runs
from daskmoe.numerics.predictive.mixture import log_likelihood


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


class Ballot(NamedTuple):
    """What a partition needs to score candidates."""

    parameters: list[Mixture]
    # Those that rows are read in.
    coordinates: Coordinates
    family: Family


def score_rows(rows: Observations, ballot: Ballot) -> FloatArray:
    """Log-likelihood of the rows under every candidate, and, last, their weight."""
    out = np.zeros(len(ballot.parameters) + 1)
    out[-1] = rows.total_weight
    plain = [i for i, p in enumerate(ballot.parameters) if isinstance(p, MoEParameters)]
    if plain:
        out[plain] = _side_by_side(rows, [ballot.parameters[i] for i in plain], ballot)
    for i, parameters in enumerate(ballot.parameters):
        if isinstance(parameters, LargeMoE):
            response = np.asarray(rows.response, dtype=np.float64)
            weight = None if rows.weight is None else rows.weight.astype(np.float64)
            out[i] = log_likelihood(parameters, ballot.family, rows.features, response, weight)
    return out


# A candidate may be wild; what overflows is not chosen.
@np.errstate(over="ignore", invalid="ignore")
def _side_by_side(rows: Observations, models: Sequence[Mixture], ballot: Ballot) -> FloatArray:
    """Log-likelihoods of models of one size, which share the pass over the rows."""
    shift = ballot.coordinates
    inner = [shift.from_data(m) for m in models if isinstance(m, MoEParameters)]
    runs = Runs(*(np.stack(arrays) for arrays in zip(*inner, strict=True)))
    e_step, total = EStep(runs, ballot.family), np.zeros(len(models))
    for block in rows.blocks(shift):
        density = e_step(block).log_density
        total += density.sum(axis=1) if block.weight is None else density @ block.weight
    return np.asarray(total - rows.total_weight * shift.log_jacobian)


def scores_of(candidates: Sequence[Candidate], totals: FloatArray) -> dict[str, Score]:
    """The scores of all candidates from the sums of `score_rows`."""
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

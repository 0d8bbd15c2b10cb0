"""The race of starts: EM from all of them at once, the slower half leaving at every look.

Pure NumPy, on the rows of one problem.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from daskmoe.numerics.base.observations import Block
from daskmoe.numerics.base.parameters import FloatArray, MoEParameters
from daskmoe.numerics.base.policies import RacePolicy
from daskmoe.numerics.likelihood.statistics import LikelihoodStatistics
from daskmoe.numerics.local.em import em, start_em
from daskmoe.numerics.local.problem import Problem
from daskmoe.numerics.local.starts import starting_runs


class Candidate(NamedTuple):
    """Where an ascent may start."""

    parameters: MoEParameters
    # Those of a sample of the rows at about these parameters, if there are.
    nearby: LikelihoodStatistics | None = None
    # What was reached on that sample, a row.
    objective: float = -math.inf
    # What the last passes of a race added to that.
    rising: float = math.inf


def run_race(
    problem: Problem, n_experts: int, n_init: int, race: RacePolicy, rng: np.random.Generator
) -> tuple[list[Candidate], FloatArray]:
    """EM from all starts at once: the survivors, best first, and the log-likelihoods a row of all."""
    blocks = [_kept(block) for block in problem.rows.blocks(problem.coordinates)]
    design = np.concatenate([b.design for b in blocks], axis=1)
    split = problem.coordinates.gating is not None
    gating = np.concatenate([b.gate_design for b in blocks], axis=1) if split else None
    response = np.concatenate([b.response for b in blocks], axis=-1)
    weight = None if problem.rows.weight is None else problem.rows.weight.astype(np.float64)
    offsets = [b.offset for b in blocks if b.offset is not None]
    offset = np.concatenate(offsets) if offsets else None
    runs = starting_runs(
        design, response, weight, n_experts, n_init, problem.prior, rng, problem.family, gating, offset
    )
    state = start_em(runs, blocks, problem.prior, problem.family)
    total = problem.rows.total_weight
    reached, rising = np.empty(n_init), np.full(n_init, np.inf)
    alive = np.arange(n_init)
    for stage, passes in enumerate(race.stages):
        if stage >= len(race.passes) and len(alive) == 1:
            break
        before = state.objective
        state = em(state, blocks, problem.prior, passes, problem.family)
        reached[alive] = state.statistics.log_likelihood
        rising = (state.objective - before) / total
        best = np.argsort(-state.objective, kind="stable")
        best = best[: max(race.polished, (len(best) + 1) // 2)]
        best = best[np.append(True, np.diff(-state.objective[best]) > race.close * total)]
        state, alive, rising = state.take(best), alive[best], rising[best]
    kept = zip(*state.runs, state.objective / total, rising, strict=True)
    candidates = [
        Candidate(MoEParameters(*parameters), None, float(objective), float(gained))
        for *parameters, objective, gained in kept
    ]
    return candidates[: race.polished], reached / total


def _kept(block: Block) -> Block:
    """A block that outlives the next."""
    gating = None if block.gating is None else block.gating.copy()
    return block._replace(design=block.design.copy(), gating=gating)

"""The search for the best optimum: starts that race on a subsample, candidates that go on to more rows.

Pure NumPy. All starts race at once by EM, the slower half leaving at every stage; the leaders are polished
by damped Newton steps. Where they end in one optimum, as they do where experts are told apart easily, it goes
on to larger subsamples and at last to all rows, where a few passes suffice because the start is already as
close as the smaller sample allows. Where they do not, the likelihood is rugged: more starts race, all optima
go on, and random jumps from the best of them look for better ones near, as they do where all rows are few.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from daskmoe.numerics.base.layout import Layout
from daskmoe.numerics.base.observations import Block
from daskmoe.numerics.base.parameters import FloatArray, MoEParameters
from daskmoe.numerics.base.policies import SEARCH, LocalFit, RacePolicy
from daskmoe.numerics.likelihood.statistics import LikelihoodStatistics, scaled
from daskmoe.numerics.local.em import em, start_em
from daskmoe.numerics.local.newton import NewtonResult, jump, maximize, standard_deviations
from daskmoe.numerics.local.problem import Problem
from daskmoe.numerics.local.starts import starting_runs


class Candidate(NamedTuple):
    """Where an ascent may start."""

    parameters: MoEParameters
    # Those of a sample of the rows at about these parameters, if there are.
    nearby: LikelihoodStatistics | None = None
    # What was reached on that sample, a row.
    objective: float = -math.inf


def search(
    problem: Problem, options: LocalFit, rng: np.random.Generator
) -> tuple[list[NewtonResult], FloatArray]:
    """The optima that were followed to all rows, the best first, and what each start reached in its race.

    That is its log-likelihood a row.
    """
    weight = problem.rows.weight
    n_weighted = problem.rows.n_rows if weight is None else int(np.count_nonzero(weight))
    sizes = sample_sizes(n_weighted, options.start_rows)
    if len(sizes) > 1:
        found, reached = _search_many(problem, options, rng, sizes)
    else:
        # Rows without weight are left out, unless fewer rows than experts would be left to start from.
        if weight is not None and options.n_experts <= n_weighted < len(weight):
            problem = problem.subsample(np.flatnonzero(weight))
        found, reached = _search_few(problem, options, rng)
    best = found[0]
    if not best.converged:
        # Rivals were dropped early, so the winner may take as many passes again.
        more = polish(problem, [Candidate(best.parameters)], options.tolerance, options.max_passes)[0]
        best = more._replace(passes=best.passes + more.passes)
    close = SEARCH.tolerance * problem.rows.total_weight
    return [best, *_distinct(found, close)[1:]], reached


def _search_few(
    problem: Problem, options: LocalFit, rng: np.random.Generator
) -> tuple[list[NewtonResult], FloatArray]:
    """All rows race themselves."""
    times = min(max(round(2 * options.start_rows / problem.rows.n_rows), 1), SEARCH.small_starts)
    candidates, reached = _run_race(problem, options.n_experts, times * options.n_init, SEARCH.small, rng)
    found = polish(problem, candidates, options.tolerance, options.max_passes)
    jumps = SEARCH.small_jumps * options.n_init
    return _with_best_explored(problem, found, options.tolerance, jumps, rng), reached


def _search_many(
    problem: Problem, options: LocalFit, rng: np.random.Generator, sizes: list[int]
) -> tuple[list[NewtonResult], FloatArray]:
    """Subsamples of growing ``sizes`` race and polish; `search` says how."""
    n_init = options.n_init
    first = _subsample(problem, sizes[0], rng)
    candidates, reached = _run_race(first, options.n_experts, n_init, SEARCH.first, rng)
    candidates = _advance(first, candidates, SEARCH.first.polished)
    rugged = len(candidates) > 1 and candidates[1].objective > candidates[0].objective - SEARCH.rival
    kept, last = options.finalists, 0
    if rugged:
        kept, last = (
            SEARCH.rugged.polished,
            max(k for k, size in enumerate(sizes) if size <= _most_rows(options)),
        )
        more, also = _run_race(first, options.n_experts, SEARCH.rugged_starts * n_init, SEARCH.rugged, rng)
        candidates = _advance(first, [*candidates, *more], kept)[: SEARCH.rugged_kept]
        reached = np.concatenate([reached, also])
    for level, size in enumerate(sizes[1:-1], start=1):
        stage = _subsample(problem, size, rng)
        candidates = _advance(stage, _in_reach(stage, candidates, sizes[level - 1]), kept)
        if level == last:
            kept = options.finalists
            candidates = candidates[:kept]
    candidates = _in_reach(problem, candidates, sizes[-2])
    return polish(problem, candidates, options.tolerance, options.max_passes), reached


def _with_best_explored(
    problem: Problem, found: list[NewtonResult], tolerance: float, jumps: int, rng: np.random.Generator
) -> list[NewtonResult]:
    """The results with what random jumps from the first make of it, if that is better, before it."""
    best = _explore(problem, found[0], tolerance, jumps, rng)
    return found if best is found[0] else [best, *found]


def _most_rows(options: LocalFit) -> int:
    return SEARCH.rugged_rows * options.start_rows


def _advance(stage: Problem, candidates: list[Candidate], kept: int) -> list[Candidate]:
    """At most ``kept`` candidates after a few Newton passes on the rows of ``stage``, all in the running."""
    results = polish(stage, candidates, SEARCH.tolerance, SEARCH.passes)
    close = SEARCH.tolerance * stage.rows.total_weight
    running = _in_the_running(stage, _distinct(results, close)[:kept])
    return [_candidate(result, stage) for result in running]


def _in_the_running(stage: Problem, results: list[NewtonResult]) -> list[NewtonResult]:
    """The best result and those that the rows of ``stage`` do not tell apart from it.

    The rows' differences in log-likelihood say how far the sum of them can be off (Vuong, 1989, section 4).
    """
    if len(results) == 1:
        return results
    best, *others = stage.log_densities([result.parameters for result in results])
    weight = np.ones(len(best)) if stage.rows.weight is None else stage.rows.weight.astype(np.float64)
    kept = results[:1]
    for result, own in zip(results[1:], others, strict=True):
        difference = best - own
        mean = float(weight @ difference) / float(weight.sum())
        deviation = float(np.sqrt(weight**2 @ (difference - mean) ** 2))
        if results[0].objective - result.objective <= SEARCH.deviations * deviation:
            kept.append(result)
    return kept


def _in_reach(problem: Problem, candidates: list[Candidate], rows: int) -> list[Candidate]:
    """Candidates that may still win on all rows, by what they are there and how much steps may add.

    An optimum of a subsample of ``rows`` is half a parameter's worth a parameter short, times how many more
    rows there are (Wilks' theorem, of both): what lies farther behind another stays there.
    """
    if len(candidates) == 1:
        return candidates
    reached = [problem.objective(candidate.parameters) for candidate in candidates]
    size = Layout.of(candidates[0].parameters).size
    # In units of a row's weight, as in `_subsample`.
    margin = SEARCH.reach * size * problem.rows.total_weight / rows
    return [c for c, value in zip(candidates, reached, strict=True) if value >= max(reached) - margin]


def _candidate(result: NewtonResult, stage: Problem) -> Candidate:
    return Candidate(result.parameters, result.statistics, result.objective / stage.rows.total_weight)


def _explore(
    problem: Problem, best: NewtonResult, tolerance: float, jumps: int, rng: np.random.Generator
) -> NewtonResult:
    """Newton from random points a few standard errors around the best optimum so far.

    The optima of a rugged likelihood lie in clusters, and starts seldom tell the members of one apart.
    """
    scale = standard_deviations(problem.statistics(best.parameters))
    in_vain = 0
    for _ in range(jumps):
        if scale is None or in_vain == SEARCH.patience:
            break
        start = jump(best.parameters, scale, rng)
        found = polish(problem, [Candidate(start)], tolerance, SEARCH.jump_passes)[0]
        in_vain += 1
        if found.objective > best.objective + tolerance * problem.rows.total_weight:
            in_vain = 0
            scale = standard_deviations(problem.statistics(found.parameters))
            best = found
    return best


def sample_sizes(n: int, start_rows: int) -> list[int]:
    """Growing subsample sizes, the last one all rows."""
    if 2 * start_rows >= n:
        return [n]
    largest = int(SEARCH.largest_share * n)
    if largest <= start_rows:
        return [start_rows, n]
    levels = math.ceil(math.log(largest / start_rows) / math.log(SEARCH.growth))
    growing = np.geomspace(start_rows, largest, levels + 1).round().astype(int).tolist()
    return [*growing, n]


def _subsample(problem: Problem, size: int, rng: np.random.Generator) -> Problem:
    """The problem on ``size`` random rows.

    Weighted rows are drawn in proportion to their weights and then count alike: a few heavy ones may be most
    of what there is to fit. They are drawn along their order, so that none comes oftener than it must.
    """
    weight = problem.rows.weight
    if weight is None:
        index = np.sort(rng.choice(problem.rows.n_rows, size, replace=False, shuffle=False))
        return problem.subsample(index)
    ends = np.cumsum(weight, dtype=np.float64)
    drawn = (np.arange(size) + rng.random(size)) * (ends[-1] / size)
    index = np.searchsorted(ends, drawn, side="right").clip(max=len(ends) - 1)
    part = problem.subsample(index)
    mean = ends[-1] / np.count_nonzero(weight)
    return part.with_rows(part.rows._replace(weight=np.full(size, mean)))


def _distinct(results: list[NewtonResult], close: float) -> list[NewtonResult]:
    """Results, best first, without those that ended where a better one did, told by their objective."""
    kept: list[NewtonResult] = []
    for result in results:
        if all(other.objective - result.objective > close for other in kept):
            kept.append(result)
    return kept


def polish(
    problem: Problem, candidates: list[Candidate], tolerance: float, max_passes: int
) -> list[NewtonResult]:
    """Newton from every candidate, best objective first."""
    weight = problem.rows.total_weight
    results = [
        maximize(
            candidate.parameters,
            problem.statistics,
            problem.objective,
            problem.slope,
            tolerance=tolerance * weight,
            max_passes=max_passes,
            nearby=None if candidate.nearby is None else scaled(candidate.nearby, weight),
        )
        for candidate in candidates
    ]
    return sorted(results, key=lambda r: -r.objective)


def _run_race(
    problem: Problem, n_experts: int, n_init: int, race: RacePolicy, rng: np.random.Generator
) -> tuple[list[Candidate], FloatArray]:
    """EM from all starts at once: the survivors, best first, and the log-likelihoods a row of all."""
    blocks = [Block(b.design.copy(), b.response, b.weight) for b in problem.rows.blocks(problem.coordinates)]
    design = np.concatenate([b.design for b in blocks], axis=1)
    response = np.concatenate([b.response for b in blocks])
    weight = None if problem.rows.weight is None else problem.rows.weight.astype(np.float64)
    runs = starting_runs(design, response, weight, n_experts, n_init, problem.prior, rng, problem.family)
    state = start_em(runs, blocks, problem.prior, problem.family)
    reached = np.empty(n_init)
    alive = np.arange(n_init)
    close = race.close * problem.rows.total_weight
    for stage, passes in enumerate(race.stages):
        if stage >= len(race.passes) and len(alive) == 1:
            break
        state = em(state, blocks, problem.prior, passes, problem.family)
        reached[alive] = state.statistics.log_likelihood
        best = np.argsort(-state.objective, kind="stable")
        best = best[: max(race.polished, (len(best) + 1) // 2)]
        best = best[np.append(True, np.diff(-state.objective[best]) > close)]
        state, alive = state.take(best), alive[best]
    runs = state.runs.take(slice(race.polished))
    return [
        Candidate(MoEParameters(*(a[i] for a in runs))) for i in range(len(runs.gate))
    ], reached / problem.rows.total_weight

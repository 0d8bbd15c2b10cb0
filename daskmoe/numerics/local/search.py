"""The search for the best optimum: starts that race on a subsample, candidates that go on to more rows.

Pure NumPy. All starts race at once by EM, the slower half leaving at every stage; the leaders are polished
by damped Newton steps. Where they end in one optimum, as they do where experts are told apart easily, it goes
on to larger subsamples and at last to all rows, where a few passes suffice because the start is already as
close as the smaller sample allows. Where they do not, the likelihood is rugged: more starts race, and every
optimum goes on that the rows do not tell from the best. Where all rows are few, random jumps from the best
optimum look for better ones near.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from daskmoe.numerics.base.layout import Layout
from daskmoe.numerics.base.observations import Block, deviation_of_sum
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
    # What the last passes of a race added to that.
    rising: float = math.inf


def search(
    problem: Problem, options: LocalFit, rng: np.random.Generator
) -> tuple[list[NewtonResult], FloatArray]:
    """The optima that were followed to all rows, the best first, and what each start reached in its race.

    That is its log-likelihood a row.
    """
    weight = problem.rows.weight
    n_weighted = problem.rows.n_rows if weight is None else int(np.count_nonzero(weight))
    sizes = sample_sizes(n_weighted, _first_rows(n_weighted, _size(problem, options), options))
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
    """All rows race themselves: some starts, and more unless many of the first meet in one optimum."""
    first = _starts(problem, options)
    times = min(max(round(2 * options.start_rows / problem.rows.n_rows), 1), SEARCH.small_starts)
    jumps = round(SEARCH.small_jumps * options.n_init * options.effort)
    if _size(problem, options) <= SEARCH.cheap:
        candidates, reached = _run_race(problem, options.n_experts, times * first, SEARCH.small, rng)
        found = polish(problem, candidates, options.tolerance, options.max_passes)
        return _with_best_explored(problem, found, options.tolerance, jumps, rng), reached
    candidates, reached = _run_race(problem, options.n_experts, first, SEARCH.small_first, rng)
    met = np.mean(reached >= reached.max() - SEARCH.met) >= SEARCH.agreed
    if met or problem.coordinates.size > SEARCH.wide:
        return _ascend_hopeful(problem, candidates, options), reached
    if times > 1:
        more, also = _run_race(problem, options.n_experts, (times - 1) * first, SEARCH.small, rng)
        candidates = sorted([*more, *candidates], key=lambda c: -c.objective)
        reached = np.concatenate([reached, also])
    most = max(round(SEARCH.small_polished * options.effort), 1)
    found = _ascend_hopeful(problem, candidates[:most], options)
    if not _tells(problem, options):
        return found, reached
    return _with_best_explored(problem, found, options.tolerance, jumps, rng), reached


def _ascend_hopeful(problem: Problem, candidates: list[Candidate], options: LocalFit) -> list[NewtonResult]:
    """Newton from the leader of a race, then from those that may still pass the best.

    EM's gains fall about geometrically, so the last ones tell what there is to come.
    """
    found = polish(problem, candidates[:1], options.tolerance, options.max_passes)
    for candidate in candidates[1:]:
        best = found[0].objective / problem.rows.total_weight
        if candidate.objective + SEARCH.hope * candidate.rising > best + SEARCH.worth:
            found += polish(problem, [candidate], options.tolerance, options.max_passes)
            found.sort(key=lambda result: -result.objective)
    return found


def _search_many(
    problem: Problem, options: LocalFit, rng: np.random.Generator, sizes: list[int]
) -> tuple[list[NewtonResult], FloatArray]:
    """Subsamples of growing ``sizes`` race and polish; `search` says how."""
    stage = _subsample(problem, sizes[0], rng)
    starts, telling = _starts(problem, options), _tells(stage, options)
    candidates, reached = _run_race(stage, options.n_experts, starts, SEARCH.first, rng)
    candidates = _hopeful(candidates)[: SEARCH.first.polished if telling else options.finalists]
    candidates = _advance(stage, candidates, len(candidates))
    first, level, kept, last = stage, 0, options.finalists, 0
    if len(candidates) > 1 and sizes[1] >= SEARCH.tells_more * sizes[0] and len(sizes) > 2:
        # More rows may show that there is one optimum only.
        stage, level = _subsample(problem, sizes[1], rng), 1
        candidates = _advance(stage, candidates, kept)
    if telling and len(candidates) > 1 and candidates[1].objective > candidates[0].objective - SEARCH.rival:
        kept = max(round(SEARCH.rugged.polished * options.effort), 1)
        last = max(k for k, size in enumerate(sizes) if size <= _most_rows(options))
        more, also = _run_race(first, options.n_experts, SEARCH.rugged_starts * starts, SEARCH.rugged, rng)
        candidates = _advance(stage, [*candidates, *more], kept)[: SEARCH.rugged_kept]
        reached = np.concatenate([reached, also])
    for size in sizes[level + 1 : -1]:
        stage, level = _subsample(problem, size, rng), level + 1
        candidates = _advance(stage, candidates[:kept], kept)
        if level == last:
            kept = options.finalists
    return _ascend(problem, candidates[:kept], options.tolerance, options.max_passes), reached


def _first_rows(n: int, size: int, options: LocalFit) -> int:
    """Rows of the first subsample of ``n``: enough for ``size`` parameters, if they are no large share."""
    most = max(SEARCH.first_share * n, SEARCH.least_parameter_rows * size)
    return max(options.start_rows, round(min(SEARCH.parameter_rows * size, most)))


def _starts(problem: Problem, options: LocalFit) -> int:
    """Starts that race first: fewer where rows [1, u] are long or parameters many, as each is more work."""
    long = min((SEARCH.wide / problem.coordinates.size) ** 2, 1.0)
    many = min(SEARCH.many / _size(problem, options), 1.0)
    wanted = options.n_init * options.effort
    return max(round(long * many * wanted), min(SEARCH.fewest_starts, round(wanted)), 1)


def _tells(problem: Problem, options: LocalFit) -> bool:
    """Whether rows are enough for a wide search: with few a parameter, it finds what chance has made."""
    return problem.rows.n_rows >= SEARCH.telling_rows * _size(problem, options)


def _size(problem: Problem, options: LocalFit) -> int:
    """P, the number of free parameters."""
    family, q = problem.family, problem.coordinates.size
    return Layout(options.n_experts, q, q, family.n_predictors, family.n_nuisances).size


def _hopeful(candidates: list[Candidate]) -> list[Candidate]:
    """The leader of a race on a subsample and those that may come near it."""
    best = candidates[0].objective - SEARCH.rival
    return [c for c in candidates if c.objective + SEARCH.hope * c.rising >= best]


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
    results = _ascend(stage, candidates, SEARCH.tolerance, SEARCH.passes)
    close = SEARCH.tolerance * stage.rows.total_weight
    running = _in_the_running(stage, _distinct(results, close)[:kept])
    return [_candidate(result, stage) for result in running]


def _in_the_running(stage: Problem, results: list[NewtonResult]) -> list[NewtonResult]:
    """The best result and those that the rows of ``stage`` do not tell apart from it."""
    if len(results) == 1:
        return results
    best, *others = stage.log_densities([result.parameters for result in results])
    kept = results[:1]
    for result, own in zip(results[1:], others, strict=True):
        deviation = deviation_of_sum(best - own, stage.rows.weight)
        if results[0].objective - result.objective <= SEARCH.deviations * deviation:
            kept.append(result)
    return kept


def _ascend(
    problem: Problem, candidates: list[Candidate], tolerance: float, max_passes: int
) -> list[NewtonResult]:
    """Newton from the candidate that is best on these rows, and from those that may still pass it.

    What the first gains tells what another may gain: all come from races or samples of the same rows.
    """
    if len(candidates) == 1:
        return polish(problem, candidates, tolerance, max_passes)
    reached = np.array([problem.objective(candidate.parameters) for candidate in candidates])
    order = np.argsort(-reached, kind="stable")
    first = polish(problem, [candidates[order[0]]], tolerance, max_passes)
    least = first[0].objective - SEARCH.reach * (first[0].objective - reached[order[0]])
    others = [candidates[k] for k in order[1:] if reached[k] >= least]
    # A rival that is slower than the leader was seldom passes it; `search` takes one that does to its end.
    rivals = polish(problem, others, tolerance, max(first[0].passes, SEARCH.rival_passes))
    return sorted([*first, *rivals], key=lambda result: -result.objective)


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
    if largest <= 2 * start_rows:
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

"""The search for the best optimum: starts that race on a subsample, candidates that go on to more rows.

Pure NumPy. All starts race at once by EM, the slower half leaving at every stage; the leaders are polished
by damped Newton steps. Where the leader of the subsample is close to an optimum of more rows, as it is where
experts are told apart easily, it goes on to all rows, where a few passes suffice. Where it is not, or the
rows do not tell it from others, the likelihood is rugged: a subsample says little of the optima of more
rows, so starts ascend there, one after the other, until the best optimum has been found again. So they do
where all rows are few; there random jumps from the best optimum look for better ones near.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from daskmoe.numerics.base.layout import Layout
from daskmoe.numerics.base.parameters import FloatArray
from daskmoe.numerics.base.policies import QUASI_NEWTON, SEARCH, LocalFit
from daskmoe.numerics.local.ascents import (
    advance,
    ascend,
    candidate_of,
    distinct,
    explore,
    in_the_running,
    newton_passes,
    polish,
    times_found,
)
from daskmoe.numerics.local.newton import NewtonResult
from daskmoe.numerics.local.problem import Problem
from daskmoe.numerics.local.race import Candidate, run_race


class _Stage(NamedTuple):
    """Rows on which the optima of a rugged likelihood are compared, and those on which starts race."""

    problem: Problem
    racing: Problem
    # Of an ascent there.
    tolerance: float


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
    return [best, *distinct(found, close)[1:]], reached


def _search_few(
    problem: Problem, options: LocalFit, rng: np.random.Generator
) -> tuple[list[NewtonResult], FloatArray]:
    """All rows race themselves: some starts, and more until the best optimum was found again."""
    long = _longest(problem) > SEARCH.wide
    race = SEARCH.many_race if long and _of_many(problem, options) else SEARCH.small
    starts, again = _starts(problem, options), 1
    if not long:
        starts, again = SEARCH.small_starts * starts, SEARCH.small_again
    found: list[NewtonResult] = []
    reached: list[FloatArray] = []
    for _ in range(1 if long else max(round(SEARCH.small_waves * options.effort), 1)):
        candidates, also = run_race(problem, options.n_experts, starts, race, rng)
        reached.append(also)
        found = _ascend_until_found_again(problem, candidates, found, options, again)
        if times_found(problem, found) >= again:
            break
    cheap = _size(problem, options) <= SEARCH.cheap
    if not long and (cheap or _in_cluster(problem, found)):
        jumps = round(SEARCH.small_jumps * options.n_init * options.effort)
        best = explore(problem, found[0], options.tolerance, jumps, rng)
        found = found if best is found[0] else [best, *found]
    return found, np.concatenate(reached)


def _ascend_until_found_again(
    problem: Problem, candidates: list[Candidate], found: list[NewtonResult], options: LocalFit, again: int
) -> list[NewtonResult]:
    """The results ``found`` and more, the best first, until that was reached as often as ``again`` says.

    EM's gains fall about geometrically, so the last ones tell what there is to come.
    """
    for candidate in candidates:
        if found:
            if times_found(problem, found) >= again:
                break
            best = found[0].objective / problem.rows.total_weight
            if candidate.objective + SEARCH.hope * candidate.rising < best - SEARCH.met:
                continue
        more = polish(problem, [candidate], options.tolerance, options.max_passes)
        found = sorted([*found, *more], key=lambda result: -result.objective)
    return found


def _in_cluster(problem: Problem, found: list[NewtonResult]) -> bool:
    """Whether another optimum is close to the best: then there may be more."""
    gaps = [(found[0].objective - result.objective) / problem.rows.total_weight for result in found]
    return any(SEARCH.met < gap < SEARCH.cluster for gap in gaps)


def _search_many(
    problem: Problem, options: LocalFit, rng: np.random.Generator, sizes: list[int]
) -> tuple[list[NewtonResult], FloatArray]:
    """Subsamples of growing ``sizes`` race and polish; `search` says how."""
    racing = _subsample(problem, sizes[0], rng)
    telling = _tells(racing, options)
    # A label says less of its row's expert than a number, and more optima look alike on a subsample.
    starts = _starts(problem, options) * (SEARCH.label_starts if problem.family.nominal else 1)
    race = SEARCH.many_race if _of_many(problem, options) else SEARCH.first
    candidates, reached = run_race(racing, options.n_experts, starts, race, rng)
    candidates = _hopeful(candidates)[: race.polished if telling else options.finalists]
    candidates = advance(racing, candidates, len(candidates))
    deciding = _deciding_level(sizes, options)
    for size in sizes[1:deciding]:
        candidates = advance(_subsample(problem, size, rng), candidates, options.finalists)
    last = deciding == len(sizes) - 1
    stage = problem if last else _subsample(problem, sizes[deciding], rng)
    tolerance = options.tolerance if last else SEARCH.tolerance
    found = ascend(stage, candidates, tolerance, options.max_passes)
    if telling and _is_rugged(stage, found):
        found, more = _search_rugged(_Stage(stage, racing, tolerance), found[0], options, rng)
        reached = np.concatenate([reached, more])
    if last:
        return found, reached
    close = SEARCH.tolerance * stage.rows.total_weight
    running = in_the_running(stage, distinct(found, close)[: options.finalists])
    candidates = [candidate_of(result, stage) for result in running]
    for size in sizes[deciding + 1 : -1]:
        candidates = advance(_subsample(problem, size, rng), candidates, options.finalists)
    return ascend(problem, candidates, options.tolerance, options.max_passes), reached


def _deciding_level(sizes: list[int], options: LocalFit) -> int:
    """Which of the sizes that follow the first is the largest on which many ascents are affordable."""
    most = max(SEARCH.rugged_rows * options.start_rows, sizes[1])
    return max(level for level, size in enumerate(sizes) if size <= most)


def _is_rugged(stage: Problem, found: list[NewtonResult]) -> bool:
    """Whether the rows do not tell the best optimum from others, or a subsample's optimum was far from it."""
    close = SEARCH.met * stage.rows.total_weight
    return (
        newton_passes(found[0]) > SEARCH.far_passes or len(in_the_running(stage, distinct(found, close))) > 1
    )


def _search_rugged(
    stage: _Stage, first: NewtonResult, options: LocalFit, rng: np.random.Generator
) -> tuple[list[NewtonResult], FloatArray]:
    """Optima of the stage, the best first, and what more starts reached in their races.

    Starts ascend in the order of what they are on the stage's rows; those that survived a first race are
    akin, and finding one optimum from them again says little.
    """
    problem, reached = stage.problem, np.empty(0)
    most = max(round(SEARCH.rugged_ascents * options.effort), 1)
    found, starts = [first], _starts(problem, options)
    waiting: list[Candidate] = []
    while len(found) < most and times_found(problem, found) < SEARCH.rugged_again:
        if not waiting:
            waiting, also = run_race(stage.racing, options.n_experts, starts, SEARCH.rugged, rng)
            waiting.sort(key=lambda candidate: problem.objective(candidate.parameters))
            reached = np.concatenate([reached, also])
        least = found[0].objective - SEARCH.lost * problem.rows.total_weight
        found += polish(problem, [waiting.pop()], SEARCH.rugged_tolerance, options.max_passes, least)
        found.sort(key=lambda result: -result.objective)
    least = found[0].objective - SEARCH.lost * problem.rows.total_weight
    near = [result for result in found if result.objective >= least]
    kept = distinct(near, SEARCH.met * problem.rows.total_weight)[: options.finalists]
    finishing = [candidate_of(result, problem) for result in kept]
    return polish(problem, finishing, stage.tolerance, options.max_passes), reached


def _first_rows(n: int, size: int, options: LocalFit) -> int:
    """Rows of the first subsample of ``n``: enough for ``size`` parameters, if they are no large share."""
    most = max(SEARCH.first_share * n, SEARCH.least_parameter_rows * size)
    return max(options.start_rows, round(min(SEARCH.parameter_rows * size, most)))


def _starts(problem: Problem, options: LocalFit) -> int:
    """Starts that race first: fewer where rows [1, u] are long or parameters many, as each is more work."""
    long = min((SEARCH.wide / _longest(problem)) ** 2, 1.0)
    many = min(SEARCH.many / _size(problem, options), 1.0)
    wanted = options.n_init * options.effort
    fewest = SEARCH.many_starts if _of_many(problem, options) else SEARCH.fewest_starts
    return max(round(long * many * wanted), min(fewest, round(wanted)), 1)


def _tells(problem: Problem, options: LocalFit) -> bool:
    """Whether rows are enough for a wide search: with few a parameter, it finds what chance has made."""
    return problem.rows.n_rows >= SEARCH.telling_rows * _size(problem, options)


def _of_many(problem: Problem, options: LocalFit) -> bool:
    return _size(problem, options) > QUASI_NEWTON.many


def _size(problem: Problem, options: LocalFit) -> int:
    """P, the number of free parameters."""
    family, q_gate, q = problem.family, problem.coordinates.gates.size, problem.coordinates.size
    return Layout(options.n_experts, q_gate, q, family.n_predictors, family.n_nuisances).size


def _longest(problem: Problem) -> int:
    """The length of rows [1, u], the gates' or the experts'."""
    return max(problem.coordinates.size, problem.coordinates.gates.size)


def _hopeful(candidates: list[Candidate]) -> list[Candidate]:
    """The leader of a race on a subsample and those that may come near it."""
    best = candidates[0].objective - SEARCH.rival
    return [c for c in candidates if c.objective + SEARCH.hope * c.rising >= best]


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

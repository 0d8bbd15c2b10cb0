"""The local estimator against the floor of the hardware, and how often it finds the best known optimum.

The floor of a pass is its matrix products alone, 2 J q^2 flops a row with J = K + K (K - 1) / 2, at the rate
of a large double-precision product on the same machine in the same run. Times are processor times of one
thread, the least of several, because other work on the machine only ever adds to them.

    python -m tests.benchmarks.local_fit                  # ratios and memory
    python -m tests.benchmarks.local_fit --draws 8        # whole fits of eight data sets of each design
    python -m tests.benchmarks.local_fit --hit-rate 100   # 100 data sets of each design and size
    python -m tests.benchmarks.local_fit --priors 20      # what the priors move, in standard errors
    python -m tests.benchmarks.local_fit --tiny
"""

from __future__ import annotations

import argparse
import itertools
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from daskmoe.engine.threads import single_threaded_blas
from daskmoe.numerics.base.coordinates import coordinates_from
from daskmoe.numerics.base.layout import Layout
from daskmoe.numerics.base.observations import Observations, moments
from daskmoe.numerics.base.parameters import LocalEstimate, MoEParameters
from daskmoe.numerics.base.policies import LocalFit
from daskmoe.numerics.families import get_family
from daskmoe.numerics.likelihood.e_step import Runs
from daskmoe.numerics.likelihood.priors import prior_from
from daskmoe.numerics.local.em import em, em_statistics, start_em
from daskmoe.numerics.local.fit import fit_local_estimate
from daskmoe.numerics.local.newton import maximize, standard_deviations
from daskmoe.numerics.local.problem import Problem
from daskmoe.numerics.local.starts import starting_runs
from daskmoe.numerics.predictive.designs import draw_design, sample_rows

DESIGNS = {"paper": 4, "overlap": 5}
FEATURES = 20
HIT = 1e-4
GAUSSIAN = get_family("gaussian")
LONG_PASSES = 50

# Figures of a design at so many rows over so many seeds.
Study = Callable[[str, int, int], dict[str, float]]


class Case(NamedTuple):
    """Simulated rows with the model that they were drawn from."""

    rows: Observations
    truth: MoEParameters
    n_experts: int

    @property
    def flops(self) -> float:
        """Of the matrix products of one pass."""
        weightings = self.n_experts + self.n_experts * (self.n_experts - 1) // 2
        return 2.0 * weightings * (self.rows.features.shape[1] + 1) ** 2 * self.rows.n_rows


def draw_case(design: str, n_rows: int, seed: int) -> Case:
    """``n_rows`` rows of a new draw of a design."""
    rng = np.random.default_rng([seed, 7])
    drawn = draw_design(design, FEATURES, DESIGNS[design], rng)
    return Case(Observations(*sample_rows(drawn, n_rows, rng)), drawn.parameters, DESIGNS[design])


def seconds(function: Callable[[], object], repeats: int) -> float:
    """Least processor time of ``repeats`` calls."""
    times = []
    for _ in range(repeats):
        began = time.process_time()
        function()
        times.append(time.process_time() - began)
    return min(times)


def product_rate(size: int, repeats: int) -> float:
    """Flops a second of a double-precision matrix product."""
    left, right = np.random.default_rng(0).random((2, size, size))
    out = np.empty((size, size))
    return 2.0 * size**3 / seconds(lambda: np.dot(left, right, out=out), repeats)


def problem_of(rows: Observations, n_experts: int) -> Problem:
    """The rows as the optimizers see them."""
    known = moments(rows)
    coordinates = coordinates_from(known, GAUSSIAN.scaling(known))
    return Problem(rows, coordinates, prior_from(known, coordinates, n_experts, GAUSSIAN), GAUSSIAN)


def fit_by_default(case: Case, seed: int = 0) -> LocalEstimate:
    """The whole default fit."""
    return fit_local_estimate(case.rows, LocalFit(n_experts=case.n_experts), np.random.default_rng(seed))


def measure_ratios(design: str, n_rows: int, repeats: int, size: int = 1024) -> dict[str, float]:
    """Passes and the whole default fit, in units of the floor."""
    case = draw_case(design, n_rows, 0)
    problem = problem_of(case.rows, case.n_experts)
    inner = problem.coordinates.from_data(case.truth)
    runs = Runs.one(inner)
    rate = product_rate(size, repeats)

    def pass_over_blocks() -> object:
        return em_statistics(runs, problem.rows.blocks(problem.coordinates), GAUSSIAN)

    found = {
        "EM pass": seconds(pass_over_blocks, repeats),
        "Newton pass": seconds(lambda: problem.statistics(inner), repeats),
        "gradient pass": seconds(lambda: problem.slope(inner), repeats),
        "whole fit": seconds(partial(fit_by_default, case), max(repeats // 4, 1)),
    }
    rate = max(rate, product_rate(size, repeats))
    return {name: value * rate / case.flops for name, value in found.items()}


def measure_draws(design: str, n_rows: int, seeds: int) -> dict[str, float]:
    """Whole default fits of several data sets, in units of the floor."""
    found = []
    for seed in range(seeds):
        case = draw_case(design, n_rows, seed)
        rate = product_rate(1024, 4)
        spent = seconds(partial(fit_by_default, case), 3)
        found.append(spent * max(rate, product_rate(1024, 4)) / case.flops)
    return {"least": min(found), "median": float(np.median(found)), "most": max(found)}


def best_known(case: Case, seed: int, runs: int) -> tuple[float, float]:
    """The best objective of long runs from random starts, and that of the optimum next to the truth."""
    problem = problem_of(case.rows, case.n_experts)
    constant = case.rows.n_rows * problem.coordinates.log_jacobian
    truth = ascend(problem, problem.coordinates.from_data(case.truth)) - constant
    starts = long_starts(problem, case.n_experts, runs, np.random.default_rng([seed, 1000]))
    return max([truth, *(ascend(problem, start) - constant for start in starts)]), truth


def long_starts(problem: Problem, n_experts: int, runs: int, rng: np.random.Generator) -> list[MoEParameters]:
    """Where ``runs`` random starts are after `LONG_PASSES` EM passes over all rows; none is left behind."""
    blocks = [
        block._replace(design=block.design.copy()) for block in problem.rows.blocks(problem.coordinates)
    ]
    design = np.concatenate([block.design for block in blocks], axis=1)
    response = np.concatenate([block.response for block in blocks])
    drawn = starting_runs(design, response, None, n_experts, runs, problem.prior, rng, GAUSSIAN)
    state = start_em(drawn, blocks, problem.prior, GAUSSIAN)
    found = em(state, blocks, problem.prior, LONG_PASSES, GAUSSIAN).runs
    return [MoEParameters(*(array[run] for array in found)) for run in range(runs)]


def ascend(problem: Problem, start: MoEParameters) -> float:
    """The objective of the optimum that Newton's steps lead to from ``start``."""
    tolerance = 1e-10 * problem.rows.n_rows
    found = maximize(
        start, problem.statistics, problem.objective, problem.slope, tolerance=tolerance, max_passes=200
    )
    return found.objective


def measure_hits(design: str, n_rows: int, seeds: int, runs: int) -> dict[str, float]:
    """Share of default fits within `HIT` nats a row of the best known optimum, and the worst of the rest."""
    gaps, relative, truths, spent = [], [], [], 0.0
    for seed in range(seeds):
        case = draw_case(design, n_rows, seed)
        began = time.process_time()
        found = fit_by_default(case, seed).objective
        spent += time.process_time() - began
        best, truth = best_known(case, seed, runs)
        best = max(best, found)
        gaps.append((best - found) / n_rows)
        truths.append((best - truth) / n_rows)
        if gaps[-1] <= HIT:
            relative.append((best - found) / abs(best))
    return {
        "hits": sum(gap <= HIT for gap in gaps),
        "of": seeds,
        "worst gap": max(gaps),
        "worst relative gap of a hit": max(relative, default=np.nan),
        "optimum next to the truth is best": sum(gap <= HIT for gap in truths),
        "seconds a fit": spent / seeds,
    }


def measure_bias(design: str, n_rows: int, seeds: int) -> dict[str, float]:
    """How far the priors move the optimum, in standard errors of the parameters."""
    shifts, costs = [], []
    for seed in range(seeds):
        case = draw_case(design, n_rows, seed)
        problem = problem_of(case.rows, case.n_experts)
        prior = problem.prior
        weak = prior._replace(gate=1e-4 * prior.gate, coef=1e-4 * prior.coef, nuisance=1e-4 * prior.nuisance)
        start = problem.coordinates.from_data(case.truth)
        found = []
        for each in (problem, problem._replace(prior=weak)):
            gain = 1e-9 * n_rows
            found.append(
                maximize(start, each.statistics, each.objective, each.slope, tolerance=gain, max_passes=200)
            )
            start = found[0].parameters
        layout = Layout.of(start)
        with_prior, without = (layout.pack(result.parameters) for result in found)
        deviations = standard_deviations(problem.statistics(found[0].parameters))
        if deviations is not None:
            errors = np.sqrt(np.sum(deviations**2, axis=1))
            shifts.append(np.abs(with_prior - without) / errors)
        plain = problem._replace(prior=prior._replace(gate=0.0, coef=0.0, nuisance=0.0 * prior.nuisance))
        costs.append(plain.objective(found[1].parameters) - plain.objective(found[0].parameters))
    table = np.stack(shifts)
    parts = {
        "gates": table[:, layout.gates],
        "coefficients": table[:, layout.coefs],
        "variances": table[:, layout.nuisances],
    }
    return {
        **{f"median {name}": float(np.median(part)) for name, part in parts.items()},
        **{f"largest {name}": float(part.max()) for name, part in parts.items()},
        "log-likelihood lost": float(np.mean(costs)),
    }


def fill_rows(design: str, n_rows: int, dtype: str) -> Observations:
    """Rows drawn piece by piece into arrays of their final size: drawing needs next to no memory."""
    rng = np.random.default_rng(0)
    drawn = draw_design(design, FEATURES, DESIGNS[design], rng)
    features, response = np.empty((n_rows, FEATURES), dtype), np.empty(n_rows, dtype)
    for start in range(0, n_rows, 1000):
        part = slice(start, min(start + 1000, n_rows))
        features[part], response[part] = sample_rows(drawn, part.stop - start, rng)
    return Observations(features, response)


def peak_memory() -> int:
    """Largest resident memory of this process so far, in bytes."""
    status = Path("/proc/self/status")
    if status.exists():
        # The resource module's figure starts from that of the process which started this one.
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def memory_child(design: str, n_rows: int, dtype: str) -> None:
    """Print the growth of this process's peak resident memory during a fit, over the data's size."""
    options = LocalFit(n_experts=DESIGNS[design])
    with single_threaded_blas():
        fit_local_estimate(fill_rows(design, 500, dtype), options, np.random.default_rng(0))
        rows = fill_rows(design, n_rows, dtype)
        before = peak_memory()
        fit_local_estimate(rows, options, np.random.default_rng(0))
        after = peak_memory()
    size = rows.features.nbytes + rows.response.nbytes
    sys.stdout.write(json.dumps((after - before) / size) + "\n")


def measure_memory(design: str, n_rows: int, dtype: str) -> float:
    """Peak memory of a fit beyond the data, over the data, in a process of its own."""
    command = [sys.executable, __file__, "--memory-of", design, str(n_rows), dtype]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(json.loads(done.stdout))


def report(lines: dict[str, float], title: str) -> None:
    """Write one block of figures."""
    text = "  ".join(f"{name} {value:.4g}" for name, value in lines.items())
    sys.stdout.write(f"{title}: {text}\n")
    sys.stdout.flush()


def main(arguments: list[str] | None = None) -> None:
    """Run the benchmark that the command line asks for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tiny", action="store_true", help="a second's worth, for the test suite")
    parser.add_argument(
        "--draws", type=int, default=0, metavar="SEEDS", help="data sets of each design to fit"
    )
    parser.add_argument(
        "--hit-rate", type=int, default=0, metavar="SEEDS", help="data sets of each design and size"
    )
    parser.add_argument(
        "--priors", type=int, default=0, metavar="SEEDS", help="data sets of each design and size"
    )
    parser.add_argument("--sizes", type=int, nargs="+", help="rows of those")
    parser.add_argument("--long-runs", type=int, default=50, help="that a hit is told by")
    parser.add_argument("--memory-of", nargs=3, help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    if chosen.memory_of:
        memory_child(chosen.memory_of[0], int(chosen.memory_of[1]), chosen.memory_of[2])
        return
    hits = partial(measure_hits, runs=chosen.long_runs)
    studies: list[tuple[str, int, Study, tuple[int, ...]]] = [
        ("hit rate", chosen.hit_rate, hits, (1_000, 10_000)),
        ("priors", chosen.priors, measure_bias, (1_000, 10_000)),
        ("whole fits", chosen.draws, measure_draws, (100_000,)),
    ]
    with single_threaded_blas():
        asked = [(name, seeds, study, sizes) for name, seeds, study, sizes in studies if seeds]
        for name, seeds, study, sizes in asked:
            for design, n_rows in itertools.product(DESIGNS, chosen.sizes or sizes):
                report(study(design, n_rows, seeds), f"{design}, {n_rows} rows, {name}")
        if asked:
            return
        n_rows, repeats, size = (3_000, 2, 128) if chosen.tiny else (100_000, 24, 1024)
        for design in DESIGNS:
            ratios = measure_ratios(design, n_rows, repeats, size)
            report(ratios, f"{design}, {n_rows} rows, over the floor of a pass")
    for dtype in ("float64", "float32"):
        n_rows = 20_000 if chosen.tiny else 1_000_000
        found = {"beyond the data": measure_memory("paper", n_rows, dtype)}
        report(found, f"paper, {n_rows} rows of {dtype}, peak memory over the data")


if __name__ == "__main__":
    main()

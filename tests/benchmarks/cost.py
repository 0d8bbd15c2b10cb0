"""What a local fit costs against the number of experts and of features: processor time and memory.

Every cell is a process of its own: a default fit of rows of ``overlap``, its processor time of one thread,
that of an EM pass of the same rows, and the growth of its peak memory. Exponents are slopes of logarithms
between neighbouring cells.

    PYTHONPATH=tests python -m benchmarks.cost
    PYTHONPATH=tests python -m benchmarks.cost --rows 500 --experts 2 3 --features 2 4
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from itertools import pairwise
from math import log
from typing import NamedTuple

import numpy as np

from benchmarks.local_fit import GAUSSIAN, Case, fit_by_default, peak_memory, problem_of, seconds
from daskmoe.engine.threads import single_threaded_blas
from daskmoe.numerics.base.layout import Layout
from daskmoe.numerics.base.observations import Observations
from daskmoe.numerics.likelihood.e_step import Runs
from daskmoe.numerics.local.em import em_statistics
from daskmoe.numerics.predictive.designs import draw_design, sample_rows

# The other size of a row of the table.
FEATURES, EXPERTS = 20, 2


class Cell(NamedTuple):
    """Figures of one fit."""

    n_experts: int
    n_features: int
    parameters: int
    # Of an EM pass and of the fit.
    em_seconds: float
    fit_seconds: float
    # Peak beyond the data, in MB.
    megabytes: float
    # Nats a row below the optimum next to the truth; negative where the fit is better.
    behind_truth: float


def measure(n_rows: int, n_experts: int, n_features: int) -> Cell:
    """One cell, in this process, which must not have fitted more before."""
    case = draw(n_rows, n_experts, n_features)
    with single_threaded_blas():
        fit_by_default(draw(500, 2, 2))
        before = peak_memory()
        found = []
        spent = seconds(lambda: found.append(fit_by_default(case)), 1)
        grown = (peak_memory() - before) / 2**20
        problem = problem_of(case.rows, n_experts)
        truth = problem.coordinates.from_data(case.truth)
        runs = Runs.one(truth)
        pass_over = seconds(
            lambda: em_statistics(runs, problem.rows.blocks(problem.coordinates), GAUSSIAN), 3
        )
    reached = problem.objective(truth) / n_rows - problem.coordinates.log_jacobian
    behind = reached - found[0].objective / n_rows
    size = Layout.of(truth).size
    return Cell(n_experts, n_features, size, pass_over, spent, grown, behind)


def draw(n_rows: int, n_experts: int, n_features: int) -> Case:
    """Rows drawn piece by piece, so that the peak before the fit is that of the data."""
    rng = np.random.default_rng([0, 7])
    drawn = draw_design("overlap", n_features, n_experts, rng)
    features, response = np.empty((n_rows, n_features)), np.empty(n_rows)
    for start in range(0, n_rows, 500):
        part = slice(start, min(start + 500, n_rows))
        features[part], response[part] = sample_rows(drawn, part.stop - start, rng)
    return Case(Observations(features, response), drawn.parameters, n_experts)


def in_own_process(n_rows: int, n_experts: int, n_features: int) -> Cell:
    """`measure`, its memory being that of no other fit."""
    command = [sys.executable, "-m", "benchmarks.cost", "--cell", *map(str, (n_rows, n_experts, n_features))]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return Cell(*json.loads(done.stdout))


def exponents(cells: list[Cell], sizes: list[int]) -> list[tuple[float, float]]:
    """Of time and memory, between neighbours; less than a megabyte of memory counts as one."""
    return [
        (
            log(b.fit_seconds / a.fit_seconds) / log(n / m),
            log(max(b.megabytes, 1.0) / max(a.megabytes, 1.0)) / log(n / m),
        )
        for (a, b), (m, n) in zip(pairwise(cells), pairwise(sizes), strict=True)
    ]


def report(title: str, cells: list[Cell], sizes: list[int]) -> None:
    """Write one row of the table after the other, as Markdown."""
    sys.stdout.write(f"\n| {title} | P | EM pass, s | fit, s | fit over EM pass | MB | below the truth |\n")
    sys.stdout.write("|---|---|---|---|---|---|---|\n")
    for size, cell in zip(sizes, cells, strict=True):
        sys.stdout.write(
            f"| {size} | {cell.parameters:,} | {cell.em_seconds:.3f} | {cell.fit_seconds:.2f} | "
            f"{cell.fit_seconds / cell.em_seconds:.0f} | {cell.megabytes:.0f} | {cell.behind_truth:.3f} |\n"
        )
    for (first, second), (time, memory) in zip(pairwise(sizes), exponents(cells, sizes), strict=True):
        sys.stdout.write(f"{first} to {second}: exponents {time:.1f} of time, {memory:.1f} of memory\n")
    sys.stdout.flush()


def main(arguments: list[str] | None = None) -> None:
    """Run the study, or one cell of it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--experts", type=int, nargs="+", default=[2, 4, 8, 16, 32])
    parser.add_argument("--features", type=int, nargs="+", default=[5, 20, 50, 100, 200, 500])
    parser.add_argument("--cell", type=int, nargs=3, help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    if chosen.cell:
        sys.stdout.write(json.dumps(measure(*chosen.cell)) + "\n")
        return
    cells = [in_own_process(chosen.rows, k, FEATURES) for k in chosen.experts]
    report(f"K, {FEATURES} features", cells, chosen.experts)
    cells = [in_own_process(chosen.rows, EXPERTS, p) for p in chosen.features]
    report(f"features, K = {EXPERTS}", cells, chosen.features)


if __name__ == "__main__":
    main()

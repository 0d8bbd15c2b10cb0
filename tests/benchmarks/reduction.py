"""Majorization-minimization at scale: time a cell and iteration, and memory, with many partitions.

A cell is one (component, expert, support row). Times are processor times of one thread, the least of several.
The floor is what a cell needs at least, two products of matrices as long as the support, at the rate of a
large double-precision product on the same machine in the same run.

    PYTHONPATH=tests python -m benchmarks.reduction
    PYTHONPATH=tests python -m benchmarks.reduction --tiny
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.local_fit import peak_memory, product_rate, report, seconds
from daskmoe.engine.threads import single_threaded_blas
from daskmoe.numerics.base.parameters import LargeMoE, MoEParameters, SupportSample
from daskmoe.numerics.families import get_family
from daskmoe.numerics.predictive.designs import draw_design, sample_features
from daskmoe.numerics.transport.plan import Experts, pointwise_plan, whole_plan
from daskmoe.numerics.transport.reduction import barycentres, reduce_mixture, reduction_problem

GAUSSIAN = get_family("gaussian")


class Case(NamedTuple):
    """Local estimators of many partitions around one model, and a support."""

    large: LargeMoE
    support: SupportSample
    truth: MoEParameters


def draw_case(n_partitions: int, n_experts: int, n_features: int, support_size: int) -> Case:
    """Local estimators that scatter around the truth, their experts in any order."""
    rng = np.random.default_rng(0)
    design = draw_design("overlap", n_features, n_experts, rng)
    truth = design.parameters
    locals_ = []
    for _ in range(n_partitions):
        near = MoEParameters(
            truth.gate + 0.1 * rng.standard_normal(truth.gate.shape),
            truth.coef + 0.1 * rng.standard_normal(truth.coef.shape),
            truth.nuisance * np.exp(0.1 * rng.standard_normal((n_experts, 1))),
        )
        locals_.append(near.take(rng.permutation(n_experts)))
    features = sample_features(design, support_size, rng)
    support = SupportSample(features, None, np.full(support_size, 1.0 / support_size))
    return Case(LargeMoE.from_estimates(locals_, np.ones(n_partitions)), support, truth)


def measure(n_partitions: int, support_size: int, repeats: int, size: int = 1024) -> dict[str, float]:
    """Nanoseconds a cell and MM iteration of both plans, and over the floor."""
    case = draw_case(n_partitions, 4, 20, support_size)
    coordinates, problem = reduction_problem(case.large, case.support, GAUSSIAN)
    inner = coordinates.from_data(case.truth)
    experts = Experts(inner.coef, inner.nuisance)
    cells = case.large.n_experts * 4 * support_size
    found = {}
    for name, plan in (("pointwise", pointwise_plan), ("whole", whole_plan)):

        def iterate(plan: object = plan) -> object:
            return barycentres(problem, plan(problem, experts, with_flow=False), experts)  # type: ignore[operator]

        found[f"{name}, ns a cell"] = 1e9 * seconds(iterate, repeats) / cells
    # The linear predictors of components, gates and means: 2 q flops each, for all experts of a cell.
    floor = 2 * 2.0 * inner.coef.shape[-1] / (4 * product_rate(size, repeats))
    return {**found, "pointwise, over the floor": found["pointwise, ns a cell"] / (1e9 * floor)}


def memory_child(n_partitions: int, support_size: int) -> None:
    """Print the peak memory of this process after a whole reduction, in MB, and before it."""
    case = draw_case(n_partitions, 4, 20, support_size)
    before = peak_memory()
    with single_threaded_blas():
        reduce_mixture(case.large, case.support, [case.truth], GAUSSIAN)
    sys.stdout.write(json.dumps([peak_memory() / 1e6, before / 1e6]) + "\n")


def measure_memory(n_partitions: int, support_size: int) -> dict[str, float]:
    """Peak memory of a process that makes a reduction, in MB, and that of imports and models alone."""
    module = "benchmarks.reduction"
    command = [sys.executable, "-m", module, "--memory-of", str(n_partitions), str(support_size)]
    path = {"PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=os.environ | path)
    peak, before = json.loads(done.stdout)
    return {"peak, MB": peak, "of that imports and models, MB": before}


def main(arguments: list[str] | None = None) -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tiny", action="store_true", help="a second's worth, for the test suite")
    parser.add_argument("--memory-of", nargs=2, type=int, help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    if chosen.memory_of:
        memory_child(*chosen.memory_of)
        return
    n_partitions, support_size, repeats = (50, 100, 2) if chosen.tiny else (10_000, 2_000, 3)
    title = f"{n_partitions} partitions of 4 experts, S = {support_size}, p = 20"
    with single_threaded_blas():
        report(measure(n_partitions, support_size, repeats, 128 if chosen.tiny else 1024), title)
    report(measure_memory(n_partitions, support_size), title)


if __name__ == "__main__":
    main()

"""How often a local fit of real rows finds the best known optimum: samples of the Beijing stations.

Each sample is judged by the best of long runs (50 EM passes over all rows from random starts, then Newton to
convergence, none dropped) and of the fits themselves.

    PYTHONPATH=tests python -m benchmarks.beijing_hits FOLDER    # ten samples, three seeds each, 50 long runs
    PYTHONPATH=tests python -m benchmarks.beijing_hits FOLDER --samples 1 --long-runs 4
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.local_fit import HIT, ascend, long_starts, problem_of
from daskmoe.engine.threads import single_threaded_blas
from daskmoe.numerics.base.observations import Observations
from daskmoe.numerics.base.policies import LocalFit
from daskmoe.numerics.local.fit import fit_local_estimate

EXPERTS = 4


def read_rows(folder: Path) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Features (n, p) and target (n,) of the training years of all stations."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples"))
    import beijing_air_quality as example

    data = example.build_dataset(example.read_table(folder))
    training = data.sel(time=data["time"] < np.datetime64(example.HELD_OUT_FROM))
    target = training[example.TARGET]
    features = [
        training[name].broadcast_like(target).transpose(*target.dims).values.ravel()
        for name in training.data_vars
        if name != example.TARGET
    ]
    return np.stack(features, axis=1), target.values.ravel()


def gaps_of_sample(rows: Observations, sample: int, seeds: int, runs: int) -> tuple[list[float], float]:
    """Nats a row that each of ``seeds`` fits is short of the best known optimum, and seconds a fit."""
    problem = problem_of(rows, EXPERTS)
    options = LocalFit(n_experts=EXPERTS)
    began = time.process_time()
    found = [
        fit_local_estimate(rows, options, np.random.default_rng([sample, seed])).objective
        for seed in range(seeds)
    ]
    spent = (time.process_time() - began) / seeds
    constant = rows.n_rows * problem.coordinates.log_jacobian
    starts = long_starts(problem, EXPERTS, runs, np.random.default_rng([sample, 1000]))
    best = max([*found, *(ascend(problem, start) - constant for start in starts)])
    return [(best - value) / rows.n_rows for value in found], spent


def main(arguments: list[str] | None = None) -> None:
    """Run the study that the command line asks for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="that of the stations' tables")
    for name, default in (("samples", 10), ("rows", 15_768), ("seeds", 3), ("long-runs", 50)):
        parser.add_argument(f"--{name}", type=int, default=default)
    chosen = parser.parse_args(arguments)
    features, target = read_rows(chosen.folder)
    hits, all_gaps = 0, []
    with single_threaded_blas():
        for sample in range(chosen.samples):
            index = np.random.default_rng(sample).choice(len(target), chosen.rows, replace=False)
            rows = Observations(features[index], target[index])
            gaps, spent = gaps_of_sample(rows, sample, chosen.seeds, chosen.long_runs)
            hits += sum(gap <= HIT for gap in gaps)
            all_gaps += gaps
            text = "  ".join(f"{gap:.1e}" for gap in gaps)
            sys.stdout.write(f"sample {sample}: short by {text} nats a row; {spent:.1f} s a fit\n")
            sys.stdout.flush()
    sys.stdout.write(f"hits {hits} of {len(all_gaps)}, worst gap {max(all_gaps):.1e}\n")


if __name__ == "__main__":
    main()

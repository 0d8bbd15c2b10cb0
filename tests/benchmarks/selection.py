"""How often `select_n_experts` finds the number of experts that drew the data, and what it costs.

Each draw is of three experts; the time is processor time over that of one `fit` for every number::

    PYTHONPATH=tests python -m benchmarks.selection [--draws 100] [--rows 20000] [--design overlap]
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import dask
import numpy as np

import daskmoe

TRUE = 3
TIMED = 3


class Figures(NamedTuple):
    """Of one draw; the ratio is NaN where single fits were not timed."""

    chosen: int
    ratio: float


def seconds(run: Callable[..., Any], *args: Any, **options: Any) -> tuple[float, Any]:
    """Processor time, and what was found."""
    began = time.process_time()
    found = run(*args, **options)
    return time.process_time() - began, found


def study(
    draws: int, n_rows: int, n_features: int, design: str, criterion: str, sizes: Sequence[int]
) -> Iterator[Figures]:
    """Select from draws with seeds 0, 1, ...; the first few are timed against single fits."""
    for seed in range(draws):
        data, _ = daskmoe.simulate(
            n_rows, n_features=n_features, n_experts=TRUE, design=design, random_state=seed
        )
        rows = data.chunk(row=n_rows // 8)
        options: dict[str, Any] = {"random_state": seed, "progress": False}
        with warnings.catch_warnings(action="ignore", category=daskmoe.FitWarning):
            whole, selection = seconds(
                daskmoe.select_n_experts, rows, "y", n_experts=sizes, criterion=criterion, **options
            )
            singles = [
                seconds(daskmoe.fit, rows, "y", n_experts=size, **options)[0]
                for size in (sizes if seed < TIMED else ())
            ]
        yield Figures(selection.n_experts, whole / sum(singles) if singles else np.nan)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--draws", type=int, default=100)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--features", type=int, default=5)
    parser.add_argument("--most", type=int, default=6)
    parser.add_argument("--design", default="overlap")
    parser.add_argument("--criterion", default="bic")
    options = parser.parse_args(arguments)
    found = []
    sizes = range(1, options.most + 1)
    with dask.config.set(scheduler="synchronous"):
        for each in study(
            options.draws, options.rows, options.features, options.design, options.criterion, sizes
        ):
            found.append(each)
            counts = ", ".join(f"{size}: {n}" for size, n in sorted(Counter(f.chosen for f in found).items()))
            ratios = [f.ratio for f in found if np.isfinite(f.ratio)]
            times = f"{min(ratios):.2f} to {max(ratios):.2f}"
            sys.stdout.write(f"{len(found)} draws; chosen {counts}; time over single fits {times}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()

"""Every aggregation against the global fit, on the designs, orders and numbers of partitions of the study.

Excess is the global fit's held-out log-likelihood a row less the aggregate's, in nats; the table gives
medians over seeds. Partitions are exchangeable, or sorted by one noisy covariate, or hold the rows of three
of five experts each (``three``: local fits of three experts, a result of five); on request they are sorted by
the response.

    python -m tests.benchmarks.aggregation --seeds 3
    python -m tests.benchmarks.aggregation --partitions 16 --seeds 10
    python -m tests.benchmarks.aggregation --partitions 64 128 --methods auto --orders exchangeable sorted
    python -m tests.benchmarks.aggregation --partitions 4 16 --seeds 3 --methods auto --orders response
    python -m tests.benchmarks.aggregation --tiny
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
from collections.abc import Iterator
from typing import Any, NamedTuple

import dask
import numpy as np
import xarray as xr

import daskmoe
from daskmoe import MixtureOfExperts

DESIGNS = {"paper": 4, "overlap": 5}
ORDERS = ("exchangeable", "sorted", "three")
METHODS = ("reduction", "whole", "greedy", "aligned", "middle", "weighted", "features", "auto")
HELD_OUT = 50_000
NOISE = 0.3
KNOWN_EXPERTS = 3


class Size(NamedTuple):
    """Rows of the fit, features, held-out rows."""

    rows: int = 100_000
    features: int = 20
    held_out: int = HELD_OUT


class Case(NamedTuple):
    """One draw of a design: rows of the fit, held-out rows, their model, the global fit's score."""

    data: xr.Dataset
    held_out: xr.Dataset
    truth: MixtureOfExperts
    best: float

    def excess(self, model: MixtureOfExperts) -> float:
        """Nats a row below the global fit."""
        return self.best - model.log_likelihood(self.held_out) / self.held_out.sizes["row"]


def draw_case(design: str, seed: int, size: Size) -> Case:
    """Rows of a design and the global fit to them."""
    everything, truth = daskmoe.simulate(
        size.rows + size.held_out, n_features=size.features, n_experts=DESIGNS[design], design=design,
        random_state=seed,
    )  # fmt: skip
    data = everything.isel(row=slice(0, size.rows))
    held_out = everything.isel(row=slice(size.rows, None))
    fitted = daskmoe.fit_local(data, "y", n_experts=DESIGNS[design], random_state=seed)
    return Case(data, held_out, truth, fitted.log_likelihood(held_out) / size.held_out)


def ordered(case: Case, order: str, seed: int) -> xr.Dataset:
    """The rows as they come, by their response, or by their first feature and noise."""
    if order == "exchangeable":
        return case.data
    if order == "response":
        return case.data.isel(row=np.argsort(case.data["y"].values))
    noise = np.random.default_rng([seed, 1]).standard_normal(case.data.sizes["row"])
    return case.data.isel(row=np.argsort(case.data["X"].values[:, 0] + NOISE * noise))


def split_by_experts(case: Case, n_partitions: int, seed: int) -> xr.Dataset:
    """The rows with a coordinate ``part``: partitions hold three experts each, and no row of another.

    The expert of a row is drawn from its responsibilities, so that it is a draw of the expert that made it.
    """
    rng = np.random.default_rng([seed, 2])
    tau = case.truth.responsibilities(case.data).values
    expert = np.argmax(np.log(tau.clip(1e-300)) + rng.gumbel(size=tau.shape), axis=0)
    sets = list(itertools.combinations(range(len(tau)), KNOWN_EXPERTS))
    part = np.empty(len(expert), dtype=np.int64)
    for k in range(len(tau)):
        holders = [m for m in range(n_partitions) if k in sets[m % len(sets)]]
        rows = np.flatnonzero(expert == k)
        part[rows] = rng.choice(holders, len(rows))
    return case.data.assign_coords(part=("row", part))


def fit_all(
    case: Case, data: xr.Dataset, n_experts: int, seed: int, methods: tuple[str, ...], **options: Any
) -> Iterator[tuple[str, float]]:
    """The excess of every method; all that need the same local fits share them."""
    local = options.pop("n_local_experts", None)
    with tempfile.TemporaryDirectory() as folder:
        for method in methods:
            chosen = dict(options)
            if method == "features":
                chosen |= {"aggregation": "auto", "support": "features"}
            else:
                chosen |= {"aggregation": method, "checkpoint": folder}
            if method != "auto":
                chosen["n_local_experts"] = local
            model = daskmoe.fit(data, "y", n_experts=n_experts, random_state=seed, **chosen)
            yield method, case.excess(model)


def run_seed(
    design: str,
    seed: int,
    partitions: tuple[int, ...],
    orders: tuple[str, ...],
    methods: tuple[str, ...],
    size: Size,
) -> Iterator[tuple[tuple[str, str, int, str], float]]:
    """((design, order, partitions, method), excess) of one draw."""
    case, n_experts = draw_case(design, seed, size), DESIGNS[design]
    for n in partitions:
        for order in [order for order in orders if order != "three"]:
            data = ordered(case, order, seed)
            for method, excess in fit_all(case, data, n_experts, seed, methods, partitions=n):
                yield (design, order, n, method), excess
    if design == "overlap" and "three" in orders:
        n = partitions[0]
        data = split_by_experts(case, n, seed)
        options = {"partitions": "part", "n_local_experts": KNOWN_EXPERTS}
        able = tuple(m for m in ("reduction", "greedy", "features", "auto") if m in methods)
        for method, excess in fit_all(case, data, n_experts, seed, able, **options):
            yield (design, "three", n, method), excess


def table(found: dict[tuple[str, str, int, str], list[float]]) -> str:
    """A Markdown table of medians, a row a case and a column a method."""
    lines = ["| design | partitions | M | " + " | ".join(METHODS) + " |", "|---" * (3 + len(METHODS)) + "|"]
    for case in dict.fromkeys(key[:3] for key in found):
        cells = [
            f"{np.median(found[(*case, method)]):.5f}" if (*case, method) in found else ""
            for method in METHODS
        ]
        lines.append(f"| {case[0]} | {case[1]} | {case[2]} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> str:
    """Run the study and print its table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--partitions", type=int, nargs="+", default=[16, 64, 128])
    parser.add_argument("--designs", nargs="+", choices=DESIGNS, default=list(DESIGNS))
    parser.add_argument("--orders", nargs="+", choices=[*ORDERS, "response"], default=list(ORDERS))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--tiny", action="store_true", help="One small draw: whether it runs.")
    options = parser.parse_args(arguments)
    size = Size(3_000, 3, 1_000) if options.tiny else Size()
    partitions = (4,) if options.tiny else tuple(options.partitions)
    seeds = range(1) if options.tiny else range(options.first_seed, options.first_seed + options.seeds)
    found: dict[tuple[str, str, int, str], list[float]] = {}
    with dask.config.set(scheduler="synchronous"):
        for design, seed in itertools.product(options.designs, seeds):
            orders, methods = tuple(options.orders), tuple(options.methods)
            for key, excess in run_seed(design, seed, partitions, orders, methods, size):
                found.setdefault(key, []).append(excess)
                print(*key, seed, f"{excess:.6f}", flush=True)  # noqa: T201
    result = table(found)
    print(result)  # noqa: T201
    return result


if __name__ == "__main__":
    main()

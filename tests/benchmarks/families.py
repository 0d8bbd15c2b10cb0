"""Every family on rows that it drew: one step and three rounds beside the fit to all, intervals, and passes.

    PYTHONPATH=tests python -m benchmarks.families accuracy [--rows 100000] [--partitions 32] [--seeds 3]
    PYTHONPATH=tests python -m benchmarks.families coverage [--datasets 100] [--rows 5000]
    PYTHONPATH=tests python -m benchmarks.families passes [--rows 100000]

``accuracy`` has nats a row below the fit to all rows (negative: above it), median and worst of the seeds, of
`fit` and of `fit` with three rounds, partitions exchangeable and in order of a feature. ``coverage`` has the
shares of 95 % intervals with the truth inside, of the truth refined to convergence. ``passes`` has the
processor time of a pass over that of gaussian experts with as many linear predictors.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import dask
import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy.stats import norm

import daskmoe
from daskmoe import MixtureOfExperts
from daskmoe.numerics.base.coordinates import coordinates_from
from daskmoe.numerics.base.observations import Observations, moments
from daskmoe.numerics.base.parameters import MoEParameters
from daskmoe.numerics.families import get_family
from daskmoe.numerics.likelihood.e_step import Runs
from daskmoe.numerics.likelihood.priors import prior_from
from daskmoe.numerics.local.em import em_statistics
from daskmoe.numerics.local.problem import Problem

EXPERTS, FEATURES, CLASSES = 3, 4, 3
FAMILIES = ("gaussian", "student_t", "gamma", "poisson", "categorical")
DEGREES, SHAPE, SCALE = 5.0, 4.0, 0.5
ORDERS = ("exchangeable", "sorted")

FloatArray = NDArray[np.float64]


class Drawn(NamedTuple):
    """Rows, and the parameters that drew them by name of the model's variable, gates against the last."""

    data: xr.Dataset
    truth: dict[str, FloatArray]


def draw(family: str, n_rows: int, seed: int) -> Drawn:
    """Rows of three experts whose gates and predictors are random."""
    rng = np.random.default_rng([seed, FAMILIES.index(family)])
    predictors = CLASSES - 1 if family == "categorical" else 1
    gate = rng.normal(size=(EXPERTS, FEATURES + 1)) * np.append(0.3, np.ones(FEATURES))
    coef = rng.normal(size=(EXPERTS, predictors, FEATURES + 1))
    coef[:, :, 0] += np.linspace(-2, 2, EXPERTS)[:, None]
    if family in ("poisson", "gamma"):
        # Means between a fraction and some tens.
        coef = 0.3 * coef + np.eye(FEATURES + 1)[0]
    features = rng.normal(size=(n_rows, FEATURES))
    design = np.column_stack([np.ones(n_rows), features])
    expert = np.argmax(design @ gate.T + rng.gumbel(size=(n_rows, EXPERTS)), axis=1)
    eta = np.einsum("ij,icj->ic", design, coef[expert])
    data = xr.Dataset({"X": (("row", "feature"), features), "y": ("row", respond(family, eta, rng))})
    gates = gate - gate[-1]
    own = coef if family == "categorical" else coef[:, 0]
    return Drawn(
        data.assign_coords(feature=[f"x{j}" for j in range(FEATURES)]),
        {
            "gate_intercept": gates[:, 0],
            "gate_coef": gates[:, 1:],
            "intercept": own[..., 0],
            "coef": own[..., 1:],
        },
    )


def respond(family: str, eta: FloatArray, rng: np.random.Generator) -> NDArray[Any]:
    """A target of each row, from its linear predictors."""
    mean = eta[:, 0]
    if family == "gaussian":
        return mean + SCALE * rng.standard_normal(len(mean))
    if family == "student_t":
        return mean + SCALE * rng.standard_t(DEGREES, len(mean))
    if family == "gamma":
        return rng.gamma(SHAPE, np.exp(mean) / SHAPE)
    if family == "poisson":
        return rng.poisson(np.exp(mean))
    logits = np.column_stack([np.zeros(len(mean)), eta])
    return np.argmax(logits + rng.gumbel(size=logits.shape), axis=1)


# Accuracy.


def excesses(family: str, n_rows: int, n_partitions: int, seed: int) -> dict[str, dict[str, float]]:
    """By order and way, nats a row below the fit to all rows."""
    data = draw(family, n_rows, seed).data
    options: dict[str, Any] = {"n_experts": EXPERTS, "family": family, "random_state": seed}
    best = daskmoe.fit_local(data, "y", **options).log_likelihood(data)
    found: dict[str, dict[str, float]] = {}
    for order in ORDERS:
        by = np.argsort(data["X"].values[:, 0]) if order == "sorted" else np.arange(n_rows)
        rows = data.isel(row=by).chunk(row=-(-n_rows // n_partitions))
        with warnings.catch_warnings(action="ignore", category=daskmoe.ConvergenceWarning):
            found[order] = {
                way: (best - daskmoe.fit(rows, "y", **options, **how).log_likelihood(data)) / n_rows
                for way, how in (("auto", {}), ("refine=3", {"refine": 3}))
            }
    return found


def accuracy(options: argparse.Namespace) -> None:
    heads = [f"{way}, {order}" for order in ORDERS for way in ("auto", "refine=3")]
    say("| family | " + " | ".join(heads) + " |")
    say("|" + "---|" * (1 + 2 * len(ORDERS)))
    for family in options.families:
        seeds = [excesses(family, options.rows, options.partitions, seed) for seed in range(options.seeds)]
        cells = []
        for order, way in itertools.product(ORDERS, ("auto", "refine=3")):
            values = [each[order][way] for each in seeds]
            cells.append(f"{np.median(values):.1e}, {max(values):.1e}")
        say(f"| {family} | " + " | ".join(cells) + " |")


# Coverage.


def as_drawn(model: MixtureOfExperts, truth: dict[str, FloatArray]) -> MixtureOfExperts:
    """The model with its experts in the order of those that drew the rows."""
    own, other = free(model.params, "coef"), truth["coef"]

    def distance(order: tuple[int, ...]) -> float:
        return float(((own[list(order)] - other) ** 2).sum())

    return model.permute(min(itertools.permutations(range(EXPERTS)), key=distance))


def parameters_of(truth: dict[str, FloatArray], n_predictors: int, n_nuisances: int) -> MoEParameters:
    """As arrays, an expert's predictors repeated where they are more."""
    gate = np.column_stack([truth["gate_intercept"], truth["gate_coef"]])
    coef = np.concatenate([truth["intercept"][..., None], truth["coef"]], axis=-1)
    coef = coef.reshape(EXPERTS, -1, FEATURES + 1)
    coef = np.repeat(coef, n_predictors // coef.shape[1], axis=1)
    return MoEParameters(gate, coef, np.full((EXPERTS, n_nuisances), SCALE))


def free(values: xr.Dataset, name: str) -> FloatArray:
    """A variable without the class that others are against."""
    found = values[name]
    return np.asarray((found.isel({"class": slice(1, None)}) if "class" in found.dims else found).values)


def covered(family: str, n_rows: int, seed: int, level: float = 0.95) -> Iterator[bool]:
    """For each coefficient of experts and gates, whether its interval has the truth."""
    data, truth = draw(family, n_rows, seed)
    one = daskmoe.fit_local(data, "y", n_experts=1, family=family)
    known = parameters_of(truth, one.densities.n_predictors, one.densities.n_nuisances)
    start = MixtureOfExperts.from_parameters(known, family=family, rows=one.rows)
    # Rounds put experts in the order of their shares.
    model = as_drawn(daskmoe.refine(start, data, rounds="converged", progress=False), truth)
    errors, wide = model.standard_errors(), norm.ppf(0.5 + level / 2)
    for name, value in truth.items():
        far, error = abs(free(model.params, name) - value), free(errors, name)
        yield from (far < wide * error)[error > 0].tolist()


def coverage(options: argparse.Namespace) -> None:
    for family in options.families:
        found = [covered(family, options.rows, seed) for seed in range(options.datasets)]
        inside = list(itertools.chain.from_iterable(found))
        say(f"{family:12} {np.mean(inside):.3f} of {len(inside)} intervals")


# Passes.


def kernels(family: str, n_rows: int, n_predictors: int) -> dict[str, Callable[[], object]]:
    """Passes over rows that the family drew, at experts near the truth."""
    drawn = draw(family, n_rows, 0)
    y = drawn.data["y"].values.astype(float)
    if family == "gaussian" and n_predictors > 1:
        y = np.column_stack([y] * n_predictors)
    size = CLASSES if family == "categorical" else n_predictors
    own = get_family(family, size)
    rows = Observations(drawn.data["X"].values, y)
    known = moments(rows)
    coordinates = coordinates_from(known, own.scaling(known))
    inner = coordinates.from_data(parameters_of(drawn.truth, n_predictors, own.n_nuisances))
    problem = Problem(rows, coordinates, prior_from(known, coordinates, EXPERTS, own), own)
    runs = Runs.one(inner)
    return {
        "EM pass": lambda: em_statistics(runs, rows.blocks(coordinates), own),
        "Newton pass": partial(problem.statistics, inner),
        "gradient pass": partial(problem.slope, inner),
    }


def fastest(kernel: Callable[[], object], repeats: int) -> float:
    times = []
    for _ in range(repeats):
        began = time.process_time()
        kernel()
        times.append(time.process_time() - began)
    return min(times)


def passes(options: argparse.Namespace) -> None:
    for family in options.families:
        if family == "gaussian":
            continue
        predictors = CLASSES - 1 if family == "categorical" else 1
        own, floor = (kernels(each, options.rows, predictors) for each in (family, "gaussian"))
        ratios = {
            name: fastest(own[name], options.repeats) / fastest(floor[name], options.repeats) for name in own
        }
        say(f"{family:12} " + "  ".join(f"{name} {ratio:.2f}" for name, ratio in ratios.items()))


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one of the three."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("study", choices=("accuracy", "coverage", "passes"))
    parser.add_argument("--families", nargs="+", default=FAMILIES)
    parser.add_argument("--rows", type=int)
    parser.add_argument("--partitions", type=int, default=32)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--datasets", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args(arguments)
    options.rows = options.rows or (5_000 if options.study == "coverage" else 100_000)
    with dask.config.set(scheduler="synchronous"):
        {"accuracy": accuracy, "coverage": coverage, "passes": passes}[options.study](options)


if __name__ == "__main__":
    main()

"""The studies of `docs/design/refinement.md`: starts, coverage, cost, excess and the Beijing stations.

PYTHONPATH=tests python -m benchmarks.refinement starts
PYTHONPATH=tests python -m benchmarks.refinement coverage
PYTHONPATH=tests python -m benchmarks.refinement cost
PYTHONPATH=tests python -m benchmarks.refinement wall
PYTHONPATH=tests python -m benchmarks.refinement excess --design paper --sorted
PYTHONPATH=tests python -m benchmarks.refinement beijing FOLDER
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import dask
import numpy as np
import scipy
import xarray as xr
from scipy.optimize import linear_sum_assignment

import daskmoe
from daskmoe import MixtureOfExperts
from daskmoe.numerics.base.coordinates import coordinates_from
from daskmoe.numerics.base.observations import Observations, moments
from daskmoe.numerics.base.parameters import MoEParameters
from daskmoe.numerics.combine.round_sums import round_statistics
from daskmoe.numerics.families import get_family
from daskmoe.numerics.likelihood.e_step import Runs
from daskmoe.numerics.local.em import em_statistics

GAUSSIAN = get_family("gaussian")
GROUPS = {
    "gating": ("gate_intercept", "gate_coef"),
    "experts": ("intercept", "coef"),
    "variance": ("variance",),
}


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


# Starts.


def starts(options: argparse.Namespace) -> None:
    """Rounds to convergence from random models with gates up to five times steeper than usual."""
    rounds, unfinished = [], 0
    with dask.config.set(scheduler="synchronous"):
        for seed in range(options.models):
            rng = np.random.default_rng(seed)
            n_experts, n_rows, p = (
                int(rng.integers(2, 6)),
                int(rng.integers(60, 2_000)),
                int(rng.integers(1, 5)),
            )
            features = rng.standard_normal((n_rows, p)) * rng.uniform(0.5, 2, p) + 1
            response = 3 * rng.standard_normal(n_rows) + features.sum(axis=1)
            data = xr.Dataset({"X": (("row", "feature"), features), "y": ("row", response)})
            gate = rng.uniform(0.5, 5) * rng.standard_normal((n_experts, p + 1))
            coef = 2 * rng.standard_normal((n_experts, p + 1))
            start = MoEParameters(gate - gate[-1], coef[:, None], rng.uniform(0.3, 2.0, (n_experts, 1)))
            schema = daskmoe.fit_local(data, "y", n_experts=1).rows
            model = MixtureOfExperts.from_parameters(start, family="gaussian", rows=schema)
            found = daskmoe.refine(model, data, rounds="converged")
            assert found.diagnostics is not None
            kept = found.diagnostics["round_objective"].values[found.diagnostics["round_accepted"].values > 0]
            assert (np.diff(kept) >= 0).all()
            rounds.append(found.diagnostics.sizes["round"])
            unfinished += not found.diagnostics.attrs["refinement_converged"]
    say(f"{options.models} random models: {unfinished} not at a maximum, rounds: "
        f"median {np.median(rounds):.0f}, nine of ten within {np.quantile(rounds, 0.9):.0f}, "
        f"most {max(rounds)}")  # fmt: skip


# Coverage.


class Coverage(NamedTuple):
    """Hits and trials by (kind of standard error, group of parameters)."""

    hits: dict[tuple[str, str], int]
    trials: dict[tuple[str, str], int]

    @classmethod
    def empty(cls) -> Coverage:
        return cls({}, {})

    def add(
        self, model: MixtureOfExperts, truth: MoEParameters, kinds: Sequence[str] = ("model", "robust")
    ) -> None:
        """Count which intervals hold the truth, experts matched by their coefficients."""
        distance = np.square(model.parameters.coef - truth.coef[:, 0]).sum(axis=2)
        expected = MixtureOfExperts.from_parameters(
            truth.take(linear_sum_assignment(distance)[1]), family="gaussian", rows=model.rows
        ).params
        for kind in kinds:
            interval = model.confidence_interval(0.95, kind)
            lower, upper = interval.sel(bound="lower"), interval.sel(bound="upper")
            inside = (lower <= expected) & (expected <= upper)
            for group, names in GROUPS.items():
                # The reference expert has no gating parameters.
                free = slice(None, -1) if group == "gating" else slice(None)
                values = np.concatenate([inside[n].isel(expert=free).values.ravel() for n in names])
                key = kind, group
                self.hits[key] = self.hits.get(key, 0) + int(values.sum())
                self.trials[key] = self.trials.get(key, 0) + values.size

    def share(self, kind: str, group: str) -> float:
        return self.hits[kind, group] / self.trials[kind, group]


def coverage_study(
    datasets: int, n_rows: int, n_features: int, n_experts: int, *, first_seed: int = 0
) -> Coverage:
    """Intervals from the truth refined to convergence, a new `overlap` design for each dataset."""
    found = Coverage.empty()
    for seed in range(first_seed, first_seed + datasets):
        data, truth = daskmoe.simulate(
            n_rows, n_features=n_features, n_experts=n_experts, design="overlap", random_state=seed
        )
        found.add(daskmoe.refine(truth, data, rounds="converged"), truth.parameters)
    return found


def uneven_data(n_rows: int, n_features: int, n_experts: int, seed: int) -> tuple[xr.Dataset, Any]:
    """`overlap` rows whose noise within an expert grows with the first feature, and their expert means."""
    _, truth = daskmoe.simulate(
        10, n_features=n_features, n_experts=n_experts, design="overlap", random_state=0
    )
    parameters = truth.parameters
    rng = np.random.default_rng(seed)
    centers = parameters.gate[:, 1:] - parameters.gate[:, 1:].mean(axis=0)
    features = rng.standard_normal((n_rows, n_features)) + centers[rng.integers(n_experts, size=n_rows)]
    design = np.column_stack([np.ones(n_rows), features])
    expert = np.argmax(design @ parameters.gate.T + rng.gumbel(size=(n_rows, n_experts)), axis=1)
    spread = np.sqrt(parameters.nuisance[expert, 0]) * np.exp(0.4 * features[:, 0])
    mean = np.einsum("ij,ij->i", design, parameters.coef[expert, 0])
    response = mean + spread * rng.standard_normal(n_rows)
    data = xr.Dataset({"X": (("row", "feature"), features), "y": ("row", response)})
    return data.assign_coords(feature=[f"x{j}" for j in range(n_features)]), truth


def misspecified_study(
    datasets: int, n_rows: int, n_features: int, n_experts: int, *, large: int = 4_000_000
) -> Coverage:
    """The same where the variance is misspecified; the target is the optimum on ``large`` rows."""
    data, truth = uneven_data(large, n_features, n_experts, 2**31)
    pseudo = daskmoe.refine(truth, data, rounds="converged", partitions=8)
    del data
    found = Coverage.empty()
    for seed in range(datasets):
        data, _ = uneven_data(n_rows, n_features, n_experts, seed)
        found.add(daskmoe.refine(pseudo, data, rounds="converged"), pseudo.parameters)
    return found


def clustered_data(n_days: int, per_day: int, seed: int) -> tuple[xr.Dataset, MixtureOfExperts]:
    """Two experts; rows of a day share three quarters of the variance of features, noise and choice.

    Every row by itself is of the model, so that the truth is the target. Rows are shuffled.
    """
    gate, coef = np.array([[0.3, 0.8, 0.0], [0.0, 0.0, 0.0]]), np.array([[5.0, 1.0, 2.0], [-5.0, -1.0, 0.5]])
    rng = np.random.default_rng(seed)
    day = np.repeat(np.arange(n_days), per_day)
    shared, own = rng.standard_normal((4, n_days))[:, day], rng.standard_normal((4, day.size))
    *columns, noise, choice = np.sqrt(0.75) * shared + np.sqrt(0.25) * own
    features = np.column_stack(columns)
    design = np.column_stack([np.ones(day.size), features])
    expert = (scipy.special.ndtr(choice) > scipy.special.expit(design @ gate[0])).astype(int)
    response = np.einsum("ij,ij->i", design, coef[expert]) + noise
    order = rng.permutation(day.size)
    data = xr.Dataset({"X": (("row", "feature"), features[order]), "y": ("row", response[order])})
    data = data.assign_coords(feature=["x0", "x1"], day=("row", day[order]))
    model = daskmoe.fit_local(data.isel(row=slice(200)), "y", features="X", n_experts=1)
    truth = MoEParameters(gate, coef[:, None], np.ones((2, 1)))
    return data, MixtureOfExperts.from_parameters(truth, family="gaussian", rows=model.rows)


def clusters(options: argparse.Namespace) -> None:
    """Coverage where rows of a day depend on each other, and days lie in several partitions."""
    found, kinds = Coverage.empty(), ("model", "robust", "cluster")
    for seed in range(options.datasets):
        data, truth = clustered_data(options.days, options.rows_a_day, seed)
        model = daskmoe.refine(truth, data, rounds="converged", partitions=4, cluster="day")
        found.add(model, truth.parameters, kinds)
    for kind in kinds:
        shares = "  ".join(f"{group} {found.share(kind, group):.4f}" for group in GROUPS)
        say(f"{options.days} days of {options.rows_a_day} rows  {kind:8}{shares}")


def coverage(options: argparse.Namespace) -> None:
    sizes = (options.datasets, options.rows, options.features, options.experts)
    for name, study in (("overlap", coverage_study), ("uneven noise", misspecified_study)):
        began = time.perf_counter()
        found: Coverage = study(*sizes)  # type: ignore[operator]
        for kind in ("model", "robust"):
            shares = "  ".join(f"{group} {found.share(kind, group):.4f}" for group in GROUPS)
            say(f"{name:14}{kind:8}{shares}")
        say(f"{name}: {options.datasets} datasets in {time.perf_counter() - began:.0f} s")


# Cost.


def simulated(rows: int, features: int, experts: int, design: str, seed: int) -> tuple[xr.Dataset, Any]:
    return daskmoe.simulate(rows, n_features=features, n_experts=experts, design=design, random_state=seed)


def fastest(function: Callable[[], Any], repeats: int) -> float:
    """The least processor time of some calls, in seconds."""
    times = []
    for _ in range(repeats):
        began = time.process_time()
        function()
        times.append(time.process_time() - began)
    return min(times)


def cost(options: argparse.Namespace) -> None:
    """Processor time of one round over that of one EM pass, on the same rows in one run."""
    from threadpoolctl import threadpool_limits

    for features, experts in ((5, 3), (20, 2), (20, 4), (30, 4), (20, 6)):
        data, truth = simulated(options.rows, features, experts, "overlap", 0)
        rows = Observations(data["X"].values, data["y"].values)
        known = moments(rows)
        coordinates = coordinates_from(known, GAUSSIAN.scaling(known))
        inner = coordinates.from_data(truth.parameters)
        runs = Runs.one(inner)
        with threadpool_limits(1, "blas"):
            passes = []
            for _ in range(options.repeats):
                em = fastest(lambda: em_statistics(runs, rows.blocks(coordinates), GAUSSIAN), 1)  # noqa: B023
                arguments = (rows, truth.parameters, coordinates, GAUSSIAN)
                own = fastest(lambda: round_statistics(*arguments), 1)  # noqa: B023
                passes.append((em, own))
        em, own = np.min(passes, axis=0)
        say(f"p={features} K={experts}: EM {1e6 * em / options.rows:.2f} us/row, "
            f"round {1e6 * own / options.rows:.2f} us/row, ratio {own / em:.2f}")  # fmt: skip


def wall(options: argparse.Namespace) -> None:
    """Wall and processor time of `fit` with and without three rounds, from a store."""
    with tempfile.TemporaryDirectory() as folder, dask.config.set(num_workers=2):
        path = Path(folder) / "rows.zarr"
        data, _ = daskmoe.simulate(
            options.rows, n_features=20, n_experts=4, design=options.design,
            chunks=options.rows // 32, random_state=0,
        )  # fmt: skip
        data.to_zarr(path, zarr_format=2)
        seconds: dict[Any, list[tuple[float, float]]] = {0: [], 3: [], "converged": []}
        for _ in range(options.repeats):
            for rounds, kept in seconds.items():
                began, used = time.perf_counter(), time.process_time()
                model = daskmoe.fit(path, "y", n_experts=4, refine=rounds, random_state=0)
                kept.append((time.perf_counter() - began, time.process_time() - used))
        assert model.diagnostics is not None
        say(f"rounds run to convergence: {model.diagnostics.sizes['round']}")
        base = np.min(seconds[0], axis=0)
        for rounds, kept in seconds.items():
            best = np.min(kept, axis=0)
            say(f"refine={rounds}: {best[0]:.2f} s wall, {best[1]:.2f} s processor; "
                f"over refine=0: {best[0] / base[0]:.2f}, {best[1] / base[1]:.2f}")  # fmt: skip


# Excess.


def excess(options: argparse.Namespace) -> None:
    """Nats a row below the global optimum, on the training and on held-out rows."""
    for seed in range(options.first_seed, options.first_seed + options.seeds):
        data, truth = simulated(2 * options.rows, 20, 4, options.design, seed)
        training = data.isel(row=slice(0, options.rows))
        held_out = data.isel(row=slice(options.rows, None))
        if options.sorted:
            # One noisy covariate: rows of a partition are alike in it, as chunks of time or space are.
            noise = np.random.default_rng(seed).standard_normal(options.rows)
            training = training.isel(row=np.argsort(training["X"].values[:, 0] + 0.3 * noise))
        best = daskmoe.refine(truth, training, rounds="converged", partitions=4)
        for partitions in options.partitions:
            found = {
                rounds: daskmoe.fit(
                    training, "y", n_experts=4, partitions=partitions, refine=rounds, random_state=seed
                )
                for rounds in (0, 3, "converged")
            }
            columns = []
            for rounds, model in found.items():
                inside = (best.log_likelihood(training) - model.log_likelihood(training)) / options.rows
                outside = (best.log_likelihood(held_out) - model.log_likelihood(held_out)) / options.rows
                run = model.diagnostics.sizes.get("round", 0) if model.diagnostics is not None else 0
                columns.append(f"{rounds}: {inside:.1e} / {outside:+.1e} ({run} rounds)")
            layout = "sorted" if options.sorted else "exchangeable"
            say(f"{options.design} {layout} M={partitions} seed={seed}  " + "   ".join(columns))


# Beijing.


def beijing(options: argparse.Namespace) -> None:
    """Stations as partitions, K = 4: nats a row below the centralized fit, and held-out errors."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples"))
    import beijing_air_quality as example

    data = example.build_dataset(example.read_table(options.folder))
    late = data["time"] >= np.datetime64(example.HELD_OUT_FROM)
    training, held_out = data.sel(time=~late), data.sel(time=late)
    names = [str(name) for name in data.data_vars if name != example.TARGET]
    common = {"features": names, "n_experts": 4}
    rows = training[example.TARGET].size
    central = max(
        (daskmoe.fit_local(training, example.TARGET, random_state=seed, **common) for seed in range(3)),
        key=lambda model: model.log_likelihood(training),
    )
    best = central.log_likelihood(training)

    def tell(name: str, model: MixtureOfExperts) -> None:
        error = model.predict(held_out) - held_out[example.TARGET]
        gap = (best - model.log_likelihood(training)) / rows
        held = model.log_likelihood(held_out) / error.size
        run = model.diagnostics.sizes.get("round", 0) if model.diagnostics is not None else 0
        say(f"{name:32} gap {gap:+.2e}  RMSE {float(np.sqrt((error**2).mean())):.3f}  "
            f"MAE {float(abs(error).mean()):.3f}  held-out {held:.4f}  rounds {run}")  # fmt: skip

    tell("centralized (best of 3)", central)
    with tempfile.TemporaryDirectory() as folder:
        # Independent local fits are shared by way of their checkpoints.
        for method in options.methods:
            model = daskmoe.fit(
                training, example.TARGET, partitions="station", aggregation=method, random_state=0,
                checkpoint=folder, **common,
            )  # fmt: skip
            tell(f"seed 0, {method}", model)
    for seed in range(options.seeds):
        for rounds in (0, 3, "converged"):
            model = daskmoe.fit(
                training, example.TARGET, partitions="station", refine=rounds, random_state=seed, **common
            )  # type: ignore[call-overload]
            tell(f"seed {seed}, refine={rounds}", model)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    studies = parser.add_subparsers(required=True)
    study = studies.add_parser("starts")
    study.set_defaults(run=starts)
    study.add_argument("--models", type=int, default=180)
    study = studies.add_parser("coverage")
    study.set_defaults(run=coverage)
    for name, value in (("datasets", 300), ("rows", 20_000), ("features", 4), ("experts", 3)):
        study.add_argument(f"--{name}", type=int, default=value)
    study = studies.add_parser("clusters")
    study.set_defaults(run=clusters)
    for name, value in (("datasets", 300), ("days", 200), ("rows-a-day", 24)):
        study.add_argument(f"--{name}", type=int, default=value)
    for function, rows in ((cost, 100_000), (wall, 1_000_000)):
        study = studies.add_parser(function.__name__)
        study.set_defaults(run=function)
        study.add_argument("--rows", type=int, default=rows)
        study.add_argument("--repeats", type=int, default=3)
        study.add_argument("--design", default="overlap")
    study = studies.add_parser("excess")
    study.set_defaults(run=excess)
    study.add_argument("--design", default="overlap")
    study.add_argument("--sorted", action="store_true")
    study.add_argument("--rows", type=int, default=100_000)
    study.add_argument("--seeds", type=int, default=2)
    study.add_argument("--first-seed", type=int, default=0)
    study.add_argument("--partitions", type=int, nargs="+", default=[16, 64, 128])
    study = studies.add_parser("beijing")
    study.set_defaults(run=beijing)
    study.add_argument("folder", type=Path)
    study.add_argument("--seeds", type=int, default=3)
    study.add_argument("--methods", nargs="*", default=[], help="aggregations to compare, seed 0")
    options = parser.parse_args(arguments)
    options.run(options)


if __name__ == "__main__":
    main()

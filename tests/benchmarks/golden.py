"""The golden set: fits of every kind through the public interface alone, their results as arrays in files.

`compare` runs this file by its path with one of two checkouts on the import path, so it imports nothing of
the package but its public names:

    python golden.py list
    python golden.py collect CHECKOUT OUTPUT CASE [CASE ...] [--tiny] [--data FOLDER]

A result's name says how it is compared: what starts with ``diagnostics.`` or ``note.`` may be missing from
one checkout, nothing else may.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import json
import logging
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import dask
import numpy as np
import xarray as xr
from numpy.typing import NDArray

import daskmoe
from daskmoe import MixtureOfExperts

Results = dict[str, NDArray[Any]]

AGGREGATIONS = ("auto", "reduction", "whole", "greedy", "weighted", "middle", "aligned")
EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "beijing_air_quality.py"
# Not answers: they differ from run to run.
UNREPEATABLE = "seconds"


class Scale(NamedTuple):
    """How large the cases are: rows of a fit, features, and options of the fits."""

    rows: int
    chunks: int
    features: int
    fit: Mapping[str, Any]


FULL = Scale(12_000, 1_500, 5, {})
TINY = Scale(1_200, 300, 2, {"n_init": 3, "support_size": 200})


class Context(NamedTuple):
    """What a case may use: its scale, a folder of its own, that of the real data."""

    scale: Scale
    folder: Path
    data: Path | None

    def rows(self, design: str = "overlap", n_experts: int = 3, seed: int = 1, share: int = 1) -> xr.Dataset:
        """Lazy rows of a design; ``share`` divides their number, and so that of partitions."""
        data, _ = daskmoe.simulate(
            self.scale.rows // share, n_features=self.scale.features, n_experts=n_experts, design=design,
            chunks=self.scale.chunks, random_state=seed,
        )  # fmt: skip
        return data

    def fit(self, data: Any, n_experts: int = 3, **options: Any) -> MixtureOfExperts:
        """The fit of ``y`` with seed 0."""
        return daskmoe.fit(data, "y", n_experts=n_experts, **{"random_state": 0, **self.scale.fit, **options})


def describe(model: MixtureOfExperts, data: Any = None, *, on_error: str = "raise") -> Results:
    """All that a model says of itself, and its log-likelihood of ``data``."""
    found: Results = {f"params.{name}": model.params[name].values for name in model.params.variables}
    if model.local_estimates is not None:
        local = model.local_estimates
        found |= {f"local_estimates.{name}": local[name].values for name in local.data_vars}
    if model.diagnostics is not None:
        known = model.diagnostics
        found |= {
            f"diagnostics.{name}": known[name].values
            for name in known.variables
            if UNREPEATABLE not in str(name)
        }
        found |= {f"diagnostics.attrs.{name}": np.array(value) for name, value in known.attrs.items()}
    found["note.options"] = np.array(json.dumps(model.options, sort_keys=True, default=str))
    if data is not None:
        found["log_likelihood"] = np.array(model.log_likelihood(data, on_error=on_error))
    return found


def named(prefix: str, results: Results) -> Results:
    """The same results under longer names, the part that says how they are compared still first."""
    out = {}
    for name, value in results.items():
        kind, _, rest = name.partition(".")
        out[f"{kind}.{prefix}.{rest}" if rest else f"{kind}.{prefix}"] = value
    return out


def errors(model: MixtureOfExperts) -> Results:
    """Standard errors of both kinds and an interval."""
    out: Results = {}
    for kind in ("model", "robust"):
        found = model.standard_errors(kind)
        out |= {f"standard_error.{kind}.{name}": found[name].values for name in found.data_vars}
    interval = model.confidence_interval(0.9)
    return out | {f"interval.{name}": interval[name].values for name in interval.data_vars}


def simulated(context: Context) -> Results:
    """Rows and truths of both designs."""
    out: Results = {}
    for design in ("paper", "overlap"):
        data, truth = daskmoe.simulate(
            context.scale.rows, n_features=4, n_experts=3, design=design, chunks=1_000, random_state=5
        )
        out |= {f"rows.{design}.{name}": data[name].values for name in data.data_vars}
        out |= named(design, describe(truth, data))
    return out


def design_case(design: str) -> Callable[[Context], Results]:
    """The default fit of a design."""

    def case(context: Context) -> Results:
        data = context.rows(design)
        return describe(context.fit(data), data)

    return case


def aggregation_case(aggregation: str) -> Callable[[Context], Results]:
    """The fit with one aggregation, always of the same rows."""

    def case(context: Context) -> Results:
        data = context.rows("paper", seed=2, share=2)
        return describe(context.fit(data, aggregation=aggregation), data)

    return case


def support_case(support: str, aggregation: str = "auto") -> Callable[[Context], Results]:
    """The fit with one kind of support."""

    def case(context: Context) -> Results:
        data = context.rows(seed=3, share=2)
        other = context.rows(seed=30, share=4)
        given: Any = other[["X"]] if support == "given" else support
        return describe(context.fit(data, support=given, aggregation=aggregation), data)

    return case


def weighted_rows(context: Context) -> Results:
    """Row weights, some of them zero."""
    data = context.rows(seed=4)
    weight = np.random.default_rng(4).exponential(size=data.sizes["row"])
    weight[::17] = 0.0
    data = data.assign(w=("row", weight)).chunk(row=context.scale.chunks)
    model = context.fit(data, features="X", sample_weight="w")
    return describe(model, data) | named("local", describe(local_fit(context, data, sample_weight="w"), data))


def local_fit(context: Context, data: xr.Dataset, **options: Any) -> MixtureOfExperts:
    """The fit of all rows at once, of the features ``X``."""
    fast = {name: value for name, value in context.scale.fit.items() if name != "support_size"}
    return daskmoe.fit_local(data, "y", features="X", n_experts=3, **{"random_state": 0, **fast, **options})


def local_fits(context: Context) -> Results:
    """The fit of all rows at once, of both designs."""
    out: Results = {}
    for design in ("paper", "overlap"):
        data = context.rows(design, seed=6)
        out |= named(design, describe(local_fit(context, data), data))
    return out


def collinear(context: Context) -> Results:
    """A feature that is the sum of others, and a constant one."""
    data = context.rows(seed=7, share=2).compute()
    features = data["X"].values
    more = np.column_stack([features, features[:, :2].sum(axis=1), np.full(len(features), 3.0)])
    labels = [f"x{j}" for j in range(more.shape[1])]
    data = xr.Dataset({"X": (("row", "feature"), more), "y": data["y"]}, {"feature": labels})
    data = data.chunk(row=context.scale.chunks)
    return describe(context.fit(data), data) | named(
        "reduction", describe(context.fit(data, aggregation="reduction"), data)
    )


def one_expert(context: Context) -> Results:
    """K = 1, by every way there is to it."""
    data = context.rows(seed=8, share=2)
    out = describe(context.fit(data, 1), data)
    for aggregation in ("reduction", "aligned"):
        out |= named(aggregation, describe(context.fit(data, 1, aggregation=aggregation), data))
    return out


def gridded(context: Context) -> Results:
    """A target of time, latitude and longitude, with features of some of them, and its predictions."""
    rng = np.random.default_rng(9)
    shape = {"time": context.scale.rows // 40, "lat": 8, "lon": 5}
    time_, lat, lon = shape.values()
    data = xr.Dataset(
        {
            "height": (("lat", "lon"), rng.standard_normal((lat, lon))),
            "season": ("time", np.sin(np.arange(time_) / 9.0)),
            "wind": (tuple(shape), rng.standard_normal((time_, lat, lon))),
            "bands": (("band", "time", "lat"), rng.standard_normal((2, time_, lat))),
        },
        {"lat": np.linspace(-60, 60, lat), "lon": np.linspace(0, 288, lon), "band": ["red", "blue"]},
    )
    steep = 3.0 * data["wind"] + 2.0 * data["height"]
    other = 1.0 - 2.0 * data["season"] * xr.ones_like(data["wind"]) + data["bands"].sel(band="red")
    noise = xr.DataArray(0.5 * rng.standard_normal((time_, lat, lon)), dims=tuple(shape))
    target = xr.where(data["wind"] + data["season"] > 0, steep, other) + noise
    data = data.assign(y=target.transpose(*shape).assign_attrs(units="K"))
    data = data.chunk(time=max(time_ // 6, 1), lat=-1, lon=-1)
    model = context.fit(data, 2)
    by_name = context.fit(data, 2, partitions="lat", aggregation="reduction")
    interval = model.predict_interval(data.isel(time=slice(0, 2)), 0.8)
    return (
        describe(model, data)
        | named("by-name", describe(by_name, data))
        | {"predict": model.predict(data.isel(time=slice(0, 20))).values}
        | {f"predict_interval.{name}": interval[name].values for name in interval.data_vars}
    )


def partitions_by_name(context: Context) -> Results:
    """One partition a value of a coordinate, the rows sorted by a feature, and a number of row ranges."""
    data = context.rows("paper", seed=10).compute()
    order = np.argsort(data["X"].values[:, 0] + np.random.default_rng(10).standard_normal(len(data["y"])))
    data = data.isel(row=order)
    names = np.array(["north", "south", "east", "west"])[np.arange(len(order)) * 4 // len(order)]
    data = data.assign_coords(station=("row", names))
    return describe(context.fit(data, partitions="station"), data) | named(
        "ranges", describe(context.fit(data, partitions=3), data)
    )


def local_experts(context: Context) -> Results:
    """Local estimators with fewer and with more experts than the model."""
    data = context.rows(seed=11, share=2)
    out: Results = {}
    for size, aggregation in ((2, "reduction"), (4, "greedy")):
        model = context.fit(data, aggregation=aggregation, n_local_experts=size)
        out |= named(f"{aggregation}-{size}", describe(model, data))
    return out


def skipped(context: Context) -> Results:
    """Rows with missing values, and a partition of nothing else."""
    data = context.rows(seed=12).compute()
    features, response = data["X"].values.copy(), data["y"].values.copy()
    features[::13, 0] = np.nan
    response[5::29] = np.inf
    response[: context.scale.chunks] = np.nan
    data = data.assign(X=(data["X"].dims, features), y=("row", response)).chunk(row=context.scale.chunks)
    model = context.fit(data, on_error="skip")
    refined = daskmoe.refine(model, data, rounds=3, on_error="skip")
    return describe(model, data, on_error="skip") | named("refined", describe(refined, data, on_error="skip"))


def single_precision(context: Context) -> Results:
    """Rows in single precision."""
    data = context.rows("paper", seed=13)
    data = data.assign({name: data[name].astype(np.float32) for name in data.data_vars})
    return describe(context.fit(data), data)


def refined_rounds(context: Context) -> Results:
    """A fit with three rounds, and three rounds from another's model."""
    data = context.rows("paper", seed=14)
    start = context.fit(data, aggregation="reduction")
    further = daskmoe.refine(start, data, rounds=3, partitions=5)
    return describe(context.fit(data, refine=3), data) | named("further", describe(further, data))


def refined_to_convergence(context: Context) -> Results:
    """A fit that is refined to the maximum, another from the truth, and what errors they state."""
    data = context.rows(seed=15)
    model = context.fit(data, refine="converged")
    _, truth = daskmoe.simulate(
        10, n_features=context.scale.features, n_experts=3, design="overlap", random_state=15
    )
    other = daskmoe.refine(truth, data, rounds="converged")
    return (
        describe(model, data)
        | errors(model)
        | named("from-truth", describe(other, data))
        | named("from-truth", errors(other))
    )


def refined_from_afar(context: Context) -> Results:
    """Rounds from a model of other rows: damping, steps past saddles, trials that are not kept."""
    data = context.rows(n_experts=4, seed=21, share=4)
    out: Results = {}
    for seed in (22, 23):
        _, start = daskmoe.simulate(
            10, n_features=context.scale.features, n_experts=4, design="paper", random_state=seed
        )
        out |= named(str(seed), describe(daskmoe.refine(start, data, rounds=40), data))
    return out


def sorted_rows(context: Context) -> Results:
    """Partitions of which each has a range of the response only."""
    data = context.rows("paper", seed=24, share=2).compute()
    data = data.isel(row=np.argsort(data["y"].values, kind="stable")).chunk(row=context.scale.chunks // 2)
    return describe(context.fit(data), data) | named(
        "features", describe(context.fit(data, support="features"), data)
    )


def many_partitions(context: Context) -> Results:
    """More partitions than starts of the reduction go through all of, each of one expert."""
    data = context.rows(seed=25)
    model = context.fit(data, aggregation="reduction", n_local_experts=1, partitions=300)
    return describe(model, data)


def saved_models(context: Context) -> list[Path]:
    """Models of four sites, each saved; two have other numbers of rows."""
    data = context.rows(seed=16).compute()
    bounds = np.linspace(0, data.sizes["row"], 5).astype(int)
    bounds[3] -= 50
    paths = []
    for site, (start, stop) in enumerate(itertools.pairwise(bounds)):
        path = context.folder / f"site-{site}.zarr"
        local_fit(context, data.isel(row=slice(start, stop))).to_zarr(path)
        paths.append(path)
    return paths


def aggregated(context: Context) -> Results:
    """Saved models aggregated by every method."""
    paths = saved_models(context)
    models = [daskmoe.open_model(path) for path in paths]
    support = context.rows(seed=17, share=4)
    out = named("paths", describe(daskmoe.aggregate(paths, support, n_experts=4, random_state=0), support))
    for method in AGGREGATIONS[1:]:
        model = daskmoe.aggregate(models, support, method=method, random_state=0)
        out |= named(method, describe(model, support))
    for kind in ("relaxed", "exact"):
        value = daskmoe.transportation_divergence(*models[:2], support, kind=kind)
        out[f"divergence.{kind}"] = np.array(value)
    return out


def predictions(context: Context) -> Results:
    """All that a model says of rows, of a nested one too."""
    data = context.rows("paper", seed=18, share=4)
    some = data.isel(row=slice(0, 200))
    out: Results = {}
    for aggregation in ("auto", "weighted"):
        model = context.fit(data, aggregation=aggregation)
        interval = model.predict_interval(some)
        out |= named(
            aggregation,
            {
                "predict": model.predict(some).values,
                **{f"predict_interval.{name}": interval[name].values for name in interval.data_vars},
                "gating_probabilities": model.gating_probabilities(some).values,
                "responsibilities": model.responsibilities(some).values,
                "log_density": model.log_density(some).values,
                "sample": model.sample(some, random_state=3).values,
                "score": np.array(model.score(data)),
            },
        )
    return out


def rugged(context: Context) -> Results:
    """Few rows and more experts than they can tell apart: many optima."""
    data, _ = daskmoe.simulate(300, n_features=3, n_experts=4, design="overlap", random_state=19)
    model = daskmoe.fit_local(data, "y", n_experts=4, random_state=0)
    parts = daskmoe.fit(data, "y", n_experts=4, partitions=3, random_state=0)
    return describe(model, data) | named("parts", describe(parts, data))


def from_store(context: Context) -> Results:
    """A store with a checkpoint: a fit, the same from what it left, and a model that was saved."""
    path = context.folder / "rows.zarr"
    context.rows(seed=20, share=2).to_zarr(path, zarr_format=2)
    options: dict[str, Any] = {"checkpoint": context.folder / "checkpoint", "partitions": 3}
    out = describe(context.fit(path, **options), path)
    again = context.fit(path, **options)
    again.to_zarr(context.folder / "model.zarr")
    return out | named("again", describe(daskmoe.open_model(context.folder / "model.zarr"), path))


def beijing_case(**options: Any) -> Callable[[Context], Results]:
    """The stations of the example as partitions."""

    def case(context: Context) -> Results:
        assert context.data is not None
        spec = importlib.util.spec_from_file_location("beijing_air_quality", EXAMPLE)
        assert spec is not None
        assert spec.loader is not None
        example = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(example)
        data = example.build_dataset(example.read_table(context.data))
        early = data["time"] < np.datetime64(example.HELD_OUT_FROM)
        data = data.sel(time=early)
        features = [str(name) for name in data.data_vars if name != example.TARGET]
        model = daskmoe.fit(
            data, example.TARGET, features=features, n_experts=4, partitions="station", random_state=0,
            **options,
        )  # fmt: skip
        return describe(model, data)

    return case


BEIJING: dict[str, Callable[[Context], Results]] = {
    "beijing": beijing_case(),
    "beijing-refined": beijing_case(refine=3),
}
CASES: dict[str, Callable[[Context], Results]] = {
    "simulate": simulated,
    "paper": design_case("paper"),
    "overlap": design_case("overlap"),
    "sample-weight": weighted_rows,
    "collinear": collinear,
    "one-expert": one_expert,
    "grid": gridded,
    "by-name": partitions_by_name,
    **{f"aggregation-{name}": aggregation_case(name) for name in AGGREGATIONS},
    **{f"support-{name}": support_case(name) for name in ("labelled", "features", "synthetic", "given")},
    "support-given-reduction": support_case("given", "reduction"),
    "local-experts": local_experts,
    "skip": skipped,
    "float32": single_precision,
    "fit-local": local_fits,
    "refine": refined_rounds,
    "refine-converged": refined_to_convergence,
    "refine-from-afar": refined_from_afar,
    "sorted": sorted_rows,
    "many-partitions": many_partitions,
    "aggregate": aggregated,
    "predict": predictions,
    "rugged": rugged,
    "store": from_store,
    **BEIJING,
}
TINY_CASES = (
    "simulate", "paper", "sample-weight", "grid", "aggregation-reduction", "refine-converged", "aggregate",
    "predict",
)  # fmt: skip


def run_case(name: str, scale: Scale, data: Path | None) -> Results:
    """The results of one case; what went wrong, as text, where it failed."""
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return CASES[name](Context(scale, Path(folder), data))
        except Exception as error:
            return {"error": np.array(f"{type(error).__name__}: {error}")}


def collect(chosen: argparse.Namespace) -> None:
    """Write the results of some cases, a file each."""
    package = Path(daskmoe.__file__).resolve().parent
    if package != chosen.checkout.resolve() / "daskmoe":
        raise SystemExit(f"expected the package of {chosen.checkout}, got {package}")
    # What fits leave out is part of the results.
    logging.disable(logging.WARNING)
    with dask.config.set(scheduler="synchronous"):
        for name in chosen.cases:
            began = time.perf_counter()
            found = run_case(name, TINY if chosen.tiny else FULL, chosen.data)
            # Whole or not at all: a file may be taken for the result by a later run.
            part = chosen.output / f"{name}.part"
            with part.open("wb") as file:
                np.savez(file, **found)
            part.rename(chosen.output / f"{name}.npz")
            sys.stderr.write(f"{chosen.checkout.name}: {name}, {time.perf_counter() - began:.1f} s\n")


def main(arguments: list[str] | None = None) -> None:
    """List the cases, or run some."""
    parser = argparse.ArgumentParser()
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("list")
    verb = verbs.add_parser("collect")
    verb.add_argument("checkout", type=Path)
    verb.add_argument("output", type=Path)
    verb.add_argument("cases", nargs="+", choices=CASES)
    verb.add_argument("--tiny", action="store_true")
    verb.add_argument("--data", type=Path)
    chosen = parser.parse_args(arguments)
    if chosen.verb == "collect":
        collect(chosen)
    else:
        known = {"all": list(CASES), "tiny": list(TINY_CASES), "of real data": list(BEIJING)}
        sys.stdout.write(json.dumps(known) + "\n")


if __name__ == "__main__":
    main()

"""The demo: simulate a store, fit it by one-shot aggregation, compare with one local fit and the truth."""

from __future__ import annotations

import itertools
import logging
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import scipy

from daskmoe.api.fit import fit_local
from daskmoe.api.hooks import HOOKS
from daskmoe.api.simulate import simulate
from daskmoe.cli.demo_figure import draw_demo_figure
from daskmoe.engine import plan_request, run
from daskmoe.model import MixtureOfExperts
from daskmoe.model.store import save_zarr
from daskmoe.numerics.base.parameters import FloatArray
from daskmoe.options import Aggregation, FitOptions
from daskmoe.rows import open_store

logger = logging.getLogger(__name__)

_FEATURES, _EXPERTS = 20, 4
_HELD_OUT_SHARE = 8


class DemoOptions(NamedTuple):
    """Size and place of the demo."""

    # Folder for everything that it makes.
    folder: Path
    # Rows to fit; an eighth as many more are held out.
    rows: int
    # Chunks of the store.
    partitions: int
    seed: int


class Simulation(NamedTuple):
    """The two stores and the model that they were drawn from."""

    training: Path
    held_out: Path
    truth: MixtureOfExperts


class Row(NamedTuple):
    """One line of the table: a model on the held-out rows."""

    name: str
    # Nats a row.
    log_likelihood: float
    # Relative prediction error, sum (y - E[y|x])^2 / sum (y - mean y)^2.
    error: float
    # Time of the fit.
    seconds: float | None = None


def free_folder(wanted: Path) -> Path:
    """The folder itself if there is none yet, else the first free one of ``wanted-2``, ``wanted-3``, ..."""
    numbered = (wanted.with_name(f"{wanted.name}-{number}") for number in itertools.count(2))
    return next(path for path in itertools.chain([wanted], numbered) if not path.exists())


def run_demo(options: DemoOptions) -> str:
    """Run the demo on the current cluster.

    Parameters
    ----------
    options : DemoOptions

    Returns
    -------
    str
        The table of results and the files that were written.
    """
    simulation = _simulate(options)
    logger.info("Fit 1 of 3: the first partition alone.")
    local, local_seconds = _fit_one_partition(simulation, options)
    logger.info("Fit 2 of 3: all partitions, each by itself, joined by optimal transport (the reduction).")
    reduction, reduction_seconds = _fit_all(simulation, options, "reduction")
    logger.info("Fit 3 of 3: all partitions from a shared start (the default).")
    model, seconds = _fit_all(simulation, options, "auto")
    logger.info("Scoring on the held-out rows.")
    rows = [
        _score("one local fit", local, simulation.held_out, local_seconds),
        _score("the reduction", reduction, simulation.held_out, reduction_seconds),
        _score("the default", model, simulation.held_out, seconds),
        _score("the truth", simulation.truth, simulation.held_out),
    ]
    files = _write_results(model, simulation, options.folder)
    return "\n".join([format_table(rows), _traffic(model), *files])


def _simulate(options: DemoOptions) -> Simulation:
    started = time.perf_counter()
    chunk = -(-options.rows // options.partitions)
    held_out_rows = max(options.rows // _HELD_OUT_SHARE, chunk)
    data, truth = simulate(
        options.rows + held_out_rows,
        n_features=_FEATURES,
        n_experts=_EXPERTS,
        chunks=chunk,
        random_state=options.seed,
    )
    (dim,) = data[truth.target].dims
    training, held_out = options.folder / "training.zarr", options.folder / "held_out.zarr"
    save_zarr(data.isel({dim: slice(options.rows)}), training)
    save_zarr(data.isel({dim: slice(options.rows, None)}), held_out)
    seconds = time.perf_counter() - started
    logger.info("Simulated %s rows in %d chunks: %.1f s.", f"{options.rows:,}", options.partitions, seconds)
    return Simulation(training, held_out, truth)


def _fit_one_partition(simulation: Simulation, options: DemoOptions) -> tuple[MixtureOfExperts, float]:
    target = simulation.truth.target
    data = open_store(simulation.training)
    (dim,) = data[target].dims
    first = data.isel({dim: slice(data[target].chunksizes[dim][0])}).load()
    started = time.perf_counter()
    model = fit_local(first, target, n_experts=_EXPERTS, random_state=options.seed)
    return model, time.perf_counter() - started


def _fit_all(
    simulation: Simulation, options: DemoOptions, aggregation: Aggregation
) -> tuple[MixtureOfExperts, float]:
    started = time.perf_counter()
    wanted = FitOptions(n_experts=_EXPERTS, aggregation=aggregation, random_state=options.seed)
    request = plan_request(simulation.training, simulation.truth.target, wanted)
    model = run(request, HOOKS)
    return model, time.perf_counter() - started


def _score(name: str, model: MixtureOfExperts, held_out: Path, seconds: float | None = None) -> Row:
    n_rows = open_store(held_out)[model.target].size
    return Row(name, model.log_likelihood(held_out) / n_rows, 1.0 - model.score(held_out), seconds)


def _write_results(model: MixtureOfExperts, simulation: Simulation, folder: Path) -> list[str]:
    """Write model, predictions and figure; one line for each."""
    paths = {name: folder / name for name in ("model.zarr", "predictions.zarr", "figure.svg")}
    model.to_zarr(paths["model.zarr"])
    save_zarr(model.predict(simulation.held_out).to_dataset(), paths["predictions.zarr"])
    observed, predicted = (
        open_store(store)[model.target].values for store in (simulation.held_out, paths["predictions.zarr"])
    )
    true_coef, fitted_coef = _matched_coefficients(simulation.truth, model)
    figure = draw_demo_figure(observed, predicted, true_coef, fitted_coef)
    paths["figure.svg"].write_text(figure, encoding="utf-8")
    labels = ("model", "predictions", "figure")
    return [f"{label + ':':13}{path}" for label, path in zip(labels, paths.values(), strict=True)]


def _matched_coefficients(truth: MixtureOfExperts, model: MixtureOfExperts) -> tuple[FloatArray, FloatArray]:
    """Coefficients of both, (K, q), the experts of the second in the order of the first."""
    true_coef, fitted_coef = truth.parameters.coef[:, 0], model.parameters.coef[:, 0]
    distance = np.linalg.norm(true_coef[:, None] - fitted_coef[None], axis=-1)
    return true_coef, fitted_coef[scipy.optimize.linear_sum_assignment(distance)[1]]


def format_table(rows: list[Row]) -> str:
    """The models, one a line, with what is known of each."""
    lines = [f"{'':16}{'held-out nats/row':>19}{'prediction error':>18}{'time':>9}"]
    for row in rows:
        seconds = "" if row.seconds is None else f"{row.seconds:.1f} s"
        lines.append(f"{row.name:16}{row.log_likelihood:19.4f}{row.error:18.5f}{seconds:>9}".rstrip())
    return "\n".join(lines)


def _traffic(model: MixtureOfExperts) -> str:
    """What the one communication step sent, beside the data it stands for."""
    assert model.diagnostics is not None
    sent, data = (int(model.diagnostics[name].sum()) for name in ("sent_bytes", "data_bytes"))
    return f"The partitions sent {sent / 1e6:.2f} MB; their data are {data / 1e6:.0f} MB.\n"

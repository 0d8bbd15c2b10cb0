"""The estimators of the study, how long each takes to learn and what it sends."""

from __future__ import annotations

import logging
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import dask
import numpy as np
import xarray as xr
from dask.callbacks import Callback
from dask.utils import key_split
from scenarios import N_EXPERTS, Draw

import daskmoe

ESTIMATORS = ("global", "reduction", "middle", "weighted", "auto", "refined")
# Those made of one set of local fits, each without a start in common.
OF_LOCAL_FITS = ("reduction", "middle", "weighted")
ROUNDS = 3
LOCAL_FIT = "moe-local-fit"

logger = logging.getLogger(__name__)


class Fitted(NamedTuple):
    """A model, the seconds it takes to learn on one worker a partition, and the bytes that partitions sent."""

    model: daskmoe.MixtureOfExperts
    seconds: float
    sent_bytes: float


class LongestTasks(Callback):  # type: ignore[misc]
    """The longest task of each kind of every graph that is computed meanwhile, by a local scheduler.

    Tasks of one kind run side by side where there are workers enough, those of different kinds after each
    other, so that the sum is what a cluster waits for.
    """

    def __init__(self) -> None:
        super().__init__()
        self._began: dict[Any, float] = {}
        self._graph: dict[str, float] = {}
        self.seconds = 0.0

    def _start(self, dsk: Any) -> None:
        self._graph = {}

    def _pretask(self, key: Any, dsk: Any, state: Any) -> None:
        self._began[key] = time.perf_counter()

    def _posttask(self, key: Any, result: Any, dsk: Any, state: Any, worker_id: Any) -> None:
        kind, took = key_split(key), time.perf_counter() - self._began.pop(key)
        self._graph[kind] = max(self._graph.get(kind, 0.0), took)

    def _finish(self, dsk: Any, state: Any, errored: bool) -> None:
        # A model says itself how long its local fits took, those of a checkpoint too.
        self.seconds += sum(took for kind, took in self._graph.items() if kind != LOCAL_FIT)


def fit_estimators(
    draw: Draw, names: tuple[str, ...], seed: int, options: Mapping[str, Any]
) -> Iterator[tuple[str, Fitted]]:
    """Every estimator that was asked for and can be had; those of independent local fits share them."""
    common = {"n_experts": N_EXPERTS, "family": draw.family, "random_state": seed, **options}
    with (
        warnings.catch_warnings(),
        dask.config.set(scheduler="synchronous"),
        tempfile.TemporaryDirectory() as folder,
    ):
        # Fits that end short are part of what is studied; their scores say so.
        warnings.simplefilter("ignore", UserWarning)
        auto: Fitted | None = None
        for name in names:
            try:
                if name == "global":
                    fitted = _global(draw, common)
                elif name == "refined":
                    fitted = _refined(draw, auto or _distributed(draw, common))
                elif name == "auto":
                    fitted = auto = _distributed(draw, common)
                else:
                    local = {"n_local_experts": draw.n_local_experts, "checkpoint": folder}
                    fitted = _distributed(draw, {**common, **local, "aggregation": name})
            except daskmoe.DaskMoEError as error:
                logger.warning("%s: none, %s", name, error)
                continue
            yield name, fitted


def _global(draw: Draw, common: Mapping[str, Any]) -> Fitted:
    model = daskmoe.fit_local(draw.training.drop_vars("part", errors="ignore"), "y", features="X", **common)
    diagnostics = diagnostics_of(model)
    return Fitted(model, float(diagnostics["seconds"].sum()), float(diagnostics["data_bytes"].sum()))


def _distributed(draw: Draw, options: Mapping[str, Any]) -> Fitted:
    with LongestTasks() as others:
        model = daskmoe.fit(
            draw.training, "y", features="X", partitions=draw.partitions, progress=False, **options
        )
    diagnostics = diagnostics_of(model)
    seconds = others.seconds + float(diagnostics["seconds"].max())
    return Fitted(model, seconds, float(diagnostics["sent_bytes"].sum()))


def _refined(draw: Draw, start: Fitted) -> Fitted:
    """Rounds send a gradient and the lower half of an information matrix a partition."""
    with LongestTasks() as rounds:
        model = daskmoe.refine(
            start.model, draw.training, rounds=ROUNDS, partitions=draw.partitions, progress=False
        )
    diagnostics = diagnostics_of(model)
    n_parameters, n_rounds = model.n_parameters, diagnostics.sizes["round"]
    n_partitions = diagnostics_of(start.model).sizes["partition"]
    sent = 8 * n_rounds * n_partitions * (n_parameters + n_parameters * (n_parameters + 1) / 2)
    return Fitted(model, start.seconds + rounds.seconds, start.sent_bytes + sent)


def diagnostics_of(model: daskmoe.MixtureOfExperts) -> xr.Dataset:
    """The diagnostics of a model that was fitted."""
    found = model.diagnostics
    if found is None:
        raise ValueError("expected a model that was fitted, got one without diagnostics")
    return found


def objective_of(model: daskmoe.MixtureOfExperts, length: int) -> np.ndarray[Any, Any]:
    """The objective of majorization-minimization by iteration, NaN after the last."""
    values = diagnostics_of(model)["objective"].values[:length]
    return np.pad(values, (0, length - len(values)), constant_values=np.nan)

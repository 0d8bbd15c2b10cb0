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
    """A model, what it takes to learn and to send.

    Seconds are of one processor, on a cluster with a worker a partition: other work of the machine and the
    time of messages are not in them.
    """

    model: daskmoe.MixtureOfExperts
    seconds: float
    # The longest local fit of these.
    local_seconds: float
    sent_bytes: float


class LongestTasks(Callback):
    """The longest task of each kind of every graph that is computed meanwhile, in this thread.

    Tasks of one kind run side by side where there are workers enough, those of different kinds after each
    other, so that the sum is what a cluster waits for.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._began: dict[Any, float] = {}
        self._graph: dict[str, float] = {}
        self.local_fit = self.others = 0.0

    def _start(self, dsk: Any) -> None:
        self._graph = {}

    def _pretask(self, key: Any, dsk: Any, state: Any) -> None:
        self._began[key] = time.thread_time()

    def _posttask(self, key: Any, result: Any, dsk: Any, state: Any, worker_id: Any) -> None:
        kind, took = key_split(key), time.thread_time() - self._began.pop(key)
        self._graph[kind] = max(self._graph.get(kind, 0.0), took)

    def _finish(self, dsk: Any, state: Any, errored: bool) -> None:
        self.local_fit += self._graph.pop(LOCAL_FIT, 0.0)
        self.others += sum(self._graph.values())


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
        searched = 0.0
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
                    fitted = _distributed(draw, {**common, **local, "aggregation": name}, searched)
                    searched = fitted.local_seconds
            except daskmoe.DaskMoEError as error:
                logger.warning("%s: none, %s", name, error)
                continue
            yield name, fitted


def _global(draw: Draw, common: Mapping[str, Any]) -> Fitted:
    began = time.thread_time()
    model = daskmoe.fit_local(draw.training.drop_vars("part", errors="ignore"), "y", features="X", **common)
    seconds = time.thread_time() - began
    return Fitted(model, seconds, seconds, float(diagnostics_of(model)["data_bytes"].sum()))


def _distributed(draw: Draw, options: Mapping[str, Any], searched: float = 0.0) -> Fitted:
    """One of the estimators of one pass; ``searched`` is of local fits that a checkpoint gives back."""
    with LongestTasks() as longest:
        model = daskmoe.fit(
            draw.training, "y", features="X", partitions=draw.partitions, progress=False, **options
        )
    local = max(searched, longest.local_fit)
    return Fitted(model, local + longest.others, local, float(diagnostics_of(model)["sent_bytes"].sum()))


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
    seconds = start.seconds + rounds.others
    return Fitted(model, seconds, start.local_seconds, start.sent_bytes + sent)


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

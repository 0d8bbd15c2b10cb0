"""Thousands of local estimates: they are drawn, their aggregation is real."""

from __future__ import annotations

import logging
import time
import warnings
from pathlib import Path
from typing import Literal

import numpy as np
import xarray as xr
from scenarios import N_EXPERTS, N_FEATURES, seed_of
from sizes import Size
from store import append, read_group

import daskmoe

METHODS: tuple[Literal["reduction", "whole"], ...] = ("reduction", "whole")
# Rows that the errors are of, and those that an estimate that is drawn stands for.
KNOWN_ROWS, ROWS = 20_000, 5_000
SUPPORT = 2_000

logger = logging.getLogger(__name__)


def study(path: Path, size: Size, seed: int) -> None:
    """Aggregate the numbers of local estimates that the store does not have yet."""
    known = read_group(path, "drawn")
    done = set() if known is None else set(known["partitions"].values.tolist())
    for number in size.drawn:
        if number not in done:
            append(path, "drawn", aggregate_drawn(number, seed))
            logger.info("%d drawn local estimates are aggregated", number)


def aggregate_drawn(number: int, seed: int) -> xr.Dataset:
    """Divergence from the truth and seconds of each method."""
    data, truth = daskmoe.simulate(
        KNOWN_ROWS, n_features=N_FEATURES, n_experts=N_EXPERTS, random_state=seed_of(seed, 0)
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        fitted = daskmoe.refine(truth, data, rounds="converged", progress=False)
    rng = np.random.default_rng(seed_of(seed, 0, 3))
    models = [draw_estimate(fitted, truth, rng) for _ in range(number)]
    support = data.isel(row=slice(0, SUPPORT))
    found = np.empty((2, 1, len(METHODS)))
    for column, method in enumerate(METHODS):
        began = time.thread_time()
        model = daskmoe.aggregate(models, support, method=method, random_state=seed)
        found[1, 0, column] = time.thread_time() - began
        found[0, 0, column] = daskmoe.transportation_divergence(
            truth, model, support.isel(row=slice(0, 500)), kind="exact"
        )
    dims = ("cell", "method")
    divergence = {"long_name": "transportation divergence from the truth", "units": "nat"}
    return xr.Dataset(
        {
            "divergence": (dims, found[0], divergence),
            "seconds": (dims, found[1], {"long_name": "processor time of the aggregation", "units": "s"}),
        },
        coords={"method": np.array(METHODS, dtype="<U16"), "partitions": ("cell", np.array([number]))},
    )


def draw_estimate(
    fitted: daskmoe.MixtureOfExperts, truth: daskmoe.MixtureOfExperts, rng: np.random.Generator
) -> daskmoe.MixtureOfExperts:
    """The truth and normal errors of the size that `ROWS` rows have, parameter by parameter."""
    errors = np.sqrt(KNOWN_ROWS / ROWS) * fitted.standard_errors()
    params = truth.params.copy()
    for name in params.data_vars:
        values = truth.params[name]
        moved = values + errors[name].fillna(0.0) * rng.standard_normal(values.shape)
        # A variance stays one.
        params[name] = moved.clip(min=0.1) if name == "variance" else moved
        params[name].attrs = dict(values.attrs)
    return daskmoe.MixtureOfExperts(
        params, None, None, family="gaussian", rows=truth.rows, options={}, weight=float(ROWS)
    )

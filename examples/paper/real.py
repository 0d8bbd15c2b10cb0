"""The table on real data: heartbeats by activity (MMASH), and PM2.5 in Beijing beside the published rows.

MMASH (doi 10.13026/cerq-fc86) as two Parquet files, ``mmash/actigraph.parquet`` and ``mmash/rr.parquet``: the
columns of all people's ``Actigraph.csv`` and ``RR.csv``, with ``user`` and seconds since midnight. Beijing
(doi 10.24432/C5RK5G) as `beijing_air_quality` reads it, in ``beijing``.
"""

from __future__ import annotations

import importlib.util
import logging
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import dask
import numpy as np
import xarray as xr
from scenarios import N_EXPERTS, seed_of
from sizes import Size
from store import append, read_group

import daskmoe

ESTIMATORS = ("global", "reduction", "auto", "refined")
SCORES = {
    "log_likelihood": "held-out log-likelihood a row, nats",
    "rmse": "held-out root mean squared error, in the target's units",
    "mae": "held-out mean absolute error, in the target's units",
    "seconds": "processor time",
}
HELD_OUT_SHARE = 0.2
CHUNKS = 16

logger = logging.getLogger(__name__)


class RealSet(NamedTuple):
    """Rows of a set, with the coordinate ``part`` where partitions are natural."""

    training: xr.Dataset
    held_out: xr.Dataset
    partitions: int | str


def study(path: Path, folder: Path, size: Size, seed: int) -> None:
    """Fit every set that is in the folder and not in the store."""
    known = read_group(path, "real")
    done = set() if known is None else set(known["set"].values.tolist())
    for name, (subfolder, read) in READERS.items():
        if name in done:
            continue
        if not (folder / subfolder).is_dir():
            logger.warning("%s is skipped: %s is no folder", name, folder / subfolder)
            continue
        rows = read(folder / subfolder, size.thinning, seed)
        append(path, "real", judge_set(name, rows, seed, size.options))
        logger.info("%s is done", name)


def judge_set(name: str, rows: RealSet, seed: int, options: Mapping[str, Any]) -> xr.Dataset:
    """Held-out scores of every estimator on one set."""
    found = np.full((len(SCORES), 1, len(ESTIMATORS)), np.nan)
    target = rows.held_out["y"]
    with warnings.catch_warnings(), dask.config.set(scheduler="synchronous"):
        warnings.simplefilter("ignore", UserWarning)
        auto: daskmoe.MixtureOfExperts | None = None
        for column, estimator in enumerate(ESTIMATORS):
            began = time.thread_time()
            model = fit(estimator, rows, auto, {"random_state": seed, **options})
            auto = model if estimator == "auto" else auto
            error = model.predict(rows.held_out) - target
            likelihood = model.log_likelihood(rows.held_out) / target.size
            scores = (likelihood, np.sqrt((error**2).mean()), abs(error).mean(), time.thread_time() - began)
            found[:, 0, column] = [float(score) for score in scores]
            logger.info("%s, %s: %.4f nats a row", name, estimator, likelihood)
    data = {
        name: (("cell", "estimator"), values, {"long_name": text})
        for (name, text), values in zip(SCORES.items(), found, strict=True)
    }
    return xr.Dataset(
        data,
        coords={
            "estimator": np.array(ESTIMATORS, dtype="<U16"),
            "set": ("cell", np.array([name], dtype="<U24")),
            "rows": ("cell", np.array([rows.training["y"].size])),
        },
    )


def fit(
    estimator: str, rows: RealSet, auto: daskmoe.MixtureOfExperts | None, options: Mapping[str, Any]
) -> daskmoe.MixtureOfExperts:
    """One of the estimators; rounds start from ``auto``."""
    if estimator == "refined" and auto is not None:
        return daskmoe.refine(auto, rows.training, partitions=rows.partitions, progress=False)
    features = [str(name) for name in rows.training.data_vars if name != "y"]
    if estimator == "global":
        return daskmoe.fit_local(rows.training, "y", features=features, n_experts=N_EXPERTS, **options)
    found: daskmoe.MixtureOfExperts = daskmoe.fit(
        rows.training,
        "y",
        features=features,
        n_experts=N_EXPERTS,
        partitions=rows.partitions,
        aggregation="reduction" if estimator == "reduction" else "auto",
        progress=False,
        **options,
    )
    return found


def read_mmash(folder: Path, thinning: int, seed: int) -> tuple[xr.Dataset, xr.Dataset]:
    """Seconds between heartbeats by the activity of the same second; a random fifth is held out."""
    import pandas as pd

    activity = pd.read_parquet(folder / "actigraph.parquet")
    beats = pd.read_parquet(folder / "rr.parquet").astype({"day": activity["day"].dtype})
    rows = beats.merge(activity, on=["user", "day", "second"])
    rows = rows[rows["ibi_s"].between(0.3, 2.0, inclusive="neither")].iloc[::thinning]
    posture = [f"Inclinometer {name}" for name in ("Standing", "Sitting", "Lying")]
    features = rows[["Axis1", "Axis2", "Axis3", "Steps", *posture]]
    data = xr.Dataset(
        {
            "X": (("row", "feature"), features.to_numpy(np.float64)),
            "y": ("row", rows["ibi_s"].to_numpy(np.float64)),
        },
        coords={"feature": list(features.columns), "part": ("row", rows["user"].to_numpy(np.int64))},
    )
    held_out = np.random.default_rng(seed_of(seed, 4)).random(len(rows)) < HELD_OUT_SHARE
    return data.isel(row=~held_out), data.isel(row=held_out)


def mmash_chunks(folder: Path, thinning: int, seed: int) -> RealSet:
    """Sixteen partitions of rows in their order, a person after the other."""
    training, held_out = (rows.drop_vars("part") for rows in read_mmash(folder, thinning, seed))
    return RealSet(training, held_out, CHUNKS)


def mmash_people(folder: Path, thinning: int, seed: int) -> RealSet:
    """A partition a person."""
    training, held_out = read_mmash(folder, thinning, seed)
    return RealSet(training, held_out, "part")


def beijing(folder: Path, thinning: int, seed: int) -> RealSet:
    """A partition a station; all rows, as the published scores are of all."""
    example = beijing_example()
    data = example.build_dataset(example.read_table(folder)).rename({example.TARGET: "y"})
    late = data["time"] >= np.datetime64(example.HELD_OUT_FROM)
    return RealSet(data.sel(time=~late), data.sel(time=late), "station")


def beijing_example() -> ModuleType:
    """The example beside this folder, which has the features, the split and the published scores."""
    path = Path(__file__).resolve().parent.parent / "beijing_air_quality.py"
    spec = importlib.util.spec_from_file_location("beijing_air_quality", path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path}: expected the example of the stations")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


READERS: dict[str, tuple[str, Callable[[Path, int, int], RealSet]]] = {
    "MMASH, 16 chunks": ("mmash", mmash_chunks),
    "MMASH, 22 people": ("mmash", mmash_people),
    "Beijing, 12 stations": ("beijing", beijing),
}

"""Rows of the real sets that `benchmarks.real_sets` fits: a loader for each, and the split of its rows.

pandas and pyarrow are imported where they are needed: a set that cannot be read is left out of the study.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from numpy.typing import NDArray

HELD_OUT = 0.2
SPLIT_SEED = 0


class Table(NamedTuple):
    """Names and values (n, p) of the features, and the target (n,), rows in their order."""

    names: list[str]
    features: NDArray[np.float64]
    target: NDArray[np.float64]


def table_of(features: Any, target: Any) -> Table:
    """The complete rows of a data frame, text as one 0/1 column for each level but the first."""
    import pandas as pd

    coded = pd.get_dummies(features, drop_first=True, dtype=float)
    values, target = coded.to_numpy(np.float64), np.asarray(target, np.float64)
    complete = np.isfinite(values).all(axis=1) & np.isfinite(target)
    return Table([str(name) for name in coded.columns], values[complete], target[complete])


def metro(folder: Path) -> Table:
    """Hourly traffic; "None" is a holiday's level and not a missing value."""
    import pandas as pd

    rows = pd.read_csv(folder / "Metro_Interstate_Traffic_Volume.csv.gz", keep_default_na=False)
    when = pd.to_datetime(rows.pop("date_time")).dt
    rows = rows.assign(hour=when.hour, weekday=when.day_of_week, month=when.month)
    return table_of(rows, rows.pop("traffic_volume"))


def diamonds(folder: Path, *, log: bool = False) -> Table:
    """Prices, in an order by ranges of the price."""
    import pandas as pd

    rows = pd.read_parquet(folder / "ggplot2_diamonds.parquet").drop(columns="rownames")
    price = rows.pop("price")
    return table_of(rows, np.log(price) if log else price)


def beijing(folder: Path) -> Table:
    """PM2.5 of twelve stations, a station after the other; features and years of the example."""
    from benchmarks.beijing_hits import read_rows

    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder")
    features, target = read_rows(folder)
    complete = np.isfinite(features).all(axis=1) & np.isfinite(target)
    names = [f"x{column}" for column in range(features.shape[1])]
    return Table(names, features[complete], target[complete])


def climate(folder: Path) -> Table:
    """Hourly air temperature of land cells, in the order of time."""
    with xr.open_dataset(folder / "wfde5_british_isles_201701.nc") as data:
        names = ["Qair", "Wind", "SWdown", "LWdown"]
        rows = data[["Tair", *names]].to_dataframe(dim_order=["time", "lat", "lon"]).reset_index()
    return table_of(rows[[*names, "lat"]], rows["Tair"])


def mmash(folder: Path) -> Table:
    """Seconds between heartbeats by the activity of the same second, a person after the other."""
    import pandas as pd

    activity = pd.read_parquet(folder / "actigraph.parquet")
    beats = pd.read_parquet(folder / "rr.parquet").astype({"day": activity["day"].dtype})
    rows = beats.merge(activity, on=["user", "day", "second"])
    rows = rows[rows["ibi_s"].between(0.3, 2.0, inclusive="neither")]
    posture = [f"Inclinometer {name}" for name in ("Standing", "Sitting", "Lying")]
    return table_of(rows[["Axis1", "Axis2", "Axis3", "Steps", *posture]], rows["ibi_s"])


# The folder of each set, and what reads it.
LOADERS: dict[str, tuple[str, Callable[[Path], Table]]] = {
    "metro": ("metro", metro),
    "diamonds": ("diamonds", diamonds),
    "diamonds-log": ("diamonds", partial(diamonds, log=True)),
    "beijing": ("beijing", beijing),
    "climate": ("climate", climate),
    "mmash": ("mmash", mmash),
}


class Split(NamedTuple):
    """A set as it is fitted: training rows and held-out rows, both in their order."""

    name: str
    training: xr.Dataset
    held_out: xr.Dataset


def split(name: str, table: Table, n_rows: int | None = None) -> Split:
    """A random fifth held out; with ``n_rows``, of so many rows drawn from the whole set."""
    rng = np.random.default_rng(SPLIT_SEED)
    total = len(table.target)
    kept = rng.permutation(total)[: n_rows or total]
    cut = round(HELD_OUT * len(kept))

    def dataset(index: NDArray[np.intp]) -> xr.Dataset:
        index = np.sort(index)
        data = {"X": (("row", "feature"), table.features[index]), "y": ("row", table.target[index])}
        return xr.Dataset(data, coords={"feature": table.names})

    return Split(name, dataset(kept[cut:]), dataset(kept[:cut]))

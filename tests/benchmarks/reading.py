"""What it takes to read a partition of a store: wall by layout, and peaks of memory.

Twenty variables of one column each against one variable of twenty columns, chunks alike, in turn in one
process; and the peak of what is allocated over the bytes of the rows, of noise, which does not compress::

    PYTHONPATH=tests python -m benchmarks.reading [--rows 10000 30000 100000] [--repeats 15]
"""

from __future__ import annotations

import argparse
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import xarray as xr

from daskmoe.rows import Rows, describe_rows, extract_rows, open_store, plan_partitions, read_box

N_FEATURES = 20


def columns(values: np.ndarray) -> xr.Dataset:
    """Each feature a variable."""
    features = {f"x{i:02}": ("row", values[:, i]) for i in range(N_FEATURES)}
    return xr.Dataset(features | {"y": ("row", values[:, N_FEATURES])})


def packed(values: np.ndarray) -> xr.Dataset:
    """Each feature a variable of small integers with scale and offset."""
    ds = columns(values)
    for i in range(N_FEATURES):
        ds[f"x{i:02}"].encoding = {
            "dtype": "int16", "scale_factor": 2e-4, "add_offset": 0.5, "_FillValue": -32768
        }  # fmt: skip
    return ds


def matrix(values: np.ndarray) -> xr.Dataset:
    """All features one variable."""
    return xr.Dataset(
        {"X": (("row", "feature"), values[:, :N_FEATURES]), "y": ("row", values[:, N_FEATURES])}
    )


LAYOUTS: dict[str, Callable[[np.ndarray], xr.Dataset]] = {
    "matrix": matrix,
    "columns": columns,
    "packed": packed,
}


def reader(path: Path) -> Callable[[], Rows]:
    """What reads a partition in the middle of a store, as a task does."""
    ds = open_store(path)
    schema = describe_rows(ds, "y")
    part = plan_partitions(ds, schema, 3)[1]
    return lambda: extract_rows(read_box(str(path), schema, part), schema, part)


def peak_over_rows(read: Callable[[], Rows]) -> float:
    """The most that is allocated while rows are read, over their bytes."""
    tracemalloc.start()
    rows = read()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert rows.response is not None
    return peak / (rows.features.nbytes + rows.response.nbytes)


def measure(folder: Path, n_rows: int, chunk: int, repeats: int) -> None:
    """Print walls of all layouts, their ratios to one variable's, and peaks."""
    values = np.random.default_rng(0).normal(size=(3 * n_rows, N_FEATURES + 1))
    readers = {}
    for name, layout in LAYOUTS.items():
        path = folder / f"{name}-{n_rows}-{chunk}.zarr"
        layout(values).chunk(row=chunk).to_zarr(path, zarr_format=2)
        readers[name] = reader(path)
        readers[name]()
    walls: dict[str, list[float]] = {name: [] for name in readers}
    for _ in range(repeats):
        for name, read in readers.items():
            start = time.perf_counter()
            read()
            walls[name].append(time.perf_counter() - start)
    one = np.array(walls["matrix"])
    for name, read in readers.items():
        wall = np.array(walls[name])
        ratios = wall / one
        print(  # noqa: T201
            f"{n_rows:7} rows, {n_rows // chunk} chunks, {name:7} {1e3 * np.median(wall):6.1f} ms "
            f"(least {1e3 * wall.min():5.1f}), ratio {np.median(ratios):4.1f} (worst {ratios.max():4.1f}, "
            f"of the least {wall.min() / one.min():4.1f}), peak {peak_over_rows(read):.2f}"
        )


def main(arguments: list[str] | None = None) -> None:
    """Read stores of several sizes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 30_000, 100_000])
    parser.add_argument("--repeats", type=int, default=15)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        for n_rows in options.rows:
            for chunks in (1, 4):
                measure(Path(folder), n_rows, n_rows // chunks, options.repeats)


if __name__ == "__main__":
    main()

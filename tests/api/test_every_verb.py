"""Every layout of data, however it is held, by every verb: the bits that the same rows give in memory.

Kinds of columns, as text or nullable numbers, are in `tests/rows/test_tables.py`.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from distributed import LocalCluster

import daskmoe
from daskmoe import MixtureOfExperts
from daskmoe.cli.commands import run
from daskmoe.cli.exit_codes import DONE

N = 160
CHUNKS = {"row": 80, "time": 4}
FIT: dict[str, Any] = {"n_experts": 2, "partitions": 2, "random_state": 0}


def matrix() -> xr.Dataset:
    rng = np.random.default_rng(1)
    X = rng.normal(size=(N, 2)).astype("f4")
    noise = 0.1 * rng.normal(size=N)
    y = np.where(X[:, 0] > 0, 3 * X[:, 0], X[:, 1]) + noise
    return xr.Dataset({"X": (("row", "feature"), X), "y": ("row", y)}, {"feature": ["a", "b"]})


def columns() -> xr.Dataset:
    """Of several dtypes, packed on disk one of them."""
    rng = np.random.default_rng(2)
    x, day = rng.normal(size=N).round(1), rng.integers(0, 7, N).astype("u1")
    rain, text = rng.random(N) < 0.4, rng.choice(["N", "S"], N)
    y = (np.where(x > 0, 3, -1) * x + rain + (text == "S") + 0.1 * rng.normal(size=N)).astype(">f4")
    variables = {"x": x, "day": day, "rain": rain, "text": text, "y": y}
    ds = xr.Dataset({name: ("row", values) for name, values in variables.items()})
    ds["x"].encoding = {"dtype": "i2", "scale_factor": 0.1, "_FillValue": -999}
    # As it is unpacked: tenths are no sums of powers of two.
    ds["x"].values = np.rint(x * 10).astype("i2") * 0.1
    return ds


def grid() -> xr.Dataset:
    """Covariates that broadcast, one in another order of dimensions."""
    rng = np.random.default_rng(3)
    wind, height = rng.normal(size=(4, 5, 8)), rng.normal(size=(4, 5))
    y = np.where(wind > 0, 3, -1) * wind + height[..., None] + 0.1 * rng.normal(size=wind.shape)
    return xr.Dataset(
        {
            "wind": (("lat", "lon", "time"), wind),
            "height": (("lat", "lon"), height),
            "y": (("time", "lat", "lon"), y.transpose(2, 0, 1)),
        }
    )


def write(data: xr.Dataset, folder: Path, **options: Any) -> str:
    data.chunk({dim: size for dim, size in CHUNKS.items() if dim in data.dims}).to_zarr(
        folder / "rows.zarr", consolidated=False, **options
    )
    return str(folder / "rows.zarr")


def zipped(data: xr.Dataset, folder: Path) -> str:
    return shutil.make_archive(str(folder / "rows"), "zip", write(data, folder, zarr_format=3))


def sharded(data: xr.Dataset, folder: Path) -> str:
    encoding = {
        name: {"shards": found.shape, "chunks": tuple(-(-size // 2) for size in found.shape)}
        for name, found in data.data_vars.items()
    }
    even = {name: each for name, each in encoding.items() if all(s % 2 == 0 for s in each["shards"])}
    data.to_zarr(folder / "rows.zarr", zarr_format=3, consolidated=False, encoding=even)
    return str(folder / "rows.zarr")


LAYOUTS = {"matrix": matrix, "columns": columns, "grid": grid}
HELD: dict[str, Callable[[xr.Dataset, Path], Any]] = {
    "Dask arrays": lambda ds, folder: ds.chunk({ds["y"].dims[0]: 3}),
    "format 2": lambda ds, folder: write(ds, folder, zarr_format=2),
    "format 3": lambda ds, folder: write(ds, folder, zarr_format=3),
    "shards": sharded,
    "zip": zipped,
}
VERBS: dict[str, Callable[[MixtureOfExperts, Any], Any]] = {
    "fit": lambda model, data: daskmoe.fit(data, "y", **FIT).params["coef"].values,
    "refine": lambda model, data: daskmoe.refine(model, data, rounds=1, partitions=2).params["coef"].values,
    "update": lambda model, data: daskmoe.update(model, data, partitions=2).params["coef"].values,
    "predict": lambda model, data: model.predict(data).values,
    "interval": lambda model, data: model.predict_interval(data)["upper"].values,
    "score": lambda model, data: model.score(data),
    # Each block draws by itself.
    "sample": lambda model, data: np.isfinite(model.sample(data, random_state=0).values),
    "select": lambda model, data: (
        daskmoe.select_n_experts(data, "y", n_experts=[2], partitions=2, random_state=0)
        .models[2]
        .params["coef"]
        .values
    ),
}


# Each layout and each way to hold it in every run of the tests; all pairs where there is time.
QUICK = {("matrix", "Dask arrays"), ("matrix", "shards"), ("columns", "format 2"), ("columns", "zip")}
QUICK |= {("grid", "format 3")}
PAIRS = [
    pytest.param(*pair, marks=() if pair in QUICK else pytest.mark.slow) for pair in product(LAYOUTS, HELD)
]
# Text has no dtype of format 3 yet.
pytestmark = pytest.mark.filterwarnings("ignore:The data type", "ignore:The refinement ended short")


@cache
def in_memory(layout: str) -> tuple[xr.Dataset, MixtureOfExperts, dict[str, Any]]:
    """The data, their model, and what every verb gives."""
    data = LAYOUTS[layout]()
    model = daskmoe.fit(data, "y", **FIT)
    return data, model, {name: verb(model, data) for name, verb in VERBS.items()}


@pytest.mark.parametrize(("layout", "held"), PAIRS)
def test_every_verb_reads_every_layout(layout: str, held: str, tmp_path: Path) -> None:
    data, model, expected = in_memory(layout)
    source = HELD[held](data, tmp_path)
    for name, verb in VERBS.items():
        np.testing.assert_array_equal(verb(model, source), expected[name], err_msg=name)


# Of one layout, `tests/cli/test_commands.py` has each command.
@pytest.mark.slow
@pytest.mark.cluster
@pytest.mark.parametrize("layout", LAYOUTS)
def test_so_does_the_command_line(layout: str, cluster: LocalCluster, tmp_path: Path) -> None:
    data, _, expected = in_memory(layout)
    rows = write(data, tmp_path, zarr_format=3)
    where = ["--scheduler", cluster.scheduler_address, "--output"]
    old, new, best, predicted = (str(tmp_path / name) for name in ("old.nc", "new.nc", "best.nc", "p.zarr"))
    common = ["--target", "y", "--partitions", "2", "--seed", "0"]
    assert run(["fit", rows, "--n-experts", "2", *common, *where, old]) == DONE
    assert run(["update", old, rows, "--partitions", "2", *where, new]) == DONE
    assert run(["select", rows, "--n-experts", "2", *common, *where, best]) == DONE
    assert run(["predict", old, rows, *where, predicted]) == DONE
    for name, path in (("fit", old), ("update", new), ("select", best)):
        found = daskmoe.open_model(path).params["coef"].values
        np.testing.assert_allclose(found, expected[name], rtol=1e-9, err_msg=name)
    with xr.open_zarr(predicted, consolidated=False) as found:
        np.testing.assert_allclose(found["y"], expected["predict"], rtol=1e-9)

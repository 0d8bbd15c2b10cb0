"""What a caller is told of a store that is not whole, or that is written while it is read."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

import daskmoe
from daskmoe.cli.commands import run
from daskmoe.engine import tasks
from daskmoe.errors import DataWarning, InvalidDataError

FAST: dict[str, Any] = {"n_experts": 2, "random_state": 0, "n_init": 1, "effort": 0.1}


@pytest.fixture
def data() -> xr.Dataset:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 2))
    y = np.where(x[:, 0] > 0, 3 * x[:, 1], -x[:, 1]) + 0.1 * rng.normal(size=400)
    return xr.Dataset({"a": ("row", x[:, 0]), "b": ("row", x[:, 1]), "y": ("row", y)}).chunk(row=100)


@pytest.fixture
def gappy(data: xr.Dataset, tmp_path: Path) -> str:
    """A store that reads its third chunk of each variable as zeros."""
    path = tmp_path / "gappy.zarr"
    data.to_zarr(path, zarr_format=3, consolidated=False, encoding={n: {"fill_value": 0.0} for n in data})
    for name in ("a", "b", "y"):
        (path / name / "c" / "2").unlink()
    return str(path)


def test_missing_chunks_are_said(gappy: str, data: xr.Dataset) -> None:
    with pytest.warns(DataWarning, match="never written") as caught:
        model = daskmoe.fit_local(gappy, "y", **FAST)
    assert caught[0].filename == __file__
    said = str(caught[0].message)
    for part in ("1 of 4 of 'a' (read as 0)", "1 of 4 of 'y' (read as 0)", "partition '0'"):
        assert part in said
    assert "missing_chunks='fill'" in said
    filled = data.compute().copy(deep=True)
    for name in filled:
        filled[name][200:300] = 0.0
    xr.testing.assert_identical(model.params, daskmoe.fit_local(filled, "y", **FAST).params)


@pytest.mark.filterwarnings("ignore::daskmoe.ConvergenceWarning")
def test_every_verb_has_the_option(gappy: str, data: xr.Dataset) -> None:
    start = daskmoe.fit_local(data, "y", **FAST)
    verbs = (
        lambda **how: daskmoe.fit(gappy, "y", compute=False, **FAST, **how),
        lambda **how: daskmoe.fit_local(gappy, "y", **FAST, **how),
        lambda **how: daskmoe.refine(start, gappy, rounds=1, **how),
    )
    for verb in verbs:
        with pytest.raises(InvalidDataError, match="1 of 4 of 'b'"):
            verb(missing_chunks="raise")
        with pytest.warns(DataWarning, match="1 of 4 of 'b'"):
            verb()
        with warnings.catch_warnings():
            warnings.simplefilter("error", DataWarning)
            verb(missing_chunks="fill")
    with pytest.raises(InvalidDataError, match="in partition '2'"):
        daskmoe.fit(gappy, "y", missing_chunks="raise", **FAST)


def test_the_command_line_has_it(gappy: str, tmp_path: Path) -> None:
    arguments = ["fit", gappy, "--target", "y", "--n-experts", "2", "--output", str(tmp_path / "m.zarr")]
    assert run([*arguments, "--missing-chunks", "raise"]) == 2


@pytest.mark.parametrize("way", ["fit", "fit_local", "refine"])
def test_a_store_that_is_written_meanwhile_is_noticed(
    data: xr.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    path = str(tmp_path / "rows.zarr")
    data.to_zarr(path, zarr_format=2)
    start = daskmoe.fit_local(path, "y", **FAST)
    read = tasks.load_rows

    def write_between(plan: Any, partition: Any, *others: Any) -> Any:
        if partition.index == len(files) - 1:
            os.utime(files[-1], ns=(1, 1))
        return read(plan, partition, *others)

    files = [os.path.join(path, "y", "0")]
    monkeypatch.setattr(tasks, "load_rows", write_between)
    verbs = {
        "fit": lambda: daskmoe.fit(path, "y", aggregation="reduction", **FAST),
        "fit_local": lambda: daskmoe.fit_local(path, "y", **FAST),
        "refine": lambda: daskmoe.refine(start, path, rounds="converged"),
    }
    with pytest.warns(DataWarning, match="changed while it was read") as caught:
        verbs[way]()
    assert caught[0].filename == __file__

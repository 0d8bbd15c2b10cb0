"""A store that says it is a model cannot run code, nor make its reader allocate more than it holds."""

from __future__ import annotations

import json
import os
import pickle
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import zarr

import daskmoe
from daskmoe import SchemaError


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    _, truth = daskmoe.simulate(50, n_features=2, n_experts=2, random_state=0)
    truth.to_zarr(tmp_path / "model.zarr")
    return tmp_path / "model.zarr"


class Runs:
    """Makes a folder when it is unpickled."""

    def __init__(self, mark: str) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (self.mark,)


def test_no_pickle_runs(saved: Path, tmp_path: Path) -> None:
    """As an array of objects in format 2, whose only filter is a pickle, beside a model's attributes."""
    attrs = json.loads((saved / "zarr.json").read_text())["attributes"]
    store = tmp_path / "foreign.zarr"
    (store / "coef").mkdir(parents=True)
    (store / ".zgroup").write_text('{"zarr_format": 2}')
    (store / ".zattrs").write_text(json.dumps(attrs))
    metadata = {
        "zarr_format": 2,
        "shape": [1],
        "chunks": [1],
        "dtype": "|O",
        "compressor": None,
        "fill_value": None,
        "order": "C",
        "filters": [{"id": "pickle", "protocol": 5}],
    }
    (store / "coef" / ".zarray").write_text(json.dumps(metadata))
    (store / "coef" / ".zattrs").write_text('{"_ARRAY_DIMENSIONS": ["expert"]}')
    mark = tmp_path / "ran"
    (store / "coef" / "0").write_bytes(pickle.dumps(np.array([Runs(str(mark))], dtype=object)))
    with pytest.raises((SchemaError, daskmoe.StoreError)):
        daskmoe.open_model(store)
    assert not mark.exists()


def test_a_store_that_is_no_model_is_not_read(tmp_path: Path) -> None:
    xr.Dataset({"x": ("row", np.ones(3))}).to_zarr(tmp_path / "data.zarr", zarr_format=2)
    with pytest.raises(SchemaError, match="not a daskmoe model"):
        daskmoe.open_model(tmp_path / "data.zarr")


def test_a_shape_is_no_reason_to_allocate(saved: Path) -> None:
    group = zarr.open_group(saved, mode="a")
    group.create_array("big", shape=(500_000_000,), chunks=(500_000_000,), dtype="f8")
    tracemalloc.start()
    with pytest.raises(SchemaError, match=r"declare 4\.0 GB, far more than the store holds"):
        daskmoe.open_model(saved)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 50e6


def test_models_of_many_partitions_open(tmp_path: Path) -> None:
    """Diagnostics of thousands of equal partitions compress well, and are a model's all the same."""
    _, truth = daskmoe.simulate(50, n_features=2, n_experts=2, random_state=0)
    model = daskmoe.MixtureOfExperts(
        truth.params,
        xr.Dataset({"rows": ("partition", np.full(200_000, 5))}),
        None,
        family="gaussian",
        rows=truth.rows,
        options={},
    )
    model.to_zarr(tmp_path / "many.zarr")
    opened = daskmoe.open_model(tmp_path / "many.zarr")
    assert opened.diagnostics is not None
    assert opened.diagnostics.sizes["partition"] == 200_000

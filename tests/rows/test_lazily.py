from __future__ import annotations

import os
import subprocess
import sys

import dask.array as da
import numpy as np
import pytest
import xarray as xr

from daskmoe.rows.lazily import apply_in_blocks

# What the verbs say of lazy data is what they say of the same data in memory.
_EVERY_VERB = """
import daskmoe, numpy as np, xarray as xr
known = {"n_features": 2, "n_experts": 2, "random_state": 0}
(lazy, _), (data, _) = daskmoe.simulate(900, chunks=400, **known), daskmoe.simulate(900, **known)
xr.testing.assert_identical(lazy.compute(), data)
model = daskmoe.fit(lazy, "y", n_experts=2, random_state=0, progress=False)
for verb in ("predict", "predict_interval", "log_density", "gating_probabilities", "assign_experts"):
    call = getattr(model, verb)
    xr.testing.assert_allclose(call(lazy).compute(), call(data), rtol=1e-12)
# Draws depend on chunks.
assert model.sample(lazy, random_state=0).compute().notnull().all()

# What xarray cannot sum yet is said.
try:
    np.testing.assert_allclose(model.score(lazy), model.score(data), rtol=1e-12)
except daskmoe.InvalidOptionError as error:
    assert "unset DASK_ARRAY__QUERY_PLANNING" in str(error)

middle = float(data.y.mean())
lazy, data = (each.assign(y=each.y > middle) for each in (lazy, data))
model = daskmoe.fit(data, "y", n_experts=2, family="categorical", random_state=0, progress=False)
for verb in ("predict", "predict_proba"):
    xr.testing.assert_allclose(getattr(model, verb)(lazy).compute(), getattr(model, verb)(data).astype(float))
"""


def test_arrays_that_dask_plans_as_expressions_are_answered() -> None:
    # Dask reads it when it is imported.
    planned = os.environ | {"DASK_ARRAY__QUERY_PLANNING": "True", "DASK_SCHEDULER": "synchronous"}
    subprocess.run([sys.executable, "-c", _EVERY_VERB], env=planned, check=True)


@pytest.mark.parametrize("chunks", [None, 4])
def test_dimensions_are_aligned_from_the_right(chunks: int | None) -> None:
    table = xr.Variable(("row", "my feature"), np.arange(20.0).reshape(10, 2))
    level = xr.Variable(("group", "row"), np.arange(30.0).reshape(3, 10))
    if chunks:
        table, level = table.chunk(row=chunks), level.chunk(row=chunks)

    def both(level: np.ndarray, table: np.ndarray, power: int) -> np.ndarray:
        return np.stack([table.sum(axis=-1) + level, level], axis=-1) ** power

    found = apply_in_blocks(
        both, level, table, dtype=np.float64, core_dims=[(), ("my feature",)], leading=("what", 2), power=2
    )
    assert found.dims == ("group", "row", "what")
    assert isinstance(found.data, da.Array) == bool(chunks)
    np.testing.assert_array_equal(found.values, both(level.values, table.values, 2))

"""An error of a verb ends at the line that called it; the rest is in the log."""

from __future__ import annotations

import logging
import traceback

import numpy as np
import pytest
import xarray as xr

import daskmoe


@pytest.fixture
def data() -> xr.Dataset:
    values = np.random.default_rng(0).normal(size=(400, 2))
    rows = xr.Dataset({"x": ("row", values[:, 0]), "y": ("row", values[:, 1])})
    rows["y"][250] = np.nan
    return rows.chunk(row=100)


@pytest.mark.parametrize("options", [{"n_experts": 0}, {"n_experts": 2, "aggregation": "reduction"}])
def test_of_an_option_and_of_a_task(
    data: xr.Dataset, options: dict[str, int], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG, "daskmoe"), pytest.raises(daskmoe.DaskMoEError) as caught:
        daskmoe.fit(data, "y", random_state=0, **options)
    # The line above and the door.
    assert len(traceback.extract_tb(caught.value.__traceback__)) == 2
    assert caught.value.__suppress_context__
    whole = [str(record.exc_info) + record.exc_text for record in caplog.records if record.exc_text]
    assert any("daskmoe/options.py" in text or "daskmoe/engine/tasks.py" in text for text in whole)


def test_the_door_keeps_signature_and_docstring() -> None:
    assert daskmoe.fit.__name__ == "fit"
    assert "n_experts" in str(daskmoe.fit.__doc__)

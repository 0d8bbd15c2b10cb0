"""How partitions end: typed in the engine, in the diagnostics, on the log, and in models of before."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

import daskmoe
from daskmoe import MixtureOfExperts
from daskmoe.api.reporting import left_out
from daskmoe.engine import build_fit, fit_directly, plan_request
from daskmoe.engine.outcomes import Ending, Outcome
from daskmoe.model.history import outcomes_of
from daskmoe.numerics.base.parameters import LocalEstimate
from daskmoe.numerics.base.policies import LocalFit
from daskmoe.numerics.combine import expansion
from daskmoe.options import FitOptions

FAST: dict[str, Any] = {"n_experts": 2, "n_init": 3, "random_state": 0}


@pytest.fixture
def data() -> xr.Dataset:
    found, _ = daskmoe.simulate(
        2_000, n_features=3, n_experts=2, chunks=500, design="overlap", random_state=0
    )
    return found.load(scheduler="synchronous")


@pytest.fixture
def gap(data: xr.Dataset) -> xr.Dataset:
    """No response in the second of four partitions."""
    data["y"][500:1_000] = np.nan
    return data


@pytest.mark.parametrize(
    ("ending", "status"),
    [
        (Ending(Outcome.FITTED), "ok"),
        (Ending(Outcome.FITTED, kept=True), "ok"),
        (Ending(Outcome.NOT_CONVERGED, "4 passes"), "not converged"),
        (Ending(Outcome.OUT_OF_PASSES, "8 passes"), "ok"),
        (Ending(Outcome.LEFT_OUT, "no rows"), "left out: no rows"),
    ],
)
def test_the_text_is_made_of_the_outcome(ending: Ending, status: str) -> None:
    assert ending.status == status


def test_the_numerics_know_no_outcomes() -> None:
    assert "status" not in LocalEstimate._fields


def test_the_diagnostics_tell_the_outcome_and_why(gap: xr.Dataset) -> None:
    model = daskmoe.fit(gap, "y", partitions=4, on_error="skip", aggregation="reduction", **FAST)
    assert model.diagnostics is not None
    assert model.diagnostics["outcome"].values.tolist() == ["fitted", "left out", "fitted", "fitted"]
    assert outcomes_of(model.diagnostics)[1] is Outcome.LEFT_OUT
    (label,) = left_out(model)
    assert label == "1"
    assert left_out(model)[label] == model.diagnostics["status"].values[1]


def test_a_reason_that_reads_like_another_outcome_is_none(gap: xr.Dataset) -> None:
    """The text is for readers: whatever it says, nothing follows from it."""
    model = daskmoe.fit(gap, "y", partitions=4, on_error="skip", aggregation="reduction", **FAST)
    assert model.diagnostics is not None
    text = np.array(["left out: not at all", "ok", "not converged", "ok"])
    changed = MixtureOfExperts(
        model.params,
        model.diagnostics.assign(status=("partition", text)),
        None,
        family="gaussian",
        rows=model.rows,
        options={},
    )
    assert list(left_out(changed)) == ["1"]
    assert "partitions  4, 1 not ok (first: partition 1, ok)" in changed.summary()


def test_a_local_fit_that_ran_out_did_not_converge(data: xr.Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    limited = property(lambda self: LocalFit(n_experts=2, start_rows=200, max_passes=1))
    monkeypatch.setattr(FitOptions, "local", limited)
    result = fit_directly(plan_request(data, "y", FitOptions(partitions=1, aggregation="reduction", **FAST)))
    assert [ending.outcome for ending in result.endings] == [Outcome.NOT_CONVERGED]
    assert result.endings[0].reason == f"{result.partitions[0].estimate.passes} passes"


def test_an_expansion_that_ran_out_says_so_and_warns_nobody(
    data: xr.Dataset, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(expansion, "EXPANSION", replace(expansion.EXPANSION, passes=1))
    with caplog.at_level(logging.INFO, "daskmoe"):
        model = daskmoe.fit(data, "y", partitions=4, **FAST)
    found = model.diagnostics
    assert found is not None
    assert found["outcome"].values.tolist() == ["out of passes"] * 4
    assert found["converged"].values.tolist() == [0] * 4
    # Its sum with the others is what counts, and that has a maximum of its own.
    assert found["status"].values.tolist() == ["ok"] * 4
    assert "partitions  4, all ok" in model.summary()
    said = [record for record in caplog.records if "expanded after 1 passes" in record.getMessage()]
    assert [record.levelno for record in said] == [logging.INFO] * 4
    assert not [record for record in caplog.records if record.levelno > logging.INFO]


def test_what_comes_from_a_checkpoint_says_so(
    data: xr.Dataset, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    options = FitOptions(partitions=4, aggregation="reduction", checkpoint=tmp_path, **FAST)
    request = plan_request(data, "y", options)
    job = build_fit(request)
    fresh, again = (job.compute(scheduler="synchronous").endings for _ in range(2))
    assert not any(ending.kept for ending in fresh)
    assert again == [ending._replace(kept=True) for ending in fresh]
    with caplog.at_level(logging.INFO, "daskmoe.api.reporting"):
        daskmoe.fit(data, "y", partitions=4, aggregation="reduction", checkpoint=tmp_path, **FAST)
    assert caplog.messages[-1] == "4 of 4 partitions were taken from their checkpoints"

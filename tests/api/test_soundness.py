"""What a fit warns of: experts on repeated values, worse than one line, rivals, predictions far off."""

from __future__ import annotations

import functools
import logging
import re
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import xarray as xr

import daskmoe
from daskmoe.api.soundness import report_rivals
from daskmoe.engine import planning
from daskmoe.errors import FitWarning
from daskmoe.model import MixtureOfExperts
from daskmoe.numerics.combine import choice

FEW: dict[str, Any] = {"n_init": 2, "start_rows": 30, "random_state": 0}


def rows_of(features: np.ndarray, y: np.ndarray, chunks: int = 4) -> xr.Dataset:
    """A dataset in as many partitions."""
    names = [f"x{i}" for i in range(features.shape[1])]
    data = xr.Dataset({"y": ("row", y)} | {n: ("row", features[:, i]) for i, n in enumerate(names)})
    return data.chunk(row=len(y) // chunks)


def with_zeros(n: int = 2_000) -> xr.Dataset:
    """A continuous target that is exactly zero in a quarter of the rows."""
    rng = np.random.default_rng(0)
    features = rng.standard_normal((n, 2))
    y = 3.0 + features @ [1.0, -0.5] + 0.5 * rng.standard_normal(n)
    return rows_of(features, np.where(rng.random(n) < 0.25, 0.0, y))


def warned(fit: Callable[[], MixtureOfExperts]) -> tuple[MixtureOfExperts, list[str]]:
    """The model of a fit, and what it warns of at the line of the call."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = fit()
    told = [w for w in caught if w.category is FitWarning]
    assert {w.filename for w in told} <= {__file__}
    return model, [str(w.message) for w in told]


# An expert at the variance floor.


@pytest.mark.parametrize("refine", [0, 2])
def test_an_expert_on_a_repeated_value_is_named(refine: int) -> None:
    model, told = warned(lambda: daskmoe.fit(with_zeros(), "y", n_experts=2, refine=refine, random_state=0))
    (line,) = told
    assert re.match(
        r"expert \d \(2\d\.\d% of the rows\) sits on the value 0 \(.*point mass.*min_scale=", line
    )
    assert model.diagnostics is not None
    share = model.diagnostics["expert_weight"].values[np.argmin(model.params["variance"].values)] / 2_000
    assert share == pytest.approx(0.25, abs=0.03)
    assert int(model.table()["at_floor"].sum()) == 1
    named = model.rename_experts(["a spike", "the rest"] if line.startswith("expert 0") else ["x", "a spike"])
    assert "floor       a spike at the variance floor" in named.summary()


def test_the_value_is_that_of_the_rows() -> None:
    data = with_zeros()
    data["y"] = data["y"] + 7.5
    _, (told,) = warned(lambda: daskmoe.fit_local(data, "y", n_experts=2, random_state=0))
    assert "sits on the value 7.5 (" in told


def test_an_expert_without_noise_sits_on_a_line() -> None:
    rng = np.random.default_rng(1)
    x = rng.standard_normal((1_000, 1))
    y = np.where(rng.random(1_000) < 0.3, 1.0 + 2.0 * x[:, 0], -1.0 + 0.5 * rng.standard_normal(1_000))
    _, (told,) = warned(lambda: daskmoe.fit_local(rows_of(x, y), "y", n_experts=2, random_state=0))
    assert "sits on a line" in told


def test_a_floor_of_the_caller_s_own_is_told_of_too() -> None:
    _, (told,) = warned(
        lambda: daskmoe.fit_local(with_zeros(), "y", n_experts=2, min_scale=0.1, random_state=0)
    )
    assert "larger min_scale=" in told


def test_experts_held_wide_are_not_held_to_a_line() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((1_000, 1))
    y = np.where(x[:, 0] > 0, 1.1, 0.9) * x[:, 0] + 0.05 * rng.standard_normal(1_000)
    _, told = warned(lambda: daskmoe.fit_local(rows_of(x, y), "y", n_experts=2, min_scale=3, random_state=0))
    assert len(told) == 1
    assert "least squares" not in told[0]


def test_of_noise_in_all_rows_nothing_is_said() -> None:
    data, _ = daskmoe.simulate(2_000, n_features=3, n_experts=2, chunks=500, random_state=0)
    _, told = warned(lambda: daskmoe.fit(data, "y", n_experts=2, **FEW))
    assert told == []


def test_held_out_figures_of_a_spike_say_once_that_they_are_none(
    caplog: pytest.LogCaptureFixture,
) -> None:
    data = with_zeros()
    model, _ = warned(lambda: daskmoe.fit_local(data, "y", n_experts=2, random_state=0))
    caplog.clear()
    for figure in (model.log_likelihood, model.bic, model.aic, model.icl):
        figure(data)
    told = [record.getMessage() for record in caplog.records if record.name.startswith("daskmoe.model")]
    assert len(told) == 1
    assert "is at the variance floor: a density on repeated values is not one" in told[0]


# Never worse than what is known.


def in_order(n: int = 240) -> xr.Dataset:
    """Chunks in the order of a feature: no partition knows the line of the others."""
    rng = np.random.default_rng(2)
    x = np.sort(rng.uniform(-2.0, 2.0, n))
    other = rng.standard_normal(n)
    y = x + 0.3 * other + 0.3 * rng.standard_normal(n)
    return rows_of(np.stack([x, other], axis=1), y, chunks=4)


def test_an_estimator_below_one_line_is_told() -> None:
    data = in_order()
    model, told = warned(lambda: daskmoe.fit(data, "y", n_experts=2, aggregation="reduction", **FEW))
    (line,) = [line for line in told if "least squares" in line]
    assert model.diagnostics is not None
    scores = model.diagnostics["candidate_objective"].to_series()
    below = scores["least squares"] - scores["reduction"]
    assert line.startswith(f"The estimate 'reduction' is {below:.3g} nats a row below least squares")
    assert "aggregation='auto'" in line
    assert "refine=" in line
    _, told = warned(lambda: daskmoe.fit(data, "y", n_experts=2, **FEW))
    assert [line for line in told if "least squares" in line] == []


def test_a_refinement_below_one_line_is_told() -> None:
    data = in_order()
    start, _ = warned(lambda: daskmoe.fit(data, "y", n_experts=2, aggregation="reduction", **FEW))
    model, told = warned(lambda: daskmoe.refine(start, data, rounds=1))
    single = daskmoe.fit_local(data, "y", n_experts=1)
    below = (single.log_likelihood() - model.log_likelihood()) / 240
    (line,) = [line for line in told if "least squares" in line]
    assert line.startswith(f"The refined model is {below:.3g} nats a row below least squares")
    assert line.endswith("Go on with daskmoe.refine.")
    _, told = warned(lambda: daskmoe.refine(start, data, rounds="converged"))
    assert [line for line in told if "least squares" in line] == []


@pytest.mark.parametrize(
    ("kept", "what"),
    [
        ("least squares", "least squares, one regression line"),
        ("pilot", "the shared start, fitted to a sample"),
    ],
)
def test_a_model_that_gave_up_its_estimate_is_told(
    kept: str, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planning, "_PILOT_ROWS", 600)
    monkeypatch.setattr(choice, "best_of", lambda found, _: next(c for c in found if c.name == kept))
    data, _ = daskmoe.simulate(2_000, n_features=3, n_experts=2, chunks=500, random_state=0)
    _, (told,) = warned(lambda: daskmoe.fit(data, "y", n_experts=2, **FEW))
    assert told.startswith(f"The model is {what}")


# Rivals.


def test_rivals_that_end_close_are_told(caplog: pytest.LogCaptureFixture) -> None:
    scores = {"one-shot": -1.0, "pilot": -1.1, "one-shot 2": -1.0002, "pilot 2": -1.2, "one-shot 3": -1.5}
    found = xr.Dataset(
        {"candidate_objective": ("candidate", list(scores.values()))}, {"candidate": list(scores)}
    )
    with caplog.at_level(logging.INFO, "daskmoe"):
        report_rivals(found)
    (told,) = [record.getMessage() for record in caplog.records]
    assert told.startswith("1 of 2 other shared starts end within 1e-03 nats a row of the best, the nearest")
    assert "2.0e-04 below" in told


# Predictions far off.


@pytest.mark.parametrize("chunks", [1, 4])
@pytest.mark.parametrize("refine", [0, 1])
def test_where_predictions_go_is_known(chunks: int, refine: int) -> None:
    data = with_zeros()
    options = {"n_experts": 2, "partitions": chunks, "refine": refine, "random_state": 0}
    model, _ = warned(functools.partial(daskmoe.fit, data, "y", **options))
    found = model.diagnostics
    assert found is not None
    predicted = model.predict(data).values
    np.testing.assert_allclose(found["prediction_range"], [predicted.min(), predicted.max()], rtol=1e-9)
    np.testing.assert_allclose(found["target_range"], [data["y"].min(), data["y"].max()], rtol=1e-6)
    size = 2_000 // chunks
    for side, row in enumerate((int(predicted.argmin()), int(predicted.argmax()))):
        assert int(found["prediction_row"][side]) == row % size
        assert str(found["prediction_partition"].values[side]) == f"partition '{row // size}'"


def with_far_row() -> tuple[xr.Dataset, int]:
    """A target that follows a feature only where this is small; and the row where it is not."""
    rng = np.random.default_rng(4)
    x = rng.uniform(-1.0, 1.0, (800, 2))
    y = x[:, 0] * np.sign(x[:, 1]) + 0.1 * rng.standard_normal(800)
    x[517], y[517] = [9.0, 9.0], 1.0
    return rows_of(x, y), 517


@pytest.mark.parametrize("partitions", [1, 4])
def test_rows_with_predictions_far_outside_the_target_s_range_are_named(partitions: int) -> None:
    data, row = with_far_row()
    # Rows of weight zero are predicted like others and pull no line.
    weight = np.ones(800)
    weight[row] = 1e-6
    data["w"] = ("row", weight)
    options = {"n_experts": 2, "partitions": partitions, "sample_weight": "w", "random_state": 0}
    _, told = warned(functools.partial(daskmoe.fit, data, "y", features=["x0", "x1"], **options))
    (line,) = [line for line in told if "far outside its range" in line]
    size = 800 // partitions
    assert f"at row {row % size} of partition '{row // size}'" in line

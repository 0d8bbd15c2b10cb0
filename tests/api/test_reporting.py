"""What a fit says on the client: rows and partitions left out, iterations that did not converge."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import xarray as xr
from distributed import Client

import daskmoe
from daskmoe import options
from daskmoe.engine import rounds as refine
from daskmoe.errors import ConvergenceWarning
from daskmoe.numerics.base.policies import LocalFit
from daskmoe.numerics.combine import choice
from daskmoe.numerics.combine.candidates import Candidate
from daskmoe.numerics.transport import reduction

OPTIONS: dict[str, Any] = {
    "target": "y",
    "features": "X",
    "n_experts": 2,
    "n_init": 3,
    "aggregation": "reduction",
    "random_state": 0,
}


@pytest.fixture
def data() -> xr.Dataset:
    found, _ = daskmoe.simulate(
        2_000, n_features=3, n_experts=2, chunks=500, design="overlap", random_state=0
    )
    return found.load()


def told(caplog: pytest.LogCaptureFixture, level: int = logging.WARNING) -> list[str]:
    """What the client's log says, at one level."""
    records = [record for record in caplog.records if record.name == "daskmoe.api.reporting"]
    return [record.getMessage() for record in records if record.levelno == level]


def test_dropped_rows_are_told(data: xr.Dataset, caplog: pytest.LogCaptureFixture) -> None:
    data["y"][[3, 700, 701]] = np.nan
    model = daskmoe.fit(data, partitions=4, on_error="skip", **OPTIONS)
    assert told(caplog) == [
        "3 of 2000 rows were dropped: a missing value, no weight, or a partition left out"
    ]
    assert "rows        1997 (3 dropped)" in model.summary()
    caplog.clear()
    daskmoe.fit_local(data, "y", features="X", n_experts=2, on_error="skip")
    assert told(caplog) == [
        "3 of 2000 rows were dropped: a missing value, no weight, or a partition left out"
    ]


def test_a_fit_that_did_not_converge_is_told(
    data: xr.Dataset, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(options, "LocalFit", partial(LocalFit, max_passes=2))
    with pytest.warns(ConvergenceWarning, match="did not converge in 4 passes") as caught:
        model = daskmoe.fit_local(data, "y", features="X", n_experts=2, start_rows=200, random_state=0)
    assert caught[0].filename == __file__
    assert model.diagnostics is not None
    assert model.diagnostics.attrs["converged"] == 0
    model = daskmoe.fit(data, partitions=4, start_rows=100, **OPTIONS)
    assert told(caplog) == [
        "4 of 4 local fits did not converge, as happens with more experts than the rows can tell apart; "
        "diagnostics['status'] says which"
    ]
    assert model.diagnostics is not None
    assert list(model.diagnostics["converged"].values) == [0] * 4


def test_a_mask_of_weights_is_no_warning(data: xr.Dataset, caplog: pytest.LogCaptureFixture) -> None:
    half = data.assign(w=("row", np.arange(2_000.0) % 2))
    with caplog.at_level(logging.INFO, "daskmoe"):
        daskmoe.fit(half, partitions=4, sample_weight="w", **OPTIONS)
    assert told(caplog) == []
    assert told(caplog, logging.INFO) == ["1000 of 2000 rows have no weight"]


def test_weights_that_the_priors_swamp_are_told(data: xr.Dataset, caplog: pytest.LogCaptureFixture) -> None:
    shares = data.assign(w=("row", np.full(2_000, 1 / 2_000)))
    daskmoe.fit_local(shares, "y", features="X", n_experts=2, sample_weight="w")
    assert told(caplog)[-1].startswith("The row weights sum to 1 for 2000 rows. They count as repeated rows")
    caplog.clear()
    daskmoe.fit_local(shares.assign(w=0.3 + shares["w"]), "y", features="X", n_experts=2, sample_weight="w")
    assert told(caplog) == []


def test_nothing_is_said_of_a_fit_to_all_rows(data: xr.Dataset, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "daskmoe"):
        model = daskmoe.fit(data, partitions=4, **OPTIONS)
    assert told(caplog, logging.INFO) + told(caplog) == []
    assert "rows        2000\n" in model.summary()


def test_partitions_left_out_are_told(data: xr.Dataset, caplog: pytest.LogCaptureFixture) -> None:
    data["y"][500:1_000] = np.nan
    daskmoe.fit(data, partitions=4, on_error="skip", **OPTIONS)
    rows, partitions = told(caplog)
    assert rows.startswith("500 of 2000 rows were dropped: ")
    assert partitions.startswith(
        "1 of 4 partitions were left out: 1 (left out: Partition '1': expected at least"
    )


def test_of_many_partitions_left_out_some_are_named(
    data: xr.Dataset, caplog: pytest.LogCaptureFixture
) -> None:
    data["y"][:1_500] = np.nan
    daskmoe.fit(data, partitions=40, on_error="skip", **OPTIONS)
    line = told(caplog)[-1]
    assert line.startswith("30 of 40 partitions were left out: 0 (")
    assert line.count("(left out: ") == 5
    assert line.endswith("; and 25 more, see diagnostics['status']")


@pytest.mark.cluster
def test_a_fit_on_a_cluster_tells_its_client(
    client: Client, data: xr.Dataset, caplog: pytest.LogCaptureFixture
) -> None:
    data["y"][500:1_000] = np.nan
    daskmoe.fit(data, partitions=4, on_error="skip", **OPTIONS)
    assert [line.split(":")[0] for line in told(caplog)] == [
        "500 of 2000 rows were dropped",
        "1 of 4 partitions were left out",
    ]


def test_an_aggregation_that_did_not_converge_warns(
    data: xr.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reduction, "REDUCTION", replace(reduction.REDUCTION, max_iterations=1))
    with pytest.warns(ConvergenceWarning, match="aggregation 'reduction' did not converge.*refine") as caught:
        daskmoe.fit(data, partitions=4, **OPTIONS)
    assert caught[0].filename == __file__


def test_of_a_candidate_that_was_not_chosen_nothing_is_said(
    data: xr.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reduction, "REDUCTION", replace(reduction.REDUCTION, max_iterations=1))
    model = daskmoe.fit(data, partitions=4, **(OPTIONS | {"aggregation": "auto"}))
    assert model.diagnostics is not None
    assert model.diagnostics.attrs["converged"] == 0
    assert model.diagnostics.attrs["aggregation"] != "reduction"


def test_a_refinement_that_did_not_converge_warns(data: xr.Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refine, "_MOST_ROUNDS", 1)
    message = "refinement did not converge in 1 round: .*daskmoe.refine"
    with pytest.warns(ConvergenceWarning, match=message) as caught:
        model = daskmoe.fit(data, partitions=4, refine="converged", **OPTIONS)
    assert caught[0].filename == __file__
    assert model.diagnostics is not None
    assert model.diagnostics.attrs["refinement_converged"] == 0


def test_rounds_that_were_asked_for_may_end(data: xr.Dataset) -> None:
    model = daskmoe.fit(data, partitions=4, refine=1, **OPTIONS)
    assert model.diagnostics is not None
    assert model.diagnostics.attrs["refinement_converged"] == 0


# Coefficients that no row speaks for.


def test_constant_features_are_named(data: xr.Dataset, caplog: pytest.LogCaptureFixture) -> None:
    data["X"][:, 1] = 4.0
    daskmoe.fit(data, partitions=4, **OPTIONS | {"aggregation": "auto"})
    (line,) = told(caplog)
    assert line.startswith(f"{str(data['feature'].values[1])!r}: constant in all rows")


def by_kind(candidates: Sequence[Candidate], kind: str) -> Candidate:
    return next(candidate for candidate in candidates if candidate.kind == kind)


def test_a_slope_of_zero_that_is_no_estimate_is_told(
    data: xr.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows of a rare level in all partitions, which the pilot's sample does without."""
    monkeypatch.setattr(choice, "best_of", lambda candidates, scores: by_kind(candidates, choice.PILOT))
    data["X"][:, 1] = 0.0
    data["X"][[3, 800, 1_700], 1] = 1.0
    said = "are zero and no estimates.*daskmoe.refine"
    with pytest.warns(daskmoe.FitWarning), pytest.warns(daskmoe.IdentificationWarning, match=said):
        model = daskmoe.fit(data, partitions=4, **OPTIONS | {"aggregation": "auto"})
    assert not model.params["coef"][:, 1].any()

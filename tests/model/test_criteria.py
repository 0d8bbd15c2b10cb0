"""AIC, BIC, ICL and what they are made of: kept from the fit, computed on data, and saved."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy
import xarray as xr

import daskmoe
from daskmoe import InvalidDataError, MixtureOfExperts

# Rounds in a number are to be looked at, wherever they end.
pytestmark = pytest.mark.filterwarnings("ignore:The refinement ended short:daskmoe.errors.ConvergenceWarning")

FAST: dict[str, Any] = {"n_experts": 2, "n_init": 2, "random_state": 0}
# (K - 1) q + K q + K, with q = 3.
SIZE = 3 + 6 + 2


@pytest.fixture(scope="module")
def data() -> xr.Dataset:
    found, _ = daskmoe.simulate(800, n_features=2, n_experts=2, design="overlap", random_state=0)
    return found


@pytest.fixture(scope="module")
def local(data: xr.Dataset) -> MixtureOfExperts:
    return daskmoe.fit_local(data, "y", **FAST)


def entropy_of(model: MixtureOfExperts, data: xr.Dataset) -> float:
    return float(scipy.special.entr(model.responsibilities(data)).sum())


def test_they_follow_their_definitions(local: MixtureOfExperts, data: xr.Dataset) -> None:
    value = local.log_likelihood(data)
    assert local.n_parameters == SIZE
    assert local.aic(data) == pytest.approx(2 * SIZE - 2 * value, rel=1e-12)
    assert local.bic(data) == pytest.approx(SIZE * np.log(800) - 2 * value, rel=1e-12)
    assert local.icl(data) == pytest.approx(local.bic(data) + 2 * entropy_of(local, data), rel=1e-12)


FITS: dict[str, Callable[[xr.Dataset], MixtureOfExperts]] = {
    "fit_local": lambda data: daskmoe.fit_local(data, "y", **FAST),
    "one partition": lambda data: daskmoe.fit(data, "y", partitions=1, **FAST),
    "one expert": lambda data: daskmoe.fit_local(data, "y", n_experts=1),
    "refined": lambda data: daskmoe.fit(data, "y", partitions=3, refine=2, **FAST),
    "refined to convergence": lambda data: daskmoe.fit(data, "y", partitions=3, refine="converged", **FAST),
}


@pytest.mark.parametrize("way", list(FITS))
def test_what_the_fit_kept_is_what_the_data_say(way: str, data: xr.Dataset) -> None:
    model = FITS[way](data)
    assert model.log_likelihood() == pytest.approx(model.log_likelihood(data), rel=1e-9)
    assert model.aic() == pytest.approx(model.aic(data), rel=1e-9)
    assert model.bic() == pytest.approx(model.bic(data), rel=1e-9)
    # Logarithms of kept entropies are in single precision.
    assert model.icl() == pytest.approx(model.icl(data), rel=1e-7)


@pytest.mark.parametrize("refine", [0, 2])
def test_weights_count_as_repeated_rows(refine: int, data: xr.Dataset) -> None:
    times = np.arange(800) % 3
    repeated = data.isel(row=np.repeat(np.arange(800), times))
    weighted = data.assign(w=("row", times.astype(float)))
    known = daskmoe.fit_local(weighted, "y", features="X", sample_weight="w", **FAST)
    model = daskmoe.refine(known, weighted, rounds=refine) if refine else known
    assert model.log_likelihood() == pytest.approx(model.log_likelihood(repeated), rel=1e-9)
    assert model.bic() == pytest.approx(model.bic(repeated), rel=1e-9)
    assert model.icl() == pytest.approx(model.icl(repeated), rel=1e-6)


def test_columns_that_add_nothing_do_not_count(data: xr.Dataset) -> None:
    more = data.assign(again=data["X"].isel(feature=0, drop=True), one=xr.ones_like(data["y"]))
    assert daskmoe.fit_local(more, "y", **FAST).n_parameters == SIZE
    fitted = daskmoe.fit(more, "y", partitions=3, **FAST)
    assert fitted.n_parameters == SIZE
    assert daskmoe.refine(fitted, more, rounds=1).n_parameters == SIZE


def test_one_expert_of_several_partitions_knows_its_rows(data: xr.Dataset) -> None:
    model = daskmoe.fit(data, "y", partitions=3, **FAST | {"n_experts": 1})
    assert model.log_likelihood() == pytest.approx(model.log_likelihood(data), rel=1e-12)
    assert model.icl() == model.bic()
    assert float(model.predict(data, clip=True).max()) <= float(data["y"].max())


def test_a_weighted_average_has_all_local_parameters_and_weights(data: xr.Dataset) -> None:
    model = daskmoe.fit(data, "y", partitions=3, aggregation="weighted", **FAST)
    assert model.n_parameters == 3 * SIZE + 2
    assert np.isfinite(model.bic(data))


@pytest.mark.filterwarnings("ignore::daskmoe.errors.FitWarning")
def test_what_is_not_known_is_said_with_the_line_that_mends_it(data: xr.Dataset) -> None:
    _, truth = daskmoe.simulate(10, n_features=2, n_experts=2, random_state=0)
    assert truth.n_parameters == SIZE
    for model in (truth, daskmoe.fit(data, "y", partitions=3, aggregation="reduction", **FAST)):
        with pytest.raises(InvalidDataError, match=r"model\.log_likelihood\(data\)"):
            model.bic()
        with pytest.raises(InvalidDataError, match=r"model\.icl\(data\)"):
            model.icl()
        refined = daskmoe.refine(model, data, rounds=1)
        assert refined.icl() == pytest.approx(model.icl(data), rel=1e-9)


@pytest.mark.parametrize("save", [MixtureOfExperts.to_zarr, MixtureOfExperts.to_netcdf])
def test_they_are_saved(
    local: MixtureOfExperts, tmp_path: Path, save: Callable[[MixtureOfExperts, Path], None]
) -> None:
    save(local, tmp_path / "model")
    opened = daskmoe.open_model(tmp_path / "model")
    assert (opened.bic(), opened.icl(), opened.n_parameters) == (local.bic(), local.icl(), SIZE)

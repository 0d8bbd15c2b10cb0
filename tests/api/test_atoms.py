"""Atoms: values of the target with a probability of their own, through every verb."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from numpy.testing import assert_allclose
from sklearn.linear_model import LinearRegression, LogisticRegression

import daskmoe
from daskmoe import InvalidDataError, InvalidOptionError
from daskmoe.model import MixtureWithAtoms

GATE = np.array([0.3, 1.0, -0.5])
WET = np.array([0.5, 0.5, 0.3])


def rainy(n: int, seed: int = 0, chunks: int = 500) -> xr.Dataset:
    """Zeros by a logistic regression; elsewhere gamma given x, with shape 4."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 2))
    dry = rng.random(n) < 1 / (1 + np.exp(-GATE[0] - X @ GATE[1:]))
    wet = rng.gamma(4.0, np.exp(WET[0] + X @ WET[1:]) / 4.0)
    rows = {"X": (("row", "feature"), X), "z": ("row", rng.normal(size=n))}
    y = np.where(dry, 0.0, wet)
    return xr.Dataset(rows | {"y": ("row", y), "few": ("row", np.full(n, 0.1))}).chunk(row=chunks)


KNOWN: dict[str, Any] = {"features": "X", "family": "gamma", "atoms": [0.0], "random_state": 0}


@pytest.fixture(scope="module")
def data() -> xr.Dataset:
    return rainy(2000)


@pytest.fixture(scope="module")
def model(data: xr.Dataset) -> Any:
    return daskmoe.fit(data, "y", n_experts=1, refine=3, **KNOWN)


def test_one_expert_and_one_atom_are_two_regressions(data: xr.Dataset) -> None:
    options = KNOWN | {"family": "gaussian", "prior_strength": 1e-7}
    found: Any = daskmoe.fit(data, "y", n_experts=1, refine="converged", **options)
    X, y = data["X"].values, data["y"].values
    logistic = LogisticRegression(C=np.inf, tol=1e-12, max_iter=1000).fit(X, y == 0)
    least = LinearRegression().fit(X[y != 0], y[y != 0])
    assert_allclose(found.params["atom_intercept"].values, logistic.intercept_, atol=1e-5)
    assert_allclose(found.params["atom_coef"].values, logistic.coef_, atol=1e-5)
    assert_allclose(found.params["intercept"].values, [least.intercept_], atol=1e-5)
    assert_allclose(found.params["coef"].values, [least.coef_], atol=1e-5)
    errors = found.standard_errors()
    assert set(errors.data_vars) == set(found.params.data_vars)
    assert bool((errors["atom_coef"] > 0).all())


def test_the_likelihood_is_of_all_rows(model: Any, data: xr.Dataset) -> None:
    assert isinstance(model, MixtureWithAtoms)
    assert_allclose(model.log_likelihood(data), model.log_likelihood(), rtol=1e-10)
    assert_allclose(float(model.log_density(data).sum()), model.log_likelihood(), rtol=1e-10)
    assert_allclose(model.bic(data), model.bic(), rtol=1e-10)
    assert model.n_parameters == 3 + 4
    chances = model.gating_probabilities(data)
    dry = (data["y"] == 0).values
    assert_allclose(model.log_density(data)[dry], np.log(chances.isel(expert=-1))[dry], rtol=1e-8)


def test_experts_and_atoms_share_the_rows(model: Any, data: xr.Dataset) -> None:
    tau, dry = model.responsibilities(data), (data["y"] == 0).values
    assert tau["expert"].values.tolist() == ["0", "atom 0"]
    assert_allclose(tau.values, [~dry, dry])
    assigned = model.assign_experts(data)
    assert assigned.attrs["flag_meanings"] == "expert_0 atom_0"
    assert (assigned.values == dry).all()
    assert_allclose(model.expert_shares(data).values[1], dry.mean())
    assert_allclose(model.expert_shares(data[["X"]]).values[1], dry.mean(), atol=1e-3)


def test_means_intervals_and_draws_know_the_mass(model: Any, data: xr.Dataset) -> None:
    drawn = model.sample(data, 1)
    assert drawn.chunks == data["y"].chunks
    assert abs(float((drawn == 0).mean()) - float((data["y"] == 0).mean())) < 0.03
    assert_allclose(float(model.predict(data).mean()), float(data["y"].mean()), rtol=0.02)
    assert float(model.predict(data, clip=True).min()) >= 0
    interval = model.predict_interval(data, 0.9)
    low, high, y = (each.values for each in (interval["lower"], interval["upper"], data["y"]))
    # Of an end that is at the atom, which has more than its probability, a share counts.
    chances = model.mixture.chances(data["X"].values)[1]
    above = np.where(high == 0, 0.95 / chances, 1.0)
    below = np.where(low == 0, (chances - 0.05) / chances, 1.0)
    share = np.where(y == 0, np.clip(above + below - 1, 0, 1), (low < y) & (y <= high))
    assert abs(share.mean() - 0.9) < 0.02
    assert model.score(data) > 0.1


def test_parameters_of_both_have_intervals(model: Any) -> None:
    interval = model.confidence_interval(0.9)
    assert interval.attrs["level"] == 0.9
    assert set(interval.data_vars) == set(model.params.data_vars)
    for name in ("coef", "shape", "atom_intercept", "atom_coef"):
        low, high = (interval[name].sel(bound=bound) for bound in ("lower", "upper"))
        assert bool(((low < model.params[name]) & (model.params[name] < high)).all())


def test_rows_at_atoms_change_nothing_of_the_experts(model: Any, data: xr.Dataset) -> None:
    wet = data.isel(row=np.flatnonzero(data["y"].values)).compute()
    alone = daskmoe.fit_local(wet, "y", features="X", n_experts=1, family="gamma", random_state=0)
    assert_allclose(alone.params["coef"], model.params["coef"], atol=1e-4)
    assert_allclose(alone.params["shape"], model.params["shape"], rtol=1e-4)


@pytest.mark.parametrize("suffix", [".zarr", ".nc"])
def test_a_model_is_saved_and_opened(model: Any, data: xr.Dataset, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"model{suffix}"
    (model.to_zarr if suffix == ".zarr" else model.to_netcdf)(path)
    opened: Any = daskmoe.open_model(path)
    assert opened == model
    assert opened.atoms == (0.0,)
    assert opened.predict(data).equals(model.predict(data))


def test_sorted_rows_and_a_store_are_the_same_model(model: Any, data: xr.Dataset, tmp_path: Path) -> None:
    in_order = data.compute().sortby("y").chunk(row=500)
    found: Any = daskmoe.fit(in_order, "y", n_experts=1, refine=3, **KNOWN)
    assert abs(found.log_likelihood(data) - model.log_likelihood(data)) < 1e-3 * 2000
    assert_allclose(found.params["coef"], model.params["coef"], atol=1e-4)
    data.astype(np.float32).to_zarr(tmp_path / "data.zarr", consolidated=False)
    stored: Any = daskmoe.fit(tmp_path / "data.zarr", "y", n_experts=1, refine=3, **KNOWN)
    assert_allclose(stored.params["atom_coef"], model.params["atom_coef"], atol=1e-3)


def test_a_delayed_model_is_the_model(data: xr.Dataset) -> None:
    later = daskmoe.fit(data, "y", n_experts=1, compute=False, **KNOWN)
    now = daskmoe.fit(data, "y", n_experts=1, **KNOWN)
    found: Any = later.compute()
    assert found.params.identical(now.params)


def test_models_of_sites_are_joined_and_refined(data: xr.Dataset) -> None:
    halves = [data.isel(row=slice(start, start + 1000)).compute() for start in (0, 1000)]
    models = [daskmoe.fit_local(half, "y", n_experts=1, **KNOWN) for half in halves]
    joined: Any = daskmoe.aggregate(models, data.compute())
    assert isinstance(joined, MixtureWithAtoms)
    refined: Any = daskmoe.refine(joined, data, rounds="converged")
    gain = refined.log_likelihood(data) - joined.log_likelihood(data)
    assert 0 <= gain < 1e-3 * 2000
    with pytest.raises(InvalidDataError, match="all of them with atoms, or none"):
        daskmoe.aggregate([models[0], models[1].experts], data.compute())  # type: ignore[attr-defined]


def test_a_model_is_updated(data: xr.Dataset) -> None:
    before = daskmoe.fit(data.isel(row=slice(0, 1500)), "y", n_experts=1, **KNOWN)
    updated: Any = daskmoe.update(before, data.isel(row=slice(1500, None)))
    whole: Any = daskmoe.fit(data, "y", n_experts=1, **KNOWN)
    assert isinstance(updated, MixtureWithAtoms)
    assert updated.weight == 2000
    assert abs(updated.log_likelihood(data) - whole.log_likelihood(data)) < 1e-3 * 2000


def test_the_number_of_experts_is_selected_without_the_atoms(data: xr.Dataset) -> None:
    selection = daskmoe.select_n_experts(data, "y", n_experts=[1, 2], **KNOWN)
    assert selection.n_experts == 1
    assert isinstance(selection.model, MixtureWithAtoms)


def test_atoms_have_the_features_of_the_gates(data: xr.Dataset) -> None:
    y = data["y"].values
    for gates, expected in ((["z"], data["z"].values[:, None]), ([], np.zeros((2000, 1)))):
        found: Any = daskmoe.fit_local(
            data.compute(), "y", n_experts=1, gate_features=gates, prior_strength=1e-7, **KNOWN
        )
        logistic = LogisticRegression(C=np.inf, tol=1e-12, max_iter=1000).fit(expected, y == 0)
        assert_allclose(found.params["atom_intercept"].values, logistic.intercept_, atol=1e-5)
        assert_allclose(found.params["atom_coef"].values[0], logistic.coef_[0][: len(gates)], atol=1e-5)
        assert found.params["atom_coef"].dims == ("atom", "gate_feature")
        logits = np.log(logistic.predict_proba(expected)[:, 1])
        assert_allclose(np.log(found.gating_probabilities(data).values[-1]), logits, atol=1e-5)


def test_atoms_are_found_and_told(data: xr.Dataset, caplog: pytest.LogCaptureFixture) -> None:
    capped = data.assign(y=data["y"].clip(max=3.0).astype(np.float32)).compute()
    with caplog.at_level(logging.INFO, logger="daskmoe"):
        found: Any = daskmoe.fit_local(capped, "y", n_experts=1, **(KNOWN | {"atoms": "auto"}))
    assert found.atoms == (0.0, 3.0)
    told = [record.message for record in caplog.records if "is at the atom" in record.message]
    share = 100 * float((capped["y"] == 0).mean())
    assert told[0] == f"target 'y' is at the atom 0 in {share:.2f} % of the rows"
    interval = found.predict_interval(capped, 0.9)
    assert 0.2 < float((interval["upper"] == 3.0).mean()) < 0.8
    assert found.params["atom_coef"].dims == ("atom", "feature")


def test_a_target_without_atoms_has_an_ordinary_model(data: xr.Dataset) -> None:
    found = daskmoe.fit_local(data.compute(), "z", n_experts=1, features="X", atoms="auto", random_state=0)
    assert isinstance(found, daskmoe.MixtureOfExperts)


def test_weights_and_offsets_count(data: xr.Dataset) -> None:
    whole = data.compute()
    doubled = whole.assign(w=("row", np.full(2000, 2.0)))
    plain: Any = daskmoe.fit_local(xr.concat([whole, whole], "row"), "y", n_experts=1, offset="few", **KNOWN)
    weighted: Any = daskmoe.fit_local(doubled, "y", n_experts=1, offset="few", sample_weight="w", **KNOWN)
    for name in plain.params:
        assert_allclose(weighted.params[name], plain.params[name], atol=1e-5)
    assert weighted.weight == 4000


def test_what_a_model_shows(model: Any, data: xr.Dataset) -> None:
    assert repr(model) == "<MixtureWithAtoms: 1 gamma experts of 'y' given 2 features, beside the atom 0>"
    text = str(model.summary(data))
    assert f"log_likelihood {model.log_likelihood():.6g}" in text
    assert "at atoms" in text
    table = model.table()
    assert_allclose(float(table["bic"]), model.bic())
    assert "atoms.estimate" in table
    assert "beside the atom 0" in model._repr_html_()


def test_divergence_is_that_of_the_masses_and_of_the_experts_elsewhere(
    data: xr.Dataset, tmp_path: Path
) -> None:
    rows, options = data.compute(), KNOWN | {"family": "gaussian"}
    halves: list[Any] = [
        daskmoe.fit_local(rows.isel(row=part), "y", n_experts=1, **options)
        for part in (slice(0, 300), slice(300, 2000))
    ]
    some = rows.isel(row=slice(0, 100))
    p, q = (half.gating_probabilities(some).values for half in halves)
    (m, s), (n, t) = (
        (half.experts.predict(some[["X"]]).values, half.params["variance"].values) for half in halves
    )
    of_masses = (p * np.log(p / q)).sum(axis=0)
    of_experts = p[0] * 0.5 * ((s + (m - n) ** 2) / t - 1 + np.log(t / s))
    halves[1].to_zarr(tmp_path / "model.zarr")
    for kind in ("relaxed", "exact"):
        # Of one expert it is the Kullback-Leibler divergence itself.
        found = daskmoe.transportation_divergence(halves[0], tmp_path / "model.zarr", some, kind=kind)
        assert_allclose(found, (of_masses + of_experts).mean(), rtol=1e-8)
        assert daskmoe.transportation_divergence(halves[0], halves[0], some, kind=kind) < 1e-12


def test_divergence_is_of_the_same_atoms_only(model: Any, data: xr.Dataset) -> None:
    capped = data.assign(y=data["y"].clip(max=3.0)).compute()
    other: Any = daskmoe.fit_local(capped, "y", n_experts=1, **(KNOWN | {"atoms": [0.0, 3.0]}))
    with pytest.raises(InvalidDataError, match=r"model_b: expected the atoms \[0.0\] .*, got \[0.0, 3.0\]"):
        daskmoe.transportation_divergence(model, other, data)
    with pytest.raises(InvalidDataError, match=r"expected the atoms \[0.0\] of model_a, got \[\]"):
        daskmoe.transportation_divergence(model, model.experts, data)
    assert model.match(other).params.identical(model.params)
    with pytest.raises(InvalidDataError, match=r"expected a model with atoms, .*Match model\.experts"):
        model.match(other.experts)
    with pytest.raises(InvalidDataError, match=r"of one with atoms take other\.experts"):
        other.experts.match(model)


def test_the_regressor_takes_atoms(data: xr.Dataset) -> None:
    X, y = data["X"].values, data["y"].values
    regressor = daskmoe.MoERegressor(1, family="gamma", atoms="auto", random_state=0).fit(X, y)
    assert isinstance(regressor.model_, MixtureWithAtoms)
    assert regressor.score(X, y) > 0.1
    assert (regressor.predict_interval(X)[:, 0] == 0).mean() > 0.9


def test_what_atoms_cannot_be(model: Any, data: xr.Dataset) -> None:
    with pytest.raises(InvalidOptionError, match="atoms: expected none with family='poisson'"):
        daskmoe.fit(data, "y", n_experts=1, **(KNOWN | {"family": "poisson"}))
    with pytest.raises(InvalidOptionError, match="atoms: expected numbers, as"):
        daskmoe.fit(data, "y", n_experts=1, **(KNOWN | {"atoms": ["dry"]}))
    with pytest.raises(InvalidDataError, match="which none of its rows is equal to"):
        daskmoe.fit(data, "y", n_experts=1, **(KNOWN | {"atoms": [0.0, 77.0]}))
    with pytest.raises(InvalidDataError, match=r"to be numbers above zero.*, got -1, or at an atom"):
        model.log_likelihood(data.assign(y=data["y"] - 1).compute())


def test_what_two_models_do_not_have_together_says_where_it_is(model: Any) -> None:
    with pytest.raises(AttributeError, match=r"use model.experts.covariance, .* model.atom_gates"):
        model.covariance()
    with pytest.raises(AttributeError, match="object has no attribute 'covarianse'"):
        model.covarianse()
    assert not hasattr(model, "transport_plan")
    assert model.experts.transport_plan().table()["share"].dims == ("partition", "expert")

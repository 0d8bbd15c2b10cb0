"""Experts are in the order of their shares, the largest first, whatever made the model."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import xarray as xr

import daskmoe
from daskmoe import MixtureOfExperts
from daskmoe.errors import FitWarning

OPTIONS: dict[str, Any] = {"n_experts": 3, "partitions": 4, "random_state": 0}


@pytest.fixture(scope="module")
def data() -> xr.Dataset:
    """Experts by intercept are not experts by share."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=4000)
    expert = rng.choice(3, p=[0.2, 0.5, 0.3], size=4000)
    y = np.array([-8.0, 0.0, 8.0])[expert] + np.array([1.0, -1.0, 2.0])[expert] * x
    return xr.Dataset({"y": ("row", y + 0.5 * rng.normal(size=4000)), "x": ("row", x)})


@pytest.fixture(scope="module")
def model(data: xr.Dataset) -> MixtureOfExperts:
    return daskmoe.fit(data, "y", **OPTIONS)


def assert_by_share(model: MixtureOfExperts, data: xr.Dataset) -> None:
    assert (np.diff(model.expert_shares()) <= 0).all()
    np.testing.assert_allclose(model.expert_shares(), model.expert_shares(data), atol=0.02)
    np.testing.assert_allclose(model.params["intercept"], [0.0, 8.0, -8.0], atol=0.2)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"refine": 2},
        {"refine": 2, "compute": False},
        {"aggregation": "reduction"},
        {"aggregation": "middle", "support": "features"},
        {"support": "synthetic"},
        {"n_local_experts": 4, "aggregation": "reduction"},
    ],
    ids=str,
)
def test_fits_and_refinements(options: dict[str, Any], data: xr.Dataset) -> None:
    found = daskmoe.fit(data, "y", **OPTIONS, **options)
    found = found if isinstance(found, MixtureOfExperts) else found.compute()
    shares = found.expert_shares(data)
    assert (np.diff(shares) < 0).all()
    np.testing.assert_allclose(found.params["intercept"], [0.0, 8.0, -8.0], atol=0.2)
    assert found.diagnostics is not None
    if "plan_mass" in found.diagnostics:
        moved = found.diagnostics["plan_mass"].sum(("partition", "local_expert"))
        np.testing.assert_allclose(moved / moved.sum(), shares, atol=0.05)


def test_what_goes_with_the_experts(model: MixtureOfExperts, data: xr.Dataset) -> None:
    """Errors, local estimates, their plan, and the information are those of the experts at their places."""
    assert model.diagnostics is not None
    assert model.local_estimates is not None
    assert_by_share(model, data)
    plan = model.diagnostics["plan_mass"].transpose("partition", "local_expert", "expert").values
    assert (plan.argmax(axis=2) == np.arange(3)).all()
    local = model.local_estimates["intercept"]
    np.testing.assert_allclose(local, np.broadcast_to([0.0, 8.0, -8.0], local.shape), atol=0.3)
    masses = model.diagnostics["local_expert_weight"]
    np.testing.assert_allclose(masses.mean("partition") / 1000.0, [0.5, 0.3, 0.2], atol=0.03)
    memory = model.memory
    assert memory is not None
    for array, other in zip(memory.model, model.parameters, strict=True):
        np.testing.assert_allclose(array, other, atol=1e-9)
    exact = daskmoe.refine(model, data, rounds="converged").standard_errors("model")
    errors = model.standard_errors("approximate")
    for name in ("gate_intercept", "intercept", "coef", "variance"):
        np.testing.assert_allclose(errors[name], exact[name], rtol=0.05)


def test_the_other_verbs(model: MixtureOfExperts, data: xr.Dataset) -> None:
    halves = [data.isel(row=slice(0, 2000)), data.isel(row=slice(2000, None))]
    turned = model.permute([2, 0, 1]).rename_experts(["low", "middle", "high"])
    for found in (daskmoe.refine(turned, data, rounds=1), daskmoe.update(turned, halves[1])):
        assert_by_share(found, data)
        assert found.params["expert"].values.tolist() == ["middle", "high", "low"]
    few = {"n_experts": 3, "random_state": 0}
    sites = [daskmoe.fit(half, "y", partitions=2, **few) for half in halves]
    sites[1] = sites[1].permute([1, 0, 2])
    for method in ("auto", "reduction"):
        assert_by_share(daskmoe.aggregate(sites, data, method=method), data)
    assert_by_share(daskmoe.fit_local(data, "y", **few), data)
    with pytest.warns(FitWarning, match="last candidate"):
        chosen = daskmoe.select_n_experts(data, "y", n_experts=[2, 3], partitions=4, random_state=0)
    assert (np.diff(chosen.models[2].expert_shares()) <= 0).all()
    assert_by_share(chosen.models[3], data)

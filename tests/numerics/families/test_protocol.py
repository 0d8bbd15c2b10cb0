"""The protocol of families, proved by families that the package does not have.

`KnownVariance` (C = 1, D = 0) goes through everything a caller can ask for; `MeanAndScale` (C = 2) through
the sums, EM and Newton, whose shapes it is about. Neither needs a line in ``daskmoe``.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import dask
import numpy as np
import pytest
import xarray as xr

import daskmoe
from daskmoe import MixtureOfExperts
from daskmoe.numerics.base.buffers import Buffers
from daskmoe.numerics.base.coordinates import coordinates_from
from daskmoe.numerics.base.layout import Layout
from daskmoe.numerics.base.observations import Observations, moments
from daskmoe.numerics.base.parameters import MoEParameters
from daskmoe.numerics.base.policies import LocalFit
from daskmoe.numerics.families import FAMILIES, Family
from daskmoe.numerics.likelihood.e_step import Runs
from daskmoe.numerics.likelihood.priors import prior_from
from daskmoe.numerics.likelihood.statistics import likelihood_statistics, log_likelihood_of, penalized
from daskmoe.numerics.local.em import em, start_em
from daskmoe.numerics.local.fit import fit_local_estimate
from daskmoe.options import METHODS
from numerics.families.toys import SIGMA, KnownVariance, MeanAndScale
from numerics.oracles import central_gradient

TOYS: tuple[Family, ...] = (KnownVariance(), MeanAndScale())


@pytest.fixture(autouse=True)
def toys(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The toys among the families, in this process: tasks run in it."""
    for family in TOYS:
        monkeypatch.setitem(FAMILIES, family.name, family)
    with dask.config.set(scheduler="synchronous"):
        yield


def simulated(n_rows: int = 3_000, seed: int = 0) -> tuple[xr.Dataset, np.ndarray]:
    """Two lines with noise SIGMA and a gate along the first feature; the true coefficients (K, q)."""
    rng = np.random.default_rng(seed)
    features = rng.standard_normal((n_rows, 2))
    coef = np.array([[-4.0, 2.0, 1.0], [5.0, -1.0, 3.0]])
    second = rng.random(n_rows) < 1 / (1 + np.exp(-1.5 * features[:, 0]))
    design = np.column_stack([np.ones(n_rows), features])
    response = np.einsum("ij,ij->i", design, coef[second.astype(int)]) + SIGMA * rng.standard_normal(n_rows)
    data = xr.Dataset({"X": (("row", "feature"), features), "y": ("row", response)})
    return data.chunk(row=n_rows // 6), coef


def random_parameters(family: Family, rng: np.random.Generator, n_experts: int = 3) -> MoEParameters:
    gate = rng.standard_normal((n_experts, 3))
    coef = 0.5 * rng.standard_normal((n_experts, family.n_predictors, 3))
    return MoEParameters(gate - gate[-1], coef, np.ones((n_experts, 0)))


def random_rows(rng: np.random.Generator) -> Observations:
    features = rng.standard_normal((40, 2))
    return Observations(features, 2 * rng.standard_normal(40), rng.uniform(0.5, 2.0, 40))


@pytest.mark.parametrize("family", TOYS, ids=lambda family: family.name)
def test_statistics_are_the_derivatives_of_the_likelihood(family: Family) -> None:
    rng = np.random.default_rng(1)
    rows, parameters = random_rows(rng), random_parameters(family, rng)
    coordinates = coordinates_from(moments(rows), family.scaling(moments(rows)))
    layout = Layout.of(parameters)

    def value(theta: np.ndarray) -> float:
        return log_likelihood_of(layout.unpack(theta), rows.blocks(coordinates), family)

    def gradient(theta: np.ndarray) -> np.ndarray:
        return likelihood_statistics(layout.unpack(theta), rows.blocks(coordinates), family).gradient

    theta = layout.pack(parameters)
    found = likelihood_statistics(parameters, rows.blocks(coordinates), family, scores=True)
    np.testing.assert_allclose(found.value, value(theta), rtol=1e-12)
    np.testing.assert_allclose(found.gradient, central_gradient(value, theta), rtol=1e-7, atol=1e-7)
    np.testing.assert_allclose(found.information, -central_gradient(gradient, theta), rtol=1e-7, atol=1e-6)
    assert np.linalg.eigvalsh(found.complete).min() > -1e-9
    upper, kept = found.complete.copy(), np.zeros_like(found.complete, dtype=bool)
    kept[layout.complete()] = True
    assert not upper[~(kept | kept.T)].any()


@pytest.mark.parametrize("family", TOYS, ids=lambda family: family.name)
def test_score_products_are_sums_over_rows(family: Family) -> None:
    rng = np.random.default_rng(2)
    rows, parameters = random_rows(rng), random_parameters(family, rng)
    rows = rows._replace(weight=None)
    coordinates = coordinates_from(moments(rows), family.scaling(moments(rows)))
    expected = np.zeros((Layout.of(parameters).size,) * 2)
    for i in range(rows.n_rows):
        one = rows.take(np.array([i]))
        score = likelihood_statistics(parameters, one.blocks(coordinates), family).gradient
        expected += np.outer(score, score)
    found = likelihood_statistics(parameters, rows.blocks(coordinates), family, scores=True).scores
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("family", TOYS, ids=lambda family: family.name)
def test_penalized_statistics_are_the_derivatives_of_the_objective(family: Family) -> None:
    rng = np.random.default_rng(3)
    rows, parameters = random_rows(rng), random_parameters(family, rng)
    known = moments(rows)
    coordinates = coordinates_from(known, family.scaling(known))
    prior = prior_from(known, coordinates, parameters.n_experts, family)
    layout = Layout.of(parameters)

    def penalty(theta: np.ndarray) -> float:
        return float(prior.penalty(*layout.unpack(theta)))

    theta = layout.pack(parameters)
    raw = likelihood_statistics(parameters, rows.blocks(coordinates), family)
    found = penalized(raw, parameters, prior)
    np.testing.assert_allclose(raw.gradient - found.gradient, central_gradient(penalty, theta), atol=1e-8)
    assert raw.value - found.value == pytest.approx(penalty(theta))


@pytest.mark.parametrize("family", TOYS, ids=lambda family: family.name)
def test_em_never_falls(family: Family) -> None:
    rng = np.random.default_rng(4)
    rows, start = random_rows(rng), random_parameters(family, rng)
    known = moments(rows)
    coordinates = coordinates_from(known, family.scaling(known))
    blocks = list(rows.blocks(coordinates))
    prior = prior_from(known, coordinates, start.n_experts, family)
    state = start_em(Runs.one(start), blocks, prior, family)
    values = [float(state.objective[0])]
    for _ in range(20):
        state = em(state, blocks, prior, 1, family)
        values.append(float(state.objective[0]))
    assert (np.diff(values) >= 0).all()
    assert values[-1] > values[0] + 1


def test_two_predictors_are_fitted_to_a_maximum() -> None:
    rng = np.random.default_rng(5)
    features = rng.standard_normal((2_000, 1))
    low = rng.random(2_000) < 0.5
    scale = np.exp(0.5 * np.where(low, -1.0 + features[:, 0], 1.0))
    response = np.where(low, -3.0, 3.0 + features[:, 0]) + scale * rng.standard_normal(2_000)
    family = MeanAndScale()
    rows = Observations(features, response)
    found = fit_local_estimate(rows, LocalFit(n_experts=2, family=family.name), np.random.default_rng(0))
    assert found.converged
    assert found.parameters is not None
    # Mean and log-variance of both experts, in the order of their intercepts.
    expected = [[[-3.0, 0.0], [-1.0, 1.0]], [[3.0, 1.0], [1.0, 0.0]]]
    np.testing.assert_allclose(found.parameters.coef, expected, atol=0.25)


def test_derivatives_of_the_gaussian_are_those_of_its_density() -> None:
    family, rng = FAMILIES["gaussian"], np.random.default_rng(6)
    y, eta, log_variance = rng.standard_normal(7), rng.standard_normal((3, 1, 7)), rng.standard_normal((3, 1))
    found = family.derivatives(y, eta, np.exp(log_variance), Buffers(), second_order=True)

    def density(shift: np.ndarray) -> np.ndarray:
        return family.log_density(y, eta + shift[0], np.exp(log_variance + shift[1]))

    def slopes(shift: np.ndarray) -> np.ndarray:
        return central_gradient(density, shift)

    first = slopes(np.zeros(2))
    np.testing.assert_allclose(found.score[:, 0], first[..., 0], rtol=1e-8, atol=1e-9)
    np.testing.assert_allclose(found.nuisance_score[:, 0], first[..., 1], rtol=1e-8, atol=1e-9)
    second = -central_gradient(slopes, np.zeros(2), 1e-3)
    np.testing.assert_allclose(found.curvature[:, 0], second[..., 0, 0], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.cross[:, 0, 0], second[..., 0, 1], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.nuisance_curvature[:, 0], second[..., 1, 1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("aggregation", ["auto", *METHODS])
def test_every_aggregation_takes_another_family(aggregation: str) -> None:
    data, coef = simulated()
    model = daskmoe.fit(
        data, "y", n_experts=2, family="known variance", aggregation=aggregation, random_state=0
    )
    assert set(model.params) >= {"gate_intercept", "gate_coef", "intercept", "coef"}
    assert "variance" not in model.params
    best = daskmoe.fit_local(data, "y", n_experts=2, family="known variance", random_state=0)
    loss = best.log_likelihood(data) - model.log_likelihood(data)
    assert loss < 0.005 * data["y"].size
    if aggregation != "weighted":
        # Shares are about equal, so either expert may come first.
        found = np.sort(model.params["coef"].values, axis=0)
        np.testing.assert_allclose(found, np.sort(coef[:, 1:], axis=0), atol=0.3)


@pytest.mark.parametrize("support", ["labelled", "features", "synthetic"])
def test_every_support_serves_another_family(support: str) -> None:
    data, coef = simulated()
    model = daskmoe.fit(data, "y", n_experts=2, family="known variance", support=support, random_state=0)
    np.testing.assert_allclose(model.params["coef"].values, coef[:, 1:], atol=0.3)


def test_one_expert_of_another_family_is_its_maximum() -> None:
    data, _ = simulated()
    design = np.column_stack([np.ones(data["y"].size), data["X"].values])
    expected = np.linalg.lstsq(design, data["y"].values, rcond=None)[0]
    for model in (
        daskmoe.fit_local(data, "y", n_experts=1, family="known variance", random_state=0),
        daskmoe.fit(data, "y", n_experts=1, family="known variance", random_state=0),
    ):
        np.testing.assert_allclose(model.params["coef"].values[0], expected[1:], rtol=1e-6, atol=1e-8)


def test_another_family_is_refined_and_inferred() -> None:
    data, coef = simulated()
    model = daskmoe.fit(data, "y", n_experts=2, family="known variance", refine="converged", random_state=0)
    assert model.diagnostics is not None
    assert model.diagnostics.attrs["refinement_converged"] == 1
    # The maximum, wherever the rounds began.
    local = daskmoe.fit_local(data, "y", n_experts=2, family="known variance", random_state=1)
    assert model.log_likelihood(data) == pytest.approx(local.log_likelihood(data), abs=1e-5)
    for kind in ("model", "robust"):
        errors = model.standard_errors(kind)
        assert set(errors) == set(model.params)
        distance = abs(model.params["coef"].values - coef[:, 1:]) / errors["coef"].values
        assert distance.max() < 4
    interval = model.confidence_interval()
    assert bool((interval["coef"].sel(bound="lower") < interval["coef"].sel(bound="upper")).all())


def test_a_model_of_another_family_predicts_and_is_saved(tmp_path: Path) -> None:
    data, _ = simulated()
    model = daskmoe.fit(data, "y", n_experts=2, family="known variance", random_state=0)
    model.to_zarr(tmp_path / "model.zarr")
    opened = daskmoe.open_model(tmp_path / "model.zarr")
    xr.testing.assert_identical(opened.predict(data).compute(), model.predict(data).compute())
    interval = opened.predict_interval(data, 0.9)
    inside = (interval["lower"] <= data["y"]) & (data["y"] <= interval["upper"])
    assert 0.87 < float(inside.mean()) < 0.93
    drawn = opened.sample(data, random_state=0)
    assert float(drawn.std()) == pytest.approx(float(data["y"].std()), rel=0.05)
    assert "expert 1" in opened.summary()
    assert bool((abs(opened.responsibilities(data).sum("expert") - 1) < 1e-12).all())
    assert daskmoe.transportation_divergence(opened, model, data) == pytest.approx(0.0, abs=1e-12)


def test_saved_models_of_another_family_are_aggregated() -> None:
    data, coef = simulated()
    halves = [data.isel(row=slice(0, 1500)), data.isel(row=slice(1500, None))]
    models = [
        daskmoe.fit_local(half, "y", n_experts=2, family="known variance", random_state=0) for half in halves
    ]
    joined = daskmoe.aggregate(models, data)
    assert isinstance(joined, MixtureOfExperts)
    np.testing.assert_allclose(joined.params["coef"].values, coef[:, 1:], atol=0.3)

"""Every family through what a caller can ask for: fit, aggregation, rounds, errors, prediction, saving."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from sklearn.linear_model import GammaRegressor, PoissonRegressor

import daskmoe
from daskmoe import InvalidDataError, MixtureOfExperts

N = 6_000
COEF = np.array([[0.5, 0.0, -0.7], [2.0, 0.0, 0.5]])
SHAPES = np.array([3.0, 8.0])
DFS = np.array([4.0, 8.0])
FAMILIES = ("poisson", "gamma", "student_t")


def simulated(family: str, n: int = N, seed: int = 0, by: int | None = None) -> xr.Dataset:
    """Two experts, a gate along the first feature; rows in order of a feature where asked."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 2))
    second = (rng.random(n) < 1 / (1 + np.exp(-2 * x[:, 0]))).astype(int)
    linear = np.einsum("ij,ij->i", np.column_stack([np.ones(n), x]), COEF[second])
    mean, shape = np.exp(linear), SHAPES[second]
    if family == "student_t":
        y = linear + 0.2 * rng.standard_t(DFS[second])
    else:
        y = rng.poisson(mean).astype(float) if family == "poisson" else rng.gamma(shape, mean / shape)
    order = np.arange(n) if by is None else np.argsort(x[:, by])
    return xr.Dataset({"X": (("row", "feature"), x[order]), "y": ("row", y[order])}).chunk(row=n // 6)


def by_intercept(model: MixtureOfExperts) -> xr.Dataset:
    return model.params.isel(expert=np.argsort(model.params["intercept"].values))


@pytest.fixture(scope="module", params=FAMILIES)
def best(request: pytest.FixtureRequest) -> MixtureOfExperts:
    return daskmoe.fit_local(simulated(request.param), "y", n_experts=2, family=request.param, random_state=0)


@pytest.mark.parametrize("by", [None, 0, 1])
def test_one_step_is_next_to_the_fit_of_all_rows(best: MixtureOfExperts, by: int | None) -> None:
    data = simulated(best.family, by=by)
    model = daskmoe.fit(data, "y", n_experts=2, family=best.family, random_state=0)
    assert abs(best.log_likelihood(data) - model.log_likelihood(data)) / N < 1e-3
    np.testing.assert_allclose(by_intercept(model)["coef"], COEF[:, 1:], atol=0.1)
    refined = daskmoe.refine(model, data)
    assert abs(best.log_likelihood(data) - refined.log_likelihood(data)) / N < 1e-5


@pytest.mark.parametrize("aggregation", ["reduction", "whole", "greedy", "aligned", "middle"])
def test_every_aggregation_takes_every_family(best: MixtureOfExperts, aggregation: str) -> None:
    data = simulated(best.family)
    model = daskmoe.fit(data, "y", n_experts=2, family=best.family, aggregation=aggregation, random_state=0)
    assert best.log_likelihood(data) - model.log_likelihood(data) < 0.01 * N
    np.testing.assert_allclose(by_intercept(model)["coef"], COEF[:, 1:], atol=0.2)


def test_the_reduction_never_rises(best: MixtureOfExperts) -> None:
    data = simulated(best.family)
    model = daskmoe.fit(data, "y", n_experts=2, family=best.family, aggregation="reduction", random_state=0)
    assert model.diagnostics is not None
    objective = model.diagnostics["objective"].values
    assert (np.diff(objective) <= 1e-9 * np.abs(objective[0])).all()


@pytest.mark.parametrize(("family", "regressor"), [("poisson", PoissonRegressor), ("gamma", GammaRegressor)])
def test_one_expert_is_the_regression_of_scikit_learn(family: str, regressor: type) -> None:
    data = simulated(family)
    expected = regressor(alpha=0, tol=1e-12, max_iter=10_000).fit(data["X"].values, data["y"].values)
    whole = daskmoe.fit_local(data, "y", n_experts=1, family=family)
    for model in (whole, daskmoe.fit(data, "y", n_experts=1, family=family, partitions=3, random_state=0)):
        np.testing.assert_allclose(model.params["coef"].values[0], expected.coef_, atol=1e-6)
        assert float(model.params["intercept"][0]) == pytest.approx(expected.intercept_, abs=1e-6)


def test_errors_and_intervals_hold(best: MixtureOfExperts) -> None:
    data = simulated(best.family)
    model = daskmoe.refine(best, data, rounds="converged")
    params, errors = by_intercept(model), model.standard_errors()
    errors = errors.isel(expert=np.argsort(model.params["intercept"].values))
    assert (abs(params["coef"] - COEF[:, 1:]) < 4 * errors["coef"]).all()
    if best.family == "gamma":
        assert (abs(params["shape"] - SHAPES) < 4 * errors["shape"]).all()
        interval = model.confidence_interval()["shape"]
        assert bool((interval.sel(bound="lower") < model.params["shape"]).all())
        assert bool((interval.sel(bound="upper") > model.params["shape"]).all())
    if best.family == "student_t":
        assert (abs(params["df"] - DFS) < 4 * errors["df"]).all()
        assert (abs(params["scale"] - 0.2) < 4 * errors["scale"]).all()
    level = model.predict_interval(data, 0.9)
    inside = float(((level["lower"] <= data["y"]) & (data["y"] <= level["upper"])).mean())
    # An interval of counts holds its level at least.
    assert 0.89 < inside < (0.98 if best.family == "poisson" else 0.91)
    assert best.family == "student_t" or float(model.predict(data).min()) > 0


def test_errors_of_shapes_follow_their_spread() -> None:
    fits = [
        daskmoe.refine(
            daskmoe.fit_local(
                simulated("gamma", 1500, seed), "y", n_experts=2, family="gamma", random_state=0
            ),
            simulated("gamma", 1500, seed),
            rounds="converged",
        )
        for seed in range(1, 13)
    ]
    shapes = np.array([by_intercept(model)["shape"].values for model in fits])
    errors = np.array([np.sort(model.standard_errors()["shape"].values) for model in fits])
    ratio = shapes.std(axis=0, ddof=1) / errors.mean(axis=0)
    # A standard deviation of eight draws is within these bounds in all but one of a thousand cases.
    assert (ratio > 0.3).all()
    assert (ratio < 2.0).all()


def test_a_model_is_saved_and_joined(best: MixtureOfExperts, tmp_path: Path) -> None:
    data = simulated(best.family)
    best.to_zarr(tmp_path / "model.zarr")
    opened = daskmoe.open_model(tmp_path / "model.zarr")
    np.testing.assert_array_equal(opened.predict(data).values, best.predict(data).values)
    drawn = opened.sample(data, random_state=0)
    assert float(drawn.mean()) == pytest.approx(float(data["y"].mean()), rel=0.1)
    halves = [data.isel(row=slice(0, 3000)), data.isel(row=slice(3000, None))]
    models = [
        daskmoe.fit_local(half, "y", n_experts=2, family=best.family, random_state=0) for half in halves
    ]
    joined = daskmoe.aggregate(models, data)
    assert best.log_likelihood(data) - joined.log_likelihood(data) < 0.01 * N
    assert daskmoe.transportation_divergence(joined, best, data) < 0.05


def test_weights_count_as_rows(best: MixtureOfExperts) -> None:
    data = simulated(best.family).compute()
    weight = np.random.default_rng(0).integers(0, 3, N).astype(float)
    twice = data.isel(row=np.repeat(np.arange(N), weight.astype(int)))
    options = {"n_experts": 1, "family": best.family}
    weighted = daskmoe.fit_local(
        data.assign(w=("row", weight)), "y", features="X", sample_weight="w", **options
    )
    repeated = daskmoe.fit_local(twice, "y", **options)
    np.testing.assert_allclose(weighted.params["coef"], repeated.params["coef"], rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(
    ("family", "value", "said"),
    [
        ("poisson", -1.0, r"counts \(0, 1, 2, \.\.\.\), got -1"),
        ("gamma", 0.0, r"numbers above zero \(1e-20 to 1e20\), got 0"),
    ],
)
@pytest.mark.parametrize("aggregation", ["auto", "reduction"])
def test_a_target_that_does_not_fit_is_named(family: str, value: float, said: str, aggregation: str) -> None:
    data = simulated(family).compute()
    data["y"][4000] = value
    with pytest.raises(InvalidDataError, match=rf"In .*: expected the target 'y' of {family} .*{said}"):
        daskmoe.fit(
            data.chunk(row=1000), "y", n_experts=2, family=family, aggregation=aggregation, random_state=0
        )


@pytest.mark.parametrize("aggregation", ["auto", "reduction"])
def test_targets_that_do_not_fit_may_be_left_out(aggregation: str) -> None:
    data = simulated("poisson").compute()
    data["y"][4000] = -1
    options = {"n_experts": 2, "family": "poisson", "aggregation": aggregation, "random_state": 0}
    model = daskmoe.fit(data.chunk(row=1000), "y", on_error="skip", **options)
    assert model.diagnostics is not None
    assert model.diagnostics["dropped_rows"].values.tolist() == [0, 0, 0, 0, 1, 0]


@pytest.mark.parametrize(("family", "value"), [("poisson", 0.5), ("gamma", -1.0)])
def test_targets_that_do_not_fit_have_no_score(family: str, value: float) -> None:
    data = simulated(family).compute()
    model = daskmoe.fit_local(data, "y", n_experts=1, family=family)
    data["y"][7] = value
    for verb in (model.log_likelihood, model.log_density, model.responsibilities):
        with pytest.raises(InvalidDataError, match=f"expected the target of {family} experts to be"):
            verb(data)


def test_quantiles_of_huge_counts() -> None:
    family = daskmoe.numerics.families.get_family("poisson")
    eta = np.log(np.array([[[1e9, 1e11, 1e14, 1e17]]]))
    found = family.quantile(0.975, eta, np.zeros((1, 0)))[0]
    mean = np.exp(eta[0, 0])
    np.testing.assert_allclose((found - mean) / np.sqrt(mean), 1.96, rtol=2e-2)


def test_counts_that_are_rare_at_a_level_do_not_stop_a_fit() -> None:
    """Where the sample of the shared start has no event at a level, nothing curves the likelihood."""
    rng = np.random.default_rng(3)
    n, share = 40_000, 1 / np.arange(1, 31) ** 1.3
    level, x = rng.choice(30, n, p=share / share.sum()), np.sort(rng.normal(size=n))
    rate = (1.5 * rng.normal(size=30) - 3)[level] + np.where(x + rng.logistic(size=n) > 0, 0.8, -0.8) * x
    soil = np.array([f"s{k}" for k in range(30)])[level]
    rows = xr.Dataset({"x": ("row", x), "soil": ("row", soil), "y": ("row", rng.poisson(np.exp(rate)))})
    model = daskmoe.fit(rows.chunk(row=n // 4), "y", n_experts=2, family="poisson", random_state=0)
    scores = model.diagnostics["candidate_objective"].to_series()
    steps = scores[["Newton step", "damped step", "short step", "EM step", "sure step"]]
    assert steps.min() > scores["pilot"]

"""Gates with other features than the experts, constant ones, and experts that are constants."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from scipy.stats import norm
from sklearn.mixture import GaussianMixture

import daskmoe
from daskmoe import InvalidDataError, InvalidOptionError, MixtureOfExperts, features
from daskmoe.cli.commands import commands
from daskmoe.cli.job_file import with_job_file

N = 900
OWN = {"features": ["x", "w"], "gate_features": ["z", "w"], "n_experts": 2, "random_state": 0}


def simulated(n: int = N, seed: int = 0) -> xr.Dataset:
    """Experts along x and w, a gate along z; rows in order of z, so that partitions differ."""
    rng = np.random.default_rng(seed)
    x, z, w = rng.normal(size=(3, n))
    z = np.sort(z)
    first = rng.random(n) < 1 / (1 + np.exp(-(0.5 + 2 * z)))
    y = np.where(first, 1 + 2 * x + 0.3 * w, -1 - x + w) + rng.normal(size=n) * np.where(first, 0.5, 1.0)
    names = {"x": x, "z": z, "w": w, "y": y}
    return xr.Dataset({name: ("row", values) for name, values in names.items()})


DATA = simulated()


@pytest.fixture(scope="module")
def best() -> MixtureOfExperts:
    return daskmoe.refine(daskmoe.fit_local(DATA, "y", **OWN), DATA, rounds="converged")


def test_parameters_are_labelled_by_their_own_features(best: MixtureOfExperts) -> None:
    assert best.params["gate_coef"].dims == ("expert", "gate_feature")
    assert best.params["gate_feature"].values.tolist() == ["z", "w"]
    assert best.params["coef"].dims == ("expert", "feature")
    assert best.params["feature"].values.tolist() == ["x", "w"]
    # One gate of three weights, two experts of three, two variances.
    assert best.n_parameters == 3 + 6 + 2
    own = best.params.isel(expert=np.argsort(best.params["intercept"].values))
    np.testing.assert_allclose(own["coef"], [[-1.0, 1.0], [2.0, 0.3]], atol=0.15)
    slopes = best.params["gate_coef"].sel(gate_feature="z").values
    assert abs(slopes[0] - slopes[1]) == pytest.approx(2.0, abs=0.4)
    errors = best.standard_errors()
    assert errors["gate_coef"].sizes == best.params["gate_coef"].sizes
    assert (errors["coef"] > 0).all()
    assert "gate_coef[z]" in best.table()["parameter"].values
    assert "gate_coef[x]" not in best.table()["parameter"].values
    assert "gate_coef" in best._repr_html_()


def test_features_for_both_are_the_model_without_the_option() -> None:
    one = daskmoe.fit_local(DATA, "y", features=["x", "z"], n_experts=2, random_state=0)
    two = daskmoe.fit_local(
        DATA, "y", features=["x", "z"], gate_features=["x", "z"], n_experts=2, random_state=0
    )
    xr.testing.assert_identical(one.params, two.params)


@pytest.mark.parametrize(
    ("aggregation", "support"),
    [
        ("auto", "labelled"),
        ("auto", "features"),
        ("reduction", "synthetic"),
        ("greedy", "labelled"),
        ("aligned", "labelled"),
        ("weighted", "features"),
    ],
)
def test_every_aggregation(best: MixtureOfExperts, aggregation: str, support: str) -> None:
    model = daskmoe.fit(DATA, "y", partitions=3, aggregation=aggregation, support=support, **OWN)
    lost = best.log_likelihood(DATA) - model.log_likelihood(DATA)
    assert lost < (0.01 if aggregation == "auto" else 0.1) * N
    assert model.params["gate_coef"].sizes["gate_feature"] == 2


@pytest.mark.filterwarnings("ignore:No local estimate knows")
@pytest.mark.parametrize("aggregation", ["reduction", "aligned"])
def test_partitions_that_do_not_know_a_gate_slope(aggregation: str) -> None:
    data = DATA.assign(site=("row", (np.arange(N) >= N // 3).astype(float)))
    own = OWN | {"features": ["x"], "gate_features": ["w", "site"]}
    model = daskmoe.fit(data, "y", partitions=3, aggregation=aggregation, **own)
    assert np.isfinite(model.log_likelihood(data))
    # No weight of a feature that is not theirs.
    gate, coef = model.parameters.gate, model.parameters.coef
    assert model.feature_names == ("x", "w", "site")
    assert not gate[:, 1].any()
    assert not coef[..., 2:].any()


@pytest.mark.parametrize(
    "own",
    [{}, {"gate_features": []}, {"features": [], "gate_features": ["z", "x"]}],
)
def test_any_chunking_gives_the_same_maximum(own: dict[str, list[str]]) -> None:
    options = {**OWN, **own}
    whole = daskmoe.fit(DATA, "y", partitions=1, refine="converged", **options)
    parts = daskmoe.fit(DATA, "y", partitions=5, refine="converged", **options)
    order = [np.argsort(model.params["intercept"].values) for model in (whole, parts)]
    first, second = (model.permute(own) for model, own in zip((whole, parts), order, strict=True))
    xr.testing.assert_allclose(first.params, second.params, rtol=1e-3, atol=1e-3)
    assert whole.log_likelihood(DATA) == pytest.approx(parts.log_likelihood(DATA), abs=1e-3)


def test_a_level_of_the_gates_alone_that_the_pilot_lacks() -> None:
    rng = np.random.default_rng(1)
    n = 12_000
    data = simulated(n, seed=1)
    rare = np.zeros(n)
    rare[rng.choice(n, 12, replace=False)] = 1.0
    data["rare"] = ("row", rare)
    options = {**OWN, "gate_features": ["z", "rare"]}
    whole = daskmoe.fit_local(data, "y", **options)
    model = daskmoe.fit(data, "y", partitions=4, **options)
    assert whole.log_likelihood(data) - model.log_likelihood(data) < 1e-3 * n
    assert model.params["feature"].values.tolist() == ["x", "w"]


def test_constant_gates_are_em_of_a_mixture_of_regressions() -> None:
    design, y = np.column_stack([np.ones(N), DATA["x"], DATA["w"]]), DATA["y"].values
    model = daskmoe.fit(
        DATA, "y", features=["x", "w"], gate_features=[], n_experts=2, partitions=3, refine="converged",
        prior_strength=1e-9, random_state=0,
    )  # fmt: skip
    assert model.params["gate_coef"].sizes["gate_feature"] == 0
    share, coef = np.array([0.5, 0.5]), np.array([[1.0, 1.0, 0.0], [-1.0, -1.0, 0.0]])
    deviation = np.ones(2)
    for _ in range(400):
        joint = share[:, None] * norm.pdf(y, coef @ design.T, deviation[:, None])
        tau = joint / joint.sum(axis=0)
        for k in range(2):
            coef[k] = np.linalg.lstsq(design * np.sqrt(tau[k])[:, None], y * np.sqrt(tau[k]), rcond=None)[0]
            deviation[k] = np.sqrt(np.average((y - design @ coef[k]) ** 2, weights=tau[k]))
        share = tau.mean(axis=1)
    reached = float(np.log(joint.sum(axis=0)).sum())
    assert model.log_likelihood(DATA) == pytest.approx(reached, abs=1e-3)


def test_without_any_feature_it_is_a_gaussian_mixture() -> None:
    rng = np.random.default_rng(0)
    y = np.concatenate([rng.normal(-2, 0.7, 600), rng.normal(1.5, 1.2, 900)])
    data = xr.Dataset({"y": ("row", rng.permutation(y))})
    model = daskmoe.fit(
        data, "y", features=[], gate_features=[], n_experts=2, partitions=3, refine="converged",
        prior_strength=1e-9, random_state=0,
    )  # fmt: skip
    known = GaussianMixture(2, tol=1e-10, max_iter=2_000, random_state=0).fit(y[:, None])
    assert model.log_likelihood(data) == pytest.approx(known.score(y[:, None]) * y.size, abs=1e-2)
    order = np.argsort(model.params["intercept"].values)
    means, variances = known.means_[:, 0], known.covariances_[:, 0, 0]
    theirs = np.argsort(means)
    np.testing.assert_allclose(model.params["intercept"].values[order], means[theirs], rtol=1e-3)
    np.testing.assert_allclose(model.params["variance"].values[order], variances[theirs], rtol=1e-3)
    predicted = model.predict(data)
    assert predicted.sizes == data["y"].sizes
    assert float(predicted.std()) < 1e-12
    told = str(model.summary(data))
    assert "features    0" in told
    assert "coefficients" not in told
    assert "where the experts rule" not in told


@pytest.mark.parametrize(
    "own", [{"features": []}, {"gate_features": []}, {"features": [], "gate_features": []}]
)
def test_a_netcdf_file_holds_models_without_features(own: dict[str, list[str]], tmp_path: Path) -> None:
    model = daskmoe.fit(DATA, "y", partitions=2, **{**OWN, **own})
    model.to_netcdf(tmp_path / "m.nc")
    again = daskmoe.open_model(tmp_path / "m.nc")
    for before, after in zip(
        (model.params, model.diagnostics, model.local_estimates),
        (again.params, again.diagnostics, again.local_estimates),
        strict=True,
    ):
        assert (before is None) == (after is None)
        if before is not None and after is not None:
            xr.testing.assert_identical(before, after)
    xr.testing.assert_identical(model.predict(DATA), again.predict(DATA))


def test_saved_opened_predicted_and_aggregated(best: MixtureOfExperts, tmp_path: Path) -> None:
    best.to_zarr(tmp_path / "m.zarr")
    again = daskmoe.open_model(tmp_path / "m.zarr")
    xr.testing.assert_identical(again.params, best.params)
    xr.testing.assert_allclose(again.standard_errors(), best.standard_errors())
    for ask in ("predict", "gating_probabilities", "responsibilities", "predict_interval", "extrapolation"):
        found, expected = (getattr(model, ask)(DATA) for model in (again, best))
        xr.testing.assert_identical(found, expected)
    logits = best.params["gate_intercept"] + best.params["gate_coef"].dot(
        xr.concat([DATA["z"], DATA["w"]], best.params["gate_feature"]), "gate_feature"
    )
    gates = np.exp(logits) / np.exp(logits).sum("expert")
    np.testing.assert_allclose(best.gating_probabilities(DATA).transpose("expert", "row"), gates, atol=1e-10)
    halves = [DATA.isel(row=slice(s, None, 2)) for s in (0, 1)]
    models = [daskmoe.fit_local(half, "y", **OWN) for half in halves]
    joined = daskmoe.aggregate(models, DATA)
    assert best.log_likelihood(DATA) - joined.log_likelihood(DATA) < 0.01 * N
    turned = best.permute([1, 0])
    xr.testing.assert_allclose(turned.match(best).params, best.params)
    assert turned.log_likelihood(DATA) == pytest.approx(best.log_likelihood(DATA))


def test_terms_of_both_share_their_columns() -> None:
    model = daskmoe.fit_local(
        DATA, "y", features=["x", features.powers("w", 2)], gate_features=[features.powers("z", 2), "w"],
        n_experts=2, random_state=0,
    )  # fmt: skip
    assert model.params["feature"].values.tolist() == ["x", "w", "w^2"]
    assert model.params["gate_feature"].values.tolist() == ["z", "z^2", "w"]
    assert model.feature_names == ("x", "w", "w^2", "z", "z^2")
    richer = daskmoe.fit_local(
        DATA, "y", features=["x", "w"], gate_features=[features.powers("w", 3)], n_experts=1
    )
    assert richer.params["gate_feature"].values.tolist() == ["w", "w^2", "w^3"]


def test_checkpoints_and_selection(tmp_path: Path) -> None:
    first = daskmoe.fit(DATA, "y", partitions=3, checkpoint=tmp_path, **OWN)
    again = daskmoe.fit(DATA, "y", partitions=3, checkpoint=tmp_path, **OWN)
    xr.testing.assert_identical(first.params, again.params)
    options = {name: value for name, value in OWN.items() if name != "n_experts"}
    selection = daskmoe.select_n_experts(DATA, "y", n_experts=[1, 2, 3], partitions=3, **options)
    assert selection.n_experts == 2
    assert selection.table["n_parameters"].sel(n_experts=2) == 11


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(InvalidOptionError, match="gate_features="):
        daskmoe.fit_local(DATA, "y", features=[], n_experts=2)
    with pytest.raises(InvalidDataError, match="'y' cannot be a feature"):
        daskmoe.fit_local(DATA, "y", gate_features=["y"], n_experts=2)
    with pytest.raises(InvalidDataError, match="variable 'nowhere'"):
        daskmoe.fit_local(DATA, "y", gate_features=["nowhere"], n_experts=2)
    models = [daskmoe.fit_local(DATA, "y", n_experts=2, random_state=0, gate_features=g) for g in ("x", "z")]
    with pytest.raises(InvalidDataError, match="features of the gates"):
        daskmoe.aggregate(models, DATA)


def test_a_job_file_and_the_estimator(tmp_path: Path) -> None:
    job = tmp_path / "job.yaml"
    job.write_text("n_experts: 2\nfeatures: [x, w]\ngate_features: []\n")
    spelled = with_job_file(["fit", str(job)], commands)
    assert spelled[spelled.index("--gate-features") + 1] == ""
    table = DATA.to_dataframe()
    estimator = daskmoe.MoERegressor(n_experts=2, features=["x", "w"], gate_features=["z"], random_state=0)
    estimator.fit(table[["x", "z", "w"]], table["y"])
    assert estimator.model_.params["gate_feature"].values.tolist() == ["z"]
    assert estimator.score(table[["x", "z", "w"]], table["y"]) > 0.4

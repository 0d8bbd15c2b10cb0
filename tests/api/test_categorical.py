"""Targets that are labels, through what a caller can ask for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from sklearn.linear_model import LogisticRegression

import daskmoe
from daskmoe import InvalidDataError, InvalidOptionError, MixtureOfExperts

N = 3_000
LABELS = np.array(["calm", "mild", "wild"])
# Of the classes but the first: two experts that tell them by the second feature in other directions.
COEF = np.array([[[0.5, 0.0, 4.0], [0.0, 0.0, 2.0]], [[-0.5, 0.0, -4.0], [1.0, 0.0, 1.0]]])


def simulated(n: int = N, seed: int = 0, by: int | None = None) -> xr.Dataset:
    """Two experts, a gate along the first feature; rows in order of a feature where asked."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 2))
    second = (rng.random(n) < 1 / (1 + np.exp(-4 * x[:, 0]))).astype(int)
    eta = np.einsum("icj,ij->ic", COEF[second], np.column_stack([np.ones(n), x]))
    code = (np.column_stack([np.zeros(n), eta]) + rng.gumbel(size=(n, 3))).argmax(axis=1)
    order = np.arange(n) if by is None else np.argsort(x[:, by])
    data = xr.Dataset({"X": (("row", "feature"), x[order]), "y": ("row", LABELS[code[order]])})
    return data.assign_coords(feature=["u", "v"]).chunk(row=n // 3)


def fit(data: xr.Dataset, n_experts: int = 2, **options: Any) -> MixtureOfExperts:
    options = {"family": "categorical", "random_state": 0, "n_init": 6} | options
    return daskmoe.fit(data, "y", n_experts=n_experts, **options)


@pytest.fixture(scope="module")
def data() -> xr.Dataset:
    return simulated()


@pytest.fixture(scope="module")
def best(data: xr.Dataset) -> MixtureOfExperts:
    return daskmoe.fit_local(data, "y", n_experts=2, family="categorical", random_state=0)


@pytest.mark.parametrize("by", [None, 0])
def test_one_step_is_next_to_the_fit_of_all_rows(best: MixtureOfExperts, by: int | None) -> None:
    data = simulated(by=by)
    model = fit(data)
    assert abs(best.log_likelihood(data) - model.log_likelihood(data)) / N < 1e-3
    refined = daskmoe.refine(model, data, rounds=3)
    assert abs(best.log_likelihood(data) - refined.log_likelihood(data)) / N < 1e-5


@pytest.mark.parametrize("options", [{"aggregation": "reduction"}, {"support": "features"}])
def test_other_aggregations_take_labels(
    data: xr.Dataset, best: MixtureOfExperts, options: dict[str, str]
) -> None:
    model = fit(data, **options)
    assert best.log_likelihood(data) - model.log_likelihood(data) < 0.01 * N


def test_parameters_have_the_classes(best: MixtureOfExperts) -> None:
    assert best.params["coef"].dims == ("expert", "class", "feature")
    assert best.params["intercept"].dims == ("expert", "class")
    assert best.params["class"].values.tolist() == LABELS.tolist()
    assert not best.params["coef"].sel({"class": "calm"}).any()
    order = np.argsort(-best.params["coef"].sel({"class": "mild", "feature": "v"}).values)
    np.testing.assert_allclose(best.params["coef"].values[order, 1:], COEF[..., 1:], atol=0.6)


def test_predictions_are_labels_and_lazy(data: xr.Dataset, best: MixtureOfExperts) -> None:
    chances, predicted = best.predict_proba(data), best.predict(data)
    assert chances.dims == ("class", "row")
    assert isinstance(chances.data, da.Array)
    assert isinstance(predicted.data, da.Array)
    assert predicted.dtype.kind == "U"
    assert bool((abs(chances.sum("class") - 1) < 1e-12).all())
    most = chances["class"].values[chances.values.argmax(axis=0)]
    assert (predicted.values == most).all()
    assert best.score(data) == pytest.approx(float((predicted == data["y"]).mean()))
    assert best.score(data) > 0.6
    gates, own = best.gating_probabilities(data).values, []
    for coef, intercept in zip(best.params["coef"].values, best.params["intercept"].values, strict=True):
        odds = np.exp(intercept[:, None] + coef @ data["X"].values.T)
        own.append(odds / odds.sum(axis=0))
    np.testing.assert_allclose(chances.values, np.einsum("kn,kjn->jn", gates, np.array(own)), atol=1e-12)
    density = np.log(
        np.take_along_axis(chances.values, np.searchsorted(LABELS, data["y"].values)[None], 0)[0]
    )
    np.testing.assert_allclose(best.log_density(data).values, density, atol=1e-10)
    assert bool((abs(best.responsibilities(data).sum("expert") - 1) < 1e-12).all())
    assert set(np.unique(best.assign_experts(data))) == {0, 1}
    drawn = best.sample(data, random_state=0)
    assert {*np.unique(drawn.values)} == {*LABELS}
    assert float((drawn == "mild").mean()) == pytest.approx(float((data["y"] == "mild").mean()), abs=0.02)


def test_what_needs_an_order_is_refused(data: xr.Dataset, best: MixtureOfExperts) -> None:
    with pytest.raises(InvalidDataError, match=r"^predict_interval: .* use model\.predict_proba\(data\)\.$"):
        best.predict_interval(data)
    with pytest.raises(InvalidDataError, match="expected a model of classes, got one of gaussian experts"):
        daskmoe.simulate(10, n_features=1, n_experts=1)[1].predict_proba(data)


def test_errors_are_of_every_class(data: xr.Dataset, best: MixtureOfExperts) -> None:
    model = daskmoe.refine(best, data, rounds="converged")
    errors, interval = model.standard_errors(), model.confidence_interval()
    assert errors["coef"].dims == ("expert", "class", "feature")
    assert not errors["intercept"].sel({"class": "calm"}).any()
    assert bool((errors["coef"].sel({"class": ["mild", "wild"]}) > 0).all())
    order = np.argsort(-model.params["coef"].sel({"class": "mild", "feature": "v"}).values)
    distance = (model.params["coef"].values[order, 1:] - COEF[..., 1:]) / errors["coef"].values[order, 1:]
    assert np.abs(distance).max() < 4
    assert interval["coef"].sel(bound="upper").shape == (2, 3, 2)
    covariance = model.covariance("robust")
    assert "coef[0, mild, v]" in covariance["parameter"].values
    assert covariance["class"].sel(parameter="intercept[1, wild]") == "wild"
    table = model.table(data)
    assert table["estimate"].sel(parameter="coef[mild, v]").dims == ("expert",)
    assert "coef[calm, v]" not in table["parameter"].values
    assert float(table["accuracy"]) == pytest.approx(model.score(data))
    said = str(model.summary(data))
    assert "classes     3: mild, wild, against calm" in said
    assert "intercept[mild]" in said
    assert "intercept[wild]" in model._repr_html_()
    swapped = model.permute([1, 0])
    np.testing.assert_allclose(swapped.standard_errors()["coef"][::-1], errors["coef"], rtol=1e-9)
    assert swapped.match(model) == model


def test_a_model_is_saved_and_joined(data: xr.Dataset, best: MixtureOfExperts, tmp_path: Path) -> None:
    best.to_zarr(tmp_path / "model.zarr")
    best.to_netcdf(tmp_path / "model.nc")
    for name in ("model.zarr", "model.nc"):
        opened = daskmoe.open_model(tmp_path / name)
        assert opened == best
        assert (opened.predict(data) == best.predict(data)).all()
    halves = [data.isel(row=slice(0, 1500)), data.isel(row=slice(1500, None))]
    models = [
        daskmoe.fit_local(half, "y", n_experts=2, family="categorical", random_state=0, n_init=3)
        for half in halves
    ]
    joined = daskmoe.aggregate(models, data)
    assert best.log_likelihood(data) - joined.log_likelihood(data) < 0.01 * N
    assert daskmoe.transportation_divergence(joined, best, data) < 0.05
    other = daskmoe.fit_local(data, "y", n_experts=1, family="categorical", categories={"y": LABELS[::-1]})
    with pytest.raises(InvalidDataError, match="expected the same classes of the target in all"):
        daskmoe.aggregate([best, other], data)


def test_one_expert_is_the_regression_of_scikit_learn(data: xr.Dataset) -> None:
    theirs = LogisticRegression(C=np.inf, tol=1e-12, max_iter=10_000).fit(data["X"].values, data["y"].values)
    expected = theirs.predict_proba(data["X"].values)
    options = {"n_experts": 1, "family": "categorical", "random_state": 0}
    whole = daskmoe.fit_local(data, "y", **options)
    parts = daskmoe.fit(data.chunk(row=500), "y", **options, refine="converged")
    for ours in (whole, parts):
        np.testing.assert_allclose(ours.predict_proba(data).values.T, expected, atol=1e-6)


def test_one_expert_of_separable_classes_is_finite() -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(2_000, 2))
    rows = xr.Dataset({"X": (("row", "feature"), X), "y": ("row", X[:, 0] > 0)}).chunk(row=500)
    options = {"n_experts": 1, "family": "categorical", "random_state": 0}
    refined = daskmoe.fit(rows, "y", **options, refine="converged")
    for model in (daskmoe.fit_local(rows, "y", **options), refined):
        assert np.isfinite(model.params["coef"].values).all()
        assert bool((model.predict(rows) == rows["y"]).all())


def labels_of(kind: str, code: np.ndarray[Any, Any]) -> xr.DataArray:
    """A target of two classes as its many forms have it."""
    if kind == "categorical":
        return xr.DataArray(pd.Categorical.from_codes(code, ["low", "high"]), dims="row")
    if kind == "flags":
        attrs = {"flag_values": np.array([3, 7]), "flag_meanings": "low high"}
        return xr.DataArray(np.array([3, 7])[code], dims="row", attrs=attrs)
    values: dict[str, Any] = {
        "bool": code == 1,
        "integer": 10 + code,
        "float": code.astype(float),
        "objects": np.array(["low", "ok"], dtype=object)[code],
    }
    return xr.DataArray(values[kind], dims="row")


@pytest.mark.parametrize(
    ("kind", "labels", "predicted"),
    [
        ("categorical", ["low", "high"], ["high", "low"]),
        ("flags", ["low", "high"], [3, 7]),
        ("bool", [False, True], [0, 1]),
        ("integer", [10, 11], [10, 11]),
        ("float", [0.0, 1.0], [0, 1]),
        ("objects", ["low", "ok"], ["low", "ok"]),
    ],
)
def test_every_kind_of_label(kind: str, labels: list[Any], predicted: list[Any], tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=400)
    code = (x + rng.logistic(size=400) > 0).astype(int)
    data = xr.Dataset({"x": ("row", x), "y": labels_of(kind, code)})
    model = fit(data, 1, partitions=2)
    assert model.params["class"].values.tolist() == labels
    assert np.unique(model.predict(data)).tolist() == predicted
    assert (model.predict(data).dtype == bool) == (kind == "bool")
    assert model.predict(data[["x"]].chunk(row=200)).equals(model.predict(data[["x"]]))
    assert model.score(data) > 0.6
    model.to_netcdf(tmp_path / "model.nc")
    opened = daskmoe.open_model(tmp_path / "model.nc")
    assert opened.params["class"].values.tolist() == labels
    assert opened.params["class"].dtype == model.params["class"].dtype
    found = opened.predict(data)
    assert found.attrs.get("flag_meanings") == ("low high" if kind == "flags" else None)
    found.to_dataset().to_netcdf(tmp_path / "predicted.nc", engine="scipy")


def test_missing_inputs_have_no_label(data: xr.Dataset, best: MixtureOfExperts) -> None:
    holed = data.compute()
    holed["X"][5, 0] = np.nan
    assert best.predict(holed)[5] == ""
    assert np.isnan(best.predict_proba(holed)[:, 5]).all()
    holed["y"][7] = ""
    with pytest.raises(InvalidDataError, match="missing or infinite values in 2 of 3000 rows"):
        best.score(holed)
    assert best.score(holed, on_error="skip") > 0.6


def test_labels_that_are_no_class_are_named(data: xr.Dataset, best: MixtureOfExperts) -> None:
    strange = data.compute()
    strange["y"] = strange["y"].astype(object)
    strange["y"][9] = "odd"
    said = r"Target 'y' has labels that are none of the classes 'calm', 'mild', 'wild': 'odd'"
    for verb in (best.score, best.log_likelihood, best.responsibilities):
        with pytest.raises(InvalidDataError, match=said):
            verb(strange)
    with pytest.raises(InvalidDataError, match=f"In .*: {said}"):
        daskmoe.refine(best, strange)
    assert best.score(strange, on_error="skip") == pytest.approx(best.score(data), abs=1e-3)
    refined = daskmoe.refine(best, strange, on_error="skip")
    assert refined.weight == N - 1


def test_a_class_may_be_absent_somewhere_but_not_everywhere(data: xr.Dataset) -> None:
    sorted_by_class = data.compute().sortby("y").chunk(row=500)
    model = fit(sorted_by_class)
    best = daskmoe.fit_local(data, "y", n_experts=2, family="categorical", random_state=0)
    refined = daskmoe.refine(model, sorted_by_class, rounds=3)
    assert (best.log_likelihood(data) - refined.log_likelihood(data)) / N < 1e-3
    with pytest.raises(InvalidDataError, match=r"Expected every class of .* 'y' .* got none of 'storm'"):
        fit(data, categories={"y": [*LABELS, "storm"]})
    with pytest.raises(InvalidDataError, match="expected 2 to 100 classes, got 1 different values"):
        fit(data.assign(y=xr.full_like(data["y"], "calm")))
    with pytest.raises(InvalidDataError, match=r"has dtype datetime64.*expected labels: text"):
        fit(data.assign(y=("row", pd.date_range("2024", periods=N))))


def test_the_first_class_is_the_reference(data: xr.Dataset, best: MixtureOfExperts) -> None:
    turned = fit(data, categories={"y": ["wild", "calm", "mild"]}, refine="converged")
    assert turned.params["class"].values.tolist() == ["wild", "calm", "mild"]
    assert not turned.params["intercept"].sel({"class": "wild"}).any()
    np.testing.assert_allclose(
        turned.predict_proba(data).sel({"class": LABELS}).values, best.predict_proba(data).values, atol=0.02
    )


def test_the_number_of_experts_is_selected(data: xr.Dataset) -> None:
    options = {"family": "categorical", "random_state": 0, "n_init": 4}
    with pytest.warns(daskmoe.FitWarning, match="the last candidate, 2"):
        selection = daskmoe.select_n_experts(data, "y", n_experts=[1, 2], **options)
    assert selection.model.n_experts == 2


def test_pictures_of_labels(best: MixtureOfExperts, data: xr.Dataset) -> None:
    pyplot = pytest.importorskip("matplotlib.pyplot")
    model = fit(data)
    assert model.plot.experts(data, "v").get_ylabel() == "probability of 'wild'"
    assert model.plot.coefficients().get_yticklabels()[0].get_text() == "mild, u"
    assert model.plot.partitions().get_ylabel() == "intercept of mild [1]"
    assert model.plot.partitions("wild, v").get_ylabel() == "coefficient of wild, v"
    for draw in (best.plot.residuals, best.plot.calibration):
        with pytest.raises(InvalidDataError, match="expected a model of numbers, got one of 3 classes"):
            draw(data)
    pyplot.close("all")


@pytest.mark.parametrize("option", [{"clip": True}, {"dtype": "float32"}], ids=str)
def test_options_of_numbers_are_refused(
    option: dict[str, Any], best: MixtureOfExperts, data: xr.Dataset
) -> None:
    with pytest.raises(InvalidOptionError, match="expected none, as predictions are classes"):
        best.predict(data, **option)


@pytest.mark.parametrize("family", ["categorical", "poisson"])
def test_experts_without_a_scale_have_no_least_one(family: str) -> None:
    data = xr.Dataset({"x": ("row", np.arange(8.0)), "y": ("row", np.arange(8) % 2)})
    with pytest.raises(InvalidOptionError, match=f"min_scale: expected None with family='{family}'"):
        daskmoe.fit(data, "y", n_experts=1, family=family, min_scale=0.1)


def test_classes_that_are_rare_at_a_level_do_not_stop_a_fit() -> None:
    """Where the sample of the shared start lacks a pair of class and level, nothing curves the likelihood."""
    rng = np.random.default_rng(7)
    n, share = 60_000, 1 / np.arange(1, 31) ** 1.3
    level, x = rng.choice(30, n, p=share / share.sum()), rng.normal(size=(n, 2))
    logits = np.log([0.45, 0.45, 0.06, 0.03, 0.01]) + 0.7 * rng.normal(size=(30, 5))[level]
    logits += np.where(x[:, :1] + rng.logistic(size=(n, 1)) > 0, x, -x) @ rng.normal(size=(2, 5))
    y = np.argmax(logits + rng.gumbel(size=logits.shape), axis=1)
    soil = np.array([f"s{k}" for k in range(30)])[level]
    rows = xr.Dataset({"X": (("row", "feature"), x), "soil": ("row", soil), "y": ("row", y)})
    options = {"n_experts": 2, "family": "categorical", "random_state": 0}
    model = daskmoe.fit(rows.chunk(row=n // 4), "y", **options)
    scores = model.diagnostics["candidate_objective"].to_series()
    assert scores.drop(["pilot", "reduction"]).max() > scores["pilot"] + 0.005

"""Experts in another order and under names, their shares, and which of them rows belong to."""

from __future__ import annotations

import dask
import numpy as np
import pytest
import xarray as xr

import daskmoe
from daskmoe import InvalidDataError, InvalidOptionError, MixtureOfExperts, NotAtOptimumError

NAMES = ["calm", "gale", "storm"]


@pytest.fixture(scope="module")
def data() -> xr.Dataset:
    found, _ = daskmoe.simulate(2_400, n_features=2, n_experts=3, chunks=800, random_state=1)
    return found


@pytest.fixture(scope="module")
def model(data: xr.Dataset) -> MixtureOfExperts:
    return daskmoe.refine(
        daskmoe.fit(data, "y", n_experts=3, n_init=3, random_state=0), data, rounds="converged"
    )


@pytest.fixture(scope="module")
def named(model: MixtureOfExperts) -> MixtureOfExperts:
    return model.rename_experts(NAMES)


@pytest.mark.parametrize("order", [[2, 0, 1], [1, 0, 2], [0, 2, 1]])
def test_another_order_is_the_same_model(model: MixtureOfExperts, data: xr.Dataset, order: list[int]) -> None:
    turned = model.permute(order)
    xr.testing.assert_allclose(turned.predict(data), model.predict(data))
    assert turned.log_likelihood(data) == pytest.approx(model.log_likelihood(data), rel=1e-12)
    for name in ("intercept", "coef", "variance"):
        np.testing.assert_array_equal(turned.params[name], model.params[name].isel(expert=order))
    assert float(abs(turned.params["gate_coef"][-1]).max()) == 0.0
    np.testing.assert_array_equal(turned.expert_shares(), model.expert_shares().isel(expert=order))
    assert turned.diagnostics is not None
    assert model.diagnostics is not None
    np.testing.assert_array_equal(
        turned.diagnostics["plan_mass"], model.diagnostics["plan_mass"].isel(expert=order)
    )
    assert turned.params["coef"].attrs == model.params["coef"].attrs
    back = turned.permute(np.argsort(order).tolist())
    xr.testing.assert_allclose(back.params, model.params, atol=1e-12)
    xr.testing.assert_allclose(back.standard_errors("robust"), model.standard_errors("robust"), atol=1e-9)


@pytest.mark.parametrize("kind", ["model", "robust", "cluster"])
def test_errors_follow_and_contrasts_of_gates_are_those_of_the_covariance(
    model: MixtureOfExperts, kind: str
) -> None:
    turned = model.permute([2, 0, 1])
    errors, before = turned.standard_errors(kind), model.standard_errors(kind)
    for name in ("intercept", "coef", "variance"):
        np.testing.assert_allclose(errors[name], before[name].isel(expert=[2, 0, 1]), rtol=1e-9)
    covariance = model.covariance(kind)
    a, b = "gate_coef[0, x0]", "gate_coef[1, x0]"
    pairs = {(i, j): float(covariance.sel(parameter=i, other_parameter=j)) for i in (a, b) for j in (a, b)}
    # Expert 1 is the reference now, and experts 2 and 0 are before it.
    expected = [pairs[b, b] ** 0.5, (pairs[a, a] + pairs[b, b] - 2 * pairs[a, b]) ** 0.5, 0.0]
    np.testing.assert_allclose(errors["gate_coef"].sel(feature="x0"), expected, rtol=1e-9)


def test_of_many_parameters_the_gates_have_no_errors_under_another_reference(model: MixtureOfExperts) -> None:
    assert model.diagnostics is not None
    lean = MixtureOfExperts(
        model.params,
        model.diagnostics.drop_vars("covariance"),
        None,
        family="gaussian",
        rows=model.rows,
        options={},
    )
    same = lean.permute([1, 0, 2]).standard_errors()
    xr.testing.assert_allclose(same, model.permute([1, 0, 2]).standard_errors())
    other = lean.permute([2, 0, 1]).standard_errors()
    np.testing.assert_allclose(other["coef"], model.standard_errors()["coef"].isel(expert=[2, 0, 1]))
    assert other["gate_coef"].isnull().any("feature").values.tolist() == [False, True, False]


def test_what_is_not_identified_stays_so(data: xr.Dataset) -> None:
    constant = data.assign(c=xr.full_like(data["y"], 2.0))
    options = {"n_experts": 3, "n_init": 2, "random_state": 0}
    fitted = daskmoe.fit_local(constant, "y", **options)
    model = daskmoe.refine(fitted, constant, rounds="converged")
    errors = model.permute([2, 0, 1]).standard_errors()
    for name in ("coef", "gate_coef"):
        assert bool(errors[name].sel(feature="c").isnull().all())
        assert bool(errors[name].sel(feature="x0").notnull().all())


def test_matching_undoes_any_order(model: MixtureOfExperts, data: xr.Dataset) -> None:
    turned = model.permute([1, 2, 0]).match(model)
    np.testing.assert_array_equal(turned.params["coef"], model.params["coef"])
    _, truth = daskmoe.simulate(2_400, n_features=2, n_experts=3, chunks=800, random_state=1)
    # The truth does not know rows; the other does.
    matched = truth.permute([2, 0, 1]).match(model)
    assert float(abs(matched.params["coef"] - model.params["coef"]).max()) < 1.0
    few = daskmoe.fit_local(data, "y", n_experts=2, n_init=2, random_state=0)
    assert few.match(model).n_experts == 2
    more = model.permute([2, 1, 0]).match(few)
    first = few.match(model)
    assert more.n_experts == 3
    assert first.n_experts == 2


def test_matching_is_by_label(model: MixtureOfExperts, data: xr.Dataset) -> None:
    swapped = daskmoe.fit_local(
        data.isel(feature=[1, 0]), "y", n_experts=3, n_init=3, random_state=0
    ).permute([2, 1, 0])
    assert swapped.feature_names == model.feature_names[::-1]
    found = swapped.match(model).params["coef"].sel(feature=model.params["feature"])
    np.testing.assert_allclose(found, model.params["coef"], atol=0.3)


def test_models_that_do_not_fit_are_not_matched(model: MixtureOfExperts) -> None:
    other, truth = daskmoe.simulate(50, n_features=3, n_experts=3, random_state=0)
    with pytest.raises(InvalidDataError, match="of the features"):
        model.match(truth)
    with pytest.raises(InvalidDataError, match="knows the means"):
        truth.match(truth)
    with pytest.raises(InvalidDataError, match="expected a model, got Dataset"):
        model.match(other)  # type: ignore[arg-type]


@pytest.mark.parametrize("order", [[0, 1], [0, 0, 1], [0, 1, 3], ["calm", 1, 2], ["0", "1", "2"]])
def test_an_order_has_every_expert_once(model: MixtureOfExperts, order: list[int | str]) -> None:
    with pytest.raises(InvalidOptionError, match="order: expected every expert"):
        model.permute(order)


@pytest.mark.parametrize("names", [["a", "b"], ["a", "b", "b"], ["a", "b", ""], "abc", [0, 1, 2]])
def test_names_are_one_an_expert(model: MixtureOfExperts, names: list[str]) -> None:
    with pytest.raises(InvalidOptionError, match="names: expected 3 different names"):
        model.rename_experts(names)


def test_names_are_labels_everywhere(
    named: MixtureOfExperts, model: MixtureOfExperts, data: xr.Dataset
) -> None:
    assert named.params["expert"].values.tolist() == NAMES
    for found in (named.gating_probabilities(data), named.responsibilities(data), named.expert_shares()):
        assert found["expert"].values.tolist() == NAMES
    np.testing.assert_array_equal(
        named.gating_probabilities(data).sel(expert="gale"), model.gating_probabilities(data)[1]
    )
    assert "coef[storm, x1]" in named.covariance()["parameter"]
    errors = named.standard_errors()["coef"].sel(expert="calm")
    np.testing.assert_array_equal(errors, model.standard_errors()["coef"][0])
    assert named.confidence_interval()["coef"].sel(expert="calm").dims == ("bound", "feature")
    assert named.table()["estimate"].sel(expert="storm").notnull().all()
    assert "storm" in named.summary()
    assert "expert 0" not in named.summary() + named._repr_html_()
    assert "storm" in named._repr_html_()
    xr.testing.assert_identical(named.predict(data), model.predict(data))


def test_names_go_along(named: MixtureOfExperts, model: MixtureOfExperts, data: xr.Dataset) -> None:
    turned = named.permute(["storm", "calm", "gale"])
    assert turned.params["expert"].values.tolist() == ["storm", "calm", "gale"]
    np.testing.assert_array_equal(turned.params["coef"].sel(expert="gale"), model.params["coef"][1])
    # A round may sort the experts anew.
    refined = daskmoe.refine(turned, data, rounds="converged")
    np.testing.assert_allclose(refined.params["coef"].sel(expert="gale"), model.params["coef"][1], atol=1e-3)
    joined = daskmoe.aggregate([named, turned], data, n_experts=3, random_state=0)
    assert joined.params["expert"].values.tolist() == [0, 1, 2]


@pytest.mark.parametrize("save", [MixtureOfExperts.to_zarr, MixtureOfExperts.to_netcdf])
def test_names_are_saved(named: MixtureOfExperts, tmp_path, save) -> None:  # type: ignore[no-untyped-def]
    save(named, tmp_path / "model")
    opened = daskmoe.open_model(tmp_path / "model")
    assert opened == named
    assert opened.params["expert"].dtype.kind == "U"
    np.testing.assert_array_equal(
        opened.params["coef"].sel(expert="gale"), named.params["coef"].sel(expert="gale")
    )


def test_rows_are_assigned_to_the_most_likely_expert(named: MixtureOfExperts, data: xr.Dataset) -> None:
    gaps = data.copy(deep=True)
    gaps["X"][3, 0] = np.nan
    by_target, by_gate = named.assign_experts(gaps), named.assign_experts(gaps, "gate")
    assert by_target.dims == data["y"].dims
    assert np.flatnonzero(by_target.isnull()).tolist() == [3]
    kept = np.arange(data.sizes["row"]) != 3
    for found, chances in (
        (by_target, named.responsibilities(data)),
        (by_gate, named.gating_probabilities(data)),
    ):
        np.testing.assert_array_equal(found[kept], chances.values.argmax(axis=0)[kept])
    xr.testing.assert_identical(
        named.assign_experts(gaps.drop_vars("y")).compute().drop_attrs(), by_gate.compute().drop_attrs()
    )
    assert by_target.chunksizes == data["y"].chunksizes
    assert by_target.attrs["flag_meanings"] == "calm gale storm"
    assert not (by_target.values == by_gate.values).all()
    with pytest.raises(InvalidOptionError, match="by: expected"):
        named.assign_experts(data, "y")  # type: ignore[arg-type]


def test_assignments_are_written_as_flags(named: MixtureOfExperts, data: xr.Dataset, tmp_path) -> None:  # type: ignore[no-untyped-def]
    gaps = data.compute()
    gaps["y"][0] = np.nan
    found = named.assign_experts(gaps)
    found.to_dataset().to_netcdf(tmp_path / "a.nc", engine="scipy")
    with xr.open_dataset(tmp_path / "a.nc", mask_and_scale=False) as raw:
        assert raw["expert"].dtype == np.int32
        assert raw["expert"].values[0] == -1
        assert raw["expert"].attrs["flag_values"].tolist() == [0, 1, 2]
    with xr.open_dataset(tmp_path / "a.nc") as opened:
        np.testing.assert_array_equal(opened["expert"], found)


def test_shares_of_rows(model: MixtureOfExperts, data: xr.Dataset) -> None:
    np.testing.assert_allclose(model.expert_shares(), model.expert_shares(data), rtol=1e-6)
    by_gate = model.expert_shares(data.drop_vars("y"))
    np.testing.assert_allclose(by_gate, model.gating_probabilities(data).mean("row"))
    _, truth = daskmoe.simulate(10, n_features=2, n_experts=2, random_state=0)
    with pytest.raises(InvalidDataError, match="expert_shares"):
        truth.expert_shares()


def test_models_are_equal_if_all_of_them_is(model: MixtureOfExperts, named: MixtureOfExperts) -> None:
    again = model.rename_experts(NAMES)
    assert again == named != model
    assert hash(again) == hash(named)
    assert model != "model"
    assert dask.base.tokenize(again) == dask.base.tokenize(named) != dask.base.tokenize(model)


def test_an_older_model_keeps_what_it_can(model: MixtureOfExperts) -> None:
    assert model.diagnostics is not None
    errors = {
        f"standard_error_{name}": values.expand_dims(kind=["model"])
        for name, values in model.standard_errors().items()
    }
    known = model.diagnostics.drop_dims("parameter").drop_vars("kind").assign(errors)
    old = MixtureOfExperts(model.params, known, None, family="gaussian", rows=model.rows, options={}).permute(
        [2, 0, 1]
    )
    np.testing.assert_allclose(
        old.standard_errors()["coef"], model.standard_errors()["coef"].isel(expert=[2, 0, 1])
    )
    assert bool(old.standard_errors()["gate_coef"].isnull().all())
    np.testing.assert_allclose(
        old.rename_experts(NAMES).standard_errors()["coef"], old.standard_errors()["coef"]
    )
    with pytest.raises(NotAtOptimumError):
        old.covariance()


@pytest.mark.parametrize("family", ["poisson", "gamma"])
def test_other_families(family: str) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=1_500)
    mean = np.exp(np.where(x > 0, 1 + x, 0.5 - 0.5 * x))
    y = rng.poisson(mean).astype(float) if family == "poisson" else rng.gamma(4.0, mean / 4)
    rows = xr.Dataset({"x": ("row", x), "y": ("row", y)})
    fitted = daskmoe.fit_local(rows, "y", n_experts=2, family=family, n_init=2, random_state=0)
    model = daskmoe.refine(fitted, rows, rounds="converged")
    turned = model.permute([1, 0])
    xr.testing.assert_allclose(turned.predict(rows), model.predict(rows))
    errors, before = turned.standard_errors(), model.standard_errors()
    for name in errors.data_vars:
        if not str(name).startswith("gate"):
            np.testing.assert_allclose(errors[name], before[name][::-1], rtol=1e-9, err_msg=str(name))
    np.testing.assert_allclose(errors["gate_coef"][0], before["gate_coef"][0], rtol=1e-9)
    np.testing.assert_array_equal(turned.match(model).params["coef"], model.params["coef"])
    table = model.table(rows)
    # Their spread follows the features.
    assert "standard_deviation" not in table
    assert (table["estimate"] > table["lower"]).sel(parameter="coef[x]").all()
    assert "2 " + family in model.summary()
    assert family in model._repr_html_()

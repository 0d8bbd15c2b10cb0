"""Data as people have them: what can be fitted is predicted by every verb; what cannot is one sentence."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest
import xarray as xr

import daskmoe
from daskmoe import InvalidDataError, InvalidOptionError, MixtureOfExperts
from daskmoe.rows import describe_rows

N = 240


def table() -> pd.DataFrame:
    rng = np.random.default_rng(1)
    x = rng.normal(size=N)
    wind, wet = rng.choice(list("NES"), N), rng.random(N) < 0.4
    y = np.where(x > 0, 3, -1) * x + 2.0 * (wind == "N") + wet + 0.1 * rng.normal(size=N)
    return pd.DataFrame({"x": x, "wind": wind.astype(object), "wet": wet, "y": y})


def one_hot(frame: pd.DataFrame) -> pd.DataFrame:
    coded = pd.get_dummies(frame.astype({"wet": float}), columns=["wind"], drop_first=True, dtype=float)
    return coded[["wet", "wind_N", "wind_S", "x", "y"]]


KINDS: dict[str, Callable[[pd.DataFrame], pd.DataFrame]] = {
    "NumPy": lambda t: t,
    "float32": lambda t: t.astype({"x": "f4"}),
    "big-endian": lambda t: t.astype({"x": ">f8", "y": ">f8"}),
    "nullable numbers": lambda t: t.astype({"x": "Float64", "y": "Float64"}),
    "nullable booleans": lambda t: t.astype({"wet": "boolean"}),
    "pandas text": lambda t: t.astype({"wind": "string"}),
    "categories": lambda t: t.astype({"wind": "category"}),
    "ordered categories": lambda t: t.assign(wind=pd.Categorical(t.wind, list("ENS"), ordered=True)),
    "Arrow": lambda t: t.convert_dtypes(dtype_backend="pyarrow"),
}
VERBS: dict[str, Callable[[MixtureOfExperts, Any], Any]] = {
    "predict": lambda m, d: m.predict(d).values,
    "predict_interval": lambda m, d: m.predict_interval(d)["lower"].values,
    "gating_probabilities": lambda m, d: m.gating_probabilities(d).values,
    "responsibilities": lambda m, d: m.responsibilities(d).values,
    "log_density": lambda m, d: m.log_density(d).values,
    "sample": lambda m, d: m.sample(d, random_state=0).values,
    "score": lambda m, d: m.score(d),
    "log_likelihood": lambda m, d: m.log_likelihood(d),
    "refine": lambda m, d: daskmoe.refine(m, d, rounds=2).params["coef"].values,
    "update": lambda m, d: daskmoe.update(m, d, partitions=2).params["coef"].values,
    "select": lambda m, d: (
        daskmoe.select_n_experts(d, "y", n_experts=[2], partitions=2, random_state=0)
        .models[2]
        .params["coef"]
        .values
    ),
}


@pytest.fixture(scope="module")
def by_hand() -> MixtureOfExperts:
    return daskmoe.fit(one_hot(table()).to_xarray(), "y", n_experts=2, partitions=2, random_state=0)


@pytest.mark.filterwarnings("ignore:The refinement ended short")
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_column_is_fitted_and_predicted_as_one_hot(
    kind: str, by_hand: MixtureOfExperts
) -> None:
    if kind == "Arrow":
        pytest.importorskip("pyarrow")
    frame = KINDS[kind](table())
    model = daskmoe.fit(frame, "y", n_experts=2, partitions=2, random_state=0)
    assert model.feature_names == by_hand.feature_names
    loose = 1e-4 if kind == "float32" else 1e-8
    np.testing.assert_allclose(model.params["coef"], by_hand.params["coef"], rtol=loose, atol=loose)
    for name, verb in VERBS.items():
        expected = verb(by_hand, one_hot(table()).to_xarray())
        for data in (frame, frame.to_xarray()):
            np.testing.assert_allclose(verb(model, data), expected, rtol=loose, atol=loose, err_msg=name)


def test_a_yes_or_no_may_be_missing_where_the_fit_had_none() -> None:
    model = daskmoe.fit(table(), "y", n_experts=1, random_state=0)
    some = table().head(4).astype({"wet": object})
    some.loc[1, "wet"] = None
    missing = model.predict(some).isnull()
    np.testing.assert_array_equal(missing, [False, True, False, False])


@pytest.mark.parametrize("chunks", [None, 50])
def test_text_in_a_store_is_fitted_as_in_memory(
    by_hand: MixtureOfExperts, chunks: int | None, tmp_path: Path
) -> None:
    ds = table().to_xarray()
    encoding = {name: {"chunks": (chunks or N,)} for name in ds.data_vars}
    ds.to_zarr(tmp_path / "store.zarr", consolidated=False, encoding=encoding)
    model = daskmoe.fit(tmp_path / "store.zarr", "y", n_experts=2, partitions=2, random_state=0)
    np.testing.assert_array_equal(model.params["coef"], by_hand.params["coef"])
    np.testing.assert_array_equal(
        model.predict(tmp_path / "store.zarr").values, by_hand.predict(one_hot(table())).values
    )


def test_flags_have_the_names_of_their_meanings() -> None:
    ds = table().to_xarray()
    ds["state"] = ("index", np.arange(N, dtype="i1") % 3)
    ds["state"].attrs = {"flag_values": np.array([0, 1, 2], "i1"), "flag_meanings": "calm breeze storm"}
    schema = describe_rows(ds, "y", ["state", "x"])
    assert schema.feature_labels == ("state_breeze", "state_storm", "x")
    ds["state"].attrs["flag_meanings"] = "calm storm"
    with pytest.raises(InvalidDataError, match=r"'state' .*: expected as many flag_meanings as"):
        describe_rows(ds, "y", ["state"])


def test_levels_may_be_given() -> None:
    ds = table().to_xarray().assign(month=("index", np.arange(N) % 12))
    schema = describe_rows(ds, "y", ["wind", "month"], None, {"wind": ["S", "N", "E", "W"], "month": None})
    assert schema.feature_labels[:3] == ("wind_N", "wind_E", "wind_W")
    assert schema.feature_labels[3:5] == ("month_1", "month_2")
    for given, message in (
        ({"nope": None}, "categories: 'nope' is not among the features"),
        ({"wind": "NES"}, "expected levels by variable"),
        (["wind"], "expected levels by variable"),
    ):
        with pytest.raises(InvalidOptionError, match=message):
            daskmoe.fit(ds, "y", n_experts=2, categories=given)  # type: ignore[arg-type]
    with pytest.raises(InvalidDataError, match=r"Levels of 'wind': expected at least two, each once"):
        daskmoe.fit(ds, "y", n_experts=2, categories={"wind": ["N", "N"]})


def test_levels_that_are_not_given_are_named_with_their_partition() -> None:
    with pytest.raises(
        InvalidDataError, match=r"In partition '[01]': Feature variable 'wind' has levels .*: 'S'"
    ):
        daskmoe.fit(
            table(),
            "y",
            n_experts=2,
            partitions=2,
            aggregation="reduction",
            categories={"wind": ["N", "E"]},
            random_state=0,
        )


def test_unseen_levels_at_prediction_are_named_or_missing() -> None:
    model = daskmoe.fit(table(), "y", n_experts=2, partitions=2, random_state=0)
    new = table().assign(wind=lambda t: t.wind.where(t.x < 1, "NW"))
    for name in ("predict", "predict_interval", "gating_probabilities", "sample", "log_density"):
        with pytest.raises(InvalidDataError, match=r"'wind' has levels that the model does not know: 'NW'"):
            getattr(model, name)(new)
        found = getattr(model, name)(new, on_error="skip")
        found = found["lower"] if name == "predict_interval" else found
        missing = found.isnull()
        missing = missing.any("expert") if "expert" in missing.dims else missing
        np.testing.assert_array_equal(missing, new.x >= 1)


def test_a_level_that_a_partition_lacks_is_no_problem() -> None:
    frame = table().sort_values("wind", ignore_index=True)
    model = daskmoe.fit(frame, "y", n_experts=2, partitions=3, random_state=0)
    assert model.score(frame) > 0.95
    np.testing.assert_allclose(model.params["coef"].sel(feature="wind_N"), 2.0, atol=0.3)


def test_names_of_rows_are_no_levels(caplog: pytest.LogCaptureFixture) -> None:
    frame = table().assign(name=[f"row {i}" for i in range(N)], place="here")
    schema = describe_rows(frame.to_xarray(), "y")
    assert schema.left_out == {
        "name": f"names each of its {N} values differently",
        "place": "has 1 level only, which explains nothing",
    }
    many = pd.DataFrame({"name": [f"row {i}" for i in range(1500)] * 2, "y": 1.0}).to_xarray()
    with pytest.raises(InvalidDataError, match="has 1500 different values, more than the 1000"):
        describe_rows(many, "y", ["name"])


def test_missing_text_is_a_missing_value() -> None:
    frame = table()
    frame.loc[3:5, "wind"] = [None, np.nan, ""]
    with pytest.raises(InvalidDataError, match="'wind' 3"):
        daskmoe.fit(frame, "y", n_experts=2, partitions=2, random_state=0)
    model = daskmoe.fit(frame, "y", n_experts=2, partitions=2, random_state=0, on_error="skip")
    assert model.feature_names == ("wet", "wind_N", "wind_S", "x")
    assert list(np.flatnonzero(model.predict(frame).isnull())) == [3, 4, 5]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.rename(columns={"x": 3}), r"names are text, got \[3\]; .*rename\(columns=str\)"),
        (lambda t: t.rename(columns={"x": 3}).to_xarray(), r"names are text, got \[3\]; rename"),
        (lambda t: t.set_index(["wind", "x"]), "got a MultiIndex; use reset_index"),
        (lambda t: t.to_numpy(), "got numpy.ndarray; label it: xr.Dataset"),
        (lambda t: t["x"].to_xarray(), "got xarray.DataArray; make a dataset of it"),
        (lambda t: t.to_xarray().to_dataarray(), r"a dimension: data.to_dataset\(dim='variable'\)"),
        (lambda t: dd.from_pandas(t, npartitions=2), "DataFrame; label its columns: .*to_dask_array"),
        (lambda t: t["x"], "got pandas.Series; label it"),
        (
            lambda t: t.rename(columns={"wet": "index"}),
            "an index whose name is text and no column's, got 'index'",
        ),
        (lambda t: t.rename_axis("x"), "an index whose name is text and no column's, got 'x'"),
        (lambda t: t.rename_axis(5), "an index whose name is text"),
        (
            lambda t: pd.concat([t, t[["x"]]], axis=1),
            r"columns of different names, got \['x'\] more than once",
        ),
        (lambda t: {"x": 1}, "got builtins.dict"),
    ],
)
def test_what_is_no_dataset_is_answered_with_the_line_that_makes_one(
    change: Callable[[pd.DataFrame], Any], message: str
) -> None:
    with pytest.raises(InvalidDataError, match=message):
        daskmoe.fit(change(table()), "y", n_experts=2)


@pytest.mark.filterwarnings("error::FutureWarning")
def test_rows_of_two_names_are_rows() -> None:
    ds = xr.Dataset(
        {
            name: (("a", "b"), np.random.default_rng(seed).normal(size=(20, 10)))
            for seed, name in enumerate("xe")
        },
        coords={"a": np.arange(20), "b": np.arange(10)},
    )
    ds = ds.assign(y=np.abs(ds["x"]) + 0.1 * ds["e"]).drop_vars("e").stack(row=("a", "b"))
    model = daskmoe.fit(ds, "y", n_experts=2, partitions=2, random_state=0)
    prediction = model.predict(ds)
    assert prediction.indexes["row"].equals(ds.indexes["row"])


def test_members_of_an_ensemble_are_predicted() -> None:
    frame = table()
    model = daskmoe.fit(frame, "y", n_experts=2, partitions=2, random_state=0)
    ds = frame.drop(columns="y").to_xarray()
    members = ds.assign(
        x=ds["x"] + xr.DataArray([0.0, 0.5, 1.0], dims="member", coords={"member": [1, 2, 3]})
    )
    prediction = model.predict(members)
    assert prediction.dims == ("member", "index")
    for i in range(3):
        one = model.predict(members.isel(member=i))
        np.testing.assert_allclose(prediction.isel(member=i), one, rtol=1e-12)
    np.testing.assert_array_equal(model.predict(members.chunk(member=1, index=100)), prediction)


def test_importance_weights_have_no_scale() -> None:
    rng = np.random.default_rng(3)
    frame = table().assign(w=rng.random(N))
    frame.loc[:9, "w"] = 0.0
    options = {"n_experts": 2, "partitions": 2, "sample_weight": "w", "random_state": 0}
    fits = [
        daskmoe.fit(frame.assign(w=frame.w * scale), "y", weight_kind="importance", **options)
        for scale in (1.0, 1e-6, 1e6)
    ]
    assert fits[0].weight == pytest.approx(N - 10)
    for other in fits[1:]:
        np.testing.assert_allclose(other.params["coef"], fits[0].params["coef"], rtol=1e-6)
    refined = daskmoe.refine(fits[1], frame.assign(w=frame.w * 1e-6), rounds="converged")
    as_counts = daskmoe.refine(
        fits[0], frame.assign(w=frame.w * (N - 10) / frame.w.sum()), rounds="converged"
    )
    for kind in ("model", "robust"):
        ours, theirs = (model.standard_errors(kind)["coef"] for model in (refined, as_counts))
        np.testing.assert_allclose(ours, theirs, rtol=1e-4)


def test_models_of_other_codings_are_not_joined() -> None:
    frame = table()
    other = frame.assign(wind=frame.wind.replace("E", "calm"))
    models = [daskmoe.fit_local(each, "y", n_experts=1) for each in (frame[frame.wind != "N"], frame, other)]
    same = daskmoe.fit_local(frame, "y", n_experts=1, categories={"wind": ["E", "N", "S"]})
    given = daskmoe.fit_local(
        frame, "y", n_experts=1, categories={"wind": ["calm", "N", "S"]}, on_error="skip"
    )
    assert models[1].feature_names == same.feature_names == given.feature_names
    daskmoe.aggregate([models[1], same], frame)
    for verb in (
        lambda: daskmoe.aggregate([models[1], given], frame),
        lambda: daskmoe.transportation_divergence(models[1], given, frame),
        lambda: models[1].match(given),
    ):
        with pytest.raises(InvalidDataError, match="levels, knots and other codings"):
            verb()


def test_the_name_of_an_index_does_not_matter() -> None:
    model = daskmoe.fit(table(), "y", n_experts=2, partitions=2, random_state=0)
    named = table().rename_axis("id")
    np.testing.assert_array_equal(model.predict(named).values, model.predict(table()).values)
    assert model.score(named) == model.score(table())


def test_levels_of_numbers_may_be_spelled() -> None:
    frame = table().assign(month=np.arange(N) % 3 + 1)
    spelled = describe_rows(frame.to_xarray(), "y", ["month"], None, {"month": ["2", "1", "3"]})
    assert spelled.feature_labels == ("month_1", "month_3")
    assert spelled == describe_rows(frame.to_xarray(), "y", ["month"], None, {"month": [2, 1, 3]})


def test_numbers_as_objects_are_no_levels() -> None:
    frame = table().assign(z=lambda t: t.x.round(1).astype(object))
    assert "holds numbers as objects" in describe_rows(frame.to_xarray(), "y").left_out["z"]
    with pytest.raises(InvalidDataError, match=r"'z' holds numbers as objects.*astype\(float\)"):
        describe_rows(frame.to_xarray(), "y", ["z"])


def test_categories_that_cannot_be_kept_are_left_out() -> None:
    frame = table().assign(bins=lambda t: pd.cut(t.x, 4))
    assert "make them text with astype(str)" in describe_rows(frame.to_xarray(), "y").left_out["bins"]

"""From labelled data to rows, held to xarray's own broadcasting and stacking.

The target counts the rows, so that a response tells which row it came with whatever the partitions are.
"""

from __future__ import annotations

import logging
import pickle
import tracemalloc
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
import xarray as xr
import zarr
from hypothesis import given
from numpy.typing import NDArray

from daskmoe.errors import InvalidDataError, InvalidOptionError, StoreError
from daskmoe.rows import (
    Partition,
    Rows,
    RowSchema,
    describe_rows,
    extract_rows,
    match_schema,
    open_store,
    plan_partitions,
    read_box,
)

NoCompute = Callable[..., AbstractContextManager[None]]
DTYPES = ("bool", "int16", "float32", "float64", ">f4")


def stacked(ds: xr.Dataset, target: str, names: list[str]) -> NDArray[Any]:
    """Feature columns in C order of the target's dimensions, by xarray alone."""
    dims = ds[target].dims
    columns = [
        ds[name].broadcast_like(ds[target]).transpose(*dims, ...).values.reshape(ds[target].size, -1)
        for name in names
    ]
    return np.concatenate(columns, axis=1)


def read_all(source: Any, schema: RowSchema, plan: tuple[Partition, ...], **options: Any) -> list[Rows]:
    return [extract_rows(read_box(source, schema, part), schema, part, **options) for part in plan]


def order_of(pieces: list[Rows]) -> NDArray[np.intp]:
    return np.concatenate([rows.response for rows in pieces if rows.response is not None]).astype(np.intp)


def table(n: int = 6, **variables: Any) -> xr.Dataset:
    """Rows with a (row, feature) variable X with labels, a response y and whatever else is given."""
    features = np.arange(3.0 * n).reshape(n, 3)
    return xr.Dataset(
        {"X": (("row", "feature"), features), "y": ("row", np.arange(float(n))), **variables},
        coords={"feature": ["a", "b", "c"]},
    )


def grid() -> xr.Dataset:
    """A gridded target with a covariate of time, one of space (turned) and one of everything."""
    rng = np.random.default_rng(0)
    return xr.Dataset(
        {
            "y": (("time", "lat", "lon"), np.arange(24.0).reshape(4, 2, 3), {"units": "K", "note": "x"}),
            "hour": ("time", np.arange(4)),
            "height": (("lon", "lat"), rng.normal(size=(3, 2)).astype(np.float32), {"units": "m"}),
            "wind": (("time", "level", "lat", "lon"), rng.normal(size=(4, 2, 2, 3))),
            "name": ("time", list("abcd")),
        },
        coords={"lat": [50.0, 51.0], "lon": [0.0, 1.0, 2.0], "level": [500, 850]},
    )


@st.composite
def datasets(draw: st.DrawFn) -> tuple[xr.Dataset, list[str]]:
    """Any layout: dimensions, their order, broadcasting, dtypes, a Dask chunking or none; feature names."""
    dims = ["t", "u", "v"][: draw(st.integers(1, 3))]
    sizes = {dim: draw(st.integers(1, 4)) for dim in dims} | {"band": 3, "feature": 2}
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    target_dims = draw(st.permutations(dims))
    shape = [sizes[dim] for dim in target_dims]
    data: dict[str, Any] = {"y": (target_dims, np.arange(float(np.prod(shape))).reshape(shape))}
    names = [f"x{i}" for i in range(draw(st.integers(1, 4)))]
    for name in names:
        own = draw(st.lists(st.sampled_from(dims), min_size=1, unique=True))
        extra = draw(st.sampled_from([[], ["band"], ["feature"]]))
        order = draw(st.permutations(own + extra))
        values = 9 * rng.normal(size=[sizes[dim] for dim in order])
        data[name] = (order, values.astype(draw(st.sampled_from(DTYPES))))
    over = draw(st.lists(st.sampled_from(dims), min_size=1, unique=True))
    sites = rng.integers(0, 3, size=[sizes[dim] for dim in over])
    coords = {"site": (over, sites), "station": (over, np.array(["b", "a", "c"])[sites])}
    ds = xr.Dataset(data, coords={"band": ["r", "g", "b"], **coords})
    if draw(st.booleans()):
        ds = ds.chunk({dim: draw(st.integers(1, sizes[dim])) for dim in [*dims, "band"]})
    return ds, names


@given(datasets(), st.data())
def test_partitions_hold_every_row_once(drawn: tuple[xr.Dataset, list[str]], data: st.DataObject) -> None:
    ds, names = drawn
    n = ds["y"].size
    partitions = data.draw(st.sampled_from([None, "site", "station"]) | st.integers(1, n))
    schema = describe_rows(ds, "y")
    plan = plan_partitions(ds, schema, partitions)
    pieces = read_all(ds, schema, plan)
    order = order_of(pieces)
    assert sorted(order) == list(range(n))
    assert [len(rows.features) for rows in pieces] == [part.n_rows for part in plan]
    expected = stacked(ds, "y", names)
    found = np.concatenate([rows.features for rows in pieces])
    np.testing.assert_array_equal(found, expected[order].astype(found.dtype))
    single = all(ds[name].dtype in (np.dtype("f4"), np.dtype(">f4")) for name in names)
    for rows, part in zip(pieces, plan, strict=True):
        assert rows.features.dtype == (np.float32 if single else np.float64)
        assert rows.features.flags.c_contiguous
        assert np.all(np.diff(rows.response) > 0)
        if isinstance(partitions, str):
            sites = ds[partitions].broadcast_like(ds["y"]).transpose(*ds["y"].dims).values.reshape(-1)
            assert set(sites[rows.response.astype(int)].astype(str)) == {part.label}
    if isinstance(partitions, int):
        np.testing.assert_array_equal(order, np.arange(n))
        assert max(part.n_rows for part in plan) - min(part.n_rows for part in plan) <= 1


@given(datasets())
def test_a_schema_survives_json_and_matches_its_own_data(drawn: tuple[xr.Dataset, list[str]]) -> None:
    ds, _ = drawn
    schema = describe_rows(ds, "y")
    assert RowSchema.from_json(schema.to_json()) == schema
    assert match_schema(ds, schema, need_target=True) == schema


# --- describe_rows


def test_gridded_data_with_broadcast_covariates() -> None:
    ds = grid()
    schema = describe_rows(ds, "y")
    assert schema.sample_dims == ("time", "lat", "lon")
    # The names of the latitudes are all different: names, not levels.
    assert schema.feature_labels == ("height", "hour", "500", "850")
    assert schema.variables[0].units == "m"
    assert schema.target_attrs == {"units": "K"}
    (rows,) = read_all(ds, schema, plan_partitions(ds, schema))
    np.testing.assert_array_equal(rows.features, stacked(ds, "y", ["height", "hour", "wind"]))


def test_default_features_leave_out_what_does_not_fit(caplog: pytest.LogCaptureFixture) -> None:
    ds = table(
        text=("row", list("abcdef")),
        wind=("row", list("NSNSNW")),
        crs=((), 1),
        only_features=("feature", np.ones(3)),
        cube=(("row", "i", "j"), np.ones((6, 2, 2))),
        row_bounds=(("row", "edge"), np.ones((6, 2))),
        when=("row", np.arange(6).astype("datetime64[ns]")),
    ).assign_coords(row=("row", np.arange(6), {"bounds": "row_bounds"}), other=("row", np.ones(6)))
    with caplog.at_level(logging.INFO, logger="daskmoe"):
        schema = describe_rows(ds, "y")
    assert schema.feature_labels == ("a", "b", "c", "wind_S", "wind_W")
    assert {*schema.left_out} == {"text", "crs", "only_features", "cube", "row_bounds", "when"}
    assert "took 'X', 'wind'" in caplog.text
    assert "'cube' has dimensions" in caplog.text
    assert "'text' names each of its 6 values" in caplog.text
    assert "harmonics('when'" in schema.left_out["when"]


def test_variables_sharing_a_labelled_dimension_have_distinct_labels() -> None:
    ds = table(Z=(("row", "feature"), np.ones((6, 3))))
    assert describe_rows(ds, "y").feature_labels == ("X_a", "X_b", "X_c", "Z_a", "Z_b", "Z_c")
    assert describe_rows(ds, "y", ["X"]).feature_labels == ("a", "b", "c")


def test_columns_without_a_coordinate_are_numbered() -> None:
    assert describe_rows(table().drop_vars("feature"), "y").feature_labels == ("X_0", "X_1", "X_2")


def test_features_by_name_keep_their_order_and_may_be_coordinates() -> None:
    ds = grid()
    assert describe_rows(ds, "y", ["lat", "hour"]).feature_labels == ("lat", "hour")
    assert describe_rows(ds, "y", "hour").feature_labels == ("hour",)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": "nope"}, "Expected a target variable 'nope', got a dataset that has 'X', 'y'"),
        ({"target": "text"}, "target variable 'text' has dtype"),
        ({"target": "scalar"}, "'scalar' is a scalar"),
        ({"features": ["nope"]}, "Expected a feature variable 'nope'"),
        ({"features": ["thing"]}, r"Feature variable 'thing' holds objects \(mixed\)"),
        ({"features": ["z"]}, "has dtype complex128"),
        (
            {"features": ["when"]},
            r"'when' holds dates, .* features=\[\.\.\., daskmoe.features.harmonics\('when'",
        ),
        ({"features": ["cube"]}, r"has dimensions \('row', 'i', 'j'\), expected one or more of the sample"),
        ({"features": ["scalar"]}, r"has dimensions \(\)"),
        ({"features": ["X", "a"]}, "got more than once: 'a'"),
        ({"features": ["X", "X"]}, "different labels of features, got more than once: 'X'"),
        ({"features": ["y"]}, "'y' cannot be a feature: it is the target or the weight"),
        ({"features": ["w"], "sample_weight": "w"}, "'w' cannot be a feature"),
        ({"sample_weight": "nope"}, "Expected a weight variable 'nope'"),
        ({"sample_weight": "X"}, r"Weight variable 'X' has dimensions \('row', 'feature'\)"),
    ],
)
def test_bad_variables_are_refused(options: dict[str, Any], message: str) -> None:
    ds = table(
        text=("row", list("abcdef")),
        thing=("row", np.array([{}] * 6)),
        z=("row", np.ones(6, complex)),
        when=("row", np.arange(6).astype("datetime64[ns]")),
        cube=(("row", "i", "j"), np.ones((6, 2, 2))),
        scalar=((), 1.0),
        a=("row", np.ones(6)),
        w=("row", np.ones(6)),
    )
    with pytest.raises(InvalidDataError, match=message):
        describe_rows(ds, **{"target": "y", **options})


@pytest.mark.parametrize("dim", ["expert", "bound"])
def test_sample_dimensions_are_not_those_of_results(dim: str) -> None:
    ds = table().rename(row=dim)
    with pytest.raises(InvalidDataError, match=f"dimension '{dim}'.*rename it"):
        describe_rows(ds, "y")


def test_no_feature_left_is_an_error() -> None:
    with pytest.raises(InvalidDataError, match="No feature left: besides 'y', none of 'y' holds numbers"):
        describe_rows(table()[["y"]], "y")
    with pytest.raises(InvalidOptionError, match="at least one name in features"):
        describe_rows(table(), "y", [])


def test_describing_and_planning_compute_nothing(raise_if_dask_computes: NoCompute) -> None:
    ds = grid().chunk({"time": 1})
    with raise_if_dask_computes():
        schema = describe_rows(ds, "y", ["height", "wind"], sample_weight="hour")
        match_schema(ds, schema, need_target=True)
        assert len(plan_partitions(ds, schema, None)) == 4


# --- match_schema


def test_columns_are_matched_by_label() -> None:
    ds = table()
    schema = describe_rows(ds, "y")
    turned = ds.isel(feature=[2, 0, 1]).transpose("feature", "row")
    matched = match_schema(turned, schema, need_target=True)
    assert matched.feature_labels == schema.feature_labels
    (rows,) = read_all(turned, matched, plan_partitions(turned, matched))
    np.testing.assert_array_equal(rows.features, ds["X"].values)


def test_shared_dimensions_are_matched_by_label() -> None:
    ds = table(Z=(("row", "feature"), np.random.default_rng(0).normal(size=(6, 3))))
    turned = ds.isel(feature=[2, 0, 1])
    matched = match_schema(turned, describe_rows(ds, "y"), need_target=True)
    (rows,) = read_all(turned, matched, plan_partitions(turned, matched))
    np.testing.assert_array_equal(rows.features, stacked(ds, "y", ["X", "Z"]))


def test_one_step_of_a_grid_is_data_of_the_same_model() -> None:
    ds = grid()
    matched = match_schema(ds.isel(time=0).drop_vars("y"), describe_rows(ds, "y"), need_target=False)
    assert matched.sample_dims == ("lat", "lon")
    assert matched.variables[1].dims == ()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda ds: ds.drop_vars("X"), "Expected a feature variable 'X'"),
        (lambda ds: ds.isel(feature=[0, 1]), "'X' misses the labels 'c' along 'feature'"),
        (lambda ds: ds.isel(feature=0, drop=True), r"'X' has dimensions \('row',\), expected some of"),
        (
            lambda ds: ds.reindex(feature=list("abcd")),
            "labels along 'feature' that the model does not know: 'd'",
        ),
        (lambda ds: ds.isel(feature=[0, 0, 1, 2]), "got more than once: 'a'"),
        (lambda ds: ds.drop_vars("feature"), "has no labels along 'feature', but the fit had 'a', 'b', 'c'"),
        (lambda ds: ds.rename(row="obs"), r"the fit, \['row'\], got \['obs'\]; .*rename\({'obs': 'row'}\)"),
        (lambda ds: ds.astype(str), "'X' has dtype"),
        (lambda ds: ds.expand_dims(expert=2), r"the dimension 'expert', a name that a model's results use"),
    ],
)
def test_data_that_do_not_match_are_refused(change: Callable[..., xr.Dataset], message: str) -> None:
    with pytest.raises(InvalidDataError, match=message):
        match_schema(change(table()), describe_rows(table(), "y"), need_target=False)


def test_unlabelled_columns_are_matched_by_number() -> None:
    ds = table().drop_vars("feature")
    schema = describe_rows(ds, "y")
    assert match_schema(ds, schema, need_target=True) == schema
    with pytest.raises(InvalidDataError, match="has 2 columns along 'feature', expected 3"):
        match_schema(ds.isel(feature=[0, 1]), schema, need_target=True)
    with pytest.raises(InvalidDataError, match="misses the labels 'X_0', 'X_1', 'X_2'"):
        match_schema(table(), schema, need_target=True)


def test_target_and_weight_are_asked_for_only_where_needed() -> None:
    ds = table(w=("row", np.ones(6)))
    schema = describe_rows(ds, "y", ["X"], sample_weight="w")
    assert match_schema(ds[["X"]], schema, need_target=False).weight is None
    assert match_schema(ds[["X", "y"]], schema, need_target=True, need_weight=False).weight is None
    with pytest.raises(InvalidDataError, match="Expected a weight variable 'w'"):
        match_schema(ds[["X", "y"]], schema, need_target=True)
    with pytest.raises(InvalidDataError, match="Expected a target variable 'y'"):
        match_schema(ds[["X"]], schema, need_target=True)
    with pytest.raises(InvalidDataError, match=r"the dimensions \['member'\] that the fit did not have"):
        match_schema(ds.expand_dims(member=2), schema, need_target=True)


def test_other_units_are_told(caplog: pytest.LogCaptureFixture) -> None:
    ds = grid()
    schema = describe_rows(ds, "y", ["height"])
    ds["height"].attrs["units"] = "km"
    match_schema(ds, schema, need_target=True)
    assert "feature 'height' has units 'km', the model was fitted to 'm'" in caplog.text
    ds["y"].attrs["units"] = "degC"
    match_schema(ds, schema, need_target=True)
    assert "target 'y' has units 'degC', the model was fitted to 'K'" in caplog.text


# --- plan_partitions


def test_chunks_of_the_target_are_the_default_partitions() -> None:
    ds = grid().chunk({"time": 3, "lon": 2})
    plan = plan_partitions(ds, describe_rows(ds, "y"))
    assert [part.label for part in plan] == ["0", "1", "2", "3"]
    assert plan[1].box == (("time", 0, 3), ("lat", 0, 2), ("lon", 2, 3))
    assert [part.n_rows for part in plan] == [12, 6, 4, 2]


def test_a_row_range_has_the_smallest_box() -> None:
    plan = plan_partitions(grid(), describe_rows(grid(), "y"), 5)
    assert plan[0] == Partition(0, "0", (("time", 0, 1), ("lat", 0, 2), ("lon", 0, 3)), (0, 4), None, 4)
    assert plan[1].box == (("time", 0, 2), ("lat", 0, 2), ("lon", 0, 3))
    assert plan[1].rows == (4, 9)
    singles = plan_partitions(grid(), describe_rows(grid(), "y"), 24)
    assert all(part.rows is None and part.n_rows == 1 for part in singles)


def test_runs_of_a_coordinate_are_boxes_and_others_are_filtered() -> None:
    ds = table().assign_coords(run=("row", list("bbaaac")), mixed=("row", [1, 2, 1, 2, 2, 2]))
    schema = describe_rows(ds, "y")
    runs = plan_partitions(ds, schema, "run")
    assert [(part.label, part.box[0][1:], part.where) for part in runs] == [
        ("a", (2, 5), None),
        ("b", (0, 2), None),
        ("c", (5, 6), None),
    ]
    mixed = plan_partitions(ds, schema, "mixed")
    assert [(part.box[0][1:], part.where, part.n_rows) for part in mixed] == [
        ((0, 3), ("mixed", 1), 2),
        ((1, 6), ("mixed", 2), 4),
    ]


@pytest.mark.parametrize(
    "values",
    [
        np.array(list("baabab"), dtype=object),
        np.array(list("baabab"), dtype=np.dtypes.StringDType()),
        np.array(list("baabab"), dtype="S1"),
        np.array([2, 1, 1, 2, 1, 2], dtype="datetime64[D]").astype("datetime64[ns]"),
        np.array([2.5, 1, 1, 2.5, 1, 2.5]),
        np.array([True, False, False, True, False, True]),
    ],
    ids=lambda values: str(values.dtype),
)
def test_any_kind_of_value_makes_partitions(values: NDArray[Any]) -> None:
    ds = table().assign_coords(site=("row", values))
    schema = describe_rows(ds, "y")
    pieces = read_all(ds, schema, plan_partitions(ds, schema, "site"))
    assert [rows.response.tolist() for rows in pieces] == [[1, 2, 4], [0, 3, 5]]


def test_a_dimension_coordinate_makes_partitions() -> None:
    ds = grid()
    schema = describe_rows(ds, "y")
    plan = plan_partitions(ds, schema, "lat")
    assert [part.label for part in plan] == ["50.0", "51.0"]
    assert order_of(read_all(ds, schema, plan[:1]))[:4].tolist() == [0, 1, 2, 6]


@pytest.mark.parametrize(
    "values",
    [
        np.array(["a", "", "b", "b", "b", "b"]),
        np.array(["a", None, "b", "b", "b", "b"], dtype=object),
        np.array([1, np.nan, 2, 2, 2, 2]),
        np.array(["2020-01-01", "NaT"] + 4 * ["2020-01-02"], dtype="datetime64[ns]"),
    ],
    ids=["text", "object", "float", "date"],
)
def test_missing_partition_values_are_refused(values: NDArray[Any]) -> None:
    ds = table().assign_coords(site=("row", values))
    with pytest.raises(InvalidDataError, match=r"'site' .*missing.*fill them or drop these rows"):
        plan_partitions(ds, describe_rows(ds, "y"), "site")


@pytest.mark.parametrize(
    ("partitions", "message"),
    [
        (0, "Expected partitions between 1 and the 6 rows of 'y', got 0"),
        (7, "between 1 and the 6 rows of 'y', got 7"),
        (True, "an integer or the name of a coordinate, got True"),
        (2.0, r"got 2\.0"),
        ("nope", "got 'nope'; the dataset has 'y'"),
        ("X", "got 'X'"),
        ("feature", "got 'feature'"),
    ],
)
def test_bad_partitions_are_refused(partitions: Any, message: str) -> None:
    with pytest.raises(InvalidOptionError, match=message):
        plan_partitions(table(), describe_rows(table(), "y"), partitions)


def test_no_rows_is_an_error() -> None:
    ds = table().isel(row=slice(0))
    with pytest.raises(InvalidDataError, match=r"Target 'y' has no rows: \{'row': 0\}"):
        plan_partitions(ds, describe_rows(ds, "y"))


def test_a_thousand_partitions_are_small() -> None:
    ds = grid().isel(time=np.arange(1000) % 4).assign_coords(site=("time", np.arange(1000).astype(str)))
    schema = describe_rows(ds, "y", ["wind", "hour"])
    for partitions in (1000, "site"):
        assert len(pickle.dumps((schema, plan_partitions(ds, schema, partitions)))) < 100_000


# --- extract_rows


def test_rows_stored_as_rows_are_not_copied() -> None:
    n = 20_000
    features = np.random.default_rng(0).normal(size=(n, 20))
    ds = xr.Dataset({"X": (("row", "feature"), features), "y": ("row", np.arange(float(n)))})
    schema = describe_rows(ds, "y")
    (part,) = plan_partitions(ds, schema)
    assert np.shares_memory(extract_rows(ds, schema, part).features, features)
    features[-1, 3] = np.nan
    tracemalloc.start()
    try:
        rows = extract_rows(ds, schema, part, on_error="skip")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert rows.dropped == 1
    assert peak < 1.5 * features.nbytes


def test_values_that_are_not_finite_are_named() -> None:
    ds = grid().drop_vars("name")
    ds["wind"][1, :, 0, 2] = np.inf
    ds["y"][2, 1, 0] = np.nan
    ds["y"][1, 0, 2] = np.nan
    schema = describe_rows(ds, "y")
    parts = plan_partitions(ds, schema, 2)
    with pytest.raises(InvalidDataError) as caught:
        read_all(ds, schema, parts[:1])
    assert str(caught.value) == (
        "Expected finite values, got NaN or infinity in 1 of 12 rows of partition '0' (by variable: "
        "'wind' 1, 'y' 1; first at time[1], lat[0], lon[2]). on_error='skip' drops such rows and counts them."
    )
    with pytest.raises(InvalidDataError, match=r"time\[2\], lat\[1\], lon\[0\]"):
        read_all(ds, schema, parts[1:])
    pieces = read_all(ds, schema, parts, on_error="skip")
    assert [rows.dropped for rows in pieces] == [1, 1]
    expected = np.setdiff1d(np.arange(24), [8, 15])
    np.testing.assert_array_equal(order_of(pieces), expected)
    np.testing.assert_array_equal(
        np.concatenate([rows.features for rows in pieces]),
        stacked(ds, "y", ["height", "hour", "wind"])[expected],
    )


def test_values_of_other_partitions_do_not_matter() -> None:
    ds = table().assign_coords(site=("row", [1, 2, 1, 2, 1, 2]))
    ds["X"][1, 0] = np.nan
    schema = describe_rows(ds, "y")
    first, second = plan_partitions(ds, schema, "site")
    assert read_all(ds, schema, (first,))[0].dropped == 0
    with pytest.raises(InvalidDataError, match=r"1 of 3 rows of partition '2'.*first at row\[1\]\)"):
        read_all(ds, schema, (second,))


def test_large_finite_values_are_finite() -> None:
    ds = table(big=("row", np.full(6, 3e38, np.float32)))
    schema = describe_rows(ds, "y", ["big"])
    (rows,) = read_all(ds, schema, plan_partitions(ds, schema))
    assert rows.dropped == 0
    assert rows.features.dtype == np.float32


def test_weights_are_broadcast_and_follow_their_rows() -> None:
    ds = grid()
    schema = describe_rows(ds, "y", ["wind"], sample_weight="hour")
    ds["y"][1, 0, 0] = np.nan
    pieces = read_all(ds, schema, plan_partitions(ds, schema, 4), on_error="skip")
    assert [set(rows.weight.tolist()) for rows in pieces] == [{0.0}, {1.0}, {2.0}, {3.0}]
    assert [len(rows.weight) for rows in pieces] == [6, 5, 6, 6]


def test_a_missing_weight_is_a_missing_value() -> None:
    ds = table(w=("row", [1, 1, 1, 1, np.nan, 0.0]))
    schema = describe_rows(ds, "y", ["X"], sample_weight="w")
    _, rows = read_all(ds, schema, plan_partitions(ds, schema, 2), on_error="skip")
    assert (rows.weight.tolist(), rows.dropped, rows.reasons) == ([1, 0], 1, (("w", 1),))


@pytest.mark.parametrize(("wrong", "on_error"), [(-1.0, "skip"), (np.nan, "raise"), (np.inf, "skip")])
def test_wrong_weights_are_an_error(wrong: float, on_error: Any) -> None:
    ds = table(w=("row", [1, 1, 1, 1, wrong, 0.0]))
    schema = describe_rows(ds, "y", ["X"], sample_weight="w")
    plan = plan_partitions(ds, schema, 2)
    assert read_all(ds, schema, plan[:1])[0].weight.tolist() == [1, 1, 1]
    with pytest.raises(InvalidDataError, match=r"1 negative.* of 3 in variable 'w' of .* '1' .*row\[4\]"):
        read_all(ds, schema, plan[1:], on_error=on_error)


def test_features_alone_need_no_target() -> None:
    ds = table()
    schema = describe_rows(ds, "y")
    (part,) = plan_partitions(ds, schema)
    box = read_box(ds[["X"]], schema, part, need_target=False)
    rows = extract_rows(box, schema, part, need_target=False)
    assert rows.response is None
    assert rows.features.shape == (6, 3)


# --- stores


def write(ds: xr.Dataset, path: Path, zarr_format: int, *, sharded: bool, consolidated: bool) -> str:
    chunks = {"X": (10, 3), "y": (10,)}
    encoding: dict[str, dict[str, Any]] = {name: {"chunks": sizes} for name, sizes in chunks.items()}
    if sharded:
        encoding["X"]["shards"], encoding["y"]["shards"] = (30, 3), (30,)
    text = {
        name: found.astype(np.dtypes.StringDType())
        for name, found in ds.coords.items()
        if found.dtype.kind == "U"
    }
    store = str(path / "data.zarr")
    ds.assign_coords(text).to_zarr(store, zarr_format=zarr_format, encoding=encoding, consolidated=False)
    if consolidated:
        zarr.consolidate_metadata(store)
    return store


@pytest.fixture
def stored() -> xr.Dataset:
    return table(60, other=("row", np.ones(60))).assign_coords(
        row=np.arange(60),
        site=("row", np.repeat(["b", "a", "c"], 20)),
        when=("row", np.arange(60).astype("M8[ns]")),
    )


@pytest.mark.parametrize(
    ("zarr_format", "sharded", "consolidated"),
    [(3, False, False), (3, True, False), (2, False, False), (2, False, True)],
)
def test_a_store_gives_the_rows_of_the_dataset(
    tmp_path: Path,
    stored: xr.Dataset,
    raise_if_dask_computes: NoCompute,
    zarr_format: int,
    sharded: bool,
    consolidated: bool,
) -> None:
    path = write(stored, tmp_path, zarr_format, sharded=sharded, consolidated=consolidated)
    with raise_if_dask_computes():
        ds = open_store(path)
        schema = describe_rows(ds, "y", ["X"])
        assert not ds.indexes
        assert schema == describe_rows(stored, "y", ["X"])
        for partitions, count in ((None, 2 if sharded else 6), (7, 7), ("site", 3), ("when", 60)):
            plan = plan_partitions(ds, schema, partitions)
            assert len(plan) == count
            pieces = read_all(path, schema, plan)
            order = order_of(pieces)
            assert sorted(order) == list(range(60))
            found = np.concatenate([rows.features for rows in pieces])
            np.testing.assert_array_equal(found, stored["X"].values[order])
    xr.testing.assert_identical(ds.compute().drop_encoding()["X"].variable, stored["X"].variable)


def test_a_task_touches_only_what_it_needs(tmp_path: Path, stored: xr.Dataset) -> None:
    path = write(stored, tmp_path, 3, sharded=False, consolidated=False)
    schema = describe_rows(stored, "y", ["X"])
    part = plan_partitions(open_store(path), schema)[2]
    needed = {Path(path, "X", "c", "2", "0"), Path(path, "y", "c", "2")}
    for chunk in Path(path).glob("*/c/**/*"):
        if chunk.is_file() and chunk not in needed:
            chunk.write_bytes(b"not readable")
    box = read_box(path, schema, part)
    assert set(box.variables) == {"X", "y"}
    rows = extract_rows(box, schema, part)
    assert order_of([rows]).tolist() == list(range(20, 30))


def test_what_is_not_a_store_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"'.*nope\.zarr' does not exist"):
        open_store(tmp_path / "nope.zarr")
    (tmp_path / "file.nc").write_bytes(b"CDF")
    for path in (tmp_path, tmp_path / "file.nc"):
        with pytest.raises(StoreError, match=r"not a Zarr group.*: xarray.open_dataset\('.*', chunks="):
            open_store(path)
    zarr.create_array(str(tmp_path / "array.zarr"), shape=(3,), dtype="f8")
    with pytest.raises(StoreError, match=r"array\.zarr' is an array"):
        open_store(tmp_path / "array.zarr")


def test_a_variable_that_left_the_store_is_named(tmp_path: Path, stored: xr.Dataset) -> None:
    path = write(stored[["X", "y"]], tmp_path, 3, sharded=False, consolidated=False)
    schema = describe_rows(stored, "y")
    (part,) = plan_partitions(stored, schema)
    with pytest.raises(InvalidDataError, match="Expected the variables 'other' for partition '0'"):
        read_box(path, schema, part)


# --- real data


def test_climate_grid(data_path: Callable[[str], Path]) -> None:
    pytest.importorskip("netCDF4")
    with xr.open_dataset(data_path("climate/wfde5_british_isles_201701.nc")) as ds:
        ds = ds.isel(time=slice(0, 48)).load()
    schema = describe_rows(ds, "Tair")
    assert len(schema.feature_labels) == 5
    assert schema.target_attrs["units"] == "K"
    (part,) = plan_partitions(ds, schema)
    # The sea has neither target nor features: its cells are not there.
    whole = extract_rows(ds, schema, part)
    kept = ds.stack(row=("time", "lat", "lon")).dropna("row")
    np.testing.assert_array_equal(whole.response, kept["Tair"].values)
    np.testing.assert_array_equal(whole.features[:, 1], kept[schema.feature_labels[1]].values)
    assert whole.features.dtype == np.float32
    assert whole.dropped == 0
    assert whole.absent + kept.sizes["row"] == part.n_rows
    for partitions in (7, "lat"):
        pieces = read_all(ds, schema, plan_partitions(ds, schema, partitions), on_error="skip")
        assert sum(rows.dropped for rows in pieces) == whole.dropped
        assert sum(len(rows.response) for rows in pieces) == len(whole.response)

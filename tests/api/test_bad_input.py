"""Bad input: the right error, naming what is wrong and what to do, before any work where it can be known."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
import zarr

import daskmoe
from daskmoe import (
    DaskMoEError,
    InvalidDataError,
    InvalidOptionError,
    MixtureOfExperts,
    OutputExistsError,
    PartitionError,
    SchemaError,
    StoreError,
)

Guard = Callable[..., AbstractContextManager[None]]
FAST: dict[str, Any] = {"n_experts": 2, "n_init": 2, "random_state": 0, "aggregation": "reduction"}
# Without a sample that is read before the partitions, and with one.
BOTH = ("reduction", "auto")


def rows(n_rows: int = 400) -> xr.Dataset:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(n_rows, 2))
    response = np.where(features[:, 0] > 0, 3.0, -3.0) * features[:, 1] + rng.normal(size=n_rows)
    return xr.Dataset(
        {
            "X": (("row", "feature"), features),
            "wind": ("row", rng.normal(size=n_rows)),
            "y": ("row", response),
        },
        {"feature": ["a", "b"]},
    )


def lazy(data: xr.Dataset | None = None) -> xr.Dataset:
    return (rows() if data is None else data).chunk(row=100)


def assert_says(error: BaseException, *parts: str) -> None:
    for part in parts:
        assert part in str(error)


@pytest.fixture
def model() -> MixtureOfExperts:
    return daskmoe.fit_local(rows(), "y", features="X", n_experts=2, n_init=2, random_state=0)


# Variables.


VARIABLES: dict[str, tuple[Callable[[xr.Dataset], xr.Dataset], dict[str, Any], tuple[str, ...]]] = {
    "no target": (
        lambda data: data,
        {"target": "z"},
        ("Expected a target variable 'z', got a dataset that has 'X', 'wind', 'y'",),
    ),
    "no feature": (
        lambda data: data,
        {"features": ["X", "rain"]},
        ("Expected a feature variable 'rain', got a dataset that has 'X', 'wind', 'y'",),
    ),
    "no feature left": (
        lambda data: data[["y"]],
        {"features": None},
        ("No feature left: besides 'y'", "sample dimensions ('row',)"),
    ),
    "no weight": (
        lambda data: data,
        {"sample_weight": "w"},
        ("Expected a weight variable 'w', got a dataset that has 'X', 'wind', 'y'",),
    ),
    "the target as a feature": (
        lambda data: data,
        {"features": ["X", "y"]},
        ("'y' cannot be a feature: it is the target or the weight",),
    ),
    "a feature with two dimensions too many": (
        lambda data: data.assign(cube=(("row", "u", "v"), np.zeros((400, 2, 2)))),
        {"features": ["cube"]},
        (
            "Feature variable 'cube' has dimensions ('row', 'u', 'v')",
            "expected one or more of the sample dimensions ('row',) and at most one other",
        ),
    ),
    "a feature without a sample dimension": (
        lambda data: data.assign(table=("place", np.zeros(3))),
        {"features": ["table"]},
        ("Feature variable 'table' has dimensions ('place',)", "sample dimensions ('row',)"),
    ),
    "a weight with a feature dimension": (
        lambda data: data,
        {"features": ["wind"], "sample_weight": "X"},
        ("Weight variable 'X' has dimensions ('row', 'feature'), expected some of ('row',)",),
    ),
    "a scalar target": (
        lambda data: data.assign(z=3.0),
        {"target": "z"},
        ("Target 'z' is a scalar, expected at least one (sample) dimension",),
    ),
    "labels twice": (
        lambda data: data.assign_coords(feature=["a", "a"]),
        {},
        ("Expected different labels of feature columns, got more than once: 'a'",),
    ),
    "no rows": (
        lambda data: data.isel(row=slice(0)),
        {},
        ("Target 'y' has no rows: {'row': 0}",),
    ),
}


@pytest.mark.parametrize("name", VARIABLES)
def test_variables_that_do_not_fit(name: str, raise_if_dask_computes: Guard) -> None:
    change, options, parts = VARIABLES[name]
    data = change(rows())
    options = {"target": "y", "features": "X", **options}
    for source in (data, lazy(data)):
        with raise_if_dask_computes():
            with pytest.raises(InvalidDataError) as caught:
                daskmoe.fit(source, **FAST, **options)
            assert_says(caught.value, *parts)
            with pytest.raises(InvalidDataError) as caught:
                daskmoe.fit_local(source, n_experts=2, **options)
            assert_says(caught.value, *parts)


DTYPES = {
    "object": np.array([1, "a"] * 200, dtype=object),
    "<U1": np.array(["a", "b"] * 200),
    "|S1": np.array([b"a", b"b"] * 200),
    "complex128": np.ones(400, dtype=complex),
    "datetime64[ns]": np.arange(400).astype("datetime64[ns]"),
    "timedelta64[ns]": np.arange(400).astype("timedelta64[ns]"),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("role", ["target", "weight"])
def test_dtypes_that_are_not_numbers(dtype: str, role: str, raise_if_dask_computes: Guard) -> None:
    data = rows().assign(bad=("row", DTYPES[dtype]))
    options = {"target": "y", "features": ["X"]} | {
        "target": {"target": "bad"},
        "weight": {"sample_weight": "bad"},
    }[role]
    for source in (data, lazy(data)):
        with raise_if_dask_computes(), pytest.raises(InvalidDataError) as caught:
            daskmoe.fit(source, **FAST, **options)
        assert_says(caught.value, "'bad'", f"has dtype {dtype}", "expected real numbers or booleans")
        assert role in str(caught.value).lower()


@pytest.mark.parametrize(
    ("dtype", "said"),
    [
        ("object", ("holds objects (mixed", "astype(str) or astype(float)")),
        ("complex128", ("has dtype complex128", "expected real numbers or booleans")),
        ("datetime64[ns]", ("holds dates", "features=[..., daskmoe.features.harmonics('bad'")),
        ("timedelta64[ns]", ("holds dates", "/ np.timedelta64(1, 'D')")),
    ],
)
def test_dtypes_that_are_no_features(dtype: str, said: tuple[str, ...]) -> None:
    data = rows().assign(bad=("row", DTYPES[dtype]))
    for source in (data, lazy(data)):
        with pytest.raises(InvalidDataError) as caught:
            daskmoe.fit(source, **FAST, target="y", features=["X", "bad"])
        assert_says(caught.value, "Feature variable 'bad'", *said)


@pytest.mark.parametrize("data", [np.ones((3, 2)), rows()["X"], None, {"y": [1.0]}], ids=str)
def test_data_that_are_no_dataset(data: Any) -> None:
    for function in (daskmoe.fit, daskmoe.fit_local):
        with pytest.raises(InvalidDataError, match=r"data: expected an xarray.Dataset, a pandas.D"):
            function(data, "y", n_experts=2)


# Options.


OPTIONS: list[tuple[dict[str, Any], str]] = [
    ({"n_experts": 0}, "n_experts: expected an integer of at least 1, got 0"),
    ({"n_experts": -2}, "n_experts: expected an integer of at least 1, got -2"),
    ({"n_experts": 2.5}, "n_experts: expected an integer of at least 1, got 2.5"),
    ({"n_experts": True}, "n_experts: expected an integer of at least 1, got True"),
    ({"n_experts": "2"}, "n_experts: expected an integer of at least 1, got '2'"),
    ({"n_init": 0}, "n_init: expected an integer of at least 1, got 0"),
    ({"start_rows": 5}, "start_rows: expected an integer of at least 10, got 5"),
    ({"support_size": 0}, "support_size: expected an integer of at least 1, got 0"),
    ({"random_state": -1}, "random_state: expected an integer of at least 0, got -1"),
    ({"random_state": "seed"}, "random_state: expected an integer of at least 0, got 'seed'"),
    ({"family": "cauchy"}, "gaussian"),
    ({"aggregation": "mean"}, "aggregation: expected one of ['auto', 'reduction', "),
    ({"on_error": "ignore"}, "on_error: expected one of ['raise', 'skip'], got 'ignore'"),
    ({"refine": -1}, "refine: expected"),
    ({"partitions": 0}, "Expected partitions between 1 and the 400 rows of 'y', got 0"),
    ({"partitions": 401}, "Expected partitions between 1 and the 400 rows of 'y', got 401"),
    ({"partitions": 2.0}, "Expected partitions to be None, an integer or the name of a coordinate, got 2.0"),
    ({"partitions": "station"}, "got 'station'; the dataset has 'wind', 'y'"),
    ({"features": []}, "Expected at least one name in features, got none"),
]


@pytest.mark.parametrize(("options", "message"), OPTIONS, ids=lambda value: str(value))
def test_options_that_cannot_be(options: dict[str, Any], message: str, raise_if_dask_computes: Guard) -> None:
    for source in (rows(), lazy()):
        with raise_if_dask_computes(), pytest.raises(InvalidOptionError) as caught:
            daskmoe.fit(source, "y", **(FAST | options))
        assert_says(caught.value, message)


def test_a_misspelt_option_is_not_swallowed() -> None:
    with pytest.raises(TypeError, match="n_expert"):
        daskmoe.fit(rows(), "y", n_experts=2, n_expert=3)  # type: ignore[call-overload]


def test_partitions_by_missing_values() -> None:
    data = rows().assign_coords(station=("row", np.where(np.arange(400) < 3, np.nan, 1.0)))
    with pytest.raises(InvalidDataError) as caught:
        daskmoe.fit(data, "y", partitions="station", **FAST)
    assert_says(caught.value, "'station'", "got 3 missing of 400", "fill them or drop these rows")


def test_names_that_are_none(raise_if_dask_computes: Guard) -> None:
    data = lazy()
    with raise_if_dask_computes():
        for target in (data["y"], ["y"], None):
            with pytest.raises(InvalidOptionError, match="target: expected the name of a variable"):
                daskmoe.fit(data, target, **FAST)  # type: ignore[arg-type]
        with pytest.raises(InvalidOptionError, match="features: expected names of variables"):
            daskmoe.fit(data, "y", features=data["X"], **FAST)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"aggregation": "middle", "n_local_experts": 3}, "n_local_experts: expected 2"),
        ({"aggregation": "aligned", "n_local_experts": 3}, "n_local_experts: expected 2"),
        ({"aggregation": "greedy", "n_experts": 9, "n_local_experts": 1}, "n_experts: expected at most 4"),
        ({"aggregation": "reduction", "n_experts": 9, "n_local_experts": 2}, "n_experts: expected at most 8"),
    ],
)
def test_estimators_that_cannot_be_are_refused_at_once(
    options: dict[str, Any], message: str, raise_if_dask_computes: Guard
) -> None:
    with raise_if_dask_computes(), pytest.raises(InvalidOptionError, match=message):
        daskmoe.fit(lazy(), "y", **(FAST | options))


# Sizes of partitions.


def test_fewer_rows_than_parameters(raise_if_dask_computes: Guard) -> None:
    # Four parameters of a gate, five of each expert.
    wide = xr.Dataset({"X": (("row", "feature"), np.zeros((13, 3))), "y": ("row", np.zeros(13))})
    said = (
        "at least 14 rows of 'y'",
        "one for every free parameter of 2 experts with 3 features, got 13",
        "(features=...) or fewer experts (n_experts=...)",
    )
    for function in (daskmoe.fit, daskmoe.fit_local):
        with raise_if_dask_computes(), pytest.raises(InvalidDataError) as caught:
            function(wide, "y", n_experts=2)
        assert_says(caught.value, *said)


def test_rows_of_all_partitions_count_together() -> None:
    # 32 parameters, ten partitions of six rows.
    data = rows(60).chunk(row=6)
    daskmoe.fit(data, "y", n_experts=4, compute=False)


@pytest.mark.parametrize("n_experts", [1, 2])
def test_a_partition_of_one_row(n_experts: int, raise_if_dask_computes: Guard) -> None:
    data = rows().chunk(row=(200, 1, 199))
    with raise_if_dask_computes(), pytest.raises(InvalidDataError) as caught:
        daskmoe.fit(data, "y", **(FAST | {"n_experts": n_experts}))
    assert_says(caught.value, "at least 2 rows", "got 1 smaller: '1' (1 rows)", "larger chunks")
    left = daskmoe.fit(data, "y", **(FAST | {"n_experts": n_experts, "on_error": "skip"}))
    assert left.diagnostics is not None
    status = left.diagnostics["status"].values.tolist()
    assert [text.startswith("left out") for text in status] == [False, True, False]


# Rows.


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_missing_and_infinite_values(value: float, tmp_path: Path) -> None:
    data = rows()
    data["X"][[205, 210], 1] = value
    data["wind"][[210, 299]] = value
    data["y"][211] = value
    path = tmp_path / "rows.zarr"
    lazy(data).to_zarr(path, zarr_format=2)
    for source in (lazy(data), path):
        with pytest.raises(InvalidDataError) as caught:
            daskmoe.fit(source, "y", features=["X", "wind"], **FAST)
        assert_says(
            caught.value,
            "Expected finite values, got NaN or infinity in 4 of 100 rows of partition '2'",
            "by variable: 'X' 2, 'wind' 2, 'y' 1",
            "first at row[205]; row[210]; row[211]",
            "on_error='skip' drops such rows",
        )
    with pytest.raises(InvalidDataError, match="in 4 of 400 rows of partition '0'"):
        daskmoe.fit_local(data, "y", features=["X", "wind"], n_experts=2)


def test_an_error_of_a_partition_is_not_its_own_cause() -> None:
    """Whoever follows the chain of causes, as Distributed does, must come to its end."""
    data = rows()
    data["y"][0] = np.nan
    with pytest.raises(InvalidDataError) as caught:
        daskmoe.fit(lazy(data), "y", compute=False, **FAST).compute(scheduler="synchronous")
    seen: list[BaseException] = []
    error: BaseException | None = caught.value
    while error is not None:
        assert all(error is not other for other in seen)
        seen.append(error)
        error = error.__cause__


def test_skipping_drops_incomplete_rows_and_counts_them() -> None:
    data = rows()
    data["X"][[5, 205, 210], 1] = np.nan
    data["y"][[6, 5]] = np.inf
    model = daskmoe.fit(lazy(data), "y", on_error="skip", features="X", **FAST)
    found = model.diagnostics
    assert found is not None
    assert found["dropped_rows"].values.tolist() == [2, 0, 2, 0]
    assert found["rows"].values.tolist() == [98, 100, 98, 100]
    assert found["status"].values.tolist() == ["ok"] * 4
    complete = rows().drop_isel(row=[5, 6, 205, 210]).chunk(row=(98, 100, 98, 100))
    expected = daskmoe.fit(complete, "y", features="X", **FAST)
    xr.testing.assert_identical(model.local_estimates, expected.local_estimates)
    local = daskmoe.fit_local(data, "y", features="X", n_experts=2, on_error="skip")
    assert local.diagnostics is not None
    assert local.diagnostics["dropped_rows"].values.tolist() == [4]


@pytest.mark.parametrize("aggregation", BOTH)
def test_skipping_leaves_out_partitions_that_fail(aggregation: str) -> None:
    options = FAST | {"aggregation": aggregation}
    # A shared start needs one row, a fit of its own two.
    least = 2 if aggregation == "reduction" else 1
    data = rows()
    data["y"][100 : 201 - least] = np.nan
    model = daskmoe.fit(lazy(data), "y", on_error="skip", **options)
    found, local = model.diagnostics, model.local_estimates
    assert found is not None
    assert local is not None
    status = found["status"].values.tolist()
    assert [status[m] for m in (0, 2, 3)] == ["ok"] * 3
    assert status[1].startswith("left out: ")
    for part in ("Partition '1'", f"at least {least} complete rows", f"got {least - 1} "):
        assert part in status[1]
    assert "on_error" not in status[1] + model.summary()
    assert found["rows"].values.tolist() == [100, 0, 100, 100]
    assert found["dropped_rows"].values.tolist() == [0, 100, 0, 0]
    assert found["weight"].values.tolist() == [100.0, 0.0, 100.0, 100.0]
    assert local.isel(partition=1).isnull().all().to_array().all()
    whole = daskmoe.fit(lazy(), "y", **options)
    assert whole.local_estimates is not None
    # A shared start is another one without the rows that are missing.
    if aggregation == "reduction":
        xr.testing.assert_identical(
            local.isel(partition=[0, 2, 3]), whole.local_estimates.isel(partition=[0, 2, 3])
        )
    assert all(np.isfinite(values).all() for values in model.parameters)
    if aggregation == "reduction":
        assert found["plan_mass"].isel(partition=1).sum() == 0
    assert "1 not ok" in model.summary()


def left_out(model: MixtureOfExperts) -> list[bool]:
    assert model.diagnostics is not None
    return [text.startswith("left out") for text in model.diagnostics["status"].values.tolist()]


def corrupt_store(path: Path, n_rows: int = 400, chunk: int = 100) -> Path:
    """A store whose second chunk of the target is not what was written."""
    rows(n_rows).chunk(row=chunk).to_zarr(path, zarr_format=2)
    (path / "y" / "1").write_bytes(b"no longer blosc" * 20)
    return path


@pytest.mark.parametrize("aggregation", BOTH)
@pytest.mark.parametrize(("n_rows", "chunk"), [(400, 100), (40_000, 10_000), (20_000, 5_000)])
def test_skipping_leaves_out_a_corrupt_chunk(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, aggregation: str, n_rows: int, chunk: int
) -> None:
    path = corrupt_store(tmp_path / "rows.zarr", n_rows, chunk)
    model = daskmoe.fit(path, "y", on_error="skip", **(FAST | {"aggregation": aggregation}))
    assert left_out(model) == [False, True, False, False]
    assert model.log_likelihood(rows()) > -1.9 * 400
    assert model.diagnostics is not None
    assert "decompress" in str(model.diagnostics["status"].values[1])
    assert "on_error" not in caplog.text + model.summary() + str(model.diagnostics["status"].values)
    if aggregation == "auto":
        (warned,) = (text for text in caplog.messages if "sample" in text)
        assert warned.startswith("the sample's rows in row ")
        assert " left out: " in warned
        assert "decompress" in warned


@pytest.mark.parametrize("aggregation", BOTH)
def test_a_corrupt_chunk_is_named(tmp_path: Path, aggregation: str) -> None:
    path = corrupt_store(tmp_path / "rows.zarr")
    with pytest.raises(PartitionError) as caught:
        daskmoe.fit(path, "y", **(FAST | {"aggregation": aggregation}))
    if aggregation == "auto":
        assert_says(caught.value, "The sample's rows in row 100:200 could not be read", "decompress")
        assert "partition '" not in str(caught.value).lower()
    else:
        assert_says(caught.value, "Partition '1' (row 100:200; 100 rows) could not be fitted", "decompress")
    assert_says(caught.value, "on_error='skip'")


def test_a_sample_of_which_nothing_can_be_read(tmp_path: Path) -> None:
    path = corrupt_store(tmp_path / "rows.zarr")
    for chunk in "023":
        (path / "y" / chunk).write_bytes(b"no longer blosc" * 20)
    with pytest.raises(InvalidDataError) as caught:
        daskmoe.fit(path, "y", on_error="skip", **(FAST | {"aggregation": "auto"}))
    assert_says(caught.value, "400 sampled rows", "400 of them could not be read", "decompress")
    assert "on_error='skip'" not in str(caught.value)


@pytest.mark.parametrize("aggregation", BOTH)
@pytest.mark.parametrize("n_rows", [400, 40_000])
def test_skipping_leaves_out_wrong_weights(aggregation: str, n_rows: int) -> None:
    """The sample leaves out the rows, whose partition tells of them."""
    weight = np.ones(n_rows)
    weight[n_rows // 4 : n_rows // 2] = -1.0
    options = FAST | {"aggregation": aggregation, "partitions": 4, "sample_weight": "w"}
    for data in (rows(n_rows).assign(w=("row", weight)), rows(n_rows).assign(w=("row", weight)).chunk()):
        assert left_out(daskmoe.fit(data, "y", on_error="skip", **options)) == [False, True, False, False]
        with pytest.raises(InvalidDataError, match=r"Expected weights .* of partition '1' \("):
            daskmoe.fit(data, "y", **options)


def test_skipping_everything_is_an_error() -> None:
    data = rows() * np.nan
    with pytest.raises(PartitionError) as caught:
        daskmoe.fit(lazy(data), "y", on_error="skip", **FAST)
    assert_says(
        caught.value,
        "Expected at least one partition that can be fitted, got none",
        "no rows: target and features",
    )
    with pytest.raises(PartitionError, match="at least one partition that can be fitted"):
        daskmoe.fit_local(data, "y", n_experts=2, on_error="skip")


@pytest.mark.parametrize("on_error", ["raise", "skip"])
def test_a_sample_without_complete_rows(on_error: str) -> None:
    """No aggregation helps, nor does another way with errors: the message advises neither."""
    data = rows()
    data["y"][:] = np.nan
    data["X"][:300, 0] = np.inf
    with pytest.raises(InvalidDataError) as caught:
        daskmoe.fit(lazy(data), "y", on_error=on_error, **(FAST | {"aggregation": "auto"}))
    assert_says(
        caught.value,
        "Expected complete rows, got none among 400 sampled rows",
        "missing or infinite values (or negative weights) by variable: 'X' 300, 'y' 400",
    )
    assert "reduction" not in str(caught.value)
    assert "on_error" not in str(caught.value)


@pytest.mark.parametrize("value", [-1.0, np.nan, np.inf])
def test_weights_that_are_none(value: float) -> None:
    data = rows().assign(w=("row", np.ones(400)))
    data["w"][[150, 160]] = value
    with pytest.raises(InvalidDataError) as caught:
        daskmoe.fit(lazy(data), "y", sample_weight="w", **FAST)
    assert_says(
        caught.value,
        "Expected weights of zero or more, got 2 negative, infinite or NaN of 100",
        "variable 'w' of partition '1'",
        "first at row[150]; row[160]",
    )


def test_a_partition_without_weight() -> None:
    data = rows().assign(w=("row", np.where(np.arange(400) // 100 == 2, 0.0, 1.0)))
    with pytest.raises(InvalidDataError) as caught:
        daskmoe.fit(lazy(data), "y", sample_weight="w", **FAST)
    assert_says(caught.value, "Partition '2'", "complete rows of positive weight", "on_error='skip'")


# Stores.


def test_stores_that_are_not_there_or_not_zarr(tmp_path: Path, model: MixtureOfExperts) -> None:
    text, folder, netcdf = tmp_path / "rows.csv", tmp_path / "folder", tmp_path / "rows.nc"
    text.write_text("x,y\n1,2\n")
    folder.mkdir()
    rows()[["wind", "y"]].to_netcdf(netcdf)
    nowhere = tmp_path / "nowhere.zarr"
    uses: list[Callable[[Any], Any]] = [
        lambda path: daskmoe.fit(path, "y", **FAST),
        lambda path: daskmoe.fit_local(path, "y", n_experts=2),
        model.predict,
        lambda path: daskmoe.aggregate([model], path),
    ]
    for path, what in ((nowhere, "does not exist"), (folder, "is not a Zarr group")):
        for use in uses:
            for given in (path, str(path)):
                with pytest.raises(StoreError) as caught:
                    use(given)
                assert_says(caught.value, "Expected a Zarr store", repr(str(path)), what)
    for path in (text, netcdf):
        for use in uses:
            with pytest.raises(StoreError, match=re.escape(str(path))):
                use(path)


def test_an_array_is_not_a_dataset(tmp_path: Path) -> None:
    path = tmp_path / "array.zarr"
    zarr.create_array(path, shape=(3,), dtype="f8")
    with pytest.raises(DaskMoEError, match=r"array\.zarr"):
        daskmoe.fit(path, "y", **FAST)


def test_the_target_is_not_in_the_store(tmp_path: Path, raise_if_dask_computes: Guard) -> None:
    path = tmp_path / "rows.zarr"
    lazy().to_zarr(path, zarr_format=2)
    with raise_if_dask_computes(), pytest.raises(InvalidDataError, match="Expected a target variable 'z'"):
        daskmoe.fit(path, "z", **FAST)


def test_outputs_are_never_overwritten(tmp_path: Path, model: MixtureOfExperts) -> None:
    writers = {"model.zarr": model.to_zarr, "model.nc": model.to_netcdf}
    for name, write in writers.items():
        path = tmp_path / name
        write(path)
        before = {file: file.read_bytes() for file in [path, *path.rglob("*")] if file.is_file()}
        with pytest.raises(OutputExistsError, match=re.escape(str(path))):
            write(path)
        assert {file: file.read_bytes() for file in [path, *path.rglob("*")] if file.is_file()} == before
    assert issubclass(OutputExistsError, FileExistsError)


# Models.


def test_models_of_another_schema_version(tmp_path: Path, model: MixtureOfExperts) -> None:
    store, file = tmp_path / "model.zarr", tmp_path / "model.nc"
    changed = model.to_dataset().assign_attrs(daskmoe_schema=99)
    changed.to_zarr(store, zarr_format=2)
    changed.to_netcdf(file)
    for path in (store, file):
        with pytest.raises(SchemaError) as caught:
            daskmoe.open_model(path)
        assert_says(caught.value, "99", "1", path.name)


def test_what_is_not_a_model(tmp_path: Path) -> None:
    store, file = tmp_path / "rows.zarr", tmp_path / "rows.nc"
    lazy().to_zarr(store, zarr_format=2)
    rows()[["wind", "y"]].to_netcdf(file)
    for path in (store, file):
        with pytest.raises(SchemaError, match=re.escape(path.name)):
            daskmoe.open_model(path)
    with pytest.raises(StoreError, match=r"nowhere\.zarr"):
        daskmoe.open_model(tmp_path / "nowhere.zarr")


def test_features_that_are_missing_or_unknown(model: MixtureOfExperts, raise_if_dask_computes: Guard) -> None:
    data = rows()
    more = data.reindex(feature=["a", "b", "c"], fill_value=0.0)
    cases: list[tuple[xr.Dataset, tuple[str, ...]]] = [
        (data.drop_vars("X"), ("Expected a feature variable 'X'",)),
        (data.isel(feature=[0]), ("'X'", "misses the labels 'b' along 'feature'")),
        (more, ("labels along 'feature' that the model does not know: 'c'", "drop them with sel(feature=")),
        (data.drop_vars("feature"), ("'X' has no labels along 'feature'", "assign_coords(feature=...)")),
        (data.assign(X=data["X"].astype(str)), ("'X'", "expected real numbers or booleans")),
        (data.rename(feature="band"), ("'X' has dimensions ('row', 'band')",)),
    ]
    for wrong, parts in cases:
        for method in (
            model.predict,
            model.gating_probabilities,
            model.responsibilities,
            model.log_likelihood,
        ):
            with raise_if_dask_computes(), pytest.raises(InvalidDataError) as caught:
                method(wrong.chunk(row=100))
            assert_says(caught.value, *parts)


def test_features_are_matched_by_label(model: MixtureOfExperts) -> None:
    data = rows()
    expected = model.predict(data)
    xr.testing.assert_identical(model.predict(data.isel(feature=[1, 0])), expected)
    xr.testing.assert_identical(model.predict(data[["wind", "X"]]), expected)
    swapped = data.assign_coords(feature=["b", "a"])
    assert not np.allclose(model.predict(swapped), expected)


def test_columns_without_labels_are_counted() -> None:
    data = rows().drop_vars("feature")
    model = daskmoe.fit_local(data, "y", features="X", n_experts=2, n_init=2, random_state=0)
    assert model.feature_names == ("X_0", "X_1")
    with pytest.raises(InvalidDataError, match="'X' has 1 columns along 'feature', expected 2"):
        model.predict(data.isel(feature=[0]))


def test_rows_without_a_target_cannot_be_scored(model: MixtureOfExperts) -> None:
    for method in (model.responsibilities, model.log_likelihood, model.score):
        with pytest.raises(InvalidDataError, match="Expected a target variable 'y'"):
            method(rows().drop_vars("y"))


def test_every_error_is_one_of_ours() -> None:
    for error in (
        InvalidDataError, InvalidOptionError, OutputExistsError, PartitionError, SchemaError, StoreError,
    ):  # fmt: skip
        assert issubclass(error, DaskMoEError)


@pytest.mark.parametrize("bad", [3, None, b"model.zarr", rows(10)])
def test_what_is_no_model_is_named(model: MixtureOfExperts, bad: Any) -> None:
    calls: dict[str, Callable[[], Any]] = {
        "model": lambda: daskmoe.refine(bad, lazy()),
        "model_a": lambda: daskmoe.transportation_divergence(bad, model, rows()),
        "model_b": lambda: daskmoe.transportation_divergence(model, bad, rows()),
        "models[1]": lambda: daskmoe.aggregate([model, bad], rows()),
    }
    for name, call in calls.items():
        with pytest.raises(InvalidDataError) as found:
            call()
        expected = f"{name}: expected a fitted model or the path of a saved one, got {type(bad).__name__}"
        assert_says(found.value, expected)

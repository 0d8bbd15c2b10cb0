"""`fit` and `fit_local`: every layout of data, every way to hand them over, what the estimates must equal.

The oracles are least squares where there is one expert, the same rows stacked by xarray, and the truth that
data were drawn from.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

import daskmoe
from daskmoe import MixtureOfExperts

Guard = Callable[..., AbstractContextManager[None]]

FAST: dict[str, Any] = {"n_experts": 2, "n_init": 3, "random_state": 7, "aggregation": "reduction"}
LOCAL = {name: value for name, value in FAST.items() if name != "aggregation"}


def assert_same_bits(first: MixtureOfExperts, second: MixtureOfExperts) -> None:
    """Everything but the clock."""
    xr.testing.assert_identical(first.params, second.params)
    xr.testing.assert_identical(first.local_estimates, second.local_estimates)
    assert first.diagnostics is not None
    assert second.diagnostics is not None
    xr.testing.assert_identical(
        first.diagnostics.drop_vars("seconds"), second.diagnostics.drop_vars("seconds")
    )


@pytest.fixture(scope="module")
def data() -> xr.Dataset:
    """1,200 rows in memory."""
    return daskmoe.simulate(1_200, n_features=3, n_experts=2, design="overlap", random_state=0)[0]


@pytest.fixture(scope="module")
def store(data: xr.Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same rows, 300 a chunk."""
    path = tmp_path_factory.mktemp("fit") / "rows.zarr"
    data.chunk(row=300).to_zarr(path, zarr_format=2)
    return path


@pytest.fixture(scope="module")
def expected(store: Path) -> MixtureOfExperts:
    return daskmoe.fit(str(store), "y", **FAST)


@pytest.mark.parametrize("seed", range(4))
def test_hardly_more_rows_than_experts(seed: int) -> None:
    # Four experts of twenty rows are spikes at which a sample's information has no definite sign.
    response = np.random.default_rng(seed).normal(size=20)
    rows = xr.Dataset({"x": ("row", np.arange(20.0)), "y": ("row", response)}).chunk(row=5)
    model = daskmoe.fit(rows, "y", n_experts=4, random_state=0)
    assert np.isfinite(model.log_likelihood(rows))


# The value has an expert of its own.
@pytest.mark.filterwarnings("ignore::daskmoe.errors.FitWarning")
def test_a_stray_fill_value_does_not_take_the_model_with_it() -> None:
    rng, n = np.random.default_rng(3), 12_000
    x = rng.normal(size=(n, 4))
    response = np.where(x[:, 0] > 0, x[:, 1], -x[:, 1] - 1) + 0.3 * rng.normal(size=n)
    response[77] = 1e6
    rows = xr.Dataset({"X": (("row", "feature"), x), "y": ("row", response)})
    model = daskmoe.fit(rows.chunk(row=1_000), "y", n_experts=2, random_state=0)
    local = daskmoe.fit_local(rows, "y", n_experts=2, random_state=0)
    assert model.log_likelihood(rows) / n == pytest.approx(local.log_likelihood(rows) / n, abs=0.5)


@pytest.mark.parametrize("masked_by", ["values", "weights"])
def test_masked_rows_leave_enough_for_the_shared_start(masked_by: str) -> None:
    whole, _ = daskmoe.simulate(100_000, n_features=8, n_experts=4, random_state=1)
    used = xr.DataArray(np.random.default_rng(0).random(100_000) < 0.05, dims="row")
    if masked_by == "values":
        masked = whole.assign(y=whole["y"].where(used))
        options: dict[str, Any] = {"on_error": "skip"}
    else:
        masked = whole.assign(w=used.astype(float))
        options = {"sample_weight": "w"}
    model = daskmoe.fit(masked.chunk(row=10_000), "y", n_experts=4, features="X", random_state=2, **options)
    rows = whole.isel(row=np.flatnonzero(used))
    local = daskmoe.fit_local(rows, "y", n_experts=4, random_state=2)
    # 10,000 rows drawn would have left 500 for 67 parameters.
    excess = (local.log_likelihood(rows) - model.log_likelihood(rows)) / rows.sizes["row"]
    assert excess < 1e-3


def test_integers_of_numpy_are_options(data: xr.Dataset, tmp_path: Path) -> None:
    whole = {name: np.int64(2) for name in ("n_experts", "partitions", "refine", "n_init")}
    model = daskmoe.fit(data, "y", random_state=np.int64(3), support_size=np.int64(50), **whole)
    model.to_zarr(tmp_path / "model.zarr")
    daskmoe.fit_local(data, "y", n_experts=np.int64(1)).to_netcdf(tmp_path / "model.nc")


@pytest.mark.parametrize("aggregation", ["auto", "reduction"])
def test_rows_of_weight_zero_may_hold_anything(data: xr.Dataset, aggregation: str) -> None:
    weight = xr.ones_like(data["y"])
    weight[5:40] = 0.0
    masked = data.assign(y=data["y"].where(weight > 0), w=weight).chunk(row=300)
    options = {**FAST, "aggregation": aggregation, "sample_weight": "w"}
    found = daskmoe.fit(masked, "y", **options)
    expected = daskmoe.fit(data.assign(w=weight).chunk(row=300), "y", **options)
    xr.testing.assert_allclose(found.params, expected.params)
    local = daskmoe.fit_local(masked, "y", n_experts=1, sample_weight="w")
    assert local.diagnostics is not None
    assert local.diagnostics["dropped_rows"].sum() == 35


def test_a_chunk_of_the_last_few_rows_is_a_partition(data: xr.Dataset) -> None:
    # 1,200 rows in chunks of 599, as of 100,000 in chunks of 33,333.
    model = daskmoe.fit(data.chunk(row=599), "y", n_experts=3, random_state=0)
    assert model.diagnostics is not None
    assert model.diagnostics["rows"].values.tolist() == [599, 599, 2]
    assert (model.diagnostics["status"] == "ok").all()
    even = daskmoe.fit(data.chunk(row=600), "y", n_experts=3, random_state=0)
    rows = data.sizes["row"]
    assert model.log_likelihood(data) / rows == pytest.approx(even.log_likelihood(data) / rows, abs=2e-3)


@pytest.mark.parametrize("on_error", ["raise", "skip"])
def test_partitions_of_one_row(data: xr.Dataset, on_error: str) -> None:
    model = daskmoe.fit(
        data.isel(row=slice(60)).chunk(row=1), "y", n_experts=2, random_state=0, on_error=on_error
    )
    assert model.diagnostics is not None
    assert (model.diagnostics["status"] == "ok").all()
    assert np.isfinite(model.log_likelihood(data))


# The same bits, however the data come and wherever the tasks run.


def test_path_lazy_and_in_memory_data(data: xr.Dataset, store: Path, expected: MixtureOfExperts) -> None:
    assert expected.diagnostics is not None
    assert expected.diagnostics["rows"].values.tolist() == [300] * 4
    assert_same_bits(daskmoe.fit(store, "y", partitions=4, **FAST), expected)
    with xr.open_zarr(store, consolidated=True) as lazy:
        assert lazy["y"].chunks is not None
        assert_same_bits(daskmoe.fit(lazy, "y", **FAST), expected)
    assert_same_bits(daskmoe.fit(data.chunk(row=300), "y", **FAST), expected)
    assert_same_bits(daskmoe.fit(data, "y", partitions=4, **FAST), expected)


def test_schedulers(store: Path, data: xr.Dataset, expected: MixtureOfExperts) -> None:
    for source in (store, data.chunk(row=300)):
        model = daskmoe.fit(source, "y", compute=False, **FAST)
        for scheduler in ("synchronous", "threads"):
            assert_same_bits(model.compute(scheduler=scheduler), expected)
    assert_same_bits(model.compute(scheduler="threads", num_workers=4), expected)


def test_processes(store: Path, expected: MixtureOfExperts) -> None:
    model = daskmoe.fit(store, "y", compute=False, **FAST)
    assert_same_bits(model.compute(scheduler="processes", num_workers=2), expected)


def test_the_default_aggregation_gives_the_same_bits_too(data: xr.Dataset, store: Path) -> None:
    options = {**FAST, "aggregation": "auto"}
    expected = daskmoe.fit(store, "y", **options)
    with xr.open_zarr(store, consolidated=True) as lazy:
        assert_same_bits(daskmoe.fit(lazy, "y", **options), expected)
    for source in (store, data.chunk(row=300)):
        model = daskmoe.fit(source, "y", compute=False, **options)
        for scheduler in ("synchronous", "threads"):
            assert_same_bits(model.compute(scheduler=scheduler), expected)


def test_masked_rows_give_the_same_bits_too(tmp_path: Path) -> None:
    # Enough that each window sends a part of its rows only.
    data, _ = daskmoe.simulate(30_000, n_features=2, n_experts=2, random_state=0)
    data = data.compute()
    data["y"][::7] = np.nan
    data.chunk(row=2_500).to_zarr(tmp_path / "rows.zarr", zarr_format=2)
    options = {**FAST, "aggregation": "auto", "on_error": "skip"}
    expected = daskmoe.fit(tmp_path / "rows.zarr", "y", **options)
    with xr.open_zarr(tmp_path / "rows.zarr", consolidated=True) as lazy:
        assert_same_bits(daskmoe.fit(lazy, "y", **options), expected)


def test_seed_decides(store: Path, expected: MixtureOfExperts) -> None:
    # The starts differ, and with them the support sample and the last digits of the result.
    other = daskmoe.fit(store, "y", **(FAST | {"random_state": 8}))
    assert not other.params.identical(expected.params)
    seeds = [
        np.random.default_rng(3),
        np.random.default_rng(3),
        np.random.SeedSequence(4),
        np.random.SeedSequence(4),
    ]
    models = [daskmoe.fit(store, "y", **(FAST | {"random_state": seed})) for seed in seeds]
    assert_same_bits(models[0], models[1])
    assert_same_bits(models[2], models[3])
    assert not models[0].params.identical(models[2].params)


def test_one_partition_is_the_local_fit(data: xr.Dataset, store: Path) -> None:
    local = daskmoe.fit_local(store, "y", **LOCAL)
    for source, partitions in ((store, 1), (data, None), (data.chunk(row=-1), None), (data.chunk(row=7), 1)):
        model = daskmoe.fit(source, "y", partitions=partitions, **FAST)
        assert model.diagnostics is not None
        assert model.diagnostics.sizes["partition"] == 1
        xr.testing.assert_identical(model.params, local.params)
        xr.testing.assert_identical(model.local_estimates, local.local_estimates)
    assert local.local_estimates is not None
    for name, values in local.params.items():
        np.testing.assert_array_equal(local.local_estimates[name].isel(partition=0), values)


# Any chunking.


@st.composite
def sizes_of_chunks(draw: st.DrawFn, total: int, least: int) -> tuple[int, ...]:
    """Sizes of at least ``least`` that add up to ``total``."""
    sizes: list[int] = []
    while (left := total - sum(sizes)) >= 2 * least:
        size = draw(st.integers(least, left - least) | st.just(left))
        sizes.append(size)
        if size == left:
            return tuple(sizes)
    return (*sizes, left) if left else tuple(sizes)


@settings(max_examples=15)
@given(rows=sizes_of_chunks(60, 2), columns=sizes_of_chunks(5, 1), by_row=st.booleans())
def test_chunks_are_partitions_and_cover_every_row_once(
    rows: tuple[int, ...], columns: tuple[int, ...], by_row: bool
) -> None:
    """The sums of row weights, squares of row numbers, tell which rows a partition had."""
    rng = np.random.default_rng(0)
    numbers = np.arange(300.0).reshape(60, 5) + 1
    dims = ("time", "place") if by_row else ("place", "time")
    data = xr.Dataset(
        {
            "x": (("time", "place"), rng.normal(size=(60, 5))),
            "y": (("time", "place"), rng.normal(size=(60, 5))),
            "square": (("time", "place"), numbers**2),
        }
    ).transpose(*dims)
    lazy = data.chunk(time=rows, place=columns)
    model = daskmoe.fit(
        lazy, "y", features="x", sample_weight="square", n_experts=1, aggregation="reduction", random_state=0
    )
    assert model.diagnostics is not None
    found = model.diagnostics
    blocks = lazy["square"].data.to_delayed().ravel()
    values = [np.asarray(block.compute(scheduler="synchronous")) for block in blocks]
    assert found["rows"].values.tolist() == [block.size for block in values]
    np.testing.assert_allclose(found["weight"], [block.sum() for block in values], rtol=1e-14)
    assert found["rows"].sum() == 300


@settings(max_examples=12)
@given(
    x_chunks=sizes_of_chunks(400, 1),
    y_chunks=sizes_of_chunks(400, 1),
    feature_chunks=sizes_of_chunks(3, 1),
    partitions=st.integers(1, 5),
)
def test_row_ranges_do_not_feel_the_chunks(
    x_chunks: tuple[int, ...], y_chunks: tuple[int, ...], feature_chunks: tuple[int, ...], partitions: int
) -> None:
    data, _ = daskmoe.simulate(400, n_features=3, n_experts=2, design="overlap", random_state=1)
    lazy = data.assign(
        X=data["X"].chunk(row=x_chunks, feature=feature_chunks), y=data["y"].chunk(row=y_chunks)
    )
    options = {**FAST, "n_init": 2, "partitions": partitions}
    model = daskmoe.fit(lazy, "y", compute=False, **options).compute(scheduler="synchronous")
    assert_same_bits(model, daskmoe.fit(data, "y", **options))


# What the numbers must be.


def least_squares(features: np.ndarray, response: np.ndarray) -> tuple[np.ndarray, float]:
    """Coefficients, intercept first, and the maximum-likelihood variance."""
    design = np.column_stack([np.ones(len(features)), features])
    coef = np.linalg.lstsq(design, response, rcond=None)[0]
    return coef, float(np.mean((response - design @ coef) ** 2))


def test_one_expert_is_least_squares_and_its_reduction_their_average(data: xr.Dataset) -> None:
    # Unequal partitions; every row is a support row.
    sizes = (100, 500, 250, 350)
    model = daskmoe.fit(
        data.chunk(row=sizes), "y", n_experts=1, support_size=1_200, aggregation="reduction", random_state=0
    )
    parts = np.split(np.arange(1_200), np.cumsum(sizes)[:-1])
    features, response = data["X"].values, data["y"].values
    fits = [least_squares(features[part], response[part]) for part in parts]
    assert model.local_estimates is not None
    local = model.local_estimates.isel(local_expert=0)
    coefs = np.column_stack([local["intercept"], local["coef"]])
    np.testing.assert_allclose(coefs, [coef for coef, _ in fits], rtol=1e-8)
    np.testing.assert_allclose(local["variance"], [variance for _, variance in fits], rtol=1e-8)
    share = np.array(sizes) / 1_200
    mean = share @ [coef for coef, _ in fits]
    design = np.column_stack([np.ones(1_200), features])
    spread = [variance + np.mean((design @ (coef - mean)) ** 2) for coef, variance in fits]
    np.testing.assert_allclose(model.parameters.coef[0, 0], mean, rtol=1e-8)
    np.testing.assert_allclose(model.parameters.nuisance[:, 0], share @ spread, rtol=1e-8)
    np.testing.assert_array_equal(model.parameters.gate, np.zeros((1, 4)))


@pytest.mark.parametrize("fill", [1e20, 0.0])
def test_a_mask_of_weights_is_a_selection(fill: float) -> None:
    data, _ = daskmoe.simulate(40_000, n_features=2, n_experts=2, design="overlap", random_state=0)
    kept = np.zeros(40_000)
    kept[:500] = 1.0
    masked = data.assign(w=("row", kept), y=data["y"].where(kept > 0, fill))
    options: dict[str, Any] = {"features": "X", "n_experts": 2, "sample_weight": "w", "random_state": 0}
    for how in ({"on_error": "skip", "partitions": 4}, {"partitions": 1}):
        model = daskmoe.fit(masked, "y", **options, **how)
        assert model.diagnostics is not None
        assert model.diagnostics["rows"].values[0] == 500
    alone = daskmoe.fit_local(data.isel(row=slice(0, 500)), "y", n_experts=2, random_state=0)
    assert model.log_likelihood(data.isel(row=slice(0, 500))) == pytest.approx(
        alone.log_likelihood(data.isel(row=slice(0, 500))), abs=1e-3
    )


# The target is a line without noise.
@pytest.mark.filterwarnings("ignore::daskmoe.errors.FitWarning")
def test_experts_without_rows_are_told(data: xr.Dataset, caplog: pytest.LogCaptureFixture) -> None:
    # One straight line is no place for three experts with variances of their own.
    line = data.assign(y=data["X"] @ xr.DataArray([1.0, -2.0, 0.5], dims="feature"))
    with caplog.at_level("WARNING", logger="daskmoe"):
        model = daskmoe.fit(line, "y", partitions=2, **(FAST | {"n_experts": 3}))
    assert model.diagnostics is not None
    assert bool((model.diagnostics["local_expert_weight"] < 1).any("local_expert").all())
    assert caplog.text.count("of 3 experts have the weight of less than one row") == 2
    assert all(bool(np.isfinite(values).all()) for values in model.params.values())


def test_diagnostics_tell_how_the_fit_went(data: xr.Dataset, expected: MixtureOfExperts) -> None:
    found = expected.diagnostics
    assert found is not None
    assert found["status"].values.tolist() == ["ok"] * 4
    assert found["dropped_rows"].values.tolist() == [0] * 4
    assert found["weight"].values.tolist() == [300.0] * 4
    # 300 rows of three features and a response.
    assert found["data_bytes"].values.tolist() == [300 * 4 * 8] * 4
    assert (found["seconds"] > 0).all()
    np.testing.assert_allclose(found["local_expert_weight"].sum("local_expert"), 300.0)
    objective = found["objective"].values
    assert len(objective) > 1
    assert (np.diff(objective) <= 0).all()
    np.testing.assert_allclose(found["plan_mass"].sum(), 1.0)
    assert expected.local_estimates is not None
    for m in range(4):
        one = expected.local_estimates.isel(partition=m, drop=True).rename(local_expert="expert")
        local = MixtureOfExperts(
            one.drop_vars("expert"), None, None, family="gaussian", rows=expected.rows, options={}
        )
        rows = data.isel(row=slice(300 * m, 300 * (m + 1)))
        assert float(found["log_likelihood"][m]) == pytest.approx(local.log_likelihood(rows), rel=1e-9)


def test_a_fit_knows_what_it_was_asked(expected: MixtureOfExperts) -> None:
    assert expected.n_experts == 2
    assert expected.target == "y"
    assert expected.feature_names == ("x0", "x1", "x2")
    assert expected.options["random_state"] == "7"
    assert expected.options["partitions"] == 4


def test_weights_of_two_are_rows_twice(data: xr.Dataset) -> None:
    few = data.isel(row=slice(0, 200))
    twice = np.arange(200) % 3 == 0
    weighted = few.assign(w=("row", np.where(twice, 2.0, 1.0)))
    doubled = few.isel(row=np.repeat(np.arange(200), np.where(twice, 2, 1)))
    one = daskmoe.fit_local(weighted, "y", features="X", sample_weight="w", n_experts=1)
    two = daskmoe.fit_local(doubled, "y", n_experts=1)
    for name in ("coef", "intercept", "variance"):
        np.testing.assert_allclose(one.params[name], two.params[name], rtol=1e-9)


# Every layout of data.


class Layout(NamedTuple):
    """Labelled data, the columns of their rows by hand, and the chunks of the lazy twin."""

    data: xr.Dataset
    features: list[str]
    columns: list[xr.DataArray]
    chunks: dict[str, int]


def response(*columns: xr.DataArray, dims: tuple[str, ...], name: str) -> xr.DataArray:
    """Two regimes that differ in slope, by the sign of the first column."""
    first, *others = xr.broadcast(*columns)
    rest = sum(others)
    noise = np.random.default_rng(9).normal(size=first.transpose(*dims).shape)
    total = xr.where(first > 0, 3 * first + rest, -2 * first - rest).transpose(*dims) + noise
    return total.reset_coords(drop=True).rename(name).assign_attrs(units="K", long_name="temperature")


def matrix_layout() -> Layout:
    """One 2-D feature variable, with labels, and a coordinate over the rows."""
    rng = np.random.default_rng(1)
    features = xr.DataArray(
        rng.normal(size=(400, 3)),
        dims=("row", "band"),
        coords={"row": np.arange(400) * 2, "band": ["red", "green", "blue"]},
        attrs={"units": "m"},
    )
    columns = [features.sel(band=name, drop=True) for name in ("red", "green", "blue")]
    data = xr.Dataset({"X": features, "t": response(*columns, dims=("row",), name="t")})
    return Layout(data.assign_coords(quality=("row", rng.normal(size=400))), ["X"], columns, {"row": 90})


def column_layout() -> Layout:
    """One variable a feature, of several dtypes, text among them."""
    rng = np.random.default_rng(2)
    data = xr.Dataset(
        {
            "wind": ("time", rng.normal(size=400), {"units": "m s-1"}),
            "name": ("time", np.array(["a", "b"] * 200)),
            "day": ("time", np.arange(400) % 7),
            "rain": ("time", rng.random(400) > 0.7),
            "sun": ("time", rng.normal(size=400).astype(np.float32)),
        },
        {"time": np.arange(400).astype("datetime64[h]").astype("datetime64[ns]")},
    )
    names = ["wind", "day", "rain", "sun", "name"]
    columns = [data[name].astype(float) for name in names[:-1]] + [(data["name"] == "b").astype(float)]
    return Layout(data.assign(t=response(*columns, dims=("time",), name="t")), names, columns, {"time": 130})


def gridded_layout() -> Layout:
    """(time, lat, lon), covariates that broadcast, one in another order of dimensions, one with bands."""
    rng = np.random.default_rng(3)
    data = xr.Dataset(
        {
            "wind": (("lat", "lon", "time"), rng.normal(size=(5, 6, 20))),
            "elevation": (("lat", "lon"), rng.normal(size=(5, 6)), {"units": "m"}),
            "season": ("time", np.sin(np.arange(20.0))),
            "soil": (("lon", "layer", "lat"), rng.normal(size=(6, 2, 5))),
        },
        {
            "time": np.arange(20).astype("datetime64[D]").astype("datetime64[ns]"),
            "lat": np.linspace(-50, 50, 5),
            "lon": np.arange(6) * 60.0,
            "layer": [1, 2],
            "area": (("lat", "lon"), rng.random((5, 6))),
        },
    )
    columns = [
        data["wind"],
        data["elevation"],
        data["season"],
        *(data["soil"].isel(layer=i, drop=True) for i in (0, 1)),
    ]
    target = response(*columns, dims=("time", "lat", "lon"), name="t")
    names = ["wind", "elevation", "season", "soil"]
    return Layout(data.assign(t=target), names, columns, {"time": 7, "lat": 3, "lon": 6})


LAYOUTS = {"matrix": matrix_layout, "columns": column_layout, "gridded": gridded_layout}


def stacked(layout: Layout) -> xr.Dataset:
    """The rows as one matrix and one vector, by xarray's own broadcasting."""
    target = layout.data["t"]
    full = [c.reset_coords(drop=True).broadcast_like(target).transpose(*target.dims) for c in layout.columns]
    features = np.stack([c.values.ravel() for c in full], axis=1)
    return xr.Dataset({"X": (("row", "feature"), features), "t": ("row", target.values.ravel())})


def values_of(model: MixtureOfExperts) -> list[np.ndarray]:
    return [*model.parameters]


@pytest.fixture(params=LAYOUTS)
def layout(request: pytest.FixtureRequest) -> Layout:
    return LAYOUTS[request.param]()


def test_layouts_are_the_stacked_rows(layout: Layout, tmp_path: Path) -> None:
    lazy = layout.data.chunk(layout.chunks)
    path = tmp_path / "rows.zarr"
    lazy.to_zarr(path, zarr_format=2)
    flat = stacked(layout)
    for partitions in (1, 3):
        options = {**FAST, "partitions": partitions}
        wanted = daskmoe.fit(flat, "t", **options)
        for source in (layout.data, lazy, path):
            found = daskmoe.fit(source, "t", features=layout.features, **options)
            for one, other in zip(values_of(found), values_of(wanted), strict=True):
                np.testing.assert_array_equal(one, other)
    by_chunk = [daskmoe.fit(source, "t", features=layout.features, **FAST) for source in (path, lazy)]
    assert_same_bits(*by_chunk)


def test_features_by_default_are_the_same_however_a_store_lists_them(tmp_path: Path) -> None:
    """Metadata in one file are listed by name, a folder in the order of its file system."""
    layout = column_layout()
    lazy = layout.data.chunk(layout.chunks)
    for consolidated in (True, False):
        lazy.to_zarr(tmp_path / f"{consolidated}.zarr", zarr_format=2, consolidated=consolidated)
    expected = daskmoe.fit(tmp_path / "True.zarr", "t", **FAST)
    assert set(expected.feature_names) == {"wind", "day", "rain", "sun", "name_b"}
    assert_same_bits(daskmoe.fit(tmp_path / "False.zarr", "t", **FAST), expected)
    assert_same_bits(daskmoe.fit(lazy, "t", **FAST), expected)


def test_layouts_predict_like_their_target(
    layout: Layout, tmp_path: Path, raise_if_dask_computes: Guard
) -> None:
    lazy = layout.data.chunk(layout.chunks)
    path = tmp_path / "rows.zarr"
    lazy.to_zarr(path, zarr_format=2)
    model = daskmoe.fit(path, "t", **FAST)
    assert model.diagnostics is not None
    assert model.diagnostics.sizes["partition"] == lazy["t"].data.npartitions > 1
    target = layout.data["t"]
    in_memory = model.predict(layout.data)
    assert isinstance(in_memory.data, np.ndarray)
    for source in (lazy, path, lazy.drop_vars("t")):
        with raise_if_dask_computes():
            predicted = model.predict(source)
        if source is not path:
            # Without the target, its chunks are those of the features.
            assert predicted.chunks == lazy["t"].chunks
        assert predicted.name == "t"
        assert predicted.dims == target.dims
        assert predicted.attrs == {"units": "K", "long_name": "temperature"}
        np.testing.assert_array_equal(predicted.compute(), in_memory)
        xr.testing.assert_equal(predicted.coords.to_dataset().compute(), target.coords.to_dataset())
    gates = model.gating_probabilities(lazy)
    assert gates.dims == ("expert", *target.dims)
    assert gates.chunks == ((2,), *lazy["t"].chunks)
    # The two regimes are told apart: the fit explains what least squares cannot.
    flat = stacked(layout)
    _, left_over = least_squares(flat["X"].values, flat["t"].values)
    assert 1 - model.score(lazy) < left_over / float(target.var())


def test_labels_and_units_of_the_parameters() -> None:
    layout = gridded_layout()
    model = daskmoe.fit_local(layout.data, "t", features=layout.features, **LOCAL)
    assert model.feature_names == ("wind", "elevation", "season", "1", "2")
    assert model.params["coef"].dims == ("expert", "feature")
    assert model.params["intercept"].attrs["units"] == "K"
    assert model.params["variance"].attrs["units"] == "(K)^2"


# Partitions by name.


def station_data() -> xr.Dataset:
    """Rows of three stations, interleaved; elevation is constant within a station."""
    rng = np.random.default_rng(5)
    station = rng.permutation(np.repeat(["north", "south", "east"], [100, 150, 200]))
    height = {"north": 1.0, "south": -1.0, "east": 0.5}
    wind = rng.normal(size=450)
    elevation = np.array([height[name] for name in station])
    noise = rng.normal(size=450)
    return xr.Dataset(
        {
            "wind": ("time", wind),
            "elevation": ("time", elevation),
            "t": ("time", np.where(wind > 0, 4 * wind, -2 * wind) + elevation + noise),
        },
        {"station": ("time", station)},
    )


def test_a_coordinate_makes_one_partition_a_value(tmp_path: Path) -> None:
    data = station_data()
    path = tmp_path / "rows.zarr"
    data.chunk(time=64).to_zarr(path, zarr_format=2)
    # The same rows put together by hand, in chunks that are the stations in sorted order.
    order = np.argsort(data["station"].values, kind="stable")
    by_hand = data.isel(time=order).drop_vars("station").chunk(time=(200, 100, 150))
    features = ["wind", "elevation"]
    expected = daskmoe.fit(by_hand, "t", features=features, **FAST)
    for source in (data, data.chunk(time=64), path):
        model = daskmoe.fit(source, "t", features=features, partitions="station", **FAST)
        assert model.diagnostics is not None
        assert model.diagnostics["partition"].values.tolist() == ["east", "north", "south"]
        assert model.diagnostics["rows"].values.tolist() == [200, 100, 150]
        for one, other in zip(values_of(model), values_of(expected), strict=True):
            np.testing.assert_array_equal(one, other)
        for values in values_of(model):
            assert np.isfinite(values).all()
        predicted = model.predict(source)
        assert predicted["station"].values.tolist() == data["station"].values.tolist()
    assert model.local_estimates is not None
    assert model.local_estimates["partition"].values.tolist() == ["east", "north", "south"]


def test_a_dimension_makes_one_partition_a_value() -> None:
    rng = np.random.default_rng(6)
    wind = xr.DataArray(
        rng.normal(size=(120, 3)), dims=("time", "station"), coords={"station": ["c", "a", "b"]}, name="wind"
    )
    data = xr.Dataset({"wind": wind, "t": response(wind, wind * 0.1, dims=("time", "station"), name="t")})
    model = daskmoe.fit(data, "t", partitions="station", **FAST)
    by_hand = data.sortby("station").transpose("station", "time").chunk(station=1)
    assert model.local_estimates is not None
    assert model.local_estimates["partition"].values.tolist() == ["a", "b", "c"]
    for one, other in zip(values_of(model), values_of(daskmoe.fit(by_hand, "t", **FAST)), strict=True):
        np.testing.assert_array_equal(one, other)
    assert model.predict(data.chunk(station=1)).chunks == ((120,), (1, 1, 1))


# Against the truth.


@pytest.mark.slow
@pytest.mark.parametrize("design", ["paper", "overlap"])
def test_the_simulated_default_is_near_the_truth(design: str) -> None:
    """The demo's 20 features, 4 experts and rows a partition, on an eighth of its rows, with all defaults.

    The global fit of 125,000 rows would lose 151 parameters / (2 * 125,000) = 0.0006 nats a row, and the
    difference of two log-likelihoods of 100,000 held-out rows is certain to less than that.
    """
    fitted, held_out = 125_000, 100_000
    data, truth = daskmoe.simulate(
        fitted + held_out, n_features=20, n_experts=4, design=design, chunks=31_250, random_state=0
    )
    data = data.load()
    training = data.isel(row=slice(fitted)).chunk(row=31_250)
    model = daskmoe.fit(training, "y", n_experts=4, random_state=0)
    rest = data.isel(row=slice(fitted, None))
    lost = (truth.log_likelihood(rest) - model.log_likelihood(rest)) / held_out
    assert lost < 0.01


# What the pilot's sample does not see.


@pytest.mark.parametrize("seed", [0, 1])
def test_a_rare_level_is_worth_what_all_rows_say(seed: int) -> None:
    """Its rows are 200 deviations from every expert that a sample without them knows."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(40_000, 3))
    x[:, 2] = 0.0
    x[rng.choice(len(x), 30, replace=False), 2] = 1.0
    second = rng.random(len(x)) < 1.0 / (1.0 + np.exp(-5.0 * x[:, 0]))
    y = np.where(second, 3 * x[:, 1], -x[:, 1]) + 20 * x[:, 2] + 0.1 * rng.normal(size=len(x))
    data = xr.Dataset({"x": (("row", "feature"), x), "y": ("row", y)}, {"feature": ["a", "b", "rare"]})
    model = daskmoe.fit(data, "y", n_experts=2, partitions=8, random_state=0)
    best = daskmoe.refine(model, data, rounds="converged", partitions=8)
    found, expected, error = (
        each["coef"].sel(feature="rare") for each in (model.params, best.params, best.standard_errors())
    )
    np.testing.assert_allclose(expected, 20.0, atol=0.2)
    assert (abs(found - expected) < 0.2 * error).all()

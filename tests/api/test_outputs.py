"""Targets of several outputs, from the data to what a model says of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from distributed import LocalCluster

import daskmoe
from daskmoe import FitWarning, InvalidDataError, InvalidOptionError, MixtureOfExperts
from daskmoe.cli.commands import run
from daskmoe.cli.exit_codes import DONE

N = 6_000


def simulated(n: int = N, seed: int = 0) -> xr.Dataset:
    """Two experts with lines that cross, of two outputs in units of their own, and a gate along the first."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(n, 2))
    second = rng.random(n) < 1 / (1 + np.exp(-2 * features[:, 0]))
    lines = np.array([[[1.0, 2.0, 0.0], [0.0, -1.0, 3.0]], [[-1.0, 0.0, 1.0], [2.0, 1.0, 0.0]]])
    design = np.column_stack([np.ones(n), features])
    deviation = np.array([[1.0, 2.0], [0.5, 1.0]])[second.astype(int)]
    y = np.einsum("nof,nf->no", lines[second.astype(int)], design) + deviation * rng.normal(size=(n, 2))
    return xr.Dataset(
        {"X": (("row", "feature"), features), "y": (("row", "level"), y * [1, 100], {"units": "m"})},
        coords={"feature": ["a", "b"], "level": [10, 500]},
    )


def fit(data: xr.Dataset, **options: Any) -> MixtureOfExperts:
    options = {"output_dim": "level", "n_experts": 2, "random_state": 0, **options}
    return daskmoe.fit(data, "y", **options)


@pytest.fixture(scope="module")
def data() -> xr.Dataset:
    return simulated()


@pytest.fixture(scope="module")
def best(data: xr.Dataset) -> MixtureOfExperts:
    local = daskmoe.fit_local(data, "y", output_dim="level", n_experts=2, random_state=0)
    return daskmoe.refine(local, data, rounds="converged")


@pytest.mark.parametrize("by", [None, "a"])
def test_one_step_and_rounds_are_next_to_the_fit_of_all_rows(
    data: xr.Dataset, best: MixtureOfExperts, by: str | None
) -> None:
    rows = data if by is None else data.isel(row=np.argsort(data["X"].sel(feature=by).values))
    most = best.log_likelihood(data)
    one_shot = fit(rows, partitions=4, start_rows=500)
    assert (most - one_shot.log_likelihood(rows)) / N < (1e-4 if by is None else 1e-3)
    refined = fit(rows, partitions=4, start_rows=500, refine=3)
    assert abs(most - refined.log_likelihood(rows)) / N < 1e-6


@pytest.mark.parametrize(
    ("aggregation", "support"),
    [("auto", "features"), ("reduction", "synthetic"), ("greedy", "labelled"), ("weighted", "labelled"),
     ("aligned", "labelled")],
)  # fmt: skip
def test_other_aggregations(data: xr.Dataset, best: MixtureOfExperts, aggregation: str, support: str) -> None:
    model = fit(data, partitions=4, aggregation=aggregation, support=support, start_rows=500, n_init=4)
    assert (best.log_likelihood(data) - model.log_likelihood(data)) / N < 2e-3
    assert model.params["coef"].dims == ("expert", "output", "feature")
    assert model.local_estimates is not None
    assert model.local_estimates["variance"].dims == ("partition", "local_expert", "output")


def test_one_output_is_the_plain_model(data: xr.Dataset) -> None:
    one = data.isel(level=[0])
    several = fit(one, partitions=3, refine="converged")
    plain = daskmoe.fit(one.isel(level=0), "y", n_experts=2, partitions=3, refine="converged", random_state=0)
    assert several.log_likelihood(one) == pytest.approx(plain.log_likelihood(one.isel(level=0)), rel=1e-10)
    np.testing.assert_allclose(several.predict(one)[:, 0], plain.predict(one), rtol=0, atol=1e-6)
    np.testing.assert_allclose(several.score(one), plain.score(one.isel(level=0)), rtol=1e-7)


def test_what_a_model_says_of_rows(data: xr.Dataset, best: MixtureOfExperts) -> None:
    lazy = data.chunk(row=1_000)
    prediction = best.predict(lazy)
    assert prediction.dims == ("row", "level")
    assert prediction.chunksizes["row"] == (1_000,) * 6
    assert prediction.attrs == {"units": "m"}
    assert prediction["level"].values.tolist() == [10, 500]
    xr.testing.assert_allclose(prediction.compute(), best.predict(data), rtol=1e-12)
    gates = best.gating_probabilities(data)
    linear = best.params["intercept"] + (best.params["coef"] * data["X"]).sum("feature")
    exact = (gates * linear).sum("expert").rename(output="level")
    np.testing.assert_allclose(best.predict(data), exact.transpose("row", "level"), rtol=1e-10, atol=1e-10)
    interval = best.predict_interval(lazy, 0.9)
    inside = (interval["lower"] <= data["y"]) & (data["y"] <= interval["upper"])
    assert (abs(inside.mean("row") - 0.9) < 0.015).all()
    drawn = best.sample(data, 0)
    assert drawn.dims == ("row", "level")
    left = data["y"] - best.predict(data)
    # Outputs go together as the experts do.
    np.testing.assert_allclose(
        np.corrcoef((drawn - best.predict(data)).T)[0, 1], np.corrcoef(left.T)[0, 1], atol=0.05
    )
    explained = 1 - (left**2).sum("row") / ((data["y"] - data["y"].mean("row")) ** 2).sum("row")
    assert best.score(lazy) == pytest.approx(float(explained.mean()), rel=1e-10)
    density = best.log_density(lazy)
    assert density.dims == ("row",)
    assert float(density.sum()) == pytest.approx(best.log_likelihood(), rel=1e-12)
    tau = best.responsibilities(data)
    np.testing.assert_array_equal(best.assign_experts(data), tau.argmax("expert"))


def test_errors_are_of_every_output(data: xr.Dataset, best: MixtureOfExperts) -> None:
    errors = best.standard_errors("robust")
    assert errors["variance"].dims == ("expert", "output")
    assert bool((errors["variance"] > 0).all())
    interval = best.confidence_interval(0.999)
    truth = {"intercept": [[0, 200], [1, 0]], "variance": [[0.25, 1e4], [1, 4e4]]}
    order = np.argsort(best.params["variance"].sel(output=10).values)
    inside = interval["variance"].isel(expert=order)
    assert bool((inside.sel(bound="lower") < truth["variance"]).all())
    assert bool((inside.sel(bound="upper") > truth["variance"]).all())
    assert "coef[0, 500, a]" in best.covariance()["parameter"].values
    text = str(best.summary(data))
    assert "variance[500]" in text
    assert "500, a" in text
    assert "variance[500]" in best._repr_html_()


def test_a_model_is_saved_joined_and_updated(
    data: xr.Dataset, best: MixtureOfExperts, tmp_path: Path
) -> None:
    best.to_zarr(tmp_path / "model.zarr")
    best.to_netcdf(tmp_path / "model.nc")
    opened = daskmoe.open_model(tmp_path / "model.zarr")
    assert opened == best
    assert daskmoe.open_model(tmp_path / "model.nc") == best
    xr.testing.assert_identical(opened.predict(data), best.predict(data))
    halves = [data.isel(row=slice(0, N // 2)), data.isel(row=slice(N // 2, N))]
    parts = [daskmoe.refine(best, half, rounds="converged") for half in halves]
    most = best.log_likelihood(data)
    joined = daskmoe.aggregate(parts, data, method="auto", random_state=0)
    assert (most - joined.log_likelihood(data)) / N < 1e-4
    updated = daskmoe.update(parts[0], halves[1])
    assert (most - updated.log_likelihood(data)) / N < 1e-4
    assert updated.match(best).n_experts == 2
    assert daskmoe.transportation_divergence(best, opened, data) == pytest.approx(0.0, abs=1e-12)


def test_the_number_of_experts_is_selected(data: xr.Dataset) -> None:
    found = daskmoe.select_n_experts(
        data, "y", n_experts=[1, 2, 3], output_dim="level", partitions=2, n_init=4, random_state=0
    )
    assert found.model.n_experts == 2


def test_a_row_that_lacks_an_output_is_missing(data: xr.Dataset, tmp_path: Path) -> None:
    some = data.isel(row=slice(0, 600)).copy(deep=True)
    some["y"][3, 1] = np.nan
    some.chunk(row=200).drop_encoding().to_zarr(tmp_path / "rows.zarr", zarr_format=2)
    with pytest.raises(InvalidDataError, match="got NaN or infinity in 1 of 600 sampled rows"):
        fit(tmp_path / "rows.zarr")  # type: ignore[arg-type]
    model = fit(tmp_path / "rows.zarr", on_error="skip", n_init=2)  # type: ignore[arg-type]
    assert model.diagnostics is not None
    assert model.diagnostics["dropped_rows"].values.tolist() == [1, 0, 0]
    assert int(model.log_density(some).isnull().sum()) == 1
    assert int(model.predict(some).isnull().sum()) == 0
    assert 0 < model.score(some, on_error="skip") < 1
    with pytest.raises(InvalidDataError, match="missing or infinite values in 1 of 600 rows"):
        model.score(some)


def test_outputs_may_be_anywhere_among_the_dimensions() -> None:
    flat = simulated(600)
    grid = xr.Dataset(
        {
            "y": (("level", "time", "site"), flat["y"].values.T.reshape(2, 20, 30)),
            "a": (("time", "site"), flat["X"].values[:, 0].reshape(20, 30)),
            "b": (("time", "site"), flat["X"].values[:, 1].reshape(20, 30)),
        },
        coords={"level": np.array([6, 12], "timedelta64[h]")},
    ).chunk(time=5, level=1)
    model = fit(grid, n_init=4)
    assert model.diagnostics is not None
    assert model.diagnostics.sizes["partition"] == 4
    prediction = model.predict(grid)
    assert prediction.dims == ("time", "site", "level")
    # Labels that a model cannot keep as they are it has as text; those of data stay what they are.
    assert prediction["level"].dtype.kind == "m"
    assert model.params["output"].dtype.kind == "U"
    assert float(abs(prediction - grid["y"]).max()) > 0
    assert model.predict(grid.drop_vars("y").isel(time=0)).dims == ("site", "level")
    whole = fit(grid.load(), partitions=4, n_init=4)
    np.testing.assert_array_equal(model.params["coef"], whole.params["coef"])


@pytest.mark.filterwarnings("ignore:.*as narrow as the variance floor")
@pytest.mark.parametrize("scales", [[0.7, 140.0], {500: 140.0, 10: 0.7}])
def test_least_scales_are_of_each_output(data: xr.Dataset, tmp_path: Path, scales: Any) -> None:
    some = data.isel(row=slice(0, 900))
    model = fit(some, partitions=2, n_init=2, start_rows=200, min_scale=scales)
    assert bool((model.params["variance"] >= np.array([0.7, 140.0]) ** 2 * (1 - 1e-9)).all())
    model.to_zarr(tmp_path / "model.zarr")
    opened = daskmoe.open_model(tmp_path / "model.zarr")
    assert opened == model
    assert opened.options["min_scale"] == [0.7, 140.0]
    refined = daskmoe.refine(opened, some, rounds=2)
    assert bool((refined.params["variance"] >= np.array([0.7, 140.0]) ** 2 * (1 - 1e-9)).all())


@pytest.mark.filterwarnings("ignore:.*as narrow as the variance floor")
def test_least_scales_are_by_default_relative_to_the_spread_of_each_output() -> None:
    zeros = simulated(900)
    zeros["y"][:300] = 0.0
    larger = zeros.assign(y=zeros["y"] * [1, 1_000])
    least, other = (
        fit(each, n_experts=3, n_init=4).params["variance"].min("expert") for each in (zeros, larger)
    )
    assert bool((np.sqrt(least) < 0.005 * zeros["y"].std("row").rename(level="output")).all())
    np.testing.assert_allclose(other, least * [1, 1e6], rtol=1e-6)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"min_scale": [0.1]}, InvalidOptionError, r"min_scale: expected one number or 2, .*got 1"),
        ({"min_scale": {10: 0.1}}, InvalidOptionError, r"for each of the outputs \[10, 500\], got those for"),
        ({"min_scale": [0.1, -1]}, InvalidOptionError, r"min_scale\[1\]: expected a finite number above 0"),
        ({"output_dim": "height"}, InvalidDataError, "to have the dimension 'height' of its outputs"),
        ({"family": "student_t"}, InvalidOptionError, "output_dim: expected family='gaussian' without atoms"),
        ({"atoms": [0.0]}, InvalidOptionError, "output_dim: expected family='gaussian' without atoms"),
        ({"output_dim": 3}, InvalidOptionError, "output_dim: expected the name"),
    ],
)
def test_what_cannot_be_is_refused(
    data: xr.Dataset, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        fit(data, **options)


def check_prediction_ranges(model: MixtureOfExperts, data: xr.Dataset, partitions: int) -> None:
    """How far predictions go, and where; of a weighted average they are of the support, here of all rows."""
    predicted, found = model.predict(data), model.diagnostics
    assert found is not None
    ends = [predicted.min("row"), predicted.max("row")]
    np.testing.assert_allclose(found["prediction_range"].values.T, ends, rtol=1e-9)
    numbers = np.stack([predicted.argmin("row"), predicted.argmax("row")])
    size, where = data.sizes["row"] // partitions, found["prediction_partition"].values.T.tolist()
    if where != [["the support"] * 2] * 2:
        np.testing.assert_array_equal(found["prediction_row"].values.T, numbers % size)
        assert where == [[f"partition '{i // size}'" for i in each] for each in numbers]


@pytest.mark.parametrize(
    "options",
    [{}, {"n_experts": 1}, {"partitions": 1}, {"refine": 1}, {"aggregation": "weighted"}],
    ids=["auto", "one expert", "one partition", "refined", "weighted"],
)
def test_predictions_keep_to_the_range_of_each_output(
    data: xr.Dataset, tmp_path: Path, options: dict[str, Any]
) -> None:
    known = {"partitions": 3, "start_rows": 300, "n_init": 2} | options
    some = data.isel(row=slice(0, 900))
    model = fit(some, **known)
    assert model.diagnostics is not None
    limits = model.diagnostics["target_range"]
    assert limits.dims == ("output", "bound")
    assert limits["output"].values.tolist() == [10, 500]
    ends = [some["y"].min("row"), some["y"].max("row")]
    np.testing.assert_allclose(limits.values.T, ends, rtol=1e-6)
    if options == {"n_experts": 1}:
        assert "prediction_range" not in model.diagnostics
    else:
        check_prediction_ranges(model, some, known["partitions"])
    far = some[["X"]].isel(row=slice(0, 90)) * 50
    kept = model.predict(far, clip=True)
    low, high = (limits.isel(bound=i).rename(output="level") for i in (0, 1))
    xr.testing.assert_equal(kept, model.predict(far).clip(low, high))
    assert bool((kept != model.predict(far)).any("row").all())
    xr.testing.assert_identical(model.predict(far.chunk(row=40), clip=True).compute(), kept)
    model.to_zarr(tmp_path / "model.zarr")
    xr.testing.assert_identical(daskmoe.open_model(tmp_path / "model.zarr").predict(far, clip=True), kept)


def test_ranges_are_the_same_of_arrays_chunks_and_any_order_of_dimensions(data: xr.Dataset) -> None:
    some = data.isel(row=slice(0, 600))
    known = fit(some, partitions=3, n_init=2, start_rows=200).diagnostics
    turned = some.assign(y=some["y"].transpose()).chunk(row=200, level=1)
    found = fit(turned, n_init=2, start_rows=200).diagnostics
    assert known is not None
    assert found is not None
    names = ["target_range", "prediction_range", "prediction_row", "prediction_partition"]
    xr.testing.assert_equal(known[names], found[names])


def test_ranges_grow_with_updates_and_are_found_by_a_refinement(data: xr.Dataset, tmp_path: Path) -> None:
    old, new = (data.isel(row=slice(start, start + 600)).copy(deep=True) for start in (0, 600))
    new["y"][0, 1], new["y"][1, 0] = 900.0, -12.0
    model = fit(old, partitions=2, n_init=2, start_rows=200)
    updated = daskmoe.update(model, new)
    assert updated.diagnostics is not None
    both = xr.concat([old, new], "row")["y"]
    np.testing.assert_allclose(
        updated.diagnostics["target_range"].values.T, [both.min("row"), both.max("row")], rtol=1e-6
    )
    # One of a version that knew no ranges of several outputs.
    whole = model.to_dataset()
    whole.drop_vars([name for name in whole if "range" in str(name)]).to_netcdf(tmp_path / "older.nc")
    older = daskmoe.open_model(tmp_path / "older.nc")
    with pytest.raises(InvalidDataError, match=r"clip: expected a model that knows .* daskmoe\.refine"):
        older.predict(new, clip=True)
    after = daskmoe.update(older, new).diagnostics
    assert after is not None
    assert "target_range" not in after
    refined = daskmoe.refine(older, old, rounds=1)
    xr.testing.assert_equal(refined.predict(old * 50, clip=True).max("row"), old["y"].max("row").drop_attrs())


def test_an_output_that_is_predicted_far_outside_its_range_is_named() -> None:
    rng = np.random.default_rng(4)
    x = rng.uniform(-1.0, 1.0, (800, 2))
    y = x[:, 0] * np.sign(x[:, 1]) + 0.1 * rng.standard_normal(800)
    x[517], y[517] = [9.0, 9.0], 1.0
    weight = np.where(np.arange(800) == 517, 1e-6, 1.0)
    rows = xr.Dataset(
        {
            "X": (("row", "feature"), x),
            "y": (("row", "level"), np.stack([rng.standard_normal(800), 100 * y], axis=1)),
            "w": ("row", weight),
        },
        {"level": ["a", "b"]},
    )
    with pytest.warns(FitWarning, match=r"predicts output 'b' of 'y' far outside its range, .*at row 117 of"):
        fit(rows, features="X", sample_weight="w", partitions=4)


def test_what_is_of_one_output_is_refused(data: xr.Dataset, best: MixtureOfExperts) -> None:
    turned = data.isel(level=[1, 0])
    with pytest.raises(
        InvalidDataError, match=r"expected the outputs \[10, 500\] along 'level'.*sel\(level="
    ):
        best.log_likelihood(turned)
    best.predict(turned)
    with pytest.raises(InvalidDataError, match="to have the dimension 'level' of its outputs"):
        best.log_likelihood(data.isel(level=0))


@pytest.mark.cluster
def test_the_command_line_fits_and_predicts(cluster: LocalCluster, data: xr.Dataset, tmp_path: Path) -> None:
    rows, model, output = (tmp_path / f"{name}.zarr" for name in ("rows", "model", "output"))
    some = data.isel(row=slice(0, 900)).chunk(row=300)
    some.to_zarr(rows, zarr_format=2)
    fitting = ["fit", str(rows), "--target", "y", "--n-experts", "2", "--seed", "0", "--output-dim", "level"]
    there = ["--scheduler", cluster.scheduler_address]
    assert run([*fitting, "--n-init", "4", "--output", str(model), *there]) == DONE
    assert run(["predict", str(model), str(rows), "--output", str(output), *there]) == DONE
    found = xr.open_zarr(output)
    expected = fit(rows, n_init=4).predict(some)  # type: ignore[arg-type]
    np.testing.assert_allclose(found["y"].values, expected.values, rtol=1e-12)

"""Pictures: what they draw are the numbers of the model and of the data, with labels and units."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import xarray as xr

import daskmoe
from daskmoe import InvalidDataError, InvalidOptionError, MixtureOfExperts
from daskmoe.numerics.predictive.mixture import log_gating
from daskmoe.plotting.canvas import colours, faded
from daskmoe.plotting.sampled import MOST_ROWS, Axis, axis_of, take_sample
from daskmoe.plotting.shown import Shown

matplotlib = pytest.importorskip("matplotlib")
matplotlib.use("Agg")
plt = pytest.importorskip("matplotlib.pyplot")


@pytest.fixture(autouse=True)
def no_figures() -> Iterator[None]:
    yield
    plt.close("all")


def gridded(rng: np.random.Generator) -> xr.Dataset:
    """Two regimes by longitude, with dates, levels, a wide variable, units, and missing values."""
    shape = (30, 6, 8)
    dims = ("time", "lat", "lon")
    lon = np.linspace(-4, 4, 8)
    wind = rng.normal(size=shape)
    y = np.where(lon > 0, 3 + 2 * wind, -1 - wind) + 0.3 * rng.normal(size=shape)
    y[0, 0, 0] = np.nan
    return xr.Dataset(
        {
            "wind": (dims, wind, {"units": "m s-1", "long_name": "wind speed"}),
            "bands": (("band", *dims), rng.normal(size=(2, *shape)), {"units": "1"}),
            "y": (dims, y, {"units": "K"}),
            "land": (("lat", "lon"), np.array(["sea", "land"])[(rng.random(shape[1:]) > 0.5).astype(int)]),
        },
        {
            "time": np.datetime64("2026-01-01", "ns") + np.arange(30) * np.timedelta64(1, "D"),
            "lat": ("lat", np.linspace(50, 55, 6), {"units": "degrees_north"}),
            "lon": ("lon", lon, {"units": "degrees_east"}),
            "band": ["red", "blue"],
        },
    )


@pytest.fixture(scope="module")
def data() -> xr.Dataset:
    return gridded(np.random.default_rng(0))


@pytest.fixture(scope="module")
def model(data: xr.Dataset) -> MixtureOfExperts:
    features = ["wind", "bands", "lon", "land", daskmoe.features.harmonics("time", periods=["7D"])]
    options: dict[str, Any] = {"n_experts": 2, "n_init": 2, "random_state": 0, "on_error": "skip"}
    return daskmoe.fit(data, "y", features=features, partitions=3, **options)


@pytest.fixture(scope="module")
def reduced() -> MixtureOfExperts:
    rows, _ = daskmoe.simulate(1_500, n_features=2, n_experts=2, chunks=500, random_state=0)
    return daskmoe.fit(rows, "y", n_experts=2, aggregation="reduction", n_init=3, random_state=0)


PICTURES: dict[str, Callable[[Any, xr.Dataset, Any], Any]] = {
    "experts": lambda plot, data, ax: plot.experts(data, "wind", ax=ax),
    "experts of dates": lambda plot, data, ax: plot.experts(data, "time", ax=ax),
    "experts of levels": lambda plot, data, ax: plot.experts(data, "land", ax=ax),
    "experts without target": lambda plot, data, ax: plot.experts(data.drop_vars("y"), "red", ax=ax),
    "gates": lambda plot, data, ax: plot.gates(data, "lon", ax=ax),
    "gates of levels": lambda plot, data, ax: plot.gates(data, "land", ax=ax),
    "gates of dates": lambda plot, data, ax: plot.gates(data.chunk(time=7), "time", ax=ax),
    "gates of two": lambda plot, data, ax: plot.gates(data, "time", "blue", ax=ax),
    "ruling_expert": lambda plot, data, ax: plot.ruling_expert(data, ax=ax),
    "ruling_expert by y": lambda plot, data, ax: plot.ruling_expert(data, by="responsibility", ax=ax),
    "coefficients": lambda plot, data, ax: plot.coefficients(ax=ax),
    "gate coefficients": lambda plot, data, ax: plot.coefficients("gate_coef", standardized=False, ax=ax),
    "partitions": lambda plot, data, ax: plot.partitions("wind", ax=ax),
    "transport_plan": lambda plot, data, ax: plot.transport_plan(ax=ax),
    "residuals": lambda plot, data, ax: plot.residuals(data, ax=ax),
    "calibration": lambda plot, data, ax: plot.calibration(data, ax=ax),
}


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_is_drawn_on_the_axes_with_labels(
    name: str, model: MixtureOfExperts, data: xr.Dataset
) -> None:
    _, ax = plt.subplots(layout="constrained")
    found = PICTURES[name](model.plot, data, ax)
    assert found is ax
    ax.figure.canvas.draw()
    assert ax.get_xlabel()
    assert ax.get_ylabel() or name.endswith("oefficients")
    assert ax.get_legend() is not None or name == "transport_plan"


@pytest.mark.parametrize("of", ["mm", "starts", None])
def test_convergence_falls(reduced: MixtureOfExperts, of: Any) -> None:
    ax = reduced.plot.convergence(of)
    assert ax.get_yscale() == "log"
    assert "nats" in ax.get_ylabel()
    if of != "starts":
        assert (np.diff(ax.lines[0].get_ydata()[:-1]) < 0).all()


def test_rounds(reduced: MixtureOfExperts) -> None:
    rows, _ = daskmoe.simulate(1_500, n_features=2, n_experts=2, chunks=500, random_state=0)
    ax = daskmoe.refine(reduced, rows, rounds="converged").plot.convergence()
    assert ax.get_xlabel() == "round"


def test_drift_shows_which_updates_were_far(reduced: MixtureOfExperts) -> None:
    with pytest.raises(InvalidDataError, match="model with updates, got one without"):
        reduced.plot.drift()
    rows, _ = daskmoe.simulate(3_000, n_features=2, n_experts=2, chunks=500, random_state=0)
    old, same, other = (rows.isel(row=slice(start, start + 1_000)) for start in (0, 1_000, 2_000))
    model = daskmoe.fit(old, "y", n_experts=2, partitions=2, random_state=0)
    model = daskmoe.update(model, same)
    with pytest.warns(daskmoe.DataWarning, match="own optimum is far"):
        model = daskmoe.update(model, other.assign(y=other["y"] + 3.0 * other["X"].isel(feature=0)))
    ax = model.plot.drift()
    known = model.diagnostics
    assert known is not None
    drawn = {line.get_label(): line.get_xydata() for line in ax.lines}
    drift = known["update_drift"].values
    np.testing.assert_allclose(drawn["as chance explains"], [[1, drift[0]]])
    np.testing.assert_allclose(drawn["far: old and new rows differ"], [[2, drift[1]]])
    assert (drift > known["update_drift_limit"].values).tolist() == [False, True]
    assert [text.get_text() for text in ax.texts] == [
        f"{known['update_drift_nats'].values[1]:.2g} nats a row"
    ]
    assert ax.get_xlabel() == "update"


def test_units_are_on_the_axes(model: MixtureOfExperts, data: xr.Dataset) -> None:
    ax = model.plot.experts(data, "wind")
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("wind speed [m s-1]", "y [K]")
    assert model.plot.experts(data).get_xlabel() == "wind speed [m s-1]"
    assert model.plot.gates(data).get_xlabel() == "wind speed [m s-1]"
    assert model.plot.gates(data, "blue").get_xlabel() == "blue"
    assert model.plot.ruling_expert(data).get_ylabel() == "lat [degrees_north]"
    assert "y [K]" in model.plot.coefficients().get_xlabel()
    assert model.plot.partitions("wind").get_ylabel() == "coefficient of wind [K / (m s-1)]"


def test_lines_of_experts_have_their_slopes_and_pass_their_rows(
    model: MixtureOfExperts, data: xr.Dataset
) -> None:
    ax = model.plot.experts(data, "wind")
    sample = take_sample(Shown(model), data)
    assert sample.response is not None
    dashed = [line for line in ax.lines if line.get_linestyle() == "--"]
    slopes = [np.polyfit(line.get_xdata(), line.get_ydata(), 1)[0] for line in dashed]
    np.testing.assert_allclose(slopes, model.params["coef"].sel(feature="wind"), rtol=1e-6)
    gates = model.gating_probabilities(data).values.reshape(2, -1)
    wind, y = data["wind"].values.ravel(), data["y"].values.ravel()
    for k, line in enumerate(dashed):
        weight = np.where(np.isnan(y), 0.0, gates[k])
        middle = np.average(wind, weights=weight)
        at = np.interp(middle, line.get_xdata(), line.get_ydata())
        # The weighted mean of the rows, near enough as gates here are nearly memberships.
        assert at == pytest.approx(np.average(np.nan_to_num(y), weights=weight), abs=0.05)


def test_gates_are_averages_over_the_rows(model: MixtureOfExperts, data: xr.Dataset) -> None:
    sample = take_sample(Shown(model), data)
    axis = axis_of(sample, "lon")
    gate = model.gating_probabilities(data).isel(expert=0).where(data["y"].notnull())
    expected = gate.mean(("time", "lat"))
    # Eight longitudes are eight bins, however many are asked for.
    np.testing.assert_allclose(axis.middles(40), data["lon"])
    gates = np.exp(log_gating(model.mixture, sample.features))
    np.testing.assert_allclose(axis.average(gates[0], 40), expected)


def test_bins_hold_about_as_many_rows_and_never_split_a_value() -> None:
    values = np.repeat([0.0, 1.0, 2.0, 3.0, 4.0, 5.0], [1, 1, 200, 1, 1, 200])
    axis = Axis("x", "x", None, values)
    middles = axis.middles(4)
    assert 2.0 in middles
    assert len(middles) == len(np.unique(middles)) <= 4
    uniform = Axis("x", "x", None, np.random.default_rng(0).random(1_000))
    np.testing.assert_allclose(uniform.average(uniform.seen, 10), uniform.middles(10))
    assert len(uniform.middles(10)) == 10


@pytest.mark.parametrize(("n_rows", "dots"), [(300, 300), (4_000, 0)])
def test_few_rows_are_dots_each(n_rows: int, dots: int) -> None:
    rows, truth = daskmoe.simulate(n_rows, n_features=1, n_experts=2, random_state=0)
    for ax in (truth.plot.experts(rows, "x0"), truth.plot.residuals(rows)):
        drawn = sum(len(line.get_xdata()) for line in ax.lines if line.get_marker() == ".")
        # The 1,000th part with the lowest and highest targets is not drawn.
        assert drawn == pytest.approx(dots, abs=4)


def test_the_map_has_the_colour_of_the_ruling_expert(model: MixtureOfExperts, data: xr.Dataset) -> None:
    ax = model.plot.ruling_expert(data)
    image = ax.collections[0].get_array().reshape(6, 8, 4)
    ruling = model.gating_probabilities(data).mean("time").argmax("expert").transpose("lat", "lon").values
    for k, colour in enumerate(colours(2)):
        strong = image[ruling == k][:, :3]
        base = np.array(matplotlib.colors.to_rgb(colour))
        # On the way from white to the colour.
        share = (1 - strong) @ (1 - base) / ((1 - base) @ (1 - base))
        np.testing.assert_allclose(strong, 1 - share[:, None] * (1 - base), atol=1e-9)


def test_a_missing_place_is_transparent() -> None:
    found = faded(np.array([np.nan, 0.5, 1.0]), np.array([0, 1, 1]), colours(2))
    assert found[:, 3].tolist() == [0, 1, 1]
    np.testing.assert_allclose(found[2, :3], matplotlib.colors.to_rgb(colours(2)[1]))


def test_coefficients_are_effects_of_a_deviation(model: MixtureOfExperts, data: xr.Dataset) -> None:
    wind = data["wind"].where(data["y"].notnull())
    found = [each.lines[0] for each in model.plot.coefficients().containers]
    table = model.table().sel(parameter="coef[wind]")
    effect = table["estimate"] * float(wind.std())
    np.testing.assert_allclose([line.get_xdata()[0] for line in found], effect, rtol=1e-6)
    plain = model.plot.coefficients(standardized=False).containers
    np.testing.assert_allclose([each.lines[0].get_xdata()[0] for each in plain], table["estimate"])
    bars = plain[0].lines[2][0].get_segments()[0][:, 0]
    np.testing.assert_allclose(bars, [table["lower"][0], table["upper"][0]])


def test_the_plan_is_shares(reduced: MixtureOfExperts) -> None:
    ax = reduced.plot.transport_plan()
    share = ax.collections[0].get_array().reshape(3, 2)
    np.testing.assert_allclose(share.sum(axis=1), 1.0)
    assert reduced.diagnostics is not None
    mass = reduced.diagnostics["plan_mass"].sum("local_expert")
    np.testing.assert_allclose(share, mass / mass.sum("expert"))


def test_partitions_have_the_colours_of_their_experts(reduced: MixtureOfExperts) -> None:
    ax = reduced.plot.partitions()
    dots = [line for line in ax.lines if line.get_linestyle() == "None"]
    assert [len(line.get_xdata()) for line in dots] == [3, 3]
    for line, own in zip(dots, reduced.params["intercept"].values, strict=True):
        others = np.setdiff1d(reduced.params["intercept"].values, own)
        assert (np.abs(line.get_ydata() - own) < np.abs(line.get_ydata() - others)).all()


def test_the_truth_is_calibrated() -> None:
    rows, truth = daskmoe.simulate(5_000, n_features=2, n_experts=2, random_state=0)
    ax = truth.plot.calibration(rows)
    heights = ax.patches[-1].get_data().values
    assert heights.mean() == pytest.approx(1.0)
    # Twenty counts of 250, standard deviation 0.06 each.
    assert np.abs(heights - 1).max() < 0.25
    assert "90% interval covers" in ax.get_legend().get_texts()[-1].get_text()


@pytest.fixture(scope="module")
def several() -> tuple[xr.Dataset, MixtureOfExperts]:
    """Two outputs, of which the first is a whole number times the second but for noise."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(900, 2))
    first = np.where(x[:, 0] > 0, 3 + 2 * x[:, 1], -1 - x[:, 1])
    y = np.stack([first, 100 * first], axis=1) + rng.normal(size=(900, 2)) * [0.3, 50]
    rows = xr.Dataset(
        {"X": (("row", "feature"), x), "y": (("row", "level"), y, {"units": "K"})},
        {"feature": ["a", "b"], "level": [10, 500]},
    ).chunk(row=300)
    options: dict[str, Any] = {"output_dim": "level", "n_init": 2, "refine": 1, "random_state": 0}
    return rows, daskmoe.fit(rows, "y", n_experts=2, **options)


OF_ONE_OUTPUT: dict[str, Callable[[Any, xr.Dataset, Any], Any]] = {
    "experts": lambda plot, data, output: plot.experts(data, "b", output=output),
    "coefficients": lambda plot, _, output: plot.coefficients(output=output),
    "partitions": lambda plot, _, output: plot.partitions("b", output=output),
    "residuals": lambda plot, data, output: plot.residuals(data, output=output),
    "calibration": lambda plot, data, output: plot.calibration(data, output=output),
}


@pytest.mark.parametrize("name", OF_ONE_OUTPUT)
def test_a_picture_is_of_one_output(name: str, several: tuple[xr.Dataset, MixtureOfExperts]) -> None:
    rows, model = several
    ax = OF_ONE_OUTPUT[name](model.plot, rows, 500)
    ax.figure.canvas.draw()
    assert "y[500]" in ax.get_ylabel() + ax.get_xlabel()
    params, other = model.params.sel(output=500), OF_ONE_OUTPUT[name](model.plot, rows, 1)
    assert other.get_xlabel() == ax.get_xlabel()
    if name == "experts":
        dashed = [line for line in ax.lines if line.get_linestyle() == "--"]
        slopes = [np.polyfit(line.get_xdata(), line.get_ydata(), 1)[0] for line in dashed]
        np.testing.assert_allclose(slopes, params["coef"].sel(feature="b"), rtol=1e-6)
    elif name == "coefficients":
        assert [label.get_text() for label in ax.get_yticklabels()] == ["a", "b"]
        effects = params["coef"].values * rows["X"].std("row").values
        found = [each.lines[0].get_xdata() for each in ax.containers]
        np.testing.assert_allclose(found, effects, rtol=1e-6)
    elif name == "partitions":
        lines = [line.get_ydata()[0] for line in ax.lines if line.get_linestyle() == "-"]
        np.testing.assert_allclose(lines, params["coef"].sel(feature="b"))
    elif name == "calibration":
        assert np.abs(ax.patches[-1].get_data().values - 1).max() < 0.6
    for missing in (None, 50, "b", [10]):
        with pytest.raises(InvalidOptionError, match=r"one of the outputs \[10, 500\].*Use output=10"):
            OF_ONE_OUTPUT[name](model.plot, rows, missing)


def test_other_pictures_are_of_all_outputs(several: tuple[xr.Dataset, MixtureOfExperts]) -> None:
    rows, model = several
    plot = model.plot
    for ax in (
        plot.gates(rows, "a"),
        plot.gates(rows.drop_vars("y"), "a", "b"),
        plot.coefficients("gate_coef"),
        plot.transport_plan(),
        plot.convergence(),
    ):
        ax.figure.canvas.draw()


def test_one_output_is_not_asked_which(reduced: MixtureOfExperts) -> None:
    with pytest.raises(InvalidOptionError, match="output: expected none, as the target 'y' has one output"):
        reduced.plot.coefficients(output=0)


def rainy(n: int = 3_000) -> xr.Dataset:
    """Single-precision zeros and tenths, the caps, which are no numbers of double precision."""
    rng = np.random.default_rng(0)
    shape = (n // 30, 5, 6)
    x = rng.normal(size=shape)
    place = (rng.random(shape) * (1 + np.exp(-x)) < 1).astype(int) + (rng.random(shape) < 0.1)
    y = np.choose(place, [10 + x + rng.normal(size=shape), 0.0, 0.1]).astype(np.float32)
    dims = ("time", "lat", "lon")
    return xr.Dataset({"x": (dims, x), "y": (dims, y, {"units": "mm"})}).chunk(time=n // 90)


@pytest.fixture(scope="module")
def beside() -> tuple[xr.Dataset, Any]:
    rows = rainy()
    options: dict[str, Any] = {"atoms": [0.0, np.float32(0.1).item()], "refine": 1, "random_state": 0}
    return rows, daskmoe.fit(rows, "y", features="x", n_experts=1, **options)


def test_atoms_are_experts_with_a_value(beside: tuple[xr.Dataset, Any]) -> None:
    rows, model = beside
    ax = model.plot.experts(rows, "x")
    assert [text.get_text() for text in ax.get_legend().get_texts()] == [*model.expert_names, "mixture"]
    dashed = [line.get_ydata() for line in ax.lines if line.get_linestyle() == "--"]
    np.testing.assert_allclose(dashed[1], 0.0)
    np.testing.assert_allclose(dashed[2], 0.1)
    dotted = next(line for line in ax.lines if line.get_linestyle() == ":")
    assert dotted.get_ydata().mean() == pytest.approx(float(model.predict(rows).mean()), rel=0.02)
    areas = model.plot.gates(rows, "x").collections
    assert len(areas) == 3
    for by in ("gate", "responsibility"):
        assert len(model.plot.ruling_expert(rows, by=by).get_legend().get_texts()) == 3
    for ax in (model.plot.coefficients(), model.plot.partitions("x"), model.plot.transport_plan()):
        ax.figure.canvas.draw()
        legend = ax.get_legend()
        assert legend is None or len(legend.get_texts()) == 1


def test_calibration_and_residuals_know_the_mass_of_atoms(beside: tuple[xr.Dataset, Any]) -> None:
    rows, model = beside
    for each in (model.plot, model.experts.plot):
        heights = each.calibration(rows).patches[-1].get_data().values
        # Twenty counts of at least 60, standard deviation 0.13 each.
        assert np.abs(heights - 1).max() < 0.45
    whole = take_sample(Shown(model), rows)
    off = take_sample(Shown(model.experts), rows)
    assert (whole.response.size, off.response.size) == (3_000, int((rows["y"] > 1).sum()))  # type: ignore[union-attr]
    middle = model.plot.residuals(rows).lines[1].get_ydata()
    assert abs(middle.mean()) < 0.3


def test_gates_of_one_expert_have_no_coefficients(beside: tuple[xr.Dataset, Any]) -> None:
    with pytest.raises(InvalidDataError, match="coefficients: expected a model of several experts, got one"):
        beside[1].atom_gates.plot.coefficients("gate_coef")


@pytest.mark.parametrize("family", ["poisson", "gamma"])
def test_other_families(family: str) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=3_000)
    mean = np.exp(np.where(x > 0, 1 + x, 0.5 - 0.5 * x))
    y = rng.poisson(mean).astype(float) if family == "poisson" else rng.gamma(4.0, mean / 4)
    rows = xr.Dataset({"x": ("row", x), "y": ("row", y)})
    model = daskmoe.fit_local(rows, "y", n_experts=2, family=family, n_init=2, random_state=0)
    heights = model.plot.calibration(rows).patches[-1].get_data().values
    # Twenty counts of 150, standard deviation 0.08 each.
    assert np.abs(heights - 1).max() < 0.35
    assert "linear predictor" in model.plot.coefficients().get_xlabel()
    for ax in (model.plot.experts(rows, "x"), model.plot.residuals(rows)):
        ax.figure.canvas.draw()


def test_few_rows_of_many_are_looked_at() -> None:
    rows, truth = daskmoe.simulate(60_000, n_features=2, n_experts=2, chunks=1_000, random_state=0)
    sample = take_sample(Shown(truth), rows)
    assert 0.9 * MOST_ROWS < len(sample.features) <= MOST_ROWS
    np.testing.assert_array_equal(sample.features, take_sample(Shown(truth), rows).features)


def test_what_cannot_be_drawn_says_why(
    model: MixtureOfExperts, reduced: MixtureOfExperts, data: xr.Dataset
) -> None:
    rows, truth = daskmoe.simulate(100, n_features=2, n_experts=2, random_state=0)
    with pytest.raises(InvalidOptionError, match=r"feature: expected one of \['wind'.*got 'rain'"):
        model.plot.experts(data, "rain")
    with pytest.raises(InvalidOptionError, match="other: expected another feature"):
        model.plot.gates(data, "wind", "wind")
    with pytest.raises(InvalidOptionError, match="got one of levels"):
        model.plot.gates(data, "wind", "land")
    with pytest.raises(InvalidDataError, match="two dimensions"):
        truth.plot.ruling_expert(rows)
    for draw in (truth.plot.partitions, truth.plot.transport_plan, truth.plot.convergence):
        with pytest.raises(InvalidDataError, match="Expected a model"):
            draw()
    with pytest.raises(InvalidDataError, match=r"'rounds', got one that knows of \['mm', 'starts'\]"):
        reduced.plot.convergence("rounds")
    with pytest.raises(InvalidOptionError, match="of: expected"):
        reduced.plot.convergence("other")
    with pytest.raises(InvalidOptionError, match="standardized"):
        truth.plot.coefficients(standardized=True)
    with pytest.raises(InvalidDataError, match="y"):
        model.plot.residuals(data.drop_vars("y"))


def test_without_matplotlib_it_says_what_to_install(
    reduced: MixtureOfExperts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(ImportError, match=r"pip install 'daskmoe\[plot\]'"):
        reduced.plot.coefficients()


def test_many_experts_have_a_colour_each() -> None:
    assert len(set(colours(8))) == 8
    assert len(set(colours(20))) == 20


def test_the_pictures_name_themselves(reduced: MixtureOfExperts) -> None:
    assert "coefficients" in repr(reduced.plot)


def test_cells_are_of_the_values_where_these_are_few() -> None:
    few = Axis("x", "x", None, np.repeat([1.0, 2.0, 4.0], 500))
    assert few.edges(10).tolist() == [0.5, 1.5, 3.0, 5.0]
    assert len(Axis("x", "x", None, np.arange(1_000.0)).edges(10)) == 11
    assert len(Axis("x", "x", None, np.ones(5)).edges(10)) == 11

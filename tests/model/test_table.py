"""What a model says of itself: the table, and the text and the card that are made of it."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import numpy as np
import pytest
import xarray as xr
from numerics.oracles import gaussian_model

import daskmoe
from daskmoe import MixtureOfExperts
from daskmoe.errors import InvalidOptionError, NotAtOptimumError
from daskmoe.model.card import make_card
from daskmoe.model.summary import error_text, summarize
from daskmoe.numerics.base.parameters import LargeMoE
from daskmoe.rows import describe_rows

NAMES = ("estimate", "standard_error", "z", "lower", "upper")


@pytest.fixture(scope="module")
def data() -> xr.Dataset:
    rng = np.random.default_rng(0)
    x, wind = rng.normal(size=(2, 1_200))
    y = np.where(x > 0, 3 + 2 * x, -1 - x + wind) + 0.3 * rng.normal(size=1_200)
    return xr.Dataset(
        {
            "x": ("row", x, {"units": "m"}),
            "wind": ("row", wind, {"units": "m s-1"}),
            "y": ("row", y, {"units": "K"}),
            "note": ("other", ["a", "b"]),
        }
    )


@pytest.fixture(scope="module")
def one_shot(data: xr.Dataset) -> MixtureOfExperts:
    return daskmoe.fit(data, "y", n_experts=2, partitions=3, n_init=2, random_state=0)


@pytest.fixture(scope="module")
def refined(data: xr.Dataset, one_shot: MixtureOfExperts) -> MixtureOfExperts:
    return daskmoe.refine(one_shot, data, rounds="converged", partitions=3)


def bare(n_experts: int, n_features: int) -> MixtureOfExperts:
    """A model that nobody fitted, whose labels are markup."""
    rng = np.random.default_rng(0)
    names = [f"<x{j}>" for j in range(n_features)]
    data = xr.Dataset(
        {"y": ("row", np.zeros(3)), **{name: ("row", np.arange(3.0) + j) for j, name in enumerate(names)}}
    )
    gate, coef = rng.normal(size=(2, n_experts, n_features + 1))
    parameters = gaussian_model(gate - gate[-1], coef, rng.uniform(1, 2, n_experts))
    return MixtureOfExperts.from_parameters(
        parameters, family="gaussian", rows=describe_rows(data, "y", names)
    )


class Balanced(HTMLParser):
    """Reads HTML, and holds that what is opened is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open.append(tag)
        self.seen.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.mark.parametrize("kind", ["model", "robust", "cluster"])
def test_estimates_are_those_of_the_parameters(refined: MixtureOfExperts, kind: str) -> None:
    table = refined.table(level=0.9, kind=kind)
    errors, interval = refined.standard_errors(kind), refined.confidence_interval(0.9, kind)
    assert table.attrs["kind"] == kind
    for variable in refined.params.data_vars:
        wide = "feature" in refined.params[variable].dims
        rows = table.sel(parameter=table["variable"] == variable)
        assert rows["term"].values.tolist() == (list(refined.feature_names) if wide else [variable])
        for name, expected in {
            "estimate": refined.params,
            "standard_error": errors,
            "lower": interval.sel(bound="lower"),
            "upper": interval.sel(bound="upper"),
        }.items():
            found = rows[name].values if wide else rows[name].values[0]
            values = expected[variable]
            np.testing.assert_array_equal(found, values.transpose("feature", "expert") if wide else values)
    coef = table.sel(parameter="coef[x]")
    np.testing.assert_allclose(coef["z"], coef["estimate"] / coef["standard_error"])
    # That a variance is zero is no question, nor is the reference of the gates.
    assert bool(table["z"].sel(parameter="variance").isnull().all())
    assert table["z"].sel(parameter="gate_coef[x]").isnull().values.tolist() == [False, True]


def test_units_are_of_the_target_by_feature(refined: MixtureOfExperts) -> None:
    units = dict(zip(refined.table()["parameter"].values, refined.table()["units"].values, strict=True))
    assert units == {
        "intercept": "K", "coef[x]": "K / (m)", "coef[wind]": "K / (m s-1)", "variance": "(K)^2",
        "gate_intercept": "1", "gate_coef[x]": "1 / (m)", "gate_coef[wind]": "1 / (m s-1)",
    }  # fmt: skip


def test_the_whole_of_a_fit(data: xr.Dataset, refined: MixtureOfExperts) -> None:
    table = refined.table()
    for name in ("log_likelihood", "aic", "bic", "icl"):
        assert float(table[name]) == getattr(refined, name)()
    shares = refined.responsibilities(data).mean("row")
    np.testing.assert_allclose(table["share"], shares, rtol=1e-6)
    np.testing.assert_allclose(table["standard_deviation"], np.sqrt(refined.params["variance"]))
    assert (int(table["rows_used"]), int(table["rows_dropped"])) == (1_200, 0)
    assert table["rows"].values.tolist() == [400] * 3
    assert set(table["outcome"].values.tolist()) == {"fitted"}
    assert table["left_out_reason"].sel(left_out="note").item() == refined.rows.left_out["note"]
    assert "candidate_objective" in table


def test_a_model_without_errors_has_none_and_says_what_gives_them(data: xr.Dataset) -> None:
    model = daskmoe.fit(
        data, "y", n_experts=2, partitions=2, aggregation="reduction", n_init=1, random_state=0
    )
    assert bool(model.table()[["standard_error", "z", "lower", "upper"]].isnull().all().to_array().all())
    assert "errors      none: daskmoe.refine(model, data, rounds='converged')" in model.summary()
    assert "likelihood  not kept" in model.summary()
    with pytest.raises(InvalidOptionError, match="kind"):
        model.table(kind="other")


def test_errors_of_a_kind_that_the_model_has_not_are_no_gaps(one_shot: MixtureOfExperts) -> None:
    with pytest.raises(NotAtOptimumError, match="robust"):
        one_shot.table(kind="robust")
    assert one_shot.table().attrs["kind"] == "approximate"


def test_a_weighted_average_has_a_table() -> None:
    one = bare(2, 1)
    large = LargeMoE.from_estimates([one.parameters] * 2, np.array([1.0, 3.0]))
    model = MixtureOfExperts.from_parameters(large, family="gaussian", rows=one.rows)
    assert model.table().sizes["expert"] == 4
    assert "4 gaussian experts" in model.summary()
    assert "4 gaussian experts" in model._repr_html_()


def test_a_console_shows_the_text(refined: MixtureOfExperts) -> None:
    text = refined.summary()
    assert isinstance(text, str)
    assert repr(text) == text == "\n".join(text.splitlines())
    assert "share" in text
    assert "left out    note" in text
    assert f"{refined.log_likelihood():.2f} nats" in text
    error = float(refined.standard_errors()["intercept"][0])
    assert f"({error:.2g})" in text


def test_the_text_has_units_and_says_what_was_chosen(refined: MixtureOfExperts) -> None:
    text = refined.summary()
    for part in ("  intercept [K] ", "  x [K / (m)] ", "  wind [1 / (m s-1)] ", "  gate_intercept "):
        assert f"\n{part}" in text
    assert re.search(r"^aggregation .+ \(.+\)$", text, flags=re.M)


@pytest.mark.parametrize(
    ("error", "text"), [(2.8e-5, "2.8e-05"), (0.1, "0.1"), (277.9, "278"), (99.6, "100")]
)
def test_errors_are_short_numbers(error: float, text: str) -> None:
    assert error_text(error) == text


def test_many_experts_stand_below_each_other() -> None:
    text = bare(14, 40).summary()
    assert max(map(len, text.splitlines())) < 100
    assert "expert 11" in text
    assert "... and 2 more experts: see .table()" in text
    assert "... and 10 more features: see .table()" in text


@pytest.mark.parametrize(("n_experts", "n_features"), [(1, 1), (4, 500), (40, 40)])
def test_the_card_is_whole_and_of_one_size(n_experts: int, n_features: int) -> None:
    model = bare(n_experts, n_features)
    table = model.table()
    # With all columns filled.
    full = table.assign({name: table["estimate"] - 1_000.123 for name in NAMES if name != "estimate"})
    full["feature_mean"] = model.params["coef"] - 1_000.123
    full["feature_deviation"] = model.params["coef"] + 1_000.123
    for card in (model._repr_html_(), make_card(full)):
        parser = Balanced()
        parser.feed(card)
        assert parser.open == []
        assert len(card) < 40_000
        assert "<x0>" not in card
        assert "&lt;x0&gt;" in card
    assert (n_features > 1) == ("more features: see .table()" in model._repr_html_())


def test_the_card_says_what_the_table_holds(refined: MixtureOfExperts, one_shot: MixtureOfExperts) -> None:
    card = refined._repr_html_()
    assert 5_000 < len(card) < 40_000
    parser = Balanced()
    parser.feed(card)
    assert parser.seen.count("details") == 5
    for text in (
        "share of the rows",
        "gate_coef",
        "K / (m s-1)",
        "lower 95%",
        "Newton step",
        "fitted",
        "note",
    ):
        assert text in card
    # It sees nothing else.
    saved = xr.Dataset.from_dict(refined.table().to_dict())
    assert make_card(saved) == card
    assert summarize(saved) == refined.summary()
    assert "refinement" not in one_shot._repr_html_()


def test_data_tell_where_the_experts_rule(data: xr.Dataset, refined: MixtureOfExperts) -> None:
    gaps = data.copy(deep=True)
    gaps["x"][5], gaps["y"][7] = np.nan, np.nan
    table = refined.table(gaps)
    kept = gaps.isel(row=np.setdiff1d(np.arange(1_200), [5, 7]))
    weight = refined.responsibilities(kept).values
    assert float(table["r2"]) == pytest.approx(refined.score(kept), rel=1e-12)
    np.testing.assert_allclose(table["share"], weight.mean(axis=1))
    for name in ("x", "wind"):
        values, own = kept[name].values, table.sel(feature=name)
        means = (weight @ values) / weight.sum(axis=1)
        np.testing.assert_allclose(own["feature_mean"], means, rtol=1e-9)
        spread = [
            np.average((values - mean) ** 2, weights=w) ** 0.5 for mean, w in zip(means, weight, strict=True)
        ]
        np.testing.assert_allclose(own["feature_deviation"], spread, rtol=1e-9)
    lazy = refined.table(gaps.chunk(row=100))
    xr.testing.assert_allclose(lazy, table)
    assert "where the experts rule, with standard deviations" in refined.summary(gaps)
    assert "R2          0.9" in refined.summary(gaps)
    assert "where the experts rule" in make_card(table)
    without = refined.table(gaps.drop_vars("y"))
    assert "r2" not in without
    shares = refined.gating_probabilities(gaps).mean("row")
    np.testing.assert_allclose(without["share"], shares, rtol=1e-9)


def test_far_from_zero_deviations_are_those_of_the_rows() -> None:
    rows, truth = daskmoe.simulate(500, n_features=2, n_experts=1, random_state=0)
    far = rows.assign(X=rows["X"] + 1e9)
    found = truth.table(far)
    np.testing.assert_allclose(found["feature_deviation"][0], rows["X"].std("row"), rtol=1e-6)


def test_long_names_of_experts_leave_the_columns_where_they_are() -> None:
    text = bare(3, 2).rename_experts(["a" * 40, "b", "c"]).summary()
    lines = text.splitlines()
    at = lines.index("experts") + 1
    assert "aaaaaaaaa..." in lines[at]
    assert len(lines[at]) == len(lines[at + 1])
